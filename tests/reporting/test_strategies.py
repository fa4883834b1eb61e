"""A strategy as reports run it: which network it reads, what bars it is judged on, its audit, and under which rules."""

from __future__ import annotations

import dataclasses
import time

import numpy as np
import pandas as pd
import pytest

import btclab as bl
from btclab.errors import CheckpointError, InputError, LookAheadError, TooFewBars
from btclab.records import OrderEvent
from btclab.reporting import strategies
from btclab.trading.strategies import STRATEGIES


@pytest.fixture(autouse=True)
def _own_names(monkeypatch):
    monkeypatch.setattr("btclab.trading.strategies.STRATEGIES", dict(STRATEGIES))


def named(name, function):
    bl.register_strategy(name, function)
    return bl.strategy(name)


# The network


def test_a_strategy_that_reads_no_forecasts_needs_no_checkpoint(candles):
    assert strategies.network(bl.strategy("sma_cross"), "production", candles) == (None, [])


def test_a_checkpoint_named_for_a_strategy_that_reads_none_is_refused(candles):
    with pytest.raises(InputError, match="'sma_cross' reads no forecasts; leave the checkpoint 'mine' out"):
        strategies.network(bl.strategy("sma_cross"), "mine", candles)


def test_a_strategy_that_can_do_without_a_checkpoint_says_why_it_does(candles):
    found, notes = strategies.network(bl.strategy("composite"), "production", candles)
    assert found is None
    assert notes[0].startswith("without forecasts: There is no checkpoint 'production'")


def test_a_strategy_that_can_do_without_goes_on_beside_a_network_of_another_market(home, trained, candles):
    bl.promote(trained.save(home / "models" / trained.name).name)
    real = candles.copy()
    real.attrs = {**candles.attrs, "simulated": False}
    found, notes = strategies.network(bl.strategy("composite"), "production", real)
    assert found is None
    assert "(simulated); these are candles of BTC/USDT (real)" in notes[0]
    assert strategies.network(bl.strategy("composite"), "production", candles)[0].name == trained.name
    with pytest.raises(CheckpointError, match="these are candles of"):
        strategies.network(bl.strategy("composite"), trained.name, real)


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("forecast", {}),
        ("sma_cross", {"STRATEGY__MIN_CONFIDENCE": "0.5"}),
        ("sma_cross", {"RISK__SIZING": "kelly_normal"}),
    ],
)
def test_what_needs_forecasts_fails_without_a_checkpoint(candles, monkeypatch, name, setting):
    for key, value in setting.items():
        monkeypatch.setenv(f"BTCLAB_{key}", value)
    with pytest.raises(CheckpointError, match="There is no checkpoint 'production'"):
        strategies.network(bl.strategy(name), "production", candles)


def test_features_are_built_for_a_strategy_that_reads_them_and_left_out_where_it_can_do_without(candles):
    assert strategies.features_of(bl.strategy("sma_cross"), candles, None) == (None, [])
    found, notes = strategies.features_of(bl.strategy("composite"), candles, None)
    assert found is None
    assert notes[0].startswith("without features: Features 'default' need more than")
    bl.register_strategy("needy", lambda c, f, p: f["rsi_14"], needs=("features",))
    with pytest.raises(TooFewBars):
        strategies.features_of(bl.strategy("needy"), candles, None)


# The bars


def test_without_forecasts_all_bars_are_judged_and_start_and_end_cut_them(candles):
    assert strategies.judged(candles, None, "", "").index.equals(candles.index)
    cut = strategies.judged(candles, None, "2021-02-01", "2021-03-01")
    assert (cut.index[0], cut.index[-1]) == (
        pd.Timestamp("2021-02-01", tz="UTC"),
        pd.Timestamp("2021-02-28 23:00", tz="UTC"),
    )
    assert cut.attrs == candles.attrs
    with pytest.raises(TooFewBars, match=r"0 bar\(s\) are left"):
        strategies.judged(candles, None, "2031-01-01")


def test_beside_forecasts_only_bars_that_training_has_not_seen_are_judged(trained, trained_candles):
    forecasts = bl.forecast(trained, trained_candles)
    bars = strategies.judged(trained_candles, forecasts)
    assert bars.index[0] >= trained.test_start
    assert not forecasts.loc[bars.index, "in_sample"].any()


def test_signals_begin_at_the_first_judged_bar_warmed_up_by_those_before(candles):
    bars = candles.index[1000:]
    made = strategies.signals(bl.strategy("sma_cross"), candles, None, None, bars)
    assert made.index.equals(bars)
    assert made["exposure"].notna().all()
    assert made["confidence"].isna().all()
    assert not made["in_sample"].any()


# The audit


def test_a_strategy_that_reads_the_next_close_is_refused(candles):
    peek = named("peek", lambda c, f, p: (c["close"].shift(-1) > c["close"]).astype(float))
    with pytest.raises(LookAheadError, match="Strategy 'peek' knows the future"):
        strategies.audited(peek, candles, None, None)


def test_a_strategy_that_peeks_only_before_rare_crashes_is_refused(candles):
    worst = candles["close"].pct_change().nsmallest(5).max()
    seldom = named("seldom", lambda c, f, p: (~(c["close"].pct_change().shift(-1) <= worst)).astype(float))
    with pytest.raises(LookAheadError, match="'seldom' knows the future"):
        strategies.audited(seldom, candles, None, None)


def test_an_honest_strategy_has_its_cuts_said_in_a_green_box(candles):
    audit = strategies.audited(bl.strategy("sma_cross"), candles, None, None)
    assert (audit["passed"], audit["cuts"], audit["bars"]) == (True, strategies.MOST_CUTS, len(candles))
    box = strategies.certificate(audit).data
    assert "Strategy audit passed: sma_cross wants the same" in box
    assert "32 shorter histories" in box
    assert "#1f9d61" in box
    assert "<b>" not in strategies.certificate({**audit, "sentence": "x"}).data.replace("<b>x</b>", "")


def test_the_name_of_a_strategy_cannot_put_markup_into_the_box(candles):
    audit = strategies.audited(bl.strategy("sma_cross"), candles, None, None)
    assert "<script>" not in strategies.certificate({**audit, "sentence": "<script>"}).data


def test_a_slow_strategy_is_audited_on_fewer_cuts_and_bars(candles, monkeypatch):
    def slow(c, f, p):
        time.sleep(len(c) / 100_000)
        return pd.Series(1.0, c.index)

    monkeypatch.setattr(strategies, "AUDIT_S", 0.1)
    audit = strategies.audited(named("slow", slow), candles, None, None)
    assert audit["cuts"] == strategies.LEAST_CUTS
    assert strategies.LEAST_BARS <= audit["bars"] < len(candles)


# Conditions and refusals


def signals_of(candles, name="sma_cross"):
    return strategies.signals(bl.strategy(name), candles, None, None, candles.index)


def test_conditions_hold_the_costs_that_were_given_and_every_setting_but_the_ledger(candles, monkeypatch):
    monkeypatch.setenv("BTCLAB_TRADING__IMPACT_BPS", "3")
    monkeypatch.setenv("BTCLAB_TRADING__LATENCY_BARS", "2")
    monkeypatch.setenv("BTCLAB_RISK__MAX_DRAWDOWN", "0.25")
    said = strategies.conditions(bl.Costs.from_settings(fee_bps=7.5), 500.0, signals_of(candles))
    trading = said["trading"]
    assert (trading["fee_bps"], trading["impact_bps"], trading["latency_bars"], trading["initial_cash"]) == (
        7.5,
        3,
        2,
        500,
    )
    assert "ledger" not in trading
    assert said["risk"]["max_drawdown"] == 0.25
    assert said["ran"]["name"] == "sma_cross"
    assert said["ran"]["parameters"]["fast"] == 50
    words = strategies.conditions_said(said).data
    assert "a fee of 7.5 bps and slippage of 5 bps" in words
    assert "Not as by default: `impact_bps` 3.0, `latency_bars` 2, `max_drawdown` 0.25" in words


def test_conditions_that_are_all_as_by_default_are_called_so(candles, monkeypatch):
    monkeypatch.setenv("BTCLAB_TRADING__SHORT_INTEREST_PCT", "20")  # of no account that may not sell short
    said = strategies.conditions(bl.Costs.from_settings(), 10_000.0, signals_of(candles))
    assert "All else is as by default" in strategies.conditions_said(said).data
    monkeypatch.setenv("BTCLAB_TRADING__ALLOW_SHORT", "true")
    said = strategies.conditions(bl.Costs.from_settings(), 10_000.0, signals_of(candles))
    assert "`allow_short` true, `short_interest_pct` 20.0" in strategies.conditions_said(said).data


def test_a_halt_is_said_with_its_bar_and_the_other_refusals_are_counted(candles):
    exposure = pd.DataFrame({"exposure": np.arange(len(candles)) // 50 % 2.0}, candles.index)
    risk = bl.RiskRules(max_drawdown=0.2, cooldown_bars=60)
    events = bl.backtest(candles, exposure, risk=risk).events
    halt = next(one for one in events if one.rule == "max_drawdown")
    words = strategies.refusals(events).data
    assert words.startswith(f"**Halted on {pd.Timestamp(halt.timestamp):%Y-%m-%d %H:%M}**: {halt.text}")
    assert "later signals" in words
    count = sum(one.rule == "cooldown" for one in events)
    assert count
    assert f"Refused besides: {count} by `cooldown`" in words


def test_where_nothing_was_refused_that_is_said():
    assert strategies.refusals([OrderEvent(0, "a", "accepted")]).data == "The rules refused nothing."


def test_a_sharpe_ratio_is_deflated_as_by_a_backtest_with_so_many_trials(candles):
    exposure = pd.DataFrame({"exposure": np.arange(len(candles)) // 50 % 2.0}, candles.index)
    for signals in (exposure, exposure.assign(in_sample=True)):
        once, many = (bl.backtest(candles, signals, trials=trials) for trials in (1, 7))
        assert strategies.deflated(once, 7).metrics == pytest.approx(many.metrics)


def test_rules_that_act_on_nothing_are_left_out_and_those_that_watch_the_equity_never(candles):
    signals = signals_of(candles)
    for risk, kept in (
        (bl.RiskRules(min_trade=10), False),
        (bl.RiskRules(stop_loss=0.01), True),
        (bl.RiskRules(max_drawdown=0.99), True),
    ):
        own = bl.backtest(candles, signals, risk=risk)
        assert strategies.acting(risk, own, candles, signals) == (risk if kept else None)


def test_the_paper_account_is_the_backtest_under_the_rules_of_the_settings(candles, monkeypatch):
    monkeypatch.setenv("BTCLAB_RISK__MAX_DRAWDOWN", "0.05")
    monkeypatch.setenv("BTCLAB_TRADING__LATENCY_BARS", "1")
    signals, costs = signals_of(candles), bl.Costs(10, 5)
    broker, events = strategies.account(candles, signals, costs, 10_000)
    result = bl.backtest(candles, signals, costs, risk=bl.RiskRules.from_settings())
    assert broker.equity == result.equity.iloc[-1]
    assert "**Halted on" in strategies.refusals(events).data


def test_the_features_box_says_whose_features_it_is_about(trained):
    from btclab.reporting import features

    box = features.certificate(dataclasses.replace(trained, name="mine<b>")).data
    assert "The features that the network of checkpoint mine&lt;b&gt; reads:" in box
