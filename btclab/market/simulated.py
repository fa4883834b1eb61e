"""A simulated hourly BTC/USDT market: the offline default, and the control that a forecasting pipeline must pass.

With `edge=0` the price is a martingale: a bar multiplies it by 1 + σ·z, with z symmetric around 0 and σ fixed before z
is drawn, so that the expected *simple* return of every bar, given the past, is zero (in log returns: a drift of −σ²/2).
Regimes, seasons and clusters move the volatility only, never the drift. So no strategy can earn anything before costs,
and a pipeline that finds something has fooled itself. With `edge>0` there is something to find.

The bar: σ = base · hour · weekend · regime · √h, with h from a GARCH(1,1) (Bollerslev 1986, J. Econometrics 31),
Student-t shocks, and a hidden Markov chain of calm, normal and turbulent weeks (after Hamilton 1989, Econometrica 57).
High and low are those of a Brownian path between open and close, so a stop or limit order inside the bar earns nothing
either. Volume follows the range.

The planted edge, for hourly bars: z[t+1] = edge · s[t] + √(1 − edge²) · ε[t+1], where s has unit variance. So `edge` is
the correlation of s[t] with the next standardised return; who knew s and σ would reach R² = edge². s is momentum, known
at the close of bar t: an exponentially weighted mean (half-life `SIGNAL_HALF_LIFE` bars) of the surprises ε, which
follow from past z: s[t] = λ·s[t−1] + √(1 − λ²)·ε[t] with ε[t] = (z[t] − edge·s[t−1]) / √(1 − edge²). (A mean of z
itself would feed on its own edge and explode from about 0.24 on.) σ is not in the candles, but a trailing volatility in
its place loses little: see the tests.

How near it comes to the stylised facts of the real market (Cont 2001, Quantitative Finance 1), hourly bars of 2021 to
2024: real from Binance; simulated without edge, the median of 20 seeds (lowest to highest).

                                            real    simulated
    excess kurtosis of returns              15.4    21.4 (13.7 to 35.3); real bars of 2017-09 to 2020: 34.8
    largest absolute return                 0.116   0.115 (0.080 to 0.175)
    autocorrelation of absolute returns
        at 1 hour                           0.280   0.223 (0.192 to 0.271)
        at 24 hours                         0.188   0.169 (0.142 to 0.216)
        at 168 hours                        0.148   0.096 (0.065 to 0.126)
    autocorrelation of returns, 1 hour     -0.005  -0.001 (-0.021 to 0.021)
    mean range / mean absolute return       2.18    2.02 (2.00 to 2.03)
    annualised volatility                   0.633   0.618 (0.566 to 0.696)
    correlation of log volume, log range    0.849   0.850 (0.836 to 0.866)

What it leaves out: skewness, trends in activity, gaps between bars, and the minutes inside a bar.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.signal import lfilter

from btclab.errors import InputError, unknown
from btclab.market.candles import COLUMNS, TIMEFRAMES, timeframe_delta, utc

ORIGIN = pd.Timestamp("2021-01-01", tz="UTC")
END = pd.Timestamp("2025-01-01", tz="UTC")
LATEST = pd.Timestamp("2035-01-01", tz="UTC")
SIGNAL_HALF_LIFE = 6  # bars
MAX_EDGE = 0.5
HOUR = pd.Timedelta(hours=1)
FLOOR = -0.6  # simple return of an hour; keeps prices above zero, and is never reached but with a large edge


@dataclass(frozen=True)
class Market:
    """The constants, estimated by `tests/benchmarks/estimate_simulated.py` on Binance BTC/USDT hours, 2021 to 2024."""

    first_price: float = 28_923.63  # USDT, the real open at ORIGIN
    # Mean |return| of the hour (UTC) over that of all hours; mean |return| on weekends over that on weekdays.
    hours: tuple[float, ...] = (
        1.15, 1.06, 0.92, 0.86, 0.74, 0.78, 0.82, 0.88, 0.96, 0.87, 0.83, 0.87,
        1.04, 1.17, 1.39, 1.27, 1.12, 1.07, 1.06, 1.08, 1.10, 1.03, 0.98, 0.96,
    )  # fmt: skip
    weekend: float = 0.69
    base_volatility: float = 0.0074  # standard deviation of an hour's return divided by hour and weekend
    # Calm, normal, turbulent: the 30 %, 55 % and 15 % of hours by volatility over the 30 days around them. Volatility
    # in each (in units of base_volatility), and how often one hour's state followed another's.
    regimes: tuple[float, float, float] = (0.55, 0.94, 1.69)
    transitions: tuple[tuple[float, float, float], ...] = (
        (0.9975, 0.0025, 0.0),
        (0.0014, 0.9982, 0.0004),
        (0.0, 0.0017, 0.9983),
    )
    # GARCH(1,1) with Student-t shocks, by maximum likelihood on the returns divided by all of the above.
    arch: float = 0.0765
    garch: float = 0.918
    # Set, not estimated: maximum likelihood says 3.2 degrees of freedom, whose fourth moment is infinite, and lets one
    # wild hour triple the volatility of the next. These three bring the kurtosis near the real one: the variance that
    # mixes normal shocks into Student-t ones is cut at max_activity, and the next hours' volatility reacts to at most
    # max_news standard deviations (Muler & Yohai 2008, J. Statistical Planning and Inference 138).
    freedom: float = 3.5
    max_activity: float = 10.0
    max_news: float = 3.0
    # Follow from these three by integration: the cut shock's standard deviation, and the mean of min(shock², max_news²)
    # once it is scaled to 1.
    shock_sd: float = 0.955
    news_mean: float = 0.871
    max_volatility: float = 0.03  # of an hour; the real market's worst since 2017 lost 18 %
    # log volume = level + slope · log(log(high / low)) + residual, by least squares without the months (2022-07 to
    # 2023-03) in which Binance waived fees. The residual is AR(1) plus noise, by its autocorrelation at 1 and 48 hours.
    volume_level: float = 11.82  # volume in BTC
    volume_slope: float = 0.91
    volume_sd: float = 0.42
    volume_memory: float = 0.991
    volume_share: float = 0.68  # of the residual's variance that is AR(1)


MARKET = Market()


def simulate_candles(
    seed: int, edge: float = 0.0, timeframe: str = "1h", start: object = None, end: object = None
) -> pd.DataFrame:
    """Simulated bars that lie wholly within `start` (default `ORIGIN`) to `end` (default `END`).

    One seed is one history: the window decides only how much of it is shown, and `timeframe` (1h and up) only how its
    hours are grouped. `edge` (0 to 0.5) is the planted correlation, see above. Returns a candle frame (prices in USDT
    to the cent, volume in BTC) with `attrs["simulated"]` True. Raises `InputError` on any argument out of range.
    """
    seed, edge = _check_seed(seed), _check_edge(edge)
    delta = timeframe_delta(timeframe)
    if delta < HOUR:
        raise unknown("simulated timeframe", timeframe, (name for name, length in TIMEFRAMES.items() if length >= HOUR))
    first = ORIGIN if start is None else utc(start)
    last = END if end is None else utc(end)
    if not ORIGIN <= first < last <= LATEST:
        raise InputError(
            f"No simulated bars from {first} to {last}: start must come before end, both within {ORIGIN.date()} and "
            f'{LATEST.date()}. Try start="{ORIGIN.date()}", end="{END.date()}".'
        )
    opens = pd.date_range(first.ceil(delta), last.floor(delta), freq=delta, inclusive="left", name="timestamp")
    if opens.empty:
        raise InputError(f"No whole {timeframe} bar fits between {first} and {last}. Choose a later end.")
    bars = _hourly(seed, edge, pd.date_range(ORIGIN, opens[-1] + delta, freq="h", inclusive="left", name="timestamp"))
    if delta > HOUR:
        rules = {"open": "first", "high": "max", "low": "min", "close": "last", "volume": "sum"}
        bars = bars.resample(delta).agg(rules).round({"volume": 5})  # summing leaves digits beyond 1e-5
    bars = bars.loc[opens]
    source = f"simulated:{seed}?edge={edge}" if edge else f"simulated:{seed}"
    bars.attrs = {"source": source, "symbol": "BTC/USDT", "timeframe": timeframe, "simulated": True}
    return bars


def parse_simulated(text: str) -> tuple[int, float]:
    """Seed and edge from what follows `simulated:` in a source name: `"1"` → (1, 0.0), `"1?edge=0.05"` → (1, 0.05)."""
    found = re.fullmatch(r"([0-9]+)(?:\?edge=([0-9.eE+-]+))?", text)
    try:
        if found:
            return int(found[1]), _check_edge(float(found[2] or 0))
    except ValueError as error:  # float("1.2.3"), or an edge out of range
        raise _unreadable(text) from error
    raise _unreadable(text)


def _unreadable(text: str) -> InputError:
    return InputError(
        f"Simulated market {text!r} is not a seed (0, 1, 2, …) with an optional edge from 0 to {MAX_EDGE}. "
        "Write e.g. simulated:1 or simulated:1?edge=0.05."
    )


def _check_seed(seed: int) -> int:
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
        raise InputError(f"Seed {seed!r} is not a whole number ≥ 0. Write e.g. simulate_candles(1), or simulated:1.")
    return int(seed)


def _check_edge(edge: float) -> float:
    if not isinstance(edge, (int, float, np.number)) or not 0 <= edge <= MAX_EDGE:  # also refuses NaN
        raise InputError(
            f"Edge {edge!r} is not a correlation from 0 to {MAX_EDGE}. Write e.g. simulate_candles(1, edge=0.05), or "
            "simulated:1?edge=0.05."
        )
    return float(edge)


def _hourly(seed: int, edge: float, index: pd.DatetimeIndex, market: Market = MARKET) -> pd.DataFrame:
    n = len(index)
    # One stream per quantity, each drawn bar by bar: more bars lengthen every stream and change none of its beginning.
    normal, mixing, moves, upper, lower, slow, fast = np.random.default_rng(seed).spawn(7)

    # A Student-t shock is a normal one times the square root of a random activity, 1 in the mean. Cutting the activity,
    # not the shock, leaves it normal given the activity, which the path inside the bar relies on.
    activity = np.minimum((market.freedom - 2) / mixing.chisquare(market.freedom, n), market.max_activity)
    activity /= market.shock_sd**2
    surprise = np.sqrt(activity) * normal.standard_normal(n)
    z = _plant(surprise, edge)

    hour_of_week = np.asarray(market.hours)[index.hour] * np.where(index.day_of_week >= 5, market.weekend, 1.0)
    scale = market.base_volatility * hour_of_week * _regime_scale(moves.random(n), market)
    sigma = np.minimum(scale * np.sqrt(_garch_variance(z, market)), market.max_volatility)
    simple_return = np.maximum(sigma * z, FLOOR)
    close = market.first_price * np.cumprod(1 + simple_return)
    open_ = np.concatenate([[market.first_price], close[:-1]])

    # A Brownian path of variance v that ends at x has the maximum (x + √(x² + 2vE)) / 2, E exponential (from the
    # reflection principle, Karatzas & Shreve 1991, section 2.8). v must be the variance with which x was drawn: a wider
    # path would fit the real range better, but pay limit orders for the noise. Maximum and minimum are drawn apart.
    variance = sigma**2 * activity
    rise = (simple_return + np.sqrt(simple_return**2 + 2 * variance * upper.standard_exponential(n))) / 2
    fall = (simple_return - np.sqrt(simple_return**2 + 2 * variance * lower.standard_exponential(n))) / 2
    high, low = open_ * (1 + rise), open_ * (1 + np.maximum(fall, FLOOR))

    memory, share = market.volume_memory, market.volume_share
    persistent = lfilter([math.sqrt(1 - memory**2)], [1, -memory], slow.standard_normal(n))
    residual = math.sqrt(share) * persistent + math.sqrt(1 - share) * fast.standard_normal(n)
    log_range = np.log(np.log(high / low))
    volume = np.exp(market.volume_level + market.volume_slope * log_range + market.volume_sd * residual)

    # Rounded as an exchange does, which also hides last-bit differences between CPUs.
    prices = np.maximum(np.column_stack([open_, high, low, close]).round(2), 0.01)
    prices[:, 1], prices[:, 2] = prices.max(axis=1), prices.min(axis=1)  # where a last bit put the close outside
    return pd.DataFrame(np.column_stack([prices, volume.round(5)]), index=index, columns=COLUMNS)


def _plant(surprise: np.ndarray, edge: float) -> np.ndarray:
    """Standardised returns z whose correlation with the unit-variance signal of the bar before is `edge`."""
    decay = 0.5 ** (1 / SIGNAL_HALF_LIFE)
    signal = lfilter([math.sqrt(1 - decay**2)], [1, -decay], surprise)
    return edge * np.concatenate([[0.0], signal[:-1]]) + math.sqrt(1 - edge**2) * surprise


def _regime_scale(uniform: np.ndarray, market: Market) -> np.ndarray:
    """Volatility multiple of each bar's regime, mean square 1 in the long run; the chain starts in the normal state."""
    (_, calm_up, _), (normal_down, _, normal_up), (_, turbulent_down, _) = market.transitions
    share = (normal_down / calm_up, 1.0, normal_up / turbulent_down)  # of time, over that of the normal state
    mean_square = sum(part * level**2 for part, level in zip(share, market.regimes, strict=True)) / sum(share)
    levels = np.asarray(market.regimes) / math.sqrt(mean_square)
    cumulative = np.cumsum(market.transitions, axis=1).tolist()
    state, states = 1, []
    for draw in uniform.tolist():
        down, stay, _ = cumulative[state]
        state = 0 if draw < down else 1 if draw < stay else 2
        states.append(state)
    return levels[states]


def _garch_variance(z: np.ndarray, market: Market) -> np.ndarray:
    """h[t] = ω + (a · min(z[t−1]², max_news²) + b) · h[t−1] from h[0] = 1, with the ω that makes its mean 1."""
    omega = 1 - market.arch * market.news_mean - market.garch
    growth = market.arch * np.minimum(z**2, market.max_news**2) + market.garch
    h, variance = 1.0, []
    for factor in growth.tolist():
        variance.append(h)
        h = omega + factor * h
    return np.asarray(variance)
