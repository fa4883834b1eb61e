"""What a strategy wants at the close of the newest bar: history, features, forecasts and the strategy, kept in memory.

Each bar adds a row to the tables; only that row is computed. It is the same functions, and so the same values, as over a
whole history: a backtest of the recorded candles decides the same. An average without an end among the features agrees to ten
digits only, for their table begins with its warm-up; but the row that is decided on is always computed by itself, so that a
restart changes no digit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from btclab.errors import InputError, TooFewBars
from btclab.features.build import build_features
from btclab.features.spec import resolve_spec
from btclab.market.candles import COLUMNS, timeframe_of
from btclab.market.feed import BarClosed
from btclab.records import Margin
from btclab.trading.filters import Filters
from btclab.trading.scores import Weights, category_scores, contributions
from btclab.trading.sizing import Sizing, size_signals
from btclab.trading.strategies import Strategy, run_strategy

if TYPE_CHECKING:
    from btclab.forecasting.checkpoints import Checkpoint

WINDOW = 5_000  # bars that a strategy sees
SLACK = 1_000  # more bars for features whose warm-up the window must not shorten, and for the network's context
MOST_KEPT = 500_000  # bars for the sizing: 20 MB, and milliseconds to add one


class Decider:
    """A strategy over the newest bars. `candles` are those before the first that is decided on; their `attrs` say what they are.

    `memory` is the `memory` of an earlier one, from which this goes on: what the strategy held, and until which bar. The
    strategy sees the last `window` bars, and forecasts and features if it reads them; features that it can do without are left
    out where there are too few bars for them.
    """

    def __init__(
        self,
        strategy: Strategy,
        candles: pd.DataFrame,
        checkpoint: Checkpoint | None = None,
        filters: Filters | None = None,
        sizing: Sizing | None = None,
        memory: Mapping[str, Any] | None = None,
        window: int = WINDOW,
    ) -> None:
        self.strategy, self.checkpoint, self.window = strategy, checkpoint, window
        self.filters = Filters.from_settings() if filters is None else filters
        self.sizing = Sizing.from_settings() if sizing is None else sizing
        known = memory if memory and memory.get("strategy") == self.name else {}
        warm = len(candles) > resolve_spec("default").warmup_at(timeframe_of(candles))
        may_read = bool(known.get("features", "features" in strategy.uses and warm))
        self._reads_features = "features" in strategy.needs or may_read
        self.keep = bars_kept(strategy, checkpoint, timeframe_of(candles), window, self.sizing)
        self._read = _bars_read(strategy, checkpoint, timeframe_of(candles), window)
        self._attrs = dict(candles.attrs) | {"timeframe": timeframe_of(candles)}
        self.candles = self._marked(candles.iloc[-self.keep :][COLUMNS])
        self._features: pd.DataFrame | None = None
        self._forecasts: pd.DataFrame | None = None
        self._held: dict[str, Any] | None = dict(known["held"]) if known.get("held") else None
        self._sized = float(known.get("sized", 0.0))

    @property
    def name(self) -> str:
        """The strategy and the parameters that are not as by default."""
        given = ", ".join(f"{key}={value!r}" for key, value in sorted(self.strategy.values.items()))
        return f"{self.strategy.name}({given})" if given else self.strategy.name

    @property
    def memory(self) -> dict[str, Any]:
        """What another `Decider` needs to go on after the last bar that was decided on, as JSON values."""
        held = {"held": self._held, "sized": self._sized, "features": self._reads_features}
        return {"strategy": self.name, **held}

    def add(self, bar: BarClosed) -> None:
        """Take a bar that has closed, later than all before it."""
        values = [[bar.open, bar.high, bar.low, bar.close, bar.volume]]
        index = pd.DatetimeIndex([bar.timestamp], name="timestamp").as_unit(pd.DatetimeIndex(self.candles.index).unit)
        row = pd.DataFrame(values, index, COLUMNS, dtype="float64")
        self.candles = self._marked(pd.concat([self.candles, row]).iloc[-self.keep :])

    def decide(self) -> dict[str, Any]:
        """The signal at the close of the newest bar: side, exposure (None: no opinion), confidence, and reasons (a dictionary).

        While features are warming up there is no opinion. Raises what the strategy raises; it then goes on from where it stood.
        """
        try:
            candles, features, forecasts = self._tables()
        except TooFewBars as error:
            return _no_opinion(f"warming up: {error}")
        before = self._before(candles)
        begins = candles.index[-1] if before is None else None  # a new account holds nothing, whatever the history held
        table = run_strategy(self.strategy, candles, features, forecasts, self.filters, before, begins)
        held = table.attrs["strategy"]["held"]
        sized = self._marked(self.candles.iloc[-(self.sizing.warmup_at(self._attrs["timeframe"]) + len(table)) :])
        table = size_signals(table, sized, self.sizing, _aligned(forecasts, sized), self._sized)
        row = table.iloc[-1]
        exposure, confidence = float(row["exposure"]), float(row["confidence"])
        self._held = held
        self._sized = self._sized if np.isnan(exposure) else exposure
        reasons: dict[str, Any] = {"text": str(row["reasons"])}
        if bool(row["in_sample"]):
            reasons["in_sample"] = True
        if self.strategy.name == "composite":
            reasons["scores"] = self._pushes(features, forecasts)
        return {
            "side": str(row["side"]),
            "exposure": None if np.isnan(exposure) else exposure,
            "confidence": None if np.isnan(confidence) else confidence,
            "reasons": reasons,
        }

    def check(self) -> None:
        """Raise `InputError` if the strategy lacks an input, or returns what no account can hold, on the bars that are there."""
        if len(self.candles):
            with suppress(TooFewBars):
                candles, features, forecasts = self._tables()
                wanted = run_strategy(self.strategy, candles, features, forecasts, self.filters)["exposure"]
                if wanted.min() < 0 and Margin.from_settings() is None:
                    raise InputError(
                        f"Strategy {self.name!r} wants to sell short: exposure {wanted.min():g} at {wanted.idxmin()}. The "
                        "account may not: set allow_short = true in [trading], or take a strategy without."
                    )

    # The tables

    def _tables(self) -> tuple[pd.DataFrame, pd.DataFrame | None, pd.DataFrame | None]:
        """Candles, features and forecasts of the bars that the strategy sees."""
        read = self._marked(self.candles.iloc[-self._read :])
        series = self._series(read)
        forecasts = None if self.checkpoint is None else self._forecast(self.checkpoint, read, series)
        features = self._feature_table(read, series) if self._reads_features else None
        candles = self._marked(self.candles.iloc[-self.window :])
        return candles, _aligned(features, candles), _aligned(forecasts, candles)

    @property
    def series(self) -> tuple[str, ...]:
        """The context series that the features or the network read; none beside a simulated market."""
        if self._attrs.get("simulated"):
            return ()
        specs = [self.checkpoint.spec] if self.checkpoint else []
        specs += [resolve_spec("default")] if self._reads_features else []
        return tuple(dict.fromkeys(name for one in specs for name in one.context))

    def _series(self, candles: pd.DataFrame) -> pd.DataFrame | None:
        """Their stored values beside the bars."""
        if not self.series:
            return None
        from btclab.context.join import load_context

        return load_context(candles, self.series)

    def _feature_table(self, candles: pd.DataFrame, series: pd.DataFrame | None) -> pd.DataFrame:
        missing = self._missing(self._features)
        if missing > 1:
            earlier = build_features(candles, series, last=missing).iloc[:-1]
            self._features = _joined(self._features, earlier, self.window)
        if missing:
            # The newest as a live bar has it, always: an average without an end depends on how many rows are asked for.
            self._features = _joined(self._features, build_features(candles, series, last=1), self.window)
        assert self._features is not None
        return self._features

    def _forecast(self, checkpoint: Checkpoint, candles: pd.DataFrame, series: pd.DataFrame | None) -> pd.DataFrame:
        from btclab.forecasting.forecaster import forecast, forecast_latest

        missing = self._missing(self._forecasts)
        if missing == 1 and self._forecasts is not None:
            self._forecasts = _joined(self._forecasts, forecast_latest(checkpoint, candles, series), self.window)
        elif missing:
            latest = forecast_latest(checkpoint, candles, series)
            whole = forecast(checkpoint, candles, series).reindex(columns=latest.columns)
            self._forecasts = _joined(whole.iloc[:-1], latest, self.window)  # the newest as a live bar has it, always
        assert self._forecasts is not None
        return self._forecasts

    def _missing(self, table: pd.DataFrame | None) -> int:
        """How many of the newest bars have no row in `table`."""
        known = 0 if table is None else int(self.candles.index.searchsorted(table.index[-1], side="right"))
        return min(len(self.candles) - known, self.window)

    def _before(self, candles: pd.DataFrame) -> dict[str, Any] | None:
        """What was held at the last bar that was decided on; if that has left the window, at the first bar that is there."""
        if self._held is None:
            return None
        bar = pd.Timestamp(self._held["bar"])
        return self._held if bar in candles.index else {**self._held, "bar": candles.index[0].isoformat()}

    def _pushes(self, features: pd.DataFrame | None, forecasts: pd.DataFrame | None) -> dict[str, float]:
        given = self.strategy.values.get("weights")
        weights = given if isinstance(given, Weights) else Weights.of(given) if given else Weights.from_settings()
        features, forecasts = (None if one is None else one.iloc[-1:] for one in (features, forecasts))
        pushes = contributions(category_scores(features, forecasts), weights).iloc[-1]
        return {str(name): float(value) for name, value in pushes.items() if np.isfinite(value)}

    def _marked(self, candles: pd.DataFrame) -> pd.DataFrame:
        candles.attrs = dict(self._attrs)
        return candles


def bars_kept(
    strategy: Strategy,
    checkpoint: Checkpoint | None,
    timeframe: str,
    window: int = WINDOW,
    sizing: Sizing | None = None,
) -> int:
    """How many bars a `Decider` keeps: with these before the first decision it decides as over any longer history.

    `sizing` is by default that of the settings. Raises `InputError` if it looks back over more than `MOST_KEPT`.
    """
    sizing = Sizing.from_settings() if sizing is None else sizing
    sized = sizing.warmup_at(timeframe)
    if sized > MOST_KEPT:
        raise InputError(
            f"Sizing by volatility with half_life_days {sizing.half_life_days:g} looks back over {sized:,} bars of "
            f"{timeframe}, and a trader keeps {MOST_KEPT:,} for it at most. Make it shorter (at most "
            f"{math.floor(10 * sizing.half_life_days * MOST_KEPT / sized) / 10:g}), or trade a longer timeframe."
        )
    return max(_bars_read(strategy, checkpoint, timeframe, window), sized + window)


def _bars_read(strategy: Strategy, checkpoint: Checkpoint | None, timeframe: str, window: int) -> int:
    """How many bars forecasts and features need, so that those of the last `window` do not depend on where the history begins."""
    warmups = [checkpoint.spec.warmup_at(timeframe)] if checkpoint else []
    warmups += [resolve_spec("default").warmup_at(timeframe)] if "features" in (*strategy.uses, *strategy.needs) else []
    return max((bars + SLACK for bars in warmups), default=0) + window


def _no_opinion(text: str) -> dict[str, Any]:
    return {"side": "hold", "exposure": None, "confidence": None, "reasons": {"text": text}}


def _joined(table: pd.DataFrame | None, fresh: pd.DataFrame, most: int) -> pd.DataFrame:
    fresh = fresh.copy(deep=False)
    fresh.attrs = {}  # else every row added would compare all that is said of all columns
    return fresh if table is None else pd.concat([table, fresh]).iloc[-most:]


def _aligned(table: pd.DataFrame | None, candles: pd.DataFrame) -> pd.DataFrame | None:
    """The rows of `table` beside those of `candles`; bars that have none are missing."""
    if table is None or table.index.equals(candles.index):
        return table
    beside = table.reindex(candles.index)
    if "in_sample" in beside:
        beside["in_sample"] = beside["in_sample"].eq(True)
    return beside
