"""Loops over bars, compiled once by numba and kept on disk. Arrays are float64 [time], oldest first; missing is NaN.

A window is computed anew for every bar rather than updated from the one before: a running sum carries its rounding errors
along, so that its value would depend, in the last digits, on where the history begins. Sums are of distances to one value of
the window: equal values then have a deviation of exactly 0, and what is undefined over them is missing instead of a ratio
of rounding errors. Nothing here looks past its bar.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit

NAN = np.nan


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compiled on first use, for any thread, without reordering of sums: one result on every machine of a kind."""
    return njit(cache=True, nogil=True, error_model="numpy")(function)


@_compiled
def smooth(x, length, alpha):  # type: ignore[no-untyped-def]
    """Exponential average with weight `alpha` on the newest value, seeded by the mean of the first `length` values.

    A missing value leaves the average as it is and is missing itself.
    """
    out = np.full(len(x), NAN)
    state, seen = 0.0, 0
    for t in range(len(x)):
        if np.isnan(x[t]):
            continue
        seen += 1
        if seen < length:
            state += x[t]
        elif seen == length:
            state = (state + x[t]) / length
            out[t] = state
        else:
            state += alpha * (x[t] - state)
            out[t] = state
    return out


@_compiled
def fading_mean(total, span, clock, half_life, blocks):  # type: ignore[no-untyped-def]
    """Sum of `total` over that of `span`, each weighted by ½^(age / `half_life`) in `clock` (whole numbers, increasing).

    Of the block of a half-life, rounded up, that the bar is in, and of the `blocks` before it; earlier values, which would
    weigh ½^`blocks` of all at the most, count for nothing. Blocks lie on the clock and each is summed by itself, so that a
    value is the same to the last bit whatever history lies before. Missing until the oldest block is there with the bar before
    it; the first bar's own value, which would need one, is not used.
    """
    out = np.full(len(total), NAN)
    if len(total) < 2 or half_life > clock[-1] - clock[0]:
        return out
    length = int(np.ceil(half_life))
    weight = 0.5 ** (np.arange(length + 1) / half_life)
    totals, spans = np.zeros(blocks), np.zeros(blocks)  # of the blocks before, oldest first, as of their ends
    a, b, before, beside = 0.0, 0.0, 0.0, 0.0
    for t in range(1, len(total)):
        block, last = clock[t] // length, clock[t - 1] // length
        if block == last:
            fade = weight[clock[t] - clock[t - 1]]
            a, b = a * fade + total[t], b * fade + span[t]
        else:
            fade = weight[(last + 1) * length - 1 - clock[t - 1]]
            for empty in range(min(block - last, blocks + 1)):
                totals[:-1], spans[:-1] = totals[1:].copy(), spans[1:].copy()
                totals[-1], spans[-1] = (0.0, 0.0) if empty else (a * fade, b * fade)
            before, beside = 0.0, 0.0
            for i in range(blocks):
                before, beside = before * weight[length] + totals[i], beside * weight[length] + spans[i]
            a, b = total[t], span[t]
        if block - blocks > clock[0] // length:
            fade = weight[clock[t] - block * length + 1]
            out[t] = (a + before * fade) / (b + beside * fade)
    return out


@_compiled
def mean(x, length):  # type: ignore[no-untyped-def]
    """Mean of the last `length` values; missing where one of them is."""
    out = np.full(len(x), NAN)
    for t in range(length - 1, len(x)):
        above = 0.0
        for i in range(t - length + 1, t + 1):
            above += x[i] - x[t]
        out[t] = x[t] + above / length
    return out


@_compiled
def mean_and_deviation(x, length, step, least):  # type: ignore[no-untyped-def]
    """Mean and population standard deviation of x[t], x[t − step], … (`length` values, `least` of them present)."""
    mean, deviation = np.full(len(x), NAN), np.full(len(x), NAN)
    for t in range((length - 1) * step, len(x)):
        level, total, count = NAN, 0.0, 0
        for i in range(length):
            value = x[t - i * step]
            if not np.isnan(value):
                if count == 0:
                    level = value
                total += value - level
                count += 1
        if count < least or count == 0:
            continue
        above, square = total / count, 0.0
        for i in range(length):
            value = x[t - i * step]
            if not np.isnan(value):
                square += (value - level - above) ** 2
        mean[t], deviation[t] = level + above, np.sqrt(square / count)
    return mean, deviation


@_compiled
def total(x, length):  # type: ignore[no-untyped-def]
    """Sum of the last `length` values; missing where one of them is."""
    out = np.full(len(x), NAN)
    for t in range(length - 1, len(x)):
        value = 0.0
        for i in range(t - length + 1, t + 1):
            value += x[i]
        out[t] = value
    return out


@_compiled
def mean_absolute_deviation(x, length):  # type: ignore[no-untyped-def]
    """Mean of |x − mean| over the last `length` values."""
    out = np.full(len(x), NAN)
    for t in range(length - 1, len(x)):
        middle = 0.0
        for i in range(t - length + 1, t + 1):
            middle += x[i] - x[t]
        middle = x[t] + middle / length
        value = 0.0
        for i in range(t - length + 1, t + 1):
            value += abs(x[i] - middle)
        out[t] = value / length
    return out


@_compiled
def highest(x, length):  # type: ignore[no-untyped-def]
    """Largest of the last `length` values and how many bars ago it was (the latest of equals); −x gives the smallest.

    Missing where one of them is.
    """
    value, ago = np.full(len(x), NAN), np.full(len(x), NAN)
    place, gap = -1, -1
    for t in range(len(x)):
        if np.isnan(x[t]):
            gap = t
            continue
        first = max(gap, t - length) + 1
        if place < first:  # it has left the window, or there was none
            place = first
            for i in range(first + 1, t + 1):
                if x[i] >= x[place]:
                    place = i
        elif x[t] >= x[place]:
            place = t
        if t - first == length - 1:
            value[t], ago[t] = x[place], t - place
    return value, ago


@_compiled
def rank(x, length):  # type: ignore[no-untyped-def]
    """Share of the last `length` values that are below x[t], equals counting half: 0 lowest, 1 highest."""
    out = np.full(len(x), NAN)
    for t in range(length - 1, len(x)):
        if np.isnan(x[t]):
            continue
        below, count = 0.0, 0
        for i in range(t - length + 1, t):
            if not np.isnan(x[i]):
                count += 1
                below += 1.0 if x[i] < x[t] else 0.5 if x[i] == x[t] else 0.0
        if count >= length - 1:
            out[t] = below / count
    return out


@_compiled
def line(x, length):  # type: ignore[no-untyped-def]
    """Slope per bar of the least-squares line through the last `length` values, and the share of variance it explains."""
    slope, share = np.full(len(x), NAN), np.full(len(x), NAN)
    centre = (length - 1) / 2
    spread = length * (length * length - 1) / 12
    for t in range(length - 1, len(x)):
        middle = 0.0
        for i in range(length):
            middle += x[t - length + 1 + i] - x[t]
        middle = x[t] + middle / length
        product, square = 0.0, 0.0
        for i in range(length):
            off = x[t - length + 1 + i] - middle
            product += (i - centre) * off
            square += off * off
        slope[t] = product / spread
        if square > 0:
            share[t] = product * product / (spread * square)
    return slope, share


@_compiled
def correlation(x, y, length, step, least):  # type: ignore[no-untyped-def]
    """Pearson's correlation of x and y over t, t − step, … (`length` pairs, `least` of them whole)."""
    out = np.full(len(x), NAN)
    for t in range((length - 1) * step, len(x)):
        x_level, y_level, a, b, count = NAN, NAN, 0.0, 0.0, 0
        for i in range(length):
            p, q = x[t - i * step], y[t - i * step]
            if not (np.isnan(p) or np.isnan(q)):
                if count == 0:
                    x_level, y_level = p, q
                a += p - x_level
                b += q - y_level
                count += 1
        if count < least or count == 0:
            continue
        a = x_level + a / count
        b = y_level + b / count
        xx, yy, xy = 0.0, 0.0, 0.0
        for i in range(length):
            p, q = x[t - i * step] - a, y[t - i * step] - b
            if not (np.isnan(p) or np.isnan(q)):
                xx += p * p
                yy += q * q
                xy += p * q
        if xx > 1e-24 * count * a * a and yy > 1e-24 * count * b * b and xx > 0 and yy > 0:
            out[t] = xy / np.sqrt(xx * yy)
    return out


@_compiled
def correlation_with_sum(x, steps, length):  # type: ignore[no-untyped-def]
    """Pearson's correlation of x and the running sum of `steps` over the last `length` bars; the sum begins in the window."""
    out = np.full(len(x), NAN)
    sums = np.zeros(length)
    for t in range(length, len(x)):
        a, b = x[t - length + 1] - x[t], 0.0
        sums[0] = 0.0
        for i in range(1, length):
            sums[i] = sums[i - 1] + steps[t - length + 1 + i]
            a += x[t - length + 1 + i] - x[t]
            b += sums[i]
        a = x[t] + a / length
        b /= length
        xx, yy, xy = 0.0, 0.0, 0.0
        for i in range(length):
            p, q = x[t - length + 1 + i] - a, sums[i] - b
            xx += p * p
            yy += q * q
            xy += p * q
        if xx > 0 and yy > 0:
            out[t] = xy / np.sqrt(xx * yy)
    return out


@_compiled
def skewness_and_kurtosis(x, length):  # type: ignore[no-untyped-def]
    """Third and fourth standardised moments of the last `length` values; a normal distribution has 0 and 0."""
    skewness, kurtosis = np.full(len(x), NAN), np.full(len(x), NAN)
    for t in range(length - 1, len(x)):
        middle = 0.0
        for i in range(t - length + 1, t + 1):
            middle += x[i] - x[t]
        middle = x[t] + middle / length
        two, three, four = 0.0, 0.0, 0.0
        for i in range(t - length + 1, t + 1):
            off = x[i] - middle
            square = off * off
            two += square
            three += square * off
            four += square * square
        two /= length
        if two > 0:
            skewness[t] = three / length / two**1.5
            kurtosis[t] = four / length / two**2 - 3
    return skewness, kurtosis


@_compiled
def entropy(x, length, bins):  # type: ignore[no-untyped-def]
    """Shannon entropy of the last `length` values in `bins` equal bins over ±3 standard deviations, as a share of its most."""
    out = np.full(len(x), NAN)
    counts = np.zeros(bins)
    for t in range(length - 1, len(x)):
        middle, square = 0.0, 0.0
        for i in range(t - length + 1, t + 1):
            middle += x[i] - x[t]
        middle = x[t] + middle / length
        for i in range(t - length + 1, t + 1):
            square += (x[i] - middle) ** 2
        deviation = np.sqrt(square / length)
        if not deviation > 0:
            continue
        counts[:] = 0
        for i in range(t - length + 1, t + 1):
            place = int(np.floor(((x[i] - middle) / deviation + 3) * bins / 6))
            counts[min(max(place, 0), bins - 1)] += 1
        value = 0.0
        for count in counts:
            if count > 0:
                value -= count / length * np.log(count / length)
        out[t] = value / np.log(bins)
    return out


@_compiled
def hurst(x, length, lags):  # type: ignore[no-untyped-def]
    """Exponent H of E|x[t] − x[t − lag]| ~ lag^H over the last `length` values of x: ½ for a random walk."""
    out = np.full(len(x), NAN)
    logs = np.log(lags.astype(np.float64))
    centre = logs.mean()
    spread = ((logs - centre) ** 2).sum()
    for t in range(length - 1, len(x)):
        value = 0.0
        for j in range(len(lags)):
            lag, size = lags[j], 0.0
            for i in range(t - length + 1 + lag, t + 1):
                size += abs(x[i] - x[i - lag])
            value += (logs[j] - centre) * np.log(size / (length - lag))
        if np.isfinite(value):
            out[t] = value / spread
    return out


@_compiled
def parabolic(high, low, first, step, most):  # type: ignore[no-untyped-def]
    """Wilder's Parabolic Stop and Reverse (1978, section II): the bar's stop, whether it is under the price, its factor.

    The stop may not enter the range of the two bars before; passed by the bar, it reverses to the extreme point.
    """
    stop, factors, under = np.full(len(high), NAN), np.full(len(high), NAN), np.zeros(len(high), dtype=np.bool_)
    if len(high) < 2:
        return stop, under, factors
    up = not low[0] - low[1] > max(high[1] - high[0], 0.0)
    value, extreme, factor = (low[0], high[0], first) if up else (high[0], low[0], first)
    for t in range(1, len(high)):
        two_ago = max(t - 2, 0)
        value = min(value, low[t - 1], low[two_ago]) if up else max(value, high[t - 1], high[two_ago])
        if (up and low[t] < value) or (not up and high[t] > value):
            up, factor = not up, first
            value = max(extreme, high[t]) if not up else min(extreme, low[t])
            extreme = high[t] if up else low[t]
        elif up and high[t] > extreme:
            extreme, factor = high[t], min(factor + step, most)
        elif not up and low[t] < extreme:
            extreme, factor = low[t], min(factor + step, most)
        stop[t], under[t], factors[t] = value, up, factor
        value += factor * (extreme - value)
    return stop, under, factors


@_compiled
def supertrend(close, middle, width):  # type: ignore[no-untyped-def]
    """Seban's SuperTrend: the lower band, which only rises, while the trend is up; the upper, which only falls, else.

    A band starts anew once the close before it was beyond it.
    """
    out, rising = np.full(len(close), NAN), np.zeros(len(close), dtype=np.bool_)
    upper, lower, up, begun = 0.0, 0.0, True, False
    for t in range(len(close)):
        if np.isnan(width[t]):
            continue
        above, below = middle[t] + width[t], middle[t] - width[t]
        if not begun:
            upper, lower, up, begun = above, below, close[t] >= middle[t], True
        else:
            upper = above if above < upper or close[t - 1] > upper else upper
            lower = below if below > lower or close[t - 1] < lower else lower
            up = close[t] >= lower if up else close[t] > upper
        out[t], rising[t] = lower if up else upper, up
    return out, rising


@_compiled
def last_peak(x, side, within):  # type: ignore[no-untyped-def]
    """The last value that is the highest of the `side` bars before and after it, known `side` bars later.

    Missing where the last `within` bars confirmed none. −x gives the last trough.
    """
    out = np.full(len(x), NAN)
    place = -1
    for t in range(2 * side, len(x)):
        middle, peak = t - side, True
        for i in range(t - 2 * side, t + 1):
            if x[i] > x[middle] or (x[i] == x[middle] and i > middle):
                peak = False
                break
        if peak:
            place = middle
        if place >= 0 and t - (place + side) < within:
            out[t] = x[place]
    return out


@_compiled
def day_average(price, weight, day):  # type: ignore[no-untyped-def]
    """Average of `price` weighted by `weight` since the beginning of the current `day` (whole numbers); 0 weight: missing."""
    out = np.full(len(price), NAN)
    value, weights = 0.0, 0.0
    for t in range(len(price)):
        if t == 0 or day[t] != day[t - 1]:
            value, weights = 0.0, 0.0
        value += price[t] * weight[t]
        weights += weight[t]
        if weights > 0:
            out[t] = value / weights
    return out
