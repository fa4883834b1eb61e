"""Candles: the one table every other part of btclab reads.

A candle frame has a tz-aware UTC `DatetimeIndex` named `timestamp` (the bar's *open* time) and the float64 columns
`open high low close volume`. Prices are in quote currency, volume in base currency. A row is known only at its
`close_time = timestamp + timeframe`.

`candles.attrs` says where the rows came from: `source`, `symbol`, `timeframe`, `simulated` and, where it applies,
`stale` (how old stored data is that could not be refreshed), `notes` (sources that failed before this one, and why),
`repaired` (which bars are another venue's) and `remarks` (what else a reader must know of how the bars were made).
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pandas as pd

from btclab.errors import CandleError, TooFewBars, unknown

COLUMNS = ["open", "high", "low", "close", "volume"]
TIMEFRAMES = {
    **{f"{minutes}m": pd.Timedelta(minutes=minutes) for minutes in (1, 3, 5, 15, 30)},
    **{f"{hours}h": pd.Timedelta(hours=hours) for hours in (1, 2, 4, 6, 8, 12)},
    "1d": pd.Timedelta(days=1),
}
YEAR = pd.Timedelta(days=365)


def timeframe_delta(timeframe: str) -> pd.Timedelta:
    """Length of one bar, e.g. `"4h"` → 4 hours. Raises `InputError` on a timeframe btclab does not know."""
    if timeframe not in TIMEFRAMES:
        raise unknown("timeframe", timeframe, TIMEFRAMES)
    return TIMEFRAMES[timeframe]


def bars_per_year(timeframe: str) -> float:
    """Bars in a year of 365 days; the market never closes."""
    return YEAR / timeframe_delta(timeframe)


def infer_timeframe(index: pd.DatetimeIndex) -> str:
    """The timeframe whose length is the most common step of `index`. Raises `CandleError` if there is none."""
    if len(index) < 2:
        raise TooFewBars(f"The timeframe of {len(index)} bar(s) cannot be told; at least 2 are needed.")
    step = pd.Series(index).diff().mode().iloc[0]
    for name, delta in TIMEFRAMES.items():
        if delta == step:
            return name
    raise CandleError(
        f"The most common step between bars is {step}, which is no timeframe. Valid: {', '.join(TIMEFRAMES)}."
    )


def validate_candles(candles: pd.DataFrame, timeframe: str | None = None) -> pd.DataFrame:
    """`candles` itself if it keeps the schema of this module.

    Raises `CandleError` naming the first offending row, its value and the remedy. Missing bars are allowed (an
    exchange halts); wrong ones are not.
    """
    _check_index(candles)
    missing = [name for name in COLUMNS if name not in candles.columns]
    if missing:
        raise CandleError(
            f"Candles lack the column(s) {', '.join(missing)}; found: {', '.join(map(str, candles.columns))}. "
            "Rename yours to open, high, low, close, volume."
        )
    for name in COLUMNS:
        if list(candles.columns).count(name) > 1:
            raise CandleError(
                f"Column {name!r} comes twice; keep one, e.g. candles.loc[:, ~candles.columns.duplicated()]."
            )
        if candles[name].dtype != np.float64:
            raise CandleError(f"Column {name!r} has type {candles[name].dtype}; use float64: candles.astype(float).")
    columns = [candles[name].to_numpy() for name in COLUMNS]
    open_, high, low, close, volume = columns
    finite = np.logical_and.reduce([np.isfinite(column) for column in columns])
    _refuse(candles, ~finite, "holds a missing or infinite value")
    _refuse(candles, low <= 0, "has a price ≤ 0")
    _refuse(candles, high < low, "has its high below its low")
    _refuse(
        candles,
        (high < np.maximum(open_, close)) | (low > np.minimum(open_, close)),
        "opens or closes outside its range",
    )
    _refuse(candles, volume < 0, "has a negative volume")
    if timeframe is None:
        return candles
    delta = timeframe_delta(timeframe)
    index = pd.DatetimeIndex(candles.index)
    _refuse(candles, np.asarray(index.floor(delta) != index), f"does not start on a whole {timeframe}")
    return candles


def _check_index(candles: pd.DataFrame) -> None:
    index = candles.index
    if not isinstance(index, pd.DatetimeIndex):
        raise CandleError(f"Candles need a DatetimeIndex named 'timestamp', found {type(index).__name__}.")
    if index.tz is None:
        raise CandleError('Timestamps are naive: say their zone, e.g. candles.tz_localize("UTC").')
    if str(index.tz) != "UTC":
        raise CandleError(f'Timestamps are in {index.tz}: convert them with candles.tz_convert("UTC").')
    if len(index) == 0:
        raise TooFewBars("There are no bars at all.")
    if index.hasnans:
        raise CandleError(f"Row {int(index.isna().argmax())} has no timestamp (NaT). Fill it in or drop the row.")
    if index.has_duplicates:
        first = index[index.duplicated()][0]
        raise CandleError(
            f"Timestamp {first} comes twice: keep one, e.g. candles[~candles.index.duplicated(keep='last')]."
        )
    if not index.is_monotonic_increasing:
        steps = np.flatnonzero(np.diff(index.asi8) < 0)
        raise CandleError(
            f"Timestamps are not sorted: {index[steps[0] + 1]} follows {index[steps[0]]}. Use candles.sort_index()."
        )


def _refuse(candles: pd.DataFrame, wrong: np.ndarray, what: str) -> None:
    rows = np.flatnonzero(wrong)
    if not len(rows):
        return
    row = candles.iloc[rows[0]]
    values = ", ".join(f"{name}={row[name]:g}" for name in COLUMNS)
    more = f" ({len(rows)} such rows)" if len(rows) > 1 else ""
    raise CandleError(f"Row {rows[0]} at {row.name} {what}: {values}{more}. Correct or drop it: it cannot have traded.")


MOST_JUMP = 3.0  # BTC's worst day since 2013 halved its price; what is a factor away is a price in another unit
MOST_SPIKE = 10.0


def refuse_jumps(candles: pd.DataFrame, before: float | None = None) -> None:
    """Refuse bars that open `MOST_JUMP` times above or below the close before, or whose high is `MOST_SPIKE` times their body.

    Such bars are scaled or of another market. `before` is the close just before the first bar, if it is known. Only
    neighbours count: over a hole of more than a day the market may have gone anywhere. Raises `CandleError`.
    """
    open_, close = candles["open"].to_numpy(), candles["close"].to_numpy()
    ratio = open_ / np.concatenate([[before if before else open_[0]], close[:-1]])
    times = pd.DatetimeIndex(candles.index).as_unit("ns").asi8
    near = np.concatenate([[True], np.diff(times) <= pd.Timedelta("1D").value])
    _refuse(candles, near & ((ratio > MOST_JUMP) | (ratio < 1 / MOST_JUMP)), "opens far from the close before it")
    spike = candles["high"].to_numpy() > MOST_SPIKE * np.maximum(open_, close)  # down, one trade has gone to nothing
    _refuse(candles, spike, "has a high no market has")


def timeframe_of(candles: pd.DataFrame) -> str:
    """The timeframe named in `candles.attrs`, or the one its timestamps show."""
    return candles.attrs.get("timeframe") or infer_timeframe(pd.DatetimeIndex(candles.index))


def close_times(candles: pd.DataFrame) -> pd.DatetimeIndex:
    """When each bar became known: open time plus timeframe."""
    return pd.DatetimeIndex(candles.index) + timeframe_delta(timeframe_of(candles))


def closed_bars(candles: pd.DataFrame, now: pd.Timestamp) -> pd.DataFrame:
    """The bars that had closed at `now`: the forming bar is decided by the clock, never by cutting the last row."""
    return candles[close_times(candles) <= now]


def lapse(passed: pd.Timedelta) -> str:
    """A length of time as a person says it, e.g. '35 min', '3 h 5 min' or '2 days 3 h'."""
    minutes = int(passed.total_seconds() // 60)
    days, rest = divmod(minutes, 1440)
    if minutes < 60:
        return f"{minutes} min"
    hours = f"{rest // 60} h"
    return f"{days:,} day{'s' if days > 1 else ''} {hours}" if days else f"{hours} {rest % 60} min"


def between(candles: pd.DataFrame, start: object = None, end: object = None) -> pd.DataFrame:
    """Bars that open at or after `start` and before `end`; either may be None. Naive times are taken as UTC."""
    opened = pd.DatetimeIndex(candles.index).as_unit("ns")  # a time may be finer than the index
    first = 0 if start is None else int(opened.searchsorted(utc(start)))
    past = len(candles) if end is None else int(opened.searchsorted(utc(end)))
    return candles.iloc[first:past]


def utc(moment: object) -> pd.Timestamp:
    """`moment` (text, datetime or Timestamp) as a UTC Timestamp; naive means UTC. Raises `InputError` if it is no time."""
    try:
        stamp = pd.Timestamp(moment)  # type: ignore[arg-type]
    except (ValueError, TypeError) as error:
        raise CandleError(f"{moment!r} is not a time; write e.g. 2024-01-31 or 2024-01-31T12:00.") from error
    if pd.isna(stamp):
        raise CandleError(f"{moment!r} is not a time; write e.g. 2024-01-31 or 2024-01-31T12:00.")
    return stamp.tz_localize("UTC") if stamp.tz is None else stamp.tz_convert("UTC")


def describe(candles: pd.DataFrame) -> dict[str, Any]:
    """What a run records of its candles: source, market, span (UTC, open times), number of bars and fingerprint."""
    said = {key: candles.attrs.get(key) for key in ("source", "symbol", "simulated", "stale")}
    said |= {key: candles.attrs[key] for key in ("repaired", "remarks") if candles.attrs.get(key)}
    span = {"first": candles.index[0].isoformat(), "last": candles.index[-1].isoformat(), "bars": len(candles)}
    return {**said, "timeframe": timeframe_of(candles), **span, "fingerprint": fingerprint(candles)}


def fingerprint(candles: pd.DataFrame) -> str:
    """First 16 hex digits of the SHA-256 over timestamps (ns) and the five columns; equal data, equal fingerprint."""
    digest = hashlib.sha256(pd.DatetimeIndex(candles.index).as_unit("ns").asi8.astype("<i8").tobytes())
    digest.update(np.ascontiguousarray(candles[COLUMNS].to_numpy(dtype="<f8")).tobytes())
    return digest.hexdigest()[:16]


def resample(candles: pd.DataFrame, timeframe: str) -> pd.DataFrame:
    """Longer bars from shorter ones: first open, highest high, lowest low, last close, summed volume.

    The first and last bars are kept only if the shorter ones reach their edges, so that no bar is half a bar; hours in
    which the exchange halted are simply not in the sum, as in the exchange's own bars. Raises `InputError` when
    `timeframe` is shorter than, or no multiple of, the one that `candles` have.
    """
    old, new = timeframe_of(candles), timeframe
    if timeframe_delta(new) == timeframe_delta(old):
        return candles
    if timeframe_delta(new) % timeframe_delta(old) != pd.Timedelta(0):
        raise CandleError(f"Bars of {old} cannot be made into bars of {new}; ask for {old} or a multiple of it.")
    how = {"open": "first", "high": "max", "low": "min", "close": "last", "volume": "sum"}
    bars = candles[COLUMNS].resample(timeframe_delta(new)).agg(how).dropna()
    reached = close_times(candles)[-1]
    opened = pd.DatetimeIndex(bars.index)
    whole = (opened >= candles.index[0]) & (opened + timeframe_delta(new) <= reached)
    bars = bars[whole]
    bars.attrs = {**candles.attrs, "timeframe": new}
    return validate_candles(bars, new)
