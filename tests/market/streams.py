"""The WebSocket side of the replay exchange: it streams a frame of candles as Binance and Kraken (v2) do, by a clock that
the test sets, and misbehaves when told to.

The messages have the shapes that `ccxt/pro/binance.py` and `ccxt/pro/kraken.py` document; a frame served as "1m" is
played as the clock passes it: forming versions of each bar, the final one at its close.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pandas as pd
from aiohttp import WSCloseCode, WSMsgType, web

PACE_S = 0.008  # between two looks at the clock


class FastClock:
    """A clock that starts at `start` when first looked at and passes `rate` market seconds a real second."""

    def __init__(self, start: pd.Timestamp, rate: float) -> None:
        self.start, self.rate, self.begun = start, rate, 0.0

    def __call__(self) -> pd.Timestamp:
        self.begun = self.begun or time.monotonic()
        return self.start + pd.Timedelta(seconds=(time.monotonic() - self.begun) * self.rate)


class Streams:
    """How the streams behave (`moods`: open time of a bar → what goes wrong there, once) and what was seen of clients.

    On any stream: "silent" (nothing but heartbeats from here on), "close", "reset" (the connection is cut without a word),
    "hang" (silent, and it does not even read any more), "html", "half" (a message ends in the middle), "sentence" (JSON
    that says nothing).
    Of the bar: "duplicate" (each message twice, and the bars before it again), "reorder" (its last version after the next
    bar's first), "skip", "hundred" (prices × 100), "dip" (high below low), "seconds" (stamped in seconds).
    `always` is a mood for every bar; `refusing` answers 403 to whoever wants to upgrade.
    """

    def __init__(self, replay: Any) -> None:
        self.replay = replay
        self.clock: Callable[[], pd.Timestamp] = lambda: pd.Timestamp.now("UTC")
        self.moods: dict[pd.Timestamp, str] = {}
        self.always = ""
        self.refusing = False
        self.refused = 0
        self.opened = 0
        self.open = 0
        self.subscriptions: list[dict[str, Any]] = []

    def mood(self, bar: pd.Timestamp) -> str:
        return self.always or self.moods.get(bar, "")


def add_streams(app: web.Application, replay: Any) -> None:
    """Mounts the WebSockets of Binance (`/ws`, `/ws/N`, `/stream`) and Kraken (`/v2`); `replay.streams` steers them."""
    streams = replay.streams = Streams(replay)
    for path in ("/ws", "/ws/{number}", "/stream"):
        app.router.add_get(path, lambda request: _serve(request, streams, _Binance))
    app.router.add_get("/v2", lambda request: _serve(request, streams, _Kraken))


async def _serve(request: web.Request, streams: Streams, dialect: type[_Binance] | type[_Kraken]) -> web.StreamResponse:
    if streams.refusing:
        streams.refused += 1
        return web.Response(status=403, text="<html>forbidden</html>", content_type="text/html")
    socket = web.WebSocketResponse(timeout=0.1)
    await socket.prepare(request)
    streams.opened += 1
    streams.open += 1
    speaker, playing = dialect(streams, socket, request), set[asyncio.Task[None]]()
    try:
        await speaker.greet()
        async for message in socket:
            if message.type == WSMsgType.TEXT:
                for play in await speaker.answer(json.loads(message.data)):
                    playing.add(asyncio.create_task(play))
    finally:
        streams.open -= 1
        for task in playing:
            task.cancel()
        await asyncio.gather(*playing, return_exceptions=True)
    return socket


class _Speaker:
    """One connection. It plays the candles from where the clock is when a client subscribes."""

    def __init__(self, streams: Streams, socket: web.WebSocketResponse, request: web.Request) -> None:
        self.streams, self.socket, self.request = streams, socket, request
        self.silent = False

    async def greet(self) -> None:
        """Says hello."""

    async def send(self, message: Any) -> None:
        if not self.silent:
            await self.socket.send_str(message if isinstance(message, str) else json.dumps(message))

    async def play(self, step: pd.Timedelta, say: Callable[[pd.Timestamp, pd.Series, bool], list[Any]]) -> None:
        """Sends what `say` makes of each version (open time, values, final?) of each bar as the clock passes it."""
        sent, late = self.streams.clock().floor(step), list[Any]()
        while not self.socket.closed:
            now = self.streams.clock()
            while sent <= now.floor(step):
                closed = sent + step <= now
                bars = self.streams.replay.candles
                if sent in bars.index:
                    mood = self.streams.mood(sent)
                    if await self.spoil(mood, sent):
                        return
                    messages = say(sent, version(bars.loc[sent], 1.0 if closed else (now - sent) / step), closed)
                    if mood == "skip":
                        messages = []
                    if mood == "duplicate":
                        before = sent - step
                        again = say(before, bars.loc[before], True) if before in bars.index else []
                        messages = [*messages, *again, *messages]
                    if mood == "reorder" and closed:
                        late, messages = messages, []
                    for message in messages:
                        await self.send(message)
                    if late and messages:
                        for message in late:
                            await self.send(message)
                        late = []
                if not closed:
                    break
                sent += step
            await asyncio.sleep(PACE_S)

    async def spoil(self, mood: str, bar: pd.Timestamp) -> bool:
        """Does what `mood` says to the connection; whether that ends it. Each happens once, unless it is for always."""
        if mood in {"silent", "hang", "close", "reset", "html", "half", "sentence"}:
            self.streams.moods.pop(bar, None)
        if mood in {"silent", "hang"}:
            self.silent = True
            if mood == "hang" and self.request.transport is not None:
                self.request.transport.pause_reading()
        elif mood == "html":
            await self.send("<html><body>Please log in to this network.</body></html>")
        elif mood == "half":
            await self.send('{"e":"kline","E":17000')
        elif mood == "sentence":
            await self.send({"note": "We will be back soon."})
        elif mood == "close":
            await self.socket.close(code=WSCloseCode.GOING_AWAY)
            return True
        elif mood == "reset" and self.request.transport is not None:
            self.request.transport.abort()
            return True
        return False


def version(bar: pd.Series, share: float) -> pd.Series:
    """`bar` as it looks when `share` of it has passed: on its way from open to close, with that share of its volume."""
    if share >= 1:
        return bar
    close = bar["open"] + (bar["close"] - bar["open"]) * share
    high, low = max(bar["open"], close), min(bar["open"], close)
    return pd.Series({"open": bar["open"], "high": high, "low": low, "close": close, "volume": bar["volume"] * share})


def spoilt(bar: pd.Series, mood: str) -> pd.Series:
    if mood == "hundred":
        return pd.Series({name: bar[name] * (1 if name == "volume" else 100) for name in bar.index})
    return pd.Series({**bar, "high": bar["low"] / 2}) if mood == "dip" else bar


class _Binance(_Speaker):
    async def answer(self, asked: dict[str, Any]) -> Iterator[Any]:
        self.streams.subscriptions.append(asked)
        await self.send({"result": None, "id": asked["id"]})
        plays = []
        for name in asked["params"] if asked["method"] == "SUBSCRIBE" else []:
            symbol, _, channel = name.partition("@")
            kind, _, interval = channel.partition("_")
            step = pd.Timedelta(interval.replace("m", "min") or "1min")
            say = {"kline": self.kline, "miniTicker": self.ticker, "trade": self.trade}[kind]
            plays.append(self.play(step, lambda *bar, s=symbol, i=interval, say=say: say(s.upper(), i, *bar)))
        return iter(plays)

    def kline(self, symbol: str, interval: str, opened: pd.Timestamp, bar: pd.Series, final: bool) -> list[Any]:
        mood = self.streams.mood(opened)
        bar, unit = spoilt(bar, mood), 1000 if mood != "seconds" else 1
        start, end = int(opened.timestamp() * unit), int((opened + pd.Timedelta(interval)).timestamp() * unit) - 1
        prices = dict(
            zip("ohlcv", (repr(float(bar[n])) for n in ("open", "high", "low", "close", "volume")), strict=True)
        )
        rest = {"f": 1, "L": 2, "n": 2, "x": final, "q": "0.0", "V": "0.0", "Q": "0.0", "B": "0"}
        k = {"t": start, "T": end, "s": symbol, "i": interval, **prices, **rest}
        return [{"e": "kline", "E": self.now(), "s": symbol, "k": k}]

    def ticker(self, symbol: str, _: str, opened: pd.Timestamp, bar: pd.Series, final: bool) -> list[Any]:
        prices = dict(zip("ohlc", (repr(float(bar[n])) for n in ("open", "high", "low", "close")), strict=True))
        return [{"e": "24hrMiniTicker", "E": self.now(), "s": symbol, **prices, "v": "1.0", "q": "1.0"}]

    def trade(self, symbol: str, _: str, opened: pd.Timestamp, bar: pd.Series, final: bool) -> list[Any]:
        said = {
            "e": "trade",
            "E": self.now(),
            "s": symbol,
            "t": self.now(),
            "p": repr(float(bar["close"])),
            "q": "0.01",
        }
        return [{**said, "T": self.now(), "m": False, "M": True}]

    def now(self) -> int:
        return int(self.streams.clock().timestamp() * 1000)


class _Kraken(_Speaker):
    async def greet(self) -> None:
        data = {"version": "2.0.10", "system": "online", "api_version": "v2", "connection_id": 1}
        await self.send({"channel": "status", "type": "update", "data": [data]})

    async def answer(self, asked: dict[str, Any]) -> Iterator[Any]:
        if asked["method"] == "ping":
            await self.send(
                {"method": "pong", "time_in": iso(self.streams.clock()), "time_out": iso(self.streams.clock())}
            )
            return iter(())
        self.streams.subscriptions.append(asked)
        wanted = asked["params"]
        (symbol,) = wanted["symbol"]
        said = {"channel": wanted["channel"], "symbol": symbol, "snapshot": True}
        await self.send({"method": "subscribe", "result": said, "success": True, "req_id": asked["req_id"]})
        if wanted["channel"] == "ohlc":
            step = pd.Timedelta(minutes=int(wanted["interval"]))
            bars = self.streams.replay.candles
            held = bars[bars.index + step <= self.streams.clock()].tail(720)
            data = [self.candle(symbol, step, opened, bar) for opened, bar in held.iterrows()]
            await self.send(
                {"channel": "ohlc", "type": "snapshot", "data": data, "timestamp": iso(self.streams.clock())}
            )
            return iter([self.play(step, lambda *bar: self.ohlc(symbol, step, *bar)), self.beat()])
        return iter([self.play(pd.Timedelta("1min"), lambda *bar: self.ticker(symbol, *bar))])

    async def beat(self) -> None:
        while not self.socket.closed:
            await self.socket.send_str(json.dumps({"channel": "heartbeat"}))
            await asyncio.sleep(0.05)

    def candle(self, symbol: str, step: pd.Timedelta, opened: pd.Timestamp, bar: pd.Series) -> dict[str, Any]:
        prices = {name: float(bar[name]) for name in ("open", "high", "low", "close", "volume")}
        times = {
            "interval_begin": iso(opened, 9),
            "interval": step // pd.Timedelta("1min"),
            "timestamp": iso(opened + step),
        }
        return {"symbol": symbol, **prices, "trades": 2, "vwap": prices["close"], **times}

    def ohlc(self, symbol: str, step: pd.Timedelta, opened: pd.Timestamp, bar: pd.Series, final: bool) -> list[Any]:
        mood = self.streams.mood(opened)
        data = self.candle(symbol, step, opened, spoilt(bar, mood))
        if mood == "seconds":
            data["interval_begin"] = iso(pd.Timestamp(opened.timestamp(), unit="ms", tz="UTC"), 9)
        return [{"channel": "ohlc", "type": "update", "timestamp": iso(self.streams.clock(), 9), "data": [data]}]

    def ticker(self, symbol: str, opened: pd.Timestamp, bar: pd.Series, final: bool) -> list[Any]:
        last = float(bar["close"])
        said = {"symbol": symbol, "bid": last, "bid_qty": 1.0, "ask": last, "ask_qty": 1.0, "last": last, "volume": 1.0}
        rest = {"vwap": last, "low": last, "high": last, "change": 0.0, "change_pct": 0.0}
        return [{"channel": "ticker", "type": "update", "data": [{**said, **rest}]}]


def iso(moment: pd.Timestamp, digits: int = 6) -> str:
    """As Kraken writes times: 2023-10-04T16:25:00.000000000Z."""
    return f"{moment.strftime('%Y-%m-%dT%H:%M:%S')}.{moment.strftime('%f').ljust(digits, '0')}Z"
