"""Scores from −1 (against holding BTC) to +1 (for it): what each category of features says, and what they weigh together.

A score depends on its own row of the feature table and on nothing else: each feature is read by a fixed map, so that a
backtest and a live account give it the same value. `READINGS` is the one place that says which way a feature points.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pandas as pd
from numba import njit

from btclab.errors import InputError, unknown

CATEGORIES = ("forecast", "technical", "on-chain", "sentiment", "macro", "derivatives")
FORECAST_SCALE = 0.1  # 2·prob_up − 1 at which the forecast's score is 0.71: hourly probabilities stay near ½


@dataclass(frozen=True)
class Reading:
    """How a feature becomes a score: `sign` · u/√(1 + u²) with u = (value − `neutral`) / `scale`, in the feature's unit.

    One `scale` away from `neutral` scores 0.71. `sign` is +1 where a high value speaks for a rise, −1 where it speaks
    against, and `reason` says why.
    """

    category: str
    sign: int
    neutral: float
    scale: float
    reason: str

    def __post_init__(self) -> None:
        if self.category not in CATEGORIES[1:]:
            raise unknown("category", self.category, CATEGORIES[1:])
        if self.sign not in (-1, 1):
            raise InputError(f"sign is {self.sign!r}; it must be +1 (high speaks for a rise) or -1 (against).")
        if not (math.isfinite(self.neutral) and 0 < self.scale < math.inf):
            raise InputError(f"neutral {self.neutral!r} and scale {self.scale!r} must be numbers, scale above 0.")


# Technical features are read with the trend: returns of Bitcoin have had momentum over days to weeks (Liu & Tsyvinski 2021,
# Risks and Returns of Cryptocurrency, Review of Financial Studies 34), and only features without a unit of price or time are
# used, so that a map holds on every timeframe. Left out because they point nowhere by themselves: volatility, calendar,
# statistics, correlations (`…_moves_with`), gold; and hash rate and difficulty, which the same study found to predict nothing.
_TREND = "momentum: what rises has tended to go on"
_CROWD = "contrarian: a greedy crowd has bought already"
_LONGS = "longs pay to stay in: a crowded side, which a fall would force out"
_MONEY = "dearer money weighs on what pays no interest"
READINGS: dict[str, Reading] = {
    "trend_strength_48": Reading("technical", +1, 0.0, 2.0, _TREND),
    "trend_state": Reading("technical", +1, 0.0, 1.0, _TREND),
    "vortex_14": Reading("technical", +1, 0.0, 0.3, _TREND),
    "tsi": Reading("technical", +1, 0.0, 0.2, _TREND),
    "rsi_14": Reading("technical", +1, 0.0, 0.3, _TREND + "; its extremes are bounded by the map, not reversed"),
    "rsi_28": Reading("technical", +1, 0.0, 0.2, _TREND),
    "rsi_14_4h": Reading("technical", +1, 0.0, 0.3, _TREND),
    "aroon_up_25": Reading("technical", +1, 0.5, 0.5, "a fresh high"),
    "aroon_down_25": Reading("technical", -1, 0.5, 0.5, "a fresh low"),
    "donchian_position_168": Reading(
        "technical", +1, 0.5, 0.4, "near the high of a week: breakouts have followed through"
    ),
    "cmf_20": Reading("technical", +1, 0.0, 0.15, "closes near the highs on volume: buyers are the eager side"),
    "obv_flow_24": Reading("technical", +1, 0.0, 0.25, "more volume in rising bars than in falling ones"),
    "active_addresses_change_7": Reading(
        "on-chain", +1, 0.0, 0.1, "adoption: more users, the network factor of the study"
    ),
    "active_addresses_surprise_90": Reading("on-chain", +1, 0.0, 1.5, "adoption: more users than of late"),
    "transactions_surprise_90": Reading("on-chain", +1, 0.0, 1.5, "adoption: more use than of late"),
    "nvt_surprise_90": Reading("on-chain", -1, 0.0, 1.5, "dear: much market value for what the chain transfers"),
    "mvrv": Reading("on-chain", -1, math.log(1.8), 0.6, "dear: holders sit on gains that they may take"),
    "exchange_net_flow_7": Reading("on-chain", -1, 0.0, 0.05, "coins that move to exchanges are for sale"),
    "fear_greed": Reading("sentiment", -1, 0.0, 0.5, _CROWD),
    "fear_greed_extreme": Reading("sentiment", -1, 0.0, 1.0, _CROWD + "; its extremes most of all"),
    "sp500_return_7": Reading("macro", +1, 0.0, 0.03, "appetite for risk is shared with stocks"),
    "dollar_return_7": Reading("macro", -1, 0.0, 0.01, "a strong dollar takes liquidity from risky assets"),
    "vix": Reading("macro", -1, math.log(19.0), 0.35, "fear in stocks is sold in Bitcoin, too"),
    "vix_change_7": Reading("macro", -1, 0.0, 0.2, "fear that rises"),
    "yield_10y_change_30": Reading("macro", -1, 0.0, 0.3, _MONEY),
    "funding_rate": Reading("derivatives", -1, 1e-4, 2e-4, _LONGS + "; 0.01 % is the exchanges' resting rate"),
    "funding_rate_7": Reading("derivatives", -1, 1e-4, 2e-4, _LONGS),
    "funding_rate_surprise_30": Reading("derivatives", -1, 0.0, 1.5, _LONGS),
    "open_interest_change_7": Reading(
        "derivatives", -1, 0.0, 0.15, "leverage builds up, which unwinds by forced sales"
    ),
}


@dataclass(frozen=True)
class Weights:
    """What each category weighs, 0 or more; of the categories that are present in a bar, the shares of their sum count.

    The defaults are those of the settings.
    """

    forecast: float = 0.4
    technical: float = 0.3
    on_chain: float = 0.1
    sentiment: float = 0.1
    macro: float = 0.05
    derivatives: float = 0.05

    def __post_init__(self) -> None:
        for name, value in self:
            if not 0 <= value < math.inf:
                raise InputError(f"The weight of {name} is {value!r}; it must be a number of at least 0.")
        if not sum(value for _, value in self):
            raise InputError("All weights are 0, so that nothing decides. Give one category a weight above 0.")

    def __iter__(self) -> Iterator[tuple[str, float]]:
        """Category and weight, in the order of `CATEGORIES`."""
        return ((one.name.replace("_", "-"), getattr(self, one.name)) for one in fields(self))

    @classmethod
    def of(cls, weights: Mapping[str, float]) -> Weights:
        """The weights of a table such as {"technical": 1, "on-chain": 0.5}; categories that it does not name weigh nothing."""
        names = {name: name.replace("-", "_") for name in CATEGORIES}
        for name in weights:
            if name not in names and name not in names.values():
                raise unknown("category", name, CATEGORIES)
        return cls(**(dict.fromkeys(names.values(), 0.0) | {name.replace("-", "_"): weights[name] for name in weights}))

    @classmethod
    def from_settings(cls) -> Weights:
        """The weights of the section `[strategy]`."""
        from btclab.settings import settings

        own = settings().strategy
        return cls(**{one.name: getattr(own, f"weight_{one.name}") for one in fields(cls)})


@njit(cache=True, nogil=True, error_model="numpy")
def _read(values, sign, neutral, scale, total, count):  # type: ignore[no-untyped-def]
    """Add the score of one feature where it is present."""
    for i in range(len(values)):
        if np.isfinite(values[i]):
            u = (values[i] - neutral) / scale
            # beyond 1e8 the root is |u| but for rounding, and u² would overflow in the end
            total[i] += sign * (u / np.sqrt(1 + u * u) if abs(u) < 1e8 else np.sign(u))
            count[i] += 1


def category_scores(
    features: pd.DataFrame | None = None,
    forecasts: pd.DataFrame | None = None,
    readings: Mapping[str, Reading] | None = None,
    forecast_scale: float = FORECAST_SCALE,
) -> pd.DataFrame:
    """One column per category, −1…+1, index as in the tables: the mean score of the features that are present in the row.

    A category of which no feature is present is missing (NaN), never 0. `readings` says how features are read (default:
    `READINGS`); features it does not name are not used. "forecast" is (2·prob_up − 1) / `forecast_scale`, bounded as all
    are. Raises `InputError` if there is neither table, or if they have different timestamps.
    """
    tables = [one for one in (features, forecasts) if one is not None]
    if not tables:
        raise InputError("Scores need features (bl.build_features), forecasts (bl.forecast), or both.")
    index = tables[0].index
    if not tables[-1].index.equals(index):
        raise InputError("features and forecasts have different timestamps; make both from the same candles.")
    if not 0 < forecast_scale < math.inf:
        raise InputError(f"forecast_scale is {forecast_scale!r}; it must be above 0, e.g. {FORECAST_SCALE}.")
    totals, counts = np.zeros((len(CATEGORIES), len(index))), np.zeros((len(CATEGORIES), len(index)))
    if features is not None:
        features = features.copy(deep=False)
        features.attrs = {}  # else every column taken would take a copy of all that is said of all columns
    for name, one in (READINGS if readings is None else readings).items():
        if features is not None and name in features.columns:
            row = CATEGORIES.index(one.category)
            values = np.asarray(features[name].to_numpy(), dtype=np.float64)
            _read(values, float(one.sign), float(one.neutral), float(one.scale), totals[row], counts[row])
    if forecasts is not None:
        if "prob_up" not in forecasts:
            raise InputError("forecasts lack prob_up; make them with bl.forecast(checkpoint, candles).")
        prob_up = np.asarray(forecasts["prob_up"].to_numpy(), dtype=np.float64)
        _read(prob_up, 1.0, 0.5, forecast_scale / 2, totals[0], counts[0])
    with np.errstate(invalid="ignore"):
        return pd.DataFrame((totals / counts).T, index, list(CATEGORIES))


def contributions(scores: pd.DataFrame, weights: Weights | None = None) -> pd.DataFrame:
    """How far each category pushes: its weight times its score, over the weights of the categories present in the row.

    A row's pushes sum to the composite score, −1…+1; a category that is missing, or weighs nothing, pushes nothing (NaN).
    """
    table = scores[list(CATEGORIES)].to_numpy(dtype=float)
    weight = np.array([value for _, value in weights or Weights()])
    present = np.isfinite(table) & (weight > 0)
    whole = present @ weight
    with np.errstate(invalid="ignore"):
        pushes = np.where(present, table * weight, np.nan) / whole[:, None]
    return pd.DataFrame(pushes, scores.index, list(CATEGORIES))


def composite_score(pushes: pd.DataFrame) -> pd.Series:
    """The sum of the pushes of a row, −1…+1; missing where every category is."""
    table: Any = pushes.to_numpy(dtype=float)
    missing = np.isnan(table)
    total = np.where(missing, 0.0, table).sum(axis=1)
    return pd.Series(np.where(missing.all(axis=1), np.nan, np.clip(total, -1, 1)), pushes.index, name="score")
