"""`btclab paper cancel`, `close` and `reset`, and the answers of a trader in another process."""

from __future__ import annotations

import io
import json
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pytest
import typer

from btclab.commands.paper_requests import leave
from btclab.market.feed import ReplayFeed
from btclab.operations.paper import Stop, follow
from btclab.trading.ledger import Ledger, database
from btclab.trading.risk import RiskRules
from btclab.trading.strategies import strategy
from tests.commands.conftest import HOLD, RUN, URL
from tests.operations.paper_process import trader_on


def test_close_sells_all(call, home):
    call(*HOLD)
    assert call("paper", "close")[0] == 0
    call(*HOLD)
    assert json.loads(call("paper", "status", "--json")[1])["account"]["position"] == 0


@contextmanager
def trading(candles: pd.DataFrame) -> Iterator[None]:
    """A trader runs in another thread."""
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
        yield
    finally:
        stop.set()
        thread.join(20)


def test_one_may_wait_for_the_answer(call, candles, home):
    with trading(candles):
        code, out, _ = call("paper", "order", "sell", "5", "--wait", "30")
        assert code == 1
        assert "refused (insufficient_position)" in out
        code, out, _ = call("paper", "order", "buy", "0.01", "--wait", "30")
        assert code == 0
        assert "accepted" in out


def test_one_waits_for_what_protects_an_order_as_well(candles, home, capsys):
    asked = [
        ("order", {"kind": "market", "side": "buy", "quantity": 0.01}, "mine"),
        ("order", {"kind": "stop", "side": "sell", "stop": -1.0, "parent": "mine"}, "mine-stop"),
    ]
    with trading(candles), Ledger.open(URL, mode="read") as ledger, pytest.raises(typer.Exit) as ended:
        leave(ledger, URL, asked, 30)
    assert ended.value.exit_code == 1
    out = capsys.readouterr().out
    assert "mine-stop refused (price)" in out
    assert "mine refused (unprotected)" in out


@pytest.mark.parametrize("then", ["nothing", "begun anew", "being begun"])
def test_to_wait_for_a_ledger_that_was_put_aside_has_an_end(call, traded, monkeypatch, then):
    def put_aside(_: float) -> None:
        Ledger.reset(URL)
        if then == "begun anew":
            Ledger.open(URL).close()
        elif then == "being begun":  # its tables are not there yet
            database.address(URL)[1].touch()

    monkeypatch.setattr(time, "sleep", put_aside)
    code, _, err = call("paper", "order", "buy", "0.01", "--id", "mine", "--wait", "60")
    assert code == 1
    assert "The ledger was put aside while this waited, and mine with it" in err


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
