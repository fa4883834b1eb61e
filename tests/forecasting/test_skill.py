"""Skill: known answers, and the two mistakes it must not make."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr

from btclab.forecasting.skill import block_bootstrap, information_coefficient, skill


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
    assert not found["distinguishable"]


def test_noise_is_called_skill_no_more_often_than_the_interval_allows(random):
    called = [skill(random.normal(size=400), random.normal(size=400), seed=i)["distinguishable"] for i in range(100)]
    assert np.mean(called) <= 0.07  # one side of a 95 % interval: 2.5 % expected


def test_real_skill_is_found(random):
    forecast = random.normal(size=5000)
    found = skill(forecast, 0.1 * forecast + random.normal(size=5000))
    assert found["ic_low"] < 0.0957 < found["ic_high"]  # Spearman's for a correlation of 0.1
    assert found["distinguishable"]


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
