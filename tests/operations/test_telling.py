"""What the trader did, as it is told."""

from __future__ import annotations

from typing import Any

import pytest

from btclab.operations.messages import render
from btclab.operations.telling import Teller
from btclab.records import Bar, Costs, Margin, Order
from btclab.settings import NotificationSettings
from btclab.trading.broker import PaperBroker

HOUR = 3_600_000_000_000
HOLD = {"side": "hold", "exposure": None, "confidence": None, "reasons": {"text": "as before"}}


class Notes:
    """Notes the messages of a kind that a channel would be given."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []

    def send(self, kind: str, key: str = "", **figures: Any) -> None:
        message = render(kind, figures)
        self.told.append((message.title, message.body))


def told(rows: list[tuple[float, float, float, float]], orders: dict[int, Order]) -> list[tuple[str, str]]:
    """What is told of the bars `rows`, with `orders` placed at the close of the bar of their number."""
    notes, broker = Notes(), PaperBroker(1_000.0, Costs(0, 0), margin=Margin(0.0))
    teller = Teller(notes, NotificationSettings(), "BTC/USDT", "1h")
    for i, row in enumerate(rows):
        bar, since = Bar(i * HOUR, *row), len(broker.ledger.orders)
        placed = [orders[i]] if i in orders else []
        fills = broker.process(bar, None, lambda it, placed=placed: [it.submit(one) for one in placed])
        new = list(broker.ledger.orders.values())[since:]
        teller.bar(bar, broker, HOLD, 0.0, fills, new, [], 1_000.0)
    return notes.told


def market(i: int, side: str, quantity: float) -> Order:
    return Order(i * HOUR, id=f"{side}-{i}", kind="market", side=side, quantity=quantity, reason="by hand")


FLAT = (100.0, 100.0, 100.0, 100.0)


def fills_of(messages: list[tuple[str, str]]) -> list[tuple[str, str]]:
    return [one for one in messages if one[0].startswith("Filled")]


def test_a_sale_of_what_is_not_held_and_the_purchase_that_ends_it_are_told_as_such():
    orders = {0: market(0, "sell", 4.0), 1: market(1, "buy", 1.0), 2: market(2, "buy", 3.0)}
    sold, part, whole = fills_of(told([FLAT] * 4, orders))
    assert sold[0] == "Filled: sell 4 BTC at 100.00 USDT"
    assert sold[1].startswith("market, sold short · ")
    assert "short 4 BTC" in sold[1]
    assert part[1].startswith("market, a part of what was sold short is bought back · ")
    assert "short 3 BTC" in part[1]
    assert whole[1].startswith("market, all that was sold short is bought back · ")
    assert "holding 0 BTC" in whole[1]


def test_an_order_that_turns_the_position_says_so():
    orders = {0: market(0, "buy", 2.0), 1: market(1, "sell", 5.0), 2: market(2, "buy", 4.0)}
    _, down, up = fills_of(told([FLAT] * 4, orders))
    assert "from long to short" in down[1]
    assert "from short to long" in up[1]


def test_a_long_account_says_nothing_of_shorts():
    messages = told([FLAT] * 3, {0: market(0, "buy", 2.0), 1: market(1, "sell", 2.0)})
    assert not [one for one in messages if "short" in " ".join(one)]


def test_a_margin_call_is_told_as_one():
    rise = [FLAT, FLAT, (100.0, 300.0, 100.0, 250.0)]
    messages = told(rise, {0: market(0, "sell", 8.0)})
    called = [one for one in messages if "margin call" in " ".join(one)]
    assert called[0][0] == "Triggered: margin call"
    assert called[1][0].startswith("Filled: buy 8 BTC at 204.55 USDT")  # 1,800 / (1.1 × 8)
    assert called[1][1].startswith("margin call, all that was sold short is bought back")
    assert not [one for one in messages if one[0] == "Order: margin call"]


@pytest.mark.parametrize(("kind", "words"), [("take_profit", "take profit"), ("trailing_stop", "trailing stop")])
def test_kinds_of_orders_are_told_in_words(kind, words):
    distance = {"stop": 120.0} if kind == "take_profit" else {"trail": 0.1}
    order = Order(HOUR, id="out", kind=kind, side="sell", quantity=1.0, **distance)
    messages = told([FLAT] * 3, {0: market(0, "buy", 1.0), 1: order})
    assert (f"Order: {words}") in [title for title, _ in messages]
