"""Candles: what is refused and how it is said, what the clock decides, and longer bars from shorter ones."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from btclab.errors import CandleError, InputError, TooFewBars
from btclab.market.candles import (
    COLUMNS,
    TIMEFRAMES,
    bars_per_year,
    between,
    close_times,
    closed_bars,
    describe,
    fingerprint,
    infer_timeframe,
    resample,
    timeframe_delta,
    timeframe_of,
    utc,
    validate_candles,
)

bounded = settings(max_examples=25, deadline=None, derandomize=True)
HOUR = pd.Timedelta("1h")
MONDAY = pd.Timestamp("2024-01-01", tz="UTC")


def bars(count: int = 6, start: object = MONDAY, step: str = "1h") -> pd.DataFrame:
    """Bars that open at 100, 101, …, reach 2 above and 1 below, close at +1, with volumes 1, 2, …"""
    index = pd.date_range(start, periods=count, freq=step, name="timestamp")
    open_ = 100.0 + np.arange(count)
    columns = {"open": open_, "high": open_ + 2, "low": open_ - 1, "close": open_ + 1, "volume": 1.0 + np.arange(count)}
    frame = pd.DataFrame(columns, index=index)
    frame.index.freq = None
    return frame


def spoilt(column: str, value: float, row: int = 3) -> pd.DataFrame:
    frame = bars()
    frame.iloc[row, COLUMNS.index(column)] = value
    return frame


# What is refused


def test_right_candles_come_back_unchanged():
    frame = bars()
    assert validate_candles(frame, "1h") is frame


@pytest.mark.parametrize(
    ("frame", "said"),
    [
        (bars().tz_localize(None), ["naive", 'tz_localize("UTC")']),
        (bars().tz_convert("Europe/Berlin"), ["Europe/Berlin", 'tz_convert("UTC")']),
        (bars().reset_index(drop=True), ["DatetimeIndex", "RangeIndex"]),
        (bars().iloc[[0, 2, 1]], ["not sorted", "01:00:00+00:00 follows 2024-01-01 02:00:00+00:00", "sort_index"]),
        (bars().iloc[[0, 1, 1, 2]], ["01:00:00+00:00 comes twice", "duplicated"]),
        (bars().drop(columns=["high", "volume"]), ["high, volume", "found: open, low, close", "Rename"]),
        (bars().assign(close=range(6)), ["'close'", "int64", "astype(float)"]),
        (bars().astype({"volume": "float32"}), ["'volume'", "float32", "astype(float)"]),
        (bars().astype({"open": object}), ["'open'", "object", "astype(float)"]),
    ],
    ids=["naive", "other zone", "no times", "unsorted", "duplicate", "missing column", "integers", "float32", "object"],
)
def test_wrong_frame_is_named_with_its_remedy(frame, said):
    with pytest.raises(CandleError) as caught:
        validate_candles(frame)
    assert all(part in str(caught.value) for part in said), caught.value


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("open", np.nan, "missing or infinite value: open=nan"),
        ("high", np.inf, "missing or infinite value"),
        ("volume", np.nan, "missing or infinite value"),
        ("low", 0.0, "has a price ≤ 0"),
        ("low", -5.0, "has a price ≤ 0"),
        ("high", 50.0, "high below its low"),
        ("open", 90.0, "opens or closes outside its range: open=90"),
        ("close", 190.0, "opens or closes outside its range"),
        ("volume", -1.0, "has a negative volume"),
    ],
)
def test_wrong_value_is_named_with_row_time_and_remedy(column, value, said):
    with pytest.raises(CandleError) as caught:
        validate_candles(spoilt(column, value))
    message = str(caught.value)
    assert "Row 3 at 2024-01-01 03:00:00+00:00" in message
    assert said in message
    assert f"{column}={value:g}" in message
    assert "Correct or drop it" in message


def test_number_of_wrong_rows_is_said():
    frame = bars()
    frame.iloc[1:4, COLUMNS.index("volume")] = -1.0
    with pytest.raises(CandleError, match=r"Row 1 at .*\(3 such rows\)"):
        validate_candles(frame)


@pytest.mark.parametrize("row", [0, 2, 5])
def test_missing_timestamp_is_named_with_its_row(row):
    frame = bars()
    frame.index = frame.index.where(np.arange(6) != row)
    with pytest.raises(CandleError, match=f"Row {row} has no timestamp"):
        validate_candles(frame)


def test_column_that_comes_twice_is_refused():
    frame = pd.concat([bars(), bars()[["open"]]], axis=1)
    with pytest.raises(CandleError, match="'open' comes twice"):
        validate_candles(frame)


def test_bars_off_the_timeframe_are_refused():
    with pytest.raises(CandleError, match=r"Row 0 at 2024-01-01 00:07:00.* does not start on a whole 1h"):
        validate_candles(bars(start="2024-01-01T00:07Z"), "1h")


def test_empty_frame_is_too_few_bars():
    with pytest.raises(TooFewBars, match="no bars"):
        validate_candles(bars(0))


def test_missing_bars_are_allowed():
    validate_candles(bars().drop(index=MONDAY + 2 * HOUR), "1h")


def test_zero_volume_is_allowed():
    validate_candles(spoilt("volume", 0.0))


# Timeframes


@pytest.mark.parametrize(("wrong", "near"), [("1H", "'1h'"), ("60m", "'6h'|'30m'"), ("1 h", "'1h'")])
def test_unknown_timeframe_suggests_near_ones(wrong, near):
    with pytest.raises(InputError, match=rf"Unknown timeframe: '{wrong}'\. Did you mean .*({near})"):
        timeframe_delta(wrong)


@pytest.mark.parametrize("wrong", ["2d", "", None, 60])
def test_unknown_timeframe_lists_the_valid_ones(wrong):
    with pytest.raises(InputError, match="Valid: 1m, 3m, 5m, 15m"):
        timeframe_delta(wrong)


@pytest.mark.parametrize(("timeframe", "count"), [("1d", 365), ("1h", 8_760), ("1m", 525_600)])
def test_the_year_has_365_days(timeframe, count):
    assert bars_per_year(timeframe) == count


@pytest.mark.parametrize("timeframe", TIMEFRAMES)
def test_timeframe_is_told_from_the_steps(timeframe):
    assert infer_timeframe(pd.date_range(MONDAY, periods=4, freq=TIMEFRAMES[timeframe])) == timeframe


def test_timeframe_is_the_most_common_step():
    assert infer_timeframe(bars(9).drop(index=[MONDAY + 2 * HOUR, MONDAY + 5 * HOUR]).index) == "1h"


def test_step_that_is_no_timeframe_is_named():
    with pytest.raises(CandleError, match="7 days 00:00:00, which is no timeframe"):
        infer_timeframe(pd.date_range(MONDAY, periods=4, freq="7D"))


@pytest.mark.parametrize("count", [0, 1])
def test_timeframe_needs_two_bars(count):
    with pytest.raises(TooFewBars, match="at least 2"):
        infer_timeframe(bars(count).index)


def test_named_timeframe_wins_over_the_steps():
    frame = bars().iloc[::2]
    frame.attrs["timeframe"] = "1h"
    assert timeframe_of(frame) == "1h"


# What the clock decides


@pytest.mark.parametrize(
    ("now", "count"), [("00:59:59", 0), ("01:00", 1), ("03:59:59.999", 3), ("04:00", 4), ("23:00", 6)]
)
def test_a_bar_is_closed_once_its_timeframe_has_passed(now, count):
    assert len(closed_bars(bars(), pd.Timestamp(f"2024-01-01T{now}", tz="UTC"))) == count


def test_close_time_is_open_time_plus_timeframe():
    assert (close_times(bars()) == bars().index + HOUR).all()


@bounded
@given(st.integers(1, 50), st.integers(-3600, 60 * 3600))
def test_closed_bars_are_those_known_at_the_moment(count, seconds):
    frame, now = bars(count), MONDAY + pd.Timedelta(seconds=seconds)
    frame.attrs["timeframe"] = "1h"
    closed = closed_bars(frame, now)
    assert len(closed) == min(count, max(0, seconds // 3600))
    assert (close_times(closed) <= now).all()


# A span of bars


def test_span_includes_its_start_and_excludes_its_end():
    assert list(between(bars(), "2024-01-01T01:00", "2024-01-01T03:00").index.hour) == [1, 2]


def test_naive_moments_are_utc():
    chosen = between(bars(), "2024-01-01T02:00")
    assert chosen.equals(between(bars(), pd.Timestamp("2024-01-01T03:00", tz="Europe/Berlin")))


def test_span_without_edges_is_everything():
    assert between(bars()).equals(bars())


def test_span_keeps_the_attrs():
    frame = bars()
    frame.attrs["source"] = "here"
    assert between(frame, MONDAY).attrs == {"source": "here"}


@pytest.mark.parametrize("wrong", ["tomorrow-ish", "2024-13-01", "NaT", float("nan"), None, [1], object()])
def test_what_is_no_time_is_refused_with_an_example(wrong):
    with pytest.raises(CandleError, match=r"is not a time; write e\.g\. 2024-01-31"):
        utc(wrong)


@bounded
@given(st.integers(0, 12), st.integers(0, 12))
def test_adjacent_spans_make_the_whole(first, second):
    frame = bars(12)
    cuts = sorted([MONDAY + first * HOUR, MONDAY + second * HOUR])
    parts = [between(frame, None, cuts[0]), between(frame, *cuts), between(frame, cuts[1])]
    pd.testing.assert_frame_equal(pd.concat(parts), frame, check_freq=False)


# Fingerprint


@bounded
@given(st.integers(0, 5), st.sampled_from(COLUMNS))
def test_fingerprint_changes_with_any_value(row, column):
    frame = bars()
    frame.iloc[row, COLUMNS.index(column)] = np.nextafter(frame.iloc[row][column], np.inf)
    assert fingerprint(frame) != fingerprint(bars())


@bounded
@given(st.integers(0, 5))
def test_fingerprint_changes_with_any_timestamp(row):
    frame = bars()
    frame.index = frame.index.where(np.arange(6) != row, frame.index + pd.Timedelta("1s"))
    assert fingerprint(frame) != fingerprint(bars())


def test_fingerprint_changes_with_a_row_less():
    assert fingerprint(bars().iloc[:-1]) != fingerprint(bars())


@pytest.mark.parametrize("resolution", ["s", "ms", "us", "ns"])
def test_fingerprint_does_not_depend_on_the_resolution_of_the_index(resolution):
    frame = bars()
    frame.index = frame.index.as_unit(resolution)
    assert fingerprint(frame) == fingerprint(bars())


def test_fingerprint_does_not_depend_on_attrs_order_of_columns_or_others():
    frame = bars()[COLUMNS[::-1]].assign(extra=1)
    frame.attrs = {"source": "elsewhere"}
    assert fingerprint(frame) == fingerprint(bars())


def test_fingerprint_stays_from_version_to_version():
    assert fingerprint(bars()) == "a0fb4873417669ab"


def test_description_says_span_and_origin():
    frame = bars()
    frame.attrs = {"source": "here", "symbol": "BTC/USDT", "simulated": False}
    assert describe(frame) == {
        "source": "here",
        "symbol": "BTC/USDT",
        "simulated": False,
        "stale": None,
        "timeframe": "1h",
        "first": "2024-01-01T00:00:00+00:00",
        "last": "2024-01-01T05:00:00+00:00",
        "bars": 6,
        "fingerprint": fingerprint(bars()),
    }


# Longer bars


def test_longer_bar_is_first_highest_lowest_last_and_sum():
    longer = resample(bars(4), "4h")
    assert longer.iloc[0].to_dict() == {"open": 100, "high": 105, "low": 99, "close": 104, "volume": 10}


def test_longer_bars_open_on_the_whole_timeframe():
    assert list(resample(bars(12), "4h").index.hour) == [0, 4, 8]


def test_half_bars_at_both_ends_are_dropped():
    longer = resample(bars(14, start=MONDAY + 2 * HOUR), "4h")
    assert list(longer.index.hour) == [4, 8, 12]


def test_last_bar_is_whole_when_its_last_hour_has_closed():
    assert len(resample(bars(8), "4h")) == 2
    assert len(resample(bars(7), "4h")) == 1


def test_an_hour_of_halt_is_not_in_the_sum():
    longer = resample(bars(8).drop(index=MONDAY + 2 * HOUR), "4h")
    assert longer["volume"].to_list() == [1 + 2 + 4, 5 + 6 + 7 + 8]


def test_a_bar_without_any_hours_is_not_made_up():
    frame = bars(12).drop(index=[MONDAY + k * HOUR for k in (4, 5, 6, 7)])
    assert list(resample(frame, "4h").index.hour) == [0, 8]


def test_resampled_candles_keep_attrs_and_name_the_timeframe():
    frame = bars(8)
    frame.attrs = {"source": "here", "timeframe": "1h"}
    assert resample(frame, "4h").attrs == {"source": "here", "timeframe": "4h"}
    assert frame.attrs["timeframe"] == "1h"


def test_same_timeframe_changes_nothing():
    frame = bars()
    assert resample(frame, "1h") is frame


@pytest.mark.parametrize(("have", "want"), [("1h", "30m"), ("4h", "6h"), ("1d", "1h")])
def test_shorter_or_uneven_bars_are_refused(have, want):
    with pytest.raises(InputError, match=f"Bars of {have} cannot be made into bars of {want}"):
        resample(bars(step=have), want)


def test_too_few_bars_for_one_longer_bar():
    with pytest.raises(TooFewBars):
        resample(bars(3), "1d")


@bounded
@given(st.integers(0, 2**32 - 1), st.integers(0, 30), st.integers(30, 80))
def test_resampling_in_two_steps_is_resampling_in_one(seed, first, last):
    walk = 100 * np.exp(np.random.default_rng(seed).normal(0, 0.01, 81).cumsum())
    frame = bars(80)
    frame["open"], frame["close"] = walk[:-1], walk[1:]
    frame["high"], frame["low"] = frame[["open", "close"]].max(axis=1), frame[["open", "close"]].min(axis=1)
    frame = frame.iloc[first:last]
    try:
        at_once = resample(frame, "12h")
    except TooFewBars:
        return
    pd.testing.assert_frame_equal(resample(resample(frame, "4h"), "12h"), at_once, check_freq=False)


def test_real_hours_make_the_real_days(real_file):
    """The halt of 2018-02-08/09 is filled flat in the hourly file; on some days of a halt the volume differs as well."""
    hours = pd.read_parquet(real_file)
    days = pd.read_csv(next(real_file.parent.glob("binance_btcusdt_1d_*.csv")), index_col=0, parse_dates=True)
    ours = resample(hours, "1d")
    assert list(days.index.difference(ours.index)) == [hours.index[0].normalize()]  # the first day is no whole one
    same = pd.DataFrame(np.isclose(ours, days.loc[ours.index], rtol=1e-9), ours.index, COLUMNS)
    wrong_price = ours.index[~same.drop(columns="volume").all(axis=1)]
    assert list(wrong_price.strftime("%Y-%m-%d")) == ["2018-02-08", "2018-02-09"]
    assert (~same["volume"]).sum() == 29
