"""Loops over bars: as plain numpy says, missing where a value is, the same wherever the history begins."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from btclab.features import kernels

VALUES = st.floats(-1e6, 1e6).map(lambda value: round(value, 3))
LISTS = st.lists(VALUES, max_size=40)
HOLED = st.lists(st.one_of(VALUES, st.just(np.nan)), max_size=40)
LENGTHS = st.integers(1, 12)
LAGS = np.array([1, 2, 4])
plain = settings(deadline=None)  # the first call compiles

# Every loop over a window of `length` values, as a function of the values and the length.
WINDOWS: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "mean": kernels.mean,
    "mean_beside": lambda x, length: kernels.mean_and_deviation(x, length, 1, length)[0],
    "deviation": lambda x, length: kernels.mean_and_deviation(x, length, 1, length)[1],
    "total": kernels.total,
    "mean_absolute_deviation": kernels.mean_absolute_deviation,
    "highest": lambda x, length: kernels.highest(x, length)[0],
    "highest_ago": lambda x, length: kernels.highest(x, length)[1],
    "rank": kernels.rank,
    "line_slope": lambda x, length: kernels.line(x, length)[0],
    "line_share": lambda x, length: kernels.line(x, length)[1],
    "correlation": lambda x, length: kernels.correlation(x, np.sin(x), length, 1, length),
    "skewness": lambda x, length: kernels.skewness_and_kurtosis(x, length)[0],
    "kurtosis": lambda x, length: kernels.skewness_and_kurtosis(x, length)[1],
    "entropy": lambda x, length: kernels.entropy(x, length, 5),
    "hurst": lambda x, length: kernels.hurst(x, length, LAGS),
}


def array(values: list[float]) -> np.ndarray:
    return np.array(values, dtype=float)


def windowed(x: np.ndarray, length: int, of: Callable[[np.ndarray], float]) -> np.ndarray:
    """`of` each window of `length` values that has none missing, slowly."""
    out = np.full(len(x), np.nan)
    for t in range(length - 1, len(x)):
        window = x[t - length + 1 : t + 1]
        if not np.isnan(window).any():
            out[t] = of(window)
    return out


def size(x: np.ndarray) -> float:
    """What rounding errors in sums over `x` are relative to."""
    return float(np.nanmax(np.abs(x), initial=1e-3))


def close_to(actual: np.ndarray, expected: np.ndarray, scale: float) -> None:
    np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-12 * scale)


@plain
@given(HOLED, LENGTHS)
def test_mean_is_numpys(values, length):
    x = array(values)
    for name in ("mean", "mean_beside"):
        close_to(WINDOWS[name](x, length), windowed(x, length, np.mean), size(x))


@plain
@given(HOLED, LENGTHS)
def test_deviation_is_that_of_the_population(values, length):
    x = array(values)
    close_to(WINDOWS["deviation"](x, length), windowed(x, length, np.std), size(x))


@plain
@given(HOLED, LENGTHS, st.integers(1, 4), st.data())
def test_mean_of_every_step_th_value_needs_the_least_that_is_asked_for(values, length, step, data):
    x, least = array(values), data.draw(st.integers(1, length))
    expected = np.full(len(x), np.nan)
    for t in range((length - 1) * step, len(x)):
        window = x[t - np.arange(length) * step]
        present = window[~np.isnan(window)]
        if len(present) >= least:
            expected[t] = present.mean()
    close_to(kernels.mean_and_deviation(x, length, step, least)[0], expected, size(x))


@plain
@given(HOLED, LENGTHS)
def test_total_is_the_sum(values, length):
    x = array(values)
    close_to(kernels.total(x, length), windowed(x, length, np.sum), size(x))


@plain
@given(HOLED, LENGTHS)
def test_mean_absolute_deviation_is_around_the_mean(values, length):
    x = array(values)
    expected = windowed(x, length, lambda window: np.abs(window - window.mean()).mean())
    close_to(kernels.mean_absolute_deviation(x, length), expected, size(x))


@plain
@given(st.lists(st.one_of(st.integers(0, 5).map(float), st.just(np.nan)), max_size=40), LENGTHS)
def test_highest_is_the_maximum_and_the_latest_of_equals(values, length):
    x = array(values)
    value, ago = kernels.highest(x, length)
    np.testing.assert_array_equal(value, windowed(x, length, np.max))
    np.testing.assert_array_equal(ago, windowed(x, length, lambda window: float(np.argmax(window[::-1]))))


@plain
@given(st.lists(st.one_of(st.integers(0, 5).map(float), st.just(np.nan)), max_size=40), st.integers(2, 12))
def test_rank_is_the_share_below_with_equals_counting_half(values, length):
    x = array(values)
    expected = windowed(x, length, lambda w: (np.sum(w[:-1] < w[-1]) + np.sum(w[:-1] == w[-1]) / 2) / (length - 1))
    close_to(kernels.rank(x, length), expected, 1)


@plain
@given(LISTS, st.integers(2, 12))
def test_line_is_that_of_least_squares(values, length):
    x = array(values)
    slope, share = kernels.line(x, length)
    time_ = np.arange(length)
    close_to(slope, windowed(x, length, lambda window: np.polyfit(time_, window, 1)[0]), size(x))
    usual = windowed(x, length, lambda w: np.corrcoef(time_, w)[0, 1] ** 2 if np.std(w) > 1e-3 * size(x) else np.nan)
    known = ~np.isnan(usual)
    np.testing.assert_allclose(share[known], usual[known], atol=1e-9)


@plain
@given(st.lists(st.tuples(st.one_of(VALUES, st.just(np.nan)), VALUES), max_size=40), st.integers(2, 12), st.data())
def test_correlation_is_pearsons_over_the_whole_pairs(pairs, length, data):
    x, y = array([pair[0] for pair in pairs]), array([pair[1] for pair in pairs])
    step, least = data.draw(st.integers(1, 3)), data.draw(st.integers(2, length))
    out = kernels.correlation(x, y, length, step, least)
    assert len(out) == len(x)
    for t in range(len(x)):
        places = t - np.arange(length) * step
        if places[-1] < 0:
            assert np.isnan(out[t])
            continue
        one, other = x[places], y[places]
        whole = ~np.isnan(one)
        one, other = one[whole], other[whole]
        if len(one) < least or len(set(one)) == 1 or len(set(other)) == 1:
            assert np.isnan(out[t])
        elif min(np.std(one), np.std(other)) > 1e-2:
            assert out[t] == pytest.approx(stats.pearsonr(one, other)[0], abs=1e-7)


@plain
@given(LISTS, st.integers(2, 12))
def test_correlation_with_a_sum_is_that_with_the_summed_steps(values, length):
    steps, x = array(values), np.cos(np.arange(len(values))) * 3
    out = kernels.correlation_with_sum(x, steps, length)
    for t in range(length, len(x)):
        window = slice(t - length + 1, t + 1)
        sums = np.cumsum(np.concatenate([[0.0], steps[window][1:]]))
        if np.std(sums) > 1e-2:
            assert out[t] == pytest.approx(np.corrcoef(x[window], sums)[0, 1], abs=1e-7)


@plain
@given(LISTS, st.integers(3, 12))
def test_skewness_and_kurtosis_are_scipys(values, length):
    x = array(values)
    skewness, kurtosis = kernels.skewness_and_kurtosis(x, length)
    for t in range(length - 1, len(x)):
        window = x[t - length + 1 : t + 1]
        if np.std(window) > 1e-3 * size(x):
            assert skewness[t] == pytest.approx(stats.skew(window), abs=1e-8)
            assert kurtosis[t] == pytest.approx(stats.kurtosis(window), abs=1e-8)


def test_entropy_is_scipys_of_the_histogram():
    x = np.random.default_rng(1).standard_t(3, 300)
    window = x[-200:]
    scores = np.clip((window - window.mean()) / window.std(), -3, np.nextafter(3, 0))
    counts = np.histogram(scores, bins=12, range=(-3, 3))[0]
    assert kernels.entropy(x, 200, 12)[-1] == pytest.approx(stats.entropy(counts) / np.log(12))


def test_hurst_is_the_slope_of_the_logarithms():
    x = np.cumsum(np.random.default_rng(1).normal(size=300))
    window, lags = x[-200:], np.array([1, 2, 4, 8, 16])
    sizes = [np.abs(window[lag:] - window[:-lag]).mean() for lag in lags]
    assert kernels.hurst(x, 200, lags)[-1] == pytest.approx(np.polyfit(np.log(lags), np.log(sizes), 1)[0])


@plain
@given(HOLED, LENGTHS, st.floats(0.01, 1))
def test_smooth_begins_with_the_mean_and_passes_over_what_is_missing(values, length, alpha):
    x = array(values)
    present = x[~np.isnan(x)]
    expected = np.full(len(present), np.nan)
    for t in range(length - 1, len(present)):
        before = expected[t - 1]
        expected[t] = present[:length].mean() if t == length - 1 else before + alpha * (present[t] - before)
    out = kernels.smooth(x, length, alpha)
    assert np.isnan(out[np.isnan(x)]).all()
    close_to(out[~np.isnan(x)], expected, size(x))


@plain
@given(st.lists(st.integers(0, 6).map(float), max_size=40), st.integers(1, 4), st.integers(1, 10))
def test_a_peak_is_known_when_the_bars_after_it_have_passed(values, side, within):
    x = array(values)
    expected = np.full(len(x), np.nan)
    for t in range(2 * side, len(x)):
        for known in range(t, max(2 * side, t - within + 1) - 1, -1):  # the bar that confirmed it, latest first
            middle = known - side
            before, after = x[middle - side : middle], x[middle + 1 : known + 1]
            if (before <= x[middle]).all() and (after < x[middle]).all():
                expected[t] = x[middle]
                break
    np.testing.assert_array_equal(kernels.last_peak(x, side, within), expected)


@plain
@given(st.lists(st.tuples(st.floats(1, 100), st.floats(0, 10), st.integers(0, 1)), max_size=30))
def test_day_average_begins_anew_with_each_day(rows):
    price, weight = array([row[0] for row in rows]), array([row[1] for row in rows])
    day = np.cumsum([row[2] for row in rows], dtype=np.int64)
    out = kernels.day_average(price, weight, day)
    for t in range(len(rows)):
        today = slice(int(np.argmax(day == day[t])), t + 1)
        if weight[today].sum() > 1e-100:
            assert out[t] == pytest.approx(np.average(price[today], weights=weight[today]))
        elif weight[today].sum() == 0:
            assert np.isnan(out[t])


STEPS = st.lists(st.integers(1, 3) | st.sampled_from([7, 40, 200]), min_size=1, max_size=120)


def faded(steps: list[int], half_life: float, blocks: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Values, how long each spans, and their clock, which goes on by `steps`."""
    clock = np.cumsum(steps, dtype=np.int64) + 1_000
    values = np.random.default_rng(len(steps)).random(len(steps))
    return values, np.diff(clock, prepend=clock[0]).astype(float), clock


@plain
@given(STEPS, st.floats(0.3, 12), st.integers(1, 6))
def test_a_fading_mean_weighs_by_age_in_whole_blocks_of_the_clock(steps, half_life, blocks):
    values, spans, clock = faded(steps, half_life, blocks)
    length, expected = math.ceil(half_life), np.full(len(steps), np.nan)
    for t in range(1, len(steps)):
        begins = (clock[t] // length - blocks) * length
        if clock[0] < begins:
            seen = np.flatnonzero((clock >= begins) & (clock <= clock[t]))
            weight = 0.5 ** ((clock[t] - clock[seen]) / half_life)
            expected[t] = (weight * values[seen]).sum() / (weight * spans[seen]).sum()
    np.testing.assert_allclose(kernels.fading_mean(values, spans, clock, half_life, blocks), expected, rtol=1e-9)


@plain
@given(STEPS, st.floats(0.3, 12), st.integers(1, 6), st.data())
def test_a_fading_mean_is_bit_identical_wherever_the_history_begins(steps, half_life, blocks, data):
    values, spans, clock = faded(steps, half_life, blocks)
    start = data.draw(st.integers(0, len(steps) - 1))
    whole = kernels.fading_mean(values, spans, clock, half_life, blocks)[start:]
    later = kernels.fading_mean(values[start:], spans[start:], clock[start:], half_life, blocks)
    known = clock[start:] - clock[start] >= (blocks + 1) * math.ceil(half_life)
    assert not np.isnan(later[known]).any()
    np.testing.assert_array_equal(later, np.where(np.isnan(later), np.nan, whole))


@pytest.mark.parametrize("name", WINDOWS)
def test_a_window_longer_than_the_data_gives_nothing(name):
    out = WINDOWS[name](np.arange(5.0), 6)
    assert len(out) == 5
    assert np.isnan(out).all()


@pytest.mark.parametrize("name", WINDOWS)
def test_no_data_gives_no_values(name):
    assert len(WINDOWS[name](np.empty(0), 3)) == 0


def test_loops_over_no_bars_or_one_end():
    for bars in (0, 1):
        x = np.ones(bars)
        assert len(kernels.smooth(x, 3, 0.5)) == bars
        assert len(kernels.fading_mean(x, x, np.zeros(bars, np.int64), 3.0, 2)) == bars
        assert len(kernels.parabolic(x, x, 0.02, 0.02, 0.2)[0]) == bars
        assert len(kernels.supertrend(x, x, x)[0]) == bars
        assert len(kernels.last_peak(x, 2, 5)) == bars
        assert len(kernels.day_average(x, x, np.zeros(bars, np.int64))) == bars


@pytest.mark.parametrize("name", WINDOWS)
def test_a_missing_value_is_missing_in_every_window_that_holds_it_and_in_no_other(name):
    x = np.random.default_rng(3).normal(size=60)
    holed = x.copy()
    holed[30] = np.nan
    out = WINDOWS[name](holed, 8)
    assert np.isnan(out[30:38]).all()
    np.testing.assert_array_equal(np.delete(out, np.s_[30:38]), np.delete(WINDOWS[name](x, 8), np.s_[30:38]))


@pytest.mark.parametrize("name", WINDOWS)
@settings(max_examples=15, deadline=None)
@given(st.integers(0, 400), st.integers(2, 50))
def test_a_window_is_bit_identical_wherever_the_history_begins(name, start, length):
    x = 30_000 + np.cumsum(np.random.default_rng(start).normal(size=500))
    whole, shorter = WINDOWS[name](x, length), WINDOWS[name](x[start:], length)
    np.testing.assert_array_equal(shorter[length - 1 :], whole[start:][length - 1 :])


@pytest.mark.parametrize("value", [0.1, 3.0, 1 / 3, 12_345.67, 1e-9])
def test_equal_values_have_no_deviation_and_what_is_undefined_over_them_is_missing(value):
    x = np.full(60, value)
    assert (WINDOWS["mean"](x, 7)[6:] == value).all()
    assert (WINDOWS["mean_beside"](x, 7)[6:] == value).all()
    assert (WINDOWS["deviation"](x, 7)[6:] == 0).all()
    assert (WINDOWS["mean_absolute_deviation"](x, 7)[6:] == 0).all()
    assert (WINDOWS["line_slope"](x, 7)[6:] == 0).all()
    for name in ("line_share", "correlation", "skewness", "kurtosis", "entropy", "hurst"):
        assert np.isnan(WINDOWS[name](x, 7)).all(), name


def test_a_small_deviation_of_a_large_value_is_not_lost():
    x = 1e9 + np.tile([0.0, 1.0], 10) * 1e-3
    np.testing.assert_allclose(WINDOWS["deviation"](x, 10)[9:], np.std(x[:10] - 1e9), rtol=1e-9)


@pytest.mark.parametrize("name", WINDOWS)
def test_cost_is_linear_in_the_number_of_bars(name):
    """Sixteen times the bars in at most forty times the time: a quadratic loop would need 256 times."""
    x = np.cumsum(np.random.default_rng(5).normal(size=64_000))

    def fastest(bars: int) -> float:
        times = []
        for _ in range(3):
            begun = time.thread_time()
            WINDOWS[name](x[:bars], 24)
            times.append(time.thread_time() - begun)
        return min(times)

    fastest(100)  # compiles
    assert fastest(64_000) < 40 * max(fastest(4_000), 1e-4)


def test_the_highest_of_a_falling_price_costs_no_more_than_its_window():
    x, begun = -np.arange(200_000.0), time.thread_time()
    kernels.highest(x, 100)
    assert time.thread_time() - begun < 2
