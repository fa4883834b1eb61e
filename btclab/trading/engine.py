"""The one engine: what happens to an account during one bar. Backtest and paper trading both walk through `step`.

An order decided at the close of a bar fills at the open of the next bar, never earlier, at the open made worse by the
slippage, and pays its fee in quote currency. It asks for an exposure: the fraction of equity to be held in BTC.
"""

from __future__ import annotations

from dataclasses import dataclass

from btclab.records import Bar, Costs, Fill, Order
from btclab.trading.fills import fill_price, quantity_to_reach


@dataclass(frozen=True)
class Account:
    """Cash (quote currency) and position (BTC)."""

    cash: float
    position: float = 0.0

    def equity(self, price: float) -> float:
        """Worth of the account with the position valued at `price`."""
        return self.cash + self.position * price


def step(account: Account, bar: Bar, order: Order | None, costs: Costs) -> tuple[Account, Fill | None]:
    """The account after `bar`, and the fill of `order` (decided before this bar) at its open, if there was one."""
    if order is None:
        return account, None
    held = account.position * bar.open
    side = "buy" if order.exposure * account.equity(bar.open) > held else "sell"
    price = fill_price(bar.open, side, costs)
    quantity = quantity_to_reach(order.exposure, account.cash, account.position, price, side, costs)
    if quantity <= 0:  # the slippage or the fee already exceeds what there was to trade
        return account, None
    value = quantity * price
    fee = value * costs.fee_bps / 10_000
    fill = Fill(bar.timestamp, side, quantity, price, fee, order.decided, order.exposure)
    return settle(account, fill), fill


def settle(account: Account, fill: Fill) -> Account:
    """The account after `fill`. A buy of all cash leaves exactly 0; cash never falls below it."""
    sign = 1 if fill.side == "buy" else -1
    cash = account.cash - sign * fill.quantity * fill.price - fill.fee
    if sign > 0 and abs(cash) < 1e-12 * account.cash:  # all cash was to be spent: what is left is rounding
        cash = 0.0
    return Account(cash, account.position + sign * fill.quantity)


def next_order(
    account: Account, bar: Bar, target: float | None, last_target: float, band: float | None
) -> Order | None:
    """The order that the close of `bar` gives rise to, or None.

    `target` is the exposure wanted from now on (None: no opinion, keep the last one). There is an order when it differs
    from `last_target`, or when the holding has drifted from it by more than `band` (a fraction of equity).
    """
    wanted = last_target if target is None else target
    if wanted != last_target:
        return Order(bar.timestamp, wanted)
    if band is None:
        return None
    equity = account.equity(bar.close)
    drift = abs(account.position * bar.close / equity - wanted) if equity > 0 else 0.0
    return Order(bar.timestamp, wanted) if drift > band else None
