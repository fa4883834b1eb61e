"""Figures that notebooks and dashboard share. Each returns a Plotly `Figure` and says so when its data are simulated or stale."""

from __future__ import annotations

from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from btclab.analysis.backtest import Result
from btclab.market.candles import TIMEFRAMES, resample, timeframe_of

ORANGE, BLUE, GREY, GREEN, RED = "#e8850c", "#3566a8", "#8a8f98", "#1f9d61", "#d1393b"
MOST_CANDLES = 1500  # more than this cannot be told apart on a screen
MOST_MARKED = 300  # fills that are drawn one by one; of more, small and translucent ones show where they crowd
MOST_FILLS = 1500  # more than this hide the price, and are left out

_LAYOUT = go.Layout(
    font={"family": "system-ui, -apple-system, Segoe UI, Roboto, sans-serif", "size": 13, "color": "#24292f"},
    paper_bgcolor="white",
    plot_bgcolor="white",
    colorway=[ORANGE, BLUE, GREY, GREEN, RED],
    margin={"l": 70, "r": 24, "t": 64, "b": 48},
    hovermode="x unified",
    legend={"orientation": "h", "yanchor": "bottom", "y": 1.0, "xanchor": "right", "x": 1.0},
    title={"x": 0.0, "xanchor": "left", "xref": "paper", "y": 0.97, "yanchor": "top", "font": {"size": 16}},
    xaxis={"gridcolor": "#eceff2", "linecolor": "#c9ced6", "zeroline": False},
    yaxis={"gridcolor": "#eceff2", "linecolor": "#c9ced6", "zeroline": False},
)


def _finish(figure: go.Figure, title: str, attrs: dict[Any, Any], height: int = 380) -> go.Figure:
    """Common look, title, and the label that no figure of simulated or stale data may lack."""
    figure.update_layout(template=go.layout.Template(layout=_LAYOUT), title_text=title, height=height)
    label = provenance_label(attrs)
    if label:
        figure.add_annotation(
            text=label,
            x=0.0,
            y=1.0,
            xref="paper",
            yref="paper",
            xanchor="left",
            yanchor="bottom",
            showarrow=False,
            font={"color": RED, "size": 12},
        )
    return figure


def provenance_label(attrs: dict[Any, Any]) -> str:
    """'SIMULATED MARKET …' or 'STALE …' for data that need it, else ''."""
    if attrs.get("simulated"):
        return f"SIMULATED MARKET · {attrs.get('source')}"
    parts = [f"STALE · {attrs['stale']}"] if attrs.get("stale") else []
    if attrs.get("repaired"):
        venues = sorted({span["venue"] for span in attrs["repaired"]})
        parts.append(f"{sum(span['bars'] for span in attrs['repaired']):,} BARS FILLED FROM {', '.join(venues)}")
    return " · ".join(parts)


def _market(attrs: dict[Any, Any]) -> str:
    return str(attrs.get("symbol") or "price")


def _quote(attrs: dict[Any, Any]) -> str:
    return _market(attrs).partition("/")[2] or "quote currency"


def _for_display(candles: pd.DataFrame) -> pd.DataFrame:
    """`candles`, in the shortest timeframe that fits on a screen."""
    own = TIMEFRAMES[timeframe_of(candles)]
    for name, delta in TIMEFRAMES.items():
        if delta >= own and delta % own == pd.Timedelta(0) and len(candles) * own / delta <= MOST_CANDLES:
            return resample(candles, name)
    return resample(candles, "1d")


def price(candles: pd.DataFrame, fills: pd.DataFrame | None = None, title: str = "Price") -> go.Figure:
    """Candlesticks and volume; with `fills`, what was bought and sold, where, unless they are too many to be told apart."""
    shown = _for_display(candles)
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, row_heights=[0.8, 0.2], vertical_spacing=0.03)
    bars = {name: shown[name] for name in ("open", "high", "low", "close")}
    figure.add_candlestick(
        x=shown.index,
        **bars,
        name=f"{timeframe_of(shown)} bars",
        increasing_line_color=GREEN,
        decreasing_line_color=RED,
        line_width=1,
        row=1,
        col=1,
    )
    figure.add_bar(
        x=shown.index, y=shown["volume"], name="volume", marker_color="#c9ced6", showlegend=False, row=2, col=1
    )
    count = 0 if fills is None else len(fills)
    hidden = f", without its {count:,} fills" if count > MOST_FILLS else ""
    for side, symbol, colour in (("buy", "triangle-up", BLUE), ("sell", "triangle-down", "#111111")):
        if 0 < count <= MOST_FILLS and fills is not None:
            chosen = fills[fills["side"] == side]
            marker: dict[str, Any] = {
                "symbol": symbol,
                "color": colour,
                "size": 9,
                "line": {"width": 1, "color": "white"},
            }
            if count > MOST_MARKED:
                marker |= {"size": 4, "opacity": 0.35, "line": {"width": 0}}
            figure.add_scatter(
                x=chosen.index, y=chosen["price"], mode="markers", name=side, marker=marker, row=1, col=1
            )
    figure.update_yaxes(title_text=_quote(candles.attrs), row=1, col=1)
    figure.update_yaxes(title_text=_market(candles.attrs).partition("/")[0], row=2, col=1)
    figure.update_xaxes(rangeslider_visible=False)
    return _finish(figure, f"{title}, {_market(candles.attrs)}{hidden}", candles.attrs, 480)


def equity(results: dict[str, Result], attrs: dict[Any, Any]) -> go.Figure:
    """Equity and drawdown of several strategies from the same start, and the exposure of the first, on one time axis."""
    figure = make_subplots(rows=3, cols=1, shared_xaxes=True, row_heights=[0.6, 0.25, 0.15], vertical_spacing=0.04)
    for (name, result), colour in zip(results.items(), (ORANGE, BLUE, GREY), strict=False):
        curve = result.equity
        line = {"color": colour, "width": 1.6}
        figure.add_scatter(x=curve.index, y=curve.round(2), name=name, line=line, legendgroup=name, row=1, col=1)
        fall = (100 * (curve / curve.cummax().clip(lower=result.initial_cash) - 1)).round(3)
        figure.add_scatter(
            x=curve.index,
            y=fall,
            name=name,
            line={**line, "width": 1},
            legendgroup=name,
            showlegend=False,
            row=2,
            col=1,
        )
    first = next(iter(results.values()))
    share = 100 * first.exposure
    seen = ", IN SAMPLE" if any(name.startswith("in_sample_") for name in first.metrics) else ""
    figure.add_scatter(
        x=share.index,
        y=share.round(2),
        line={"shape": "hv", "color": ORANGE, "width": 1},
        fill="tozeroy",
        name="exposure",
        showlegend=False,
        row=3,
        col=1,
    )
    figure.update_yaxes(title_text=_quote(attrs), row=1, col=1)
    figure.update_yaxes(title_text="drawdown (%)", row=2, col=1)
    figure.update_yaxes(title_text="in BTC (%)", range=_span(share), row=3, col=1)
    return _finish(figure, f"Equity, drawdown and exposure after costs{seen}", attrs, 620)


def _span(share: pd.Series) -> list[float]:
    """The axis of an exposure (%): the whole of it to each side that it was on."""
    return [min(-105.0 if (share < 0).any() else 0.0, 1.05 * share.min()), max(105.0, 1.05 * share.max())]


def cost_sensitivity(table: pd.DataFrame, attrs: dict[Any, Any]) -> go.Figure:
    """Total return against the cost of one side of a trade; `table` as from `bl.cost_sensitivity`."""
    figure, name = go.Figure(), str(table.columns[-1])
    figure.add_scatter(x=table["cost_bps"], y=table[name], mode="lines+markers", name=name.replace("_", " "))
    figure.add_hline(y=0, line_color=GREY, line_width=1)
    figure.update_xaxes(title_text="cost of one side: fee + slippage (bps)")
    figure.update_yaxes(title_text=f"{name.replace('_', ' ')} (%)")
    return _finish(figure, "What costs do to the result", attrs, 320)


def prob_up(forecasts: pd.DataFrame, enter: float, exit: float) -> go.Figure:
    """The calibrated probability of up over the last bars, with the thresholds of the rules."""
    figure = go.Figure(go.Scatter(x=forecasts.index, y=(100 * forecasts["prob_up"]).round(2), name="probability of up"))
    for level, text, colour in ((enter, "enter", GREEN), (exit, "exit", RED)):
        figure.add_hline(
            y=100 * level, line_dash="dot", line_color=colour, annotation_text=text, annotation_position="top left"
        )
    figure.update_yaxes(title_text="probability of up (%)")
    return _finish(figure, "Probability of up, last bars", forecasts.attrs, 300)
