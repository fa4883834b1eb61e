"""The account in exact decimals: what follows from fills and cash movements, without any rounding.

A float stands for the decimal that it prints as (0.1 is one tenth), and sums and products of such decimals are carried
to the last digit. So the identity is an equality: cash + position × price = deposits + realised + unrealised − fees + interest.
Only shares of a fee, which are quotients, and what is made of them (profit of a trade, drawdown) are floats.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from decimal import Context, Decimal, DivisionByZero, Inexact, InvalidOperation, Overflow, localcontext
from typing import Any, NamedTuple

from btclab.errors import LedgerError

# Wide enough for any sum of products of two floats, subnormal ones included; a result that would not fit is an error.
_EXACT = Context(prec=2_500, traps=[Inexact, InvalidOperation, Overflow, DivisionByZero])
DUST = Decimal("1e-12")  # of the fill that opened a lot: a piece below this is the engine's float rounding, no trade
ZERO = Decimal(0)


def exactly() -> AbstractContextManager[Context]:
    """The context in which decimals are added and multiplied without rounding."""
    return localcontext(_EXACT)


def decimal_of(value: float) -> Decimal:
    """The decimal that the float prints as: the shortest one that reads back as the same float."""
    return Decimal(repr(float(value)))


def text_of(amount: Decimal) -> str:
    """The one way an amount is written: no exponent, no trailing zeros, no minus before zero."""
    text = format(amount, "f")
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


class Lot(NamedTuple):
    """What is open of one fill: `quantity` is below 0 when short; `size` and `fee` are the whole fill's."""

    entry: int
    quantity: Decimal
    price: Decimal
    size: Decimal
    fee: Decimal

    @property
    def is_dust(self) -> bool:
        return abs(self.quantity) <= DUST * self.size


class Closed(NamedTuple):
    """A piece of a lot that a later fill closed; `fees` is its share of both fills' fees, `reason` why it was closed."""

    entry: int
    exit: int
    side: str
    quantity: Decimal
    entry_price: Decimal
    exit_price: Decimal
    gross: Decimal
    fees: float
    reason: str

    @property
    def pnl(self) -> float:
        return float(self.gross) - self.fees


@dataclass
class Book:
    """Running totals of one ledger. Feed it `move`, `fill` and then `mark` for each bar, in that order.

    `deposits` is net of withdrawals, `interest` is below 0 when paid, `realised` is before fees, `cost` is what the open
    lots were bought for. `unit` is the worth of a share of the account that began at 1: deposits and withdrawals buy and
    sell shares, so that they are no profit and no loss.
    """

    cash: Decimal = ZERO
    position: Decimal = ZERO
    cost: Decimal = ZERO
    deposits: Decimal = ZERO
    interest: Decimal = ZERO
    realised: Decimal = ZERO
    fees: Decimal = ZERO
    turnover: Decimal = ZERO
    equity: Decimal = ZERO
    flow: Decimal = ZERO  # deposits since the last mark
    close: Decimal = ZERO
    bar: int | None = None  # open time of the last bar, ns
    trades: int = 0
    wins: int = 0
    gains: float = 0.0
    losses: float = 0.0
    unit: float = 1.0
    peak: float = 1.0
    deepest: float = 0.0  # the largest drawdown so far, a fraction of the peak
    digest: str = ""  # of all rows so far
    counts: dict[str, int] = field(default_factory=dict)  # rows of each table so far
    lots: deque[Lot] = field(default_factory=deque)

    def move(self, kind: str, amount: Decimal) -> None:
        """A cash movement: "deposit" and "withdrawal" (below 0) change what was put in, "interest" is earned or paid."""
        self.cash += amount
        if kind == "interest":
            self.interest += amount
        else:
            self.deposits += amount
            self.flow += amount

    def fill(self, bar: int, side: str, quantity: Decimal, price: Decimal, fee: Decimal, reason: str) -> list[Closed]:
        """Trade; returns what it closed, oldest lots first, dust left out. What is left opens a lot, short if a sale."""
        left = quantity if side == "buy" else -quantity
        self.cash -= left * price + fee
        self.position += left
        self.fees += fee
        self.turnover += quantity * price
        closed = []
        while left and self.lots and (self.lots[0].quantity > 0) != (left > 0):
            lot = self.lots.popleft()
            part = lot.quantity  # signed as the lot is
            if abs(left) < abs(part):
                part = -left
                self.lots.appendleft(lot._replace(quantity=lot.quantity - part))
            left += part
            gross = (price - lot.price) * part
            self.realised += gross
            self.cost -= part * lot.price
            size = abs(part)
            if size > DUST * lot.size:
                fees = float(lot.fee * size) / float(lot.size) + float(fee * size) / float(quantity)
                sort = "long" if part > 0 else "short"
                closed.append(Closed(lot.entry, bar, sort, size, lot.price, price, gross, fees, reason))
                self._count(closed[-1].pnl)
        if left:
            self.lots.append(Lot(bar, left, price, quantity, fee))
            self.cost += left * price
        return closed

    def _count(self, pnl: float) -> None:
        self.trades += 1
        if pnl > 0:
            self.wins += 1
            self.gains += pnl
        else:
            self.losses -= pnl

    def mark(self, bar: int, close: Decimal) -> None:
        """The bar's close: equity and drawdown are those of closes."""
        base = float(self.equity + self.flow)
        self.bar, self.close, self.flow = bar, close, ZERO
        self.equity = self.cash + self.position * close
        if base > 0:
            self.unit *= float(self.equity) / base
        self.peak = max(self.peak, self.unit)
        self.deepest = max(self.deepest, 1 - self.unit / self.peak)

    def unrealised(self, price: Decimal) -> Decimal:
        """Profit before fees of the open lots at `price`."""
        return self.position * price - self.cost

    def check(self) -> None:
        """Raise `LedgerError` unless the identity holds to the last digit and the lots are the position."""
        with exactly():
            expected = self.deposits + self.interest + self.realised - self.cost - self.fees
            if self.cash != expected:
                raise LedgerError(
                    f"The ledger's cash is {text_of(self.cash)}; deposits + realised − fees + interest − cost of the open "
                    f"lots is {text_of(expected)}."
                )
            held = sum((lot.quantity for lot in self.lots), ZERO)
            paid = sum((lot.quantity * lot.price for lot in self.lots), ZERO)
        if (held, paid) != (self.position, self.cost):
            raise LedgerError(
                f"The ledger's position is {text_of(self.position)} BTC bought for {text_of(self.cost)}; its open lots are "
                f"{text_of(held)} BTC for {text_of(paid)}."
            )

    def dump(self) -> str:
        """All totals and lots as JSON text; the same book always gives the same text."""
        return json.dumps(self.__dict__, default=_plain, separators=(",", ":"))

    @classmethod
    def load(cls, text: str) -> Book:
        """The book that was dumped. Raises `ValueError`, `KeyError` or `TypeError` if `text` is not one."""
        held: dict[str, Any] = json.loads(text)
        lots = deque(Lot(entry, *map(Decimal, amounts)) for entry, *amounts in held.pop("lots"))
        amounts = {name: Decimal(value) for name, value in held.items() if name in _AMOUNTS}
        return cls(**{**held, **amounts, "lots": lots})


_AMOUNTS = {name for name, one in Book.__dataclass_fields__.items() if one.type == "Decimal"}


def _plain(value: object) -> object:
    if isinstance(value, Decimal):
        return text_of(value)
    if isinstance(value, deque):
        return list(value)
    raise TypeError(f"{value!r} is no part of a book")


def match(book: Book, rows: Iterable[Mapping[str, Any]]) -> Iterator[Closed]:
    """What `rows` of fills close, fed to `book`."""
    with exactly():
        for row in rows:
            yield from book.fill(row["bar"], row["side"], row["quantity"], row["price"], row["fee"], row["reason"])
