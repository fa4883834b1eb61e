"""The series btclab knows beside candles: what each is, where it comes from, and when its values were public.

A value is stamped with the *start* of the period it describes (a snapshot: with its moment). It may be used from
`stamp + lag` on and never before, in a backtest as in live trading: `lag` is how late the value can be *at the source that
btclab asks*, on its worst ordinary day, so that history and the live account know the same. No source keeps what it first
published: values are as revised since, which a lag cannot undo.

News and social series are left out: CryptoPanic, the one that was considered, gives recent posts but no history, so
that nothing could be tested on it, and repeats the key in the links of its answers. FRED has had no price of gold since
2022-01-31; NASDAQQGLDI, often named instead, is a covered-call strategy. Gold is therefore the token PAXG, named as such.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import pandas as pd
from pydantic import SecretStr

from btclab.errors import unknown
from btclab.settings import settings

GENESIS = pd.Timestamp("2009-01-01", tz="UTC")  # nothing before Bitcoin is asked for or believed
KEY_PAGES = {"fred_api_key": "free at https://fred.stlouisfed.org/docs/api/api_key.html"}


@dataclass(frozen=True)
class Series:
    """One series. `sources` maps each source, in the order asked, to its own name for it; the first that answers stays.

    `lag` from a stamp until the value was certainly public, `why` in words; `max_age` since then after which it is
    missing; values outside `low` to `high` cannot be. `key` is the setting in `context` that is needed, or ''.
    """

    name: str
    group: str
    unit: str
    sources: dict[str, str]
    lag: pd.Timedelta
    why: str
    max_age: pd.Timedelta
    begins: str
    history: str = ""
    every: str = "day"
    low: float = -np.inf
    high: float = np.inf
    key: str = ""
    overlap: pd.Timedelta = field(default=pd.Timedelta("14D"))  # asked for again each time: sources revise

    def __post_init__(self) -> None:
        if self.lag < pd.Timedelta(0):
            raise ValueError(f"{self.name}: a lag of {self.lag} would be look-ahead")


@dataclass(frozen=True)
class Readings:
    """What a source gave: `values` by stamp (UTC, in order), when it was `fetched`, and '' or why it is `stale`."""

    values: pd.Series
    fetched: pd.Timestamp
    stale: str = ""


class ContextSource(Protocol):
    """Asks one source, under its own name `code` for the series, for the values stamped `since` or later.

    Raises `DataUnavailable` naming the source and the cause; what is returned is checked.
    """

    def __call__(self, series: Series, code: str, since: pd.Timestamp) -> Readings: ...


def _days(number: float) -> pd.Timedelta:
    return pd.Timedelta(days=number)


_HOUR = pd.Timedelta(hours=1)
_ON_CHAIN = "the day is complete at its end; counting and checking it takes the source up to another day"
_NEXT_DAY = "on FRED the next business day; a Friday before a holiday Monday comes on Tuesday evening (New York), 4 days 22 h on"


def _on_chain(name: str, unit: str, sources: dict[str, str], begins: str = "2009-01-03", **more: float) -> Series:
    bounds = {"low": 0.0, **more}
    return Series(name, "on-chain", unit, sources, _days(2), _ON_CHAIN, _days(3), begins, **bounds)  # type: ignore[arg-type]


def _macro(
    name: str, unit: str, code: str, lag: pd.Timedelta, why: str, low: float, high: float, history: str = ""
) -> Series:
    # Weekday series: over a long weekend the newest value is 4 days older than the one before was.
    begins = f"{GENESIS:%Y-%m-%d}"
    return Series(
        name, "macro", unit, {"fred": code}, lag, why, _days(7), begins, history, "weekday", low, high, "fred_api_key"
    )


SERIES: dict[str, Series] = {
    one.name: one
    for one in (
        Series(
            "fear_greed",
            "sentiment",
            "index 0 (fear) to 100 (greed)",
            {"alternative.me": "fng"},
            _HOUR,
            "published at 00:00 UTC of the day it is stamped with, from earlier data; an hour for late updates",
            _days(2),
            "2018-02-01",
            low=0,
            high=100,
        ),
        _on_chain("active_addresses", "addresses a day", {"coinmetrics": "AdrActCnt"}),
        _on_chain("unique_addresses", "addresses a day", {"blockchain.info": "n-unique-addresses"}),
        _on_chain("transactions", "transactions a day", {"coinmetrics": "TxCnt", "blockchain.info": "n-transactions"}),
        _on_chain("hash_rate", "TH/s, mean of the day", {"coinmetrics": "HashRate", "blockchain.info": "hash-rate"}),
        _on_chain("transfer_volume", "USD a day", {"blockchain.info": "estimated-transaction-volume-usd"}),
        _on_chain("fees", "BTC a day", {"coinmetrics": "FeeTotNtv", "blockchain.info": "transaction-fees"}),
        _on_chain("miners_revenue", "USD a day", {"blockchain.info": "miners-revenue"}),
        _on_chain("mvrv", "market over realised value", {"coinmetrics": "CapMVRVCur"}, "2010-07-18", high=1000),
        _on_chain("exchange_inflow", "USD a day", {"coinmetrics": "FlowInExUSD"}, "2011-01-01"),
        _on_chain("exchange_outflow", "USD a day", {"coinmetrics": "FlowOutExUSD"}, "2011-01-01"),
        _on_chain(
            "market_cap",
            "USD at the end of the day",
            {"coinmetrics": "CapMrktCurUSD", "blockchain.info": "market-cap"},
            "2010-07-18",
        ),
        Series(
            "market_cap_midnight",
            "on-chain",
            "USD at 00:00 UTC",
            {"coingecko": "market_caps"},
            _HOUR,
            "a snapshot at 00:00 UTC of its stamp, given 35 minutes later",
            _days(2),
            "2013-04-28",
            "; only the last 365 days without a paid key",
            low=0,
        ),
        Series(
            "difficulty",
            "on-chain",
            "hashes, relative to the easiest target",
            {"mempool.space": "difficulty-adjustments"},
            3 * _HOUR,
            "stamped by the miner of the block that changes it, whose clock may be 2 hours slow; an hour to be indexed",
            _days(30),  # it holds until the next change, about two weeks later
            "2009-01-03",
            every="2016 blocks",
            low=0,
        ),
        Series(
            "funding_rate",
            "derivatives",
            "fraction per funding interval, BTC/USDT perpetual",
            {venue: "BTC/USDT:USDT" for venue in ("binanceusdm", "bybit", "okx")},
            pd.Timedelta(minutes=5),
            "stamped with the moment it is settled, and listed minutes later",
            _days(1),
            "2019-09-10",
            "; okx: the last 30 days",
            "8 hours",
            -0.1,  # exchanges cap it at a few percent: more is a percentage, not a fraction
            0.1,
        ),
        Series(
            "open_interest",
            "derivatives",
            "BTC, BTC/USDT perpetual",
            {venue: "BTC/USDT:USDT" for venue in ("bybit", "binanceusdm", "okx")},
            _days(1) + _HOUR,
            "exchanges do not say when in the day it was taken: at its end, then; an hour to be listed",
            _days(2),
            "2020-07-20",
            "; binanceusdm, okx: the last 29 days",
            low=0,
        ),
        Series(
            "gold",
            "macro",
            "USD or USDT per PAXG, a token for one troy ounce",
            {"binance": "PAXG/USDT", "kraken": "PAXG/USD"},
            _days(1) + pd.Timedelta(minutes=5),
            "the close of a daily bar that traded round the clock; the token strays about 1 % from the metal",
            _days(2),
            "2020-08-28",
            "; kraken: the last 720 days",
            low=1,
        ),
        _macro(
            "sp500",
            "index, close",
            "SP500",
            _days(1.5),
            "closes at 21:00 UTC at the latest; on FRED the same evening in New York, 02:00 UTC",
            1,
            1e6,
            "; FRED keeps the last 10 years",
        ),
        _macro("vix", "% a year, close", "VIXCLS", _days(5), _NEXT_DAY, 0, 500),
        _macro("yield_10y", "% a year", "DGS10", _days(5), _NEXT_DAY, -10, 50),
        _macro(
            "dollar_broad",
            "index, 2006-01 = 100",
            "DTWEXBGS",
            _days(9),
            "published on Monday evening (New York) for the week before, on Tuesday after a holiday: 8 days 22 h for a Monday",
            1,
            1000,
        ),
    )
}


def chosen(names: Iterable[str] | str | None) -> list[Series]:
    """The series called `names`, or all of them. Raises `InputError` for a name that is none."""
    if names is None:
        return list(SERIES.values())
    wanted = [names] if isinstance(names, str) else list(dict.fromkeys(names))
    for name in wanted:
        if name not in SERIES:
            raise unknown("context series", name, SERIES, "See them: btclab fetch --context list")
    return [SERIES[name] for name in wanted]


def key_variable(series: Series) -> str:
    """The environment variable of the key that `series` needs, or ''."""
    return f"BTCLAB_CONTEXT__{series.key.upper()}" if series.key else ""


def secret_of(series: Series) -> str:
    """The key that `series` needs; '' if it needs none or it is not set."""
    held: SecretStr | None = getattr(settings().context, series.key) if series.key else None
    return held.get_secret_value().strip() if held else ""


def key_missing(series: Series) -> str:
    """What is to be done before `series` can be asked for, or ''."""
    if not series.key or secret_of(series):
        return ""
    return f"needs {key_variable(series)} in .env: {KEY_PAGES[series.key]}"


def span_text(span: pd.Timedelta) -> str:
    """A lag as a person says it, e.g. '1 day 12 h'."""
    minutes = int(span.total_seconds() // 60)
    parts = ((minutes // 1440, "day"), (minutes // 60 % 24, "h"), (minutes % 60, "min"))
    return " ".join(f"{n} {unit}{'s' if unit == 'day' and n > 1 else ''}" for n, unit in parts if n) or "none"


def catalogue() -> pd.DataFrame:
    """All series, one a row by name: what `btclab fetch --context list` prints.

    Columns: group, source (in the order asked), unit, every, lag, why (that lag), max_age, history, key (the variable it
    needs, or ''), key_set (True where it is set or none is needed).
    """
    rows = {
        one.name: {
            "group": one.group,
            "source": ", ".join(one.sources),
            "unit": one.unit,
            "every": one.every,
            "lag": span_text(one.lag),
            "why": one.why,
            "max_age": span_text(one.max_age),
            "history": f"from {one.begins}{one.history}",
            "key": key_variable(one),
            "key_set": not key_missing(one),
        }
        for one in SERIES.values()
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("name")
