"""`btclab paper order`: orders by hand, what protects them, and what is refused and recorded."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from btclab.trading.ledger import Ledger
from tests.commands.conftest import HOLD, RUN, URL, asked


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
    call(*HOLD)
    name = asked(call("paper", "order", *words)[1])
    call(*HOLD)
    facts = json.loads(call("paper", "status", "--json")[1])
    found = {order["id"]: order for order in facts["orders"]}[name]
    assert found["kind"] == kind
    assert found.get("lifetime", "gtc") == lifetime
    assert call("paper", "cancel", name)[0] == 0
    call(*HOLD)
    assert json.loads(call("paper", "status", "--json")[1])["orders"] == []


@pytest.mark.parametrize(
    ("words", "rule", "message"),
    [
        (["by", "0.01"], "side", "'buy'"),
        (["buy", "0"], "quantity", "above 0. Type: btclab paper order buy 0.01"),
        (["buy", "-1"], "quantity", "The quantity is -1.0 BTC; it must be above 0. Type: btclab paper order buy 1"),
        (["sell", "-.5", "--limit", "9"], "quantity", "Type: btclab paper order sell 0.5"),
        (["sell", "nan", "--parent", "x"], "quantity", "above 0"),
        (["buy", "inf"], "quantity", "above 0"),
        (["buy", "0.01", "--limit", "0"], "price", "--limit is 0.0; a price must be above 0"),
        (["buy", "0.01", "--limit", "-5"], "price", "Type: --limit 5"),
        (["sell", "0.01", "--take-profit=-5"], "price", "--take-profit is -5.0"),
        (["sell", "0.01", "--trail", "3"], "trail", "between 0 and 1"),
        (["sell", "0.01", "--trail", "0.1", "--stop", "5"], "kind", "give one"),
        (["buy", "0.01", "--limit", "5", "--trail", "0.1"], "kind", "--limit goes alone"),
        (["buy", "0.01", "--limit", "5", "--take-profit", "9"], "kind", "--profit-target"),
        (["buy", "0.01", "--tif", "forever"], "lifetime", "write gtc, ioc, or the time"),
        (
            ["buy", "0.01", "--tif", "9999-01-01"],
            "lifetime",
            "the time until which it is good, 2262-04-11 at the latest",
        ),
        (["buy", "0.01", "--tif", "1960-01-01"], "expires", "which is over"),
        (["buy", "0.01", "--stop-loss", "90000"], "wrong_side", "must lie below"),
        (["buy", "0.01", "--limit", "9000", "--profit-target", "8000"], "wrong_side", "must lie above 9,000.00"),
        (["buy", "0.01", "--stop-loss", "-0.05"], "price", "--stop-loss is -0.05"),
        (["buy", "0.01", "--stop-loss", "5"], "price", "0.05 for 5 %"),
        (["buy", "0.01", "--profit-target", "nan"], "price", "--profit-target is nan"),
        (["sell", "0.01", "--stop-loss", "0.05"], "side", "protects what an order opens"),
        (
            ["sell", "9", "--stop-loss", "0.05"],
            "side",
            "this one sells 9 BTC, of which {position:.8g} are held, and nothing is",
        ),
        (["buy", "0.01", "--stop-loss", "0.05", "--parent", "x"], "parent", "waits for 'x'"),
        (
            ["buy", "0.01", "--profit-target", "1e300"],
            "price",
            "--profit-target is 1e+300, and the order buys at {price:,.2f}",
        ),
        (
            ["buy", "0.01", "--limit", "90000", "--stop-loss", "89000"],
            "wrong_side",
            "below {price:,.2f}, where the order buys",
        ),
        (
            ["buy", "0.01", "--stop", "90000", "--limit", "99000", "--stop-loss", "95000"],
            "wrong_side",
            "below 90,000.00, where the order buys",
        ),
        (["buy", "0.01", "--trail", "0.02", "--stop-loss", "0.05"], "trail", "order sell 0 --parent ID --stop PRICE"),
        (["buy", "0.01", "--trail", "0.02", "--profit-target", "90000"], "trail", "--parent ID --take-profit PRICE"),
    ],
)
def test_what_no_account_could_place_is_exit_code_2_and_on_record_as_refused(call, traded, words, rule, message):
    before = Ledger.open(URL, mode="read").portfolio()
    code, _, err = call("paper", "order", *words, "--id", "mine")
    assert code == 2
    assert message.format(**before) in err
    assert "Recorded as refused, mine" in err
    (shown,) = [one for one in json.loads(call("paper", "status", "--json")[1])["refused"] if one["order"] == "mine"]
    assert (shown["rule"], shown["text"] in err) == (rule, True)
    (row,) = json.loads(call("paper", "history", "events", "--json")[1])
    assert row == shown
    with Ledger.open(URL, mode="read") as ledger:  # nothing else was touched
        assert ledger.portfolio() == before
        assert ledger.fill_table()["order"].tolist().count("mine") == 0


def test_the_trader_never_accepts_what_was_refused(call, traded):
    call("paper", "order", "buy", "-0.01", "--id", "mine")
    call(*RUN, "--bars", "3")
    with Ledger.open(URL, mode="read") as ledger:
        events = ledger.event_table()
        assert ledger.pending() == []
        assert "mine" not in set(ledger.order_table()["id"])
    (event,) = events[events["order"] == "mine"].to_dict("records")
    assert (event["event"], event["rule"]) == ("refused", "quantity")
    assert "-0.01 BTC" in event["text"]


def test_a_request_that_is_wrong_by_itself_is_refused_by_the_trader_with_the_same_rule(call, traded):
    with Ledger.open(URL, mode="read") as ledger:  # by another program than `btclab paper`
        ledger.request("order", {"kind": "limit", "side": "buy", "quantity": 1.0, "limit": -5.0}, "theirs")
    call(*RUN, "--bars", "2")
    with Ledger.open(URL, mode="read") as ledger:
        events = ledger.event_table()
    (event,) = events[events["order"] == "theirs"].to_dict("records")
    assert (event["event"], event["rule"]) == ("refused", "price")


def test_without_a_ledger_what_is_wrong_is_said_and_nothing_begins(call, home):
    code, _, err = call("paper", "order", "buy", "-1")
    assert code == 2
    assert "The quantity is -1.0 BTC" in err
    assert "ecorded" not in err
    assert not (home / "data" / "ledger.db").exists()


@pytest.mark.parametrize("words", [["--id", "target-1"], ["--id", "mine"]])
def test_a_refusal_that_cannot_be_recorded_says_so(call, traded, words):
    call("paper", "order", "buy", "0.001", "--id", "mine")
    code, _, err = call("paper", "order", "buy", "0", *words)
    assert code == 2
    assert "above 0" in err
    assert "It is not recorded" in err


def test_a_misspelt_option_is_one_still(call, traded):
    code, _, err = call("paper", "order", "buy", "0.01", "--limt", "5")
    assert code == 2
    assert "No such option: --limt" in err


# What protects it


def test_an_order_may_bring_what_protects_it(call, half):
    call(*HOLD)
    code, out, _ = call("paper", "order", "buy", "0.002", "--stop-loss", "0.2", "--profit-target", "90000")
    assert code == 0
    name = asked(out)
    call(*HOLD)
    facts = json.loads(call("paper", "status", "--json")[1])
    stop, target = facts["orders"]
    close = json.loads(call("paper", "history", "equity", "--last", "4", "--json")[1])[0]["close"]
    assert (stop["kind"], stop["id"], stop["side"]) == ("stop", f"{name}-stop", "sell")
    assert stop["stop"] == pytest.approx(0.8 * close)
    assert (target["kind"], target["stop"]) == ("take_profit", 90000.0)
    assert stop["group"] == target["group"] == f"{name}-exit"
    assert stop["parent"] == target["parent"] == name
    assert f"{name}-stop: sell at {stop['stop']:,.2f}, 20 % below" in out


@pytest.mark.parametrize(
    ("words", "fills_at"),
    [
        (["--limit", "90000"], "market"),
        (["--limit", "10000"], "10,000.00"),
        (["--stop", "90000"], "90,000.00"),
        (["--stop", "90000", "--limit", "99000"], "90,000.00"),
        (["--stop", "90000", "--limit", "80000"], "80,000.00"),
        (["--take-profit", "10000"], "10,000.00"),
    ],
)
def test_a_fraction_is_one_of_the_price_at_which_the_order_fills(call, traded, words, fills_at):
    close = json.loads(call("paper", "status", "--json")[1])["account"]["price"]
    out = call("paper", "order", "buy", "0.002", *words, "--stop-loss", "0.05")[1]
    assert f"5 % below {fills_at.replace('market', f'{close:,.2f}')}." in out


def test_what_is_measured_from_a_close_says_of_when_that_is(call, traded):
    facts = json.loads(call("paper", "status", "--json")[1])
    close, bar = facts["account"]["price"], pd.Timestamp(facts["last_bar"])
    said = (
        f"{close:,.2f} is the close of {bar + pd.Timedelta('1h'):%Y-%m-%d %H:%M} UTC, the last that the ledger knows."
    )
    assert said in call("paper", "order", "buy", "0.002", "--stop-loss", "0.05")[1]
    assert "is the close of" not in call("paper", "order", "buy", "0.002", "--limit", "10000", "--stop-loss", "0.05")[1]
    assert "is the close of" not in call("paper", "order", "buy", "0.002")[1]


def test_a_marketable_limit_is_not_stopped_out_by_what_is_to_protect_it(call, half):
    call(*HOLD)
    name = asked(call("paper", "order", "buy", "0.002", "--limit", "90000", "--stop-loss", "0.5")[1])
    call(*HOLD)
    with Ledger.open(URL, mode="read") as ledger:
        fills = ledger.fill_table()["order"].tolist()
    assert name in fills
    assert f"{name}-stop" not in fills


@pytest.mark.parametrize(("option", "most"), [("--stop-loss", 55), ("--profit-target", 48)])
def test_the_ids_of_what_protects_an_order_leave_its_own_less_room(call, traded, option, most):
    assert call("paper", "order", "buy", "0.001", option, "0.05", "--id", most * "x")[0] == 0
    code, _, err = call("paper", "order", "buy", "0.001", option, "0.05", "--id", (most + 1) * "y")
    assert code == 2
    assert f"With {option}, whose own id adds" in err
    assert f"--id may have at most {most} characters" in err


def test_a_fraction_is_one_of_the_orders_own_price(call, traded):
    _, out, _ = call(
        "paper", "order", "buy", "0.002", "--limit", "10000", "--stop-loss", "0.05", "--profit-target", "0.1"
    )
    assert "sell at 9,500.00, 5 % below 10,000.00" in out
    assert "sell at 11,000.00, 10 % above 10,000.00" in out


def test_what_is_sold_short_is_protected_the_other_way_round(call, short):
    call(*short)
    out = call(
        "paper", "order", "sell", "0.001", "--limit", "90000", "--stop-loss", "0.05", "--profit-target", "80000"
    )[1]
    assert "-stop: buy at 94,500.00, 5 % above 90,000.00" in out
    assert "-take_profit: buy at 80,000.00, 11.1 % below 90,000.00" in out
    code, _, err = call("paper", "order", "buy", "0.001", "--stop-loss", "0.05")
    assert code == 2
    assert "buys back what was sold short" in err


def test_a_new_account_may_sell_short_where_the_settings_allow_it(call, home, monkeypatch):
    Ledger.open(URL).close()
    words = ("paper", "order", "sell", "0.001", "--limit", "90000", "--stop-loss", "0.05")
    code, _, err = call(*words)
    assert code == 2
    assert "of which 0 are held" in err
    monkeypatch.setenv("BTCLAB_TRADING__ALLOW_SHORT", "true")
    assert "5 % above 90,000.00" in call(*words)[1]


def test_an_order_and_what_protects_it_are_left_together_or_not_at_all(call, traded):
    call("paper", "order", "buy", "0.001", "--id", "mine-stop")
    code, _, err = call("paper", "order", "buy", "0.001", "--id", "mine", "--stop-loss", "0.05")
    assert code == 1
    assert "'mine-stop' was made before" in err
    with Ledger.open(URL, mode="read") as ledger:
        assert [one.id for one in ledger.pending()] == ["mine-stop"]


def test_an_id_of_ones_own_is_used_once(call, traded):
    assert call("paper", "order", "buy", "0.001", "--id", "mine")[0] == 0
    code, _, err = call("paper", "order", "buy", "0.001", "--id", "mine")
    assert code == 1
    assert "used once" in err


def test_an_id_that_no_order_may_have_is_exit_code_2(call, traded):
    code, _, err = call("paper", "order", "buy", "0.01", "--id", "target-1")
    assert code == 2
    assert "cannot be used" in err
    with Ledger.open(URL, mode="read") as ledger:
        assert ledger.pending() == []
