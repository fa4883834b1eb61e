"""Candles from a file: CSV or Parquet."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from btclab.errors import CandleError, InputError
from btclab.market.candles import COLUMNS, validate_candles

_TIME_NAMES = ("timestamp", "date", "datetime", "time", "open_time")
_VOLUME_NAMES = ("volume", "volume_btc", "volume_base")


def read_candle_file(path: Path, zone: str | None = None) -> pd.DataFrame:
    """Candles in `path`, validated. Times are a `timestamp` (or date, time, open_time) column or the index.

    Numbers are taken as seconds or milliseconds since 1970 by their size. Naive times need `zone`, the time zone they
    are in. Raises `InputError` naming the file, the row and the remedy.
    """
    if not path.is_file():
        raise InputError(f"There is no file {path}. Check the path; it is relative to the folder btclab runs in.")
    try:
        table = _read(path)
        candles = _columns(table)
        candles.index = _index(candles, zone)
        return validate_candles(candles)
    except CandleError as error:
        raise type(error)(f"{path.name} is not a file of candles: {error}") from error


def _read(path: Path) -> pd.DataFrame:
    readers = {".csv": pd.read_csv, ".parquet": pd.read_parquet}
    if path.suffix not in readers:
        raise CandleError(f"it ends in {path.suffix!r}; use {' or '.join(readers)}.")
    try:
        return readers[path.suffix](path)
    except (ValueError, OSError) as error:  # what pandas and pyarrow raise for a file that is not what its name says
        raise CandleError(f"it cannot be read: {error}") from error


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
    missing = [name for name in COLUMNS if name not in table.columns]
    if missing:
        raise CandleError(f"no column {', '.join(missing)}; found {', '.join(map(str, table.columns))}.")
    try:
        return table[COLUMNS].astype(float)
    except ValueError as error:
        raise CandleError(f"a price or volume is not a number: {error}.") from error


def _index(candles: pd.DataFrame, zone: str | None) -> pd.DatetimeIndex:
    times = candles.index
    try:
        if pd.api.types.is_numeric_dtype(times.dtype):
            unit = "ms" if len(times) and times[0] > 1e11 else "s"
            index = pd.DatetimeIndex(pd.to_datetime(times, unit=unit, utc=True))
        else:
            index = pd.DatetimeIndex(times)
        if index.tz is None:
            if zone is None:
                raise CandleError("timestamps are naive: say their zone, e.g. file:PATH?tz=UTC.")
            index = index.tz_localize(zone)
    except CandleError:
        raise
    except (ValueError, TypeError, KeyError) as error:  # KeyError: an unknown zone
        raise CandleError(f"a timestamp is not a time, or {zone!r} is no zone: {error}.") from error
    return index.tz_convert("UTC").rename("timestamp")
