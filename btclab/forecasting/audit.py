"""The look-ahead audit of a checkpoint: its forecasts, and what was fitted before they could be made."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from btclab.errors import TooFewBars
from btclab.features.audit import REMOVED, REPLACED, SHOW_AFTER, Audit, check_count, found_table
from btclab.features.compare import TOLERANCE, Found, differences
from btclab.features.cuts import BEFORE, LEAST_AFTER, LEAST_BEFORE, choose_cuts
from btclab.features.noise import noisy_candles, noisy_context
from btclab.features.spec import NAMES, FeatureSpec, resolve_spec
from btclab.forecasting.calibration import ADAPTIVE_BARS, Calibration
from btclab.forecasting.checkpoints import Checkpoint
from btclab.forecasting.dataset import (
    VOLATILITY_WARMUP,
    Folds,
    Scaler,
    make_inputs,
    usable_spec,
    with_noise,
)
from btclab.forecasting.forecaster import forecast
from btclab.forecasting.labels import make_targets
from btclab.forecasting.learn import fit_calibrations, select_inputs
from btclab.forecasting.members import combine, member_weights
from btclab.forecasting.training import TrainingOptions, numpy_tensor
from btclab.market.candles import fingerprint, timeframe_of, validate_candles

REFITTED = "fitted anew with later folds replaced"
SINGLE = 1e-5  # the network computes in single precision
SWAPPED = 1  # outcome that may change places with another in the order of their scores, for the same reason
CUTS = 4
TRIED = 5  # times as many bars are drawn as cuts are made: before its series begin, the network cannot forecast
REVISED = "its context series may have been revised since the training"


def audit_checkpoint(
    checkpoint: Checkpoint,
    candles: pd.DataFrame,
    series: pd.DataFrame | None = None,
    spec: str | Path | FeatureSpec | None = None,
    cuts: int = CUTS,
    seed: int = 0,
    progress: bool = False,
) -> Audit:
    """Do forecasts, scaling, selection, member weights and calibration of `checkpoint` know anything that came later?

    Forecasts are made again with the bars after each of `cuts` bars removed, and replaced by others: those at and before the
    cut must stay, to 1e-5 of their size. On the candles that the network was trained on, the features are scaled and
    selected anew with everything from the validation fold on replaced, and the weights of an ensemble's members and the
    calibration of each horizon are fitted anew with the test fold replaced: the checkpoint must hold the same. The members
    themselves are not trained anew.

    A further horizon's figures have the number of bars behind their names, as in `forecast`: "calibration_24".

    `series` as in `forecast`. `spec` is the one that `train` was given, for the selection chose from it; not needed for one
    of btclab's own. What cannot be repeated, for the candles or the spec are others, is listed in `unverified`. The features
    themselves: `audit_features(candles, checkpoint.spec, series)`. Raises as `forecast`.
    """
    validate_candles(candles)
    check_count("cuts", cuts)
    random = np.random.default_rng(seed)
    found, columns, made = _forecasts(checkpoint, candles, series, cuts, random, progress)
    checked, unverified = (
        columns,
        {} if made else {"forecasts": "its series have no values before any of the bars drawn"},
    )
    trained_on = candles[candles.index <= pd.Timestamp(checkpoint.folds["test_end"])]
    if len(trained_on) and fingerprint(trained_on) == checkpoint.provenance["fingerprint"]:
        beside, folds = None if series is None else series.loc[trained_on.index], _folds(checkpoint, trained_on.index)
        unseen = _altered(trained_on, beside, folds.validation.start, random)
        parts = [_scaling(checkpoint, *unseen, folds), _selection(checkpoint, *unseen, folds, spec)]
        if any(reasons for _, _, reasons in parts[:1]):
            parts.append(([], 0, dict.fromkeys(_fitted_last(checkpoint), REVISED)))
        else:
            parts.append(_weighing(checkpoint, *_altered(trained_on, beside, folds.test.start, random), folds))
    else:
        why = "these are not the candles that it was trained on"
        parts = [([], 0, dict.fromkeys(("scaling", "selection", *_fitted_last(checkpoint)), why))]
    for guilty, count, reasons in parts:
        found, checked, unverified = found + guilty, checked + count, unverified | reasons
    tests = (REMOVED, REPLACED, *([REFITTED] if checked > columns else []))
    subject = f"figures of checkpoint {checkpoint.name}"
    return Audit(found_table(found), checked, made, len(candles), seed, tests, unverified, made, subject)


def _altered(
    bars: pd.DataFrame, beside: pd.DataFrame | None, known: int, random: np.random.Generator
) -> tuple[pd.DataFrame, pd.DataFrame | None]:
    """Bars and series of which only the first `known` rows are real."""
    rises = bool(random.integers(2))
    return noisy_candles(bars, known, rises, random), (
        None if beside is None else noisy_context(beside, known, rises, random)
    )


def _forecasts(
    checkpoint: Checkpoint,
    candles: pd.DataFrame,
    series: pd.DataFrame | None,
    count: int,
    random: np.random.Generator,
    progress: bool,
) -> tuple[list[Found], int, int]:
    """What moves in the forecasts when later bars are altered, how many columns they have, and the number of cuts."""
    warmup = max(checkpoint.spec.warmup_at(timeframe_of(candles)), VOLATILITY_WARMUP) + checkpoint.options["context"]
    if len(candles) < warmup + LEAST_BEFORE + LEAST_AFTER:
        forecast(checkpoint, candles, series)  # says what is wrong, if anything is
        raise TooFewBars(
            f"The audit of {checkpoint.name} needs at least {warmup + LEAST_BEFORE + LEAST_AFTER:,} bars; there are "
            f"{len(candles):,}."
        )

    followed = ADAPTIVE_BARS + max(checkpoint.horizons) + BEFORE  # where these are, the adaptive interval adapts

    def part(cut: int) -> tuple[pd.DataFrame, pd.DataFrame | None, int]:
        window = slice(max(0, cut + 1 - warmup - followed), cut + 1 + BEFORE)
        return candles.iloc[window], None if series is None else series.iloc[window], cut + 1 - window.start

    def has_series(cut: int) -> bool:
        recent = slice(max(0, cut + 1 - warmup - LEAST_BEFORE), cut + 1)
        return series is None or bool(series[checkpoint.spec.context].iloc[recent].notna().any().all())

    places = choose_cuts(candles, series, pd.DataFrame(index=candles.index), warmup, TRIED * count, random)
    places = [cut for cut in places if has_series(cut)][:count]
    if not places:
        forecast(checkpoint, candles, series)
        return [], 0, 0
    smooth = _without_steps(checkpoint)
    found: list[Found] = []
    for cut in tqdm(places, desc="audit of forecasts", unit="cut", delay=SHOW_AFTER, disable=not progress):
        bars, beside, known = part(cut)
        right = forecast(smooth, bars, beside).iloc[:known]
        earlier = None if beside is None else beside.iloc[:known]
        found += _moved(REMOVED, right, forecast(smooth, bars.iloc[:known], earlier))
        for rises in (True, False):
            later = None if beside is None else noisy_context(beside, known, rises, random)
            found += _moved(REPLACED, right, forecast(smooth, noisy_candles(bars, known, rises, random), later))
    return found, right.shape[1], len(places)


def _without_steps(checkpoint: Checkpoint) -> Checkpoint:
    """The same with a smooth curve in place of isotonic steps, on which a rounded score may fall on either side."""
    calibrations = [
        replace(one, method="platt", odds=(1.0, 0.0)) if one.method == "isotonic" else one
        for one in checkpoint.calibrations
    ]
    return replace(checkpoint, calibrations=tuple(calibrations))


def _moved(test: str, one: pd.DataFrame, other: pd.DataFrame) -> list[Found]:
    found = differences(test, one, other, SINGLE)
    return [(f"forecast of {name}", test, first, size) for name, test, first, size in found]


Part = tuple[list[Found], int, dict[str, str]]  # what is guilty, how many figures were compared, and which could not be


def _folds(checkpoint: Checkpoint, index: pd.Index) -> Folds:
    """The folds by position in `index`, that of the candles of the training."""

    def fold(name: str) -> slice:
        first, last = (pd.Timestamp(checkpoint.folds[f"{name}_{end}"]) for end in ("start", "stop"))
        return slice(int(index.searchsorted(first)), int(index.searchsorted(last)) + 1)

    return Folds(fold("train"), fold("validation"), fold("test"))


def _scaling(checkpoint: Checkpoint, bars: pd.DataFrame, beside: pd.DataFrame | None, folds: Folds) -> Part:
    """The scaler, fitted anew on the training fold of `bars`, of which nothing later is real."""
    inputs = make_inputs(bars, checkpoint.spec, checkpoint.options["context"], beside)
    anew, held = Scaler.fit(inputs.features[: folds.train.stop]), checkpoint.scaler
    size = np.maximum(np.abs(held.mean - anew.mean), np.abs(held.scale - anew.scale)) / anew.scale
    off = {
        name: float(value) for name, value in zip(checkpoint.spec.columns, size, strict=True) if not value <= TOLERANCE
    }
    readers = _readers(checkpoint.spec)
    if off and set(off) <= readers:
        return [], len(size) - len(off), {f"scaling of {name}": REVISED for name in off}
    start = bars.index[folds.validation.start]
    return [(f"scaling of {name}", REFITTED, start, value) for name, value in off.items()], len(size), {}


def _readers(spec: FeatureSpec) -> set[str]:
    """The features of `spec` that read context series."""
    return {one.name for one in spec.features if set(one.inputs) & set(spec.context)}


def _selection(
    checkpoint: Checkpoint,
    bars: pd.DataFrame,
    beside: pd.DataFrame | None,
    folds: Folds,
    spec: str | Path | FeatureSpec | None,
) -> Part:
    """The features, chosen anew on the training fold of `bars`, of which nothing later is real."""
    options = TrainingOptions(**checkpoint.options)
    if spec is None and checkpoint.spec.name not in NAMES:
        return [], 0, {"selection": f"it chose from {checkpoint.spec.name!r}: name that spec"}
    wanted = resolve_spec(checkpoint.spec.name if spec is None else spec)
    usable, _ = usable_spec(bars, wanted, beside, int(len(bars) * options.train_fraction))
    usable = with_noise(usable, options.noise)
    held = checkpoint.selection or {"table": [{"feature": name} for name in checkpoint.spec.columns]}
    if usable.columns != [row["feature"] for row in held["table"]]:
        return [], 0, {"selection": f"it chose from other features than those of {wanted.name!r}: name the spec"}
    inputs = make_inputs(bars, usable, options.context, beside)
    targets = make_targets(bars, inputs.volatility, checkpoint.horizons)
    kept, _, anew = select_inputs(usable, inputs, targets[:, 0], folds, options)
    before, after = _weighed(held), _weighed(anew or {"table": [{"feature": name} for name in usable.columns]})
    off = {name for name in before.keys() | after.keys() if not _alike(before.get(name), after.get(name))}
    if off and off <= _readers(usable):
        return [], 0, {"selection": REVISED}
    if not off and kept.columns == checkpoint.spec.columns:
        return [], 1, {}
    return [("selection", REFITTED, bars.index[folds.validation.start], len(off) / max(1, len(before)))], 1, {}


def _weighed(selection: dict[str, Any]) -> dict[str, float]:
    """The information that each column was found to have; 0 where it was not measured."""
    return {row["feature"]: row.get("information") or 0.0 for row in selection["table"]}


def _alike(one: float | None, other: float | None) -> bool:
    return one is not None and other is not None and abs(one - other) <= TOLERANCE


def _fitted_last(checkpoint: Checkpoint) -> list[str]:
    """What the validation fold fits, by name: the weights of several members, and a calibration for each horizon."""
    weights = ["member weights"] if len(checkpoint.members) > 1 else []
    return [*weights, "calibration", *(f"calibration_{horizon}" for horizon in checkpoint.horizons[1:])]


def _weighing(checkpoint: Checkpoint, bars: pd.DataFrame, beside: pd.DataFrame | None, folds: Folds) -> Part:
    """Member weights and calibrations, fitted anew on the validation fold of `bars`, of which nothing later is real.

    The calibrations are those that belong to the weights that the checkpoint holds, so that each answers for itself.
    """
    context = checkpoint.options["context"]
    inputs = make_inputs(bars, checkpoint.spec, context, beside)
    targets = make_targets(bars, inputs.volatility, checkpoint.horizons)
    first = max(0, folds.validation.start - context + 1)  # no member reads more of the past
    part = slice(first, folds.validation.stop)
    fold = slice(folds.validation.start - first, folds.validation.stop - first)
    targets, usable = targets[part], (inputs.complete[:, None] & np.isfinite(targets))[part]
    features = numpy_tensor(checkpoint.scaler.apply(inputs.features[part]))
    answers = [one.answer(features, inputs.bars[part], context) for one in checkpoint.members]
    rows = np.flatnonzero(usable[fold].all(axis=1)) + fold.start
    answer = combine(answers, np.array(checkpoint.weights))
    other = combine(answers, member_weights(answers, targets, rows))
    sizes = [_largest(answer.mean[rows] - other.mean[rows]) / (_largest(other.mean[rows]) + 1e-12)]
    for number, anew in enumerate(fit_calibrations(answer, targets, usable, fold)):
        scores = answer.score[fold, number][usable[fold, number]]
        sizes.append(_apart(checkpoint.calibrations[number], anew, scores))
    names, start = _fitted_last(checkpoint), bars.index[folds.test.start]
    guilty = [
        (name, REFITTED, start, size)
        for name, size in zip(names, sizes[-len(names) :], strict=True)
        if not size <= 10 * SINGLE
    ]
    return guilty, len(names), {}


def _apart(held: Calibration, anew: Calibration, scores: np.ndarray) -> float:
    """By how much two calibrations differ, in volatilities or in the probability of up at `scores`, whichever is more.

    At isotonic steps rounding can exchange outcomes, each of which moves the sum of the probabilities by 2 at the most.
    """
    chance = np.abs(held.prob_up(scores) - anew.prob_up(scores))
    if held.method == anew.method == "isotonic" and chance.sum() <= 2 * SWAPPED:
        chance = np.zeros(1)
    return max(
        _largest(np.array([held.slope - anew.slope, *np.subtract(held.offsets, anew.offsets)])), _largest(chance)
    )


def _largest(values: np.ndarray) -> float:
    return float(np.abs(values).max())
