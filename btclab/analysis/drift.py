"""Has the market left the one that a checkpoint was trained on? Drift of features, errors and coverage, and the policy.

A checkpoint is judged on the bars it has not seen, the newest ones up to `window`. When training is due is a policy in the
settings, section `[retraining]`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from btclab.errors import TooFewBars
from btclab.forecasting.calibration import INTERVAL
from btclab.forecasting.checkpoints import Checkpoint
from btclab.forecasting.dataset import make_inputs
from btclab.forecasting.labels import forward_log_return
from btclab.forecasting.learn import ERROR_CAP
from btclab.market.candles import close_times
from btclab.settings import RetrainingSettings, settings

FEWEST = 100  # bars; fewer say nothing about drift
FEWEST_OUTCOMES = 30  # that do not overlap; fewer say nothing about errors and coverage
SLACK, ALARM = (
    0.25,
    30.0,
)  # of the CUSUM, in standard deviations of an error; volatility comes in clusters, so a high alarm


@dataclass(frozen=True)
class Drift:
    """`due`: whether the policy asks for a training, `reasons` in words; `features` (PSI and KS, the most drifted first).

    `checks`: one row a rule, with what was measured, the limit, and whether it is past it. `bars`: how many were judged.
    """

    due: bool
    reasons: list[str]
    checks: pd.DataFrame = field(repr=False)
    features: pd.DataFrame = field(repr=False)
    bars: int

    def __str__(self) -> str:
        if not self.due:
            return f"No training is due: none of {len(self.checks)} rules is past its limit on the last {self.bars:,} bars."
        return f"Training is due: {'; '.join(self.reasons)}. btclab train"


def stability_index(edges: np.ndarray, shares: np.ndarray, values: np.ndarray) -> float:
    """Population stability index of `values` against the `shares` of a reference between `edges`: 0 the same, above 0.25 another.

    Sum over the bins of (share − reference) · log(share / reference), an empty bin counting as half a value (Siddiqi 2006).
    """
    counts = np.bincount(np.searchsorted(edges, values), minlength=len(shares))
    least = 0.5 / len(values)
    now, before = np.maximum(counts / len(values), least), np.maximum(shares, least)
    return float(np.sum((now - before) * np.log(now / before)))


def distance(edges: np.ndarray, shares: np.ndarray, values: np.ndarray) -> float:
    """Kolmogorov and Smirnov's distance of `values` from a reference, at its `edges`: 0…1."""
    below = np.array([np.mean(values <= edge) for edge in edges])
    return float(np.max(np.abs(below - np.cumsum(shares)[:-1])))


def cusum(errors: np.ndarray, expected: float, deviation: float) -> float:
    """Largest cumulative excess of `errors` [time] over `expected`, in standard deviations less a slack (Page 1954)."""
    highest, total = 0.0, 0.0
    for step in (errors - expected) / deviation - SLACK:
        total = max(0.0, total + float(step))
        highest = max(highest, total)
    return highest


def check_drift(
    checkpoint: Checkpoint,
    candles: pd.DataFrame,
    forecasts: pd.DataFrame,
    series: pd.DataFrame | None = None,
    now: pd.Timestamp | None = None,
    policy: RetrainingSettings | None = None,
) -> Drift:
    """Judge `checkpoint` by the newest bars that it has not seen. `forecasts` as `bl.forecast` gave them for `candles`.

    Errors and coverage are judged by outcomes that do not overlap, and not by fewer than 30 of them. `now` (default: when the
    last bar closed) is for the checkpoint's age. Raises `TooFewBars` if there are fewer than 100
    unseen bars with a forecast.
    """
    rules = policy or settings().retraining
    unseen = forecasts[~forecasts["in_sample"] & forecasts["q50"].notna()].iloc[-rules.window_bars :]
    if len(unseen) < FEWEST:
        raise TooFewBars(
            f"Drift is judged by {FEWEST} bars or more that training has not seen; there are {len(unseen)}. Give later candles."
        )
    happened = forward_log_return(candles, checkpoint.horizon).reindex(unseen.index)
    apart = np.arange(len(unseen)) % checkpoint.horizon == 0  # outcomes that overlap are no new evidence
    rows = unseen[apart & happened.notna().to_numpy()]
    happened = happened[rows.index]
    features = feature_drift(checkpoint, candles, series, len(unseen))
    features.attrs["limit"] = rules.psi
    moved = float((features["psi"] > rules.psi).mean())
    seen_until = pd.Timestamp(checkpoint.folds["test_end"])
    age = ((now or close_times(candles)[-1]) - seen_until) / pd.Timedelta(days=1)
    wild = float(unseen["volatility"].median() / checkpoint.provenance["volatility"])
    off, excess = np.nan, np.nan
    if len(rows) >= FEWEST_OUTCOMES:
        inside = (happened >= rows["interval_low"]) & (happened <= rows["interval_high"])
        off = 100 * abs(float(inside.mean()) - INTERVAL)
        errors = np.minimum(np.abs((happened - rows["mean"]) / rows["volatility"]).to_numpy(), ERROR_CAP)
        excess = cusum(errors, checkpoint.metrics["absolute_error"], checkpoint.metrics["absolute_error_deviation"])
    luck = 200 * np.sqrt(INTERVAL * (1 - INTERVAL) / max(1, len(rows)))  # two standard errors
    checks = pd.DataFrame(
        [
            ("age of the training's last bar", age, rules.age_days, "days"),
            ("features that drifted", 100 * moved, 100 * rules.drifted_share, "%"),
            ("coverage of the 90 % interval off by", off, round(max(100 * rules.coverage_off, luck), 1), "points"),
            ("cumulative excess of errors", excess, rules.cusum, "standard deviations"),
            ("volatility against training, up or down", max(wild, 1 / wild), rules.volatility_ratio, "times"),
        ],
        columns=["rule", "measured", "limit", "unit"],
    )
    checks["past"] = checks["measured"] > checks["limit"]
    late = checks[checks["past"]]
    reasons = [f"{row.rule} {row.measured:.4g} {row.unit} (limit {row.limit:g})" for row in late.itertuples()]
    return Drift(bool(reasons), reasons, checks, features, len(unseen))


def feature_drift(
    checkpoint: Checkpoint, candles: pd.DataFrame, series: pd.DataFrame | None, bars: int
) -> pd.DataFrame:
    """PSI and KS of each feature over the newest `bars` against the training fold: feature, group, psi, ks."""
    inputs = make_inputs(candles, checkpoint.spec, checkpoint.options["context"], series, last=bars)
    scaled = checkpoint.scaler.apply(inputs.features)
    rows = []
    for number, one in enumerate(checkpoint.spec.features):
        values = scaled[:, number][np.isfinite(scaled[:, number])]
        before = checkpoint.provenance["reference"][str(number)]
        bins = np.array(before["edges"]), np.array(before["shares"])
        if len(values):
            rows.append((one.name, one.group, stability_index(*bins, values), distance(*bins, values)))
    table = pd.DataFrame(rows, columns=["feature", "group", "psi", "ks"])
    return table.sort_values("psi", ascending=False, ignore_index=True)
