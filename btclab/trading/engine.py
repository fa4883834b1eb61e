"""The one engine: what a bar does to an account and its open orders. Backtest and paper trading both walk through it.

An order decided at the close of a bar fills at the open of the next bar or through its range, never earlier. A `State` is
all that the next bar depends on; every function here is pure: it gives a new state and leaves the old one as it was.
`simulate` walks over many bars in one compiled loop, by the same compiled rule (`trading.fills`).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from btclab.errors import InputError
from btclab.records import KINDS, LIFETIMES, Bar, Costs, Fill, Margin, Market, Order, OrderEvent
from btclab.trading import fills as compiled
from btclab.trading.fills import REASONS, Terms, terms_of
from btclab.trading.orders import event_of, wrong

SIDES = {"buy": 1, "sell": -1, "": 0}
NAN = math.nan


@dataclass(frozen=True)
class Account:
    """Cash (quote currency) and position (BTC, below 0 when sold short)."""

    cash: float
    position: float = 0.0

    def equity(self, price: float) -> float:
        """Worth of the account with the position valued at `price`."""
        return self.cash + self.position * price


@dataclass(frozen=True)
class OpenOrder:
    """An order in the book and what has become of it so far; the fields are those of `fills.ROW`, `replaces` is an id.

    `remaining` is what is still to trade (BTC; of a child, of what its parent has filled), `best` the best price that a
    trailing stop has seen, `wait` the bars until it reaches the market.
    """

    order: Order
    remaining: float = 0.0
    quantity: float = NAN
    granted: float = 0.0
    best: float = NAN
    wait: int = 0
    ends: int = -1
    replaces: str = ""
    child: bool = False
    protective: bool = False
    triggered: bool = False
    rested: bool = False


@dataclass(frozen=True)
class Conditions:
    """On what conditions an account trades: `latency` is the bars between a decision and its arrival, beyond the first.

    Without `margin` nothing is sold short.
    """

    costs: Costs = field(default_factory=Costs)
    market: Market = field(default_factory=Market)
    latency: int = 0
    margin: Margin | None = None

    def __post_init__(self) -> None:
        if self.latency < 0 or self.latency != int(self.latency):
            raise InputError(f"latency is {self.latency!r}; it must be a whole number of bars, 0 for the next bar.")

    @property
    def terms(self) -> Terms:
        """The numbers that the compiled rules read."""
        return terms_of(self.costs, self.market, self.margin)


@dataclass(frozen=True)
class State:
    """All that the next bar depends on.

    `target` is the exposure last asked for, `steered` whether no other order has traded since, `orders` the book in the
    order in which it was placed, `bar` the last bar seen; `fees`, `fills` and `interest` count what was paid and executed so
    far.
    """

    cash: float
    position: float = 0.0
    target: float = 0.0
    steered: bool = True
    orders: tuple[OpenOrder, ...] = ()
    bar: Bar | None = None
    fees: float = 0.0
    fills: int = 0
    interest: float = 0.0

    @property
    def account(self) -> Account:
        """Cash and position."""
        return Account(self.cash, self.position)

    def to_dict(self) -> dict[str, Any]:
        """The state as JSON values; what is missing (NaN) or as by default is left out, so that floats survive exactly."""
        return plain_values(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> State:
        """The state that `to_dict` gave; the account goes on from it bit for bit."""
        orders = tuple(OpenOrder(**{**one, "order": Order(**one["order"])}) for one in values.get("orders", ()))
        bar = Bar(**values["bar"]) if "bar" in values else None
        return cls(**{**values, "orders": orders, "bar": bar})


def plain_values(record: Any) -> dict[str, Any]:
    """The fields of a record as JSON values, without those that are missing (NaN, None) or as by default."""
    values: dict[str, Any] = {}
    for one in dataclasses.fields(record):
        value = getattr(record, one.name)
        if value is None or value == one.default or _missing(value):
            continue
        if isinstance(value, tuple):
            values[one.name] = [plain_values(item) for item in value]
        else:
            values[one.name] = plain_values(value) if dataclasses.is_dataclass(value) else value
    return values


def _missing(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


# One bar


def step(
    state: State, bar: Bar, orders: Iterable[Order] = (), conditions: Conditions | None = None
) -> tuple[State, list[Fill], list[OrderEvent]]:
    """The state after `bar`; what filled in it; and what became of the orders.

    `orders` are placed first, as decided at the close before `bar`. Raises `InputError` on a bar that is not after the last.
    """
    conditions = conditions or Conditions()
    if state.bar is not None and bar.timestamp <= state.bar.timestamp:
        raise InputError(f"The bar at {bar.timestamp} is not after the last one at {state.bar.timestamp} (ns).")
    said: list[OrderEvent] = []
    for order in orders:
        state, event = submit(state, order, conditions)
        said.append(event)
    book, last = _Book(state), state.bar or bar
    compiled.match(
        book.desk,
        bar.timestamp,
        bar.open,
        bar.high,
        bar.low,
        bar.close,
        float(bar.volume),
        last.timestamp,
        last.close,
        conditions.terms,
    )
    return book.state(bar), book.fills(), said + book.events()


def decide(state: State, target: float | None, band: float | None, conditions: Conditions | None = None) -> State:
    """The state after the decision at the close of its last bar: with a target order if the close gives rise to one.

    `target` is the exposure wanted from now on (None: no opinion, keep the last one). There is an order when it differs from
    the last one, or when the holding has drifted from it by more than `band` (a fraction of equity). Raises `InputError`
    before the first bar.
    """
    if state.bar is None:
        raise InputError("There is nothing to decide on before the first bar.")
    wanted = state.target if target is None else float(target)
    book = _Book(state, (Order(state.bar.timestamp, wanted, id=target_id(state.bar.timestamp)),))
    latency = 0 if conditions is None else conditions.latency
    compiled.decide(
        book.desk, state.bar.timestamp, state.bar.close, wanted, NAN if band is None else band, latency, book.next_key
    )
    return book.state(state.bar)


def target_id(decided: int) -> str:
    """The id of the target order that was decided in the bar `decided`: what a bracket on it names as its parent."""
    return f"target-{decided}"


def call_id(time: int) -> str:
    """The id of the order by which a margin call in the bar `time` buys back."""
    return f"margin-call-{time}"


def call_order(time: int, quantity: float) -> Order:
    """The order by which a margin call in the bar `time` buys back `quantity`."""
    return Order(time, id=call_id(time), kind="margin_call", side="buy", quantity=quantity)


def submit(state: State, order: Order, conditions: Conditions | None = None) -> tuple[State, OrderEvent]:
    """The state with `order` in the book, or as it was if the order is refused; the event says which and why."""
    return _place(state, order, conditions or Conditions())


def replace(
    state: State, old: str, order: Order, conditions: Conditions | None = None
) -> tuple[State, list[OrderEvent]]:
    """The state with `order` in the place of the open order `old`, whose children follow it; both arrive together.

    If the new order is refused, the old one stays. What the old one has filled stays filled: `order.quantity` is what is
    to trade from now on. With latency, an old order that fills meanwhile is not replaced.
    """
    conditions, found = conditions or Conditions(), _find(state, old)
    if found is None:
        return state, [_unknown(state, old)]
    book, event = _place(state, order, conditions, replaces=old)
    if event.event == "refused":
        return state, [event]
    if conditions.latency:
        return book, [event]
    desk = _Book(book)
    compiled.take_place(desk.desk, len(book.orders) - 1, found, event.timestamp)
    compiled.tidy(desk.desk, event.timestamp)
    return desk.state(state.bar), [*desk.events(), event]


def cancel(state: State, order_id: str, conditions: Conditions | None = None) -> tuple[State, list[OrderEvent]]:
    """The state without the open order `order_id` and the children that waited for it; with latency it ends bars later."""
    found = _find(state, order_id)
    if found is None:
        return state, [_unknown(state, order_id)]
    if conditions is not None and conditions.latency:
        if state.orders[found].ends >= 0:  # its cancellation is under way
            return state, []
        one = dataclasses.replace(state.orders[found], ends=conditions.latency)
        return dataclasses.replace(state, orders=(*state.orders[:found], one, *state.orders[found + 1 :])), []
    book = _Book(state)
    time = _time(state)
    compiled.end_order(book.desk, found, time, compiled.CANCELLED, compiled.USER, 0.0, 0.0)
    compiled.tidy(book.desk, time)
    return book.state(state.bar), book.events()


def _place(state: State, order: Order, conditions: Conditions, replaces: str = "") -> tuple[State, OrderEvent]:
    broken = wrong(order, conditions.market, conditions.margin is not None)
    if broken is None and not order.id:
        broken = "id", "The order has no id, by which it could be found again."
    if broken is None and _find(state, order.id) is not None:
        broken = "duplicate_id", f"An order with the id {order.id!r} is open already."
    if broken is None and state.bar is not None and order.decided > state.bar.timestamp:
        broken = (
            "decided",
            f"The order was decided in the bar {order.decided}, after the last one {state.bar.timestamp} (ns).",
        )
    if broken is not None:
        return state, OrderEvent(_time(state), order.id, "refused", *broken)
    book = _Book(state, (order,))
    new = OpenOrder(
        order, quantity=order.quantity, wait=conditions.latency, replaces=replaces, child=bool(order.parent)
    )
    row = book.rows_of([new], len(state.orders))
    close = NAN if state.bar is None else state.bar.close
    compiled.place(book.desk, row[0], _time(state), close, conditions.terms)
    return book.state(state.bar), book.events()[0]


def _find(state: State, order_id: str) -> int | None:
    return next((i for i, one in enumerate(state.orders) if one.order.id == order_id), None)


def _unknown(state: State, order_id: str) -> OrderEvent:
    ids = ", ".join(repr(one.order.id) for one in state.orders) or "none"
    return OrderEvent(
        _time(state), order_id, "refused", "unknown_order", f"No open order has the id {order_id!r}; open: {ids}."
    )


def _time(state: State) -> int:
    return state.bar.timestamp if state.bar is not None else 0


class _Book:
    """The desk of a state, and the way back. Keys are 1, 2, … in the order of the book; `added` may be placed after it."""

    def __init__(self, state: State, added: Sequence[Order] = ()) -> None:
        self.before = state
        self.orders = [one.order for one in state.orders] + list(added)
        self.keys = {order.id: key for key, order in enumerate(self.orders, 1)}
        self.groups = {
            name: i for i, name in enumerate(dict.fromkeys(order.group for order in self.orders if order.group), 1)
        }
        self.next_key = len(state.orders) + 1
        self.desk = compiled.new_desk(state.cash, len(self.orders) + 1)
        account = self.desk.account
        account["position"], account["fees"], account["interest"] = state.position, state.fees, state.interest
        account["target"], account["steered"] = state.target, state.steered
        self.desk.book[: len(state.orders)] = self.rows_of(state.orders, 0)
        self.desk.count[0] = len(state.orders)

    def rows_of(self, orders: Sequence[OpenOrder], first: int) -> np.ndarray:
        """Rows of the book for `orders`, the first of which has the key `first` + 1."""
        rows = np.zeros(len(orders), compiled.ROW)
        for i, one in enumerate(orders):
            fill_row(
                rows,
                i,
                one.order,
                first + i + 1,
                self.groups.get(one.order.group, 0),
                self.keys.get(one.order.parent, 0),
            )
            row = rows[i]
            for name in _CARRIED:
                row[name] = getattr(one, name)
            row["replaces"] = self.keys.get(one.replaces, -1) if one.replaces else 0  # −1: it has ended meanwhile
            if one.order.parent and not row["parent"]:
                row["parent"] = (
                    0 if one.granted else -1
                )  # an unknown parent; one that has ended leaves its child active
        return rows

    def state(self, bar: Bar | None) -> State:
        """The state that the desk holds now."""
        account, ids = self.desk.account[0], [""] + [order.id for order in self.orders]
        orders = []
        for row in self.desk.book[: self.desk.count[0]]:
            order = self.orders[int(row["key"]) - 1]
            parent = ids[int(row["parent"])] if row["parent"] > 0 else order.parent
            order = order if parent == order.parent else dataclasses.replace(order, parent=parent)
            values = {name: _number(row[name].item()) for name in _CARRIED}
            replaces = (
                ids[int(row["replaces"])] if row["replaces"] >= 0 else self.before.orders[int(row["key"]) - 1].replaces
            )
            orders.append(OpenOrder(order, replaces=replaces, **values))
        return State(
            float(account["cash"]),
            float(account["position"]),
            float(account["target"]),
            bool(account["steered"]),
            tuple(orders),
            bar,
            float(account["fees"]),
            self.before.fills + int(self.desk.count[1]),
            float(account["interest"]),
        )

    def fills(self) -> list[Fill]:
        """What has filled at this desk."""
        return [fill_of(row, self._order(row)) for row in self.desk.fills[: self.desk.count[1]]]

    def events(self) -> list[OrderEvent]:
        """What became of the orders at this desk."""
        return [event_of(row, self._order(row)) for row in self.desk.events[: self.desk.count[2]]]

    def _order(self, row: Any) -> Order:
        return self.orders[int(row["key"]) - 1] if row["key"] else call_order(int(row["time"]), NAN)


_CARRIED = tuple(one.name for one in dataclasses.fields(OpenOrder) if one.name not in ("order", "replaces"))


def _number(value: Any) -> Any:
    return NAN if _missing(value) else value  # one NaN object, so that equal states compare as equal


def fill_row(rows: np.ndarray, i: int, order: Order, key: int, group: int, parent: int) -> None:
    """Write `order` into row `i`, as it is when it is placed."""
    row = rows[i]
    row["key"], row["kind"], row["side"] = key, KINDS.index(order.kind), SIDES[order.side]
    row["lifetime"], row["group"], row["parent"] = LIFETIMES.index(order.lifetime), group, parent
    row["alive"], row["child"], row["ends"], row["best"] = True, bool(order.parent), -1, NAN
    for name in ("decided", "expires", "exposure", "quantity", "limit", "stop", "trail"):
        row[name] = getattr(order, name)


def fill_of(row: Any, order: Order) -> Fill:
    """The record of a fill of `order`."""
    return Fill(
        int(row["time"]),
        "buy" if row["side"] > 0 else "sell",
        float(row["quantity"]),
        float(row["price"]),
        float(row["fee"]),
        order.decided,
        order.exposure,
        order.id,
        order.kind,
        bool(row["maker"]),
    )


# Many bars


@dataclass(frozen=True)
class Walk:
    """What `simulate` gives: equity and position (BTC) [bar] at each close, fills as of `lots.fill_arrays`, events.

    `interest` (quote currency) is what was paid for BTC sold short.
    """

    equity: np.ndarray
    position: np.ndarray
    fills: dict[str, Any]
    events: list[OrderEvent]
    interest: float = 0.0


def simulate(
    times: np.ndarray,
    prices: np.ndarray,
    targets: np.ndarray,
    initial_cash: float,
    band: float | None = None,
    orders: Sequence[Order] = (),
    conditions: Conditions | None = None,
) -> Walk:
    """The account over many bars, in one compiled loop; to the last digit what `step` and `decide` give bar by bar.

    `times` [bar] int64 ns, `prices` [open high low close volume, bar], `targets` [bar] (NaN: no opinion). Each of `orders` is
    placed at the close of the bar `order.decided`, in the order given. Raises `InputError` if one is wrong by itself.
    """
    conditions = conditions or Conditions()
    rows, first = _rows(orders, times, conditions)
    desk = compiled.new_desk(float(initial_cash), 8)
    limit = NAN if band is None else float(band)
    equity, position, desk = compiled.walk(
        desk, times, prices, targets, limit, rows, first, conditions.latency, conditions.terms
    )
    fills, events = desk.fills[: desk.count[1]], desk.events[: desk.count[2]]
    return Walk(
        equity,
        position,
        _fill_arrays(fills, orders, times),
        [event_of(one, _order(one, orders, times)) for one in events],
        float(desk.account["interest"][0]),
    )


def _rows(orders: Sequence[Order], times: np.ndarray, conditions: Conditions) -> tuple[np.ndarray, np.ndarray]:
    """The rows of `orders` by the bar in which they were decided, and where those of each bar begin [bar + 1]."""
    rows = np.zeros(len(orders), compiled.ROW)
    keys = {order.id: key for key, order in enumerate(orders, 1)}
    if len(keys) < len(orders):
        twice = next(order.id for key, order in enumerate(orders, 1) if keys[order.id] != key)
        raise InputError(f"Two orders have the id {twice!r}; each needs one of its own.")
    groups = {name: i for i, name in enumerate(dict.fromkeys(order.group for order in orders if order.group), 1)}
    bars = np.searchsorted(times, [order.decided for order in orders])
    targets = {target_id(order.decided): -1 - int(bar) for order, bar in zip(orders, bars, strict=True)}
    for i, (order, bar) in enumerate(zip(orders, bars, strict=True)):
        if bar == len(times) or times[bar] != order.decided:
            raise InputError(
                f"Order {order.id!r} was decided at {order.decided}, which is no bar of these candles (ns)."
            )
        if broken := wrong(order, conditions.market, conditions.margin is not None):
            raise InputError(f"Order {order.id!r}: {broken[1]}")
        parent = keys.get(order.parent) or targets.get(order.parent, UNKNOWN_KEY)
        fill_row(rows, i, order, i + 1, groups.get(order.group, 0), parent if order.parent else 0)
    rows["wait"] = conditions.latency
    by_bar = np.argsort(bars, kind="stable")
    return rows[by_bar], np.searchsorted(bars[by_bar], np.arange(len(times) + 1)).astype(np.int64)


UNKNOWN_KEY = np.iinfo(np.int64).max


def _order(row: Any, orders: Sequence[Order], times: np.ndarray) -> Order:
    key = int(row["key"])
    if key == 0:
        return call_order(int(row["time"]), NAN)
    return orders[key - 1] if key > 0 else Order(decided := int(times[-1 - key]), id=target_id(decided))


def _id(key: int, time: int, orders: Sequence[Order], times: np.ndarray) -> str:
    if key == 0:
        return call_id(time)
    return orders[key - 1].id if key > 0 else target_id(times[-1 - key])


def _fill_arrays(fills: np.ndarray, orders: Sequence[Order], times: np.ndarray) -> dict[str, Any]:
    names = ("quantity", "price", "fee", "decided", "exposure", "maker", "side")
    ids = [
        _id(key, time, orders, times) for key, time in zip(fills["key"].tolist(), fills["time"].tolist(), strict=True)
    ]
    return {
        "timestamp": fills["time"].copy(),
        **{name: fills[name].copy() for name in names},
        "order": np.array(ids, object),
        "reason": np.array(REASONS, object)[fills["kind"]],
    }
