"""`btclab paper`: run a trader, look at it from another process, leave it requests, put its ledger aside."""

from __future__ import annotations

import io
import json
import shutil
import sqlite3
import sys
import threading
import time
from pathlib import Path

import pandas as pd
import pytest

from btclab.market.feed import ReplayFeed
from btclab.operations.paper import Stop, follow
from btclab.operations.session import Choice, opened
from btclab.trading.ledger import Ledger, database
from btclab.trading.risk import RiskRules
from btclab.trading.strategies import strategy
from tests.operations.paper_process import trader_on

RUN = ("paper", "run", "--source", "simulated:1", "--strategy", "sma_cross", "-p", "fast=5", "-p", "slow=20")
URL = "sqlite:///data/ledger.db"


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ledger of sixty bars, traded once for all tests."""
    home = tmp_path_factory.mktemp("once")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BTCLAB_HOME", str(home))
        patch.setenv("BTCLAB_RISK__FRACTION", "0.5")
        choice = Choice("simulated:1", strategy="sma_cross", parameters={"fast": 5, "slow": 20}, bars=60)
        with opened(choice) as ready:
            ready.run()
    return home / "data" / "ledger.db"


@pytest.fixture
def traded(once: Path, half: None, home: Path) -> None:
    """A ledger of sixty bars, as `RUN` leaves it."""
    (home / "data").mkdir()
    shutil.copy(once, home / "data" / "ledger.db")


@pytest.fixture
def half(monkeypatch: pytest.MonkeyPatch) -> None:
    """A strategy holds half of the equity at most, so that there is cash for orders by hand."""
    monkeypatch.setenv("BTCLAB_RISK__FRACTION", "0.5")


def asked(out: str) -> str:
    return out.partition(" is recorded")[0].split()[-1]


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
    assert "sma_cross(fast=5, slow=20) on simulated:1 BTC/USDT 1h, from its start; equity 10,000.00" in out
    assert "as many bars as were asked for" in out
    code, out, _ = call(*RUN, "--bars", "40")
    assert code == 0
    assert "goes on after" in out
    with Ledger.open(URL, mode="read") as ledger:
        assert ledger.portfolio()["bars"] == 80


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


# status


def test_status_shows_the_account(call, traded):
    code, out, _ = call("paper", "status")
    assert code == 0
    for word in (
        "SIMULATED MARKET",
        "equity",
        "fees paid",
        "drawdown",
        "no trader is running",
        "signal",
        "mean of 5 bars",
    ):
        assert word in out
    assert "…" not in out  # a pipe has no width: nothing is cut


def test_status_as_json_adds_up(call, traded):
    code, out, _ = call("paper", "status", "--json")
    facts = json.loads(out)
    own = facts["account"]
    assert code == 0
    assert own["cash"] + own["position"] * own["price"] == pytest.approx(own["equity"])
    assert own["equity"] == pytest.approx(own["initial_cash"] + own["profit"])
    assert facts["running"] is False
    assert facts["age_s"] is None  # simulated
    assert facts["strategy"] == "sma_cross(fast=5, slow=20)"
    assert facts["signal"]["bar"] == facts["last_bar"]


def test_status_works_while_a_trader_runs_and_reset_does_not(call, candles, home):
    trader, rest = trader_on(candles.iloc[:330], URL, RiskRules())
    follow(trader, lambda: ReplayFeed(rest))
    code, out, _ = call("paper", "status")
    refused = call("paper", "reset", "--yes")
    trader.tape.close()
    assert refused[0] == 1
    assert "Stop that one first" in refused[2]
    assert code == 0
    assert "a trader is running (process" in out


def test_what_was_never_begun_is_said(call, home):
    for words in (["status"], ["history"], ["order", "buy", "0.1"], ["cancel", "x"], ["close"], ["reset"]):
        code, _, err = call("paper", *words)
        assert code == 2, words
        assert "btclab paper run" in err
    assert not (home / "data" / "ledger.db").exists()


# Requests


def test_an_order_waits_for_the_next_trader_and_is_filled_once(call, traded, half):
    code, out, _ = call("paper", "order", "buy", "0.002")
    assert code == 0
    assert "No trader runs" in out
    name = asked(out)
    assert name in call("paper", "status")[1]
    assert call(*RUN, "--bars", "3")[0] == 0
    assert call(*RUN, "--bars", "3")[0] == 0
    with Ledger.open(URL, mode="read") as ledger:
        fills = ledger.fill_table()
        assert ledger.pending() == []
    assert fills["order"].tolist().count(name) == 1
    assert fills[fills["order"] == name]["reason"].tolist() == ["market"]


@pytest.mark.parametrize(
    ("words", "kind", "lifetime"),
    [
        (["buy", "0.002", "--limit", "10000"], "limit", "gtc"),
        (["buy", "0.002", "--stop", "20000"], "stop", "gtc"),
        (["buy", "0.002", "--stop", "20000", "--limit", "20100"], "stop_limit", "gtc"),
        (["sell", "0.002", "--trail", "0.5", "--group", "out"], "trailing_stop", "gtc"),
        (["sell", "0.002", "--take-profit", "90000", "--tif", "2031-01-01T12:00"], "take_profit", "gtd"),
    ],
)
def test_every_kind_of_order_comes_into_the_book(call, half, words, kind, lifetime):
    run = ("paper", "run", "--source", "simulated:1", "--strategy", "buy_and_hold", "--bars", "3")
    call(*run)
    name = asked(call("paper", "order", *words)[1])
    call(*run)
    facts = json.loads(call("paper", "status", "--json")[1])
    found = {order["id"]: order for order in facts["orders"]}[name]
    assert found["kind"] == kind
    assert found.get("lifetime", "gtc") == lifetime
    assert call("paper", "cancel", name)[0] == 0
    call(*run)
    assert json.loads(call("paper", "status", "--json")[1])["orders"] == []


def test_close_sells_all(call, home):
    run = ("paper", "run", "--source", "simulated:1", "--strategy", "buy_and_hold", "--bars", "3")
    call(*run)
    assert call("paper", "close")[0] == 0
    call(*run)
    assert json.loads(call("paper", "status", "--json")[1])["account"]["position"] == 0


def test_what_is_refused_is_in_the_history_with_its_rule(call, traded):
    name = asked(call("paper", "order", "buy", "500")[1])
    call(*RUN, "--bars", "2")
    _, out, _ = call("paper", "history", "events", "--json")
    (event,) = [row for row in json.loads(out) if row["order"] == name]
    assert (event["event"], event["rule"]) == ("refused", "insufficient_funds")
    assert "It takes" in event["text"]
    assert "insufficient_funds" in call("paper", "history", "events")[1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["by", "0.01"], "'buy'"),
        (["buy", "0"], "above 0"),
        (["buy", "0.01", "--limit", "0"], "above 0"),
        (["sell", "0.01", "--trail", "3"], "between 0 and 1"),
        (["sell", "0.01", "--trail", "0.1", "--stop", "5"], "give one"),
        (["buy", "0.01", "--limit", "5", "--trail", "0.1"], "--limit goes alone"),
        (["buy", "0.01", "--tif", "forever"], "write gtc, ioc, or the time"),
        (["buy", "0.01", "--tif", "2500-01-01"], "write gtc, ioc, or the time"),
        (["buy", "0.01", "--id", "target-1"], "cannot be used"),
    ],
)
def test_an_order_that_nobody_could_place_is_exit_code_2_and_not_recorded(call, traded, words, message):
    code, _, err = call("paper", "order", *words)
    assert code == 2
    assert message in err
    with Ledger.open(URL, mode="read") as ledger:
        assert ledger.pending() == []


def test_an_id_of_ones_own_is_used_once(call, traded):
    assert call("paper", "order", "buy", "0.001", "--id", "mine")[0] == 0
    code, _, err = call("paper", "order", "buy", "0.001", "--id", "mine")
    assert code == 1
    assert "used once" in err


def test_one_may_wait_for_the_answer(call, candles, home):
    """While a trader runs in another thread."""
    stop, ready = Stop(), threading.Event()

    def work() -> None:
        trader, rest = trader_on(candles, URL, RiskRules(), strategy("sma_cross", max_exposure=0.5))  # leaves some cash
        ready.set()
        try:
            follow(trader, lambda: ReplayFeed(rest, speed=20), stop=stop)
        finally:
            trader.tape.close()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        assert ready.wait(20)
        time.sleep(0.2)
        code, out, _ = call("paper", "order", "sell", "5", "--wait", "30")
        assert code == 1
        assert "refused (insufficient_position)" in out
        code, out, _ = call("paper", "order", "buy", "0.01", "--wait", "30")
        assert code == 0
        assert "accepted" in out
    finally:
        stop.set()
        thread.join(20)


# history and reset


@pytest.mark.parametrize("what", ["fills", "trades", "orders", "events", "equity", "signals", "movements"])
def test_history_shows_each_table(call, traded, what):
    code, out, _ = call("paper", "history", what, "--last", "3")
    assert code == 0
    assert ("┃" in out) != (what == "events")  # the target orders of a strategy have none
    rows = json.loads(call("paper", "history", what, "--last", "3", "--json")[1])
    assert 1 <= len(rows) <= 3 or what == "events"


def test_history_exports_all_tables(call, traded, home):
    for format in ("csv", "parquet", "json"):
        folder = home / format
        code, out, _ = call("paper", "history", "--export", str(folder), "--format", format)
        assert code == 0
        assert str(folder) in out
        assert {path.suffix for path in folder.iterdir()} == {f".{format}"}
    fills = pd.read_parquet(home / "parquet" / "fills.parquet")
    with Ledger.open(URL, mode="read") as ledger:
        assert fills["price"].tolist() == ledger.fill_table()["price"].tolist()
    assert call("paper", "history", "--export", str(home / "csv"))[0] == 1  # it is there already
    assert call("paper", "history", "fils")[0] == 2
    assert call("paper", "history", "--export", str(home / "x"), "--format", "xls")[0] == 2


def test_reset_keeps_the_old_ledger_and_says_where(call, traded, home):
    code, out, _ = call("paper", "reset", "--yes")
    assert code == 0
    old = Path(out.split("lies at ")[1].rstrip(".\n"))
    assert old.parent == home / "data"
    with Ledger.open(f"sqlite:///{old}", mode="read") as ledger:
        assert ledger.portfolio()["bars"] == 60
    assert call("paper", "status")[0] == 2
    assert call(*RUN, "--bars", "2")[0] == 0


def test_reset_asks(call, traded, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("n\n"))
    code, out, _ = call("paper", "reset")
    assert code == 1
    assert "Put this account aside (equity" in out
    assert call("paper", "status")[0] == 0


def test_reset_halt_leaves_a_request(call, traded):
    assert call("paper", "reset", "--halt")[0] == 0
    with Ledger.open(URL, mode="read") as ledger:
        assert [one.kind for one in ledger.pending()] == ["resume"]
