"""Stored context series joined anew: was a context column public when its bars closed?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from btclab.context.join import join_asof
from btclab.context.series import SERIES, Series
from btclab.context.store import read_values, stored_source
from btclab.features.compare import differences
from btclab.features.noise import noisy_values
from btclab.features.spec import FeatureSpec
from btclab.market.candles import close_times


@dataclass(frozen=True)
class Join:
    """A stored series as it belongs beside the bars: `values` by stamp, and `column`, what was public at each bar's close."""

    series: Series
    values: pd.Series
    column: pd.Series

    def equals(self, context: pd.DataFrame) -> bool:
        """Whether the column of this name in `context` is `column`."""
        return not differences("", self.column.to_frame(), context[[self.series.name]])

    def with_noise(self, bars: pd.DataFrame, known: int, random: np.random.Generator) -> pd.Series:
        """The column beside `bars`, had all values been others that were not public when the first `known` bars had closed."""
        public = pd.DatetimeIndex(self.values.index) + self.series.lag <= close_times(bars.iloc[:known])[-1]
        values = self.values.astype(float)
        values[~public] = noisy_values(values[~public].to_numpy(), bool(random.integers(2)), random)
        return join_asof(bars, values, self.series.lag, self.series.max_age)


def joins_of(
    candles: pd.DataFrame, context: pd.DataFrame, spec: FeatureSpec, everything: bool
) -> tuple[dict[str, Join], dict[str, str]]:
    """The stored series behind the columns of `context` that `spec` reads, by name; and why there is none, for the others.

    `everything`: behind all its columns. One without a single value has nothing to tell.
    """
    readers: dict[str, list[str]] = {str(name): [] for name in context.columns} if everything else {}
    for one in spec.features:
        for name in one.inputs:
            if name in context.columns:
                readers.setdefault(name, []).append(one.name)
    joins, reasons = {}, {}
    for name, by in readers.items():
        if context[name].isna().all():
            continue
        found = _join(candles, context, name)
        if isinstance(found, Join):
            joins[name] = found
        else:
            reasons[name] = f"{found}; read by {', '.join(by)}" if by else found
    return joins, reasons


def _join(candles: pd.DataFrame, context: pd.DataFrame, name: str) -> Join | str:
    series = SERIES.get(name)
    if series is None:
        return "it is no series that btclab knows, so when its values were public cannot be told"
    source = context.attrs.get("series", {}).get(name, {}).get("source")
    if not source and not candles.attrs.get("simulated"):
        source = stored_source(series)
    values = read_values(source, name) if source else None
    if values is None:
        return "none of its values are stored, to be joined anew"
    return Join(series, values, join_asof(candles, values, series.lag, series.max_age))
