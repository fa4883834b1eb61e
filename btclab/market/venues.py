"""One market on two venues: where their prices part, whether one is dated early or late.

The *premium* is log(own close / the other's close). Everything here looks at bars on both sides of the one it judges.
"""

from __future__ import annotations

from pathlib import PurePath

import numpy as np
import pandas as pd

from btclab.errors import InputError, TooFewBars
from btclab.market.candles import COLUMNS, resample, timeframe_delta, timeframe_of
from btclab.market.quality import MAD, bar_returns, each, local_volatility, runs, window

LAGS = 3  # bars that a series is tried to be early or late by
LEAST_OVERLAP = 60  # bars with a return on both venues; with fewer, an early or late date cannot be told from luck
SWITCH = 25.0  # a change of lag must explain this many σ of return that staying leaves unexplained
SIGNIFICANT = 5.0  # σ (Fisher's z) by which a lag must beat no lag; 1 in 3.5 million by luck
LEAST_CORRELATION = 0.3
APART, APART_SIGMA = 0.005, 12.0  # log price; and σ of what is usual around the bar: both must be passed
LEVEL, FOREIGN = 0.05, 0.2  # log premium that no two venues of one market keep up; and that is another market's price


def venue_of(candles: pd.DataFrame) -> str:
    """Name of where `candles` come from."""
    source = str(candles.attrs.get("source") or "the reference")
    return PurePath(source.removeprefix("file:")).stem if source.startswith("file:") else source.removeprefix("store:")


def at_timeframe(reference: pd.DataFrame, candles: pd.DataFrame) -> pd.DataFrame:
    """`reference` in the timeframe of `candles`. Raises `InputError` if its own is longer."""
    own, other = timeframe_of(candles), timeframe_of(reference)
    if timeframe_delta(other) > timeframe_delta(own):
        raise InputError(
            f"{venue_of(reference)} has bars of {other}, which cannot judge bars of {own}: "
            f"check at {other}, or name a reference with bars of {own} or shorter."
        )
    return reference if own == other else resample(reference, own)


# Early or late


def _lagged_returns(
    candles: pd.DataFrame, reference: pd.DataFrame, most: int
) -> tuple[pd.DatetimeIndex, np.ndarray, np.ndarray]:
    """Times [n], own returns [n] and the reference's at each lag [n, 2·most + 1], in local σ and cut off at ±4."""
    timeframe = timeframe_of(candles)
    step, index = timeframe_delta(timeframe), pd.DatetimeIndex(candles.index)
    own, other = (
        (returns / local_volatility(returns, timeframe)).clip(-4, 4)
        for returns in (bar_returns(candles), bar_returns(reference))
    )
    lagged = np.column_stack([other.reindex(index - lag * step).to_numpy() for lag in range(-most, most + 1)])
    whole = np.isfinite(own.to_numpy()) & np.isfinite(lagged).all(axis=1)
    if whole.sum() < LEAST_OVERLAP:
        raise TooFewBars(
            f"{int(whole.sum())} bars have a return on both venues; at least {LEAST_OVERLAP} are needed "
            f"to tell whether one is dated early or late. Name a reference that covers more of the same time."
        )
    return index[whole], own.to_numpy()[whole], lagged[whole]


def lag_correlations(candles: pd.DataFrame, reference: pd.DataFrame, most: int = LAGS) -> pd.DataFrame:
    """Correlation of returns with the reference's at each lag, by span of one lag: `start`, `end`, `lag`, `correlation`.

    Lag 1 means that the row of *t* moves as the reference's row of *t* − 1 bar: dated one bar late. Raises `TooFewBars`.
    """
    index, own, lagged = _lagged_returns(candles, reference, most)
    rows = [
        (index[first], index[past - 1], lag, _correlation(own[first:past], lagged[first:past, lag + most]))
        for first, past, _ in _spans_of_one_lag(own, lagged)
        for lag in range(-most, most + 1)
    ]
    return pd.DataFrame(rows, columns=["start", "end", "lag", "correlation"])


def date_shifts(candles: pd.DataFrame, reference: pd.DataFrame, most: int = LAGS) -> pd.DataFrame:
    """Spans in which `candles` keep one lag to `reference`, oldest first; a clean series has one span of lag 0.

    Columns: `start`, `end`, `bars`, `lag` (bars; 1: dated one bar late, −1: one early), `correlation` at that lag,
    `at_zero` (without it), `z` (σ by which it beats no lag, Fisher 1921) and `told`: False where the span is too short
    or the two move too little together for the lag to be trusted. Raises `TooFewBars` under `LEAST_OVERLAP` bars.
    """
    index, own, lagged = _lagged_returns(candles, reference, most)
    rows = []
    for first, past, column in _spans_of_one_lag(own, lagged):
        bars, part = past - first, slice(first, past)
        best, zero = _correlation(own[part], lagged[part, column]), _correlation(own[part], lagged[part, most])
        z = float((np.arctanh(min(best, 0.9999)) - np.arctanh(min(zero, 0.9999))) * np.sqrt(max(bars - 3, 0) / 2))
        told = bars >= LEAST_OVERLAP and best >= LEAST_CORRELATION and (column == most or z >= SIGNIFICANT)
        rows.append((index[first], index[past - 1], bars, column - most, best, zero, z, told))
    return pd.DataFrame(rows, columns=["start", "end", "bars", "lag", "correlation", "at_zero", "z", "told"])


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    if len(one) < 3 or not one.std() or not other.std():
        return 0.0
    return float(np.corrcoef(one, other)[0, 1])


def _spans_of_one_lag(own: np.ndarray, lagged: np.ndarray) -> list[tuple[int, int, int]]:
    """(first row, row past the last, column) of each span: the path of lags that leaves least unexplained (Viterbi 1967).

    A change costs `SWITCH`. The path is found on blocks of rows, and each change then put at its best row.
    """
    error = np.abs(own[:, None] - lagged)  # [row, lag]
    size = max(4, len(own) // 2000)
    blocks = np.add.reduceat(error, np.arange(0, len(own), size))  # [block, lag]
    total, came = blocks[0], np.zeros(blocks.shape, dtype=int)
    stay = np.arange(error.shape[1])
    for i in range(1, len(blocks)):
        best = int(total.argmin())
        came[i] = np.where(total <= total[best] + SWITCH, stay, best)
        total = np.minimum(total, total[best] + SWITCH) + blocks[i]
    path = np.empty(len(blocks), dtype=int)
    path[-1] = total.argmin()
    for i in range(len(blocks) - 1, 0, -1):
        path[i - 1] = came[i, path[i]]
    cuts = [0]
    for i in (np.flatnonzero(np.diff(path)) + 1).tolist():
        low, high = max(cuts[-1] + 1, (i - 2) * size), min(len(own), (i + 2) * size)
        gain = np.cumsum(error[low:high, path[i - 1]] - error[low:high, path[i]])
        cuts.append(low + int(gain.argmin()) + 1 if gain.min() < 0 else low)
    columns = [path[0], *(path[np.flatnonzero(np.diff(path)) + 1])]
    return [(a, b, int(c)) for a, b, c in zip(cuts, [*cuts[1:], len(own)], columns, strict=True) if b > a]


def aligned(reference: pd.DataFrame, candles: pd.DataFrame, shifts: pd.DataFrame | None) -> pd.DataFrame:
    """`reference` at the times of `candles`, moved by the lags of `shifts` that could be told; missing where it has no bar."""
    step, index = timeframe_delta(timeframe_of(candles)), pd.DatetimeIndex(candles.index)
    lag = np.zeros(len(index), dtype=int)
    if shifts is not None:  # each lag holds until the next span begins; the first and the last hold to the ends
        spans = shifts["lag"].where(shifts["told"], 0).to_numpy()
        lag = spans[np.clip(pd.DatetimeIndex(shifts["start"]).searchsorted(index, side="right") - 1, 0, None)]
    wanted = index - lag * step
    columns = [name for name in COLUMNS if name in reference.columns and name in candles.columns]
    moved = reference[columns].reindex(wanted).set_axis(index)
    moved.attrs = {**reference.attrs, "timeframe": timeframe_of(candles)}
    return moved


# Prices apart


def deviations(candles: pd.DataFrame, reference: pd.DataFrame) -> pd.DataFrame:
    """How far each price is from the reference's (log), beyond the premium that is usual around the bar.

    `reference` is `aligned` with `candles`. Usual is the median premium of the closes over the week around.
    """
    prices = [name for name in reference.columns if name != "volume"]
    apart = pd.DataFrame(np.log(candles[prices] / reference[prices]))
    joint = apart["close"].dropna()
    width = window(timeframe_of(candles))
    usual = joint.rolling(width, center=True, min_periods=1).median().reindex(candles.index)
    return apart.sub(usual, axis=0)


def disagreements(apart: pd.DataFrame, timeframe: str) -> pd.DataFrame:
    """In `deviations`, runs of bars with a price far from the reference's: `start`, `end`, `bars`, `price`, `apart`.

    `price` says which of the four is furthest, `apart` how far (log).

    Far is more than `APART`, and more than `APART_SIGMA` σ of what is usual for that price around the bar.
    """
    apart = apart.dropna()
    if apart.empty:
        return pd.DataFrame(columns=["start", "end", "bars", "price", "apart"])
    width = window(timeframe)
    usual = MAD * apart.abs().rolling(width, center=True, min_periods=1).median()
    far = (apart.abs() > APART) & (apart.abs() > APART_SIGMA * usual)
    found = runs(apart, far.any(axis=1).to_numpy(), 1)
    worst = apart.where(far)
    place = [worst.index.get_indexer(pd.Index(found[end])) for end in ("start", "end")]
    prices, sizes = [], []
    for first, last in zip(*place, strict=True):
        part = worst.to_numpy()[first : last + 1]
        peak = int(np.nanargmax(np.abs(part)))
        prices.append(apart.columns[peak % part.shape[1]])
        sizes.append(part.flat[peak])
    return found.assign(price=prices, apart=sizes)


def premium_spans(candles: pd.DataFrame, reference: pd.DataFrame) -> pd.DataFrame:
    """Runs of bars whose usual premium is beyond `LEVEL`: `start`, `end`, `bars`, `premium` (log, median)."""
    apart = pd.Series(np.log(candles["close"] / reference["close"])).dropna()
    width = window(timeframe_of(candles))
    usual = apart.rolling(width, center=True, min_periods=1).median()
    found = runs(usual.to_frame(), (usual.abs() > LEVEL).to_numpy(), width // 2)
    return found.assign(premium=[usual[row.start : row.end].median() for row in each(found)])
