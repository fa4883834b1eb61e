"""The records that pass between strategy, engine, broker and ledger. All are frozen; money is in quote currency, times in ns."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

from btclab.errors import InputError, unknown

KINDS = ("target", "market", "limit", "stop", "stop_limit", "take_profit", "trailing_stop")
LIFETIMES = ("gtc", "gtd", "ioc")
MOVEMENTS = ("deposit", "withdrawal", "interest")


@dataclass(frozen=True)
class Costs:
    """What a trade costs: `fee_bps` of the traded value, and `slippage_bps` by which a taker's price is worse than the market's.

    `maker_fee_bps` is the fee of a limit order that rested (None: the same); `impact_bps` is further slippage for each whole
    bar volume that is traded; `participation` caps a fill at that share of the bar's volume (None: no cap, volume is ignored).
    """

    fee_bps: float = 10.0
    slippage_bps: float = 5.0
    maker_fee_bps: float | None = None
    impact_bps: float = 0.0
    participation: float | None = None

    def __post_init__(self) -> None:
        for name in ("fee_bps", "slippage_bps", "maker_fee_bps", "impact_bps"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < 10_000:
                raise InputError(
                    f"{name} is {value!r}; it must be at least 0 and under 10,000 basis points (10 = 0.10 %)."
                )
        if self.participation is not None and not 0 < self.participation <= 1:
            raise InputError(f"participation is {self.participation!r}; it must lie in 0…1 (share of a bar's volume).")

    @classmethod
    def from_settings(cls, **given: Any) -> Costs:
        """The costs of the section `[trading]`, but for those that are `given`."""
        from btclab.settings import settings

        own = settings().trading
        return cls(**{one.name: getattr(own, one.name) for one in fields(cls)} | given)


@dataclass(frozen=True)
class Margin:
    """On what terms BTC is sold short: it is borrowed, and its price in cash stays with the lender until it is given back.

    `interest_pct` is paid per year of 365 days on the value of what is borrowed, at the open of each bar for the one before.
    When equity has fallen to the fraction `maintenance` of that value, all is bought back (a margin call).
    """

    interest_pct: float = 10.0
    maintenance: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.interest_pct < 10_000:
            raise InputError(f"interest_pct is {self.interest_pct!r}; it must be at least 0 (10 = 10 % a year).")
        if not 0 < self.maintenance < 1:
            raise InputError(
                f"maintenance is {self.maintenance!r}; it must lie between 0 and 1, a fraction of what is borrowed."
            )

    @classmethod
    def from_settings(cls) -> Margin | None:
        """The terms of the section `[trading]`; None unless `allow_short` is on."""
        from btclab.settings import settings

        own = settings().trading
        return cls(own.short_interest_pct, own.maintenance_margin) if own.allow_short else None


@dataclass(frozen=True)
class Market:
    """What may be traded: sizes in BTC and prices in quote currency; 0 means no such rule."""

    symbol: str = "BTC/USDT"
    quantity_step: float = 0.0
    min_quantity: float = 0.0
    min_value: float = 0.0
    price_tick: float = 0.0


@dataclass(frozen=True)
class Bar:
    """One closed bar as the engine sees it; `timestamp` is its open time in ns since 1970 (UTC), `volume` in BTC.

    Raises `InputError` if a price is missing, infinite, not above 0, or outside low…high: nothing trades at such a price.
    """

    timestamp: int
    open: float
    high: float
    low: float
    close: float
    volume: float = math.inf

    def __post_init__(self) -> None:
        prices = 0 < self.low <= self.open <= self.high < math.inf and self.low <= self.close <= self.high
        if not (prices and self.volume >= 0):
            raise InputError(
                f"{self} cannot have traded: it needs 0 < low ≤ open, close ≤ high and a volume ≥ 0. Drop it, or fetch it again."
            )


@dataclass(frozen=True)
class Order:
    """What is to be traded from the open of the bar after `decided` (open time of the bar at whose close it was decided) on.

    - `kind` "target" brings the holding to `exposure` (fraction of equity in BTC) at the next open; all others trade `quantity`
      (BTC, above 0) on `side` ("buy", "sell"). `limit`, `stop` are prices; `trail` is the distance of a trailing stop as a
      fraction of the best price since it became active.
    - `lifetime`: "gtc" until cancelled, "gtd" until `expires` (ns), "ioc" what the first bar gives.
    - `group`: of the orders with the same name, the first fill cancels the others (OCO). `parent`: becomes active when that
      order has filled, for the quantity that it filled (bracket).
    - `id` is unique within a ledger and is the key by which nothing happens twice; `reason` is for people.
    """

    decided: int
    exposure: float = math.nan
    id: str = ""
    kind: str = "target"
    side: str = ""
    quantity: float = math.nan
    limit: float = math.nan
    stop: float = math.nan
    trail: float = math.nan
    lifetime: str = "gtc"
    expires: int = 0
    group: str = ""
    parent: str = ""
    reason: str = ""


@dataclass(frozen=True)
class Fill:
    """One execution. `quantity` (BTC) is positive on either side; `price` includes slippage; `fee` is in quote currency.

    `order` is the id of the order, `reason` why it filled ("target", "market", "limit", "stop", "take_profit",
    "trailing_stop", …), `maker` whether it rested in the book.
    """

    timestamp: int
    side: str
    quantity: float
    price: float
    fee: float
    decided: int
    exposure: float
    order: str = ""
    reason: str = "target"
    maker: bool = False


@dataclass(frozen=True)
class OrderEvent:
    """What became of an order in the bar `timestamp`; `rule` names the rule of a refusal, `text` says it with the numbers.

    `event` is "accepted", "refused", "triggered", "cancelled", "replaced", "expired" or "done".
    """

    timestamp: int
    order: str
    event: str
    rule: str = ""
    text: str = ""


@dataclass(frozen=True)
class Movement:
    """Cash in or out without a trade: "deposit" above 0, "withdrawal" below 0, "interest" below 0 when paid."""

    kind: str
    amount: float
    text: str = ""

    def __post_init__(self) -> None:
        if self.kind not in MOVEMENTS:
            raise unknown("kind of cash movement", self.kind, MOVEMENTS)
        wrong = {"deposit": self.amount <= 0, "withdrawal": self.amount >= 0}.get(self.kind, False)
        if wrong or not math.isfinite(self.amount):
            raise InputError(
                f"{self} cannot be: a deposit is above 0, a withdrawal below, interest below if it is paid."
            )
