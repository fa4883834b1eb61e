"""How much to hold while a strategy is in the market: a fixed fraction, a target of volatility, or a share of the Kelly bet.

A size is a fraction of equity, known at the close of its bar, to either side of the market. Signals times size is what is
held, and what is held is resized only when it is off by more than a band: a position that follows its size bar by bar pays its
edge in fees.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numba import njit

from btclab.errors import InputError, unknown
from btclab.features.kernels import fading_mean
from btclab.market.candles import bars_per_year, timeframe_delta, timeframe_of
from btclab.trading.strategy import check_exposure, number_texts, sides

METHODS = ("fixed", "volatility", "kelly_binary", "kelly_normal")
HALF_LIVES = 6  # at least; what is older would have 1/64 of an endless average's weight at the most
MEAN_MOVE = math.sqrt(2 / math.pi)  # mean absolute value of a normal variable with deviation 1


@dataclass(frozen=True)
class Sizing:
    """How large a position is: `method` is one of `METHODS`.

    - "fixed": `fraction` of equity;
    - "volatility": so much that the account has `target_volatility` a year (0.4 = 40 %), by an exponential average of the
      candles' variance with a half-life of `half_life_days`;
    - "kelly_binary": `kelly_fraction` of the Kelly bet on a rise with the calibrated probability `prob_up`, where the price
      moves by the mean absolute move of a normal return, √(2/π)·volatility, either way;
    - "kelly_normal": `kelly_fraction` of the Kelly bet on the forecast's expected return and volatility.

    What is sold short is sized alike, by Kelly with the bet on a fall, which is minus that on a rise. Never more than
    `max_position` of equity, either way. A position is resized when its size is off by more than `resize_band` of equity.
    """

    method: str = "fixed"
    fraction: float = 1.0
    target_volatility: float = 0.4
    half_life_days: float = 10.0
    kelly_fraction: float = 0.25
    max_position: float = 1.0
    resize_band: float = 0.1

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise unknown("sizing", self.method, METHODS)
        for name in ("fraction", "kelly_fraction", "max_position"):
            check_exposure(name, getattr(self, name))
        for name in ("target_volatility", "half_life_days"):
            if not 0 < getattr(self, name) < math.inf:
                raise InputError(f"{name} is {getattr(self, name)!r}; it must be above 0.")
        if not 0 <= self.resize_band <= 1:
            raise InputError(f"resize_band is {self.resize_band!r}; it must be a fraction of equity, 0…1.")

    @property
    def is_whole(self) -> bool:
        """Whether a position is what the signal says, so that there is nothing to size."""
        return self.method == "fixed" and self.fraction == 1 and self.max_position == 1

    def warmup_at(self, timeframe: str) -> int:
        """Bars before a size no longer depends, to the last bit, on where the history begins."""
        if self.method != "volatility":
            return 0
        return (HALF_LIVES + 1) * math.ceil(half_life_bars(self.half_life_days, timeframe))

    @classmethod
    def from_settings(cls) -> Sizing:
        """The sizing of the section `[risk]`."""
        from btclab.settings import settings

        own = settings().risk
        return cls(
            own.sizing,
            own.fraction,
            own.target_volatility,
            own.half_life_days,
            own.kelly_fraction,
            own.max_position,
            own.resize_band,
        )


def half_life_bars(half_life_days: float, timeframe: str) -> float:
    """A half-life in bars. Raises `InputError` unless it is above 0."""
    bars = half_life_days * bars_per_year(timeframe) / 365
    if not 0 < bars < math.inf:
        raise InputError(f"half_life_days is {half_life_days!r}; it must be above 0.")
    return bars


def ewma_volatility(candles: pd.DataFrame, half_life_days: float = 10.0) -> pd.Series:
    """Volatility of the log return a year of 365 days, as known at each close: 0.6 is 60 %.

    σ²[t] = Σ λ^age·r² / Σ λ^age with λ = ½^(1/half-life) (J. P. Morgan 1996, RiskMetrics Technical Document, 4th ed.,
    section 5.2; it has λ = 0.94 a day, a half-life of 11), over six to seven half-lives: at most 1/64 of the weight of an
    endless average is cut off, and the value is the same to the last bit wherever the history begins. The return over a gap
    counts as that of the bars that it spans. Missing until the window is full.
    """
    timeframe = timeframe_of(candles)
    bars = half_life_bars(half_life_days, timeframe)
    clock = pd.DatetimeIndex(candles.index).as_unit("ns").asi8 // timeframe_delta(timeframe).value
    squares = np.diff(np.log(candles["close"].to_numpy()), prepend=np.nan) ** 2
    spans = np.diff(clock, prepend=clock[:1]).astype(np.float64)
    variance = fading_mean(squares, spans, clock, bars, HALF_LIVES)
    return pd.Series(np.sqrt(variance * bars_per_year(timeframe)), candles.index, name="volatility")


def kelly_binary(prob_up: np.ndarray, gain: np.ndarray, loss: np.ndarray) -> np.ndarray:
    """The fraction of equity that makes the expected log of wealth largest when the price gains or loses a fixed share.

    f = p/loss − (1 − p)/gain, the maximum of p·log(1 + f·gain) + (1 − p)·log(1 − f·loss); with gain = loss = 1 it is Kelly's
    2p − 1 (Kelly 1956, A New Interpretation of Information Rate, Bell System Technical Journal 35; Thorp 2006, The Kelly
    Criterion in Blackjack, Sports Betting and the Stock Market). Below 0 it is the bet on a fall.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        return prob_up / loss - (1 - prob_up) / gain


def kelly_normal(mean: np.ndarray, volatility: np.ndarray) -> np.ndarray:
    """The same for a normal return of many small steps: f = μ/σ² (Thorp 2006, section 7; Merton 1969).

    `mean` is that of the *log* return and `volatility` its standard deviation, both of one horizon, so that the drift is
    μ = mean + σ²/2, and f = mean/σ² + ½: a price that is a fair game has mean −σ²/2, and f = 0.
    """
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return mean / volatility**2 + 0.5


def sizes(
    candles: pd.DataFrame, sizing: Sizing, forecasts: pd.DataFrame | None = None, side: float | np.ndarray = 1.0
) -> pd.Series:
    """The size of a position at the close of each bar, 0…`max_position`; missing where it cannot be told yet.

    `side`, of all or [bar], is 1 for a position that is bought, −1 for one that is sold short. Raises `InputError` where
    Kelly has no forecasts, or lacks one of their columns.
    """
    if sizing.method == "fixed":
        size = np.full(len(candles), sizing.fraction)
    elif sizing.method == "volatility":
        volatility = ewma_volatility(candles, sizing.half_life_days).to_numpy()
        with np.errstate(divide="ignore"):
            size = sizing.target_volatility / volatility
    else:
        size = sizing.kelly_fraction * np.maximum(side * _kelly(candles, sizing.method, forecasts), 0.0)
    return pd.Series(np.minimum(size, sizing.max_position), candles.index, name="size")


def _kelly(candles: pd.DataFrame, method: str, forecasts: pd.DataFrame | None) -> np.ndarray:
    first = "prob_up" if method == "kelly_binary" else "mean"
    if forecasts is None or not {first, "volatility"} <= set(forecasts.columns):
        raise InputError(
            f"{method} needs forecasts with {first} and volatility: bl.forecast(checkpoint, candles) gives them."
        )
    if not forecasts.index.equals(candles.index):
        raise InputError("candles and forecasts have different timestamps; make the forecasts from these candles.")
    value, volatility = (forecasts[name].to_numpy(dtype=float) for name in (first, "volatility"))
    volatility = np.where(volatility > 0, volatility, np.nan)
    if method == "kelly_normal":
        return kelly_normal(value, volatility)
    return kelly_binary(value, MEAN_MOVE * volatility, MEAN_MOVE * volatility)


@njit(cache=True, nogil=True, error_model="numpy")
def _resized(exposure, size, most, band, held):  # type: ignore[no-untyped-def]
    """`exposure` times `size`, ±`most` at the most, held until it is off by more than `band`.

    What cannot be sized is not entered; what is held on the other side is left all the same.
    """
    out = np.full(len(exposure), np.nan)
    for t in range(len(exposure)):
        if np.isnan(exposure[t]):
            continue
        turned = (held > 0 and exposure[t] < 0) or (held < 0 and exposure[t] > 0)
        if exposure[t] == 0 or turned:
            held = 0.0
        if exposure[t] != 0:
            if not np.isnan(size[t]):
                want = max(min(exposure[t] * size[t], most), -most) + 0.0  # never a negative zero
                if held == 0 or abs(want - held) > band:
                    held = want
            elif held == 0 and not turned:
                continue
        out[t] = held
    return out


def size_signals(
    signals: pd.DataFrame,
    candles: pd.DataFrame,
    sizing: Sizing | None = None,
    forecasts: pd.DataFrame | None = None,
    before: float = 0.0,
) -> pd.DataFrame:
    """`signals` with each exposure times its size, its side to match, and the size in the reasons; the rest as it was.

    `sizing` is by default that of the settings; one that `is_whole` leaves the signals alone. Where a size cannot be told yet,
    a position is not entered, and one that is held stays as it is, unless the signal is on the other side: then it is left.
    If the signals go on from earlier ones, `before` is the exposure held until then; the candles may begin earlier. Raises as
    `sizes` does, or if `signals` are not of the last bars of `candles`.
    """
    if not signals.index.equals(candles.index[len(candles) - len(signals) :]):
        raise InputError("signals and candles have different timestamps; make the signals from these candles.")
    sizing = Sizing.from_settings() if sizing is None else sizing
    if sizing.is_whole:
        return signals
    wanted = signals["exposure"].to_numpy(dtype=float)
    side = np.ones(len(candles))
    side[len(candles) - len(signals) :][wanted < 0] = -1.0
    size = sizes(candles, sizing, forecasts, side).to_numpy()[len(candles) - len(signals) :]
    exposure = _resized(wanted, size, sizing.max_position, sizing.resize_band, float(before))
    bet = np.abs(wanted) > 0
    told = np.where(bet, size, np.nan)
    texts = number_texts(told, 0.001, lambda value: f"; {sizing.method} size {100 * value:.1f} %")
    for bar in np.flatnonzero(bet & np.isnan(size)):
        texts[bar] = f"; {sizing.method} size not known yet"
    sized = signals.copy()
    sized["exposure"], sized["side"] = exposure, sides(exposure, before)
    if "reasons" in signals:
        sized["reasons"] = list(map("".join, zip(signals["reasons"].tolist(), texts, strict=True)))
    return sized
