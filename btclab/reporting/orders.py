"""How orders fill, drawn: a few bars made by hand, real orders, and what the paper broker did with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from btclab.records import Bar, Costs, Fill, Market, Order, OrderEvent
from btclab.reporting.charts import BLUE, GREEN, ORANGE, RED, _finish
from btclab.trading.broker import PaperBroker

HOUR = 3_600_000_000_000  # ns
ATTRS = {"simulated": True, "source": "bars made by hand", "symbol": "BTC/USDT", "timeframe": "1h"}
Row = Sequence[float]  # open, high, low, close, and volume if it matters
FREE = Costs(0.0, 0.0)


@dataclass
class Played:
    """What a broker did on `bars` with orders that were placed at the close of the first: its fills and events.

    `trails` are the levels of trailing stops, as (number of the bar in which it lies there, level).
    """

    broker: PaperBroker
    bars: list[Bar]
    trails: list[tuple[int, float]] = field(default_factory=list)

    @property
    def fills(self) -> list[Fill]:
        """In the order in which they happened."""
        return list(self.broker.ledger.fills)

    @property
    def events(self) -> list[OrderEvent]:
        """What became of the orders."""
        return list(self.broker.ledger.events)


def play(
    rows: Sequence[Row],
    orders: Sequence[Order],
    costs: Costs = FREE,
    cash: float = 1_000.0,
    market: Market | None = None,
    latency: int = 0,
) -> Played:
    """A paper broker on hourly bars of `rows`, with `orders` placed at the close of the first; without costs by default."""
    bars = [Bar(i * HOUR, *row) for i, row in enumerate(rows)]
    played = Played(PaperBroker(cash, costs, market=market, latency=latency), bars)
    for i, bar in enumerate(bars):
        placed = orders if i == 0 else ()
        played.broker.process(bar, None, lambda it, placed=placed: [it.submit(order) for order in placed])  # type: ignore[misc]
        for one in played.broker.state.orders:
            if one.order.kind == "trailing_stop" and not np.isnan(one.best):
                played.trails.append((i + 1, one.best * (1 - one.order.trail)))
    return played


def filling(cases: Mapping[str, tuple[Sequence[Row], Sequence[Order]]], title: str, costs: Costs = FREE) -> go.Figure:
    """Side by side, each case by its name: its bars, the prices that its orders name, and where the broker filled them."""
    figure = make_subplots(
        rows=1, cols=len(cases), shared_yaxes=True, subplot_titles=list(cases), horizontal_spacing=0.03
    )
    for col, (rows, orders) in enumerate(cases.values(), 1):
        _draw(figure, col, play(rows, orders, costs), orders)
    figure.update_xaxes(rangeslider_visible=False, showgrid=False)
    figure.update_yaxes(title_text="USDT", row=1, col=1)
    figure.update_annotations(font_size=13, yshift=4)
    figure = _finish(figure, title, ATTRS, 380)
    figure.layout.annotations[-1].update(y=1.11)  # above the names of the cases
    return figure.update_layout(showlegend=False, hovermode="closest", margin_t=92)


def _draw(figure: go.Figure, col: int, played: Played, orders: Sequence[Order]) -> None:
    places, at = list(range(len(played.bars))), {"row": 1, "col": col}
    prices = {name: [getattr(bar, name) for bar in played.bars] for name in ("open", "high", "low", "close")}
    figure.add_candlestick(
        x=places, **prices, increasing_line_color=GREEN, decreasing_line_color=RED, line_width=1.5, name="bar", **at
    )
    for order in orders:
        for name, colour in (("limit", BLUE), ("stop", ORANGE)):
            if not np.isnan(level := getattr(order, name)):
                figure.add_scatter(
                    x=[-0.5, places[-1] + 0.5],
                    y=[level, level],
                    mode="lines+text",
                    line={"dash": "dash", "width": 1.2, "color": colour},
                    text=[_label(order, name), ""],
                    textposition="top right",
                    textfont={"size": 11, "color": colour},
                    hoverinfo="skip",
                    **at,
                )
    for place, level in played.trails:
        if place < len(places):
            line = {"dash": "dash", "width": 1.6, "color": ORANGE}
            span = [place - 0.5, place + 0.5]
            figure.add_scatter(x=span, y=[level, level], mode="lines", line=line, hoverinfo="skip", **at)
    for fill in played.fills:
        bought = fill.side == "buy"
        figure.add_scatter(
            x=[fill.timestamp // HOUR],
            y=[fill.price],
            mode="markers+text",
            marker={
                "symbol": "triangle-right",
                "size": 13,
                "color": BLUE if bought else "#111111",
                "line": {"width": 1, "color": "white"},
            },
            text=[f"<b>{'buys' if bought else 'sells'} {fill.price:g}</b>"],
            textposition="middle right",
            hovertemplate=f"{fill.order}: {fill.side} {fill.quantity:g} at {fill.price:g}<extra></extra>",
            **at,
        )
    words = ["decided", *(f"+{i}" for i in places[1:])]
    figure.update_xaxes(tickvals=places, ticktext=words, range=[-0.6, places[-1] + 1.3], **at)


def _label(order: Order, name: str) -> str:
    price = getattr(order, name)
    kind = "limit" if name == "limit" else "take-profit" if order.kind == "take_profit" else "stop"
    return f"{kind} {price:g}"


# Tables


def fill_list(played: Mapping[str, Played]) -> pd.DataFrame:
    """The fills of several cases: at what price, for what fee, and as a maker or a taker."""
    rows = [
        {
            "case": name,
            "bar": f"+{fill.timestamp // HOUR}",
            "side": fill.side,
            "quantity": f"{fill.quantity:g}",
            "price": f"{fill.price:.3f}",
            "fee": f"{fill.fee:.4f}",
            "as": "maker" if fill.maker else "taker",
        }
        for name, one in played.items()
        for fill in one.fills
    ]
    return pd.DataFrame(rows)


def event_list(events: Sequence[OrderEvent]) -> pd.DataFrame:
    """What became of the orders, in the order in which it happened, with the rule and its numbers in words."""
    rows: list[tuple[Any, ...]] = [
        (f"+{one.timestamp // HOUR}", one.order, one.event, one.rule or "–", one.text or "–") for one in events
    ]
    return pd.DataFrame(rows, columns=["bar", "order", "what", "rule", "in words"])


def refused(events: Sequence[OrderEvent]) -> pd.DataFrame:
    """The refusals alone: the order, the rule, and its numbers."""
    table = event_list([one for one in events if one.event == "refused"])
    return table[["order", "rule", "in words"]]
