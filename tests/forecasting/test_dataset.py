"""Folds in time order, scaling from the training fold alone, volatility known at the close."""

from __future__ import annotations

import numpy as np
import pytest

import btclab as bl
from btclab.errors import InputError, TooFewBars
from btclab.forecasting.dataset import CLIP, Folds, Scaler, ewma_volatility, make_inputs, usable_spec, with_noise


def test_between_two_folds_lie_the_horizon_and_the_window():
    folds = Folds.of(bars=10_000, first=1_000, horizon=4, context=60, train=0.6, validation=0.2)
    assert (folds.train, folds.validation, folds.test) == (slice(1000, 6336), slice(6400, 8136), slice(8200, 9996))
    assert folds.train.stop - 1 + 4 < folds.validation.start - 59  # no window holds a bar that a label before it used


def test_the_folds_of_the_docstring():
    folds = Folds.of(1000, 100, 1, 60, 0.6, 0.2)
    assert [(fold.start, fold.stop - 1) for fold in (folds.train, folds.validation, folds.test)] == [
        (100, 578),
        (640, 758),
        (820, 998),
    ]


@pytest.mark.parametrize(("train", "validation"), [(0.8, 0.2), (0, 0.2), (0.6, -0.1), (1.2, 0.1)])
def test_fractions_that_leave_no_test_fold_are_refused(train, validation):
    with pytest.raises(InputError, match="leave room for a test fold"):
        Folds.of(10_000, 1_000, 1, 60, train, validation)


def test_too_few_bars_says_how_many_would_do():
    with pytest.raises(TooFewBars, match=r"Give at least ([0-9,]+) bars") as caught:
        Folds.of(1_300, 1_000, 1, 60, 0.6, 0.2)
    enough = int(str(caught.value).split("at least ")[1].split(" bars")[0].replace(",", ""))
    assert Folds.of(enough, 1_000, 1, 60, 0.6, 0.2).test.stop == enough - 1


def test_the_scaler_knows_only_what_it_was_fitted_on():
    features = np.random.default_rng(0).normal(3, 2, size=(1000, 2))
    scaler = Scaler.fit(features[:600])
    features[600:] += 50
    np.testing.assert_array_equal(Scaler.fit(features[:600]).mean, scaler.mean)
    assert np.abs(scaler.apply(features[:600]).mean(axis=0)).max() < 1e-6


def test_scaled_features_are_cut_off_and_missing_ones_stay_missing():
    scaler = Scaler(np.array([0.0, 0.0]), np.array([1.0, 1.0]))
    assert scaler.apply(np.array([[100.0, np.nan]]))[0].tolist() == pytest.approx([CLIP, np.nan], nan_ok=True)


def test_a_feature_that_never_changes_is_left_in_place():
    assert Scaler.fit(np.full((10, 1), 7.0)).apply(np.array([[7.0]])).tolist() == [[0.0]]


def test_volatility_at_t_does_not_change_when_later_bars_are_cut_off(candles):
    whole, cut = ewma_volatility(candles), ewma_volatility(candles.iloc[:1500])
    np.testing.assert_array_equal(whole.iloc[:1500].to_numpy(), cut.to_numpy())


def test_volatility_does_not_depend_on_where_the_history_begins(candles):
    later = ewma_volatility(candles.iloc[300:])
    np.testing.assert_allclose(later.dropna(), ewma_volatility(candles).loc[later.dropna().index], rtol=1e-6)


def test_a_forecast_needs_a_complete_window(candles):
    flawed = candles.copy()
    flawed.loc[flawed.index[1500:1560], "volume"] = 5.0  # a constant volume has no z-score
    inputs = make_inputs(flawed, bl.resolve_spec("core"), context=60)
    missing = ~np.isfinite(inputs.features).all(axis=1)
    last = np.flatnonzero(missing)[-1]
    assert not inputs.complete[last : last + 60].any()
    assert inputs.complete[last + 60]


def test_the_newest_rows_alone_are_those_of_the_whole(candles):
    spec = bl.resolve_spec("core")
    whole, newest = make_inputs(candles, spec, 60), make_inputs(candles, spec, 60, last=60)
    np.testing.assert_allclose(newest.features, whole.features[-60:], rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(newest.volatility, whole.volatility[-60:], rtol=1e-9)
    np.testing.assert_array_equal(newest.bars, whole.bars[-60:])
    assert newest.complete[-1]


def test_columns_that_cannot_be_filled_are_left_out_by_name_with_the_reason(candles):
    kept, reasons = usable_spec(candles, bl.resolve_spec("default"), None, len(candles) // 2)
    assert reasons["ema_200_distance"].endswith(f"more than a quarter of the {len(candles):,}")
    assert "no context was given" in reasons["fear_greed"]
    assert "rsi_14" in kept.columns
    assert not set(kept.columns) & set(reasons)
    assert set(kept.columns) | set(reasons) == set(bl.resolve_spec("default").columns)


@pytest.fixture
def beside(candles):
    """A spec that reads a series of its own, and that series."""
    spec = bl.FeatureSpec("mine", (bl.Feature("own", "g", "level", inputs="own"), bl.Feature("sma", "g", "sma")))
    return spec, candles[["close"]].rename(columns={"close": "own"})


def test_a_sparse_series_is_left_out(candles, beside):
    spec, series = beside
    series.iloc[3::10] = np.nan
    kept, reasons = usable_spec(candles, spec, series, 1000)
    assert kept.columns == ["sma"]
    assert reasons["own"] == "missing in 10 % of the training bars"


def test_whether_a_column_is_left_out_is_decided_by_the_training_bars(candles, beside):
    spec, series = beside
    series.iloc[1000:] = np.nan
    assert usable_spec(candles, spec, series, 1000)[0].columns == ["own", "sma"]


def test_where_nothing_can_be_filled_the_reason_is_said(candles):
    spec = bl.FeatureSpec("mine", (bl.Feature("mood", "g", "level", inputs="fear_greed"),))
    with pytest.raises(TooFewBars, match="No feature of 'mine' has values: it reads fear_greed"):
        usable_spec(candles, spec, None, 1000)


def test_noise_stands_beside_the_features_once():
    spec = with_noise(bl.resolve_spec("core"), 3)
    assert spec.columns[-3:] == ["noise_1", "noise_2", "noise_3"]
    assert with_noise(spec, 3).columns == spec.columns


def test_the_return_over_a_gap_counts_as_that_of_the_bars_it_spans(candles):
    holed = candles.drop(candles.index[1200:1300])
    whole, gap = ewma_volatility(candles), ewma_volatility(holed)
    at = candles.index[1300]
    squares = np.log(candles["close"]).diff() ** 2
    over = np.log(candles["close"].iloc[1300] / candles["close"].iloc[1199]) ** 2 / 101
    before = gap[candles.index[1199]] ** 2
    assert gap[at] ** 2 == pytest.approx(0.97 * before + 0.03 * over, rel=1e-6)
    assert whole[at] ** 2 == pytest.approx(0.97 * whole.iloc[1299] ** 2 + 0.03 * squares.iloc[1300], rel=1e-6)


@pytest.mark.parametrize(("missing", "without"), [(5, 0), (90, 40)])
def test_after_a_long_gap_there_is_no_forecast_until_the_window_is_there(candles, missing, without):
    spec = bl.FeatureSpec("mine", (bl.Feature("log_return", "g", "log_return", warmup=1),))
    kept = candles.drop(candles.index[1400 : 1400 + missing])
    after = make_inputs(kept, spec, context=60).complete[1400:]
    found = int(np.argmax(after))
    assert after[found:].all()
    assert found == 0 if not without else without - 20 <= found <= without + 20
