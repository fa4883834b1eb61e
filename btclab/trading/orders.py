"""What an order must say, whatever the account holds, and what became of it in words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from btclab.errors import InputError, unknown
from btclab.records import KINDS, LIFETIMES, Market, Order, OrderEvent
from btclab.trading.fills import EVENTS, RULES

# Which of its prices an order of each kind must give; a price that its kind does not read is a mistake.
PRICES = {
    "target": (),
    "market": (),
    "limit": ("limit",),
    "stop": ("stop",),
    "stop_limit": ("limit", "stop"),
    "take_profit": ("stop",),
    "trailing_stop": ("trail",),
}


_KINDS: dict[str, tuple[Any, str]] = {
    "int": ((int,), "a whole number"),
    "float": ((int, float), "a number"),
    "str": ((str,), "a text"),
}


def order_of(values: Mapping[str, Any]) -> Order:
    """The order whose fields are `values`, of JSON that may come from anywhere.

    Raises `InputError` for a field that an order has not, or a value that is none of its kind.
    """
    fields: dict[str, Any] = {}
    for name, value in values.items():
        if name not in Order.__annotations__:
            raise unknown("field of an order", name, Order.__annotations__)
        kinds, said = _KINDS[Order.__annotations__[name]]
        if isinstance(value, bool) or not isinstance(value, kinds):
            raise InputError(f"{name} is {value!r}; it must be {said}.")
        fields[name] = float(value) if float in kinds else value
    return Order(**fields)


def wrong(order: Order, market: Market, short: bool = False) -> tuple[str, str] | None:
    """The rule that `order` breaks by itself, whatever the account holds, and the rule in words; None if there is none.

    `short` is whether the account may sell what it does not hold.
    """
    return _wrong_words(order) or _wrong_numbers(order, short) or _wrong_prices(order, market)


def _wrong_words(order: Order) -> tuple[str, str] | None:
    if order.kind not in KINDS:
        return "kind", f"An order of kind {order.kind!r} is not known; there are {', '.join(KINDS)}."
    if order.lifetime not in LIFETIMES:
        return "lifetime", f"The lifetime {order.lifetime!r} is not known; there are {', '.join(LIFETIMES)}."
    if order.kind != "target" and order.side not in ("buy", "sell"):
        return "side", f"The side of a {order.kind} order is {order.side!r}; it must be 'buy' or 'sell'."
    if order.lifetime == "gtd" and order.expires <= order.decided:
        return "expires", f"The order expires at {order.expires}, before it was decided at {order.decided} (ns)."
    return None


def _wrong_numbers(order: Order, short: bool) -> tuple[str, str] | None:
    if order.kind == "target":
        if not (-1 if short else 0) <= order.exposure <= 1:
            return "exposure", f"Exposure is {order.exposure!r}; {exposure_range(short)}."
        if order.parent:
            return "parent", "A target order cannot wait for a parent: it trades at the next open."
        return None
    of_parent = bool(order.parent) and math.isnan(order.quantity)  # what the parent fills
    if not of_parent and not 0 < order.quantity < math.inf:
        return "quantity", f"The quantity is {order.quantity!r} BTC; it must be above 0."
    return None


def _wrong_prices(order: Order, market: Market) -> tuple[str, str] | None:
    tick = market.price_tick
    for name in ("limit", "stop", "trail"):
        value = getattr(order, name)
        if name not in PRICES[order.kind]:
            if not math.isnan(value):
                return name, f"A {order.kind} order has no {name}, but it says {value!r}; leave it out."
        elif name == "trail":
            if not 0 < value < 1:
                return name, f"trail is {value!r}; it must lie between 0 and 1, a fraction of the best price."
        elif not 0 < value < math.inf:
            return "price", f"{name} is {value!r}; a price must be above 0."
        elif tick and min(rest := value / tick % 1, 1 - rest) > 1e-6:
            near = round(value / tick) * tick
            return "price_tick", f"{name} {value!r} is no multiple of the tick {tick:g}; the nearest is {near:.12g}."
    return None


def exposure_range(short: bool) -> str:
    """What an exposure must be, in words that follow a semicolon."""
    if short:
        return "it must lie in -1…1 (below 0 is sold short)"
    return (
        "it must lie in 0…1 (spot, long only); to sell short, set allow_short in [trading], or give margin=bl.Margin()"
    )


_TEXTS = {
    "insufficient_funds": "It takes {need:,.2f} with its fee; there are {have:,.2f}.",
    "insufficient_position": "It sells {need:.8f} BTC; {have:.8f} are held, and nothing is sold short.",
    "min_quantity": "{have:.8g} BTC are less than the least that the market trades, {need:.8g} BTC.",
    "min_value": "A value of {have:,.2f} is less than the least that the market trades, {need:,.2f}.",
    "wrong_side": "Its price {need:,.2f} is reached already at the last close, {have:,.2f}: it would trade at once.",
    "unknown_order": "Its parent is not open.",
    "oco": "Another order of its group filled.",
    "parent": "Its parent ended without a fill, or opened nothing.",
    "child": "A child of it filled: the rest would be unprotected.",
    "flat": "The position it protected is gone.",
    "ioc": "One bar was all it had; {need:.8g} BTC were left.",
    "user": "As asked.",
    "replaced_order": "The order it was to replace had ended.",
    "insufficient_margin": "It sells {need:.8f} BTC; {have:.8f} may be sold before more is short than the account is worth.",
    "margin_call": "A margin call ended it.",
}


def event_of(row: Any, order: Order) -> OrderEvent:
    """The record of an event of `order`, with its rule and numbers in words."""
    event, rule = EVENTS[int(row["event"])], RULES[int(row["rule"])]
    text = _TEXTS.get(rule, "").format(need=row["need"], have=row["have"])
    if rule == "insufficient_position" and order.side == "buy":
        text = f"It buys {row['need']:.8f} BTC back; {row['have']:.8f} were sold short."
    elif rule == "margin_call" and event == "triggered":
        text = f"Margin call: from {row['need']:,.2f} on equity is too little for what was sold short; all is bought back with "
        text += f"the market at {row['have']:,.2f}."
    elif event == "triggered":
        text = f"Its price {row['need']:,.2f} was touched with the market at {row['have']:,.2f}."
    return OrderEvent(int(row["time"]), order.id, event, rule, text)
