"""`forecast`: from a checkpoint to a distribution for every bar, and which bars a checkpoint may speak of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from btclab.errors import CheckpointError, DataUnavailable, TooFewBars
from btclab.forecasting.calibration import NAMES, Calibration, adaptive_factor
from btclab.forecasting.checkpoints import Checkpoint
from btclab.forecasting.dataset import (
    Inputs,
    make_inputs,
)
from btclab.forecasting.labels import forward_log_return
from btclab.forecasting.members import (
    Answer,
    combine,
)
from btclab.forecasting.training import numpy_tensor
from btclab.market.candles import between, timeframe_of, validate_candles


def forecast(checkpoint: Checkpoint, candles: pd.DataFrame, series: pd.DataFrame | None = None) -> pd.DataFrame:
    """One row per bar, made at its close, about the log return over the next `horizon` bars.

    `series` as in `train`: a checkpoint whose features read context series needs them. Columns: `mean`, the quantiles
    `q05 q25 q50 q75 q95`, `interval_low` and `interval_high` (target coverage 90 %), `adaptive_low` and `adaptive_high` (the
    same, following the coverage of the last 1,000 outcomes), `prob_up`, `volatility` (of that return), `spread` (how far an
    ensemble's members or a network's dropout masks disagree), and `in_sample` (the network, its scaling or its calibration
    has seen the bar's outcome). Further horizons have the same columns with the number of bars behind, e.g. `mean_24`.
    Rows are missing until the features and `context` bars are complete.

    Raises `CheckpointError` if the candles are of another market or timeframe, `DataUnavailable`, and `TooFewBars`.
    """
    validate_candles(candles)
    check_market(checkpoint, candles)
    check_series(checkpoint, series)
    inputs = make_inputs(candles, checkpoint.spec, checkpoint.options["context"], series)
    outcomes = np.stack([forward_log_return(candles, horizon).to_numpy() for horizon in checkpoint.horizons], axis=1)
    return _table(checkpoint, answer_of(checkpoint, inputs), inputs, candles.attrs, outcomes)


def forecast_latest(checkpoint: Checkpoint, candles: pd.DataFrame, series: pd.DataFrame | None = None) -> pd.DataFrame:
    """The newest row of `forecast` alone, in milliseconds, for the live path; the adaptive interval is left out."""
    check_market(checkpoint, candles)
    check_series(checkpoint, series)
    context = checkpoint.options["context"]
    return forecast_inputs(
        checkpoint, make_inputs(candles, checkpoint.spec, context, series, last=context), candles.attrs
    ).iloc[-1:]


def forecast_inputs(checkpoint: Checkpoint, inputs: Inputs, attrs: Mapping[Any, Any]) -> pd.DataFrame:
    """Forecasts for `inputs` that are ready, without the adaptive interval."""
    return _table(checkpoint, answer_of(checkpoint, inputs), inputs, attrs, None)


def answer_of(checkpoint: Checkpoint, inputs: Inputs) -> Answer:
    """What the members say together, before calibration: in volatilities, not in returns."""
    features = numpy_tensor(checkpoint.scaler.apply(inputs.features))
    context = checkpoint.options["context"]
    answers = [one.answer(features, inputs.bars, context) for one in checkpoint.members]
    return combine(answers, np.array(checkpoint.weights))


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


def check_series(checkpoint: Checkpoint, series: pd.DataFrame | None) -> None:
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
    """As `forecast`, from the random walk: no change is expected, normally distributed with the current volatility.

    Its probability of up is one half.
    """
    inputs = make_inputs(candles, checkpoint.spec, checkpoint.options["context"], series)
    nothing = np.zeros((len(candles), len(checkpoint.horizons)))
    calm = Calibration(0.0, (0.0,) * len(NAMES), "even")
    naive = replace(checkpoint, calibrations=(calm,) * len(checkpoint.horizons))
    return _table(naive, Answer(nothing, nothing), inputs, candles.attrs, None)


def _table(
    checkpoint: Checkpoint, answer: Answer, inputs: Inputs, attrs: Mapping[Any, Any], outcomes: np.ndarray | None
) -> pd.DataFrame:
    columns: dict[str, np.ndarray] = {}
    for number, (horizon, calibration) in enumerate(zip(checkpoint.horizons, checkpoint.calibrations, strict=True)):
        behind = "" if number == 0 else f"_{horizon}"
        volatility = np.where(inputs.complete, inputs.volatility, np.nan) * np.sqrt(horizon)
        mean, quantiles = calibration.distribution(
            answer.mean[:, number], None if answer.quantiles is None else answer.quantiles[:, number]
        )
        found = {"mean": mean * volatility}
        found |= {name: quantiles[:, place] * volatility for place, name in enumerate(NAMES)}
        found |= {"interval_low": found["q05"], "interval_high": found["q95"]}
        if outcomes is not None:
            factor = adaptive_factor(found["q05"], found["q50"], found["q95"], outcomes[:, number], horizon)
            found["adaptive_low"] = found["q50"] - factor * (found["q50"] - found["q05"])
            found["adaptive_high"] = found["q50"] + factor * (found["q95"] - found["q50"])
        found["prob_up"] = np.where(inputs.complete, calibration.prob_up(answer.score[:, number]), np.nan)
        found["volatility"] = inputs.volatility * np.sqrt(horizon)
        if answer.spread is not None:
            found["spread"] = answer.spread[:, number] * volatility
        columns |= {f"{name}{behind}": values for name, values in found.items()}
    columns["in_sample"] = np.asarray(inputs.index < checkpoint.test_start)
    table = pd.DataFrame(columns, index=inputs.index)
    table.attrs = {**attrs, "horizon": checkpoint.horizons[0], "checkpoint": checkpoint.name}
    return table
