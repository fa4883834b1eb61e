"""`btclab import`: candles from a file into the store."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from btclab.commands import printing
from btclab.errors import InputError

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

    from btclab.market.columns import Question
    from btclab.market.inspection import Preview

# What answers a question, as it is typed; the command names the file and what was typed before it.
FLAGS = {
    "zone": "--tz",
    "columns": "--column",
    "volume_unit": "--volume-unit",
    "stamp": "--stamp",
    "decimal": "--decimal",
}


def import_file(
    path: Annotated[Path, typer.Argument(help="CSV (also .gz, .zip), XLSX, Parquet, JSON or JSON lines.")],
    name: Annotated[
        str,
        typer.Option("--as", help="Name under which the candles are stored, e.g. mydata; then --source store:mydata."),
    ] = "",
    symbol: Annotated[str | None, typer.Option(help="Market, e.g. BTC/USDT. Default: that of the settings.")] = None,
    timeframe: Annotated[str | None, typer.Option(help="Length of a bar. Default: told from the times.")] = None,
    tz: Annotated[str | None, typer.Option(help="Zone of times that name none, e.g. UTC or Europe/Berlin.")] = None,
    unit: Annotated[
        str | None, typer.Option(help="Of times that are numbers: s, ms, us, ns. Default: by size.")
    ] = None,
    dayfirst: Annotated[
        bool | None,
        typer.Option("--dayfirst/--monthfirst", help="Which comes first in 01/02/2024.", show_default=False),
    ] = None,
    stamp: Annotated[
        str | None,
        typer.Option(help="What a row's time is: open or close of its bar, or snapshot (the close before it)."),
    ] = None,
    column: Annotated[
        list[str] | None, typer.Option(help="Which column is what, e.g. close=Last; may be repeated.")
    ] = None,
    volume_unit: Annotated[str | None, typer.Option(help="base, or quote: divided by the bar's mean price.")] = None,
    decimal: Annotated[str | None, typer.Option(help="Decimal mark, . or , where 1,234 could be both.")] = None,
    sheet: Annotated[str | None, typer.Option(help="Sheet of a workbook. Default: the first.")] = None,
    keep: Annotated[
        str | None, typer.Option(help="first or last of rows with one time but other values. Default: refuse them.")
    ] = None,
    preview: Annotated[bool, typer.Option("--preview", help="Show how the file is understood; store nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Store without asking.")] = False,
    as_exchange: Annotated[
        bool, typer.Option("--as-exchange", help="Let --as be an exchange's name: the bars mix with fetched ones.")
    ] = False,
) -> None:
    """Check the candles in a file and store them.

    Shows which column it takes for what and the first bars. What the file does not say (the time zone, the order of day and
    month, …) is asked on a terminal; in a pipe it is an error that says what to type. Wrong rows are listed by their number
    and nothing is stored.
    """
    from btclab.market.importing import check_name, import_candles, inspect_file

    console = printing.console()
    if not preview and not name:
        raise InputError(f"Name the candles: btclab import {path} --as mydata (or look first: --preview).")
    if name:
        check_name(name, as_exchange)
    given = {"zone": tz, "unit": unit, "dayfirst": dayfirst, "stamp": stamp, "volume_unit": volume_unit}
    given |= {"decimal": decimal, "sheet": sheet, "keep": keep, "symbol": symbol, "timeframe": timeframe}
    options: dict[str, Any] = {**given, "columns": _pairs(column)}
    terminal = _can_ask(console)
    with console.status(f"reading {path.name} …"):
        seen = inspect_file(path, **options)
    while seen.questions and terminal and not preview:
        _answer(console, seen.questions[0], options)
        with console.status(f"reading {path.name} …"):
            seen = inspect_file(path, **options)
    _show(console, seen)
    if seen.questions and not preview:
        needed = "\n".join(f"  {question.text}" for question in seen.questions)
        words = " ".join(_typed(question) for question in seen.questions)
        raise InputError(
            f"{path.name} does not say all that is needed:\n{needed}\nE.g. btclab import {path} --as {name} {words}"
        )
    if not seen.problems.empty:
        _list(console, seen.problems)
        raise InputError(
            f"{path.name} has {len(seen.problems):,} wrong row(s); nothing was stored. Correct or drop them."
        )
    if preview:
        return
    if terminal and not yes and not typer.confirm(f"Store {seen.rows:,} rows as {name}?", default=True):
        raise typer.Exit(1)
    with console.status("storing …"):
        stored = import_candles(path, name, as_exchange=as_exchange, **options)
    console.print(_table(stored.report, f"{stored.source} · {stored.symbol} · {stored.timeframe}"))
    console.print(f"Use it: --source store:{name} --timeframe {stored.timeframe}", highlight=False)


def _can_ask(console: Console) -> bool:
    return sys.stdin.isatty() and console.is_terminal


def _pairs(columns: list[str] | None) -> dict[str, str]:
    pairs = {}
    for text in columns or []:
        role, equals, column = text.partition("=")
        if not equals or not column:
            raise InputError(f"--column {text!r} is not of the form close=Last.")
        pairs[role.strip()] = column.strip()
    return pairs


def _typed(question: Question) -> str:
    """How the first possible answer to `question` is typed."""
    if question.option == "dayfirst":
        return "--dayfirst"
    answer = question.example or question.choices[0]
    return f"{FLAGS[question.option]} {answer!r}" if " " in answer else f"{FLAGS[question.option]} {answer}"


def _answer(console: Console, question: Question, options: dict[str, Any]) -> None:
    """Ask `question` on the terminal and put its answer into `options`; an empty answer ends the command."""
    console.print(question.text, soft_wrap=True, markup=False)
    choices = "" if question.option == "columns" else "/".join(question.choices)
    answer = typer.prompt(choices or f"e.g. {question.example}", default="", show_default=False).strip()
    if not answer:
        raise InputError(f"No answer to: {question.text}. Nothing was stored.")
    if question.option == "dayfirst":
        options["dayfirst"] = answer.lower().startswith("d")
    elif question.option == "columns":
        options["columns"] = {**options["columns"], **_pairs([answer])}
    else:
        options[question.option] = answer


def _show(console: Console, seen: Preview) -> None:
    """How the file is understood, in two tables."""
    import pandas as pd

    rows = [(role, column) for role, column in seen.columns.items()]
    console.print(_table(pd.DataFrame(rows, columns=["candles", "column of the file"]), seen.name))
    zone = "not known" if seen.zone == "ask" else seen.zone
    facts = (
        f"times: {seen.unit}, zone {zone}, of the bar's {seen.stamp} · timeframe {seen.timeframe or 'not known yet'}"
    )
    console.print(f"{facts} · {seen.rows:,} rows", soft_wrap=True, highlight=False)
    for note in seen.notes:
        console.print(f"note: {note}", soft_wrap=True, markup=False, highlight=False)
    first = seen.first.reset_index(names="time (UTC)" if seen.timeframe else "row")
    console.print(_table(first, "first rows"))


def _list(console: Console, problems: pd.DataFrame, most: int = 50) -> None:
    console.print(_table(problems.head(most), "wrong rows"))
    if len(problems) > most:
        console.print(f"… and {len(problems) - most:,} more", highlight=False)


def _table(frame: pd.DataFrame, title: str) -> Any:
    from rich.markup import escape
    from rich.table import Column, Table

    table = Table(*(Column(escape(str(name)), overflow="fold") for name in frame.columns), title=escape(title))
    table.title_justify = "left"
    for row in frame.itertuples(index=False):
        table.add_row(*(escape(f"{cell:,.10g}" if isinstance(cell, float) else str(cell)) for cell in row))
    return table


EPILOG = "Example: [bold]btclab import prices.csv --as mydata --tz UTC --column close=Last[/bold]"
