"""What is missing or odd in one set of candles. Nothing here repairs: a gap stays a gap.

What only a second venue can tell stands in `venues`; `check` puts both together. All of it looks at bars on both sides
of the one it judges: it is a verdict on a record, never a feature.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from btclab.errors import CandleError, TooFewBars
from btclab.market.candles import COLUMNS, infer_timeframe, timeframe_delta, timeframe_of

STRAIGHT = 1e-9  # relative bend: prices of a real market are rounded and bend more
FLAT_STRETCH = 3  # this many bars in a row without any price change are a filled halt, not a market
# Robust σ from which a bar is out of line. Simulated hours without a defect, 30 seeds of four years: moves reach
# 34 and spikes 17; the real crash of 2020-03-12 is a move of 16 (daily) and no spike, for the price stayed there.
MOVE, SPIKE = 40.0, 20.0
LARGE = 0.3  # log return of one bar, up or down, that nobody should take on trust whatever the volatility
MAD = 1.4826  # turns a median absolute deviation into the σ of a normal distribution
FINDINGS = ["finding", "severity", "start", "end", "bars", "detail"]


def gaps(candles: pd.DataFrame) -> pd.DataFrame:
    """Missing bars: one row per hole with `start` (first missing bar), `end` (last missing bar) and `bars`."""
    step = timeframe_delta(timeframe_of(candles))
    index = pd.DatetimeIndex(candles.index)
    jumps = np.flatnonzero(_steps(index) > step.to_timedelta64())
    missing = (index[jumps + 1] - index[jumps]) // step - 1
    return pd.DataFrame({"start": index[jumps] + step, "end": index[jumps + 1] - step, "bars": missing})


def each(table: pd.DataFrame) -> Iterator[Any]:
    """The rows of `table`, its columns as attributes."""
    yield from table.itertuples(index=False)


def _steps(index: pd.DatetimeIndex) -> np.ndarray:
    return np.diff(index.tz_localize(None).to_numpy())  # with a zone numpy would make an object of each stamp


def flat_stretches(candles: pd.DataFrame) -> pd.DataFrame:
    """Runs of at least `FLAT_STRETCH` bars whose open, high, low and close are one price: `start`, `end`, `bars`."""
    return runs(candles, (candles["high"] == candles["low"]).to_numpy(), FLAT_STRETCH)


def interpolated_stretches(candles: pd.DataFrame) -> pd.DataFrame:
    """Bars on a straight line in price and volume from the two before them: `start`, `end`, `bars`.

    No market moves so. Somebody has filled a halt with a line to the first bar after it: these bars know the future.
    """
    bend = candles[COLUMNS].diff().diff().abs() / candles[COLUMNS].abs().clip(lower=1e-9)
    straight = (bend.max(axis=1, skipna=False) < STRAIGHT) & (candles["close"].diff() != 0)
    return runs(candles, straight.to_numpy(), 1)


def silent_stretches(candles: pd.DataFrame) -> pd.DataFrame:
    """Runs of bars in which nothing was traded (volume 0): `start`, `end`, `bars`."""
    return runs(candles, (candles["volume"] == 0).to_numpy(), 1)


def runs(candles: pd.DataFrame, flags: np.ndarray, shortest: int) -> pd.DataFrame:
    """The runs of at least `shortest` rows that are flagged: `start`, `end`, `bars`."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], flags, [False])).astype(int)))
    first, past = edges[::2], edges[1::2]
    long = past - first >= shortest
    index = pd.DatetimeIndex(candles.index)
    return pd.DataFrame({"start": index[first[long]], "end": index[past[long] - 1], "bars": (past - first)[long]})


# Outliers


def bar_returns(candles: pd.DataFrame) -> pd.Series:
    """Log return of each close on that of the bar before; missing where that bar is missing, for a hole is no move."""
    step = timeframe_delta(timeframe_of(candles)).to_timedelta64()
    adjacent = np.append(False, _steps(pd.DatetimeIndex(candles.index)) == step)
    return pd.Series(np.log(candles["close"]), candles.index).diff().where(adjacent)


def local_volatility(returns: pd.Series, timeframe: str) -> pd.Series:
    """Robust σ of a bar's return: MAD over the week around it (61 to 401 bars), at least half of that of all bars."""
    width = window(timeframe)
    around = returns.abs().rolling(width, center=True, min_periods=width // 3).median()
    overall = returns.abs().median()
    return MAD * around.fillna(0.0).clip(lower=overall / 2).replace(0.0, np.nan)


def window(timeframe: str) -> int:
    """Bars around a bar (odd) that say what is usual there: a week of them, but 61 at least and 401 at most."""
    return int(np.clip(pd.Timedelta(days=7) // timeframe_delta(timeframe) + 1, 61, 401))


def outliers(candles: pd.DataFrame, move: float = MOVE, spike: float = SPIKE, large: float = LARGE) -> pd.DataFrame:
    """Bars out of line by a robust z-score, one row each: `start`, `kind`, `size` (log), `z` (local σ).

    A `low` or `high` is a spike: a price from which the market came back by the close of the next bar, as after a bad
    tick. A `move` stayed, as after a crash: it must be far larger, or over `large`, to be listed. Which is which, and
    whether it is real, only another venue can tell. Frames of closes alone are judged by their closes.
    """
    returns = bar_returns(candles)
    sigma = local_volatility(returns, timeframe_of(candles)).to_numpy()
    close, change = candles["close"].to_numpy(), returns.to_numpy()
    open_, high, low = (candles.get(name, candles["close"]).to_numpy() for name in ("open", "high", "low"))
    before = np.where(np.isnan(change), open_, np.append(np.nan, close[:-1]))
    after = np.where(np.isnan(np.append(change[1:], np.nan)), np.nan, np.append(close[1:], np.nan))
    with np.errstate(divide="ignore", invalid="ignore"):
        dip = np.log(np.minimum(before, np.fmax(close, after)) / low)
        peak = np.log(high / np.maximum(before, np.fmin(close, after)))
    spiked = (dip / sigma >= spike) | (peak / sigma >= spike)
    moved = (np.abs(change) / sigma >= move) | (np.abs(change) >= large)
    moved &= ~spiked & ~np.append(False, spiked[:-1])  # the way back from a spike is no move
    found = [
        pd.DataFrame({"start": candles.index[rows], "kind": kind, "size": size[rows], "z": (size / sigma)[rows]})
        for kind, size, rows in (
            ("low", dip, np.flatnonzero(dip / sigma >= spike)),
            ("high", peak, np.flatnonzero(peak / sigma >= spike)),
            ("move", change, np.flatnonzero(moved)),
        )
    ]
    return pd.concat(found, ignore_index=True).sort_values("start", ignore_index=True)


# Raw frames


def inspect_raw(frame: pd.DataFrame, timeframe: str | None = None) -> pd.DataFrame:
    """What `validate_candles` would refuse in `frame`, all of it at once: one row (`FINDINGS`) per kind of defect.

    `frame` has a DatetimeIndex of bar-open times; naive ones are read as UTC. Raises `CandleError` if it has none.
    """
    index = _raw_index(frame)
    step = timeframe_delta(timeframe or infer_timeframe(index.dropna().unique().sort_values()))
    untimed = np.asarray(index.isna())
    twice = np.asarray(index.duplicated(keep=False)) & ~untimed
    alike = frame.reset_index(drop=True).assign(_time=index).duplicated(keep=False).to_numpy()
    columns = [name for name in COLUMNS if name in frame.columns]
    values = frame[columns].apply(pd.to_numeric, errors="coerce")
    prices = values[[name for name in columns if name != "volume"]]
    outside = np.zeros(len(frame), dtype=bool)
    if {"open", "high", "low", "close"} <= set(columns):
        body = values[["open", "close"]]
        outside = ((values["high"] < body.max(axis=1)) | (values["low"] > body.min(axis=1))).to_numpy()
    negative = (prices <= 0).any(axis=1).to_numpy()
    if "volume" in columns:
        negative = negative | (values["volume"] < 0).to_numpy()
    late = np.append(False, np.diff(index.asi8) < 0) & ~untimed
    rows = [
        _raw_finding("no time", untimed, index, "rows without a timestamp"),
        _raw_finding("duplicate", twice & alike, index, "rows that say the same twice"),
        _raw_finding("conflicting duplicate", twice & ~alike, index, "rows of one time that differ"),
        _raw_finding("unsorted", late, index, "rows older than the row before them"),
        _raw_finding("misaligned stamp", np.asarray(index.floor(step) != index) & ~untimed, index,
                     f"bars that do not start on a whole {_words(step)}"),
        _raw_finding("missing value", ~np.isfinite(values.to_numpy()).all(axis=1), index, "rows with no number in a column"),
        _raw_finding("impossible bar", outside | negative, index, "bars outside their range, or with a price ≤ 0"),
    ]  # fmt: skip
    return pd.DataFrame([row for row in rows if row], columns=FINDINGS)


def clean_raw(frame: pd.DataFrame, timeframe: str | None = None) -> pd.DataFrame:
    """The rows of `frame` that `inspect_raw` has nothing against (of a time that comes twice, the last), sorted."""
    index = _raw_index(frame)
    timeframe = timeframe or frame.attrs.get("timeframe") or infer_timeframe(index.dropna().unique().sort_values())
    columns = [name for name in COLUMNS if name in frame.columns]
    values = frame[columns].apply(pd.to_numeric, errors="coerce").astype(float).set_axis(index.rename("timestamp"))
    sound = (
        np.isfinite(values.to_numpy()).all(axis=1)
        & ~np.asarray(index.isna())
        & (index.floor(timeframe_delta(timeframe)) == index)
    )
    sound = sound & (values.drop(columns="volume", errors="ignore") > 0).all(axis=1).to_numpy()
    values = values[sound]
    if values.empty:
        raise TooFewBars("There are no sound bars at all.")
    values = values[~values.index.duplicated(keep="last")].sort_index()
    values.attrs = {**frame.attrs, "timeframe": timeframe}
    return values


def _raw_index(frame: pd.DataFrame) -> pd.DatetimeIndex:
    if not isinstance(frame.index, pd.DatetimeIndex):
        raise CandleError(f"Candles need a DatetimeIndex named 'timestamp', found {type(frame.index).__name__}.")
    if not set(COLUMNS) & set(frame.columns) or "close" not in frame.columns:
        raise CandleError(f"No column 'close'; found: {', '.join(map(str, frame.columns))}. Rename the price to close.")
    return frame.index.tz_localize("UTC") if frame.index.tz is None else frame.index.tz_convert("UTC")


def _raw_finding(finding: str, wrong: np.ndarray, index: pd.DatetimeIndex, what: str) -> tuple[object, ...] | None:
    rows = np.flatnonzero(wrong)
    if not len(rows):
        return None
    times, named = index[rows].dropna(), ", ".join(map(str, rows[:3]))
    span = (times.min(), times.max()) if len(times) else (pd.NaT, pd.NaT)
    return (finding, "bad", *span, len(rows), f"{what}: row {named}{' …' if len(rows) > 3 else ''}")


def _words(step: pd.Timedelta) -> str:
    return {pd.Timedelta(days=1): "day", pd.Timedelta(hours=1): "hour"}.get(step, str(step).removeprefix("0 days "))


# The summary


def quality_summary(candles: pd.DataFrame) -> pd.DataFrame:
    """The state of `candles` in one table: columns `finding`, `value`, `unit`. Of closes alone, what they can tell."""
    step = timeframe_delta(timeframe_of(candles))
    expected = (candles.index[-1] - candles.index[0]) // step + 1
    holes = gaps(candles)
    moves = candles["close"].pct_change().to_numpy()[1:]
    largest = "–"  # of a single bar
    if len(moves):
        i = int(np.abs(moves).argmax())
        largest = f"{100 * moves[i]:+.1f} at {candles.index[i + 1]:%Y-%m-%d %H:%M}"
    rows = [
        ("bars", f"{len(candles):,}", "bars"),
        ("coverage", f"{100 * len(candles) / expected:.3f}", "% of the bars between first and last"),
        ("missing", f"{int(holes['bars'].sum()):,} in {len(holes):,} gaps", "bars"),
        ("longest gap", f"{int(holes['bars'].max()) if len(holes) else 0:,}", "bars"),
    ]
    if set(COLUMNS) <= set(candles.columns):
        flats, lines = flat_stretches(candles), interpolated_stretches(candles)
        rows += [
            ("flat-filled", f"{int(flats['bars'].sum()):,} in {len(flats):,} stretches", "bars"),
            ("interpolated", f"{int(lines['bars'].sum()):,} in {len(lines):,} stretches", "bars that know the future"),
            ("zero volume", f"{int((candles['volume'] == 0).sum()):,}", "bars"),
        ]
    return pd.DataFrame([*rows, ("largest move", largest, "% in one bar")], columns=["finding", "value", "unit"])
