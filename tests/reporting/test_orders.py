"""How orders fill, drawn: the figures show what the paper broker did."""

from __future__ import annotations

import pytest

from btclab.records import Costs, Order
from btclab.reporting import orders

FIRST, WIDE, FALL = (100, 101, 99, 100), (100, 108, 92, 104), (98, 99, 93, 97)
BUY = Order(0, id="buy", kind="market", side="buy", quantity=1.0)
STOP = Order(0, id="stop", kind="stop", side="sell", stop=95.0, parent="buy", group="exit")
TRAIL = Order(0, id="trail", kind="trailing_stop", side="sell", trail=0.05, parent="buy")


def test_orders_are_placed_at_the_close_of_the_first_bar():
    played = orders.play([FIRST, WIDE, FALL], [BUY, STOP])
    assert [(fill.order, fill.timestamp // orders.HOUR, fill.price) for fill in played.fills] == [
        ("buy", 1, 100.0),
        ("stop", 1, 95.0),
    ]


def test_a_figure_shows_each_fill_at_its_bar_and_price_and_says_that_the_bars_are_made():
    figure = orders.filling({"one": ([FIRST, WIDE], [BUY, STOP]), "two": ([FIRST, FALL], [BUY])}, "Fills")
    filled = [line for line in figure.data if line.type == "scatter" and line.mode == "markers+text"]
    marks = [(line.xaxis, line.x[0], line.y[0], line.text[0]) for line in filled]
    assert marks == [
        ("x", 1, 100.0, "<b>buys 100</b>"),
        ("x", 1, 95.0, "<b>sells 95</b>"),
        ("x2", 1, 98.0, "<b>buys 98</b>"),
    ]
    assert any("bars made by hand" in (a.text or "") for a in figure.layout.annotations)
    assert figure.layout.title.text == "Fills"


def test_a_trailing_stop_lies_in_a_bar_where_the_bars_before_have_drawn_it():
    played = orders.play([FIRST, (100, 104, 99, 103), (103, 110, 102, 109)], [BUY, TRAIL])
    assert played.trails == [(2, pytest.approx(0.95 * 104)), (3, pytest.approx(0.95 * 110))]


def test_the_list_of_fills_tells_makers_from_takers():
    limit = Order(0, id="limit", kind="limit", side="buy", quantity=1.0, limit=95.0)
    rows = orders.fill_list({
        "taker": orders.play([FIRST, FALL], [BUY], Costs(10, 5)),
        "maker": orders.play([FIRST, FALL], [limit], Costs(10, 5, maker_fee_bps=2)),
    })  # fmt: skip
    assert rows["as"].tolist() == ["taker", "maker"]
    assert rows["price"].tolist() == ["98.049", "95.000"]
    assert rows["bar"].tolist() == ["+1", "+1"]


def test_refusals_have_their_rule_and_numbers():
    dear = Order(0, id="dear", kind="market", side="buy", quantity=99.0)
    (row,) = orders.refused(orders.play([FIRST, FALL], [BUY, dear]).events).to_dict("records")
    assert (row["order"], row["rule"]) == ("dear", "insufficient_funds")
    assert "9,900.00" in row["in words"]
