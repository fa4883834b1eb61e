"""`btclab paper`: trade without money on the live market or a recording, and see what came of it."""

from __future__ import annotations

import json
import math
import secrets
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from btclab.errors import InputError, unknown

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console
    from rich.table import Table

    from btclab.market.feed import BarClosed
    from btclab.operations.session import Session
    from btclab.records import Order
    from btclab.trading.ledger import Ledger

app = typer.Typer(
    no_args_is_help=True,
    help="Trade without money, on the engine of the backtest: run a trader, look at it, place orders by hand.",
)
TABLES = ("fills", "trades", "orders", "events", "equity", "signals", "movements")
MOST_LOTS, MOST_ORDERS = 5, 20
POLL_S = 0.2

Url = Annotated[str | None, typer.Option("--ledger", help="The ledger's address. Default: that of the settings.")]
Json = Annotated[bool, typer.Option("--json", help="As JSON, for programs.")]
Wait = Annotated[
    float, typer.Option(help="Seconds to wait for the trader's answer, which it gives at its next close.", min=0)
]


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
    killed at any time, and started again.
    """
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
    console = _console()
    with opened(choice) as session:
        _say_start(console, session)
        ended = _run(console, session)
        _say_end(console, session, ended)


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
        console.print(f"[yellow]note[/yellow] {_plain(note)}", soft_wrap=True, highlight=False)
    if trader.decider.candles.attrs.get("simulated"):
        console.print("[bold red]SIMULATED MARKET[/bold red]: these prices were drawn by a random number generator.")
    last = trader.broker.last_bar
    going = "from its start" if last is None else f"goes on after {_time(last.timestamp)}"
    console.print(
        f"[bold]{_plain(trader.decider.name)}[/bold] on {_plain(trader.source)} {ledger.symbol} {ledger.timeframe}, {going}; "
        f"equity {trader.broker.equity:,.2f}" + ("; Ctrl-C ends it." if choice.live else ""),
        soft_wrap=True,
        highlight=False,
    )


def _say_end(console: Console, session: Session, ended: str) -> None:
    trader = session.trader
    now, ignored = trader.broker.summary(), {name: count for name, count in trader.ignored.items() if count}
    last = trader.broker.last_bar
    stands = "no bar yet" if last is None else f"last bar {_time(last.timestamp)}"
    console.print(
        f"stopped: {ended} · {stands} · equity {now['worth']:,.2f} · profit {now['profit']:+,.2f} · fees {now['fees']:,.2f} · "
        f"fills {now['fills']:,}",
        soft_wrap=True,
        highlight=False,
    )
    if ignored:
        told = ", ".join(f"{count:,} {name}" for name, count in ignored.items())
        console.print(f"[yellow]bars[/yellow] {told}", highlight=False)


# Requests


@app.command(
    epilog="Example: [bold]btclab paper order buy 0.01 --limit 60000[/bold]. --stop alone is a stop order, with --limit a "
    "stop-limit order; without a price it fills at the next open."
)
def order(
    side: Annotated[str, typer.Argument(help="buy or sell.")],
    quantity: Annotated[float, typer.Argument(help="In BTC; of an order with --parent, 0: what the parent fills.")],
    limit: Annotated[float | None, typer.Option(help="At this price or better.")] = None,
    stop: Annotated[float | None, typer.Option(help="Once the price touches this.")] = None,
    take_profit: Annotated[float | None, typer.Option(help="Once the price touches this, on the good side.")] = None,
    trail: Annotated[
        float | None, typer.Option(help="Trailing stop: a fraction below the best price, e.g. 0.03.")
    ] = None,
    tif: Annotated[
        str, typer.Option(help="gtc: until cancelled · ioc: one bar · or until a time: 2026-01-31T12:00")
    ] = "gtc",
    group: Annotated[str, typer.Option(help="Of the orders of a group, the first fill cancels the others.")] = "",
    parent: Annotated[str, typer.Option(help="Id of an open order with whose fill this one begins.")] = "",
    id: Annotated[str, typer.Option(help="An id of your own; it is used once, so that no order is placed twice.")] = "",
    wait: Wait = 0.0,
    ledger: Url = None,
) -> None:
    """Ask the trader to place an order at its next close; it fills after that as docs/orders.md says."""
    asked = _order(side, quantity, limit, stop, take_profit, trail, tif, group, parent)
    from btclab.trading.engine import plain_values

    _request("order", plain_values(asked), id, wait, ledger)


@app.command(epilog="Example: [bold]btclab paper cancel 3f2a91c0[/bold]")
def cancel(
    order: Annotated[str, typer.Argument(help="Id of an open order, as `btclab paper status` shows it.")],
    wait: Wait = 0.0,
    ledger: Url = None,
) -> None:
    """Ask the trader to take an open order, and those that wait for it, out of the book."""
    _request("cancel", {"order": order}, "", wait, ledger)


@app.command(epilog="Example: [bold]btclab paper close[/bold]")
def close(wait: Wait = 0.0, ledger: Url = None) -> None:
    """Ask the trader to cancel every order and to sell all; the strategy buys again with its next signal."""
    _request("close", {}, "", wait, ledger)


def _order(
    side: str,
    quantity: float,
    limit: float | None,
    stop: float | None,
    take_profit: float | None,
    trail: float | None,
    tif: str,
    group: str,
    parent: str,
) -> Order:
    """The order that the words describe; raises `InputError` for what no account could place."""
    from btclab.market.candles import utc
    from btclab.records import Market, Order
    from btclab.trading.orders import wrong

    if side not in ("buy", "sell"):
        raise unknown("side", side, ("buy", "sell"))
    if sum(one is not None for one in (stop, take_profit, trail)) > 1 or (
        limit is not None and (take_profit is not None or trail is not None)
    ):
        raise InputError("Of --stop, --take-profit and --trail give one; --limit goes alone or with --stop.")
    kind = "market"
    if trail is not None:
        kind = "trailing_stop"
    elif take_profit is not None:
        kind = "take_profit"
    elif stop is not None:
        kind = "stop" if limit is None else "stop_limit"
    elif limit is not None:
        kind = "limit"
    lifetime, expires = tif, 0
    if tif not in ("gtc", "ioc"):
        try:
            lifetime, expires = "gtd", utc(tif).as_unit("ns").value
        except ValueError as error:  # also a time that is no time at all, or too far away for one
            raise InputError(f"--tif is {tif!r}; write gtc, ioc, or the time until which it is good.") from error
    asked = Order(
        0,
        kind=kind,
        side=side,
        quantity=math.nan if parent and quantity == 0 else quantity,
        limit=_number(limit),
        stop=_number(take_profit if take_profit is not None else stop),
        trail=_number(trail),
        lifetime=lifetime,
        expires=expires,
        group=group,
        parent=parent,
        reason="by hand",
    )
    if broken := wrong(asked, Market()):
        raise InputError(broken[1])
    return asked


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _request(kind: str, body: dict[str, Any], id: str, wait: float, url: str | None) -> None:
    """Leave a request in the ledger and say what becomes of it. Exit code 1 if the trader refused it while waited for."""
    from btclab.operations.session import running

    url = _url(url)
    with _opened(url) as ledger:
        name = ledger.request(kind, body, id or secrets.token_hex(4))
        trader = running(url)
        console = _console()
        console.print(f"{kind} {name} is recorded.", soft_wrap=True, highlight=False)
        if trader is None:
            console.print("No trader runs; it is taken up at the first close after `btclab paper run` is started.")
        else:
            console.print("The trader takes it up at its next close: btclab paper history events", soft_wrap=True)
        answer = _answer(ledger, name, wait)
    if answer is not None:
        event, rule, text = answer
        colour = "red" if event == "refused" else "green"
        said = " ".join(filter(None, (rule and f"({rule})", text)))
        console.print(f"[{colour}]{event}[/{colour}] {_plain(said)}", soft_wrap=True, highlight=False)
        if event == "refused":
            raise typer.Exit(1)


def _answer(ledger: Ledger, name: str, wait: float) -> tuple[str, str, str] | None:
    until = time.monotonic() + wait
    while time.monotonic() < until:
        if all(one.id != name for one in ledger.pending()):
            events = ledger.event_table()
            first = events[events["order"] == name].iloc[0]
            return str(first["event"]), str(first["rule"]), str(first["text"])
        time.sleep(POLL_S)
    return None


# Looking


@app.command(epilog="Example: [bold]btclab paper status[/bold]")
def status(json_: Json = False, ledger: Url = None) -> None:
    """Show the account: what it holds and is worth, open orders, the newest signal, and whether a trader runs."""
    url = _url(ledger)
    with _opened(url) as held:
        facts = _facts(held, url)
    if json_:
        typer.echo(json.dumps(facts, indent=2, default=str))
    else:
        _print_status(_console(), facts)


def _facts(ledger: Ledger, url: str) -> dict[str, Any]:
    """All that `status` shows, as JSON values."""
    import pandas as pd

    from btclab.operations.session import age_of, running
    from btclab.trading.engine import State, plain_values

    bar, state = ledger.state()
    trader, book = state.get("trader", {}), State.from_dict(state["state"]) if state else None
    process = running(url)
    signals = ledger.signals_table(last=1)
    newest = None if signals.empty else {"bar": signals.index[-1].isoformat(), **_plain_row(signals.iloc[-1])}
    opened = None if bar is None else pd.Timestamp(bar.timestamp, tz="UTC")
    simulated = bool(trader.get("simulated"))
    risk = trader.get("risk", {})
    return {
        "symbol": ledger.symbol,
        "timeframe": ledger.timeframe,
        "source": trader.get("source"),
        "simulated": simulated,
        "strategy": trader.get("strategy"),
        "checkpoint": trader.get("checkpoint") or None,
        "running": process is not None,
        "process": process or None,
        "last_bar": None if opened is None else opened.isoformat(),
        "age_s": None if opened is None or simulated else age_of(opened, ledger.timeframe).total_seconds(),
        "account": ledger.portfolio() | {"initial_cash": float(ledger.initial_cash)},
        "target": book.target if book else None,
        "halted": risk.get("halted", -1) >= 0 or bool(risk.get("day_over")),
        "lots": [
            {
                "entry": pd.Timestamp(lot.entry, tz="UTC").isoformat(),
                "quantity": float(lot.quantity),
                "price": float(lot.price),
            }
            for lot in ledger.lots()
        ],
        "orders": [plain_values(one.order) for one in book.orders] if book else [],
        "requests": [{"id": one.id, "kind": one.kind, **one.body} for one in ledger.pending()],
        "signal": newest,
        "bars_not_used": trader.get("ignored", {}),
    }


def _print_status(console: Console, facts: dict[str, Any]) -> None:
    from rich.panel import Panel
    from rich.table import Table

    base, _, quote = facts["symbol"].partition("/")
    own = facts["account"]
    if facts["simulated"]:
        console.print(f"[bold red]SIMULATED MARKET[/bold red] ({_plain(str(facts['source']))})", highlight=False)
    grid = Table(show_header=False, box=None, pad_edge=False, padding=(0, 2))
    for _ in range(4):
        grid.add_column(no_wrap=True)
    held, price = own["position"] or 0.0, own["price"] or 0.0
    average = "" if own["average_price"] is None else f" at {own['average_price']:,.2f}"
    pairs = [
        ("equity", f"[bold]{own['equity']:,.2f} {quote}[/bold]"),
        ("profit", f"{_signed(own['profit'], quote)} ({own['total_return']:+.2f} %)"),
        ("cash", f"{round(own['cash'], 2) + 0.0:,.2f} {quote}"),  # the engine's rounding is no debt
        ("realised, unrealised", f"{own['realised']:+,.2f}, {own['unrealised']:+,.2f}"),
        ("position", f"{held:.8f} {base}{average}"),
        ("fees paid", f"{own['fees']:,.2f} {quote}"),
        ("worth", f"{held * price:,.2f} {quote}, {100 * own['exposure']:.1f} % of equity"),
        ("drawdown, deepest", f"{-own['drawdown']:.2f} %, {-own['max_drawdown']:.2f} %"),
        ("target", "–" if facts["target"] is None else f"{100 * facts['target']:g} % of equity"),
        ("trades, fills, bars", f"{own['trades']:,}, {own['fills']:,}, {own['bars']:,}"),
    ]
    for left, right in zip(pairs[::2], pairs[1::2], strict=True):
        grid.add_row(f"[dim]{left[0]}[/dim]", left[1], f"[dim]{right[0]}[/dim]", right[1])
    title = f"{facts['symbol']} {facts['timeframe']} · {facts['strategy'] or 'not traded yet'}"
    console.print(Panel(grid, title=_plain(title), title_align="left", expand=False))
    console.print(_state_line(facts), soft_wrap=True, highlight=False)
    if facts["halted"]:
        console.print("[red]halted by a risk rule[/red]; lift it: btclab paper reset --halt", soft_wrap=True)
    signal = facts["signal"]
    if signal:
        wanted = "no opinion" if signal["exposure"] is None else f"wants {100 * signal['exposure']:g} %"
        sure = "" if signal["confidence"] is None else f", confidence {100 * signal['confidence']:.1f} %"
        seen = ", in sample" if signal["reasons"].get("in_sample") else ""
        said = f"[bold]signal[/bold] {signal['side']}, {wanted}{sure}{seen}: {_plain(signal['reasons']['text'])}"
        console.print(said, soft_wrap=True, highlight=False)
    for title, rows in (("open orders", facts["orders"]), ("requests that wait", facts["requests"])):
        if rows:
            console.print(_rows_table(title, rows[:MOST_ORDERS]))
    if facts["lots"]:
        console.print(_rows_table("lots", facts["lots"][:MOST_LOTS]))
        if len(facts["lots"]) > MOST_LOTS:
            console.print(f"… and {len(facts['lots']) - MOST_LOTS:,} more lots")


def _state_line(facts: dict[str, Any]) -> str:
    import pandas as pd

    from btclab.market.candles import lapse, timeframe_delta

    process = f" (process {facts['process']})" if facts["process"] else ""
    state = (
        f"[green]a trader is running[/green]{process}" if facts["running"] else "[yellow]no trader is running[/yellow]"
    )
    if facts["last_bar"] is None:
        return f"{state} · no bar yet"
    bar = f"last bar {facts['last_bar'][:16].replace('T', ' ')} UTC"
    if facts["age_s"] is None:
        return f"{state} · {bar} · age: none, simulated"
    age = pd.Timedelta(seconds=facts["age_s"])
    old = age > 2 * timeframe_delta(facts["timeframe"])
    closed = f"closed {lapse(age)} ago"
    return f"{state} · {bar}, {f'[red]{closed}[/red]' if old else closed} · from {_plain(str(facts['source']))}"


def _rows_table(title: str, rows: list[dict[str, Any]]) -> Table:
    from rich.table import Column, Table

    words = "id kind side quantity limit stop trail exposure lifetime group parent order reason entry price"
    shown = words.split()
    names = [name for name in shown if any(name in row for row in rows)]
    table = Table(*(Column(name, overflow="fold") for name in names), title=title, title_justify="left")
    for row in rows:
        table.add_row(*(_plain(_cell(row.get(name, ""))) for name in names))
    return table


@app.command(epilog="Example: [bold]btclab paper history fills --last 20[/bold]")
def history(
    what: Annotated[str, typer.Argument(help=f"{', '.join(TABLES)}.")] = "fills",
    last: Annotated[int, typer.Option(help="So many rows, the newest.", min=1)] = 20,
    export: Annotated[Path | None, typer.Option(help="Write all tables into this new folder.")] = None,
    format: Annotated[str, typer.Option(help="Of the export: csv, parquet or json.")] = "csv",
    json_: Json = False,
    ledger: Url = None,
) -> None:
    """Show what was done: fills, closed trades, orders with their status, their events with every refusal, equity, signals."""
    if what not in TABLES:
        raise unknown("table", what, TABLES)
    with _opened(_url(ledger)) as held:
        if export is not None:
            typer.echo(f"Written: {held.export(export, format)}")
            return
        name = {"equity": "equity_curve", "signals": "signals_table"}.get(what, f"{what.removesuffix('s')}_table")
        frame = getattr(held, name)(last=last)
    frame = frame if what == "trades" else frame.reset_index()
    if json_:
        typer.echo(json.dumps([_plain_row(row) for _, row in frame.iterrows()], indent=2, default=str))
    else:
        _print_frame(_console(), what, frame)


def _print_frame(console: Console, what: str, frame: pd.DataFrame) -> None:
    from rich.table import Column, Table

    if frame.empty:
        console.print(f"No {what} yet.")
        return
    rows = [_plain_row(row) for _, row in frame.iterrows()]
    names = [name for name in frame.columns if any(row[name] not in (None, "") for row in rows)]
    numbers = {name for name in names if all(isinstance(row[name], int | float | None) for row in rows)}
    table = Table(*(Column(name, justify="right" if name in numbers else "left", overflow="fold") for name in names))
    for row in rows:
        table.add_row(*(_plain(_cell(row[name])) for name in names))
    console.print(table)


@app.command(epilog="Example: [bold]btclab paper reset[/bold]")
def reset(
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    halt: Annotated[
        bool, typer.Option("--halt", help="Keep the account; lift the halts and pauses of the risk rules.")
    ] = False,
    ledger: Url = None,
) -> None:
    """Put the ledger aside, so that the next run begins a new account; nothing is deleted."""
    from btclab.trading.ledger import Ledger

    url = _url(ledger)
    if halt:
        _request("resume", {}, "", 0.0, ledger)
        return
    if not yes:
        with _opened(url) as held:
            own = held.portfolio()
        told = f"equity {own['equity']:,.2f}, {own['fills']:,} fills, {own['bars']:,} bars"
        typer.confirm(f"Put this account aside ({told}) and begin a new one?", abort=True)
    old = Ledger.reset(url)
    typer.echo("There was no ledger." if old is None else f"The old ledger lies at {old}.")


def _url(given: str | None) -> str:
    from btclab.settings import settings

    return given or settings().trading.ledger


def _opened(url: str) -> Ledger:
    from btclab.trading.ledger import Ledger

    return Ledger.open(url, mode="read")


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


def _plain_row(row: pd.Series) -> dict[str, Any]:
    """A row as JSON values; what is missing is None."""
    import pandas as pd

    values: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, pd.Timestamp):
            values[str(name)] = value.isoformat()
        elif isinstance(value, str | list | dict):
            values[str(name)] = value
        else:
            values[str(name)] = None if pd.isna(value) else value.item() if hasattr(value, "item") else value
    return values


def _cell(value: Any) -> str:
    """A value as a person reads it."""
    if value is None:
        return ""
    if isinstance(value, dict):
        return str(value.get("text", value))
    if isinstance(value, bool):
        return "yes" if value else ""
    if isinstance(value, float):
        return f"{value:,.2f}" if abs(value) >= 100 else f"{value:.8g}"
    if isinstance(value, str) and len(value) > 16 and value[4] == "-" and value[10] == "T":
        return value[:16].replace("T", " ")
    return str(value)


def _signed(value: float, unit: str) -> str:
    colour = "green" if value > 0 else "red" if value < 0 else "default"
    return f"[{colour}]{value:+,.2f} {unit}[/{colour}]"


def _time(ns: int) -> str:
    import pandas as pd

    return f"{pd.Timestamp(ns, tz='UTC'):%Y-%m-%d %H:%M} UTC"


def _console() -> Console:
    from rich.console import Console

    console = Console()
    if not console.is_terminal:  # a pipe has no width: cut nothing
        console.width = 240
    return console


def _plain(text: str) -> str:
    from rich.markup import escape

    return escape(text)
