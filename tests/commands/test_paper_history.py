"""`btclab paper history`: every table, as text, as JSON and as files."""

from __future__ import annotations

import json
import re

import pandas as pd
import pytest

from btclab.trading.ledger import Ledger
from tests.commands.conftest import RUN, URL, asked


def test_what_is_refused_is_in_the_history_with_its_rule(call, traded):
    name = asked(call("paper", "order", "buy", "500")[1])
    call(*RUN, "--bars", "2")
    _, out, _ = call("paper", "history", "events", "--json")
    (event,) = [row for row in json.loads(out) if row["order"] == name]
    assert (event["event"], event["rule"]) == ("refused", "insufficient_funds")
    assert "It takes" in event["text"]
    assert "insufficient_funds" in call("paper", "history", "events")[1]


@pytest.mark.parametrize("what", ["fills", "trades", "orders", "events", "equity", "signals", "movements"])
def test_history_shows_each_table(call, traded, what):
    code, out, _ = call("paper", "history", what, "--last", "3")
    assert code == 0
    assert ("───" in out) != (what == "events")  # the target orders of a strategy have none
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


def test_history_shows_interest_and_the_side_of_a_trade(call, short):
    call(*short)
    rows = json.loads(call("paper", "history", "movements", "--json")[1])
    assert rows[-1]["kind"] == "interest"
    assert rows[-1]["amount"] < 0
    call("paper", "close")
    call(*short)
    (trade,) = json.loads(call("paper", "history", "trades", "--json")[1])
    assert trade["side"] == "short"


@pytest.mark.parametrize(("width", "shown"), [(80, False), (150, True)])
def test_a_narrow_terminal_shows_what_cannot_be_reckoned_from_the_rest(call, traded, monkeypatch, width, shown):
    from btclab.commands import printing

    narrow = printing.console()
    narrow.width = width
    monkeypatch.setattr(printing, "console", lambda: narrow)
    for what in ("fills", "trades", "orders"):
        narrow.begin_capture()
        assert call("paper", "history", what, "--last", "3")[0] == 0
        lines = narrow.end_capture().splitlines()
        assert max(map(len, lines)) <= width
        assert len([line for line in lines if re.search(r"2021-\d\d-\d\d \d\d:\d\d", line)]) == 3  # none is folded
        assert any("decided" in line or "entry_price" in line for line in lines) == shown
