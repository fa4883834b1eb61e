"""Each rule of `docs/orders.md`. Bars are open, high, low, close; the last close before them is 100, prices are free of cost."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from btclab.errors import InputError
from btclab.records import Bar, Costs, Fill, Market, Order
from btclab.trading.engine import Account, Conditions, State, cancel, decide, replace, simulate, step, submit
from tests.trading.reference import accounts, all_costs, all_markets

FREE = Costs(0, 0)
DEAR = Costs(fee_bps=100, slippage_bps=100)  # 1 % each
NAN = math.nan
RICH = 1_000_000.0  # of cash


def flat(price, timestamp=1):
    return Bar(timestamp, price, price, price, price)


def order(kind, side, quantity=1.0, name="a", **more):
    return Order(0, id=name, kind=kind, side=side, quantity=quantity, **more)


def account(cash=RICH, position=10.0):
    return State(cash, position, bar=flat(100.0, 0))


def fills_of(orders, *bars, start=None, costs=FREE, market=None, latency=0):
    """(bar, order, quantity, price) of each fill; a quantity is negative for a sale. Bars: (open, high, low, close[, volume])."""
    return played(orders, *bars, start=start, costs=costs, market=market, latency=latency)[1]


def played(orders, *bars, start=None, costs=FREE, market=None, latency=0):
    state, fills, events = start or account(), [], []
    conditions = Conditions(costs, market or Market(), latency)
    for number, prices in enumerate(bars, 1):
        state, filled, said = step(state, Bar(number, *prices), orders if number == 1 else (), conditions)
        fills += [(number, f.order, f.quantity if f.side == "buy" else -f.quantity, f.price) for f in filled]
        events += said
    return state, fills, events


def ends(events):
    """(order, event, rule) of what is more than an acceptance."""
    return [(one.order, one.event, one.rule) for one in events if one.event not in ("accepted", "triggered", "done")]


# The target order: what the backtest of an exposure is made of


def target(exposure):
    return Order(0, exposure, "t")


def one_target(start, bar, exposure, costs=FREE):
    state, fills, _ = step(start, bar, [target(exposure)], Conditions(costs))
    return state.account, fills


def test_a_target_fills_at_the_open_of_the_bar_after_its_decision():
    bar = Bar(timestamp=2, open=100.0, high=180.0, low=50.0, close=150.0)
    _, fills = one_target(State(1000.0, bar=flat(100.0, 1)), bar, 1.0)
    assert fills == [Fill(2, "buy", 10.0, 100.0, 0.0, decided=0, exposure=1.0, order="t", reason="target")]


def test_a_buy_pays_slippage_and_fee():
    after, (fill,) = one_target(State(1020.1), flat(100.0), 1.0, DEAR)
    assert fill.price == pytest.approx(101.0)
    assert fill.quantity == pytest.approx(10.0)
    assert fill.fee == pytest.approx(10.1)  # 1 % of what was traded at the fill price
    assert after == Account(0.0, fill.quantity)


def test_a_sell_pays_slippage_and_fee():
    after, (fill,) = one_target(State(0.0, 10.0), flat(100.0), 0.0, DEAR)
    assert fill.price == pytest.approx(99.0)
    assert fill.fee == pytest.approx(9.9)
    assert after.position == 0.0
    assert after.cash == pytest.approx(990 - 9.9)


def test_without_an_order_nothing_changes():
    state, fills, events = step(State(12.0, 3.0), flat(50.0), (), Conditions(DEAR))
    assert (state.account, fills, events) == (Account(12.0, 3.0), [], [])


@pytest.mark.parametrize(
    ("start", "exposure"),
    [
        pytest.param(State(1000.0), 0.0, id="nothing to sell"),
        pytest.param(State(0.0, 10.0), 1.0, id="no cash to buy with"),
        pytest.param(State(500.0, 5.0), 0.5, id="there already"),
        pytest.param(State(500.0, 5.0), 0.501, id="slippage of the buy exceeds what is missing"),
        pytest.param(State(500.0, 5.0), 0.499, id="slippage of the sale exceeds what is too much"),
    ],
)
def test_a_target_with_nothing_to_trade_gives_no_fill(start, exposure):
    state, fills, _ = step(start, flat(100.0), [target(exposure)], Conditions(DEAR))
    assert (state.account, fills, state.orders) == (start.account, [], ())


def test_the_exposure_is_of_the_equity_at_the_fill_not_at_the_decision():
    after, _ = one_target(State(500.0, 5.0), flat(200.0), 0.5)  # half and half at 100, two thirds at 200
    assert after.position * 200 == pytest.approx(750.0)
    assert after.cash == pytest.approx(750.0)


def test_a_step_never_changes_the_state_it_came_from():
    start = dataclasses.replace(account(), orders=submit(account(), order("limit", "buy", limit=90.0))[0].orders)
    before = start.to_dict()
    step(start, Bar(1, 100.0, 100.0, 80.0, 80.0), [order("market", "buy", name="b")])
    decide(start, 0.5, None)
    cancel(start, "a")
    assert start.to_dict() == before


def test_a_later_target_takes_the_place_of_one_that_has_not_filled():
    fills = fills_of([target(1.0), dataclasses.replace(target(0.0), id="u")], (100, 100, 100, 100))
    assert fills == [(1, "u", -10.0, 100.0)]


# Deciding


def decided(state, wanted, band):
    orders = decide(state, wanted, band).orders
    return [(one.order.decided, one.order.exposure) for one in orders]


def test_a_changed_target_gives_an_order_stamped_with_the_deciding_bar():
    assert decided(State(1000.0, bar=flat(100.0, 7)), 1.0, None) == [(7, 1.0)]


def test_an_unchanged_target_gives_no_order():
    assert decided(State(0.0, 10.0, 1.0, bar=flat(100.0)), 1.0, None) == []


def test_a_missing_target_gives_no_order():
    assert decided(State(0.0, 10.0, 1.0, bar=flat(100.0)), None, None) == []


def test_without_a_band_drift_gives_no_order():
    assert decided(State(500.0, 5.0, 0.5, bar=flat(900.0)), 0.5, None) == []


@pytest.mark.parametrize("wanted", [0.5, None])
def test_drift_beyond_the_band_gives_an_order_for_the_target_in_force(wanted):
    # 5 BTC at 200 beside 500: 66.7 % held instead of 50 %
    assert decided(State(500.0, 5.0, 0.5, bar=flat(200.0, 7)), wanted, 0.1) == [(7, 0.5)]


def test_drift_within_the_band_gives_no_order():
    assert decided(State(500.0, 5.0, 0.5, bar=flat(200.0)), 0.5, 0.2) == []


def test_drift_is_measured_at_the_close():
    bar = Bar(1, open=100.0, high=200.0, low=100.0, close=200.0)
    assert decided(State(500.0, 5.0, 0.5, bar=bar), 0.5, 0.1) == [(1, 0.5)]


def test_a_changed_target_inside_the_band_is_still_an_order():
    assert decided(State(500.0, 5.0, 0.5, bar=flat(100.0)), 0.51, 0.2) == [(1, 0.51)]


def test_an_empty_account_has_no_drift():
    assert decided(State(0.0, 0.0, 0.5, bar=flat(100.0)), 0.5, 0.1) == []


def test_the_band_leaves_alone_what_another_order_has_traded():
    """A stop has sold: the account is far from its target, and on purpose."""
    start = State(500.0, 5.0, 0.5, bar=flat(100.0, 0))
    state, fills, _ = step(start, flat(80.0), [order("stop", "sell", 5.0, stop=90.0)], Conditions(FREE))
    assert len(fills) == 1
    assert decided(state, 0.5, 0.1) == []
    assert decided(state, 0.4, 0.1) == [(1, 0.4)]


# Market


def test_a_market_order_fills_at_the_next_open():
    assert fills_of([order("market", "buy")], (103, 110, 90, 95)) == [(1, "a", 1.0, 103.0)]


# Limit


@pytest.mark.parametrize(("side", "limit", "sign"), [("buy", 95.0, 1), ("sell", 105.0, -1)])
def test_a_limit_fills_at_its_price_when_the_range_touches_it(side, limit, sign):
    bars = [(100, 104, 96, 100), (100, 105, 95, 100)]
    assert fills_of([order("limit", side, limit=limit)], *bars) == [(2, "a", sign, limit)]


@pytest.mark.parametrize(("side", "limit", "open_"), [("buy", 95.0, 92.0), ("sell", 105.0, 108.0)])
def test_a_gap_through_a_limit_that_rested_fills_at_the_limit_for_it_was_in_the_book(side, limit, open_):
    bars = [(100, 100, 100, 100), (open_, 110, 90, 100)]
    assert fills_of([order("limit", side, limit=limit)], *bars)[0][3] == limit


@pytest.mark.parametrize(("side", "limit", "price"), [("buy", 105.0, 101.0), ("sell", 95.0, 99.0)])
def test_a_limit_on_the_wrong_side_is_marketable_and_takes_the_open(side, limit, price):
    (fill,) = step(account(), flat(100.0), [order("limit", side, limit=limit)], Conditions(DEAR))[1]
    assert fill.price == pytest.approx(price)
    assert not fill.maker


def test_slippage_never_makes_a_limit_worse_than_it_is():
    costs = Costs(0, slippage_bps=500)
    assert fills_of([order("limit", "buy", limit=101.0)], (100, 100, 100, 100), costs=costs)[0][3] == 101.0


def test_a_limit_that_rested_pays_the_maker_fee_and_no_slippage():
    state = account()
    costs = Conditions(Costs(fee_bps=100, slippage_bps=100, maker_fee_bps=20))
    (fill,) = step(state, Bar(1, 100.0, 100.0, 90.0, 90.0), [order("limit", "buy", limit=95.0)], costs)[1]
    assert (fill.price, fill.maker) == (95.0, True)
    assert fill.fee == pytest.approx(95.0 * 0.002)


# Stop


@pytest.mark.parametrize(("side", "stop", "sign"), [("sell", 95.0, -1), ("buy", 105.0, 1)])
def test_a_stop_fills_at_its_price_when_the_range_touches_it(side, stop, sign):
    bars = [(100, 104, 96, 100), (100, 105, 95, 100)]
    assert fills_of([order("stop", side, stop=stop)], *bars) == [(2, "a", sign, stop)]


@pytest.mark.parametrize(("side", "stop", "open_"), [("sell", 95.0, 90.0), ("buy", 105.0, 108.0)])
def test_a_gap_through_a_stop_fills_at_the_open_which_is_worse(side, stop, open_):
    assert fills_of([order("stop", side, stop=stop)], (open_, 110, 88, 100))[0][3] == open_


def test_a_stop_is_a_taker_with_slippage():
    (fill,) = step(account(), Bar(1, 100.0, 100.0, 90.0, 90.0), [order("stop", "sell", stop=95.0)], Conditions(DEAR))[1]
    assert fill.price == pytest.approx(95.0 * 0.99)
    assert (fill.maker, fill.reason) == (False, "stop")


def test_inside_one_bar_the_stop_fills_before_the_target():
    pair = [order("take_profit", "sell", 10.0, "target", stop=105.0), order("stop", "sell", 10.0, "stop", stop=95.0)]
    state, fills, events = played(pair, (100, 110, 90, 100))
    assert fills == [(1, "stop", -10.0, 95.0)]
    assert ends(events) == [("target", "cancelled", "insufficient_position")]
    assert state.position == 0


# Stop-limit


def test_a_stop_limit_fills_at_its_stop_where_its_limit_allows():
    stop = order("stop_limit", "sell", stop=95.0, limit=94.0)
    assert fills_of([stop], (100, 100, 90, 90)) == [(1, "a", -1.0, 95.0)]


def test_a_gap_beyond_the_limit_leaves_a_stop_limit_resting_until_the_price_comes_back():
    stop = order("stop_limit", "sell", stop=95.0, limit=94.0)
    assert fills_of([stop], (90, 93, 88, 90), (90, 96, 90, 90)) == [(2, "a", -1.0, 94.0)]


def test_after_a_gap_the_same_bar_may_come_back_to_the_limit():
    stop = order("stop_limit", "sell", stop=95.0, limit=94.0)
    assert fills_of([stop], (90, 96, 88, 90)) == [(1, "a", -1.0, 94.0)]


def test_a_limit_better_than_the_stop_fills_in_a_later_bar_at_the_earliest():
    """Whether the high came after the touch, the bar does not say."""
    stop = order("stop_limit", "sell", stop=95.0, limit=99.0)
    assert fills_of([stop], (97, 105, 95, 96), (96, 99, 96, 96)) == [(2, "a", -1.0, 99.0)]


# Take-profit


@pytest.mark.parametrize(("side", "stop", "sign"), [("sell", 105.0, -1), ("buy", 95.0, 1)])
def test_a_take_profit_becomes_a_market_order_at_its_price(side, stop, sign):
    (fill,) = step(
        account(), Bar(1, 100.0, 110.0, 90.0, 100.0), [order("take_profit", side, stop=stop)], Conditions(DEAR)
    )[1]
    assert fill.price == pytest.approx(stop * (1 + 0.01 * sign))
    assert not fill.maker


def test_a_gap_through_a_take_profit_fills_at_the_open_which_is_better():
    assert fills_of([order("take_profit", "sell", stop=105.0)], (108, 110, 90, 100))[0][3] == 108.0


# Trailing stop


def test_a_trailing_stop_follows_the_high_of_the_bars_before():
    trail = order("trailing_stop", "sell", trail=0.1)
    bars = [(100, 120, 100, 120), (119, 119, 107, 110)]
    assert fills_of([trail], *bars) == [(2, "a", -1.0, pytest.approx(108.0))]


def test_the_high_of_a_bar_counts_only_after_it():
    """Best 100 at the open, so that 90 is the stop, not 108 of the high; the next bar opens below 108."""
    trail = order("trailing_stop", "sell", trail=0.1)
    assert fills_of([trail], (100, 120, 95, 100), (100, 100, 100, 100)) == [(2, "a", -1.0, 100.0)]


def test_the_open_is_the_first_price_of_a_bar_and_counts_at_once():
    trail = order("trailing_stop", "sell", trail=0.1)
    assert fills_of([trail], (100, 100, 100, 100), (120, 120, 107, 120)) == [(2, "a", -1.0, pytest.approx(108.0))]


def test_a_trailing_stop_never_falls_back():
    trail = order("trailing_stop", "sell", trail=0.1)
    bars = [(100, 120, 100, 112), (112, 112, 109, 109), (109, 109, 107, 107)]
    assert fills_of([trail], *bars) == [(3, "a", -1.0, pytest.approx(108.0))]


def test_a_trailing_buy_follows_the_low():
    trail = order("trailing_stop", "buy", trail=0.1)
    assert fills_of([trail], (100, 100, 80, 80), (80, 90, 80, 90)) == [(2, "a", 1.0, pytest.approx(88.0))]


# OCO


def test_the_first_fill_of_a_group_cancels_the_others():
    pair = [
        order("stop", "sell", name="s", stop=95.0, group="g"),
        order("limit", "sell", name="l", limit=105.0, group="g"),
    ]
    state, fills, events = played(pair, (100, 106, 99, 100), (100, 106, 90, 100))
    assert fills == [(1, "l", -1.0, 105.0)]
    assert ends(events) == [("s", "cancelled", "oco")]
    assert state.orders == ()


# Brackets


def bracket(parent, stop=95.0, profit=105.0):
    own = {"name": "stop", "parent": "p", "group": "exit"}, {"name": "profit", "parent": "p", "group": "exit"}
    return [
        parent,
        order("stop", "sell", NAN, stop=stop, **own[0]),
        order("take_profit", "sell", NAN, stop=profit, **own[1]),
    ]


CASH = State(RICH, bar=flat(100.0, 0))
AT_OPEN = order("market", "buy", 2.0, "p")
INSIDE = order("limit", "buy", 2.0, "p", limit=98.0)


def test_children_sleep_until_their_parent_fills():
    bars = [(100, 110, 99, 100), (100, 100, 97, 97), (97, 106, 97, 106)]
    assert fills_of(bracket(INSIDE), *bars, start=CASH) == [(2, "p", 2.0, 98.0), (3, "profit", -2.0, 105.0)]


def test_a_parent_that_fills_at_the_open_has_its_children_active_over_the_whole_bar():
    assert fills_of(bracket(AT_OPEN), (100, 106, 99, 100), start=CASH)[1:] == [(1, "profit", -2.0, 105.0)]
    assert fills_of(bracket(AT_OPEN), (100, 106, 94, 100), start=CASH)[1:] == [(1, "stop", -2.0, 95.0)]


def test_a_parent_that_fills_inside_may_be_stopped_in_the_same_bar():
    assert fills_of(bracket(INSIDE), (100, 106, 94, 100), start=CASH) == [(1, "p", 2.0, 98.0), (1, "stop", -2.0, 95.0)]


def test_a_parent_that_fills_inside_takes_no_profit_in_the_same_bar():
    """The high may have come before the fill."""
    state, fills, _ = played(bracket(INSIDE), (100, 106, 97, 100), start=CASH)
    assert fills == [(1, "p", 2.0, 98.0)]
    assert [one.order.id for one in state.orders] == ["stop", "profit"]


def test_a_stop_beyond_its_parents_fill_cannot_have_its_own_price():
    assert fills_of(bracket(INSIDE, stop=99.0), (100, 100, 97, 97), start=CASH)[1] == (1, "stop", -2.0, 98.0)


def test_a_trailing_stop_that_its_parent_woke_inside_a_bar_sees_only_its_close():
    """Filled at 98; the high of 110 may be older. Best is the close 104: the stop lies at 93.6, not at 99."""
    trail = order("trailing_stop", "sell", NAN, "trail", trail=0.1, parent="p")
    bars = [(100, 110, 97, 104), (104, 104, 95, 100), (100, 100, 93, 93)]
    assert fills_of([INSIDE, trail], *bars, start=CASH)[1:] == [(3, "trail", -2.0, pytest.approx(93.6))]


def test_a_child_trades_what_its_parent_filled_or_less_if_it_says_so():
    half = order("stop", "sell", 0.5, "half", stop=95.0, parent="p")
    rest = order("stop", "sell", NAN, "rest", stop=90.0, parent="p")
    fills = fills_of([AT_OPEN, half, rest], (100, 100, 94, 94), start=CASH)
    assert fills[1:] == [(1, "half", -0.5, 95.0)]


def test_children_of_a_parent_that_never_filled_end_with_it():
    _, _, events = played(bracket(dataclasses.replace(INSIDE, lifetime="ioc")), (100, 100, 99, 100), start=CASH)
    assert ends(events) == [
        ("p", "cancelled", "ioc"),
        ("stop", "cancelled", "parent"),
        ("profit", "cancelled", "parent"),
    ]


def test_a_child_that_fills_ends_what_is_left_of_its_parent():
    """Half of the entry has filled under the cap when the profit is taken: the other half would come in unprotected."""
    bars = [(100, 100, 97, 99, 2.0), (100, 106, 99, 105, 20.0)]
    _, fills, events = played(bracket(INSIDE), *bars, start=CASH, costs=Costs(0, 0, participation=0.5))
    assert fills == [(1, "p", 1.0, 98.0), (2, "profit", -1.0, 105.0)]
    assert ends(events) == [("p", "cancelled", "child"), ("stop", "cancelled", "oco")]


def test_when_the_position_is_gone_the_orders_that_protected_it_go():
    state, _, events = played(
        [*bracket(AT_OPEN), order("stop", "buy", name="entry", stop=120.0)], (100, 100, 100, 100), start=CASH
    )
    state, fills, events = step(state, flat(100.0, 2), [Order(1, 0.0, "out")], Conditions(FREE))
    assert [fill.order for fill in fills] == ["out"]
    assert ends(events) == [("stop", "cancelled", "flat"), ("profit", "cancelled", "flat")]
    assert [one.order.id for one in state.orders] == ["entry"]


def test_a_target_order_can_be_a_parent():
    state = decide(CASH, 0.5, None)
    stop = dataclasses.replace(bracket(AT_OPEN)[1], parent="target-0")
    state, fills, _ = step(state, Bar(1, 100.0, 100.0, 94.0, 94.0), [stop], Conditions(FREE))
    assert [(fill.order, fill.price) for fill in fills] == [("target-0", 100.0), ("stop", 95.0)]
    assert state.position == 0


# Lifetimes


def test_an_order_until_a_time_is_gone_in_the_bar_that_opens_then():
    short = order("limit", "buy", limit=95.0, lifetime="gtd", expires=2)
    _, fills, events = played([short], (100, 100, 96, 100), (100, 100, 90, 100))
    assert (fills, ends(events)) == ([], [("a", "expired", "")])


def test_an_order_until_a_time_may_fill_in_the_bar_before():
    short = order("limit", "buy", limit=95.0, lifetime="gtd", expires=2)
    assert len(fills_of([short], (100, 100, 95, 100))) == 1


def test_immediate_or_cancel_has_one_bar():
    _, fills, events = played(
        [order("limit", "buy", limit=95.0, lifetime="ioc")], (100, 100, 96, 100), (90, 90, 90, 90)
    )
    assert (fills, ends(events)) == ([], [("a", "cancelled", "ioc")])


# Volume


def test_the_cap_fills_a_share_of_the_volume_and_the_rest_stays():
    bars = [(100, 100, 100, 100, 8.0), (101, 101, 101, 101, 8.0), (102, 102, 102, 102, 8.0)]
    fills = fills_of([order("market", "buy", 5.0)], *bars, costs=Costs(0, 0, participation=0.25))
    assert fills == [(1, "a", 2.0, 100.0), (2, "a", 2.0, 101.0), (3, "a", 1.0, 102.0)]


def test_the_rest_of_an_immediate_order_does_not_stay():
    ioc = order("market", "buy", 5.0, lifetime="ioc")
    state, fills, events = played([ioc], (100, 100, 100, 100, 8.0), costs=Costs(0, 0, participation=0.25))
    assert fills == [(1, "a", 2.0, 100.0)]
    assert "3" in events[-1].text
    assert state.orders == ()


def test_all_orders_of_a_bar_share_its_volume():
    orders = [order("market", "buy", 1.5, "a"), order("market", "buy", 1.5, "b")]
    fills = fills_of(orders, (100, 100, 100, 100, 4.0), costs=Costs(0, 0, participation=0.5))
    assert [(name, quantity) for _, name, quantity, _ in fills] == [("a", 1.5), ("b", 0.5)]


def test_what_the_cap_leaves_of_a_stop_is_a_market_order():
    """The stop was touched: it does not wait to be touched again."""
    bars = [(100, 100, 94, 94, 4.0), (99, 99, 99, 99, 4.0)]
    fills = fills_of([order("stop", "sell", 3.0, stop=95.0)], *bars, costs=Costs(0, 0, participation=0.5))
    assert fills == [(1, "a", -2.0, 95.0), (2, "a", -1.0, 99.0)]


def test_what_the_cap_leaves_of_a_target_goes_on_towards_it():
    bars = [(100, 100, 100, 100, 8.0), (100, 100, 100, 100, 80.0)]
    state, fills, _ = played([target(0.5)], *bars, start=State(1000.0), costs=Costs(0, 0, participation=0.25))
    assert [quantity for _, _, quantity, _ in fills] == [2.0, 3.0]
    assert state.orders == ()


def test_impact_worsens_the_price_by_the_share_of_the_volume():
    costs = Costs(0, slippage_bps=100, impact_bps=1_000)  # 1 %, and 10 % for a whole bar volume
    assert fills_of([order("market", "buy", 2.0)], (100, 100, 100, 100, 10.0), costs=costs)[0][3] == pytest.approx(
        103.0
    )


@pytest.mark.parametrize("costs", [Costs(0, 0, impact_bps=1), Costs(0, 0, participation=1.0)])
def test_where_nothing_was_traded_nothing_fills(costs):
    bars = [(100, 100, 100, 100, 0.0), (100, 100, 100, 100, 1.0)]
    assert [bar for bar, *_ in fills_of([order("market", "buy", 1.0)], *bars, costs=costs)] == [2]


# Steps and minimums


def test_quantities_are_rounded_down_to_the_step():
    market = Market(quantity_step=0.25)
    assert fills_of([order("market", "buy", 1.9)], (100, 100, 100, 100), market=market)[0][2] == 1.75
    assert fills_of([target(1.0)], (100, 100, 100, 100), start=State(190.0), market=market)[0][2] == 1.75


def test_all_that_is_held_is_sold_in_spite_of_the_rounding_of_sums():
    start = State(0.0, 0.1 + 0.2, bar=flat(100.0, 0))
    state, _, _ = played([target(0.0)], (100, 100, 100, 100), start=start, market=Market(quantity_step=0.1))
    assert state.position == 0.0


@pytest.mark.parametrize(
    ("market", "rule"),
    [
        (Market(min_quantity=2.0), "min_quantity"),
        (Market(min_value=200.0), "min_value"),
        (Market(quantity_step=2.0), "min_quantity"),
    ],
)
def test_too_little_is_refused(market, rule):
    _, fills, events = played([order("market", "buy", 1.5)], (100, 100, 100, 100), market=market)
    assert (fills, ends(events)) == ([], [("a", "refused", rule)])


@pytest.mark.parametrize(
    ("market", "rule"), [(Market(min_quantity=2.0), "min_quantity"), (Market(min_value=200.0), "min_value")]
)
def test_a_target_that_would_trade_too_little_is_refused_at_the_open(market, rule):
    _, fills, events = played([target(0.5)], (100, 100, 100, 100), start=State(300.0), market=market)
    assert (fills, ends(events)) == ([], [("t", "refused", rule)])


# Cash and position


def test_a_buy_that_costs_more_than_there_is_is_refused_with_the_amounts():
    state, event = submit(State(100.0, bar=flat(100.0, 0)), order("market", "buy", 1.0), Conditions(DEAR))
    assert (event.event, event.rule) == ("refused", "insufficient_funds")
    assert event.text == "It takes 102.01 with its fee; there are 100.00."
    assert state.orders == ()


def test_a_buy_that_a_gap_has_made_too_dear_spends_what_there_is_and_no_more():
    state, fills, events = played(
        [order("market", "buy", 1.0)], (125, 125, 125, 125), start=State(100.0, bar=flat(100.0, 0))
    )
    assert fills == [(1, "a", 0.8, 125.0)]
    assert state.cash == 0.0
    assert ends(events) == [("a", "cancelled", "insufficient_funds")]
    assert events[-1].text == "It takes 125.00 with its fee; there are 100.00."


def test_a_sale_of_more_than_is_held_is_refused():
    _, event = submit(account(position=1.0), order("limit", "sell", 1.5, limit=110.0))
    assert (event.event, event.rule) == ("refused", "insufficient_position")
    assert "1.50000000 BTC; 1.00000000 are held" in event.text


def test_a_sale_never_sells_more_than_is_held():
    orders = [order("stop", "sell", 8.0, "a", stop=95.0), order("stop", "sell", 8.0, "b", stop=90.0)]
    state, fills, events = played(orders, (100, 100, 80, 80))
    assert fills == [(1, "a", -8.0, 95.0), (1, "b", -2.0, 90.0)]
    assert ends(events) == [("b", "cancelled", "insufficient_position")]
    assert state.position == 0.0


# Refusals of what an order says


@pytest.mark.parametrize(
    ("wrong", "rule"),
    [
        (order("iceberg", "buy"), "kind"),
        (order("market", "hold"), "side"),
        (order("market", "buy", 0.0), "quantity"),
        (order("market", "buy", -1.0), "quantity"),
        (order("market", "buy", math.inf), "quantity"),
        (order("market", "buy", NAN), "quantity"),
        (order("limit", "buy", limit=0.0), "price"),
        (order("limit", "buy", limit=-5.0), "price"),
        (order("limit", "buy"), "price"),
        (order("stop", "sell", stop=math.inf), "price"),
        (order("market", "buy", limit=5.0), "limit"),
        (order("trailing_stop", "sell", trail=1.0), "trail"),
        (order("market", "buy", lifetime="day"), "lifetime"),
        (order("market", "buy", lifetime="gtd"), "expires"),
        (order("market", "buy", name=""), "id"),
        (order("limit", "buy", limit=90.05), "price_tick"),
        (order("stop", "sell", stop=101.0), "wrong_side"),
        (order("stop", "buy", stop=99.0), "wrong_side"),
        (order("take_profit", "sell", stop=99.0), "wrong_side"),
        (order("stop", "sell", stop=90.0, parent="nosuch"), "unknown_order"),
        (Order(0, 1.5, "t"), "exposure"),
        (Order(5, 0.5, "t"), "decided"),
    ],
)
def test_an_order_that_cannot_be_is_refused_with_its_rule_and_nothing_changes(wrong, rule):
    start = account()
    state, event = submit(start, wrong, Conditions(FREE, Market(price_tick=0.1)))
    assert (event.event, event.rule) == ("refused", rule)
    assert event.text
    assert state == start


@pytest.mark.parametrize("tick", [1e-320, 1e-300, 5e-5])
def test_a_price_of_more_ticks_than_a_number_can_count_is_taken(tick):
    far = Order(0, id="a", kind="limit", side="buy", quantity=1.0, limit=1e308)
    assert submit(account(), far, Conditions(FREE, Market(price_tick=tick)))[1].rule != "price_tick"


def test_two_open_orders_cannot_share_an_id():
    state, _ = submit(account(), order("limit", "buy", limit=90.0))
    _, event = submit(state, order("limit", "buy", limit=80.0))
    assert (event.event, event.rule) == ("refused", "duplicate_id")


# Cancel and replace


def test_a_cancelled_order_does_not_fill():
    state, _ = submit(account(), order("limit", "buy", limit=90.0))
    state, events = cancel(state, "a")
    assert ends(events) == [("a", "cancelled", "user")]
    assert step(state, flat(80.0))[1] == []


def test_the_children_of_a_cancelled_parent_go_with_it():
    state = CASH
    for one in bracket(INSIDE):
        state, _ = submit(state, one)
    state, events = cancel(state, "p")
    assert [one.order for one in events] == ["p", "stop", "profit"]
    assert state.orders == ()


@pytest.mark.parametrize("ask", [cancel, lambda state, name: replace(state, name, order("market", "buy"))])
def test_an_unknown_id_is_refused_with_those_that_are_open(ask):
    state, _ = submit(account(), order("limit", "buy", limit=90.0))
    after, (event,) = ask(state, "b")
    assert (event.event, event.rule) == ("refused", "unknown_order")
    assert "open: 'a'" in event.text
    assert after == state


def test_a_replacement_takes_the_place_and_the_children_of_the_old_one():
    state = CASH
    for one in bracket(INSIDE):
        state, _ = submit(state, one)
    state, events = replace(state, "p", order("limit", "buy", 3.0, "q", limit=99.0))
    assert [(one.order, one.event) for one in events] == [("p", "replaced"), ("q", "accepted")]
    assert [one.order.id for one in state.orders] == ["q", "stop", "profit"]
    _, fills, _ = step(state, Bar(1, 100.0, 100.0, 94.0, 94.0), (), Conditions(FREE))
    assert [(fill.order, fill.quantity, fill.price) for fill in fills] == [("q", 3.0, 99.0), ("stop", 3.0, 95.0)]


def test_a_replacement_that_is_refused_leaves_the_old_one():
    state, _ = submit(account(cash=100.0), order("limit", "buy", limit=90.0))
    after, (event,) = replace(state, "a", order("limit", "buy", 9.0, "b", limit=90.0))
    assert event.rule == "insufficient_funds"
    assert after == state


# Latency


def test_an_order_arrives_as_many_bars_late_as_the_latency():
    bars = [(100, 100, 100, 100), (101, 101, 101, 101), (102, 102, 102, 102)]
    assert fills_of([order("market", "buy")], *bars, latency=2) == [(3, "a", 1.0, 102.0)]


def test_a_cancellation_arrives_late_too():
    late = Conditions(FREE, latency=1)
    state, _ = submit(account(), order("limit", "buy", limit=90.0), Conditions(FREE))
    state, _ = cancel(state, "a", late)
    assert len(step(state, flat(80.0), (), late)[1]) == 1
    state, _, _ = step(state, flat(95.0), (), late)
    state, fills, events = step(state, flat(80.0, 2), (), late)
    assert (fills, ends(events)) == ([], [("a", "cancelled", "user")])


def test_a_cancellation_that_is_asked_for_again_comes_no_later():
    late = Conditions(FREE, latency=2)
    state, _ = submit(account(), order("limit", "buy", limit=90.0), Conditions(FREE))
    for bar in range(1, 3):
        state, _ = cancel(state, "a", late)
        state, _, _ = step(state, flat(95.0, bar), (), late)
    assert step(state, flat(80.0, 3), (), late)[1] == []


def test_a_late_replacement_comes_only_if_the_old_one_is_still_there():
    late = Conditions(FREE, latency=1)
    state, _ = submit(account(), order("limit", "buy", limit=90.0), Conditions(FREE))
    state, _ = replace(state, "a", order("limit", "buy", name="b", limit=85.0), late)
    quiet, _, _ = step(state, flat(95.0), (), late)
    assert [fill.order for fill in step(quiet, flat(80.0, 2), (), late)[1]] == ["b"]
    filled, _, _ = step(state, flat(88.0), (), late)
    after, fills, events = step(filled, flat(80.0, 2), (), late)
    assert (fills, ends(events), after.orders) == ([], [("b", "cancelled", "replaced_order")], ())


@pytest.mark.parametrize("latency", [-1, 0.5])
def test_a_latency_is_a_whole_number_of_bars(latency):
    with pytest.raises(InputError, match="latency"):
        Conditions(latency=latency)


# The state


def test_a_bar_that_is_not_after_the_last_is_refused():
    with pytest.raises(InputError, match="is not after the last one"):
        step(account(), flat(100.0, 0))


def test_nothing_is_decided_before_the_first_bar():
    with pytest.raises(InputError, match="before the first bar"):
        decide(State(1000.0), 1.0, None)


def test_a_state_survives_json_exactly():
    state = CASH
    for one in [*bracket(INSIDE), order("trailing_stop", "sell", NAN, "trail", trail=0.1, parent="p")]:
        state, _ = submit(state, one)
    state, _, _ = step(
        dataclasses.replace(state, cash=RICH / 3), Bar(1, 100.0, 110.0, 97.0, 104.0), (), Conditions(DEAR)
    )
    assert State.from_dict(json.loads(json.dumps(state.to_dict(), allow_nan=False))) == state


# One loop over all bars


@settings(max_examples=120, deadline=None, derandomize=True)
@given(accounts, all_costs, all_markets, st.sampled_from([0, 0, 1, 2]), st.sampled_from([None, 0.05]))
def test_the_compiled_loop_gives_what_the_steps_give_to_the_last_digit(account, costs, market, latency, band):
    margin, (path, wanted, asked) = account
    conditions = Conditions(costs, market, latency, margin)
    placed = [[one for one in steps if isinstance(one, Order)] for steps in asked]
    state, equity, fills, events = State(500.0), [], [], []
    for bar, exposure, orders in zip(path, wanted, placed, strict=True):
        state, filled, said = step(state, bar, (), conditions)
        state = decide(state, exposure, band, conditions)
        for one in orders:
            state, event = submit(state, one, conditions)
            said.append(event)
        equity.append(state.account.equity(bar.close))
        fills += filled
        events += said
    rows = np.array([(bar.open, bar.high, bar.low, bar.close, bar.volume) for bar in path]).T.copy()
    targets = np.array([NAN if exposure is None else exposure for exposure in wanted])
    times = np.array([bar.timestamp for bar in path])
    whole = simulate(times, rows, targets, 500.0, band, [one for orders in placed for one in orders], conditions)
    assert whole.equity.tolist() == equity
    assert whole.interest == state.interest
    assert whole.events == events
    names = ("timestamp", "order", "reason", "quantity", "price", "fee", "maker", "decided")
    assert [[whole.fills[name][i] for name in names] for i in range(len(fills))] == [
        [getattr(fill, name) for name in names] for fill in fills
    ]


def test_two_orders_of_a_loop_cannot_share_an_id():
    twice = [order("market", "buy"), order("market", "sell")]
    with pytest.raises(InputError, match="Two orders have the id 'a'"):
        simulate(np.array([0]), np.full((5, 1), 100.0), np.array([NAN]), 500.0, orders=twice)


def test_an_order_at_a_time_without_a_bar_is_refused():
    with pytest.raises(InputError, match="which is no bar of these candles"):
        simulate(np.array([5]), np.full((5, 1), 100.0), np.array([NAN]), 500.0, orders=[order("market", "buy")])


def test_an_order_of_a_loop_that_is_wrong_by_itself_is_refused():
    with pytest.raises(InputError, match=r"Order 'a': limit is -5\.0; a price must be above 0"):
        simulate(
            np.array([0]), np.full((5, 1), 100.0), np.array([NAN]), 500.0, orders=[order("limit", "buy", limit=-5.0)]
        )
