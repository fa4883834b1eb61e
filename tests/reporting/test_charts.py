"""Figures: built from the data, labelled where the data are simulated or stale."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go
import pytest

import btclab as bl
from btclab.reporting import charts


@pytest.fixture(scope="module")
def unseen(trained, trained_candles):
    return bl.out_of_sample(trained_candles, bl.forecast(trained, trained_candles))


@pytest.fixture(scope="module")
def result(unseen):
    candles, _ = unseen
    exposure = pd.DataFrame({"exposure": (pd.RangeIndex(len(candles)) // 100 % 2).astype(float)}, index=candles.index)
    return bl.backtest(candles, exposure)


@pytest.fixture(scope="module")
def figures(unseen, result):
    candles, forecasts = unseen
    return {
        "price": charts.price(candles),
        "trades": charts.price(candles, result.fills),
        "equity": charts.equity({"own": result, "held": bl.buy_and_hold(candles)}, candles.attrs),
        "costs": charts.cost_sensitivity(
            pd.DataFrame({"multiple": [0, 1], "cost_bps": [0, 15], "total_return": [3, 1]}), candles.attrs
        ),
        "prob_up": charts.prob_up(forecasts.iloc[-50:], 0.52, 0.48),
    }


NAMES = ["price", "trades", "equity", "costs", "prob_up"]


@pytest.mark.parametrize("name", NAMES)
def test_a_figure_of_simulated_data_says_so(figures, name):
    figure = figures[name]
    assert isinstance(figure, go.Figure)
    assert any("SIMULATED MARKET · simulated:7?edge=0.3" in (a.text or "") for a in figure.layout.annotations)


@pytest.mark.parametrize("name", NAMES)
def test_a_figure_has_a_title_and_named_axes_with_units(figures, name):
    figure = figures[name]
    assert figure.layout.title.text
    assert all(axis.title.text for axis in figure.select_yaxes())


def test_a_figure_of_stale_data_says_so(candles):
    stale = candles.copy()
    stale.attrs = {"symbol": "BTC/USDT", "timeframe": "1h", "stale": "stored data, 3 days old"}
    assert any("STALE · stored data, 3 days old" in a.text for a in charts.price(stale).layout.annotations)


def test_a_figure_of_fresh_real_data_carries_no_label(candles):
    fresh = candles.copy()
    fresh.attrs = {"symbol": "BTC/USDT", "timeframe": "1h", "simulated": False}
    assert not charts.price(fresh).layout.annotations


def test_long_histories_are_shown_in_longer_bars_with_the_same_range(trained_candles):
    shown = charts.price(trained_candles).data[0]
    assert len(shown.x) <= charts.MOST_CANDLES
    assert max(shown.high) == trained_candles["high"].max()
    assert min(shown.low) == trained_candles["low"].min()


def test_each_fill_is_marked_where_it_happened(figures, result):
    marks = {trace.name: trace for trace in figures["trades"].data if trace.name in ("buy", "sell")}
    buys = result.fills[result.fills["side"] == "buy"]
    assert list(marks["buy"].y) == buys["price"].tolist()
    assert len(marks["sell"].x) == (result.fills["side"] == "sell").sum()


def test_equity_in_sample_is_titled_so(unseen):
    candles, _ = unseen
    signals = pd.DataFrame({"exposure": 1.0, "in_sample": True}, index=candles.index)
    title = charts.equity({"own": bl.backtest(candles, signals)}, candles.attrs).layout.title.text
    assert "IN SAMPLE" in title


def test_thousands_of_fills_are_small_and_translucent(candles):
    turning = pd.DataFrame({"exposure": (pd.RangeIndex(len(candles)) // 2 % 2).astype(float)}, index=candles.index)
    fills = bl.backtest(candles, turning).fills
    many, few = (charts.price(candles, some).data[-1].marker for some in (fills, fills.iloc[: charts.MOST_MARKED]))
    assert (many.size, few.size) == (4, 9)
    assert many.opacity < 0.5
    assert few.opacity is None


def test_more_fills_than_can_be_seen_are_left_out_and_the_title_says_so(candles):
    turning = pd.DataFrame({"exposure": (pd.RangeIndex(len(candles)) % 2).astype(float)}, index=candles.index)
    fills = bl.backtest(candles, turning).fills
    figure = charts.price(candles, fills, "Trades")
    assert figure.layout.title.text == f"Trades, BTC/USDT, without its {len(fills):,} fills"
    assert not {trace.name for trace in figure.data} & {"buy", "sell"}
