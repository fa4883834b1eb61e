"""Where the audits cut a history: at random, and where a function that looks ahead shows it though it seldom does."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
from scipy.ndimage import maximum_filter1d

from btclab.features.technical import DAY_NS
from btclab.market.candles import timeframe_delta, timeframe_of

LEAST_BEFORE, LEAST_AFTER = 24, 12  # bars compared, and altered
BEFORE, AFTER = 200, 800  # the same where there are as many: a week and a month of hours
STAYS = 0.6  # share of bars at which a column that seldom moves has the value of the bar before
LARGEST = 0.005  # share of bars that count as the largest moves
BESIDE = 100  # bars on either side that an extreme is the extreme of


def window_around(candles: pd.DataFrame, cut: int, warmup: int) -> slice:
    """The bars from which the rows up to `cut` can be computed, and enough later ones to alter: a day at least."""
    day = pd.Timedelta(days=1) // timeframe_delta(timeframe_of(candles))
    return slice(max(0, cut + 1 - warmup - BEFORE), min(len(candles), cut + 1 + max(AFTER, day)))


def choose_cuts(
    candles: pd.DataFrame,
    context: pd.DataFrame | None,
    features: pd.DataFrame,
    warmup: int,
    count: int,
    random: np.random.Generator,
) -> list[int]:
    """`count` different bars (fewer if there are fewer) after which to alter the future, of each kind in turn.

    The first is a random one of the later half, for it is made in the whole history.
    """
    first, past = warmup + LEAST_BEFORE - 1, len(candles) - LEAST_AFTER
    values = features.to_numpy(dtype=float)
    beside = values if context is None else np.column_stack([values, context.to_numpy(dtype=float)])
    kinds = [np.arange(first, past), *_places(candles), *_inside_holes(beside)]
    queues = [random.permutation(kind[(kind >= first) & (kind < past)]) for kind in kinds]
    queues.insert(1, first - 1 + _where_values_move(values[first - 1 : past], count, random))
    return _in_turn(queues, count, [int(random.integers((first + past) // 2, past))])


def choose_starts(candles: pd.DataFrame, past: int, count: int, random: np.random.Generator) -> list[int]:
    """`count` different bars before `past` (fewer if there are fewer) at which to begin the history, of each kind in turn."""
    kinds = [np.arange(1, past), *_places(candles)]
    return _in_turn([random.permutation(kind[(kind >= 1) & (kind < past)]) for kind in kinds], count, [])


def _in_turn(queues: Iterable[np.ndarray], count: int, taken: Sequence[int]) -> list[int]:
    """`taken`, then the next new one of each queue in turn, until there are `count` or the queues are empty."""
    chosen = dict.fromkeys(taken)
    waiting = [iter(queue.tolist()) for queue in queues]
    while waiting and len(chosen) < count:
        going = []
        for queue in waiting:
            place = next((place for place in queue if place not in chosen), None)
            if place is not None and len(chosen) < count:
                chosen[place] = None
                going.append(queue)
        waiting = going
    return list(chosen)


def _places(candles: pd.DataFrame) -> list[np.ndarray]:
    """Gaps, flat bars, ends of days, weeks and months, the largest moves, highs and lows: the bars there, before and after."""
    opens = pd.DatetimeIndex(candles.index).as_unit("ns").asi8
    closes = opens + timeframe_delta(timeframe_of(candles)).value
    high, low, close = (candles[name].to_numpy() for name in ("high", "low", "close"))
    moved = np.abs(np.diff(np.log(close), prepend=np.log(close[0])))
    flat = (candles["volume"].to_numpy() == 0) | (high == low) | (moved == 0)
    flat[0] = False
    months = opens.astype("datetime64[ns]").astype("datetime64[M]")
    ends = [
        closes[:-1] < opens[1:],  # a gap follows
        np.diff(opens // DAY_NS) > 0,
        np.diff((opens // DAY_NS + 3) // 7) > 0,  # 1970-01-01 was a Thursday
        np.diff(months) > np.timedelta64(0),
    ]
    width = 2 * BESIDE + 1
    extreme = (maximum_filter1d(high, width) == high) | (maximum_filter1d(-low, width) == -low)
    kinds = [np.append(end, False) for end in ends] + [moved > np.quantile(moved, 1 - LARGEST), flat, extreme]
    return [np.flatnonzero(kind | np.append(kind[1:], False) | np.append(False, kind[:-1])) for kind in kinds]


def _inside_holes(values: np.ndarray) -> list[np.ndarray]:
    """Rows of `values` [time, column] in which one is missing that is present later: what a back-fill would fill."""
    present = np.isfinite(values)
    later = len(values) - 1 - np.argmax(present[::-1], axis=0)
    rows = np.arange(len(values))[:, None]
    return [np.flatnonzero((~present & (rows < later) & present.any(axis=0)).any(axis=1))]


def _where_values_move(values: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
    """Rows of `values` [time, column] at which columns that seldom move do, such that each column has its turn.

    Patterns, states and levels that are looked up ahead of time give themselves away there and nowhere else. A move back
    to a column's usual value is none.
    """
    moved = []
    for column in values.T:
        before, after = column[:-1], column[1:]
        stays = (before == after) | (np.isnan(before) & np.isnan(after))
        if STAYS <= stays.mean() < 1:
            moved.append(np.append(False, ~stays & (after != np.nanmedian(column)) & np.isfinite(after)))
    table = np.array([column for column in moved if column.any()]).T
    chosen: list[int] = []
    while len(table) and len(chosen) < count:
        waiting = np.ones(table.shape[1], dtype=bool)
        while waiting.any() and len(chosen) < count:
            score = table[:, waiting].sum(axis=1) + random.random(len(table)) / 2
            row = int(np.argmax(score))
            if not table[row, waiting].any():
                return np.array(chosen, dtype=int)
            waiting &= ~table[row]
            chosen.append(row)
            table[row] = False
    return np.array(chosen, dtype=int)
