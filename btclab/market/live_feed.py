"""The live feed: a market's bars by WebSocket (ccxt.pro), and by REST wherever that has a hole.

Two tasks share one `Bars`. The closer gives bars out: those that the stream has finished, and by REST those that are due
and that the stream has not. The streamer keeps a WebSocket open. If it cannot, the closer alone is REST polling.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from btclab.errors import CandleError, DataUnavailable, InputError, NotListed
from btclab.market.candles import refuse_jumps, timeframe_delta, utc, validate_candles
from btclab.market.exchange import ExchangeSource
from btclab.market.feed import (
    BarClosed,
    Clock,
    Event,
    EventQueue,
    Feed,
    Status,
    Tick,
    bars_of,
    frame_of,
    now_utc,
)
from btclab.market.store import bar_at, held_spans, save_candles
from btclab.market.stream import answer, connection, hang_up, watches
from btclab.settings import settings

FIRST_MS = 1_230_768_000_000  # 2009: no bar of Bitcoin is older; a stamp in seconds is
NEAR = pd.Timedelta(days=1)
SKEW = pd.Timedelta(seconds=30)  # an exchange's clock may be ahead of ours by this much


@dataclass(frozen=True)
class FeedTiming:
    """How long the feed waits for what, in seconds."""

    settle_s: float = 1.0  # after the stream moved on, by the clock: a late last update of a bar may still come
    grace_s: float = 3.0  # after a bar's close, by the clock: REST is asked if the stream has not finished it
    silence_s: float | None = None  # without a message: reconnect; None: half a bar, a minute at most
    back_off_s: float = 1.0  # before the second try; doubles with each
    back_off_most_s: float = 60.0
    tries: int = 5  # broken connections in a row until polling
    retry_stream_s: float = 300.0  # while polling: how often the WebSocket is tried
    patience_s: float = 600.0  # a bar is due and REST fails for so long: the feed gives up
    beat_s: float = 0.25  # how often the clock is looked at


class Bars:
    """Which bar comes next, and what the stream has said of bars that are not given out yet. No clock, no network."""

    def __init__(self, timeframe: str, after: pd.Timestamp, close: float | None = None) -> None:
        self.timeframe, self.step = timeframe, timeframe_delta(timeframe)
        self.next = after.floor(self.step) + self.step  # open time
        self.close = close  # of the last bar given out, or stored before the first
        self._heard: dict[pd.Timestamp, list[float]] = {}
        self._began: dict[pd.Timestamp, pd.Timestamp] = {}  # when each was first heard of

    def hear(self, rows: list[list[Any]], now: pd.Timestamp) -> None:
        """Notes the stream's rows [ms, open, high, low, close, volume]. Raises `CandleError` if one of them cannot be."""
        said: dict[pd.Timestamp, list[float]] = {}
        past = self.next.timestamp() * 1000
        for stamp, *values in rows:
            if stamp is None or stamp < FIRST_MS:
                raise CandleError(f"a bar is stamped {stamp!r}: not a time in milliseconds")
            if stamp < past:
                continue  # repeated or late: it has been given out
            opened = pd.Timestamp(stamp, unit="ms", tz="UTC")
            if opened > now + SKEW:
                raise CandleError(f"the bar of {opened} is in the future: it is {now}")
            if self._heard.get(opened) != values:
                said[opened] = values
        for bar in self._checked(said):
            # Volume only grows within a bar: of two versions the larger is the later, whichever came first.
            known = self._heard.get(bar.timestamp)
            if known is None or bar.volume >= known[4]:
                self._heard[bar.timestamp] = said[bar.timestamp]
                self._began.setdefault(bar.timestamp, now)

    def finished(self, now: pd.Timestamp, settle: pd.Timedelta) -> list[BarClosed]:
        """Bars that are closed by the clock and by the stream: it moved on to a later one, at least `settle` ago."""
        done: list[BarClosed] = []
        while self.next in self._heard:
            later = [began for opened, began in self._began.items() if opened > self.next]
            if not later or now < max(self.next + self.step, min(later)) + settle:
                break
            try:  # again: when it was heard, the bar before it may not have been known
                done += self._checked({self.next: self._heard[self.next]})
            except CandleError:
                del self._heard[self.next], self._began[self.next]
                break  # it is due now, and REST is asked
            self._advance(done[-1])
        return done

    def due(self, now: pd.Timestamp, grace: pd.Timedelta) -> bool:
        """Whether the next bar closed at least `grace` ago."""
        return now >= self.next + self.step + grace

    def confirm(self, page: pd.DataFrame, now: pd.Timestamp) -> list[BarClosed]:
        """The bars of a REST answer that are still to be given out. Raises `CandleError` if one cannot be."""
        page = page[(page.index >= self.next) & (page.index <= now - self.step)]
        if page.empty:
            return []
        refuse_jumps(page, self.reference(page.index[0]))
        young = page.index[-1] + 2 * self.step > now  # less than a bar after its close
        bars = [*bars_of(page.iloc[:-1], "fill"), *bars_of(page.iloc[-1:], "poll" if young else "fill")]
        self._advance(bars[-1])
        return bars

    def forget(self) -> None:
        """A connection has ended: what it said of unfinished bars may not have been the last word."""
        self._heard.clear()
        self._began.clear()

    def _advance(self, last: BarClosed) -> None:
        self.next, self.close = last.timestamp + self.step, last.close
        for opened in [opened for opened in self._heard if opened < self.next]:
            del self._heard[opened], self._began[opened]

    def reference(self, moment: pd.Timestamp) -> float | None:
        """The close to which a price of that time can be held: none if it is more than a day away."""
        return self.close if moment - self.next <= NEAR else None

    def _checked(self, said: dict[pd.Timestamp, list[float]]) -> list[BarClosed]:
        try:
            bars = [BarClosed(at, *map(float, said[at]), "stream") for at in sorted(said)]  # type: ignore[call-arg,arg-type]
        except (TypeError, ValueError) as error:
            raise CandleError(f"a bar holds what is no number: {list(said.values())[:1]!r}") from error
        if bars:
            frame = validate_candles(frame_of(bars, self.timeframe), self.timeframe)
            refuse_jumps(frame, self.reference(bars[0].timestamp))
        return bars


class LiveFeed(EventQueue):
    """Closed bars, ticks and statuses of one market, until `aclose`.

    source     an exchange that ccxt knows
    since      open time of the last bar the caller has: all that closed after it come first, by REST. None: the feed
               begins with the bar that closed last.
    before     close of that bar: a first bar that opens a factor of 3 away from it is refused
    ticks      whether prices between the closes are wanted

    `async for` raises `DataUnavailable` when a closed bar cannot be had by stream or REST for `timing.patience_s`, at once
    if the exchange does not list `symbol`; the constructor raises `InputError` for an unknown exchange or timeframe.
    """

    def __init__(
        self,
        source: str,
        symbol: str,
        timeframe: str,
        since: object = None,
        before: float | None = None,
        ticks: bool = True,
        timing: FeedTiming | None = None,
        clock: Clock = now_utc,
    ) -> None:
        super().__init__()
        self.source, self.symbol, self.timeframe = source, symbol, timeframe
        self._timing, self._clock, self._wants_ticks = timing or FeedTiming(), clock, ticks
        self._rest = ExchangeSource(source)
        step = timeframe_delta(timeframe)
        self._bars = Bars(timeframe, utc(since) if since is not None else clock().floor(step) - 2 * step, before)
        self._silence_s = self._timing.silence_s or min(60.0, step.total_seconds() / 2)
        self._markets: tuple[Any, Any] | None = None
        self._mode: Status | None = None
        self._stale = False
        self._heard: dict[str, float] = {}  # when each subscription last said something (monotonic)

    async def _run(self) -> None:
        tasks = {asyncio.create_task(self._close_bars()), asyncio.create_task(self._keep_streaming())}
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            await _end(tasks)

    # Giving bars out

    async def _close_bars(self) -> None:
        settle, grace = pd.Timedelta(seconds=self._timing.settle_s), pd.Timedelta(seconds=self._timing.grace_s)
        failures, ask_at, failing_since = 0, 0.0, None
        while True:
            finished = self._bars.finished(self._clock(), settle)
            if finished:
                failures, ask_at, failing_since = 0, 0.0, None
                self._fresh(finished)
            if self._bars.due(self._clock(), grace) and time.monotonic() >= ask_at:
                begun = time.monotonic()
                try:
                    found = await self._ask()
                except NotListed:
                    raise
                except DataUnavailable as error:
                    failing_since = failing_since or begun
                    if time.monotonic() - failing_since >= self._timing.patience_s:
                        stream = f" WebSocket: {self._mode.reason}." if self._mode and self._mode.reason else ""
                        raise DataUnavailable(f"{error}{stream} No bar after {self._bars.next} can be had.") from error
                    found, reason = False, str(error)
                    self._rest = ExchangeSource(self.source)  # the old one may hold on to what it was told
                else:
                    failing_since, reason = None, f"{self.source}: gives no bar of {self._bars.next} yet"
                failures = 0 if found else failures + 1
                if failures > 1:  # the first answer after a close may come too early
                    self._say_stale(reason)
                ask_at = time.monotonic() + (self._back_off(failures) if failures else 0)
            await asyncio.sleep(self._timing.beat_s)

    async def _ask(self) -> bool:
        """Gives out what REST has of the bars that closed; whether it had any. Raises `DataUnavailable`."""
        now = self._clock()
        pages = self._rest.fetch(self.symbol, self.timeframe, self._bars.next, now.floor(self._bars.step))
        found = False
        while (page := await asyncio.to_thread(_next_page, pages)) is not None:
            try:
                bars = self._bars.confirm(page, now)
            except CandleError as error:
                raise DataUnavailable(f"{self.source}: answered with wrong candles: {error}") from error
            if bars:
                found = True
                self._fresh(bars)
            await self._room()
        return found

    def _back_off(self, failures: int) -> float:
        """Seconds until the next try: doubling, bounded, and scattered so that many clients do not return at once."""
        longest = min(self._timing.back_off_most_s, self._timing.back_off_s * 2.0 ** min(failures - 1, 30))
        return longest * random.uniform(0.5, 1.0)

    def _fresh(self, bars: list[BarClosed]) -> None:
        if self._stale and self._mode:
            self._give([self._mode])
        self._stale = False
        self._give(bars)

    # Saying how it is

    def _say(self, state: Literal["connected", "reconnecting", "polling"], reason: str = "") -> None:
        if self._mode is None or self._mode.state != state or (state == "reconnecting" and self._mode.reason != reason):
            self._mode = Status(state, reason, self._clock())
            self._give([self._mode])

    def _say_stale(self, reason: str) -> None:
        if not self._stale:
            self._stale = True
            self._give([Status("stale", reason, self._clock(), self._bars.next)])

    # Keeping the stream

    async def _keep_streaming(self) -> None:
        watched = watches(connection(self.source), self._wants_ticks)
        self._streams_bars = "watchOHLCV" in watched
        if not self._streams_bars:
            self._say("polling", f"{self.source} has no stream of candles")
        failures = 0
        while watched:
            begun = time.monotonic()
            reason = await self._stream(watched)
            self._bars.forget()
            failures = 1 if time.monotonic() - begun > 2 * self._silence_s else failures + 1
            polling = failures >= self._timing.tries
            if self._streams_bars and polling:
                self._say("polling", f"the stream broke {self._timing.tries} times in a row: {reason}")
                failures = self._timing.tries
            elif self._streams_bars:
                self._say("reconnecting", reason)
            await asyncio.sleep(self._timing.retry_stream_s if polling else self._back_off(failures))
        await asyncio.Event().wait()  # nothing to watch: the closer polls

    async def _stream(self, watched: dict[str, str]) -> str:
        """One connection, from its opening to its end; why it ended."""
        client, tasks = connection(self.source), set[asyncio.Task[None]]()
        try:
            if self._markets:
                client.set_markets(*self._markets)
            else:
                await answer(client.load_markets)
                self._markets = client.markets, client.currencies
            client.enableRateLimit = False  # two subscriptions need no spacing; ccxt's spacing outlives its client
            self._heard = dict.fromkeys(watched, time.monotonic())
            tasks = {asyncio.create_task(self._watch(client, *watch)) for watch in watched.items()}
            while True:
                done, _ = await asyncio.wait(tasks, timeout=self._timing.beat_s, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
                if time.monotonic() - min(self._heard.values()) > self._silence_s:
                    return f"no message for {self._silence_s:g} s"
        except (DataUnavailable, CandleError) as error:
            return str(error)
        finally:
            await _end(tasks)
            await hang_up(client)

    async def _watch(self, client: Any, kind: str, method: str) -> None:
        """Passes on what one subscription says. Raises `CandleError` on a wrong bar, `DataUnavailable` when it breaks."""
        bars = kind == "watchOHLCV"
        arguments = (self.symbol, self.timeframe) if bars else (self.symbol,)
        while True:
            said = await answer(getattr(client, method), *arguments)
            if bars:
                self._bars.hear([list(row) for row in said], self._clock())
                self._say("connected")
            else:
                for tick in said[-1:] if kind == "watchTrades" else [said]:
                    self._tick(tick)
            self._heard[kind] = time.monotonic()

    def _tick(self, said: dict[str, Any]) -> None:
        price, stamp, now = said.get("last") or said.get("price"), said.get("timestamp"), self._clock()
        moment = pd.Timestamp(stamp, unit="ms", tz="UTC") if stamp else now
        known = self._bars.reference(self._clock())
        if (
            not price
            or moment > now + SKEW
            or (stamp and stamp < FIRST_MS)
            or (known and not 1 / 3 < price / known < 3)
        ):
            raise CandleError(f"a price of {price!r} at {moment} cannot be: the last close was {known}, it is {now}")
        self._give([Tick(float(price), moment)])


async def _end(tasks: set[asyncio.Task[None]]) -> None:
    """Cancels `tasks` and waits for them; what they raise in ending is of no interest any more."""
    for task in tasks:
        if not task.cancelling():  # a second time would interrupt its cleaning up
            task.cancel()
    while tasks:
        done, tasks = await asyncio.wait(tasks, timeout=1)
        for task in done:
            if not task.cancelled():
                task.exception()
        for task in tasks:  # something in it has swallowed the first time
            task.cancel()


def _next_page(pages: Iterator[pd.DataFrame]) -> pd.DataFrame | None:
    return next(pages, None)


async def follow(
    source: str,
    symbol: str | None = None,
    timeframe: str = "1h",
    on_event: Callable[[Event], None] | None = None,
    feed: Feed | None = None,
) -> None:
    """Keeps the store current until cancelled: what closed since the last stored bar, then each bar as it closes.

    `on_event` is told of each event, of a bar after it is stored. Where nothing is stored, it begins with the bar that
    closed last. `feed` is for a feed of other timing. Raises `DataUnavailable` as `LiveFeed` does, and `StorageError`.
    """
    symbol = symbol or settings().market.symbol
    if feed is None:
        since, before = await asyncio.to_thread(_last_stored, source, symbol, timeframe)
        feed = LiveFeed(source, symbol, timeframe, since, before, ticks=on_event is not None)
    try:
        while events := await feed.take():
            bars = [event for event in events if isinstance(event, BarClosed)]
            if bars:
                await asyncio.to_thread(save_candles, frame_of(bars, timeframe), source, symbol, timeframe)
            for event in events if on_event else []:
                on_event(event)  # type: ignore[misc]
    finally:
        await feed.aclose()


def _last_stored(source: str, symbol: str, timeframe: str) -> tuple[pd.Timestamp | None, float | None]:
    """Open time and close of the last stored bar."""
    spans = held_spans(source, symbol, timeframe)
    if not spans:
        return None, None
    opened = spans[-1][1] - timeframe_delta(timeframe)
    bar = bar_at(source, symbol, timeframe, opened)
    return opened, None if bar is None else float(bar["close"].iloc[-1])


def follow_until_interrupted(
    source: str,
    symbol: str | None = None,
    timeframe: str = "1h",
    on_event: Callable[[Event], None] | None = None,
) -> None:
    """`follow` for a plain script: returns when the user presses Ctrl-C. Raises `InputError` where a loop runs already."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        with suppress(KeyboardInterrupt):
            asyncio.run(follow(source, symbol, timeframe, on_event))
        return
    raise InputError("An event loop is running here (a notebook): write `await follow(…)` instead.")
