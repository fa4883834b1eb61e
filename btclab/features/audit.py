"""The look-ahead audit: does any feature change when the future changes?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from btclab.errors import TooFewBars
from btclab.features.build import build_features
from btclab.features.spec import FeatureSpec, resolve_spec
from btclab.market.candles import COLUMNS

TOLERANCE = 1e-9  # relative to the largest size of the column: rolling sums differ in the last bits only


@dataclass(frozen=True)
class Audit:
    """`passed`, and `table`: one row per leaking feature with the test that caught it, the first bar and the size."""

    passed: bool
    table: pd.DataFrame
    cuts: int

    def __str__(self) -> str:
        if self.passed:
            return (
                f"Look-ahead audit passed: no feature changed at {self.cuts} cuts with later bars removed or replaced."
            )
        names = ", ".join(self.table["feature"].unique())
        return f"Look-ahead audit FAILED: {names} change(s) when later bars change."


def audit_features(
    candles: pd.DataFrame,
    spec: str | FeatureSpec = "default",
    cuts: int = 5,
    seed: int = 0,
    build: Callable[..., pd.DataFrame] = build_features,
) -> Audit:
    """Recompute the features with the bars after each of `cuts` random bars removed, and again with them replaced by noise.

    Nothing at or before the cut may move. The audit looks at windows of a few warm-ups, so it takes seconds on any
    length of candles. Raises `TooFewBars` when there are not two warm-ups of bars.
    """
    warmup = resolve_spec(spec).warmup
    if len(candles) < 2 * warmup + 50:
        raise TooFewBars(f"The audit needs at least {2 * warmup + 50} bars; there are {len(candles)}.")
    random = np.random.default_rng(seed)
    found = []
    for cut in random.integers(2 * warmup + 20, len(candles) - 20, size=cuts):
        window = candles.iloc[max(0, cut - 2 * warmup - 20) : cut + warmup + 20]
        known = window[window.index <= candles.index[cut]]
        whole = build(window, spec=spec).loc[known.index]
        found += _differences("later bars removed", whole, build(known, spec=spec))
        found += _differences(
            "later bars replaced", whole, build(_with_noise(window, len(known), random), spec=spec).loc[known.index]
        )
    table = pd.DataFrame(found, columns=["feature", "test", "first_bar", "size"])
    table = table.sort_values("first_bar").drop_duplicates(["feature", "test"]).reset_index(drop=True)
    return Audit(passed=table.empty, table=table, cuts=cuts)


def _with_noise(window: pd.DataFrame, known: int, random: np.random.Generator) -> pd.DataFrame:
    """`window` with every bar after the first `known` replaced by another, equally valid one."""
    noisy = window.copy()
    scale = np.exp(random.normal(0, 0.2, size=(len(window) - known, 1)))
    noisy.iloc[known:, : len(COLUMNS)] = window[COLUMNS].iloc[known:].to_numpy() * scale
    return noisy


def _differences(test: str, one: pd.DataFrame, other: pd.DataFrame) -> list[tuple[str, str, pd.Timestamp, float]]:
    left, right = one.to_numpy(dtype=float), other.to_numpy(dtype=float)
    scale = np.nanmax(np.abs(np.where(np.isfinite(left), left, 0.0)), axis=0) + 1e-12
    size = np.abs(left - right) / scale
    size[np.isnan(left) & np.isnan(right)] = 0.0
    size[np.isnan(left) != np.isnan(right)] = np.inf
    rows, columns = np.nonzero(size > TOLERANCE)
    first: dict[int, int] = {}
    for row, column in zip(rows, columns, strict=True):
        first.setdefault(int(column), int(row))
    return [(str(one.columns[c]), test, one.index[r], float(np.nanmax(size[:, c]))) for c, r in first.items()]
