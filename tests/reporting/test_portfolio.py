"""Figures, tables and sentences of an account: what they show follows from its statement."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from IPython.display import HTML

from btclab.analysis.portfolio import account_statement
from btclab.records import Bar, Costs, Margin, Order
from btclab.reporting import portfolio
from btclab.trading.broker import PaperBroker, bars_of


@pytest.fixture(scope="module")
def statement(candles):
    """Three months of an account in memory that buys with a stop and a target, by turns."""
    broker = PaperBroker(10_000.0, Costs(10, 5))
    for i, bar in enumerate(bars_of(candles)):
        orders = []
        if i % 96 == 0:
            exits: dict[str, Any] = {"side": "sell", "parent": f"{i}", "group": f"exit-{i}"}
            orders = [
                Order(bar.timestamp, id=f"{i}", kind="market", side="buy", quantity=0.1),
                Order(bar.timestamp, id=f"{i}-stop", kind="stop", stop=0.96 * bar.close, **exits),
                Order(bar.timestamp, id=f"{i}-target", kind="limit", limit=1.05 * bar.close, **exits),
            ]
        broker.process(bar, None, lambda it, orders=orders: [it.submit(order) for order in orders])
    return account_statement(broker.ledger, candles=candles)


@pytest.fixture(scope="module")
def idle(candles):
    """An account that never traded."""
    return account_statement(PaperBroker(10_000.0, Costs()).ledger, candles=candles)


@pytest.fixture(scope="module")
def short(candles):
    """An account that turns between half long and half short every day, and is short at the end."""
    broker = PaperBroker(10_000.0, Costs(10, 5), margin=Margin())
    wish = pd.Series(np.nan, candles.index)
    wish.iloc[::48], wish.iloc[24::48] = 0.5, -0.5
    broker.run(candles, wish)
    return account_statement(broker.ledger, candles=candles)


@pytest.fixture(scope="module")
def held(statement):
    return statement.held()


@pytest.fixture(scope="module")
def figures(statement, held):
    return {
        "equity": portfolio.equity(statement, held),
        "months": portfolio.months(statement),
        "profit": portfolio.profit(statement, "day"),
        "trades": portfolio.trades(statement),
        "exit": portfolio.attribution(statement, "exit"),
        "category": portfolio.attribution(statement, "category"),
        "side": portfolio.attribution(statement, "side"),
    }


NAMES = ["equity", "months", "profit", "trades", "exit", "category", "side"]


@pytest.mark.parametrize("name", NAMES)
def test_a_figure_of_simulated_data_says_so_and_has_a_title(figures, name):
    figure = figures[name]
    assert isinstance(figure, go.Figure)
    assert any("SIMULATED MARKET · simulated:7" in (a.text or "") for a in figure.layout.annotations)
    assert figure.layout.title.text
    sideways = ("exit", "category", "side")  # whose rows carry their names
    assert all(axis.title.text for axis in figure.select_yaxes()) or name in sideways


def test_equity_and_drawdown_are_those_of_the_statement(figures, statement):
    lines = {(line.name, line.yaxis): line for line in figures["equity"].data}
    assert lines["account", "y"].y[-1] == pytest.approx(statement.totals["closing"], abs=0.01)
    assert min(lines["account", "y2"].y) == pytest.approx(statement.figures["max_drawdown"], abs=0.001)
    assert min(lines["buy and hold", "y2"].y) == pytest.approx(statement.held().metrics["max_drawdown"], abs=0.001)


def test_a_long_curve_is_thinned_and_keeps_its_extremes():
    index = pd.date_range("2021", periods=50_000, freq="h", tz="UTC")
    wave = pd.DataFrame({"equity": np.sin(np.arange(50_000) / 900.0), "drawdown": -np.arange(50_000) % 777.0}, index)
    thin = portfolio._thinned(wave)
    assert len(thin) < 4_010
    assert (thin["equity"].max(), thin["drawdown"].min()) == (wave["equity"].max(), wave["drawdown"].min())
    assert thin.index[-1] == index[-1]


def test_the_months_of_the_heat_map_are_those_of_the_statement(figures, statement):
    (heat,) = figures["months"].data
    assert list(heat.y) == ["2021"]
    assert heat.z[0][:3] == pytest.approx(statement.by("month")["return_pct"].to_numpy())
    assert np.isnan(heat.z[0][3:12]).all()
    assert heat.z[0][12] == pytest.approx(statement.figures["total_return"])


def test_the_days_add_up_to_the_profit(figures, statement):
    assert sum(figures["profit"].data[0].y) == pytest.approx(
        statement.totals["profit"], abs=0.5
    )  # rounded to the cent each


@pytest.mark.parametrize("name", ["exit", "category", "side"])
def test_the_bars_of_an_attribution_add_up_to_the_profit(figures, statement, name):
    assert sum(figures[name].data[0].x) == pytest.approx(statement.totals["profit"], abs=0.05)


def test_each_reason_has_points_of_its_own(figures, statement):
    shown = {line.name: len(line.x) for line in figures["trades"].data}
    assert shown["stop"] == (statement.trades["reason"] == "stop").sum()
    assert sum(shown.values()) == len(statement.trades)


def test_the_account_table_adds_up(statement):
    rows = portfolio.account(statement).set_index("account")["value"].str.replace(",", "").astype(float)
    assert rows.iloc[0] + rows["deposits less withdrawals"] + rows["profit after fees"] == pytest.approx(
        rows["closing"]
    )
    parts = rows[["· of closed lots", "· of open lots", "· interest"]].sum()
    assert parts == pytest.approx(rows["profit after fees"], abs=0.02)
    assert rows["· cash"] + rows.iloc[8] == pytest.approx(rows["closing"], abs=0.02)


def test_the_last_row_of_the_periods_is_the_whole(statement):
    rows = portfolio.period_table(statement, "month", most=2)
    assert len(rows) == 3
    assert rows["month"].tolist() == ["2021-02", "2021-03", "all 3"]
    assert float(rows["profit"].iloc[-1].replace(",", "")) == pytest.approx(statement.totals["profit"], abs=0.005)


def test_the_newest_trades_say_by_what_they_were_closed(statement):
    rows = portfolio.trade_list(statement, 5)
    assert len(rows) == 5
    assert set(rows["closed by"]) <= {"stop", "limit"}


def test_fees_are_told_by_maker_and_taker(statement):
    text = portfolio.fee_table(statement).data
    assert "maker" in text
    assert "taker" in text
    assert f"{statement.totals['fees']:,.2f}" in portfolio.fees(statement).data


def test_the_summary_stands_beside_holding_and_counts_the_trials(statement, held):
    words = portfolio.summary(statement, held).data
    assert f"{statement.totals['profit']:+,.2f} USDT" in words
    assert "holding would have returned" in words
    assert "one strategy was tried" in words
    assert words.startswith("From 2021-01-01 to 2021-04-01")


def test_what_was_measured_in_sample_is_called_so(statement):
    seen = dataclasses.replace(statement, metrics={f"in_sample_{k}": v for k, v in statement.metrics.items()})
    assert portfolio.summary(seen).data.startswith("**In sample")
    assert "IN SAMPLE" in portfolio.equity(seen).layout.title.text
    assert portfolio.metrics(seen)["metric"].str.startswith("in sample: ").all()


def test_what_is_sold_short_is_shown_below_nothing_and_called_so(short):
    axis = portfolio.equity(short).layout.yaxis3.range
    assert axis[0] < -100 < 100 < axis[1]
    assert "had sold it short in **" in portfolio.exposure(short).data
    assert portfolio.exposure(short).data.endswith("% are sold short.")
    assert "<td>short</td>" in portfolio.lots(short).data
    assert set(portfolio.trade_list(short, 50)["side"]) == {"long", "short"}
    symbols = {one for line in portfolio.trades(short).data for one in line.marker.symbol}
    assert symbols == {"circle", "triangle-down"}
    shown = portfolio.attribution(short, "side").data[0]
    assert set(shown.y) == {"bought", "sold short", "still open", "interest"}
    assert sum(shown.x) == pytest.approx(short.totals["profit"], abs=0.05)


def test_a_short_position_is_owed_in_the_account_and_interest_is_told(short):
    rows = portfolio.account(short).set_index("account")["value"].str.replace(",", "").astype(float)
    assert rows.iloc[8] == pytest.approx(short.lots["value"].sum(), abs=0.01)
    assert rows.iloc[8] < 0
    assert rows["· cash"] + rows.iloc[8] == pytest.approx(rows["closing"], abs=0.02)
    assert f"interest **{-short.totals['interest']:,.2f} USDT**" in portfolio.fees(short).data


def test_a_long_account_says_nothing_of_shorts(statement):
    assert "short" not in portfolio.exposure(statement).data
    assert "interest" not in portfolio.fees(statement).data
    assert "side" not in portfolio.trade_list(statement)
    assert portfolio.equity(statement).layout.yaxis3.range[0] == 0


def test_an_account_that_never_traded_says_so(idle):
    for said in (portfolio.trades(idle), portfolio.attribution(idle), portfolio.fee_table(idle), portfolio.lots(idle)):
        assert isinstance(said, HTML)
    assert "no Sharpe ratio" in portfolio.summary(idle, idle.held()).data
    assert "No lot was closed" in portfolio.trading(idle).data
    assert "No fee was paid" in portfolio.fees(idle).data
    assert "Nothing was traded" in portfolio.attributed(idle).data
    assert isinstance(portfolio.months(idle), go.Figure)
    assert portfolio.trade_list(idle).empty


def test_refusals_are_counted_by_rule_with_the_newest_words():
    broker = PaperBroker(100.0, Costs())
    broker.process(Bar(0, 100.0, 101.0, 99.0, 100.0))
    said = [
        broker.submit(Order(0, id=f"{i}", kind="market", side="buy", quantity=float(i))) for i in range(5, 8)
    ]  # more than there is cash for
    said.append(broker.submit(Order(0, id="free", kind="limit", side="buy", quantity=1.0, limit=0.0)))
    rows = [(one.order, one.event, one.rule, one.text) for one in said]
    times = pd.DatetimeIndex([0] * 4, tz="UTC")
    text = portfolio.refusals(pd.DataFrame(rows, times, ["order", "event", "rule", "text"])).data
    assert text.index("insufficient_funds") < text.index("price")
    assert said[2].text in text
    assert said[0].text not in text
    assert "Nothing was refused" in portfolio.refusals(pd.DataFrame(columns=["event", "rule", "text"])).data


def test_the_banner_of_a_demonstration_comes_before_that_of_the_market(statement):
    text = portfolio.banner(statement, "Not yours. Type `btclab paper run` & <wait>.").data
    assert text.index("<code>btclab paper run</code> &amp; &lt;wait&gt;") < text.index("SIMULATED MARKET")
    assert "SIMULATED MARKET" in portfolio.banner(statement).data


def test_that_the_parts_are_the_whole_is_said_with_the_numbers(statement):
    words = portfolio.adds_up(statement).data
    assert "The 3 months" in words
    assert f"{statement.totals['closing']:,.2f}" in words
