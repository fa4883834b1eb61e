"""What is missing or odd: known answers on bars made for it, and the known defects of the real file."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from btclab.market.quality import FLAT_STRETCH, flat_stretches, gaps, quality_summary

HOUR = pd.Timedelta("1h")
MONDAY = pd.Timestamp("2024-01-01", tz="UTC")


def bars(count: int = 10, flat: tuple[int, ...] = (), missing: tuple[int, ...] = ()) -> pd.DataFrame:
    """Hours from Monday; those in `flat` have one price and no volume, those in `missing` are not there."""
    index = pd.date_range(MONDAY, periods=count, freq="1h", name="timestamp")
    frame = pd.DataFrame({"open": 100.0, "high": 101.0, "low": 99.0, "close": 100.0, "volume": 1.0}, index=index)
    frame.iloc[list(flat)] = [100.0, 100.0, 100.0, 100.0, 0.0]
    frame = frame.drop(index=index[list(missing)])
    frame.attrs["timeframe"] = "1h"
    return frame


def spans(found: pd.DataFrame) -> list[tuple[int, int, int]]:
    """Start, end (hours since Monday) and bars of each row."""
    return [((row.start - MONDAY) // HOUR, (row.end - MONDAY) // HOUR, row.bars) for row in found.itertuples()]


def summary(candles: pd.DataFrame) -> dict[str, str]:
    return quality_summary(candles).set_index("finding")["value"].to_dict()


def test_whole_candles_have_no_gaps():
    assert spans(gaps(bars())) == []


def test_gap_is_named_by_its_first_and_last_missing_bar():
    assert spans(gaps(bars(missing=(2, 5, 6, 7)))) == [(2, 2, 1), (5, 7, 3)]


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.sets(st.integers(1, 38), max_size=30))
def test_gaps_and_bars_make_the_whole(missing):
    candles = bars(40, missing=tuple(missing))
    found = gaps(candles)
    named = {hour for start, end, _ in spans(found) for hour in range(start, end + 1)}
    assert named == missing
    assert found["bars"].sum() + len(candles) == 40


def test_flat_stretch_is_named_by_its_first_and_last_bar():
    assert spans(flat_stretches(bars(flat=(3, 4, 5, 6)))) == [(3, 6, 4)]


@pytest.mark.parametrize(("length", "count"), [(FLAT_STRETCH - 1, 0), (FLAT_STRETCH, 1)])
def test_a_few_flat_bars_are_a_market(length, count):
    assert len(flat_stretches(bars(flat=tuple(range(2, 2 + length))))) == count


def test_flat_stretches_at_both_ends():
    assert spans(flat_stretches(bars(flat=(0, 1, 2, 7, 8, 9)))) == [(0, 2, 3), (7, 9, 3)]


def test_candles_without_flat_bars_have_no_stretch():
    assert spans(flat_stretches(bars())) == []


def test_summary_of_known_defects():
    candles = bars(20, flat=(1, 10, 11, 12), missing=(4, 6, 7))
    candles.loc[MONDAY + 15 * HOUR, ["high", "close"]] = 150.0
    assert summary(candles) == {
        "bars": "17",
        "coverage": "85.000",
        "missing": "3 in 2 gaps",
        "longest gap": "2",
        "flat-filled": "3 in 1 stretches",
        "zero volume": "4",
        "largest move": "+50.0 at 2024-01-01 15:00",
    }


def test_largest_move_may_be_a_fall():
    candles = bars()
    candles.loc[MONDAY + 3 * HOUR, ["low", "close"]] = 40.0
    candles.loc[MONDAY + 4 * HOUR :, "close"] = 41.0
    assert summary(candles)["largest move"] == "-60.0 at 2024-01-01 03:00"


def test_whole_candles_have_nothing_to_report():
    said = summary(bars())
    assert (said["coverage"], said["missing"], said["longest gap"]) == ("100.000", "0 in 0 gaps", "0")
    assert (said["flat-filled"], said["zero volume"]) == ("0 in 0 stretches", "0")


def test_a_single_bar_has_no_move():
    assert summary(bars(1))["largest move"] == "–"


def test_nothing_is_repaired():
    candles = bars(missing=(4,), flat=(5, 6, 7))
    before = candles.copy()
    quality_summary(candles)
    pd.testing.assert_frame_equal(candles, before)


def test_known_defects_of_the_real_file(real_file):
    candles = pd.read_parquet(real_file)
    (hole,) = gaps(candles).itertuples()
    assert str(hole.start) == str(hole.end) == "2023-03-24 13:00:00+00:00"
    assert candles.loc["2023-03-24 12:00:00+00:00", "volume"] == 0
    halt = flat_stretches(candles).query("start >= '2018-02-08' and end < '2018-02-10'")
    assert halt["bars"].sum() >= 24
    filled = candles.loc[halt["start"].iloc[0] : halt["end"].iloc[0]]
    assert (filled["volume"] == 0).all()
    assert np.ptp(filled[["open", "high", "low", "close"]].to_numpy()) == 0
