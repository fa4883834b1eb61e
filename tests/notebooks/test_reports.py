"""The trading reports as a user runs them: with a strategy that needs no network, and with one that knows the future."""

from __future__ import annotations

import pytest

from btclab.errors import RunFailed
from btclab.operations.runs import run_notebook

MINE = """
def peek(candles, features, forecasts):
    return (candles.close.shift(-1) > candles.close).astype(float)

def rule(candles, features, forecasts):
    return (candles.close > candles.close.rolling(50).mean()).astype(float)
"""


@pytest.fixture
def source(candles, tmp_path):
    candles.to_parquet(tmp_path / "simulated_market.parquet")
    return f"file:{tmp_path / 'simulated_market.parquet'}"


def test_a_backtest_of_a_rule_runs_without_a_checkpoint_and_says_nothing_of_a_network(source, monkeypatch, candles):
    monkeypatch.setenv("BTCLAB_RISK__MAX_DRAWDOWN", "0.05")
    monkeypatch.setenv("BTCLAB_TRADING__ALLOW_SHORT", "true")
    monkeypatch.setenv("BTCLAB_TRADING__MAKER_FEE_BPS", "2")
    run = run_notebook("backtest", {"source": source, "strategy": "sma_cross(fast=10, slow=40, short=1)", "fee_bps": 7})
    assert (run.results["checkpoint"], run.results["naive"], run.results["audit"]) == (None, None, None)
    assert run.results["data"]["bars"] == len(candles)
    assert run.results["strategy_audit"]["cuts"] == 32
    conditions = run.results["conditions"]
    assert conditions["ran"]["parameters"] == {"fast": 10, "slow": 40, "max_exposure": 1.0, "short": 1}
    assert (conditions["trading"]["fee_bps"], conditions["trading"]["maker_fee_bps"]) == (7, 2)
    page = run.report.read_text(encoding="utf-8")
    assert "The strategy reads no forecasts." in page
    assert "<strong>Halted on " in page
    assert "<code>max_drawdown</code> 0.05" in page
    assert "Strategy audit passed: sma_cross" in page
    for word in ("The network's skill", "The forecasts are those of", "naive forecast", "Look-ahead audit passed"):
        assert word not in page


def test_a_signal_of_a_rule_runs_without_a_checkpoint_and_has_no_confidence(source):
    run = run_notebook("signal", {"source": source, "strategy": "sma_cross"})
    signal = run.results["signal"]
    assert (signal["confidence"], signal["in_sample"], run.results["skill"]) == (None, False, None)
    page = run.report.read_text(encoding="utf-8")
    assert "The strategy reads no forecasts." in page
    assert "likely to be right" not in page


@pytest.mark.parametrize("name", ["backtest", "signal"])
def test_a_report_refuses_a_strategy_that_knows_the_future(source, tmp_path, name):
    (tmp_path / "mine.py").write_text(MINE)
    with pytest.raises(RunFailed, match=r"mine\.py:peek' knows the future"):
        run_notebook(name, {"source": source, "strategy": f"{tmp_path / 'mine.py'}:peek"})


def test_a_rule_that_can_do_without_inputs_says_which_it_lacks(source, tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    run = run_notebook("backtest", {"source": source, "strategy": f"{tmp_path / 'mine.py'}:rule"})
    page = run.report.read_text(encoding="utf-8")
    assert "<strong>without forecasts</strong>: There is no checkpoint" in page
    assert "<strong>without features</strong>: Features" in page
