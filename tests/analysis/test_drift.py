"""Drift: nothing on the market of the training, an alarm on another, and a policy that says what is past its limit."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import btclab as bl
from btclab.analysis.drift import check_drift, cusum, distance, feature_drift, stability_index
from btclab.errors import TooFewBars
from btclab.settings import RetrainingSettings
from tests.conftest import EDGE, SMALL

EDGES = np.quantile(np.random.default_rng(0).normal(size=100_000), np.linspace(0.1, 0.9, 9))
SHARES = np.full(10, 0.1)


def test_the_stability_index_is_near_zero_for_the_same_and_large_for_another():
    random = np.random.default_rng(1)
    assert stability_index(EDGES, SHARES, random.normal(size=5000)) < 0.02
    assert stability_index(EDGES, SHARES, random.normal(1.5, 1, size=5000)) > 1


def test_the_stability_index_by_hand():
    values = np.concatenate([np.full(20, EDGES[0] - 1), np.full(80, EDGES[8] + 1)])
    share = np.array([0.2, *[0.005] * 8, 0.8])
    assert stability_index(EDGES, SHARES, values) == pytest.approx(np.sum((share - 0.1) * np.log(share / 0.1)))


def test_a_feature_of_few_values_has_not_drifted_while_it_takes_them_as_often():
    random = np.random.default_rng(2)
    edges, shares = np.array([-1.0, 0.0]), np.array([0.05, 0.8, 0.15])
    again = random.choice([-1.0, 0.0, 1.0], size=5000, p=[0.05, 0.8, 0.15])
    other = random.choice([-1.0, 0.0, 1.0], size=5000, p=[0.4, 0.2, 0.4])
    assert stability_index(edges, shares, again) < 0.01
    assert stability_index(edges, shares, other) > 1


def test_the_distance_is_kolmogorovs_at_the_edges():
    assert distance(EDGES, SHARES, np.full(100, 50.0)) == pytest.approx(0.9)
    assert distance(EDGES, SHARES, np.random.default_rng(3).normal(size=50_000)) < 0.02


def test_the_cusum_rises_when_errors_do_and_not_before():
    calm = np.abs(np.random.default_rng(4).normal(size=2000))
    mean, deviation = np.sqrt(2 / np.pi), np.sqrt(1 - 2 / np.pi)
    alarm = RetrainingSettings().cusum
    assert cusum(calm, mean, deviation) < alarm < cusum(np.concatenate([calm, 2 * calm[:200]]), mean, deviation)


@pytest.fixture(scope="module")
def judged(trained, trained_candles):
    return check_drift(trained, trained_candles, bl.forecast(trained, trained_candles))


def test_on_the_market_it_was_trained_on_no_training_is_due(judged):
    assert not judged.due, judged.reasons
    assert "No training is due" in str(judged)
    assert judged.checks["past"].sum() == 0


def test_a_wilder_market_is_named(trained, trained_candles):
    wild = trained_candles.copy()
    late = wild.index[-900:]
    log = np.log(wild[["open", "high", "low", "close"]])
    start = log["close"].iloc[-901]
    wild.loc[late, log.columns] = np.exp(start + 6 * (log.loc[late] - start))
    found = check_drift(trained, wild, bl.forecast(trained, wild))
    assert found.due
    assert any("volatility" in reason for reason in found.reasons)
    assert "btclab train" in str(found)


def test_age_is_counted_from_the_last_bar_that_training_had(trained, trained_candles):
    later = trained_candles.index[-1] + pd.Timedelta(days=200)
    found = check_drift(trained, trained_candles, bl.forecast(trained, trained_candles), now=later)
    assert any(reason.startswith("age of the training's last bar 200") for reason in found.reasons)


def test_limits_are_settings(trained, trained_candles):
    strict = RetrainingSettings(psi=1e-6, drifted_share=0.0)
    found = check_drift(trained, trained_candles, bl.forecast(trained, trained_candles), policy=strict)
    assert any("features that drifted" in reason for reason in found.reasons)


def test_a_coverage_that_luck_explains_is_no_drift(trained, trained_candles):
    """Few outcomes are off by more than the limit of the settings by chance alone."""
    limit = check_drift(
        trained, trained_candles, bl.forecast(trained, trained_candles), policy=RetrainingSettings(coverage_off=1e-6)
    ).checks.set_index("rule")["limit"]["coverage of the 90 % interval off by"]
    assert limit == pytest.approx(200 * np.sqrt(0.09 / 720), abs=0.1)


def test_outcomes_that_overlap_are_judged_once(trained_candles):
    """A day ahead every hour, 720 hours hold 30 outcomes: taken as 720 they raise alarms on the market of the training."""
    daily = bl.train(trained_candles, horizon=24, **SMALL)
    found = check_drift(daily, trained_candles, bl.forecast(daily, trained_candles))
    checks = found.checks.set_index("rule")
    assert checks.loc["coverage of the 90 % interval off by", "limit"] == pytest.approx(11, abs=1)
    assert not checks.loc["cumulative excess of errors", "past"]
    few = check_drift(
        daily, trained_candles, bl.forecast(daily, trained_candles), policy=RetrainingSettings(window_bars=200)
    )
    assert few.checks["measured"].isna().sum() == 2
    assert few.checks["past"].sum() <= 1


def test_every_feature_has_its_drift_the_largest_first(trained, trained_candles):
    table = feature_drift(trained, trained_candles, None, 500)
    assert sorted(table["feature"]) == sorted(trained.spec.columns)
    assert table["psi"].is_monotonic_decreasing
    assert table.loc[table["group"] == "noise", "psi"].max() < 0.1


def test_too_few_unseen_bars_say_so(trained, trained_candles):
    early = trained_candles.loc[: trained.test_start + pd.Timedelta(hours=10)]
    with pytest.raises(TooFewBars, match="100 bars or more that training has not seen; there are"):
        check_drift(trained, early, bl.forecast(trained, early))


def test_the_market_under_test_is_the_simulated_one(trained):
    assert trained.market["source"] == EDGE
