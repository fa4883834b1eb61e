"""What follows from a list of fills: first-in-first-out lots, closed trades, tables, and the identity of the account.

In floats and one compiled loop, for a backtest makes thousands of lots in a millisecond. A durable ledger matches its own in
exact decimals (`trading.ledger.exact`); the statement of an account compares the two.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from btclab.errors import LedgerError
from btclab.records import Fill
from btclab.trading.fills import compiled

FILL_COLUMNS = ["side", "quantity", "price", "value", "fee", "decided", "exposure", "order", "reason", "maker"]
TRADE_COLUMNS = [
    *(
        "entry",
        "exit",
        "side",
        "quantity",
        "entry_price",
        "exit_price",
        "gross_pnl",
        "fees",
        "pnl",
        "return_pct",
        "bars_open",
    ),
    *("reason",),
]


class Lots(NamedTuple):
    """What the fills have closed and what is open, as arrays [lot]; `entry`, `exit` are positions in the list of fills.

    `closed` and `open` are quantities, below 0 of lots that were sold short. `closed_fees` are the shares of the fees of both
    ends; those of an open lot are of the fill that opened it.
    """

    entry: Any
    exit: Any
    closed: Any
    closed_fees: Any
    open_entry: Any
    open: Any
    open_fees: Any


@compiled
def _match(side: Any, quantity: Any, fee: Any) -> Any:
    n, rows, head, tail, held = len(side), 0, 0, 0, 0.0
    entry, exit_ = np.empty(2 * n, np.int64), np.empty(2 * n, np.int64)  # a fill may close a lot and open another
    closed, fees = np.empty(2 * n), np.empty(2 * n)
    lot, left_of, fee_of = np.empty(n, np.int64), np.empty(n), np.empty(n)  # open lots are those from head to tail
    for i in range(n):
        left, dust = side[i] * quantity[i], 1e-12 * abs(held)  # what is below this is rounding of the sums, not a lot
        held += left
        while head < tail and left * left_of[head] < 0 and abs(left) > dust:
            part = left_of[head] if abs(left_of[head]) <= abs(left) else -left
            share = part / left_of[head]
            entry[rows], exit_[rows], closed[rows] = lot[head], i, part
            fees[rows] = fee_of[head] * share + fee[i] * abs(part) / quantity[i]
            rows += 1
            left += part
            left_of[head] -= part
            fee_of[head] *= 1 - share
            if abs(left_of[head]) <= dust:
                head += 1
        if left * held > 0 and abs(left) > dust:
            lot[tail], left_of[tail] = i, left
            fee_of[tail] = fee[i] if abs(left) == quantity[i] else fee[i] * abs(left) / quantity[i]
            tail += 1
    return (
        *(entry[:rows], exit_[:rows], closed[:rows], fees[:rows]),
        *(lot[head:tail], left_of[head:tail], fee_of[head:tail]),
    )


def match_lots(side: np.ndarray, quantity: np.ndarray, fee: np.ndarray) -> Lots:
    """First in, first out: a fill closes the oldest lots of the other side, and what is left of it opens one.

    A fee is shared over its quantity. Arrays [fill], `side` is ±1.
    """
    return Lots(*_match(side, quantity, fee))


def gross_pnl(lots: Lots, price: np.ndarray, last: float) -> float:
    """Profit before fees: what was realised, and what is open valued at `last`; `price` [fill] is what the fills traded at."""
    realised = float(((price[lots.exit] - price[lots.entry]) * lots.closed).sum())
    return realised + float(((last - price[lots.open_entry]) * lots.open).sum())


def check_identity(
    equity: float, last: float, initial_cash: float, fills: dict[str, np.ndarray], lots: Lots, interest: float = 0.0
) -> None:
    """Raise `LedgerError` unless equity = start + gross P&L − fees − interest, to the cent or 1e-12 of the sums.

    `last` is the price; `interest` what was paid (quote currency).
    """
    said = initial_cash + gross_pnl(lots, fills["price"], last) - float(fills["fee"].sum()) - interest
    turnover = float((fills["quantity"] * fills["price"]).sum())
    if not abs(equity - said) <= max(0.005, 1e-12 * (turnover + abs(equity))):  # so put, NaN does not pass
        raise LedgerError(f"The account holds {equity:.2f}, its ledger says {said:.2f}, at a price of {last:.2f}.")


def fill_arrays(fills: Sequence[Fill]) -> dict[str, Any]:
    """The fields of `fills` as arrays [fill], by name; `side` is ±1, times are int64 ns."""
    names = ("timestamp", "quantity", "price", "fee", "decided", "exposure", "order", "reason", "maker")
    types = (np.int64, float, float, float, np.int64, float, object, object, bool)
    arrays = {
        name: np.array([getattr(one, name) for one in fills], kind) for name, kind in zip(names, types, strict=True)
    }
    return arrays | {"side": np.array([1 if one.side == "buy" else -1 for one in fills], np.int64)}


def fill_table(arrays: dict[str, Any]) -> pd.DataFrame:
    """One row per fill of `fill_arrays`, indexed by the bar in which it filled: what, at what price and cost, and why."""
    columns = {
        "side": _words(["sell", "buy"], (arrays["side"] > 0).astype(int)),
        "quantity": arrays["quantity"],
        "price": arrays["price"],
        "value": arrays["quantity"] * arrays["price"],
        "fee": arrays["fee"],
        "decided": _times(arrays["decided"]),
        "exposure": arrays["exposure"],
        "order": pd.array(arrays["order"], dtype="str"),
        "reason": pd.array(arrays["reason"], dtype="str"),
        "maker": arrays["maker"],
    }
    return pd.DataFrame(columns, index=_times(arrays["timestamp"]).rename("timestamp"), columns=FILL_COLUMNS)


def trade_table(arrays: dict[str, Any], lots: Lots, bar_ns: int) -> pd.DataFrame:
    """One row per closed lot: `side` is long or short, `pnl` after the fees of both ends, `reason` that of its closing.

    `bars_open` is in bars of `bar_ns`.
    """
    time, price = arrays["timestamp"], arrays["price"]
    opened, ended = price[lots.entry], price[lots.exit]
    quantity = np.abs(lots.closed)
    gross = (ended - opened) * lots.closed
    columns = {
        "entry": _times(time[lots.entry]),
        "exit": _times(time[lots.exit]),
        "side": _words(["short", "long"], (lots.closed > 0).astype(int)),
        "quantity": quantity,
        "entry_price": opened,
        "exit_price": ended,
        "gross_pnl": gross,
        "fees": lots.closed_fees,
        "pnl": gross - lots.closed_fees,
        "return_pct": 100 * (gross - lots.closed_fees) / (opened * quantity),
        "bars_open": (time[lots.exit] - time[lots.entry]) // bar_ns,
        "reason": pd.array(arrays["reason"], dtype="str")[lots.exit],
    }
    return pd.DataFrame(columns, columns=TRADE_COLUMNS)


def _times(ns: np.ndarray) -> pd.DatetimeIndex:
    return pd.DatetimeIndex(ns.view("M8[ns]"), tz="UTC")


def _words(names: list[str], codes: np.ndarray) -> Any:
    return pd.array(names, dtype="str")[codes]
