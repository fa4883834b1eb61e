"""What pandas-ta lacks: returns and volatility of several kinds, levels, statistics, calendar, and context series.

All are free of the price level unless the name says otherwise. `per_day` is the number of bars in a day.
"""

from __future__ import annotations

import numpy as np

from btclab.features import kernels
from btclab.features.kernels import correlation, highest, line, mean, mean_and_deviation, total
from btclab.features.registry import Lines, ema_memory, register, wilder_memory
from btclab.features.technical import DAY_NS, accumulation, back, change

NS = 1_000_000_000
# Share of its window that a context series must have: one day that a source skipped must not blank three months.
PRESENT = 0.8
LAGS = np.array([1, 2, 4, 8, 16])  # of the Hurst exponent, in bars
FIBONACCI = np.array([0.0, 0.236, 0.382, 0.5, 0.618, 0.786, 1.0])


def _returns(close: np.ndarray) -> np.ndarray:
    return np.log(close / back(close, 1))


# Averages


@register(warmup=lambda fast, slow: max(fast, slow) - 1)
def sma_cross(close: np.ndarray, fast: int, slow: int) -> Lines:
    """Log ratio of two simple averages: above 0 the short one is above the long one."""
    return np.log(mean(close, fast) / mean(close, slow))


@register("ema_cross", warmup=lambda fast, slow: ema_memory(max(fast, slow)))
def ema_cross(close: np.ndarray, fast: int, slow: int) -> Lines:
    """Log ratio of two exponential averages."""
    return np.log(kernels.smooth(close, fast, 2 / (fast + 1)) / kernels.smooth(close, slow, 2 / (slow + 1)))


@register("slope", "r2", warmup=lambda length: length - 1, length=2)
def trend_line(close: np.ndarray, length: int) -> Lines:
    """Slope of the least-squares line through the last log prices (log return per bar), and its R²."""
    return line(np.log(close), length)


@register(warmup=lambda length: length, length=2)
def trend_strength(close: np.ndarray, length: int) -> Lines:
    """Student's t of the mean of the last `length` log returns: how far the drift is from none in its standard errors."""
    middle, deviation = mean_and_deviation(_returns(close), length, 1, length)
    return middle / deviation * np.sqrt(length - 1)


# Volatility


@register(warmup=lambda length: length)
def realised_volatility(close: np.ndarray, length: int) -> Lines:
    """Root mean square of the last `length` log returns, per bar (not annualised)."""
    return np.sqrt(mean(_returns(close) ** 2, length))


@register(warmup=lambda fast, slow: max(fast, slow))  # noqa: PLW0108  they are passed by name
def volatility_ratio(close: np.ndarray, fast: int, slow: int) -> Lines:
    """Log ratio of short to long realised volatility."""
    squares = _returns(close) ** 2
    return np.log(mean(squares, fast) / mean(squares, slow)) / 2


@register(warmup=lambda length: length - 1)
def parkinson_volatility(high: np.ndarray, low: np.ndarray, length: int) -> Lines:
    """Volatility per bar from the ranges of the last bars (Parkinson 1980)."""
    return np.sqrt(mean(np.log(high / low) ** 2, length) / (4 * np.log(2)))


@register(warmup=lambda length: length - 1)
def garman_klass_volatility(
    open: np.ndarray, high: np.ndarray, low: np.ndarray, close: np.ndarray, length: int
) -> Lines:
    """Volatility per bar from range and body of the last bars (Garman & Klass 1980)."""
    squares = np.log(high / low) ** 2 / 2 - (2 * np.log(2) - 1) * np.log(close / open) ** 2
    return np.sqrt(mean(squares, length))


@register(warmup=lambda length: length)
def downside_share(close: np.ndarray, length: int) -> Lines:
    """Share of the last bars' squared returns that falls had: ½ where they are as large as rises."""
    returns = _returns(close)
    squares = returns**2
    return total(np.where(returns < 0, squares, squares * 0), length) / total(squares, length)


@register(warmup=lambda length, within: length + within - 1, within=2)
def volatility_rank(close: np.ndarray, length: int, within: int) -> Lines:
    """Rank of the realised volatility of `length` bars among its last `within` values: 0 calmest, 1 wildest."""
    return kernels.rank(np.sqrt(mean(_returns(close) ** 2, length)), within)


# Volume


@register(warmup=lambda length: length - 1)
def relative_volume(volume: np.ndarray, length: int) -> Lines:
    """log(1 + volume over its mean): ln 2 at the mean, 0 without trade."""
    return np.log1p(volume / mean(volume, length))


@register(warmup=lambda length: length)
def obv_flow(close: np.ndarray, volume: np.ndarray, length: int) -> Lines:
    """What on-balance volume gained over the last bars, as a share of their volume: −1…+1 (Granville 1963)."""
    return total(np.sign(change(close)) * volume, length) / total(volume, length)


@register(warmup=lambda length: length)
def pvt_flow(close: np.ndarray, volume: np.ndarray, length: int) -> Lines:
    """What the price-volume trend gained over the last bars, over their volume: the volume-weighted return."""
    return total((close / back(close, 1) - 1) * volume, length) / total(volume, length)


@register(warmup=lambda fast, slow: max(fast, slow) - 1)
def ad_flow(high: np.ndarray, low: np.ndarray, close: np.ndarray, volume: np.ndarray, fast: int, slow: int) -> Lines:
    """Money flow (Chaikin) of the last `fast` bars less that of the last `slow`."""
    gained = accumulation(high, low, close, volume)
    return total(gained, fast) / total(volume, fast) - total(gained, slow) / total(volume, slow)


@register(warmup=lambda length: length - 1)
def rolling_vwap(high: np.ndarray, low: np.ndarray, close: np.ndarray, volume: np.ndarray, length: int) -> Lines:
    """Typical price of the last bars averaged by volume, in price."""
    return total((high + low + close) / 3 * volume, length) / total(volume, length)


@register(warmup=lambda length: length, length=2)
def return_volume_correlation(close: np.ndarray, volume: np.ndarray, length: int) -> Lines:
    """Correlation of return and volume over the last bars: does trade come with rises or with falls?"""
    return correlation(_returns(close), volume, length, 1, length)


@register(warmup=lambda length, within: length + within - 1, within=2)
def illiquidity_rank(close: np.ndarray, volume: np.ndarray, length: int, within: int) -> Lines:
    """Rank of the mean |return| per traded value of `length` bars among its last `within` (Amihud 2002); silent bars apart."""
    value = np.where(volume > 0, np.abs(_returns(close)) / np.where(volume > 0, close * volume, 1), np.nan)
    return kernels.rank(mean_and_deviation(value, length, 1, max(1, length // 2))[0], within)


# Levels


@register(warmup=lambda length: length - 1)
def range_position(high: np.ndarray, low: np.ndarray, close: np.ndarray, length: int) -> Lines:
    """Where the close lies in the range of the last bars: 0 lowest, 1 highest."""
    top, bottom = highest(high, length)[0], -highest(-low, length)[0]
    return (close - bottom) / (top - bottom)


@register(warmup=lambda length: length - 1)
def drawdown_from_high(high: np.ndarray, close: np.ndarray, length: int) -> Lines:
    """Log distance of the close below the highest price of the last bars, 0 or less."""
    return np.log(close / highest(high, length)[0])


@register(warmup=lambda length: length - 1)
def rise_from_low(low: np.ndarray, close: np.ndarray, length: int) -> Lines:
    """Log distance of the close above the lowest price of the last bars, 0 or more."""
    return np.log(close / -highest(-low, length)[0])


@register(warmup=lambda length: length - 1)
def fibonacci_distance(high: np.ndarray, low: np.ndarray, close: np.ndarray, length: int) -> Lines:
    """Distance to the nearest Fibonacci retracement (0, 23.6, 38.2, 50, 61.8, 78.6, 100 %) of the last bars' range, in ranges."""
    place = range_position(high, low, close, length)
    assert isinstance(place, np.ndarray)
    middles = (FIBONACCI[1:] + FIBONACCI[:-1]) / 2
    return place - FIBONACCI[np.searchsorted(middles, np.nan_to_num(place))]


@register("pivot", "r1", "s1", "r2", "s2")
def pivots(high: np.ndarray, low: np.ndarray, close: np.ndarray) -> Lines:
    """Classic pivot levels, in price, that a bar gives for the time after it: P, R1, S1, R2, S2."""
    middle = (high + low + close) / 3
    return middle, 2 * middle - low, 2 * middle - high, middle + (high - low), middle - (high - low)


@register("resistance", "support", warmup=lambda side, within: 2 * side + within)
def swings(high: np.ndarray, low: np.ndarray, side: int, within: int) -> Lines:
    """Last swing high and low, in price: extremes of the `side` bars on either side, so known `side` bars later.

    Missing where the last `within` bars confirmed none.
    """
    return kernels.last_peak(high, side, within), -kernels.last_peak(-low, side, within)


# Candle patterns: +1 bullish, −1 bearish, 0 none (after Nison 1991). `average` bodies tell long from short.


def _body(open: np.ndarray, close: np.ndarray, average: int = 14) -> tuple[np.ndarray, np.ndarray]:
    size = np.abs(close - open)
    return size, mean(size, average)


@register("body", "upper", "lower")
def shape(open: np.ndarray, high: np.ndarray, low: np.ndarray, close: np.ndarray) -> Lines:
    """Body (signed), upper and lower shadow of the bar as log ratios."""
    return (
        np.log(close / open),
        np.log(high / np.maximum(open, close)),
        np.log(np.minimum(open, close) / low),
    )


@register()
def doji(open: np.ndarray, high: np.ndarray, low: np.ndarray, close: np.ndarray) -> Lines:
    """1 where the body is at most a tenth of a range that is not 0."""
    width = high - low
    return ((width > 0) & (np.abs(close - open) <= 0.1 * width)).astype(float)


@register("hammer", warmup=lambda trend: trend + 1)
def hammer(open: np.ndarray, high: np.ndarray, low: np.ndarray, close: np.ndarray, trend: int = 10) -> Lines:
    """+1 hammer: after a fall, a lower shadow of two bodies or more and next to no upper one; −1 shooting star, its mirror.

    The fall or rise is that of the `trend` bars before.
    """
    size, width = np.abs(close - open), high - low
    upper, lower = high - np.maximum(open, close), np.minimum(open, close) - low
    moved = back(close, 1) - back(close, trend + 1)
    up = (moved < 0) & (lower >= 2 * size) & (upper <= 0.1 * width) & (width > 0)
    down = (moved > 0) & (upper >= 2 * size) & (lower <= 0.1 * width) & (width > 0)
    return np.where(np.isnan(moved), np.nan, up.astype(float) - down)


@register("engulfing", warmup=lambda: 1)
def engulfing(open: np.ndarray, close: np.ndarray) -> Lines:
    """±1 where a body engulfs the opposite body before it, in the direction of the new one."""
    first_open, first_close = back(open, 1), back(close, 1)
    up = (first_close < first_open) & (close > open) & (open <= first_close) & (close >= first_open)
    down = (first_close > first_open) & (close < open) & (open >= first_close) & (close <= first_open)
    larger = np.abs(close - open) > np.abs(first_close - first_open)
    return np.where(np.isnan(first_open), np.nan, (up & larger).astype(float) - (down & larger))


@register("star", warmup=lambda average: average + 1)
def star(open: np.ndarray, high: np.ndarray, low: np.ndarray, close: np.ndarray, average: int = 14) -> Lines:
    """+1 morning star, −1 evening star: a long body, a short one beyond its middle, and a close back past that middle.

    Without the gaps that Nison asks for: a market that never closes opens where it closed.
    """
    size, usual = _body(open, close, average)
    long_first = back(size, 2) > back(usual, 2)
    short_second = back(size, 1) < back(usual, 1) / 2
    first_open, first_close = back(open, 2), back(close, 2)
    middle = (first_open + first_close) / 2
    second_top = back(np.maximum(open, close), 1)
    second_bottom = back(np.minimum(open, close), 1)
    formed = long_first & short_second
    up = formed & (first_close < first_open) & (second_top <= middle) & (close > open) & (close > middle)
    down = formed & (first_close > first_open) & (second_bottom >= middle) & (close < open) & (close < middle)
    return np.where(np.isnan(back(usual, 2)), np.nan, up.astype(float) - down)


@register("inside", warmup=lambda: 1)
def inside_bar(high: np.ndarray, low: np.ndarray) -> Lines:
    """1 where the bar lies within the one before, −1 where it reaches beyond it on both sides."""
    top, bottom = back(high, 1), back(low, 1)
    within, beyond = (high < top) & (low > bottom), (high > top) & (low < bottom)
    return np.where(np.isnan(top), np.nan, within.astype(float) - beyond)


@register("run", warmup=lambda most: most)
def run_length(close: np.ndarray, most: int = 8) -> Lines:
    """How many bars in a row closed higher (+) or lower (−), at most `most`, as a share of it."""
    sign = np.sign(change(close))
    out, alive = sign.copy(), sign != 0
    for bars in range(1, most):
        alive = alive & (back(sign, bars) == sign)
        out += np.where(alive, sign, 0)
    return out / most


# Statistics


@register("skewness", "kurtosis", warmup=lambda length: length, length=2)
def return_moments(close: np.ndarray, length: int) -> Lines:
    """Skewness and excess kurtosis of the last `length` log returns."""
    return kernels.skewness_and_kurtosis(_returns(close), length)


@register(warmup=lambda length: length, length=2, bins=2)
def return_entropy(close: np.ndarray, length: int, bins: int = 12) -> Lines:
    """Shannon entropy of the last log returns over 12 bins of half a standard deviation, as a share of its most."""
    return kernels.entropy(_returns(close), length, bins)


@register(warmup=lambda length: length - 1, length=2 * LAGS[-1])
def hurst_exponent(close: np.ndarray, length: int) -> Lines:
    """Generalised Hurst exponent (q = 1) of the last log prices, lags 1–16: ½ random walk, more trends, less returns.

    Source: Di Matteo, Aste & Dacorogna 2003.
    """
    return kernels.hurst(np.log(close), length, LAGS)


@register(warmup=lambda length, lag: length + lag, length=2)
def autocorrelation(close: np.ndarray, length: int, lag: int = 1) -> Lines:
    """Correlation of the last `length` log returns with those `lag` bars before."""
    returns = _returns(close)
    return correlation(returns, back(returns, lag), length, 1, length)


@register(warmup=lambda length, lag: length + lag, length=2)
def absolute_autocorrelation(close: np.ndarray, length: int, lag: int = 1) -> Lines:
    """The same of absolute returns: volatility clusters where it is above 0."""
    returns = np.abs(_returns(close))
    return correlation(returns, back(returns, lag), length, 1, length)


@register(warmup=lambda length, bars: length + bars - 1, bars=2)
def variance_ratio(close: np.ndarray, length: int, bars: int) -> Lines:
    """Log ratio of the mean square of returns over `bars` bars to `bars` × that of one: 0 for a random walk, above it for a
    trend (Lo & MacKinlay 1988, without their correction for the drift)."""
    long, short = np.log(close / back(close, bars)), _returns(close)
    return np.log(mean(long**2, length) / (bars * mean(short**2, length)))


@register(warmup=lambda length: length)
def up_share(close: np.ndarray, length: int) -> Lines:
    """Share of the last bars that closed higher than the one before, less ½."""
    moved = change(close)
    return mean(np.where(np.isnan(moved), np.nan, (moved > 0).astype(float)), length) - 0.5


@register(warmup=lambda within: within, within=2)
def return_rank(close: np.ndarray, within: int) -> Lines:
    """Rank of the bar's return among the last `within`: 0 worst, 1 best."""
    return kernels.rank(_returns(close), within)


# Calendar


def _cycle(fraction: np.ndarray) -> Lines:
    angle = 2 * np.pi * fraction
    return np.sin(angle), np.cos(angle)


@register("sin", "cos")
def time_of_day(times: np.ndarray) -> Lines:
    """Sine and cosine of the bar's open time within the UTC day."""
    return _cycle(times % DAY_NS / DAY_NS)


@register("sin", "cos")
def day_of_week(times: np.ndarray) -> Lines:
    """Sine and cosine of the bar's weekday (UTC)."""
    return _cycle((times // DAY_NS + 3) % 7 / 7)  # 1970-01-01 was a Thursday


@register("sin", "cos")
def day_of_year(times: np.ndarray) -> Lines:
    """Sine and cosine of the bar's day within the year."""
    years = times.astype("datetime64[ns]").astype("datetime64[Y]")
    days = (times.astype("datetime64[ns]") - years.astype("datetime64[ns]")) // np.timedelta64(1, "D")
    return _cycle(days.astype(float) / 365.25)


@register("weekend")
def weekend(times: np.ndarray) -> Lines:
    """1 on Saturday and Sunday (UTC), when the macro markets are shut."""
    return ((times // DAY_NS + 3) % 7 >= 5).astype(float)


# Regime


@register("trend_state", warmup=lambda fast, slow: max(fast, slow) - 1)
def trend_state(close: np.ndarray, fast: int, slow: int) -> Lines:
    """+1 where close > short mean > long mean, −1 where all are the other way round, else 0."""
    short, long = mean(close, fast), mean(close, slow)
    state = ((close > short) & (short > long)).astype(float) - ((close < short) & (short < long))
    return np.where(np.isnan(long), np.nan, state)


# Divergences: does the indicator follow the price?


@register(warmup=lambda length, rsi_length: length + wilder_memory(rsi_length), length=2)
def rsi_divergence(close: np.ndarray, length: int, rsi_length: int = 14) -> Lines:
    """Correlation of log price and RSI over the last bars: below 0 they part."""
    moved = change(close)
    gains = kernels.smooth(np.maximum(moved, 0), rsi_length, 1 / rsi_length)
    losses = kernels.smooth(np.maximum(-moved, 0), rsi_length, 1 / rsi_length)
    return correlation(np.log(close), gains / (gains + losses), length, 1, length)


@register(warmup=lambda length: length, length=2)
def obv_divergence(close: np.ndarray, volume: np.ndarray, length: int) -> Lines:
    """Correlation of price and on-balance volume over the last bars: below 0 volume does not follow the price."""
    return kernels.correlation_with_sum(np.log(close), np.sign(change(close)) * volume, length)


# Context series: one value a day or so, held until the next is public. Windows step back by whole days.


@register("value")
def level(value: np.ndarray) -> Lines:
    """The series as it is known at the close of the bar."""
    return value.copy()


@register("log")
def log_level(value: np.ndarray) -> Lines:
    """Its logarithm; missing where it is not above 0."""
    return np.log(np.where(value > 0, value, np.nan))


@register(warmup=lambda per_day, days: days * per_day)
def log_change(value: np.ndarray, per_day: int, days: int) -> Lines:
    """Log of the value over that known `days` days ago."""
    positive = np.where(value > 0, value, np.nan)
    return np.log(positive / back(positive, days * per_day))


@register(warmup=lambda per_day, days: days * per_day)
def difference(value: np.ndarray, per_day: int, days: int) -> Lines:
    """The value less that known `days` days ago, in its own unit."""
    return change(value, days * per_day)


@register(warmup=lambda per_day, days: (days - 1) * per_day)
def average(value: np.ndarray, per_day: int, days: int) -> Lines:
    """Mean of the values known at this time of the last `days` days, in its own unit."""
    return mean_and_deviation(value, days, per_day, int(np.ceil(PRESENT * days)))[0]


@register(warmup=lambda per_day, days: (days - 1) * per_day, days=2)
def surprise(value: np.ndarray, per_day: int, days: int) -> Lines:
    """Distance of the value to the mean of the last `days` days in their standard deviations."""
    return _surprise(value, per_day, days)


def _surprise(value: np.ndarray, per_day: int, days: int) -> np.ndarray:
    middle, deviation = mean_and_deviation(value, days, per_day, int(np.ceil(PRESENT * days)))
    return (value - middle) / np.where(deviation > 1e-12 * np.abs(middle), deviation, np.nan)


@register(warmup=lambda per_day, days: (days - 1) * per_day, days=2)
def ratio_surprise(one: np.ndarray, other: np.ndarray, per_day: int, days: int) -> Lines:
    """The same of the log ratio of two series."""
    return _surprise(np.log(np.where((one > 0) & (other > 0), one / other, np.nan)), per_day, days)


@register(warmup=lambda per_day, days: (days - 1) * per_day)
def net_flow(inflow: np.ndarray, outflow: np.ndarray, per_day: int, days: int) -> Lines:
    """What flowed in less what flowed out over the last `days` days, as a share of both: −1…+1."""
    least = int(np.ceil(PRESENT * days))
    into, out = (mean_and_deviation(flow, days, per_day, least)[0] for flow in (inflow, outflow))
    return (into - out) / (into + out)


@register("extreme", low=-np.inf, high=-np.inf)
def extreme(value: np.ndarray, low: float, high: float) -> Lines:
    """−1 at or below `low`, +1 at or above `high`, else 0."""
    return np.where(np.isnan(value), np.nan, (value >= high).astype(float) - (value <= low))


@register(warmup=lambda per_day, days, behind: (days + behind) * per_day, days=2, behind=0)
def moves_with(value: np.ndarray, close: np.ndarray, per_day: int, days: int, behind: int) -> Lines:
    """Correlation of daily log returns of the series and of BTC over the last `days` days.

    `behind`: how many days the series is published late, so that both returns are of the same days. A day without a new
    value, such as a weekend of the S&P 500, counts as one without a move.
    """
    positive = np.where(value > 0, value, np.nan)
    other = np.log(positive / back(positive, per_day))
    own = np.log(close / back(close, per_day))
    return correlation(other, back(own, behind * per_day), days, per_day, int(np.ceil(PRESENT * days)))


@register("noise")
def noise(times: np.ndarray, number: int = 1) -> Lines:
    """Standard normal numbers drawn from the bar's time and `number` alone: what a feature without meaning looks like."""
    state = (times // NS).astype(np.uint64) * np.uint64(2) + np.uint64(1_000_003) * np.uint64(number)
    uniform = []
    for shift in (np.uint64(0), np.uint64(1)):  # SplitMix64 (Steele, Lea & Flood 2014), then Box–Muller
        z = (state + shift) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        uniform.append(((z ^ (z >> np.uint64(31))) >> np.uint64(11)).astype(float) / 2.0**53)
    return np.sqrt(-2 * np.log(1 - uniform[0])) * np.cos(2 * np.pi * uniform[1])
