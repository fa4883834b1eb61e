"""CoinGecko: daily bars and market capitalisation of a coin, averaged over the exchanges it follows, through pycoingecko.

Its stamps are not ours. A row of `/coins/ID/ohlc` is dated when its bar *closes*; a daily row of `/market_chart` dated t is the
snapshot at 00:00 UTC of t, that is what was known at the close of the bar t−1. Both are turned into the bar's open.

Without a paid plan, bars shorter than four days reach back 30 days (bars of 4 h) and market capitalisation 365 days. A day
is made of its six bars of 4 h, or it is missing; nothing longer is split, nothing is made of closes alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from btclab.errors import CandleError, DataUnavailable, NotListed
from btclab.market.candles import COLUMNS, between, closed_bars, refuse_jumps, utc, validate_candles
from btclab.market.remote import get_json
from btclab.market.wire import rebased
from btclab.settings import settings

COINS = {
    **{"BTC": "bitcoin", "ETH": "ethereum", "LTC": "litecoin", "BCH": "bitcoin-cash", "XRP": "ripple"},
    **{"SOL": "solana", "ADA": "cardano", "DOGE": "dogecoin", "BNB": "binancecoin", "DOT": "polkadot"},
}
CURRENCIES = ("USD", "EUR", "GBP", "JPY", "CHF", "AUD", "CAD")
DAY, FOUR_HOURS = pd.Timedelta("1D"), pd.Timedelta("4h")
OLDEST_MS = 1.2e12  # 2008: a smaller time is in another unit
FREE_OHLC, FREE_CHART = 30, 365  # days that the free plan reaches back
PAGE = 180 * DAY  # of a paid plan's daily bars
FIRST = pd.Timestamp("2018-02-09", tz="UTC")  # a paid plan's oldest
UPGRADE = (
    "a paid plan reaches further: set market.exchange_urls to { coingecko = 'https://pro-api.coingecko.com' } and "
    "BTCLAB_MARKET__COINGECKO_API_KEY to its key"
)


@dataclass(frozen=True)
class _Reply:
    """What pycoingecko reads of an answer."""

    content: bytes

    def raise_for_status(self) -> None:
        """Nothing: an answer that is an error was raised before."""


class _Wire:
    """What pycoingecko sends its requests through: our retries, time limit and cache instead of those of requests.

    requests bounds no answer that trickles, and its retry waits as long as a server asks for.
    """

    def __init__(self, secret: dict[str, str] | None) -> None:
        self._secret = secret
        self.stale = ""  # why the last answer is an old one
        self.fetched = pd.Timestamp.max.tz_localize("UTC")  # when the oldest answer of a page was: what had closed then

    def get(self, url: str, params: dict[str, Any], timeout: float) -> _Reply:
        """The answer to one GET; `timeout` is that of the settings, which `get_json` keeps."""
        check = _wrong_chart if "/ohlc" not in url else _wrong_days if url.endswith("/range") else _wrong_rows
        plain = {key: str(value) for key, value in params.items()}
        answer = get_json("coingecko", url, plain, kind="daily", secret=self._secret, check=check)
        self.stale = answer.stale or self.stale
        self.fetched = min(self.fetched, answer.fetched)
        return _Reply(json.dumps(answer.content).encode())


class CoinGeckoSource:
    """Daily bars of CoinGecko, with the same `fetch` as an exchange. `notes` says what could not be had, and why."""

    name = "coingecko"

    def __init__(self) -> None:
        from pycoingecko import CoinGeckoAPI

        self.notes: list[str] = []
        self._client: Any = CoinGeckoAPI(retries=0)
        base = settings().market.exchange_urls.get(self.name, "").rstrip("/").removesuffix("/api/v3")
        if base:
            self._client.api_base_url = rebased(self._client.api_base_url, base)
        self._paid = "pro-api" in base
        key = settings().market.coingecko_api_key
        name = "x_cg_pro_api_key" if self._paid else "x_cg_demo_api_key"
        self._wire = _Wire({name: key.get_secret_value()} if key else None)
        self._client.session = self._wire
        self._client.request_timeout = settings().market.timeout_s

    def fetch(
        self, symbol: str, timeframe: str, start: pd.Timestamp, end: pd.Timestamp, *, backward: bool = False
    ) -> Iterator[pd.DataFrame]:
        """Closed daily bars from `start` up to but not including `end`, a frame a page; newest first if `backward`.

        Raises `NotListed` for another timeframe or a market CoinGecko has not, `DataUnavailable` naming the cause: also
        where the whole span is older than the plan reaches. A span that is partly older gives its newer part, see `notes`.
        """
        coin, currency = _names(symbol)
        if timeframe != "1d":
            raise NotListed(f"coingecko: has no bars of {timeframe} with a volume, only of 1d. Use --timeframe 1d.")
        first, last = start.ceil("1D"), end.ceil("1D")
        reach = FIRST if self._paid else pd.Timestamp.now("UTC").floor("1D") - FREE_OHLC * DAY
        if first < last <= reach:
            raise DataUnavailable(f"coingecko: {self._short_of(first, reach)}")
        if first < min(last, reach):
            self.notes.append(self._short_of(first, reach))
        pages = list(_pages(max(first, reach), last)) if self._paid else [(max(first, reach), last)]
        self._wire.stale = ""
        progress = tqdm(desc=f"{self.name} {symbol} {timeframe}", total=len(pages), unit="page", delay=2, leave=False)
        with progress:
            for lower, upper in reversed(pages) if backward else pages:
                page = between(self._page(coin, currency, lower, upper), lower, upper)
                progress.update()
                if len(page):
                    page.attrs = {"timeframe": "1d", "notes": [volume_note(currency), *self.notes]}
                    yield page
        if self._wire.stale:  # what was kept is given, and that nothing newer could be had is said
            raise DataUnavailable(f"coingecko: only a kept answer could be had, {self._wire.stale}")

    def market_cap(self, start: object = None, end: object = None, symbol: str = "BTC/USD") -> pd.Series:
        """Market capitalisation in the quote currency of `symbol` by bar open (UTC): the value at t is known at t's close.

        Raises `DataUnavailable` where there is none in the span; `attrs["notes"]` says what is older than the plan reaches.
        """
        coin, currency = _names(symbol)
        days = "max" if self._paid else str(FREE_CHART)
        self._wire.stale = ""
        chart = self._client.get_coin_market_chart_by_id(coin, currency, days, interval="daily")
        caps = _snapshots(chart["market_caps"]).rename("market_cap")
        if caps.empty:
            raise DataUnavailable(f"coingecko: answered without a daily market capitalisation of {symbol}.")
        short = self._short_of(None, caps.index[0])
        chosen = between(caps.to_frame(), start, end)["market_cap"]
        if chosen.empty:
            raise DataUnavailable(f"coingecko: has no market capitalisation from {start} to {end or 'now'}; {short}")
        notes = [short] if start is not None and utc(start) < caps.index[0] else []
        chosen.attrs = {"unit": currency, "source": self.name, "notes": notes, "stale": self._wire.stale}
        return chosen

    def _short_of(self, first: pd.Timestamp | None, reach: pd.Timestamp) -> str:
        span = "" if first is None else f"days from {first:%Y-%m-%d} are not to be had; "
        if self._paid:
            return f"{span}its bars begin on {reach:%Y-%m-%d}. Ask from there, or an exchange."
        return f"{span}the free plan reaches back to {reach:%Y-%m-%d}. Ask from there, or an exchange; {UPGRADE}."

    def _page(self, coin: str, currency: str, lower: pd.Timestamp, upper: pd.Timestamp) -> pd.DataFrame:
        """The daily bars of one page with their volume; days without one of the two are left out."""
        vs = currency.lower()
        self._wire.fetched = pd.Timestamp.now("UTC")
        if self._paid:
            span = (str(int(lower.timestamp())), str(int(upper.timestamp())))
            rows = self._client.get_coin_ohlc_by_id_range(coin, vs, *span, "daily")
            prices = _whole_bars(rows, DAY)
            later = (span[0], str(int((upper + FOUR_HOURS).timestamp())))
            chart = self._client.get_coin_market_chart_range_by_id(coin, vs, *later, interval="daily")
        else:
            rows = self._client.get_coin_ohlc_by_id(coin, vs, str(FREE_OHLC))
            prices = _whole_days(_whole_bars(rows, FOUR_HOURS))
            chart = self._client.get_coin_market_chart_by_id(coin, vs, str(FREE_OHLC + 1), interval="daily")
        traded = _snapshots(chart["total_volumes"])
        bars = prices.assign(volume=(traded.reindex(prices.index) / prices["close"])).dropna()[COLUMNS]
        bars.attrs = {"timeframe": "1d"}
        return closed_bars(bars, self._wire.fetched)


def _names(symbol: str) -> tuple[str, str]:
    """CoinGecko's id of the coin, and the currency."""
    base, _, quote = symbol.upper().partition("/")
    if base not in COINS or quote not in CURRENCIES:
        raise NotListed(
            f"coingecko: does not list {symbol}. It prices {', '.join(COINS)} in {', '.join(CURRENCIES)}: --symbol BTC/USD."
        )
    return COINS[base], quote


def _pages(first: pd.Timestamp, last: pd.Timestamp) -> Iterator[tuple[pd.Timestamp, pd.Timestamp]]:
    while first < last:
        yield first, min(first + PAGE, last)
        first += PAGE


def volume_note(currency: str) -> str:
    return (
        f"CoinGecko averages over exchanges; volume is its 24-hour volume in {currency} at the bar's close ÷ the close, "
        "over all exchanges it follows"
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and bool(np.isfinite(value))


def _wrong_rows(content: Any, step: pd.Timedelta = FOUR_HOURS) -> str:
    """Why `content` is no list of [time, open, high, low, close] of bars that can have traded, or ''."""
    if not isinstance(content, list):
        return f"did not answer with a list of bars but with {json.dumps(content)[:80]}"
    for row in content:
        if not isinstance(row, list) or len(row) != 5 or not all(map(_is_number, row)):
            return f"answered with a row that is no bar: {json.dumps(row)[:80]}"
        if row[0] < OLDEST_MS:
            return f"answered with a time that is not in milliseconds: {row[0]}"
    return _wrong_bars(_bars(content, step), step) if content else "answered without any bar"


def _wrong_bars(bars: pd.DataFrame, step: pd.Timedelta) -> str:
    """Why `bars` cannot have traded, or ''. The newest may be dated now, in the middle of its bar."""
    opens = pd.DatetimeIndex(bars.index)
    off = np.flatnonzero(opens.floor(step) != opens)
    if len(off) and off[0] < len(bars) - 1:
        return f"answered with a bar that closes at {opens[off[0]] + step}, which is no multiple of {step}"
    try:
        refuse_jumps(validate_candles(bars.assign(volume=0.0)))
    except CandleError as error:
        return f"answered with wrong candles: {error}"
    return ""


def _wrong_days(content: Any) -> str:
    return _wrong_rows(content, DAY)


def _wrong_chart(content: Any) -> str:
    """Why `content` has no lists of [time, value] for market capitalisation and volume, or ''. A value may be null."""
    for name in ("market_caps", "total_volumes"):
        rows = content.get(name) if isinstance(content, dict) else None
        if not isinstance(rows, list) or not rows:
            return f"did not answer with {name} but with {json.dumps(content)[:80]}"
        for row in rows:
            whole = isinstance(row, list) and len(row) == 2 and _is_number(row[0])
            if not whole or row[0] < OLDEST_MS or not (row[1] is None or _is_number(row[1])):
                return f"answered with a row of {name} that is no [milliseconds, value]: {json.dumps(row)[:80]}"
    return ""


def _bars(rows: list[list[float]], step: pd.Timedelta) -> pd.DataFrame:
    """Prices by bar open, oldest first; the rows are dated by their close."""
    frame = pd.DataFrame(rows, columns=["timestamp", *COLUMNS[:4]]).astype(float)
    closes = pd.DatetimeIndex(pd.to_datetime(frame.pop("timestamp").astype("int64"), unit="ms", utc=True))
    frame.index = pd.DatetimeIndex(closes - step, name="timestamp")
    return frame[~frame.index.duplicated(keep="last")].sort_index()


def _whole_bars(rows: list[list[float]], step: pd.Timedelta) -> pd.DataFrame:
    """Bars without the newest where it is dated now, in the middle of its bar."""
    bars = _bars(rows, step)
    opens = pd.DatetimeIndex(bars.index)
    return bars[opens.floor(step) == opens]


def _whole_days(bars: pd.DataFrame) -> pd.DataFrame:
    """Days of which all six bars of 4 h are there."""
    days = bars.resample("1D")
    how = {"open": "first", "high": "max", "low": "min", "close": "last"}
    return days.agg(how)[days["close"].count() == DAY // FOUR_HOURS]


def _snapshots(rows: list[list[Any]]) -> pd.Series:
    """Daily values by bar open: what is dated 00:00 of t was so at the close of t−1. Other rows (the newest is now) are none."""
    table = pd.DataFrame(rows, columns=["timestamp", "value"])
    stamps = pd.DatetimeIndex(pd.to_datetime(table["timestamp"].astype("int64"), unit="ms", utc=True))
    values = pd.Series(table["value"].astype(float).to_numpy(), index=stamps - DAY).rename_axis("timestamp")
    values = values[stamps.floor("1D") == stamps].dropna()
    return values[~values.index.duplicated(keep="last")].sort_index()
