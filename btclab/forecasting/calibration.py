"""From a network's answer to a distribution that keeps its word, fitted on the validation fold and on nothing else.

All in units of the volatility known when the forecast is made.
"""

from __future__ import annotations

import itertools
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.special import expit, ndtri
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

LEVELS = np.array([0.05, 0.25, 0.50, 0.75, 0.95])
NAMES = ("q05", "q25", "q50", "q75", "q95")
NORMAL_QUANTILES = ndtri(LEVELS)
INTERVAL = 0.90  # the interval that forecasts state: from q05 to q95
ADAPTIVE_BARS = 1000  # outcomes that the adaptive interval looks back on
PARTS = 5  # of the validation fold, in time, to choose how prob_up is calibrated
METHODS = ("even", "platt", "isotonic")  # of the probability of up
LEAST_ISOTONIC = 500  # outcomes; fewer draw stairs of noise


@dataclass(frozen=True)
class Calibration:
    """Of one horizon. `slope` shrinks the point forecast to what validation supports (0: no skill, the naive forecast).

    `offsets` [5] move the quantiles so that each was exceeded as often as it says (split conformal, one side at a time:
    Romano, Patterson & Candès 2019): the network's own ones, or normal ones around the point forecast.
    `method` is how prob_up comes from the `score`: "platt" (`odds` = slope and the score of even odds), "isotonic" (`steps` =
    scores, probabilities) or "even" (one half: neither was better than that on the validation fold).
    """

    slope: float
    offsets: tuple[float, ...]
    method: str
    odds: tuple[float, float] = (0.0, 0.0)
    steps: tuple[tuple[float, ...], tuple[float, ...]] = ((), ())

    @classmethod
    def fit(cls, mean: np.ndarray, quantiles: np.ndarray | None, score: np.ndarray, outcome: np.ndarray) -> Calibration:
        """From point forecasts [time], perhaps quantiles [time, 5], the score of up [time] and outcomes [time]."""
        slope = shrinkage(mean, outcome)
        base = _around(slope, mean, quantiles)
        offsets = [conformal_offset(outcome - base[:, i], level) for i, level in enumerate(LEVELS)]
        if slope == 0:  # the naive forecast has no opinion on the direction; the fold's drift is none
            offsets = [offset - offsets[2] for offset in offsets]
        method, odds, steps = _EVEN if slope == 0 else _choose_direction(score, outcome > 0)
        return cls(slope, tuple(map(float, offsets)), method, odds, steps)

    def distribution(self, mean: np.ndarray, quantiles: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """Calibrated point forecast [time] and quantiles [time, 5], in order."""
        return self.slope * mean, np.sort(_around(self.slope, mean, quantiles) + np.array(self.offsets), axis=1)

    def prob_up(self, score: np.ndarray) -> np.ndarray:
        """Probability [time] that the outcome is above zero."""
        if self.method == "platt":
            chance = expit(self.odds[0] * (score - self.odds[1]))
        elif self.method == "isotonic":
            chance = np.interp(score, *self.steps)
        else:
            chance = np.full(len(score), 0.5)
        return np.where(np.isnan(score), np.nan, chance)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Calibration:
        one, other = content["steps"]
        return cls(
            float(content["slope"]),
            tuple(content["offsets"]),
            content["method"],
            (content["odds"][0], content["odds"][1]),
            (tuple(one), tuple(other)),
        )


def _around(slope: float, mean: np.ndarray, quantiles: np.ndarray | None) -> np.ndarray:
    """Quantiles [time, 5] before the offsets: the network's own or normal ones, moved to the shrunken point forecast."""
    spread = NORMAL_QUANTILES if quantiles is None else quantiles - mean[:, None]
    return slope * mean[:, None] + spread


def shrinkage(forecast: np.ndarray, outcome: np.ndarray) -> float:
    """Slope of the regression of outcome on forecast through the origin (Mincer & Zarnowitz 1969), held to 0…1.

    A network may be too bold, but is not trusted to be too timid or upside down.
    """
    power = float(np.dot(forecast, forecast))
    return float(np.clip(np.dot(forecast, outcome) / power, 0.0, 1.0)) if power > 0 else 0.0


def conformal_offset(errors: np.ndarray, level: float) -> float:
    """What to add to a quantile so that, of n + 1 exchangeable outcomes, a share of at least `level` lies under it.

    Below the median the same from the other side, so that an interval between two levels covers at least what it says.
    """
    ordered, n = np.sort(errors), len(errors)
    if level < 0.5:
        return float(-conformal_offset(-errors, 1 - level))
    if level == 0.5:
        return float(np.median(ordered))
    return float(ordered[min(n, int(np.ceil((n + 1) * level))) - 1])


Direction = tuple[str, tuple[float, float], tuple[tuple[float, ...], tuple[float, ...]]]  # method, odds, steps
_EVEN: Direction = ("even", (0.0, 0.0), ((), ()))


def _choose_direction(score: np.ndarray, up: np.ndarray) -> Direction:
    """How prob_up is calibrated: by what was best on the parts of the fold that it was not fitted on (Brier score).

    Rises and falls weigh the same, here and in the fits: whether the fold's market rose or fell says nothing of the next.
    """
    if np.ptp(score) == 0 or up.all() or not up.any():
        return _EVEN
    edges = np.linspace(0, len(up), PARTS + 1).astype(int)
    brier = {"even": 0.25, "platt": 0.0, "isotonic": 0.0}
    for low, high in itertools.pairwise(edges):
        rest = np.r_[0:low, high : len(up)]
        truth, weight = up[low:high].astype(float), _balance(up)[low:high]
        odds, steps = _platt(score[rest], up[rest]), _isotonic(score[rest], up[rest])
        said = {"platt": expit(odds[0] * (score[low:high] - odds[1])), "isotonic": np.interp(score[low:high], *steps)}
        for name, chance in said.items():
            brier[name] += float(np.sum(weight * (chance - truth) ** 2)) / len(up)
    if len(up) < LEAST_ISOTONIC:
        brier.pop("isotonic")
    best = min(brier, key=lambda name: brier[name])
    if best == "isotonic":
        return best, (0.0, 0.0), _isotonic(score, up)
    odds = _platt(score, up)
    return (
        (best, odds, ((), ())) if best == "platt" and odds[0] > 0 else _EVEN
    )  # a slope below 0 is upside down: no skill


def _balance(up: np.ndarray) -> np.ndarray:
    """Weights [time] with mean 1 that give rises and falls the same sum."""
    share = float(up.mean())
    return np.where(up, 0.5 / share, 0.5 / (1 - share)) if 0 < share < 1 else np.ones(len(up))


def _platt(score: np.ndarray, up: np.ndarray) -> tuple[float, float]:
    """Slope of the log odds (Platt 1999) and the score of even odds, which is the median of the fold.

    No intercept is fitted, so that on average the odds are even.
    """
    if up.all() or not up.any():
        return 0.0, 0.0
    middle, size = float(np.median(score)), float(np.std(score)) or 1.0
    fitted = LogisticRegression(C=1.0, fit_intercept=False).fit((score[:, None] - middle) / size, up)
    return float(fitted.coef_[0, 0]) / size, middle


def _isotonic(score: np.ndarray, up: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Scores and probabilities between which to interpolate (Zadrozny & Elkan 2002)."""
    fitted = IsotonicRegression(y_min=0.02, y_max=0.98).fit(score, up.astype(float), sample_weight=_balance(up))
    return tuple(map(float, fitted.X_thresholds_)), tuple(map(float, fitted.y_thresholds_))


def adaptive_factor(
    low: np.ndarray, middle: np.ndarray, high: np.ndarray, outcome: np.ndarray, horizon: int
) -> np.ndarray:
    """By how much to widen or narrow the interval at each bar so that it follows drift: arrays [time] in, [time] out.

    The factor at *t* is the one with which the interval would have covered `INTERVAL` of the newest `ADAPTIVE_BARS` outcomes
    known at the close of *t*, those of forecasts made `horizon` bars ago or earlier (rolling conformal scores: Barber et al.
    2023, with equal weights in a window, so that it does not depend on where the history begins). Missing until there are as
    many. An outcome outside an interval without width counts as infinitely far away.
    """
    side = np.where(outcome >= middle, high - middle, middle - low)
    with np.errstate(divide="ignore", invalid="ignore"):
        score = np.abs(outcome - middle) / side
    known = np.concatenate([np.full(horizon, np.nan), score])[: len(score)]  # at t the outcome of t − horizon is known
    factor = np.full(len(score), np.nan)
    place = int(np.ceil((ADAPTIVE_BARS + 1) * INTERVAL)) - 1
    present = np.flatnonzero(~np.isnan(known))
    if len(present) < ADAPTIVE_BARS:
        return factor
    windows = np.lib.stride_tricks.sliding_window_view(known[present], ADAPTIVE_BARS)
    values = np.empty(len(windows))
    for begin in range(0, len(windows), 4096):  # a partition needs a copy; not all at once
        values[begin : begin + 4096] = np.partition(windows[begin : begin + 4096], place, axis=1)[:, place]
    at = np.searchsorted(present, np.arange(len(score)), side="right") - ADAPTIVE_BARS  # the newest window at each bar
    return np.where(at >= 0, values[np.maximum(at, 0)], np.nan)
