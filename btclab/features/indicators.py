"""Indicators under their pandas-ta names, computed by `pandas-ta-classic`, and the few of our own that it lacks.

A value stamped *t* uses bars up to and including *t*: it is known at the close of bar *t*.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from btclab.errors import InputError, TooFewBars, unknown
from btclab.market.candles import COLUMNS, validate_candles

# Measured: recomputed on a shorter history these change their past. The first two have a causal form, the others none.
CAUSAL_FORM: dict[str, dict[str, Any]] = {
    "ichimoku": {"include_chikou": False, "as_dataframe": True},
    "dpo": {"centered": False},
}
LOOK_AHEAD = {
    "tos_stdevall": "it fits one line through the whole history",
    "vp": "it bins the whole history by price",
}
MUST_NOT_SHIFT = ("offset", "drift", "length", "fast", "slow", "signal")


def indicator(name: str, candles: pd.DataFrame, **parameters: Any) -> pd.Series | pd.DataFrame:
    """The pandas-ta indicator `name` on `candles`, e.g. `indicator("rsi", candles, length=14)`.

    Returns a Series, or a DataFrame for indicators with several lines; the first bars are missing until there are
    enough. Ichimoku comes without its chikou span and DPO uncentred, for those lines are future prices.
    Raises `InputError` for an unknown name or parameter, or one that would look ahead, and `TooFewBars` when not one
    value can be computed.
    """
    values = compute(name, validate_candles(candles), **parameters)
    values.attrs = dict(candles.attrs)
    return values


def compute(name: str, candles: pd.DataFrame, on: str = "close", **parameters: Any) -> pd.Series | pd.DataFrame:
    """`indicator` without checking the candles again; `on` names the column that is given as the price."""
    if name in OWN:
        return OWN[name](candles, **parameters)
    import pandas_ta_classic as ta

    valid = {known for names in ta.Category.values() for known in names}
    if name in LOOK_AHEAD:
        raise InputError(f"Indicator {name!r} looks ahead: {LOOK_AHEAD[name]}. No btclab feature may use it.")
    if name not in valid:
        raise unknown("indicator", name, valid | set(OWN))
    function = getattr(ta, name)
    accepted = inspect.signature(function).parameters
    inputs = {key: candles[key.rstrip("_")] for key in accepted if key.rstrip("_") in COLUMNS}
    if on != "close":
        inputs["close"] = candles[on]
    fixed = CAUSAL_FORM.get(name, {})
    if "talib" in accepted:  # the same numbers whether or not TA-Lib happens to be installed
        fixed = {**fixed, "talib": False}
    _check_parameters(name, parameters, set(accepted) - set(inputs) - set(fixed) - {"kwargs"})
    values = function(**inputs, **parameters, **fixed)
    if values is None or (isinstance(values, pd.Series) and values.isna().all()):
        raise TooFewBars(
            f"Indicator {name!r} with {parameters or 'its defaults'} needs more than the {len(candles)} bars given."
        )
    return values


def _check_parameters(name: str, parameters: dict[str, Any], valid: set[str]) -> None:
    for key, value in parameters.items():
        if key not in valid:
            raise unknown(f"parameter of {name!r}", key, valid)
        lowest = 0 if key == "offset" else 1
        if key in MUST_NOT_SHIFT and not (isinstance(value, int | np.integer) and value >= lowest):
            raise InputError(f"{key} of {name!r} is {value!r}; it must be a whole number of at least {lowest} bars.")


def realised_volatility(candles: pd.DataFrame, length: int) -> pd.Series:
    """Root mean square of the last `length` log returns, per bar (not annualised)."""
    squares = np.log(candles["close"]).diff() ** 2
    return np.sqrt(squares.rolling(length).mean())


def time_of_day(candles: pd.DataFrame) -> pd.DataFrame:
    """Sine and cosine of the bar's open time within the UTC day."""
    index = pd.DatetimeIndex(candles.index)
    return _cycle((index.hour * 60 + index.minute) / 1440, index)


def day_of_week(candles: pd.DataFrame) -> pd.DataFrame:
    """Sine and cosine of the bar's weekday (UTC)."""
    index = pd.DatetimeIndex(candles.index)
    return _cycle(index.dayofweek / 7, index)


def _cycle(fraction: Any, index: pd.DatetimeIndex) -> pd.DataFrame:
    angle = 2 * np.pi * np.asarray(fraction)
    return pd.DataFrame({"sin": np.sin(angle), "cos": np.cos(angle)}, index=index)


OWN: dict[str, Callable[..., pd.Series | pd.DataFrame]] = {
    "realised_volatility": realised_volatility,
    "time_of_day": time_of_day,
    "day_of_week": day_of_week,
}
