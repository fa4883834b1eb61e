"""Candles of any exchange that ccxt knows, page by page."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import pandas as pd
from tqdm import tqdm

from btclab.errors import CandleError, DataUnavailable, NotListed, unknown
from btclab.market.candles import COLUMNS, closed_bars, timeframe_delta, validate_candles
from btclab.settings import settings


class ExchangeSource:
    """One exchange through ccxt. Raises `InputError` if ccxt does not know `name`."""

    def __init__(self, name: str) -> None:
        import ccxt

        if name not in ccxt.exchanges:
            raise unknown(
                "source",
                name,
                ccxt.exchanges,
                "Name an exchange of ccxt (binance, kraken, coinbase, …), file:PATH, simulated:SEED or store:EXCHANGE.",
            )
        self.name = name
        self._failures = (ccxt.BaseError,)
        timeout = int(settings().market.timeout_s * 1000)
        options = {"enableRateLimit": True, "enableLastJsonResponse": True, "timeout": timeout}
        self._client: Any = getattr(ccxt, name)(options)
        if name == "binance":  # three answers, of which two are about futures, would be asked for
            self._client.options["fetchMarkets"] = {"types": ["spot"]}
        base = settings().market.exchange_urls.get(name)
        if base:
            self._client.urls["api"] = _rebased(self._client.urls["api"], base)

    def fetch(self, symbol: str, timeframe: str, start: pd.Timestamp, end: pd.Timestamp) -> Iterator[pd.DataFrame]:
        """Closed bars from `start` up to but not including `end`, one frame a page, oldest first.

        The forming bar is left out by the clock. Raises `DataUnavailable` naming the exchange and its error.
        """
        step = timeframe_delta(timeframe)
        limit = self._page_size(symbol)
        since = start.ceil(step)
        bar = tqdm(
            desc=f"{self.name} {symbol} {timeframe}",
            total=max(0, (end - since) // step),
            unit="bar",
            delay=2,
            leave=False,
        )
        with bar:
            while since < end:
                page = self._page(symbol, timeframe, since, limit)
                page = page[page.index >= since]
                # Bars from `end` on tell that there are none before them: a span before the listing is one request.
                reached = page.index[-1] + step if len(page) else since + limit * step
                page = page[page.index < end]
                if len(page):
                    yield page
                bar.update((min(reached, end) - since) // step)
                since = reached

    def _page_size(self, symbol: str) -> int:
        """Bars that the exchange gives in one answer; asks it for its markets on the way."""
        self._ask(self._client.load_markets)
        if symbol not in self._client.markets:
            raise NotListed(f"{self.name}: does not list {symbol}. Name another market: --symbol BTC/USD.")
        return self._client.feature_value(symbol, "fetchOHLCV", "limit", 500) or 500

    def _ask(self, what: Callable[..., Any], *arguments: object) -> Any:
        """The answer of the exchange. A page of HTML (a login, a proxy) is none: ccxt would take it for no bars."""
        try:
            answer = what(*arguments)
        except self._failures as error:
            raise DataUnavailable(f"{self.name}: {_reason(error)}.") from error
        text = self._client.last_http_response
        if text is not None and self._client.last_json_response is None:
            raise DataUnavailable(f"{self.name}: did not answer in JSON but with {text[:80]!r}.")
        return answer

    def _page(self, symbol: str, timeframe: str, since: pd.Timestamp, limit: int) -> pd.DataFrame:
        rows = self._ask(self._client.fetch_ohlcv, symbol, timeframe, int(since.timestamp() * 1000), limit)
        frame = pd.DataFrame(rows, columns=["timestamp", *COLUMNS]).astype(float)
        frame.index = pd.DatetimeIndex(
            pd.to_datetime(frame.pop("timestamp").astype("int64"), unit="ms", utc=True), name="timestamp"
        )
        frame = frame[~frame.index.duplicated(keep="last")].sort_index()
        if frame.empty:
            return frame
        frame.attrs = {"timeframe": timeframe}
        try:
            return closed_bars(validate_candles(frame, timeframe), pd.Timestamp.now("UTC"))
        except CandleError as error:
            raise DataUnavailable(f"{self.name}: answered with wrong candles: {error}") from error


def _rebased(urls: Any, base: str) -> Any:
    """ccxt's (nested) addresses with scheme and host replaced by those of `base`."""
    if isinstance(urls, dict):
        return {key: _rebased(value, base) for key, value in urls.items()}
    own, new = urlsplit(urls), urlsplit(base)
    return urlunsplit((new.scheme, new.netloc, new.path.rstrip("/") + own.path, own.query, own.fragment))


def _reason(error: Exception) -> str:
    """Why it failed, in a line: the root cause where ccxt wraps one (no such host, refused, timed out)."""
    root: BaseException = error
    while root.__cause__ or root.__context__:
        root = root.__cause__ or root.__context__ or root
    text = " ".join(str(error if root is error else root).split())
    return f"{type(error).__name__}: {text[:160].rstrip('.')}"
