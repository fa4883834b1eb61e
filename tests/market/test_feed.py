"""Feeds: a recorded market and a live one give the same bars, each once and in order, whatever the exchange does.

The live market is played by `tests.market.streams` with a clock in which a minute lasts a tenth of a second.
"""

from __future__ import annotations

import asyncio
import gc
import json
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pandas as pd
import pytest

from btclab.errors import CandleError, DataUnavailable, InputError, NotListed
from btclab.market.candles import fingerprint
from btclab.market.exchange import ExchangeSource
from btclab.market.feed import BarClosed, Event, ReplayFeed, Status, Tick, frame_of
from btclab.market.live_feed import Bars, FeedTiming, LiveFeed, follow, follow_until_interrupted
from btclab.market.store import read_candles, save_candles
from btclab.market.stream import addresses
from tests.market.replay import Replay, serving
from tests.market.streams import FastClock

MINUTE = pd.Timedelta("1min")
RATE = 600.0  # market seconds a second
FIRST = 20  # the bar in which the clock starts
QUICK = FeedTiming(
    settle_s=12, grace_s=36, silence_s=0.4, back_off_s=0.02, back_off_most_s=0.1, tries=3, retry_stream_s=0.4,
    patience_s=0.8, beat_s=0.01,
)  # fmt: skip


@pytest.fixture
def minutes(candles: pd.DataFrame) -> pd.DataFrame:
    """Simulated bars, as if each were a minute long."""
    opened = pd.date_range("2021-03-01", periods=300, freq="1min", tz="UTC", name="timestamp")
    frame = candles.iloc[:300].set_axis(opened)
    frame.attrs = {"timeframe": "1m"}
    return frame


@pytest.fixture
def server(minutes: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> Iterator[Replay]:
    """Binance and Kraken for this test, REST and WebSocket, in the minute after bar `FIRST` opened."""
    monkeypatch.setattr(ExchangeSource, "__init__", unhurried(ExchangeSource.__init__))
    with serving(minutes) as replay:
        urls = dict.fromkeys(("binance", "kraken", "coinbase"), replay.url)
        monkeypatch.setenv("BTCLAB_MARKET__EXCHANGE_URLS", json.dumps(urls))
        until = time.monotonic() + 5
        while not hasattr(replay, "streams") and time.monotonic() < until:
            time.sleep(0.005)
        replay.streams.clock = FastClock(minutes.index[FIRST], RATE)
        yield replay


def unhurried(make: Callable[..., None]) -> Callable[..., None]:
    """Requests are not spaced out: a second between two of Kraken's is ten bars of this clock."""

    def init(source: ExchangeSource, name: str) -> None:
        make(source, name)
        source._client.enableRateLimit = False

    return init


def live(server: Replay, source: str = "binance", held: int = 14, timing: FeedTiming = QUICK, **more: Any) -> LiveFeed:
    """A feed for whoever has the bars up to number `held`."""
    bars = server.candles
    since, before = bars.index[held], float(bars["close"].iloc[held])
    return LiveFeed(source, "BTC/USDT", "1m", since, before, timing=timing, clock=server.streams.clock, **more)


def read(feed: LiveFeed, enough: Callable[[list[Event]], bool], within: float = 8.0) -> list[Event]:
    """Events of `feed` until there are enough; it is then closed, and must have left nothing behind."""
    events: list[Event] = []
    untold: list[Any] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: untold.append(context))
        async with asyncio.timeout(within), feed:
            async for event in feed:
                events.append(event)
                if enough(events):
                    break
            began = time.monotonic()
            await feed.aclose()
            assert time.monotonic() - began < 1
        await asyncio.sleep(0.05)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        gc.collect()

    asyncio.run(main())
    assert untold == []
    return events


def bars_in(events: list[Event]) -> list[BarClosed]:
    return [event for event in events if isinstance(event, BarClosed)]


def statuses(events: list[Event]) -> list[Status]:
    return [event for event in events if isinstance(event, Status)]


def up_to(number: int, server: Replay) -> Callable[[list[Event]], bool]:
    """Enough: the bar of that number has been given out."""
    last = server.candles.index[number]
    return lambda events: isinstance(events[-1], BarClosed) and events[-1].timestamp >= last


def streamed(number: int, server: Replay) -> Callable[[list[Event]], bool]:
    """Enough: that bar, or one after it, has come by the stream."""
    last = server.candles.index[number]
    return lambda events: (
        isinstance(events[-1], BarClosed) and events[-1].known == "stream" and events[-1].timestamp >= last
    )


def four_streamed(events: list[Event]) -> bool:
    """Enough: four bars have come by the stream."""
    return [bar.known for bar in bars_in(events)].count("stream") >= 4


def trouble(mood: str, server: Replay) -> Callable[[list[Event]], bool]:
    """Makes that trouble in two bars once the stream runs. Enough: the stream gives bars again after them."""
    after: list[int] = []

    def enough(events: list[Event]) -> bool:
        if after:
            return streamed(after[0], server)(events)
        if streamed(0, server)(events):
            number = server.candles.index.get_loc(events[-1].timestamp)
            after.append(number + 7)
            server.streams.moods = dict.fromkeys(server.candles.index[[number + 3, number + 5]], mood)
        return False

    return enough


def assert_exact(events: list[Event], server: Replay, held: int = 14) -> None:
    """Each closed bar after number `held` once, in order, to the last digit."""
    got = frame_of(bars_in(events), "1m")
    assert fingerprint(got) == fingerprint(server.candles.iloc[held + 1 : held + 1 + len(got)])
    assert len(got) > 5


# A recorded market


async def _all(feed: ReplayFeed) -> list[Event]:
    return [event async for event in feed]


def test_replay_gives_the_stored_candles_in_order(minutes):
    bars = asyncio.run(_all(ReplayFeed(minutes)))
    assert fingerprint(frame_of(bars, "1m")) == fingerprint(minutes)
    assert {bar.known for bar in bars} == {"replay"}


def test_replay_leaves_out_the_forming_bar(minutes):
    now = minutes.index[-1] + pd.Timedelta("59s")
    bars = asyncio.run(_all(ReplayFeed(minutes, clock=lambda: now)))
    assert bars[-1].timestamp == minutes.index[-2]


def test_replay_keeps_its_speed(minutes):
    began = time.monotonic()
    asyncio.run(_all(ReplayFeed(minutes.iloc[:20], speed=100)))
    assert 0.2 <= time.monotonic() - began < 1


@pytest.mark.parametrize("speed", [0, -1, float("nan")])
def test_replay_refuses_a_speed_that_is_none(minutes, speed):
    with pytest.raises(InputError, match=r"speed = .* must be above 0"):
        ReplayFeed(minutes, speed)


def test_replay_does_not_run_far_ahead_of_its_reader(minutes, monkeypatch):
    monkeypatch.setattr("btclab.market.feed.MOST_WAITING", 10)

    async def main() -> int:
        async with ReplayFeed(minutes) as feed:
            await anext(feed)
            await asyncio.sleep(0.05)
            return len(feed._events)

    assert asyncio.run(main()) <= 10


def test_closing_a_replay_ends_whoever_waits_for_it(minutes):
    async def main() -> list[Event]:
        feed = ReplayFeed(minutes, speed=0.01)
        reader = asyncio.create_task(_all(feed))
        await asyncio.sleep(0.02)
        await feed.aclose()
        await feed.aclose()
        return await asyncio.wait_for(reader, 1)

    assert asyncio.run(main()) == []


# A live market that behaves


@pytest.mark.parametrize("source", ["binance", "kraken"])
def test_live_bars_are_the_closed_candles(server, source):
    events = read(live(server, source), four_streamed)
    assert_exact(events, server)
    assert bars_in(events)[0].known == "fill"  # what closed before the feed began
    assert [status.state for status in statuses(events)] == ["connected"]
    first = [bar.known for bar in bars_in(events)].index("stream")
    assert len(server.asked) <= first + 2  # where the stream has all, REST is not asked


@pytest.mark.parametrize("source", ["binance", "kraken"])
def test_ticks_come_between_the_closes(server, source):
    events = read(live(server, source), four_streamed)
    ticks = [event for event in events if isinstance(event, Tick)]
    low, high = server.candles["low"].iloc[:60].min(), server.candles["high"].iloc[:60].max()
    assert len(ticks) >= 3
    assert all(low <= tick.price <= high for tick in ticks)
    assert all(tick.time.tz is not None and server.candles.index[FIRST] <= tick.time for tick in ticks)


def test_ticks_are_left_out_where_nobody_wants_them(server):
    events = read(live(server, ticks=False), up_to(30, server))
    assert not any(isinstance(event, Tick) for event in events)
    assert all("@kline" in asked["params"][0] for asked in server.streams.subscriptions)


def test_no_bar_is_given_out_before_it_has_closed(server):
    early = []

    def enough(events: list[Event]) -> bool:
        if isinstance(events[-1], BarClosed) and events[-1].timestamp + MINUTE > server.streams.clock():
            early.append(events[-1])
        return up_to(32, server)(events)

    read(live(server), enough)
    assert early == []


def test_feed_without_a_beginning_starts_with_the_bar_that_closed_last(server):
    feed = LiveFeed("binance", "BTC/USDT", "1m", timing=QUICK, clock=server.streams.clock)
    events = read(feed, up_to(28, server))
    assert bars_in(events)[0].timestamp == server.candles.index[FIRST - 1]


def test_hole_of_the_exchange_itself_stays_one(server):
    server.candles = server.candles.drop(server.candles.index[28:31])
    events = read(live(server), lambda events: len(bars_in(events)) >= 18)
    assert_exact(events, server)


def test_closing_hangs_up(server):
    read(live(server), up_to(28, server))
    until = time.monotonic() + 1
    while server.streams.open and time.monotonic() < until:
        time.sleep(0.01)
    assert server.streams.opened >= 2  # candles and ticker
    assert server.streams.open == 0


def test_a_loop_that_ends_without_closing_the_feed_leaves_nothing(server, caplog):
    async def main() -> None:
        async for event in live(server):
            if isinstance(event, BarClosed) and event.timestamp > server.candles.index[26]:
                return

    asyncio.run(main())
    gc.collect()
    assert caplog.records == []


# A stream that misbehaves


@pytest.mark.parametrize("source", ["binance", "kraken"])
@pytest.mark.parametrize("mood", ["silent", "hang", "close", "reset", "half"])
def test_after_a_broken_connection_the_hole_is_filled(server, source, mood):
    events = read(live(server, source), trouble(mood, server))
    assert_exact(events, server)
    states = [status.state for status in statuses(events)]
    assert states[:2] == ["connected", "reconnecting"]
    assert states[-1] == "connected"
    assert {"fill", "poll"} & {bar.known for bar in bars_in(events)}
    assert bars_in(events)[-1].known == "stream"
    reason = next(status.reason for status in statuses(events) if status.state == "reconnecting")
    silence = "no message for 0.4 s"
    said = {"silent": silence, "hang": silence, "close": "closed by remote server", "half": "cannot be read"}
    assert said.get(mood, "") in reason
    assert reason


@pytest.mark.parametrize(
    ("mood", "source"),
    [(mood, "binance") for mood in ("duplicate", "reorder", "skip", "html", "sentence")]
    + [(mood, "kraken") for mood in ("duplicate", "reorder", "skip")],
)
def test_nonsense_on_the_stream_changes_no_bar(server, source, mood):
    events = read(live(server, source), trouble(mood, server))
    assert_exact(events, server)


@pytest.mark.parametrize("source", ["binance", "kraken"])
@pytest.mark.parametrize(
    ("mood", "said"),
    [("hundred", "far from the close|cannot be"), ("dip", "its high below its low"), ("seconds", "not a time in")],
)
def test_wrong_bars_are_refused_and_asked_for_by_rest(server, source, mood, said):
    events = read(live(server, source), trouble(mood, server))
    assert_exact(events, server)
    reasons = " ".join(status.reason for status in statuses(events) if status.state != "connected")
    assert pd.Series([reasons]).str.contains(said).all(), reasons


def test_stream_that_sends_only_wrong_bars_is_left_for_polling(server):
    server.streams.always = "seconds"
    events = read(live(server), up_to(40, server))
    assert_exact(events, server)
    assert "connected" not in [status.state for status in statuses(events)]
    assert "not a time in milliseconds" in statuses(events)[-1].reason
    assert "polling" in [status.state for status in statuses(events)]


# No stream: polling


@pytest.mark.parametrize("source", ["binance", "kraken"])
def test_refused_stream_means_polling_until_it_is_back(server, source):
    server.streams.refusing = True

    def enough(events: list[Event]) -> bool:
        if any(status.state == "polling" for status in statuses(events)) and up_to(32, server)(events):
            server.streams.refusing = False
        return streamed(33, server)(events)

    events = read(live(server, source), enough)
    assert_exact(events, server)
    told = [status for status in statuses(events) if status.state != "reconnecting"]
    assert [status.state for status in told] == ["polling", "connected"]
    assert "the stream broke 3 times in a row" in told[0].reason
    assert "403" in told[0].reason
    assert "poll" in {bar.known for bar in bars_in(events)}


@pytest.mark.parametrize("ticks", [False, True])
def test_exchange_without_a_candle_stream_is_polled(server, monkeypatch, ticks):
    import ccxt.pro

    describe = ccxt.pro.binance.describe
    has = {"watchOHLCV": False, "watchTicker": False, "watchTrades": ticks}
    monkeypatch.setattr(ccxt.pro.binance, "describe", lambda self: self.deep_extend(describe(self), {"has": has}))
    events = read(live(server), up_to(32, server))
    assert_exact(events, server)
    assert [(status.state, status.reason) for status in statuses(events)] == [
        ("polling", "binance has no stream of candles")
    ]
    assert any(isinstance(event, Tick) for event in events) == ticks  # their trades are streamed where they can be
    assert {bar.known for bar in bars_in(events)} <= {"poll", "fill"}
    assert len(server.asked) <= len(bars_in(events)) + 3  # a request a bar


# REST that misbehaves


@pytest.mark.parametrize("mood", [500, "html", "closed", "empty", "dip", "scaled page"])
def test_rest_that_fails_for_a_while_delays_bars_and_loses_none(server, mood):
    server.streams.refusing = True

    def enough(events: list[Event]) -> bool:
        if len(bars_in(events)) >= 10 and server.mood is None and not stale(events):
            server.mood = mood
        if stale(events):
            server.mood = None
        return stale(events) and bool(bars_in(events)) and events[-1] is bars_in(events)[-1] and fresh(events)

    def stale(events: list[Event]) -> bool:
        return any(status.state == "stale" for status in statuses(events))

    def fresh(events: list[Event]) -> bool:
        since = next(status.since for status in statuses(events) if status.state == "stale")
        return since is not None and bars_in(events)[-1].timestamp > since + 5 * MINUTE

    events = read(live(server, timing=replace(QUICK, patience_s=5)), enough)
    assert_exact(events, server)
    held = next(status for status in statuses(events) if status.state == "stale")
    before = [bar.timestamp for bar in bars_in(events[: events.index(held)])]
    assert held.since == before[-1] + MINUTE  # the close of the last bar that is known
    assert held.reason.startswith("binance: ")
    assert statuses(events)[-1].state != "stale"


@pytest.mark.parametrize("mood", [500, "html", "closed", "scaled page"])
def test_stream_and_rest_both_dead_is_said_in_time(server, mood):
    server.streams.refusing, server.mood = True, mood
    events: list[Event] = []
    began = time.monotonic()
    with pytest.raises(DataUnavailable, match=r"binance: .*WebSocket: .*No bar after .* can be had"):
        read(live(server), lambda seen: bool(events.extend(seen[-1:])))
    assert time.monotonic() - began < 4
    assert bars_in(events) == []
    assert {status.state for status in statuses(events)} <= {"reconnecting", "polling", "stale"}


def test_stream_alone_is_enough_where_there_is_no_hole(server):
    def enough(events: list[Event]) -> bool:
        if streamed(26, server)(events):
            server.mood = 500
        return streamed(40, server)(events)

    events = read(live(server), enough)
    assert_exact(events, server)
    assert {bar.known for bar in bars_in(events) if bar.timestamp > server.candles.index[36]} == {"stream"}


def test_market_that_is_not_listed_ends_the_feed_at_once(server):
    feed = LiveFeed("binance", "BTC/XYZ", "1m", timing=replace(QUICK, patience_s=60), clock=server.streams.clock)
    with pytest.raises(NotListed, match="does not list BTC/XYZ"):
        read(feed, lambda _: False, within=4)


def test_unknown_exchange_and_timeframe_are_refused_before_anything_is_asked():
    with pytest.raises(InputError, match="binanse"):
        LiveFeed("binanse", "BTC/USDT", "1m")
    with pytest.raises(InputError, match="7m"):
        LiveFeed("binance", "BTC/USDT", "7m")


# Keeping the store current


def test_follow_fills_the_store_from_its_last_bar_and_keeps_it_current(server, minutes):
    save_candles(minutes.iloc[:15], "binance", "BTC/USDT", "1m")
    told: list[Event] = []

    async def main() -> None:
        feed = live(server, held=14)
        task = asyncio.create_task(follow("binance", "BTC/USDT", "1m", told.append, feed))
        async with asyncio.timeout(8):
            while not (bars_in(told) and bars_in(told)[-1].timestamp >= minutes.index[30]):
                await asyncio.sleep(0.01)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())
    stored = read_candles("binance", "BTC/USDT", "1m")
    assert stored is not None
    assert len(stored) > 30
    assert fingerprint(stored) == fingerprint(minutes.iloc[: len(stored)])
    assert bars_in(told)[-1].timestamp <= stored.index[-1]  # what is told has been stored


@pytest.fixture
def today(server: Replay, minutes: pd.DataFrame) -> pd.DataFrame:
    """The served bars, moved so that the last of them closed a minute ago."""
    moved = minutes.set_axis(minutes.index + (pd.Timestamp.now("UTC").floor("min") - minutes.index[-1] - 2 * MINUTE))
    server.candles = moved
    return moved


def test_follow_begins_after_the_last_stored_bar(server, today):
    save_candles(today.iloc[:150], "binance", "BTC/USDT", "1m")
    task: list[asyncio.Task[None]] = []

    def enough(event: Event) -> None:
        if isinstance(event, BarClosed):
            task[0].cancel()

    async def main() -> None:
        task.append(asyncio.create_task(follow("binance", "BTC/USDT", "1m", enough)))
        with suppress(asyncio.CancelledError):
            await asyncio.wait_for(task[0], 8)

    asyncio.run(main())
    stored = read_candles("binance", "BTC/USDT", "1m")
    assert fingerprint(stored) == fingerprint(today)
    assert int(server.asked[0]["startTime"]) == today.index[150].timestamp() * 1000


def test_ctrl_c_ends_following_quietly(today):
    def interrupt(event: Event) -> None:
        if isinstance(event, BarClosed):
            signal.raise_signal(signal.SIGINT)

    save_candles(today.iloc[:150], "binance", "BTC/USDT", "1m")
    follow_until_interrupted("binance", "BTC/USDT", "1m", interrupt)
    assert fingerprint(read_candles("binance", "BTC/USDT", "1m")) == fingerprint(today)


def test_following_from_a_notebook_names_the_way():
    async def main() -> None:
        follow_until_interrupted("binance")

    with pytest.raises(InputError, match="await follow"):
        asyncio.run(main())


# What is known of bars


OPEN = pd.Timestamp("2021-03-01", tz="UTC")
NONE = pd.Timedelta(0)


def heard(*rows: list[Any], now: str = "2021-03-01 00:05") -> Bars:
    bars = Bars("1m", OPEN - MINUTE, 100.0)
    bars.hear([[row[0] * 60_000 + int(OPEN.timestamp() * 1000), *row[1:]] for row in rows], pd.Timestamp(now, tz="UTC"))
    return bars


def test_bar_is_finished_when_it_has_closed_and_the_stream_has_moved_on():
    bars = heard([0, 100, 102, 99, 101, 5])
    assert bars.finished(OPEN + 2 * MINUTE, NONE) == []  # it may not have been the last word
    bars = heard([0, 100, 102, 99, 101, 5], [1, 101, 101, 101, 101, 0], now="2021-03-01 00:00:40")
    assert bars.finished(OPEN + pd.Timedelta("59s"), NONE) == []
    assert bars.finished(OPEN + MINUTE, NONE) == [BarClosed(OPEN, 100, 102, 99, 101, 5, "stream")]
    assert bars.finished(OPEN + MINUTE, NONE) == []


def test_earlier_version_of_a_bar_does_not_replace_a_later_one():
    bars = heard([0, 100, 102, 99, 101, 5], [1, 101, 101, 101, 101, 0])
    bars.hear([[int(OPEN.timestamp() * 1000), 100, 101, 100, 100.5, 2]], OPEN + MINUTE)
    assert [bar.volume for bar in bars.finished(OPEN + 5 * MINUTE, NONE)] == [5]


def test_last_word_on_a_bar_has_time_to_come_after_the_next_one_began():
    bars = heard([0, 100, 101, 99, 100, 3], [1, 101, 101, 101, 101, 0], now="2021-03-01 00:01:10")
    assert bars.finished(OPEN + pd.Timedelta("70.5s"), pd.Timedelta("1s")) == []
    bars.hear([[int(OPEN.timestamp() * 1000), 100, 102, 99, 101, 5]], OPEN + pd.Timedelta("70.8s"))
    assert [bar.volume for bar in bars.finished(OPEN + pd.Timedelta("71s"), pd.Timedelta("1s"))] == [5]


def test_bar_after_a_hole_waits_for_it():
    bars = heard([1, 100, 102, 99, 101, 5], [2, 101, 101, 101, 101, 0])
    assert bars.finished(OPEN + 4 * MINUTE, NONE) == []
    assert bars.due(OPEN + MINUTE, NONE)
    page = frame_of([BarClosed(OPEN, 100, 100, 100, 100, 1, "poll")], "1m")
    assert [bar.known for bar in bars.confirm(page, OPEN + MINUTE)] == ["poll"]
    assert [bar.known for bar in bars.finished(OPEN + 5 * MINUTE, NONE)] == ["stream"]


def test_what_a_dead_connection_said_is_forgotten():
    bars = heard([0, 100, 102, 99, 101, 5])
    bars.forget()
    bars.hear([[int((OPEN + MINUTE).timestamp() * 1000), 101, 101, 101, 101, 0]], OPEN + MINUTE)
    assert bars.finished(OPEN + MINUTE, NONE) == []


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ([0, 100, 99, 101, 100, 5], "high below its low"),
        ([0, 10_000, 10_200, 9_900, 10_100, 5], "far from the close"),
        ([0.5, 100, 102, 99, 101, 5], "whole 1m"),
        ([9, 100, 102, 99, 101, 5], "in the future"),
        ([-26_000_000, 100, 102, 99, 101, 5], "not a time in milliseconds"),
        ([0, 100, 102, 99, None, 5], "no number"),
        ([0, 100, 102, 99, float("nan"), 5], "missing or infinite"),
    ],
)
def test_row_that_cannot_be_is_refused(row, said):
    with pytest.raises(CandleError, match=said):
        heard(row)


def test_price_of_another_day_is_no_reference():
    bars = Bars("1m", OPEN - MINUTE, 100.0)
    later = OPEN + pd.Timedelta("2D")
    bars.hear([[int(later.timestamp() * 1000), 1000, 1000, 1000, 1000, 1]], later)
    assert bars.reference(later) is None
    assert bars.reference(OPEN) == 100


def test_rest_answer_is_refused_as_a_whole():
    bars = heard()
    page = frame_of([BarClosed(OPEN, 10_000, 10_000, 10_000, 10_000, 1, "poll")], "1m")
    with pytest.raises(CandleError, match="far from the close"):
        bars.confirm(page, OPEN + MINUTE)
    assert bars.next == OPEN


def test_addresses_keep_their_kind_at_another_base():
    urls = {"rest": "https://api.x.com/v1", "ws": {"public": "wss://ws.x.com:9443/v2"}}
    assert addresses(urls, "http://127.0.0.1:9000/x") == {
        "rest": "http://127.0.0.1:9000/x/v1",
        "ws": {"public": "ws://127.0.0.1:9000/x/v2"},
    }
    assert addresses(urls, "https://mirror")["ws"]["public"] == "wss://mirror/v2"
