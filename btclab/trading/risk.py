"""The risk rules: what refuses a trade, and what ends trading. Backtest and paper trading ask the same functions.

At the close of every bar, once its fills are known, `decide` takes what the strategy wants and gives what is allowed, the new
`RiskState`, and each refusal with its rule and numbers. The state is all that the next bar depends on, and goes to JSON and back.

- A **halt** (`max_drawdown`) and a **daily loss** close all; the first lasts until `reset`, the second until 00:00 UTC.
- The **stop guard**, the **cooldown** and **new_signal** refuse to enter or to add; what is held is left alone. From long to
  short, or back, is an exit, which is never refused, and an entry.
- **max_position** cuts what is wanted; what has grown beyond it by its price alone is left to `rebalance_band`. **min_trade** and
  **lot** leave out trades that are too small. **allow_short** makes of a wish below 0 one for cash. All may be closed always.

The orders that protect a position are made in `trading.protection`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numba import njit

from btclab.errors import InputError
from btclab.records import Bar, Fill, Order
from btclab.trading.strategy import check_exposure

DAY_NS = 86_400_000_000_000
Stops = tuple[int, int, int, int, int, int, int, int]
NO_STOPS: Stops = (0, 0, 0, 0, 0, 0, 0, 0)
MOST_STOPS = len(NO_STOPS)  # how many stops a state remembers
RULES = (
    *("max_drawdown", "daily_loss", "stop_guard", "cooldown", "new_signal", "max_position", "min_trade", "lot"),
    "allow_short",
)
HALT, DAILY, GUARD, COOLDOWN, SPENT, POSITION, SMALL, LOT, SHORT = (1 << i for i in range(len(RULES)))
STOPS = ("stop", "stop_limit", "trailing_stop", "margin_call")  # reasons of a fill that count for the stop guard
PROTECTIVE = (*STOPS, "take_profit")


@dataclass(frozen=True)
class RiskRules:
    """The limits; 0 turns a rule off. Fractions are of 1.

    - `stop_loss`, `take_profit`, `trailing_stop`: distances from the entry (the last: from the best price since), as a
      fraction of the price, or in multiples of the average true range (`distance` "atr");
    - `max_position`: most of equity in BTC, or sold short; `max_drawdown` below the highest equity halts; `daily_loss` since
      00:00 UTC ends the day;
    - `stop_guard` stops within `stop_guard_within` bars refuse entries at the next `stop_guard_pause` closes, that of the
      stop included; `cooldown_bars` does so after the whole position was closed;
    - `reenter`: whether the signal that a stop or target has ended may enter again, at the next close at the earliest;
    - `min_trade`, `lot`: least value (quote currency) and quantity (BTC) of a trade.
    """

    distance: str = "fraction"
    stop_loss: float = 0.0
    take_profit: float = 0.0
    trailing_stop: float = 0.0
    max_position: float = 1.0
    max_drawdown: float = 0.0
    daily_loss: float = 0.0
    stop_guard: int = 0
    stop_guard_within: int = 48
    stop_guard_pause: int = 24
    cooldown_bars: int = 0
    reenter: bool = False
    min_trade: float = 0.0
    lot: float = 0.0

    def __post_init__(self) -> None:
        if self.distance not in ("fraction", "atr"):
            raise InputError(
                f"distance is {self.distance!r}; it must be 'fraction' (of the price) or 'atr' (multiples)."
            )
        check_exposure("max_position", self.max_position)
        for name in ("stop_loss", "take_profit", "trailing_stop", "min_trade", "lot"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(
                    f"{name} is {getattr(self, name)!r}; it must be a number of at least 0; 0 turns it off."
                )
        below = ("stop_loss", "trailing_stop") if self.distance == "fraction" else ()
        for name in (*below, "max_drawdown", "daily_loss"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)!r}; it must be a fraction under 1 (0.05 = 5 %).")
        for name, least in (("stop_guard", 0), ("stop_guard_within", 1), ("stop_guard_pause", 1), ("cooldown_bars", 0)):
            value = getattr(self, name)
            if value != int(value) or value < least:
                raise InputError(f"{name} is {value!r}; it must be a whole number of at least {least}.")
        if self.stop_guard > MOST_STOPS:
            raise InputError(f"stop_guard is {self.stop_guard}; at most {MOST_STOPS} stops are counted.")

    @classmethod
    def from_settings(cls) -> RiskRules:
        """The rules of the section `[risk]`."""
        from btclab.settings import settings

        own = settings().risk
        return cls(**{one.name: getattr(own, one.name) for one in dataclasses.fields(cls)})

    @property
    def protects(self) -> bool:
        """Whether an entry is to be followed by orders that protect it."""
        return self.stop_loss > 0 or self.take_profit > 0 or self.trailing_stop > 0

    def limits(self, short: bool) -> Limits:
        """The numbers that the compiled rule reads; `short` is whether the account may sell what it does not hold."""
        own = {name: float(getattr(self, name)) for name in Limits._fields if name != "short"}
        return Limits(**own, short=float(short))


class Limits(NamedTuple):
    """The rules that refuse, as numbers."""

    max_position: float
    max_drawdown: float
    daily_loss: float
    stop_guard: float
    stop_guard_within: float
    stop_guard_pause: float
    cooldown_bars: float
    reenter: float
    min_trade: float
    lot: float
    short: float


class RiskState(NamedTuple):
    """All that the next bar's risk depends on; begin with `RiskState.start(equity)`.

    `bars` have been seen; `equity` was that of the last close, `peak` the highest since the start or the last `reset`,
    `day_equity` that of the last close before the UTC day `day` (days since 1970). `halted` is the open time (ns) of the bar
    that halted, −1: none did; `day_over` whether the day's loss has ended it. Entries are refused up to the bar numbers
    `paused_until` (stop guard) and `cooling_until` (cooldown), and while `spent` (a stop or target has ended this signal's
    trade). `stops` are the numbers of the last bars with a stop, 0: none. `wanted` and `refused` (bits of `RULES`) are those of
    the last close, so that a refusal that stands is told once.
    """

    bars: int
    day: int
    day_equity: float
    day_over: bool
    equity: float
    peak: float
    halted: int
    paused_until: int
    cooling_until: int
    spent: bool
    stops: Stops
    wanted: float
    refused: int

    @classmethod
    def start(cls, equity: float) -> RiskState:
        """The state of an account that begins with `equity` (quote currency). Raises `InputError` if that is not above 0."""
        if not 0 < equity < math.inf:
            raise InputError(f"equity is {equity!r}; an account starts with more than 0.")
        worth = float(equity)
        return cls(0, -1, worth, False, worth, worth, -1, 0, 0, False, NO_STOPS, 0.0, 0)

    def to_dict(self) -> dict[str, Any]:
        """The state as JSON values; floats survive exactly."""
        return {**self._asdict(), "stops": list(self.stops)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> RiskState:
        """The state that `to_dict` gave. Raises `InputError` if it is another."""
        if set(values) != set(cls._fields) or len(values["stops"]) != MOST_STOPS:
            raise InputError(f"This is no state of the risk rules: it needs {', '.join(cls._fields)}.")
        start = cls.start(1.0)
        kept = {name: type(getattr(start, name))(value) for name, value in values.items()}
        return cls(**{**kept, "stops": tuple(int(bar) for bar in values["stops"])})


@dataclass(frozen=True)
class Holding:
    """The account at a close: `cash` (quote currency), `position` (BTC), `price`, and `target`, the exposure last asked for.

    `position` and `target` are below 0 when BTC is sold short.
    """

    cash: float
    position: float
    price: float
    target: float = 0.0

    @property
    def equity(self) -> float:
        """Cash plus position at the price."""
        return self.cash + self.position * self.price


Refusal = tuple[str, str]  # the rule, and what it says with the numbers


# The compiled rule


@njit(cache=True, nogil=True, error_model="numpy")
def _observe(state, limits, time, equity, wish, stopped, protected, sold):  # type: ignore[no-untyped-def]
    """The state after a bar that closed with `equity`.

    In it a stop filled (`stopped`), or any protective order (`protected`), and the position was closed to the last (`sold`).
    """
    bars, day = state.bars + 1, time // DAY_NS
    same_day = day == state.day
    day_equity = state.day_equity if same_day else state.equity
    peak, halted = max(state.peak, equity), state.halted
    if halted < 0 and limits.max_drawdown > 0 and equity <= peak * (1 - limits.max_drawdown):
        halted = time
    lost = limits.daily_loss > 0 and equity <= day_equity * (1 - limits.daily_loss)
    stops, paused, cooling = state.stops, state.paused_until, state.cooling_until
    if stopped:
        stops = (bars, stops[0], stops[1], stops[2], stops[3], stops[4], stops[5], stops[6])
        count = int(limits.stop_guard)
        if count > 0 and stops[count - 1] > 0 and bars - stops[count - 1] < limits.stop_guard_within:
            paused = bars + int(limits.stop_guard_pause)
    if sold:
        pause = int(limits.cooldown_bars)
        if protected and limits.reenter > 0:  # the engine trades when the target changes: it must be 0 once in between
            pause = max(pause, 1)
        cooling = max(cooling, bars + pause)
    spent = (protected or state.spent) and not (limits.reenter > 0 or wish == 0 or wish * state.wanted < 0)
    over = lost or (state.day_over and same_day)
    return RiskState(
        bars, day, day_equity, over, equity, peak, halted, paused, cooling, spent, stops, state.wanted, state.refused
    )


@njit(cache=True, nogil=True, error_model="numpy")
def _allow(state, limits, equity, position, price, target, wish):  # type: ignore[no-untyped-def]
    """The exposure that is allowed of `wish` (NaN: what was asked for last), and the bits of the rules that refuse."""
    wanted = target if np.isnan(wish) else wish
    if state.halted >= 0 or state.day_over:
        broken = (HALT if state.halted >= 0 else 0) | (DAILY if state.day_over else 0)
        return 0.0, broken if wanted != 0 else 0
    if wanted < 0 and limits.short == 0:
        return 0.0, SHORT
    allowed, broken = wanted, 0
    kept = target if target * position > 0 else 0.0
    if wanted != 0 and (wanted * kept <= 0 or abs(wanted) > abs(kept)):
        if state.bars < state.paused_until:
            broken |= GUARD
        if state.bars < state.cooling_until or (limits.cooldown_bars > 0 and wanted * kept < 0):
            broken |= COOLDOWN
        if state.spent:
            broken |= SPENT
        if broken != 0:
            allowed = kept if wanted * kept > 0 else 0.0
    if abs(allowed) > limits.max_position:
        allowed, broken = limits.max_position if allowed > 0 else -limits.max_position, broken | POSITION
    if allowed not in (target, 0.0) and equity > 0:
        value = abs(allowed * equity - position * price)
        small = (SMALL if value < limits.min_trade else 0) | (LOT if value < limits.lot * price else 0)
        if small != 0:
            allowed, broken = target, broken | small
    return allowed, broken


@njit(cache=True, nogil=True, error_model="numpy")
def decide_bar(state, limits, time, cash, position, price, target, wish, stopped, protected, sold):  # type: ignore[no-untyped-def]
    """`decide` in numbers: the new state and the allowed exposure; the state says what was `refused`."""
    equity = cash + position * price
    now = _observe(state, limits, time, equity, wish, stopped, protected, sold)
    allowed, broken = _allow(now, limits, equity, position, price, target, wish)
    wanted = target if np.isnan(wish) else wish
    return RiskState(
        now.bars,
        now.day,
        now.day_equity,
        now.day_over,
        now.equity,
        now.peak,
        now.halted,
        now.paused_until,
        now.cooling_until,
        now.spent,
        now.stops,
        wanted,
        broken,
    ), allowed


# Bar by bar


def decide(
    state: RiskState,
    rules: RiskRules,
    bar: Bar,
    holding: Holding,
    fills: Sequence[Fill] = (),
    wish: float | None = None,
    short: bool = False,
) -> tuple[RiskState, float, list[Refusal]]:
    """The new state at the close of `bar`, the exposure allowed, and what is refused that was not refused at the last close.

    `holding` is the account after the bar's `fills`; `wish` what the strategy wants (None: no opinion, the last target);
    `short` whether the account may sell short. Give what is allowed to the engine as the target of this close. Raises
    `InputError` for a wish outside -1…1, or a bar of an earlier day than the last.
    """
    if wish is not None and not -1 <= wish <= 1:
        raise InputError(f"The wish is {wish!r}; exposure must lie in -1…1, or be None: no opinion.")
    if bar.timestamp // DAY_NS < state.day:
        raise InputError(f"The bar at {bar.timestamp} (ns) is of an earlier day than the last one.")
    closings = _closings(fills, holding.position)
    now, allowed = decide_bar(
        state,
        rules.limits(short),
        bar.timestamp,
        float(holding.cash),
        float(holding.position),
        float(holding.price),
        float(holding.target),
        math.nan if wish is None else float(wish),
        any(reason in STOPS for reason in closings),
        any(reason in PROTECTIVE for reason in closings),
        bool(closings) and holding.position == 0,
    )
    told = state.refused if now.wanted == state.wanted else 0
    return now, allowed, _said(now.refused & ~told, now, rules, holding, now.wanted)


def _closings(fills: Sequence[Fill], position: float) -> list[str]:
    """The reasons of the fills that closed something; `position` is that after them."""
    signed = [fill.quantity if fill.side == "buy" else -fill.quantity for fill in fills]
    held, reasons = position - sum(signed), []
    for fill, traded in zip(fills, signed, strict=True):
        if held * traded < 0:
            reasons.append(fill.reason)
        held += traded
    return reasons


def check(
    state: RiskState,
    asked: float | Order,
    rules: RiskRules,
    holding: Holding,
    orders: Sequence[Order] = (),
    short: bool = False,
) -> tuple[float | Order | None, list[Refusal]]:
    """What the rules allow of an exposure or an order as things stand, without a bar going by; nothing is changed by asking.

    An exposure comes back as it is allowed; an order as it is, or None if it is refused. `orders` are the open ones: what they
    may yet add counts against `max_position`. Orders that only reduce what is at risk are always allowed: those against the
    position, or against their parent. `new_signal` is a rule for strategies: an order by hand is a signal of its own.
    """
    if isinstance(asked, Order) and asked.kind != "target":
        sells_what_is_held = asked.side == "sell" and not short  # if it does not, the engine says so
        return (asked, []) if sells_what_is_held else _check_order(state, asked, rules, holding, orders)
    wish = asked.exposure if isinstance(asked, Order) else float(asked)
    if not -1 <= wish <= 1:
        raise InputError(f"The exposure is {wish!r}; it must lie in -1…1 (below 0: sold short).")
    by_hand = state._replace(spent=False) if isinstance(asked, Order) else state
    figures = (holding.equity, float(holding.position), float(holding.price), float(holding.target), wish)
    allowed, broken = _allow(by_hand, rules.limits(short), *figures)
    said = _said(broken, state, rules, holding, wish)
    if not isinstance(asked, Order):
        return allowed, said
    return (asked if allowed == wish else None), said


def _check_order(
    state: RiskState, asked: Order, rules: RiskRules, holding: Holding, orders: Sequence[Order]
) -> tuple[Order | None, list[Refusal]]:
    book = {one.id: one for one in orders} | {asked.id: asked}
    side, quantity = 1 if asked.side == "buy" else -1, _quantity(asked, book)
    if asked.parent and _side(book.get(asked.parent), holding) != side:  # it protects, or its parent is gone
        return asked, []
    price, equity = _price(asked, holding.price), holding.equity
    held, value = holding.position * holding.price, quantity * price
    for one in orders:
        if one.kind == "target":
            held = side * max(side * held, side * one.exposure * equity)
    count = held / holding.price
    groups: dict[str, float] = (
        {asked.group: math.inf} if asked.group else {}
    )  # of a group one fills: the largest counts
    for one in sorted(orders, key=lambda one: -_quantity(one, book)):
        if (
            _side(one, holding) == side
            and one.kind != "target"
            and (not one.parent or _side(book.get(one.parent), holding) == side)
        ):
            if one.group and groups.setdefault(one.group, 0.0) > 0:
                continue
            groups[one.group] = _quantity(one, book)
            held += side * _quantity(one, book) * _price(one, price)
            count += side * _quantity(one, book)
    if side * count + quantity <= 1e-9 * quantity:
        return asked, []
    wanted = (held + side * value) / equity if equity > 0 else side * math.inf
    broken = (HALT if state.halted >= 0 else 0) | (DAILY if state.day_over else 0)
    broken |= (GUARD if state.bars < state.paused_until else 0) | (COOLDOWN if state.bars < state.cooling_until else 0)
    broken |= POSITION if rules.max_position < 1 and side * wanted > rules.max_position * (1 + 1e-9) else 0
    broken |= (SMALL if value < rules.min_trade else 0) | (LOT if quantity < rules.lot else 0)
    return None if broken else asked, _said(broken, state, rules, holding, wanted, value)


def _side(order: Order | None, holding: Holding) -> int:
    """1 for an order that buys, −1 for one that sells, 0 for none."""
    if order is None:
        return 0
    buys = order.side == "buy"
    if order.kind == "target":
        buys = order.exposure * holding.equity > holding.position * holding.price
    return 1 if buys else -1


def _price(order: Order, otherwise: float) -> float:
    return next(p for p in (order.limit, order.stop, otherwise) if not math.isnan(p))


def _quantity(order: Order, book: Mapping[str, Order]) -> float:
    """What `order` may trade at the most; a child without a quantity of its own trades what its parent does."""
    while math.isnan(order.quantity) and order.parent in book:
        order = book[order.parent]
    return 0.0 if math.isnan(order.quantity) else order.quantity


def reset(state: RiskState) -> RiskState:
    """The state with its halt, day's end, pauses and counted stops lifted; drawdown counts anew from the equity of now."""
    return state._replace(
        peak=state.equity,
        day_equity=state.equity,
        day_over=False,
        halted=-1,
        paused_until=0,
        cooling_until=0,
        spent=False,
        stops=NO_STOPS,
        refused=0,
    )


def refused_rules(bits: int) -> tuple[str, ...]:
    """The names of the rules in `RiskState.refused`."""
    return tuple(name for i, name in enumerate(RULES) if bits >> i & 1)


def _said(
    bits: int, state: RiskState, rules: RiskRules, holding: Holding, wanted: float, value: float | None = None
) -> list[Refusal]:
    """The rules in `bits`, each with its numbers; `value` is that of the trade, by default of the way to `wanted`."""
    if not bits:
        return []
    share = holding.position * holding.price / holding.equity if holding.equity > 0 else 0.0
    worth = abs(wanted - share) * holding.equity if value is None else value
    cooling = state.cooling_until - state.bars
    left = {"stop_guard": state.paused_until - state.bars, "cooldown": cooling if cooling > 0 else rules.cooldown_bars}
    texts = {
        "max_drawdown": f"Trading is halted: equity, now {state.equity:,.2f}, fell {100 * rules.max_drawdown:g} % or more below "
        f"its peak {state.peak:,.2f}. Reset the halt to trade on.",
        "daily_loss": f"The day is over: equity, now {state.equity:,.2f}, fell {100 * rules.daily_loss:g} % or more below the "
        f"{state.day_equity:,.2f} it began with. It goes on at 00:00 UTC.",
        "stop_guard": f"{rules.stop_guard} stops within {rules.stop_guard_within} bars: no entry for "
        f"{left['stop_guard']} closes, this one included.",
        "cooldown": f"The position was closed: no entry for {left['cooldown']} closes, this one included.",
        "new_signal": "A stop or target has ended this trade; the next begins with a new signal.",
        "max_position": f"{100 * abs(wanted):.1f} % of equity {'in BTC' if wanted > 0 else 'sold short'} is more than the "
        f"{100 * rules.max_position:g} % allowed.",
        "min_trade": f"A trade of {worth:,.2f} is worth less than the {rules.min_trade:,.2f} that it must be.",
        "lot": f"A trade of {worth / holding.price:.8f} BTC is less than the lot of {rules.lot:g} BTC.",
        "allow_short": "The account sells nothing short: it holds cash instead. allow_short in [trading] would let it.",
    }
    return [(name, texts[name]) for name in refused_rules(bits)]
