"""`train` and `forecast`: from candles to a checkpoint, and from a checkpoint to a distribution for every bar."""

from __future__ import annotations

import platform
import secrets
from collections.abc import Collection, Mapping
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pandas as pd
import torch

from btclab.errors import CheckpointError, DataUnavailable, LookAheadError, TooFewBars, unknown
from btclab.features.audit import audit_features
from btclab.features.selection import select_features
from btclab.features.spec import FeatureSpec, resolve_spec
from btclab.forecasting.calibration import QUANTILES, Calibration
from btclab.forecasting.checkpoints import Checkpoint
from btclab.forecasting.dataset import (
    MIN_TARGETS,
    VOLATILITY_WARMUP,
    Folds,
    Inputs,
    Scaler,
    make_inputs,
    make_targets,
    usable_spec,
    with_noise,
)
from btclab.forecasting.networks import predict
from btclab.forecasting.skill import skill
from btclab.forecasting.training import TrainingOptions, train_network
from btclab.market.candles import between, fingerprint, timeframe_of, validate_candles


def train(
    candles: pd.DataFrame,
    variant: str = "base",
    horizon: int = 1,
    spec: str | FeatureSpec = "default",
    series: pd.DataFrame | None = None,
    allow_leaky: Collection[str] = (),
    progress: bool = True,
    **options: Any,
) -> Checkpoint:
    """Train a network to forecast the log return over the next `horizon` bars, and measure it where it has not looked.

    The bars are split in time: train (fits scaling and network, selects the features), validation (stops the training and
    fits the calibration), test (measured once). `series` are context series beside the bars, as `bl.load_context(candles)`
    gives them; features that have no data are left out, by name. `options` are the fields of `TrainingOptions`, among
    them `context`, the number of bars that the network sees.

    Features are audited for look-ahead first: a leaking one stops the training unless `allow_leaky` names it, and then every
    report says so. Raises `TooFewBars`, `LookAheadError` naming the guilty feature, `InputError` for a wrong option or value.
    """
    settled = TrainingOptions.of(options)
    validate_candles(candles, timeframe_of(candles))
    wanted = resolve_spec(spec)
    chosen, left_out = usable_spec(candles, wanted, series, int(len(candles) * settled.train_fraction))
    _check_length(candles, chosen, settled, horizon)
    certificate = _audit(candles, chosen, series, settled.seed, allow_leaky)
    chosen = with_noise(chosen, settled.noise)
    inputs = make_inputs(candles, chosen, settled.context, horizon, series)
    if not inputs.complete.any():
        raise TooFewBars(
            f"No window of {settled.context} bars is complete; features and volatility need "
            f"{_warmup(candles, chosen, settled):,} bars to warm up, and there are {len(candles):,}."
        )
    first = int(np.argmax(inputs.complete))
    folds = Folds.of(len(candles), first, horizon, settled.train_fraction, settled.validation_fraction)
    targets = make_targets(candles, inputs.volatility, horizon)
    usable = inputs.complete & np.isfinite(targets)
    _check_targets(usable, folds)
    chosen, inputs, selection = select_inputs(chosen, inputs, targets, folds, settled)
    scaler = Scaler.fit(inputs.features[: folds.train.stop])
    features = scaled_tensor(inputs, scaler)
    trained = train_network(
        features,
        torch.from_numpy(np.nan_to_num(targets).astype(np.float32)),
        torch.from_numpy(usable),
        folds,
        variant,
        settled,
        progress,
    )
    output = predict(trained.network, features, settled.context).numpy().astype(float)
    learnt = np.flatnonzero(usable[folds.validation]) + folds.validation.start
    calibration = Calibration.fit(output[learnt], targets[learnt])
    timeframe, now = timeframe_of(candles), pd.Timestamp.now("UTC")
    simulated = "_simulated" if candles.attrs.get("simulated") else ""
    return Checkpoint(
        name=f"{now:%Y%m%dT%H%M%S}_{variant}_{timeframe}{simulated}_{secrets.token_hex(3)}",
        variant=variant,
        horizon=horizon,
        network=trained.network,
        spec=chosen,
        scaler=scaler,
        calibration=calibration,
        options=asdict(settled),
        market={key: candles.attrs.get(key) for key in ("source", "symbol", "simulated")} | {"timeframe": timeframe},
        folds=_fold_times(inputs.index, folds),
        metrics=_measure(output, targets, usable, folds.test, calibration, horizon),
        curves=trained.curves,
        audit=certificate,
        selection=selection,
        provenance={
            "created": now.isoformat(),
            "fingerprint": fingerprint(candles),
            "bars": len(candles),
            "best_epoch": trained.best_epoch,
            "left_out": left_out,
            "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
            "threads": torch.get_num_threads(),
        },
    )


def _warmup(candles: pd.DataFrame, spec: FeatureSpec, options: TrainingOptions) -> int:
    return max(spec.warmup_at(timeframe_of(candles)), VOLATILITY_WARMUP) + options.context


def _check_length(candles: pd.DataFrame, spec: FeatureSpec, options: TrainingOptions, horizon: int) -> None:
    bars, warmup = len(candles), _warmup(candles, spec, options)
    smallest = min(
        options.train_fraction,
        options.validation_fraction,
        1 - options.train_fraction - options.validation_fraction,
    )
    if smallest > 0 and bars < (needed := warmup + horizon + int(MIN_TARGETS / smallest)):
        raise TooFewBars(
            f"Training needs at least {needed:,} bars ({warmup:,} to warm up, the rest for three folds); there are {bars:,}."
        )


def _check_targets(usable: np.ndarray, folds: Folds) -> None:
    for name in ("train", "validation", "test"):
        count = int(usable[getattr(folds, name)].sum())
        if count < MIN_TARGETS // 2:
            raise TooFewBars(
                f"Only {count} bars of the {name} fold have a whole label and window; {MIN_TARGETS // 2} are needed. "
                "Are there many gaps? See bl.quality_summary(candles); a shorter horizon or context needs fewer whole bars."
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
    spec: FeatureSpec, inputs: Inputs, targets: np.ndarray, folds: Folds, options: TrainingOptions
) -> tuple[FeatureSpec, Inputs, dict[str, Any] | None]:
    """The features that the training fold recommends, `inputs` of these alone, and what was weighed; noise stays."""
    noise = [one.name for one in spec.features if one.group == "noise"]
    if not options.select or len(spec.columns) - len(noise) <= options.select:
        return spec, inputs, None
    table = pd.DataFrame(inputs.features[folds.train], columns=spec.columns)
    table.attrs = {"features": {one.name: {"group": one.group} for one in spec.features}}  # which are noise
    selection = select_features(table, targets[folds.train], options.select, seed=options.seed)
    kept = spec.only([*selection.columns, *noise])
    places = [spec.columns.index(name) for name in kept.columns]
    return kept, replace(inputs, features=np.ascontiguousarray(inputs.features[:, places])), selection.to_dict()


def _fold_times(index: pd.DatetimeIndex, folds: Folds) -> dict[str, str]:
    """Open times of the first bar of each fold and of the last bar of all."""
    starts = {"train_start": folds.train, "validation_start": folds.validation, "test_start": folds.test}
    return {name: index[fold.start].isoformat() for name, fold in starts.items()} | {"test_end": index[-1].isoformat()}


def scaled_tensor(inputs: Inputs, scaler: Scaler) -> torch.Tensor:
    """Scaled features [time, feature]. A missing value becomes the training mean; no bar whose window holds one is scored."""
    return torch.from_numpy(np.nan_to_num(scaler.apply(inputs.features)))


def _measure(
    output: np.ndarray, targets: np.ndarray, usable: np.ndarray, fold: slice, calibration: Calibration, horizon: int
) -> dict[str, Any]:
    rows = np.flatnonzero(usable[fold]) + fold.start
    outcome, forecast = targets[rows], output[rows]
    inside = (outcome >= calibration.quantile(forecast, 0.05)) & (outcome <= calibration.quantile(forecast, 0.95))
    up, prob_up = outcome > 0, calibration.prob_up(forecast)
    return {
        **skill(calibration.mean(forecast), outcome, block=max(24, horizon)),
        "coverage_90": float(inside.mean()),
        "brier": float(np.mean((prob_up - up) ** 2)),
        "up_share": float(up.mean()),
    }


def forecast(checkpoint: Checkpoint, candles: pd.DataFrame, series: pd.DataFrame | None = None) -> pd.DataFrame:
    """One row per bar, made at its close, about the log return over the next `horizon` bars.

    `series` as in `train`: a checkpoint whose features read context series needs them.

    Columns: `mean`, the quantiles `q05 q25 q50 q75 q95`, `interval_low` and `interval_high` (target coverage 90 %),
    `prob_up`, `volatility` (of that return), and `in_sample` (the network, its scaling or its calibration has seen the
    bar's outcome). Rows are missing until the features and `context` bars are complete.

    Raises `CheckpointError` if the candles have another timeframe, and `TooFewBars`.
    """
    validate_candles(candles)
    check_market(checkpoint, candles)
    check_series(checkpoint, candles, series)
    inputs = make_inputs(candles, checkpoint.spec, checkpoint.options["context"], checkpoint.horizon, series)
    output = (
        predict(checkpoint.network, scaled_tensor(inputs, checkpoint.scaler), checkpoint.options["context"])
        .numpy()
        .astype(float)
    )
    output[~inputs.complete] = np.nan
    return _distribution(checkpoint, output, inputs, candles)


def check_market(checkpoint: Checkpoint, candles: pd.DataFrame) -> None:
    """Refuse candles of another timeframe or market than the checkpoint's; what candles do not say is not held against them."""
    trained, given = checkpoint.market, {**candles.attrs, "timeframe": timeframe_of(candles)}
    if trained["timeframe"] != given["timeframe"]:
        raise CheckpointError(
            f"Checkpoint {checkpoint.name} was trained on {trained['timeframe']} bars; these are {given['timeframe']} bars."
        )
    for key in ("simulated", "symbol"):
        if None not in (trained[key], given.get(key)) and trained[key] != given[key]:
            raise CheckpointError(
                f"Checkpoint {checkpoint.name} was trained on {_market_name(trained)}; these are candles of "
                f"{_market_name(given)}. Name another checkpoint (-p checkpoint=NAME) or train one: btclab train"
            )


def check_series(checkpoint: Checkpoint, candles: pd.DataFrame, series: pd.DataFrame | None) -> None:
    """Refuse to forecast where a series that the network was trained with has no value at all: every row would be missing."""
    read = checkpoint.spec.context
    empty = [name for name in read if series is None or name not in series.columns or series[name].isna().all()]
    if empty:
        raise DataUnavailable(
            f"Checkpoint {checkpoint.name} reads {', '.join(empty)}, which {'is' if len(empty) == 1 else 'are'} not there: "
            f"btclab fetch --context {empty[0]}, then series=bl.load_context(candles)."
        )


def _market_name(market: Mapping[Any, Any]) -> str:
    return f"{market.get('symbol')} {'(simulated)' if market.get('simulated') else '(real)'}"


def out_of_sample(
    candles: pd.DataFrame, forecasts: pd.DataFrame, start: object = None, end: object = None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The bars that training has not seen, from the first that has a forecast, and their forecasts.

    `start` and `end` cut them further, after the forecasts were made: a window needs no warm-up of its own. Raises
    `TooFewBars` if there are fewer than two.
    """
    unseen = between(forecasts, start, end)
    unseen = unseen[~unseen["in_sample"]]
    unseen = unseen[unseen["prob_up"].notna().cummax()]
    if len(unseen) < 2:
        raise TooFewBars(
            f"No bars are left that training has not seen: the candles end at {candles.index[-1]}. "
            "Give later candles or another start and end, or train on earlier candles."
        )
    chosen, kept = candles.loc[unseen.index], unseen
    chosen.attrs, kept.attrs = dict(candles.attrs), dict(forecasts.attrs)
    return chosen, kept


def naive_forecast(checkpoint: Checkpoint, candles: pd.DataFrame, series: pd.DataFrame | None = None) -> pd.DataFrame:
    """As `forecast`, from the random walk: the coming return is expected to be zero, with the current volatility.

    Its probability of up is one half and its quantiles are those of the checkpoint's residuals around zero.
    """
    inputs = make_inputs(candles, checkpoint.spec, checkpoint.options["context"], checkpoint.horizon, series)
    table = _distribution(checkpoint, np.where(inputs.complete, 0.0, np.nan), inputs, candles)
    table["prob_up"] = table["prob_up"].where(table["prob_up"].isna(), 0.5)
    return table


def _distribution(checkpoint: Checkpoint, output: np.ndarray, inputs: Inputs, candles: pd.DataFrame) -> pd.DataFrame:
    calibration, volatility = checkpoint.calibration, inputs.volatility
    columns: dict[str, Any] = {"mean": calibration.mean(output) * volatility}
    columns |= {name: calibration.quantile(output, level) * volatility for name, level in QUANTILES.items()}
    columns |= {"interval_low": columns["q05"], "interval_high": columns["q95"]}
    columns |= {"prob_up": calibration.prob_up(output), "volatility": volatility}
    columns["in_sample"] = inputs.index < checkpoint.test_start
    table = pd.DataFrame(columns, index=candles.index)
    table.attrs = {**candles.attrs, "horizon": checkpoint.horizon, "checkpoint": checkpoint.name}
    return table
