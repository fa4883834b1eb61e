"""Notifications: what happens is told to the user's channels, and nothing that they do holds up the caller.

`Notifier.send` hands an event to a thread and returns. The thread renders it and writes it to the queue on disk
(`data/notifications/queue.db`); one thread a channel delivers from there. So a channel that is slow, full or gone holds up
itself alone, and what it has not taken is delivered later, by the next process if need be. A message may come twice (a kill
between its delivery and the note of it), and is lost only if it is too old, refused, or one too many; the next one says how
many were.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from datetime import datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any, Protocol
from zoneinfo import ZoneInfo

from filelock import FileLock, Timeout
from pydantic import SecretStr

from btclab.errors import BtclabError, InputError, StorageError, unknown
from btclab.operations.channels import Channel, Outcome, hidden
from btclab.operations.messages import EVENTS, UTC, Message, dated, digest, render
from btclab.operations.outbox import Entry, Outbox, State, Waiting
from btclab.settings import NotificationSettings, Settings, dotenv_path, quiet_span, settings

LATE_S = 120.0  # what has waited longer is told in one digest
FIRST_WAIT_S, MOST_WAIT_S = 2.0, 900.0  # after a failure: doubled each time, up to this
MOST_ASKED_S = 3600.0  # a channel that asks for a longer pause is tried again after this one
IDLE_S = 30.0  # a look at the queue, which another process may have filled
TURN_S = 1.0  # until another process has delivered
INBOX = 10_000  # events that wait to be written; more can only mean that the disk hangs

Sent = tuple[str, str, dict[str, Any], float]  # kind, key, figures, s since 1970

_log = logging.getLogger(__name__)


class Delivers(Protocol):
    """What a `Channel` can do."""

    @property
    def name(self) -> str: ...
    @property
    def secrets(self) -> tuple[str, ...]: ...
    @property
    def most_characters(self) -> int: ...
    def deliver(self, message: Message) -> Outcome: ...


class Notifier:
    """Tells events to channels, by the rules of the settings. Without a channel it does nothing.

    `clock` gives s since 1970. `threaded=False` is for tests: nothing happens until `work` is called.
    """

    def __init__(
        self,
        channels: Iterable[Delivers],
        rules: NotificationSettings,
        folder: Path,
        *,
        symbol: str = "BTC/USDT",
        secrets: Iterable[str] = (),
        clock: Callable[[], float] = time.time,
        threaded: bool = True,
    ) -> None:
        """Raises `InputError` for a kind or channel in `rules` that does not exist."""
        self._channels = {channel.name: channel for channel in channels}
        self._rules, self._folder, self._symbol, self._clock = rules, folder, symbol, clock
        check_rules(rules, set(self._channels))
        self._zone: tzinfo = ZoneInfo(rules.time_zone)
        self._secrets = (*secrets, *(secret for one in self._channels.values() for secret in one.secrets))
        self._outbox = outbox_in(folder, rules)
        self._inbox: queue.Queue[Sent | None] = queue.Queue(INBOX)  # None wakes the writer
        self._closing, self._written = threading.Event(), threading.Event()
        self._wake = {name: threading.Event() for name in self._channels}
        self._threads: list[threading.Thread] = []
        if self._channels:
            self._start(threaded)

    @classmethod
    def from_settings(cls, clock: Callable[[], float] = time.time, threaded: bool = True) -> Notifier:
        """The notifier of the settings. Raises `InputError` if they name what does not exist or an address that is none."""
        own = settings()
        return cls(
            open_channels(own.notifications),
            own.notifications,
            folder_of(own),
            symbol=own.market.symbol,
            secrets=_secrets(own),
            clock=clock,
            threaded=threaded,
        )

    @staticmethod
    def kinds() -> tuple[str, ...]:
        """The kinds of events that can be sent."""
        return tuple(EVENTS)

    @staticmethod
    def render(kind: str, figures: Mapping[str, Any], symbol: str = "BTC/USDT", zone: tzinfo = UTC) -> Message:
        """What `send` would tell. Raises `InputError` for an unknown kind and for a figure that is missing or wrong."""
        return render(kind, figures, symbol, zone)

    def send(self, kind: str, key: str = "", **figures: Any) -> None:
        """Tell an event. Returns at once (well under 1 ms) and never raises: what is wrong is logged.

        `figures` fill the kind's template (`messages.EVENTS`); `key` names the event (an order's id, a bar's time): the same
        kind and key is told once.
        """
        try:
            if self._closing.is_set():
                _log.error("the notification %r came after the notifier was closed, and is lost", kind)
            elif self._channels and kind not in self._rules.off:
                self._inbox.put_nowait((kind, key, figures, self._clock()))
        except Exception as error:  # noqa: BLE001  trading goes on whatever is wrong here
            _log.error(
                "the notification %r is lost: %s", kind, hidden(f"{type(error).__name__} {error}", self._secrets)
            )

    def close(self, timeout: float = 5.0) -> None:
        """Write what was sent to disk, deliver what can be delivered within `timeout` (s), and end. The rest stays on disk."""
        if self._closing.is_set():
            return
        self._closing.set()
        with suppress(queue.Full):  # then the writer is awake
            self._inbox.put_nowait(None)
        until = time.monotonic() + timeout
        for thread in self._threads:  # the writer comes first, and wakes the others
            thread.join(max(0.0, until - time.monotonic()))
        if not self._threads:
            self._write(self._taken(wait=False))

    def __enter__(self) -> Notifier:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Notifier({', '.join(self._channels) or 'no channel'})"

    def work(self) -> float:
        """Write what was sent and deliver what is due, in this thread. Returns the seconds until there may be more to do."""
        self._write(self._taken(wait=False))
        return min((self._deliver(name) for name in self._channels), default=IDLE_S)

    # Writing

    def _start(self, threaded: bool) -> None:
        try:
            self._outbox.try_again()
        except StorageError as error:
            _log.error("notifications are not kept on disk: %s", error)
        if threaded:
            works: list[tuple[Callable[..., None], tuple[str, ...]]] = [(self._keep_writing, ())]
            works += [(self._keep_delivering, (name,)) for name in self._channels]
            self._threads = [threading.Thread(target=work, args=rest, daemon=True) for work, rest in works]
            for thread in self._threads:
                thread.start()

    def _keep_writing(self) -> None:
        while not self._written.is_set():
            last = self._closing.is_set()  # looked at before the inbox: what was sent before closing is in it
            try:
                self._write(self._taken(wait=not last))
            except Exception as error:  # noqa: BLE001  the thread must not end while events come
                self._complain("notifications are lost", error)
            if last:
                self._written.set()
        self._wake_all()

    def _taken(self, wait: bool) -> list[Sent]:
        """All that was sent; with `wait`, it waits for the first."""
        found: list[Sent | None] = [self._inbox.get()] if wait else []
        with suppress(queue.Empty):
            while True:
                found.append(self._inbox.get_nowait())
        return [one for one in found if one is not None]

    def _wake_all(self) -> None:
        for wake in self._wake.values():
            wake.set()

    def _write(self, events: list[Sent]) -> None:
        entries = []
        for kind, key, figures, at in events:
            try:
                entries.append(self._entry(kind, key, figures, at))
            except Exception as error:  # noqa: BLE001  a figure may be anything; the other events are told
                self._complain(f"the notification {kind!r} is not told", error)
        if not entries:
            return
        try:
            self._outbox.add(entries)
        except StorageError as error:
            self._complain("only what is urgent is told, and once", error)
            for entry in filter(lambda one: one.urgent, entries):  # a full disk is what one wants to hear of
                for name in entry.channels:
                    self._channels[name].deliver(entry.message)
        self._wake_all()

    def _entry(self, kind: str, key: str, figures: dict[str, Any], at: float) -> Entry:
        message = render(kind, figures, self._symbol, self._zone)
        title, body = hidden(message.title, self._secrets), hidden(message.body, self._secrets)
        return Entry(
            Message(kind, title, body, message.level),
            at,
            self._rules.channels.get(kind, tuple(self._channels)),
            key,
            kind in self._rules.urgent,
            60 * cooldown_min(kind, self._rules),
        )

    # Delivering

    def _keep_delivering(self, name: str) -> None:
        while True:
            last = self._written.is_set()
            try:
                wait = self._deliver(name)
            except Exception as error:  # noqa: BLE001  the thread must not end while messages wait
                self._complain(f"{name}: nothing is delivered", error)
                wait = IDLE_S
            if last and wait > 0:
                return
            self._wake[name].wait(min(wait, IDLE_S))
            self._wake[name].clear()

    def _deliver(self, name: str) -> float:
        """Deliver what is due to one channel. Returns the seconds until it should be looked at again."""
        try:
            with FileLock(self._folder / f"{name}.lock", timeout=0):  # it is freed when its process dies
                return self._deliver_alone(name)
        except Timeout:
            return TURN_S

    def _deliver_alone(self, name: str) -> float:
        now = self._clock()
        quiet_s = quiet_for(now, self._rules.quiet_hours, self._zone)
        rows = self._outbox.waiting(name, now, urgent_only=quiet_s > 0)
        if not rows:
            return quiet_s or IDLE_S
        state = self._outbox.state(name)
        if now < state.due <= now + MOST_ASKED_S:  # later can only mean that the clock was set back
            return state.due - now
        sent = self._outbox.sent_within(name, now, 60)
        room = self._rules.per_minute - len(sent)
        if room <= 0:
            return sent[0] + 60 - now
        for told, message in self._parts(name, rows, state, now, room):
            ids = [row.id for row in told]
            outcome = self._channels[name].deliver(message)
            if outcome.delivered:
                self._outbox.delivered(name, ids, self._clock(), state.lost)
                state = State()
            elif outcome.refused:
                _log.warning("%s: the message %r is refused: %s", name, message.kind, outcome.why)
                self._outbox.refused(name, ids)
            else:
                wait = max(min(outcome.wait or 0.0, MOST_ASKED_S), min(FIRST_WAIT_S * 2**state.failures, MOST_WAIT_S))
                _log.warning("%s: not delivered: %s; tried again in %.0f s", name, outcome.why, wait)
                self._outbox.failed(name, self._clock() + wait, outcome.why, outcome.wait is not None)
                return wait
        return 0.0

    def _parts(
        self, name: str, rows: list[Waiting], state: State, now: float, room: int
    ) -> list[tuple[list[Waiting], Message]]:
        """What is sent: fresh messages one by one, late ones as a digest, all as one if there are more than `room`."""
        late = [row for row in rows if now - row.at > LATE_S]
        fresh = [row for row in rows if now - row.at <= LATE_S]
        groups = ([late] if late else []) + [[row] for row in fresh]
        if len(groups) > room:
            groups = [rows]
        most = self._channels[name].most_characters
        parts = []
        for group in groups:
            first = group[0]
            if len(group) > 1:
                message = digest([(row.at, row.message) for row in group], most, self._zone)
            else:
                message = dated(first.message, first.at, self._zone) if first in late else first.message
            parts.append((group, message))
        if state.lost:
            group, message = parts[0]
            lost = f"\n({state.lost:,} older messages were given up: too old, too many, or refused.)"
            parts[0] = group, Message(message.kind, message.title, message.body + lost, message.level)
        return parts

    def _complain(self, what: str, error: Exception) -> None:
        said = str(error) if isinstance(error, BtclabError) else f"{type(error).__name__}: {error}"
        _log.error("%s: %s", what, hidden(said, self._secrets))


class Watch:
    """Which thresholds of the settings a new close and the equity pass; feed it once a closed bar and send what it returns.

    `start` is the equity with which the account began and `peak` its highest so far, both in quote currency.
    """

    def __init__(self, rules: NotificationSettings, start: float, peak: float | None = None) -> None:
        self._rules, self._start = rules, start
        self._peak = max(start, peak or start)
        self._price: float | None = None
        self._fallen = self._best = self._worst = 0  # multiples of the thresholds that are told

    def step(self, timestamp: int, price: float, equity: float) -> list[tuple[str, str, dict[str, Any]]]:
        """Kind, key and figures of each event at the close of the bar `timestamp` (its open time, ns since 1970).

        A price move is measured from the price that was last told (first: the first price seen); profit or loss and drawdown
        are told when they pass a multiple of their threshold that they had not passed before.
        """
        found: list[tuple[str, str, dict[str, Any]]] = []
        self._price = price if self._price is None else self._price
        change = price / self._price - 1
        if 100 * abs(change) >= self._rules.price_move_pct:
            found.append(("price_move", str(timestamp), {"change": change, "before": self._price, "price": price}))
            self._price = price
        change = equity / self._start - 1
        passed = int(100 * change / self._rules.profit_pct)  # towards 0
        if passed > self._best or passed < self._worst:
            self._best, self._worst = max(self._best, passed), min(self._worst, passed)
            key = f"{self._start:.2f}:{passed}"
            found.append(("profit", key, {"change": change, "pnl": equity - self._start, "equity": equity}))
        if equity > self._peak:
            self._peak, self._fallen = equity, 0
        drawdown = 1 - equity / self._peak
        passed = int(100 * drawdown / self._rules.drawdown_pct)
        if passed > self._fallen:
            self._fallen = passed
            key = f"{self._peak:.2f}:{passed}"
            found.append(("drawdown", key, {"drawdown": drawdown, "peak": self._peak, "equity": equity}))
        return [(kind, key, {**figures, "timestamp": timestamp}) for kind, key, figures in found]


def quiet_for(now: float, hours: str, zone: tzinfo) -> float:
    """Seconds until the quiet `hours` (e.g. '22:00-07:00', local time) end; 0 if it is not quiet at `now` (s since 1970)."""
    span = quiet_span(hours)
    if span is None:
        return 0.0
    begin, end = span
    here = datetime.fromtimestamp(now, zone)
    at = here.time()
    if not (begin <= at < end if begin < end else at >= begin or at < end):
        return 0.0
    day = here.date() + timedelta(days=int(at >= end))
    return max(0.0, datetime.combine(day, end, zone).timestamp() - now)


def cooldown_min(kind: str, rules: NotificationSettings) -> float:
    """Minutes from one message of a kind to the next."""
    return rules.cooldown_min.get(kind, EVENTS[kind].cooldown_min)


def open_channels(rules: NotificationSettings, only: str | None = None) -> list[Channel]:
    """The configured channels, or the one called `only`. Raises `InputError` if there is none such, or an address is none."""
    urls = rules.secret_urls
    if only is not None and urls and only not in urls:
        raise unknown("channel", only, sorted(urls), f"Each is a line of {dotenv_path()}.")
    chosen = urls if only is None else {name: url for name, url in urls.items() if name == only}
    return [Channel(name, url.get_secret_value(), rules.timeout_s) for name, url in chosen.items()]


def folder_of(own: Settings) -> Path:
    """Where the queue lies."""
    return own.data / "notifications"


def outbox_in(folder: Path, rules: NotificationSettings) -> Outbox:
    """The queue on disk."""
    return Outbox(folder / "queue.db", same_s=3600 * rules.same_h, keep_s=3600 * rules.keep_h, most=rules.most_waiting)


def check_rules(rules: NotificationSettings, names: set[str]) -> None:
    """Raises `InputError` naming the setting that names a kind or channel that does not exist."""
    for setting in ("off", "urgent", "channels", "cooldown_min"):
        for kind in getattr(rules, setting):
            if kind not in EVENTS:
                raise unknown("kind of notification", kind, list(EVENTS), f"Set as notifications.{setting}.")
    for kind, chosen in rules.channels.items():
        for name in chosen:
            if names and name not in names:
                raise unknown("channel", name, names, f"Set as notifications.channels for {kind}.")
    for kind, minutes in rules.cooldown_min.items():
        if not 0 <= minutes < float("inf"):
            raise InputError(f"notifications.cooldown_min for {kind} is {minutes!r}; write minutes, at least 0.")


def _secrets(own: Settings) -> list[str]:
    """All that is secret in the settings: an error that quotes one is told without it."""
    held: list[object] = []
    for name in Settings.model_fields:
        for value in vars(getattr(own, name)).values() if name != "home" else ():
            held += list(value.values()) if isinstance(value, dict) else [value]
    return [value.get_secret_value() for value in held if isinstance(value, SecretStr)]
