"""From candles to tensors: features scaled on the training bars, labels in units of volatility, folds in time order."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from btclab.errors import InputError, TooFewBars
from btclab.features.build import build_features
from btclab.features.spec import FeatureSpec, memory
from btclab.forecasting.labels import forward_log_return

DECAY = 0.97  # of the volatility: half of the weight lies on the last 23 bars
VOLATILITY_WARMUP = memory(1 - DECAY)
CLIP = 6.0  # scaled features beyond ±6 standard deviations are cut off there
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


def make_inputs(candles: pd.DataFrame, spec: FeatureSpec, context: int, horizon: int) -> Inputs:
    """Network inputs of `candles`. Causal: row *t* uses bars up to and including *t*."""
    features = build_features(candles, spec=spec).to_numpy(dtype=float)
    volatility = ewma_volatility(candles).to_numpy() * np.sqrt(horizon)
    whole = np.isfinite(features).all(axis=1) & np.isfinite(volatility)
    complete = pd.Series(whole).rolling(context).sum().to_numpy() == context
    return Inputs(features, volatility, complete, pd.DatetimeIndex(candles.index))


def make_targets(candles: pd.DataFrame, volatility: np.ndarray, horizon: int) -> np.ndarray:
    """Labels [time] in units of the volatility known when the forecast is made; missing where there is no label."""
    return forward_log_return(candles, horizon).to_numpy() / volatility
