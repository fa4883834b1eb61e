"""The audit of a checkpoint: forecasts, scaling, selection, weights and calibration that know the future are named."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import btclab as bl
from btclab.context.series import SERIES
from btclab.context.store import save_values
from btclab.errors import InputError, TooFewBars
from btclab.features.indicators import CUSTOM
from btclab.features.spec import Feature, FeatureSpec
from btclab.forecasting import audit, forecaster
from btclab.forecasting.dataset import Folds, Scaler, make_inputs, usable_spec, with_noise
from btclab.forecasting.forecaster import answer_of
from btclab.forecasting.labels import make_targets
from btclab.forecasting.learn import fit_calibrations, select_inputs
from btclab.forecasting.members import combine, member_weights
from btclab.forecasting.training import TrainingOptions, numpy_tensor
from tests.conftest import EDGE, SMALL

WHAT = "fitted anew with later folds replaced"


@pytest.fixture(scope="module")
def honest(trained, trained_candles):
    return bl.audit_checkpoint(trained, trained_candles)


def inputs_of(checkpoint, candles, spec=None):
    return make_inputs(candles, spec or checkpoint.spec, checkpoint.options["context"])


def positions(checkpoint, candles, first, last):
    """The bars from the first one of the fold `first` to the last one of the fold `last`."""
    start, stop = checkpoint.folds[f"{first}_start"], checkpoint.folds[f"{last}_stop"]
    return slice(*candles.index.slice_locs(pd.Timestamp(start), pd.Timestamp(stop)))


def learnt_from(checkpoint, candles):
    """Inputs, targets and whether a target may be scored, as in training."""
    inputs = inputs_of(checkpoint, candles)
    targets = make_targets(candles, inputs.volatility, checkpoint.horizons)
    return inputs, targets, inputs.complete[:, None] & np.isfinite(targets)


def calibrations_on(checkpoint, candles, first, last):
    """Calibrations of the checkpoint's forecasts, fitted from the fold `first` to the fold `last`."""
    inputs, targets, usable = learnt_from(checkpoint, candles)
    return fit_calibrations(answer_of(checkpoint, inputs), targets, usable, positions(checkpoint, candles, first, last))


def test_an_honest_checkpoint_passes(honest, trained):
    assert honest.passed
    assert honest.unverified == {}
    columns, forecasts, selection_and_calibration = len(trained.spec.columns), 13, 2
    assert honest.checked == forecasts + columns + selection_and_calibration
    assert trained.name in str(honest)
    assert WHAT in honest.certificate()["tests"]


def test_it_passes_as_loaded_from_disk_and_on_candles_that_go_on(trained, tmp_path):
    loaded = bl.load_checkpoint(trained.save(tmp_path / "kept"))
    found = bl.audit_checkpoint(loaded, bl.load_candles(EDGE, end="2021-12-01"), cuts=2, seed=1)
    assert found.passed
    assert found.unverified == {}


def test_scaling_that_was_fitted_on_all_bars_is_caught_and_each_column_named(trained, trained_candles):
    scaler = Scaler.fit(inputs_of(trained, trained_candles).features)
    found = bl.audit_checkpoint(replace(trained, scaler=scaler), trained_candles, cuts=1)
    assert {f"scaling of {name}" for name in trained.spec.columns if "noise" not in name} <= set(found.leaky)
    row = found.table.set_index("feature").loc["scaling of rsi_14"]
    assert row["test"] == WHAT
    assert row["first_bar"] == pd.Timestamp(trained.folds["validation_start"])
    assert 1e-9 < row["size"] < 1


def test_selection_on_all_bars_is_caught(trained, trained_candles):
    options, bars = TrainingOptions(**trained.options), len(trained_candles)
    usable, _ = usable_spec(trained_candles, bl.resolve_spec("default"), None, bars // 2)
    wide = with_noise(usable, options.noise)
    inputs = inputs_of(trained, trained_candles, wide)
    targets = make_targets(trained_candles, inputs.volatility, (1,))
    everything = Folds(slice(2000, bars), slice(0, 0), slice(0, 0))
    _, _, selection = select_inputs(wide, inputs, targets[:, 0], everything, options)
    found = bl.audit_checkpoint(replace(trained, selection=selection), trained_candles, cuts=1)
    assert found.leaky == ["selection"]


def test_a_column_that_the_selection_did_not_choose_is_caught(trained, trained_candles):
    names = trained.spec.columns
    swapped = replace(trained, spec=bl.resolve_spec("default").only(["rsi_28", *names[1:-3]]))
    swapped = replace(swapped, spec=with_noise(swapped.spec, 3))
    found = bl.audit_checkpoint(swapped, trained_candles, cuts=1)
    assert "selection" in found.leaky


def test_calibration_that_has_seen_the_test_fold_is_caught(trained, trained_candles):
    cheat = replace(trained, calibrations=calibrations_on(trained, trained_candles, "validation", "test"))
    found = bl.audit_checkpoint(cheat, trained_candles, cuts=1)
    assert found.leaky == ["calibration"]
    assert found.table.loc[0, "first_bar"] == trained.test_start


def test_odds_that_have_seen_the_test_fold_are_caught_though_the_intervals_have_not(trained, trained_candles):
    (seen,) = calibrations_on(trained, trained_candles, "validation", "test")
    (held,) = trained.calibrations
    cheat = replace(held, method=seen.method, odds=seen.odds, steps=seen.steps)
    found = bl.audit_checkpoint(replace(trained, calibrations=(cheat,)), trained_candles, cuts=1)
    assert found.leaky == ["calibration"]


def test_what_another_processor_rounds_otherwise_is_no_look_ahead(trained, trained_candles):
    inputs, targets, usable = learnt_from(trained, trained_candles)
    answer = answer_of(trained, inputs)
    rounded = [
        values * (1 + np.random.default_rng(0).normal(0, 1e-6, values.shape)) for values in (answer.mean, answer.score)
    ]
    answer = replace(answer, mean=rounded[0], score=rounded[1])
    fold = positions(trained, trained_candles, "validation", "validation")
    calibrations = fit_calibrations(answer, targets, usable, fold)
    assert calibrations != trained.calibrations
    assert bl.audit_checkpoint(replace(trained, calibrations=calibrations), trained_candles, cuts=1).passed


def test_a_score_that_is_rounded_to_the_other_side_of_a_step_is_no_look_ahead(trained, trained_candles, monkeypatch):
    random = np.random.default_rng(0)

    def rounded(checkpoint, inputs):
        answer = answer_of(checkpoint, inputs)
        return replace(answer, score=answer.score * (1 + random.normal(0, 1e-7, answer.score.shape)))

    monkeypatch.setattr(forecaster, "answer_of", rounded)
    assert trained.calibrations[0].method == "isotonic"
    assert bl.audit_checkpoint(trained, trained_candles, cuts=2).passed


@pytest.fixture(scope="module")
def ensemble(trained_candles):
    """Two networks and a forest that forecast one and four bars."""
    return bl.train(trained_candles, "ensemble", (1, 4), **{**SMALL, "epochs": 2}, members=2, trees=5)


def test_an_honest_ensemble_for_several_horizons_passes(ensemble, trained_candles):
    found = bl.audit_checkpoint(ensemble, trained_candles, cuts=2)
    assert found.passed
    assert found.unverified == {}
    forecasts, selection_weights_and_calibrations = 27, 4
    assert found.checked == forecasts + len(ensemble.spec.columns) + selection_weights_and_calibrations


def test_member_weights_that_have_seen_the_test_fold_are_caught(ensemble, trained_candles):
    inputs, targets, usable = learnt_from(ensemble, trained_candles)
    features = numpy_tensor(ensemble.scaler.apply(inputs.features))
    answers = [one.answer(features, inputs.bars, SMALL["context"]) for one in ensemble.members]
    seen = positions(ensemble, trained_candles, "validation", "test")
    weights = member_weights(answers, targets, np.flatnonzero(usable[seen].all(axis=1)) + seen.start)
    fold = positions(ensemble, trained_candles, "validation", "validation")
    calibrations = fit_calibrations(combine(answers, weights), targets, usable, fold)
    cheat = replace(ensemble, weights=tuple(weights), calibrations=calibrations)
    found = bl.audit_checkpoint(cheat, trained_candles, cuts=1)
    assert found.leaky == ["member weights"]
    assert found.table.loc[0, "first_bar"] == ensemble.test_start


def test_the_calibration_of_a_further_horizon_is_caught_by_its_name(ensemble, trained_candles):
    _, seen = calibrations_on(ensemble, trained_candles, "validation", "test")
    cheat = replace(ensemble, calibrations=(ensemble.calibrations[0], seen))
    assert bl.audit_checkpoint(cheat, trained_candles, cuts=1).leaky == ["calibration_4"]


def test_an_ensemble_on_other_candles_says_that_its_weights_are_not_verified(ensemble, trained_candles):
    found = bl.audit_checkpoint(ensemble, trained_candles.iloc[10:], cuts=1)
    assert list(found.unverified) == ["scaling", "selection", "member weights", "calibration", "calibration_4"]


def test_an_adaptive_interval_that_knows_an_outcome_too_early_is_caught(trained, trained_candles, monkeypatch):
    honest = forecaster.adaptive_factor
    monkeypatch.setattr(forecaster, "adaptive_factor", lambda *arrays: honest(*arrays[:4], 0))
    found = bl.audit_checkpoint(trained, trained_candles, cuts=2)
    assert found.leaky == ["forecast of adaptive_high", "forecast of adaptive_low"]


def test_forecasts_from_a_feature_that_looks_ahead_are_caught(trained, trained_candles, monkeypatch):
    monkeypatch.setitem(CUSTOM, "ahead", lambda candles: candles["close"].shift(-1) / candles["close"] - 1)
    first = replace(trained.spec.features[0], indicator="ahead", parameters={}, form="raw", warmup=0)
    spec = FeatureSpec("cheat", (first, *trained.spec.features[1:]))
    found = bl.audit_checkpoint(replace(trained, spec=spec), trained_candles, cuts=2)
    assert {"forecast of mean", "forecast of prob_up", "forecast of q05"} <= set(found.leaky)
    assert "forecast of volatility" not in found.leaky
    assert "later bars removed" in set(found.table["test"])


def test_on_other_candles_only_the_forecasts_can_be_verified(trained, trained_candles):
    found = bl.audit_checkpoint(trained, trained_candles.iloc[10:], cuts=2)
    assert found.passed
    assert list(found.unverified) == ["scaling", "selection", "calibration"]
    assert found.certificate()["tests"] == ["later bars removed", "later bars replaced"]
    assert str(found).endswith("Not verified: scaling, selection, calibration.")


def test_a_selection_from_a_spec_of_the_users_own_is_verified_when_the_spec_is_named(trained, trained_candles):
    own = replace(trained, spec=replace(trained.spec, name="mine"))
    assert "name that spec" in bl.audit_checkpoint(own, trained_candles, cuts=1).unverified["selection"]
    assert bl.audit_checkpoint(own, trained_candles, spec="default", cuts=1).unverified == {}
    assert "selection" in bl.audit_checkpoint(trained, trained_candles, spec="core", cuts=1).unverified


@pytest.fixture(scope="module")
def hours(trained_candles):
    """The hours of a market that does not call itself simulated."""
    bars = trained_candles.copy()
    bars.attrs = {"source": "binance", "symbol": "BTC/USDT", "timeframe": "1h", "simulated": False}
    return bars


def test_context_series_that_were_revised_since_are_no_look_ahead(hours):
    days = pd.date_range("2020-12-20", "2021-11-01", freq="D", tz="UTC")
    values = pd.Series(np.random.default_rng(0).integers(5, 95, len(days)).astype(float), days)
    save_values(SERIES["fear_greed"], "alternative.me", values)
    spec = FeatureSpec(
        "two",
        (
            Feature("fear", "sentiment", "level", inputs=("fear_greed",)),
            Feature("log_return_1", "momentum", "log_return", {"length": 1}),
        ),
    )
    series = bl.load_context(hours)
    checkpoint = bl.train(hours, spec=spec, series=series, **{**SMALL, "epochs": 1})
    as_trained = bl.audit_checkpoint(checkpoint, hours, series, spec, cuts=2)
    assert as_trained.passed
    assert as_trained.unverified == {}
    revised = bl.audit_checkpoint(checkpoint, hours, series + 1, spec, cuts=1)
    assert revised.passed
    assert set(revised.unverified) == {"scaling of fear", "calibration"}
    assert all("revised" in why for why in revised.unverified.values())


def test_bars_before_the_series_begin_are_no_place_to_cut(trained, trained_candles):
    spec = FeatureSpec(
        "fear", (Feature("fear", "sentiment", "level", inputs=("fear_greed",)), *trained.spec.features[1:])
    )
    late = pd.DataFrame({"fear_greed": 50.0}, index=trained_candles.index)
    late.iloc[:5000] = np.nan
    reader = replace(trained, spec=spec)
    found = bl.audit_checkpoint(reader, trained_candles.iloc[:-1], late.iloc[:-1], cuts=3)
    assert found.passed
    assert found.cuts == 3


def test_too_few_bars_says_how_many_are_needed(trained, trained_candles):
    needed = trained.spec.warmup_at("1h") + SMALL["context"] + 36
    with pytest.raises(TooFewBars, match=f"needs at least {needed:,} bars; there are {needed - 1:,}"):
        bl.audit_checkpoint(trained, trained_candles.iloc[1 - needed :])
    assert bl.audit_checkpoint(trained, trained_candles.iloc[-needed:], cuts=1).passed


def test_a_wrong_number_of_cuts_is_refused(trained, trained_candles):
    with pytest.raises(InputError, match="cuts is 0"):
        audit.audit_checkpoint(trained, trained_candles, cuts=0)
