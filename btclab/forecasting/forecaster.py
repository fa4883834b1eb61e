"""`train` and `forecast`: from candles to a checkpoint, and from a checkpoint to a distribution for every bar."""

from __future__ import annotations

import platform
import secrets
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
import torch

from btclab.errors import CheckpointError, LookAheadError, TooFewBars
from btclab.features.audit import audit_features
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
    progress: bool = True,
    **options: Any,
) -> Checkpoint:
    """Train a network to forecast the log return over the next `horizon` bars, and measure it where it has not looked.

    The bars are split in time: train, validation (stops the training and fits the calibration), test (measured once).
    `options` are the fields of `TrainingOptions`. Features are audited for look-ahead first.

    Raises `TooFewBars`, `LookAheadError` naming the guilty feature, and `InputError` for a wrong option or value.
    """
    chosen, settled = resolve_spec(spec), TrainingOptions.of(options)
    validate_candles(candles, timeframe_of(candles))
    _check_length(len(candles), chosen, settled, horizon)
    inputs = make_inputs(candles, chosen, settled.context, horizon)
    targets = make_targets(candles, inputs.volatility, horizon)
    if not inputs.complete.any():
        raise TooFewBars(
            f"No window of {settled.context} bars is complete; features and volatility need "
            f"{max(chosen.warmup, VOLATILITY_WARMUP) + settled.context} bars to warm up, and there are {len(candles):,}."
        )
    first = int(np.argmax(inputs.complete))
    folds = Folds.of(len(candles), first, horizon, settled.train_fraction, settled.validation_fraction)
    certificate = _audit(candles, chosen, settled.seed)
    scaler = Scaler.fit(inputs.features[: folds.train.stop])
    features = _tensor(inputs, scaler)
    usable = inputs.complete & np.isfinite(targets)
    _check_targets(usable, folds)
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
        provenance={
            "created": now.isoformat(),
            "fingerprint": fingerprint(candles),
            "bars": len(candles),
            "best_epoch": trained.best_epoch,
            "audit": certificate,
            "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
            "threads": torch.get_num_threads(),
        },
    )


def _check_length(bars: int, spec: FeatureSpec, options: TrainingOptions, horizon: int) -> None:
    warmup = max(spec.warmup, VOLATILITY_WARMUP) + options.context
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


def _audit(candles: pd.DataFrame, spec: FeatureSpec, seed: int) -> str:
    """The look-ahead audit in a sentence; it must pass."""
    audit = audit_features(candles, spec, seed=seed)
    if not audit.passed:
        raise LookAheadError(f"{audit} Remove it from the spec.\n{audit.table.to_string(index=False)}")
    return str(audit)


def _fold_times(index: pd.DatetimeIndex, folds: Folds) -> dict[str, str]:
    """Open times of the first bar of each fold and of the last bar of all."""
    starts = {"train_start": folds.train, "validation_start": folds.validation, "test_start": folds.test}
    return {name: index[fold.start].isoformat() for name, fold in starts.items()} | {"test_end": index[-1].isoformat()}


def _tensor(inputs: Inputs, scaler: Scaler) -> torch.Tensor:
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


def forecast(checkpoint: Checkpoint, candles: pd.DataFrame) -> pd.DataFrame:
    """One row per bar, made at its close, about the log return over the next `horizon` bars.

    Columns: `mean`, the quantiles `q05 q25 q50 q75 q95`, `interval_low` and `interval_high` (target coverage 90 %),
    `prob_up`, `volatility` (of that return), and `in_sample` (the network, its scaling or its calibration has seen the
    bar's outcome). Rows are missing until the features and `context` bars are complete.

    Raises `CheckpointError` if the candles have another timeframe, and `TooFewBars`.
    """
    validate_candles(candles)
    _check_market(checkpoint, candles)
    inputs = make_inputs(candles, checkpoint.spec, checkpoint.options["context"], checkpoint.horizon)
    output = (
        predict(checkpoint.network, _tensor(inputs, checkpoint.scaler), checkpoint.options["context"])
        .numpy()
        .astype(float)
    )
    output[~inputs.complete] = np.nan
    return _distribution(checkpoint, output, inputs, candles)


def _check_market(checkpoint: Checkpoint, candles: pd.DataFrame) -> None:
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


def naive_forecast(checkpoint: Checkpoint, candles: pd.DataFrame) -> pd.DataFrame:
    """As `forecast`, from the random walk: the coming return is expected to be zero, with the current volatility.

    Its probability of up is one half and its quantiles are those of the checkpoint's residuals around zero.
    """
    inputs = make_inputs(candles, checkpoint.spec, checkpoint.options["context"], checkpoint.horizon)
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
