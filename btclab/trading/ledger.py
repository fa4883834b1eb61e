"""The ledger: an append-only list of fills, and the numbers that follow from it."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import pandas as pd

from btclab.errors import BtclabError
from btclab.records import Fill
from btclab.trading.engine import Account

_FILL_TYPES = {
    "side": "str",
    "quantity": "float64",
    "price": "float64",
    "value": "float64",
    "fee": "float64",
    "decided": "datetime64[ns, UTC]",
    "exposure": "float64",
}
_TRADE_TYPES = {
    "entry": "datetime64[ns, UTC]",
    "exit": "datetime64[ns, UTC]",
    "quantity": "float64",
    "entry_price": "float64",
    "exit_price": "float64",
    "gross_pnl": "float64",
    "fees": "float64",
    "pnl": "float64",
    "return_pct": "float64",
    "bars_open": "int64",
}
FILL_COLUMNS, TRADE_COLUMNS = list(_FILL_TYPES), list(_TRADE_TYPES)


class LedgerError(BtclabError):
    """The ledger and the account disagree: something traded outside the ledger, or a sum is wrong."""


@dataclass
class Ledger:
    """Fills in the order in which they happened, in memory. `initial_cash` is what the account started with."""

    initial_cash: float
    fills: list[Fill]

    def append(self, fill: Fill) -> None:
        """Add a fill; nothing is ever changed or removed. A fill may not precede the last one."""
        if self.fills and fill.timestamp < self.fills[-1].timestamp:
            raise LedgerError(f"A fill at {fill.timestamp} cannot follow one at {self.fills[-1].timestamp}.")
        self.fills.append(fill)

    @property
    def fees(self) -> float:
        """All fees paid so far, in quote currency."""
        return sum(fill.fee for fill in self.fills)

    def gross_pnl(self, price: float) -> float:
        """Profit before fees of the FIFO lots: what was realised, and what is open valued at `price`."""
        closed, lots = _match(self.fills)
        return sum((t.exit_price - t.entry_price) * t.quantity for t in closed) + sum(
            (price - lot.price) * lot.quantity for lot in lots
        )

    def check(self, account: Account, price: float) -> None:
        """Raise `LedgerError` unless cash + position × price = start + gross P&L − fees, to the cent or 1e-12 of the sums."""
        left, right = account.equity(price), self.initial_cash + self.gross_pnl(price) - self.fees
        turnover = sum(fill.quantity * fill.price for fill in self.fills)
        if not abs(left - right) <= max(0.005, 1e-12 * (turnover + abs(left))):  # so put, NaN does not pass
            raise LedgerError(f"The account holds {left:.2f}, its ledger says {right:.2f}, at a price of {price:.2f}.")

    def fill_table(self) -> pd.DataFrame:
        """One row per fill, indexed by the bar in which it filled: side, quantity (BTC), price, value, fee, decided, exposure."""
        rows = [
            (
                fill.side,
                fill.quantity,
                fill.price,
                fill.quantity * fill.price,
                fill.fee,
                _time(fill.decided),
                fill.exposure,
            )
            for fill in self.fills
        ]
        times = pd.DatetimeIndex(
            [_time(fill.timestamp) for fill in self.fills], name="timestamp", dtype="datetime64[ns, UTC]"
        )
        return pd.DataFrame(rows, index=times, columns=FILL_COLUMNS).astype(_FILL_TYPES)

    def trade_table(self, bar_ns: int) -> pd.DataFrame:
        """One row per closed lot (first in, first out); `pnl` is after the fees of both ends, `bars_open` in bars of `bar_ns`."""
        closed, _ = _match(self.fills)
        rows = [
            (
                _time(t.entry),
                _time(t.exit),
                t.quantity,
                t.entry_price,
                t.exit_price,
                gross := (t.exit_price - t.entry_price) * t.quantity,
                t.fees,
                gross - t.fees,
                100 * (gross - t.fees) / (t.entry_price * t.quantity),
                (t.exit - t.entry) // bar_ns,
            )
            for t in closed
        ]
        return pd.DataFrame(rows, columns=TRADE_COLUMNS).astype(_TRADE_TYPES)


def _time(ns: int) -> pd.Timestamp:
    return pd.Timestamp(ns, tz="UTC")


@dataclass(frozen=True)
class _Lot:
    entry: int
    quantity: float
    price: float
    fee: float


@dataclass(frozen=True)
class _Closed:
    entry: int
    exit: int
    quantity: float
    entry_price: float
    exit_price: float
    fees: float


def _match(fills: list[Fill]) -> tuple[list[_Closed], list[_Lot]]:
    """FIFO: each sell closes the oldest lots; a fee is shared over its quantity."""
    lots: deque[_Lot] = deque()
    closed: list[_Closed] = []
    held = 0.0
    for fill in fills:
        if fill.side == "buy":
            lots.append(_Lot(fill.timestamp, fill.quantity, fill.price, fill.fee))
            held += fill.quantity
            continue
        left, dust = fill.quantity, 1e-12 * held  # what is below this is rounding of the sums, not a lot
        held -= fill.quantity
        while left > dust and lots:
            lot = lots.popleft()
            part = min(lot.quantity, left)
            share = part / lot.quantity
            fees = lot.fee * share + fill.fee * part / fill.quantity
            closed.append(_Closed(lot.entry, fill.timestamp, part, lot.price, fill.price, fees))
            left -= part
            if lot.quantity - part > dust:
                lots.appendleft(_Lot(lot.entry, lot.quantity - part, lot.price, lot.fee * (1 - share)))
    return closed, list(lots)
