"""The rows of a ledger as pandas frames, every float the one that was written."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pandas as pd
from sqlalchemy import Connection, Select, Table, Text, select, type_coerce

from btclab.market.candles import timeframe_delta, utc
from btclab.trading.ledger.exact import Closed
from btclab.trading.ledger.postings import time_of
from btclab.trading.ledger.tables import Amount

FORMATS = ("csv", "parquet", "json")
TRADE_TYPES = {
    "entry": "datetime64[ns, UTC]",
    "exit": "datetime64[ns, UTC]",
    "side": "str",
    "quantity": "float64",
    "entry_price": "float64",
    "exit_price": "float64",
    "gross_pnl": "float64",
    "fees": "float64",
    "pnl": "float64",
    "return_pct": "float64",
    "bars_open": "int64",
    "reason": "str",
}


def ns_of(moment: object) -> int:
    """A time as ns since 1970; naive means UTC."""
    return int(utc(moment).as_unit("ns").value)


def between(query: Select[Any], table: Table, start: object, end: object) -> Select[Any]:
    """`query` for the bars from `start` until before `end`."""
    if start is not None:
        query = query.where(table.c.bar >= ns_of(start))
    return query if end is None else query.where(table.c.bar < ns_of(end))


def frame(
    connection: Connection, table: Table, names: Sequence[str], start: object, end: object, last: int | None
) -> pd.DataFrame:
    """The columns `names` of the bars from `start` until before `end`, of these the `last` rows; indexed by the bar."""
    columns = [table.c.bar, *(table.c[name] for name in names)]
    shown = [type_coerce(one, Text).label(one.name) if isinstance(one.type, Amount) else one for one in columns]
    query = between(select(*shown), table, start, end)
    if last is None:
        rows = connection.execute(query.order_by(table.c.number)).all()
    else:
        rows = connection.execute(query.order_by(table.c.number.desc()).limit(last)).all()[::-1]
    bars, *held = zip(*rows, strict=True) if rows else [()] * len(columns)
    index = pd.DatetimeIndex(_times(bars), name="timestamp")
    return pd.DataFrame({name: _values(table, name, one) for name, one in zip(names, held, strict=True)}, index)


def _times(held: Sequence[int | None]) -> pd.DatetimeIndex:
    stamps = np.array([pd.NaT.value if one is None else one for one in held], dtype="int64")
    return pd.DatetimeIndex(stamps.view("datetime64[ns]"), tz="UTC")


def _values(table: Table, name: str, held: Sequence[Any]) -> Any:
    """A column for a frame: amounts and fractions as float64, times as times, the rest as it is."""
    if name in ("decided", "expires"):
        return _times([one or None for one in held])
    sort = table.c[name].type
    if isinstance(sort, Text):
        return pd.array(["" if one is None else one for one in held], dtype="str")
    if sort.python_type is bool:
        return np.array(held, dtype=bool)
    return np.array(held, dtype=object).astype("float64")  # text by way of float(): exact


def trade_frame(trades: Iterable[Closed], timeframe: str) -> pd.DataFrame:
    """One row per closed lot; `pnl` is after fees, `bars_open` in bars of `timeframe`."""
    step = timeframe_delta(timeframe).as_unit("ns").value
    return pd.DataFrame([_trade_row(one, step) for one in trades], columns=list(TRADE_TYPES)).astype(TRADE_TYPES)


def _trade_row(one: Closed, step: int) -> tuple[Any, ...]:
    paid = float(one.entry_price * one.quantity)
    amounts = [float(value) for value in (one.quantity, one.entry_price, one.exit_price, one.gross)]
    result = (one.fees, one.pnl, 100 * one.pnl / paid, (one.exit - one.entry) // step, one.reason)
    return time_of(one.entry), time_of(one.exit), one.side, *amounts, *result


def write(table: pd.DataFrame, path: Path, format: str) -> None:
    """`table` as a file in one of `FORMATS`."""
    if format == "csv":
        table.to_csv(path, index=False)
    elif format == "parquet":
        table.to_parquet(path)
    else:  # pandas would round to 15 digits
        plain = table.copy()
        for name in table.select_dtypes("datetimetz"):
            plain[name] = pd.Series([None if pd.isna(t) else t.isoformat() for t in table[name]], dtype="object")
        path.write_bytes(orjson.dumps(plain.to_dict("records"), option=orjson.OPT_INDENT_2))
