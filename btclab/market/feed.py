"""Feeds: closed bars as they close, one interface for a recorded market and a live one (`live_feed`).

    async with ReplayFeed(candles, speed=10) as feed:   # or LiveFeed("binance", "BTC/USDT", "1m")
        async for event in feed:
            if isinstance(event, BarClosed): ...

A `BarClosed` is given out once for each bar, in order, and only after the bar has closed: the forming bar never is one.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import astuple, dataclass
from typing import Literal, Protocol, Self

import numpy as np
import pandas as pd

from btclab.errors import InputError
from btclab.market.candles import COLUMNS, closed_bars, validate_candles

MOST_WAITING = 5_000  # events; a feed that is far ahead of its reader waits
Clock = Callable[[], pd.Timestamp]
Known = Literal["stream", "poll", "fill", "replay"]


@dataclass(frozen=True)
class BarClosed:
    """A bar that has closed: `timestamp` is its open time (UTC), prices in quote currency, volume in base currency.

    `known` says how: "stream" (WebSocket), "poll" (REST, less than a bar after its close), "fill" (REST, later: a hole
    in the stream, or what closed before the feed began), "replay" (recorded candles).
    """

    timestamp: pd.Timestamp
    open: float
    high: float
    low: float
    close: float
    volume: float
    known: Known


@dataclass(frozen=True)
class Tick:
    """The last price (quote currency) and its time (UTC), or when it was received if the exchange names none."""

    price: float
    time: pd.Timestamp


@dataclass(frozen=True)
class Status:
    """How the feed is: `state` since `time`, and the `reason` if it is not simply connected.

    "connected"     messages arrive by WebSocket
    "reconnecting"  the WebSocket broke; bars that close meanwhile are asked for by REST
    "polling"       there is no WebSocket; each bar is asked for by REST just after it closes
    "stale"         a bar has closed and cannot be had; nothing is known after `since`
    """

    state: Literal["connected", "reconnecting", "polling", "stale"]
    reason: str
    time: pd.Timestamp
    since: pd.Timestamp | None = None


Event = BarClosed | Tick | Status


class Feed(Protocol):
    """Where the next bar comes from. Read it with `async for`; `aclose` (or `async with`) ends it and frees all it holds."""

    def __aiter__(self) -> AsyncIterator[Event]: ...

    async def take(self) -> list[Event]:
        """Waits for an event and gives it with all that wait behind it; an empty list when the feed has ended."""
        ...

    async def aclose(self) -> None: ...


class EventQueue(ABC):
    """A feed whose events are made by the coroutine `_run`; what that raises, the reader of the feed sees."""

    def __init__(self) -> None:
        self._events: deque[Event] = deque()
        self._woken = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    @abstractmethod
    async def _run(self) -> None:
        """Makes events with `_give` until there are no more."""

    def _give(self, events: Iterable[Event]) -> None:
        for event in events:
            if isinstance(event, Tick) and self._events and isinstance(self._events[-1], Tick):
                self._events.pop()  # nobody has read it: only the newest price is news
            self._events.append(event)
        self._woken.set()

    async def _room(self) -> None:
        """Waits until the reader has caught up."""
        while len(self._events) >= MOST_WAITING:
            await asyncio.sleep(0.01)

    async def _ready(self) -> bool:
        """Waits for an event; False when there will be none. Raises what ended `_run`, once all before it was read."""
        if self._task is None and not self._closed:
            self._task = asyncio.create_task(self._run())
            self._task.add_done_callback(lambda _: self._woken.set())
        while not self._events:
            if self._closed or self._task is None:
                return False
            if self._task.done():
                if not self._task.cancelled():
                    self._task.result()
                return False
            self._woken.clear()
            await self._woken.wait()
        return True

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        if not await self._ready():
            raise StopAsyncIteration
        return self._events.popleft()

    async def take(self) -> list[Event]:
        """Waits for an event and gives it with all that wait behind it; an empty list when the feed has ended."""
        await self._ready()
        events = list(self._events)
        self._events.clear()
        return events

    async def aclose(self) -> None:
        """Ends the feed; events that were not read are dropped. A second call does nothing."""
        self._closed = True
        self._events.clear()
        self._woken.set()
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait({self._task})

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


class ReplayFeed(EventQueue):
    """Stored candles as a feed: each bar in turn, `speed` bars a second (`float("inf")`: as fast as they are read).

    A bar that is still forming by the clock is left out. Raises `InputError` for a speed that is not above 0.
    """

    def __init__(self, candles: pd.DataFrame, speed: float = float("inf"), clock: Clock | None = None) -> None:
        super().__init__()
        if not speed > 0:
            raise InputError(f"speed = {speed!r}: must be above 0 bars a second; float('inf') is as fast as possible.")
        self._candles = closed_bars(validate_candles(candles), (clock or now_utc)())
        self._speed = speed

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        begun = loop.time()
        for number, bar in enumerate(bars_of(self._candles, "replay"), 1):
            await self._room()
            if np.isfinite(self._speed):
                await asyncio.sleep(max(0.0, begun + number / self._speed - loop.time()))
            self._give([bar])


def now_utc() -> pd.Timestamp:
    return pd.Timestamp.now("UTC")


def bars_of(candles: pd.DataFrame, known: Known) -> Iterable[BarClosed]:
    """The rows of `candles` as events."""
    for row in candles[COLUMNS].itertuples():
        stamp, *values = row
        yield BarClosed(stamp, *map(float, values), known)  # type: ignore[call-arg,arg-type]


def frame_of(bars: Iterable[BarClosed], timeframe: str) -> pd.DataFrame:
    """Events as candles."""
    rows = [astuple(bar)[:6] for bar in bars]
    stamps = pd.DatetimeIndex([row[0] for row in rows], tz="UTC", name="timestamp").as_unit("ms")
    candles = pd.DataFrame([row[1:] for row in rows], columns=COLUMNS, index=stamps, dtype="float64")
    candles.attrs = {"timeframe": timeframe}
    return candles
