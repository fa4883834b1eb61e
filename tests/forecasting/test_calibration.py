"""Calibration: quantiles that cover, probabilities that add up, no trust in a forecast without skill."""

from __future__ import annotations

import numpy as np
import pytest

from btclab.forecasting.calibration import Calibration


@pytest.fixture
def random():
    return np.random.default_rng(3)


def test_quantiles_cover_what_they_say(random):
    forecast = random.normal(size=20_000)
    outcome = forecast + random.standard_t(4, size=20_000)
    calibration = Calibration.fit(forecast[:10_000], outcome[:10_000])
    for level in (0.05, 0.25, 0.5, 0.75, 0.95):
        covered = np.mean(outcome[10_000:] <= calibration.quantile(forecast[10_000:], level))
        assert covered == pytest.approx(level, abs=0.015)


def test_prob_up_is_the_share_that_rose(random):
    forecast = random.normal(size=40_000)
    outcome = forecast + random.normal(size=40_000)
    prob_up = Calibration.fit(forecast[:20_000], outcome[:20_000]).prob_up(forecast[20_000:])
    for low in (0.1, 0.3, 0.5, 0.7):
        chosen = (prob_up >= low) & (prob_up < low + 0.2)
        assert np.mean(outcome[20_000:][chosen] > 0) == pytest.approx(prob_up[chosen].mean(), abs=0.025)


def test_a_forecast_that_is_too_bold_is_shrunk(random):
    truth = random.normal(size=20_000)
    assert Calibration.fit(4 * truth, truth + random.normal(size=20_000)).slope == pytest.approx(0.25, abs=0.02)


@pytest.mark.parametrize("forecast", [np.zeros(1000), -np.linspace(-1, 1, 1000)])
def test_a_forecast_without_skill_or_upside_down_becomes_the_naive_one(forecast):
    calibration = Calibration.fit(forecast, np.linspace(-1, 1, 1000))
    assert calibration.slope == 0
    assert np.abs(calibration.mean(forecast)).max() == 0


def test_quantiles_never_cross(random):
    calibration = Calibration.fit(random.normal(size=500), random.normal(size=500))
    values = [calibration.quantile(np.array([0.3]), level)[0] for level in np.linspace(0, 1, 50)]
    assert np.all(np.diff(values) >= 0)


def test_a_missing_forecast_stays_missing(random):
    calibration = Calibration.fit(random.normal(size=500), random.normal(size=500))
    assert np.isnan(calibration.prob_up(np.array([np.nan]))).all()
    assert np.isnan(calibration.quantile(np.array([np.nan]), 0.5)).all()
