"""One market on two venues: dates that are early or late, and prices that part."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import btclab as bl
from btclab.errors import InputError, TooFewBars
from btclab.market.quality import local_volatility
from btclab.market.venues import (
    LEAST_OVERLAP,
    aligned,
    at_timeframe,
    date_shifts,
    deviations,
    disagreements,
    lag_correlations,
    premium_spans,
    venue_of,
)

HOUR = pd.Timedelta("1h")


def second_venue(candles: pd.DataFrame, noise: float = 5e-4, seed: int = 0) -> pd.DataFrame:
    """The same market elsewhere: each bar's prices off by the same small factor."""
    frame = candles.copy()
    factor = np.exp(np.random.default_rng(seed).normal(0, noise, len(frame)))
    frame[["open", "high", "low", "close"]] = frame[["open", "high", "low", "close"]].mul(factor, axis=0)
    frame.attrs = {**candles.attrs, "source": "elsewhere"}
    return frame


def dated(candles: pd.DataFrame, bars: int, first: int = 0) -> pd.DataFrame:
    """`candles` with the row of t dated t + `bars` from row `first` on, where it does not run into the rows before."""
    late = candles.iloc[first:].set_axis(candles.index[first:] + bars * HOUR)
    before = candles.iloc[:first]
    frame = pd.concat([before, late[late.index > before.index[-1]] if first else late]).rename_axis("timestamp")
    frame.attrs = candles.attrs
    return frame


# Dates


def test_two_venues_of_one_market_have_one_span_of_lag_0(candles):
    spans = date_shifts(candles, second_venue(candles))
    assert spans[["lag", "told"]].values.tolist() == [[0, True]]
    assert spans["correlation"].iloc[0] > 0.9


@settings(max_examples=12, deadline=None, derandomize=True)
@given(bars=st.integers(-3, 3), seed=st.integers(0, 99))
def test_a_series_dated_late_has_a_positive_lag_of_as_many_bars(candles, bars, seed):
    spans = date_shifts(dated(candles, bars), second_venue(candles, seed=seed))
    assert spans[["lag", "told"]].values.tolist() == [[bars, True]]


@settings(max_examples=12, deadline=None, derandomize=True)
@given(bars=st.sampled_from([-2, -1, 1, 2]), first=st.integers(200, 1900))
def test_a_shift_that_begins_within_the_series_has_its_break_found(candles, bars, first):
    spans = date_shifts(dated(candles, bars, first), second_venue(candles))
    assert spans["lag"].tolist() == [0, bars]
    assert abs(spans["start"].iloc[1] - candles.index[first]) <= 5 * HOUR


def test_a_shift_of_a_middle_part_gives_three_spans(candles):
    middle = candles.iloc[800:1200].set_axis(candles.index[800:1200] + HOUR)
    frame = pd.concat([candles.iloc[:800], middle, candles.iloc[1201:]]).rename_axis("timestamp")
    frame.attrs = candles.attrs
    assert date_shifts(frame, second_venue(candles))["lag"].tolist() == [0, 1, 0]


def test_markets_that_have_nothing_to_do_with_each_other_tell_nothing(candles):
    spans = date_shifts(candles, bl.load_candles("simulated:8", end="2021-04-01"))
    assert not spans["told"].any()


def test_too_few_bars_in_common_are_refused_by_number(candles):
    with pytest.raises(TooFewBars, match=rf"^\d+ bars have a return on both venues; at least {LEAST_OVERLAP}"):
        date_shifts(candles.iloc[:60], second_venue(candles))


def test_venues_that_do_not_overlap_are_refused(candles):
    with pytest.raises(TooFewBars, match=r"^0 bars"):
        date_shifts(candles.iloc[:500], second_venue(candles).iloc[600:])


def test_holes_do_not_hide_a_shift(candles):
    frame = dated(candles, 1)
    frame = frame.drop(index=frame.index[np.random.default_rng(0).choice(len(frame), 300, replace=False)])
    assert date_shifts(frame, second_venue(candles))["lag"].tolist() == [1]


def test_lag_correlations_peak_at_the_lag(candles):
    table = lag_correlations(dated(candles, 2), second_venue(candles))
    assert table["lag"].tolist() == [-3, -2, -1, 0, 1, 2, 3]
    assert table.loc[table["correlation"].idxmax(), "lag"] == 2


def test_what_is_aligned_is_compared_at_its_true_dates_to_the_last_bar(candles):
    frame, other = dated(candles, 1, 1000), second_venue(candles, noise=0)
    held = aligned(other, frame, date_shifts(frame, other))
    joint = held.dropna().index
    assert len(joint) >= len(frame) - 8
    np.testing.assert_allclose(frame["close"].loc[joint[-500:]], held["close"].loc[joint[-500:]])
    assert joint[-1] == frame.index[-1]


def test_a_longer_timeframe_cannot_judge_a_shorter_one(candles):
    with pytest.raises(InputError, match="has bars of 1d, which cannot judge bars of 1h"):
        at_timeframe(bl.resample(candles, "1d"), candles)


def test_a_shorter_timeframe_is_resampled(candles):
    daily = bl.resample(candles, "1d")
    pd.testing.assert_frame_equal(at_timeframe(candles, daily), daily)


# Prices


def apart(candles, other):
    return disagreements(deviations(candles, aligned(other, candles, None)), "1h")


def test_small_differences_between_venues_are_no_disagreement(candles):
    assert apart(candles, second_venue(candles)).empty


@pytest.mark.parametrize("column", ["open", "high", "low", "close"])
def test_a_price_far_from_the_other_venue_is_named_with_its_bars(candles, column):
    other = second_venue(candles)
    other.iloc[700:703, other.columns.get_loc(column)] *= 1.05
    (row,) = apart(candles, other).itertuples()
    assert (row.start, row.end, row.bars, row.price) == (candles.index[700], candles.index[702], 3, column)
    assert row.apart == pytest.approx(-np.log(1.05), abs=0.005)


def test_a_premium_that_stays_is_usual(candles):
    other = second_venue(candles)
    other[["open", "high", "low", "close"]] *= 1.03
    assert apart(candles, other).empty
    assert premium_spans(candles, other).empty


def test_a_level_that_is_another_market_is_found_where_it_begins(candles):
    other = second_venue(candles)
    other.iloc[1000:, :4] *= 1.2
    (row,) = premium_spans(candles, aligned(other, candles, None)).itertuples()
    assert abs(row.start - candles.index[1000]) <= 2 * HOUR
    assert row.end == candles.index[-1]
    assert row.premium == pytest.approx(-np.log(1.2), abs=1e-3)


def test_without_a_bar_in_common_there_is_no_disagreement(candles):
    other = second_venue(candles).iloc[:500]
    assert apart(candles.iloc[600:], other).empty
    assert premium_spans(candles.iloc[600:], aligned(other, candles.iloc[600:], None)).empty


@pytest.mark.parametrize(
    ("source", "name"), [("kraken", "kraken"), ("store:kraken", "kraken"), ("file:prices.csv", "prices"), (None, "the reference")]
)  # fmt: skip
def test_a_venue_is_called_by_its_own_name(candles, source, name):
    frame = candles.iloc[:2].copy()
    frame.attrs = {"source": source}
    assert venue_of(frame) == name


def test_local_volatility_is_not_moved_by_an_outlier(candles):
    returns = np.log(candles["close"]).diff()
    spoiled = returns.copy()
    spoiled.iloc[500] = 5.0
    ratio = local_volatility(spoiled, "1h") / local_volatility(returns, "1h")
    assert ratio.dropna().between(0.9, 1.1).all()
