"""A ledger as it is read: checked row by row on the way in, then its figures and tables.

The newest snapshot and the rows after it make the book (`btclab.trading.ledger.exact`), so that opening a ledger costs the same
however long it is. Every row is posted again as it was when it was written, and must say what was said then.
"""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

import pandas as pd
from sqlalchemy import URL, Connection, Table, exists, func, select

from btclab.errors import InputError, LedgerError, unknown
from btclab.files import folder_aside, write_atomically
from btclab.records import Bar, Market
from btclab.trading.ledger.database import Database, WrongLedger
from btclab.trading.ledger.exact import Book, Lot, decimal_of, exactly, match, text_of
from btclab.trading.ledger.frames import FORMATS, between, frame, ns_of, trade_frame, write
from btclab.trading.ledger.postings import Request, Rows, digest_of, post, request_of, said, sha, time_of
from btclab.trading.ledger.tables import (
    OF_A_BAR,
    account,
    cash_movements,
    fills,
    marks,
    order_events,
    orders,
    requests,
    signals,
    snapshots,
)

BATCH = 5_000  # marks that are read at once
FOREIGN = (InvalidOperation, ValueError, KeyError, TypeError)  # what a row that is none of ours raises when read
DUST = Decimal("1e-8")  # quote currency


class LedgerView:
    """The reading half of `Ledger`."""

    def __init__(self, url: str | URL, mode: str) -> None:
        self.mode = mode
        self._database = Database(url, mode == "write")
        self._mutex = threading.RLock()  # a dashboard reads from several threads
        self._book: Book | None = None  # all rows up to its bar; None: to be read anew
        self._read_from = 0  # which of the files that were opened the book was read from
        self._snapshot_at = 0  # marks and fills up to the newest snapshot
        self.symbol = self.timeframe = ""
        self.initial_cash = Decimal(0)

    def _identify(self, connection: Connection, market: Market | None, timeframe: str | None) -> None:
        row = connection.execute(select(account)).mappings().one()
        self.symbol, self.timeframe, self.initial_cash = row["symbol"], row["timeframe"], row["initial_cash"]
        for what, wanted, held in (
            ("market", market and market.symbol, self.symbol),
            ("timeframe", timeframe, self.timeframe),
        ):
            if wanted and wanted != held:
                raise WrongLedger(
                    f"{self._database.name} is the ledger of the {what} {held}, not of {wanted}. Name another ledger in the "
                    f"settings, or put this one aside with `btclab paper reset`."
                )

    @contextmanager
    def _as_ledger(self) -> Iterator[None]:
        """What cannot be read as a ledger's rows is said to be damaged."""
        try:
            yield
        except FOREIGN as error:
            if isinstance(error, InputError):
                raise
            self._book = None
            raise LedgerError(
                f"{self._database.name} is damaged: {error!r}. Restore it from a backup (`Ledger.restore`)."
            ) from error

    @property
    def opened(self) -> int:
        """How many ledgers were read here: one more after each that a reset or restore put in the place of the last."""
        return self._database.opened

    # Reading the rows: what was written is posted to a book again, and must say what was said then

    def _load(self, connection: Connection) -> Book:
        """The book as of the last bar: the newest snapshot and all rows after it."""
        newest = select(snapshots).order_by(snapshots.c.number.desc()).limit(1)
        row = connection.execute(newest).mappings().first()
        if row is None:
            book = self._first_book(connection)
        else:
            digest = connection.scalar(select(marks.c.digest).where(marks.c.bar == row["bar"]))
            book = Book.load(row["book"])
            if row["digest"] != sha(row["book"]) or book.digest != digest:
                raise self._tampered(f"snapshot {row['number']}", "it was changed")
        self._snapshot_at = book.counts["marks"] + book.counts["fills"]
        self._catch_up(connection, book)
        return book

    def _first_book(self, connection: Connection) -> Book:
        """The book before the first bar."""
        begun = dict(connection.execute(select(account)).mappings().one())
        first = dict(connection.execute(select(cash_movements).where(cash_movements.c.number == 1)).mappings().one())
        book = Book(digest=digest_of("", {account: [begun], cash_movements: [first]}))
        book.counts = dict.fromkeys(("marks", *(table.name for table in OF_A_BAR)), 0) | {cash_movements.name: 1}
        with exactly():
            book.move(first["kind"], first["amount"])
        return book

    def _catch_up(self, connection: Connection, book: Book, after: Callable[[Book], None] | None = None) -> None:
        """Post all bars after that of `book` to it; raises `LedgerError` on the first that is not as it was written."""
        while found := connection.execute(
            select(marks)
            .where(*([] if book.bar is None else [marks.c.bar > book.bar]))
            .order_by(marks.c.bar)
            .limit(BATCH)
        ).mappings().all():  # fmt: skip
            first, last = found[0]["bar"], found[-1]["bar"]
            by_bar: dict[int, Rows] = {row["bar"]: {} for row in found}
            for table in OF_A_BAR:
                query = select(table).where(table.c.bar.between(first, last)).order_by(table.c.number)
                for row in connection.execute(query).mappings():
                    if row["bar"] not in by_bar:
                        raise self._tampered(
                            f"bar {said(row['bar'])}", f"{table.name} has a row of it, and its mark is lost"
                        )
                    by_bar[row["bar"]].setdefault(table, []).append(dict(row))
            for mark in found:
                self._repost(book, dict(mark), by_bar[mark["bar"]])
                if after:
                    after(book)

    def _repost(self, book: Book, mark: dict[str, Any], rows: Rows) -> None:
        where = f"bar {said(mark['bar'])}"
        for table, held in [(marks, [mark]), *rows.items()]:
            for number, row in enumerate(held, book.counts[table.name] + 1):
                if row["number"] != number:
                    raise self._tampered(where, f"{table.name} has a row {row['number']} where {number} is due")
        equity, exposure, digest = mark["equity"], mark["exposure"], mark.pop("digest")
        post(book, mark, rows)
        if book.equity != equity:
            raise self._tampered(where, f"its equity is {text_of(equity)}, its rows say {text_of(book.equity)}")
        if book.digest != digest or exposure != mark["exposure"]:
            raise self._tampered(where, "its rows are not those that were written")

    def _tampered(self, where: str, what: str) -> LedgerError:
        self._book = None
        return LedgerError(
            f"{self._database.name} was changed from outside or is damaged, at {where}: {what}. "
            "Restore it from a backup (`Ledger.restore`)."
        )

    def _check_counts(self, connection: Connection, book: Book) -> None:
        """No table has lost or gained a row anywhere; a gap shows as a count below the highest number."""
        counts = {**book.counts, requests.name: None, snapshots.name: None}
        for table in (marks, *OF_A_BAR, requests, snapshots):
            count, highest = connection.execute(
                select(func.count(), func.coalesce(func.max(table.c.number), 0)).select_from(table)
            ).one()
            expected = counts[table.name]
            if count != highest or expected not in (None, count):
                due = highest if expected is None else expected
                raise self._tampered(
                    f"table {table.name}", f"it has {count:,} rows, numbered to {highest:,}, of {due:,}"
                )

    def check(self) -> None:
        """Read the whole ledger from the first row, and every snapshot; raises `LedgerError` at the first fault."""
        with self._mutex, self._database.reading() as connection, self._as_ledger():
            self._database.check_file(connection)
            book = self._first_book(connection)
            kept = {row.bar: row for row in connection.execute(select(snapshots.c.bar, snapshots.c.number))}

            def compare(book: Book) -> None:
                if row := kept.pop(book.bar, None):
                    query = select(snapshots.c.book).where(snapshots.c.number == row.number)
                    if connection.scalar(query) != book.dump():
                        raise self._tampered(f"snapshot {row.number}", "it is not what the rows before it say")
                    book.check()

            self._catch_up(connection, book, compare)
            self._check_counts(connection, book)
            book.check()

    def pending(self) -> list[Request]:
        """The requests that no order event names yet, oldest first. An event of any kind with a request's id settles it."""
        settled = exists().where(order_events.c.order == requests.c.id)
        query = (
            select(requests.c.id, requests.c.created, requests.c.kind, requests.c.body)
            .where(~settled)
            .order_by(requests.c.number)
        )
        with self._database.reading() as connection:
            return [request_of(*row) for row in connection.execute(query)]

    def knows(self, order_id: str) -> bool:
        """Whether an order of this id was ever submitted: an id is used once."""
        with self._database.reading() as connection:
            return bool(connection.scalar(select(exists().where(orders.c.id == order_id))))

    # What follows from the rows

    def _current(self) -> Book:
        """The book as of the last bar in the database."""
        if self.mode == "write" and self._book is not None:
            return self._book
        with self._database.reading() as connection, self._as_ledger():
            if self._book is None or self._read_from != self._database.opened:
                self._identify(connection, None, None)
                self._book, self._read_from = self._load(connection), self._database.opened
            else:
                self._catch_up(connection, self._book)
        return self._book

    def state(self) -> tuple[Bar | None, dict[str, Any]]:
        """The last bar that was processed and the engine's state after it; None and {} before the first."""
        with self._database.reading() as connection:
            row = connection.execute(select(marks).order_by(marks.c.bar.desc()).limit(1)).mappings().first()
        if row is None:
            return None, {}
        open_, high, low, close = (float(row[name]) for name in ("open", "high", "low", "close"))
        volume = math.inf if row["volume"] is None else float(row["volume"])
        return Bar(row["bar"], open_, high, low, close, volume), json.loads(row["state"])

    @property
    def cash(self) -> Decimal:
        with self._mutex:
            return self._current().cash

    @property
    def position(self) -> Decimal:
        """BTC; below 0 when short. Where the engine's float sums round, it may be off zero by that rounding."""
        with self._mutex:
            return self._current().position

    @property
    def realised(self) -> Decimal:
        """Profit of all that was closed, before fees."""
        with self._mutex:
            return self._current().realised

    @property
    def fees(self) -> Decimal:
        with self._mutex:
            return self._current().fees

    def lots(self) -> list[Lot]:
        """The open lots, oldest first, without what is only rounding."""
        with self._mutex:
            return [lot for lot in self._current().lots if not lot.is_dust]

    def unrealised(self, price: float) -> Decimal:
        """Profit before fees of the open lots at `price`."""
        with self._mutex, exactly():
            return self._current().unrealised(decimal_of(price))

    def equity(self, price: float) -> Decimal:
        """Cash plus position at `price`."""
        with self._mutex, exactly():
            book = self._current()
            return book.cash + book.position * decimal_of(price)

    def portfolio(self, price: float | None = None) -> dict[str, float | int | str | None]:
        """The headline figures at `price` (default: the last close); rates in %, money in quote currency, after costs.

        `total_return` and `max_drawdown` are time-weighted: deposits and withdrawals are no profit and no loss. Drawdowns are
        those of closes, and of `price`. A ratio without a denominator is None.
        """
        with self._mutex, exactly():
            book = self._current()
            at = book.close if price is None else decimal_of(price)
            value = book.position * at
            equity = book.cash + value
            cash = book.cash if abs(book.cash) >= DUST else Decimal(0)  # what is below is the engine's rounding
            profit = book.realised + book.unrealised(at) + book.interest - book.fees
            worth = float(equity) / float(book.equity) if book.equity else 1.0  # since the last mark
            unit = book.unit * worth
            fall = 1 - unit / max(book.peak, unit)
            flat = all(lot.is_dust for lot in book.lots)
            return {
                "timestamp": None if book.bar is None else time_of(book.bar).isoformat(),
                "price": float(at) if at else None,
                "equity": float(equity),
                "cash": float(cash),
                "position": 0.0 if flat else float(book.position),
                "exposure": 0.0 if flat or not equity else float(value) / float(value + cash),
                "average_price": None if flat or not book.position else float(book.cost) / float(book.position),
                "deposits": float(book.deposits),
                "profit": float(profit),
                "realised": float(book.realised),
                "unrealised": float(book.unrealised(at)),
                "fees": float(book.fees),
                "interest": float(book.interest),
                "total_return": 100 * (unit - 1),
                "drawdown": 0.0 - 100 * fall,
                "max_drawdown": 0.0 - 100 * max(book.deepest, fall),
                "bars": book.counts["marks"],
                "fills": book.counts["fills"],
                "trades": book.trades,
                "win_rate": 100 * book.wins / book.trades if book.trades else None,
                "profit_factor": book.gains / book.losses if book.losses else None,
                "turnover": float(book.turnover),
            }

    # Tables: `start` and `end` (times, the end not included) or the `last` rows

    def _frame(
        self, table: Table, names: Sequence[str], start: object = None, end: object = None, last: int | None = None
    ) -> pd.DataFrame:
        with self._database.reading() as connection:
            return frame(connection, table, names, start, end, last)

    def fill_table(self, start: object = None, end: object = None, last: int | None = None) -> pd.DataFrame:
        """One row per fill, indexed by the bar in which it filled; `value` is quantity × price."""
        names = ("side", "quantity", "price", "fee", "decided", "exposure", "order", "reason", "maker")
        table = self._frame(fills, names, start, end, last)
        table.insert(3, "value", table["quantity"] * table["price"])
        return table

    def order_table(self, start: object = None, end: object = None, last: int | None = None) -> pd.DataFrame:
        """One row per submitted order, indexed by the bar with which it was submitted; `status` is its newest event."""
        names = [one.name for one in orders.c if one.name not in ("number", "bar")]
        table = self._frame(orders, names, start, end, last)
        named = [name for name in table["id"] if name]
        status: dict[str, str] = {}
        with self._database.reading() as connection:
            for i in range(0, len(named), BATCH):  # a statement takes so many values at most
                query = (
                    select(order_events.c.order, order_events.c.event)
                    .where(order_events.c.order.in_(named[i : i + BATCH]))
                    .order_by(order_events.c.number)
                )
                status.update({order: event for order, event in connection.execute(query)})
        table["status"] = pd.Series([status.get(name, "") for name in table["id"]], table.index, dtype="str")
        return table

    def event_table(self, start: object = None, end: object = None, last: int | None = None) -> pd.DataFrame:
        """What became of orders, refusals with their rule included, indexed by the bar."""
        return self._frame(order_events, ("order", "event", "rule", "text"), start, end, last)

    def equity_curve(self, start: object = None, end: object = None, last: int | None = None) -> pd.DataFrame:
        """Close, equity and exposure of each processed bar, at its close."""
        return self._frame(marks, ("close", "equity", "exposure"), start, end, last)

    def movement_table(self, start: object = None, end: object = None, last: int | None = None) -> pd.DataFrame:
        """Cash movements; the first deposit, before any bar, has no timestamp."""
        return self._frame(cash_movements, ("kind", "amount", "text"), start, end, last)

    def signals_table(self, start: object = None, end: object = None, last: int | None = None) -> pd.DataFrame:
        """The signals with which bars were processed; `reasons` as they were given."""
        table = self._frame(signals, ("side", "exposure", "confidence", "reasons"), start, end, last)
        table["reasons"] = pd.Series([json.loads(text) for text in table["reasons"]], table.index, dtype="object")
        return table

    def trade_table(self, start: object = None, end: object = None, last: int | None = None) -> pd.DataFrame:
        """One row per closed lot, first in, first out, oldest exit first; `start` and `end` are of the exit.

        `pnl` is after its share of both fills' fees; `reason` is why it was closed. Matched from the nearest snapshot on.
        """
        first = -math.inf if start is None else ns_of(start)
        with self._mutex, self._database.reading() as connection, self._as_ledger():
            near = select(snapshots.c.book).order_by(snapshots.c.number.desc()).limit(1)
            if start is not None:
                near = near.where(snapshots.c.bar < first)
            if last is not None and end is None:
                near = near.where(snapshots.c.trades <= self._current().trades - last)
            whole = start is None and (last is None or end is not None)
            held = None if whole else connection.scalar(near)
            book = Book.load(held) if held else Book(counts={fills.name: 0})
            query = between(select(fills).where(fills.c.number > book.counts[fills.name]), fills, None, end)
            stream = connection.execution_options(yield_per=BATCH).execute(query.order_by(fills.c.number))
            trades = [trade for trade in match(book, (dict(row._mapping) for row in stream)) if trade.exit >= first]
        return trade_frame(trades if last is None else trades[max(0, len(trades) - last) :], self.timeframe)

    # The file

    def backup(self, path: str | Path) -> Path:
        """A copy of the whole ledger as of now, while it is in use; it appears at `path` complete or not at all."""
        return write_atomically(Path(path), self._database.copy_to)

    def export(self, folder: str | Path, format: str = "csv") -> Path:
        """All tables as files in the new folder `folder`: fills, trades, orders, events, movements, equity, signals."""
        if format not in FORMATS:
            raise unknown("format", format, FORMATS)
        tables = {
            "fills": self.fill_table,
            "trades": self.trade_table,
            "orders": self.order_table,
            "events": self.event_table,
            "movements": self.movement_table,
            "equity": self.equity_curve,
            "signals": lambda: self._frame(signals, ("side", "exposure", "confidence", "reasons")),
        }
        with folder_aside(Path(folder)) as aside:
            for name, read in tables.items():
                table = read()
                table = table if name == "trades" else table.reset_index()
                write(table, aside / f"{name}.{format}", format)
        return Path(folder)
