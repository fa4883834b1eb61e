"""The ledger: an append-only list of fills, and the numbers that follow from it."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import pandas as pd

from btclab.errors import BtclabError
from btclab.records import Fill
from btclab.trading.engine import Account

FILL_COLUMNS = ["side", "quantity", "price", "value", "fee", "decided", "exposure"]
TRADE_COLUMNS = [
    "entry",
    "exit",
    "quantity",
    "entry_price",
    "exit_price",
    "gross_pnl",
    "fees",
    "pnl",
    "return_pct",
    "bars_open",
]


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
        """Raise `LedgerError` unless cash + position × price = start + gross P&L − fees, to the cent or 1e-9 of the sums."""
        left, right = account.equity(price), self.initial_cash + self.gross_pnl(price) - self.fees
        turnover = sum(fill.quantity * fill.price for fill in self.fills)
        if abs(left - right) > max(0.005, 1e-9 * (turnover + abs(left))):
            raise LedgerError(f"The account holds {left:.2f}, its ledger says {right:.2f}, at a price of {price:.2f}.")

    def fill_table(self) -> pd.DataFrame:
        """One row per fill, indexed by the bar in which it filled: side, quantity (BTC), price, value, fee, decided, exposure."""
        table = pd.DataFrame(
            [asdict(fill) for fill in self.fills], columns=["timestamp", *(c for c in FILL_COLUMNS if c != "value")]
        )
        table["value"] = table["quantity"] * table["price"]
        table["decided"] = pd.to_datetime(table["decided"], utc=True)
        table.index = pd.DatetimeIndex(pd.to_datetime(table.pop("timestamp"), utc=True), name="timestamp")
        return table[FILL_COLUMNS]

    def trade_table(self, bar_ns: int) -> pd.DataFrame:
        """One row per closed lot (first in, first out), fees of both ends included in `pnl`; `bars_open` counts bars of `bar_ns`."""
        closed, _ = _match(self.fills)
        rows = [
            (
                pd.Timestamp(t.entry, tz="UTC"),
                pd.Timestamp(t.exit, tz="UTC"),
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
        return pd.DataFrame(rows, columns=TRADE_COLUMNS)


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
    lots: list[_Lot] = []
    closed: list[_Closed] = []
    for fill in fills:
        if fill.side == "buy":
            lots.append(_Lot(fill.timestamp, fill.quantity, fill.price, fill.fee))
            continue
        left = fill.quantity
        while left > 1e-15 * fill.quantity and lots:
            lot = lots.pop(0)
            part = min(lot.quantity, left)
            share = part / lot.quantity
            fees = lot.fee * share + fill.fee * part / fill.quantity
            closed.append(_Closed(lot.entry, fill.timestamp, part, lot.price, fill.price, fees))
            left -= part
            if lot.quantity - part > 1e-12 * lot.quantity:
                lots.insert(0, _Lot(lot.entry, lot.quantity - part, lot.price, lot.fee * (1 - share)))
    return closed, lots
