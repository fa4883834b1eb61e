"""`load_candles`: one way to get candles, wherever they come from."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import parse_qsl

import numpy as np
import pandas as pd

from btclab.errors import DataUnavailable, InputError, NotListed, TooFewBars
from btclab.market.candles import between, close_times, closed_bars, lapse, resample, timeframe_delta, timeframe_of, utc
from btclab.market.exchange import ExchangeSource
from btclab.market.importing import read_candle_file
from btclab.market.simulated import parse_simulated, simulate_candles
from btclab.market.store import read_candles, save_candles
from btclab.settings import settings

NEAR = 500  # holes this many bars apart or less are fetched together: most exchanges answer with a page this long


def load_candles(
    source: str | None = None,
    timeframe: str = "1h",
    start: object = None,
    end: object = None,
    symbol: str | None = None,
) -> pd.DataFrame:
    """Closed candles of `symbol`, from `start` up to but not including `end` (naive times are UTC).

    `source` is one of
        "binance", "kraken", …   an exchange that ccxt knows; what is fetched is stored, and only what is missing is fetched
        "store:binance"          what is stored of that exchange, without asking it
        "file:PATH"              a CSV or Parquet file (`?tz=Europe/Berlin` if its times are naive)
        "simulated:SEED"         a simulated market; `?edge=0.05` plants a known predictability
        None                     the exchanges of the settings in turn, then what is stored of them, marked stale
    Without `start` an exchange gives all that is stored of it, and at least the last `market.years` of the settings;
    what it no longer has is simply not there. `candles.attrs` says what came from where.

    Raises `DataUnavailable` naming each source and its error, and `InputError` for a wrong name, time, symbol or file.
    """
    timeframe_delta(timeframe)
    symbol = symbol or settings().market.symbol
    if source is None:
        candles = _first_available(timeframe, start, end, symbol)
    else:
        kind, _, rest = source.partition(":")
        if kind == "file":
            candles = _from_file(rest, timeframe, symbol)
        elif kind == "simulated":
            seed, edge = parse_simulated(rest)
            candles = simulate_candles(seed, edge, timeframe, end=end)
        elif kind == "store":
            candles = _from_store(rest, timeframe, symbol)
        else:
            candles = fetch_candles(source, timeframe, start, end, symbol)
    chosen = between(candles, start, end)
    if chosen.empty:
        raise TooFewBars(
            f"{candles.attrs['source']} has no bars from {start or 'its beginning'} to {end or 'now'}; "
            f"it holds {candles.index[0]} to {candles.index[-1]}."
        )
    return chosen


def fetch_candles(
    source: str, timeframe: str, start: object = None, end: object = None, symbol: str | None = None
) -> pd.DataFrame:
    """Candles of one exchange: the stored ones, and what is missing before and after them, which is stored in turn.

    Every page is stored as it arrives, so that an interrupted fetch loses nothing. Raises `DataUnavailable`.
    """
    symbol = symbol or settings().market.symbol
    exchange = ExchangeSource(source)
    now = pd.Timestamp.now("UTC")
    first = utc(start) if start is not None else now - pd.Timedelta(days=365 * settings().market.years)
    last = min(utc(end), now) if end is not None else now
    stored = read_candles(source, symbol, timeframe)
    step = timeframe_delta(timeframe)
    try:
        for lower, upper in _missing(stored, first.ceil(step), min(last.ceil(step), now.floor(step)), step):
            for page in exchange.fetch(symbol, timeframe, lower, upper):
                save_candles(page, source, symbol, timeframe)
    except DataUnavailable as error:
        held = "" if stored is None else f" What is stored up to {stored.index[-1]} can be had as store:{source}."
        raise type(error)(f"{error}{held}") from error
    candles = read_candles(source, symbol, timeframe)
    if candles is None:
        raise DataUnavailable(f"{source}: no bars of {symbol} {timeframe} between {first} and {last}.")
    return candles


def _missing(
    stored: pd.DataFrame | None, lower: pd.Timestamp, upper: pd.Timestamp, step: pd.Timedelta
) -> list[tuple[pd.Timestamp, pd.Timestamp]]:
    """Spans [from, to) of open times in [lower, upper) to ask for: before, after and between the stored bars.

    Holes are asked for again: an earlier fetch may have been interrupted, or have asked for another span.
    """
    if lower >= upper:
        return []
    held = pd.DatetimeIndex([]).tz_localize("UTC") if stored is None else pd.DatetimeIndex(stored.index)
    edges = held[(held >= lower) & (held < upper)].insert(0, lower - step)
    edges = edges.insert(len(edges), upper)
    spans: list[tuple[pd.Timestamp, pd.Timestamp]] = []
    for i in np.flatnonzero(np.diff(edges) > step).tolist():
        start = edges[i] + step
        if spans and start - spans[-1][1] <= NEAR * step:
            start = spans.pop()[0]
        spans.append((start, edges[i + 1]))
    return spans


def _from_file(text: str, timeframe: str, symbol: str) -> pd.DataFrame:
    name, _, query = text.partition("?")
    options = dict(parse_qsl(query, keep_blank_values=True))
    if set(options) - {"tz"}:
        raise InputError(f"Unknown option in file:{text}; only tz is known, e.g. file:{name}?tz=UTC.")
    candles = read_candle_file(Path(name).expanduser(), options.get("tz") or None)
    # A simulated market stays one when it is exported: by what Parquet kept of its attrs, or by its name.
    simulated = bool(candles.attrs.get("simulated")) or "simulated" in Path(name).name.lower()
    held = timeframe_of(candles)
    candles.attrs = {"source": f"file:{Path(name).name}", "symbol": symbol, "timeframe": held, "simulated": simulated}
    return resample(closed_bars(candles, pd.Timestamp.now("UTC")), timeframe)


def _from_store(name: str, timeframe: str, symbol: str) -> pd.DataFrame:
    candles = read_candles(name, symbol, timeframe)
    if candles is None:
        raise DataUnavailable(
            f"Nothing is stored of {name} {symbol} {timeframe}. Fetch it: btclab pipeline --source {name}"
        )
    return mark_if_stale(candles)


def mark_if_stale(candles: pd.DataFrame) -> pd.DataFrame:
    """`candles`, marked stale with their age if two or more bars have closed since the last of them.

    For whoever acts on the newest bar; research on an old file is research all the same. Simulated candles have no age.
    """
    if not candles.attrs.get("simulated") and _age(candles) >= 2 * timeframe_delta(timeframe_of(candles)):
        return _marked_stale(candles)
    return candles


def _age(candles: pd.DataFrame) -> pd.Timedelta:
    return pd.Timestamp.now("UTC") - close_times(candles)[-1]


def _marked_stale(candles: pd.DataFrame) -> pd.DataFrame:
    kind = "data of a file" if str(candles.attrs.get("source")).startswith("file:") else "stored data"
    candles.attrs = {**candles.attrs, "stale": f"{kind}, {lapse(_age(candles))} old"}
    return candles


def _first_available(timeframe: str, start: object, end: object, symbol: str) -> pd.DataFrame:
    errors: list[str] = []
    names, unlisted = settings().market.exchanges, 0
    for name in names:
        try:
            candles = fetch_candles(name, timeframe, start, end, symbol)
        except DataUnavailable as error:
            unlisted += isinstance(error, NotListed)
            errors.append(str(error))
            continue
        short = _too_short(candles, timeframe, start, end)
        if not short:
            candles.attrs["notes"] = [*errors]
            return candles
        errors.append(f"{name}: {short}")
    if unlisted == len(names):
        raise NotListed(
            f"No exchange of the settings lists {symbol}: {', '.join(names)}. Name another: --symbol BTC/USDT"
        )
    for name in names:
        stored = read_candles(name, symbol, timeframe, start, end)
        if stored is not None:
            stored = _marked_stale(stored)
            stored.attrs["notes"] = errors
            return stored
    raise DataUnavailable(
        "No source could be reached and nothing is stored.\n" + "\n".join(f"  · {error}" for error in errors)
    )


def _too_short(candles: pd.DataFrame, timeframe: str, start: object, end: object) -> str:
    """Why `candles` are less than half of what was asked for (some exchanges keep only the newest bars), or ''."""
    now = pd.Timestamp.now("UTC")
    first = utc(start) if start is not None else now - pd.Timedelta(days=365 * settings().market.years)
    last = min(utc(end), now) if end is not None else now
    asked = (last - first) // timeframe_delta(timeframe)
    held = len(between(candles, first, last))
    return f"has only {held:,} of the {asked:,} bars asked for" if held < asked / 2 else ""
