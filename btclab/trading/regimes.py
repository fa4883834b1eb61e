"""The state of the market at the close of a bar: its trend, its volatility, and whether longer timeframes agree.

Everything here is known at that close: a longer bar counts only once it has closed. A state that cannot be told yet is
missing, which a filter takes as a no.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence

import numpy as np
import pandas as pd

from btclab.errors import InputError, TooFewBars
from btclab.features.indicators import bar_arrays, compute
from btclab.market.candles import close_times, resample

TRENDS = ("down", "flat", "up")
VOLATILITIES = ("calm", "normal", "wild")
LENGTH = 48  # bars over which the trend is measured
STRONG = 1.0  # standard errors from which on a drift counts as a trend
WITHIN = 720  # bars among which a volatility is calm or wild: a month of hours
CALM, WILD = 0.3, 0.85  # ranks: the calmest 30 % of hours, the wildest 15 %, as in the simulated market
REGIMES = tuple(f"{trend}/{volatility}" for trend in TRENDS for volatility in VOLATILITIES)


def trend(candles: pd.DataFrame, features: pd.DataFrame | None = None, length: int = LENGTH) -> pd.Series:
    """+1 up, 0 flat, −1 down: the mean of the last `length` log returns is beyond `STRONG` of its standard errors, or not.

    A column `trend_strength_<length>` of `features`, where there is one, saves the computation. NaN during the warm-up.
    """
    column = f"trend_strength_{length}"
    if features is not None and column in features:
        strength = features[column].to_numpy(dtype=float)
    else:
        with np.errstate(all="ignore"):
            (strength,) = compute("trend_strength", bar_arrays(candles), (), length=length).values()
    state = (strength >= STRONG).astype(float) - (strength <= -STRONG)
    return pd.Series(np.where(np.isnan(strength), np.nan, state), candles.index, name="trend")


def volatility_state(candles: pd.DataFrame, features: pd.DataFrame | None = None) -> pd.Series:
    """−1 calm, 0 normal, +1 wild: the rank of a day of hours' volatility among its last `WITHIN` values; NaN: warm-up.

    The column `volatility_rank_24` of `features`, where there is one, saves the computation.
    """
    if features is not None and "volatility_rank_24" in features:
        rank = features["volatility_rank_24"].to_numpy(dtype=float)
    else:
        (rank,) = compute("volatility_rank", bar_arrays(candles), (), length=24, within=WITHIN).values()
    state = (rank >= WILD).astype(float) - (rank <= CALM)
    return pd.Series(np.where(np.isnan(rank), np.nan, state), candles.index, name="volatility")


def regimes(candles: pd.DataFrame, features: pd.DataFrame | None = None) -> pd.Series:
    """The regime at the close of each bar, e.g. "down/wild": trend and volatility as a category; missing in the warm-up."""
    direction, size = trend(candles, features).to_numpy(), volatility_state(candles, features).to_numpy()
    known = ~(np.isnan(direction) | np.isnan(size))
    codes = np.where(known, 3 * (direction + 1) + (size + 1), -1).astype(np.int8)
    return pd.Series(pd.Categorical.from_codes(codes, pd.Index(REGIMES)), candles.index, name="regime")


def matching(patterns: Sequence[str]) -> tuple[str, ...]:
    """The regimes that one of `patterns` names, such as "down/wild" or "*/wild". Raises `InputError` for one that names none."""
    found: set[str] = set()
    for pattern in patterns:
        named = fnmatch.filter(REGIMES, pattern)
        if not named:
            raise InputError(
                f"There is no regime {pattern!r}. A regime is {', '.join(TRENDS)} or *, a slash, and "
                f"{', '.join(VOLATILITIES)} or *: e.g. 'down/wild' or '*/wild'."
            )
        found.update(named)
    return tuple(name for name in REGIMES if name in found)


def timeframe_trends(candles: pd.DataFrame, timeframes: Sequence[str], length: int = LENGTH) -> pd.DataFrame:
    """The trend (+1, 0, −1) of each of `timeframes` as known at the close of each bar: that of its last bar closed by then.

    Raises `InputError` for a timeframe that is shorter than, or no multiple of, that of `candles`.
    """
    known, columns = close_times(candles), {}
    for timeframe in timeframes:
        try:
            longer = resample(candles, timeframe)
        except TooFewBars:  # not one of them is whole yet
            columns[timeframe] = np.full(len(candles), np.nan)
            continue
        states = trend(longer, length=length).to_numpy()
        last = close_times(longer).searchsorted(known, side="right") - 1
        columns[timeframe] = np.where(last >= 0, states[last], np.nan)
    return pd.DataFrame(columns, candles.index, dtype=float)
