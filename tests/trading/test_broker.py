"""The paper broker: the backtest, one bar at a time."""

from __future__ import annotations

import json
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings

import btclab as bl
from btclab.errors import InputError
from btclab.records import Bar, Costs, Market, Order
from btclab.trading.broker import MemoryLedger, PaperBroker, bars_of
from tests.analysis.reference import bands, bps, make_candles, markets

FREE = Costs(0, 0)
HOUR = 3_600_000_000_000  # ns


def flat_bar(hour, price):
    return Bar(hour, price, price, price, price)


@pytest.fixture
def broker():
    return PaperBroker(1_000, FREE)


@pytest.fixture
def invested(broker):
    """All cash in 10 BTC at 100, since hour 2."""
    broker.process(flat_bar(1, 100.0), 1.0)
    broker.process(flat_bar(2, 100.0), None)
    return broker


def test_a_target_is_pending_until_the_next_bar(broker):
    assert broker.process(flat_bar(1, 100.0), 1.0) == []
    assert broker.pending.exposure == 1.0
    assert broker.process(flat_bar(2, 125.0), 1.0)[0].quantity == 8.0


def test_a_bar_that_comes_twice_never_trades_twice(broker):
    broker.process(flat_bar(1, 100.0), 1.0)
    broker.process(flat_bar(2, 100.0), 0.0)
    before = (broker.account, broker.pending, broker.target)
    assert broker.process(flat_bar(2, 100.0), 1.0) == []
    assert (broker.account, broker.pending, broker.target) == before
    assert len(broker.ledger.fills) == 1


def test_a_bar_that_comes_late_is_ignored(invested):
    invested.process(flat_bar(5, 100.0), 0.0)
    assert invested.process(flat_bar(4, 100.0), 1.0) == []
    assert invested.last_bar.timestamp == 5
    assert invested.pending.exposure == 0.0


def test_a_bar_is_missed_and_the_order_fills_at_the_one_that_comes(broker):
    broker.process(flat_bar(1, 100.0), 1.0)
    assert broker.process(flat_bar(9, 200.0), None)[0].price == 200.0


def test_a_missing_target_keeps_the_last(invested):
    assert invested.process(flat_bar(3, 100.0), None) == []
    assert (invested.target, invested.pending) == (1.0, None)


def test_a_missing_target_does_not_withdraw_a_pending_order(invested):
    invested.process(flat_bar(3, 100.0), 0.0)
    assert invested.process(flat_bar(4, 110.0), None)[0].side == "sell"


@pytest.mark.parametrize("target", [-0.1, 1.1, math.nan, math.inf])
def test_a_target_outside_0_to_1_is_refused_and_changes_nothing(invested, target):
    before = (invested.account, invested.last_bar)
    with pytest.raises(InputError, match="must lie in 0…1"):
        invested.process(flat_bar(3, 100.0), target)
    assert (invested.account, invested.last_bar) == before


def test_equity_is_the_starting_cash_before_the_first_bar(broker):
    assert broker.equity == 1_000


def test_equity_is_taken_at_the_last_close(invested):
    invested.process(Bar(3, 100.0, 150.0, 90.0, 120.0), None)
    assert invested.equity == 1_200


def test_preview_shows_the_fill_at_the_last_close(invested):
    invested.process(Bar(3, 100.0, 150.0, 90.0, 120.0), 0.0)
    preview = invested.preview()
    assert (preview.side, preview.quantity, preview.price) == ("sell", 10.0, 120.0)


def test_preview_trades_nothing(invested):
    invested.process(flat_bar(3, 100.0), 0.0)
    invested.preview()
    assert invested.account.position == 10.0
    assert len(invested.ledger.fills) == 1


def test_preview_is_nothing_when_nothing_is_pending(broker, invested):
    assert PaperBroker(1_000, FREE).preview() is None
    assert invested.preview() is None


@given(markets(), bps, bps, bands)
@settings(max_examples=40, deadline=None, derandomize=True)
def test_fed_bar_by_bar_it_gives_the_backtest_to_the_last_digit(market, fee, slippage, band):
    candles, exposure = market
    costs = Costs(fee, slippage)
    result = bl.backtest(candles, exposure.to_frame(), costs, 10_000, rebalance_band=band)
    paper, equity = PaperBroker(10_000, costs, band), []
    for time, row in candles.iterrows():
        bar = Bar(time.as_unit("ns").value, *(float(row[name]) for name in ("open", "high", "low", "close")))
        target = float(exposure[time])
        paper.process(bar, None if math.isnan(target) else target)
        paper.process(bar, 1.0)  # a feed that repeats itself
        equity.append(paper.equity)
    assert equity == result.equity.tolist()
    pd.testing.assert_frame_equal(paper.ledger.fill_table(), result.fills, check_exact=True)


def test_on_simulated_hours_it_gives_the_backtest_to_the_last_digit(candles):
    exposure = pd.Series(np.random.default_rng(1).choice([0.0, 0.4, 1.0, np.nan], len(candles)), candles.index)
    result = bl.backtest(candles, exposure.to_frame("exposure"))
    paper = bl.PaperBroker.open("memory://")
    equity = [paper.equity for _ in paper.replay(candles, exposure)]
    assert equity == result.equity.tolist()
    pd.testing.assert_frame_equal(paper.ledger.fill_table(), result.fills, check_exact=True)


def test_a_stop_and_a_restart_within_the_recording_change_nothing(candles):
    exposure = pd.Series(np.random.default_rng(2).choice([0.0, 1.0], len(candles)), candles.index)
    whole, halves = PaperBroker(1_000, Costs()), PaperBroker(1_000, Costs())
    halves.run(candles[:1_000], exposure[:1_000])
    halves.run(candles[990:], exposure[990:])  # the feed begins again a little earlier
    assert halves.ledger.fills == whole.run(candles, exposure)
    assert halves.account == whole.account


@pytest.mark.parametrize("latency", [0, 2])
def test_with_stops_and_limits_and_restarts_it_gives_the_backtest_to_the_last_digit(candles, latency):
    """A day's entry under a bracket, limits that rest, a participation cap; killed and restarted at random bars."""
    hours = candles[:1_000]
    random = np.random.default_rng(8)
    exposure = pd.Series(random.choice([0.0, 0.6, 1.0, np.nan], len(hours), p=[0.05, 0.05, 0.05, 0.85]), hours.index)
    costs = Costs(10, 5, maker_fee_bps=2, impact_bps=20, participation=0.01)
    market = Market(quantity_step=1e-5, min_quantity=1e-4, min_value=5)
    orders = bracket_orders(hours, random)
    result = bl.backtest(
        hours, exposure.to_frame("exposure"), costs, 5_000, 0.2, orders=orders, market=market, latency=latency
    )
    assert {"limit", "stop", "take_profit", "trailing_stop", "target"} <= set(result.fills["reason"])
    paper, equity = PaperBroker(5_000, costs, 0.2, market, latency), []
    waiting = list(orders)
    for time, target, bar in zip(hours.index.as_unit("ns").asi8, exposure, bars_of(hours), strict=True):
        now = [order for order in waiting if order.decided == time]
        paper.process(bar, None if math.isnan(target) else target, lambda paper: [paper.submit(one) for one in now])  # noqa: B023
        equity.append(paper.equity)
        if random.random() < 0.1:
            paper = PaperBroker.from_dict(json.loads(json.dumps(paper.to_dict(), allow_nan=False)), paper.ledger)
    assert equity == result.equity.tolist()
    assert paper.ledger.events == list(result.events)
    pd.testing.assert_frame_equal(paper.ledger.fill_table(), result.fills, check_exact=True)
    pd.testing.assert_frame_equal(paper.ledger.trade_table(HOUR), result.trades, check_exact=True)


def bracket_orders(hours, random):
    """Every tenth hour a limit 0.5 % below the close with a stop, a take-profit and a trailing stop on it."""
    orders = []
    for time, close in zip(hours.index.as_unit("ns").asi8[::10].tolist(), hours["close"][::10], strict=True):
        size = float(random.choice([0.01, 0.02]))
        entry = {"decided": time, "lifetime": "gtd", "expires": time + 5 * HOUR}
        child = {"decided": time, "side": "sell", "parent": f"in-{time}", "group": f"out-{time}"}
        orders += [
            Order(**entry, id=f"in-{time}", kind="limit", side="buy", quantity=size, limit=round(close * 0.995, 2)),
            Order(**child, id=f"stop-{time}", kind="stop", stop=round(close * 0.98, 2)),
            Order(**child, id=f"take-{time}", kind="take_profit", stop=round(close * 1.01, 2)),
            Order(**child, id=f"trail-{time}", kind="trailing_stop", trail=0.01),
        ]
    return orders


def test_exposure_at_other_times_is_refused(candles):
    with pytest.raises(InputError, match="reindex"):
        PaperBroker(1_000, FREE).run(candles, pd.Series(1.0, candles.index[1:]))


def test_a_fill_keeps_the_times_of_its_candles():
    candles = make_candles([1, 1, 1], [1, 1, 1])
    fill = PaperBroker(1_000, FREE).run(candles, pd.Series(1.0, candles.index))[0]
    assert pd.Timestamp(fill.timestamp, tz="UTC") == candles.index[1]
    assert pd.Timestamp(fill.decided, tz="UTC") == candles.index[0]


@pytest.mark.parametrize(
    "prices",
    [
        (math.nan, 2, 1, 1),
        (1, math.inf, 1, 1),
        (0, 1, 0, 1),
        (-1, 1, -1, 1),
        (3, 2, 1, 1),
        (1, 2, 1, 0.5),
        (1, 1, 2, 1),
    ],
)
def test_a_bar_at_which_nothing_can_have_traded_is_refused(prices):
    with pytest.raises(InputError, match="cannot have traded"):
        Bar(0, *prices)


@pytest.mark.parametrize("url", ["memory", "", "sqlite"])
def test_an_address_that_is_none_is_refused_with_the_remedy(url):
    with pytest.raises(InputError, match=r"sqlite:///data/ledger\.db"):
        PaperBroker.open(url)


def test_open_takes_cash_and_costs_from_the_settings(monkeypatch):
    monkeypatch.setenv("BTCLAB_TRADING__INITIAL_CASH", "500")
    monkeypatch.setenv("BTCLAB_TRADING__FEE_BPS", "7")
    broker = PaperBroker.open()
    assert (broker.equity, broker.costs) == (500.0, Costs(fee_bps=7, slippage_bps=5))


def test_what_is_said_to_open_is_stronger_than_the_settings():
    broker = PaperBroker.open(initial_cash=50, costs=FREE)
    assert (broker.equity, broker.costs) == (50, FREE)


@pytest.mark.parametrize("cash", [0, -1, math.nan, math.inf])
def test_an_account_must_start_with_cash(cash):
    with pytest.raises(InputError, match="initial_cash"):
        PaperBroker(cash, FREE)


@pytest.mark.parametrize("band", [0, -0.1, 1, 5, math.nan])
def test_a_band_must_be_a_fraction_of_equity(band):
    with pytest.raises(InputError, match="rebalance_band"):
        PaperBroker(1_000, FREE, band)


# Orders by hand


def limit(price, name="a", quantity=1.0, side="buy", **more):
    return Order(1, id=name, kind="limit", side=side, quantity=quantity, limit=price, **more)


@pytest.fixture
def waiting(broker):
    """1,000 of cash, the last close 100, in hour 1."""
    broker.process(flat_bar(1, 100.0))
    return broker


def events_of(broker):
    return [(event.order, event.event, event.rule) for event in broker.ledger.events]


def test_an_order_fills_in_the_next_bar(waiting):
    assert waiting.submit(limit(90.0)).event == "accepted"
    assert [order.id for order in waiting.open_orders] == ["a"]
    (fill,) = waiting.process(Bar(2, 100.0, 100.0, 80.0, 85.0))
    assert (fill.order, fill.price, fill.quantity) == ("a", 90.0, 1.0)
    assert waiting.open_orders == ()


def test_what_was_asked_between_two_bars_is_written_with_the_next(waiting):
    waiting.submit(limit(90.0))
    waiting.cancel("a")
    assert events_of(waiting) == []
    waiting.process(flat_bar(2, 100.0))
    assert events_of(waiting) == [("a", "accepted", ""), ("a", "cancelled", "user")]
    assert list(waiting.ledger.orders) == ["a"]


def test_what_is_asked_within_a_bar_is_decided_at_its_close_and_written_with_it(waiting):
    assert waiting.process(Bar(2, 100.0, 100.0, 80.0, 95.0), None, lambda broker: broker.submit(limit(90.0))) == []
    assert events_of(waiting) == [("a", "accepted", "")]
    assert len(waiting.process(flat_bar(3, 85.0))) == 1


def test_a_refused_order_is_recorded_and_changes_nothing(waiting):
    before = waiting.state
    event = waiting.submit(limit(100.0, quantity=11.0))
    assert (event.event, event.rule) == ("refused", "insufficient_funds")
    assert event.text == "It takes 1,100.00 with its fee; there are 1,000.00."
    assert waiting.state == before
    waiting.process(flat_bar(2, 100.0))
    assert events_of(waiting) == [("a", "refused", "insufficient_funds")]
    assert not waiting.ledger.orders


@pytest.mark.parametrize("bars", [0, 1, 2])
def test_an_id_is_used_once_whether_its_order_is_open_or_done(waiting, bars):
    waiting.submit(limit(90.0))
    for hour in range(bars):
        waiting.process(flat_bar(2 + hour, 100.0 - 15 * hour))
    event = waiting.submit(limit(80.0))
    assert (event.event, event.rule) == ("refused", "duplicate_id")
    assert waiting.replace("a", limit(80.0))[0].rule == "duplicate_id"


def test_cancel_and_replace_of_an_unknown_order_are_refused(waiting):
    assert waiting.cancel("x")[0].rule == "unknown_order"
    assert waiting.replace("x", limit(90.0))[0].rule == "unknown_order"


def test_a_replaced_order_fills_at_its_new_price(waiting):
    waiting.submit(limit(90.0))
    assert [event.event for event in waiting.replace("a", limit(95.0, "b"))] == ["replaced", "accepted"]
    (fill,) = waiting.process(Bar(2, 100.0, 100.0, 80.0, 85.0))
    assert (fill.order, fill.price) == ("b", 95.0)


def test_close_cancels_all_orders_and_sells_all_at_the_next_open(invested):
    invested.submit(limit(150.0, side="sell"))
    assert [event.event for event in invested.close()] == ["cancelled", "accepted"]
    (fill,) = invested.process(flat_bar(3, 120.0))
    assert (fill.side, fill.quantity, fill.price) == ("sell", 10.0, 120.0)
    assert (invested.account.position, invested.open_orders) == (0.0, ())


def test_close_twice_is_close_once(invested):
    invested.close()
    assert invested.close() == []


def test_after_close_the_strategy_buys_only_when_it_changes_its_mind(invested):
    invested.close()
    invested.process(flat_bar(3, 100.0), 1.0)
    invested.process(flat_bar(4, 100.0), 1.0)
    assert invested.account.position == 0.0
    invested.process(flat_bar(5, 100.0), 0.0)
    invested.process(flat_bar(6, 100.0), 1.0)
    assert len(invested.process(flat_bar(7, 100.0))) == 1


def test_a_ledger_that_fails_leaves_the_broker_as_it_was(waiting, monkeypatch):
    waiting.submit(limit(90.0))
    before = waiting.to_dict()

    def full(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr(waiting.ledger, "append", full)
    with pytest.raises(OSError, match="disk full"):
        waiting.process(flat_bar(2, 80.0), 1.0)
    assert waiting.to_dict() == before
    monkeypatch.undo()
    assert len(waiting.process(flat_bar(2, 80.0), 1.0)) == 1


def test_a_ledger_can_be_plugged_in():
    class Recording(MemoryLedger):
        def append(self, bar, fills, events, state, orders=(), movements=()):
            self.last = (bar.timestamp, [fill.order for fill in fills], [order.id for order in orders], state)

    ledger = Recording(1_000)
    broker = PaperBroker(1_000, FREE, ledger=ledger)
    broker.process(flat_bar(1, 100.0), 1.0)
    assert ledger.last[:3] == (1, [], ["target-1"])
    broker.process(flat_bar(2, 100.0))
    assert ledger.last[:3] == (2, ["target-1"], [])
    assert PaperBroker.from_dict(json.loads(json.dumps(ledger.last[3]))).account == broker.account


def test_the_summary_counts_fills_and_fees():
    broker = PaperBroker(1_010, Costs(100, 0))
    broker.process(flat_bar(1, 100.0), 1.0)
    broker.process(flat_bar(2, 100.0), 0.0)
    broker.process(flat_bar(3, 100.0))
    assert broker.summary() == pytest.approx(
        {"worth": 990.0, "cash": 990.0, "position": 0.0, "profit": -20.0, "fees": 20.0, "interest": 0.0, "fills": 2}
    )
