"""`btclab paper`: trade without money on the live market or a recording, and see what came of it."""

from __future__ import annotations

import json
import math
from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated, Any

import typer

from btclab.commands import paper_history, paper_orders, paper_requests, paper_status, printing
from btclab.commands.paper_ledger import Url
from btclab.commands.printing import plain
from btclab.errors import InputError

if TYPE_CHECKING:
    from collections import Counter

    from rich.console import Console

    from btclab.market.feed import BarClosed
    from btclab.operations.session import Session

app = typer.Typer(
    no_args_is_help=True,
    help="Trade without money, on the engine of the backtest: run a trader, look at it, place orders by hand.",
)
for part in (paper_orders, paper_requests, paper_status, paper_history):
    app.add_typer(part.app)


@app.command(epilog="Example: [bold]btclab paper run --source simulated:1 --strategy sma_cross --bars 100[/bold]")
def run(
    source: Annotated[
        str | None,
        typer.Option(
            help="binance, kraken, …: live · store:binance · file:PATH · simulated:SEED: a replay. Default: the settings'."
        ),
    ] = None,
    timeframe: Annotated[str, typer.Option(help="Length of a bar: 1m … 1d.")] = "1h",
    symbol: Annotated[str | None, typer.Option(help="Market, e.g. BTC/USDT. Default: that of the settings.")] = None,
    strategy: Annotated[
        str | None, typer.Option(help="A strategy, or yours: mine.py:my_rule. Default: the settings'.")
    ] = None,
    parameter: Annotated[
        list[str] | None, typer.Option("--parameter", "-p", help="A parameter of the strategy, as name=value.")
    ] = None,
    checkpoint: Annotated[str | None, typer.Option(help="The network that forecasts. Default: production.")] = None,
    bars: Annotated[int | None, typer.Option(help="Stop after so many bars.", min=1)] = None,
    start: Annotated[str | None, typer.Option(help="First bar of a replay on a new ledger, e.g. 2023-01-01.")] = None,
    speed: Annotated[float | None, typer.Option(help="Bars a second of a replay. Default: as fast as it can.")] = None,
    notify: Annotated[
        bool | None, typer.Option("--notify/--no-notify", help="Tell the channels. Default: of live bars only.")
    ] = None,
    ledger: Url = None,
) -> None:
    """Follow the market and trade it without money, until Ctrl-C; go on where the ledger stands.

    Decisions fall at the close of a bar and fill in the next. What was done is on disk before the next bar: the trader may be
    killed at any time, and started again. Where no exchange answers it waits for one.
    """
    from btclab.operations.interrupts import held_back

    console = printing.console()
    with ExitStack() as held:
        try:
            with held_back():  # for a second or two
                from btclab.operations.session import Choice, opened

            choice = Choice(
                source,
                symbol,
                timeframe,
                strategy,
                _parameters(parameter),
                checkpoint,
                ledger,
                bars,
                start,
                math.inf if speed is None else speed,
                notify,
            )
            session = held.enter_context(opened(choice))
        except KeyboardInterrupt:  # also SIGTERM, while it loads or waits for an exchange: a service ends well
            console.print("stopped: interrupted before it began")
            return
        _say_start(console, session)
        ended = _run(console, session)
        _say_end(console, session, ended)
        if session.trader.failures and not choice.live:
            raise typer.Exit(1)


def _run(console: Console, session: Session) -> str:
    """Run it: live, a line a bar; a replay, a progress bar and a line a fill."""
    from tqdm.auto import tqdm

    trader = session.trader
    with tqdm(
        desc="bars", total=session.count, unit="bar", delay=2, leave=False, disable=session.choice.live
    ) as progress:

        def each(event: BarClosed, acted: bool) -> None:
            progress.update(int(acted))
            if session.choice.live and acted:
                broker = trader.broker
                console.print(
                    f"{event.timestamp:%Y-%m-%d %H:%M} UTC  close {event.close:,.2f}  equity {broker.equity:,.2f}  "
                    f"holding {broker.account.position:.8f}  target {100 * broker.target:g} %",
                    highlight=False,
                )

        return session.run(each)


def _say_start(console: Console, session: Session) -> None:
    trader, choice = session.trader, session.choice
    ledger = trader.tape.ledger
    for note in session.notes:
        console.print(f"[yellow]note[/yellow] {plain(note)}", soft_wrap=True, highlight=False)
    if trader.decider.candles.attrs.get("simulated"):
        console.print("[bold red]SIMULATED MARKET[/bold red]: these prices were drawn by a random number generator.")
    last = trader.broker.last_bar
    before = trader.decider.candles
    history = f"{len(before):,} bars before it are history" + (
        ", also of training" if trader.decider.checkpoint else ""
    )
    going = f"begins after {before.index[-1]:%Y-%m-%d %H:%M} UTC ({history})" if len(before) else "begins"
    if last is not None:
        going = f"goes on after {_time(last.timestamp)}"
    console.print(
        f"[bold]{plain(trader.decider.name)}[/bold] on {plain(trader.source)} {ledger.symbol} {ledger.timeframe}, {going}; "
        f"equity {trader.broker.equity:,.2f}" + ("; Ctrl-C ends it." if choice.live else ""),
        soft_wrap=True,
        highlight=False,
    )


def _say_end(console: Console, session: Session, ended: str) -> None:
    trader = session.trader
    now, ignored = trader.broker.summary(), {name: count for name, count in trader.ignored.items() if count}
    last = trader.broker.last_bar
    stands = "no bar yet" if last is None else f"last bar {_time(last.timestamp)}"
    interest = f"interest {now['interest']:,.2f} · " if now["interest"] else ""
    console.print(
        f"stopped: {ended} · {stands} · equity {now['worth']:,.2f} · profit {now['profit']:+,.2f} · fees {now['fees']:,.2f} · "
        f"{interest}fills {now['fills']:,}",
        soft_wrap=True,
        highlight=False,
    )
    _say_failures(console, trader.failures)
    if ignored:
        told = ", ".join(f"{count:,} {name}" for name, count in ignored.items())
        console.print(f"[yellow]bars[/yellow] {told}", highlight=False)


def _say_failures(console: Console, failures: Counter[str]) -> None:
    for said, count in failures.most_common(3):
        bars = "bar" if count == 1 else "bars"
        console.print(
            f"[red]strategy failed[/red] at {count:,} {bars}, where it held what it had: {plain(said)}", soft_wrap=True
        )


def _parameters(given: list[str] | None) -> dict[str, Any]:
    """`name=value` pairs; a value is a number, true, false or a text."""
    values: dict[str, Any] = {}
    for text in given or []:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise InputError(f"Parameter {text!r} is not of the form name=value: write -p {name or 'name'}=VALUE.")
        try:
            values[name] = json.loads(value)
        except ValueError:
            values[name] = value
    return values


def _time(ns: int) -> str:
    import pandas as pd

    return f"{pd.Timestamp(ns, tz='UTC'):%Y-%m-%d %H:%M} UTC"
