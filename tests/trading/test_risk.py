"""The risk rules: each refuses with its numbers, a halt is final, and bars one by one give what arrays give."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from btclab.errors import InputError
from btclab.records import Bar, Fill, Order
from btclab.trading.risk import (
    MOST_STOPS,
    RULES,
    Holding,
    RiskRules,
    RiskState,
    check,
    decide,
    refused_rules,
    reset,
)

HOUR = 3_600_000_000_000  # ns
NAN = math.nan


def bar_at(hour, price=100.0):
    return Bar(hour * HOUR, price, price, price, price)


def sale(reason="stop"):
    return Fill(0, "sell", 1.0, 100.0, 0.0, 0, NAN, reason=reason)


class Desk:
    """An account whose figures a test sets, and what the rules say to it bar by bar."""

    def __init__(self, rules, equity=1000.0, position=0.0, target=0.0):
        self.rules, self.state = rules, RiskState.start(equity)
        self.equity, self.position, self.target, self.hour = equity, position, target, 0
        self.said = []

    def bar(self, wish=None, fills=(), equity=None, hour=None):
        self.hour = self.hour + 1 if hour is None else hour
        self.equity = self.equity if equity is None else equity
        holding = Holding(self.equity - 100 * self.position, self.position, 100.0, self.target)
        self.state, allowed, self.said = decide(self.state, self.rules, bar_at(self.hour), holding, fills, wish)
        self.target = allowed
        return allowed

    def rules_said(self):
        return [rule for rule, _ in self.said]


# Without rules


@given(st.lists(st.one_of(st.none(), st.floats(0, 1)), min_size=1, max_size=20))
@settings(max_examples=30, deadline=None, derandomize=True)
def test_without_rules_everything_is_allowed(wishes):
    desk, last = Desk(RiskRules()), 0.0
    for wish in wishes:
        last = last if wish is None else wish
        assert desk.bar(wish) == last
        assert desk.said == []


# Drawdown


def test_a_drawdown_halts_sells_all_and_says_so_with_the_numbers():
    desk = Desk(RiskRules(max_drawdown=0.1), position=5, target=0.5)
    assert desk.bar(0.5, equity=1200.0) == 0.5
    assert desk.bar(0.5, equity=1080.01) == 0.5
    assert desk.bar(0.5, equity=1080.0) == 0
    assert desk.said == [
        (
            "max_drawdown",
            "Trading is halted: equity, now 1,080.00, fell 10 % or more below its peak 1,200.00. Reset the halt to trade on.",
        )
    ]
    desk.bar(0.5, equity=500.0)
    assert desk.said == []  # it is told once
    assert desk.state.halted == 3 * HOUR


def test_a_halt_ends_with_a_reset_and_counts_the_drawdown_anew():
    desk = Desk(RiskRules(max_drawdown=0.1))
    desk.bar(1.0, equity=900.0)
    assert desk.bar(1.0, equity=5000.0) == 0
    desk.state = reset(desk.state)
    assert desk.bar(1.0, equity=4600.0) == 1
    assert desk.bar(1.0, equity=4500.0) == 0


@given(st.lists(st.tuples(st.floats(1, 2000), st.floats(0, 1) | st.none()), min_size=1, max_size=40))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_a_halt_is_final(steps):
    desk, peak, halted = Desk(RiskRules(max_drawdown=0.25)), 1000.0, False
    for equity, wish in steps:
        allowed = desk.bar(wish, equity=equity)
        peak = max(peak, equity)
        halted = halted or equity <= 0.75 * peak
        assert (desk.state.halted >= 0) == halted
        if halted:
            assert allowed == 0


# The day


def test_a_daily_loss_ends_the_day_and_the_next_begins_anew():
    desk = Desk(RiskRules(daily_loss=0.05), position=5, target=0.5)
    desk.bar(0.5, equity=1000.0, hour=22)
    desk.bar(0.5, equity=970.0, hour=23)
    assert desk.bar(0.5, equity=930.0, hour=24) == 0.5  # 4.1 % since midnight
    assert desk.bar(0.5, equity=921.5, hour=25) == 0
    assert desk.said[0][0] == "daily_loss"
    assert "now 921.50, fell 5 % or more below the 970.00 it began with" in desk.said[0][1]
    assert desk.bar(0.5, equity=2000.0, hour=47) == 0
    assert desk.bar(0.5, equity=2000.0, hour=48) == 0.5


# Stops


def test_after_stops_in_a_row_entries_pause():
    desk = Desk(RiskRules(stop_guard=2, stop_guard_within=10, stop_guard_pause=3, reenter=True))
    assert desk.bar(0.0, [sale()]) == 0
    assert desk.bar(1.0) == 1
    assert desk.bar(0.0, [sale("trailing_stop")]) == 0  # the second stop: pause at this close and the next two
    desk.position = 0
    assert desk.bar(1.0) == 0
    assert desk.said == [("stop_guard", "2 stops within 10 bars: no entry for 2 closes, this one included.")]
    assert desk.bar(1.0) == 0
    assert desk.said == []  # told already
    assert desk.bar(1.0) == 1


def test_stops_too_far_apart_do_not_pause():
    desk = Desk(RiskRules(stop_guard=2, stop_guard_within=3, reenter=True))
    desk.bar(0.0, [sale()])
    desk.bar(0.0)
    desk.bar(0.0)
    desk.bar(0.0, [sale()])
    assert desk.bar(1.0) == 1


def test_a_target_reached_is_no_stop():
    desk = Desk(RiskRules(stop_guard=1, reenter=True))
    desk.bar(0.0, [sale("take_profit")])
    assert desk.bar(1.0) == 1


def test_a_cooldown_refuses_to_enter_after_a_sale_of_all():
    desk = Desk(RiskRules(cooldown_bars=2))
    assert desk.bar(1.0, [sale("target")]) == 0
    assert desk.said == [("cooldown", "The position was closed: no entry for 2 closes, this one included.")]
    assert desk.bar(1.0) == 0
    assert desk.bar(1.0) == 1


def test_a_sale_of_a_part_needs_no_cooldown():
    desk = Desk(RiskRules(cooldown_bars=2), position=5, target=0.5)
    assert desk.bar(0.8, [sale("target")]) == 0.8


def test_a_stop_ends_the_trade_until_there_is_a_new_signal():
    desk = Desk(RiskRules(), target=1.0)
    assert desk.bar(1.0, [sale()]) == 0
    assert desk.said == [("new_signal", "A stop or target has ended this trade; the next begins with a new signal.")]
    assert desk.bar(None) == 0
    assert desk.bar(0.7) == 0  # the same trade, of another size
    assert desk.bar(0.0) == 0
    assert desk.bar(0.7) == 0.7


def test_reentry_comes_at_the_next_close_so_that_the_target_changes():
    desk = Desk(RiskRules(reenter=True), target=1.0)
    assert desk.bar(1.0, [sale()]) == 0
    assert desk.bar(1.0) == 1


def test_refused_entries_leave_what_is_held():
    desk = Desk(RiskRules(stop_guard=1, stop_guard_pause=5, reenter=True), position=3, target=0.3)
    assert desk.bar(0.9, [sale()]) == 0.3  # one of two brackets: three bitcoins are still there
    assert desk.bar(0.1) == 0.1
    assert desk.bar(0.2) == 0.1


# Sizes


def test_more_than_the_largest_position_is_cut():
    desk = Desk(RiskRules(max_position=0.4))
    assert desk.bar(1.0) == 0.4
    assert desk.said == [("max_position", "100.0 % of equity in BTC is more than the 40 % allowed.")]
    assert desk.bar(1.0) == 0.4
    assert desk.said == []  # the same refusal of the same wish
    assert desk.bar(0.9) == 0.4
    assert desk.rules_said() == ["max_position"]


def test_a_trade_worth_too_little_is_left_out_but_all_may_be_sold():
    desk = Desk(RiskRules(min_trade=50), position=2, target=0.2)
    assert desk.bar(0.24) == 0.2
    assert desk.said == [("min_trade", "A trade of 40.00 is worth less than the 50.00 that it must be.")]
    assert desk.bar(0.25) == 0.25
    desk.position = 0.01
    assert desk.bar(0.0) == 0


def test_a_trade_below_the_lot_is_left_out():
    desk = Desk(RiskRules(lot=1.0))
    assert desk.bar(0.05) == 0
    assert desk.said == [("lot", "A trade of 0.50000000 BTC is less than the lot of 1 BTC.")]
    assert desk.bar(0.1) == 0.1


# Orders by hand


HOLDING = Holding(cash=900.0, position=1.0, price=100.0, target=0.1)


def order(side="buy", quantity=1.0, **more):
    return Order(0, id="mine", kind="market", side=side, quantity=quantity, **more)


def test_an_order_by_hand_is_checked_by_the_same_rules():
    state = RiskState.start(1000.0)
    assert check(state, order(), RiskRules(), HOLDING) == (order(), [])
    allowed, said = check(state, order(quantity=5), RiskRules(max_position=0.5), HOLDING)
    assert allowed is None
    assert said == [("max_position", "60.0 % of equity in BTC is more than the 50 % allowed.")]
    assert check(state, order(quantity=0.1), RiskRules(min_trade=20), HOLDING)[1][0][0] == "min_trade"
    assert check(state, order(quantity=0.1), RiskRules(lot=0.5), HOLDING)[1][0][0] == "lot"


def test_a_limit_order_is_worth_its_limit():
    limit = Order(0, id="mine", kind="limit", side="buy", quantity=1.0, limit=10.0)
    assert check(RiskState.start(1000.0), limit, RiskRules(min_trade=20), HOLDING)[0] is None


@pytest.mark.parametrize(
    ("fields", "rule"),
    [
        ({"halted": 5}, "max_drawdown"),
        ({"day_over": True}, "daily_loss"),
        ({"paused_until": 3}, "stop_guard"),
        ({"cooling_until": 3}, "cooldown"),
    ],
)
def test_a_halted_or_paused_account_buys_nothing_by_hand_and_may_sell(fields, rule):
    state = RiskState.start(1000.0)._replace(**fields)
    allowed, said = check(state, order(), RiskRules(), HOLDING)
    assert allowed is None and [name for name, _ in said] == [rule]
    assert check(state, order("sell"), RiskRules(), HOLDING) == (order("sell"), [])
    assert check(state, 0.5, RiskRules(), HOLDING)[1][0][0] == rule
    assert check(state, 0.0, RiskRules(), HOLDING) == (0.0, [])


def test_an_order_by_hand_is_a_signal_of_its_own():
    spent = RiskState.start(1000.0)._replace(spent=True)
    assert check(spent, order(), RiskRules(), HOLDING) == (order(), [])
    by_hand = Order(0, 0.5, id="mine")
    assert check(spent, by_hand, RiskRules(), HOLDING) == (by_hand, [])
    assert check(spent, 0.5, RiskRules(), HOLDING)[1][0][0] == "new_signal"


def test_a_target_by_hand_that_would_be_cut_is_refused():
    by_hand = Order(0, 0.8, id="mine")
    assert check(RiskState.start(1000.0), by_hand, RiskRules(max_position=0.5), HOLDING)[0] is None


# The state


numbers = st.floats(1, 5000)
steps = st.lists(
    st.tuples(
        numbers,  # equity
        st.floats(0, 1),  # share held
        st.one_of(st.just(NAN), st.sampled_from([0.0, 0.5, 1.0]), st.floats(0, 1)),  # wish
        st.sampled_from(["", "", "target", "stop", "trailing_stop", "take_profit"]),
        st.integers(1, 8),  # hours to the next bar
    ),
    min_size=1,
    max_size=30,
)
all_rules = st.builds(
    RiskRules,
    max_position=st.sampled_from([0.4, 1.0]),
    max_drawdown=st.sampled_from([0.0, 0.5, 0.9]),
    daily_loss=st.sampled_from([0.0, 0.3]),
    stop_guard=st.integers(0, 3),
    stop_guard_within=st.integers(1, 9),
    stop_guard_pause=st.integers(1, 4),
    cooldown_bars=st.integers(0, 3),
    reenter=st.booleans(),
    min_trade=st.sampled_from([0.0, 100.0]),
    lot=st.sampled_from([0.0, 1.0]),
)


@given(steps, all_rules)
@settings(max_examples=80, deadline=None, derandomize=True)
def test_a_state_that_goes_through_json_at_every_bar_decides_the_same(steps, rules):
    state, straight, target, hour = RiskState.start(1000.0), RiskState.start(1000.0), 0.0, 0
    for equity, share, wish, reason, wait in steps:
        hour += wait
        position = 0.0 if reason else share * equity / 100
        cash = equity - position * 100
        fills = [sale(reason)] if reason else []
        state = RiskState.from_dict(json.loads(json.dumps(state.to_dict(), allow_nan=False)))
        holding = Holding(cash, position, 100.0, target)
        asked = bar_at(hour), holding, fills, None if math.isnan(wish) else wish
        state, allowed, said = decide(state, rules, *asked)
        straight, *others = decide(straight, rules, *asked)  # a process that was never ended
        assert (straight, others) == (state, [allowed, said])
        assert 0 <= allowed <= max(rules.max_position, target)
        assert {rule for rule, _ in said} <= set(refused_rules(state.refused))
        target = allowed


@given(steps, all_rules)
@settings(max_examples=40, deadline=None, derandomize=True)
def test_an_entry_keeps_to_the_pauses(steps, rules):
    state, target, bars, hour, sold, stops = RiskState.start(1000.0), 0.0, 0, 0, -99, []
    for equity, share, wish, reason, wait in steps:
        hour, bars = hour + wait, bars + 1
        position = 0.0 if reason else share * equity / 100
        holding = Holding(equity - position * 100, position, 100.0, target)
        fills = [sale(reason)] if reason else []
        state, allowed, _ = decide(state, rules, bar_at(hour), holding, fills, None if math.isnan(wish) else wish)
        sold = bars if reason else sold
        stops += [bars] if reason in ("stop", "trailing_stop") else []
        if position == 0 and allowed > 0 and allowed != target:  # an entry
            assert bars >= sold + rules.cooldown_bars
            if rules.stop_guard and len(stops) >= rules.stop_guard:
                close_by = stops[-1] - stops[-rules.stop_guard] < rules.stop_guard_within
                assert not close_by or bars >= stops[-1] + rules.stop_guard_pause
        target = allowed


def test_a_state_of_something_else_is_refused():
    with pytest.raises(InputError, match="no state of the risk rules"):
        RiskState.from_dict({"bars": 1})
    with pytest.raises(InputError, match="equity is 0"):
        RiskState.start(0)


def test_a_state_cannot_be_changed():
    with pytest.raises(AttributeError):
        RiskState.start(1.0).halted = 3


def test_a_wish_that_is_none_and_a_bar_of_the_past_are_refused():
    desk = Desk(RiskRules())
    with pytest.raises(InputError, match=r"The wish is 1.5; exposure must lie in -1…1"):
        desk.bar(1.5)
    desk.bar(0.5, hour=30)
    with pytest.raises(InputError, match="earlier day"):
        desk.bar(0.5, hour=3)
    with pytest.raises(InputError, match=r"The exposure is -1\.5"):
        check(desk.state, -1.5, RiskRules(), HOLDING)


# Rules


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"distance": "bps"}, "distance is 'bps'"),
        ({"max_position": 0}, "max_position is 0"),
        ({"max_drawdown": 1}, r"max_drawdown is 1; it must be a fraction under 1 \(0.05 = 5 %\)"),
        ({"daily_loss": -0.1}, "daily_loss is -0.1"),
        ({"stop_loss": 1.0}, "stop_loss is 1.0"),
        ({"trailing_stop": 5}, "trailing_stop is 5"),
        ({"take_profit": NAN}, "take_profit is nan"),
        ({"stop_guard": 1.5}, "stop_guard is 1.5"),
        ({"stop_guard": MOST_STOPS + 1}, "at most 8 stops"),
        ({"stop_guard_within": 0}, "stop_guard_within is 0"),
        ({"cooldown_bars": -1}, "cooldown_bars is -1"),
        ({"min_trade": -1}, "min_trade is -1"),
        ({"lot": math.inf}, "lot is inf"),
    ],
)
def test_wrong_rules_are_refused(wrong, said):
    with pytest.raises(InputError, match=said):
        RiskRules(**wrong)


def test_distances_in_multiples_of_atr_may_exceed_one():
    assert RiskRules("atr", stop_loss=3, trailing_stop=5).protects


def test_rules_are_settings(monkeypatch):
    assert RiskRules.from_settings() == RiskRules(min_trade=10.0)
    monkeypatch.setenv("BTCLAB_RISK__MAX_DRAWDOWN", "0.2")
    assert RiskRules.from_settings().max_drawdown == 0.2


def test_every_rule_has_a_text():
    state = RiskState.start(1000.0)._replace(halted=1, day_over=True, paused_until=2, cooling_until=2)
    said = check(state, order(quantity=0.1), RiskRules(max_position=0.1, min_trade=50, lot=1), HOLDING)[1]
    apart = (
        check(RiskState.start(1000.0), -0.5, RiskRules(), HOLDING)[1]
        + check(RiskState.start(1000.0)._replace(spent=True), 1.0, RiskRules(), HOLDING)[1]
    )
    assert {rule for rule, _ in [*said, *apart]} == set(RULES)
    assert all(text for _, text in [*said, *apart])
    assert all(text.endswith(".") for _, text in said)
