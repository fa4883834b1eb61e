"""What is to be forecast. The only module of btclab that may look forward."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from btclab.errors import InputError
from btclab.market.candles import timeframe_delta, timeframe_of


def forward_log_return(candles: pd.DataFrame, horizon: int = 1) -> pd.Series:
    """log(close[t + horizon] / close[t]), stamped *t*: not known before the close of bar t + horizon.

    Missing for the last `horizon` bars and wherever bars are missing in between, for the return over a hole is not the
    return over `horizon` bars.
    """
    if isinstance(horizon, bool) or not isinstance(horizon, int) or horizon < 1:
        raise InputError(f"horizon is {horizon!r}; it must be a whole number of at least 1 bar.")
    log_close = np.log(candles["close"])
    label = log_close.shift(-horizon) - log_close
    index = pd.DatetimeIndex(candles.index)
    ahead = pd.Series(index, index=index).shift(-horizon)
    whole = (ahead - index) == horizon * timeframe_delta(timeframe_of(candles))
    return label.where(whole).rename(f"log_return_ahead_{horizon}")


def make_targets(candles: pd.DataFrame, volatility: np.ndarray, horizons: Sequence[int]) -> np.ndarray:
    """Labels [time, horizon] in units of the volatility over the horizon known when the forecast is made.

    `volatility` [time] is that of one bar. Missing where there is no label.
    """
    labels = [forward_log_return(candles, horizon).to_numpy() / np.sqrt(horizon) for horizon in horizons]
    return np.stack(labels, axis=1) / volatility[:, None]


def block_shuffled(targets: np.ndarray, usable: np.ndarray, block: int, seed: int) -> np.ndarray:
    """The same targets [time, horizon] in another order, in whole blocks of about `block` bars. For the placebo.

    Only rows that are `usable` [time] change places, so that what may be scored stays the same. They are first turned by a
    random number of bars and cut into blocks of random length, so that hour and weekday say nothing of them either.
    """
    rows = np.flatnonzero(usable)
    random = np.random.default_rng(seed)
    turned = np.roll(rows, int(random.integers(len(rows) // 4, max(len(rows) // 4 + 1, 3 * len(rows) // 4))))
    count = max(5, len(rows) // block)
    cuts = np.sort(random.choice(np.arange(1, len(rows)), size=count - 1, replace=False))
    blocks = np.split(turned, cuts)
    shuffled = targets.copy()
    shuffled[rows] = targets[np.concatenate([blocks[i] for i in random.permutation(count)])]
    return shuffled
