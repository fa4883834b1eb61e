"""What pandas-ta lacks, against plain pandas and scipy, hand-made bars, and markets of which the answer is known."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from btclab.features import measures
from btclab.features.indicators import bar_arrays, compute
from btclab.features.registry import INDICATORS

PER_DAY = 24
Plain = Callable[[pd.DataFrame], Any]


def own(name: str, candles: pd.DataFrame, **parameters: Any) -> pd.DataFrame:
    return pd.DataFrame(compute(name, bar_arrays(candles), **parameters))


def of_series(name: str, *series: np.ndarray, **parameters: Any) -> np.ndarray:
    """A transform of context series, hourly values."""
    names = tuple("abc"[: len(series)])
    arrays = {**dict(zip(names, series, strict=True)), "per_day": PER_DAY}
    return next(iter(compute(name, arrays, names, **parameters).values()))


def market(close: np.ndarray, **columns: Any) -> pd.DataFrame:
    """Hours with these closes, each opening at the close before; what is not given is plain."""
    close = np.asarray(close, dtype=float)
    open_ = np.concatenate([close[:1], close[:-1]])
    bars = {
        "open": open_,
        "high": np.maximum(open_, close),
        "low": np.minimum(open_, close),
        "close": close,
        "volume": 1.0,
    }
    index = pd.date_range("2024-01-01", periods=len(close), freq="h", tz="UTC", name="timestamp")
    frame = pd.DataFrame({**bars, **columns}, index=index)
    frame.attrs["timeframe"] = "1h"
    return frame


def bars(*rows: tuple[float, float, float, float]) -> pd.DataFrame:
    """Hours of (open, high, low, close)."""
    open_, high, low, close = np.array(rows, dtype=float).T
    return market(close, open=open_, high=high, low=low)


def r(c: pd.DataFrame) -> pd.Series:
    """Log returns."""
    return np.log(c["close"]).diff()


def share_below(window: np.ndarray) -> float:
    return float((np.sum(window[:-1] < window[-1]) + np.sum(window[:-1] == window[-1]) / 2) / (len(window) - 1))


def ema(x: pd.Series, length: int) -> pd.Series:
    """Weight 2/(length + 1) on the newest, seeded by the first mean."""
    seeded = x.copy()
    seeded.iloc[: length - 1] = np.nan
    seeded.iloc[length - 1] = x.iloc[:length].mean()
    return seeded.ewm(span=length, adjust=False).mean()


def typical(c: pd.DataFrame) -> pd.Series:
    return (c["high"] + c["low"] + c["close"]) / 3


def money_flow(c: pd.DataFrame, length: int) -> pd.Series:
    place = ((c["close"] - c["low"]) - (c["high"] - c["close"])) / (c["high"] - c["low"])
    return (place * c["volume"]).rolling(length).sum() / c["volume"].rolling(length).sum()


def wilder_rsi(close: pd.Series, length: int) -> pd.Series:
    moved = close.diff()
    gains, losses = moved.clip(lower=0), -moved.clip(upper=0)
    return 100 - 100 / (1 + gains.ewm(alpha=1 / length).mean() / losses.ewm(alpha=1 / length).mean())


def slope(window: np.ndarray) -> float:
    return float(stats.linregress(np.arange(len(window)), window).slope)


def obv_correlation(c: pd.DataFrame, length: int) -> pd.Series:
    obv = (np.sign(c["close"].diff()) * c["volume"]).fillna(0).cumsum()
    return np.log(c["close"]).rolling(length).corr(obv)


# name: parameters, and the same written plainly
PLAIN: dict[str, tuple[dict[str, Any], Plain]] = {
    "sma_cross": (
        {"fast": 5, "slow": 20},
        lambda c: np.log(c["close"].rolling(5).mean() / c["close"].rolling(20).mean()),
    ),
    "ema_cross": ({"fast": 5, "slow": 20}, lambda c: np.log(ema(c["close"], 5) / ema(c["close"], 20))),
    "trend_line": (
        {"length": 24},
        lambda c: (
            np.log(c["close"]).rolling(24).apply(slope, raw=True),
            np.log(c["close"]).rolling(24).corr(pd.Series(np.arange(len(c)), c.index, dtype=float)) ** 2,
        ),
    ),
    "trend_strength": ({"length": 24}, lambda c: r(c).rolling(24).apply(lambda w: stats.ttest_1samp(w, 0).statistic)),
    "realised_volatility": ({"length": 24}, lambda c: (r(c) ** 2).rolling(24).mean() ** 0.5),
    "volatility_ratio": (
        {"fast": 12, "slow": 48},
        lambda c: np.log(((r(c) ** 2).rolling(12).mean() / (r(c) ** 2).rolling(48).mean()) ** 0.5),
    ),
    "parkinson_volatility": (
        {"length": 24},
        lambda c: ((np.log(c["high"] / c["low"]) ** 2).rolling(24).sum() / (24 * 4 * np.log(2))) ** 0.5,
    ),
    "garman_klass_volatility": (
        {"length": 24},
        lambda c: (
            (0.5 * np.log(c["high"] / c["low"]) ** 2 - (2 * np.log(2) - 1) * np.log(c["close"] / c["open"]) ** 2)
            .rolling(24)
            .mean()
            ** 0.5
        ),
    ),
    "downside_share": (
        {"length": 24},
        lambda c: (r(c).clip(upper=0) ** 2).rolling(24).sum() / (r(c) ** 2).rolling(24).sum(),
    ),
    "volatility_rank": (
        {"length": 12, "within": 100},
        lambda c: ((r(c) ** 2).rolling(12).mean() ** 0.5).rolling(100).apply(share_below, raw=True),
    ),
    "relative_volume": ({"length": 24}, lambda c: np.log(1 + c["volume"] / c["volume"].rolling(24).mean())),
    "obv_flow": (
        {"length": 24},
        lambda c: (np.sign(c["close"].diff()) * c["volume"]).rolling(24).sum() / c["volume"].rolling(24).sum(),
    ),
    "pvt_flow": (
        {"length": 24},
        lambda c: (c["close"].pct_change() * c["volume"]).rolling(24).sum() / c["volume"].rolling(24).sum(),
    ),
    "ad_flow": ({"fast": 3, "slow": 10}, lambda c: money_flow(c, 3) - money_flow(c, 10)),
    "rolling_vwap": (
        {"length": 24},
        lambda c: (typical(c) * c["volume"]).rolling(24).sum() / c["volume"].rolling(24).sum(),
    ),
    "return_volume_correlation": ({"length": 48}, lambda c: r(c).rolling(48).corr(c["volume"])),
    "illiquidity_rank": (
        {"length": 12, "within": 100},
        lambda c: (
            (r(c).abs() / (c["close"] * c["volume"])).rolling(12).mean().rolling(100).apply(share_below, raw=True)
        ),
    ),
    "range_position": (
        {"length": 20},
        lambda c: (
            (c["close"] - c["low"].rolling(20).min()) / (c["high"].rolling(20).max() - c["low"].rolling(20).min())
        ),
    ),
    "drawdown_from_high": ({"length": 100}, lambda c: np.log(c["close"] / c["high"].rolling(100).max())),
    "rise_from_low": ({"length": 100}, lambda c: np.log(c["close"] / c["low"].rolling(100).min())),
    "shape": (
        {},
        lambda c: (
            np.log(c["close"] / c["open"]),
            np.log(c["high"] / c[["open", "close"]].max(axis=1)),
            np.log(c[["open", "close"]].min(axis=1) / c["low"]),
        ),
    ),
    "return_moments": (
        {"length": 48},
        lambda c: (r(c).rolling(48).apply(stats.skew, raw=True), r(c).rolling(48).apply(stats.kurtosis, raw=True)),
    ),
    "autocorrelation": ({"length": 48, "lag": 2}, lambda c: r(c).rolling(48).corr(r(c).shift(2))),
    "absolute_autocorrelation": ({"length": 48, "lag": 1}, lambda c: r(c).abs().rolling(48).corr(r(c).abs().shift(1))),
    "variance_ratio": (
        {"length": 100, "bars": 5},
        lambda c: np.log((r(c).rolling(5).sum() ** 2).rolling(100).mean() / (5 * (r(c) ** 2).rolling(100).mean())),
    ),
    "up_share": ({"length": 24}, lambda c: (c["close"].diff() > 0).rolling(24).mean() - 0.5),
    "return_rank": ({"within": 48}, lambda c: r(c).rolling(48).apply(share_below, raw=True)),
    "trend_state": (
        {"fast": 10, "slow": 30},
        lambda c: (
            np.sign(
                np.sign(c["close"] - c["close"].rolling(10).mean())
                + np.sign(c["close"].rolling(10).mean() - c["close"].rolling(30).mean())
            )
            * (
                np.sign(c["close"] - c["close"].rolling(10).mean())
                == np.sign(c["close"].rolling(10).mean() - c["close"].rolling(30).mean())
            )
        ),
    ),
    "rsi_divergence": (
        {"length": 48, "rsi_length": 14},
        lambda c: np.log(c["close"]).rolling(48).corr(wilder_rsi(c["close"], 14)),
    ),
    "obv_divergence": ({"length": 48}, lambda c: obv_correlation(c, 48)),
}
ELSEWHERE = {  # each has tests of its own below
    *("return_entropy", "hurst_exponent", "fibonacci_distance", "pivots", "swings"),
    *("doji", "hammer", "engulfing", "star", "inside_bar", "run_length"),
    *("time_of_day", "day_of_week", "day_of_year", "weekend", "noise"),
    *("level", "log_level", "log_change", "difference", "average", "surprise", "ratio_surprise"),
    *("net_flow", "extreme", "moves_with"),
}


def test_every_one_is_tested():
    registered = {name for name, one in INDICATORS.items() if one.function.__module__ == measures.__name__}
    assert registered == set(PLAIN) | ELSEWHERE


@pytest.mark.parametrize("name", PLAIN)
def test_values_are_those_of_plain_pandas(name, candles):
    parameters, plain = PLAIN[name]
    expected = plain(candles)
    warm = INDICATORS[name].warmup_of(parameters, PER_DAY)
    for line, wanted in zip(own(name, candles, **parameters).T.to_numpy(), np.atleast_2d(expected), strict=True):
        known = ~np.isnan(wanted) & (np.arange(len(line)) >= warm)
        assert known.sum() > 1000
        np.testing.assert_allclose(line[known], wanted[known], rtol=1e-7, atol=1e-9 * np.nanmax(np.abs(wanted)))


@pytest.mark.parametrize("name", PLAIN)
def test_the_first_value_stands_no_later_than_the_warm_up(name, candles):
    """…so that the table, which is missing until then, is missing no longer."""
    parameters = PLAIN[name][0]
    for line in own(name, candles, **parameters).T.to_numpy():
        assert np.isfinite(line[INDICATORS[name].warmup_of(parameters, PER_DAY) :]).all()


# Markets of which the answer is known


def autoregression(coefficient: float, size: int = 20_000, seed: int = 0) -> np.ndarray:
    """Prices whose log returns follow an AR(1): 0 is a random walk, above it trends, below it turns back."""
    shocks = np.random.default_rng(seed).normal(0, 0.01, size)
    returns = np.empty(size)
    returns[0] = shocks[0]
    for t in range(1, size):
        returns[t] = coefficient * returns[t - 1] + shocks[t]
    return 30_000 * np.exp(np.cumsum(returns))


@pytest.fixture(scope="module")
def walk() -> pd.DataFrame:
    return market(autoregression(0.0))


@pytest.fixture(scope="module")
def trending() -> pd.DataFrame:
    return market(autoregression(0.4))


@pytest.fixture(scope="module")
def returning() -> pd.DataFrame:
    return market(autoregression(-0.4))


def mean_of(name: str, candles: pd.DataFrame, **parameters: Any) -> float:
    return float(own(name, candles, **parameters).iloc[:, 0].mean())


def test_hurst_is_a_half_for_a_random_walk_more_for_a_trend_and_less_for_a_return(walk, trending, returning):
    """Di Matteo, Aste & Dacorogna 2003: H = ½ for a Gaussian walk. A window of 1,000 has a small bias."""
    assert mean_of("hurst_exponent", walk, length=1000) == pytest.approx(0.5, abs=0.02)
    assert mean_of("hurst_exponent", trending, length=1000) > 0.55
    assert mean_of("hurst_exponent", returning, length=1000) < 0.45


def test_hurst_of_a_straight_line_is_1():
    close = 30_000 * np.exp(0.001 * np.arange(200))
    assert own("hurst_exponent", market(close), length=100).iloc[-1, 0] == pytest.approx(1)


def test_variance_ratio_is_0_for_a_random_walk_positive_for_a_trend_and_negative_for_a_return(
    walk, trending, returning
):
    """Lo & MacKinlay 1988: for AR(1) with coefficient a, VR(q) = 1 + 2 Σ (1 − k/q) aᵏ."""

    def expected(a: float, q: int = 8) -> float:
        return float(np.log(1 + 2 * sum((1 - k / q) * a**k for k in range(1, q))))

    for candles, coefficient in ((walk, 0.0), (trending, 0.4), (returning, -0.4)):
        found = mean_of("variance_ratio", candles, length=2000, bars=8)
        assert found == pytest.approx(expected(coefficient), abs=0.06)


def test_autocorrelation_is_the_coefficient_of_an_autoregression(trending, returning):
    assert mean_of("autocorrelation", trending, length=2000) == pytest.approx(0.4, abs=0.03)
    assert mean_of("autocorrelation", returning, length=2000) == pytest.approx(-0.4, abs=0.03)


def test_volatility_estimators_agree_on_a_fine_random_walk():
    """Parkinson 1980 and Garman & Klass 1980 estimate the volatility of the close from ranges: here 1 % a bar."""
    steps = np.random.default_rng(0).normal(0, 0.01 / np.sqrt(500), (1500, 500))
    path = np.exp(np.cumsum(steps.ravel())).reshape(steps.shape) * 100
    open_ = np.concatenate([[100.0], path[:-1, -1]])
    high, low = np.maximum(open_, path.max(axis=1)), np.minimum(open_, path.min(axis=1))
    candles = market(path[:, -1], open=open_, high=high, low=low)
    for name in ("realised_volatility", "parkinson_volatility", "garman_klass_volatility"):
        assert own(name, candles, length=1400).iloc[-1, 0] == pytest.approx(0.01, rel=0.06), name


def test_entropy_is_1_where_all_bins_are_as_full_and_less_for_two_values():
    """Shannon 1948. A uniform distribution fills the inner bins alone; two values fill two of twelve."""
    rng = np.random.default_rng(0)
    two = market(100 * np.exp(np.cumsum(rng.permutation(np.repeat([-0.01, 0.01], 100)))))
    assert own("return_entropy", two, length=199).iloc[-1, 0] == pytest.approx(np.log(2) / np.log(12), abs=1e-3)
    normal = market(100 * np.exp(np.cumsum(rng.normal(0, 0.01, 5000))))
    edges = stats.norm.cdf([-np.inf, *np.arange(-2.5, 2.6, 0.5), np.inf])
    expected = stats.entropy(np.diff(edges)) / np.log(12)
    assert own("return_entropy", normal, length=4999).iloc[-1, 0] == pytest.approx(expected, abs=0.01)


def test_trend_strength_of_a_random_walk_is_distributed_as_students_t(walk):
    values = own("trend_strength", walk, length=50).iloc[50::50, 0]  # windows that do not overlap
    assert stats.kstest(values, stats.t(49).cdf).pvalue > 0.01


# Levels


def test_fibonacci_distance_is_to_the_nearest_retracement():
    rising = np.linspace(100, 200, 11)
    for close, distance in ((162.0, 0.002), (138.0, -0.002), (150.0, 0.0), (155.0, 0.05), (195.0, -0.05), (110.0, 0.1)):
        candles = market(np.append(rising, close))
        assert own("fibonacci_distance", candles, length=12).iloc[-1, 0] == pytest.approx(distance), close


def test_pivots_are_the_classic_levels():
    """P = (H + L + C)/3, R1 = 2P − L, S1 = 2P − H, R2 = P + (H − L), S2 = P − (H − L)."""
    levels = own("pivots", bars((100, 120, 90, 105)))
    assert levels.iloc[0].tolist() == [105, 120, 90, 135, 75]
    assert list(levels.columns) == ["pivot", "r1", "s1", "r2", "s2"]


def test_a_swing_is_known_when_the_bars_after_it_have_closed():
    close = np.array([1, 2, 3, 9, 3, 2, 1, 2, 3, 4, 5, 6.0]) * 100
    lines = own("swings", market(close), side=2, within=4)
    resistance, support = lines["resistance"].to_numpy(), lines["support"].to_numpy()
    # The high of 900 stands in two bars: that at which it closes, and the next, which opens there and comes last.
    assert np.isnan(resistance[:6]).all()
    assert resistance[6:10].tolist() == [900.0] * 4
    assert np.isnan(resistance[10:]).all()  # the last 4 bars have confirmed none
    assert np.isnan(support[:9]).all()
    assert support[9] == 100.0


# Candle patterns, on bars made by hand: open, high, low, close

FALL = [(110 - i, 110.2 - i, 108.8 - i, 109 - i) for i in range(12)]  # down one a bar, to 98
RISE = [(90 + i, 91.2 + i, 89.8 + i, 91 + i) for i in range(12)]  # up one a bar, to 102


def last(name: str, *rows: tuple[float, float, float, float], **parameters: Any) -> float:
    return float(own(name, bars(*rows), **parameters).iloc[-1, 0])


def test_a_doji_has_a_body_of_at_most_a_tenth_of_its_range():
    assert last("doji", (100, 105, 95, 101)) == 1
    assert last("doji", (100, 105, 95, 101.1)) == 0
    assert last("doji", (100, 100, 100, 100)) == 0  # no range: nobody traded against anybody


def test_a_hammer_has_a_long_lower_shadow_after_a_fall():
    assert last("hammer", *FALL, (98, 98.6, 95, 98.5)) == 1
    assert last("hammer", *FALL, (98, 99.5, 95, 98.5)) == 0  # an upper shadow
    assert last("hammer", *FALL, (98, 98.6, 97.5, 98.5)) == 0  # a short lower shadow
    assert last("hammer", *RISE, (102, 102.6, 99, 102.5)) == 0  # after a rise


def test_a_shooting_star_is_its_mirror_after_a_rise():
    assert last("hammer", *RISE, (102, 105, 101.4, 101.5)) == -1
    assert last("hammer", *FALL, (98, 101, 97.4, 97.5)) == 0


def test_the_fall_before_a_hammer_is_that_of_the_bars_before_it():
    late = [*RISE, (102, 102.1, 95, 95.5), (95.5, 95.9, 93, 95.8)]  # up for 12 bars, and down in one
    assert last("hammer", *late, trend=1) == 1
    assert last("hammer", *late, trend=12) == 0
    assert last("hammer", *FALL, (120, 120.6, 117, 120.5)) == 1  # its own close does not make it a rise


def test_engulfing_is_a_body_around_the_opposite_one_before():
    assert last("engulfing", (102, 103, 99, 100), (99, 104, 98, 103)) == 1
    assert last("engulfing", (100, 103, 99, 102), (103, 104, 98, 99)) == -1
    assert last("engulfing", (102, 103, 99, 100), (100, 104, 98, 103)) == 1  # it opens where the other closed
    assert last("engulfing", (100, 103, 99, 102), (99, 104, 98, 103)) == 0  # the same direction
    assert last("engulfing", (102, 103, 99, 100), (99, 104, 98, 101)) == 0  # not past its open
    assert last("engulfing", (102, 103, 99, 100), (100, 104, 98, 102)) == 0  # the same body


def test_engulfing_is_ta_libs(candles):
    """But for a body of nothing, which TA-Lib takes for a rising one."""
    talib: ModuleType = pytest.importorskip("talib", reason="TA-Lib is not installed: pip install TA-Lib")
    bodies = candles[candles["close"] != candles["open"]]
    theirs = talib.CDLENGULFING(bodies["open"], bodies["high"], bodies["low"], bodies["close"])
    mine = own("engulfing", bodies).iloc[:, 0].to_numpy()
    assert (mine[2:] != 0).sum() > 100
    np.testing.assert_array_equal(mine[2:], np.sign(theirs.to_numpy()[2:]))


def test_a_morning_star_is_a_fall_a_pause_and_a_rise_past_the_middle_of_the_fall():
    usual = [(100, 101.2, 98.8, 101) if i % 2 else (101, 101.2, 98.8, 100) for i in range(16)]
    fall, pause, rise = (100, 100.1, 91.9, 92), (92, 92.6, 91.5, 92.2), (92.2, 97.2, 92, 97)
    assert last("star", *usual, fall, pause, rise) == 1
    assert last("star", *usual, fall, pause, (92.2, 95.8, 92, 95.5)) == 0  # not past 96
    assert last("star", *usual, fall, (92, 95, 91.5, 94.5), rise) == 0  # no pause
    assert last("star", *usual, (100, 100.1, 99.2, 99.3), pause, rise) == 0  # no fall


def test_an_evening_star_is_its_mirror():
    usual = [(100, 101.2, 98.8, 101) if i % 2 else (101, 101.2, 98.8, 100) for i in range(16)]
    rise, pause, fall = (100, 108.1, 99.9, 108), (108, 108.5, 107.4, 107.8), (107.8, 108, 102.8, 103)
    assert last("star", *usual, rise, pause, fall) == -1


def test_an_inside_bar_lies_within_the_one_before_and_an_outside_bar_around_it():
    assert last("inside_bar", (100, 110, 90, 105), (105, 108, 95, 100)) == 1
    assert last("inside_bar", (105, 108, 95, 100), (100, 110, 90, 105)) == -1
    assert last("inside_bar", (100, 110, 90, 105), (105, 110, 95, 100)) == 0


def test_run_length_counts_bars_in_a_row():
    close = np.array([5, 6, 7, 8, 7, 7, 6, 5, 4, 3, 2, 1.0])
    runs = own("run_length", market(close), most=4).iloc[:, 0].to_numpy()
    assert np.isnan(runs[0])
    assert (runs[1:] * 4).tolist() == [1, 2, 3, -1, 0, -1, -2, -3, -4, -4, -4]


# Calendar


def test_the_calendar_is_that_of_utc():
    times = pd.date_range("2023-12-30", periods=72, freq="h", tz="UTC", name="timestamp")  # a Saturday
    candles = market(np.ones(72)).set_axis(times)
    weekday = own("day_of_week", candles)
    angle = np.arctan2(weekday["sin"], weekday["cos"]) % (2 * np.pi)
    np.testing.assert_allclose(angle, 2 * np.pi * times.dayofweek / 7, atol=1e-12)
    assert own("weekend", candles).iloc[:, 0].tolist() == [1.0] * 48 + [0.0] * 24
    hour = own("time_of_day", candles)
    np.testing.assert_allclose(
        np.arctan2(hour["sin"], hour["cos"]) % (2 * np.pi), 2 * np.pi * times.hour / 24, atol=1e-12
    )
    year = own("day_of_year", candles)
    expected = 2 * np.pi * (times.dayofyear - 1) / 365.25
    np.testing.assert_allclose(np.arctan2(year["sin"], year["cos"]) % (2 * np.pi), expected, atol=1e-9)


# Context series: hourly values of a daily series, each held for a day


def daily(values: np.ndarray) -> np.ndarray:
    return np.repeat(np.asarray(values, dtype=float), PER_DAY)


@pytest.fixture(scope="module")
def series() -> np.ndarray:
    """120 days of a positive series, of which one is missing."""
    values = np.exp(np.cumsum(np.random.default_rng(2).normal(0, 0.05, 120)))
    values[60] = np.nan
    return values


def test_a_level_is_the_value_and_its_logarithm_is_missing_at_0():
    value = np.array([2.0, 0.0, np.nan, -1.0])
    np.testing.assert_array_equal(of_series("level", value), value)
    np.testing.assert_array_equal(of_series("log_level", value), [np.log(2), np.nan, np.nan, np.nan])


@pytest.mark.parametrize("days", [1, 7])
def test_changes_are_over_whole_days(series, days):
    days_ago = pd.Series(series).shift(days)
    np.testing.assert_allclose(of_series("difference", daily(series), days=days), daily(series - days_ago))
    np.testing.assert_allclose(of_series("log_change", daily(series), days=days), daily(np.log(series / days_ago)))


def test_a_change_from_or_to_0_is_missing():
    assert np.isnan(of_series("log_change", daily([1.0, 0.0, 1.0]), days=1)).all()


def test_windows_hold_one_value_a_day_and_bear_a_missing_one_in_five(series):
    window = pd.Series(series).rolling(30, min_periods=24)
    np.testing.assert_allclose(of_series("average", daily(series), days=30)[720:], daily(window.mean())[720:])
    scores = daily((series - window.mean()) / window.std(ddof=0))
    np.testing.assert_allclose(of_series("surprise", daily(series), days=30)[720:], scores[720:])
    gone = series.copy()
    gone[60:67] = np.nan  # 7 of 30 days
    assert np.isnan(of_series("average", daily(gone), days=30)[70 * 24])


def test_the_surprise_of_a_series_that_does_not_move_is_missing():
    assert np.isnan(of_series("surprise", daily(np.full(40, 0.1)), days=30)).all()


def test_ratio_surprise_is_that_of_the_log_ratio(series):
    other = np.exp(np.random.default_rng(3).normal(size=120))
    expected = of_series("surprise", np.log(daily(series / other)), days=30)
    np.testing.assert_allclose(of_series("ratio_surprise", daily(series), daily(other), days=30), expected)
    assert np.isnan(of_series("ratio_surprise", daily(series * 0), daily(other), days=30)).all()


def test_net_flow_is_from_minus_1_all_out_to_1_all_in():
    into, out = daily([3.0, 1.0, 0.0, 0.0]), daily([1.0, 1.0, 2.0, 0.0])
    flow = of_series("net_flow", into, out, days=2)[47::24]
    assert flow.tolist() == pytest.approx([1 / 3, -0.5, -1.0])


def test_extremes_are_told_by_their_side():
    value = np.array([10, 25, 50, 75, 90, np.nan])
    np.testing.assert_array_equal(of_series("extreme", value, low=25, high=75), [-1, -1, 0, 1, 1, np.nan])
    np.testing.assert_array_equal(of_series("extreme", value / -1000, low=-0.08, high=0.01)[:5], [0, 0, 0, 0, -1])


@pytest.mark.parametrize("behind", [0, 1, 4])
def test_moves_with_compares_returns_of_the_same_days_however_late_the_series_is(behind):
    """The series has the day's own return of BTC, published `behind` days after its end."""
    returns = np.random.default_rng(4).normal(0, 0.02, 120)
    btc = 30_000 * np.exp(np.cumsum(returns))
    same = 50 * np.exp(np.cumsum(np.concatenate([np.zeros(behind), returns[: 120 - behind]])))
    close = daily(btc)
    found = of_series("moves_with", daily(same), close, days=60, behind=behind)
    np.testing.assert_allclose(found[(60 + behind + 1) * 24 :], 1, rtol=1e-9)
    late = of_series("moves_with", daily(same), close, days=60, behind=behind + 1)
    assert np.abs(late[(60 + behind + 2) * 24 :]).max() < 0.6


def test_moves_with_is_pandas_correlation_of_daily_returns(series):
    btc = 30_000 * np.exp(np.cumsum(np.random.default_rng(4).normal(0, 0.02, 120)))
    one, other = pd.Series(np.log(series)).diff(), pd.Series(np.log(btc)).diff()
    expected = one.rolling(60, min_periods=48).corr(other)
    found = of_series("moves_with", daily(series), daily(btc), days=60, behind=0)[23::24]
    np.testing.assert_allclose(found[60:], expected[60:], rtol=1e-7)


@pytest.mark.parametrize("name", ["level", "log_level", "log_change", "difference", "average", "surprise"])
def test_a_value_that_is_missing_leaves_its_day_missing(name, series):
    parameters = {} if "level" in name else {"days": 7}
    found = of_series(name, daily(series), **parameters).reshape(-1, PER_DAY)
    if name == "average":  # which six of seven days suffice for
        assert np.isfinite(found[60]).all()
    else:
        assert np.isnan(found[60]).all()
    assert np.isfinite(found[69:]).all()


# Noise


@pytest.fixture(scope="module")
def hours() -> np.ndarray:
    return pd.date_range("2018-01-01", periods=50_000, freq="h").as_unit("ns").asi8.copy()


def drawn(times: np.ndarray, number: int = 1) -> np.ndarray:
    return compute("noise", {"times": times}, number=number)["noise"]


def test_noise_is_standard_normal(hours):
    assert stats.kstest(drawn(hours), stats.norm.cdf).pvalue > 0.01


def test_noise_does_not_remember(hours):
    values = drawn(hours)
    limit = 4 / np.sqrt(len(values))
    for lag in (1, 2, 24, 168):
        assert abs(np.corrcoef(values[lag:], values[:-lag])[0, 1]) < limit
        assert abs(np.corrcoef(values[lag:] ** 2, values[:-lag] ** 2)[0, 1]) < limit


def test_noises_of_different_numbers_are_independent(hours):
    drawings = np.array([drawn(hours, number) for number in range(1, 21)])
    between = np.corrcoef(drawings)[np.triu_indices(20, 1)]
    assert np.abs(between).max() < 4.5 / np.sqrt(len(hours))


def test_noise_depends_on_the_time_of_the_bar_alone(hours):
    np.testing.assert_array_equal(drawn(hours)[100:200], drawn(hours[100:200]))
    np.testing.assert_array_equal(drawn(hours)[::24], drawn(hours[::24]))


def test_noise_of_minutes_is_as_good():
    minutes = pd.date_range("2024-01-01", periods=50_000, freq="min").as_unit("ns").asi8.copy()
    values = drawn(minutes)
    assert stats.kstest(values, stats.norm.cdf).pvalue > 0.01
    assert abs(np.corrcoef(values[1:], values[:-1])[0, 1]) < 4 / np.sqrt(len(values))
