"""The paper broker: the engine fed bar by bar, with a ledger."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from btclab.errors import InputError
from btclab.records import Bar, Costs, Fill, Margin, Market, Movement, Order, OrderEvent
from btclab.settings import settings
from btclab.trading import engine, lots
from btclab.trading.engine import Account, Conditions, State
from btclab.trading.orders import exposure_range

MEMORY = "memory://"
OWN_IDS = re.compile(r"(target|close|margin-call)-\d+")  # of target orders, and of those that close all


class LedgerLike(Protocol):
    """Where a broker writes each bar, as one unit, before it goes on."""

    def append(
        self,
        bar: Bar,
        fills: list[Fill],
        events: list[OrderEvent],
        state: dict[str, Any],
        orders: Sequence[Order] = (),
        movements: Sequence[Movement] = (),
    ) -> None:
        """What happened in `bar` and since the one before: `orders` entered the book; `state` as of `PaperBroker.to_dict`."""

    def knows(self, order_id: str) -> bool:
        """Whether an order of this id was ever written: an id is used once."""


class MemoryLedger:
    """Fills, orders and events in the order in which they happened, in memory; gone when the process ends."""

    def __init__(self, initial_cash: float) -> None:
        self.initial_cash = initial_cash
        self.fills: list[Fill] = []
        self.events: list[OrderEvent] = []
        self.orders: dict[str, Order] = {}
        self.movements: list[Movement] = []
        self.moved: list[int] = []  # the bar of each movement, ns

    def append(
        self,
        bar: Bar,
        fills: list[Fill],
        events: list[OrderEvent],
        state: dict[str, Any],
        orders: Sequence[Order] = (),
        movements: Sequence[Movement] = (),
    ) -> None:
        """Add what happened; nothing is ever changed or removed."""
        self.movements.extend(movements)
        self.moved.extend([bar.timestamp] * len(movements))
        self.fills.extend(fills)
        self.events.extend(events)
        self.orders.update((order.id, order) for order in orders)

    def knows(self, order_id: str) -> bool:
        """Whether an order of this id was ever written."""
        return order_id in self.orders

    @property
    def fees(self) -> float:
        """All fees paid so far, in quote currency."""
        return sum(fill.fee for fill in self.fills)

    def check(self, account: Account, price: float) -> None:
        """Raise `LedgerError` unless cash + position × price = start + gross P&L − fees − interest."""
        arrays, interest = lots.fill_arrays(self.fills), -sum(one.amount for one in self.movements)
        lots.check_identity(account.equity(price), price, self.initial_cash, arrays, self._lots(arrays), interest)

    def fill_table(self) -> pd.DataFrame:
        """One row per fill, as of `lots.fill_table`."""
        return lots.fill_table(lots.fill_arrays(self.fills))

    def trade_table(self, bar_ns: int) -> pd.DataFrame:
        """One row per closed lot, as of `lots.trade_table`."""
        arrays = lots.fill_arrays(self.fills)
        return lots.trade_table(arrays, self._lots(arrays), bar_ns)

    @staticmethod
    def _lots(arrays: dict[str, Any]) -> lots.Lots:
        return lots.match_lots(arrays["side"], arrays["quantity"], arrays["fee"])


class PaperBroker:
    """One paper account in one market, spot and long only; with `margin` it may also sell short.

    `process` takes each closed bar once, in order, with the exposure wanted at its close; `submit`, `cancel`, `replace` and
    `close` take orders as decided at the last close. What is refused is recorded with its rule and changes nothing else.
    What is asked between two bars is written with the next one; what `process` calls `then` for, with its own. A backtest
    is this broker on recorded bars.
    """

    def __init__(
        self,
        initial_cash: float,
        costs: Costs,
        rebalance_band: float | None = None,
        market: Market | None = None,
        latency: int = 0,
        ledger: Any = None,
        margin: Margin | None = None,
    ) -> None:
        check_account(initial_cash, rebalance_band)
        self.initial_cash = float(initial_cash)
        self.conditions = Conditions(costs, market or Market(), latency, margin)
        self.band = rebalance_band
        self.state = State(self.initial_cash)
        self.ledger = MemoryLedger(self.initial_cash) if ledger is None else ledger
        self._events: list[OrderEvent] = []  # since the last bar was written
        self._orders: list[Order] = []

    @classmethod
    def open(
        cls,
        url: str = MEMORY,
        initial_cash: float | None = None,
        costs: Costs | None = None,
        market: Market | None = None,
        timeframe: str | None = None,
        rebalance_band: float | None = None,
        latency: int | None = None,
        margin: Margin | None = None,
    ) -> PaperBroker:
        """A broker whose ledger lies at `url`: "memory://", gone with the process, or e.g. "sqlite:///data/ledger.db".

        What is not given is as in the section `[trading]` of the settings. A ledger that exists is gone on with, at the bar and
        with the open orders where it stands. Its account keeps its start; `costs`, `market`, `latency` and `rebalance_band`, if
        given, are those from now on, and whether it may sell short is as `margin` or the settings say each time: if not, a
        target below 0 is given up. Raises as `Ledger.open` does, e.g. `LedgerBusy` where another process trades on it, and
        `InputError` if it has sold short and no longer may. Close it (`broker.ledger.close()`) to let another one write.
        """
        own = settings().trading
        wanted, margin = costs or Costs.from_settings(), margin or Margin.from_settings()
        cash = own.initial_cash if initial_cash is None else initial_cash
        bars = own.latency_bars if latency is None else latency
        if url == MEMORY:
            return cls(cash, wanted, rebalance_band, market, bars, margin=margin)
        from btclab.trading.ledger import Ledger  # SQLAlchemy, which memory does without

        check_account(cash, rebalance_band)
        ledger = Ledger.open(url, market, timeframe, cash)
        try:
            _, held = ledger.state()
            if not held:
                return cls(float(ledger.initial_cash), wanted, rebalance_band, market, bars, ledger, margin)
            broker = cls.from_dict(held, ledger)
            if broker.account.position < 0 and margin is None:
                raise InputError(
                    f"The account has sold {-broker.account.position:.8f} BTC short. Set allow_short = true in [trading] until "
                    "that is bought back: btclab paper close."
                )
        except BaseException:
            ledger.close()
            raise
        before = broker.conditions
        broker.conditions = Conditions(
            costs or before.costs, market or before.market, before.latency if latency is None else latency, margin
        )
        broker.band = broker.band if rebalance_band is None else rebalance_band
        if margin is None:
            broker._give_up_short()
        return broker

    def _give_up_short(self) -> None:
        """Cancel what would sell short; what a target below 0 was about to close on its way is closed."""
        for order in self.open_orders:
            if order.exposure < 0:
                self._enter(self.state, *engine.cancel(self.state, order.id))
        if self.target < 0:
            self.state = dataclasses.replace(self.state, target=0.0)
            if self.account.position != 0:
                self.close("nothing may be sold short any more")

    def to_dict(self) -> dict[str, Any]:
        """All that the broker needs to go on, as JSON values: floats survive exactly."""
        costs, market = self.conditions.costs, self.conditions.market
        return {
            "initial_cash": self.initial_cash,
            "costs": dataclasses.asdict(costs),
            "market": dataclasses.asdict(market),
            "latency": self.conditions.latency,
            "margin": None if (margin := self.conditions.margin) is None else dataclasses.asdict(margin),
            "rebalance_band": self.band,
            "state": self.state.to_dict(),
            "events": [engine.plain_values(event) for event in self._events],  # these two: not written yet
            "orders": [engine.plain_values(order) for order in self._orders],
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any], ledger: Any = None) -> PaperBroker:
        """The broker that `to_dict` gave, which goes on bit for bit; `ledger` is where it wrote until then."""
        costs, market = Costs(**values["costs"]), Market(**values["market"])
        margin = Margin(**terms) if (terms := values.get("margin")) else None
        broker = cls(values["initial_cash"], costs, values["rebalance_band"], market, values["latency"], ledger, margin)
        broker.state = State.from_dict(values["state"])
        broker._events = [OrderEvent(**event) for event in values["events"]]
        broker._orders = [Order(**order) for order in values["orders"]]
        return broker

    # Bars

    def process(
        self, bar: Bar, target: float | None = None, then: Callable[[PaperBroker], object] | None = None
    ) -> list[Fill]:
        """Fill what is open in `bar`, then decide at its close; returns the fills. `target` None: no opinion, keep the last one.

        `then` is called with this broker after the decision: what it submits, cancels or replaces is decided at this close
        and written with this bar. A bar that was processed before is ignored, so that a repeated bar never trades twice. If
        the ledger fails, the broker is as it was before the bar. Raises `InputError` if `target` is outside 0…1, or on
        margin outside -1…1.
        """
        short = self.conditions.margin is not None
        if target is not None and not (-1 if short else 0) <= target <= 1:
            raise InputError(f"Exposure is {target!r}; {exposure_range(short)}. None is no opinion.")
        if self.last_bar is not None and bar.timestamp <= self.last_bar.timestamp:
            return []
        before = (self.state, list(self._events), list(self._orders))
        try:
            state, fills, events = engine.step(self.state, bar, (), self.conditions)
            self._events += events
            self._orders += [
                engine.call_order(one.timestamp, one.quantity) for one in fills if one.reason == "margin_call"
            ]
            paid = state.interest - before[0].interest
            movements = [Movement("interest", -paid, "for BTC sold short")] if paid else []
            self._enter(state, engine.decide(state, target, self.band, self.conditions))
            if then is not None:
                then(self)
            written, self._events, self._orders = (self._events, self._orders), [], []
            self.ledger.append(bar, fills, written[0], self.to_dict(), orders=written[1], movements=movements)
        except BaseException:
            self.state, self._events, self._orders = before
            raise
        return fills

    def replay(self, candles: pd.DataFrame, exposure: pd.Series) -> Iterator[Bar]:
        """Process every bar of `candles` with the exposure wanted at its close (missing: no opinion); yields each bar done.

        Raises `InputError` if the two have different timestamps.
        """
        for bar, target in self._decisions(candles, exposure):
            self.process(bar, target)
            yield bar

    @staticmethod
    def _decisions(candles: pd.DataFrame, exposure: pd.Series) -> Iterator[tuple[Bar, float | None]]:
        if not candles.index.equals(exposure.index):
            raise InputError("candles and exposure have different timestamps; use exposure.reindex(candles.index).")
        for bar, target in zip(bars_of(candles), exposure.tolist(), strict=True):
            yield bar, None if math.isnan(target) else target

    def run(self, candles: pd.DataFrame, exposure: pd.Series, progress: bool = True) -> list[Fill]:
        """Process every bar of `candles` as `replay` does; returns the fills of these bars."""
        before, fills = self.last_bar, []
        steps = self._decisions(candles, exposure)
        for bar, target in tqdm(steps, "trading", len(candles), unit="bar", delay=2, disable=not progress):
            if before is None or bar.timestamp > before.timestamp:
                fills += self.process(bar, target)
        return fills

    # Orders

    def submit(self, order: Order) -> OrderEvent:
        """Place `order` for the next bar; returns whether it was accepted or refused, by which rule and with what numbers."""
        if OWN_IDS.fullmatch(order.id):
            text = f"The id {order.id!r} is one of the broker's own; give the order another."
            return self._refuse(order, "reserved_id", text)
        return self._submit(order)

    def _submit(self, order: Order) -> OrderEvent:
        if (refused := self._used(order)) is not None:
            return refused
        state, event = engine.submit(self.state, order, self.conditions)
        self._enter(self.state, state, [event])
        return event

    def cancel(self, order_id: str) -> list[OrderEvent]:
        """Take an open order, and the children that wait for it, out of the book; an unknown id is refused."""
        state, events = engine.cancel(self.state, order_id, self.conditions)
        self._enter(self.state, state, events)
        return events

    def replace(self, order_id: str, order: Order) -> list[OrderEvent]:
        """Put `order` in the place of an open order, whose children follow it; if it is refused, the old one stays."""
        if (refused := self._used(order)) is not None:
            return [refused]
        state, events = engine.replace(self.state, order_id, order, self.conditions)
        self._enter(self.state, state, events)
        return events

    def close(self, reason: str = "close", order_id: str = "") -> list[OrderEvent]:
        """Cancel every open order and close the position at the next open, by an order `order_id` (default: one of its own).

        The strategy's own target stays as it is, so that it does not buy back before it changes its mind.
        """
        decided = 0 if self.last_bar is None else self.last_bar.timestamp
        events, own = [], order_id or f"close-{decided}"
        for order in self.open_orders:
            if order.id != own and any(
                one.id == order.id for one in self.open_orders
            ):  # it may have gone with its parent
                events += self.cancel(order.id)
        if not any(order.id == own for order in self.open_orders):
            events.append(self._submit(Order(decided, 0.0, own, reason=reason)))
        return events

    def _used(self, order: Order) -> OrderEvent | None:
        """The refusal, recorded, of an order whose id was used before."""
        if not (self.ledger.knows(order.id) or any(one.id == order.id for one in self._orders)):
            return None
        return self._refuse(
            order, "duplicate_id", f"An order with the id {order.id!r} was placed before; nothing is done twice."
        )

    def _refuse(self, order: Order, rule: str, text: str) -> OrderEvent:
        time = 0 if self.last_bar is None else self.last_bar.timestamp
        self._events.append(event := OrderEvent(time, order.id, "refused", rule, text))
        return event

    def _enter(self, before: State, state: State, events: Sequence[OrderEvent] = ()) -> None:
        known = {one.order.id for one in before.orders}
        self._orders += [one.order for one in state.orders if one.order.id not in known]
        self._events += events
        self.state = state

    # What there is

    @property
    def costs(self) -> Costs:
        """What a trade costs."""
        return self.conditions.costs

    @property
    def account(self) -> Account:
        """Cash and position."""
        return self.state.account

    @property
    def last_bar(self) -> Bar | None:
        """The last bar that was processed."""
        return self.state.bar

    @property
    def target(self) -> float:
        """The exposure last asked for by the strategy."""
        return self.state.target

    @property
    def open_orders(self) -> tuple[Order, ...]:
        """The orders in the book, in the order in which they were placed."""
        return tuple(one.order for one in self.state.orders)

    @property
    def pending(self) -> Order | None:
        """The target order that trades at the next open, if there is one."""
        return next((order for order in reversed(self.open_orders) if order.kind == "target"), None)

    @property
    def equity(self) -> float:
        """Cash plus position at the last close; the starting cash before the first bar."""
        return self.account.equity(self.last_bar.close) if self.last_bar else self.account.cash

    def preview(self) -> Fill | None:
        """What the pending target order would fill if the next bar opened at the last close; None if nothing is pending."""
        pending, last = self.pending, self.last_bar
        if pending is None or last is None:
            return None
        alone = tuple(one for one in self.state.orders if one.order is pending)
        alone = (dataclasses.replace(alone[0], wait=0),)
        state = dataclasses.replace(self.state, orders=alone, bar=None)
        bar = Bar(last.timestamp, last.close, last.close, last.close, last.close, last.volume)
        fills = engine.step(state, bar, (), self.conditions)[1]
        return fills[0] if fills else None

    def summary(self) -> dict[str, float]:
        """Worth, cash, profit after fees and interest, both paid (quote currency), position (BTC), the number of fills."""
        return {
            "worth": self.equity,
            "cash": self.account.cash,
            "position": self.account.position,
            "profit": self.equity - self.initial_cash,
            "fees": self.state.fees,
            "interest": self.state.interest,
            "fills": self.state.fills,
        }


def check_account(initial_cash: float, rebalance_band: float | None) -> None:
    """Raise `InputError` if an account cannot start like this."""
    if not (math.isfinite(initial_cash) and initial_cash > 0):
        raise InputError(f"initial_cash is {initial_cash!r}; it must be above 0, in quote currency.")
    if rebalance_band is not None and not 0 < rebalance_band < 1:
        raise InputError(
            f"rebalance_band is {rebalance_band!r}; it must lie between 0 and 1 (a fraction of equity), or be None."
        )


def bars_of(candles: pd.DataFrame) -> Iterator[Bar]:
    """The rows of `candles` as the engine sees them."""
    columns: Sequence[np.ndarray] = [candles[name].to_numpy() for name in ("open", "high", "low", "close", "volume")]
    times = pd.DatetimeIndex(candles.index).as_unit("ns").asi8
    for row in zip(times.tolist(), *(column.tolist() for column in columns), strict=True):
        yield Bar(*row)
