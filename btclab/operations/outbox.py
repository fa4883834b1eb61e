"""The messages that are still to be delivered, on disk: a small SQLite file that survives a kill at any moment.

It holds the names of channels, never their addresses. Several processes may share it. Every method is one transaction.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from btclab.errors import StorageError
from btclab.operations.messages import Message

VERSION = 1
MOST_AT_ONCE = 200  # messages of a channel that are looked at in one go
BUSY_S = 10.0  # how long another process may be writing
_SCHEMA = """
CREATE TABLE IF NOT EXISTS waiting (id INTEGER PRIMARY KEY, channel TEXT NOT NULL, at REAL NOT NULL, urgent INTEGER NOT NULL,
    kind TEXT NOT NULL, title TEXT NOT NULL, body TEXT NOT NULL, level TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS by_channel ON waiting (channel, id);
CREATE TABLE IF NOT EXISTS same (kind TEXT NOT NULL, key TEXT NOT NULL, at REAL NOT NULL, PRIMARY KEY (kind, key));
CREATE TABLE IF NOT EXISTS kind (name TEXT PRIMARY KEY, at REAL NOT NULL, held INTEGER NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS channel (name TEXT PRIMARY KEY, failures INTEGER NOT NULL DEFAULT 0, due REAL NOT NULL DEFAULT 0,
    asked INTEGER NOT NULL DEFAULT 0, why TEXT NOT NULL DEFAULT '', lost INTEGER NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS sent (channel TEXT NOT NULL, at REAL NOT NULL);
"""


@dataclass(frozen=True)
class Entry:
    """An event that is to be told: `at` s since 1970, to these `channels`; the same kind and `key` is told once."""

    message: Message
    at: float
    channels: tuple[str, ...]
    key: str = ""
    urgent: bool = False
    cooldown_s: float = 0.0


@dataclass(frozen=True)
class Waiting:
    """A message that waits for a channel."""

    id: int
    channel: str
    at: float
    message: Message


@dataclass(frozen=True)
class State:
    """How a channel does: failures in a row, when it is tried again (s since 1970), why it failed, messages given up."""

    failures: int = 0
    due: float = 0.0
    why: str = ""
    lost: int = 0


class Outbox:
    """The file at `path`, made when it is first written. All methods raise `StorageError` if the disk refuses.

    A message is given up when it is older than `keep_s`, or when more than `most` wait for its channel; `same_s` is how long
    a key is remembered.
    """

    def __init__(self, path: Path, *, same_s: float, keep_s: float, most: int) -> None:
        self.path, self._same_s, self._keep_s, self._most = path, same_s, keep_s, most

    def add(self, entries: Sequence[Entry]) -> None:
        """Keep what is to be told. What comes again too soon is counted, and the next message of its kind says how many."""
        with self._open() as db:
            for entry in entries:
                if (message := self._passed(db, entry)) is None:
                    continue
                db.executemany(
                    "INSERT INTO waiting (channel, at, urgent, kind, title, body, level) VALUES (?, ?, ?, ?, ?, ?, ?)",
                    [
                        (name, entry.at, entry.urgent, message.kind, message.title, message.body, message.level)
                        for name in entry.channels
                    ],
                )
            for name in {name for entry in entries for name in entry.channels}:
                found = db.execute(
                    "SELECT id FROM waiting WHERE channel = ? ORDER BY id DESC LIMIT -1 OFFSET ?", (name, self._most)
                )
                self._give_up(db, name, [row[0] for row in found])
            if entries:
                newest = max(entry.at for entry in entries)
                db.execute("DELETE FROM same WHERE at <= ?", (newest - self._same_s,))

    def _passed(self, db: sqlite3.Connection, entry: Entry) -> Message | None:
        """The message, unless it is told already or within its kind's cooldown; a time in the future is a clock set back."""
        message = entry.message
        if entry.key:
            row = db.execute("SELECT at FROM same WHERE kind = ? AND key = ?", (message.kind, entry.key)).fetchone()
            if row and 0 <= entry.at - row[0] < self._same_s:
                return None
        at, held = db.execute("SELECT at, held FROM kind WHERE name = ?", (message.kind,)).fetchone() or (None, 0)
        if at is not None and 0 <= entry.at - at < entry.cooldown_s:
            db.execute("UPDATE kind SET held = held + 1 WHERE name = ?", (message.kind,))
            return None
        if entry.key:
            db.execute("INSERT OR REPLACE INTO same VALUES (?, ?, ?)", (message.kind, entry.key, entry.at))
        db.execute("INSERT OR REPLACE INTO kind VALUES (?, ?, 0)", (message.kind, entry.at))
        more = f" · and {held:,} more of the kind before" if held else ""
        return Message(message.kind, message.title, message.body + more, message.level)

    def waiting(self, channel: str, now: float, urgent_only: bool = False) -> list[Waiting]:
        """What waits for a channel, oldest first, without what is too old."""
        with self._open() as db:
            old = db.execute("SELECT id FROM waiting WHERE channel = ? AND at <= ?", (channel, now - self._keep_s))
            self._give_up(db, channel, [row[0] for row in old])
            chosen = "SELECT id, channel, at, kind, title, body, level FROM waiting WHERE channel = ? AND urgent >= ?"
            rows = db.execute(f"{chosen} ORDER BY id LIMIT ?", (channel, int(urgent_only), MOST_AT_ONCE))
            return [_waiting(row) for row in rows]

    def all_waiting(self) -> list[Waiting]:
        """What waits for any channel."""
        with self._open() as db:
            rows = db.execute("SELECT id, channel, at, kind, title, body, level FROM waiting ORDER BY channel, id")
            return [_waiting(row) for row in rows]

    def state(self, channel: str) -> State:
        with self._open() as db:
            row = db.execute("SELECT failures, due, why, lost FROM channel WHERE name = ?", (channel,)).fetchone()
            return State(*row) if row else State()

    def sent_within(self, channel: str, now: float, seconds: float) -> list[float]:
        """When messages went to a channel in the last `seconds` (s since 1970), oldest first."""
        with self._open() as db:  # a time in the future is a clock set back
            db.execute("DELETE FROM sent WHERE channel = ? AND NOT (at > ? AND at <= ?)", (channel, now - seconds, now))
            return [row[0] for row in db.execute("SELECT at FROM sent WHERE channel = ? ORDER BY at", (channel,))]

    def delivered(self, channel: str, ids: Sequence[int], now: float, lost: int = 0) -> None:
        """These are told, and that `lost` others were given up."""
        with self._open() as db:
            db.executemany("DELETE FROM waiting WHERE id = ?", [(one,) for one in ids])
            db.execute("INSERT INTO sent VALUES (?, ?)", (channel, now))
            db.execute("INSERT OR IGNORE INTO channel (name) VALUES (?)", (channel,))
            well = "UPDATE channel SET failures = 0, due = 0, asked = 0, why = '', lost = lost - ? WHERE name = ?"
            db.execute(well, (lost, channel))

    def failed(self, channel: str, due: float, why: str, asked: bool) -> None:
        """The channel is tried again at `due`; `asked` if it has asked to be left alone until then."""
        with self._open() as db:
            db.execute("INSERT OR IGNORE INTO channel (name) VALUES (?)", (channel,))
            change = "UPDATE channel SET failures = failures + 1, due = ?, why = ?, asked = ? WHERE name = ?"
            db.execute(change, (due, why, asked, channel))

    def refused(self, channel: str, ids: Sequence[int]) -> None:
        """The channel will never take these messages; they are given up."""
        with self._open() as db:
            self._give_up(db, channel, ids)

    def try_again(self) -> None:
        """Failed channels are tried at once, but for those that have asked to be left alone: their addresses may be new."""
        with self._open() as db:
            db.execute("UPDATE channel SET due = 0 WHERE NOT asked")

    def clear(self) -> int:
        """Give up all that waits; returns how many messages that were."""
        with self._open() as db:
            return db.execute("DELETE FROM waiting").rowcount

    @staticmethod
    def _give_up(db: sqlite3.Connection, channel: str, ids: Sequence[int]) -> None:
        if ids:
            db.executemany("DELETE FROM waiting WHERE id = ?", [(one,) for one in ids])
            db.execute("INSERT OR IGNORE INTO channel (name) VALUES (?)", (channel,))
            db.execute("UPDATE channel SET lost = lost + ? WHERE name = ?", (len(ids), channel))

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """One transaction, taken for writing at once so that two processes wait for each other and never fail midway."""
        try:
            with closing(self._connect()) as db, db:
                yield db
        except (sqlite3.Error, OSError) as error:
            if type(error) is sqlite3.DatabaseError:
                self._set_aside()
            raise StorageError(
                f"Cannot use {self.path}: {error}. Check the folder's owner and the free space."
            ) from error

    def _connect(self) -> sqlite3.Connection:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            return self._begin()
        except sqlite3.DatabaseError as error:
            if type(error) is not sqlite3.DatabaseError:  # locked, full, read-only: the file itself is well
                raise
            self._set_aside()
            return self._begin()

    def _set_aside(self) -> None:
        """The file is damaged, or of another version: what waits in it is not worth a halt."""
        for end in ("", "-journal"):
            with suppress(FileNotFoundError):
                Path(f"{self.path}{end}").replace(f"{self.path}.damaged{end}")

    def _begin(self) -> sqlite3.Connection:
        db = sqlite3.connect(self.path, timeout=BUSY_S)
        try:
            db.execute("BEGIN IMMEDIATE")
            version = db.execute("PRAGMA user_version").fetchone()[0]
            if version == 0:
                for statement in filter(str.strip, _SCHEMA.split(";")):
                    db.execute(statement)
                db.execute(f"PRAGMA user_version = {VERSION}")
            elif version != VERSION:
                raise sqlite3.DatabaseError(f"version {version}, not {VERSION}")
        except BaseException:
            db.close()
            raise
        return db


def _waiting(row: tuple[int, str, float, str, str, str, str]) -> Waiting:
    number, channel, at, *words = row
    return Waiting(number, channel, at, Message(*words))
