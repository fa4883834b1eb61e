"""The durable ledger: commits per second against plain sqlite3 with the same durability, and what a million fills cost."""

from __future__ import annotations

import os
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal
from unittest.mock import patch

from btclab.records import Bar, Fill, Market, Order, OrderEvent
from btclab.trading.ledger.store import Entry, Ledger

Row = tuple[str, str, str, str]
HOUR = 3_600_000_000_000  # ns
FILLS = 1_000_000
SINGLE = 500  # commits that are timed one by one
BATCH = 1_000  # fills in one transaction
PER_BAR = 10


def entries(bars: range, fills: int = 1, orders: bool = True) -> Iterator[Entry]:
    """Bars with so many fills each, buys and sales by turns, with the order and event of each."""
    for i in bars:
        bar = Bar(i * HOUR, *[30_000 + 10.25 * (i % 997)] * 4)
        names = [f"{i}-{j}" for j in range(fills)]
        yield Entry(
            bar,
            [
                Fill(
                    bar.timestamp,
                    "buy" if (i + j) % 2 else "sell",
                    0.0123,
                    bar.open,
                    0.369,
                    bar.timestamp - HOUR,
                    0.5,
                    name,
                )
                for j, name in enumerate(names if orders else [""] * fills)
            ],
            [OrderEvent(bar.timestamp, name, "done") for name in names if orders],
            {"cash": 1234.5, "position": 0.0123, "orders": []},
            [Order(bar.timestamp - HOUR, 0.5, name) for name in names if orders],
        )


def opened(name: str, mode: Literal["write", "read"] = "write") -> Ledger:
    return Ledger.open(f"sqlite:///{name}", Market(), "1h", 10_000.0, mode)


def seconds(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def plain(path: Path, fills: int, each: int) -> float:
    """Seconds that sqlite3 alone takes for so many rows, `each` in a transaction, as durable as ours."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("CREATE TABLE fills (number INTEGER PRIMARY KEY, bar, side, quantity, price, fee, decided, id)")
    rows = [(i, i * HOUR, "buy", "0.0123", "30000.25", "0.369", i * HOUR, f"{i}-0") for i in range(fills)]

    def write() -> None:
        for begin in range(0, fills, each):
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany("INSERT INTO fills VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows[begin : begin + each])
            connection.execute("COMMIT")

    took = seconds(write)
    connection.close()
    return took


def writing(folder: Path) -> list[Row]:
    with opened("written.db") as ledger:
        ledger.append_many(entries(range(1, 11)))  # statements are compiled once
        waiting = list(entries(range(11, 11 + SINGLE)))
        single = SINGLE / seconds(lambda: [ledger.append_many([one]) for one in waiting])
        batch = list(entries(range(1_000, 1_000 + 10 * BATCH // PER_BAR), PER_BAR))
        size = BATCH // PER_BAR
        parts = [batch[i : i + size] for i in range(0, len(batch), size)]
        batched = 10 * BATCH / seconds(lambda: [ledger.append_many(one) for one in parts])
    rivals = SINGLE / plain(folder / "single.db", SINGLE, 1), 10 * BATCH / plain(folder / "batch.db", 10 * BATCH, BATCH)
    return [
        (
            f"durable {what}, order, event, mark and digest included",
            f"{own:,.0f} a second",
            f"goal {goal:,}; {rival:,.0f}: plain sqlite3, fills only",
            f"{own / goal:.1f} ×",
        )
        for what, own, goal, rival in (
            ("fills, one in a transaction", single, 100, rivals[0]),
            (f"fills, {BATCH:,} in a transaction", batched, 1_000, rivals[1]),
        )
    ]


def reading(folder: Path) -> list[Row]:
    """Of a ledger with a million fills, in bars of ten."""
    bars, size = FILLS // PER_BAR, 1_000
    with opened("read.db") as ledger:
        for at in range(1, bars + 1, size):
            ledger.append_many(entries(range(at, at + size), PER_BAR, orders=False))
    files: list[Ledger] = []
    opening = max(seconds(lambda: files.append(opened("read.db", "read"))) for _ in range(3))
    reader = files[-1]
    portfolio = max(seconds(lambda: reader.portfolio(31_000.0)) for _ in range(5))
    tables = seconds(
        lambda: (reader.fill_table(last=100), reader.equity_curve(last=1_000), reader.trade_table(last=100))
    )
    mega = (folder / "read.db").stat().st_size / 1e6
    for one in files:
        one.close()
    with sqlite3.connect(folder / "read.db") as connection:
        naive = seconds(
            lambda: connection.execute(
                "SELECT sum(CASE side WHEN 'buy' THEN quantity ELSE -quantity END), sum(fee) FROM fills"
            ).fetchone()
        )
    return [
        (f"opening a ledger of {FILLS:,} fills", f"{opening:.2f} s", f"goal 1 s; {mega:,.0f} MB", f"{opening:.2f} ×"),
        (
            "… its portfolio",
            f"{1e3 * portfolio:.1f} ms",
            f"goal 100 ms; {1e3 * naive:,.0f} ms: two sums in SQL",
            f"{portfolio / 0.1:.3f} ×",
        ),
        (
            "… its last 100 fills and trades, 1,000 bars",
            f"{1e3 * tables:.0f} ms",
            "goal 100 ms",
            f"{tables / 0.1:.2f} ×",
        ),
    ]


def main() -> list[Row]:
    """All rows of the ledger."""
    with tempfile.TemporaryDirectory() as name, patch.dict(os.environ, {"BTCLAB_HOME": name}):
        return writing(Path(name)) + reading(Path(name))
