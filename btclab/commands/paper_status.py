"""`btclab paper status`: the account as it stands, and who trades it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import typer

from btclab.commands import printing
from btclab.commands.paper_ledger import Json, Url, opened, url_of
from btclab.commands.paper_requests import refused
from btclab.commands.printing import plain

if TYPE_CHECKING:
    from rich.console import Console

    from btclab.trading.ledger import Ledger

app = typer.Typer()
MOST_LOTS, MOST_ORDERS, MOST_REFUSED = 5, 20, 3
NEWEST = 50  # events, of which the refusals are shown
ORDER = ["id", "kind", "side", "quantity", "limit", "stop", "trail", "exposure", "lifetime", "group", "parent", "order"]
ORDER += ["reason"]


@app.command(epilog="Example: [bold]btclab paper status[/bold]")
def status(json_: Json = False, ledger: Url = None) -> None:
    """Show the account: what it holds and is worth, open orders, the newest signal, and whether a trader runs."""
    url = url_of(ledger)
    with opened(url) as held:
        facts = _facts(held, url)
    if json_:
        typer.echo(json.dumps(facts, indent=2, default=str))
    else:
        _print_status(printing.console(), facts)


def _facts(ledger: Ledger, url: str) -> dict[str, Any]:
    """All that `status` shows, as JSON values."""
    import pandas as pd

    from btclab.operations.session import age_of, running
    from btclab.trading.engine import State, plain_values

    bar, state = ledger.state()
    trader, book = state.get("trader", {}), State.from_dict(state["state"]) if state else None
    process = running(url)
    signals = ledger.signals_table(last=1)
    newest = None if signals.empty else {"bar": signals.index[-1].isoformat(), **printing.plain_row(signals.iloc[-1])}
    opened = None if bar is None else pd.Timestamp(bar.timestamp, tz="UTC")
    simulated = bool(trader.get("simulated"))
    risk, account = trader.get("risk", {}), ledger.portfolio()
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
        "account": account | {"initial_cash": float(ledger.initial_cash)},
        "margin_call": _margin_call(account, state.get("margin")),
        "target": book.target if book else None,
        "halted": risk.get("halted", -1) >= 0,
        "day_over": bool(risk.get("day_over")),
        "lots": [
            {
                "entry": pd.Timestamp(lot.entry, tz="UTC").isoformat(),
                "quantity": float(lot.quantity),
                "price": float(lot.price),
            }
            for lot in ledger.lots()
        ],
        "orders": [plain_values(one.order) for one in book.orders] if book else [],
        "requests": [{"id": one.id, "kind": one.kind, **one.body} for one in ledger.pending() if one.kind != "refused"],
        "refused": [*_refused(ledger), *refused(ledger)][-MOST_REFUSED:],
        "signal": newest,
        "bars_not_used": trader.get("ignored", {}),
    }


def _margin_call(account: Mapping[str, Any], terms: Mapping[str, float] | None) -> float | None:
    """The price at which what is sold short is bought back: where equity is `maintenance` times what that costs."""
    if account["position"] >= 0 or terms is None:
        return None
    return account["cash"] / ((1 + terms["maintenance"]) * -account["position"])


def _refused(ledger: Ledger) -> list[dict[str, Any]]:
    events = ledger.event_table(last=NEWEST)
    rows = events[events["event"] == "refused"].reset_index()
    return [printing.plain_row(row) for _, row in rows.iterrows()]


def _print_status(console: Console, facts: dict[str, Any]) -> None:
    from rich.panel import Panel
    from rich.table import Table

    base, _, quote = facts["symbol"].partition("/")
    own = facts["account"]
    if facts["simulated"]:
        console.print(f"[bold red]SIMULATED MARKET[/bold red] ({plain(str(facts['source']))})", highlight=False)
    grid = Table(show_header=False, box=None, pad_edge=False, padding=(0, 2))
    for _ in range(4):
        grid.add_column(no_wrap=True)
    held, price, call = own["position"], own["price"] or 0.0, facts["margin_call"]
    average = "" if own["average_price"] is None else f"{' sold' if held < 0 else ''} at {own['average_price']:,.2f}"
    pairs = [
        ("equity", f"[bold]{own['equity']:,.2f} {quote}[/bold]"),
        ("profit", f"{_signed(own['profit'], quote)} ({own['total_return']:+.2f} %)"),
        ("cash", f"{round(own['cash'], 2) + 0.0:,.2f} {quote}"),  # the engine's rounding is no debt
        ("realised, unrealised", f"{own['realised']:+,.2f}, {own['unrealised']:+,.2f}"),
        ("position", f"{held:.8f} {base}{average}"),
        ("fees paid", f"{own['fees']:,.2f} {quote}"),
        ("owes" if held < 0 else "worth", f"{abs(held) * price:,.2f} {quote}, {100 * own['exposure']:.1f} % of equity"),
        ("drawdown, deepest", f"{abs(own['drawdown']):.2f} %, {abs(own['max_drawdown']):.2f} %"),
        ("target", "–" if facts["target"] is None else f"{100 * facts['target']:g} % of equity"),
        ("trades, fills, bars", f"{own['trades']:,}, {own['fills']:,}, {own['bars']:,}"),
    ]
    if call is not None or own["interest"]:
        near = "–" if call is None else f"at {call:,.2f} {quote}, {100 * (call / price - 1):+.1f} %"
        pairs += [("margin call", near), ("interest paid", f"{0.0 - own['interest']:,.2f} {quote}")]
    for left, right in zip(pairs[::2], pairs[1::2], strict=True):
        grid.add_row(f"[dim]{left[0]}[/dim]", left[1], f"[dim]{right[0]}[/dim]", right[1])
    title = f"{facts['symbol']} {facts['timeframe']} · {facts['strategy'] or 'not traded yet'}"
    console.print(Panel(grid, title=plain(title), title_align="left", expand=False))
    console.print(_state_line(facts), soft_wrap=True, highlight=False)
    if own["equity"] <= 0:
        owed = f"[red]owes {abs(own['equity']):,.2f} {quote}; nothing can be bought[/red]"
        console.print(f"{owed}; begin a new account: btclab paper reset", soft_wrap=True, highlight=False)
    if facts["halted"]:
        console.print("[red]halted by a risk rule[/red]; lift it: btclab paper reset --halt", soft_wrap=True)
    elif facts["day_over"]:
        console.print(
            "[yellow]the day's loss has ended trading[/yellow] until 00:00 UTC; sooner: btclab paper reset --halt"
        )
    signal = facts["signal"]
    if signal:
        wanted = "no opinion" if signal["exposure"] is None else f"wants {100 * signal['exposure']:g} %"
        sure = "" if signal["confidence"] is None else f", confidence {100 * signal['confidence']:.1f} %"
        seen = ", in sample" if signal["reasons"].get("in_sample") else ""
        said = f"[bold]signal[/bold] {signal['side']}, {wanted}{sure}{seen}: {plain(signal['reasons']['text'])}"
        console.print(said, soft_wrap=True, highlight=False)
    for title, rows, names in (
        ("open orders", facts["orders"], ORDER),
        ("requests that wait", facts["requests"], ORDER),
        ("newest refusals", facts["refused"], ["timestamp", "order", "rule", "text"]),
        ("lots", facts["lots"][:MOST_LOTS], ["entry", "quantity", "price"]),
    ):
        if rows:
            console.print(printing.table(rows[:MOST_ORDERS], names, title))
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
    return f"{state} · {bar}, {f'[red]{closed}[/red]' if old else closed} · from {plain(str(facts['source']))}"


def _signed(value: float, unit: str) -> str:
    colour = "green" if value > 0 else "red" if value < 0 else "default"
    return f"[{colour}]{value:+,.2f} {unit}[/{colour}]"
