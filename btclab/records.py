"""The records that pass between strategy, engine, broker and ledger. All are frozen; money is in quote currency."""

from __future__ import annotations

import math
from dataclasses import dataclass

from btclab.errors import InputError


@dataclass(frozen=True)
class Costs:
    """What a trade costs: `fee_bps` of the traded value, and `slippage_bps` by which the fill price is worse than the open."""

    fee_bps: float = 10.0
    slippage_bps: float = 5.0

    def __post_init__(self) -> None:
        for name in ("fee_bps", "slippage_bps"):
            value = getattr(self, name)
            if not 0 <= value < 10_000:
                raise InputError(
                    f"{name} is {value!r}; it must be at least 0 and under 10,000 basis points (10 = 0.10 %)."
                )


@dataclass(frozen=True)
class Bar:
    """One closed bar as the engine sees it; `timestamp` is its open time in ns since 1970 (UTC).

    Raises `InputError` if a price is missing, infinite, not above 0, or outside low…high: nothing trades at such a price.
    """

    timestamp: int
    open: float
    high: float
    low: float
    close: float

    def __post_init__(self) -> None:
        if not (0 < self.low <= self.open <= self.high < math.inf and self.low <= self.close <= self.high):
            raise InputError(
                f"{self} cannot have traded: it needs 0 < low ≤ open, close ≤ high. Drop it, or fetch it again."
            )


@dataclass(frozen=True)
class Order:
    """Bring the holding to `exposure` (fraction of equity in BTC) at the next bar's open; decided at the close of `decided`."""

    decided: int
    exposure: float


@dataclass(frozen=True)
class Fill:
    """One execution. `quantity` (BTC) is positive on either side; `price` includes slippage; `fee` is in quote currency."""

    timestamp: int
    side: str
    quantity: float
    price: float
    fee: float
    decided: int
    exposure: float
