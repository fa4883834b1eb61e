"""Candles from files of any origin: look at them (`inspect_file`), read them (`read_candle_file`), store them (`import_candles`).

The command line, notebooks and uploads go through the same three calls. What cannot be told from the file is asked for, never
assumed; a wrong row is refused by its number; only rows that say nothing (copies, rows without any price) are left out, and
counted.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from pathlib import Path, PurePath
from typing import Any, BinaryIO

import pandas as pd

from btclab.errors import CandleError, InputError, TooFewBars, unknown
from btclab.market.candles import COLUMNS, closed_bars, infer_timeframe, timeframe_delta
from btclab.market.columns import decimal_of, guess_columns, numbers, read_times
from btclab.market.inspection import MOST_SHOWN, Options, Preview, bar_opens, examine, symbol_of
from btclab.market.quality import gaps
from btclab.market.store import read_candles, save_candles
from btclab.market.tables import read_table

Source = Path | str | bytes | BinaryIO


@dataclass(frozen=True)
class Imported:
    """What was stored, and what was not."""

    source: str
    symbol: str
    timeframe: str
    rows: int
    kept: int
    duplicates: int
    empty: int
    forming: int
    replaced: int  # stored before with other values
    gaps: pd.DataFrame
    first: pd.Timestamp
    last: pd.Timestamp
    columns: dict[str, str]
    notes: tuple[str, ...]

    @property
    def report(self) -> pd.DataFrame:
        """The validation report: columns `finding` and `value`."""
        missing = int(self.gaps["bars"].sum())
        rows = [
            ("rows read", f"{self.rows:,}"),
            ("bars stored", f"{self.kept:,}"),
            ("identical copies left out", f"{self.duplicates:,}"),
            ("rows without any price left out", f"{self.empty:,}"),
            ("bars not closed yet left out", f"{self.forming:,}"),
            ("bars stored before with other values, replaced", f"{self.replaced:,}"),
            ("missing bars", f"{missing:,} in {len(self.gaps):,} gaps"),
            ("first bar opens", f"{self.first:%Y-%m-%d %H:%M} UTC"),
            ("last bar opens", f"{self.last:%Y-%m-%d %H:%M} UTC"),
            *(("note", note) for note in self.notes),
        ]
        return pd.DataFrame(rows, columns=["finding", "value"])


def inspect_file(file: Source, filename: str = "", **options: Any) -> Preview:
    """How `file` (a path, bytes or an open file; these need `filename`) would be imported with `options` (see `Options`).

    Raises `InputError` where it cannot be read at all; all else is in `questions` and `problems`.
    """
    data, name = _contents(file, filename)
    return _named(name, data, _options(options))[0]


def read_candle_file(path: Path, zone: str | None = None, **options: Any) -> pd.DataFrame:
    """Candles in `path`, validated, oldest first. Naive times are in `zone`; for the other options see `Options`.

    Raises `InputError` naming the file, the rows and the remedy.
    """
    data, name = _contents(path, "")
    preview, candles = _named(name, data, _options({"zone": zone, **options}))
    _refuse(preview)
    return candles


def read_closes(path: Path, column: str, zone: str | None = None, stamp: str = "close", **options: Any) -> pd.Series:
    """One price a row as the close of its bar, indexed by the bar's open (UTC): for comparing, not for trading.

    Files that hold snapshots (`stamp="snapshot"`: the row dated t is the close of t−1) or closes only are no candles, and
    are never made into candles. Raises `InputError` as `read_candle_file` does.
    """
    chosen = _options({"zone": zone, "stamp": stamp, **options})
    data, name = _contents(path, "")
    frame = read_table(data, name, chosen.sheet).frame
    roles = guess_columns(frame.columns, {**chosen.columns, "close": column}, symbol_of(chosen))
    if "timestamp" not in roles:
        raise InputError(f"{name}: no time column: found {', '.join(frame.columns)}.")
    times = read_times(frame[roles["timestamp"]], chosen.zone, chosen.unit, chosen.dayfirst)
    if times.questions:
        raise InputError(f"{name}: {times.questions[0].text}.")
    closes = numbers(frame[roles["close"]], chosen.decimal or decimal_of([frame[roles["close"]]]) or ".")
    wrong = {**dict.fromkeys(closes.index[~(closes > 0)], "has no price"), **times.wrong}
    if wrong:
        row, what = min(wrong.items())
        raise InputError(f"{name}: row {row} {what} ({len(wrong)} such rows).")
    index = pd.DatetimeIndex(times.stamps)
    timeframe = chosen.timeframe or infer_timeframe(index.sort_values().unique())
    closes.index = bar_opens(index, timeframe, stamp).rename("timestamp")
    return closes[~closes.index.duplicated(keep="last")].sort_index().rename(column)


def import_candles(
    file: Source,
    name: str,
    symbol: str | None = None,
    timeframe: str | None = None,
    *,
    filename: str = "",
    as_exchange: bool = False,
    **options: Any,
) -> Imported:
    """Validate `file` and store its closed bars under the source `name`: `load_candles(f"store:{name}")` gives them back.

    Where a bar is stored already, the file's wins (`replaced` counts those that differ). `name` may be an exchange's only
    with `as_exchange`, for then imported and fetched bars are one series. Raises `InputError` naming what must be answered
    or which rows are wrong; then nothing is stored.
    """
    check_name(name, as_exchange)
    chosen = _options({"symbol": symbol, "timeframe": timeframe, **options})
    market = symbol_of(chosen)
    data, called = _contents(file, filename)
    preview, candles = _named(called, data, chosen)
    _refuse(preview)
    if candles.attrs.get("simulated") or "simulated" in called.lower():
        raise InputError(f"{called} holds simulated candles; the store is for real ones. Use it as file:{called}")
    held = preview.timeframe
    closed = closed_bars(candles, pd.Timestamp.now("UTC"))
    if closed.empty:
        raise TooFewBars(f"{called} holds no bar that has closed.")
    before = read_candles(name, market, held, closed.index[0], closed.index[-1] + timeframe_delta(held))
    save_candles(closed, name, market, held)
    return Imported(
        source=name,
        symbol=market,
        timeframe=held,
        rows=preview.rows,
        kept=len(closed),
        duplicates=preview.duplicates,
        empty=preview.empty,
        forming=len(candles) - len(closed),
        replaced=_changed(before, closed),
        gaps=gaps(closed),
        first=closed.index[0],
        last=closed.index[-1],
        columns=preview.columns,
        notes=preview.notes,
    )


def check_name(name: str, as_exchange: bool = False) -> None:
    """Raise `InputError` unless `name` can be the name of imported candles."""
    import ccxt

    if not re.fullmatch(r"[a-z0-9][a-z0-9_.-]{0,39}", name):
        raise InputError(f"{name!r} is no name for candles: small letters, digits, - _ . only, e.g. mydata")
    if name in ("file", "store", "simulated"):
        raise InputError(f"{name!r} is a kind of source, no name; use e.g. my-{name}")
    if not as_exchange and (name in ccxt.exchanges or name == "coingecko"):
        raise InputError(
            f"{name!r} is an exchange: imported bars would mix with fetched ones. Use e.g. my-{name}, or say that this is "
            "meant: --as-exchange (as_exchange=True)"
        )


def _changed(before: pd.DataFrame | None, after: pd.DataFrame) -> int:
    if before is None:
        return 0
    both = before.index.intersection(after.index)
    return int((before.loc[both, COLUMNS].to_numpy() != after.loc[both, COLUMNS].to_numpy()).any(axis=1).sum())


def _options(given: dict[str, Any]) -> Options:
    wrong = set(given) - {one.name for one in fields(Options)}
    if wrong:
        raise unknown("option", sorted(wrong)[0], [one.name for one in fields(Options)])
    return Options(**{key: value for key, value in given.items() if value is not None})


def _contents(file: Source, filename: str) -> tuple[bytes, str]:
    if isinstance(file, str | Path):
        path = Path(file).expanduser()
        if not path.is_file():
            raise InputError(f"There is no file {path}. Check the path; it is relative to the folder btclab runs in.")
        return path.read_bytes(), filename or path.name
    name = filename or PurePath(str(getattr(file, "name", ""))).name
    if not name:
        raise InputError(
            "Give the name of what is uploaded, e.g. filename='prices.csv'; its suffix says how to read it."
        )
    return bytes(file) if isinstance(file, bytes | bytearray | memoryview) else file.read(), name


def _named(name: str, data: bytes, options: Options) -> tuple[Preview, pd.DataFrame]:
    try:
        return examine(name, read_table(data, name, options.sheet), options)
    except (CandleError, TooFewBars) as error:
        raise type(error)(f"{name} is not a file of candles: {error}") from error


def _refuse(preview: Preview) -> None:
    """Raise `CandleError` if something is still to be answered or a row is wrong."""
    if preview.questions:
        asked = "; ".join(question.text for question in preview.questions)
        raise CandleError(f"{preview.name} cannot be taken as candles yet: {asked}.")
    wrong = preview.problems
    if wrong.empty:
        return
    lines = [f"row {line.row} ({line.timestamp}) {line.problem}" for line in wrong.head(MOST_SHOWN).itertuples()]
    more = len(wrong) - len(lines)
    rest = f"; and {more:,} more: btclab import {preview.name} --preview" if more else ""
    raise CandleError(f"{preview.name}: {'; '.join(lines)}{rest}. Correct or drop: nothing was taken from the file.")
