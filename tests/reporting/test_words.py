"""Sentences and tables: the words follow from the numbers."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest

import btclab as bl
from btclab.reporting import sentences, tables


def with_metrics(checkpoint, **metrics):
    return dataclasses.replace(checkpoint, metrics={**checkpoint.metrics, **metrics})


@pytest.fixture(scope="module")
def market(candles):
    return candles.iloc[:200]


def test_no_skill_is_called_no_skill(trained):
    words = sentences.verdict(with_metrics(trained, distinguishable=False, ic_low=-0.01, ic_high=0.02)).data
    assert "cannot be told from zero" in words
    assert "Do not trade it" in words


def test_a_forecast_that_is_wrong_more_often_than_luck_is_called_so(trained):
    words = sentences.verdict(with_metrics(trained, distinguishable=False, ic=-0.03, ic_low=-0.05, ic_high=-0.01)).data
    assert "point the wrong way" in words


def test_skill_is_called_skill(trained):
    assert "can be told from luck" in sentences.verdict(with_metrics(trained, distinguishable=True)).data


@pytest.mark.parametrize(("measured", "word"), [(0.90, "kept its word"), (0.80, "did **not** keep its word")])
def test_coverage_is_judged_by_what_was_measured(trained, measured, word):
    words = sentences.coverage(with_metrics(trained, coverage_90=measured)).data
    assert word in words
    assert f"{100 * measured:.1f} %" in words


def test_performance_stands_beside_buy_and_hold(market):
    own, held = bl.backtest(market, pd.DataFrame({"exposure": 0.0}, index=market.index)), bl.buy_and_hold(market)
    words = sentences.performance(own, held).data
    assert "returned **+0.0 %**" in words
    assert f"{held.metrics['total_return']:+.1f} %" in words
    assert "nothing was traded" in words


def test_in_sample_performance_is_called_worthless(market):
    signals = pd.DataFrame({"exposure": 1.0, "in_sample": True}, index=market.index)
    words = sentences.performance(bl.backtest(market, signals), bl.buy_and_hold(market)).data
    assert words.startswith("**In sample, so worth nothing")


def test_costs_say_where_nothing_is_left(market):
    result = bl.buy_and_hold(market)
    table = pd.DataFrame({"multiple": [0, 1, 2], "cost_bps": [0, 15, 30], "total_return": [2.0, 0.5, -1.0]})
    assert "at 30 bps a side nothing is left" in sentences.costs(result, table).data


def test_the_latest_signal_gives_its_reasons_and_the_age(market):
    forecasts = pd.DataFrame({"prob_up": 0.6, "mean": 0.001}, index=market.index)
    forecasts.attrs = dict(market.attrs)
    words = sentences.latest(bl.make_signals(market, forecasts), market).data
    assert "probability of up 60.0 %" in words
    assert "Age of the data: none: simulated" in words


def test_the_broker_says_what_it_will_do(market):
    broker = bl.PaperBroker.open("memory://", 10_000, bl.Costs(10, 5))
    exposure = pd.Series(0.0, market.index)
    exposure.iloc[-1] = 1.0
    broker.run(market, exposure)
    words = sentences.broker_plan(broker, "BTC/USDT").data
    assert "buy about" in words
    assert "fee 9.99 USDT" in words


def test_the_broker_says_when_it_does_nothing():
    assert "does **nothing**" in sentences.broker_plan(bl.PaperBroker.open("memory://"), "BTC/USDT").data


@pytest.mark.parametrize(
    ("minutes", "words"), [(35, "35 min"), (185, "3 h 5 min"), (60 * 24 * 1000 + 120, "1,000 days 2 h")]
)
def test_the_age_is_read_from_the_close_of_the_last_bar(market, minutes, words):
    real = market.copy()
    real.attrs = {**market.attrs, "simulated": False}
    closed = real.index[-1] + pd.Timedelta("1h")
    assert tables.age(real, closed + pd.Timedelta(minutes=minutes)) == words


def test_the_banner_names_simulated_and_stale_data_and_is_empty_otherwise(market):
    assert "SIMULATED MARKET" in tables.banner(market).data
    real = market.copy()
    real.attrs = {"stale": "stored data, 3 days old", "notes": ["kraken: <refused>"]}
    assert "3 days old" in tables.banner(real).data
    assert "kraken: &lt;refused&gt;" in tables.banner(real).data
    real.attrs = {}
    assert tables.banner(real).data == ""


def test_metrics_of_several_results_stand_side_by_side_with_units(market):
    table = tables.metrics_table({"own": bl.buy_and_hold(market), "held": bl.buy_and_hold(market)})
    assert list(table.columns) == ["metric", "own", "held", "unit"]
    assert table["unit"].notna().all()
    assert (table["own"] == table["held"]).all()


def test_in_sample_metrics_are_named_in_the_table(market):
    signals = pd.DataFrame({"exposure": 1.0, "in_sample": True}, index=market.index)
    assert tables.metrics_table({"own": bl.backtest(market, signals)})["metric"].str.startswith("in sample: ").all()


def test_an_empty_table_says_none():
    assert tables.table(pd.DataFrame({"a": []})).data == "<p>None.</p>"


def test_the_data_window_names_source_span_and_fingerprint(market):
    rows = tables.data_window(market).set_index("data")["value"]
    assert rows["fingerprint"] == bl.fingerprint(market)
    assert rows["source"] == "simulated:7"
    assert "SIMULATED" in rows["state"]


def test_the_forecast_row_gives_prices_in_order(market):
    row = pd.Series({"q05": -0.02, "q25": -0.01, "q50": 0, "q75": 0.01, "q95": 0.02, "mean": np.log(1.001)})
    table = tables.forecast_row(row, market)
    assert table["price"].str.replace(",", "").astype(float).iloc[:5].is_monotonic_increasing
    assert table["price"].iloc[5] == f"{market['close'].iloc[-1] * 1.001:,.2f}"


def test_the_account_shows_what_the_broker_holds(market):
    broker = bl.PaperBroker.open("memory://", 10_000)
    broker.run(market, pd.Series(1.0, market.index))
    rows = tables.account(broker, "BTC/USDT").set_index("paper account")["value"]
    assert rows["worth"] == f"{broker.equity:,.2f}"
    assert rows["cash"] == "0.00"
    assert rows["fills"] == "1"


def test_the_origin_names_checkpoint_and_market(trained):
    words = sentences.origin(trained).data
    assert trained.name in words
    assert "BTC/USDT 1h of simulated:7?edge=0.3" in words


def test_trades_are_counted(market):
    exposure = pd.DataFrame(
        {"exposure": (pd.RangeIndex(len(market)) // 20 % 2).astype(float)}, index=market.index
    )  # the fifth is open
    assert "**4** lots were closed" in sentences.trades(bl.backtest(market, exposure)).data
    assert "No lot was closed" in sentences.trades(bl.buy_and_hold(market)).data


def test_costs_of_nothing_traded_are_not_invented(market):
    idle = bl.backtest(market, pd.DataFrame({"exposure": 0.0}, index=market.index))
    assert "Nothing was traded" in sentences.costs(idle, pd.DataFrame()).data
