"""Candles of any exchange that ccxt knows, page by page."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
import requests
from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt, stop_before_delay
from tqdm import tqdm

from btclab.errors import CandleError, DataUnavailable, NotListed, unknown
from btclab.market.cache import Answer, cached
from btclab.market.candles import COLUMNS, closed_bars, refuse_jumps, timeframe_delta, validate_candles
from btclab.market.wire import TimedSession, rebased, root_cause, without_login
from btclab.settings import settings

TRIES = 3
PATIENCE = 3.0  # timeouts that all tries may take together, and that an exchange may ask to wait
BLANKS = 10  # pages without a bar that going backwards crosses
FIRST_BAR = pd.Timestamp("2009-01-03", tz="UTC")  # the first block: there was no market before
DAY = pd.Timedelta("1D")
_PASSING = {0, 200, 408, 425, 429}  # statuses of failures that may pass, besides those from 500 on; 0 is no answer
_ODD = (LookupError, TypeError, ValueError, AttributeError)  # what ccxt meets in an answer of another shape


class _Passing(DataUnavailable):
    """A failure that may pass; `wait` is what the exchange asked for in seconds, or None."""

    def __init__(self, message: str, wait: float | None = None) -> None:
        super().__init__(message)
        self.wait = wait


class ExchangeSource:
    """One exchange through ccxt. Raises `InputError` if ccxt does not know `name`."""

    def __init__(self, name: str) -> None:
        import ccxt

        if name not in ccxt.exchanges:
            raise unknown(
                "source",
                name,
                ccxt.exchanges,
                "Name an exchange of ccxt (binance, kraken, coinbase, …), "
                "coingecko, file:PATH, simulated:SEED or store:EXCHANGE.",
            )
        self.name = name
        self._failures, self._operation = (ccxt.BaseError,), (ccxt.OperationFailed,)
        self._session = TimedSession()
        timeout = int(settings().market.timeout_s * 1000)
        options = {
            "enableRateLimit": True,
            "enableLastJsonResponse": True,
            "timeout": timeout,
            "session": self._session,
        }
        client: Any = getattr(ccxt, name)(options)
        self._client = client
        # ccxt's own drops the bars before those asked for without a word: also all of them, where the unit is wrong.
        client.parse_ohlcvs = lambda rows, market=None, *_, **__: [
            client.parse_ohlcv(row, market) for row in rows or []
        ]
        if name == "binance":  # three answers, of which two are about futures, would be asked for
            client.options["fetchMarkets"] = {"types": ["spot"]}
        urls = settings().market.exchange_urls
        for other in urls:
            if other not in (*ccxt.exchanges, "coingecko"):
                raise unknown("exchange in market.exchange_urls", other, (*ccxt.exchanges, "coingecko"))
        self._base = urls.get(name, "")
        if self._base:
            client.urls["api"] = _rebased(client.urls["api"], self._base)
        self._markets: dict[str, Answer] = {}

    def fetch(
        self,
        symbol: str,
        timeframe: str,
        start: pd.Timestamp,
        end: pd.Timestamp,
        *,
        backward: bool = False,
        progress: bool = True,
    ) -> Iterator[pd.DataFrame]:
        """Closed bars from `start` up to but not including `end`, one frame a page, oldest page first.

        `backward`: newest page first, until the exchange has no older bars. The forming bar is left out by the clock.
        The first page is given once the second agrees with it in price. Raises `NotListed` for a market or timeframe that
        the exchange has not, `DataUnavailable` naming the exchange and its error; pages that came before the error have
        been given, unless it was a single one.
        """
        step, known = timeframe_delta(timeframe), self._client.timeframes
        if known and timeframe not in known:
            raise NotListed(f"{self.name}: has no bars of {timeframe}, only of {', '.join(known)}: --timeframe 1h")
        size = self._page_size(symbol)
        first, last = start.ceil(step), min(end.ceil(step), pd.Timestamp.now("UTC").floor(step))
        pages = self._backward if backward else self._forward
        bar = tqdm(
            desc=f"{self.name} {symbol} {timeframe}",
            total=max(0, (last - first) // step),
            unit="bar",
            delay=2,
            leave=False,
            disable=None if progress else True,
        )
        with bar:
            yield from self._agreeing(pages(symbol, timeframe, first, last, size, bar))

    def ticker(self, symbol: str) -> dict[str, Any]:
        """The price now: `last`, `bid`, `ask` (quote currency), `timestamp` (ms, or None), and `stale`: '' or its age."""

        def ask() -> dict[str, Any]:
            self._load_market(symbol)
            try:
                said = self._ask(self._client.fetch_ticker, symbol)
                told = {name: said[name] for name in ("last", "bid", "ask", "timestamp")}
                if not 0 < float(told["last"]) < float("inf"):
                    raise ValueError(f"last={told['last']}")
            except _ODD as error:
                raise self._odd(error) from error
            return told

        answer = cached(self.name, self._request(f"ticker {symbol}"), "ticker", ask)
        return {**answer.content, "stale": answer.stale}

    def listing(self, symbol: str) -> dict[str, Any]:
        """What the exchange's list says of one market, as ccxt has it: `precision`, `limits` and more.

        `precisionMode` is how its precisions are counted (a constant of ccxt), `stale` '' or how old the list is. Raises
        `NotListed`, and `DataUnavailable` if the exchange does not answer and no list of it is cached.
        """
        self._load_market(symbol)
        known = self._markets[symbol]
        return {**known.content, "precisionMode": self._client.precisionMode, "stale": known.stale}

    # Pages

    def _forward(
        self, symbol: str, timeframe: str, start: pd.Timestamp, end: pd.Timestamp, size: int, bar: tqdm[Any]
    ) -> Iterator[pd.DataFrame]:
        step, since = timeframe_delta(timeframe), start
        blank: pd.Timestamp | None = None
        while since < end:
            page = self._page(symbol, timeframe, since, size)
            if len(page) and blank is not None:  # was it a hole, or an answer that failed to come?
                again = self._page(symbol, timeframe, blank, size)
                if len(again) and again.index[0] < page.index[0]:
                    page = again
            blank = None if len(page) else blank or since
            # Bars from `end` on tell that there are none before them: a span before the listing is one request.
            reached = page.index[-1] + step if len(page) else since + size * step
            bar.update(max(0, (min(reached, end) - since) // step))
            if reached > end:
                page = page[page.index < end]
            if len(page):
                yield page
            since = reached

    def _backward(
        self, symbol: str, timeframe: str, start: pd.Timestamp, end: pd.Timestamp, size: int, bar: tqdm[Any]
    ) -> Iterator[pd.DataFrame]:
        step, upper, blanks = timeframe_delta(timeframe), end, 0
        while upper > start:
            lower = max(start, upper - size * step)
            pages = list(self._forward(symbol, timeframe, lower, upper, size, bar))
            yield from pages[::-1]
            blanks = 0 if pages else blanks
            if not pages and lower > start:
                oldest = self._page(symbol, timeframe, start, size)
                blanks += oldest.empty
                if blanks > BLANKS or (len(oldest) and oldest.index[0] >= upper):
                    return
            upper = lower

    def _agreeing(self, pages: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        """`pages`, each as soon as a neighbour shows that its prices are in the same unit: a whole page may be scaled."""
        held: pd.DataFrame | None = None
        neighbour: pd.DataFrame | None = None
        while True:
            page = next(pages, None)  # a first page that nothing has confirmed goes with a failure of the second
            if page is not None:
                self._refuse_jumps(page, neighbour)
            if held is not None:
                yield held
                held = None
            if page is None:
                return
            if neighbour is None:
                held = page
            else:
                yield page
            neighbour = page

    def _refuse_jumps(self, page: pd.DataFrame, neighbour: pd.DataFrame | None) -> None:
        try:
            refuse_jumps(page)
            if neighbour is not None:
                older, newer = (page, neighbour) if page.index[0] < neighbour.index[0] else (neighbour, page)
                if newer.index[0] - older.index[-1] <= DAY:
                    refuse_jumps(newer.iloc[:1], older["close"].iloc[-1])
        except CandleError as error:
            raise self._wrong(error) from error

    def _page(self, symbol: str, timeframe: str, since: pd.Timestamp, limit: int) -> pd.DataFrame:
        """The closed bars from `since` on that the exchange gives in one answer."""
        step, now = timeframe_delta(timeframe), pd.Timestamp.now("UTC")
        try:
            rows = self._ask(self._client.fetch_ohlcv, symbol, timeframe, int(since.timestamp() * 1000), limit)
            values = np.array(rows, dtype=np.float64).reshape(-1, len(COLUMNS) + 1)
        except _ODD as error:
            raise self._odd(error) from error
        self._refuse_times(values[:, 0], since, step, now)
        index = pd.DatetimeIndex(values[:, 0].astype("datetime64[ms]"), tz="UTC", name="timestamp")
        frame = pd.DataFrame(values[:, 1:], index=index, columns=COLUMNS)
        if not index.is_monotonic_increasing or index.has_duplicates:
            frame = frame[~index.duplicated(keep="last")].sort_index()
        if len(frame) and frame.index[0] < since:
            frame = frame[frame.index >= since]
        frame.attrs = {"timeframe": timeframe}
        if frame.empty:
            return frame
        try:
            validate_candles(frame, timeframe)
            return frame if frame.index[-1] + step <= now else closed_bars(frame, now)
        except CandleError as error:
            raise self._wrong(error) from error

    def _refuse_times(self, stamps: np.ndarray, since: pd.Timestamp, step: pd.Timedelta, now: pd.Timestamp) -> None:
        """Refuse bars without a time, of a time when there was no market, or all of another time than asked for."""
        if not len(stamps):
            return
        if not np.isfinite(stamps).all():
            raise DataUnavailable(f"{self.name}: answered with a bar that has no time.")
        oldest, newest = float(stamps.min()), float(stamps.max())
        if oldest < FIRST_BAR.timestamp() * 1000 or newest > (now + step + DAY).timestamp() * 1000:
            wrong = oldest if oldest < FIRST_BAR.timestamp() * 1000 else newest
            raise DataUnavailable(
                f"{self.name}: answered with wrong candles: a bar of {_year(wrong)} (time {wrong:.0f}, where milliseconds "
                "belong). Its times are in another unit."
            )
        # A bar that has only just closed may not be there yet.
        if newest < since.timestamp() * 1000 and since + 2 * step < now:
            first, last = (pd.Timestamp(stamp, unit="ms", tz="UTC") for stamp in (oldest, newest))
            raise DataUnavailable(
                f"{self.name}: answered with wrong candles: those of {first} to {last}, asked for those from {since} on."
            )

    # Markets

    def _page_size(self, symbol: str) -> int:
        """Bars that the exchange gives in one answer."""
        self._load_market(symbol)
        return self._client.feature_value(symbol, "fetchOHLCV", "limit", 500) or 500

    def _load_market(self, symbol: str) -> None:
        """Tell ccxt of one market, once a day from the exchange's list of all. Raises `NotListed`."""
        if symbol in self._markets:
            return

        def ask() -> Any:
            try:
                markets = self._ask(self._client.load_markets, True)
            except _ODD as error:
                raise self._odd(error) from error
            if symbol not in markets:
                raise NotListed(f"{self.name}: does not list {symbol}. Name another market: --symbol BTC/USD.")
            return json.loads(json.dumps(markets[symbol], default=str))

        self._markets[symbol] = cached(self.name, self._request(f"market {symbol}"), "markets", ask)
        self._client.set_markets([known.content for known in self._markets.values()])

    def _request(self, what: str) -> str:
        return f"{what} at {without_login(self._base)}" if self._base else what

    # Answers

    def _ask(self, what: Callable[..., Any], *arguments: object) -> Any:
        """The answer of the exchange, asked up to `TRIES` times while its failure may pass."""
        timeout = self._client.timeout / 1000

        def wait(state: RetryCallState) -> float:
            error = state.outcome.exception() if state.outcome else None
            asked = error.wait if isinstance(error, _Passing) else None
            return 0.1 * timeout * 2 ** (state.attempt_number - 1) if asked is None else asked

        again = Retrying(
            retry=retry_if_exception_type(_Passing),
            stop=stop_after_attempt(TRIES) | stop_before_delay(PATIENCE * timeout),
            wait=wait,
            reraise=True,
        )
        return again(self._once, what, *arguments)

    def _once(self, what: Callable[..., Any], *arguments: object) -> Any:
        """One answer. A page of HTML (a login, a proxy) is none: ccxt would take it for no bars."""
        client = self._client
        client.last_http_response = client.last_json_response = None
        try:
            answer = what(*arguments)
        except self._failures as error:
            raise self._failed(error) from error
        text = client.last_http_response
        if text is not None and client.last_json_response is None:
            kind = _Passing if text.lstrip()[:1] in ("{", "[") else DataUnavailable  # what was cut may come whole
            raise kind(f"{self.name}: did not answer in JSON but with {text[:80]!r}.")
        return answer

    def _failed(self, error: Exception) -> DataUnavailable:
        """The failure that ccxt met, and whether it may pass within `PATIENCE`."""
        answer = self._session.answer
        status = 0 if answer is None else answer.status_code
        asked = None if answer is None or status < 400 else _asked_to_wait(answer)
        reason = f"{self.name}: {_reason(error)}"
        if asked is not None and (asked > PATIENCE * self._client.timeout / 1000 or status == 418):
            return DataUnavailable(f"{reason}; it asks to wait {asked:,.0f} s. Try again then.")
        offline = isinstance(root_cause(error), (ConnectionRefusedError, socket.gaierror))
        if status >= 500 or (isinstance(error, self._operation) and status in _PASSING and not offline):
            return _Passing(f"{reason}.", asked)
        return DataUnavailable(f"{reason}.")

    def _odd(self, error: Exception) -> DataUnavailable:
        return DataUnavailable(
            f"{self.name}: answered in another shape than expected ({type(error).__name__}: {str(error)[:120]})."
        )

    def _wrong(self, error: CandleError) -> DataUnavailable:
        return DataUnavailable(f"{self.name}: answered with wrong candles: {error}")


def _asked_to_wait(answer: requests.Response) -> float | None:
    """Seconds that the exchange asks to wait: by Retry-After, or by the end of a ban (ms) in its words."""
    asked = answer.headers.get("Retry-After", "")
    if asked.isdigit():
        return float(asked)
    banned = re.search(r"until (\d{13})", answer.text[:500])
    return max(0.0, int(banned[1]) / 1000 - time.time()) if banned else None


def _year(milliseconds: float) -> str:
    return str(int(1970 + milliseconds / 31_556_952_000))


def _rebased(urls: Any, base: str) -> Any:
    """ccxt's (nested) addresses with scheme and host replaced by those of `base`."""
    if isinstance(urls, dict):
        return {key: _rebased(value, base) for key, value in urls.items()}
    return rebased(urls, base)


def _reason(error: Exception) -> str:
    """Why it failed, in a line: the root cause where ccxt wraps one (no such host, refused, timed out)."""
    text = without_login(" ".join(str(root_cause(error)).split()))
    return f"{type(error).__name__}: {text[:160].rstrip('.')}"
