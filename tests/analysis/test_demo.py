"""Whose statement is shown: the account's, or, where none has begun, a demonstration's that says so."""

from __future__ import annotations

import pytest

from btclab.analysis import demo
from btclab.records import Bar, Fill
from btclab.trading.ledger import Entry, Ledger, WrongLedger

URL = "sqlite:///data/ledger.db"
DAY = 86_400_000_000_000  # ns


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BTCLAB_HOME", str(tmp_path_factory.mktemp("home")))
        return demo.read_account(URL)


def test_where_no_ledger_has_begun_a_demonstration_says_that_it_is_one(shown):
    assert "DEMONSTRATION" in shown.note
    assert "btclab paper run" in shown.note
    assert shown.statement.attrs["simulated"]
    assert {"stop", "take_profit", "target"} <= set(shown.statement.by_exit().index)
    assert "technical" in shown.statement.by_category().index


def test_the_demonstration_leaves_nothing_behind(home):
    demo.read_account(URL)
    assert not list((home / "data").glob("*.db*"))


def test_an_account_that_was_named_is_never_replaced_by_a_demonstration(home):
    with pytest.raises(WrongLedger, match="paper run"):
        demo.read_account("sqlite:///data/mine.db")


def test_an_account_that_is_there_is_shown(home):
    bars = [Bar(day * DAY, *[100.0 + day] * 4) for day in range(1, 5)]
    bought = Fill(2 * DAY, "buy", 2.0, 101.0, 1.0, DAY, 0.2)
    with Ledger.open(URL, timeframe="1d", initial_cash=1_000.0) as ledger:
        ledger.append_many(Entry(bar, [bought] if bar.timestamp == 2 * DAY else []) for bar in bars)
    whole, part = demo.read_account(URL), demo.read_account(URL, start="1970-01-04")
    assert not whole.note
    assert whole.statement.totals["profit"] == pytest.approx(2 * (104 - 101) - 1)
    assert part.statement.totals["profit"] == pytest.approx(2 * (104 - 102))


def test_the_address_of_the_settings_is_the_usual_one(home, monkeypatch):
    monkeypatch.setenv("BTCLAB_TRADING__LEDGER", "sqlite:///data/other.db")
    assert "sqlite:///data/other.db" in demo.read_account("sqlite:///data/other.db").note
    with pytest.raises(WrongLedger):
        demo.read_account(URL)
