"""From what a source answered to values by stamp: nothing wrong gets further than this."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from btclab.context.series import GENESIS, Readings, Series

CLOCKS_DIFFER = pd.Timedelta(hours=1)  # a stamp further in the future is wrong, not early


def values_by_stamp(series: Series, stamps: Sequence[Any], values: Sequence[Any], unit: str = "") -> pd.Series:
    """`values` by `stamps` (numbers in `unit`, "s" or "ms"; text if `unit` is ''), in order, without missing ones.

    The order of an answer means nothing and a repeated row is the same row. Raises `ValueError` naming the first stamp or
    value that cannot be: before Bitcoin or in the future, out of range, or two values for one stamp.
    """
    index = (
        _numbered(stamps, unit) if unit else pd.DatetimeIndex(pd.to_datetime(list(stamps), utc=True, format="ISO8601"))
    )
    numbers = pd.to_numeric(pd.Series(list(values), dtype=object)).to_numpy(dtype=float, na_value=np.nan)
    held = pd.Series(numbers, index=index.as_unit("ms").rename("timestamp"), name=series.name).dropna().sort_index()
    if held.empty:
        raise ValueError("it holds no values")
    if held.index[0] < GENESIS or held.index[-1] > pd.Timestamp.now("UTC") + CLOCKS_DIFFER:
        odd = held.index[0] if held.index[0] < GENESIS else held.index[-1]
        raise ValueError(f"{odd} is no time between {GENESIS:%Y-%m-%d} and now")
    numbers = held.to_numpy()
    wrong = np.flatnonzero(~(np.isfinite(numbers) & (numbers >= series.low) & (numbers <= series.high)))
    if len(wrong):
        allowed = f"{series.low:g} to {series.high:g}"
        raise ValueError(f"{numbers[wrong[0]]:g} at {held.index[wrong[0]]} is outside {allowed} ({series.unit})")
    held = held[~(held.index.duplicated() & (held.diff() == 0).to_numpy())]
    if held.index.has_duplicates:
        twice = held.index[held.index.duplicated()][0]
        raise ValueError(f"{twice} has two values, {' and '.join(f'{value:g}' for value in held[twice][:2])}")
    return held


def _numbered(stamps: Sequence[Any], unit: str) -> pd.DatetimeIndex:
    numbers = pd.to_numeric(pd.Series(list(stamps), dtype=object)).to_numpy(dtype=float, na_value=np.nan)
    scale = 1000 if unit == "s" else 1
    latest = (pd.Timestamp.now("UTC") + CLOCKS_DIFFER).timestamp() * 1000
    wrong = np.flatnonzero(~((numbers * scale >= GENESIS.timestamp() * 1000) & (numbers * scale <= latest)))
    if len(wrong):  # milliseconds where seconds are due lie in the far future, seconds for milliseconds in 1970
        raise ValueError(
            f"the stamp {stamps[int(wrong[0])]!r} is, in {unit}, no time between {GENESIS:%Y-%m-%d} and now"
        )
    return pd.DatetimeIndex(pd.to_datetime((numbers * scale).astype("int64"), unit="ms", utc=True))


def published(series: Series, readings: Readings) -> pd.Series:
    """The values that were public, and so final, when they were fetched: by the clock, never by cutting the last row."""
    return readings.values[pd.DatetimeIndex(readings.values.index) + series.lag <= readings.fetched]
