"""A broker under risk rules: what a strategy wants is allowed, cut or refused, and what it opens is protected.

Backtest and paper trading walk through it bar by bar, in two halves: `allow` at the close of a bar, once its fills are known,
and `protect` once the broker has decided on what was allowed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from btclab.errors import InputError
from btclab.features.indicators import indicator
from btclab.records import Bar, Fill, Market, Order, OrderEvent
from btclab.settings import settings
from btclab.trading import engine
from btclab.trading.broker import PaperBroker, bars_of
from btclab.trading.engine import Walk
from btclab.trading.lots import fill_arrays
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

        Once a halt or the day's loss has ended trading, open orders that could open something are cancelled, and what an order
        by hand has opened is closed, too: the target alone, which is 0 already, would trade nothing.
        """
        entry, holding, short = broker.pending, allowed.holding, broker.conditions.margin is not None
        if self.state.halted >= 0 or self.state.day_over:
            for order in broker.open_orders:
                book = {one.id for one in broker.open_orders}  # a cancellation takes the children with it
                protects = order.parent and order.parent not in book
                if order.id in book and (order.side == "buy" or (short and order.side == "sell")) and not protects:
                    broker.cancel(order.id)
            if broker.pending is None and _closable(holding, broker.conditions.market):
                broker.close("max_drawdown" if self.state.halted >= 0 else "daily_loss")
            return
        held = holding.position * bar.close / holding.equity if holding.equity > 0 else 0.0
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


def guarded(
    broker: PaperBroker,
    candles: pd.DataFrame,
    targets: pd.Series,
    orders: Sequence[Order],
    rules: RiskRules,
    progress: bool,
) -> Walk:
    """The account of `broker` over many bars under `rules`, walked as the paper trader walks.

    `targets` [bar] is the exposure wanted at each close (NaN: no opinion); each of `orders` is placed at the close of the bar in
    which it was decided. Raises `InputError` if that is no bar of `candles`.
    """
    guard, ranges = Guard(rules, RiskState.start(broker.equity)), average_true_range(candles, rules)
    decided: dict[int, list[Order]] = {}
    for order in orders:
        decided.setdefault(order.decided, []).append(order)
    equity, position = np.empty(len(candles)), np.empty(len(candles))
    refused: list[OrderEvent] = []
    steps = zip(bars_of(candles), targets.tolist(), ranges.tolist(), strict=True)
    for i, (bar, wish, atr) in enumerate(
        tqdm(steps, desc="backtest under risk rules", unit="bar", total=len(candles), delay=2, disable=not progress)
    ):
        allowed = guard.allow(broker, bar, None if math.isnan(wish) else wish, atr)

        def then(it: PaperBroker, bar: Bar = bar, allowed: Allowed = allowed, atr: float = atr) -> None:
            guard.protect(it, bar, allowed, atr)
            for order in decided.pop(bar.timestamp, ()):
                it.submit(order)

        broker.process(bar, allowed.target, then)
        refused += allowed.refused
        equity[i], position[i] = broker.equity, broker.account.position
    if decided:
        raise InputError(f"An order was decided at {next(iter(decided))}, which is no bar of these candles (ns).")
    events, interest = [*broker.ledger.events, *refused], broker.state.interest
    return Walk(equity, position, fill_arrays(broker.ledger.fills), events, interest)
