"""What `btclab paper` asks of the trader, which may run in another process: requests in the ledger, and their answers."""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from btclab.commands.paper_ledger import Url, opened, url_of
from btclab.commands.printing import console, plain
from btclab.errors import BtclabError, LedgerError

if TYPE_CHECKING:
    from btclab.trading.ledger import Ledger

app = typer.Typer()
POLL_S = 0.2
Wait = Annotated[
    float, typer.Option(help="Seconds to wait for the trader's answer, which it gives at its next close.", min=0)
]


@app.command(epilog="Example: [bold]btclab paper cancel 3f2a91c0[/bold]")
def cancel(
    order: Annotated[str, typer.Argument(help="Id of an open order, as `btclab paper status` shows it.")],
    wait: Wait = 0.0,
    ledger: Url = None,
) -> None:
    """Ask the trader to take an open order, and those that wait for it, out of the book."""
    _ask("cancel", {"order": order}, wait, ledger)


@app.command(epilog="Example: [bold]btclab paper close[/bold]")
def close(wait: Wait = 0.0, ledger: Url = None) -> None:
    """Ask the trader to cancel every order and to close the position: to sell all, or to buy back what was sold short.

    The strategy trades again with its next signal.
    """
    with opened(url_of(ledger)) as held:
        orders = held.state()[1].get("state", {}).get("orders", ())
    resting = [one["order"] for one in orders if one["order"].get("kind", "target") == "target"]
    if resting:  # it fills at the next open, and this counts at the close of that bar
        exposure = 100 * resting[-1].get("exposure", 0.0)
        typer.echo(
            f"The strategy's order for {exposure:g} % of equity still fills at the next open, before this counts."
        )
    _ask("close", {}, wait, ledger)


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

    if halt:
        _ask("resume", {}, 0.0, ledger)
        return
    url = url_of(ledger)
    if not yes:
        with opened(url) as held:
            own = held.portfolio()
        told = f"equity {own['equity']:,.2f}, {own['fills']:,} fills, {own['bars']:,} bars"
        typer.confirm(f"Put this account aside ({told}) and begin a new one?", abort=True)
    old = Ledger.reset(url)
    typer.echo("There was no ledger." if old is None else f"The old ledger lies at {old}.")


def _ask(kind: str, body: Mapping[str, Any], wait: float, ledger: str | None) -> None:
    with opened(url_of(ledger)) as held:
        leave(held, url_of(ledger), [(kind, body, secrets.token_hex(4))], wait)


def leave(held: Ledger, url: str, asked: Sequence[tuple[str, Mapping[str, Any], str]], wait: float) -> None:
    """Leave requests (kind, body, id) in the ledger at `url`, all or none, and say what becomes of them.

    Exit code 1 if the trader refused one while they were waited for, or the ledger was put aside.
    """
    from btclab.operations.session import running

    kind, _, name = asked[0]
    held.request_all(asked)
    out = console()
    out.print(f"{kind} {name} is recorded.", soft_wrap=True, highlight=False)
    if running(url) is None:
        out.print("No trader runs; it is taken up at the first close after `btclab paper run` is started.")
    else:
        out.print("The trader takes it up at its next close: btclab paper history events", soft_wrap=True)
    answers = _answers(held, [one for _, _, one in asked], wait)
    for order, event, rule, text in answers:
        colour = "red" if event == "refused" else "green"
        said = " ".join(filter(None, (rule and f"({rule})", text)))
        whose = f"{plain(order)} " if len(asked) > 1 else ""
        out.print(f"{whose}[{colour}]{event}[/{colour}] {plain(said)}", soft_wrap=True, highlight=False)
    if any(event == "refused" for _, event, _, _ in answers):
        raise typer.Exit(1)


def leave_refused(held: Ledger, name: str, typed: Mapping[str, Any], rule: str, text: str) -> str:
    """Leave an order that is refused for what it says itself in the ledger, for the record; returns what became of that."""
    finite = {key: one for key, one in typed.items() if isinstance(one, str) or math.isfinite(one)}
    try:
        held.request("refused", {**finite, "rule": rule, "text": text}, name)
    except BtclabError as error:
        return f"It is not recorded: {error}"
    return f"Recorded as refused, {name}: btclab paper history events"


def refused(held: Ledger) -> list[dict[str, Any]]:
    """The refusals that the trader has not taken into its own record yet, as rows of the table of events."""
    import pandas as pd

    return [
        {
            "timestamp": pd.Timestamp(one.created, tz="UTC").isoformat(),
            "order": one.id,
            "event": "refused",
            "rule": one.body["rule"],
            "text": one.body["text"],
        }
        for one in held.pending()
        if one.kind == "refused"
    ]


def _answers(ledger: Ledger, names: Sequence[str], wait: float) -> list[tuple[str, str, str, str]]:
    """Order, event, rule and text of the trader's answers to all of the requests; none, if there are not all in time.

    Of each it is the last event of the bar that took them up, and every refusal. Raises `LedgerError` if the ledger was put
    aside meanwhile.
    """
    from btclab.trading.ledger import WrongLedger

    until, begun = time.monotonic() + wait, ledger.opened
    while time.monotonic() < until:
        try:
            waits = not {one.id for one in ledger.pending()}.isdisjoint(names)
            events = None if waits else ledger.event_table()
        except BtclabError as error:
            if ledger.opened == begun and not isinstance(error, WrongLedger):
                raise
            raise _put_aside(names) from error
        if ledger.opened != begun:
            raise _put_aside(names)
        if events is not None:
            own = events[events["order"].isin(names)]
            own = own[own.index == own.index[0]]
            own = own[(own["event"] == "refused") | ~own["order"].duplicated(keep="last")]
            return list(own[["order", "event", "rule", "text"]].astype(str).itertuples(index=False, name=None))
        time.sleep(POLL_S)
    return []


def _put_aside(names: Sequence[str]) -> LedgerError:
    return LedgerError(
        f"The ledger was put aside while this waited, and {names[0]} with it: a new account does nothing for it. What became "
        "of it is in the old ledger; `btclab paper reset` said where that lies."
    )
