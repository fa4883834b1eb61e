"""Indicators under their pandas-ta names: btclab's own where it has them, else those of `pandas-ta-classic`.

A value stamped *t* uses bars up to and including *t*: it is known at the close of bar *t*.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import pandas as pd

from btclab.errors import InputError, TooFewBars, unknown
from btclab.features import measures, technical  # noqa: F401  importing the two fills INDICATORS
from btclab.features.registry import INDICATORS, REQUIRED, Indicator
from btclab.market.candles import COLUMNS, timeframe_delta, timeframe_of, validate_candles

Named = dict[str, np.ndarray]  # lines by name

# Measured: recomputed on a shorter history these change their past. The first has a causal form, the others none.
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
    """The indicator `name`, in pandas-ta's spelling, on `candles`, e.g. `indicator("rsi", candles, length=14)`.

    Returns a Series, or a DataFrame for indicators with several lines; the first bars are missing until there are
    enough. Ichimoku comes without its chikou span and DPO uncentred, for those lines are future prices.
    Raises `InputError` for an unknown name or parameter, or one that would look ahead, and `TooFewBars` when not one
    value can be computed.
    """
    values = pd.DataFrame(compute(name, bar_arrays(validate_candles(candles)), **parameters))
    values = values.where(np.isfinite(values))  # x/0 is as undefined as 0/0
    if values.isna().to_numpy().all():
        raise TooFewBars(
            f"Indicator {name!r} with {parameters or 'its defaults'} needs more than the {len(candles)} bars given."
        )
    values.index, values.attrs = candles.index, dict(candles.attrs)
    return values.iloc[:, 0] if values.shape[1] == 1 else values


CUSTOM: dict[str, Callable[..., Any]] = {}


def register_indicator(name: str, function: Callable[..., pd.Series]) -> None:
    """Let specs use `function(candles, **parameters)` as the indicator `name`, for as long as this Python runs.

    It gets the candle frame, with the feature's `inputs` as further columns, and returns one value a bar. Row *t* may use
    rows up to *t* alone: the audit, which `train` runs, finds out. A feature that uses it declares its own `warmup`. A
    checkpoint that uses it needs it to be registered again. Raises `InputError` if the name is that of another indicator.
    """
    if name in INDICATORS or name in pandas_ta_names() or name in LOOK_AHEAD:
        raise InputError(f"There is an indicator {name!r} already; choose another name.")
    CUSTOM[name] = function


def bar_arrays(candles: pd.DataFrame) -> dict[str, Any]:
    """The candle columns as float64 arrays [time], `times` (open, ns since 1970 UTC), and `per_day`, bars in a day."""
    arrays: dict[str, Any] = {name: candles[name].to_numpy() for name in COLUMNS}
    arrays["times"] = pd.DatetimeIndex(candles.index).as_unit("ns").asi8
    tellable = candles.attrs.get("timeframe") or len(candles) > 1
    delta = timeframe_delta(timeframe_of(candles)) if tellable else pd.Timedelta(days=1)
    arrays["per_day"] = max(1, pd.Timedelta(days=1) // delta)
    return arrays


def compute(name: str, arrays: Mapping[str, Any], inputs: tuple[str, ...] = (), **parameters: Any) -> Named:
    """All lines of an indicator by name, in order, float64 [time]; `arrays` as from `bar_arrays`, with context series by name.

    `inputs` name the arrays that take the place of its own first ones. What cannot be computed is missing.
    Raises `InputError` as `indicator` does.
    """
    _refuse_look_ahead(name)
    if name in CUSTOM:
        return _custom(name, arrays, inputs, parameters)
    own = _own_version(name, parameters)
    return _pandas_ta(name, arrays, inputs, parameters) if own is None else _own(own, arrays, inputs, parameters)


def _own(one: Indicator, arrays: Mapping[str, Any], inputs: tuple[str, ...], parameters: dict[str, Any]) -> Named:
    given = _given(one, parameters)
    _check_inputs(one.name, inputs, one.inputs)
    columns = (*inputs, *one.inputs[len(inputs) :])
    for column in columns:
        if column not in arrays:
            raise InputError(
                f"Indicator {one.name!r} reads a series that candles do not have; a feature names it, e.g. inputs=('hash_rate',)."
            )
    if one.needs_per_day:
        given["per_day"] = arrays["per_day"]
    with np.errstate(all="ignore"):  # 0/0 is missing, as it should be
        values = one.function(*(arrays[column] for column in columns), **given)
    return dict(zip(one.line_names(given), values if isinstance(values, tuple) else (values,), strict=True))


def warmup_of(name: str, parameters: dict[str, Any], per_day: int) -> int | None:
    """Bars before a value of the indicator no longer depends on where the history begins; None where btclab cannot know.

    Raises `InputError` for an unknown indicator or parameter.
    """
    _refuse_look_ahead(name)
    if name in CUSTOM:
        return None
    own = _own_version(name, parameters)
    if own is not None:
        return own.warmup_of(_given(own, parameters), per_day)
    _check_parameters(name, parameters, _pandas_ta_call(name)[2])
    return None


def _refuse_look_ahead(name: str) -> None:
    if name in LOOK_AHEAD:
        raise InputError(f"Indicator {name!r} looks ahead: {LOOK_AHEAD[name]}. No btclab feature may use it.")


def _own_version(name: str, parameters: Mapping[str, Any]) -> Indicator | None:
    """btclab's own indicator `name`; None where only pandas-ta's has these parameters. Raises `InputError` if neither is."""
    own = INDICATORS.get(name)
    if own is not None and (set(parameters) <= set(own.parameters) or name not in pandas_ta_names()):
        return own
    if name not in pandas_ta_names():
        raise unknown("indicator", name, pandas_ta_names() | set(INDICATORS) | set(CUSTOM))
    return None


def _given(one: Indicator, parameters: dict[str, Any]) -> dict[str, Any]:
    """Every parameter of `one`, as in `parameters` or its default. Raises `InputError` for one it does not take."""
    for key in parameters:
        if key not in one.parameters:
            raise unknown(f"parameter of {one.name!r}", key, one.parameters)
    given = {key: default for key, default in one.parameters.items() if default is not REQUIRED} | parameters
    for key in one.parameters:
        if key not in given:
            raise InputError(f"Indicator {one.name!r} needs {key}, e.g. {key}=24.")
        _check_number(one, key, given[key])
        if key in parameters and not one.is_whole(key):
            given[key] = float(given[key])  # pandas-ta too names the lines of std=2 "…_2.0"
    if "fast" in given and "slow" in given and given["fast"] >= given["slow"]:
        raise InputError(
            f"fast of {one.name!r} is {given['fast']}; it must be less than slow, which is {given['slow']}."
        )
    return given


def _check_number(one: Indicator, key: str, value: Any) -> None:
    whole, lowest = one.is_whole(key), one.lowest(key)
    kind = int | np.integer if whole else int | float | np.integer | np.floating
    if isinstance(value, bool) or not isinstance(value, kind) or not lowest <= value < np.inf:
        kinds = f"a {'whole ' if whole else ''}number{f' of at least {lowest}' if lowest > -np.inf else ''}"
        raise InputError(
            f"{key} of {one.name!r} is {value!r}; it must be {kinds}{' bars' if key in MUST_NOT_SHIFT else ''}."
        )


def _check_inputs(name: str, inputs: tuple[str, ...], own: Sequence[str]) -> None:
    if len(inputs) > len(own):
        raise InputError(
            f"Indicator {name!r} reads {', '.join(own)}: {len(inputs)} inputs {list(inputs)} are too many."
        )


def _custom(name: str, arrays: Mapping[str, Any], inputs: tuple[str, ...], parameters: dict[str, Any]) -> Named:
    index = pd.DatetimeIndex(arrays["times"], tz="UTC", name="timestamp")
    frame = pd.DataFrame({key: arrays[key] for key in dict.fromkeys((*COLUMNS, *inputs))}, index=index)
    values = np.asarray(CUSTOM[name](frame, **parameters))
    if values.shape != (len(index),):
        raise InputError(
            f"The indicator {name!r} gave {values.shape} for {len(index)} bars; it must give one value a bar, in order."
        )
    return {name: values.astype(float)}


@cache
def pandas_ta_names() -> frozenset[str]:
    import pandas_ta_classic as ta

    return frozenset(
        known for names in ta.Category.values() for known in names if known != "ma"
    )  # it gives a list of names


@cache
def _pandas_ta_call(name: str) -> tuple[Callable[..., Any], tuple[str, ...], frozenset[str], dict[str, Any]]:
    """pandas-ta's function, the series and the parameters it takes, and the parameters that are not for the caller."""
    import pandas_ta_classic as ta

    function = getattr(ta, name)
    accepted = inspect.signature(function).parameters
    fixed = dict(CAUSAL_FORM.get(name, {}))
    if "open_" in accepted and accepted["open_"].default is None:
        fixed["open_"] = None  # with it, AD and CMF are no longer Chaikin's
    if "talib" in accepted:
        fixed["talib"] = False  # the same numbers whether or not TA-Lib happens to be installed
    columns = tuple(key for key in accepted if key.rstrip("_") in COLUMNS and key not in fixed)
    return function, columns, frozenset(accepted) - {*columns, *fixed, "kwargs"}, fixed


def _pandas_ta(name: str, arrays: Mapping[str, Any], inputs: tuple[str, ...], parameters: dict[str, Any]) -> Named:
    function, columns, valid, fixed = _pandas_ta_call(name)
    _check_parameters(name, parameters, valid)
    _check_inputs(name, inputs, [key.rstrip("_") for key in columns])
    accepted = inspect.signature(function).parameters
    lacking = [key for key in valid - set(parameters) if accepted[key].default is inspect.Parameter.empty]
    if lacking:
        raise InputError(
            f"Indicator {name!r} is made of other series than candles; it needs {' and '.join(sorted(lacking))}."
        )
    names = (*inputs, *(key.rstrip("_") for key in columns[len(inputs) :]))
    index = pd.DatetimeIndex(arrays["times"], name="timestamp")  # UTC, unsaid: its VWAP warns of a time zone
    series = {key: pd.Series(arrays[column], index=index) for key, column in zip(columns, names, strict=True)}
    values = function(**series, **parameters, **fixed)
    if values is None:
        return {name: np.full(len(index), np.nan)}
    return {str(line): column.to_numpy(dtype=float) for line, column in pd.DataFrame(values).items()}


def _check_parameters(name: str, parameters: dict[str, Any], valid: frozenset[str]) -> None:
    for key, value in parameters.items():
        if key not in valid:
            raise unknown(f"parameter of {name!r}", key, set(valid))
        lowest = 0 if key == "offset" else 1
        if key in MUST_NOT_SHIFT and not (isinstance(value, int | np.integer) and value >= lowest):
            raise InputError(f"{key} of {name!r} is {value!r}; it must be a whole number of at least {lowest} bars.")
