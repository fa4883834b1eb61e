"""Risk rules in a backtest: limits are kept, positions protected, and refusals said with their rule."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest

import btclab as bl
from btclab.errors import InputError
from btclab.records import Costs, Market, Order
from btclab.trading.broker import PaperBroker, bars_of
from btclab.trading.guard import Guard, average_true_range
from btclab.trading.risk import RiskRules, RiskState
from tests.analysis.reference import make_candles

FREE = Costs(0, 0)


def walk(closes, rules, exposure=1.0, **more):
    """Bars that open at the last close, with a range of just the two."""
    opens = [closes[0], *closes[:-1]]
    candles = make_candles(opens, closes)
    signals = pd.DataFrame({"exposure": exposure}, index=candles.index)
    return bl.backtest(candles, signals, FREE, 1_000, risk=rules, progress=False, **more)


def test_rules_that_are_all_off_change_nothing(candles):
    exposure = (candles["close"] > candles["close"].rolling(20).mean()).astype(float).to_frame("exposure")
    plain = bl.backtest(candles, exposure)
    guarded = bl.backtest(candles, exposure, risk=RiskRules(), progress=False)
    np.testing.assert_array_equal(plain.equity, guarded.equity)
    assert plain.metrics == guarded.metrics


def test_a_stop_sells_at_its_distance_from_the_close_of_the_decision():
    result = walk([100, 100, 97, 80, 80], RiskRules(stop_loss=0.1))
    assert result.fills["reason"].tolist() == ["target", "stop"]
    assert result.fills["price"].tolist() == pytest.approx([100, 90])


def test_a_stop_ends_the_trade_until_a_new_signal():
    result = walk([100, 100, 80, 80, 80, 80], RiskRules(stop_loss=0.1))
    assert len(result.fills) == 2
    assert "new_signal" in {event.rule for event in result.events}


def test_a_drawdown_halts_for_good():
    rules = RiskRules(max_drawdown=0.2)
    closes = [100, 100, 70, 70, 70, 70]
    result = walk(closes, rules, exposure=[1, 1, 1, 0, 1, 1])
    assert result.exposure.iloc[-1] == 0
    halts = [event for event in result.events if event.rule == "max_drawdown"]
    assert halts
    assert "fell 20 % or more below its peak 1,000.00" in halts[0].text


def test_what_may_be_held_is_cut():
    result = walk([100, 100, 100], RiskRules(max_position=0.4))
    assert result.exposure.iloc[-1] == pytest.approx(0.4)


def test_orders_beside_the_exposure_are_placed_at_their_bar():
    closes = [100, 100, 90, 90]
    index = make_candles(closes, closes).index.as_unit("ns").asi8
    order = Order(int(index[0]), id="mine", kind="limit", side="buy", quantity=1.0, limit=95.0)
    result = walk(closes, RiskRules(), exposure=np.nan, orders=[order])
    assert result.fills["order"].tolist() == ["mine"]
    late = Order(int(index[-1]) + 1, id="late", kind="market", side="buy", quantity=1.0)
    with pytest.raises(InputError, match="which is no bar of these candles"):
        walk(closes, RiskRules(), orders=[late])


def test_the_average_true_range_is_read_only_where_rules_measure_by_it(candles):
    assert (average_true_range(candles, RiskRules(stop_loss=0.1)) == 1).all()
    ranges = average_true_range(candles, RiskRules("atr", stop_loss=2))
    assert np.isnan(ranges[0])
    assert 0 < ranges[-1] < candles["close"].iloc[-1]
    result = bl.backtest(
        candles.iloc[:400],
        pd.DataFrame({"exposure": 1.0}, index=candles.index[:400]),
        risk=RiskRules("atr", stop_loss=2),
        progress=False,
    )
    assert {"atr"} <= {event.rule for event in result.events}
    assert "stop" in result.fills["reason"].tolist()


def test_once_halted_nothing_is_bought_any_more_and_nothing_stays(candles):
    """A resting order by hand must not buy on the way down; what it bought before is sold, though the target is 0 already."""
    closes = [100, 100, 92, 80, 66, 60, 60, 60]
    index = make_candles(closes, closes).index.as_unit("ns").asi8
    orders = [
        Order(int(index[0]), id="first", kind="limit", side="buy", quantity=9.0, limit=95.0),
        Order(int(index[0]), id="deep", kind="limit", side="buy", quantity=1.0, limit=61.0),
    ]
    result = walk(closes, RiskRules(max_drawdown=0.15), exposure=np.nan, orders=orders)
    assert [fill.order for fill in result.fills.itertuples()][:1] == ["first"]
    assert "deep" not in result.fills["order"].tolist()
    assert result.exposure.iloc[-1] == 0
    assert {event.event for event in result.events if event.order == "deep"} == {"accepted", "cancelled"}


def test_what_is_less_than_the_market_trades_is_not_sold_again_and_again():
    broker = PaperBroker(1_000, FREE)
    guard = Guard(RiskRules(max_drawdown=0.1), RiskState.start(1_000)._replace(halted=1))
    bars = list(bars_of(make_candles([99.7] * 8, [99.7] * 8)))
    broker.process(bars[0], 1.0)
    broker.process(bars[1])
    broker.conditions = dataclasses.replace(broker.conditions, market=Market(quantity_step=0.01))
    for bar in bars[2:]:
        allowed = guard.allow(broker, bar, None, 1.0)
        broker.process(bar, allowed.target, lambda it, bar=bar, allowed=allowed: guard.protect(it, bar, allowed, 1.0))
    assert 0 < broker.account.position < 0.01
    assert len(broker.ledger.orders) == 2  # that of the purchase, and one to sell
