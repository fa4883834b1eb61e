"""What is missing or odd in a set of candles. Nothing here repairs: a gap stays a gap."""

from __future__ import annotations

import numpy as np
import pandas as pd

from btclab.market.candles import COLUMNS, timeframe_delta, timeframe_of

STRAIGHT = 1e-9  # relative bend: prices of a real market are rounded and bend more
FLAT_STRETCH = 3  # this many bars in a row without any price change are a filled halt, not a market


def gaps(candles: pd.DataFrame) -> pd.DataFrame:
    """Missing bars: one row per hole with `start` (first missing bar), `end` (last missing bar) and `bars`."""
    step = timeframe_delta(timeframe_of(candles))
    index = pd.DatetimeIndex(candles.index)
    jumps = np.flatnonzero(np.diff(index) > step)
    missing = (index[jumps + 1] - index[jumps]) // step - 1
    return pd.DataFrame({"start": index[jumps] + step, "end": index[jumps + 1] - step, "bars": missing})


def flat_stretches(candles: pd.DataFrame) -> pd.DataFrame:
    """Runs of at least `FLAT_STRETCH` bars whose open, high, low and close are one price: `start`, `end`, `bars`."""
    return _runs(candles, (candles["high"] == candles["low"]).to_numpy(), FLAT_STRETCH)


def interpolated_stretches(candles: pd.DataFrame) -> pd.DataFrame:
    """Bars on a straight line in price and volume from the two before them: `start`, `end`, `bars`.

    No market moves so. Somebody has filled a halt with a line to the first bar after it: these bars know the future.
    """
    bend = candles[COLUMNS].diff().diff().abs() / candles[COLUMNS].abs().clip(lower=1e-9)
    straight = (bend.max(axis=1, skipna=False) < STRAIGHT) & (candles["close"].diff() != 0)
    return _runs(candles, straight.to_numpy(), 1)


def _runs(candles: pd.DataFrame, flags: np.ndarray, shortest: int) -> pd.DataFrame:
    """The runs of at least `shortest` bars that are flagged."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], flags, [False])).astype(int)))
    first, past = edges[::2], edges[1::2]
    long = past - first >= shortest
    index = pd.DatetimeIndex(candles.index)
    return pd.DataFrame({"start": index[first[long]], "end": index[past[long] - 1], "bars": (past - first)[long]})


def quality_summary(candles: pd.DataFrame) -> pd.DataFrame:
    """The state of `candles` in one table: columns `finding`, `value`, `unit`."""
    step = timeframe_delta(timeframe_of(candles))
    expected = (candles.index[-1] - candles.index[0]) // step + 1
    holes, flats, lines = gaps(candles), flat_stretches(candles), interpolated_stretches(candles)
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
        ("flat-filled", f"{int(flats['bars'].sum()):,} in {len(flats):,} stretches", "bars"),
        ("interpolated", f"{int(lines['bars'].sum()):,} in {len(lines):,} stretches", "bars that know the future"),
        ("zero volume", f"{int((candles['volume'] == 0).sum()):,}", "bars"),
        ("largest move", largest, "% in one bar"),
    ]
    return pd.DataFrame(rows, columns=["finding", "value", "unit"])
