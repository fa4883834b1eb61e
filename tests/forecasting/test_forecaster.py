"""`train` and `forecast`: causal, out of sample, honest about skill."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

import btclab as bl
from btclab.errors import CheckpointError, DataUnavailable, InputError, LookAheadError, TooFewBars
from btclab.features import audit as audit_module
from btclab.features.build import build_features
from btclab.features.indicators import CUSTOM
from btclab.forecasting import learn, training
from btclab.forecasting.forecaster import forecast_latest
from btclab.settings import PROJECT
from tests.conftest import EDGE, SMALL

QUANTILES = ["q05", "q25", "q50", "q75", "q95"]


@pytest.fixture(scope="module")
def forecasts(trained, trained_candles):
    return bl.forecast(trained, trained_candles)


def test_the_network_under_test_has_something_to_say(trained, forecasts):
    assert trained.calibrations[0].slope > 0.3
    assert forecasts["prob_up"].std() > 0.02


def test_one_row_per_bar_with_quantiles_interval_and_prob_up(forecasts, trained_candles):
    assert forecasts.index.equals(trained_candles.index)
    assert {*QUANTILES, "mean", "interval_low", "interval_high", "prob_up", "volatility", "in_sample"} <= {*forecasts}


@pytest.mark.parametrize("cut", [1500, 4000, 6500])
def test_forecasts_made_on_candles_cut_at_t_are_equal_at_t(trained, trained_candles, forecasts, cut):
    known = bl.forecast(trained, trained_candles.iloc[:cut])
    columns = [name for name in forecasts if name != "in_sample"]
    np.testing.assert_allclose(
        known[columns].iloc[-50:].to_numpy(), forecasts[columns].iloc[cut - 50 : cut].to_numpy(), rtol=1e-5, atol=1e-9
    )


def test_changing_later_bars_changes_no_earlier_forecast(trained, trained_candles, forecasts):
    later = trained_candles.copy()
    later.iloc[5000:] *= 2.0
    np.testing.assert_allclose(
        bl.forecast(trained, later)["prob_up"].iloc[:5000], forecasts["prob_up"].iloc[:5000], atol=1e-6
    )


def test_a_forecast_made_live_equals_the_one_made_in_a_backtest(trained, trained_candles, forecasts):
    live = bl.forecast(trained, trained_candles.iloc[-2000:]).iloc[-1]
    assert live["mean"] == pytest.approx(forecasts["mean"].iloc[-1], rel=1e-5, abs=1e-9)
    assert live["prob_up"] == pytest.approx(forecasts["prob_up"].iloc[-1], abs=1e-6)


def test_quantiles_are_ordered_and_the_interval_is_the_outer_pair(forecasts):
    known = forecasts.dropna()
    assert (np.diff(known[QUANTILES].to_numpy(), axis=1) >= 0).all()
    assert (known["interval_low"] == known["q05"]).all()
    assert (known["interval_high"] == known["q95"]).all()


def test_bars_before_the_test_fold_are_called_in_sample(trained, forecasts):
    assert forecasts["in_sample"].loc[: trained.test_start - pd.Timedelta("1h")].all()
    assert not forecasts["in_sample"].loc[trained.test_start :].any()


def test_out_of_sample_keeps_the_unseen_bars(trained, trained_candles, forecasts):
    candles, kept = bl.out_of_sample(trained_candles, forecasts)
    assert candles.index[0] == kept.index[0] == trained.test_start
    assert candles.attrs["simulated"]


def test_out_of_sample_refuses_when_training_has_seen_everything(trained, trained_candles):
    early = trained_candles.iloc[:2000]
    with pytest.raises(TooFewBars, match="No bars are left that training has not seen"):
        bl.out_of_sample(early, bl.forecast(trained, early))


def test_out_of_sample_can_be_cut_without_losing_forecasts(trained, trained_candles, forecasts):
    candles, kept = bl.out_of_sample(trained_candles, forecasts, start="2021-10-10", end="2021-10-20")
    assert (str(candles.index[0]), len(candles)) == ("2021-10-10 00:00:00+00:00", 240)
    assert kept["prob_up"].notna().all()


@pytest.mark.parametrize(("key", "value"), [("simulated", False), ("symbol", "ETH/USDT")])
def test_candles_of_another_market_are_refused(trained, trained_candles, key, value):
    other = trained_candles.copy()
    other.attrs = {**trained_candles.attrs, key: value}
    with pytest.raises(CheckpointError, match=r"was trained on BTC/USDT \(simulated\).*checkpoint=NAME"):
        bl.forecast(trained, other)


def test_a_checkpoint_of_a_simulated_market_is_named_so(trained):
    assert "_simulated_" in trained.name


def test_folds_without_whole_labels_say_so(trained_candles):
    holed = trained_candles[trained_candles.index.hour != 5]  # no label over 24 hours is whole
    with pytest.raises(TooFewBars, match="Only 0 bars of the train fold"):
        bl.train(holed, horizon=24, progress=False)


def test_forecasts_are_missing_until_the_window_is_complete(forecasts):
    first = int(np.argmax(forecasts["prob_up"].notna()))
    assert forecasts["prob_up"].iloc[:first].isna().all()
    assert forecasts["prob_up"].iloc[first:].notna().all()


def test_the_naive_forecast_expects_no_change_at_even_odds(trained, trained_candles):
    naive = bl.naive_forecast(trained, trained_candles).dropna()
    assert (naive["mean"] == 0).all()
    assert (naive["prob_up"] == 0.5).all()
    assert (naive["interval_high"] / naive["volatility"]).to_numpy() == pytest.approx(1.645, abs=0.001)


def test_two_trainings_with_one_seed_agree_bit_for_bit(trained, trained_candles):
    again = bl.train(trained_candles, **SMALL)
    assert again.metrics == trained.metrics
    assert again.curves == trained.curves


def test_the_checkpoint_says_what_it_was_made_from(trained, trained_candles):
    assert trained.provenance["fingerprint"] == bl.fingerprint(trained_candles)
    assert trained.market == {"source": EDGE, "symbol": "BTC/USDT", "simulated": True, "timeframe": "1h"}
    assert trained.audit["passed"]
    assert "passed" in trained.audit["sentence"]


def test_the_network_has_not_seen_the_test_fold(trained, trained_candles):
    altered = trained_candles.copy()
    altered.loc[trained.test_start :] *= 1.7
    again = bl.train(altered, **SMALL)
    assert again.curves == trained.curves
    assert (again.scaler.mean == trained.scaler.mean).all()
    assert again.calibrations == trained.calibrations


def test_candles_of_another_timeframe_are_refused(trained, trained_candles):
    with pytest.raises(CheckpointError, match="trained on 1h bars; these are 4h bars"):
        bl.forecast(trained, bl.resample(trained_candles, "4h"))


@pytest.mark.parametrize("bars", [300, 1000])
def test_too_few_bars_say_so(trained_candles, bars):
    with pytest.raises(TooFewBars):
        bl.train(trained_candles.iloc[:bars], progress=False)


def test_a_feature_that_knows_the_future_stops_the_training(trained_candles, monkeypatch):
    def leaky(candles, context=None, spec="default", last=None):
        return build_features(candles, context, spec, last).assign(log_return_1=candles["close"].pct_change().shift(-1))

    real = audit_module.audit_features
    monkeypatch.setattr(learn, "audit_features", lambda *a, **k: real(*a, **k, build=leaky))
    with pytest.raises(LookAheadError, match="log_return_1"):
        bl.train(trained_candles, epochs=1, progress=False)


@pytest.mark.slow
def test_a_sound_pipeline_finds_nothing_where_there_is_nothing():
    metrics = bl.train(bl.load_candles("simulated:1"), progress=False).metrics
    assert metrics["ic_low"] < 0 < metrics["ic_high"] or metrics["ic"] == 0
    assert not metrics["distinguishable"]
    assert metrics["r2"] < 0.002


@pytest.mark.slow
def test_a_sound_pipeline_finds_a_planted_edge():
    metrics = bl.train(bl.load_candles("simulated:1?edge=0.05"), progress=False).metrics
    assert metrics["distinguishable"]
    assert metrics["error_ratio"] < 1


def test_too_few_bars_to_train_on_says_how_many_would_do(trained_candles):
    with pytest.raises(TooFewBars, match=r"needs at least ([0-9,]+) bars") as caught:
        bl.train(trained_candles.iloc[:500], progress=False)
    enough = int(str(caught.value).split("at least ")[1].split(" bars")[0].replace(",", ""))
    assert bl.train(trained_candles.iloc[:enough], epochs=1, progress=False).metrics["bars"] > 0


def test_another_process_trains_the_same_network_bit_for_bit(trained):
    script = (
        "import json, btclab as bl\nfrom tests.conftest import EDGE, SMALL\n"
        "made = bl.train(bl.load_candles(EDGE, end='2021-11-01'), **SMALL)\n"
        "print(json.dumps([made.curves, made.metrics, made.provenance['fingerprint']]))"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "3"}  # on another number of cores, too
    words = [sys.executable, "-c", script]
    done = subprocess.run(words, cwd=PROJECT, env=environment, capture_output=True, text=True, check=True, timeout=120)
    assert json.loads(done.stdout) == [trained.curves, trained.metrics, trained.provenance["fingerprint"]]


@pytest.fixture(scope="module")
def several(trained_candles):
    return bl.train(trained_candles, horizon=(1, 4, 24), **SMALL)


def test_one_network_forecasts_several_horizons(several, trained_candles):
    forecasts = bl.forecast(several, trained_candles).dropna()
    for behind, horizon in (("", 1), ("_4", 4), ("_24", 24)):
        assert (forecasts[f"q05{behind}"] <= forecasts[f"q95{behind}"]).all()
        assert forecasts[f"volatility{behind}"].median() == pytest.approx(
            forecasts["volatility"].median() * np.sqrt(horizon)
        )
    assert set(several.metrics["horizons"]) == {"4", "24"}
    assert forecasts.attrs["horizon"] == several.horizon == 1


@pytest.mark.parametrize("horizon", [0, (1, 1), (), 1.5, "four", (1, "4"), ""])
def test_a_horizon_that_is_none_is_refused(trained_candles, horizon):
    with pytest.raises(InputError, match="horizon is"):
        bl.train(trained_candles, horizon=horizon, progress=False)


@pytest.fixture(scope="module")
def ensemble(trained_candles):
    return bl.train(trained_candles, "ensemble", members=2, trees=5, **SMALL)


def test_an_ensemble_weighs_networks_and_a_forest_and_says_how_far_they_disagree(ensemble, trained_candles, home):
    assert [one.kind for one in ensemble.members] == ["network", "network", "forest"]
    assert sum(ensemble.weights) == pytest.approx(1)
    forecasts = bl.forecast(ensemble, trained_candles)
    assert (forecasts["spread"].dropna() > 0).all()
    ensemble.save()
    pd.testing.assert_frame_equal(bl.forecast(bl.load_checkpoint(ensemble.name), trained_candles), forecasts)


@pytest.mark.parametrize("variant", ["base", "attention"])
def test_every_variant_finds_the_planted_edge(trained_candles, variant):
    assert bl.train(trained_candles, variant, **SMALL).metrics["ic"] > 0.1


def test_the_newest_row_alone_is_that_of_the_whole_table(trained, trained_candles, forecasts):
    newest = forecast_latest(trained, trained_candles).iloc[-1]
    for name in ("mean", *QUANTILES, "prob_up", "volatility"):
        assert newest[name] == pytest.approx(forecasts[name].iloc[-1], rel=1e-6, abs=1e-9)


def test_the_placebo_finds_nothing(trained_candles):
    made = bl.train(trained_candles, placebo=2, **SMALL)
    assert len(made.metrics["placebo"]) == 2
    assert max(map(abs, made.metrics["placebo"])) < made.metrics["ic"] / 2


def test_the_placebo_is_measured_on_shuffled_outcomes_too(trained_candles, monkeypatch):
    """Against the real ones a network of noise may lean with or against a real edge, for it reads the same features."""
    measured = []
    real = learn.information_coefficient
    monkeypatch.setattr(
        learn, "information_coefficient", lambda said, happened: measured.append(happened) or real(said, happened)
    )
    made = bl.train(trained_candles, placebo=1, **{**SMALL, "epochs": 1})
    happened = bl.forward_log_return(trained_candles)[made.folds["test_start"] : made.folds["test_stop"]]
    order = happened.dropna().to_numpy()
    assert len(measured[0]) == pytest.approx(len(order), abs=1)
    assert abs(np.corrcoef(measured[0][: len(order)], order[: len(measured[0])])[0, 1]) < 0.2


def test_naive_and_ridge_stand_beside_the_network(trained):
    assert {"ic", "crps", "brier", "coverage_90"} <= set(trained.metrics["ridge"])
    assert trained.metrics["crps"] < trained.metrics["crps_naive"]


def test_prices_that_never_change_are_nothing_to_learn_from(trained_candles):
    still = trained_candles.copy()
    still[["open", "high", "low", "close"]] = 100.0
    with pytest.raises((InputError, TooFewBars)):
        bl.train(still, progress=False)


def test_a_killed_training_goes_on_where_it_was(trained, trained_candles, home, monkeypatch):
    class Killed(BaseException):
        pass

    keep, epochs = training._kept, []

    def killed(*words):
        done = keep(*words)
        epochs.append(1)
        if len(epochs) == 2:
            raise Killed
        return done

    monkeypatch.setattr(training, "_kept", killed)
    with pytest.raises(Killed):
        bl.train(trained_candles, **SMALL)
    assert len(list((home / "models" / ".training").iterdir())) == 1
    again = bl.train(trained_candles, **SMALL)
    assert len(epochs) == len(trained.curves["train"])
    assert (again.curves, again.metrics) == (trained.curves, trained.metrics)
    assert list((home / "models" / ".training").iterdir()) == []


def test_a_killed_ensemble_does_not_train_again_what_was_trained(trained_candles, home, monkeypatch):
    class Killed(BaseException):
        pass

    options = {**SMALL, "epochs": 2, "members": 2}
    whole = bl.train(trained_candles, "ensemble", **options)
    fit, calls, epochs = learn.train_network, [], []

    def killed(*words):
        calls.append(1)
        if len(calls) == 2:
            raise Killed
        return fit(*words)

    monkeypatch.setattr(learn, "train_network", killed)
    with pytest.raises(Killed):
        bl.train(trained_candles, "ensemble", **options)
    monkeypatch.setattr(learn, "train_network", fit)
    epoch = training._train_epoch
    monkeypatch.setattr(training, "_train_epoch", lambda *words: epochs.append(1) or epoch(*words))
    again = bl.train(trained_candles, "ensemble", **options)
    assert len(epochs) == 2  # of the second network alone
    assert again.metrics == whole.metrics
    assert list((home / "models" / ".training").iterdir()) == []


def test_a_state_is_not_taken_up_on_other_features(trained_candles, home, monkeypatch):
    """The same names and options, but the function behind a feature has been changed between kill and resume."""
    said = []
    path = learn._state_path
    monkeypatch.setattr(learn, "_state_path", lambda *words: said.append(path(*words)) or said[-1])
    monkeypatch.setitem(CUSTOM, "own", None)
    options = {**SMALL, "epochs": 1}
    for factor in (1.0, 2.0):
        bl.register_indicator(
            "own", lambda candles, factor=factor: np.tanh(factor * candles["close"].diff() / candles["close"])
        )
        bl.train(trained_candles, spec=bl.FeatureSpec("mine", (bl.Feature("own", "g", "own", warmup=1),)), **options)
    assert said[0] != said[1]


def test_states_of_trainings_given_up_are_removed(trained_candles, home):
    old, new = (home / "models" / ".training" / name for name in ("old", "new"))
    old.parent.mkdir(parents=True)
    for path, age in ((old, 8), (new, 1)):
        path.write_text("state")
        os.utime(path, (path.stat().st_atime, path.stat().st_mtime - age * 24 * 3600))
    bl.train(trained_candles, **{**SMALL, "epochs": 1})
    assert not old.exists()
    assert new.exists()


@pytest.mark.parametrize("option", [{"members": 3}, {"trees": 10}])
def test_what_only_an_ensemble_has_is_refused_elsewhere(trained_candles, option):
    with pytest.raises(InputError, match='say what an ensemble is made of: variant="ensemble"'):
        bl.train(trained_candles, **SMALL, **option)


def test_whole_numbers_of_numpy_are_numbers(trained_candles):
    made = bl.train(trained_candles, **{**SMALL, "epochs": np.int64(1), "seed": np.int64(2)})
    assert made.options["seed"] == 2
    made.save()


def test_features_are_chosen_on_the_training_fold_alone(trained_candles):
    options = {**SMALL, "epochs": 1, "select": 10}
    one = bl.train(trained_candles, **options)
    altered = trained_candles.copy()
    altered.loc[one.folds["validation_start"] :] *= 1.7
    other = bl.train(altered, **options)
    assert one.spec.columns == other.spec.columns
    assert len(one.spec.columns) == 10 + 3  # and noise
    assert one.selection == other.selection


def test_noise_takes_no_seat_among_the_chosen(trained_candles):
    made = bl.train(trained_candles, **{**SMALL, "epochs": 1, "select": 5, "noise": 2})
    assert made.spec.columns[-2:] == ["noise_1", "noise_2"]
    assert not any(row["kept"] for row in made.selection["table"] if row["feature"].startswith("noise_"))


def test_a_feature_that_looks_ahead_is_trained_on_only_when_named_and_the_checkpoint_says_so(
    trained_candles, monkeypatch
):
    monkeypatch.setitem(CUSTOM, "tomorrow", lambda candles: candles["close"].shift(-1) / candles["close"] - 1)
    cheat = bl.Feature("cheat", "momentum", "tomorrow", warmup=1)
    spec = bl.FeatureSpec("mine", (cheat, bl.Feature("rsi_14", "momentum", "rsi")))
    with pytest.raises(LookAheadError, match=r"cheat(?s:.)*allow_leaky=\['cheat'\]"):
        bl.train(trained_candles, spec=spec, **SMALL)
    made = bl.train(trained_candles, spec=spec, allow_leaky=["cheat"], **SMALL)
    assert made.audit["leaky"] == ["cheat"]
    assert not made.audit["passed"]
    with pytest.raises(InputError, match=r"Unknown feature in allow_leaky: 'chaet'\. Did you mean 'cheat'"):
        bl.train(trained_candles, spec=spec, allow_leaky=["chaet"], **SMALL)


@pytest.fixture(scope="module")
def with_series(trained_candles):
    """A checkpoint that reads a series beside the bars, and that series: yesterday's level of something daily."""
    days = np.arange(len(trained_candles)) // 24
    series = pd.DataFrame({"mood": np.random.default_rng(1).normal(50, 9, days[-1] + 1)[days]}, trained_candles.index)
    mood = bl.Feature("mood", "sentiment", "level", inputs="mood", form="oscillator")
    spec = bl.FeatureSpec("mine", (mood, bl.Feature("rsi_14", "momentum", "rsi")))
    return bl.train(trained_candles, spec=spec, series=series, **SMALL), series


def test_a_series_beside_the_bars_is_read_in_training_and_forecast(with_series, trained_candles):
    made, series = with_series
    assert made.spec.context == ["mood"]
    assert "mood" in made.audit["unverified"]  # nothing is known of its publication
    forecasts = bl.forecast(made, trained_candles, series)
    assert forecasts["prob_up"].notna().sum() > 6000
    series = series.copy()
    series.iloc[5000:] = 0.0
    pd.testing.assert_frame_equal(bl.forecast(made, trained_candles, series).iloc[:5000], forecasts.iloc[:5000])


def test_a_forecast_without_the_series_it_needs_names_it(with_series, trained_candles):
    with pytest.raises(DataUnavailable, match="reads mood, which is not there: btclab fetch --context mood"):
        bl.forecast(with_series[0], trained_candles)


def test_what_the_candles_cannot_fill_is_left_out_and_named(trained):
    assert "no context was given" in trained.provenance["left_out"]["fear_greed"]
    assert not set(trained.provenance["left_out"]) & set(trained.spec.columns)


def test_an_unknown_variant_names_the_valid_ones(trained_candles):
    with pytest.raises(InputError, match=r"Unknown variant: 'quantil'\. Did you mean 'quantile'"):
        bl.train(trained_candles, "quantil")
