"""A server on this machine that answers as Binance spot and Kraken do, from a frame of candles, and misbehaves when told to.

The answers have the shape of those in `../shared/responses/verified`; ccxt takes them for the exchange once
`BTCLAB_MARKET__EXCHANGE_URLS` names this server. Both exchanges are answered at once: their paths differ.
WebSockets are added by `tests.market.streams`, where it exists.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pandas as pd
from aiohttp import web

STEPS = {"1m": "1min", "5m": "5min", "15m": "15min", "1h": "1h", "4h": "4h", "1d": "1D"}
KRAKEN_KEPT = 720  # Kraken gives the newest bars only, however old the ones that it is asked for
EARLY = 200  # bars by which an answer starts too early in that mood
MARKETS = {
    "timezone": "UTC",
    "symbols": [
        {
            "symbol": "BTCUSDT",
            "status": "TRADING",
            "baseAsset": "BTC",
            "baseAssetPrecision": 8,
            "quoteAsset": "USDT",
            "quotePrecision": 8,
            "isSpotTradingAllowed": True,
            "filters": [
                {"filterType": "PRICE_FILTER", "minPrice": "0.01", "maxPrice": "1000000.00", "tickSize": "0.01"},
                {"filterType": "LOT_SIZE", "minQty": "0.00001", "maxQty": "9000.00", "stepSize": "0.00001"},
                {
                    "filterType": "NOTIONAL",
                    "minNotional": "5.00",
                    "applyMinToMarket": True,
                    "maxNotional": "9000000.00",
                },
            ],
            "permissions": ["SPOT"],
        }
    ],
}
KRAKEN_PAIRS = {
    name: {
        "altname": f"XBT{quote.removeprefix('Z')}",
        "wsname": f"XBT/{quote.removeprefix('Z')}",
        "aclass_base": "currency",
        "base": "XXBT",
        "aclass_quote": "currency",
        "quote": quote,
        "lot": "unit",
        "cost_decimals": 5,
        "pair_decimals": 1,
        "lot_decimals": 8,
        "lot_multiplier": 1,
        "leverage_buy": [2, 3],
        "leverage_sell": [2, 3],
        "fees": [[0, 0.4]],
        "fees_maker": [[0, 0.25]],
        "fee_volume_currency": "ZUSD",
        "margin_call": 80,
        "margin_stop": 40,
        "ordermin": "0.00005",
        "costmin": "0.5",
        "tick_size": "0.1",
        "status": "online",
        "long_position_limit": 80,
        "short_position_limit": 80,
    }
    for name, quote in (("XBTUSDT", "USDT"), ("XXBTZUSD", "ZUSD"))
}
KRAKEN_ASSETS = {
    name: {"aclass": "currency", "altname": alt, "decimals": digits, "display_decimals": 5, "status": "enabled"}
    for name, alt, digits in (("XXBT", "XBT", 10), ("USDT", "USDT", 8), ("ZUSD", "USD", 4))
}
REFUSALS = {
    403: {"code": 0, "msg": "Forbidden."},
    418: {"code": -1003, "msg": "Way too many requests; IP banned until 4102444800000."},
    429: {"code": -1003, "msg": "Too much request weight used; current limit is 6000 request weight per 1 MINUTE."},
    451: {"code": 0, "msg": "Service unavailable from a restricted location."},
    500: {"code": -1000, "msg": "An unknown error occurred while processing the request."},
    503: {"code": -1000, "msg": "Service unavailable."},
}
ODD: dict[int | str | None, Any] = {
    "nothing": None,
    "sentence": "We will be back soon.",
    "numbers": [1, 2, 3],
    "fields": {"bars": {}},
}
Rows = list[list[Any]]


class Replay:
    """What the server serves (`candles`), how it behaves (`mood`, once `patience` pages were answered well), what it was asked.

    `mood` is None (well), a status of `REFUSALS` (with `retry_after` as its header), or one of
        "html", "truncated", and those of `ODD`    a status of 200 and no bars
        "closed", "reset", "cut"                   the connection ends: without a word, with a RST, within the answer
        "endless", "endless head", "slow"          a byte now and then, for ever, or the answer `delay` seconds later
        "empty", "early", "stuck"                  no bars; `EARLY` bars before those asked for; the oldest page each time
        "unordered", "repeated", "corrected"       newest first; each bar twice; each bar twice, of which the first is wrong
        "dip", "words", "short"                    one bar's low above its high; a price is no number; rows without volume
        "unit"                                     times in seconds where milliseconds belong, and the other way round
        "scaled bar", "scaled page"                prices × 100: of one bar in the middle, or of all
        "limited"                                  Kraken's way to refuse: a status of 200 and an error in the answer
    The mood passes after `lasts` answers, if that is set.
    """

    def __init__(self, candles: pd.DataFrame, url: str) -> None:
        self.candles, self.url = candles, url
        self.mood: int | str | None = None
        self.patience = 0
        self.lasts: int | None = None
        self.retry_after: str | None = None
        self.delay = 0.0
        self.asked: list[dict[str, str]] = []  # the query of each request for candles
        self.asked_for_markets = 0

    def page(self, query: dict[str, str]) -> Rows:
        """The klines that Binance would give: from `startTime` to `endTime`, both inclusive, `limit` at most."""
        first = pd.to_datetime(int(query.get("startTime", 0)), unit="ms", utc=True)
        last = pd.to_datetime(int(query.get("endTime", 4_102_444_800_000)), unit="ms", utc=True)
        bars = self.candles[(self.candles.index >= first) & (self.candles.index <= last)]
        size = min(int(query.get("limit", 500)), 1000)
        bars = bars.head(size) if "startTime" in query else bars.tail(size)
        length = int(pd.Timedelta(STEPS[query["interval"]]).total_seconds() * 1000)
        return [[a, *texts, a + length - 1, "0.0", 1, "0.0", "0.0", "0"] for a, texts in _texts(bars)]

    def kraken_page(self, query: dict[str, str]) -> Rows:
        """The rows that Kraken would give: after `since` (s), of the newest 720 and the one that follows them."""
        kept = self.candles.tail(KRAKEN_KEPT + 1)
        bars = kept[kept.index > pd.to_datetime(int(query.get("since", 0)), unit="s", utc=True)]
        return [[a // 1000, *texts[:4], texts[3], texts[4], 1] for a, texts in _texts(bars)]

    def behaviour(self) -> int | str | None:
        """The mood in which the request at hand is answered."""
        if self.mood is None or (self.patience and len(self.asked) <= self.patience) or self.lasts == 0:
            return None
        if self.lasts is not None:
            self.lasts -= 1
        return self.mood

    def content(self, path: str, query: dict[str, str]) -> Any:
        """What is served at `path`, or None if there is no such path."""
        self.asked_for_markets += path in ("/api/v3/exchangeInfo", "/0/public/AssetPairs")
        last, opened = self.candles.iloc[-1], self.candles.index[-1]
        milliseconds = int(opened.timestamp() * 1000)
        price = repr(float(last["close"]))
        binance: dict[str, Callable[[], Any]] = {
            "exchangeInfo": lambda: MARKETS,
            "klines": lambda: self.page(query),
            "ping": dict,
            "time": lambda: {"serverTime": milliseconds},
            "ticker/24hr": lambda: self._ticker(price, milliseconds),
            "trades": lambda: [_trade(row) for row in _texts(self.candles.tail(int(query.get("limit", 5))))],
            "aggTrades": lambda: [_compact(row) for row in _texts(self.candles.tail(int(query.get("limit", 5))))],
        }
        pair = query.get("pair", "XBTUSDT")
        kraken: dict[str, Callable[[], Any]] = {
            "Assets": lambda: KRAKEN_ASSETS,
            "AssetPairs": lambda: KRAKEN_PAIRS,
            "OHLC": lambda: {pair: self.kraken_page(query)},
            "Time": lambda: {
                "unixtime": milliseconds // 1000,
                "rfc1123": opened.strftime("%a, %d %b %y %H:%M:%S +0000"),
            },
            "SystemStatus": lambda: {"status": "online", "timestamp": opened.strftime("%Y-%m-%dT%H:%M:%SZ")},
            "Ticker": lambda: {pair: _kraken_ticker(price)},
            "Trades": lambda: {pair: [_kraken_trade(row) for row in _texts(self.candles.tail(5))], "last": "0"},
        }
        if path.startswith("/api/v3/") and (answer := binance.get(path.removeprefix("/api/v3/"))):
            return answer()
        if path.startswith("/0/public/") and (answer := kraken.get(path.removeprefix("/0/public/"))):
            return {"error": [], "result": answer()}
        return None

    def _ticker(self, price: str, milliseconds: int) -> dict[str, Any]:
        names = ("lastPrice", "bidPrice", "askPrice", "openPrice", "highPrice", "lowPrice", "weightedAvgPrice")
        prices = dict.fromkeys(names, price)
        amounts = {"volume": "1.0", "quoteVolume": price, "bidQty": "1.0", "askQty": "1.0", "lastQty": "1.0"}
        return {
            "symbol": "BTCUSDT",
            **prices,
            **amounts,
            "openTime": milliseconds - 86_400_000,
            "closeTime": milliseconds,
        }


def _texts(bars: pd.DataFrame) -> list[tuple[int, list[str]]]:
    """Open time (ms) and open, high, low, close, volume of each bar, in all their digits."""
    prices = bars[["open", "high", "low", "close", "volume"]].to_numpy()
    opened = pd.DatetimeIndex(bars.index).as_unit("ms").asi8.tolist()
    return [(a, [repr(value) for value in row]) for a, row in zip(opened, prices.tolist(), strict=True)]


def _trade(bar: tuple[int, list[str]]) -> dict[str, Any]:
    return {"id": bar[0] // 1000, "price": bar[1][3], "qty": bar[1][4], "time": bar[0], "isBuyerMaker": False}


def _compact(bar: tuple[int, list[str]]) -> dict[str, Any]:
    number = bar[0] // 1000
    return {"a": number, "p": bar[1][3], "q": bar[1][4], "f": number, "l": number, "T": bar[0], "m": False, "M": True}


def _kraken_trade(bar: tuple[int, list[str]]) -> list[Any]:
    return [bar[1][3], bar[1][4], bar[0] / 1000, "b", "l", "", bar[0] // 1000]


def _kraken_ticker(price: str) -> dict[str, Any]:
    quote, pair = [price, "1", "1.000"], [price, price]
    return {
        **{"a": quote, "b": quote, "c": [price, "0.1"], "v": ["1.0", "1.0"], "p": pair},
        **{"t": [1, 1], "l": pair, "h": pair, "o": price},
    }


def spoilt(rows: Rows, mood: int | str | None) -> Rows:
    """`rows` (of either exchange: time and prices come first in both) as an exchange in that mood would send them."""
    middle = len(rows) // 2
    ways: dict[int | str | None, Callable[[], Rows]] = {
        "empty": list,
        "unordered": lambda: rows[::-1],
        "repeated": lambda: [row for row in rows for _ in range(2)],
        "corrected": lambda: [row for right in rows for row in ([right[0], *["1.0"] * 4, *right[5:]], right)],
        "dip": lambda: [[*rows[0][:3], str(2 * float(rows[0][2])), *rows[0][4:]], *rows[1:]],
        "words": lambda: [[*rows[0][:4], "n/a", *rows[0][5:]], *rows[1:]],
        "short": lambda: [row[:5] for row in rows],
        "unit": lambda: [[row[0] // 1000 if row[0] > 1e11 else row[0] * 1000, *row[1:]] for row in rows],
        "scaled bar": lambda: [_scaled(row) if i == middle else row for i, row in enumerate(rows)],
        "scaled page": lambda: [_scaled(row) for row in rows],
    }
    return ways.get(mood, lambda: rows)()


def _scaled(row: list[Any]) -> list[Any]:
    return [row[0], *(repr(100 * float(price)) for price in row[1:5]), *row[5:]]


def misdirected(query: dict[str, str], mood: int | str | None) -> dict[str, str]:
    """The query as an exchange in that mood would understand it."""
    if mood == "early" and "startTime" in query:
        step = pd.Timedelta(STEPS[query["interval"]])
        return {**query, "startTime": str(int(query["startTime"]) - EARLY * int(step.total_seconds() * 1000))}
    if mood == "stuck" and "startTime" in query:
        return {**query, "startTime": "0"}
    return query


async def _answer(replay: Replay, request: web.Request) -> web.StreamResponse:
    query, path = dict(request.query), request.path
    bars = path.endswith(("/klines", "/OHLC"))
    if bars:
        replay.asked.append(query)
    mood = replay.behaviour()
    if mood in REFUSALS:
        headers = {"Retry-After": replay.retry_after} if replay.retry_after else {}
        return web.json_response(REFUSALS[mood], status=int(mood), headers=headers)
    if mood in ("closed", "reset", "endless head"):
        return await (_endless_head(request) if mood == "endless head" else _hung_up(request, reset=mood == "reset"))
    if mood == "slow":
        await asyncio.sleep(replay.delay)
    content = replay.content(path, misdirected(query, mood))
    if mood == "html":
        return web.Response(text="<html><body>Please log in to this network.</body></html>", content_type="text/html")
    if content is None:
        return web.json_response({}, status=404)
    if mood in ODD:
        content = ODD[mood]
    elif mood == "limited":
        content = {"error": ["EAPI:Rate limit exceeded"]}
    elif bars and isinstance(content, list):
        content = spoilt(content, mood)
    elif bars:
        content["result"] = {pair: spoilt(rows, mood) for pair, rows in content["result"].items()}
        times = [row[0] for rows in content["result"].values() for row in rows]
        content["result"]["last"] = times[-2] if len(times) > 1 else 0
    body = json.dumps(content).encode()
    if mood in ("cut", "endless"):
        return await _unfinished(request, body[: len(body) // 2], len(body), endless=mood == "endless")
    return web.Response(body=body[: len(body) // 2] if mood == "truncated" else body, content_type="application/json")


async def _hung_up(request: web.Request, *, reset: bool) -> web.StreamResponse:
    """The connection ends without an answer."""
    transport = request.transport
    if transport is not None and reset:
        linger = struct.pack("ii", 1, 0)  # a close that waits for nothing is a RST
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        transport.abort()
    elif transport is not None:
        transport.close()
    raise asyncio.CancelledError


async def _endless_head(request: web.Request) -> web.StreamResponse:
    """The head of an answer, a byte now and then."""
    transport = request.transport
    assert transport is not None
    transport.write(b"HTTP/1.1 200 OK\r\nX-Wait: ")
    while not transport.is_closing():
        transport.write(b".")
        await asyncio.sleep(0.05)
    raise asyncio.CancelledError


async def _unfinished(request: web.Request, part: bytes, length: int, *, endless: bool) -> web.StreamResponse:
    """Part of an answer, and then the end of the connection, or a space now and then."""
    answer = web.StreamResponse(headers={"Content-Type": "application/json"})
    if endless:
        answer.enable_chunked_encoding()
    else:
        answer.content_length = length
    await answer.prepare(request)
    await answer.write(part)
    while endless:
        await asyncio.sleep(0.05)
        await answer.write(b" ")
    assert request.transport is not None
    request.transport.close()
    raise asyncio.CancelledError


async def _serve(replay: Replay, listening: socket.socket, stop: asyncio.Event) -> None:
    app = web.Application()
    if importlib.util.find_spec("tests.market.streams"):
        from tests.market import streams

        streams.add_streams(app, replay)

    async def answer(request: web.Request) -> web.StreamResponse:
        return await _answer(replay, request)

    app.router.add_get("/{path:.*}", answer)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.SockSite(runner, listening).start()
        await stop.wait()
    finally:
        await runner.cleanup()


@contextmanager
def serving(candles: pd.DataFrame) -> Iterator[Replay]:
    """A server of `candles` for the length of the block."""
    listening = socket.create_server(("127.0.0.1", 0))
    replay = Replay(candles, f"http://127.0.0.1:{listening.getsockname()[1]}")
    loop, stop = asyncio.new_event_loop(), asyncio.Event()

    def run() -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(_serve(replay, listening, stop))

    thread = threading.Thread(target=run, daemon=True, name="replay")
    thread.start()
    try:
        yield replay
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
        listening.close()
