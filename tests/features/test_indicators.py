"""Indicators: known answers, no look-ahead, errors that help."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import btclab as bl
from btclab.errors import InputError, TooFewBars
from tests.conftest import SHARED


@pytest.fixture(scope="module")
def golden() -> tuple[pd.DataFrame, pd.DataFrame]:
    """502 real daily quotes, and indicators computed on them by another library, checked against spreadsheets."""
    folder = SHARED / "golden_indicators"
    if not folder.exists():
        pytest.skip(f"no golden values at {folder}")
    quotes, expected = (pd.read_csv(folder / name) for name in ("quotes_default.csv", "expected_core_wide.csv"))
    quotes.index = pd.DatetimeIndex(pd.to_datetime(quotes.pop("date"), utc=True), name="timestamp")
    return quotes.astype(float), expected


@pytest.mark.parametrize(
    ("column", "name", "parameters", "output", "scale"),
    [
        ("rsi.rsi", "rsi", {"length": 14}, 0, 1),
        ("macd.macd", "macd", {}, 0, 1),
        ("macd.histogram", "macd", {}, 1, 1),
        ("macd.signal", "macd", {}, 2, 1),
        ("adx.adx", "adx", {"length": 14}, 0, 1),
        ("atr.atr", "atr", {"length": 14}, 0, 1),
        ("bb.lowerBand", "bbands", {"length": 20}, 0, 1),
        ("bb.sma", "bbands", {"length": 20}, 1, 1),
        ("bb.width", "bbands", {"length": 20}, 3, 0.01),
        ("bb.percentB", "bbands", {"length": 20}, 4, 1),
        ("stoch.oscillator", "stoch", {"k": 14, "d": 3}, 0, 1),
        ("mfi.mfi", "mfi", {"length": 14}, 0, 1),
        ("cci.cci", "cci", {"length": 20}, 0, 1),
    ],
)
def test_indicator_agrees_with_the_golden_values_once_warm(golden, column, name, parameters, output, scale):
    quotes, expected = golden
    own = pd.DataFrame(bl.indicator(name, quotes, **parameters)).iloc[:, output].to_numpy() * scale
    warm = slice(400, None)  # recursive averages are seeded differently; 400 bars later that is forgotten
    np.testing.assert_allclose(own[warm], expected[column].to_numpy(dtype=float)[warm], rtol=1e-6, atol=1e-6)


def test_rsi_of_steady_gains_is_100(candles):
    rising = candles.copy()
    rising.iloc[:, :4] = np.linspace(100, 200, len(rising))[:, None]
    assert bl.indicator("rsi", rising, length=14).iloc[-1] == pytest.approx(100)


def test_realised_volatility_is_the_root_mean_square_of_log_returns(candles):
    returns = np.log(candles["close"]).diff().iloc[-24:]
    assert bl.indicator("realised_volatility", candles, length=24).iloc[-1] == pytest.approx(
        np.sqrt((returns**2).mean())
    )


def test_time_of_day_turns_once_a_day(candles):
    cycle = bl.indicator("time_of_day", candles)
    assert cycle.iloc[0].tolist() == pytest.approx([0, 1])
    assert cycle.iloc[6].tolist() == pytest.approx([1, 0], abs=1e-12)
    assert cycle.iloc[24].tolist() == pytest.approx(cycle.iloc[0].tolist())


@pytest.mark.parametrize("name", ["ichimoku", "dpo", "rsi", "macd", "supertrend", "stoch", "aroon", "vwma", "adx"])
def test_indicator_does_not_change_when_later_bars_are_cut_off(candles, name):
    whole, cut = (pd.DataFrame(bl.indicator(name, part)) for part in (candles.iloc[:900], candles.iloc[:700]))
    pd.testing.assert_frame_equal(whole.iloc[:700], cut, check_freq=False)


def test_ichimoku_has_no_chikou_span(candles):
    assert not [name for name in bl.indicator("ichimoku", candles).columns if name.startswith("ICS")]


@pytest.mark.parametrize("name", ["tos_stdevall", "vp"])
def test_an_indicator_that_reads_the_whole_history_is_refused(candles, name):
    with pytest.raises(InputError, match="looks ahead"):
        bl.indicator(name, candles)


def test_unknown_indicator_names_the_nearest(candles):
    with pytest.raises(InputError, match=r"Unknown indicator: 'rsii'\. Did you mean 'rsi'"):
        bl.indicator("rsii", candles)


def test_unknown_parameter_names_the_valid_ones(candles):
    with pytest.raises(InputError, match=r"'lenght'.*Did you mean 'length'"):
        bl.indicator("rsi", candles, lenght=14)


@pytest.mark.parametrize("value", [0, -3, 2.5, "14", None])
def test_a_length_that_is_no_number_of_bars_is_refused(candles, value):
    with pytest.raises(InputError, match="whole number of at least 1"):
        bl.indicator("rsi", candles, length=value)


def test_a_negative_offset_would_look_ahead_and_is_refused(candles):
    with pytest.raises(InputError, match="offset of 'rsi' is -1"):
        bl.indicator("rsi", candles, offset=-1)


@pytest.mark.parametrize("name", ["rsi", "sma", "ema"])
def test_too_few_bars_says_so(candles, name):
    with pytest.raises(TooFewBars, match="more than the 5 bars"):
        bl.indicator(name, candles.iloc[:5], length=14)
