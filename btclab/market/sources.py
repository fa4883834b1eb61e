"""`load_candles`: one way to get candles, wherever they come from."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import pandas as pd

from btclab.errors import DataUnavailable, NotListed, TooFewBars, unknown
from btclab.market.candles import between, close_times, closed_bars, lapse, resample, timeframe_delta, timeframe_of
from btclab.market.fetch import update_candles
from btclab.market.importing import read_candle_file
from btclab.market.simulated import parse_simulated, simulate_candles
from btclab.market.store import read_candles, resampled_from_store
from btclab.settings import settings

RECORDED = ("simulated", "file", "store")  # kinds of sources whose bars are there already

# What may follow file:PATH? and how `importing.Options` calls it.
FILE_OPTIONS = {
    "tz": "zone",
    **{name: name for name in ("unit", "dayfirst", "decimal", "volume_unit", "stamp", "sheet", "keep")},
}


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
        "coingecko"              the aggregator's daily bars, fetched and stored likewise
        "store:binance"          what is stored under that name, without asking anybody; a longer timeframe is made of it
        "file:PATH"              a CSV, XLSX, Parquet or JSON file; `?tz=Europe/Berlin` if its times are naive; also
                                 `&stamp=close`, `&volume_unit=quote` … (see `importing.Options`)
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
            candles = _from_store(rest, timeframe, symbol, start, end)
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
    """Candles of one exchange or CoinGecko: what is missing is fetched and stored, then the span is read from the store.

    Without `start`, all that is stored of it. Raises `DataUnavailable`.
    """
    symbol = symbol or settings().market.symbol
    update_candles(source, timeframe, start, end, symbol)
    candles = read_candles(source, symbol, timeframe, start, end)
    if candles is None:
        raise DataUnavailable(f"{source}: no bars of {symbol} {timeframe} from {start} to {end or 'now'}.")
    return _remarked(candles)


def _remarked(candles: pd.DataFrame) -> pd.DataFrame:
    """What the store does not keep: how CoinGecko's volume was made."""
    if candles.attrs["source"] == "coingecko":
        from btclab.market.coingecko import volume_note

        note = volume_note(candles.attrs["symbol"].partition("/")[2])
        candles.attrs = {**candles.attrs, "remarks": [*candles.attrs.get("remarks", []), note]}
    return candles


def _from_file(text: str, timeframe: str, symbol: str) -> pd.DataFrame:
    name, _, query = text.partition("?")
    options = dict(parse_qsl(query, keep_blank_values=True))
    for option in options:
        if option not in FILE_OPTIONS:
            raise unknown(
                f"option of file:{name}", option, FILE_OPTIONS, f"Written e.g. file:{name}?tz=UTC&stamp=close."
            )
    given: dict[str, Any] = {FILE_OPTIONS[option]: value for option, value in options.items() if value}
    if "dayfirst" in given:
        if given["dayfirst"] not in ("true", "false"):
            raise unknown("value of dayfirst", given["dayfirst"], ("true", "false"))
        given["dayfirst"] = given["dayfirst"] == "true"
    candles = read_candle_file(Path(name).expanduser(), symbol=symbol, **given)
    # A simulated market stays one when it is exported: by what Parquet kept of its attrs, or by its name.
    simulated = bool(candles.attrs.get("simulated")) or "simulated" in Path(name).name.lower()
    held = timeframe_of(candles)
    candles.attrs = {"source": f"file:{Path(name).name}", "symbol": symbol, "timeframe": held, "simulated": simulated}
    return resample(closed_bars(candles, pd.Timestamp.now("UTC")), timeframe)


def _from_store(name: str, timeframe: str, symbol: str, start: object = None, end: object = None) -> pd.DataFrame:
    candles = read_candles(name, symbol, timeframe, start, end)
    if candles is None:
        candles = read_candles(name, symbol, timeframe)  # to say below what is held
    if candles is None:
        candles = resampled_from_store(name, symbol, timeframe)
    if candles is None:
        raise DataUnavailable(
            f"Nothing is stored of {name} {symbol} {timeframe}. Fetch it: btclab fetch --source {name}"
            f" --symbol {symbol} --timeframe {timeframe}"
        )
    return mark_if_stale(_remarked(candles))


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
            fetched = update_candles(name, timeframe, start, end, symbol)
        except DataUnavailable as error:
            unlisted += isinstance(error, NotListed)
            errors.append(str(error))
            continue
        candles = None if fetched.short else read_candles(name, symbol, timeframe, start, end)
        if candles is not None:
            candles.attrs["notes"] = [*errors]
            return candles
        errors.append(f"{name}: {fetched.short}")
    if unlisted == len(names):
        raise NotListed(
            f"No exchange of the settings lists {symbol} in bars of {timeframe}: {', '.join(names)}. "
            "Name others: --symbol BTC/USDT --timeframe 1h"
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
