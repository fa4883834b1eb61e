"""What is to be forecast. The only module of btclab that may look forward."""

from __future__ import annotations

import numpy as np
import pandas as pd

from btclab.errors import InputError
from btclab.market.candles import timeframe_delta, timeframe_of


def forward_log_return(candles: pd.DataFrame, horizon: int = 1) -> pd.Series:
    """log(close[t + horizon] / close[t]), stamped *t*: not known before the close of bar t + horizon.

    Missing for the last `horizon` bars and wherever bars are missing in between, for the return over a hole is not the
    return over `horizon` bars.
    """
    if not isinstance(horizon, int) or horizon < 1:
        raise InputError(f"horizon is {horizon!r}; it must be a whole number of at least 1 bar.")
    log_close = np.log(candles["close"])
    label = log_close.shift(-horizon) - log_close
    index = pd.DatetimeIndex(candles.index)
    ahead = pd.Series(index, index=index).shift(-horizon)
    whole = (ahead - index) == horizon * timeframe_delta(timeframe_of(candles))
    return label.where(whole).rename(f"log_return_ahead_{horizon}")
