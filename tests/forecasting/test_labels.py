"""Labels: the return that follows, and nothing where it is not known."""

from __future__ import annotations

import numpy as np
import pytest

import btclab as bl
from btclab.errors import InputError


@pytest.mark.parametrize("horizon", [1, 4])
def test_the_label_of_t_is_the_log_return_from_t_to_t_plus_horizon(candles, horizon):
    label = bl.forward_log_return(candles, horizon)
    assert label.iloc[10] == pytest.approx(np.log(candles["close"].iloc[10 + horizon] / candles["close"].iloc[10]))


def test_the_last_bars_have_no_label_yet(candles):
    assert bl.forward_log_return(candles, 4).isna().to_numpy().nonzero()[0].tolist() == [
        len(candles) - 4,
        len(candles) - 3,
        len(candles) - 2,
        len(candles) - 1,
    ]


def test_no_label_reaches_across_a_hole(candles):
    holed = candles.drop(candles.index[100])
    label = bl.forward_log_return(holed, 2)
    assert label.iloc[96:102].isna().tolist() == [False, False, True, True, False, False]


@pytest.mark.parametrize("horizon", [0, -1, 1.5, "1"])
def test_a_horizon_that_is_no_number_of_bars_is_refused(candles, horizon):
    with pytest.raises(InputError, match="whole number of at least 1"):
        bl.forward_log_return(candles, horizon)
