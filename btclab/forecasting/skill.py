"""Is the forecast better than none? Out-of-sample skill against the naive forecast, with its uncertainty."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import t as student

from btclab.forecasting.calibration import LEVELS, NORMAL_QUANTILES

RESAMPLES = 1000
CONFIDENCE = 0.95
BINS = 10  # of a reliability diagram, with equally many forecasts each


def information_coefficient(forecast: np.ndarray, outcome: np.ndarray) -> float:
    """Spearman's rank correlation of forecast and outcome [time]; 0 for a forecast that never changes."""
    if np.ptp(forecast) == 0 or np.ptp(outcome) == 0:
        return 0.0
    return float(np.corrcoef(_ranks(forecast), _ranks(outcome))[0, 1])


def _ranks(values: np.ndarray) -> np.ndarray:
    return pd.Series(values).rank().to_numpy()


def skill(
    forecast: np.ndarray, outcome: np.ndarray, block: int = 24, seed: int = 0, horizon: int = 1
) -> dict[str, Any]:
    """Skill of `forecast` at `outcome` [time], both log returns or both in units of volatility; no missing values.

    - `error_ratio`: root mean square error over that of the naive forecast (no change); below 1 is better.
    - `r2`: 1 − its square (Campbell and Thompson 2008).
    - `ic`: information coefficient, `hit_rate`: share of bars whose direction was right, among those with a forecast and an
      outcome other than zero.
    - each of the three with `…_low` and `…_high`, the 95 % interval of a circular block bootstrap over `block` bars.
    - `dm`, `dm_p`: Diebold and Mariano's test of the squared errors; above 0 the forecast is better, `dm_p` one-sided.
    - `distinguishable`: whether the whole interval of `ic` lies above zero.
    """
    naive, own = outcome**2, (outcome - forecast) ** 2
    moved = (forecast != 0) & (outcome != 0)
    right = np.sign(forecast[moved]) == np.sign(outcome[moved])
    found: dict[str, Any] = {
        "bars": len(outcome),
        "error": float(np.sqrt(own.mean())),
        "naive_error": float(np.sqrt(naive.mean())),
        "error_ratio": float(np.sqrt(own.mean() / naive.mean())),
        "r2": float(1 - own.mean() / naive.mean()),
        "ic": information_coefficient(forecast, outcome),
        "hit_rate": float(right.mean()) if moved.any() else None,
    }
    found |= dict(zip(("dm", "dm_p"), diebold_mariano(naive, own, horizon), strict=True))
    found |= _intervals(forecast, outcome, moved, min(block, len(outcome)), seed)
    if found["ic"] == 0:
        found["ic_low"] = found["ic_high"] = 0.0
    return found | {"distinguishable": bool(found["ic_low"] > 0)}


def _intervals(
    forecast: np.ndarray, outcome: np.ndarray, moved: np.ndarray, block: int, seed: int
) -> dict[str, float | None]:
    """Bootstrap intervals of error ratio, information coefficient and hit rate.

    Means over blocks are sums of block sums, so a resample costs as many additions as there are blocks, not bars.
    """
    one, two = _standard(_ranks(forecast)), _standard(_ranks(outcome))
    right = moved & (np.sign(forecast) == np.sign(outcome))
    series = np.stack(
        [(outcome - forecast) ** 2, outcome**2, one, two, one * two, one**2, two**2, right, moved], axis=1
    ).astype(float)
    sums = np.cumsum(np.concatenate([np.zeros((1, series.shape[1])), series, series[: block - 1]]), axis=0)
    blocks = (sums[block:] - sums[:-block])[: len(outcome)]  # the sum of each block, by its first bar
    starts = np.random.default_rng(seed).integers(0, len(outcome), size=(RESAMPLES, -(-len(outcome) // block)))
    own, naive, a, b, ab, aa, bb, hits, tries = (blocks[starts].sum(axis=1) / (starts.shape[1] * block)).T
    with np.errstate(all="ignore"):
        ic = (ab - a * b) / np.sqrt((aa - a**2) * (bb - b**2))
        draws = {"error_ratio": np.sqrt(own / naive), "ic": ic, "hit_rate": hits / tries}
    found: dict[str, float | None] = {}
    for name, values in draws.items():
        known = values[np.isfinite(values)]
        low, high = np.quantile(known, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]) if len(known) else (None, None)
        found[f"{name}_low"] = None if low is None else float(low)
        found[f"{name}_high"] = None if high is None else float(high)
    return found


def _standard(values: np.ndarray) -> np.ndarray:
    deviation = values.std()
    return (values - values.mean()) / deviation if deviation > 0 else values * 0


def diebold_mariano(loss: np.ndarray, other: np.ndarray, horizon: int = 1) -> tuple[float, float]:
    """Test whether `other` loses less than `loss` [time]: statistic and one-sided p-value.

    With the variance of overlapping forecasts (horizon − 1 autocovariances) and the correction for small samples of Harvey,
    Leybourne and Newbold (1997), who refer to Diebold and Mariano (1995). 0 and 1 where the two are the same.
    """
    gain, n = loss - other, len(loss)
    centred = gain - gain.mean()
    variance = float(np.mean(centred**2))
    for lag in range(1, min(horizon, n)):
        variance += 2 * float(centred[lag:] @ centred[:-lag]) / n
    if variance <= 0 < horizon - 1:  # as they propose, then: weights that keep it positive (Newey and West 1987)
        variance = float(centred @ centred) / n
        for lag in range(1, min(2 * horizon, n)):
            variance += 2 * (1 - lag / (2 * horizon)) * float(centred[lag:] @ centred[:-lag]) / n
    if not variance > 0 or n < 3:
        return 0.0, 1.0
    h = horizon
    correction = math.sqrt(max((n + 1 - 2 * h + h * (h - 1) / n) / n, 1 / n))
    statistic = correction * float(gain.mean()) / math.sqrt(variance / n)
    return statistic, float(student.sf(statistic, n - 1))


def stands_out(ic: float, placebo: Sequence[float]) -> bool:
    """Whether an information coefficient lies above those of all placebos, and two standard deviations above their mean."""
    spread = float(np.std(placebo, ddof=1)) if len(placebo) > 2 else 0.0
    return ic > max(*placebo, float(np.mean(placebo)) + 2 * spread)


def pinball(quantiles: np.ndarray, outcome: np.ndarray) -> float:
    """Pinball loss of quantiles [time, 5] at `LEVELS`, each weighed by the stretch of levels that it stands for."""
    error = outcome[:, None] - quantiles
    edges = np.concatenate([[0.0], (LEVELS[:-1] + LEVELS[1:]) / 2, [1.0]])
    return float(np.maximum(LEVELS * error, (LEVELS - 1) * error).mean(axis=0) @ np.diff(edges))


def crps(quantiles: np.ndarray, outcome: np.ndarray) -> float:
    """Continuous ranked probability score, from the five quantiles: twice the pinball loss (Gneiting & Ranjan 2011)."""
    return 2 * pinball(quantiles, outcome)


def normal_interval_width(outcome: np.ndarray, coverage: float) -> float:
    """Width, in volatilities, of the symmetric interval around no change that covers a share `coverage` of the outcomes."""
    return 2 * float(np.quantile(np.abs(outcome), coverage))


def reliability(prob: np.ndarray, up: np.ndarray, bins: int = BINS) -> pd.DataFrame:
    """What was said and what happened, in groups of equally many forecasts: forecast, frequency, low, high (95 %), bars.

    Equal forecasts stay together, so that there may be fewer groups than `bins`, and one where the forecast never changes.
    """
    edges = np.unique(np.quantile(prob, np.linspace(0, 1, bins + 1)[1:-1]))
    group = np.searchsorted(edges, prob)
    rows = []
    for part in (np.flatnonzero(group == number) for number in np.unique(group)):
        happened = float(up[part].mean())
        half = 1.96 * math.sqrt(happened * (1 - happened) / len(part))
        rows.append((float(prob[part].mean()), happened, happened - half, happened + half, len(part)))
    return pd.DataFrame(rows, columns=["forecast", "frequency", "low", "high", "bars"])


def calibration_error(prob: np.ndarray, up: np.ndarray, bins: int = BINS) -> float:
    """Expected calibration error: mean |forecast − frequency| over groups of equally many forecasts (Naeini et al. 2015)."""
    groups = reliability(prob, up, bins)
    return float(np.average((groups["forecast"] - groups["frequency"]).abs(), weights=groups["bars"]))


def chance_error(prob: np.ndarray, draws: int = 40, seed: int = 0) -> float:
    """The expected calibration error that as many perfectly calibrated forecasts would show by chance, on average."""
    random = np.random.default_rng(seed)
    return float(np.mean([calibration_error(prob, random.random(len(prob)) < prob) for _ in range(draws)]))


def distribution_skill(
    quantiles: np.ndarray, prob: np.ndarray, outcome: np.ndarray, naive: np.ndarray | None = None
) -> dict[str, float]:
    """How a forecast distribution did: quantiles [time, 5], probability of up [time], outcomes [time], in volatilities.

    `naive` are the quantiles [5] of the naive forecast (default: normal, around no change).

    `coverage_90` and `width_90` of the outer interval; `coverage_naive` of the naive one, and `width_naive`, the width of a
    symmetric one around no change at the coverage of the forecast's; `crps`, `crps_naive`; `brier`, `brier_naive` (one half);
    `ece`, and `ece_chance`, what perfectly calibrated forecasts would show.
    """
    inside = (outcome >= quantiles[:, 0]) & (outcome <= quantiles[:, 4])
    up = outcome > 0
    beside = np.broadcast_to(NORMAL_QUANTILES if naive is None else naive, quantiles.shape)
    return {
        "coverage_90": float(inside.mean()),
        "coverage_naive": float(((outcome >= beside[:, 0]) & (outcome <= beside[:, 4])).mean()),
        "width_90": float(np.mean(quantiles[:, 4] - quantiles[:, 0])),
        "width_naive": normal_interval_width(outcome, float(inside.mean())),
        "crps": crps(quantiles, outcome),
        "crps_naive": crps(beside, outcome),
        "brier": float(np.mean((prob - up) ** 2)),
        "brier_naive": 0.25,
        "ece": calibration_error(prob, up),
        "ece_chance": chance_error(prob),
        "up_share": float(up.mean()),
    }
