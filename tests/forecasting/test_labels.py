"""Labels: the return that follows, and nothing where it is not known."""

from __future__ import annotations

import numpy as np
import pytest

import btclab as bl
from btclab.errors import InputError
from btclab.forecasting.labels import block_shuffled, make_targets


@pytest.mark.parametrize("horizon", [1, 4])
def test_the_label_of_t_is_the_log_return_from_t_to_t_plus_horizon(candles, horizon):
    label = bl.forward_log_return(candles, horizon)
    assert label.iloc[10] == pytest.approx(np.log(candles["close"].iloc[10 + horizon] / candles["close"].iloc[10]))


def test_the_last_bars_have_no_label_yet(candles):
    n = len(candles)
    assert bl.forward_log_return(candles, 4).isna().to_numpy().nonzero()[0].tolist() == [n - 4, n - 3, n - 2, n - 1]


def test_no_label_reaches_across_a_hole(candles):
    holed = candles.drop(candles.index[100])
    label = bl.forward_log_return(holed, 2)
    assert label.iloc[96:102].isna().tolist() == [False, False, True, True, False, False]


@pytest.mark.parametrize("horizon", [0, -1, 1.5, "1", True])
def test_a_horizon_that_is_no_number_of_bars_is_refused(candles, horizon):
    with pytest.raises(InputError, match="whole number of at least 1"):
        bl.forward_log_return(candles, horizon)


def test_targets_are_in_units_of_the_volatility_over_their_horizon(candles):
    volatility = np.full(len(candles), 0.01)
    targets = make_targets(candles, volatility, (1, 4))
    assert targets[10, 0] == pytest.approx(bl.forward_log_return(candles, 1).iloc[10] / 0.01)
    assert targets[10, 1] == pytest.approx(bl.forward_log_return(candles, 4).iloc[10] / 0.02)


def test_the_placebo_has_the_same_outcomes_in_another_order_and_in_whole_blocks():
    targets, usable = np.arange(100.0)[:, None], np.ones(100, dtype=bool)
    usable[:10] = False
    shuffled = block_shuffled(targets, usable, block=10, seed=1)
    assert sorted(shuffled[:, 0]) == sorted(targets[:, 0])
    np.testing.assert_array_equal(shuffled[:10], targets[:10])
    assert (shuffled != targets).sum() > 50
    assert (np.diff(shuffled[10:, 0]) == 1).mean() > 0.85


@pytest.mark.parametrize("rows", [300, 2352, 16805])
def test_the_placebo_knows_no_hour_and_no_weekday(rows):
    """Else a network that reads the calendar would find a calendar effect in the placebo, too."""
    targets, usable = np.sin(2 * np.pi * np.arange(rows) / 24)[:, None], np.ones(rows, dtype=bool)
    left = [np.corrcoef(targets[:, 0], block_shuffled(targets, usable, 150, seed)[:, 0])[0, 1] for seed in range(40)]
    assert abs(np.mean(left)) < 0.3
    assert np.mean(np.abs(left) > 0.99) == 0
