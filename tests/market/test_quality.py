"""What is missing or odd: known answers on made candles, and the known defects of the real hours."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import btclab as bl
from btclab.errors import CandleError
from btclab.market.quality import (
    FLAT_STRETCH,
    clean_raw,
    flat_stretches,
    gaps,
    inspect_raw,
    interpolated_stretches,
    outliers,
    quality_summary,
    silent_stretches,
)

START = pd.Timestamp("2024-01-01", tz="UTC")
HOUR = pd.Timedelta("1h")


def hours(count: int = 24, missing: tuple[int, ...] = (), flat: tuple[int, ...] = ()) -> pd.DataFrame:
    """Hours at a steady price of 100 with a range of ±1, but without the `missing` and without range in the `flat` ones."""
    index = pd.date_range(START, periods=count, freq="h", name="timestamp")
    frame = pd.DataFrame({"open": 100.0, "high": 101.0, "low": 99.0, "close": 100.0, "volume": 1.0}, index=index)
    frame.loc[index[list(flat)], ["high", "low"]] = 100.0
    frame.attrs["timeframe"] = "1h"
    return frame.drop(index=index[list(missing)])


def spans(table: pd.DataFrame) -> list[tuple[int, int, int]]:
    """Rows of `table` as (first hour, last hour, bars)."""
    return [((row.start - START) // HOUR, (row.end - START) // HOUR, row.bars) for row in table.itertuples()]


def found(candles: pd.DataFrame) -> dict[str, str]:
    return quality_summary(candles).set_index("finding")["value"].to_dict()


# Gaps


@pytest.mark.parametrize(
    ("missing", "expected"),
    [
        ((), []),
        ((5,), [(5, 5, 1)]),
        ((5, 6, 7), [(5, 7, 3)]),
        ((2, 8, 9), [(2, 2, 1), (8, 9, 2)]),
        ((0, 23), []),  # what lies before the first and after the last bar is no gap
    ],
)
def test_each_hole_has_its_first_and_last_missing_bar(missing, expected):
    assert spans(gaps(hours(missing=missing))) == expected


def test_gaps_of_no_gap_is_an_empty_table():
    table = gaps(hours())
    assert list(table.columns) == ["start", "end", "bars"]
    assert table.empty


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.sets(st.integers(1, 22)))
def test_gaps_are_exactly_the_missing_bars(missing):
    table = gaps(hours(missing=tuple(missing)))
    assert {hour for first, last, _ in spans(table) for hour in range(first, last + 1)} == missing
    assert table["bars"].sum() == len(missing)


# Flat stretches


@pytest.mark.parametrize(
    ("flat", "expected"),
    [
        ((), []),
        ((4, 5), []),  # two quiet hours are a market
        ((4, 5, 6), [(4, 6, 3)]),
        ((0, 1, 2, 21, 22, 23), [(0, 2, 3), (21, 23, 3)]),
        ((4, 5, 7, 8), []),
        (tuple(range(24)), [(0, 23, 24)]),
    ],
)
def test_flat_stretch_is_three_bars_in_a_row_without_a_range(flat, expected):
    assert FLAT_STRETCH == 3
    assert spans(flat_stretches(hours(flat=flat))) == expected


# The summary


def test_summary_of_faultless_candles():
    assert found(hours()) == {
        "bars": "24",
        "coverage": "100.000",
        "missing": "0 in 0 gaps",
        "longest gap": "0",
        "flat-filled": "0 in 0 stretches",
        "interpolated": "0 in 0 stretches",
        "zero volume": "0",
        "largest move": "+0.0 at 2024-01-01 01:00",
    }


def test_summary_counts_each_defect():
    frame = hours(100, missing=(10, 20, 21, 22), flat=(40, 41, 42, 43))
    frame.iloc[50:52, frame.columns.get_loc("volume")] = 0.0
    said = found(frame)
    assert (said["bars"], said["coverage"]) == ("96", "96.000")
    assert (said["missing"], said["longest gap"]) == ("4 in 2 gaps", "3")
    assert (said["flat-filled"], said["zero volume"]) == ("4 in 1 stretches", "2")


@pytest.mark.parametrize(("factor", "said"), [(1.10, "+10.0 at 2024-01-01 07:00"), (0.80, "-20.0 at 2024-01-01 07:00")])
def test_largest_move_has_its_sign_and_its_bar(factor, said):
    frame = hours()
    frame.iloc[7:, :4] *= factor
    assert found(frame)["largest move"] == said


def test_a_single_bar_has_no_move():
    assert found(hours(1))["largest move"] == "–"


def test_nothing_is_repaired():
    frame = hours(missing=(5,), flat=(8, 9, 10))
    before = frame.copy()
    quality_summary(frame)
    pd.testing.assert_frame_equal(frame, before)


# The real hours


@pytest.fixture(scope="module")
def real(request: pytest.FixtureRequest) -> pd.DataFrame:
    return pd.read_parquet(request.getfixturevalue("real_file"))


def test_the_only_hole_of_the_real_hours_is_the_halt_of_march_2023(real):
    table = gaps(real)
    halt = pd.Timestamp("2023-03-24T13:00Z")
    assert table.to_dict("records") == [{"start": halt, "end": halt, "bars": 1}]


def test_the_real_hour_before_the_hole_has_no_volume(real):
    assert real.loc["2023-03-24T12:00Z", "volume"] == 0


def test_the_filled_halt_of_february_2018_is_a_straight_line_and_not_flat(real):
    """Whoever made the file drew lines from the bar before each halt to the one after: these bars knew the future."""
    halt = real["2018-02-08T00:00Z":"2018-02-09T10:00Z"]
    assert len(halt) == 35
    np.testing.assert_allclose(halt.diff().diff().iloc[2:], 0, atol=1e-6)
    assert flat_stretches(real).empty
    longest = interpolated_stretches(real).sort_values("bars").iloc[-1]
    assert (str(longest["start"]), str(longest["end"])) == ("2018-02-08 02:00:00+00:00", "2018-02-09 10:00:00+00:00")


def test_simulated_hours_are_not_called_interpolated(candles):
    assert interpolated_stretches(candles).empty


def test_summary_of_the_real_hours(real):
    said = found(real)
    assert (said["bars"], said["missing"]) == ("64,651", "1 in 1 gaps")
    assert float(said["coverage"]) == pytest.approx(100 * 64_651 / 64_652, abs=5e-4)
    assert np.isfinite(float(said["largest move"].split()[0]))


# Zero volume


def test_bars_without_volume_are_one_stretch_until_something_is_traded():
    frame = hours()
    frame.iloc[[4, 5, 9], frame.columns.get_loc("volume")] = 0.0
    assert spans(silent_stretches(frame)) == [(4, 5, 2), (9, 9, 1)]


# Outliers


def judged(candles: pd.DataFrame) -> list[tuple[pd.Timestamp, str]]:
    return [(row.start, row.kind) for row in outliers(candles).itertuples()]


def changed(candles: pd.DataFrame, row: int, column: str, factor: float) -> pd.DataFrame:
    frame = candles.copy()
    frame.iloc[row, frame.columns.get_loc(column)] *= factor
    return frame


@pytest.mark.parametrize("seed", range(1, 7))
def test_simulated_bars_without_a_defect_have_no_outlier(seed):
    hourly = bl.load_candles(f"simulated:{seed}")
    assert outliers(hourly).empty
    assert outliers(bl.resample(hourly, "1d")).empty


@settings(max_examples=20, deadline=None, derandomize=True)
@given(row=st.integers(1, 2100), column=st.sampled_from(["low", "high"]), size=st.floats(0.3, 3))
def test_a_bad_tick_is_found_where_it_is_and_nowhere_else(candles, row, column, size):
    frame = changed(candles, row, column, float(np.exp(-size if column == "low" else size)))
    assert judged(frame) == [(frame.index[row], column)]


def test_a_close_that_comes_back_is_a_spike_and_its_way_back_is_none(candles):
    frame = changed(changed(candles, 500, "close", 0.5), 500, "low", 0.5)
    assert judged(frame) == [(frame.index[500], "low")]


def test_a_fall_that_stays_is_a_move_and_no_spike(candles):
    frame = candles.copy()
    frame.iloc[500:, :4] *= 0.5
    frame.iloc[500, frame.columns.get_loc("open")] = frame["close"].iloc[499]
    frame.iloc[500, frame.columns.get_loc("high")] = frame["close"].iloc[499]
    found = outliers(frame)
    assert found["kind"].tolist() == ["move"]
    assert found["start"].tolist() == [frame.index[500]]
    assert found["size"].iloc[0] == pytest.approx(np.log(0.5), abs=0.1)


def test_the_step_across_a_hole_is_no_move(candles):
    frame = candles.copy()
    frame.iloc[800:, :4] *= 1.6
    assert judged(frame.drop(index=frame.index[790:810])) == []


def test_closes_alone_are_judged_by_their_closes(candles):
    frame = changed(candles, 500, "close", 0.5)[["close"]]
    frame.attrs = candles.attrs
    assert judged(frame) == [(frame.index[500], "low")]


def test_a_price_that_never_changes_has_no_outlier():
    assert outliers(hours(200)).empty


# Raw frames


def raw(frame: pd.DataFrame) -> dict[str, int]:
    return inspect_raw(frame, "1h").set_index("finding")["bars"].to_dict()


def test_a_sound_frame_has_nothing_against_it():
    assert inspect_raw(hours()).empty


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (lambda frame: pd.concat([frame, frame.iloc[[3]]]).sort_index(), {"duplicate": 2}),
        (lambda frame: pd.concat([frame, 2 * frame.iloc[[3]]]).sort_index(), {"conflicting duplicate": 2}),
        (lambda frame: frame.iloc[[0, 1, 3, 2, *range(4, 24)]], {"unsorted": 1}),
        (lambda frame: frame.set_axis(frame.index[:-1].append(frame.index[-1:] + HOUR / 2)), {"misaligned stamp": 1}),
        (lambda frame: frame.assign(close=frame["close"].where(frame.index != frame.index[7])), {"missing value": 1}),
        (lambda frame: frame.assign(low=frame["low"].where(frame.index != frame.index[7], 100.5)), {"impossible bar": 1}),
        (lambda frame: frame.assign(volume=frame["volume"].where(frame.index != frame.index[7], -1)), {"impossible bar": 1}),
        (lambda frame: frame.set_axis(frame.index[:-1].append(pd.DatetimeIndex([pd.NaT], tz="UTC"))), {"no time": 1}),
    ],
    ids=["duplicate", "conflict", "unsorted", "misaligned", "missing", "low above open", "negative volume", "no time"],
)  # fmt: skip
def test_each_defect_of_a_raw_frame_is_named_and_counted(spoil, expected):
    assert raw(spoil(hours())) == expected


def test_a_raw_finding_names_its_rows_and_times():
    frame = hours()
    row = inspect_raw(pd.concat([frame, frame.iloc[[3]]]), "1h").set_index("finding").loc["duplicate"]
    assert (row["start"], row["severity"]) == (frame.index[3], "bad")
    assert "row 3, 24" in row["detail"]


def test_what_is_left_of_a_spoiled_frame_is_sound():
    frame = hours()
    spoiled = pd.concat([frame, 2 * frame.iloc[[3]], frame.iloc[[5]].set_axis(frame.index[[5]] + HOUR / 2)]).iloc[::-1]
    left = clean_raw(spoiled)
    assert list(left.index) == list(frame.index)
    assert inspect_raw(left).empty
    assert left.attrs["timeframe"] == "1h"


@pytest.mark.parametrize(
    ("frame", "said"),
    [
        (pd.DataFrame({"close": [1.0]}), "need a DatetimeIndex"),
        (pd.DataFrame({"price": [1.0]}, index=pd.DatetimeIndex([START])), "No column 'close'"),
    ],
)
def test_what_is_no_price_series_is_refused(frame, said):
    with pytest.raises(CandleError, match=said):
        inspect_raw(frame)


def test_naive_times_are_read_as_utc():
    frame = hours()
    pd.testing.assert_index_equal(clean_raw(frame.tz_localize(None)).index, frame.index)
