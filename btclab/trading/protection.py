"""The orders that protect a position: stop-loss, trailing stop and take-profit, of which the first to fill cancels the others."""

from __future__ import annotations

import math

from btclab.errors import InputError
from btclab.records import Bar, Market, Order
from btclab.trading.risk import RiskRules

MOST_DISTANCE = 0.9  # of the price: so that a stop after an ATR without measure is still a price


def bracket(entry: Order, bar: Bar, atr: float, rules: RiskRules, market: Market | None = None) -> list[Order]:
    """The orders that protect what `entry` will open, decided with it at the close of `bar`: its children, one cancels the rest.

    They become active with its fill, for the quantity that it fills, and go with the position. Distances are from the close,
    the last price known. `atr` is the average true range (quote currency) at that close; it is read for `distance` "atr" only.
    """
    name, price, market = entry.id, bar.close, market or Market()
    up = -1 if entry.side == "sell" or entry.exposure < 0 else 1  # where the profit of the position lies
    loss, profit = ("below", "above") if up > 0 else ("above", "below")
    if rules.protects and rules.distance == "atr" and not 0 < atr < math.inf:
        raise InputError(f"The average true range is {atr!r}; distances in multiples of it need one above 0.")
    unit = atr / price if rules.distance == "atr" else 1.0
    what = "ATR" if rules.distance == "atr" else "%"

    def order(kind: str, said: float, word: str, stop: float = math.nan, trail: float = math.nan) -> Order:
        size = said if rules.distance == "atr" else 100 * said
        return Order(
            bar.timestamp,
            id=f"{name}-{kind}",
            kind=kind,
            side="sell" if up > 0 else "buy",
            group=f"{name}-exit",
            parent=name,
            reason=f"{size:g} {what} {word} {price:,.2f}",
            stop=stop,
            trail=trail,
        )

    orders = []
    if rules.stop_loss:
        away = min(rules.stop_loss * unit, MOST_DISTANCE)
        orders.append(order("stop", rules.stop_loss, loss, stop=_on_tick(price * (1 - up * away), market)))
    if rules.trailing_stop:
        away = min(rules.trailing_stop * unit, MOST_DISTANCE)
        orders.append(order("trailing_stop", rules.trailing_stop, f"{loss} the best price from", trail=away))
    if rules.take_profit:
        away = rules.take_profit * unit if up > 0 else min(rules.take_profit * unit, MOST_DISTANCE)
        orders.append(order("take_profit", rules.take_profit, profit, stop=_on_tick(price * (1 + up * away), market)))
    return orders


def _on_tick(price: float, market: Market) -> float:
    """The nearest price at which the market quotes."""
    return max(round(price / market.price_tick), 1) * market.price_tick if market.price_tick else price
