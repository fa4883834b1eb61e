"""`btclab paper run`: it says what it trades and how it ended, and goes on."""

from __future__ import annotations

import sqlite3

import pytest

from btclab.trading.ledger import Ledger, database
from btclab.trading.risk import RiskRules
from tests.commands.conftest import RUN, URL
from tests.operations.paper_process import trader_on


def test_every_command_has_help_with_an_example(call):
    code, out, _ = call("paper", "--help")
    assert code == 0
    for name in ("run", "status", "order", "cancel", "close", "history", "reset"):
        assert name in out
        code, said, _ = call("paper", name, "--help")
        assert code == 0
        assert f"Example: btclab paper {name}" in said


def test_run_says_what_it_trades_and_how_it_ended_and_goes_on(call, home):
    code, out, _ = call(*RUN, "--bars", "40")
    assert code == 0
    assert "SIMULATED MARKET" in out
    assert "sma_cross(fast=5, slow=20) on simulated:1 BTC/USDT 1h, begins after 2021-07-28 07:00 UTC (5,000 bars" in out
    assert "as many bars as were asked for" in out
    code, out, _ = call(*RUN, "--bars", "40")
    assert code == 0
    assert "goes on after" in out
    with Ledger.open(URL, mode="read") as ledger:
        assert ledger.portfolio()["bars"] == 80


def test_a_replay_of_a_strategy_that_fails_does_not_end_as_a_success(call, home):
    (home / "mine.py").write_text("def boom(candles, features, forecasts):\n    raise ValueError('no idea')\n")
    own = f"{home / 'mine.py'}:boom"
    code, out, err = call("paper", "run", "--source", "simulated:1", "--strategy", own, "--bars", "4")
    assert code == 1
    assert "strategy failed at 4 bars, where it held what it had: ValueError: no idea" in out
    assert err.count("Traceback") <= 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--strategy", "sma_crss"], "'sma_cross'"),
        (["--strategy", "sma_cross", "-p", "fast=600"], "less than slow"),
        (["--strategy", "sma_cross", "-p", "fast"], "name=value"),
        (["--strategy", "sma_cross", "--timeframe", "7h"], "7h"),
        (["--strategy", "sma_cross", "--start", "2031-01-01"], "ends at"),
        (["--strategy", "sma_cross", "--speed", "0"], "speed"),
        (["--strategy", "sma_cross", "--ledger", "mysql://x"], "sqlite:///"),
    ],
)
def test_wrong_words_are_exit_code_2(call, words, message):
    code, _, err = call("paper", "run", "--source", "simulated:1", *words)
    assert code == 2, err
    assert message in err


def test_a_ledger_that_cannot_be_written_is_exit_code_1(call, traded, home, monkeypatch):
    monkeypatch.setattr(database, "BUSY_S", 0.05)
    other = sqlite3.connect(home / "data" / "ledger.db")
    other.execute("BEGIN IMMEDIATE")
    code, _, err = call(*RUN, "--bars", "1")
    other.close()
    assert code == 1
    assert "another program has locked it" in err
    assert call(*RUN, "--bars", "1")[0] == 0


def test_two_traders_on_one_ledger_are_exit_code_1(call, candles, home):
    trader, _ = trader_on(candles.iloc[:310], URL, RiskRules())
    code, _, err = call("paper", "run", "--source", "simulated:1", "--strategy", "sma_cross")
    trader.tape.close()
    assert code == 1
    assert "one process writes at a time" in err


def test_a_strategy_that_sells_short_is_refused_where_the_account_may_not(call, short, monkeypatch):
    monkeypatch.setenv("BTCLAB_TRADING__ALLOW_SHORT", "false")
    code, _, err = call(*short)
    assert code == 2
    assert "wants to sell short: exposure -0.5" in err
    assert "set allow_short = true in [trading]" in err
