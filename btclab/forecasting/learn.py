"""`train`: from candles to a checkpoint. Audit, split, select, scale, train, weigh, calibrate, measure, and the placebo."""

from __future__ import annotations

import hashlib
import json
import platform
import secrets
import time
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from btclab import __version__
from btclab.errors import InputError, LookAheadError, TooFewBars, unknown
from btclab.features.audit import audit_features
from btclab.features.selection import select_features
from btclab.features.spec import FeatureSpec, resolve_spec
from btclab.forecasting.calibration import Calibration
from btclab.forecasting.checkpoints import Checkpoint
from btclab.forecasting.dataset import (
    MIN_TARGETS,
    VOLATILITY_WARMUP,
    Folds,
    Inputs,
    Scaler,
    make_inputs,
    usable_spec,
    with_noise,
)
from btclab.forecasting.labels import block_shuffled, make_targets
from btclab.forecasting.members import (
    Answer,
    ForestMember,
    Member,
    NetworkMember,
    RidgeMember,
    combine,
    member_weights,
)
from btclab.forecasting.networks import VARIANTS
from btclab.forecasting.skill import distribution_skill, information_coefficient, skill
from btclab.forecasting.training import TrainingOptions, numpy_tensor, train_network
from btclab.market.candles import fingerprint, timeframe_of, validate_candles
from btclab.settings import settings

ENSEMBLE = ("quantile", "attention")  # the variants of an ensemble's members, in turn
ERROR_CAP = 5.0  # volatilities: one crash is no drift
PLACEBO_BLOCK = 150  # bars that keep their order, on average, when outcomes are shuffled
FORGOTTEN_S = 7 * 24 * 3600.0  # after which the state of a training that was never taken up again is removed
VARIANT_NAMES = (*VARIANTS, "ensemble")


def train(
    candles: pd.DataFrame,
    variant: str = "quantile",
    horizon: int | str | Sequence[int] = 1,
    spec: str | FeatureSpec = "default",
    series: pd.DataFrame | None = None,
    allow_leaky: Collection[str] = (),
    progress: bool = True,
    **options: Any,
) -> Checkpoint:
    """Train a network to forecast the log return over the next `horizon` bars, and measure it where it has not looked.

    `variant`: "base" (point forecast), "attention", "quantile" (the distribution) or "ensemble" of several; several horizons,
    e.g. (1, 4, 24), are learnt by one network, and the first one is that which is traded. The bars are split in time: train
    (fits scaling and network, selects the features), validation (stops the training, weighs an ensemble's members, fits the
    calibration), test (measured once). `series` are context series beside the bars, as `bl.load_context(candles)` gives
    them; features that have no data are left out, by name. `options` are the fields of `TrainingOptions`, among them
    `context`, the number of bars that the network sees. A training that was killed goes on where it was.

    Features are audited for look-ahead first: a leaking one stops the training unless `allow_leaky` names it, and then every
    report says so. Raises `TooFewBars`, `LookAheadError` naming the guilty feature, `InputError` for a wrong option or value.
    """
    if variant not in VARIANT_NAMES:
        raise unknown("variant", variant, VARIANT_NAMES)
    settled, horizons = TrainingOptions.of(options), horizons_of(horizon)
    if variant != "ensemble" and (idle := {"members", "trees"} & options.keys()):
        raise InputError(f'{" and ".join(sorted(idle))} say what an ensemble is made of: variant="ensemble".')
    validate_candles(candles, timeframe_of(candles))
    wanted = resolve_spec(spec)
    chosen, left_out = usable_spec(candles, wanted, series, int(len(candles) * settled.train_fraction))
    _check_length(candles, chosen, settled, max(horizons))
    certificate = _audit(candles, chosen, series, settled.seed, allow_leaky)
    chosen = with_noise(chosen, settled.noise)
    inputs = make_inputs(candles, chosen, settled.context, series)
    if not inputs.complete.any():
        raise TooFewBars(
            f"No window of {settled.context} bars is complete; features and volatility need "
            f"{_warmup(candles, chosen, settled):,} bars to warm up, and there are {len(candles):,}."
        )
    first = int(np.argmax(inputs.complete))
    folds = Folds.of(
        len(candles), first, max(horizons), settled.context, settled.train_fraction, settled.validation_fraction
    )
    targets = make_targets(candles, inputs.volatility, horizons)
    usable = inputs.complete[:, None] & np.isfinite(targets)  # [time, horizon]
    _check_targets(targets, usable, folds, horizons)
    problem = _Problem(chosen, inputs, targets, usable, folds, settled)
    learnt = _learn(variant, problem, progress, keep=True)
    calibrations = fit_calibrations(learnt.answer, targets, usable, folds.validation)
    metrics = _measure_all(problem, learnt, calibrations, horizons)
    metrics["placebo"] = _placebo(variant, problem, progress)
    timeframe, now = timeframe_of(candles), pd.Timestamp.now("UTC")
    simulated = "_simulated" if candles.attrs.get("simulated") else ""
    return Checkpoint(
        name=f"{now:%Y%m%dT%H%M%S}_{variant}_{timeframe}{simulated}_{secrets.token_hex(3)}",
        variant=variant,
        horizons=horizons,
        members=learnt.members,
        weights=learnt.weights,
        spec=learnt.spec,
        scaler=learnt.scaler,
        calibrations=calibrations,
        options=asdict(settled),
        market={key: candles.attrs.get(key) for key in ("source", "symbol", "simulated")} | {"timeframe": timeframe},
        folds=_fold_times(inputs.index, folds),
        metrics=metrics,
        curves=learnt.curves,
        audit=certificate,
        selection=learnt.selection,
        provenance={
            "created": now.isoformat(),
            "fingerprint": fingerprint(candles),
            "bars": len(candles),
            "best_epoch": learnt.best_epoch,
            "left_out": left_out,
            "ran_on": learnt.ran_on,
            "rose": {name: _rose(targets, usable, getattr(folds, name)) for name in ("train", "validation", "test")},
            "reference": _reference(learnt.features[_rows(usable, folds.train)].numpy()),
            "volatility": float(np.nanmedian(inputs.volatility[: folds.train.stop]) * np.sqrt(horizons[0])),
            "versions": {
                "btclab": __version__,
                "python": platform.python_version(),
                "torch": torch.__version__,
                "numpy": np.__version__,
            },
        },
    )


def horizons_of(horizon: int | str | Sequence[int]) -> tuple[int, ...]:
    """`horizon`, e.g. 1, (1, 4, 24) or "1, 4, 24", as whole numbers of bars in the order given. Raises `InputError`."""
    if isinstance(horizon, str):
        horizon = [int(one) if one.isdecimal() else one for one in horizon.replace(",", " ").split()]  # type: ignore[misc]
    given = tuple(horizon) if isinstance(horizon, tuple | list | np.ndarray) else (horizon,)
    for one in given:
        if isinstance(one, bool) or not isinstance(one, int | np.integer) or one < 1:
            raise InputError(
                f"horizon is {one!r}; it must be a whole number of at least 1 bar, or several: (1, 4, 24)."
            )
    if not given or len(set(given)) < len(given):
        raise InputError(
            f"horizon is {horizon!r}; it must name one horizon or several different ones, e.g. (1, 4, 24)."
        )
    return tuple(map(int, given))


@dataclass(frozen=True)
class _Problem:
    """What is learnt from: all features, targets and what may be scored, aligned by bar; the folds; the options."""

    spec: FeatureSpec
    inputs: Inputs
    targets: np.ndarray  # [time, horizon]
    usable: np.ndarray  # [time, horizon]
    folds: Folds
    options: TrainingOptions

    def shuffled(self, seed: int) -> _Problem:
        """The same with the outcomes of each fold in another order."""
        targets = self.targets
        for fold in (self.folds.train, self.folds.validation, self.folds.test):
            within = np.zeros(len(targets), dtype=bool)
            within[_rows(self.usable, fold)] = True
            targets = block_shuffled(targets, within, PLACEBO_BLOCK, seed)
        return replace(self, targets=targets, usable=self.usable & np.isfinite(targets))


@dataclass(frozen=True)
class _Learnt:
    """What a training made: chosen features, their scaling, the members and their weights, and their joint answer [time]."""

    spec: FeatureSpec
    selection: dict[str, Any] | None
    scaler: Scaler
    features: torch.Tensor  # [time, feature] scaled
    members: tuple[Member, ...]
    weights: tuple[float, ...]
    answer: Answer
    curves: dict[str, list[float]]
    best_epoch: int
    ran_on: dict[str, Any]


def _learn(variant: str, problem: _Problem, progress: bool, keep: bool = False) -> _Learnt:
    """Select, scale, train and weigh. With `keep`, the state of each network is kept on disk until all are trained."""
    folds, options = problem.folds, problem.options
    spec, inputs, selection = select_inputs(problem.spec, problem.inputs, problem.targets[:, 0], folds, options)
    scaler = Scaler.fit(inputs.features[: folds.train.stop])
    features = numpy_tensor(scaler.apply(inputs.features))
    state = _state_path(variant, features, problem) if keep else None
    variants = [variant] if variant != "ensemble" else [ENSEMBLE[n % len(ENSEMBLE)] for n in range(options.members)]
    paths = [None if state is None else state.with_name(f"{state.name}.{number}") for number in range(len(variants))]
    trained = [
        train_network(
            features,
            numpy_tensor(problem.targets),
            torch.from_numpy(problem.usable),
            folds,
            name,
            replace(options, seed=options.seed + number),
            progress,
            path,
        )
        for number, (name, path) in enumerate(zip(variants, paths, strict=True))
    ]
    members: list[Member] = [NetworkMember(name, one.network) for name, one in zip(variants, trained, strict=True)]
    if variant == "ensemble" and options.trees:
        rows = _rows(problem.usable, folds.train)
        members.append(
            ForestMember.fit(features[rows].numpy(), problem.targets[rows], options.trees, options.seed % 2**32)
        )
    answers = [one.answer(features, inputs.bars, options.context) for one in members]
    weights = member_weights(answers, problem.targets, _rows(problem.usable, folds.validation))
    for path in paths:
        if path is not None:
            path.unlink(missing_ok=True)
    first = trained[0]
    return _Learnt(
        spec,
        selection,
        scaler,
        features,
        tuple(members),
        tuple(map(float, weights)),
        combine(answers, weights),
        first.curves,
        first.best_epoch,
        asdict(first.choice),
    )


def _rows(usable: np.ndarray, fold: slice) -> np.ndarray:
    """Positions of the bars of a fold that have a whole window and a label at every horizon."""
    return np.flatnonzero(usable[fold].all(axis=1)) + fold.start


def _state_path(variant: str, features: torch.Tensor, problem: _Problem) -> Path:
    """Where a training keeps its state: a name that only the same training has. States of trainings given up are removed."""
    said = [variant, asdict(problem.options), asdict(problem.folds), torch.__version__, __version__]
    digest = hashlib.sha256(json.dumps(said, sort_keys=True, default=str).encode())
    for array in (features.numpy(), problem.targets, problem.usable):
        digest.update(np.ascontiguousarray(array).tobytes())
    folder = settings().models / ".training"
    for old in folder.glob("*"):
        if time.time() - old.stat().st_mtime > FORGOTTEN_S:
            old.unlink(missing_ok=True)
    return folder / digest.hexdigest()[:16]


def _warmup(candles: pd.DataFrame, spec: FeatureSpec, options: TrainingOptions) -> int:
    return max(spec.warmup_at(timeframe_of(candles)), VOLATILITY_WARMUP) + options.context


def _check_length(candles: pd.DataFrame, spec: FeatureSpec, options: TrainingOptions, horizon: int) -> None:
    bars, warmup = len(candles), _warmup(candles, spec, options)
    smallest = min(
        options.train_fraction,
        options.validation_fraction,
        1 - options.train_fraction - options.validation_fraction,
    )
    each = MIN_TARGETS + options.context + horizon
    if smallest > 0 and bars < (needed := warmup + horizon + int(each / smallest)):
        raise TooFewBars(
            f"Training needs at least {needed:,} bars ({warmup:,} to warm up, the rest for three folds); there are {bars:,}. "
            'A spec with a shorter warm-up (spec="core") or a shorter context needs fewer.'
        )


def _check_targets(targets: np.ndarray, usable: np.ndarray, folds: Folds, horizons: tuple[int, ...]) -> None:
    for name in ("train", "validation", "test"):
        fold = getattr(folds, name)
        for number, horizon in enumerate(horizons):
            rows = usable[fold, number]
            count = int(rows.sum())
            if count < MIN_TARGETS // 2:
                raise TooFewBars(
                    f"Only {count} bars of the {name} fold have a whole window and a label over {horizon} bar(s); "
                    f"{MIN_TARGETS // 2} are needed. "
                    "Are there many gaps? See bl.quality_summary(candles); a shorter horizon or context needs fewer whole bars."
                )
            if name == "train" and np.ptp(targets[fold, number][rows]) == 0:
                raise InputError(
                    f"Every return over {horizon} bar(s) in the training fold is the same: there is nothing to learn. "
                    "Do the prices ever change? See bl.quality_summary(candles)."
                )


def _audit(
    candles: pd.DataFrame, spec: FeatureSpec, series: pd.DataFrame | None, seed: int, allowed: Collection[str]
) -> dict[str, Any]:
    """The certificate of the look-ahead audit; features that leak must be in `allowed`."""
    for name in allowed:
        if name not in spec.columns:
            raise unknown("feature in allow_leaky", name, spec.columns)
    audit = audit_features(candles, spec, series, seed=seed)
    if refused := sorted(set(audit.leaky) - set(allowed)):
        raise LookAheadError(
            f"{audit} Remove {'it' if len(refused) == 1 else 'them'} from the spec: spec.without({refused}). To train all the "
            f"same, and have every report say so in red: allow_leaky={refused}.\n{audit.table.to_string(index=False)}"
        )
    return audit.certificate()


def select_inputs(
    spec: FeatureSpec, inputs: Inputs, target: np.ndarray, folds: Folds, options: TrainingOptions
) -> tuple[FeatureSpec, Inputs, dict[str, Any] | None]:
    """The features that the training fold recommends, `inputs` of these alone, and what was weighed; noise stays."""
    noise = [one.name for one in spec.features if one.group == "noise"]
    if not options.select or len(spec.columns) - len(noise) <= options.select:
        return spec, inputs, None
    table = pd.DataFrame(inputs.features[folds.train], columns=spec.columns)
    table.attrs = {"features": {one.name: {"group": one.group} for one in spec.features}}  # which are noise
    selection = select_features(table, target[folds.train], options.select, seed=options.seed)
    kept = spec.only([*selection.columns, *noise])
    places = [spec.columns.index(name) for name in kept.columns]
    return kept, replace(inputs, features=np.ascontiguousarray(inputs.features[:, places])), selection.to_dict()


def _fold_times(index: pd.DatetimeIndex, folds: Folds) -> dict[str, str]:
    """Open times of the first and last bar of each fold, and of the last bar of all."""
    times: dict[str, str] = {}
    for name in ("train", "validation", "test"):
        fold = getattr(folds, name)
        times |= {f"{name}_start": index[fold.start].isoformat(), f"{name}_stop": index[fold.stop - 1].isoformat()}
    return times | {"test_end": index[-1].isoformat()}


def _rose(targets: np.ndarray, usable: np.ndarray, fold: slice) -> float:
    """Class balance: the share of a fold's outcomes over the first horizon that were above zero."""
    return float((targets[fold, 0][usable[fold, 0]] > 0).mean())


def fit_calibrations(answer: Answer, targets: np.ndarray, usable: np.ndarray, fold: slice) -> tuple[Calibration, ...]:
    """A calibration for each horizon, from the validation fold."""
    found = []
    for number in range(targets.shape[1]):
        rows = np.flatnonzero(usable[fold, number]) + fold.start
        quantiles = None if answer.quantiles is None else answer.quantiles[rows, number]
        found.append(
            Calibration.fit(answer.mean[rows, number], quantiles, answer.score[rows, number], targets[rows, number])
        )
    return tuple(found)


def _measure_all(
    problem: _Problem, learnt: _Learnt, calibrations: tuple[Calibration, ...], horizons: tuple[int, ...]
) -> dict[str, Any]:
    """Metrics of the test fold at the first horizon, and under `horizons` those of the others, by horizon.

    Ridge and the naive forecast stand beside the network; they are calibrated on the validation fold as it is.
    """
    rows = _rows(problem.usable, problem.folds.train)
    fitted = RidgeMember.fit(learnt.features[rows].numpy().astype(float), np.clip(problem.targets[rows], -5, 5))
    linear = fitted.answer(learnt.features, problem.inputs.bars, problem.options.context)
    nothing = np.zeros_like(problem.targets)
    beside = [
        fit_calibrations(one, problem.targets, problem.usable, problem.folds.validation)
        for one in (linear, Answer(nothing, nothing))
    ]
    each = {}
    for number, horizon in enumerate(horizons):
        ridge, naive = (calibrated[number] for calibrated in beside)
        measured = _measure(problem, learnt.answer, calibrations[number], naive, number, horizon)
        each[str(horizon)] = measured | {"ridge": _measure(problem, linear, ridge, naive, number, horizon)}
    first, *others = each
    return each[first] | {"horizons": {name: each[name] for name in others}}


def _measure(
    problem: _Problem, answer: Answer, calibration: Calibration, naive: Calibration, number: int, horizon: int
) -> dict[str, Any]:
    """Skill of one answer at one horizon on the test fold, beside the calibrated naive distribution."""
    fold = problem.folds.test
    rows = np.flatnonzero(problem.usable[fold, number]) + fold.start
    outcome = problem.targets[rows, number]
    mean, quantiles = calibration.distribution(
        answer.mean[rows, number], None if answer.quantiles is None else answer.quantiles[rows, number]
    )
    _, calm = naive.distribution(np.zeros(1), None)
    measured = skill(mean, outcome, block=max(24, 4 * horizon), horizon=horizon)
    measured |= distribution_skill(quantiles, calibration.prob_up(answer.score[rows, number]), outcome, calm[0])
    size = np.minimum(np.abs(outcome - mean), ERROR_CAP)
    return measured | {"absolute_error": float(size.mean()), "absolute_error_deviation": float(size.std())}


def _placebo(variant: str, problem: _Problem, progress: bool) -> list[float]:
    """Information coefficients of the same training where nothing can be learnt, for all outcomes are shuffled.

    Those of the test fold, too: a network that learnt from noise still reads features, and may lean with or against a real edge.
    """
    found = []
    seeds = range(problem.options.seed + 1000, problem.options.seed + 1000 + problem.options.placebo)
    for seed in tqdm(seeds, desc="placebo", unit="training", disable=not (progress and seeds)):
        shuffled = problem.shuffled(seed)
        answer = _learn(variant, shuffled, progress=False).answer
        rows = np.flatnonzero(shuffled.usable[problem.folds.test, 0]) + problem.folds.test.start
        found.append(information_coefficient(answer.mean[rows, 0], shuffled.targets[rows, 0]))
    return found


def _reference(rows: np.ndarray) -> dict[str, Any]:
    """What drift is measured against: of each scaled feature bins and the shares of the training `rows` in them."""
    found = {}
    for number in range(rows.shape[1]):
        edges = np.unique(np.quantile(rows[:, number], np.linspace(0.1, 0.9, 9)))
        counts = np.bincount(np.searchsorted(edges, rows[:, number]), minlength=len(edges) + 1)
        found[str(number)] = {"edges": edges.tolist(), "shares": (counts / len(rows)).tolist()}
    return found
