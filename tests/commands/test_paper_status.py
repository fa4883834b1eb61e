"""`btclab paper status`: the account as a person and as a program reads it."""

from __future__ import annotations

import json

import pytest

from btclab.market.feed import ReplayFeed
from btclab.operations.paper import follow
from btclab.records import Bar, Costs, Margin
from btclab.trading.broker import PaperBroker
from btclab.trading.ledger import Ledger
from btclab.trading.risk import RiskRules
from tests.commands.conftest import URL
from tests.operations.paper_process import trader_on


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


def test_no_drawdown_is_none(call, home):
    with Ledger.open(URL):
        pass
    out = call("paper", "status")[1]
    assert "0.00 %, 0.00 %" in out
    assert "-0.00" not in out


def test_an_account_that_owes_is_said_to(call, home):
    broker = PaperBroker.open(URL, 1_000, Costs(), margin=Margin())
    broker.process(Bar(0, 100, 100, 100, 100), -1.0)
    assert "owes" not in call("paper", "status")[1]
    for hour, price in enumerate((100, 250, 250), 1):  # over the margin call
        broker.process(Bar(hour * 3_600_000_000_000, price, price, price, price))
    owed = -broker.equity
    broker.ledger.close()
    out = call("paper", "status")[1]
    assert owed > 100
    assert f"owes {owed:,.2f} USDT; nothing can be bought; begin a new account: btclab paper reset" in out


def test_what_was_never_begun_is_said(call, home):
    for words in (["status"], ["history"], ["order", "buy", "0.1"], ["cancel", "x"], ["close"], ["reset"]):
        code, _, err = call("paper", *words)
        assert code == 2, words
        assert "btclab paper run" in err
    assert not (home / "data" / "ledger.db").exists()


def test_a_short_position_is_owed_costs_interest_and_has_a_margin_call(call, short):
    assert call(*short)[0] == 0
    facts = json.loads(call("paper", "status", "--json")[1])
    own, price = facts["account"], facts["margin_call"]
    assert own["position"] < 0 < -own["interest"]
    assert own["cash"] + own["position"] * price == pytest.approx(
        0.1 * -own["position"] * price
    )  # the default maintenance
    out = call("paper", "status")[1]
    for words in ("owes", "sold at", f"margin call    at {price:,.2f} USDT, +", "interest paid"):
        assert words in out
    assert f"{-own['position'] * own['price']:,.2f} USDT, {100 * own['exposure']:.1f} % of equity" in out


def test_an_account_that_never_sold_short_says_nothing_of_it(call, traded):
    out = call("paper", "status")[1]
    assert "owes" not in out
    assert "margin call" not in out
    assert json.loads(call("paper", "status", "--json")[1])["margin_call"] is None
