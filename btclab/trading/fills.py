"""From orders to fills: the cost model and the one matching rule, compiled. `docs/orders.md` states each rule with a figure.

A bar is walked in four phases, each in the order in which the orders were placed:

1. *open*: what can trade at the open does, at the open: also a stop that the market has jumped over (and a limit, at its limit);
2. *stops* within the range: of what is touched, the unfavourable comes first, for the bar does not say what came first;
3. *limits and take-profits* within the range;
4. *stops of brackets* whose parent filled in phase 2 or 3: the bar may have turned against it afterwards.

Everything lies in a `Desk` of arrays, changed in place; `trading.engine` gives it the frozen records and takes them back. A
side is +1 (buy) or −1 (sell). All that is compiled together is in this one file, however long: numba keeps the machine code
of a function until *its* file changes, and would go on with an old rule that it had called from another.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numba import njit

from btclab.records import KINDS, LIFETIMES, Costs, Margin, Market

F = TypeVar("F", bound=Callable[..., object])
BUY, SELL = 1, -1
TARGET, MARKET, LIMIT, STOP, STOP_LIMIT, TAKE_PROFIT, TRAILING_STOP = range(len(KINDS))
REASONS = (*KINDS, "margin_call")  # why a fill came about: by an order of a kind, or by the lender
MARGIN_CALL = len(KINDS)
GTC, GTD, IOC = range(len(LIFETIMES))
EVENTS = ("accepted", "refused", "triggered", "cancelled", "replaced", "expired", "done")
ACCEPTED, REFUSED, TRIGGERED, CANCELLED, REPLACED, EXPIRED, DONE = range(len(EVENTS))
RULES = (
    *("", "insufficient_funds", "insufficient_position", "min_quantity", "min_value", "wrong_side", "unknown_order"),
    *("oco", "parent", "child", "flat", "ioc", "user", "replaced_order", "insufficient_margin", "margin_call"),
)
NONE, FUNDS, POSITION, MIN_QUANTITY, MIN_VALUE, WRONG_SIDE, UNKNOWN = range(7)
OCO, PARENT, CHILD, FLAT, ONCE, USER, REPLACEE, MARGIN, CALLED = range(7, len(RULES))
MOST_SLIP = 0.9999  # impact beyond it would make a sale's price negative
YEAR_NS = 365 * 86_400 * 1_000_000_000

# One open order. The first fields are the order's own; the others are what has become of it.
ROW = np.dtype(
    [
        *((name, "i8") for name in ("key", "kind", "side", "lifetime", "group", "parent", "decided", "expires")),
        *((name, "f8") for name in ("exposure", "quantity", "limit", "stop", "trail")),
        ("remaining", "f8"),  # BTC still to trade
        ("granted", "f8"),  # BTC that the parent has filled so far
        ("best", "f8"),  # best price that a trailing stop has seen
        ("wait", "i8"),  # bars until it arrives
        ("ends", "i8"),  # bars until its cancellation arrives; −1: none is under way
        ("replaces", "i8"),  # key of the order whose place it takes when it arrives
        ("child", "b1"),  # it has, or had, a parent
        ("protective", "b1"),  # it reduces the position that its parent made
        ("triggered", "b1"),  # it was touched: a stop-limit has become a limit, the others a market order
        ("rested", "b1"),  # it was in the book over a whole bar, so that a fill at its limit makes the price
        ("alive", "b1"),
        ("here", "b1"),  # it has arrived (this bar)
        ("inside", "b1"),  # it became active, or its stop was touched, within the range of this bar
        ("born", "f8"),  # the market's price when its parent filled within this bar
    ]
)
ACCOUNT = np.dtype(
    [
        *((name, "f8") for name in ("cash", "position", "fees", "interest")),
        ("target", "f8"),  # the exposure last asked for
        ("steered", "b1"),  # no other order has traded since, so that the band may correct the drift from it
        ("volume", "f8"),  # of the bar
        ("room", "f8"),  # BTC that the participation cap leaves in the bar
    ]
)
FILL = np.dtype(
    [
        *((name, "i8") for name in ("time", "key", "kind", "side", "decided")),
        ("maker", "b1"),
        *((name, "f8") for name in ("quantity", "price", "fee", "exposure")),
    ]
)
EVENT = np.dtype([*((name, "i8") for name in ("time", "key", "event", "rule")), ("need", "f8"), ("have", "f8")])


def compiled(function: F) -> F:
    """Compiled on first use and kept on disk, for any thread, without reordering of sums: one result for backtest and paper."""
    return njit(cache=True, nogil=True, error_model="numpy")(function)


class Terms(NamedTuple):
    """`Costs` and `Market` as numbers, with what is not set filled in; volumes are in BTC, `step` 0 is any quantity."""

    fee_bps: float
    maker_fee_bps: float
    slip: float  # a fraction
    impact: float  # a fraction of the price for each whole bar volume
    participation: float  # a fraction of the bar's volume; infinite: volume is ignored
    step: float
    min_quantity: float
    min_value: float
    short: bool  # whether BTC may be sold that is not held
    interest: float  # of the value sold short, a fraction per ns
    maintenance: float  # equity under this fraction of the value sold short is a margin call


def terms_of(costs: Costs, market: Market, margin: Margin | None = None) -> Terms:
    """The numbers that the compiled rules read."""
    return Terms(
        float(costs.fee_bps),
        float(costs.fee_bps if costs.maker_fee_bps is None else costs.maker_fee_bps),
        costs.slippage_bps / 10_000,
        costs.impact_bps / 10_000,
        np.inf if costs.participation is None else float(costs.participation),
        float(market.quantity_step),
        float(market.min_quantity),
        float(market.min_value),
        margin is not None,
        0.0 if margin is None else margin.interest_pct / 100 / YEAR_NS,
        0.0 if margin is None else float(margin.maintenance),
    )


# The cost model


@compiled
def fill_price(price: float, side: int, slip: float) -> float:
    """`price`, made worse by the fraction `slip`: higher for a buy, lower for a sell."""
    return price * (1 + slip) if side > 0 else price * (1 - slip)


@compiled
def quantity_to_reach(exposure: float, cash: float, position: float, price: float, side: int, fee: float) -> float:
    """BTC to buy or sell at `price` so that afterwards position × price = exposure × equity, the fee (a fraction) being paid.

    A buy of value v costs v × fee, so v = (exposure × equity − held) / (1 + exposure × fee): exposure 1 spends all cash,
    fee included. A sell pays its fee from the proceeds: v = (held − exposure × equity) / (1 − exposure × fee). Exposure 0
    trades all that is held, or sold short; below 0 more is sold than is held. Never negative.
    """
    held = position * price
    equity = cash + held
    if exposure == 0:
        return abs(position)
    if side > 0:
        most = cash / (1 + fee)  # in one step from the cash, so that exposure 1 leaves none and no rounding overspends
        value = most if exposure == 1 else min(most, (exposure * equity - held) / (1 + exposure * fee))
        return max(0.0, value / price)
    quantity = max(0.0, (held - exposure * equity) / (1 - exposure * fee) / price)
    return min(position, quantity) if exposure > 0 else quantity


@compiled
def round_down(quantity: float, step: float) -> float:
    """`quantity` in whole steps, never more; what is but a rounding of sums short of a step counts as whole."""
    return np.floor(quantity / step * (1 + 1e-15) + 1e-9) * step if step > 0 else quantity


@compiled
def cash_after(cash: float, side: int, quantity: float, price: float, fee: float) -> float:
    """Cash after a fill. A buy of all cash leaves exactly 0; only what was sold short may cost more to buy back."""
    left = cash - side * quantity * price - fee
    if side > 0 and abs(left) < 1e-12 * cash:  # all cash was to be spent: what is left is rounding
        return 0.0
    return left


# The rule


class Desk(NamedTuple):
    """Account [1], open orders, fills and events (structured arrays), and how many of the last three there are [3]."""

    account: Any
    book: Any
    fills: Any
    events: Any
    count: Any


def new_desk(cash: float, orders: int) -> Desk:
    """A desk with `cash` and room for so many open orders."""
    desk = Desk(
        np.zeros(1, ACCOUNT),
        np.zeros(orders, ROW),
        np.zeros(orders + 1, FILL),  # one more for a margin call
        np.zeros(4 * orders + 2, EVENT),  # an order can be placed, triggered, cut and end in one bar
        np.zeros(3, np.int64),
    )
    desk.account["cash"], desk.account["steered"] = cash, True
    return desk


@compiled
def _say(desk: Desk, time: int, key: int, event: int, rule: int, need: float, have: float) -> None:
    said = desk.events[desk.count[2]]
    said.time, said.key, said.event, said.rule, said.need, said.have = time, key, event, rule, need, have
    desk.count[2] += 1


@compiled
def end_order(desk: Desk, i: int, time: int, event: int, rule: int, need: float, have: float) -> None:
    """Order `i` leaves the book, with an event unless it is a target that was reached or superseded, as most are."""
    row = desk.book[i]
    row.alive = False
    if row.kind != TARGET or rule != NONE or event == REPLACED:
        _say(desk, time, row.key, event, rule, need, have)


@compiled
def _worth_placing(terms: Terms, quantity: float, price: float) -> int:
    if quantity < terms.min_quantity * (1 - 1e-9):
        return MIN_QUANTITY
    return MIN_VALUE if quantity * price < terms.min_value * (1 - 1e-9) else NONE


@compiled
def _wanted(desk: Desk, i: int, price: float, side: int, fee_bps: float, terms: Terms) -> float:
    """BTC that the order would trade at `price`, in whole steps, if there were volume enough; limited by cash or position."""
    account, row = desk.account[0], desk.book[i]
    fee = fee_bps / 10_000
    if row.kind == TARGET:
        quantity = quantity_to_reach(row.exposure, account.cash, account.position, price, side, fee)
    elif row.protective:  # it closes, and never opens a position on the other side
        quantity = max(0.0, min(row.remaining, -side * account.position))
    elif side > 0:
        quantity = min(row.remaining, max(account.cash / (1 + fee) / price, -account.position))
    else:
        quantity = min(row.remaining, _most_to_sell(account, price, fee, terms))
    return _whole(desk, quantity, side, terms)


@compiled
def _most_to_sell(account: Any, price: float, fee: float, terms: Terms) -> float:
    """BTC that may be sold at `price`: what is held and, on margin, as much again as makes the exposure −1."""
    if not terms.short:
        return account.position
    return max(account.position, quantity_to_reach(-1.0, account.cash, account.position, price, SELL, fee))


@compiled
def _whole(desk: Desk, quantity: float, side: int, terms: Terms) -> float:
    """`quantity` in whole steps; to close all but a rounding of sums is to close all, so that no dust stays."""
    held, whole = -side * desk.account[0].position, round_down(quantity, terms.step)
    if held > 0 and terms.step > 0 and whole > 0 and abs(whole - held) <= 1e-14 * held + 1e-6 * terms.step:
        return held
    return whole


@compiled
def _fill(desk: Desk, i: int, time: int, price: float, maker: bool, inside: bool, terms: Terms) -> None:
    """Trade order `i` where the market is at `price` (before slippage), and what follows from it for the other orders."""
    account, row = desk.account[0], desk.book[i]
    side = row.side
    if row.kind == TARGET:
        side = 1 if row.exposure * (account.cash + account.position * price) > account.position * price else -1
    fee_bps = terms.maker_fee_bps if maker else terms.fee_bps
    slip = 0.0 if maker else terms.slip
    at = _bounded(row, fill_price(price, side, slip))
    wanted = _wanted(desk, i, at, side, fee_bps, terms)
    if terms.impact > 0 and not maker and wanted > 0 and account.room > 0:
        # The impact is that of the quantity before impact: a little too much for a buy that it makes smaller, never too little.
        slip = min(MOST_SLIP, slip + terms.impact * (min(wanted, account.room) / account.volume))
        at = _bounded(row, fill_price(price, side, slip))
        wanted = _wanted(desk, i, at, side, fee_bps, terms)
    if row.kind == TARGET:
        rule = _worth_placing(terms, wanted, at) if wanted > 0 else NONE
        if wanted <= 0 or rule != NONE:  # the slippage or the fee exceeds what there was to trade, or it is too little
            least = terms.min_quantity if rule == MIN_QUANTITY else terms.min_value
            have = wanted if rule == MIN_QUANTITY else wanted * at
            end_order(desk, i, time, DONE if rule == NONE else REFUSED, rule, least, have)
            return
    asked, cash = row.remaining, account.cash
    quantity = wanted if wanted <= account.room else _whole(desk, account.room, side, terms)
    if quantity > 0:
        fee = quantity * at * fee_bps / 10_000
        account.room -= quantity
        fill = _trade(desk, time, side, quantity, at, fee)
        fill.key, fill.kind, fill.decided, fill.maker, fill.exposure = (
            row.key,
            row.kind,
            row.decided,
            maker,
            row.exposure,
        )
        row.remaining -= quantity
        account.steered = account.steered and row.kind == TARGET
    if row.kind == TARGET:
        if quantity == wanted:
            end_order(desk, i, time, DONE, NONE, 0.0, 0.0)
    elif quantity == wanted and wanted < round_down(asked, terms.step) * (1 - 1e-9):  # cash or position was not enough
        if side > 0 and not row.protective:
            end_order(desk, i, time, CANCELLED, FUNDS, asked * at * (1 + fee_bps / 10_000), cash)
        else:
            end_order(
                desk, i, time, CANCELLED, MARGIN if terms.short and not row.protective else POSITION, asked, wanted
            )
    elif round_down(row.remaining, terms.step) <= 1e-12 * asked:
        end_order(desk, i, time, DONE, NONE, 0.0, 0.0)
    if quantity > 0:
        _follow(desk, i, time, side, quantity, price, inside, terms)


@compiled
def _trade(desk: Desk, time: int, side: int, quantity: float, at: float, fee: float) -> Any:
    """The account after a fill, and its record, of which the caller says whose it is."""
    account = desk.account[0]
    account.cash = cash_after(account.cash, side, quantity, at, fee)
    account.position += side * quantity
    if abs(account.position) < 1e-12 * quantity:  # rounding of the sums, no position
        account.position = 0.0
    account.fees += fee
    fill = desk.fills[desk.count[1]]
    fill.time, fill.side, fill.quantity, fill.price, fill.fee = time, side, quantity, at, fee
    desk.count[1] += 1
    return fill


@compiled
def _bounded(row: Any, price: float) -> float:
    """`price`, but never worse than the limit of an order that has one."""
    if row.kind not in (LIMIT, STOP_LIMIT):
        return price
    return min(price, row.limit) if row.side > 0 else max(price, row.limit)


@compiled
def _follow(
    desk: Desk, i: int, time: int, side: int, quantity: float, price: float, inside: bool, terms: Terms
) -> None:
    """What a fill of order `i` does to the others: its group and the rest of its parent go, its children become active."""
    account, row = desk.account[0], desk.book[i]
    for j in range(desk.count[0]):
        other = desk.book[j]
        if j == i or not other.alive:
            continue
        if row.group != 0 and other.group == row.group:
            end_order(desk, j, time, CANCELLED, OCO, 0.0, 0.0)
        elif row.child and other.key == row.parent:
            end_order(desk, j, time, CANCELLED, CHILD, 0.0, 0.0)
        elif other.child and other.parent == row.key:
            more = quantity
            if terms.short and other.side == -side:  # it protects what was opened; what only closed needs it not
                more = max(0.0, min(quantity, side * account.position))
            if not np.isnan(other.quantity):
                more = min(other.quantity, other.granted + more) - other.granted
            other.granted += more
            other.remaining += more
            other.protective = other.side * account.position < 0
            if inside:
                other.inside, other.born = True, price
    for j in range(desk.count[0]):
        other = desk.book[j]
        if other.alive and other.protective and other.side * account.position >= 0:
            end_order(desk, j, time, CANCELLED, FLAT, 0.0, 0.0)


@compiled
def _active(row: Any) -> bool:
    return row.alive and row.here and (not row.child or row.remaining > 0)


@compiled
def _is_stop(row: Any) -> bool:
    return row.kind in (STOP, TRAILING_STOP, STOP_LIMIT) and not row.triggered


@compiled
def _is_market(row: Any) -> bool:
    return row.kind in (TARGET, MARKET) or (row.triggered and row.kind != STOP_LIMIT)


@compiled
def _stop_level(row: Any) -> float:
    return row.best * (1 - row.trail if row.side < 0 else 1 + row.trail) if row.kind == TRAILING_STOP else row.stop


@compiled
def _stop_hit(row: Any, price: float) -> bool:
    """Whether a stop is reached at `price`: a sell from above, a buy from below."""
    return price <= _stop_level(row) if row.side < 0 else price >= _stop_level(row)


@compiled
def _profit_level(row: Any) -> float:
    return row.stop if row.kind == TAKE_PROFIT else row.limit


@compiled
def _profit_hit(row: Any, price: float) -> bool:
    """Whether a limit or take-profit is reached at `price`: a sell from below, a buy from above."""
    return price >= _profit_level(row) if row.side < 0 else price <= _profit_level(row)


@compiled
def _touch(desk: Desk, i: int, time: int, price: float, inside: bool, terms: Terms) -> None:
    """Order `i` is triggered with the market at `price`: it trades there, a stop-limit only if its limit allows."""
    row = desk.book[i]
    row.triggered = True
    _say(desk, time, row.key, TRIGGERED, NONE, _stop_level(row), price)
    if row.kind == STOP_LIMIT and not _profit_hit(row, price):
        row.inside = inside  # whether the market came back to the limit afterwards, the bar does not say
    else:
        _fill(desk, i, time, price, False, inside, terms)


@compiled
def _at_open(desk: Desk, i: int, time: int, open_: float, terms: Terms) -> None:
    row = desk.book[i]
    if row.kind == TRAILING_STOP:  # the open is the bar's first price: it can be the best so far without looking ahead
        better = np.isnan(row.best) or (open_ > row.best if row.side < 0 else open_ < row.best)
        row.best = open_ if better else row.best
    if _is_market(row):
        _fill(desk, i, time, open_, False, False, terms)
    elif _is_stop(row):
        if _stop_hit(row, open_):
            _touch(desk, i, time, open_, False, terms)
    elif _profit_hit(row, open_):
        if row.kind == TAKE_PROFIT:
            _touch(desk, i, time, open_, False, terms)
        else:
            _fill(desk, i, time, row.limit if row.rested else open_, row.rested, False, terms)


@compiled
def _arrive(desk: Desk, time: int) -> None:
    """What reaches the market, or leaves it, before the bar opens."""
    for i in range(desk.count[0]):
        row = desk.book[i]
        row.inside, row.here = False, row.wait == 0
        if not row.alive:
            continue
        if row.ends == 0:
            end_order(desk, i, time, CANCELLED, USER, 0.0, 0.0)
        elif row.lifetime == GTD and time >= row.expires:
            end_order(desk, i, time, EXPIRED, NONE, 0.0, 0.0)
        row.ends = max(-1, row.ends - 1)
        if row.wait > 0:
            row.wait -= 1
            continue
        for j in range(i):
            earlier = desk.book[j]
            if not row.alive or not earlier.alive:
                continue
            if row.replaces != 0 and earlier.key == row.replaces:
                take_place(desk, i, j, time)
            elif row.kind == TARGET and earlier.kind == TARGET:
                end_order(desk, j, time, CANCELLED, NONE, 0.0, 0.0)
        if row.alive and row.replaces != 0:  # it filled, or ended, while its replacement was under way
            end_order(desk, i, time, CANCELLED, REPLACEE, 0.0, 0.0)


@compiled
def take_place(desk: Desk, i: int, j: int, time: int) -> None:
    """Order `i` takes the place of order `j`, which ends; its children become those of `i`."""
    end_order(desk, j, time, REPLACED, NONE, 0.0, 0.0)
    old, key = desk.book[j].key, desk.book[i].key
    for k in range(desk.count[0]):
        if desk.book[k].parent == old:
            desk.book[k].parent = key
    desk.book[i].replaces = 0
    desk.book[j] = desk.book[i]
    desk.book[i].alive = False


@compiled
def tidy(desk: Desk, time: int) -> None:
    """End the children whose parent ended without a fill, and take what has ended out of the book."""
    kept, book = 0, desk.book
    for i in range(desk.count[0]):
        row = book[i]
        if row.alive and row.parent != 0:
            there = False
            for j in range(kept):  # a parent is placed before its children
                there = there or book[j].key == row.parent
            if not there:
                row.parent = 0
                if row.granted == 0:
                    end_order(desk, i, time, CANCELLED, PARENT, 0.0, 0.0)
        if row.alive:
            if kept < i:
                book[kept] = book[i]
            kept += 1
    desk.count[0] = kept


@compiled
def _pay_interest(account: Any, elapsed: int, close: float, terms: Terms) -> None:
    """For what was sold short at the last `close`, `elapsed` ns ago."""
    paid = -account.position * close * terms.interest * elapsed
    account.cash -= paid
    account.interest += paid


@compiled
def _call_level(account: Any, terms: Terms) -> float:
    """The price from which on a margin call comes; infinite where nothing is sold short.

    Equity is cash − short × price; it is `maintenance` × short × price where the price is cash / ((1 + maintenance) × short).
    """
    return account.cash / ((1 + terms.maintenance) * -account.position) if account.position < 0 else np.inf


@compiled
def _call(desk: Desk, time: int, open_: float, high: float, opening: bool, terms: Terms) -> None:
    """A margin call, if the price has risen so far: the lender buys back what was sold short, and cancels the orders.

    At the open (`opening`) a target that fills there and sells nothing short stays, with its bracket. The lender waits for no
    volume, which is why there is no impact. A gap may cost more than the cash: then the account owes the rest.
    """
    account, level = desk.account[0], _call_level(desk.account[0], terms)
    if high < level:
        return
    quantity, price = -account.position, max(level, open_)
    _say(desk, time, 0, TRIGGERED, CALLED, level, price)
    for i in range(desk.count[0]):
        row, kept = desk.book[i], False
        for j in range(i + 1):  # a parent is placed before its children
            other = desk.book[j]
            own = j == i or (row.child and row.parent == other.key)
            kept = kept or (own and other.alive and other.kind == TARGET and other.exposure >= 0 and other.wait == 0)
        if row.alive and not (opening and kept):
            end_order(desk, i, time, CANCELLED, CALLED, level, price)
    at = fill_price(price, BUY, terms.slip)
    fill = _trade(desk, time, BUY, quantity, at, quantity * at * terms.fee_bps / 10_000)
    fill.key, fill.kind, fill.decided, fill.maker, fill.exposure = 0, MARGIN_CALL, time, False, np.nan
    _say(desk, time, 0, DONE, NONE, 0.0, 0.0)
    account.steered = False


@compiled
def match(
    desk: Desk,
    time: int,
    open_: float,
    high: float,
    low: float,
    close: float,
    volume: float,
    before: int,
    last: float,
    terms: Terms,
) -> None:
    """Walk one bar: fill, trigger, expire and cancel the open orders of `desk`; the bar `before` closed at `last`."""
    account, book, n = desk.account[0], desk.book, desk.count[0]
    if n == 0 and account.position >= 0:
        return
    account.volume, account.room = volume, np.inf
    if terms.participation < np.inf:
        account.room = round_down(terms.participation * volume, terms.step)
    elif terms.impact > 0 and volume <= 0:
        account.room = 0.0  # nothing was traded, so that nothing can be said of a price
    if account.position < 0:
        _pay_interest(account, time - before, last, terms)
        _call(desk, time, open_, open_, True, terms)
    _arrive(desk, time)
    for i in range(n):
        if _active(book[i]):
            _at_open(desk, i, time, open_, terms)
    _stops(desk, n, time, open_, high, low, terms)
    _call(desk, time, open_, high, False, terms)
    for i in range(n):
        if _active(book[i]) and not book[i].inside and not _is_stop(book[i]) and not _is_market(book[i]):
            _profit_within(desk, i, time, high, low, terms)
    for i in range(n):
        if _active(book[i]) and book[i].inside and _is_stop(book[i]):
            _woken_within(desk, i, time, open_, high, low, terms)
    _call(desk, time, open_, high, False, terms)
    _after(desk, time, high, low, close)
    tidy(desk, time)


@compiled
def _stops(desk: Desk, n: int, time: int, open_: float, high: float, low: float, terms: Terms) -> None:
    """The stops in the range; those on the way to a margin call come before it, wherever they stand in the book."""
    account, book = desk.account[0], desk.book
    for i in range(n):
        beyond = book[i].side > 0 and _stop_level(book[i]) > _call_level(account, terms)
        if _active(book[i]) and not book[i].inside and _is_stop(book[i]) and not beyond:
            _stop_within(desk, i, time, open_, high, low, terms)
    for i in range(n):
        if _active(book[i]) and not book[i].inside and _is_stop(book[i]):
            _stop_within(desk, i, time, open_, high, low, terms)


@compiled
def _stop_within(desk: Desk, i: int, time: int, open_: float, high: float, low: float, terms: Terms) -> None:
    row = desk.book[i]
    if _stop_hit(row, low if row.side < 0 else high):
        if row.side > 0 and _stop_level(row) > _call_level(desk.account[0], terms):  # the price comes by the call first
            _call(desk, time, open_, high, False, terms)
            return
        _touch(desk, i, time, _stop_level(row), True, terms)


@compiled
def _profit_within(desk: Desk, i: int, time: int, high: float, low: float, terms: Terms) -> None:
    row = desk.book[i]
    if not _profit_hit(row, high if row.side < 0 else low):
        return
    if row.kind == TAKE_PROFIT:
        _touch(desk, i, time, row.stop, True, terms)
    else:
        _fill(desk, i, time, row.limit, True, True, terms)


@compiled
def _woken_within(desk: Desk, i: int, time: int, open_: float, high: float, low: float, terms: Terms) -> None:
    """The stop of a bracket whose parent filled within this bar, with the market at `born`."""
    row = desk.book[i]
    row.best = row.born if np.isnan(row.best) else row.best
    if _stop_hit(row, row.born):  # the market was beyond it already
        _touch(desk, i, time, row.born, True, terms)
    else:
        _stop_within(desk, i, time, open_, high, low, terms)


@compiled
def _after(desk: Desk, time: int, high: float, low: float, close: float) -> None:
    """At the close: trailing stops see the bar's best price, orders for one bar end, the others have rested."""
    for i in range(desk.count[0]):
        row = desk.book[i]
        if not _active(row):
            continue
        if row.kind == TRAILING_STOP:
            # Only now: with the high first and the low after it, the stop would fill nearer to the high than it may have.
            seen = (
                close if row.inside else (high if row.side < 0 else low)
            )  # what came before its parent does not count
            row.best = max(row.best, seen) if row.side < 0 else min(row.best, seen)
        if row.inside and row.child and not row.rested:
            continue
        row.rested = True
        if row.lifetime == IOC:
            end_order(desk, i, time, CANCELLED, ONCE, row.remaining, 0.0)


@compiled
def decide(desk: Desk, time: int, close: float, target: float, band: float, wait: int, key: int) -> None:
    """Place the target order that the close of a bar gives rise to, if any.

    `target` is the exposure wanted from now on (NaN: no opinion, keep the last one). There is an order when it differs from
    the last one; with `band` (NaN: none) also when the holding has drifted from it by more than that fraction of equity,
    unless a target order is under way already or another order has traded since: then the drift was wanted.
    """
    account = desk.account[0]
    wanted = account.target if np.isnan(target) else target
    if wanted == account.target:
        if np.isnan(band) or not account.steered:
            return
        for i in range(desk.count[0]):
            if desk.book[i].kind == TARGET:
                return
        equity = account.cash + account.position * close
        drift = abs(account.position * close / equity - wanted) if equity > 0 else 0.0
        if not drift > band:
            return
    account.target, account.steered = wanted, True
    row = desk.book[desk.count[0]]
    desk.count[0] += 1
    row.key, row.kind, row.side, row.lifetime, row.group, row.parent = key, TARGET, 0, GTC, 0, 0
    row.decided, row.expires, row.wait, row.ends, row.replaces = time, 0, wait, -1, 0
    row.exposure = wanted
    row.quantity = row.limit = row.stop = row.trail = row.best = np.nan
    row.remaining, row.granted, row.born = 0.0, 0.0, 0.0
    row.child, row.protective, row.triggered, row.rested = False, False, False, False
    row.alive, row.here, row.inside = True, False, False


@compiled
def place(desk: Desk, order: Any, time: int, close: float, terms: Terms) -> None:
    """Put `order` (a row) into the book, or refuse it; `close` is the last price, NaN before the first bar."""
    account = desk.account[0]
    rule, need, have = NONE, 0.0, 0.0
    if order.child:
        rule = UNKNOWN
        for i in range(desk.count[0]):
            rule = NONE if desk.book[i].key == order.parent else rule
    elif order.kind == TARGET:
        account.steered = False  # placed by hand: the band does not undo it
    else:
        price = order.limit if order.kind in (LIMIT, STOP_LIMIT) else order.stop
        price = close if order.kind in (MARKET, TRAILING_STOP) else price
        rule = _worth_placing(terms, round_down(order.quantity, terms.step), price)
        if rule == NONE and terms.step > 0 and round_down(order.quantity, terms.step) == 0:
            rule = MIN_QUANTITY
        need = max(terms.min_quantity, terms.step) if rule == MIN_QUANTITY else terms.min_value
        have = order.quantity if rule == MIN_QUANTITY else order.quantity * price
        if rule == NONE and order.kind in (STOP, STOP_LIMIT, TAKE_PROFIT):
            at_once = _profit_hit(order, close) if order.kind == TAKE_PROFIT else _stop_hit(order, close)
            if at_once:
                rule, need, have = WRONG_SIDE, order.stop, close
        slip = 0.0 if order.kind in (LIMIT, STOP_LIMIT) else terms.slip
        fee = terms.fee_bps / 10_000
        if rule == NONE and order.side > 0:
            need, have = order.quantity * (price * (1 + slip)) * (1 + fee), account.cash
            rule = FUNDS if need > have * (1 + 1e-9) and order.quantity > -account.position else NONE
        elif rule == NONE:
            need, have = order.quantity, _most_to_sell(account, price * (1 - slip), fee, terms)
            short = MARGIN if terms.short else POSITION
            rule = short if need > have * (1 + 1e-9) else NONE
    if rule != NONE:
        _say(desk, time, order.key, REFUSED, rule, need, have)
        return
    desk.book[desk.count[0]] = order
    row = desk.book[desk.count[0]]
    desk.count[0] += 1
    row.alive, row.ends, row.best, row.granted = True, -1, np.nan, 0.0
    row.quantity = round_down(order.quantity, terms.step)
    row.remaining = 0.0 if order.child or order.kind == TARGET else row.quantity
    _say(desk, time, order.key, ACCEPTED, NONE, 0.0, 0.0)


# Many bars


@compiled
def _longer(log: Any, more: int) -> Any:
    longer = np.zeros(2 * len(log) + more, log.dtype)
    longer[: len(log)] = log
    return longer


@compiled
def _with_room(desk: Desk, orders: int) -> Desk:
    """`desk`, or one with longer logs, in which so many orders can do all that they may do in a bar."""
    book, fills, events, count = desk.book, desk.fills, desk.events, desk.count
    if orders > len(book):
        book = _longer(book, orders)
    if count[1] + orders + 1 > len(fills):  # one more for a margin call
        fills = _longer(fills, orders + 1)
    if count[2] + 4 * orders + 2 > len(events):
        events = _longer(events, 4 * orders + 2)
    return Desk(desk.account, book, fills, events, count)


@compiled
def walk(
    desk: Desk, times: Any, prices: Any, targets: Any, band: float, rows: Any, first: Any, wait: int, terms: Terms
) -> Any:
    """Every bar of `prices` [open high low close volume, bar]: match, decide on `targets` [bar], place `rows`.

    `rows` are the orders, those of bar i being first[i] … first[i + 1]. A target order of bar i has the key −1 − i. Returns
    equity and position at each close, and the desk.
    """
    n = len(times)
    equity, position = np.empty(n), np.empty(n)
    account, count, banded = desk.account, desk.count, not np.isnan(band)
    for i in range(n):
        time, close, target = times[i], prices[3, i], targets[i]
        new = first[i + 1] - first[i]
        decides = banded or not (np.isnan(target) or target == account[0].target)
        if count[0] + new > 0 or decides or account[0].position < 0:  # on most bars there is nothing to call
            desk = _with_room(desk, count[0] + 1 + new)
            before, last = (times[i - 1], prices[3, i - 1]) if i > 0 else (time, close)
            match(desk, time, prices[0, i], prices[1, i], prices[2, i], close, prices[4, i], before, last, terms)
            decide(desk, time, close, target, band, wait, -1 - i)
            for j in range(first[i], first[i + 1]):
                place(desk, rows[j], time, close, terms)
        equity[i] = account[0].cash + account[0].position * close
        position[i] = account[0].position
    return equity, position, desk
