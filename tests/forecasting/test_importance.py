"""Importance: what the network relies on stands above the noise line, on bars that it has not seen; the rest does not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

import btclab as bl
from btclab.errors import CheckpointError, InputError, TooFewBars
from btclab.features.spec import resolve_spec
from btclab.forecasting import importance as importance_module
from btclab.forecasting.importance import feature_importance
from btclab.forecasting.labels import forward_log_return
from btclab.forecasting.members import NetworkMember
from btclab.forecasting.networks import BaseLSTM
from tests.conftest import SMALL

PLANTED = ["ema_5_distance", "ema_10_distance"]  # the planted edge is momentum of some hours
USELESS = ["time_of_day_sin", "day_of_week_cos", "doji", "volume_zscore_48"]


@pytest.fixture(scope="module")
def checkpoint(trained_candles):
    spec = resolve_spec("technical").only(PLANTED + USELESS)
    return bl.train(trained_candles, "base", spec=spec, **SMALL | {"select": 0, "noise": 3})


@pytest.fixture(scope="module")
def importance(checkpoint, trained_candles):
    return feature_importance(checkpoint, trained_candles, progress=False)


def measure(checkpoint, candles, **options):
    return feature_importance(checkpoint, candles, **{"progress": False, "repeats": 2, **options})


def scaled_by(checkpoint, factor):
    """A checkpoint whose network's forecasts are `factor` times those of its own."""

    class Scaled(torch.nn.Module):
        QUANTILES, loss = False, BaseLSTM.loss

        def forward(self, features):
            return factor * network(features)

    network = checkpoint.members[0].network
    return replace(checkpoint, members=(NetworkMember("base", Scaled().eval()),))


def test_one_row_for_each_column_the_most_important_first(importance, checkpoint):
    assert sorted(importance["feature"]) == sorted(checkpoint.spec.columns)
    assert importance["importance"].is_monotonic_decreasing
    assert set(importance.columns) >= {"feature", "group", "importance", "low", "high", "noise"}
    assert (importance["low"] <= importance["importance"]).all()
    assert (importance["importance"] <= importance["high"]).all()


def test_what_the_network_relies_on_stands_above_the_noise_line_and_nothing_else_does(importance):
    above = importance.loc[importance["above_noise"], "feature"].tolist()
    assert above
    assert set(above) <= set(PLANTED)
    assert importance["feature"].iloc[0] in PLANTED


def test_the_noise_line_is_the_upper_end_of_the_noise_columns(importance):
    noise = importance[importance["noise"]]
    assert noise["feature"].str.fullmatch(r"noise_[123]").all()
    assert importance.attrs["noise_columns"] == len(noise) == 3
    assert importance.attrs["noise_line"] == max(0, noise["high"].max())
    assert not noise["above_noise"].any()


def test_importance_is_the_growth_of_the_error_in_percent(checkpoint, trained_candles):
    """Without its edge a forecast of variance v loses v, and shuffled it errs by v more: twice what the naive one loses."""
    table = measure(checkpoint, trained_candles)
    alone = measure(checkpoint, trained_candles, grouped=True).set_index("feature")["importance"]
    naive = float(checkpoint.metrics["naive_error"] ** 2)
    edge = 100 * (naive / checkpoint.metrics["error"] ** 2 - 1)
    assert 1.3 * edge < alone["trend"] < 2.7 * edge
    assert table["importance"].max() <= alone["trend"]


def test_a_network_that_looks_at_nothing_finds_no_column_important(checkpoint, trained_candles):
    blind = scaled_by(checkpoint, 0.0)
    table = measure(blind, trained_candles)
    assert (table[["importance", "low", "high"]] == 0).all(axis=None)
    assert not table["above_noise"].any()


def test_columns_of_a_group_are_shuffled_together(checkpoint, importance, trained_candles):
    groups = feature_importance(checkpoint, trained_candles, grouped=True, progress=False).set_index("feature")
    assert sorted(groups.index) == sorted({one.group for one in checkpoint.spec.features})
    assert groups.index.tolist() == groups["group"].tolist()
    assert groups["noise"].to_dict() == {name: name == "noise" for name in groups.index}
    single = importance.set_index("feature")["importance"]
    assert groups.loc["trend", "importance"] > single[PLANTED].sum()  # one by one, they cover for each other
    assert groups.loc["trend", "above_noise"]


def test_only_bars_that_training_has_not_seen_are_scored(checkpoint, trained_candles):
    unseen = int((trained_candles.index >= checkpoint.test_start).sum())
    table = measure(checkpoint, trained_candles)
    assert unseen - checkpoint.horizon - 1 <= table.attrs["bars"] <= unseen - checkpoint.horizon


def test_what_happened_before_the_unseen_bars_changes_nothing(checkpoint, trained_candles):
    start = int(trained_candles.index.searchsorted(checkpoint.test_start))
    late = trained_candles.iloc[start - 1500 :]  # enough to warm up
    one, other = measure(checkpoint, trained_candles), measure(checkpoint, late)
    assert one.attrs["bars"] == other.attrs["bars"]
    pd.testing.assert_frame_equal(one, other, atol=1e-4)


def test_at_most_so_many_bars_are_scored_spread_over_all(checkpoint, trained_candles):
    table = measure(checkpoint, trained_candles, most_bars=300)
    assert 240 <= table.attrs["bars"] <= 300
    assert table["high"].iloc[0] - table["low"].iloc[0] > 0


def test_fewer_bars_widen_the_interval(checkpoint, importance, trained_candles):
    few = measure(checkpoint, trained_candles, most_bars=300).set_index("feature")
    many = importance.set_index("feature")
    width = [float((table["high"] - table["low"]).loc[PLANTED].mean()) for table in (few, many)]
    assert width[0] > 1.3 * width[1]


def test_the_same_seed_gives_the_same_numbers_and_another_does_not(checkpoint, trained_candles):
    one, same = (measure(checkpoint, trained_candles, seed=4, most_bars=300) for _ in range(2))
    pd.testing.assert_frame_equal(one, same, check_exact=True)
    assert not one.equals(measure(checkpoint, trained_candles, seed=5, most_bars=300))


@pytest.fixture(scope="module")
def holed(trained_candles, checkpoint):
    """Wild prices, and 300 hours of one volume: a z-score of the volume is undefined there after 48 of them."""
    candles = trained_candles.copy()
    start = int(candles.index.searchsorted(checkpoint.test_start)) + 400
    hole = candles.index[start : start + 300]
    candles.loc[hole, "volume"] = 5.0
    candles.loc[hole[60:-60:2], ["open", "high", "low", "close"]] *= 1.5
    return candles


def test_bars_whose_window_has_a_hole_are_not_scored(checkpoint, holed):
    """The error is that of `bl.forecast`, bar by bar, but for what the network remembers from before the window."""
    table, forecasts = measure(checkpoint, holed), bl.forecast(checkpoint, holed)
    outcome = forward_log_return(holed) / forecasts["volatility"]
    error = (outcome.clip(-5, 5) - forecasts["mean"] / forecasts["volatility"])[~forecasts["in_sample"]] ** 2
    assert table.attrs["bars"] == error.notna().sum() < 1100
    assert table.attrs["error"] == pytest.approx(error.mean(), rel=0.01)


def test_rows_with_a_hole_are_not_shuffled_in(checkpoint, holed, monkeypatch):
    shuffled = []
    monkeypatch.setattr(
        importance_module, "shuffle_in_blocks", lambda rows, *_: shuffled.append(rows) or np.arange(rows)
    )
    table = measure(checkpoint, holed)
    whole = bl.build_features(holed, spec=checkpoint.spec).notna().all(axis=1)[holed.index >= checkpoint.test_start]
    assert whole.sum() - 2 <= shuffled[0] - (checkpoint.options["context"] - 1) <= whole.sum()
    assert (table["importance"] == 0).all()  # each row was given back its own


def test_a_calibration_that_leaves_nothing_is_said_so(checkpoint, trained_candles):
    naive = replace(checkpoint, calibrations=(replace(checkpoint.calibrations[0], slope=0.0),))
    table = measure(naive, trained_candles)
    assert not table.attrs["calibrated"]
    assert table["importance"].iloc[0] > 0  # of the network's own forecast
    assert measure(checkpoint, trained_candles).attrs["calibrated"]


def test_without_noise_columns_zero_is_the_line(trained_candles):
    spec = resolve_spec("technical").only([PLANTED[1], USELESS[0]])
    plain = bl.train(trained_candles, spec=spec, **SMALL | {"epochs": 1, "noise": 0})
    table = measure(plain, trained_candles)
    assert (table.attrs["noise_columns"], table.attrs["noise_line"]) == (0, 0)


def test_the_threads_and_the_random_state_of_torch_are_left_as_they_were(checkpoint, trained_candles):
    before, state = torch.get_num_threads(), torch.random.get_rng_state()
    torch.set_num_threads(3)
    try:
        measure(checkpoint, trained_candles, most_bars=300)
        assert torch.get_num_threads() == 3
        assert torch.equal(torch.random.get_rng_state(), state)
    finally:
        torch.set_num_threads(before)


# Wrong input


def test_candles_that_training_has_seen_are_refused(checkpoint, trained_candles):
    seen = trained_candles[trained_candles.index < checkpoint.test_start + pd.Timedelta(hours=100)]
    with pytest.raises(TooFewBars, match=r"Only 99 bars from .* importance needs 200"):
        measure(checkpoint, seen)


def test_candles_of_another_timeframe_are_refused(checkpoint):
    with pytest.raises(CheckpointError, match="1h bars; these are 4h bars"):
        measure(checkpoint, bl.load_candles("simulated:7?edge=0.3", "4h", end="2021-11-01"))


@pytest.mark.parametrize(
    ("option", "value"), [("repeats", 1), ("repeats", 2.5), ("most_bars", 100), ("most_bars", True)]
)
def test_numbers_that_make_no_sense_are_refused(checkpoint, trained_candles, option, value):
    with pytest.raises(InputError, match=f"{option} is {value}; it must be a whole number of at least"):
        measure(checkpoint, trained_candles, **{option: value})
