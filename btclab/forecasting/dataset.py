"""From candles to tensors: features scaled on the training bars, labels in units of volatility, folds in time order."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from btclab.errors import InputError, TooFewBars
from btclab.features.build import build_features
from btclab.features.registry import memory
from btclab.features.spec import Feature, FeatureSpec
from btclab.market.candles import timeframe_delta, timeframe_of

DECAY = 0.97  # of the volatility: half of the weight lies on the last 23 bars
VOLATILITY_WARMUP = memory(1 - DECAY)
CLIP = 6.0  # scaled features beyond ±6 standard deviations are cut off there
MOST_WARMUP, MOST_MISSING = 0.25, 0.05
MIN_TARGETS = 200  # a training fold of fewer targets has nothing to teach


def ewma_volatility(candles: pd.DataFrame) -> pd.Series:
    """Volatility per bar as known at its close: exponentially weighted root mean square of log returns (RiskMetrics 1996).

    The return over a gap counts as that of the bars that it spans. Missing until the average has forgotten where the history
    began.
    """
    elapsed = np.diff(bar_numbers(candles), prepend=np.nan)
    squares = np.log(candles["close"]).diff() ** 2 / elapsed
    volatility = np.sqrt(squares.ewm(alpha=1 - DECAY).mean())
    volatility.iloc[:VOLATILITY_WARMUP] = np.nan
    return volatility.where(volatility > 0).rename("volatility")


def bar_numbers(candles: pd.DataFrame) -> np.ndarray:
    """Open times [time] in bars since 1970: consecutive, but for gaps."""
    opened = pd.DatetimeIndex(candles.index).as_unit("ns").asi8
    return np.asarray(opened // timeframe_delta(timeframe_of(candles)).value)


def window_begins(bars: np.ndarray, context: int) -> np.ndarray:
    """Position [time] of the first row that a network reads to forecast at each of `bars` (numbers, increasing).

    Time is divided into stretches of a third of `context` bars on a grid that is the clock's, not the history's; a window begins
    with the stretch two before its own, and so spans two thirds of `context` bars at the least and `context` at the most.
    """
    stride, reach = stretches(context)
    return np.searchsorted(bars, (bars // stride + 1) * stride - reach)


def stretches(context: int) -> tuple[int, int]:
    """Bars of a stretch, and of the longest window."""
    stride = max(1, context // 3)
    return stride, min(3, context) * stride


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

    Between two folds lie `horizon` bars, whose labels would reach into the later one (purged), and `context` bars, so that
    no window of the later fold begins in the earlier one (embargo): the folds say when a forecast could have been made
    *and* its outcome known. (López de Prado 2018, ch. 7.)
    """

    train: slice
    validation: slice
    test: slice

    @classmethod
    def of(cls, bars: int, first: int, horizon: int, context: int, train: float, validation: float) -> Folds:
        """Split the bars from position `first` (the end of the warm-up) on; `horizon` is the longest one.

        The last bars' labels are still open. E.g. `of(1000, 100, 1, 60, 0.6, 0.2)`: 100–578, 640–758, 820–998.
        """
        if not (0 < train < 1 and 0 < validation < 1 and train + validation < 1):
            raise InputError(
                f"train_fraction {train} and validation_fraction {validation} must be above 0 and leave room for a test fold."
            )
        one = first + int((bars - first) * train)
        two = first + int((bars - first) * (train + validation))
        gap = horizon + context
        if min(one - first, two - one, bars - two + context) - gap < MIN_TARGETS // 2 or one - first < MIN_TARGETS:
            smallest = min(train, validation, 1 - train - validation)
            raise TooFewBars(
                f"{bars:,} bars are too few: {first:,} warm up the features and the window, "
                f"and the folds need {MIN_TARGETS} targets or more. "
                f"Give at least {first + int((MIN_TARGETS + gap) / smallest) + horizon:,} bars."
            )
        return cls(slice(first, one - gap), slice(one, two - gap), slice(two, bars - horizon))


@dataclass(frozen=True)
class Inputs:
    """What a network reads and what scales its answer; all arrays have one row per bar.

    `features` [time, feature] unscaled, `volatility` [time] of one bar's return, `complete` [time]: whether the last
    `context` rows have no missing value and no gap of more than a tenth, so that a forecast may be made; `bars` [time]: their
    open times in bars since 1970.
    """

    features: np.ndarray
    volatility: np.ndarray
    complete: np.ndarray
    bars: np.ndarray
    index: pd.DatetimeIndex


def make_inputs(
    candles: pd.DataFrame, spec: FeatureSpec, context: int, series: pd.DataFrame | None = None, last: int | None = None
) -> Inputs:
    """Network inputs of `candles` and of the context `series` beside them. Causal: row *t* uses bars up to and including *t*.

    With `last`, those of the newest `last` rows alone.
    """
    table = build_features(candles, series, spec, last)
    features = table.to_numpy(dtype=float)
    recent = candles if last is None else candles.iloc[-(last + 2 * VOLATILITY_WARMUP) :]
    volatility = ewma_volatility(recent).to_numpy()[-len(table) :]
    bars = bar_numbers(candles)[-len(table) :]
    complete = _complete(features, volatility, bars, context)
    return Inputs(features, volatility, complete, bars, pd.DatetimeIndex(table.index))


def _complete(features: np.ndarray, volatility: np.ndarray, bars: np.ndarray, context: int) -> np.ndarray:
    """Whether the last `context` rows are whole, and the window that is read lacks a tenth of `context` bars at the most."""
    whole = np.isfinite(features).all(axis=1) & np.isfinite(volatility)
    stride, reach = stretches(context)
    spanned = bars - ((bars // stride + 1) * stride - reach) + 1
    read = np.arange(len(bars)) - window_begins(bars, context) + 1
    return (pd.Series(whole).rolling(context).sum().to_numpy() == context) & (spanned - read <= context // 10)


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
