"""From candles to tensors: features scaled on the training bars, labels in units of volatility, folds in time order."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from btclab.errors import InputError, TooFewBars
from btclab.features.build import build_features
from btclab.features.registry import memory
from btclab.features.spec import Feature, FeatureSpec
from btclab.forecasting.labels import forward_log_return
from btclab.market.candles import timeframe_of

DECAY = 0.97  # of the volatility: half of the weight lies on the last 23 bars
VOLATILITY_WARMUP = memory(1 - DECAY)
CLIP = 6.0  # scaled features beyond ±6 standard deviations are cut off there
MOST_WARMUP, MOST_MISSING = 0.25, 0.05
MIN_TARGETS = 200  # a training fold of fewer targets has nothing to teach


def ewma_volatility(candles: pd.DataFrame) -> pd.Series:
    """Volatility per bar as known at its close: exponentially weighted root mean square of log returns (RiskMetrics 1996).

    Missing until the average has forgotten where the history began.
    """
    squares = np.log(candles["close"]).diff() ** 2
    volatility = np.sqrt(squares.ewm(alpha=1 - DECAY).mean())
    volatility.iloc[:VOLATILITY_WARMUP] = np.nan
    return volatility.where(volatility > 0).rename("volatility")


@dataclass(frozen=True)
class Scaler:
    """Mean and standard deviation of each feature over the training bars."""

    mean: np.ndarray
    scale: np.ndarray

    @classmethod
    def fit(cls, features: np.ndarray) -> Scaler:
        """From `features` [time, feature]; missing values are ignored, and a feature that never changes is left as it is."""
        mean, scale = np.nanmean(features, axis=0), np.nanstd(features, axis=0)
        return cls(mean, np.where(scale > 1e-12, scale, 1.0))

    def apply(self, features: np.ndarray) -> np.ndarray:
        """Scaled `features` [time, feature] as float32, cut off at ±`CLIP`; missing stays missing."""
        return np.clip((features - self.mean) / self.scale, -CLIP, CLIP).astype(np.float32)


@dataclass(frozen=True)
class Folds:
    """Three stretches of time, one after the other; each fold is a slice of bar positions.

    A label of the training fold that would reach into the validation fold is purged, likewise from validation to test:
    the folds say when a forecast could have been made *and* its outcome known. (López de Prado 2018, ch. 7.)
    """

    train: slice
    validation: slice
    test: slice

    @classmethod
    def of(cls, bars: int, first: int, horizon: int, train: float, validation: float) -> Folds:
        """Split the bars from position `first` (the end of the warm-up) on; the last one's label is still open."""
        if not (0 < train < 1 and 0 < validation < 1 and train + validation < 1):
            raise InputError(
                f"train_fraction {train} and validation_fraction {validation} must be above 0 and leave room for a test fold."
            )
        one = first + int((bars - first) * train)
        two = first + int((bars - first) * (train + validation))
        if min(one - first, two - one, bars - two) - horizon < MIN_TARGETS // 2 or one - first < MIN_TARGETS:
            raise TooFewBars(
                f"{bars:,} bars are too few: {first:,} warm up the features and the window, "
                f"and the folds need {MIN_TARGETS} targets or more. "
                f"Give at least {first + int(MIN_TARGETS / min(train, validation, 1 - train - validation)) + horizon:,} bars."
            )
        return cls(slice(first, one - horizon), slice(one, two - horizon), slice(two, bars - horizon))


@dataclass(frozen=True)
class Inputs:
    """What a network reads and what scales its answer; all arrays have one row per bar.

    `features` [time, feature] unscaled, `volatility` [time] of the return over the horizon, `complete` [time]: whether
    the last `context` rows have no missing value, so that a forecast may be made.
    """

    features: np.ndarray
    volatility: np.ndarray
    complete: np.ndarray
    index: pd.DatetimeIndex


def make_inputs(
    candles: pd.DataFrame, spec: FeatureSpec, context: int, horizon: int, series: pd.DataFrame | None = None
) -> Inputs:
    """Network inputs of `candles` and of the context `series` beside them. Causal: row *t* uses bars up to and including *t*."""
    features = build_features(candles, series, spec).to_numpy(dtype=float)
    volatility = ewma_volatility(candles).to_numpy() * np.sqrt(horizon)
    return Inputs(features, volatility, _complete(features, volatility, context), pd.DatetimeIndex(candles.index))


def _complete(features: np.ndarray, volatility: np.ndarray, context: int) -> np.ndarray:
    whole = np.isfinite(features).all(axis=1) & np.isfinite(volatility)
    return pd.Series(whole).rolling(context).sum().to_numpy() == context


def with_noise(spec: FeatureSpec, columns: int) -> FeatureSpec:
    """`spec` and some columns of noise: a network reads meaning into these too, which is the yardstick for the others."""
    taken = set(spec.columns)
    noise = [Feature(f"noise_{n}", "noise", "noise", {"number": n}) for n in range(1, columns + 1)]
    return FeatureSpec(spec.name, spec.features + tuple(one for one in noise if one.name not in taken))


def usable_spec(
    candles: pd.DataFrame, spec: FeatureSpec, series: pd.DataFrame | None, training_end: int
) -> tuple[FeatureSpec, dict[str, str]]:
    """`spec` less the columns that these candles cannot fill, and the reason for each that is left out, by name.

    Left out is what needs more than a quarter of the bars to warm up, what has no data, and what is missing in more than
    5 % of the rows, past its warm-up, before position `training_end`: one sparse column would make every window incomplete.
    Raises `TooFewBars` if nothing is left.
    """
    timeframe, bars = timeframe_of(candles), len(candles)
    reasons = {
        one.name: f"needs {one.warmup_at(timeframe):,} bars to warm up, more than a quarter of the {bars:,}"
        for one in spec.features
        if one.warmup_at(timeframe) > bars * MOST_WARMUP
    }
    if len(reasons) == len(spec.features):
        shortest = min(one.warmup_at(timeframe) for one in spec.features)
        raise TooFewBars(
            f"Features {spec.name!r} need {int(shortest / MOST_WARMUP) + 1:,} bars or more; there are {bars:,}."
        )
    kept = spec.without(reasons) if reasons else spec
    table = build_features(candles, series, kept)
    reasons |= table.attrs["missing"]
    for one in kept.features:
        rows = table[one.name].to_numpy()[one.warmup_at(timeframe) : training_end]
        share = float(np.isnan(rows).mean()) if len(rows) else 1.0
        if one.name not in reasons and share > MOST_MISSING:
            reasons[one.name] = f"missing in {100 * share:.0f} % of the training bars"
    if len(reasons) == len(spec.features):
        raise TooFewBars(f"No feature of {spec.name!r} has values: {next(iter(reasons.values()))}.")
    return (spec.without(reasons) if reasons else spec), {n: reasons[n] for n in spec.columns if n in reasons}


def make_targets(candles: pd.DataFrame, volatility: np.ndarray, horizon: int) -> np.ndarray:
    """Labels [time] in units of the volatility known when the forecast is made; missing where there is no label."""
    return forward_log_return(candles, horizon).to_numpy() / volatility
