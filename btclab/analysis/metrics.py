"""What an equity curve is worth. Rates are per year of 365 days; every figure is after costs."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Any

import numpy as np
import pandas as pd

from btclab.errors import InputError, TooFewBars
from btclab.market.candles import YEAR

UNITS = {
    "total_return": "%",
    "annual_return": "% a year",
    "annual_volatility": "% a year",
    "sharpe": "per year",
    "deflated_sharpe": "probability that it is more than luck",
    "sharpe_trials": "trials counted",
    "sortino": "per year",
    "max_drawdown": "%",
    "longest_drawdown_days": "days under water",
    "calmar": "annual return / max drawdown",
    "time_in_market": "% of bars",
    "trades": "closed lots",
    "fills": "executions",
    "win_rate": "% of closed lots",
    "profit_factor": "gains / losses",
    "fees": "quote currency",
    "interest": "quote currency, paid on what was sold short",
    "turnover": "× equity a year",
}


def equity_metrics(equity: pd.Series, initial_cash: float, trials: int = 1) -> dict[str, float | None]:
    """Return, risk and drawdown of `equity` (one value per bar, at the close), which began with `initial_cash`.

    A ratio whose denominator is zero is None: an account that never traded has no Sharpe ratio. So is the annual return
    of a few bars that would grow, over a year, beyond any number. Raises `TooFewBars` on fewer than 2 bars.
    """
    return curve_metrics(equity.to_numpy(), bar_length(pd.DatetimeIndex(equity.index)), initial_cash, trials)


def curve_metrics(equity: np.ndarray, bar: pd.Timedelta, initial_cash: float, trials: int) -> dict[str, float | None]:
    """`equity_metrics` of an array [bar], at least 2 bars of length `bar`."""
    values = np.concatenate(([initial_cash], equity))
    simple = _simple_returns(values)
    per_year = YEAR / bar
    years = len(simple) / per_year
    growth = values[-1] / values[0]
    deviation, downside = float(np.std(simple)), float(np.sqrt(np.mean(np.minimum(simple, 0) ** 2)))
    annual = _annual_return(float(growth), years)
    fall = values / np.maximum.accumulate(values) - 1
    deepest = float(fall.min())
    return {
        "total_return": 100 * float(growth - 1),
        "annual_return": None if annual is None else 100 * annual,
        "annual_volatility": 100 * deviation * math.sqrt(per_year),
        "sharpe": _ratio(float(simple.mean()), deviation, math.sqrt(per_year)),
        "deflated_sharpe": deflated_sharpe(simple, trials),
        "sharpe_trials": trials,
        "sortino": _ratio(float(simple.mean()), downside, math.sqrt(per_year)),
        "max_drawdown": 100 * deepest,
        "longest_drawdown_days": _longest_run(fall < 0) * (bar / pd.Timedelta(days=1)),
        "calmar": None if annual is None else _ratio(annual, -deepest, 1.0),
    }


def _simple_returns(values: np.ndarray) -> np.ndarray:
    """Change of each value as a fraction of the one before; 0 once there is nothing left to gain or lose a fraction of."""
    if values.min() > 0:
        return np.asarray(values[1:] / values[:-1] - 1)
    return np.asarray(np.divide(np.diff(values), values[:-1], out=np.zeros(len(values) - 1), where=values[:-1] > 0))


def bar_length(times: pd.DatetimeIndex) -> pd.Timedelta:
    """The usual distance between two bars: the median, which holes do not move. Raises `TooFewBars` on fewer than 2."""
    if len(times) < 2:
        raise TooFewBars(f"The metrics of {len(times)} bar(s) cannot be put per year; at least 2 are needed.")
    return pd.Timedelta(int(np.median(np.diff(times.as_unit("ns").asi8))), "ns")


def _annual_return(growth: float, years: float) -> float | None:
    rate = math.log(growth) / years if growth > 0 else -math.inf
    return math.expm1(rate) if rate < 700 else None  # e⁷⁰⁰ is about where a float ends


def _ratio(numerator: float, denominator: float, factor: float) -> float | None:
    return factor * numerator / denominator if denominator > 1e-15 else None


def _longest_run(flags: np.ndarray) -> int:
    edges = np.flatnonzero(np.diff(np.concatenate(([0], flags.astype(int), [0]))))
    return int((edges[1::2] - edges[::2]).max()) if len(edges) else 0


def deflated_sharpe(simple_returns: np.ndarray, trials: int) -> float | None:
    """Probability that the true Sharpe ratio is above what the best of `trials` skill-less strategies would show.

    Bailey and López de Prado (2014), eq. 2 and 9: it allows for the length, skew and fat tails of the returns. With one
    trial the threshold is 0 (the probabilistic Sharpe ratio). The spread of the trials' ratios is taken as that of a
    ratio estimated over this length when the truth is 0, 1/√(n−1). None if the returns never vary. Raises `InputError`
    if `trials` is below 1.
    """
    if trials < 1:
        raise InputError(f"trials is {trials!r}; it must be at least 1: the signals at hand are a trial themselves.")
    n, deviation = len(simple_returns), float(np.std(simple_returns, ddof=1)) if len(simple_returns) > 1 else 0.0
    if deviation < 1e-15:
        return None
    scaled = (simple_returns - simple_returns.mean()) / np.std(simple_returns)
    square = scaled * scaled  # products, for a power of an array takes thirty times as long
    skew, kurtosis = float(np.mean(square * scaled)), float(np.mean(square * square))
    ratio = float(simple_returns.mean()) / deviation
    threshold = 0.0
    if trials > 1:
        normal, gamma = NormalDist(), 0.5772156649015329
        best = (1 - gamma) * normal.inv_cdf(1 - 1 / trials) + gamma * normal.inv_cdf(1 - 1 / (trials * math.e))
        threshold = best / math.sqrt(n - 1)
    spread = math.sqrt(max(1e-12, 1 - skew * ratio + (kurtosis - 1) / 4 * ratio**2))
    return NormalDist().cdf((ratio - threshold) * math.sqrt(n - 1) / spread)


def trade_metrics(
    fills: pd.DataFrame, trades: pd.DataFrame, exposure: pd.Series, equity: pd.Series, interest: float = 0.0
) -> dict[str, float | None]:
    """How the account traded: `exposure` is the fraction of equity held in BTC at each close, `interest` what was paid."""
    bar = bar_length(pd.DatetimeIndex(equity.index))
    value, fee, pnl = fills["value"].to_numpy(), fills["fee"].to_numpy(), trades["pnl"].to_numpy()
    return traded_metrics(value, fee, pnl, exposure.to_numpy(), equity.to_numpy(), bar, interest)


def traded_metrics(
    value: np.ndarray,
    fee: np.ndarray,
    pnl: np.ndarray,
    exposure: np.ndarray,
    equity: np.ndarray,
    bar: pd.Timedelta,
    interest: float = 0.0,
) -> dict[str, float | None]:
    """`trade_metrics` of arrays: value and fee [fill], pnl [closed lot], exposure and equity [bar of length `bar`]."""
    gains, losses, mean = float(pnl[pnl > 0].sum()), -float(pnl[pnl < 0].sum()), float(equity.mean())
    return {
        "time_in_market": 100 * float((exposure != 0).mean()),
        "trades": len(pnl),
        "fills": len(value),
        "win_rate": 100 * float((pnl > 0).mean()) if len(pnl) else None,
        "profit_factor": _ratio(gains, losses, 1.0),
        "fees": float(fee.sum()),
        "interest": interest,
        "turnover": float(value.sum() / mean / (len(equity) * bar / YEAR)) if mean > 0 else None,  # else it owes
    }


def rename_in_sample(metrics: dict[str, Any]) -> dict[str, Any]:
    """The same figures under names that say they were measured in sample."""
    return {f"in_sample_{name}": value for name, value in metrics.items()}
