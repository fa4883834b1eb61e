"""What a processed bar adds to a ledger: the rows of its tables, their digest, and what they do to the book."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
from sqlalchemy import Boolean, Float, Table, Text

from btclab.errors import InputError, LedgerError
from btclab.records import Bar, Fill, Movement, Order, OrderEvent
from btclab.trading.ledger.exact import Book, decimal_of, exactly, text_of
from btclab.trading.ledger.tables import OF_A_BAR, Amount, cash_movements, fills, marks, order_events, orders, signals

Rows = dict[Table, list[dict[str, Any]]]


@dataclass(frozen=True)
class Request:
    """What another process asks the trader to do, e.g. kind "order" with the fields of an `Order`; `created` in ns."""

    id: str
    created: int
    kind: str
    body: dict[str, Any]


@dataclass(frozen=True)
class Entry:
    """All that one processed bar adds to the ledger; see `Ledger.append`."""

    bar: Bar
    fills: Sequence[Fill] = ()
    events: Sequence[OrderEvent] = ()
    state: Mapping[str, Any] = field(default_factory=dict)
    orders: Sequence[Order] = ()
    signal: Mapping[str, Any] | None = None
    movements: Sequence[Movement] = ()
    holds: tuple[float, float] | None = None


def post(book: Book, mark: dict[str, Any], rows: Rows) -> None:
    """Carry a bar's rows into the book, and what follows from them into the mark."""
    with exactly():
        for row in rows.get(cash_movements, ()):
            book.move(row["kind"], row["amount"])
        for row in rows.get(fills, ()):
            book.fill(row["bar"], row["side"], row["quantity"], row["price"], row["fee"], row["reason"])
        book.mark(mark["bar"], mark["close"])
        held = float(book.position * book.close)
    mark["equity"], mark["exposure"] = book.equity, held / float(book.equity) + 0.0 if book.equity else 0.0
    book.counts["marks"] += 1
    for table, held_rows in rows.items():
        book.counts[table.name] += len(held_rows)
    book.digest = digest_of(book.digest, {marks: [mark], **{table: rows.get(table, []) for table in OF_A_BAR}})


def digest_of(before: str, rows: Rows) -> str:
    lines = [before]
    for table, held in rows.items():
        for row in held:
            filled = {name: value for name, value in row.items() if value is not None}
            lines.append(table.name + json.dumps(filled, default=text_of, sort_keys=True, separators=(",", ":")))
    return sha("\n".join(lines))


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def snapshot_row(book: Book, number: int) -> dict[str, Any]:
    text = book.dump()
    counts = {"trades": book.trades, "fills": book.counts["fills"]}
    return {"number": number + 1, "bar": book.bar, **counts, "book": text, "digest": sha(text)}


def row_of(table: Table, values: Mapping[str, Any]) -> dict[str, Any]:
    """`values` as `table` gives them back: digests are of these. No number is NULL, and so is no text where that may be.

    PostgreSQL has no character 0 in a text: its picture ␀ takes its place, in SQLite too, so that a ledger can move.
    """
    row: dict[str, Any] = {}
    for name, value in values.items():
        column = table.c[name]
        if isinstance(column.type, Amount):
            row[name] = decimal_of(value) if math.isfinite(value) else None
        elif isinstance(column.type, Float):
            row[name] = float(value) + 0.0 if math.isfinite(value) else None  # −0.0 would come back as 0.0
        elif isinstance(column.type, Boolean):
            row[name] = bool(value)
        elif isinstance(column.type, Text):
            held = str(value).replace("\0", "␀")
            row[name] = (held or None) if column.nullable else held
        else:
            row[name] = int(value)
    return row


def rows_of(entry: Entry) -> Rows:
    """The rows of a bar beside its mark, not yet numbered. Raises `InputError` or `LedgerError` for what cannot be."""
    return {
        cash_movements: [row_of(cash_movements, vars(one)) for one in entry.movements],
        orders: [row_of(orders, vars(one)) for one in entry.orders],
        order_events: [row_of(order_events, vars(one)) for one in entry.events],
        fills: [_fill_row(one, entry.bar) for one in entry.fills],
        signals: [] if entry.signal is None else [_signal_row(entry.signal)],
    }


def mark_of(entry: Entry, number: int) -> dict[str, Any]:
    """The row of the bar itself, before `post` completes it."""
    values = {**vars(entry.bar), "number": number, "state": json_text(entry.state, "state")}
    return row_of(marks, {"bar": values.pop("timestamp"), **values})


def _fill_row(fill: Fill, bar: Bar) -> dict[str, Any]:
    sound = fill.quantity > 0 and fill.price > 0 and fill.side in ("buy", "sell")
    if not (sound and all(math.isfinite(one) for one in (fill.quantity, fill.price, fill.fee))):
        raise InputError(
            f"{fill} cannot be: it needs a side (buy or sell), quantity and price above 0, and a fee that is a number."
        )
    if fill.timestamp != bar.timestamp:
        raise LedgerError(f"A fill of {said(fill.timestamp)} does not belong to the bar {said(bar.timestamp)}.")
    return row_of(fills, {name: value for name, value in vars(fill).items() if name != "timestamp"})


def _signal_row(signal: Mapping[str, Any]) -> dict[str, Any]:
    if missing := {"side", "exposure", "confidence", "reasons"} - set(signal):
        raise InputError(f"The signal lacks {', '.join(sorted(missing))}; give a row of make_signals as a dictionary.")
    numbers = {name: math.nan if signal[name] is None else signal[name] for name in ("exposure", "confidence")}
    return row_of(signals, {"side": signal["side"], "reasons": json_text(signal["reasons"], "reasons"), **numbers})


def json_text(value: Any, name: str) -> str:
    try:
        return json.dumps(dict(value) if isinstance(value, Mapping) else value, separators=(",", ":"))
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{name} cannot be kept as JSON: {error}. Give numbers, texts, true or false, lists and dictionaries."
        ) from None


def request_of(id: str, created: int, kind: str, text: str) -> Request:
    """The request of a row. One that no btclab can have written has no kind, so that the trader refuses it."""
    try:
        body = json.loads(text)
        request_text(body)
    except (ValueError, RecursionError, InputError):
        return Request(id, created, "", {})
    return Request(id, created, kind, body)


def request_text(body: Mapping[str, Any]) -> str:
    """`body` as JSON that any trader can read: finite numbers of usual size, and text of whole characters."""
    if not isinstance(body, Mapping):
        raise InputError(f"The request {body!r} cannot be kept: give a dictionary.")
    text = json_text(body, "body")
    try:
        json.dumps(json.loads(text, parse_int=_whole, parse_constant=_no_number), ensure_ascii=False).encode()
    except ValueError as error:  # UnicodeEncodeError is one
        raise InputError(f"The request cannot be kept: {error}.") from None
    return text


def _whole(digits: str) -> int:
    value = int(digits)
    if not -(2**63) <= value < 2**63:
        raise ValueError(f"{digits[:20]}… is too large a number")
    return value


def _no_number(word: str) -> float:
    raise ValueError(f"{word} is no number")


def time_of(ns: int) -> pd.Timestamp:
    return pd.Timestamp(ns, tz="UTC")


def said(ns: int) -> str:
    return f"{time_of(ns):%Y-%m-%d %H:%M}"
