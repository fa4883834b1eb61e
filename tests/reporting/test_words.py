"""Sentences and tables: the words follow from the numbers."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest

import btclab as bl
from btclab.reporting import clusters, sentences, tables


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


def test_skill_that_does_not_stand_out_from_the_placebo_is_said_first(trained):
    said = sentences.verdict(with_metrics(trained, distinguishable=True, ic=0.03, placebo=[0.01, 0.04, -0.02])).data
    assert said.startswith("The network's skill **does not stand out from the placebo's**")
    assert "reached +0.010, +0.040, -0.020" in said
    clear = sentences.verdict(with_metrics(trained, distinguishable=True, ic=0.3, placebo=[0.01, 0.04, -0.02])).data
    assert "can be told from luck" in clear


def test_the_verdict_gives_the_figures_it_rests_on(trained):
    m = trained.metrics
    words = sentences.verdict(trained).data
    assert f"{m['ic']:+.3f} (95 % interval {m['ic_low']:+.3f} to {m['ic_high']:+.3f})" in words
    assert f"direction was right in {100 * m['hit_rate']:.1f} %" in words
    assert f"the error {m['error_ratio']:.4f} ({m['error_ratio_low']:.4f} to {m['error_ratio_high']:.4f})" in words
    assert f"Diebold-Mariano p = {m['dm_p']:.2g}" in words
    assert f"the 90 % interval covered {100 * m['coverage_90']:.1f} %" in words
    assert "No placebo was run" in words


@pytest.mark.parametrize(
    ("distinguishable", "p", "said"), [(False, 0.013, True), (False, 0.3, False), (True, 0.013, False)]
)
def test_two_tests_that_do_not_agree_are_told_apart(trained, distinguishable, p, said):
    words = sentences.verdict(with_metrics(trained, distinguishable=distinguishable, dm_p=p)).data
    assert ("a test of the squared errors alone" in words) is said


def test_a_forecast_that_validation_took_away_is_called_the_naive_one(trained):
    assert "**no skill**" in sentences.verdict(with_metrics(trained, ic=0.0)).data


def test_what_was_learnt_names_epoch_and_what_calibration_kept(trained):
    words = sentences.learning(trained).data
    assert f"after epoch **{trained.provenance['best_epoch'] + 1}** of {len(trained.curves['train'])}" in words
    assert f"keeps {100 * trained.calibrations[0].slope:.0f} % of the forecast" in words
    flat = dataclasses.replace(trained, calibrations=(dataclasses.replace(trained.calibrations[0], slope=0.0),))
    assert "says nothing of the direction" in sentences.learning(flat).data


@pytest.mark.parametrize(
    ("width", "word"), [(2.0, "33.3 % narrower than"), (3.3, "10.0 % wider than"), (3.0, "as wide as")]
)
def test_the_width_stands_beside_the_naive_one(trained, width, word):
    words = sentences.sharpness(
        with_metrics(trained, width_90=width, width_naive=3.0, ece=0.013, ece_chance=0.011)
    ).data
    assert word in words
    assert "off by **1.3** points" in words
    assert "chance alone makes 1.1" in words


def test_whether_a_training_is_due_is_said_with_the_reasons(trained, trained_candles):
    forecasts = bl.forecast(trained, trained_candles)
    drift = bl.check_drift(trained, trained_candles, forecasts)
    assert "No training is due" in sentences.aged(dataclasses.replace(drift, due=False, reasons=[])).data
    late = sentences.aged(dataclasses.replace(drift, due=True, reasons=["age 100 days (limit 90)"])).data
    assert late.startswith("**Training is due:** age 100 days (limit 90).")
    assert "Too few bars" in sentences.aged(None).data


def leaky(checkpoint):
    return dataclasses.replace(checkpoint, audit={**checkpoint.audit, "passed": False, "leaky": ["tomorrow"]})


def test_skill_of_a_network_that_saw_the_future_is_called_worthless(trained):
    words = sentences.verdict(leaky(with_metrics(trained, distinguishable=True, ic=0.9))).data
    assert words.startswith("**Worth nothing as evidence:** `tomorrow` knew the future")
    assert "can be told from luck" not in words


def test_performance_on_forecasts_that_saw_the_future_is_called_worthless(trained, market):
    own, held = bl.backtest(market, pd.DataFrame({"exposure": 1.0}, index=market.index)), bl.buy_and_hold(market)
    assert sentences.performance(own, held, leaky(trained)).data.startswith(
        "**Worth nothing as evidence, for `tomorrow`"
    )
    assert sentences.performance(own, held, trained).data.startswith("After costs")


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
    words = sentences.costs(result, table).data
    assert "at about 20 bps a side nothing is left" in words  # log(1.005) : log(0.99) divides 15…30 bps so


def test_a_return_that_vanishes_at_once_breaks_even_far_below_the_first_cost_tried(market):
    table = pd.DataFrame({"multiple": [0, 0.5, 1], "cost_bps": [0, 7.5, 15], "total_return": [6.3, -46.0, -100.0]})
    assert "at about 0.68 bps a side nothing is left" in sentences.costs(bl.buy_and_hold(market), table).data
    table["total_return"] = [6.3, -100.0, -120.0]  # sold short, it may owe
    assert "at about 0.0" in sentences.costs(bl.buy_and_hold(market), table).data


def test_the_latest_signal_gives_its_reasons_and_the_age(market):
    forecasts = pd.DataFrame({"prob_up": 0.6, "mean": 0.001}, index=market.index)
    forecasts.attrs = dict(market.attrs)
    words = sentences.latest(bl.make_signals(market, forecasts), market).data
    assert "probability of up 60.0 %" in words
    assert "Age of the data: none: simulated" in words


def test_a_signal_that_holds_says_since_when_and_on_which_side(market):
    signals = pd.DataFrame({"exposure": -0.775, "confidence": np.nan, "reasons": "wants -77.5 %"}, market.index)
    signals["side"] = ["sell", *["hold"] * (len(market) - 1)]
    words = sentences.latest(signals, market).data
    assert words.startswith(
        f"**HOLD**, target 77.5 % sold short, unchanged since {market.index[0]:%Y-%m-%d %H:%M}: wants"
    )
    turned = sentences.latest(signals.iloc[:1], market).data
    assert turned.startswith("**SELL**, target 77.5 % sold short: wants")


def test_only_a_signal_with_a_forecast_behind_it_says_how_sure_that_is(market):
    signals = bl.run_strategy("buy_and_hold", market)
    assert "likely" not in sentences.latest(signals, market).data
    signals["confidence"] = 0.6
    assert "(by the forecast 60.0 % likely to be right)" in sentences.latest(signals, market).data


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


def test_without_a_network_the_origin_says_why():
    assert sentences.origin(None).data == "The strategy reads no forecasts."
    said = sentences.origin(None, ["without forecasts: There is no checkpoint 'production'."]).data
    assert said == "The strategy runs **without forecasts**: There is no checkpoint 'production'."


def test_trades_are_counted(market):
    exposure = pd.DataFrame(
        {"exposure": (pd.RangeIndex(len(market)) // 20 % 2).astype(float)}, index=market.index
    )  # the fifth is open
    assert "**4** lots were closed" in sentences.trades(bl.backtest(market, exposure)).data
    assert "No lot was closed" in sentences.trades(bl.buy_and_hold(market)).data


def test_costs_of_nothing_traded_are_not_invented(market):
    idle = bl.backtest(market, pd.DataFrame({"exposure": 0.0}, index=market.index))
    assert sentences.costs(idle, pd.DataFrame()).data == "Nothing was traded, so costs change nothing."


def columns(**values):
    table = pd.DataFrame(values, dtype=float)
    table.attrs = {"features": {name: {"group": "trend", "warmup": 2} for name in values}, "missing": {}}
    return table


def test_columns_that_hold_values_are_counted_and_the_one_with_most_holes_named():
    table = columns(a=[np.nan, np.nan, 1, 1], b=[np.nan, np.nan, np.nan, 1], c=[np.nan] * 4)
    table.attrs["missing"] = {"c": "no data", "d": "too slow"}
    words = sentences.features_held(table).data
    assert "**2** of 4 columns hold values" in words
    assert "`b` misses most: 50.00 % of its bars" in words


def test_a_warm_up_is_no_hole():
    words = sentences.features_held(columns(a=[np.nan, np.nan, 1, 1])).data
    assert words == "All **1** columns hold values, and once warmed up none of them misses a bar."


def test_the_column_that_is_cut_off_most_often_is_named():
    values = np.random.default_rng(0).standard_normal((2, 1000))
    values[0, :2] = 99
    assert "**1** of 2 columns go that far, most often `a` (in 0.20 % of the bars)" in (
        sentences.features_beyond(columns(a=values[0], b=values[1])).data
    )
    assert "none is cut off" in sentences.features_beyond(columns(b=values[1])).data


def test_columns_that_say_the_same_are_counted_once():
    one, other = np.random.default_rng(0).standard_normal((2, 1000))
    words = sentences.features_alike(clusters.cluster(columns(a=one, b=2 * one, c=other))).data
    assert "**3** columns say **2** different things" in words
    assert "holds 2" in words
    assert "No two of the 2 columns" in sentences.features_alike(clusters.cluster(columns(a=one, c=other))).data


def test_the_choice_of_columns_is_counted_without_noise(trained):
    kept = [one.name for one in trained.spec.features if one.group != "noise"]
    rows = [
        {"feature": name, "kept": True, "reason": "kept", "above_noise": place < 3} for place, name in enumerate(kept)
    ]
    rows += [{"feature": "x", "kept": False, "reason": "as y", "above_noise": True}]
    rows += [{"feature": "noise_1", "kept": False, "reason": "noise", "above_noise": False}]
    chosen = dataclasses.replace(trained, selection={"rows": 5000, "noise_line": 0.0004, "table": rows})
    words = sentences.features_chosen(chosen).data
    assert f"**{len(kept)}** of {len(kept) + 1} columns were chosen on 5,000 training bars; 1 repeat another." in words
    assert "**3** of the chosen" in words
    assert "(0.40 · 10⁻³ nats)" in words
    assert "nothing to choose" in sentences.features_chosen(dataclasses.replace(trained, selection=None)).data


def importance(calibrated=True, above=True):
    names = ["a", "b", "noise_1"]
    table = pd.DataFrame({"feature": names, "importance": [2, 1, 0], "noise": [False, False, True]})
    table["above_noise"] = [above, False, False]
    table.attrs = {"noise_line": 0.00123, "bars": 900, "calibrated": calibrated}
    return table


def test_columns_above_the_noise_are_counted_and_named():
    words = sentences.features_used(importance()).data
    assert words.startswith("**1 of 2 columns stand above the noise**, which reaches 0.0012 % of the loss")
    assert "most of all `a`." in words
    assert "most of all" not in sentences.features_used(importance(above=False)).data


def test_importance_of_a_forecast_that_was_calibrated_away_is_called_so():
    assert "calibration leaves nothing" in sentences.features_used(importance(calibrated=False)).data
    assert "Too few bars" in sentences.features_used(None).data


def test_a_folded_table_stays_hidden_until_its_summary_is_opened(market):
    words = tables.folded(pd.DataFrame({"a": [1]}), "more <of it>").data
    assert words.startswith("<details><summary>more &lt;of it&gt;</summary><table")


def test_the_feature_list_says_how_each_is_computed_and_its_warm_up():
    rows = tables.feature_list(bl.resolve_spec("default"), "1h").set_index("feature")
    assert rows.loc["rsi_14_4h", "indicator"] == "rsi(length=14) on 4h"
    assert rows.loc["vix", "indicator"] == "log_level() of vix"
    assert rows.loc["sma_200_distance", "warm-up (bars)"] == 199


def test_the_strategy_is_named_with_its_parameters_and_filters(market):
    signals = bl.run_strategy("sma_cross", market, filters=bl.Filters(cooldown_bars=5), fast=3, slow=9)
    words = sentences.strategy(signals).data
    assert words.startswith("The strategy is **sma_cross** (fast 3, slow 9")
    assert "cooldown_bars 5" in words
    plain = sentences.strategy(bl.run_strategy("buy_and_hold", market, filters=bl.Filters())).data
    assert plain == "The strategy is **buy_and_hold**; it enters without any filter."
