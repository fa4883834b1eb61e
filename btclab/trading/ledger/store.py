"""The durable ledger: everything an account did, append-only, in SQLite (one file) or PostgreSQL.

What is kept are the orders, their events, fills, cash movements, signals and a mark per processed bar with the engine's state;
position, lots, profit, fees and equity follow from them (`btclab.trading.ledger.exact`) and are checked on open. A bar is one
durable transaction: after a crash it is there as a whole or not at all, and it can never be processed twice. One process
writes; any number of others read, or leave a request for the one that writes.
"""

from __future__ import annotations

import math
import re
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from sqlalchemy import URL, Column, Connection, func, insert, inspect, select

from btclab.errors import InputError, LedgerError, StorageError, unknown
from btclab.files import write_atomically
from btclab.market.candles import timeframe_delta
from btclab.records import Bar, Fill, Market, Movement, Order, OrderEvent
from btclab.settings import settings
from btclab.trading.ledger import database, postgres
from btclab.trading.ledger.database import LedgerBusy, WrongLedger
from btclab.trading.ledger.exact import Book, decimal_of, exactly
from btclab.trading.ledger.postings import (
    Entry,
    Request,
    Rows,
    mark_of,
    post,
    request_text,
    rows_of,
    said,
    snapshot_row,
)
from btclab.trading.ledger.tables import (
    OF_A_BAR,
    account,
    cash_movements,
    copy_rows,
    fills,
    guard,
    marks,
    metadata,
    orders,
    requests,
    schema_versions,
    snapshots,
    unguard,
)
from btclab.trading.ledger.view import LedgerView

__all__ = ["Entry", "Ledger", "LedgerBusy", "Request", "WrongLedger"]

# Entry i takes a ledger of schema i + 1 to schema i + 2. A new column must be NULL in the rows that are there: digests
# leave out what is NULL, so that those of older rows stay true.
MIGRATIONS: list[Callable[[Connection], None]] = []
SCHEMA = len(MIGRATIONS) + 1
ID = re.compile(r"[A-Za-z0-9][\w.-]{0,59}", re.ASCII)  # of a request
OWN = ("target-", "close-", "margin-call-")  # how the trader's own orders begin
SNAPSHOT_EVERY = 1_000  # marks and fills between two snapshots: opening replays at most so many


class Ledger(LedgerView):
    """A ledger of one account in one market and timeframe. Made by `Ledger.open`; close it, or use `with`."""

    @classmethod
    def open(
        cls,
        url: str | URL,
        market: Market | None = None,
        timeframe: str | None = None,
        initial_cash: float | None = None,
        mode: Literal["write", "read"] = "write",
    ) -> Ledger:
        """The ledger at `url`, e.g. "sqlite:///data/ledger.db" (relative to BTCLAB_HOME); writing begins one if there is none.

        `market` (its symbol) and `timeframe` must be the ledger's if they are named; a new ledger begins with them, or else
        with the setting's market and "1h", and with `initial_cash` (default: the setting), which one that exists keeps as it
        was. An older schema is migrated by the writer, after a backup beside it.

        Raises `WrongLedger` for another market, timeframe or newer schema, or for something that is no ledger; `LedgerBusy` if
        another process writes to it; `LedgerError` if it was tampered with or does not add up; `StorageError`.
        """
        if mode not in ("write", "read"):
            raise unknown("mode", mode, ("write", "read"))
        store = cls(url, mode)
        try:
            store._begin(market, timeframe, initial_cash)
        except BaseException:
            store.close()
            raise
        return store

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give back the lock and the connections."""
        self._database.close()

    def __repr__(self) -> str:
        return f"<Ledger {self._database.name}: {self.symbol} {self.timeframe}, {self.mode}>"

    # Opening

    def _begin(self, market: Market | None, timeframe: str | None, initial_cash: float | None) -> None:
        self._database.connect()
        if self.mode == "write":
            with self._database.writing() as connection:
                if not inspect(connection).get_table_names():
                    self._create(connection, market, timeframe, initial_cash)
        with self._database.reading() as connection:
            found = self._version(connection)
        if found < SCHEMA and self.mode == "write":
            self._migrate(found)
        elif found != SCHEMA:
            remedy = (
                "update btclab" if found > SCHEMA else "let `btclab paper run` open it once: it migrates the ledger"
            )
            raise WrongLedger(
                f"{self._database.name} has schema {found}, and this btclab reads schema {SCHEMA}; {remedy}."
            )
        with self._database.reading() as connection, self._as_ledger():
            self._identify(connection, market, timeframe)
            self._book, self._read_from = self._load(connection), self._database.opened
            self._check_counts(connection, self._book)
        self._book.check()

    def _create(
        self, connection: Connection, market: Market | None, timeframe: str | None, initial_cash: float | None
    ) -> None:
        own = settings()
        cash = own.trading.initial_cash if initial_cash is None else initial_cash
        if not (math.isfinite(cash) and cash > 0):
            raise InputError(f"initial_cash is {cash!r}; it must be above 0, in quote currency.")
        timeframe = timeframe or "1h"
        timeframe_delta(timeframe)
        metadata.create_all(connection, checkfirst=False)
        guard(connection)
        now = time.time_ns()
        first = {"number": 1, "initial_cash": decimal_of(cash), "timeframe": timeframe, "created": now}
        connection.execute(insert(account), {**first, "symbol": market.symbol if market else own.market.symbol})
        connection.execute(insert(schema_versions), {"version": SCHEMA, "since": now})
        deposit = {"number": 1, "kind": "deposit", "amount": decimal_of(cash), "text": "start"}
        connection.execute(insert(cash_movements), deposit)

    def _version(self, connection: Connection) -> int:
        held = set(inspect(connection).get_table_names())
        if schema_versions.name not in held:
            there = f"other tables ({', '.join(sorted(held)[:5])})" if held else "no ledger yet"
            raise WrongLedger(
                f"{self._database.name} holds {there}. Name another place, or begin a ledger with `btclab paper run`."
            )
        return int(connection.scalar(select(func.max(schema_versions.c.version))) or 0)

    def _migrate(self, found: int) -> None:
        kept = self._database.file and self.backup(database.aside(self._database.file, f"schema{found}"))
        try:
            with self._database.writing() as connection:
                unguard(connection)
                for step in MIGRATIONS[found - 1 :]:
                    step(connection)
                connection.execute(insert(schema_versions), {"version": SCHEMA, "since": time.time_ns()})
                guard(connection)
        except Exception as error:
            where = f" A copy from before lies at {kept}." if kept else ""
            raise StorageError(
                f"{self._database.name} could not be migrated from schema {found} to {SCHEMA} and is unchanged: {error}{where}"
            ) from error

    # Writing

    def append(
        self,
        bar: Bar,
        fills: Sequence[Fill],
        events: Sequence[OrderEvent],
        state: Mapping[str, Any],
        orders: Sequence[Order] = (),
        signal: Mapping[str, Any] | None = None,
        movements: Sequence[Movement] = (),
        holds: tuple[float, float] | None = None,
    ) -> None:
        """All that the bar brought, in one durable transaction; when this returns, no crash can lose it.

        `state` is what the engine needs to go on, as JSON values; `orders` those submitted with this bar, before their
        first fill; `signal` has side, exposure, confidence and reasons (a JSON value). `holds` is the engine's own cash
        and position: they must agree with the ledger's to the cent, or to 1e-12 of the turnover.

        Raises `LedgerError` if the bar was processed before or precedes the last one, an order id is already there, a fill names
        an order that is not, or `holds` disagrees; `InputError` for an amount or state that cannot be; `StorageError` if the
        disk is full or the database locked. The ledger is then as it was.
        """
        self.append_many([Entry(bar, fills, events, state, orders, signal, movements, holds)])

    def append_many(self, entries: Iterable[Entry]) -> None:
        """Several bars, oldest first, in one transaction: all of them or none. Raises as `append` does."""
        entries = list(entries)
        if self.mode != "write":
            raise LedgerError(f"{self._database.name} was opened for reading; open it with mode='write' to append.")
        with self._mutex:
            book = self._current()
            self._book = None  # whatever fails below, the book is read anew
            rows: Rows = {table: [] for table in (marks, *OF_A_BAR, snapshots)}
            kept = self._snapshot_at
            for entry in entries:
                self._enter(book, entry, rows)
                size = book.counts["marks"] + book.counts["fills"]
                if size - kept >= max(SNAPSHOT_EVERY, len(book.lots)):  # a book of many lots is long: fewer of those
                    kept = size
                    rows[snapshots].append(snapshot_row(book, len(rows[snapshots])))
            with self._database.writing(lambda connection: self._refusal(connection, rows)) as connection:
                if rows[snapshots]:
                    before = connection.scalar(select(func.coalesce(func.max(snapshots.c.number), 0)))
                    for row in rows[snapshots]:
                        row["number"] += before
                for table, new in rows.items():
                    if new:
                        connection.execute(insert(table), new)
            self._book, self._snapshot_at = book, kept

    def _enter(self, book: Book, entry: Entry, rows: Rows) -> None:
        """Turn an entry into numbered rows, and post them to the book."""
        bar = entry.bar
        if book.bar is not None and bar.timestamp <= book.bar:
            already = "was processed already" if bar.timestamp == book.bar else "precedes the last one"
            raise LedgerError(
                f"The bar {said(bar.timestamp)} {already}: the ledger stands at {said(book.bar)}. Nothing was written; "
                "go on with the next bar."
            )
        new, mark = rows_of(entry), mark_of(entry, book.counts[marks.name] + 1)
        for table, held in new.items():
            for number, row in enumerate(held, book.counts[table.name] + 1):
                row["number"], row["bar"] = number, mark["bar"]
            rows[table].extend(held)
        post(book, mark, new)
        mark["digest"] = book.digest
        rows[marks].append(mark)
        if entry.holds is not None:
            self._compare(book, *entry.holds)

    def _compare(self, book: Book, cash: float, position: float) -> None:
        with exactly():
            close = float(book.close)
            size = float(book.turnover + abs(book.equity))
            off = abs(cash - float(book.cash)), abs(position - float(book.position)) * close
        if not max(off) <= max(0.005, 1e-12 * size):  # so put, NaN does not pass
            raise LedgerError(
                f"The account holds {cash:.2f} and {position:.8f} BTC, its ledger says {book.cash:.2f} and "
                f"{book.position:.8f} BTC, at {said(book.bar or 0)}. Nothing was written."
            )

    def _refusal(self, connection: Connection, rows: Rows) -> str:
        """Why the database refused rows, as far as it can be told."""

        def known(names: Iterable[str]) -> set[str]:
            asked = sorted(set(names))
            held: set[str] = set()
            for i in range(0, len(asked), 1_000):  # a statement takes so many values at most
                held.update(connection.scalars(select(orders.c.id).where(orders.c.id.in_(asked[i : i + 1_000]))))
            return held

        given = Counter(row["id"] for row in rows[orders] if row["id"] is not None)
        if twice := sorted(known(given)) or [name for name, times in given.items() if times > 1]:
            return f"Order {twice[0]!r} is in the ledger already; an id is used once."
        named = {row["order"] for row in rows[fills] if row["order"] is not None} - set(given)
        if missing := sorted(named - known(named)):
            return f"A fill names the order {missing[0]!r}, which is not in the ledger; append the order with or before it."
        return ""

    # Requests from other processes

    def request(self, kind: str, body: Mapping[str, Any], id: str = "") -> str:
        """Leave a request for the trader, durably, from any process; returns its id. A given `id` is used at most once.

        Raises `InputError` for an id that no order may have (it is empty of letters and digits, too long, or of the kind that
        the trader gives its own orders), and for a body that is no JSON with finite numbers and plain text.
        """
        return self.request_all([(kind, body, id)])[0]

    def request_all(self, asked: Sequence[tuple[str, Mapping[str, Any], str]]) -> list[str]:
        """Leave several requests (kind, body, id), all of them or none, so that the trader takes them at the same close."""
        names = [id or uuid.uuid4().hex for _, _, id in asked]
        for name in names:
            if not ID.fullmatch(name) or name.startswith(OWN):
                raise InputError(
                    f"The id {name!r} cannot be used: write letters, digits, _, . or -, at most 60, not beginning with "
                    f"{' or '.join(OWN)}, which are the trader's own."
                )
        now = time.time_ns()
        rows = [
            {"id": name, "created": now, "kind": kind, "body": request_text(body)}
            for name, (kind, body, _) in zip(names, asked, strict=True)
        ]

        def first_of(connection: Connection, column: Column[str]) -> str | None:
            return connection.scalar(select(column).where(column.in_(names)).limit(1))

        def refusal(connection: Connection) -> str:
            there = first_of(connection, requests.c.id)
            return f"Request {there!r} was made before; an id is used once." if there else ""

        with self._database.writing(refusal, apart=True) as connection:
            if there := first_of(connection, orders.c.id):
                raise InputError(f"There is an order {there!r} already; an id is used once.")
            postgres.take_turn(connection)  # else two would take the same number
            number = connection.scalar(select(func.coalesce(func.max(requests.c.number), 0))) or 0
            for i, row in enumerate(rows, number + 1):  # one by one: each must be the next
                connection.execute(insert(requests), {"number": i, **row})
        return names

    @staticmethod
    def restore(path: str | Path, into: str | URL) -> Path | str | None:
        """Put the backup at `path`, once it is checked in full, where `into` (an URL) says: also from SQLite into PostgreSQL.

        Returns where the ledger that was there now lies, as `reset` does; None if there was none. Raises `LedgerBusy` while a
        process writes to it, `LedgerError` if the backup does not add up.
        """
        source = Path(path)
        if not source.is_file():
            raise InputError(f"There is no backup at {source}. Name the file that `backup` wrote.")
        old: list[Path | str | None] = []

        def fetch(aside: Path) -> None:
            database.Database(database.sqlite_url(source), writes=False).copy_to(aside)
            with Ledger.open(database.sqlite_url(aside), mode="read") as copy:
                copy.check()
                if isinstance(target, Path):
                    old.append(database.put_aside(target))
                else:
                    with copy._database.reading() as rows, target.writing() as connection:
                        old.append(target.put_aside(connection))
                        copy_rows(rows, connection)

        with database.locked(into) as target:
            if isinstance(target, Path):
                write_atomically(target, fetch)
            else:
                with TemporaryDirectory() as folder:
                    fetch(Path(folder) / "copy.db")
        return old[0]

    @staticmethod
    def reset(url: str | URL) -> Path | str | None:
        """Put the ledger at `url` aside, with the time in its name, so that the next writer begins a new one.

        Returns where it now lies, the file, or the address without a password of the schema in PostgreSQL; None if there was
        none. Raises `LedgerBusy` while a process writes to it.
        """
        with database.locked(url) as target:
            if isinstance(target, Path):
                return database.put_aside(target)
            with target.writing() as connection:
                return target.put_aside(connection)
