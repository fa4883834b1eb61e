"""Series beside candles: each bar gets the newest value that was public when it closed."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd

from btclab.context.series import Series, chosen, key_missing, span_text
from btclab.context.store import read_values, stored_source
from btclab.errors import InputError
from btclab.market.candles import close_times


def join_asof(candles: pd.DataFrame, values: pd.Series, lag: pd.Timedelta, max_age: pd.Timedelta) -> pd.Series:
    """For each bar the newest of `values` that was public at its close, i.e. whose stamp + `lag` ≤ close time.

    Missing where that value had been public for longer than `max_age`, or none was yet; it is never carried further, and
    nothing that comes later moves it. A missing value among `values` is none. Aligned with `candles.index`.
    Raises `InputError` for a negative lag (look-ahead) and for stamps that are not UTC, unique and in order.
    """
    if lag < pd.Timedelta(0) or max_age < pd.Timedelta(0):
        raise InputError(
            f"lag {lag} and max_age {max_age} must not be negative: a value would be used before it was public."
        )
    stamps = values.index
    if not isinstance(stamps, pd.DatetimeIndex) or str(stamps.tz) != "UTC":
        raise InputError('The stamps of a context series must be UTC times: values.tz_localize("UTC").')
    if not (stamps.is_monotonic_increasing and stamps.is_unique):
        raise InputError("The stamps of a context series must be unique and in order: values.sort_index().")
    known = values.dropna()
    public = (pd.DatetimeIndex(known.index) + lag).as_unit("ns").asi8
    closes = close_times(candles).as_unit("ns").asi8
    newest = np.searchsorted(public, closes, side="right") - 1
    joined = np.full(len(closes), np.nan)
    held = np.flatnonzero(newest >= 0)
    fresh = held[closes[held] - public[newest[held]] <= max_age.as_unit("ns").value]
    joined[fresh] = known.to_numpy(dtype=float)[newest[fresh]]
    return pd.Series(joined, index=candles.index, name=values.name)


def load_context(candles: pd.DataFrame, names: Iterable[str] | str | None = None) -> pd.DataFrame:
    """The stored context series `names` (default: all) beside `candles`: one float64 column each, aligned with its index.

    A row knows what was public at the close of its bar. What is missing is NaN: `attrs["missing"]` says by name what a
    whole column, or the newest bar, lacks and what to do; `attrs["series"]` says by name source, unit, lag, max_age and
    the newest stamp stored. Nothing is fetched: `fetch_context`. Raises `InputError` for an unknown name, and for simulated
    candles: the real world beside an invented market would look like a predictor and be noise.
    """
    if candles.attrs.get("simulated"):
        raise InputError(
            f"Candles of {candles.attrs.get('source', 'a simulated market')} are simulated: nothing in the world belongs to "
            'them. Leave the context out, or load real candles: btclab.load_candles("binance").'
        )
    columns, said, missing = {}, {}, {}
    for series in chosen(names):
        source = stored_source(series)
        values = read_values(source, series.name) if source else None
        if values is None:
            columns[series.name] = pd.Series(np.nan, index=candles.index)
            missing[series.name] = f"nothing is stored; {key_missing(series) or _fetch_it(series)}"
        else:
            joined = columns[series.name] = join_asof(candles, values, series.lag, series.max_age)
            if len(joined) and np.isnan(joined.iloc[-1]):
                missing[series.name] = (
                    f"stored from {values.index[0]:%Y-%m-%d} to {values.index[-1]:%Y-%m-%d %H:%M}; {_fetch_it(series)}"
                )
        said[series.name] = {
            "source": source,
            "unit": series.unit,
            "lag": span_text(series.lag),
            "max_age": span_text(series.max_age),
            "last": "" if values is None else values.index[-1].isoformat(),
        }
    frame = pd.DataFrame(columns, index=candles.index, dtype=float)
    frame.attrs = {"series": said, "missing": missing}
    return frame


def stored_context(candles: pd.DataFrame) -> pd.DataFrame | None:
    """`load_context` of all series for real candles; None for simulated ones, to which nothing in the world belongs."""
    return None if candles.attrs.get("simulated") else load_context(candles)


def _fetch_it(series: Series) -> str:
    return f"fetch it: btclab fetch --context {series.name}"
