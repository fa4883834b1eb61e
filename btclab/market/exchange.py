"""Candles of any exchange that ccxt knows, page by page."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import pandas as pd
from tqdm import tqdm

from btclab.errors import CandleError, DataUnavailable, unknown
from btclab.market.candles import COLUMNS, closed_bars, timeframe_delta, validate_candles
from btclab.settings import settings


class ExchangeSource:
    """One exchange through ccxt. Raises `InputError` if ccxt does not know `name`."""

    def __init__(self, name: str) -> None:
        import ccxt

        if name not in ccxt.exchanges:
            raise unknown("source", name, ccxt.exchanges, "Or file:PATH, simulated:SEED, store:EXCHANGE.")
        self.name = name
        self._failures = (ccxt.BaseError,)
        options = {"enableRateLimit": True, "timeout": int(settings().market.timeout_s * 1000)}
        self._client: Any = getattr(ccxt, name)(options)
        self._client.options["fetchMarkets"] = {"types": ["spot"]}
        base = settings().market.exchange_urls.get(name)
        if base:
            self._client.urls["api"] = _rebased(self._client.urls["api"], base)

    def fetch(self, symbol: str, timeframe: str, start: pd.Timestamp, end: pd.Timestamp) -> Iterator[pd.DataFrame]:
        """Closed bars from `start` up to but not including `end`, one frame a page, oldest first.

        The forming bar is left out by the clock. Raises `DataUnavailable` naming the exchange and its error.
        """
        step = timeframe_delta(timeframe)
        limit = self._client.feature_value(symbol, "fetchOHLCV", "limit", 500) or 500
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
                page = page[(page.index >= since) & (page.index < end)]
                if len(page):
                    yield page
                reached = page.index[-1] + step if len(page) else since + limit * step
                bar.update((min(reached, end) - since) // step)
                since = reached

    def _page(self, symbol: str, timeframe: str, since: pd.Timestamp, limit: int) -> pd.DataFrame:
        try:
            rows = self._client.fetch_ohlcv(symbol, timeframe, int(since.timestamp() * 1000), limit)
        except self._failures as error:
            raise DataUnavailable(f"{self.name}: {type(error).__name__}: {_short(error)}") from error
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


def _short(error: Exception) -> str:
    """First line of an error, without the long addresses that ccxt appends."""
    return " ".join(str(error).split())[:160]
