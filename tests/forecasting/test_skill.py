"""Skill: known answers, and the two mistakes it must not make."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import ndtri
from scipy.stats import spearmanr

from btclab.forecasting.calibration import NORMAL_QUANTILES
from btclab.forecasting.skill import (
    calibration_error,
    chance_error,
    crps,
    diebold_mariano,
    distribution_skill,
    information_coefficient,
    normal_interval_width,
    pinball,
    reliability,
    skill,
)


def block_bootstrap(length: int, block: int, resamples: int, seed: int) -> np.ndarray:
    """Positions [resamples, length] drawn as whole blocks of neighbours, wrapping at the end (Politis and Romano 1992)."""
    random = np.random.default_rng(seed)
    starts = random.integers(0, length, size=(resamples, -(-length // block)))
    positions = (starts[:, :, None] + np.arange(block)) % length
    return positions.reshape(resamples, -1)[:, :length]


@pytest.fixture
def random():
    return np.random.default_rng(11)


def test_the_information_coefficient_is_spearmans(random):
    one, other = random.normal(size=500), random.normal(size=500)
    assert information_coefficient(one, other) == pytest.approx(spearmanr(one, other).statistic)


def test_a_perfect_forecast(random):
    outcome = random.normal(size=500)
    found = skill(outcome, outcome)
    assert (found["error_ratio"], found["r2"], found["hit_rate"], found["ic"]) == pytest.approx((0, 1, 1, 1))
    assert found["distinguishable"]


def test_the_naive_forecast_has_no_skill_and_no_hit_rate(random):
    found = skill(np.zeros(500), random.normal(size=500))
    assert (found["error_ratio"], found["r2"], found["ic"], found["hit_rate"]) == (1, 0, 0, None)
    assert (found["dm"], found["dm_p"], found["hit_rate_low"]) == (0, 1, None)
    assert not found["distinguishable"]


def test_noise_is_called_skill_no_more_often_than_the_interval_allows(random):
    called = [skill(random.normal(size=400), random.normal(size=400), seed=i)["distinguishable"] for i in range(100)]
    assert np.mean(called) <= 0.07  # one side of a 95 % interval: 2.5 % expected


def test_real_skill_is_found(random):
    forecast = random.normal(size=5000)
    found = skill(0.1 * forecast, 0.1 * forecast + random.normal(size=5000))
    assert found["ic_low"] < 0.0957 < found["ic_high"]  # Spearman's for a correlation of 0.1
    assert found["distinguishable"]
    assert found["error_ratio_high"] < 1
    assert found["dm_p"] < 0.01
    assert found["hit_rate_low"] > 0.5


def test_intervals_of_the_fast_bootstrap_are_those_of_the_plain_one(random):
    forecast = random.normal(size=600)
    outcome = 0.3 * forecast + random.normal(size=600)
    found = skill(forecast, outcome, block=24, seed=4)
    draws = [
        np.sqrt(np.mean((outcome - forecast)[rows] ** 2) / np.mean(outcome[rows] ** 2))
        for rows in block_bootstrap(600, 24, 1000, 4)
    ]
    assert found["error_ratio_low"] == pytest.approx(np.quantile(draws, 0.025), abs=0.01)
    assert found["error_ratio_high"] == pytest.approx(np.quantile(draws, 0.975), abs=0.01)


def test_the_error_is_the_root_mean_square(random):
    found = skill(np.array([1.0, -1.0, 0.5, 0.0]), np.array([2.0, 0.0, 0.5, 1.0]))
    assert found["error"] == pytest.approx(np.sqrt(3 / 4))
    assert found["naive_error"] == pytest.approx(np.sqrt((4 + 0.25 + 1) / 4))
    assert found["bars"] == 4


def test_the_bootstrap_draws_whole_blocks():
    rows = block_bootstrap(length=100, block=10, resamples=5, seed=0)
    assert rows.shape == (5, 100)
    steps = np.diff(rows.reshape(5, 10, 10), axis=2) % 100
    assert (steps == 1).all()


def test_diebold_and_mariano_is_the_t_test_of_the_loss_differences(random):
    one, other = random.normal(size=300) ** 2, random.normal(size=300) ** 2
    gain = one - other
    statistic, chance = diebold_mariano(one, other)
    assert statistic == pytest.approx(gain.mean() / (gain.std() / np.sqrt(300)) * np.sqrt(299 / 300))
    assert 0 < chance < 1
    assert diebold_mariano(one, one) == (0.0, 1.0)


def test_overlapping_forecasts_do_not_pass_for_many(random):
    steps = random.normal(0.05, 1, size=2024)
    overlapping = np.convolve(steps, np.ones(24) / 24, mode="valid")
    assert (
        diebold_mariano(overlapping, overlapping * 0, 24)[0] < diebold_mariano(overlapping, overlapping * 0, 1)[0] / 2
    )


@pytest.mark.parametrize("horizon", [1, 4, 24])
def test_the_test_of_equal_forecasts_rejects_one_in_twenty(random, horizon):
    rejected = 0
    for _ in range(400):
        steps = random.normal(size=3000 + horizon - 1)
        gain = np.convolve(steps, np.ones(horizon), mode="valid")
        rejected += diebold_mariano(gain, gain * 0, horizon)[1] < 0.05
    assert rejected / 400 == pytest.approx(0.05, abs=0.03)


def test_of_perfectly_calibrated_forecasts_chance_explains_the_error(random):
    prob = random.uniform(0.4, 0.6, size=3000)
    error = calibration_error(prob, random.random(3000) < prob)
    assert error == pytest.approx(chance_error(prob), abs=0.01)
    assert calibration_error(prob, random.random(3000) < prob + 0.1) > 3 * chance_error(prob)


def test_a_forecast_that_never_changes_is_one_group():
    assert len(reliability(np.full(100, 0.5), np.arange(100) % 4 == 0)) == 1
    assert calibration_error(np.full(100, 0.5), np.arange(100) % 4 == 0) == pytest.approx(0.25)


def test_the_crps_of_a_normal_forecast_is_near_its_formula(random):
    outcome = random.normal(size=50_000)
    quantiles = np.broadcast_to(NORMAL_QUANTILES, (50_000, 5))
    assert crps(quantiles, outcome) == pytest.approx(1 / np.sqrt(np.pi), rel=0.05)  # from five quantiles only
    assert pinball(quantiles, outcome) < pinball(quantiles + 0.3, outcome)


def test_reliability_groups_forecasts_and_counts_what_happened():
    prob, up = np.repeat([0.2, 0.8], 100), np.array([True] * 20 + [False] * 80 + [True] * 60 + [False] * 40)
    groups = reliability(prob, up, bins=2)
    assert groups["forecast"].tolist() == pytest.approx([0.2, 0.8])
    assert groups["frequency"].tolist() == [0.2, 0.6]
    assert calibration_error(prob, up, bins=2) == pytest.approx(0.1)


def test_the_naive_interval_is_the_one_of_the_same_coverage(random):
    outcome = random.normal(size=50_000)
    assert normal_interval_width(outcome, 0.9) == pytest.approx(2 * ndtri(0.95), rel=0.02)


def test_a_distribution_is_measured_against_the_naive_one(random):
    outcome = random.normal(size=20_000)
    found = distribution_skill(np.broadcast_to(NORMAL_QUANTILES, (20_000, 5)), np.full(20_000, 0.5), outcome)
    assert found["coverage_90"] == pytest.approx(0.9, abs=0.01)
    assert found["width_90"] == pytest.approx(found["width_naive"], rel=0.02)
    assert found["crps"] == found["crps_naive"]
    assert found["brier"] == found["brier_naive"] == 0.25
    assert found["ece"] < 0.02
