"""A broker under risk rules: what a strategy wants is allowed, cut or refused, and what it buys is protected.

Backtest and paper trading walk through it bar by bar, in two halves: `allow` at the close of a bar, once its fills are known,
and `protect` once the broker has decided on what was allowed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from btclab.features.indicators import indicator
from btclab.records import Bar, Fill, Market, OrderEvent
from btclab.settings import settings
from btclab.trading import engine
from btclab.trading.broker import PaperBroker
from btclab.trading.protection import bracket
from btclab.trading.risk import Holding, RiskRules, RiskState, decide


@dataclass(frozen=True)
class Allowed:
    """What may be held from the next open on: `target`, -1…1; `holding` and `fills` of the bar; what was `refused`, as events."""

    target: float
    holding: Holding
    fills: list[Fill]
    refused: list[OrderEvent]


class Guard:
    """The rules, and the state that they have come to; `state` goes to JSON and back (`RiskState.to_dict`)."""

    def __init__(self, rules: RiskRules, state: RiskState) -> None:
        self.rules, self.state = rules, state

    def allow(self, broker: PaperBroker, bar: Bar, wish: float | None, atr: float) -> Allowed:
        """What is allowed of `wish` (None: no opinion) at the close of `bar`, which `broker` has not processed yet."""
        after, fills, _ = engine.step(broker.state, bar, (), broker.conditions)
        holding = Holding(after.cash, after.position, bar.close, after.target)
        short = broker.conditions.margin is not None
        self.state, target, refused = decide(self.state, self.rules, bar, holding, fills, wish, short)
        if self.rules.protects and math.isnan(atr) and _adds(target, holding.target):
            target = holding.target if target * holding.target > 0 else 0.0
            refused = [*refused, ("atr", "The average true range, by which an entry is protected, is not known yet.")]
        return Allowed(target, holding, fills, [OrderEvent(bar.timestamp, "", "refused", *one) for one in refused])

    def protect(self, broker: PaperBroker, bar: Bar, allowed: Allowed, atr: float) -> None:
        """Submit the orders that protect what the broker is about to open on its decision at the close of `bar`.

        Once a halt or the day's loss has ended trading, open orders that do not close are cancelled, and what an order by hand
        has opened is closed, too: the target alone, which is 0 already, would trade nothing.
        """
        entry, holding = broker.pending, allowed.holding
        if self.state.halted >= 0 or self.state.day_over:
            opening = {"buy"} if holding.position > 0 else {"buy", "sell"} if holding.position == 0 else {"sell"}
            for order in broker.open_orders:
                if order.side in opening and any(one.id == order.id for one in broker.open_orders):
                    broker.cancel(order.id)
            if broker.pending is None and _closable(holding, broker.conditions.market):
                broker.close("max_drawdown" if self.state.halted >= 0 else "daily_loss")
            return
        held = holding.position * bar.close / holding.equity
        if entry is not None and entry.decided == bar.timestamp and _adds(entry.exposure, held):
            for order in bracket(entry, bar, atr, self.rules, broker.conditions.market):
                broker.submit(order)


def _closable(holding: Holding, market: Market) -> bool:
    """Whether there is a position, and one that the market would trade: less than its step or minimum stays."""
    quantity = abs(holding.position)
    return quantity > max(0.0, market.quantity_step, market.min_quantity) * (1 - 1e-9) and (
        quantity * holding.price >= market.min_value
    )


def _adds(exposure: float, held: float) -> bool:
    """Whether `exposure` is more at risk than `held`, or on the other side."""
    return exposure != 0 and (exposure * held <= 0 or abs(exposure) > abs(held))


def average_true_range(candles: pd.DataFrame, rules: RiskRules) -> np.ndarray:
    """The average true range [bar] at each close, missing while it warms up; where `rules` do not measure by it, 1."""
    if not (rules.protects and rules.distance == "atr"):
        return np.ones(len(candles))
    values = np.asarray(indicator("atr", candles, length=settings().risk.atr_length), dtype=float)
    return np.where((values > 0) & np.isfinite(values), values, np.nan)
