"""`btclab paper order`: an order by hand, and what protects it, from the words of the command line."""

from __future__ import annotations

import math
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from btclab.commands.paper_ledger import Url, opened, url_of
from btclab.commands.paper_requests import Wait, leave, leave_refused
from btclab.errors import InputError, unknown

if TYPE_CHECKING:
    from btclab.records import Market, Order
    from btclab.trading.ledger import Ledger

app = typer.Typer()
FARTHEST = 10.0  # times its price: what is to protect an order lies nearer
MOST_ID = 60  # characters, also of the ids of what protects an order, which begin with its own


class Numbers(TyperCommand):
    """A command to which -1 is a number, and not an option that it does not have."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Take what is no option as a word, if one of them is a number below 0."""
        ctx.ignore_unknown_options = any(one.startswith("-") and _is_number(one) for one in args)
        return super().parse_args(ctx, args)


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


class Wrong(InputError):
    """An order that no account could place, with the rule that it breaks."""

    def __init__(self, rule: str, text: str) -> None:
        super().__init__(text)
        self.rule = rule


@dataclass(frozen=True)
class Words:
    """What was typed: `prices` by the option that gave them, and `exits`, of what is to protect what fills."""

    side: str
    quantity: float
    prices: dict[str, float]
    exits: dict[str, float]
    tif: str
    group: str
    parent: str
    id: str


@dataclass(frozen=True)
class Known:
    """What an order is judged by: the last bar (its open in ns, its close and when that was), the position (BTC), whether it
    may be below 0.
    """

    market: Market
    bar: int = 0  # none yet
    close: float = math.nan
    closed: str = ""
    position: float = 0.0
    short: bool = False

    @classmethod
    def of(cls, ledger: Ledger) -> Known:
        """What the ledger says of it."""
        import pandas as pd

        from btclab.market.candles import timeframe_delta
        from btclab.records import Margin, Market

        bar, state = ledger.state()
        if bar is None:
            return cls(Market(), short=Margin.from_settings() is not None)
        position = float(ledger.portfolio()["position"] or 0.0)
        closed = pd.Timestamp(bar.timestamp, tz="UTC") + timeframe_delta(ledger.timeframe)
        market, short = Market(**state.get("market", {})), state.get("margin") is not None
        return cls(market, bar.timestamp, bar.close, f"{closed:%Y-%m-%d %H:%M} UTC", position, short)


@app.command(
    cls=Numbers,
    epilog="Example: [bold]btclab paper order buy 0.01 --limit 60000 --stop-loss 0.05[/bold]. --stop alone is a stop order, with "
    "--limit a stop-limit order; without a price it fills at the next open.",
)
def order(
    side: Annotated[str, typer.Argument(help=r"buy or sell; with allow_short in \[trading] also what is not held.")],
    quantity: Annotated[float, typer.Argument(help="In BTC; of an order with --parent, 0: what the parent fills.")],
    limit: Annotated[float | None, typer.Option(help="At this price or better.")] = None,
    stop: Annotated[float | None, typer.Option(help="Once the price touches this.")] = None,
    take_profit: Annotated[float | None, typer.Option(help="Once the price touches this, on the good side.")] = None,
    trail: Annotated[
        float | None, typer.Option(help="Trailing stop: a fraction from the best price, e.g. 0.03.")
    ] = None,
    stop_loss: Annotated[
        float | None,
        typer.Option(
            help="Protect what it fills by a stop: a price, or below 1 a fraction away from where it fills (a market quoted "
            "below 1 takes fractions only)."
        ),
    ] = None,
    profit_target: Annotated[
        float | None, typer.Option(help="… and by a take-profit, said likewise; the first to fill cancels the other.")
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
    """Ask the trader to place an order at its next close; it fills after that as docs/orders.md says.

    What no account could place is refused at once with exit code 2, and recorded in the ledger as refused.
    """
    from btclab.records import Market
    from btclab.trading.engine import plain_values
    from btclab.trading.ledger import WrongLedger

    prices = {"limit": limit, "stop": stop, "take_profit": take_profit, "trail": trail}
    exits = {"stop_loss": stop_loss, "profit_target": profit_target}
    given, ways = ({key: one for key, one in options.items() if one is not None} for options in (prices, exits))
    words = Words(side, quantity, given, ways, tif, group, parent, id or secrets.token_hex(4))
    try:
        held = opened(url_of(ledger))
    except WrongLedger:
        _orders(words, Known(Market()))  # there is nothing to record in; what is wrong with the order comes first
        raise
    with held:
        known = Known.of(held)
        try:
            orders = _orders(words, known)
        except Wrong as error:
            typed = {"side": side, "quantity": quantity, **given, **ways}
            said = leave_refused(held, words.id, typed, error.rule, str(error))
            raise InputError(f"{error}\n{said}") from error
        leave(held, url_of(ledger), [("order", plain_values(one), one.id) for one in orders], wait)
        for one in orders[1:]:
            typer.echo(f"With its fill begins {one.id}: {one.side} at {_said(one.stop)}, {one.reason}.")
        if orders[1:] and _fills_at(orders[0], known.close) == known.close:
            typer.echo(f"{_said(known.close)} is the close of {known.closed}, the last that the ledger knows.")


def _orders(words: Words, known: Known) -> list[Order]:
    """The order that the words describe, and its children; raises `Wrong` for what no account could place."""
    import pandas as pd

    from btclab.market.candles import utc
    from btclab.records import Order
    from btclab.trading.orders import wrong

    given, lifetime, expires = words.prices, words.tif, 0
    if words.side not in ("buy", "sell"):
        raise Wrong("side", str(unknown("side", words.side, ("buy", "sell"))))
    if len(given) > 1 and set(given) != {"limit", "stop"}:
        hint = " What is to protect the order: --stop-loss, --profit-target." if "take_profit" in given else ""
        raise Wrong("kind", f"Of --stop, --take-profit and --trail give one; --limit goes alone or with --stop.{hint}")
    if math.isnan(words.quantity):  # which in an order with a parent means: what that fills
        raise Wrong("quantity", "The quantity is nan BTC; it must be above 0.")
    if words.tif not in ("gtc", "ioc"):
        try:
            lifetime, expires = "gtd", utc(words.tif).as_unit("ns").value
        except ValueError as error:  # also a time that is no time at all, or too far away for one
            latest = f"{pd.Timestamp.max:%Y-%m-%d}"
            text = (
                f"--tif is {words.tif!r}; write gtc, ioc, or the time until which it is good, {latest} at the latest."
            )
            raise Wrong("lifetime", text) from error
    kinds = {"": "market", "limit stop": "stop_limit", "trail": "trailing_stop"}
    asked = Order(
        known.bar,
        id=words.id,
        kind=kinds.get(" ".join(given), " ".join(given)),
        side=words.side,
        quantity=math.nan if words.parent and words.quantity == 0 else words.quantity,
        limit=given.get("limit", math.nan),
        stop=given.get("stop", given.get("take_profit", math.nan)),
        trail=given.get("trail", math.nan),
        lifetime=lifetime,
        expires=expires,
        group=words.group,
        parent=words.parent,
        reason="by hand",
    )
    if broken := wrong(asked, known.market):
        raise Wrong(broken[0], _advised(*broken, words))
    return [asked, *(_exit(asked, name, value, known) for name, value in words.exits.items())]


def _advised(rule: str, text: str, words: Words) -> str:
    """A rule's text in the words of the command line, and what to type."""
    if rule == "quantity":
        size = f"{abs(words.quantity):g}" if words.quantity and math.isfinite(words.quantity) else "0.01"
        return f"{text} Type: btclab paper order {words.side} {size}"
    if rule == "expires":
        return f"--tif is {words.tif!r}, which is over: it must lie after the bar that closed last."
    field, _, rest = text.partition(" ")
    name = "take_profit" if field == "stop" and "take_profit" in words.prices else field
    if name not in words.prices:
        return text
    option, value = f"--{name.replace('_', '-')}", words.prices[name]
    return f"{option} {rest}" + (f" Type: {option} {-value:g}" if -math.inf < value < 0 else "")


def _said(price: float) -> str:
    return f"{price:,.2f}" if 0.01 <= price < 1e12 else f"{price:g}"


def _fills_at(entry: Order, close: float) -> float:
    """The price at which `entry` fills if the market goes on from `close`; NaN if that is not known.

    A limit that the market has passed already is no price of its own: it takes the market's.
    """
    market = close if math.isnan(entry.stop) else entry.stop
    prices = [one for one in (market, entry.limit) if not math.isnan(one)]
    return (min if entry.side == "buy" else max)(prices, default=math.nan)


def _exit(entry: Order, name: str, value: float, known: Known) -> Order:
    """The child of `entry` that ends what it fills, at a loss or a profit, at the price `value` or the fraction away from it."""
    from btclab.records import Order
    from btclab.trading.orders import wrong
    from btclab.trading.protection import _on_tick

    price = _fills_at(entry, known.close)
    option, kind = f"--{name.replace('_', '-')}", "stop" if name == "stop_loss" else "take_profit"
    buys, market = entry.side == "buy", known.market
    above = buys == (kind == "take_profit")
    side, word = "above" if above else "below", "buys" if buys else "sells"
    closes = (1 if buys else -1) * known.position < 0 and not abs(known.position) < entry.quantity
    if closes:
        what = "buys back what was sold short" if buys else "sells what is held"
        raise Wrong("side", f"{option} protects what an order opens; this one {what}. Leave it out.")
    if not (buys or known.short):
        text = f"{option} protects what an order opens; this one sells {entry.quantity:g} BTC, of which {known.position:.8g} are"
        raise Wrong(
            "side", f"{text} held, and nothing is sold short. Leave it out; for short sales: allow_short in [trading]."
        )
    if entry.parent:
        raise Wrong("parent", f"{option} is of an order that can fill now; this one waits for {entry.parent!r}.")
    if entry.kind == "trailing_stop":
        text = f"{option} lies away from where an order fills, and where --trail does is not known before. Leave it out, and"
        own = "--stop" if kind == "stop" else "--take-profit"
        type_ = f"btclab paper order {'sell' if buys else 'buy'} 0 --parent ID {own} PRICE"
        raise Wrong("trail", f"{text} protect it by an order of its own: {type_}")
    if len(entry.id) > (most := MOST_ID - len(f"-{kind}")):
        text = (
            f"With {option}, whose own id adds '-{kind}' to that of the order, --id may have at most {most} characters"
        )
        raise Wrong("id", f"{text}; {entry.id!r} has {len(entry.id)}.")
    if not 0 < value < math.inf:
        raise Wrong(
            "price", f"{option} is {value!r}; type a price {side} that of the order, or a fraction: {option} 0.05"
        )
    if math.isnan(price) and value < 1:
        raise Wrong("price", f"{option} is a fraction of a price that is not known before the first bar; type a price.")
    level = _on_tick(price * (1 + value if above else 1 - value), market) if value < 1 else value
    if level <= price if above else level >= price:
        text = (
            f"{option} is {_said(level)}; it must lie {side} {_said(price)}, where the order {word}, or it would trade"
        )
        raise Wrong("wrong_side", f"{text} at once.")
    if not 1 / FARTHEST <= level / price <= FARTHEST and not math.isnan(price):  # 5, and 5 % was meant
        text = f"{option} is {_said(level)}, and the order {word} at {_said(price)}: too far away to protect anything. Type a"
        raise Wrong("price", f"{text} fraction, 0.05 for 5 %, or a price that is nearer.")
    child = Order(
        known.bar,
        id=f"{entry.id}-{kind}",
        kind=kind,
        side="sell" if buys else "buy",
        stop=level,
        group=f"{entry.id}-exit",
        parent=entry.id,
        reason="by hand" if math.isnan(price) else f"{100 * abs(level / price - 1):.3g} % {side} {_said(price)}",
    )
    if broken := wrong(child, market):
        raise Wrong(broken[0], f"{option}: {broken[1]}")
    return child
