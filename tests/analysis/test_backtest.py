"""The backtest: a known answer by hand, the same answer from two other engines, and what it refuses."""

from __future__ import annotations

import dataclasses
import math
import warnings
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from backtesting import Strategy
from backtesting.lib import FractionalBacktest
from hypothesis import given, settings
from hypothesis import strategies as st

import btclab as bl
from btclab.analysis.backtest import backtest_many, buy_and_hold, cost_sensitivity
from btclab.errors import CandleError, InputError, LedgerError, TooFewBars
from btclab.records import Costs, Market, Order
from btclab.trading.engine import simulate
from tests.analysis.reference import bands, bps, make_candles, markets, reference_backtest

NAN = math.nan
FREE = Costs(0, 0)


def signals_of(candles, exposure):
    return pd.DataFrame({"exposure": exposure}, candles.index, dtype=float)


@pytest.fixture
def five():
    """Five hours whose opens are not the closes before them, so that a fill at the wrong price shows."""
    return make_candles([90, 110, 125, 80, 95], [100, 120, 100, 90, 100])


def test_known_answer_by_hand_without_costs(five):
    # Decided at 100, bought at 110: 1,100 / 110 = 10 BTC. Decided at 100, sold at 80: 800. The last decision comes too late.
    result = bl.backtest(five, signals_of(five, [1, 1, 0, 0, 1]), FREE, 1_100)
    assert result.equity.tolist() == pytest.approx([1_100, 1_200, 1_000, 800, 800])
    assert result.exposure.tolist() == pytest.approx([0, 1, 1, 0, 0])


def test_known_answer_by_hand_with_costs(five):
    # Fee 1 %, slippage 10 %: 10,000 buys 10,000 / 1.01 / 121 BTC; sold at 72 less 1 %.
    result = bl.backtest(five, signals_of(five, [1, 1, 0, 0, 0]), Costs(100, 1_000), 10_000)
    bought = 10_000 / 1.01 / 121
    left = bought * 72 * 0.99
    assert result.equity.tolist() == pytest.approx([10_000, bought * 120, bought * 100, left, left])
    assert result.fills["fee"].tolist() == pytest.approx([100 / 1.01, bought * 72 * 0.01])


def test_half_an_exposure_by_hand(five):
    # 1,100 to a half at 110: 5 BTC and 550 of cash
    result = bl.backtest(five, signals_of(five, [0.5, NAN, NAN, NAN, NAN]), FREE, 1_100)
    assert result.equity.tolist() == pytest.approx([1_100, 1_150, 1_050, 1_000, 1_050])
    assert result.exposure.iloc[1] == pytest.approx(600 / 1_150)


def test_there_is_one_equity_value_per_bar(five):
    assert bl.backtest(five, signals_of(five, 1.0)).equity.index.equals(five.index)


def test_a_fill_is_in_the_bar_after_the_one_that_decided_it(five):
    fills = bl.backtest(five, signals_of(five, [0, 1, 1, 0, 0])).fills
    assert fills.index.tolist() == [five.index[2], five.index[4]]
    assert fills["decided"].tolist() == [five.index[1], five.index[3]]


def test_the_decision_of_the_last_bar_is_not_traded(five):
    assert bl.backtest(five, signals_of(five, [0, 0, 0, 0, 1])).fills.empty


def test_a_trade_says_how_many_bars_it_was_open(five):
    trades = bl.backtest(five, signals_of(five, [1, 1, 1, 0, 0])).trades
    assert trades["bars_open"].tolist() == [3]


def test_a_missing_exposure_changes_nothing(five):
    told = bl.backtest(five, signals_of(five, [1, 1, 1, 0, 0]))
    silent = bl.backtest(five, signals_of(five, [1, NAN, NAN, 0, NAN]))
    pd.testing.assert_series_equal(silent.equity, told.equity)


def test_a_repeated_exposure_is_not_traded_again(five):
    assert len(bl.backtest(five, signals_of(five, 0.5)).fills) == 1


def test_bars_without_a_signal_change_nothing(five):
    told = bl.backtest(five, signals_of(five, [0, 1, 1, 0, 0]))
    some = bl.backtest(five, signals_of(five, [0, 1, 1, 0, 0]).iloc[[1, 3]])
    pd.testing.assert_series_equal(some.equity, told.equity)


def test_the_order_of_the_rows_does_not_matter(five):
    signals = signals_of(five, [0, 1, 0.5, 0, 1])
    pd.testing.assert_series_equal(bl.backtest(five, signals[::-1]).equity, bl.backtest(five, signals).equity)


def test_the_band_trades_on_drift_and_without_it_nothing_does(five):
    signals = signals_of(five, 0.5)
    assert len(bl.backtest(five, signals, FREE).fills) == 1
    banded = bl.backtest(five, signals, FREE, rebalance_band=0.02).fills
    # held at the closes of bars 1 and 2: 60/115 and, bought back to a half at 125, 44/99 = 0.444…
    assert banded["side"].tolist()[:2] == ["buy", "sell"]
    assert banded.index[1] == five.index[2]


def test_inputs_are_left_as_they_were(five):
    signals = signals_of(five, [1, NAN, 0, 1, 0])
    before = (five.copy(), signals.copy())
    bl.backtest(five, signals)
    pd.testing.assert_frame_equal(five, before[0])
    pd.testing.assert_frame_equal(signals, before[1])


# What it refuses


def test_a_signal_at_a_time_without_a_bar_is_refused(five):
    strange = signals_of(five, 1.0).set_axis(five.index + pd.Timedelta(minutes=1))
    with pytest.raises(InputError, match="which is no bar of these candles"):
        bl.backtest(five, strange)


def test_two_signals_for_one_bar_are_refused(five):
    signals = signals_of(five, 1.0)
    with pytest.raises(InputError, match="twice for one bar"):
        bl.backtest(five, pd.concat([signals, signals.iloc[:1]]))


@pytest.mark.parametrize("wrong", [-0.01, 1.01, math.inf, -math.inf])
def test_an_exposure_beyond_spot_is_refused_with_its_time(five, wrong):
    with pytest.raises(InputError, match=r"Exposure at 2024-01-01 02:00:00\+00:00 is .*must lie in 0…1"):
        bl.backtest(five, signals_of(five, [0, 0, wrong, 0, 0]))


def test_a_missing_column_is_refused_with_those_there_are(five):
    with pytest.raises(InputError, match="lack the column 'exposure'; found side"):
        bl.backtest(five, pd.DataFrame({"side": "buy"}, five.index))


def test_a_series_is_refused_with_the_remedy(five):
    with pytest.raises(InputError, match="to_frame"):
        bl.backtest(five, pd.Series(1.0, five.index))


def test_words_as_exposure_are_refused(five):
    with pytest.raises(InputError, match="must hold numbers"):
        bl.backtest(five, pd.DataFrame({"exposure": "all in"}, five.index))


def test_candles_that_cannot_have_traded_are_refused(five):
    with pytest.raises(CandleError):
        bl.backtest(five.assign(high=1.0), signals_of(five, 1.0))


def test_a_single_bar_is_refused(five):
    with pytest.raises(TooFewBars):
        bl.backtest(five[:1], signals_of(five[:1], 1.0))


def test_a_result_whose_ledger_disagrees_with_the_account_is_refused(five, monkeypatch):
    def forgetful(*inputs):  # an engine that loses its fills
        done = simulate(*inputs)
        return dataclasses.replace(done, fills={name: values[:0] for name, values in done.fills.items()})

    monkeypatch.setattr("btclab.analysis.backtest.simulate", forgetful)
    with pytest.raises(LedgerError, match="its ledger says"):
        bl.backtest(five, signals_of(five, 1.0))


# Honest numbers


def test_seen_in_training_is_said_in_the_name_of_every_metric(five):
    signals = signals_of(five, [1, 1, 0, 0, 0])
    seen = bl.backtest(five, signals.assign(in_sample=[True, False, False, False, False])).metrics
    unseen = bl.backtest(five, signals.assign(in_sample=False)).metrics
    assert seen == {f"in_sample_{name}": value for name, value in unseen.items()}


def test_signals_that_do_not_say_keep_the_plain_names(five):
    assert "sharpe" in bl.backtest(five, signals_of(five, [1, 1, 0, 0, 0])).metrics


def test_trials_deflate_the_sharpe_ratio(candles):
    signals = signals_of(candles, np.random.default_rng(3).integers(0, 2, len(candles)))
    one, many = (bl.backtest(candles, signals, trials=trials).metrics for trials in (1, 100))
    assert many["sharpe"] == one["sharpe"]
    assert many["sharpe_trials"] == 100
    assert many["deflated_sharpe"] < one["deflated_sharpe"]


def test_the_metrics_agree_with_the_curve_and_the_fills(candles):
    result = bl.backtest(candles, signals_of(candles, np.random.default_rng(4).integers(0, 2, len(candles))))
    assert result.metrics["total_return"] == pytest.approx(100 * (result.equity.iloc[-1] / 10_000 - 1))
    assert result.metrics["fees"] == pytest.approx(result.fills["fee"].sum())
    assert result.metrics["fills"] == len(result.fills)
    assert result.metrics["time_in_market"] == pytest.approx(100 * (result.exposure > 0).mean())


all_or_nothing = markets(jump=0.2, wanted=st.sampled_from([0.0, 1.0, NAN]))


@given(all_or_nothing, st.lists(st.floats(0, 2_000), min_size=2, max_size=4).map(sorted), st.booleans())
@settings(max_examples=30, deadline=None, derandomize=True)
def test_higher_costs_never_earn_more(market, levels, fee):
    """All in or all out: between other exposures, costs can stop a small trade that would have lost."""
    candles, exposure = market
    ends = [
        bl.backtest(candles, exposure.to_frame(), Costs(*((level, 5) if fee else (10, level)))).equity.iloc[-1]
        for level in levels
    ]
    assert all(dearer <= cheaper * (1 + 1e-12) for cheaper, dearer in pairwise(ends))


def test_a_later_bar_changes_no_earlier_equity(candles):
    signals = signals_of(candles, np.random.default_rng(5).random(len(candles)))
    whole, cut = bl.backtest(candles, signals), bl.backtest(candles[:700], signals[:700])
    assert whole.equity[:700].tolist() == cut.equity.tolist()


def test_the_account_does_not_depend_on_its_currency(five):
    cents = five.assign(**{name: five[name] * 100 for name in ("open", "high", "low", "close")})
    signals = signals_of(five, [1, 0.3, 0.6, 0, 1])
    ours = bl.backtest(five, signals, initial_cash=10).equity
    assert bl.backtest(cents, signals, initial_cash=1_000).equity.tolist() == pytest.approx((100 * ours).tolist())


# Against other engines


@given(markets(), bps, bps, bands)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_it_agrees_with_a_slow_and_obvious_backtest(market, fee, slippage, band):
    candles, exposure = market
    costs = Costs(fee, slippage)
    result = bl.backtest(candles, exposure.to_frame(), costs, 10_000, rebalance_band=band)
    equity, fees = reference_backtest(candles, exposure, costs, 10_000, band)
    assert result.equity.tolist() == pytest.approx(equity, rel=1e-9)
    assert result.metrics["fees"] == pytest.approx(fees, rel=1e-9, abs=1e-9)


class Follow(Strategy):
    """In the market where `wanted` is 1. Its first call is at the second bar, so that `wanted` must begin with 0."""

    wanted = None

    def init(self):
        pass

    def next(self):
        now = self.wanted[len(self.data) - 1]
        if now and not self.position:
            self.buy()
        elif not now and self.position:
            self.position.close()


@pytest.mark.parametrize(("seed", "fee_bps"), [(1, 0), (2, 10), (3, 100)])
def test_it_agrees_with_backtesting_py(candles, seed, fee_bps):
    """kernc's `backtesting` 0.6 on 500 simulated hours, all in or all out.

    The conventions that differ: it trades whole units, here of a millionth of a satoshi, so that it buys less by under
    1e-9 of the equity; its `spread` widens the entry only, where our slippage worsens both sides, so both are 0 here;
    its `buy()` asks for all cash, commission included, which is our exposure 1.
    """
    hours = candles.iloc[500 * seed : 500 * (seed + 1)]
    wanted = np.random.default_rng(seed).integers(0, 2, len(hours)).repeat(5)[: len(hours)]
    wanted[0], wanted[-3:] = 0, 0  # it does not act on the first bar, and warns of a trade left open at the end
    ours = bl.backtest(hours, signals_of(hours, wanted), Costs(fee_bps, 0), 10_000)
    theirs = FractionalBacktest(
        hours.tz_localize(None).rename(columns=str.capitalize),
        Follow,
        cash=10_000,
        commission=fee_bps / 10_000,
        trade_on_close=False,
        fractional_unit=1e-14,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stats = theirs.run(wanted=wanted)
    np.testing.assert_allclose(ours.equity, stats["_equity_curve"]["Equity"], rtol=1e-6)
    assert len(ours.trades) == stats["# Trades"]


@pytest.fixture(scope="module")
def real_hours(real_file):
    """4,000 real hours of 2020, with the crash of March."""
    return bl.load_candles(f"file:{real_file}").loc["2020-01-01":].iloc[:4_000]


def sma_cross(candles):
    """In the market while the mean of a day is above that of a week; out until both are known, and at the end."""
    close = candles["close"]
    wanted = (close.rolling(24).mean() > close.rolling(168).mean()).astype(float)
    wanted.iloc[-3:] = 0.0
    return wanted


def test_it_agrees_with_backtesting_py_on_real_hours(real_hours):
    """The conventions are those of the test above: no slippage, units of a millionth of a satoshi."""
    wanted = sma_cross(real_hours)
    ours = bl.backtest(real_hours, signals_of(real_hours, wanted), Costs(10, 0), 10_000)
    theirs = FractionalBacktest(
        real_hours.tz_localize(None).rename(columns=str.capitalize),
        Follow,
        cash=10_000,
        commission=0.001,
        trade_on_close=False,
        fractional_unit=1e-14,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stats = theirs.run(wanted=wanted.to_numpy())
    np.testing.assert_allclose(ours.equity, stats["_equity_curve"]["Equity"], rtol=1e-6)
    assert len(ours.trades) == stats["# Trades"] > 10


@pytest.mark.parametrize("wanted", ["cross", "fractions"])
def test_it_agrees_with_vectorbt_on_real_hours(real_hours, wanted):
    """vectorbt 1.2, `from_orders` with a target of the value, filled at the open of the next bar with fee and slippage.

    The conventions that differ: it knows no decision at a close, so that the targets are shifted by a bar here, and no
    target that is "as before", so that only changes are given; it values the account for the target at the price before
    slippage and without the fee, so that a target between 0 and 1 is missed by the costs: those are compared free of cost.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import vectorbt as vbt

    rng = np.random.default_rng(2)
    fractions = pd.Series(rng.choice([0.0, 0.25, 0.8, 1.0], len(real_hours)), real_hours.index)
    exposure = sma_cross(real_hours) if wanted == "cross" else fractions
    costs = Costs(10, 5) if wanted == "cross" else FREE
    ours = bl.backtest(real_hours, signals_of(real_hours, exposure), costs, 10_000)
    before = exposure.shift(fill_value=0.0)
    size = before.where(before != before.shift(fill_value=0.0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = vbt.Portfolio.from_orders(
            real_hours["close"],
            size,
            size_type="targetpercent",
            price=real_hours["open"],
            val_price=real_hours["open"],
            fees=costs.fee_bps / 10_000,
            slippage=costs.slippage_bps / 10_000,
            init_cash=10_000.0,
            freq="1h",
        )
    np.testing.assert_allclose(ours.equity, theirs.value(), rtol=1e-6)
    assert len(ours.fills) == len(theirs.orders.records) > 30


# Orders beside the exposure


def at(candles, bar):
    return candles.index.as_unit("ns").asi8[bar].item()


def test_a_bracket_on_a_target_order_sells_in_the_backtest(five):
    # Bought at 110; 95 is passed by the gap to 80, the open of bar 3
    time = at(five, 0)
    stop = Order(time, id="s", kind="stop", side="sell", stop=95.0, parent=f"target-{time}")
    result = bl.backtest(five, signals_of(five, [1, 1, 1, 1, 1]), FREE, 1_100, orders=[stop])
    assert result.equity.tolist() == pytest.approx([1_100, 1_200, 1_000, 800, 800])
    assert result.fills["reason"].tolist() == ["target", "stop"]
    assert result.trades["reason"].tolist() == ["stop"]
    assert [(event.order, event.event) for event in result.events] == [
        ("s", "accepted"),
        ("s", "triggered"),
        ("s", "done"),
    ]


def test_an_order_that_the_account_cannot_carry_is_refused_in_the_events(five):
    dear = Order(at(five, 1), id="b", kind="market", side="buy", quantity=100.0)
    result = bl.backtest(five, signals_of(five, NAN), FREE, 1_000, orders=[dear])
    assert [(event.event, event.rule) for event in result.events] == [("refused", "insufficient_funds")]
    assert result.fills.empty


def test_the_steps_of_the_market_hold_in_the_backtest(five):
    result = bl.backtest(five, signals_of(five, 1.0), FREE, 1_000, market=Market(quantity_step=0.5))
    assert result.fills["quantity"].tolist() == [9.0]


def test_latency_fills_bars_later(five):
    result = bl.backtest(five, signals_of(five, 1.0), FREE, 1_000, latency=2)
    assert result.fills.index.tolist() == [five.index[3]]


# Many at once


def test_many_variants_give_the_metrics_of_each(candles):
    rng = np.random.default_rng(9)
    exposures = pd.DataFrame(rng.choice([0.0, 0.5, 1.0, NAN], (len(candles), 5)), candles.index, list("abcde"))
    table = backtest_many(candles, exposures, Costs(10, 5), workers=2)
    for name in exposures:
        alone = bl.backtest(candles, exposures[[name]].set_axis(["exposure"], axis=1), Costs(10, 5), trials=5).metrics
        assert table.loc[name].to_dict() == alone


def test_each_variant_counts_as_a_trial(candles):
    exposures = pd.DataFrame({"a": 1.0, "b": 0.0}, candles.index)
    assert backtest_many(candles, exposures)["sharpe_trials"].tolist() == [2, 2]
    assert backtest_many(candles, exposures, trials=50)["sharpe_trials"].tolist() == [50, 50]


@pytest.mark.parametrize("wrong", [pd.Series(1.0), np.ones((5, 2)), pd.DataFrame(1.0, range(5), ["a", "a"])])
def test_variants_that_have_no_names_are_refused(five, wrong):
    with pytest.raises(InputError, match="one column, of a name of its own, per variant"):
        backtest_many(five, wrong)


def test_a_wrong_variant_is_refused(five):
    with pytest.raises(InputError, match="must lie in 0…1"):
        backtest_many(five, pd.DataFrame({"a": 1.0, "b": 2.0}, five.index))


# Beside it


def test_buy_and_hold_buys_once_at_the_second_open_and_keeps(five):
    result = buy_and_hold(five, FREE, 1_100)
    assert result.equity.tolist() == pytest.approx([1_100, 1_200, 1_000, 900, 1_000])
    assert result.fills.index.tolist() == [five.index[1]]


def test_buy_and_hold_pays_the_same_costs(five):
    costs = Costs(100, 50)
    assert buy_and_hold(five, costs).equity.equals(bl.backtest(five, signals_of(five, 1.0), costs).equity)


def test_cost_sensitivity_is_the_same_backtest_at_multiples_of_the_costs(five):
    signals = signals_of(five, [1, 0, 1, 0, 0])
    table = cost_sensitivity(five, signals, Costs(10, 5))
    assert table["multiple"].tolist() == [0, 0.5, 1, 2, 3]
    assert table["cost_bps"].tolist() == [0, 7.5, 15, 30, 45]
    expected = [bl.backtest(five, signals, Costs(10 * m, 5 * m)).metrics["total_return"] for m in table["multiple"]]
    assert table["total_return"].tolist() == pytest.approx(expected)


def test_cost_sensitivity_keeps_impact_and_cap(five):
    costs = Costs(10, 5, impact_bps=100, participation=0.5)
    table = cost_sensitivity(five, signals_of(five, [1, 0, 1, 0, 0]), costs)
    assert (
        table["total_return"][2] == bl.backtest(five, signals_of(five, [1, 0, 1, 0, 0]), costs).metrics["total_return"]
    )
    assert table["total_return"].is_monotonic_decreasing


def test_cost_sensitivity_falls_as_the_costs_rise(candles):
    signals = signals_of(candles, np.random.default_rng(6).integers(0, 2, len(candles)))
    assert cost_sensitivity(candles, signals, Costs())["total_return"].is_monotonic_decreasing


def test_cost_sensitivity_in_sample_says_so(candles):
    signals = pd.DataFrame({"exposure": 1.0, "in_sample": True}, index=candles.index)
    assert cost_sensitivity(candles, signals, Costs()).columns[-1] == "in_sample_total_return"
