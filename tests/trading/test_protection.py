"""Protective orders: at the right distance, one cancels the others, and the engine takes them as they are."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import btclab as bl
from btclab.errors import InputError
from btclab.records import Bar, Costs, Market, Order
from btclab.trading import engine
from btclab.trading.broker import PaperBroker, bars_of
from btclab.trading.orders import wrong
from btclab.trading.protection import MOST_DISTANCE, bracket
from btclab.trading.risk import Holding, RiskRules, RiskState, decide
from tests.analysis.reference import make_candles

NAN = math.nan
BAR = Bar(7, 100.0, 104.0, 96.0, 100.0)
ENTRY = Order(7, 1.0, id="target-7")


def prices_of(orders):
    return {one.kind: one.trail if one.kind == "trailing_stop" else one.stop for one in orders}


def test_without_distances_nothing_is_placed():
    assert bracket(ENTRY, BAR, NAN, RiskRules()) == []


def test_a_bracket_is_at_fractions_of_the_last_price():
    rules = RiskRules(stop_loss=0.05, take_profit=0.1, trailing_stop=0.08)
    expected = {"stop": 95, "trailing_stop": 0.08, "take_profit": 110}
    assert prices_of(bracket(ENTRY, BAR, NAN, rules)) == pytest.approx(expected)


def test_a_bracket_is_at_multiples_of_the_average_true_range():
    rules = RiskRules("atr", stop_loss=2, take_profit=3, trailing_stop=2.5)
    expected = {"stop": 92, "trailing_stop": 0.1, "take_profit": 112}
    assert prices_of(bracket(ENTRY, BAR, 4.0, rules)) == pytest.approx(expected)


def test_the_orders_of_a_bracket_are_children_that_cancel_each_other():
    orders = bracket(ENTRY, BAR, NAN, RiskRules(stop_loss=0.05, take_profit=0.1))
    assert {one.parent for one in orders} == {"target-7"}
    assert {one.group for one in orders} == {"target-7-exit"}
    assert [one.id for one in orders] == ["target-7-stop", "target-7-take_profit"]
    assert all(one.side == "sell" and one.decided == 7 and math.isnan(one.quantity) for one in orders)
    assert orders[0].reason == "5 % below 100.00"


def test_prices_lie_on_the_ticks_of_the_market():
    orders = bracket(ENTRY, BAR, NAN, RiskRules(stop_loss=0.0333, take_profit=0.0777), Market(price_tick=0.5))
    assert prices_of(orders) == {"stop": 96.5, "take_profit": 108.0}


def test_a_range_without_measure_leaves_a_stop_that_is_a_price():
    orders = bracket(ENTRY, BAR, 80.0, RiskRules("atr", stop_loss=2, trailing_stop=2))
    assert prices_of(orders) == pytest.approx({"stop": 100 * (1 - MOST_DISTANCE), "trailing_stop": MOST_DISTANCE})


@pytest.mark.parametrize("atr", [NAN, 0.0, -1.0, math.inf])
def test_multiples_of_a_range_that_is_none_are_refused(atr):
    with pytest.raises(InputError, match="average true range is"):
        bracket(ENTRY, BAR, atr, RiskRules("atr", stop_loss=2))
    assert bracket(ENTRY, BAR, atr, RiskRules("atr")) == []


@given(
    st.floats(0.01, 1e6),
    st.floats(0, 0.99),
    st.floats(0, 5),
    st.floats(0, 0.99),
    st.sampled_from([0.0, 0.01, 0.5]),
    st.floats(0.0001, 1e5),
    st.booleans(),
)
@settings(max_examples=80, deadline=None, derandomize=True)
def test_the_engine_finds_nothing_wrong_with_them(price, stop, profit, trail, tick, atr, in_atr):
    rules = RiskRules("atr" if in_atr else "fraction", stop_loss=stop, take_profit=profit, trailing_stop=trail)
    market = Market(price_tick=tick)
    bar = Bar(7, price, price, price, price)
    for one in bracket(ENTRY, bar, atr, rules, market):
        assert wrong(one, market) is None
        if one.kind == "stop":
            assert 0 < one.stop <= price + tick
        if one.kind == "take_profit":
            assert one.stop >= price - tick


# With the engine


def trade(candles, wishes, rules, atr=NAN, cash=1000.0, state=None, broker=None):
    """Paper trading under risk rules, as a caller writes it; returns the broker, the state and all refusals."""
    broker = broker or PaperBroker(cash, Costs(0, 0))
    state, refusals = state or RiskState.start(cash), []
    for bar, wish in zip(bars_of(candles), wishes, strict=True):
        after, fills, _ = engine.step(broker.state, bar, (), broker.conditions)
        holding = Holding(after.cash, after.position, bar.close, after.target)
        state, allowed, said = decide(state, rules, bar, holding, fills, wish)
        refusals += said

        def protect(broker, bar=bar, held=holding.position * bar.close / holding.equity):
            entry = broker.pending
            if entry is not None and entry.decided == bar.timestamp and entry.exposure > held:
                for order in bracket(entry, bar, atr, rules):
                    assert broker.submit(order).event == "accepted"

        broker.process(bar, allowed, protect)
    return broker, state, refusals


def test_a_stop_sells_and_the_next_trade_waits_for_a_new_signal():
    candles = make_candles([100, 100, 100, 90, 100, 100, 100], [100, 100, 90, 100, 100, 100, 100])
    wishes = [1.0, 1.0, 1.0, 1.0, 0.0, 1.0, 1.0]
    broker, _, refusals = trade(candles, wishes, RiskRules(stop_loss=0.05))
    fills = broker.ledger.fills
    assert [(fill.side, fill.reason, fill.price) for fill in fills] == [
        ("buy", "target", 100),
        ("sell", "stop", 95),
        ("buy", "target", 100),
    ]
    assert [rule for rule, _ in refusals] == ["new_signal"]
    assert fills[2].timestamp == candles.index[6].value


def test_a_target_takes_the_profit_and_the_stop_goes():
    candles = make_candles([100, 100, 100, 100], [100, 100, 120, 80])
    broker, _, _ = trade(candles, [1.0, 1.0, 1.0, 0.0], RiskRules(stop_loss=0.05, take_profit=0.1))
    fills = broker.ledger.fills
    assert [fill.reason for fill in fills] == ["target", "take_profit"]
    assert fills[1].price == pytest.approx(110)
    assert broker.open_orders == ()


def test_when_the_strategy_leaves_its_bracket_goes_too():
    candles = make_candles([100] * 5, [100, 100, 100, 100, 80])
    broker, _, _ = trade(candles, [1.0, 0.0, 0.0, 0.0, 0.0], RiskRules(stop_loss=0.05, trailing_stop=0.1))
    assert [fill.reason for fill in broker.ledger.fills] == ["target", "target"]
    assert broker.open_orders == ()


def test_a_drawdown_sells_all_at_the_next_open_and_nothing_is_bought_again():
    candles = make_candles([100, 100, 100, 85, 100, 100], [100, 100, 85, 100, 100, 100])
    broker, state, refusals = trade(candles, [1.0] * 6, RiskRules(max_drawdown=0.1))
    assert [(fill.side, fill.price) for fill in broker.ledger.fills] == [("buy", 100), ("sell", 85)]
    assert state.halted == candles.index[2].value
    assert [rule for rule, _ in refusals] == ["max_drawdown"]


@given(st.integers(0, 10_000), st.integers(1, 59))
@settings(max_examples=15, deadline=None, derandomize=True)
def test_an_account_that_is_interrupted_goes_on_as_if_it_had_not_been(seed, cut):
    random = np.random.default_rng(seed)
    close = 100 * np.exp(np.cumsum(0.03 * random.standard_normal(60)))
    candles = make_candles(np.concatenate([[100], close[:-1]]), close)
    wishes = random.choice([0.0, 0.5, 1.0, None], 60).tolist()
    rules = RiskRules(
        *("fraction", 0.05, 0.1, 0.07),
        max_position=0.9,
        max_drawdown=0.4,
        daily_loss=0.1,
        stop_guard=2,
        cooldown_bars=1,
        min_trade=10,
    )
    whole, state, refusals = trade(candles, wishes, rules)
    first, kept, said = trade(candles[:cut], wishes[:cut], rules)
    again = PaperBroker.from_dict(first.to_dict(), first.ledger)
    kept = RiskState.from_dict(kept.to_dict())
    second, last, more = trade(candles[cut:], wishes[cut:], rules, state=kept, broker=again)
    assert second.ledger.fills == whole.ledger.fills
    assert last == state
    assert said + more == refusals


def test_the_average_true_range_is_btclabs_own(candles):
    atr = bl.indicator("atr", candles, length=14)
    bar = list(bars_of(candles))[-1]
    (stop,) = bracket(Order(bar.timestamp, 1.0, id="x"), bar, float(atr.iloc[-1]), RiskRules("atr", stop_loss=3))
    assert stop.stop == pytest.approx(bar.close - 3 * atr.iloc[-1])
