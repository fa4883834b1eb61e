"""Indicators by name: btclab's own or pandas-ta's, no look-ahead, errors that help."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
import pandas_ta_classic as ta
import pytest

import btclab as bl
from btclab.errors import CandleError, InputError, TooFewBars
from btclab.features import indicators
from btclab.features.indicators import (
    LOOK_AHEAD,
    bar_arrays,
    compute,
    pandas_ta_names,
    register_indicator,
    warmup_of,
)
from btclab.features.registry import INDICATORS

NOT_FROM_CANDLES = {"long_run", "short_run", "mavp", "tsignals", "xsignals"}
SLOW = {"cdl_pattern"}  # 62 patterns, seconds each time


@pytest.fixture
def custom(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a test registers is gone after it."""
    monkeypatch.setattr(indicators, "CUSTOM", {})
    return


# What it returns


def test_an_indicator_with_one_line_is_a_series_named_as_in_pandas_ta(candles):
    rsi = bl.indicator("rsi", candles, length=7)
    assert isinstance(rsi, pd.Series)
    assert rsi.name == "RSI_7"
    assert rsi.index.equals(candles.index)
    assert rsi.attrs["source"] == "simulated:7"


def test_an_indicator_with_several_lines_is_a_frame(candles):
    assert list(bl.indicator("macd", candles).columns) == ["MACD_12_26_9", "MACDh_12_26_9", "MACDs_12_26_9"]


def test_the_first_bars_are_missing_until_there_are_enough(candles):
    assert bl.indicator("sma", candles, length=10).notna().to_numpy().argmax() == 9


def test_rsi_of_steady_gains_is_100(candles):
    rising = candles.copy()
    rising.iloc[:, :4] = np.linspace(100, 200, len(rising))[:, None]
    assert bl.indicator("rsi", rising, length=14).iloc[-1] == pytest.approx(100)


def test_what_is_divided_by_nothing_is_missing_and_not_infinite(candles):
    """A gap, then bars without a range: the way gone is over a range of 0."""
    still = candles.iloc[:60].copy()
    still.iloc[30:, :4] = 2 * still["high"].max()
    chop = bl.indicator("chop", still, length=14)
    assert np.isfinite(chop.iloc[14:30]).all()
    assert chop.iloc[43:].isna().all()


def test_an_own_indicator_with_a_parameter_of_pandas_ta_alone_is_pandas_tas(candles):
    later = bl.indicator("rsi", candles, length=14, offset=1)
    pd.testing.assert_series_equal(later, bl.indicator("rsi", candles, length=14).shift(1), check_names=False)


def test_an_indicator_that_btclab_lacks_is_pandas_tas(candles):
    expected = ta.vwma(candles["close"], candles["volume"], length=10)
    np.testing.assert_array_equal(bl.indicator("vwma", candles, length=10), expected)


@pytest.mark.parametrize("name", ["ad", "adosc", "cmf"])
def test_money_flow_is_chaikins_of_the_close_and_not_of_the_open(candles, name):
    prices = (candles["high"], candles["low"], candles["close"], candles["volume"])
    expected = getattr(ta, name)(*prices)
    np.testing.assert_allclose(bl.indicator(name, candles), expected, rtol=1e-9)
    later = bl.indicator(name, candles, offset=1)  # pandas-ta's own, where btclab has one too
    np.testing.assert_allclose(later, expected.shift(1), rtol=1e-9)


# No look-ahead


@pytest.mark.parametrize("parameters", [{}, {"offset": 1}])  # btclab's own, and pandas-ta's
def test_ichimoku_has_no_chikou_span(candles, parameters):
    lines = bl.indicator("ichimoku", candles, **parameters)
    assert [name.split("_")[0] for name in lines.columns] == ["ISA", "ISB", "ITS", "IKS"]


@pytest.mark.parametrize(("name", "parameter"), [("ichimoku", "include_chikou"), ("dpo", "centered"), ("rsi", "talib")])
def test_what_would_look_ahead_or_depend_on_what_is_installed_is_no_parameter(candles, name, parameter):
    with pytest.raises(InputError, match=f"Unknown parameter of '{name}': '{parameter}'"):
        bl.indicator(name, candles, **{parameter: True})


@pytest.mark.parametrize("name", LOOK_AHEAD)
def test_an_indicator_that_reads_the_whole_history_is_refused(candles, name):
    with pytest.raises(InputError, match="looks ahead"):
        bl.indicator(name, candles)


@pytest.mark.parametrize("name", sorted(pandas_ta_names() - set(LOOK_AHEAD) - NOT_FROM_CANDLES - SLOW))
@pytest.mark.filterwarnings("ignore")  # of what pandas-ta does within
def test_no_indicator_changes_when_later_bars_are_cut_off(candles, name):
    whole, cut = (pd.DataFrame(compute(name, bar_arrays(candles.iloc[:bars]))) for bars in (400, 311))
    shared = [line for line in cut if line in whole]
    assert shared
    size = whole[shared].abs().max().replace(0, 1)
    pd.testing.assert_frame_equal(whole[shared].iloc[:311] / size, cut[shared] / size, rtol=0, atol=1e-9)


def test_a_negative_offset_would_look_ahead_and_is_refused(candles):
    with pytest.raises(InputError, match="offset of 'rsi' is -1"):
        bl.indicator("rsi", candles, offset=-1)


# Wrong input


def test_unknown_indicator_names_the_nearest(candles):
    with pytest.raises(InputError, match=r"Unknown indicator: 'rsii'\. Did you mean 'rsi'"):
        bl.indicator("rsii", candles)


@pytest.mark.parametrize("name", ["rsi", "vwma", "realised_volatility"])
def test_unknown_parameter_names_the_valid_ones(candles, name):
    with pytest.raises(InputError, match=rf"Unknown parameter of '{name}': 'lenght'.*Did you mean 'length'"):
        bl.indicator(name, candles, lenght=14)


@pytest.mark.parametrize("value", [0, -3, 2.5, "14", None, True, float("nan")])
@pytest.mark.parametrize("name", ["rsi", "realised_volatility"])
def test_a_length_that_is_no_number_of_bars_is_refused(candles, name, value):
    with pytest.raises(InputError, match=r"length of .* it must be a whole number of at least 1 bars"):
        bl.indicator(name, candles, length=value)


@pytest.mark.parametrize("value", [-1, "2", None, float("nan"), float("inf")])
def test_a_factor_that_is_no_number_is_refused(candles, value):
    with pytest.raises(InputError, match=r"std of 'bbands' is .* it must be a number of at least 0"):
        bl.indicator("bbands", candles, std=value)


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("zscore", {"length": 1}, "length of 'zscore' is 1; it must be a whole number of at least 2"),
        ("variance_ratio", {"length": 100, "bars": 1}, "bars of 'variance_ratio' is 1"),
        ("hurst_exponent", {"length": 20}, "whole number of at least 32"),
        ("macd", {"fast": 26, "slow": 12}, "fast of 'macd' is 26; it must be less than slow, which is 12"),
        ("sma_cross", {"fast": 20, "slow": 20}, "fast of 'sma_cross' is 20"),
        ("sma_cross", {"fast": 20}, "Indicator 'sma_cross' needs slow"),
    ],
)
def test_a_number_with_which_it_means_nothing_is_refused(candles, name, parameters, message):
    with pytest.raises(InputError, match=message):
        bl.indicator(name, candles, **parameters)


def test_an_indicator_of_context_says_that_candles_do_not_suffice(candles):
    with pytest.raises(InputError, match="reads a series that candles do not have"):
        bl.indicator("log_change", candles, days=7)


@pytest.mark.parametrize("name", sorted(NOT_FROM_CANDLES))
def test_an_indicator_of_other_series_says_which(candles, name):
    with pytest.raises(InputError, match=f"'{name}' is made of other series than candles; it needs "):
        bl.indicator(name, candles)


@pytest.mark.parametrize(("name", "bars"), [("rsi", 14), ("sma", 13), ("ema", 13), ("vwma", 5), ("ichimoku", 8)])
def test_too_few_bars_says_so(candles, name, bars):
    with pytest.raises(TooFewBars, match=f"more than the {bars} bars"):
        bl.indicator(name, candles.iloc[:bars], **({"length": 14} if name != "ichimoku" else {}))


def test_candles_that_are_none_are_refused(candles):
    with pytest.raises(CandleError, match="high below its low"):
        bl.indicator("rsi", candles.assign(high=1.0))


def test_more_inputs_than_it_reads_are_refused(candles):
    for name in ("rsi", "vwma", "zscore"):
        with pytest.raises(InputError, match="too many"):
            compute(name, bar_arrays(candles), ("close", "volume", "open"))


def test_inputs_take_the_place_of_its_own_first_ones(candles):
    arrays = bar_arrays(candles)
    of_volume = compute("sma", {**arrays, "close": arrays["volume"]}, length=5)
    np.testing.assert_array_equal(compute("sma", arrays, ("volume",), length=5)["SMA_5"], of_volume["SMA_5"])
    expected = ta.vwma(candles["high"], candles["volume"], length=5)
    np.testing.assert_array_equal(compute("vwma", arrays, ("high",), length=5)["VWMA_5"], expected)


# One's own


def test_an_indicator_of_ones_own_is_used_by_its_name(candles, custom):
    register_indicator("half_range", lambda bars, share=0.5: share * (bars["high"] - bars["low"]))
    expected = 0.5 * (candles["high"] - candles["low"])
    np.testing.assert_array_equal(bl.indicator("half_range", candles), expected)
    np.testing.assert_array_equal(bl.indicator("half_range", candles, share=1.0), 2 * expected)


def test_an_indicator_of_ones_own_gets_the_inputs_of_its_feature(candles, custom):
    register_indicator("per_rate", lambda bars: bars["close"] * bars["rate"])
    arrays = {**bar_arrays(candles), "rate": np.arange(len(candles), dtype=float)}
    expected = candles["close"] * np.arange(len(candles))
    np.testing.assert_array_equal(compute("per_rate", arrays, ("rate",))["per_rate"], expected)


@pytest.mark.parametrize("name", ["rsi", "vwma", "realised_volatility", "vp"])
def test_a_name_that_is_taken_is_refused(custom, name):
    with pytest.raises(InputError, match="There is an indicator"):
        register_indicator(name, lambda bars: bars["close"])


@pytest.mark.parametrize("rows", [slice(5, None), slice(0, 0)])
def test_an_indicator_of_ones_own_gives_one_value_a_bar(candles, custom, rows):
    register_indicator("short", lambda bars: bars["close"].iloc[rows])
    with pytest.raises(InputError, match="must give one value a bar"):
        bl.indicator("short", candles)


# Warm-up


def test_the_warm_up_of_an_own_indicator_is_known():
    assert warmup_of("sma", {"length": 50}, 24) == 49
    assert warmup_of("surprise", {"days": 90}, 24) == 89 * 24


def test_the_warm_up_of_the_others_is_not(custom):
    register_indicator("mine", lambda bars: bars["close"])
    assert warmup_of("vwma", {"length": 10}, 24) is None
    assert warmup_of("rsi", {"length": 14, "offset": 1}, 24) is None
    assert warmup_of("mine", {}, 24) is None


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("rsii", {}, "Unknown indicator: 'rsii'"),
        ("rsi", {"lenght": 7}, "Unknown parameter of 'rsi'"),
        ("vwma", {"lenght": 7}, "Unknown parameter of 'vwma'"),
        ("sma_cross", {"fast": 5}, "needs slow"),
        ("vp", {}, "looks ahead"),
    ],
)
def test_asking_for_a_warm_up_finds_what_is_wrong(name, parameters, message):
    with pytest.raises(InputError, match=message):
        warmup_of(name, parameters, 24)


@pytest.mark.parametrize("name", sorted(INDICATORS))
def test_every_own_indicator_has_a_warm_up(name):
    one = INDICATORS[name]
    assert one.warmup_of(dict.fromkeys(one.parameters, 40), 24) >= 0
