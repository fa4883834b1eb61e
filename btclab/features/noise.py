"""Another future: valid bars and values in place of those after a cut, far enough from them that nothing stays the same."""

from __future__ import annotations

import numpy as np
import pandas as pd

from btclab.market.candles import COLUMNS

PRICES = ["open", "high", "low", "close"]
JUMP = 4.0  # times: the future is that much higher, or lower, than what is known
SPREAD = 0.3  # standard deviation of the log of what each bar is multiplied by


def noisy_candles(candles: pd.DataFrame, known: int, rises: bool, random: np.random.Generator) -> pd.DataFrame:
    """`candles` with all bars after the first `known` replaced: shapes of other bars, at four times the price or a quarter.

    Volume is ten times as high where the price `rises`, and none where it falls. So each later bar is beyond its old value
    on one side or the other, and so are means, extremes, ranks and signs of what is later. Other columns are replaced as
    context is.
    """
    others = [name for name in candles.columns if name not in COLUMNS]
    noisy = noisy_context(candles[others], known, rises, random) if others else candles.copy()
    noisy = noisy.reindex(columns=candles.columns)
    count = len(candles) - known
    shape = candles[COLUMNS].to_numpy()[random.permutation(np.arange(known, len(candles)))]
    last = candles["close"].iloc[max(known - 1, 0)]
    price = last * (JUMP if rises else 1 / JUMP) * np.exp(random.normal(0, SPREAD, (count, 1)))
    volume = (shape[:, 4] + 1) * 10 * np.exp(random.normal(0, SPREAD, count)) if rises else np.zeros(count)
    bars = candles[COLUMNS].to_numpy(copy=True)
    bars[known:] = np.column_stack([shape[:, :4] / shape[:, 3:4] * price, volume])
    noisy[COLUMNS] = bars
    noisy.attrs = dict(candles.attrs)
    return noisy


def noisy_context(context: pd.DataFrame, known: int, rises: bool, random: np.random.Generator) -> pd.DataFrame:
    """`context` with all rows after the first `known` replaced: present where one `rises`, every other missing where it falls."""
    noisy = context.copy()
    for name in context.columns:
        values = context[name].to_numpy(dtype=float, copy=True)
        values[known:] = noisy_values(values[known:], rises, random)
        if not rises:
            values[known::2] = np.nan
        noisy[name] = values
    return noisy


def noisy_values(values: np.ndarray, rises: bool, random: np.random.Generator) -> np.ndarray:
    """As many others, of the same sign and about four times the size, or a quarter; a missing one is replaced by one too."""
    usual = values[np.isfinite(values)]
    shape = random.choice(usual, len(values)) if len(usual) else np.ones(len(values))
    return (
        np.where(shape == 0, 1.0, shape) * (JUMP if rises else 1 / JUMP) * np.exp(random.normal(0, SPREAD, len(values)))
    )
