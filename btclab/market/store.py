"""The store: candles on disk as Parquet, `data/candles/<source>/<symbol>/<timeframe>/<year>.parquet`.

Bars are only ever added or corrected by a newer answer of the same source. Each file is replaced whole and atomically
under a lock, so that readers never wait, a kill leaves the old file, and two writers lose nothing.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from filelock import FileLock

from btclab.errors import StorageError
from btclab.files import write_atomically
from btclab.market.candles import COLUMNS, between, validate_candles
from btclab.settings import settings


def folder_of(source: str, symbol: str, timeframe: str) -> Path:
    """The folder of one market."""
    return settings().data / "candles" / source / symbol.replace("/", "-") / timeframe


def save_candles(candles: pd.DataFrame, source: str, symbol: str, timeframe: str) -> None:
    """Add `candles` to the store; where a bar is there already, the new one wins. Raises `StorageError`."""
    validate_candles(candles, timeframe)
    folder = folder_of(source, symbol, timeframe)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock"):
            for year, bars in candles[COLUMNS].groupby(pd.DatetimeIndex(candles.index).year):
                _merge(folder / f"{year}.parquet", bars)
    except OSError as error:
        raise StorageError(
            f"Cannot write {folder}: {error.strerror or error}. Check its owner and the free space."
        ) from error


def _merge(path: Path, bars: pd.DataFrame) -> None:
    if path.exists():
        bars = pd.concat([_read(path), bars])
        bars = bars[~bars.index.duplicated(keep="last")].sort_index()
    bars.attrs = {}
    write_atomically(path, lambda aside: bars.to_parquet(aside, write_page_checksum=True))


def _read(path: Path) -> pd.DataFrame:
    try:
        return validate_candles(pd.read_parquet(path, page_checksum_verification=True))
    except (OSError, ValueError, KeyError) as error:  # KeyError: damaged metadata
        raise StorageError(f"{path} cannot be read ({error}). Move it away and fetch that year again.") from error


def read_candles(
    source: str, symbol: str, timeframe: str, start: object = None, end: object = None
) -> pd.DataFrame | None:
    """Stored bars of one market from `start` up to but not including `end`; None if nothing is stored."""
    files = sorted(folder_of(source, symbol, timeframe).glob("[0-9]*.parquet"))
    if not files:
        return None
    candles = between(pd.concat([_read(file) for file in files]), start, end)
    candles.attrs = {"source": source, "symbol": symbol, "timeframe": timeframe, "simulated": False}
    return candles if len(candles) else None
