"""The series that exchanges keep: funding rate, open interest, and the price of gold as a token. Through ccxt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from btclab.context.readings import values_by_stamp
from btclab.context.series import ContextSource, Readings, Series
from btclab.errors import DataUnavailable
from btclab.market.exchange import ExchangeSource

DAY = pd.Timedelta(days=1)
STEPS = {"funding_rate": pd.Timedelta(hours=8), "open_interest": DAY}
# ccxt asks for all kinds of markets where one is enough.
KINDS = {"binanceusdm": "linear", "bybit": "linear", "okx": "swap"}
_ODD = (AttributeError, KeyError, IndexError, TypeError, ValueError)  # ccxt, of an answer it did not expect


@dataclass(frozen=True)
class _Reach:
    """Rows in a page, and how far back a venue answers (None: to the beginning)."""

    page: int
    back: pd.Timedelta | None = None


REACH = {
    ("funding_rate", "binanceusdm"): _Reach(1000),
    ("funding_rate", "bybit"): _Reach(200),
    # It keeps three months, and of a longer span gives the newest page and not the first.
    ("funding_rate", "okx"): _Reach(100, 30 * DAY),
    ("open_interest", "bybit"): _Reach(200),
    ("open_interest", "binanceusdm"): _Reach(500, 29 * DAY),
    ("open_interest", "okx"): _Reach(100, 29 * DAY),
}


def derivatives(venue: str) -> ContextSource:
    """The `ContextSource` of one venue: funding rates and open interest of its perpetual `code`."""

    def ask(series: Series, code: str, since: pd.Timestamp) -> Readings:
        exchange = ExchangeSource(venue)
        client = exchange._client
        client.options["fetchMarkets"] = {**(client.options.get("fetchMarkets") or {}), "types": [KINDS[venue]]}
        reach, step, now = REACH[(series.name, venue)], STEPS[series.name], pd.Timestamp.now("UTC")
        if reach.back is not None:
            since = max(since, (now - reach.back).ceil("D"))
        rows: list[tuple[int, Any]] = []
        while since < now:
            start = int(since.timestamp() * 1000)
            try:
                if series.name == "funding_rate":
                    page = exchange._ask(client.fetch_funding_rate_history, code, start, reach.page)
                    found = [(row["timestamp"], row["fundingRate"]) for row in page]
                else:
                    page = exchange._ask(client.fetch_open_interest_history, code, "1d", start, reach.page)
                    found = [(row["timestamp"], _coins(venue, row)) for row in page]
                found = [row for row in found if row[0] >= start]
            except _ODD as error:
                raise DataUnavailable(
                    f"{venue}: answered about {series.name} in another shape than expected ({type(error).__name__}: {error})."
                ) from error
            rows += found
            # An empty page tells that there is nothing in its span, not that there is nothing after it.
            newest = max((stamp for stamp, _ in found), default=None)
            since = since + reach.page * step if newest is None else pd.Timestamp(newest + 1, unit="ms", tz="UTC")
        return _checked(series, venue, rows, now)

    return ask


def gold(venue: str) -> ContextSource:
    """The `ContextSource` of one venue: the close of the daily bars of the market `code`, stamped with their open."""

    def ask(series: Series, code: str, since: pd.Timestamp) -> Readings:
        now = pd.Timestamp.now("UTC")
        rows: list[tuple[int, Any]] = []
        for page in ExchangeSource(venue).fetch(code, "1d", since.ceil("D"), now):
            rows += zip(pd.DatetimeIndex(page.index).as_unit("ms").asi8.tolist(), page["close"], strict=True)
        return _checked(series, venue, rows, now)

    return ask


def _coins(venue: str, row: dict[str, Any]) -> Any:
    """Open interest in BTC; OKX counts contracts first."""
    return row["baseVolume"] if venue == "okx" else row["openInterestAmount"]


def _checked(series: Series, venue: str, rows: list[tuple[int, Any]], now: pd.Timestamp) -> Readings:
    try:
        if lacking := [stamp for stamp, value in rows if value is None]:  # ccxt's word for what is no number
            raise ValueError(f"the row of {pd.Timestamp(lacking[0], unit='ms', tz='UTC')} has no number")
        values = values_by_stamp(series, [stamp for stamp, _ in rows], [value for _, value in rows], "ms")
    except (ValueError, TypeError) as error:
        raise DataUnavailable(f"{venue}: answered wrong about {series.name}: {error}.") from error
    return Readings(values, now)


def source_of(series: Series, venue: str) -> ContextSource:
    """The `ContextSource` that asks `venue` for `series`."""
    return gold(venue) if series.name == "gold" else derivatives(venue)
