"""Where a ledger lies: its address, connections, the lock of its writer, and what a database's errors mean.

SQLite is one file in WAL mode; beside it lie `….lock` and, for messages, `….pid`. PostgreSQL holds one ledger per schema
(`btclab.trading.ledger.postgres`).
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, OperationalError, ProgrammingError

from btclab.errors import BtclabError, InputError, LedgerError, StorageError
from btclab.settings import settings
from btclab.trading.ledger import postgres, tables

BUSY_S = 5.0  # seconds that a statement waits for another program's transaction


class WrongLedger(LedgerError, InputError):
    """The ledger that was named is another market's, another timeframe's, of another schema, or none at all."""


class LedgerBusy(LedgerError):
    """Another process writes to the ledger."""


def address(url: str | URL) -> tuple[URL, Path | None]:
    """The parsed `url`, and the file if it is SQLite's; a relative path begins at BTCLAB_HOME."""
    write = "Write sqlite:///data/ledger.db, or postgresql+psycopg://user@host/name."
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise InputError(f"The ledger's address is none. {write}") from None  # it may hold a password: not repeated
    backend = parsed.get_backend_name()
    if backend == "postgresql":
        return postgres.checked(parsed), None
    if backend != "sqlite":
        raise InputError(f"A ledger cannot lie in {backend}. {write}")
    if parsed.database in (None, "", ":memory:"):
        raise InputError(f"A database in memory is gone when the process ends; a ledger needs a file. {write}")
    path = (settings().home / Path(str(parsed.database)).expanduser()).resolve()  # two names of one file are one ledger
    return parsed.set(database=str(path)), path


class Database:
    """Connections to one ledger. The writer keeps one open, on which all of its rows are written."""

    def __init__(self, url: str | URL, writes: bool) -> None:
        self.url, self.file = address(url)
        self.name = str(self.file) if self.file else postgres.readable(self.url)
        self._writes = writes
        self._engine: Engine | None = None
        self._writer: Connection | None = None
        self._lock: FileLock | None = None
        self._held: object = None  # which ledger it is: the file's inode, PostgreSQL's number of the table
        self.opened = 0  # how many ledgers were opened: one more after each that was put in place of the last

    def connect(self) -> None:
        """Take the lock if this is the writer; raises `LedgerBusy` naming the process that holds it."""
        if self.file and self._writes:
            self._lock = _lock(self.file)
        elif self.file and not self.file.exists():
            raise WrongLedger(f"There is no ledger at {self.file}; `btclab paper run` begins one.")
        arguments = {"timeout": BUSY_S} if self.file else postgres.arguments(self.url)
        try:
            self._engine = create_engine(self.url, connect_args=arguments, pool_pre_ping=not self.file)
        except ImportError as error:
            raise InputError(f"{self.name} needs a driver: {error}. Type: pip install 'psycopg[binary]'") from None
        event.listen(self._engine, "connect", self._prepare if self.file else _prepare_postgres)
        if self.file:
            event.listen(self._engine, "begin", _begin)
        with self._meaning():
            if self._writes:
                self._writer = self._for_writing(self._engine)
                if not self.file and not postgres.lock_writer(self._writer):
                    holder = self.writer()  # None: it has just ended
                    raise _busy(self.name, f"process {holder}" if holder else "another process")
            if self.file:
                self._held = _inode(self.file)

    def _for_writing(self, engine: Engine) -> Connection:
        """A connection whose transactions see what others had committed when they took their turn."""
        options: dict[str, Any] = {"immediate": True} if self.file else {"isolation_level": "READ COMMITTED"}
        return engine.connect().execution_options(**options)

    def writer(self) -> str | None:
        """Who writes to a ledger in PostgreSQL, as "123 on its-machine" (process and host); None if nobody does."""
        with self.reading() as connection:
            return postgres.writer(connection)

    def _prepare(self, raw: sqlite3.Connection, _: object) -> None:
        raw.isolation_level = None  # transactions begin where `_begin` says
        if self._writes and (mode := raw.execute("PRAGMA journal_mode = WAL").fetchone()[0]) != "wal":
            raise StorageError(f"{self.file} cannot have a write-ahead log ({mode}); put it on a local disk.")
        for pragma in ("foreign_keys = ON", "synchronous = FULL", "fullfsync = ON"):
            raw.execute(f"PRAGMA {pragma}")

    def close(self) -> None:
        """Close all connections, then give back the lock."""
        if self._writer is not None:
            self._writer.close()
        if self._engine is not None:
            self._engine.dispose()
        if self._lock is not None:
            _pid_file(self.file).unlink(missing_ok=True)
            self._lock.release()
        self._writer = self._engine = self._lock = None

    def _following(self) -> Engine:
        """The engine; if the file was put aside by a reset or restore, from here on of the one that lies there now."""
        if self._engine is None:
            raise LedgerError(f"{self.name} was closed; open it again.")
        if self.file and not self._writes and self._held != (now := _inode(self.file)):
            if now is None:
                raise WrongLedger(f"There is no ledger at {self.file} any more; `btclab paper run` begins a new one.")
            self._engine.dispose()
            self._held, self.opened = now, self.opened + 1
        return self._engine

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """One consistent view of the ledger; waits for nobody."""
        engine = self._following()
        with self._meaning(), engine.connect() as connection:
            if not self.file:
                connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
                if not self._writes and self._held != (now := postgres.identity(connection)):
                    self._held, self.opened = now, self.opened + 1
            yield connection

    @contextmanager
    def writing(self, refusal: Callable[[Connection], str] | None = None, apart: bool = False) -> Iterator[Connection]:
        """One transaction: durable when the block has ended, undone if it fails.

        `refusal` says why the database refused a row. `apart` from the writer's connection, so that any process can.
        """
        engine = self._following()
        try:
            with self._meaning():
                if apart or self._writer is None:
                    with self._for_writing(engine) as connection, connection.begin():
                        yield connection
                elif self._writer.invalidated:  # a new connection would not hold the lock
                    raise StorageError(
                        f"{self.name}: the connection was lost, and the lock with it. Open the ledger again."
                    )
                else:
                    with self._writer.begin():
                        yield self._writer
        except LedgerError as error:
            if refusal and isinstance(error.__cause__, IntegrityError):
                with self.reading() as connection:
                    said = refusal(connection)
                raise LedgerError(f"{said} Nothing was written." if said else str(error)) from error.__cause__
            raise

    @contextmanager
    def _meaning(self) -> Iterator[None]:
        """Say what a database's error means and what to do."""
        try:
            yield
        except DBAPIError as error:
            raise self._said(error.orig, error) from error
        except sqlite3.Error as error:  # outside a statement: on connecting or copying
            raise self._said(error, None) from error

    def _said(self, error: BaseException | None, wrapped: DBAPIError | None) -> BtclabError:
        code = str(getattr(error, "sqlite_errorname", None) or getattr(error, "sqlstate", None) or "")
        primary = getattr(getattr(error, "diag", None), "message_primary", None)  # without PostgreSQL's context
        what = " ".join(str(primary or error).split()).rstrip(".?")
        if wrapped is not None and wrapped.connection_invalidated:
            return StorageError(
                f"{self.name}: the connection was lost ({what}). Start again: what was being written is there as a whole or "
                "not at all, and the ledger goes on where it stands."
            )
        if isinstance(wrapped, OperationalError | ProgrammingError) and not (code or self.file):  # it never began
            return StorageError(
                f"{self.name} cannot be reached: {what}. Check host, port, database, user and password of its address, and "
                "that PostgreSQL runs there."
            )
        if isinstance(wrapped, IntegrityError) or code.startswith("SQLITE_CONSTRAINT"):
            return LedgerError(f"{self.name} refuses this: {what}. Nothing was written.")
        if code.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB", "XX001", "XX002")):
            return LedgerError(f"{self.name} is damaged or no ledger: {what}. Restore it from a backup.")
        if code == "42P01":
            return WrongLedger(f"There is no ledger at {self.name}; `btclab paper run` begins one.")
        remedies = {
            ("SQLITE_BUSY", "55P03"): f"another program has locked it for more than {BUSY_S:g} s; "
            "close that one and try again",
            ("SQLITE_LOCKED", "40"): "another program has locked it; close that one and try again",
            ("SQLITE_FULL", "53100"): "the disk is full; free some space and start again, "
            "the ledger goes on where it stands",
            ("SQLITE_IOERR", "58"): "the disk does not answer; check it and the free space, then start again",
            ("SQLITE_READONLY",): "it may not be written; check its owner and that of its folder",
            ("SQLITE_CANTOPEN",): "it cannot be opened; check that its folder exists and may be written",
            ("42501", "25006"): "the user lacks the right; the ledger's owner can GRANT it",
            ("3F000",): "make the schema that its address names first: CREATE SCHEMA",
        }
        remedy = next((said for codes, said in remedies.items() if code.startswith(codes)), "check the database")
        return StorageError(f"{self.name}: {what}. Nothing was written: {remedy}.")

    def put_aside(self, connection: Connection) -> str | None:
        """Move a ledger in PostgreSQL to another schema; returns its address there, or None if there was none."""
        schema = postgres.put_aside(connection)
        return schema and postgres.readable(postgres.in_schema(self.url, schema))

    def check_file(self, connection: Connection) -> None:
        """Raises `LedgerError` if SQLite finds the file itself or a reference in it damaged."""
        if self.file:
            found = [row[0] for row in connection.exec_driver_sql("PRAGMA integrity_check(1)")]
            lost = connection.exec_driver_sql("PRAGMA foreign_key_check").first()
            if found != ["ok"] or lost:
                what = found[0] if found != ["ok"] else f"a row of {lost[0]} refers to one that is not there"  # type: ignore[index]
                raise LedgerError(f"{self.name} is damaged: {what}. Restore it from a backup.")

    def copy_to(self, path: Path) -> None:
        """A SQLite file of the ledger as of one moment, while others write to it."""
        if not self.file:
            path.touch()
            copy = Database(sqlite_url(path), writes=False)
            copy.connect()
            try:
                with self.reading() as rows, copy.writing(apart=True) as connection:
                    tables.copy_rows(rows, connection)
            finally:
                copy.close()
            return
        with self._meaning():
            source, target = sqlite3.connect(self.file, timeout=BUSY_S), sqlite3.connect(path)
            try:
                source.backup(target)
            finally:
                target.close()
                source.close()


def _prepare_postgres(raw: Any, _: object) -> None:
    postgres.prepare(raw, BUSY_S)


def sqlite_url(path: Path) -> URL:
    return URL.create("sqlite", database=str(path.absolute()))


def _begin(connection: Connection) -> None:
    """A writer takes its turn at once: one that began by reading could not write if another had written meanwhile."""
    immediate = connection.get_execution_options().get("immediate")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")


def _inode(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _pid_file(path: Path | None) -> Path:
    return Path(f"{path}.pid")


def _busy(name: str, holder: str) -> LedgerBusy:
    return LedgerBusy(f"{name} is being written by {holder}; one process writes at a time. Stop that one first.")


def _lock(path: Path) -> FileLock:
    """The writer's lock, which dies with its process. Raises `LedgerBusy` naming the process that holds it."""
    lock = FileLock(f"{path}.lock", timeout=0, thread_local=False)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        try:
            holder = f"process {int(_pid_file(path).read_text(encoding='utf-8'))}"
        except (OSError, ValueError):  # it has just taken the lock
            holder = "another process"
        raise _busy(str(path), holder) from None
    except OSError as error:
        raise StorageError(f"Cannot write {path}: {error.strerror or error}. Check the folder's owner.") from error
    with suppress(OSError):  # only a message would lack it
        _pid_file(path).write_text(str(os.getpid()), encoding="utf-8")
    return lock


@contextmanager
def locked(url: str | URL) -> Iterator[Path | Database]:
    """The file of the ledger at `url`, or its PostgreSQL database, while no other process writes to it."""
    _, path = address(url)
    if path is None:
        held = Database(url, writes=True)
        try:
            held.connect()
            yield held
        finally:
            held.close()
        return
    lock = _lock(path)
    try:
        yield path
    finally:
        _pid_file(path).unlink(missing_ok=True)
        lock.release()


def aside(path: Path, why: str = "") -> Path:
    """A name beside `path` that is not taken, with the time in it."""
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    words = ".".join(filter(None, (path.stem, why, stamp)))
    names = (path.with_name(f"{words}{count}{path.suffix}") for count in ("", *(f"-{i}" for i in range(2, 1000))))
    return next(name for name in names if not name.exists())


def put_aside(path: Path) -> Path | None:
    """Rename the database; returns its new path, or None if there was none. Those who read it go on reading it."""
    if not path.exists():
        return None
    name = aside(path)
    with suppress(sqlite3.DatabaseError):  # damaged: it is moved as it is
        connection = sqlite3.connect(path, timeout=BUSY_S)
        try:
            busy, *_ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            if busy:  # what is in the log must be in the file before they part
                raise StorageError(f"{path} is being read by a program that does not end; close it and try again.")
        finally:
            connection.close()
    try:
        for ending in ("", "-wal", "-shm"):  # a new database must not meet the old one's
            if Path(f"{path}{ending}").exists():
                os.rename(f"{path}{ending}", f"{name}{ending}")
    except OSError as error:
        raise StorageError(f"Cannot put {path} aside: {error.strerror or error}. Close what has it open.") from error
    return name
