"""Metrics: known answers, nothing where a ratio has no denominator, and a Sharpe ratio that pays for its trials."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.stats import kurtosis, norm, skew

from btclab.analysis.metrics import UNITS, deflated_sharpe, equity_metrics, rename_in_sample, trade_metrics
from btclab.errors import InputError, TooFewBars

# Each close is the account at the end of a bar; it began with 100. Returns: +10 %, −10 %, +20 %, −5 %.
WORKED = [110.0, 99.0, 118.8, 112.86]


def curve(values, step="D"):
    return pd.Series(np.asarray(values, float), pd.date_range("2024-01-01", periods=len(values), freq=step, tz="UTC"))


@pytest.fixture
def worked():
    return equity_metrics(curve(WORKED), 100.0)


def test_total_return_is_from_the_starting_cash_to_the_last_close(worked):
    assert worked["total_return"] == pytest.approx(12.86)


def test_annual_return_compounds_over_365_days(worked):
    assert worked["annual_return"] == pytest.approx(100 * (1.1286 ** (365 / 4) - 1))


def test_a_year_of_days_has_its_total_return_as_annual_return():
    metrics = equity_metrics(curve(np.linspace(100, 150, 365)), 100.0)
    assert metrics["annual_return"] == pytest.approx(50.0)


def test_a_year_of_hours_has_its_total_return_as_annual_return():
    metrics = equity_metrics(curve(np.linspace(100, 150, 365 * 24), "h"), 100.0)
    assert metrics["annual_return"] == pytest.approx(50.0)


def test_volatility_and_sharpe_by_hand(worked):
    # mean 3.75 %; squared distances 39.0625 + 189.0625 + 264.0625 + 76.5625 = 568.75, over 4 is 142.1875 (%²)
    deviation = math.sqrt(142.1875)
    assert worked["annual_volatility"] == pytest.approx(deviation * math.sqrt(365))
    assert worked["sharpe"] == pytest.approx(3.75 / deviation * math.sqrt(365))  # Sharpe (1994), risk-free rate 0


def test_sortino_by_hand(worked):
    # Sortino and Price (1994), target 0: all bars count, those above the target as 0: √((10² + 5²) / 4)
    assert worked["sortino"] == pytest.approx(3.75 / math.sqrt(125 / 4) * math.sqrt(365))


@pytest.mark.parametrize(("step", "bars"), [("h", 8_760), ("4h", 2_190), ("D", 365)])
def test_ratios_are_annualised_by_the_root_of_the_bars_in_365_days(step, bars):
    metrics = equity_metrics(curve(WORKED, step), 100.0)
    assert metrics["sharpe"] == pytest.approx(3.75 / math.sqrt(142.1875) * math.sqrt(bars))
    assert metrics["annual_volatility"] == pytest.approx(math.sqrt(142.1875 * bars))


def test_a_missing_bar_does_not_change_the_length_of_the_others():
    whole = curve(WORKED * 3, "h")
    assert equity_metrics(whole.drop(whole.index[4]), 100.0)["annual_volatility"] == pytest.approx(
        100 * np.std(whole.drop(whole.index[4]).pct_change().fillna(0.1)) * math.sqrt(8_760)
    )


def test_ratios_agree_with_the_published_ones_of_empyrical():
    """`mixed_returns` of empyrical's tests (quantopian): 252 days a year there, and n−1 below its Sharpe ratio."""
    metrics = equity_metrics(curve(100 * np.cumprod(1 + np.array([1, 10, -4, 2, 3, 2, 1, -10]) / 100)), 100.0)
    assert metrics["sharpe"] == pytest.approx(1.7238613961706866 * math.sqrt(365 / 252) * math.sqrt(8 / 7))
    assert metrics["sortino"] == pytest.approx(2.605531251673693 * math.sqrt(365 / 252))
    assert metrics["max_drawdown"] == pytest.approx(-10.0)


def test_max_drawdown_is_the_deepest_fall_from_a_peak(worked):
    assert worked["max_drawdown"] == pytest.approx(-10.0)


def test_a_fall_below_the_starting_cash_is_a_drawdown():
    assert equity_metrics(curve([90.0, 95.0]), 100.0)["max_drawdown"] == pytest.approx(-10.0)


def test_calmar_is_annual_return_over_max_drawdown(worked):
    assert worked["calmar"] == pytest.approx((1.1286 ** (365 / 4) - 1) / 0.10)  # Young (1991)


@pytest.mark.parametrize(("step", "days"), [("D", 3.0), ("h", 3 / 24)])
def test_longest_drawdown_is_the_longest_run_of_bars_below_a_peak(step, days):
    metrics = equity_metrics(curve([101, 100, 102, 99, 98, 101, 102, 103], step), 100.0)
    assert metrics["longest_drawdown_days"] == pytest.approx(days)


def test_a_drawdown_that_never_ended_counts():
    assert equity_metrics(curve([110, 100, 100, 100, 100]), 100.0)["longest_drawdown_days"] == 4


@pytest.mark.parametrize("name", ["sharpe", "deflated_sharpe", "sortino", "calmar"])
def test_an_account_that_never_moved_has_no_ratio(name):
    assert equity_metrics(curve([100.0] * 10), 100.0)[name] is None


@pytest.mark.parametrize("name", ["sortino", "calmar"])
def test_an_account_that_never_fell_has_no_ratio_to_its_falls(name):
    assert equity_metrics(curve([101.0, 102.0, 104.0]), 100.0)[name] is None


def test_an_annual_return_beyond_any_number_is_none():
    assert equity_metrics(curve([100.0, 1e6], "h"), 100.0)["annual_return"] is None


def test_an_account_that_lost_all_lost_all_in_a_year():
    assert equity_metrics(curve([50.0, 1e-300], "h"), 100.0)["annual_return"] == pytest.approx(-100.0)


@pytest.mark.parametrize("values", [[], [100.0]])
def test_too_few_bars_for_a_rate_are_refused(values):
    with pytest.raises(TooFewBars, match="at least 2"):
        equity_metrics(curve(values), 100.0)


@pytest.fixture
def returns():
    return np.random.default_rng(5).standard_t(4, 500) / 100 + 0.001


def probabilistic(returns, threshold=0.0):
    """Bailey and López de Prado (2012), "The Sharpe Ratio Efficient Frontier", with scipy's moments."""
    ratio = returns.mean() / returns.std(ddof=1)
    spread = 1 - skew(returns) * ratio + (kurtosis(returns, fisher=False) - 1) / 4 * ratio**2
    return norm.cdf((ratio - threshold) * np.sqrt((len(returns) - 1) / spread))


def test_with_one_trial_it_is_the_probabilistic_sharpe_ratio(returns):
    assert deflated_sharpe(returns, 1) == pytest.approx(probabilistic(returns), rel=1e-9)


@pytest.mark.parametrize("trials", [2, 10, 1_000])
def test_the_threshold_is_the_expected_best_of_the_trials(returns, trials):
    # Bailey and López de Prado (2014), "The Deflated Sharpe Ratio", the trials' ratios spread by 1/√(n−1)
    gumbel = (1 - np.euler_gamma) * norm.ppf(1 - 1 / trials) + np.euler_gamma * norm.ppf(1 - 1 / (trials * np.e))
    expected = probabilistic(returns, gumbel / np.sqrt(len(returns) - 1))
    assert deflated_sharpe(returns, trials) == pytest.approx(expected, rel=1e-9)


def test_the_worked_example_of_bailey_and_lopez_de_prado():
    """ "The Deflated Sharpe Ratio" (2014), the numerical example: a probability of 0.9004 for the best of 100 trials.

    Its returns: 1,250 days (250 a year), Sharpe ratio 2.5 a year, skew −3, kurtosis 10. Only two different values can have
    kurtosis = skew² + 1: 1,145 gains and 105 losses. Its trials' ratios have the variance ½ a year; ours have 1/(n−1), so
    that as many more trials are asked for as lift the threshold to its 0.1132 a day.
    """
    two = np.repeat([0.01, -0.03], [1_145, 105])
    two += 2.5 / math.sqrt(250) * two.std(ddof=1) - two.mean()
    assert (skew(two), kurtosis(two, fisher=False)) == pytest.approx((-3, 10), abs=0.01)

    def expected_best(trials):
        return (1 - np.euler_gamma) * norm.isf(1 / trials) + np.euler_gamma * norm.isf(1 / (trials * np.e))

    threshold = expected_best(100) * math.sqrt(1 / 2 / 250)
    assert threshold == pytest.approx(0.1132, abs=5e-5)
    trials = round(brentq(lambda count: expected_best(count) / math.sqrt(1_249) - threshold, 100, 1e6))
    assert deflated_sharpe(two, trials) == pytest.approx(0.9004, abs=5e-4)


def test_the_expected_best_is_what_skill_less_trials_show():
    """The threshold, by experiment: 400 times the best of 50 ratios of 250 returns without skill."""
    random = np.random.default_rng(11).normal(size=(400, 50, 250))
    best = (random.mean(axis=2) / random.std(axis=2, ddof=1)).max(axis=1).mean()
    just_as_good = np.random.default_rng(1).normal(size=250)
    just_as_good += best * just_as_good.std(ddof=1) - just_as_good.mean()
    assert deflated_sharpe(just_as_good, 50) == pytest.approx(0.5, abs=0.05)


short = st.lists(st.floats(-0.2, 0.2), min_size=2, max_size=40).map(np.array)


@given(short, st.lists(st.integers(1, 100_000), min_size=2, max_size=5).map(sorted))
@settings(max_examples=80, deadline=None, derandomize=True)
def test_more_trials_never_raise_it(some, trials):
    values = [deflated_sharpe(some, count) for count in trials]
    if values[0] is None:
        assert values == [None] * len(trials)
    else:
        assert values == sorted(values, reverse=True)
        assert all(0 <= value <= 1 for value in values)


def test_returns_that_never_vary_have_none():
    assert deflated_sharpe(np.full(50, 0.01), 3) is None
    assert deflated_sharpe(np.array([0.01]), 1) is None


@pytest.mark.parametrize("trials", [0, -1])
def test_fewer_trials_than_the_one_at_hand_are_refused(returns, trials):
    with pytest.raises(InputError, match="trials"):
        deflated_sharpe(returns, trials)


def test_the_metrics_state_the_trials_beside_the_sharpe_ratio():
    metrics = equity_metrics(curve(WORKED), 100.0, trials=7)
    simple = np.array([0.1, -0.1, 0.2, -0.05])
    assert metrics["sharpe_trials"] == 7
    assert metrics["deflated_sharpe"] == pytest.approx(deflated_sharpe(simple, 7))


@pytest.fixture
def traded():
    """Three trades in ten days: +30, −10, 0; 2,000 turned over at a mean equity of 1,000."""
    trades = pd.DataFrame({"pnl": [30.0, -10.0, 0.0]})
    fills = pd.DataFrame({"fee": [1.0, 1.5], "value": [1_200.0, 800.0]})
    return trade_metrics(fills, trades, curve([0, 0.5, 1, 0, 0, 0, 0, 0, 0, 0]), curve([1_000.0] * 10))


def test_how_the_account_traded_by_hand(traded):
    assert traded == pytest.approx(
        {
            "time_in_market": 20.0,
            "trades": 3,
            "fills": 2,
            "win_rate": 100 / 3,
            "profit_factor": 3.0,
            "fees": 2.5,
            "interest": 0.0,
            "turnover": 2 * 36.5,
        }
    )


def test_without_a_trade_there_is_no_win_rate():
    nothing = pd.DataFrame({"pnl": [], "fee": [], "value": []}, dtype=float)
    metrics = trade_metrics(nothing, nothing, curve([0.0, 0.0]), curve([1.0, 1.0]))
    assert (metrics["win_rate"], metrics["profit_factor"], metrics["turnover"]) == (None, None, 0.0)


def test_every_metric_has_its_unit(worked, traded):
    assert set(UNITS) == {*worked, *traded}


def test_in_sample_is_said_in_every_name():
    assert rename_in_sample({"sharpe": 1.0, "trades": 2}) == {"in_sample_sharpe": 1.0, "in_sample_trades": 2}


@given(st.lists(st.floats(0.01, 1e9), min_size=2, max_size=40))
@settings(max_examples=80, deadline=None, derandomize=True)
def test_every_metric_is_a_number_or_none(values):
    for value in equity_metrics(curve(values, "h"), 100.0).values():
        assert value is None or math.isfinite(value)
