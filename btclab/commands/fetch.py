"""`btclab fetch`: bring candles and context series up to date."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from btclab.errors import DataUnavailable

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

    from btclab.market.fetch import Fetched


def fetch(
    source: Annotated[
        list[str] | None,
        typer.Option(
            help="binance, kraken, coingecko, …; may be repeated. Default: the first exchange of the settings that has the bars."
        ),
    ] = None,
    symbol: Annotated[
        list[str] | None, typer.Option(help="Market, e.g. BTC/USDT; may be repeated. Default: those of the settings.")
    ] = None,
    timeframe: Annotated[str, typer.Option(help="Length of a bar: 1m … 1d.")] = "1h",
    since: Annotated[
        str | None, typer.Option(help="First bar, e.g. 2017-08-17. Default: market.years of the settings ago.")
    ] = None,
    until: Annotated[str | None, typer.Option(help="Bars before this time only. Default: now.")] = None,
    context: Annotated[
        str, typer.Option(help="Context series: all, none, list (prints a table of them), or names with commas.")
    ] = "all",
    refresh: Annotated[
        bool, typer.Option("--refresh", help="Ask again for holes that a source is known to have.")
    ] = False,
    follow: Annotated[
        bool, typer.Option("--follow", help="Go on with the live feed, storing each bar as it closes; Ctrl-C ends it.")
    ] = False,
) -> None:
    """Store what is missing of the candles and context series. Nothing is asked for twice.

    Ctrl-C and failures keep what has been fetched; the same command goes on from there.
    """
    from rich.console import Console

    from btclab.context.series import catalogue, chosen
    from btclab.settings import settings

    console = Console()
    if context == "list":
        _print_catalogue(console, catalogue())
        return
    names = (
        None if context == "all" else [name.strip() for name in context.split(",") if name.strip() not in ("", "none")]
    )
    if names:
        chosen(names)  # a misspelt one is said before anything is fetched
    market = settings().market
    options = {"timeframe": timeframe, "start": since, "end": until, "refresh": refresh}
    try:
        done, failed = _fetch_candles(
            console, source, symbol or list(dict.fromkeys([market.symbol, *market.symbols])), options
        )
        failed += _fetch_context(console, names, since, until)
        _maintain(console)
        if follow and done:
            _follow(console, done[0])
    except KeyboardInterrupt:
        console.print("\nStopped. What had been fetched is stored; the same command goes on from there.")
        raise typer.Exit(1) from None
    if failed:
        raise DataUnavailable(f"{failed} of what was asked for could not be had (see above); the rest is stored.")


def _fetch_candles(
    console: Console, sources: list[str] | None, symbols: list[str], options: dict[str, Any]
) -> tuple[list[Fetched], int]:
    """Each market from every named source, or from the first exchange of the settings that has half of it at least.

    Returns what was fetched and how many of the wishes failed.
    """
    from btclab.market.fetch import update_candles
    from btclab.settings import settings

    done: list[Fetched] = []
    failed = 0
    for symbol in symbols:
        enough = False
        for name in sources or settings().market.exchanges:
            try:
                fetched = update_candles(name, symbol=symbol, **options)
            except DataUnavailable as error:
                console.print(f"[yellow]source failed[/yellow] {escape(str(error))}", soft_wrap=True, highlight=False)
                failed += sources is not None
                continue
            done.append(fetched)
            _print_fetched(console, fetched)
            enough = not fetched.short
            if enough and sources is None:
                break
        failed += sources is None and not enough
    return done, failed


def _print_fetched(console: Console, fetched: Fetched) -> None:
    gaps = f", {fetched.missing:,} missing between (see: btclab data check)" if fetched.missing else ""
    short = f" [yellow]{fetched.short}[/yellow]" if fetched.short else ""
    for note in fetched.notes:
        console.print(f"[yellow]note[/yellow] {escape(note)}", soft_wrap=True, highlight=False)
    console.print(
        f"[bold]{fetched.source}[/bold] {fetched.symbol} {fetched.timeframe}: {fetched.new:,} new bars; {fetched.bars:,} from "
        f"{fetched.first:%Y-%m-%d %H:%M} to {fetched.last:%Y-%m-%d %H:%M} UTC{gaps}{short}",
        soft_wrap=True,
        highlight=False,
    )


def _fetch_context(console: Console, names: list[str] | None, since: str | None, until: str | None) -> int:
    """Fetch the series and show what came; returns how many failed. One whose key is not set is skipped, not failed."""
    if names == []:
        return 0
    from rich.table import Column, Table

    from btclab.context.fetch import fetch_context

    outcomes = fetch_context(names, since, until)
    table = Table(
        "series",
        Column("new", justify="right"),
        Column("values", justify="right"),
        "to",
        Column("state", overflow="fold"),
    )
    for one in outcomes:
        colour = "yellow" if one.skipped or one.stale else "red" if one.failed else "green"
        state = one.skipped or one.failed or one.stale or "ok"
        last = "–" if one.last is None else f"{one.last:%Y-%m-%d}"
        table.add_row(one.name, f"{one.new:,}", f"{one.rows:,}", last, f"[{colour}]{escape(state)}[/]")
    console.print(table)
    for one in outcomes:
        for note in one.notes:
            console.print(f"[yellow]note[/yellow] {one.name}: {escape(note)}", soft_wrap=True, highlight=False)
    return sum(bool(one.failed) for one in outcomes)


def _print_catalogue(console: Console, series: pd.DataFrame) -> None:
    """The context series: what each is, where it comes from, when it is known, and the key it needs."""
    from rich.table import Column, Table

    if not console.is_terminal:  # a pipe has no width: cut nothing
        console.width = 240
    names = ("source", "unit", "lag", "max age", "history", "key")
    table = Table("series", "group", *(Column(name, overflow="fold") for name in names))
    for group, rows in series.groupby("group", sort=False):
        for name, row in rows.iterrows():
            key = f"[{'green' if row['key_set'] else 'yellow'}]{row['key'] or '–'}[/]" + (
                "" if row["key_set"] else " (not set)"
            )
            table.add_row(
                str(name), str(group), row["source"], row["unit"], row["lag"], row["max_age"], row["history"], key
            )
        table.add_section()
    console.print(table)
    console.print("lag: from a value's stamp until it is used; max age: after that it is missing, not carried on.")


def _maintain(console: Console) -> None:
    """Clean the cache up when that is due, and say if something is wrong with it."""
    from btclab.market.cache import cache_stats, cache_warnings, maintenance_due
    from btclab.operations.upkeep import maintain_cache

    if maintenance_due():
        for line in maintain_cache()[1]:
            console.print(f"[yellow]not warmed[/yellow] {escape(line)}", soft_wrap=True, highlight=False)
    for warning in cache_warnings(cache_stats()):
        console.print(f"[yellow]cache[/yellow] {escape(warning)}", soft_wrap=True, highlight=False)


def _follow(console: Console, fetched: Fetched) -> None:
    """Store bars as they close, one line each, until Ctrl-C."""
    from btclab.market.feed import BarClosed, Event, Status
    from btclab.market.live_feed import follow_until_interrupted

    def say(event: Event) -> None:
        if isinstance(event, BarClosed):
            console.print(
                f"{event.timestamp:%Y-%m-%d %H:%M} UTC  close {event.close:,.2f}  ({event.known})", highlight=False
            )
        elif isinstance(event, Status):
            console.print(
                f"[dim]{event.state}{f': {escape(event.reason)}' if event.reason else ''}[/dim]", highlight=False
            )

    console.print(f"Following {fetched.source} {fetched.symbol} {fetched.timeframe}; Ctrl-C ends it.")
    follow_until_interrupted(fetched.source, fetched.symbol, fetched.timeframe, say)
