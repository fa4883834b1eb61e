"""The store: candles on disk as Parquet, `data/candles/<source>/<symbol>/<timeframe>/<year>.parquet`.

Bars are only ever added or corrected by a newer answer of the same source. Each file is replaced whole and atomically
under a lock, so that readers never wait, a kill leaves the old file, and two writers lose nothing. Beside the years lie
`repairs.parquet` (bars of a named other venue that fill gaps) and `holes.json` (spans that the source was asked for
when they were long past, and had nothing to give).
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from filelock import FileLock

from btclab.errors import InputError, StorageError
from btclab.files import write_atomically, write_json
from btclab.market.candles import (
    COLUMNS,
    TIMEFRAMES,
    between,
    resample,
    timeframe_delta,
    utc,
    validate_candles,
)
from btclab.settings import settings

Span = tuple[pd.Timestamp, pd.Timestamp]  # open times, from the first up to but not including the second
FLUSH_S = 2.0  # seconds of fetching that a kill may cost
FLUSH_BARS = 50_000
_YEARS = "[0-9][0-9][0-9][0-9].parquet"


def folder_of(source: str, symbol: str, timeframe: str) -> Path:
    """The folder of one market. Raises `InputError` for a name that is none, such as one that climbs out of the store."""
    if not re.fullmatch(r"\w[\w.\-]*", source):
        raise InputError(f"{source!r} is no name of a source: use letters, digits, '.', '_' and '-'.")
    if not re.fullmatch(r"\w[\w./:\-]*", symbol) or ".." in symbol:
        raise InputError(f"{symbol!r} is no market: write BASE/QUOTE, e.g. BTC/USDT.")
    return settings().data / "candles" / source / symbol.replace("/", "-").replace(":", "_") / timeframe


def save_candles(candles: pd.DataFrame, source: str, symbol: str, timeframe: str) -> None:
    """Add `candles` to the store; where a bar is there already, the new one wins. Raises `StorageError`."""
    validate_candles(candles, timeframe)

    def merge(folder: Path) -> None:
        for year, bars in candles[COLUMNS].groupby(pd.DatetimeIndex(candles.index).year):
            _merge(folder / f"{year}.parquet", bars)

    _locked(folder_of(source, symbol, timeframe), merge)


def _locked(folder: Path, work: Callable[[Path], None]) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock"):
            work(folder)
    except OSError as error:
        raise StorageError(
            f"Cannot write {folder}: {error.strerror or error}. Check its owner and the free space."
        ) from error


def _merge(path: Path, bars: pd.DataFrame) -> None:
    if path.exists():
        bars = pd.concat([_read(path), bars])
        bars = bars[~bars.index.duplicated(keep="last")].sort_index()
    bars.attrs = {}
    _write(bars, path)


def _write(bars: pd.DataFrame, path: Path) -> None:
    """Prices hardly repeat: without a dictionary, and with lz4, a year is written twice as fast as by default."""
    options: dict[str, Any] = {"write_page_checksum": True, "use_dictionary": False, "compression": "lz4"}
    write_atomically(path, lambda aside: bars.to_parquet(aside, **options))


def _read(path: Path) -> pd.DataFrame:
    try:
        return validate_candles(pd.read_parquet(path, page_checksum_verification=True))
    except (OSError, ValueError, KeyError) as error:  # KeyError: damaged metadata
        raise StorageError(f"{path} cannot be read ({error}). Move it away and fetch that year again.") from error


def read_candles(
    source: str, symbol: str, timeframe: str, start: object = None, end: object = None
) -> pd.DataFrame | None:
    """Stored bars of one market from `start` up to but not including `end`; None if nothing is stored.

    Only the years of that span are read. Repaired bars are among them; `attrs["repaired"]` says which and from where.
    """
    folder = folder_of(source, symbol, timeframe)
    files = _files(folder, start, end)
    if not files:
        return None
    own = [between(_read(file), start, end) for file in files]
    candles = own[0] if len(own) == 1 else pd.concat(own)
    repairs = between(_read_repairs(folder), start, end)
    repairs = repairs[~repairs.index.isin(candles.index)]
    if len(repairs):
        candles = pd.concat([candles, repairs[COLUMNS]]).sort_index()
    candles.attrs = {"source": source, "symbol": symbol, "timeframe": timeframe, "simulated": False}
    if len(repairs):
        candles.attrs["repaired"] = _spans_by_venue(repairs, timeframe)
    return candles if len(candles) else None


def _files(folder: Path, start: object, end: object) -> list[Path]:
    first = utc(start).year if start is not None else 0
    last = utc(end).year if end is not None else 9999
    return [path for path in sorted(folder.glob(_YEARS)) if first <= int(path.stem) <= last]


def resampled_from_store(source: str, symbol: str, timeframe: str) -> pd.DataFrame | None:
    """Bars of `timeframe` made from the longest stored timeframe that divides it; None if there is none."""
    wanted = timeframe_delta(timeframe)
    for shorter in sorted(TIMEFRAMES, key=lambda name: TIMEFRAMES[name], reverse=True):
        if TIMEFRAMES[shorter] < wanted and wanted % TIMEFRAMES[shorter] == pd.Timedelta(0):
            candles = read_candles(source, symbol, shorter)
            if candles is not None:
                bars = resample(candles, timeframe)
                bars.attrs["remarks"] = [f"Bars of {timeframe} made from the stored {shorter} of {source}"]
                return bars
    return None


# What is there, without reading it


def held_spans(source: str, symbol: str, timeframe: str) -> list[Span]:
    """The unbroken spans of the source's own stored bars, in order. One column of one year is in memory at a time."""
    step = timeframe_delta(timeframe)
    spans: list[Span] = []
    for path in _files(folder_of(source, symbol, timeframe), None, None):
        for first, past in _unbroken(_stamps(path), step):
            if spans and spans[-1][1] == first:
                first = spans.pop()[0]  # noqa: PLW2901  it goes on over New Year
            spans.append((first, past))
    return spans


def _stamps(path: Path) -> pd.DatetimeIndex:
    try:
        column = pq.read_table(path, columns=["timestamp"], page_checksum_verification=True).column(0)
        return pd.DatetimeIndex(column.to_pandas(), name="timestamp")
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise StorageError(f"{path} cannot be read ({error}). Move it away and fetch that year again.") from error


def _unbroken(index: pd.DatetimeIndex, step: pd.Timedelta) -> Iterator[Span]:
    # As integers: numpy makes an object of each time that has a zone.
    breaks = np.flatnonzero(np.diff(index.as_unit("ns").asi8) != step.value) + 1
    for first, past in zip([0, *breaks.tolist()], [*breaks.tolist(), len(index)], strict=True):
        if past > first:
            yield index[first], index[past - 1] + step


def bar_at(source: str, symbol: str, timeframe: str, opened: pd.Timestamp) -> pd.DataFrame | None:
    """The source's own stored bar that opens at `opened`, as a frame of one row; None if there is none."""
    for path in _files(folder_of(source, symbol, timeframe), opened, opened):
        bar = pd.read_parquet(path, filters=[("timestamp", "=", opened)])
        if len(bar):
            return bar
    return None


class Buffer:
    """Pages on their way to the store: written every `FLUSH_S` seconds, and when the block ends, however it ends.

    A file is rewritten whole, so that one write a page would cost more than the pages.
    """

    def __init__(self, source: str, symbol: str, timeframe: str) -> None:
        self._market = (source, symbol, timeframe)
        self._pages: list[pd.DataFrame] = []
        self._written = time.monotonic()

    def __enter__(self) -> Buffer:
        return self

    def __exit__(self, *_: object) -> None:
        self.flush()

    def add(self, page: pd.DataFrame) -> None:
        """Take a page of closed bars."""
        self._pages.append(page)
        if time.monotonic() - self._written > FLUSH_S or sum(map(len, self._pages)) > FLUSH_BARS:
            self.flush()

    def flush(self) -> None:
        """Store what has been taken."""
        if self._pages:
            pages = pd.concat(self._pages)
            save_candles(pages[~pages.index.duplicated(keep="last")].sort_index(), *self._market)
            self._pages = []
        self._written = time.monotonic()


# Spans that the source has nothing for


def known_holes(source: str, symbol: str, timeframe: str) -> list[Span]:
    """Spans that the source was asked for and had no bars in."""
    return _read_holes(folder_of(source, symbol, timeframe))


def _read_holes(folder: Path) -> list[Span]:
    try:
        pairs = json.loads((folder / "holes.json").read_text(encoding="utf-8"))["spans"]
        return [(utc(first), utc(past)) for first, past in pairs]
    except (OSError, ValueError, KeyError, TypeError):
        return []  # lost: they are asked for once more


def remember_holes(spans: list[Span], source: str, symbol: str, timeframe: str) -> None:
    """Add `spans` to the holes of a market."""

    def merge(folder: Path) -> None:
        joined: list[Span] = []
        for first, past in sorted({*_read_holes(folder), *spans}):
            if joined and first <= joined[-1][1]:
                begun, reached = joined.pop()
                joined.append((begun, max(reached, past)))
            else:
                joined.append((first, past))
        write_json(folder / "holes.json", {"spans": [[a.isoformat(), b.isoformat()] for a, b in joined]})

    if spans:
        _locked(folder_of(source, symbol, timeframe), merge)


def forget_holes(source: str, symbol: str, timeframe: str) -> None:
    """Ask for every hole again at the next fetch."""
    (folder_of(source, symbol, timeframe) / "holes.json").unlink(missing_ok=True)


# Bars of another venue in the gaps


def save_repairs(bars: pd.DataFrame, source: str, symbol: str, timeframe: str, venue: str) -> None:
    """Keep `bars` of `venue` beside those of `source`, to stand where it has none; its own bars always win."""
    validate_candles(bars, timeframe)

    def merge(folder: Path) -> None:
        merged = pd.concat([_read_repairs(folder), bars[COLUMNS].assign(venue=venue)])
        merged = merged[~merged.index.duplicated(keep="last")].sort_index()
        _write(merged, folder / "repairs.parquet")

    _locked(folder_of(source, symbol, timeframe), merge)


def _read_repairs(folder: Path) -> pd.DataFrame:
    path = folder / "repairs.parquet"
    if not path.exists():
        none = pd.DatetimeIndex([], name="timestamp").tz_localize("UTC")
        return pd.DataFrame({name: pd.Series(dtype=float) for name in COLUMNS}, index=none).assign(venue="")
    try:
        repairs = pd.read_parquet(path, page_checksum_verification=True)
        validate_candles(repairs)
        return repairs[[*COLUMNS, "venue"]]
    except (OSError, ValueError, KeyError) as error:
        raise StorageError(f"{path} cannot be read ({error}). Move it away and repair again.") from error


def _spans_by_venue(repairs: pd.DataFrame, timeframe: str) -> list[dict[str, Any]]:
    """Which bars are repaired: start and end (open times of the first and last), bars, venue."""
    step = timeframe_delta(timeframe)
    found = []
    for venue, bars in repairs.groupby("venue"):
        for first, past in _unbroken(pd.DatetimeIndex(bars.index), step):
            span = {"start": first.isoformat(), "end": (past - step).isoformat()}
            found.append({**span, "bars": int((past - first) // step), "venue": str(venue)})
    return sorted(found, key=lambda span: span["start"])
