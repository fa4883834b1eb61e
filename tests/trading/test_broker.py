"""The paper broker: the backtest, one bar at a time."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings

import btclab as bl
from btclab.errors import InputError
from btclab.records import Bar, Costs
from btclab.trading.broker import PaperBroker
from tests.analysis.reference import bands, bps, make_candles, markets

FREE = Costs(0, 0)


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
    assert broker.process(flat_bar(1, 100.0), 1.0) is None
    assert broker.pending.exposure == 1.0
    assert broker.process(flat_bar(2, 125.0), 1.0).quantity == 8.0


def test_a_bar_that_comes_twice_never_trades_twice(broker):
    broker.process(flat_bar(1, 100.0), 1.0)
    broker.process(flat_bar(2, 100.0), 0.0)
    before = (broker.account, broker.pending, broker.target)
    assert broker.process(flat_bar(2, 100.0), 1.0) is None
    assert (broker.account, broker.pending, broker.target) == before
    assert len(broker.ledger.fills) == 1


def test_a_bar_that_comes_late_is_ignored(invested):
    invested.process(flat_bar(5, 100.0), 0.0)
    assert invested.process(flat_bar(4, 100.0), 1.0) is None
    assert invested.last_bar.timestamp == 5
    assert invested.pending.exposure == 0.0


def test_a_bar_is_missed_and_the_order_fills_at_the_one_that_comes(broker):
    broker.process(flat_bar(1, 100.0), 1.0)
    assert broker.process(flat_bar(9, 200.0), None).price == 200.0


def test_a_missing_target_keeps_the_last(invested):
    assert invested.process(flat_bar(3, 100.0), None) is None
    assert (invested.target, invested.pending) == (1.0, None)


def test_a_missing_target_does_not_withdraw_a_pending_order(invested):
    invested.process(flat_bar(3, 100.0), 0.0)
    assert invested.process(flat_bar(4, 110.0), None).side == "sell"


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


@pytest.mark.parametrize("url", ["sqlite:///data/ledger.db", "memory", ""])
def test_a_ledger_it_cannot_open_is_refused_with_the_remedy(url):
    with pytest.raises(InputError, match=r"use 'memory://'"):
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
