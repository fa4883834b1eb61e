"""From a point forecast to a distribution, fitted on the validation fold and on nothing else."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

LEVELS = np.linspace(0.0, 1.0, 401)
QUANTILES = {"q05": 0.05, "q25": 0.25, "q50": 0.50, "q75": 0.75, "q95": 0.95}
INTERVAL = 0.90  # the interval that forecasts state: from q05 to q95


@dataclass(frozen=True)
class Calibration:
    """`slope` shrinks the network's forecast to what validation supports; `residuals` are quantiles of what then remains.

    Both are in units of volatility. A slope of 0 means that validation saw no skill, and the forecast is the naive one.
    """

    slope: float
    residuals: np.ndarray  # [len(LEVELS)], increasing

    @classmethod
    def fit(cls, forecast: np.ndarray, outcome: np.ndarray) -> Calibration:
        """From forecasts and outcomes [time] of the validation fold.

        The slope is that of the regression of outcome on forecast through the origin (Mincer and Zarnowitz 1969), held
        to 0…1: a network may be too bold, but is not trusted to be too timid or upside down.
        """
        power = float(np.dot(forecast, forecast))
        slope = float(np.clip(np.dot(forecast, outcome) / power, 0.0, 1.0)) if power > 0 else 0.0
        residuals = np.quantile(outcome - slope * forecast, LEVELS)
        if slope == 0:  # the naive forecast has no opinion on the direction; the fold's drift must not become one
            residuals = residuals - np.median(residuals)
        return cls(slope, residuals)

    def mean(self, forecast: np.ndarray) -> np.ndarray:
        """The calibrated point forecast [time], in units of volatility."""
        return self.slope * forecast

    def quantile(self, forecast: np.ndarray, level: float) -> np.ndarray:
        """The value [time] that the outcome stays under with probability `level`, in units of volatility."""
        return self.mean(forecast) + np.interp(level, LEVELS, self.residuals)

    def prob_up(self, forecast: np.ndarray) -> np.ndarray:
        """Probability [time] that the outcome is above zero."""
        return np.asarray(1.0 - np.interp(-self.mean(forecast), self.residuals, LEVELS))
