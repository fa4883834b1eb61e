"""A process that forks writers of a ledger, to be killed: `python -m tests.trading.kill_writer URL`.

For each line on standard input it forks a writer, which says its process id ("P 123"), then the number of the last bar after
each append that has returned ("A 17"), until it is killed; then the parent says how it ended ("X -9").
Forked, not started: importing takes longer than writing a hundred bars.
"""

from __future__ import annotations

import os
import random
import sys
from itertools import count

from sqlalchemy import create_engine

from btclab.records import Bar, Fill, Market, Order, OrderEvent
from btclab.trading.ledger import store
from btclab.trading.ledger.database import address
from btclab.trading.ledger.store import Entry, Ledger

HOUR = 3_600_000_000_000  # ns
MOST_BARS = 4  # in one transaction


def entry(number: int) -> Entry:
    """What bar `number` (from 1) brings: always the same, up to three fills and the orders and events that belong to them."""
    draw = random.Random(number)
    bar = Bar(number * HOUR, *[draw.uniform(20_000, 60_000)] * 4)
    names = [f"{number}-{i}" for i in range(draw.randrange(4))]
    side = "buy" if draw.random() < 0.5 else "sell"
    return Entry(
        bar=bar,
        fills=[
            Fill(
                bar.timestamp,
                side,
                draw.uniform(1e-5, 0.1),
                bar.open,
                draw.uniform(0, 5),
                bar.timestamp - HOUR,
                0.5,
                name,
            )
            for name in names
        ],
        events=[OrderEvent(bar.timestamp, name, "done") for name in names],
        state={"number": number, "noise": draw.random()},
        orders=[Order(bar.timestamp - HOUR, 0.5, name) for name in names],
        signal={"side": side, "exposure": 0.5, "confidence": draw.random(), "reasons": {"rsi": draw.random()}},
    )


def write(url: str) -> None:
    """Append bars for ever, going on where the ledger stands."""
    store.SNAPSHOT_EVERY = 25  # so that kills meet these too
    os.write(1, f"P {os.getpid()}\n".encode())
    with Ledger.open(url, Market(), "1h", 10_000.0) as ledger:
        number = ledger.state()[1].get("number", 0)
        for size in (1 + i % MOST_BARS for i in count()):
            ledger.append_many([entry(number + i) for i in range(1, size + 1)])
            number += size
            os.write(1, f"A {number}\n".encode())


if __name__ == "__main__":
    create_engine(address(sys.argv[1])[0])  # imports the driver
    for _ in sys.stdin:
        if child := os.fork():
            _, status = os.waitpid(child, 0)
            os.write(1, f"X {os.waitstatus_to_exitcode(status)}\n".encode())
        else:
            write(sys.argv[1])
