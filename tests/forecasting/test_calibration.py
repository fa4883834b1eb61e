"""Calibration: quantiles that cover, probabilities that come true, no trust in a forecast without skill."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit

from btclab.forecasting import calibration as module
from btclab.forecasting.calibration import (
    LEVELS,
    NORMAL_QUANTILES,
    Calibration,
    adaptive_factor,
    conformal_offset,
)


@pytest.fixture
def random():
    return np.random.default_rng(3)


def test_quantiles_around_a_point_forecast_cover_what_they_say(random):
    mean = random.normal(size=20_000)
    outcome = mean + random.standard_t(4, size=20_000)
    made = Calibration.fit(mean[:10_000], None, mean[:10_000], outcome[:10_000])
    _, quantiles = made.distribution(mean[10_000:], None)
    covered = np.mean(outcome[10_000:, None] <= quantiles, axis=0)
    np.testing.assert_allclose(covered, LEVELS, atol=0.015)


def test_quantiles_of_a_network_that_is_too_sure_are_widened_until_they_cover(random):
    mean = random.normal(size=20_000)
    outcome = mean + 2 * random.normal(size=20_000)
    too_sure = mean[:, None] + NORMAL_QUANTILES
    made = Calibration.fit(mean[:10_000], too_sure[:10_000], mean[:10_000], outcome[:10_000])
    _, quantiles = made.distribution(mean[10_000:], too_sure[10_000:])
    inside = (outcome[10_000:] >= quantiles[:, 0]) & (outcome[10_000:] <= quantiles[:, 4])
    assert inside.mean() == pytest.approx(0.9, abs=0.015)


@pytest.mark.parametrize("level", [0.05, 0.95])
def test_of_a_small_sample_an_outer_quantile_covers_at_least_its_share_on_average(random, level):
    covered = []
    for _ in range(2000):
        sample = random.normal(size=30)
        offset = conformal_offset(sample[:29], level)
        covered.append(sample[29] <= offset if level > 0.5 else sample[29] >= offset)
    assert np.mean(covered) >= 0.94  # at least 0.95, less three standard errors


def test_quantiles_are_in_order_even_where_the_network_or_the_offsets_cross(random):
    crossed = random.normal(size=(500, 5))
    made = Calibration.fit(random.normal(size=500), crossed, random.normal(size=500), random.normal(size=500))
    assert (np.diff(made.distribution(np.zeros(500), crossed)[1], axis=1) >= 0).all()


def test_prob_up_is_the_share_that_rose(random):
    score = random.normal(size=40_000)
    up = random.random(40_000) < expit(1.5 * score)
    outcome = np.where(up, 1.0, -1.0)
    prob = Calibration.fit(score[:20_000], None, score[:20_000], outcome[:20_000]).prob_up(score[20_000:])
    for low in (0.1, 0.3, 0.5, 0.7):
        chosen = (prob >= low) & (prob < low + 0.2)
        assert up[20_000:][chosen].mean() == pytest.approx(prob[chosen].mean(), abs=0.025)


def test_a_bent_score_is_calibrated_by_steps_a_straight_one_by_a_curve(random):
    score = random.normal(size=20_000)
    straight = random.random(20_000) < expit(score)
    bent = random.random(20_000) < np.where(score > 0, 0.8, 0.45)
    fit = lambda up: Calibration.fit(score, None, score, np.where(up, 1.0, -1.0)).method  # noqa: E731
    assert (fit(straight), fit(bent)) == ("platt", "isotonic")


@pytest.mark.parametrize("sign", [0.0, -1.0])
def test_a_score_without_skill_or_upside_down_gives_even_odds(random, sign):
    score = random.normal(size=4000)
    outcome = np.where(random.random(4000) < expit(sign * score), 1.0, -1.0)
    made = Calibration.fit(score, None, score, outcome)
    assert made.method == "even" or abs(made.prob_up(score) - 0.5).max() < 0.06
    assert Calibration.fit(score * 0, None, score * 0, outcome).prob_up(score).tolist() == [0.5] * 4000


@pytest.mark.parametrize("slope", [0.05, 0.5])
def test_the_drift_of_a_fold_is_no_opinion_on_the_direction(random, slope):
    score = random.normal(size=20_000)
    rising = np.where(random.random(20_000) < expit(slope * score + 0.3), 1.0, -1.0)
    made = Calibration.fit(score, None, score, rising)
    assert made.prob_up(score).mean() == pytest.approx(0.5, abs=0.01), made.method


def test_a_forecast_that_is_too_bold_is_shrunk(random):
    truth = random.normal(size=20_000)
    made = Calibration.fit(4 * truth, None, truth, truth + random.normal(size=20_000))
    assert made.slope == pytest.approx(0.25, abs=0.02)


@pytest.mark.parametrize("forecast", [np.zeros(1000), -np.linspace(-1, 1, 1000)])
def test_a_forecast_without_skill_or_upside_down_becomes_the_naive_one(forecast):
    made = Calibration.fit(forecast, None, forecast, np.linspace(-1, 1, 1000) + 0.2)
    middle, quantiles = made.distribution(forecast, None)
    assert made.slope == 0
    assert np.abs(middle).max() == 0
    assert np.abs(quantiles[:, 2]).max() < 1e-12  # the fold's drift is not taken over


def test_what_is_missing_stays_missing(random):
    made = Calibration.fit(random.normal(size=900), None, random.normal(size=900), random.normal(size=900))
    missing = np.array([np.nan])
    assert np.isnan(made.prob_up(missing)).all()
    assert np.isnan(made.distribution(missing, None)[1]).all()


def test_it_survives_json(random):
    made = Calibration.fit(
        *(random.normal(size=900) for _ in range(1)), None, *(random.normal(size=900) for _ in range(2))
    )
    assert Calibration.from_dict(made.to_dict()) == made


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setattr(module, "ADAPTIVE_BARS", 200)


def test_the_adaptive_interval_follows_a_market_that_grows_wild(random, short):
    size = np.repeat([1.0, 2.0], 3000)
    outcome = size * random.normal(size=6000)
    low, middle, high = np.full(6000, -1.645), np.zeros(6000), np.full(6000, 1.645)
    factor = adaptive_factor(low, middle, high, outcome, horizon=1)
    late = slice(3400, 6000)
    assert np.mean(np.abs(outcome[late]) <= 1.645) < 0.7
    assert np.mean(np.abs(outcome[late]) <= 1.645 * factor[late]) == pytest.approx(0.9, abs=0.02)


@pytest.mark.parametrize("horizon", [1, 24])
def test_the_adaptive_interval_knows_only_outcomes_that_are_known(random, short, horizon):
    outcome = random.normal(size=1000)
    low, middle, high = np.full(1000, -1.645), np.zeros(1000), np.full(1000, 1.645)
    before = adaptive_factor(low, middle, high, outcome, horizon)
    later = outcome.copy()
    later[600 - horizon + 1 :] = (
        50.0  # of the forecast made at 600 − horizon the outcome is known at 600, of later ones not
    )
    np.testing.assert_array_equal(adaptive_factor(low, middle, high, later, horizon)[:601], before[:601])


def test_the_adaptive_interval_is_that_of_the_window_alone(random, short):
    outcome = random.normal(size=1000)
    low, middle, high = np.full(1000, -1.645), np.zeros(1000), np.full(1000, 1.645)
    whole = adaptive_factor(low, middle, high, outcome, 1)
    part = adaptive_factor(low[400:], middle[400:], high[400:], outcome[400:], 1)
    np.testing.assert_array_equal(part[201:], whole[601:])
    assert np.isnan(whole[:200]).all()
    known = np.sort(np.abs(outcome[700:900]) / 1.645)  # at bar 900 the newest outcome is that of 899
    assert whole[900] == pytest.approx(known[int(np.ceil(201 * 0.9)) - 1])


def test_bars_without_an_outcome_are_left_out_of_the_adaptive_window(random, short):
    outcome = random.normal(size=1000)
    holed = outcome.copy()
    holed[500:520] = np.nan
    low, middle, high = np.full(1000, -1.645), np.zeros(1000), np.full(1000, 1.645)
    assert np.isfinite(adaptive_factor(low, middle, high, holed, 1)[221:]).all()


@pytest.mark.parametrize("method", ["platt", "isotonic"])
def test_each_method_leaves_out_the_drift_of_the_fold(random, method):
    score = random.normal(size=20_000)
    up = random.random(20_000) < expit(0.5 * score + 0.3)
    if method == "platt":
        odds = module._platt(score, up)
        chance = expit(odds[0] * (score - odds[1]))
    else:
        chance = np.interp(score, *module._isotonic(score, up))
    assert chance.mean() == pytest.approx(0.5, abs=0.01)


def test_an_outcome_outside_an_interval_without_width_is_a_miss(short):
    low = middle = high = np.zeros(1000)
    assert np.isinf(adaptive_factor(low, middle, high, np.ones(1000), 1)[-1])
