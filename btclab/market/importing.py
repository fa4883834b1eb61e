"""Candles from a file: CSV or Parquet."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from btclab.errors import CandleError, InputError, TooFewBars
from btclab.market.candles import COLUMNS, infer_timeframe, validate_candles

_TIME_NAMES = ("timestamp", "date", "datetime", "time", "open_time")
_VOLUME_NAMES = ("volume", "volume_btc", "volume_base")
_Unit = Literal["ns", "us", "ms", "s"]
# Since 1970, for any time from 1973 to 5138. Binance's own files changed from ms to us in 2025.
_UNITS: dict[_Unit, float] = {"ns": 1e17, "us": 1e14, "ms": 1e11, "s": float("-inf")}


def read_candle_file(path: Path, zone: str | None = None) -> pd.DataFrame:
    """Candles in `path`, validated. Times are a `timestamp` (or date, time, open_time) column or the index.

    Numbers are taken as seconds, milli-, micro- or nanoseconds since 1970 by their size. Naive times
    need `zone`, the time zone they are in. Raises `InputError` naming the file, the row and the remedy.
    """
    if not path.is_file():
        raise InputError(f"There is no file {path}. Check the path; it is relative to the folder btclab runs in.")
    try:
        table = _read(path)
        candles = _columns(table)
        candles.index = index = _index(candles, zone)
        return validate_candles(validate_candles(candles), infer_timeframe(index))
    except InputError as error:
        raise type(error)(f"{path.name} is not a file of candles: {error}") from error


def _read(path: Path) -> pd.DataFrame:
    readers: dict[str, Callable[..., Any]] = {".csv": pd.read_csv, ".parquet": pd.read_parquet}
    if path.suffix.lower() not in readers:
        raise CandleError(f"it ends in {path.suffix!r}; use {' or '.join(readers)}.")
    try:
        table = readers[path.suffix.lower()](path)
    except (ValueError, OSError, KeyError) as error:  # what pandas and pyarrow raise for a file that is none
        raise CandleError(f"it cannot be read: {error}") from error
    if path.suffix.lower() == ".csv" and not table.index.equals(pd.RangeIndex(len(table))):
        raise CandleError("its rows have more values than its header has names.")  # pandas would shift the columns
    return table


def _columns(table: pd.DataFrame) -> pd.DataFrame:
    table = table.rename(columns={name: str(name).strip().lower() for name in table.columns})
    if not isinstance(table.index, pd.DatetimeIndex):
        found = [name for name in _TIME_NAMES if name in table.columns]
        if not found:
            raise CandleError(f"no time column: found {', '.join(map(str, table.columns))}; name one 'timestamp'.")
        table = table.set_index(found[0])
    volume = next((name for name in _VOLUME_NAMES if name in table.columns), None)
    if volume:
        table = table.rename(columns={volume: "volume"})
    if table.empty:
        raise TooFewBars("it has no rows.")
    twice = [name for name in COLUMNS if list(table.columns).count(name) > 1]
    if twice:
        raise CandleError(f"column {', '.join(twice)} comes twice (capitals do not count); keep one.")
    missing = [name for name in COLUMNS if name not in table.columns]
    if missing:
        raise CandleError(f"no column {', '.join(missing)}; found {', '.join(map(str, table.columns))}.")
    try:
        return table[COLUMNS].astype(float)
    except (ValueError, TypeError) as error:
        raise CandleError(f"a price or volume is not a number: {error}.") from error


def _index(candles: pd.DataFrame, zone: str | None) -> pd.DatetimeIndex:
    times = candles.index
    try:
        if pd.api.types.is_numeric_dtype(times.dtype):
            index = pd.DatetimeIndex(pd.to_datetime(pd.Series(times), unit=_unit(times), utc=True))
        else:
            index = pd.DatetimeIndex(times)
        if index.tz is None:
            if zone is None:
                raise CandleError("timestamps are naive: say their zone, e.g. file:PATH?tz=UTC.")
            index = index.tz_localize(zone)
    except CandleError:
        raise
    except (ValueError, TypeError, KeyError, OverflowError) as error:  # KeyError: an unknown zone
        raise CandleError(f"a timestamp is not a time, or {zone!r} is no zone: {error}.") from error
    return index.tz_convert("UTC").rename("timestamp")


def _unit(times: pd.Index) -> _Unit:
    units = {next(unit for unit, above in _UNITS.items() if not time < above) for time in (times.min(), times.max())}
    if len(units) > 1:
        raise CandleError(f"the times change their unit ({' and '.join(sorted(units))}): {times.min()}, {times.max()}.")
    return units.pop()
