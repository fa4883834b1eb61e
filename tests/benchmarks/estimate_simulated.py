"""Estimate the constants of `btclab.market.simulated` on real hourly candles, and compare the two markets.

    python tests/benchmarks/estimate_simulated.py PATH      # Parquet of hourly bars; about 5 seconds; needs `arch`

Window: 2021-01-01 to 2024-12-31 UTC, the years that the simulation covers by default.
"""

import sys
from collections.abc import Callable

import numpy as np
import pandas as pd
from arch import arch_model
from scipy import stats
from scipy.integrate import quad

from btclab.market.candles import bars_per_year
from btclab.market.simulated import END, MARKET, ORIGIN, simulate_candles

NO_FEES = slice("2022-07-08", "2023-03-22")  # Binance waived BTC fees: volume multiplied, prices did not notice
SEEDS = range(20)


def seasons(candles: pd.DataFrame) -> pd.Series:
    """Print hour, weekend and base volatility; return what remains of the returns, with variance 1."""
    simple_return = candles["close"] / candles["open"] - 1
    size, weekend = simple_return.abs(), candles.index.day_of_week >= 5
    hours = size.groupby(candles.index.hour).mean() / size.mean()
    factor = size[weekend].mean() / size[~weekend].mean()
    left = simple_return / hours.to_numpy()[candles.index.hour] / np.where(weekend, factor, 1)
    print(f"hours = {hours.round(2).tolist()}\nweekend = {factor:.2f}\nbase_volatility = {left.std():.4f}")
    return left / left.std()


def regimes(left: pd.Series) -> pd.Series:
    """Print each regime's volatility and the transitions; return what remains. Looks both ways: only for estimating."""
    volatility = (left**2).rolling(720, center=True, min_periods=360).mean() ** 0.5
    state = sum((volatility > volatility.quantile(q)).astype(int) for q in (0.3, 0.85))
    level = (left**2).groupby(state).mean() ** 0.5
    moves = pd.crosstab(state.shift().dropna(), state.iloc[1:], normalize="index")
    print(f"regimes = {level.round(2).tolist()}\ntransitions = {moves.to_numpy().round(4).tolist()}")
    return left / state.map(level)


def clustering(left: pd.Series) -> None:
    fit = arch_model(left, mean="Zero", vol="GARCH", p=1, q=1, dist="t", rescale=False).fit(disp="off").params
    print(f"arch = {fit['alpha[1]']:.4f}\ngarch = {fit['beta[1]']:.4f}")
    print(f"freedom by maximum likelihood = {fit['nu']:.2f}; set to {MARKET.freedom}")


def truncation() -> None:
    """Print what follows from the set constants `freedom`, `max_activity` and `max_news`."""
    activity = stats.chi2(MARKET.freedom)  # activity = (freedom − 2) / χ², cut at max_activity where χ² is below `cut`
    cut = (MARKET.freedom - 2) / MARKET.max_activity

    def mean(of: Callable[[float], float]) -> float:
        above = quad(lambda x: of((MARKET.freedom - 2) / x) * activity.pdf(x), cut, 100, limit=200)[0]
        return of(MARKET.max_activity) * activity.cdf(cut) + above

    def news(variance: float) -> float:  # E[min(X², max_news²)] for a normal X
        edge = MARKET.max_news / variance**0.5
        inside = variance * (1 - 2 * stats.norm.sf(edge) - 2 * edge * stats.norm.pdf(edge))
        return inside + 2 * MARKET.max_news**2 * stats.norm.sf(edge)

    variance = mean(lambda value: value)
    news_mean = mean(lambda value: news(value / variance))
    print(f"shock_sd = {variance**0.5:.3f}\nnews_mean = {news_mean:.3f}")


def charged(candles: pd.DataFrame) -> pd.DataFrame:
    """The bars whose volume says something: with trades, and outside the months without fees."""
    outside = candles.drop(candles.loc[NO_FEES].index)
    return outside[(outside["volume"] > 0) & (outside["high"] > outside["low"])]


def volumes(candles: pd.DataFrame) -> None:
    chosen = charged(candles)
    log_volume, log_range = np.log(chosen["volume"]), np.log(np.log(chosen["high"] / chosen["low"]))
    slope, level = np.polyfit(log_range, log_volume, 1)
    residual = log_volume - level - slope * log_range
    hour, two_days = residual.autocorr(1), residual.autocorr(48)
    memory = (two_days / hour) ** (1 / 47)  # AR(1) plus white noise has autocorrelation share · memory^lag
    print(f"volume_level = {level:.2f}\nvolume_slope = {slope:.2f}\nvolume_sd = {residual.std():.2f}")
    print(f"volume_memory = {memory:.3f}\nvolume_share = {hour / memory:.2f}")


def facts(candles: pd.DataFrame) -> dict[str, float]:
    log_return = np.log(candles["close"]).diff().dropna()
    size = log_return.abs()
    spread = candles["high"] / candles["low"] - 1
    usual = charged(candles)
    return {
        "excess kurtosis of returns": log_return.kurt(),
        "largest absolute return": size.max(),
        "autocorrelation of the absolute return, 1 hour": size.autocorr(1),
        "… 24 hours": size.autocorr(24),
        "… 168 hours": size.autocorr(168),
        "autocorrelation of returns, 1 hour": log_return.autocorr(1),
        "mean range / mean absolute return": spread.mean() / size.mean(),
        "annualised volatility": log_return.std() * bars_per_year("1h") ** 0.5,
        "correlation of log volume and log range": np.log(usual["volume"]).corr(np.log(spread[usual.index])),
    }


def compare(candles: pd.DataFrame) -> None:
    real = facts(candles)
    simulated = pd.DataFrame([facts(simulate_candles(seed)) for seed in SEEDS])
    print("\n| | real | simulated | lowest to highest |\n|---|---|---|---|")
    for name, value in real.items():
        column = simulated[name]
        print(f"| {name} | {value:.3g} | {column.median():.3g} | {column.min():.3g} to {column.max():.3g} |")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("Say which candles: python tests/benchmarks/estimate_simulated.py PATH-TO-HOURLY-BARS.parquet")
    everything = pd.read_parquet(sys.argv[1])
    window = everything[(everything.index >= ORIGIN) & (everything.index < END)]
    print(f"first_price = {window['open'].iloc[0]}")
    clustering(regimes(seasons(window)))
    truncation()
    volumes(window)
    compare(window)
