"""The feature table: one row per closed bar, one column per feature, missing until its warm-up has passed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from btclab.errors import InputError, TooFewBars, unknown
from btclab.features.indicators import compute
from btclab.features.spec import Feature, FeatureSpec, resolve_spec
from btclab.market.candles import validate_candles

# How a value becomes free of the price level, given the value and the close of the same bar.
FORMS: dict[str, Callable[[pd.Series, pd.Series], Any]] = {
    "raw": lambda value, close: value,
    "percent": lambda value, close: value / 100,
    "oscillator": lambda value, close: value / 50 - 1,
    "per_close": lambda value, close: value / close,
    "distance": lambda value, close: np.log(close / value),
}


def build_features(candles: pd.DataFrame, context: Any = None, spec: str | FeatureSpec = "default") -> pd.DataFrame:
    """Features of `candles`, float64, index as in `candles`; row *t* uses bars up to and including *t* only.

    A value is missing (NaN) during its warm-up and where it is undefined (a stochastic over a price that did not move);
    it is never filled. Raises `InputError` for an unknown spec, indicator or form, and `TooFewBars` when the warm-up
    takes all bars.
    """
    chosen = resolve_spec(spec)
    validate_candles(candles)
    if context is not None:
        raise InputError(f"The feature spec {chosen.name!r} reads no context series; leave context=None.")
    if len(candles) <= chosen.warmup:
        raise TooFewBars(
            f"Features {chosen.name!r} need more than {chosen.warmup} bars to warm up; there are {len(candles)}."
        )
    computed: dict[str, pd.DataFrame] = {}
    columns = {feature.name: _column(feature, candles, computed) for feature in chosen.features}
    table = pd.DataFrame(columns, index=candles.index)
    table.attrs = dict(candles.attrs)
    return table


def _column(feature: Feature, candles: pd.DataFrame, computed: dict[str, pd.DataFrame]) -> np.ndarray:
    if feature.form not in FORMS:
        raise unknown(f"form of feature {feature.name!r}", feature.form, FORMS)
    key = repr((feature.indicator, sorted(feature.parameters.items()), feature.on))  # several columns, one computation
    if key not in computed:
        computed[key] = pd.DataFrame(compute(feature.indicator, candles, feature.on, **feature.parameters))
    lines = computed[key]
    if not 0 <= feature.output < lines.shape[1]:
        raise InputError(
            f"Feature {feature.name!r} asks for output {feature.output}; valid: 0…{lines.shape[1] - 1} {list(lines.columns)}."
        )
    value = FORMS[feature.form](lines.iloc[:, feature.output], candles["close"]).to_numpy(dtype=float, copy=True)
    value[: feature.warmup] = np.nan
    value[~np.isfinite(value)] = np.nan
    return value
