"""The look-ahead audit of a checkpoint: its forecasts, and what was fitted before they could be made."""

from __future__ import annotations

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
from btclab.forecasting.calibration import Calibration
from btclab.forecasting.checkpoints import Checkpoint
from btclab.forecasting.dataset import (
    VOLATILITY_WARMUP,
    Folds,
    Scaler,
    make_inputs,
    make_targets,
    usable_spec,
    with_noise,
)
from btclab.forecasting.forecaster import forecast, scaled_tensor, select_inputs
from btclab.forecasting.networks import predict
from btclab.forecasting.training import TrainingOptions
from btclab.market.candles import fingerprint, timeframe_of, validate_candles

REFITTED = "fitted anew with later folds replaced"
SINGLE = 1e-5  # the network computes in single precision
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
    """Do forecasts, scaling, selection and calibration of `checkpoint` know anything that came later?

    Forecasts are made again with the bars after each of `cuts` bars removed, and replaced by others: those at and before the
    cut must stay, to 1e-5 of their size. On the candles that the network was trained on, the features are scaled and
    selected anew with everything from the validation fold on replaced, and the calibration is fitted anew with the test
    fold replaced: the checkpoint must hold the same. The weights are not trained anew.

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
            parts.append(([], 0, {"calibration": REVISED}))
        else:
            parts.append(_calibration(checkpoint, *_altered(trained_on, beside, folds.test.start, random), folds))
    else:
        why = "these are not the candles that it was trained on"
        parts = [([], 0, {name: why}) for name in ("scaling", "selection", "calibration")]
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

    def part(cut: int) -> tuple[pd.DataFrame, pd.DataFrame | None, int]:
        window = slice(max(0, cut + 1 - warmup - LEAST_BEFORE), cut + 1 + BEFORE)
        return candles.iloc[window], None if series is None else series.iloc[window], cut + 1 - window.start

    def has_series(cut: int) -> bool:
        _, beside, known = part(cut)
        return beside is None or bool(beside[checkpoint.spec.context].iloc[:known].notna().any().all())

    places = choose_cuts(candles, series, pd.DataFrame(index=candles.index), warmup, TRIED * count, random)
    places = [cut for cut in places if has_series(cut)][:count]
    if not places:
        forecast(checkpoint, candles, series)
        return [], 0, 0
    found: list[Found] = []
    for cut in tqdm(places, desc="audit of forecasts", unit="cut", delay=SHOW_AFTER, disable=not progress):
        bars, beside, known = part(cut)
        right = forecast(checkpoint, bars, beside).iloc[:known]
        earlier = None if beside is None else beside.iloc[:known]
        found += _moved(REMOVED, right, forecast(checkpoint, bars.iloc[:known], earlier))
        for rises in (True, False):
            later = None if beside is None else noisy_context(beside, known, rises, random)
            found += _moved(REPLACED, right, forecast(checkpoint, noisy_candles(bars, known, rises, random), later))
    return found, right.shape[1], len(places)


def _moved(test: str, one: pd.DataFrame, other: pd.DataFrame) -> list[Found]:
    found = differences(test, one, other, SINGLE)
    return [(f"forecast of {name}", test, first, size) for name, test, first, size in found]


Part = tuple[list[Found], int, dict[str, str]]  # what is guilty, how many figures were compared, and which could not be


def _folds(checkpoint: Checkpoint, index: pd.Index) -> Folds:
    """The folds by position in `index`, that of the candles of the training."""
    starts = (pd.Timestamp(checkpoint.folds[f"{name}_start"]) for name in ("train", "validation", "test"))
    first, one, two = (int(index.searchsorted(start)) for start in starts)
    horizon = checkpoint.horizon
    return Folds(slice(first, one - horizon), slice(one, two - horizon), slice(two, len(index) - horizon))


def _scaling(checkpoint: Checkpoint, bars: pd.DataFrame, beside: pd.DataFrame | None, folds: Folds) -> Part:
    """The scaler, fitted anew on the training fold of `bars`, of which nothing later is real."""
    inputs = make_inputs(bars, checkpoint.spec, checkpoint.options["context"], checkpoint.horizon, beside)
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
    inputs = make_inputs(bars, usable, options.context, checkpoint.horizon, beside)
    targets = make_targets(bars, inputs.volatility, checkpoint.horizon)
    kept, _, anew = select_inputs(usable, inputs, targets, folds, options)
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


def _calibration(checkpoint: Checkpoint, bars: pd.DataFrame, beside: pd.DataFrame | None, folds: Folds) -> Part:
    """The calibration, fitted anew on the validation fold of `bars`, of which nothing later is real."""
    context, held = checkpoint.options["context"], checkpoint.calibration
    inputs = make_inputs(bars, checkpoint.spec, context, checkpoint.horizon, beside)
    targets = make_targets(bars, inputs.volatility, checkpoint.horizon)
    first = max(0, folds.validation.start - context + 1)
    scaled = scaled_tensor(inputs, checkpoint.scaler)[first : folds.validation.stop]
    output = predict(checkpoint.network, scaled, context).numpy().astype(float)[folds.validation.start - first :]
    scored = (inputs.complete & np.isfinite(targets))[folds.validation]
    anew = Calibration.fit(output[scored], targets[folds.validation][scored])
    figures = np.abs(np.append(held.residuals - anew.residuals, held.slope - anew.slope))
    size = float(figures.max() / max(1.0, np.abs(anew.residuals).max()))
    if size <= 10 * SINGLE:
        return [], 1, {}
    return [("calibration", REFITTED, bars.index[folds.test.start], size)], 1, {}
