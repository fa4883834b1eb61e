"""The sources that answer a GET with JSON. Each asks for `since` on, as its API can, through the cache."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pandas as pd

from btclab.context.readings import values_by_stamp
from btclab.context.series import ContextSource, Readings, Series, secret_of
from btclab.errors import DataUnavailable, unknown
from btclab.market.cache import Answer
from btclab.market.remote import get_json
from btclab.settings import settings

Columns = tuple[list[Any], list[Any]]  # stamps and values
MOST_PAGES = 50
FEW_DAYS = 1000  # of more all is asked for
PAGE = "10000"  # CoinMetrics' largest; 27 years of days


def fear_greed(series: Series, code: str, since: pd.Timestamp) -> Readings:
    """alternative.me: newest first, stamps as text in seconds; `limit` counts days back from today, 0 is all."""

    def columns(content: Any) -> Columns:
        if content.get("metadata", {}).get("error"):
            raise ValueError(f"it says {content['metadata']['error']!r}")
        return [row["timestamp"] for row in content["data"]], [row["value"] for row in content["data"]]

    days = _days_back(since)
    limit = "0" if days > FEW_DAYS else str(days)
    return _asked(series, "alternative.me", "https://api.alternative.me/fng/", {"limit": limit}, columns, "s")


def blockchain_info(series: Series, code: str, since: pd.Timestamp) -> Readings:
    """blockchain.info charts. The source does not say which end of its day a row is stamped with; it is the start.

    The daily changes of its transactions and hash rate go with CoinMetrics' of the same date (correlation 0.99 and 1.00
    over 1,826 days) and not with those of the day before or after.
    """

    def columns(content: Any) -> Columns:
        if content["status"] != "ok":
            raise ValueError(f"its status is {content['status']!r}")
        return [row["x"] for row in content["values"]], [row["y"] for row in content["values"]]

    days = _days_back(since)
    timespan = "all" if days > FEW_DAYS else f"{days}days"
    parameters = {"timespan": timespan, "format": "json", "sampled": "false"}
    return _asked(series, "blockchain.info", f"https://api.blockchain.info/charts/{code}", parameters, columns, "s")


def mempool_space(series: Series, code: str, since: pd.Timestamp) -> Readings:
    """mempool.space: every change of the difficulty, newest first, as [time, height, difficulty, ratio to the last]."""

    def columns(content: Any) -> Columns:
        return [row[0] for row in content], [row[2] for row in content]

    return _asked(series, "mempool.space", f"https://mempool.space/api/v1/mining/{code}", {}, columns, "s")


def coingecko(series: Series, code: str, since: pd.Timestamp) -> Readings:
    """CoinGecko: snapshots at 00:00 UTC, and as the last row what is now, which is none of them."""

    def columns(content: Any) -> Columns:
        rows = [row for row in content[code] if row[0] % 86_400_000 == 0]
        if content[code] and not rows:
            raise ValueError(f"none of its {len(content[code])} rows is stamped, in ms, with 00:00 UTC")
        return [row[0] for row in rows], [row[1] for row in rows]

    days = min(_days_back(since), 365)  # all that is free
    parameters = {"vs_currency": "usd", "days": str(days), "interval": "daily"}
    key = settings().market.coingecko_api_key
    secret = {"x_cg_demo_api_key": key.get_secret_value()} if key else None
    url = "https://api.coingecko.com/api/v3/coins/bitcoin/market_chart"
    return _asked(series, "coingecko", url, parameters, columns, "ms", secret)


def fred(series: Series, code: str, since: pd.Timestamp) -> Readings:
    """FRED: one row a weekday, with "." for a holiday."""

    def columns(content: Any) -> Columns:
        rows = content["observations"]
        if content.get("count", len(rows)) > len(rows):
            raise ValueError(f"{len(rows)} of its {content['count']} observations came")
        return [row["date"] for row in rows], [None if row["value"] == "." else row["value"] for row in rows]

    parameters = {"series_id": code, "file_type": "json", "observation_start": f"{since:%Y-%m-%d}", "limit": "100000"}
    url = "https://api.stlouisfed.org/fred/series/observations"
    return _asked(series, "fred", url, parameters, columns, "", {"api_key": secret_of(series)})


def coinmetrics(series: Series, code: str, since: pd.Timestamp) -> Readings:
    """CoinMetrics' community API, page by page: by token, for its links name its own host and not a mirror."""

    def columns(content: Any) -> Columns:
        if any(row["asset"] != "btc" for row in content["data"]):
            raise ValueError("it is about another asset than btc")
        return [row["time"] for row in content["data"]], [row[code] for row in content["data"]]

    parameters = {"assets": "btc", "metrics": code, "frequency": "1d", "page_size": PAGE}
    parameters |= {"start_time": f"{since:%Y-%m-%d}", "paging_from": "start"}
    url = "https://community-api.coinmetrics.io/v4/timeseries/asset-metrics"
    stamps: list[Any] = []
    values: list[Any] = []
    tokens = [""]
    while True:
        page = parameters | ({"next_page_token": tokens[-1]} if tokens[-1] else {})
        answer = _answer(series, "coinmetrics", url, page, columns, "")
        more = columns(answer.content)
        stamps, values = stamps + more[0], values + more[1]
        token = answer.content.get("next_page_token")
        if not token:
            break
        if token in tokens or len(tokens) > MOST_PAGES:
            raise DataUnavailable(
                f"coinmetrics: its pages do not end; it named page {token!r} after {len(tokens)} pages."
            )
        tokens.append(token)
    try:
        return Readings(values_by_stamp(series, stamps, values), answer.fetched, answer.stale)
    except ValueError as error:
        raise DataUnavailable(f"coinmetrics: answered wrong about {series.name}: {error}.") from error


def _days_back(since: pd.Timestamp) -> int:
    return (pd.Timestamp.now("UTC") - since).days + 2


def _asked(
    series: Series,
    source: str,
    url: str,
    parameters: dict[str, str],
    columns: Callable[[Any], Columns],
    unit: str,
    secret: dict[str, str] | None = None,
) -> Readings:
    answer = _answer(series, source, url, parameters, columns, unit, secret)
    return Readings(values_by_stamp(series, *columns(answer.content), unit), answer.fetched, answer.stale)


def _answer(
    series: Series,
    source: str,
    url: str,
    parameters: dict[str, str],
    columns: Callable[[Any], Columns],
    unit: str,
    secret: dict[str, str] | None = None,
) -> Answer:
    def wrong(content: Any) -> str:
        try:
            values_by_stamp(series, *columns(content), unit)
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            return f"answered about {series.name} in another shape than expected ({type(error).__name__}: {error})"
        except ValueError as error:
            return f"answered wrong about {series.name}: {error}"
        return ""

    return get_json(source, url, parameters, kind="daily", secret=secret, base=base_address(source), check=wrong)


def base_address(source: str) -> str | None:
    """Where `source` is asked if not at home: `context.urls` of the settings, by name with or without its dots."""
    given = {_plain(name): base for name, base in settings().context.urls.items()}
    for name in settings().context.urls:
        if _plain(name) not in map(_plain, HTTP_SOURCES):
            raise unknown("source in context.urls", name, HTTP_SOURCES, "Exchanges are named in market.exchange_urls.")
    return given.get(_plain(source))


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


HTTP_SOURCES: dict[str, ContextSource] = {
    "alternative.me": fear_greed,
    "blockchain.info": blockchain_info,
    "mempool.space": mempool_space,
    "coingecko": coingecko,
    "fred": fred,
    "coinmetrics": coinmetrics,
}
