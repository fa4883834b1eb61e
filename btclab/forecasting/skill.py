"""Is the forecast better than none? Out-of-sample skill against the naive forecast, with its uncertainty."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

RESAMPLES = 1000
CONFIDENCE = 0.95


def information_coefficient(forecast: np.ndarray, outcome: np.ndarray) -> float:
    """Spearman's rank correlation of forecast and outcome [time]; 0 for a forecast that never changes."""
    if np.ptp(forecast) == 0 or np.ptp(outcome) == 0:
        return 0.0
    return float(np.corrcoef(_ranks(forecast), _ranks(outcome))[0, 1])


def _ranks(values: np.ndarray) -> np.ndarray:
    return pd.Series(values).rank().to_numpy()


def block_bootstrap(length: int, block: int, resamples: int, seed: int) -> np.ndarray:
    """Positions [resamples, length] drawn as whole blocks of neighbours, wrapping at the end (Politis and Romano 1992)."""
    random = np.random.default_rng(seed)
    starts = random.integers(0, length, size=(resamples, -(-length // block)))
    positions = (starts[:, :, None] + np.arange(block)) % length
    return positions.reshape(resamples, -1)[:, :length]


def skill(forecast: np.ndarray, outcome: np.ndarray, block: int = 24, seed: int = 0) -> dict[str, Any]:
    """Skill of `forecast` at `outcome` [time], both log returns or both in units of volatility; no missing values.

    - `error_ratio`: root mean square error over that of the naive forecast (no change); below 1 is better.
    - `r2`: 1 − its square (Campbell and Thompson 2008).
    - `ic`, with `ic_low` and `ic_high`, the 95 % interval of a circular block bootstrap over blocks of `block` bars.
    - `hit_rate`: share of bars whose direction was right, among those with a forecast and an outcome other than zero.
    - `distinguishable`: whether the whole interval of `ic` lies above zero.
    """
    naive = float(np.sqrt(np.mean(outcome**2)))
    own = float(np.sqrt(np.mean((outcome - forecast) ** 2)))
    moved = (forecast != 0) & (outcome != 0)
    ic = information_coefficient(forecast, outcome)
    low, high = _ic_interval(forecast, outcome, block, seed) if ic != 0 else (0.0, 0.0)
    return {
        "bars": len(outcome),
        "error": own,
        "naive_error": naive,
        "error_ratio": own / naive,
        "r2": 1 - (own / naive) ** 2,
        "ic": ic,
        "ic_low": low,
        "ic_high": high,
        "hit_rate": float(np.mean(np.sign(forecast[moved]) == np.sign(outcome[moved]))) if moved.any() else None,
        "distinguishable": bool(low > 0),
    }


def _ic_interval(forecast: np.ndarray, outcome: np.ndarray, block: int, seed: int) -> tuple[float, float]:
    one, two = _ranks(forecast), _ranks(outcome)
    one, two = (one - one.mean()) / one.std(), (two - two.mean()) / two.std()
    draws = np.empty(RESAMPLES)
    for i, rows in enumerate(block_bootstrap(len(one), min(block, len(one)), RESAMPLES, seed)):
        draws[i] = np.corrcoef(one[rows], two[rows])[0, 1]
    low, high = np.quantile(draws, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)
