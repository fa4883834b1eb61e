"""How much an order trades and at what price: the one cost model."""

from __future__ import annotations

from btclab.records import Costs


def fill_price(open_price: float, side: str, costs: Costs) -> float:
    """The open, made worse by the slippage: higher for a buy, lower for a sell."""
    slip = costs.slippage_bps / 10_000
    return open_price * (1 + slip if side == "buy" else 1 - slip)


def quantity_to_reach(exposure: float, cash: float, position: float, price: float, side: str, costs: Costs) -> float:
    """BTC to buy or sell at `price` so that afterwards position × price = exposure × equity, the fee being paid.

    A buy of value v costs v × fee, so v = (exposure × equity − held) / (1 + exposure × fee): exposure 1 spends all cash,
    fee included. A sell pays its fee from the proceeds: v = (held − exposure × equity) / (1 − exposure × fee), and
    exposure 0 sells all. Never negative.
    """
    fee = costs.fee_bps / 10_000
    held, equity = position * price, cash + position * price
    if side == "buy":
        most = cash / (1 + fee)  # in one step from the cash, so that exposure 1 leaves none and no rounding overspends
        value = most if exposure == 1 else min(most, (exposure * equity - held) / (1 + exposure * fee))
        return max(0.0, value / price)
    if exposure == 0:
        return position
    return min(position, max(0.0, (held - exposure * equity) / (1 - exposure * fee) / price))
