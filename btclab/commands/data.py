"""`btclab data`: what is wrong with candles, and filling their gaps from a second venue."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    import pandas as pd

app = typer.Typer(no_args_is_help=True, help="Check the quality of candles; repair gaps from a second venue.")

COLOURS = {"bad": "red", "suspicious": "yellow", "note": "cyan"}
Timeframe = Annotated[str, typer.Option(help="Length of a bar: 1m … 1d.")]
Symbol = Annotated[str | None, typer.Option(help="Market, e.g. BTC/USDT. Default: that of the settings.")]


@app.command(epilog="Example: [bold]btclab data check --source store:binance --against kraken[/bold]")
def check(
    source: Annotated[
        str | None,
        typer.Option(
            help="binance, … · store:binance · file:PATH · simulated:SEED. Default: the exchanges of the settings in turn."
        ),
    ] = None,
    timeframe: Timeframe = "1h",
    symbol: Symbol = None,
    start: Annotated[str | None, typer.Option(help="First bar, e.g. 2020-01-01. Default: all.")] = None,
    end: Annotated[str | None, typer.Option(help="Bars before this time only. Default: all.")] = None,
    against: Annotated[
        str, typer.Option(help="A second venue to compare with: kraken · store:kraken · file:PATH. Default: none.")
    ] = "",
    against_symbol: Annotated[str | None, typer.Option(help="Its market. Default: the same.")] = None,
    most: Annotated[int, typer.Option(help="How many findings to list, worst first.", min=1)] = 20,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 if anything bad is found.")] = False,
) -> None:
    """List gaps, duplicates, filled halts, outliers, wrong dates and prices that part from a second venue.

    Findings are information: the exit code is 0 whatever is found, unless --strict asks otherwise.
    """
    from rich.console import Console

    from btclab.market.check import check_candles, load_for_check, load_reference

    console = _console()
    waiting = Console(stderr=True)
    with waiting.status("finding candles …"):
        candles = load_for_check(source, timeframe, start, end, symbol)
        reference = load_reference(against, candles, against_symbol)
    with waiting.status("checking …"):
        report = check_candles(candles, reference)
    for note in candles.attrs.get("notes") or []:
        console.print(f"[yellow]note[/yellow] {note}", soft_wrap=True, highlight=False)
    kind = "[bold red]SIMULATED MARKET[/] " if candles.attrs.get("simulated") else ""
    span = f"{report.candles.index[0]:%Y-%m-%d %H:%M} to {report.candles.index[-1]:%Y-%m-%d %H:%M} UTC"
    console.print(f"{kind}candles  {candles.attrs.get('source')} · {span}", soft_wrap=True, highlight=False)
    _print_findings(console, report.findings, most)
    _print_summary(console, report.summary)
    bad = int((report.findings["severity"] == "bad").sum())
    said = (
        f"[red]{bad:,} bad finding(s)[/]: do not train on these bars unseen." if bad else "[green]Nothing bad found.[/]"
    )
    console.print(said, highlight=False)
    if strict and not report.ok:
        raise typer.Exit(1)


@app.command(epilog="Example: [bold]btclab data repair --source binance --from kraken --dry-run[/bold]")
def repair(
    venue: Annotated[str, typer.Option("--from", help="The venue whose bars fill the gaps: kraken · file:PATH.")],
    source: Annotated[
        str | None, typer.Option(help="Whose stored candles to repair. Default: the first exchange of the settings.")
    ] = None,
    timeframe: Timeframe = "1h",
    symbol: Symbol = None,
    from_symbol: Annotated[
        str | None,
        typer.Option(help="The venue's market, e.g. BTC/USD. Must be named where its quote currency is another."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be filled; store nothing.")] = False,
) -> None:
    """Fill the gaps of stored candles with the bars of a named second venue, marked so; never interpolated, never scaled.

    A gap stays a gap where the two venues are more than 2 % apart beside it. Exit code 1 if there are gaps and none is filled.
    """
    from rich.console import Console

    from btclab.market.repair import repair_stored
    from btclab.settings import settings

    console, market = _console(), symbol or settings().market.symbol
    name = source or settings().market.exchanges[0]
    with Console(stderr=True).status(f"asking {venue} …"):
        bars, done = repair_stored(name, venue, timeframe, market, from_symbol, dry_run)
    if done.empty:
        console.print(f"{name} {market} {timeframe} has no gaps.", highlight=False)
        return
    _print_repairs(console, done)
    word = "would be filled" if dry_run else "filled and marked"
    missing = int(done["bars"].sum())
    console.print(f"{len(bars):,} of {missing:,} missing bars {word} from {venue}.", highlight=False)
    if bars.empty:
        raise typer.Exit(1)


def _console() -> Any:
    from rich.console import Console

    console = Console()
    if not console.is_terminal:  # a pipe has no width: cut nothing
        console.width = 200
    return console


def _print_findings(console: Any, findings: pd.DataFrame, most: int) -> None:
    from rich.table import Column, Table

    from btclab.market.quality import each

    if findings.empty:
        return
    table = Table(
        "finding", "severity", Column("from (UTC)", no_wrap=True), Column("to (UTC)", no_wrap=True),
        Column("bars", justify="right"), Column("detail", overflow="fold"),
    )  # fmt: skip
    for row in each(findings.head(most)):
        table.add_row(
            f"[{COLOURS[row.severity]}]{row.finding}[/]", row.severity, _time(row.start), _time(row.end),
            f"{row.bars:,}", row.detail,
        )  # fmt: skip
    console.print(table)
    if len(findings) > most:
        console.print(f"… and {len(findings) - most:,} more: --most {len(findings)}", highlight=False)


def _print_summary(console: Any, summary: pd.DataFrame) -> None:
    from rich.table import Column, Table

    from btclab.market.quality import each

    table = Table("figure", Column("value", overflow="fold"), "unit")
    for row in each(summary):
        table.add_row(row.finding, row.value, row.unit)
    console.print(table)


def _print_repairs(console: Any, done: pd.DataFrame) -> None:
    import pandas as pd
    from rich.table import Column, Table

    from btclab.market.quality import each

    right = [Column(name, justify="right") for name in ("bars", "filled", "before (%)", "after (%)")]
    table = Table("gap from (UTC)", "to (UTC)", *right, Column("stays a gap because", overflow="fold"),
                  title="own price over the other venue's, beside each gap", title_justify="left")  # fmt: skip
    for row in each(done):
        premiums = [
            f"{100 * value:+.2f}" if not pd.isna(value) else "–" for value in (row.premium_before, row.premium_after)
        ]
        colour = "yellow" if row.refused else "green"
        table.add_row(
            _time(row.start), _time(row.end), f"{row.bars:,}", f"[{colour}]{row.filled:,}[/]", *premiums, row.refused
        )
    console.print(table)


def _time(moment: Any) -> str:
    import pandas as pd

    return f"{moment:%Y-%m-%d %H:%M}" if not pd.isna(moment) else "–"
