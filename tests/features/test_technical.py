"""btclab's versions of pandas-ta's indicators: equal to the library where it is right, to published values where it is not.

Golden values: 502 real daily quotes with the indicators of Skender's Stock.Indicators, checked by its author against
spreadsheets; its defaults, e.g. SuperTrend(10, 3), Parabolic SAR(0.02, 0.2), Keltner(20, 2, 10).
"""

from __future__ import annotations

import inspect
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pandas_ta_classic as ta
import pytest

import btclab as bl
from btclab.features import technical
from btclab.features.indicators import bar_arrays, compute
from btclab.features.registry import INDICATORS
from tests.conftest import SHARED

OWN = [name for name, one in INDICATORS.items() if one.function.__module__ == technical.__name__]
NOT_IN_LIBRARY = ["psar_distance", "vortex_difference"]

SETS: dict[str, list[dict[str, Any]]] = {  # beside its defaults
    "sma": [{"length": 1}, {"length": 50}],
    "ema": [{"length": 3}, {"length": 100}],
    "rma": [{"length": 21}],
    "rsi": [{"length": 2}, {"length": 28}],
    "macd": [{"fast": 5, "slow": 35, "signal": 5}],
    "adx": [{"length": 7}],
    "psar": [{"af0": 0.01, "af": 0.01, "max_af": 0.1}],
    "supertrend": [{"length": 10, "multiplier": 2}],
    "aroon": [{"length": 25}],
    "ichimoku": [{"tenkan": 7, "kijun": 22, "senkou": 44}],
    "stoch": [{"k": 5, "d": 3, "smooth_k": 1}, {"k": 21, "d": 5, "smooth_k": 4}],
    "stochrsi": [{"length": 10, "rsi_length": 7, "k": 2, "d": 4}],
    "willr": [{"length": 30}],
    "roc": [{"length": 1}, {"length": 48}],
    "cci": [{"length": 20}, {"length": 50, "c": 0.02}],
    "mfi": [{"length": 7}],
    "bbands": [{"length": 20}, {"length": 50, "std": 1}],
    "kc": [{"length": 50, "scalar": 1.5}],
    "true_range": [],
    "atr": [{"length": 7}, {"length": 1}],
    "natr": [{"length": 28}],
    "cmf": [{"length": 5}],
    "vwap": [],
    "donchian": [{"lower_length": 10, "upper_length": 55}],
    "er": [{"length": 30}],
    "chop": [{"length": 28}],
    "tsi": [{"fast": 5, "slow": 10, "signal": 4}],
    "uo": [{"fast": 3, "medium": 6, "slow": 12}],
    "zscore": [{"length": 10}],
    "log_return": [{"length": 24}],
    "vortex": [{"length": 30}],
    "ao": [{"fast": 3, "slow": 10}],
    "bop": [],
}
CALLS = [(name, parameters) for name, sets in SETS.items() for parameters in ({}, *sets)]


@pytest.fixture(scope="module")
def markets(candles: pd.DataFrame) -> list[pd.DataFrame]:
    """Simulated hours, and real ones where they are at hand: 2018-02 with its interpolated halt, 2023-03 with its hole."""
    path = SHARED / "candles" / "binance_btcusdt_1h_2017-08_2024-12.parquet"
    if not path.exists():
        return [candles]
    real = bl.load_candles(f"file:{path}")
    return [candles, real.loc["2018-01":"2018-03"], real.loc["2023-02":"2023-04"]]


@pytest.fixture(scope="module")
def talib() -> ModuleType:
    return pytest.importorskip("talib", reason="TA-Lib is not installed: pip install TA-Lib")


@pytest.fixture(scope="module")
def golden() -> tuple[pd.DataFrame, pd.DataFrame]:
    folder = SHARED / "golden_indicators"
    if not folder.exists():
        pytest.skip(f"no golden values at {folder}")
    quotes, expected = (pd.read_csv(folder / name) for name in ("quotes_default.csv", "expected_core_wide.csv"))
    quotes.index = pd.DatetimeIndex(pd.to_datetime(quotes.pop("date"), utc=True), name="timestamp")
    return quotes.astype(float), expected


def own(name: str, candles: pd.DataFrame, **parameters: Any) -> pd.DataFrame:
    return pd.DataFrame(compute(name, bar_arrays(candles), **parameters))


def library(name: str, candles: pd.DataFrame, **parameters: Any) -> pd.DataFrame:
    """What pandas-ta gives for the series that it needs; the SAR's long and short lines are told apart by the close."""
    function = getattr(ta, name)
    accepted = inspect.signature(function).parameters
    candles = candles.tz_localize(None)  # its VWAP warns of a time zone
    needed = {
        key: candles[key.rstrip("_")]
        for key, one in accepted.items()
        if key.rstrip("_") in candles and (one.default is inspect.Parameter.empty or name == "psar")
    }
    fixed = {"include_chikou": False, "as_dataframe": True} if name == "ichimoku" else {}
    fixed |= {"talib": False} if "talib" in accepted else {}
    return pd.DataFrame(function(**needed, **parameters, **fixed)).reset_index(drop=True)


def assert_equal(actual: np.ndarray, expected: np.ndarray, **also: Any) -> None:
    """To 1e-9 of each value; where one crosses 0, to 1e-12 of the largest."""
    expected = np.asarray(expected, dtype=float)
    size = np.nanmax(np.abs(expected))
    np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-12 * size, equal_nan=True, **also)


def test_every_one_is_compared():
    assert sorted(SETS) == sorted(set(OWN) - set(NOT_IN_LIBRARY))


@pytest.mark.parametrize("name", SETS)
def test_defaults_are_the_librarys(name, candles):
    theirs, mine = library(name, candles), own(name, candles)
    given = own(name, candles, **INDICATORS[name].parameters)
    pd.testing.assert_frame_equal(mine, given.set_axis(mine.columns, axis=1))
    assert list(mine.columns) == list(theirs.columns)


@pytest.mark.parametrize(("name", "parameters"), CALLS)
def test_names_and_order_of_the_lines_are_the_librarys(name, parameters, candles):
    assert list(own(name, candles, **parameters).columns) == list(library(name, candles, **parameters).columns)


@pytest.mark.parametrize(("name", "parameters"), [call for call in CALLS if call[0] not in ("psar", "supertrend")])
def test_values_are_the_librarys_once_the_warm_up_has_passed(name, parameters, markets):
    """Sooner, they may be seeded otherwise (ADX) or given where they are not known yet (MFI and UO at the first bar)."""
    warm = INDICATORS[name].warmup_of(parameters, per_day=24)
    for market in markets:
        # Where a bar has no range, pandas-ta's balance of power is an epsilon over itself.
        bars = market[market["high"] > market["low"]] if name == "bop" else market
        mine, theirs = own(name, bars, **parameters), library(name, bars, **parameters)
        for column in mine:
            assert_equal(mine[column].to_numpy()[warm:], theirs[column].to_numpy()[warm:], err_msg=column)


@pytest.mark.parametrize("parameters", [{}, *SETS["psar"]])
def test_parabolic_sar_is_the_librarys_once_both_have_turned(parameters, markets):
    """pandas-ta takes the first close for the first stop: until the first reversals have passed it is elsewhere."""
    for market in markets:
        mine, theirs = own("psar", market, **parameters), library("psar", market, **parameters)
        for column in mine:
            assert_equal(mine[column].to_numpy()[400:], theirs[column].to_numpy()[400:], err_msg=column)


# column of the golden file, indicator, parameters, line, what the golden values are of it
GOLDEN = [
    ("rsi.rsi", "rsi", {"length": 14}, 0, 1),
    ("macd.macd", "macd", {}, 0, 1),
    ("macd.histogram", "macd", {}, 1, 1),
    ("macd.signal", "macd", {}, 2, 1),
    ("macd.fastEma", "ema", {"length": 12}, 0, 1),
    ("macd.slowEma", "ema", {"length": 26}, 0, 1),
    ("adx.adx", "adx", {"length": 14}, 0, 1),
    ("adx.pdi", "adx", {"length": 14}, 1, 1),
    ("adx.mdi", "adx", {"length": 14}, 2, 1),
    ("atr.tr", "true_range", {}, 0, 1),
    ("atr.atr", "atr", {"length": 14}, 0, 1),
    ("atr.atrp", "natr", {"length": 14}, 0, 1),
    ("bb.lowerBand", "bbands", {"length": 20}, 0, 1),
    ("bb.sma", "bbands", {"length": 20}, 1, 1),
    ("bb.upperBand", "bbands", {"length": 20}, 2, 1),
    ("bb.width", "bbands", {"length": 20}, 3, 0.01),
    ("bb.percentB", "bbands", {"length": 20}, 4, 1),
    ("bb.zScore", "zscore", {"length": 20}, 0, np.sqrt(20 / 19)),  # of the population there, of the sample here
    ("ichimoku.senkouSpanA", "ichimoku", {}, 0, 1),
    ("ichimoku.senkouSpanB", "ichimoku", {}, 1, 1),
    ("ichimoku.tenkanSen", "ichimoku", {}, 2, 1),
    ("ichimoku.kijunSen", "ichimoku", {}, 3, 1),
    ("supertrend.superTrend", "supertrend", {"length": 10, "multiplier": 3.0}, 0, 1),
    ("supertrend.lowerBand", "supertrend", {"length": 10, "multiplier": 3.0}, 2, 1),
    ("supertrend.upperBand", "supertrend", {"length": 10, "multiplier": 3.0}, 3, 1),
    ("stoch.oscillator", "stoch", {"k": 14, "d": 3, "smooth_k": 3}, 0, 1),
    ("stoch.signal", "stoch", {"k": 14, "d": 3, "smooth_k": 3}, 1, 1),
    ("keltner.centerline", "kc", {"length": 20}, 1, 1),
    ("mfi.mfi", "mfi", {"length": 14}, 0, 1),
    ("cci.cci", "cci", {"length": 20}, 0, 1),
]


@pytest.mark.parametrize(("column", "name", "parameters", "line", "scale"), GOLDEN)
def test_values_are_the_golden_ones_from_the_first_bar_on_and_missing_before_it(
    golden, column, name, parameters, line, scale
):
    quotes, expected = golden
    assert_equal(own(name, quotes, **parameters).iloc[:, line].to_numpy() * scale, expected[column])


def test_bands_of_a_keltner_channel_by_atr_are_the_golden_ones(golden):
    """`kc` has pandas-ta's rule, an exponential average of the range; the golden one has Wilder's, of 10 bars."""
    quotes, expected = golden
    middle, width = own("ema", quotes, length=20), own("atr", quotes, length=10)
    assert_equal(middle.iloc[:, 0] + 2 * width.iloc[:, 0], expected["keltner.upperBand"])
    assert_equal(middle.iloc[:, 0] - 2 * width.iloc[:, 0], expected["keltner.lowerBand"])


def test_on_balance_volume_gains_what_the_golden_one_gains(golden):
    """A sum without a beginning: pandas-ta's begins with the first volume, the golden one with 0."""
    quotes, expected = golden
    assert_equal(bl.indicator("obv", quotes).diff().to_numpy(), expected["obv.obv"].diff())


def test_parabolic_sar_is_the_golden_one_but_for_a_stop_within_its_own_bar(golden, talib):
    """Of 2018-01-02, when the trend turns up, the golden value is the old extreme, above that day's low.

    The day had traded below it: it would have been stopped out at once. TA-Lib and this one take the low.
    """
    quotes, expected = golden
    lines = own("psar", quotes)
    stop = lines.iloc[:, 0].fillna(lines.iloc[:, 1]).to_numpy()
    wanted = expected["psar.sar"].to_numpy(dtype=float)
    known = np.flatnonzero(~np.isnan(wanted))
    apart = known[np.abs(stop[known] / wanted[known] - 1) > 1e-9]
    assert len(apart) == 1
    assert wanted[apart[0]] > quotes["low"].iloc[apart[0]] == stop[apart[0]]
    assert stop[apart[0]] == talib.SAR(quotes["high"], quotes["low"], 0.02, 0.2).iloc[apart[0]]
    turned = lines.iloc[:, 3].to_numpy()[known] == 1
    np.testing.assert_array_equal(turned, expected["psar.isReversal"].to_numpy()[known].astype(bool))


# What TA-Lib is called with, and how many bars until its own seeding is forgotten (0: it seeds as we do).
TALIB = {
    "sma": (lambda t, b: (t.SMA(b.close, 10),), {}, 0),
    "ema": (lambda t, b: (t.EMA(b.close, 10),), {}, 0),
    "rsi": (lambda t, b: (t.RSI(b.close, 14),), {}, 0),
    "macd": (lambda t, b: np.array(t.MACD(b.close, 12, 26, 9))[[0, 2, 1]], {}, 500),
    "adx": (
        lambda t, b: (
            t.ADX(b.high, b.low, b.close, 14),
            t.PLUS_DI(b.high, b.low, b.close, 14),
            t.MINUS_DI(b.high, b.low, b.close, 14),
        ),
        {},
        700,
    ),
    "aroon": (lambda t, b: (*t.AROON(b.high, b.low, 14), t.AROONOSC(b.high, b.low, 14)), {}, 0),
    "stoch": (lambda t, b: t.STOCH(b.high, b.low, b.close, 14, 3, 0, 3, 0), {}, 17),
    "stochrsi": (lambda t, b: (t.STOCHRSI(b.close, 14, 14, 3, 0)[1],), {}, 31),
    "willr": (lambda t, b: (t.WILLR(b.high, b.low, b.close, 14),), {}, 0),
    "roc": (lambda t, b: (t.ROC(b.close, 10),), {}, 0),
    "cci": (lambda t, b: (t.CCI(b.high, b.low, b.close, 14),), {}, 0),
    "mfi": (lambda t, b: (t.MFI(b.high, b.low, b.close, b.volume, 14),), {}, 0),
    "bbands": (lambda t, b: t.BBANDS(b.close, 20, 2, 2)[::-1], {"length": 20}, 0),
    "true_range": (lambda t, b: (t.TRANGE(b.high, b.low, b.close),), {}, 0),
    "atr": (lambda t, b: (t.ATR(b.high, b.low, b.close, 14),), {}, 0),
    "natr": (lambda t, b: (t.NATR(b.high, b.low, b.close, 14),), {}, 0),
    "donchian": (lambda t, b: (t.MIN(b.low, 20), (t.MIN(b.low, 20) + t.MAX(b.high, 20)) / 2, t.MAX(b.high, 20)), {}, 0),
    "uo": (lambda t, b: (t.ULTOSC(b.high, b.low, b.close, 7, 14, 28),), {}, 0),
    "bop": (lambda t, b: (t.BOP(b.open, b.high, b.low, b.close),), {}, 0),
}


@pytest.mark.parametrize("name", TALIB)
def test_values_are_ta_libs(name, candles, talib):
    call, parameters, apart = TALIB[name]
    bars = SimpleNamespace(**{column: candles[column].to_numpy() for column in candles})
    mine = own(name, candles, **parameters)
    for line, theirs in zip(mine, call(talib, bars), strict=False):
        size = np.nanmax(np.abs(theirs))  # its running sums keep their rounding errors
        np.testing.assert_allclose(
            mine[line].to_numpy()[apart:], theirs[apart:], rtol=1e-9, atol=1e-10 * size, err_msg=line
        )


def test_parabolic_sar_is_ta_libs_once_both_have_turned(markets, talib):
    for market in markets:
        lines = own("psar", market)
        stop = lines.iloc[:, 0].fillna(lines.iloc[:, 1]).to_numpy()
        assert_equal(stop[400:], talib.SAR(market["high"], market["low"], 0.02, 0.2).to_numpy()[400:])


def test_parabolic_sar_begins_under_a_first_step_up_and_above_one_down_with_the_extreme_made_by_it(candles):
    up = candles.iloc[:2].assign(high=[10.0, 12.0], low=[9.0, 10.0], open=9.5, close=[9.8, 11.0])
    down = up.assign(high=[12.0, 10.0], low=[10.0, 9.0])
    rising, falling = own("psar", up).iloc[1].to_numpy(), own("psar", down).iloc[1].to_numpy()
    np.testing.assert_array_equal(rising, [9.0, np.nan, 0.04, 0.0])  # long, short, factor, reversal
    np.testing.assert_array_equal(falling, [np.nan, 12.0, 0.04, 0.0])


def test_supertrend_falls_when_a_close_passes_its_stop_and_rises_when_one_passes_the_other(candles):
    """By the published rule, slowly: a band moves only towards the price, until the close before was beyond it."""
    high, low, close = (candles[name].to_numpy() for name in ("high", "low", "close"))
    width = 3 * own("atr", candles, length=7).iloc[:, 0].to_numpy()
    stop, direction = own("supertrend", candles).iloc[:, 0].to_numpy(), own("supertrend", candles).iloc[:, 1].to_numpy()
    upper, lower = (high + low) / 2 + width, (high + low) / 2 - width
    for t in range(8, len(close)):
        upper[t] = upper[t] if upper[t] < upper[t - 1] or close[t - 1] > upper[t - 1] else upper[t - 1]
        lower[t] = lower[t] if lower[t] > lower[t - 1] or close[t - 1] < lower[t - 1] else lower[t - 1]
        was = direction[t - 1]
        now = -1 if was > 0 and close[t] < lower[t] else 1 if was < 0 and close[t] > upper[t] else was
        assert direction[t] == now
        assert stop[t] == (lower[t] if now > 0 else upper[t])
    assert {-1.0, 1.0} == set(direction[8:])


def test_psar_distance_is_the_log_of_the_close_over_the_stop(candles):
    lines = own("psar", candles)
    stop = lines.iloc[:, 0].fillna(lines.iloc[:, 1])
    assert_equal(own("psar_distance", candles).iloc[:, 0], np.log(candles["close"].to_numpy() / stop))


def test_vortex_difference_is_that_of_its_lines(candles):
    lines = own("vortex", candles)
    assert_equal(own("vortex_difference", candles).iloc[:, 0], lines.iloc[:, 0] - lines.iloc[:, 1])


def test_vwap_begins_anew_at_midnight(candles):
    day = candles.iloc[24:48]
    price = (day["high"] + day["low"] + day["close"]) / 3
    expected = (price * day["volume"]).cumsum() / day["volume"].cumsum()
    assert_equal(own("vwap", candles).iloc[24:48, 0], expected)


def test_ichimoku_uses_no_bar_after_its_own(candles):
    lines = own("ichimoku", candles)
    cut = own("ichimoku", candles.iloc[:500])
    pd.testing.assert_frame_equal(lines.iloc[:500], cut)
    high, low = candles["high"].to_numpy(), candles["low"].to_numpy()
    assert lines.iloc[300, 1] == (high[300 - 26 - 51 : 300 - 25].max() + low[300 - 26 - 51 : 300 - 25].min()) / 2
