"""What forbids an entry, whatever the strategy says: too little confidence, a bad regime, timeframes that disagree."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from btclab.errors import InputError
from btclab.market.candles import timeframe_delta
from btclab.trading.regimes import REGIMES, matching, regimes, timeframe_trends
from btclab.trading.strategy import AGREEMENT, CONFIDENCE, COOLDOWN, REGIME


@dataclass(frozen=True)
class Filters:
    """When a strategy that is out of the market may not enter; what it holds is left alone. By default it always may.

    - `min_confidence`: the forecast must give a rise, or a fall to sell short, at least this probability (0: none is needed);
    - `cooldown_bars`: bars that it stays out after it has left;
    - `avoid`: regimes such as "down/wild" or "*/wild" (`btclab.trading.regimes`), to either side;
    - `agree`: timeframes whose trend must be up, or down to sell short, e.g. ("4h", "1d").

    What is not known yet, a regime or a trend in its warm-up, forbids as well.
    """

    min_confidence: float = 0.0
    cooldown_bars: int = 0
    avoid: tuple[str, ...] = ()
    agree: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.min_confidence < 1:
            raise InputError(
                f"min_confidence is {self.min_confidence!r}; it must be a probability: 0 or more, under 1."
            )
        if self.cooldown_bars < 0 or self.cooldown_bars != int(self.cooldown_bars):
            raise InputError(f"cooldown_bars is {self.cooldown_bars!r}; it must be a whole number of bars, 0 or more.")
        for name in ("avoid", "agree"):
            if isinstance(getattr(self, name), str):
                raise InputError(
                    f"{name} is the text {getattr(self, name)!r}; give a tuple: ({getattr(self, name)!r},)."
                )
        matching(self.avoid)
        for timeframe in self.agree:
            timeframe_delta(timeframe)

    @classmethod
    def from_settings(cls) -> Filters:
        """The filters of the section `[strategy]`."""
        from btclab.settings import settings

        own = settings().strategy
        return cls(own.min_confidence, own.cooldown_bars, own.avoid, own.agree)


@dataclass(frozen=True)
class Verdict:
    """For each bar whether an entry is allowed: `codes` [2, bar] are 0, or say which filter forbids to buy, and to sell short."""

    filters: Filters
    codes: np.ndarray
    regime: pd.Series | None = None
    trends: pd.DataFrame | None = None

    def texts(self, refused: np.ndarray) -> tuple[np.ndarray, list[str]]:
        """The numbers of the bars in which an entry was refused (`refused` [bar] is not 0), and for each why, with its value.

        It is below 0 where the entry was to sell short, and may say `COOLDOWN`, which depends on what was held before and is
        therefore not among the `codes`.
        """
        bars, code = np.flatnonzero(refused), np.abs(refused)
        state = np.zeros(
            len(refused), dtype=np.int64
        )  # what the text depends on, beside the filter: few different ones
        if self.regime is not None:
            state = np.where(code == REGIME, self.regime.cat.codes.to_numpy(), state)
        if self.trends is not None:
            places = 4 ** np.arange(self.trends.shape[1])
            state = np.where(code == AGREEMENT, (self.trends.fillna(2).to_numpy() + 1).astype(int) @ places, state)
        written = {key: self._text(*key) for key in set(zip(refused[bars].tolist(), state[bars].tolist(), strict=True))}
        return bars, [written[key] for key in zip(refused[bars].tolist(), state[bars].tolist(), strict=True)]

    def _text(self, code: int, state: int) -> str:
        short, code = code < 0, abs(code)
        if code == COOLDOWN:
            why = f"it left the market within the last {self.filters.cooldown_bars} bars"
        elif code == CONFIDENCE:
            why = (
                f"the forecast gives a {'fall' if short else 'rise'} less than {100 * self.filters.min_confidence:g} %"
            )
        elif code == REGIME:
            why = f"the regime is {REGIMES[state] if state >= 0 else 'not known yet'}"
        else:
            words = ("down", "flat", "up", "not known yet")
            named = (f"{words[state // 4**i % 4]} on {name}" for i, name in enumerate(self.filters.agree))
            why = f"the trend is {', '.join(named)}"
        return f"; no {'short ' if short else ''}entry: {why}"


def judge(
    candles: pd.DataFrame, filters: Filters, features: pd.DataFrame | None = None, forecasts: pd.DataFrame | None = None
) -> Verdict:
    """Whether `filters` allow an entry to either side at the close of each bar, from what is known then.

    Raises `InputError` where `min_confidence` has no forecasts to look at.
    """
    codes = np.zeros((2, len(candles)), dtype=np.int8)
    regime = trends = None
    if filters.agree:
        trends = timeframe_trends(candles, filters.agree)
        for side, wanted in enumerate((1, -1)):
            codes[side, ~(trends.to_numpy() == wanted).all(axis=1)] = AGREEMENT
    if filters.avoid:
        regime = regimes(candles, features)
        avoided = [REGIMES.index(name) for name in matching(filters.avoid)] + [-1]
        codes[:, np.isin(regime.cat.codes.to_numpy(), avoided)] = REGIME
    if filters.min_confidence > 0:
        if forecasts is None:
            raise InputError(
                f"min_confidence {filters.min_confidence:g} needs forecasts: bl.forecast(checkpoint, candles). "
                "Set it to 0 for a strategy without."
            )
        prob_up = forecasts["prob_up"].to_numpy(dtype=float)
        for side, probability in enumerate((prob_up, 1 - prob_up)):
            codes[side, ~(probability >= filters.min_confidence)] = CONFIDENCE
    return Verdict(filters, codes, regime, trends)
