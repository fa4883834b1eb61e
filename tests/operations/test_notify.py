"""Notifications: what is told and when; nothing waits for a channel, no address is told, no kill loses a message."""

from __future__ import annotations

import io
import json
import logging
import math
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from apprise.plugins.discord import NotifyDiscord

from btclab.errors import InputError, StorageError
from btclab.operations import notify
from btclab.operations.channels import Channel, Outcome, secrets_in
from btclab.operations.messages import EVENTS, LEVELS, Message, digest, render
from btclab.operations.notify import Notifier, Watch, folder_of, outbox_in, quiet_for
from btclab.settings import NotificationSettings, settings

pytestmark = pytest.mark.timeout(60)

SECRET = "ZXcv-T0ken_9876543210"
NOON = datetime(2024, 5, 15, 12, tzinfo=UTC).timestamp()
BERLIN = ZoneInfo("Europe/Berlin")
HOUR = 3600.0
FIGURES: dict[str, Any] = {
    "strategy": "forecast",
    "timeframe": "1h",
    "equity": 10_250.5,
    "position": 0.125,
    "reason": "stop loss",
    "side": "buy",
    "before": 0.0,
    "exposure": 0.5,
    "confidence": 0.625,
    "price": 64_100.0,
    "reasons": ("momentum +0.3", "sentiment −0.1"),
    "type": "limit",
    "quantity": 0.0123,
    "limit": 64_000.0,
    "stop": math.nan,
    "order": "o-17",
    "value": 788.43,
    "fee": 0.788,
    "change": -0.0312,
    "timestamp": 1_715_774_400_000_000_000,
    "pnl": 250.5,
    "drawdown": 0.0512,
    "peak": 10_800.0,
    "age": 7_500,
    "source": "binance",
    "checkpoint": "quantile-7",
    "error": "no such column",
    "where": "paper run",
}


def told(kind: str, **figures: Any) -> Message:
    return render(kind, {**FIGURES, **figures})


class Clock:
    """A clock that stands still until it is set."""

    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> float:
        return self.now


class Fake:
    """A channel that keeps what it is given, and answers with `outcomes` before it delivers."""

    secrets = (SECRET,)
    most_characters = 1_600

    def __init__(self, name: str = "discord") -> None:
        self.name, self.got, self.outcomes = name, list[Message](), list[Outcome]()

    def deliver(self, message: Message) -> Outcome:
        outcome = self.outcomes.pop(0) if self.outcomes else Outcome(True)
        if outcome.delivered:
            self.got.append(message)
        return outcome

    @property
    def titles(self) -> list[str]:
        return [message.title for message in self.got]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def channel() -> Fake:
    return Fake()


Maker = Callable[..., Notifier]


@pytest.fixture
def make(tmp_path: Path, clock: Clock, channel: Fake) -> Maker:
    """A notifier without threads, by the rules that are named."""

    def notifier(*channels: Fake, **rules: Any) -> Notifier:
        chosen = channels or (channel,)
        return Notifier(chosen, NotificationSettings(**rules), tmp_path, clock=clock, threaded=False)

    return notifier


def send(notifier: Notifier, kind: str = "fill", key: str = "", **figures: Any) -> None:
    notifier.send(kind, key, **{**FIGURES, **figures})


# What is told


@pytest.mark.parametrize("kind", sorted(EVENTS))
def test_every_kind_is_told_in_words_and_numbers(kind):
    message = told(kind)
    assert message.level in LEVELS
    assert message.title and message.body
    assert not set("{}") & set(message.title + message.body)
    assert "–" not in message.title + message.body


@pytest.mark.parametrize(
    ("kind", "title", "body"),
    [
        (
            "fill",
            "Filled: buy 0.0123 BTC at 64,100.00 USDT",
            "stop loss · value 788.43 USDT · fee 0.79 USDT · holding 0.125 BTC · equity 10,250.50 USDT · o-17",
        ),
        (
            "signal",
            "New signal: buy",
            "exposure 0.0 % → 50.0 % · confidence 62.5 % · close 64,100.00 USDT · momentum +0.3, sentiment −0.1",
        ),
        ("price_move", "BTC/USDT -3.12 %", "0.00 USDT → 64,100.00 USDT · bar of 2024-05-15 12:00 UTC"),
        (
            "feed_stale",
            "No new bar for 2 h 5 min",
            "binance · newest bar 2024-05-15 12:00 UTC · nothing is traded until bars come again",
        ),
    ],
)
def test_figures_have_their_units(kind, title, body):
    message = told(kind)
    assert (message.title, message.body) == (title, body)


def test_what_is_sold_short_is_called_so():
    assert "short 0.125 BTC" in told("fill", position=-0.125).body
    assert "holding 0 BTC" in told("stop", position=0.0).body


def test_amounts_are_of_the_market_and_times_of_the_zone():
    assert "0.0123 BTC at 64,100.00 EUR" in render("fill", FIGURES, "BTC/EUR").title
    assert "14:00 CEST" in render("test", FIGURES, zone=BERLIN).body


@pytest.mark.parametrize("unknown", [math.nan, None, ""])
def test_a_figure_that_is_not_known_is_left_out(unknown):
    body = told("order", limit=unknown, stop=unknown, exposure=unknown).body
    assert body == "buy 0.0123 BTC · stop loss · o-17"


def test_a_long_text_is_cut():
    assert len(told("error", error="x" * 9_999).body) < 700


def test_an_unknown_kind_is_refused_with_the_nearest():
    with pytest.raises(InputError, match=r"'fil'. Did you mean 'fill'"):
        Notifier.render("fil", {})


def test_a_missing_figure_is_named():
    with pytest.raises(InputError, match=r"'drawdown' lacks the figure 'peak'; it needs drawdown, equity, peak"):
        Notifier.render("drawdown", {"drawdown": 0.1, "equity": 1.0, "timestamp": 0})


def test_a_figure_of_a_wrong_type_is_refused():
    with pytest.raises(InputError, match="'fill' is of a wrong type"):
        told("fill", price="many")


def test_kinds_are_those_of_the_table():
    assert set(Notifier.kinds()) == set(EVENTS)


# When it is told


def test_a_message_goes_to_every_channel(make):
    one, other = Fake("discord"), Fake("mail")
    notifier = make(one, other)
    send(notifier)
    assert notifier.work() == 0
    assert one.got == other.got == [told("fill")]


def test_a_kind_goes_where_the_settings_say(make):
    one, other = Fake("discord"), Fake("mail")
    notifier = make(one, other, channels={"error": ("mail",), "order": ()}, off=("signal",))
    for kind in ("error", "order", "signal"):
        send(notifier, kind)
    notifier.work()
    assert (one.titles, other.titles) == ([], ["Error in paper run"])


def test_the_same_event_is_told_once_even_after_a_restart(make, channel, clock):
    notifier = make()
    send(notifier, key="f-1")
    send(notifier, key="f-1")
    send(notifier, key="f-2")
    notifier.work()
    notifier.close()
    again = make()
    send(again, key="f-1")
    again.work()
    assert len(channel.got) == 2
    clock.now += 25 * HOUR
    send(again, key="f-1")
    again.work()
    assert len(channel.got) == 3


def test_events_without_a_key_are_all_told(make, channel):
    notifier = make()
    send(notifier)
    send(notifier)
    notifier.work()
    assert len(channel.got) == 2


def test_a_kind_cools_down_and_says_how_many_it_held_back(make, channel, clock):
    notifier = make(cooldown_min={"fill": 10})
    for _ in range(4):
        send(notifier)
    send(notifier, "order")
    notifier.work()
    assert channel.titles == [told("fill").title, "Order: limit"]
    clock.now += 600
    send(notifier)
    notifier.work()
    assert channel.got[-1].body == told("fill").body + " · and 3 more of the kind before"


def test_a_clock_set_back_silences_nothing(make, channel, clock):
    notifier = make(cooldown_min={"fill": 10}, per_minute=1)
    send(notifier, key="f")
    notifier.work()
    channel.outcomes = [Outcome(False, "down")]
    send(notifier, "order")
    clock.now += 61
    notifier.work()
    clock.now -= 100 * HOUR
    send(notifier, key="f")
    notifier.work()
    assert len(channel.got) == 2
    assert channel.titles[1].startswith("2 messages")  # the order and the later fill


def test_no_more_than_the_rate_goes_out_and_the_rest_comes_as_one_digest(make, channel, clock):
    notifier = make(per_minute=5)
    for _ in range(3):
        send(notifier)
    notifier.work()
    for number in range(40):
        send(notifier, "order", type=f"limit {number}")
    notifier.work()
    assert len(channel.got) == 4
    assert channel.titles[-1] == "40 messages since 15 May 12:00"
    send(notifier)
    notifier.work()
    send(notifier)
    assert 0 < notifier.work() <= 60
    assert len(channel.got) == 5
    clock.now += 60
    notifier.work()
    assert len(channel.got) == 6


def test_a_digest_is_bounded_and_counts_what_it_leaves_out():
    many = [(NOON + 60 * n, told("fill", order=f"o-{n}")) for n in range(300)]
    message = digest([*many, (NOON, told("error"))], 1_600, BERLIN)
    lines = message.body.splitlines()
    assert len(message.body) <= 1_600
    assert lines[0].startswith("15 May 14:00 Filled: buy 0.0123 BTC at 64,100.00 USDT: stop loss")
    assert lines[-1] == f"… and {301 - len(lines) + 1} more"
    assert message.level == "failure"


def test_a_digest_of_long_messages_tells_their_titles():
    message = digest([(NOON, told("error", error="x" * 550))] * 3, 1_600, BERLIN)
    assert message.body.splitlines() == ["15 May 14:00 Error in paper run"] * 3


@pytest.mark.parametrize(
    ("hours", "at", "left_h"),
    [
        ("22:00-07:00", "2024-05-15 21:59", 0),
        ("22:00-07:00", "2024-05-15 22:00", 9),
        ("22:00-07:00", "2024-05-16 06:00", 1),
        ("22:00-07:00", "2024-05-16 07:00", 0),
        ("12:00-13:30", "2024-05-15 13:00", 0.5),
        ("22:00-07:00", "2024-03-30 22:00", 8),  # the night in which summer time begins
        ("22:00-07:00", "2024-10-26 22:00", 10),  # and that in which it ends
        ("", "2024-05-15 22:00", 0),
    ],
)
def test_quiet_hours_are_local(hours, at, left_h):
    now = datetime.fromisoformat(at).replace(tzinfo=BERLIN).timestamp()
    assert quiet_for(now, hours, BERLIN) == left_h * HOUR


def test_quiet_hours_keep_all_but_what_is_urgent_and_end_with_a_digest(make, channel, clock):
    notifier = make(quiet_hours="22:00-07:00", time_zone="Europe/Berlin", urgent=("error",))
    clock.now = datetime(2024, 5, 15, 23, tzinfo=BERLIN).timestamp()
    send(notifier)
    send(notifier, "error")
    assert notifier.work() == 0
    assert notifier.work() == 8 * HOUR
    assert channel.titles == ["Error in paper run"]
    clock.now += HOUR
    send(notifier, "order")
    notifier.work()
    clock.now += 7 * HOUR
    notifier.work()
    assert channel.titles[1:] == ["2 messages since 15 May 23:00"]
    assert channel.got[1].body.splitlines()[1].startswith("16 May 00:00 Order: limit: buy 0.0123 BTC")


def test_a_single_late_message_says_of_when_it_is(make, channel, clock):
    notifier = make(quiet_hours="11:00-13:00")
    send(notifier)
    notifier.work()
    clock.now += HOUR
    notifier.work()
    assert channel.got == [Message("fill", told("fill").title, told("fill").body + " · of 15 May 12:00", "success")]


# A channel that fails


def test_pauses_double_after_each_failure_up_to_a_quarter_of_an_hour(make, channel, clock):
    notifier = make()
    channel.outcomes = [Outcome(False, "down")] * 12
    send(notifier)
    waits = []
    for _ in range(12):
        waits.append(notifier.work())
        clock.now += waits[-1]
    assert waits == [min(2.0 * 2**n, 900.0) for n in range(12)]
    notifier.work()
    assert len(channel.got) == 1
    channel.outcomes = [Outcome(False, "down")]
    send(notifier)
    assert notifier.work() == 2


def test_nothing_goes_out_during_a_pause(make, channel, clock):
    notifier = make()
    channel.outcomes = [Outcome(False, "down")]
    send(notifier)
    notifier.work()
    send(notifier)
    assert notifier.work() == 2
    clock.now += 2
    assert notifier.work() == 0
    assert len(channel.got) == 2


@pytest.mark.parametrize(("asked", "waits"), [(37.5, 37.5), (0.0, 2.0), (1e9, HOUR)])
def test_a_pause_that_the_channel_asks_for_is_kept_within_reason(make, channel, asked, waits):
    notifier = make()
    channel.outcomes = [Outcome(False, "too many", wait=asked)]
    send(notifier)
    assert notifier.work() == waits


def test_a_restart_tries_at_once_unless_the_channel_asked_for_a_pause(make, channel, clock):
    channel.outcomes = [Outcome(False, "down"), Outcome(False, "too many", wait=60.0)]
    notifier = make()
    send(notifier)
    notifier.work()
    assert make().work() == 60
    assert make().work() == 60
    clock.now += 60
    make().work()
    assert len(channel.got) == 1


def test_one_channel_does_not_hold_up_another(make):
    down, well = Fake("mail"), Fake("discord")
    down.outcomes = [Outcome(False, "down")] * 9
    notifier = make(down, well)
    send(notifier)
    notifier.work()
    assert (len(down.got), len(well.got)) == (0, 1)


def test_a_refused_message_is_given_up_and_the_next_says_so(make, channel):
    channel.outcomes = [Outcome(False, "answered 400", refused=True)]
    notifier = make()
    send(notifier)
    send(notifier, "order")
    notifier.work()
    send(notifier, "error")
    notifier.work()
    assert channel.titles == ["Order: limit", "Error in paper run"]
    assert "(1 older messages were given up" in channel.got[1].body
    send(notifier)
    notifier.work()
    assert "given up" not in channel.got[2].body


def test_the_queue_is_bounded_in_number_and_says_what_it_lost(make, channel, clock):
    notifier = make(most_waiting=3)
    channel.outcomes = [Outcome(False, "down")]
    for number in range(10):
        send(notifier, "order", type=f"limit {number}")
    notifier.work()
    clock.now += 2
    notifier.work()
    assert channel.titles == ["Order: limit 7", "Order: limit 8", "Order: limit 9"]
    assert "(7 older messages were given up" in channel.got[0].body


def test_the_queue_is_bounded_in_age(make, channel, clock):
    notifier = make(keep_h=1)
    channel.outcomes = [Outcome(False, "down")]
    send(notifier)
    notifier.work()
    clock.now += HOUR
    send(notifier, "order")
    notifier.work()
    assert channel.titles == ["Order: limit"]
    assert "(1 older messages were given up" in channel.got[0].body


def test_a_damaged_queue_is_put_aside(make, channel, tmp_path):
    notifier = make()
    (tmp_path / "queue.db").write_bytes(b"no database " * 500)
    send(notifier)
    notifier.work()
    assert len(channel.got) == 1
    assert (tmp_path / "queue.db.damaged").read_bytes().startswith(b"no database")


def test_a_disk_that_refuses_lets_what_is_urgent_through(make, channel, monkeypatch, caplog):
    notifier = make()

    def full(*_: object) -> None:
        raise StorageError("Cannot use queue.db: database or disk is full.")

    monkeypatch.setattr(notifier._outbox, "add", full)
    send(notifier)
    send(notifier, "error")
    notifier.work()
    assert channel.titles == ["Error in paper run"]
    assert "disk is full" in caplog.text


# What the caller notices: nothing


def test_send_never_raises_and_says_what_is_lost(make, channel, caplog):
    class Wrong:
        def __str__(self) -> str:
            raise RuntimeError(f"broken {SECRET}")

    notifier = make()
    notifier.send("fil", key="1")
    notifier.send("drawdown", drawdown=0.1)
    send(notifier, "error", error=Wrong())
    send(notifier)
    notifier.work()
    assert channel.titles == [told("fill").title]
    for said in ("Did you mean 'fill'", "lacks the figure", "broken (hidden)"):
        assert said in caplog.text
    assert SECRET not in caplog.text
    notifier.close()
    send(notifier)
    assert "after the notifier was closed" in caplog.text


def test_a_secret_in_a_figure_is_not_told(make, channel, tmp_path):
    notifier = make()
    send(notifier, "error", error=f"POST https://discord.com/api/webhooks/1/{SECRET} failed")
    notifier.work()
    assert channel.got[0].body == "POST https://discord.com/api/webhooks/1/(hidden) failed"


def test_without_a_channel_nothing_is_done(home):
    notifier = Notifier.from_settings()
    before = threading.active_count()
    send(notifier)
    notifier.close()
    assert threading.active_count() == before
    assert not (home / "data" / "notifications").exists()


def test_send_takes_less_than_a_millisecond_while_a_channel_hangs(tmp_path):
    hang = threading.Event()

    class Hanging(Fake):
        def deliver(self, message: Message) -> Outcome:
            hang.wait(20)
            return super().deliver(message)

    notifier = Notifier([Hanging()], NotificationSettings(), tmp_path)
    try:
        took = []
        for number in range(500):
            start = time.perf_counter()
            send(notifier, key=str(number))
            took.append(time.perf_counter() - start)
        start = time.perf_counter()
        notifier.close(0.3)
        closing = time.perf_counter() - start
    finally:
        hang.set()
    assert sum(took) / len(took) < 1e-3
    assert sorted(took)[450] < 1e-3
    assert closing < 2
    for thread in notifier._threads:
        thread.join(10)
        assert not thread.is_alive()


def test_close_delivers_what_was_just_sent(tmp_path):
    channel = Fake()
    with Notifier([channel], NotificationSettings(), tmp_path) as notifier:
        send(notifier)
        send(notifier, "stop")
    assert channel.titles == [told("fill").title, "Paper trading stopped"]
    assert not any(thread.is_alive() for thread in notifier._threads)


def test_two_processes_on_one_queue_deliver_each_message_once(tmp_path):
    one, other = Fake(), Fake()
    rules = NotificationSettings(per_minute=60)
    both = [Notifier([channel], rules, tmp_path) for channel in (one, other)]
    for number in range(20):
        send(both[number % 2], "order", key=str(number), type=f"limit {number:02}")
    for notifier in both:
        notifier.close(10)
    assert sorted(one.titles + other.titles) == [f"Order: limit {number:02}" for number in range(20)]


def test_a_kill_loses_nothing_that_was_queued(tmp_path):
    script = (
        "import os, signal, time\n"
        "from pathlib import Path\n"
        "from btclab.operations.channels import Channel\n"
        "from btclab.operations.notify import Notifier\n"
        "from btclab.settings import NotificationSettings\n"
        "channel = Channel('discord', 'json://127.0.0.1:9/', 1.0)\n"
        f"notifier = Notifier([channel], NotificationSettings(), Path({str(tmp_path)!r}))\n"
        "for number in range(30):\n"
        "    notifier.send('error', where=str(number), error='killed')\n"
        "    while number == 20 and len(notifier._outbox.all_waiting()) <= 20: time.sleep(0.01)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    script = script.replace("NotificationSettings()", "NotificationSettings(cooldown_min={'error': 0})")
    done = subprocess.run([sys.executable, "-c", script], check=False, timeout=40, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    channel = Fake()
    notifier = Notifier([channel], NotificationSettings(per_minute=60), tmp_path, threaded=False)
    notifier.work()
    assert channel.titles[:21] == [f"Error in {number}" for number in range(21)]
    assert outbox_in(tmp_path, NotificationSettings()).all_waiting() == []


# Channels over a loopback server


class Post(BaseHTTPRequestHandler):
    """Answers as the list `server.moods` says, then 204: a status, a tuple of status, headers and body, 'silent' or 'drip'."""

    server: Any

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.got.append((time.monotonic(), self.path, json.loads(body)))
        mood = self.server.moods.pop(0) if self.server.moods else 204
        if mood == "silent":
            self.server.end.wait(20)
            self.close_connection = True
            return
        status, headers, text = mood if isinstance(mood, tuple) else (mood, {}, "")
        self.send_response(200 if status == "drip" else status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", "1000" if status == "drip" else str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())
        while status == "drip" and not self.server.end.wait(0.05):
            try:
                self.wfile.write(b".")
            except OSError:
                return

    def log_message(self, *_: object) -> None:
        """Silent."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A server on this machine; Discord's webhooks are addressed to it, too."""
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Post)
    server.moods, server.got, server.end = [], [], threading.Event()
    monkeypatch.setattr(NotifyDiscord, "notify_url", f"http://127.0.0.1:{server.server_port}/api/webhooks")
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.end.set()
    server.shutdown()
    server.server_close()
    thread.join(10)


def plain(server: Any, timeout_s: float = 5.0) -> Channel:
    return Channel("hook", f"json://127.0.0.1:{server.server_port}/{SECRET}", timeout_s)


def discord(timeout_s: float = 5.0) -> Channel:
    return Channel("discord", f"https://discord.com/api/webhooks/123456789/{SECRET}", timeout_s)


def test_a_service_is_given_title_text_and_level(server):
    assert plain(server).deliver(told("fill")) == Outcome(True)
    _, path, content = server.got[0]
    assert path == f"/{SECRET}"
    assert (content["title"], content["message"], content["type"]) == (told("fill").title, told("fill").body, "success")


def test_discord_is_given_markdown_that_shows_figures_as_they_are(server):
    text = Message("error", "Error in stop_limit", "a_b * `c` @everyone", "failure")
    assert discord().deliver(text) == Outcome(True)
    _, path, content = server.got[0]
    assert path.startswith(f"/api/webhooks/123456789/{SECRET}")
    assert content["content"] == "**Error in stop\\_limit**\r\na\\_b \\* \\`c\\` @\u200beveryone"
    assert "avatar_url" not in content


def test_a_long_digest_fits_into_discord(server):
    channel = discord()
    many = digest([(NOON, told("order", order="_" * 40))] * 100, channel.most_characters, BERLIN)
    assert channel.deliver(many).delivered
    assert len(server.got) == 1
    assert len(server.got[0][2]["content"]) <= 2_000


LIMITED = json.dumps({"message": "You are being rate limited.", "retry_after": 1.5, "global": False})


@pytest.mark.parametrize("service", ["discord", "plain"])
@pytest.mark.parametrize(
    ("mood", "wait"),
    [
        ((429, {"Retry-After": "7"}, ""), 7.0),
        ((429, {}, LIMITED), 1.5),
        ((429, {}, json.dumps({"parameters": {"retry_after": 5}})), 5.0),  # as Telegram says it
        ((429, {}, "slow down"), None),
        ((429, {"Retry-After": "soon"}, ""), None),
        ((503, {"Retry-After": "3"}, ""), 3.0),
    ],
)
def test_a_full_channel_is_asked_once_and_how_long_to_wait_is_heard(server, service, mood, wait):
    server.moods = [mood]
    outcome = (discord() if service == "discord" else plain(server)).deliver(told("fill"))
    assert not outcome.delivered and not outcome.refused
    assert outcome.wait == wait
    assert f"answered {mood[0]}" in outcome.why
    assert wait is None or f"asks to wait {wait:.1f} s" in outcome.why
    assert len(server.got) == 1


def test_a_date_as_retry_after_is_understood(server):
    server.moods = [(429, {"Retry-After": format_datetime(datetime.now(UTC) + timedelta(seconds=90))}, "")]
    assert plain(server).deliver(told("fill")).wait == pytest.approx(90, abs=3)


def test_discords_used_up_limit_is_waited_for_in_the_queue_and_not_in_a_thread(server):
    reset = str(int(time.time()) + 3_000)
    server.moods = [(204, {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": reset}, "")]
    channel = discord()
    assert channel.deliver(told("fill")).delivered
    start = time.monotonic()
    outcome = channel.deliver(told("fill"))
    assert time.monotonic() - start < 1
    assert not outcome.delivered
    assert outcome.wait == pytest.approx(3_000, abs=30)
    assert len(server.got) == 1


@pytest.mark.parametrize("service", ["discord", "plain"])
@pytest.mark.parametrize(
    ("mood", "why", "refused"),
    [
        (500, "answered 500", False),
        (404, "answered 404; there is no such address (any more)", False),
        (400, "answered 400", True),
        ("silent", "no complete answer within 0.3 s", False),
        (("drip", {}, ""), "no complete answer within 0.3 s", False),
    ],
)
def test_a_failure_says_why_in_bounded_time(server, service, mood, why, refused):
    server.moods = [mood]
    start = time.monotonic()
    outcome = (discord(0.3) if service == "discord" else plain(server, 0.3)).deliver(told("fill"))
    assert time.monotonic() - start < 3
    assert outcome == Outcome(False, why, refused=refused)


@pytest.mark.parametrize("address", ["json://127.0.0.1:9/{}", "mailto://user:{}@127.0.0.1:9?from=a@b.org&to=c@d.org"])
def test_a_channel_that_cannot_be_reached_fails_without_its_secret(address):
    outcome = Channel("hook", address.format(SECRET), 1.0).deliver(told("fill"))
    assert not outcome.delivered
    assert outcome.why
    assert SECRET not in repr(outcome)


def test_a_message_comes_through_500_silence_and_429(server, tmp_path, monkeypatch):
    monkeypatch.setattr(notify, "FIRST_WAIT_S", 0.05)
    server.moods = [500, "silent", (429, {}, LIMITED)]
    notifier = Notifier([discord(0.3)], NotificationSettings(timeout_s=0.3), tmp_path)
    send(notifier)
    until = time.monotonic() + 15
    while len(server.got) < 4 and time.monotonic() < until:
        time.sleep(0.01)
    notifier.close()
    assert len(server.got) == 4
    assert len({content["content"] for _, _, content in server.got}) == 1
    assert server.got[3][0] - server.got[2][0] >= 1.5
    assert outbox_in(tmp_path, NotificationSettings()).all_waiting() == []


def test_no_part_of_an_address_is_ever_told(server, home, tmp_path, monkeypatch):
    """Everything that is logged (at DEBUG), raised, shown or written while channels fail in every way."""
    port = server.server_port
    hook = f"json://user:Pa55word-{SECRET}@127.0.0.1:{port}/path-{SECRET}"
    (home / ".env").write_text(
        f"BTCLAB_NOTIFICATIONS__SECRET_URLS__DISCORD=https://discord.com/api/webhooks/1234567890123/{SECRET}\n"
        f"BTCLAB_NOTIFICATIONS__SECRET_URLS__HOOK={hook}\n"
        f"BTCLAB_NOTIFICATIONS__SECRET_URLS__DOWN=json://127.0.0.1:9/{SECRET}\n"
        "BTCLAB_NOTIFICATIONS__TIMEOUT_S=0.3\nBTCLAB_NOTIFICATIONS__PER_MINUTE=60\n"
    )
    monkeypatch.setattr(notify, "FIRST_WAIT_S", 0.01)
    heard = io.StringIO()
    listener = logging.StreamHandler(heard)
    root = logging.getLogger()
    root.addHandler(listener)
    monkeypatch.setattr(root, "level", logging.DEBUG)
    server.moods = [204, 204, 500, 404, "silent", (429, {"Retry-After": "0"}, ""), 400, (302, {"Location": hook}, "")]
    try:
        notifier = Notifier.from_settings()
        for number in range(12):
            send(notifier, "order", type=f"limit {number}")
            send(notifier, "error", error=f"cannot reach {hook}")
            time.sleep(0.05)
        notifier.close(2)
        shown = [repr(notifier), repr(settings()), repr(notifier._channels)]
        monkeypatch.setattr(NotifyDiscord, "send", lambda self, **_: 1 / 0 if not self else int(self.webhook_token))
        shown.append(repr(discord().deliver(told("fill"))))
    finally:
        root.removeHandler(listener)
    folder = folder_of(settings())
    written = {path: path.read_bytes().decode("latin1") for path in folder.rglob("*") if path.is_file()}
    assert "not delivered" in heard.getvalue()
    assert any("queue.db" in str(path) for path in written)
    assert "ValueError" in shown[-1]
    everything = "\n".join([heard.getvalue(), *shown, *map(str, written), *written.values()])
    assert len(server.got) > 3
    for secret in (SECRET, "1234567890123", "Pa55word"):
        assert secret not in everything


def test_what_is_secret_in_an_address():
    found = secrets_in("mailtos://anna:p%40ssw0rd-1@mail.example.org/?to=bob@example.org")
    assert {"p%40ssw0rd-1", "p@ssw0rd-1"} <= set(found)
    assert "mail.example.org" not in found
    found = secrets_in(f"https://discord.com/api/webhooks/123456789/{SECRET}")
    assert {"123456789", SECRET} <= set(found)
    assert not {"discord.com", "webhooks"} & set(found)


@pytest.mark.parametrize(
    ("url", "service"),
    [
        (f"https://discord.com/api/webhooks/123456789/{SECRET}", "Discord"),
        ("tgram://123456789:AbCdEfGhIjKlMnOpQrStUvWxYz012345678/-100123456", "Telegram"),
        ("https://hooks.slack.com/services/T1234567A/B1234567A/abcdefghijklmnopqrstuvwx", "Slack"),
        ("mailtos://anna:password1@gmx.de", "E-Mail"),
    ],
)
def test_the_forms_that_are_advised_are_read(url, service):
    channel = Channel("mine", url, 1.0)
    assert channel.service == service
    assert repr(channel) == f"Channel('mine', '{service}')"


@pytest.mark.parametrize(
    "url", [f"tgrm://1:{SECRET}/2", f"https://discrd.com/api/webhooks/1/{SECRET}", SECRET, "https://["]
)
def test_an_address_that_is_none_is_refused_without_it(url):
    with pytest.raises(InputError, match=r"channel 'mine' is none.*BTCLAB_NOTIFICATIONS__SECRET_URLS__MINE") as caught:
        Channel("mine", url, 1.0)
    assert SECRET not in str(caught.value)


# Settings


def test_a_line_in_dotenv_is_a_channel(home):
    (home / ".env").write_text(
        f"BTCLAB_NOTIFICATIONS__SECRET_URLS__DISCORD=discord://123456789/{SECRET}\n"
        "BTCLAB_NOTIFICATIONS__SECRET_URLS__my_mail=mailtos://anna:password1@gmx.de\n"
    )
    own = settings()
    assert list(own.notifications.secret_urls) == ["discord", "my_mail"]
    assert SECRET not in repr(own) + own.model_dump_json()
    notifier = Notifier.from_settings(threaded=False)
    assert repr(notifier) == "Notifier(discord, my_mail)"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('quiet_hours = "22-25"', "write it like 22:00-07:00"),
        ('quiet_hours = "07:00-07:00"', "write it like 22:00-07:00"),
        ('time_zone = "Berlin"', "write it like Europe/Berlin"),
        ("per_minute = 0", "per_minute = 0"),
        ('secret_urls = { "a/b" = "json://localhost" }', "a-z, 0-9, _ and -"),
    ],
)
def test_a_wrong_setting_is_named(home, line, said):
    (home / "data").mkdir(exist_ok=True)
    (home / "data" / "config.toml").write_text(f"[notifications]\n{line}\n")
    with pytest.raises(InputError, match=re.escape(said)):
        settings()


@pytest.mark.parametrize(
    "line",
    [
        'telegram = "tgram://1:{}/2"',
        'urgent = "tgram://1:{}/2"',
        'secret_urls = "tgram://1:{}/2"',
        'secret_urls = ["tgram://1:{}/2"]',
        'channels = {{ fill = "tgram://1:{}/2" }}',
        'channels = {{ fill = [["tgram://1:{}/2"]] }}',
        'quiet_hours = "tgram://1:{}/2"',
    ],
)
def test_a_misplaced_address_is_not_repeated(home, line):
    (home / "data").mkdir(exist_ok=True)
    (home / "data" / "config.toml").write_text(f"[notifications]\n{line.format(SECRET)}\n")
    with pytest.raises(InputError) as caught:
        settings()
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("name", ["CHANNELS", "OFF", "SECRET_URLS", "URGENT", "DISCORD"])
def test_a_misplaced_address_in_the_environment_is_not_repeated(monkeypatch, name):
    monkeypatch.setenv(f"BTCLAB_NOTIFICATIONS__{name}", f"tgram://1:{SECRET}/2")
    with pytest.raises(InputError) as caught:
        settings()
    assert SECRET not in str(caught.value)
    assert name.lower() in str(caught.value).lower()


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ({"off": ("fils",)}, r"Unknown kind of notification: 'fils'. Did you mean 'fill'.*notifications.off"),
        ({"urgent": ("oops",)}, r"notifications.urgent"),
        ({"cooldown_min": {"error": -1.0}}, r"cooldown_min for error is -1.0"),
        ({"channels": {"error": ("discrod",)}}, r"'discrod'. Did you mean 'discord'.*notifications.channels for error"),
    ],
)
def test_rules_that_name_what_does_not_exist_are_refused(make, rules, said):
    with pytest.raises(InputError, match=said):
        make(**rules)


# Thresholds


def test_a_price_move_is_measured_from_the_price_that_was_last_told():
    watch = Watch(NotificationSettings(price_move_pct=3), 10_000)
    prices = [100.0, 102.0, 103.5, 104.0, 106.0, 107.0, 103.0]
    found = {n: event for n, price in enumerate(prices) for event in watch.step(n, price, 10_000)}
    assert list(found) == [2, 5, 6]
    assert found[2][2] == {"change": pytest.approx(0.035), "before": 100.0, "price": 103.5, "timestamp": 2}
    assert found[6][2]["change"] == pytest.approx(103 / 107 - 1)


def test_profit_and_drawdown_are_told_once_a_multiple():
    watch = Watch(NotificationSettings(profit_pct=5, drawdown_pct=5), 1_000)
    path = [1_000, 1_051, 1_049, 1_052, 1_110, 1_049, 1_040, 940, 940, 1_060, 1_120, 1_060]
    told_at = [(n, kind) for n, equity in enumerate(path) for kind, _, _ in watch.step(n, 100.0, equity)]
    assert told_at == [
        (1, "profit"),
        (4, "profit"),
        (5, "drawdown"),
        (7, "profit"),
        (7, "drawdown"),
        (11, "drawdown"),
    ]


def test_what_watch_finds_can_be_rendered_and_has_a_key_that_lasts():
    rules = NotificationSettings()
    found = [Watch(rules, 1_000, peak=2_000).step(NOON_NS, 100.0, 1_500.0) for _ in range(2)]
    assert [kind for kind, _, _ in found[0]] == ["profit", "drawdown"]
    assert [key for _, key, _ in found[0]] == [key for _, key, _ in found[1]]
    messages = [render(kind, figures) for kind, _, figures in found[0]]
    assert messages[0].title == "Profit and loss +50.00 %"
    assert messages[1].body == "equity 1,500.00 USDT, at its highest 2,000.00 USDT · bar of 2024-05-15 12:00 UTC"


NOON_NS = int(NOON * 1e9)


def test_threads_end_with_the_process_even_if_nobody_closes(tmp_path):
    script = (
        "from pathlib import Path\n"
        "from btclab.operations.channels import Channel\n"
        "from btclab.operations.notify import Notifier\n"
        "from btclab.settings import NotificationSettings\n"
        f"n = Notifier([Channel('d', 'json://127.0.0.1:9/', 1.0)], NotificationSettings(), Path({str(tmp_path)!r}))\n"
        "n.send('error', where='here', error='there')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], timeout=40, capture_output=True, text=True, check=True)
    assert "Traceback" not in done.stderr
    assert (tmp_path / "queue.db").exists()
