"""The durable ledger: exact, append-only, one writer, and nothing lost or doubled whatever happens to the process."""

import json
import math
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from btclab.errors import InputError, LedgerError, StorageError
from btclab.records import Bar, Fill, Market, Movement, Order, OrderEvent
from btclab.trading.ledger import database, store, tables
from btclab.trading.ledger.exact import Book, decimal_of, exactly, text_of
from btclab.trading.ledger.store import Entry, Ledger, LedgerBusy, WrongLedger
from tests.trading import kill_writer

HOUR = 3_600_000_000_000  # ns
START = pd.Timestamp("2021-01-01", tz="UTC").value
URL = "sqlite:///data/ledger.db"
KILLS = int(os.environ.get("BTCLAB_KILLS", "25"))
KILLED_WITHIN = 0.15  # s

numbers = st.floats(allow_nan=False, allow_infinity=False)
sizes = st.floats(1e-8, 1e4)


def at(hour):
    return START + hour * HOUR


def bar(hour, price=100.0):
    return Bar(at(hour), price, price, price, price)


def fill(hour, side, quantity, price, fee, **more):
    return Fill(at(hour), side, quantity, price, fee, at(hour - 1), 0.5, **more)


def opened(url="", mode="write", symbol="BTC/USDT", timeframe="1h"):
    return Ledger.open(url or URL, Market(symbol), timeframe, 1000.0, mode)


WORKED = [
    Entry(
        bar(1, 100.0),
        [fill(1, "buy", 1.0, 100.0, 1.0, order="first")],
        [OrderEvent(at(1), "first", "done")],
        {"n": 1},
        [Order(at(0), 0.5, "first")],
        {"side": "buy", "exposure": 0.5, "confidence": 0.7, "reasons": {"rsi": 0.3}},
        [Movement("interest", 0.0)],
    ),
    Entry(bar(3, 200.0), [fill(3, "buy", 1.0, 200.0, 2.0)], state={"n": 3}),
    Entry(bar(6, 300.0), [fill(6, "sell", 1.5, 300.0, 4.5, reason="take_profit")], state={"n": 6}),
]


@pytest.fixture
def file(home):
    return home / "data" / "ledger.db"


@pytest.fixture
def worked():
    """Two purchases of 1 BTC, at 100 and at 200, and a sale of 1.5 BTC at 300; each fee is 1 %. It began with 1000."""
    with opened() as ledger:
        ledger.append_many(WORKED)
        yield ledger


def closed_worked():
    with opened() as ledger:
        ledger.append_many(WORKED)


def change(file, *statements, guarded=False):
    """Run SQL on the database from outside, its triggers dropped unless `guarded`."""
    connection = sqlite3.connect(file)
    try:
        for (name,) in (
            [] if guarded else connection.execute("SELECT name FROM sqlite_master WHERE type='trigger'").fetchall()
        ):
            connection.execute(f"DROP TRIGGER {name}")
        for statement in statements:
            connection.execute(statement)
        connection.commit()
    finally:
        connection.close()


# Exact amounts


@given(numbers)
def test_an_amount_reads_back_as_the_same_float(value):
    assert float(text_of(decimal_of(value))) == value


@given(numbers)
def test_an_amount_is_written_in_one_way_only(value):
    text = text_of(decimal_of(value))
    assert text == text_of(Decimal(text))
    assert "E" not in text
    assert not ("." in text and text.endswith("0"))


@pytest.mark.parametrize(("value", "text"), [(0.1, "0.1"), (10_000.0, "10000"), (1e-8, "0.00000001"), (-0.0, "0")])
def test_an_amount_is_written_as_a_person_would(value, text):
    assert text_of(decimal_of(value)) == text


trades = st.lists(st.tuples(st.sampled_from(["buy", "sell"]), sizes, sizes, st.floats(0, 100)), max_size=30)


def by_fractions(rows):
    """Realised profit and open lots of `rows`, matched one by one in fractions."""
    lots, realised = [], Fraction(0)
    for side, *amounts in rows:
        quantity, price, _ = (Fraction(repr(one)) for one in amounts)
        left = quantity if side == "buy" else -quantity
        while left and lots and lots[0][0] * left < 0:
            held, paid = lots[0]
            part = min(abs(held), abs(left)) * (1 if held > 0 else -1)
            realised += part * (price - paid)
            left += part
            lots[0] = (held - part, paid)
            lots = lots if lots[0][0] else lots[1:]
        if left:
            lots.append((left, price))
    return realised, lots


def booked(rows, book=None):
    book = book or Book()
    with exactly():
        for number, (side, *amounts) in enumerate(rows):
            book.fill(number, side, *map(decimal_of, amounts), "")
            book.mark(number, decimal_of(amounts[1]))
    return book


@settings(max_examples=200, deadline=None, derandomize=True)
@given(trades)
def test_lots_and_realised_profit_are_those_of_exact_fractions(rows):
    book = booked(rows)
    realised, lots = by_fractions(rows)
    assert Fraction(book.realised) == realised
    assert [(Fraction(lot.quantity), Fraction(lot.price)) for lot in book.lots] == lots


@settings(max_examples=200, deadline=None, derandomize=True)
@given(trades, sizes)
def test_the_identity_holds_to_the_last_digit(rows, price):
    book = booked(rows)
    book.check()
    with exactly():
        worth = book.cash + book.position * decimal_of(price)
        assert worth == book.deposits + book.realised + book.unrealised(decimal_of(price)) - book.fees + book.interest


@settings(max_examples=100, deadline=None, derandomize=True)
@given(trades, trades)
def test_a_book_that_was_kept_as_text_goes_on_as_if_it_had_not_been(before, after):
    book = booked(before)
    again = Book.load(book.dump())
    assert booked(after, again).dump() == booked(after, book).dump()


def test_a_wrong_sum_is_noticed():
    book = booked([("buy", 1.0, 100.0, 1.0)])
    book.cash += Decimal("1e-20")
    with pytest.raises(LedgerError, match=r"cash is -100\.99999999999999999999;"):
        book.check()


# The worked example of test_ledger.py, reckoned by hand there


def test_the_worked_sums(worked):
    assert (worked.cash, worked.position) == (Decimal("1142.5"), Decimal("0.5"))
    assert (worked.realised, worked.fees) == (Decimal(250), Decimal("7.5"))
    assert worked.unrealised(400.0) == Decimal(100)
    assert worked.equity(400.0) == Decimal("1342.5")
    assert [(lot.entry, lot.quantity, lot.price) for lot in worked.lots()] == [(at(3), Decimal("0.5"), Decimal(200))]


def test_the_worked_trades(worked):
    table = worked.trade_table()
    assert table["quantity"].tolist() == [1.0, 0.5]
    assert table["entry_price"].tolist() == [100.0, 200.0]
    assert table["pnl"].tolist() == pytest.approx([196.0, 47.5])
    assert table["return_pct"].tolist() == pytest.approx([196.0, 47.5])
    assert table["bars_open"].tolist() == [5, 3]
    assert table["side"].tolist() == ["long", "long"]
    assert table["reason"].tolist() == ["take_profit", "take_profit"]


def test_the_headline_figures(worked):
    found = worked.portfolio(400.0)
    # Equity at the closes: 999, 1097, 1292.5; at 400: 1342.5
    assert found["equity"] == 1342.5
    assert found["profit"] == 342.5
    assert found["total_return"] == pytest.approx(34.25)
    assert found["max_drawdown"] == pytest.approx(-0.1)
    assert found["drawdown"] == 0
    assert found["exposure"] == pytest.approx(200 / 1342.5)
    assert (found["trades"], found["fills"], found["bars"]) == (2, 3, 3)
    assert (found["win_rate"], found["profit_factor"]) == (100.0, None)
    assert found["average_price"] == 200.0
    assert worked.portfolio()["price"] == 300.0


def test_a_new_ledger_has_its_cash_and_nothing_else():
    with opened() as ledger:
        found = ledger.portfolio()
        assert (found["equity"], found["cash"], found["total_return"], found["bars"]) == (1000.0, 1000.0, 0.0, 0)
        assert found["price"] is found["timestamp"] is found["win_rate"] is None
        assert ledger.state() == (None, {})
        assert ledger.trade_table().empty
        assert ledger.fill_table()["quantity"].dtype == "float64"
        assert str(ledger.fill_table().index.tz) == "UTC"


def test_a_short_sale_opens_a_lot_below_zero():
    with opened() as ledger:
        ledger.append(bar(1), [fill(1, "buy", 1.0, 100.0, 0.0)], [], {})
        ledger.append(bar(2), [fill(2, "sell", 3.0, 110.0, 3.0)], [], {})
        assert [lot.quantity for lot in ledger.lots()] == [Decimal(-2)]
        ledger.append(bar(3), [fill(3, "buy", 2.0, 100.0, 0.0)], [], {})
        table = ledger.trade_table()
        assert table["side"].tolist() == ["long", "short"]
        assert table["pnl"].tolist() == pytest.approx([9.0, 18.0])  # of the fee of 3, one part closed and two opened


def test_what_the_floats_of_an_engine_leave_over_is_no_lot_and_no_trade():
    with opened() as ledger:
        bought = [fill(1, "buy", 0.1, 100.0, 0.0), fill(1, "buy", 0.2, 100.0, 0.0)]
        ledger.append(bar(1), bought, [], {})
        ledger.append(bar(2), [fill(2, "sell", 0.1 + 0.2, 100.0, 0.0)], [], {})
        assert ledger.position == Decimal("-0.00000000000000004")  # exactly what was written
        assert ledger.lots() == []
        assert ledger.portfolio(100.0)["position"] == 0.0
        ledger.append(bar(3), [fill(3, "buy", 0.5, 100.0, 0.0)], [], {})
        assert len(ledger.trade_table()) == ledger.portfolio()["trades"] == 2
        ledger.check()


def test_cash_movements_are_no_profit():
    with opened() as ledger:
        ledger.append(bar(1), [fill(1, "buy", 5.0, 100.0, 0.0)], [], {})
        ledger.append(bar(2, 120.0), [], [], {}, movements=[Movement("deposit", 1100.0), Movement("interest", -10.0)])
        ledger.append(bar(3, 120.0), [], [], {}, movements=[Movement("withdrawal", -590.0, "rent")])
        found = ledger.portfolio()
        assert (found["deposits"], found["interest"], found["profit"]) == (1510.0, -10.0, 90.0)
        # 1000 became 2190 with 1100 put in: 2190 / 2100; then 590 taken out, which changes no worth
        assert found["total_return"] == pytest.approx(100 * (2190 / 2100 - 1))
        assert found["max_drawdown"] == 0
        assert ledger.movement_table()["kind"].tolist() == ["deposit", "deposit", "interest", "withdrawal"]
        ledger.check()


@pytest.mark.parametrize(
    ("kind", "amount"), [("deposit", -1.0), ("withdrawal", 1.0), ("interest", math.nan), ("gift", 1.0)]
)
def test_a_cash_movement_that_cannot_be(kind, amount):
    with pytest.raises(InputError, match=r"cannot be|Unknown kind"):
        Movement(kind, amount)


# What is written is read back


def test_records_come_back_as_they_were():
    order = Order(
        at(0), id="a", kind="stop_limit", side="buy", quantity=0.1, limit=99.5, stop=98.25, group="g", reason="by hand"
    )
    given_signal = {"side": "buy", "exposure": 0.75, "confidence": math.nan, "reasons": {"rsi": 0.3, "trend": -0.1}}
    with opened() as ledger:
        events = [OrderEvent(at(1), "a", "accepted"), OrderEvent(at(1), "b", "refused", "min_value", "9.00 < 10.00")]
        filled = [fill(1, "buy", 0.1, 99.5, 0.01, order="a", reason="limit", maker=True)]
        ledger.append(bar(1), filled, events, {}, [order], given_signal)
        row = ledger.order_table().iloc[0]
        assert {name: row[name] for name in ("id", "kind", "side", "quantity", "limit", "stop", "group", "reason")} == {
            name: getattr(order, name)
            for name in ("id", "kind", "side", "quantity", "limit", "stop", "group", "reason")
        }
        assert math.isnan(row["exposure"]) and math.isnan(row["trail"])
        assert row["decided"] == pd.Timestamp("2021-01-01", tz="UTC")
        assert row["status"] == "accepted"
        found = ledger.fill_table().iloc[0]
        assert (found["order"], found["reason"], bool(found["maker"]), found["value"]) == (
            "a",
            "limit",
            True,
            0.1 * 99.5,
        )
        assert ledger.event_table()["rule"].tolist() == ["", "min_value"]
        signals = ledger.signals_table().iloc[0]
        assert signals["reasons"] == given_signal["reasons"]
        assert math.isnan(signals["confidence"])


def test_the_state_and_bar_of_a_restart_are_those_that_were_written():
    state = {"cash": 0.1 + 0.2, "stop": math.nan, "best": math.inf, "open": [{"id": "a", "quantity": 1e-8}]}
    last = Bar(at(2), 100.1, 101.7, 99.3, 100.2, 12.345)
    with opened() as ledger:
        ledger.append(bar(1), [], [], {})
        ledger.append(last, [], [], state)
    with opened() as ledger:
        found_bar, found = ledger.state()
    assert found_bar == last
    assert math.isnan(found.pop("stop"))
    assert found == {name: value for name, value in state.items() if name != "stop"}


def test_the_numbers_of_numpy_and_a_negative_zero_are_written_as_what_they_are(monkeypatch):
    """Else a row would not read back as it was written, and be taken for tampering."""
    monkeypatch.setattr(store, "SNAPSHOT_EVERY", 10**9)
    time, one = np.int64(at(1)), np.float64(0.1)
    with opened() as ledger:
        ledger.append(
            Bar(time, *[np.float64(100.0)] * 4, np.float64(3.0)),
            [Fill(time, np.str_("sell"), one, np.float32(0.5), np.int64(1), np.int64(0), -0.0, "a", maker=np.True_)],
            [OrderEvent(time, np.str_("a"), "done", text="Grüße, \N{BITCOIN SIGN} \x00 'x\"")],
            {"cash": one, "zero": -0.0},
            [Order(np.int64(0), -0.0, "a", "limit", "sell", np.float64(1), limit=5, trail=-0.0, expires=np.int64(7))],
            {"side": "sell", "exposure": -0.0, "confidence": None, "reasons": "because"},
            holds=(one + 0.05 - 1 + 999.9, -one),
        )
        ledger.append(bar(2, 0.001), [], [], {}, movements=[Movement("withdrawal", -999.05)])  # no equity to speak of
        ledger.check()
    with opened() as ledger:
        ledger.check()
        assert ledger.fill_table()["price"].tolist() == [0.5]


def test_a_bar_without_a_volume_limit_comes_back_without_one(worked):
    assert worked.state()[0] == bar(6, 300.0)


def test_tables_can_be_asked_for_in_part(worked):
    assert len(worked.equity_curve(last=2)) == 2
    assert worked.equity_curve(start="2021-01-01 03:00", end="2021-01-01 06:00")["equity"].tolist() == [1097.0]
    assert worked.fill_table(last=1)["side"].tolist() == ["sell"]
    assert worked.fill_table(end="2021-01-01 03:00")["price"].tolist() == [100.0]
    assert worked.trade_table(last=1)["entry_price"].tolist() == [200.0]
    assert worked.trade_table(start="2021-01-01 07:00").empty


def test_the_last_trades_are_those_of_the_whole_table(monkeypatch):
    monkeypatch.setattr(store, "SNAPSHOT_EVERY", 7)
    with opened() as ledger:
        ledger.append_many(kill_writer.entry(i) for i in range(1, 101))
        whole = ledger.trade_table()
        for last in (0, 1, 20, 10_000):
            pd.testing.assert_frame_equal(
                ledger.trade_table(last=last), whole[max(0, len(whole) - last) :].reset_index(drop=True)
            )
        late = whole[whole["exit"] >= "1970-01-04"].reset_index(drop=True)
        assert len(late)
        pd.testing.assert_frame_equal(ledger.trade_table(start="1970-01-04"), late)
        assert ledger.portfolio()["trades"] == len(whole)
        assert ledger.portfolio()["win_rate"] == pytest.approx(100 * (whole["pnl"] > 0).mean())


# Refusals: the ledger is as it was


def test_a_bar_is_processed_once(worked):
    with pytest.raises(LedgerError, match=r"2021-01-01 06:00 was processed already"):
        worked.append(bar(6), [fill(6, "buy", 1.0, 1.0, 1.0)], [], {})
    assert worked.portfolio()["fills"] == 3


def test_a_bar_before_the_last_is_refused(worked):
    with pytest.raises(
        LedgerError, match=r"2021-01-01 05:00 precedes the last one: the ledger stands at 2021-01-01 06:00"
    ):
        worked.append(bar(5), [], [], {})


GOOD = Entry(bar(7), [fill(7, "buy", 0.5, 100.0, 1.0)], orders=[Order(at(6), 1.0, "fine")])


@pytest.mark.parametrize(
    ("entry", "error", "message"),
    [
        (Entry(bar(8), [fill(7, "buy", 1.0, 100.0, 1.0)]), LedgerError, "does not belong to the bar 2021-01-01 08:00"),
        (Entry(bar(8), [fill(8, "buy", 0.0, 100.0, 1.0)]), InputError, "quantity and price above 0"),
        (Entry(bar(8), [fill(8, "buy", 1.0, math.nan, 1.0)]), InputError, "quantity and price above 0"),
        (Entry(bar(8), [fill(8, "hold", 1.0, 100.0, 1.0)]), InputError, "a side"),
        (Entry(bar(8), [fill(8, "buy", 1.0, 100.0, math.inf)]), InputError, "a fee that is a number"),
        (Entry(bar(8), [fill(8, "buy", 1.0, 100.0, 1.0, order="x")]), LedgerError, "order 'x', which is not in the ledger"),
        (Entry(bar(8), orders=[Order(at(7), 1.0, "fine")]), LedgerError, "Order 'fine' is in the ledger already|used once"),
        (Entry(bar(8), orders=[Order(at(7), 1.0, "b")] * 2), LedgerError, "Order 'b' is in the ledger already"),
        (Entry(bar(8), state={"order": {1, 2}}), InputError, "state cannot be kept as JSON"),
        (Entry(bar(8), signal={"side": "buy", "exposure": 1.0}), InputError, "The signal lacks confidence, reasons"),
        (Entry(bar(7)), LedgerError, "was processed already"),
        (Entry(bar(8), holds=(1091.5, 1.1)), LedgerError, r"1\.10000000 BTC, its ledger says 1091\.50 and 1\.0000"),
        (Entry(bar(8), holds=(math.nan, 1.0)), LedgerError, "holds nan"),
    ],
)  # fmt: skip
def test_a_batch_is_written_as_a_whole_or_not_at_all(worked, entry, error, message):
    before = worked.portfolio(), worked.state()
    with pytest.raises(error, match=message):
        worked.append_many([GOOD, entry])
    assert (worked.portfolio(), worked.state()) == before
    worked.check()
    worked.append_many([GOOD])
    assert worked.portfolio()["fills"] == 4


def test_an_account_that_agrees_to_the_cent_is_taken(worked):
    worked.append(bar(7), [], [], {}, holds=(1142.5 + 0.004, 0.5))
    with pytest.raises(LedgerError, match=r"holds 1142\.51 and 0\.50000000 BTC, its ledger says 1142\.50"):
        worked.append(bar(8), [], [], {}, holds=(1142.506, 0.5))


def test_an_order_id_is_used_once_in_the_whole_ledger(worked):
    worked.append(bar(7), [], [], {}, [Order(at(6), 1.0, "a"), Order(at(6), 1.0), Order(at(6), 1.0)])
    with pytest.raises(LedgerError, match="Order 'a' is in the ledger already"):
        worked.append(bar(8), [], [], {}, [Order(at(7), 1.0, "a")])


# Append-only, and tampering


@pytest.mark.parametrize("name", list(tables.metadata.tables))
@pytest.mark.parametrize(
    "statement", ["UPDATE {0} SET {1} = {1}", "DELETE FROM {0}", "INSERT OR REPLACE INTO {0} SELECT * FROM {0}"]
)
def test_the_database_itself_refuses_changes(file, monkeypatch, name, statement):
    monkeypatch.setattr(store, "SNAPSHOT_EVERY", 1)
    with opened() as ledger:
        events, signal_given = (
            [OrderEvent(at(1), "a", "done")],
            {"side": "buy", "exposure": 1, "confidence": 1, "reasons": ""},
        )
        ledger.append(bar(1), [fill(1, "buy", 1.0, 100.0, 0.0)], events, {}, [Order(at(0), 1.0, "a")], signal_given)
        ledger.request("cancel", {})
    column = tables.metadata.tables[name].c[0].name
    with pytest.raises(sqlite3.IntegrityError, match=r"append-only|out of its turn|one_account|UNIQUE"):
        change(file, statement.format(name, column), guarded=True)


TAMPERING = {
    "a price": "UPDATE fills SET price = '100.01' WHERE number = 2",
    "a price by the last digit": "UPDATE fills SET price = '200.00000000000003' WHERE number = 2",
    "a reason": "UPDATE fills SET reason = 'stop' WHERE number = 3",
    "no number": "UPDATE fills SET price = 'abc' WHERE number = 2",
    "the last fill is lost": "DELETE FROM fills WHERE number = 3",
    "a fill in between is lost": "DELETE FROM fills WHERE number = 2",
    "a mark is lost": "DELETE FROM marks WHERE number = 2",
    "the last mark is lost": "DELETE FROM marks WHERE number = 3",
    "equity": "UPDATE marks SET equity = '1300' WHERE number = 3",
    "exposure": "UPDATE marks SET exposure = 0.5 WHERE number = 3",
    "state": """UPDATE marks SET state = '{"n":7}' WHERE number = 3""",
    "a close": "UPDATE marks SET close = '301' WHERE number = 3",
    "a digest": "UPDATE marks SET digest = 'x' WHERE number = 1",
    "an order": "UPDATE orders SET exposure = 0.6",
    "an event": "UPDATE order_events SET event = 'cancelled'",
    "a signal": "UPDATE signals SET confidence = 0.8",
    "a movement": "UPDATE cash_movements SET text = 'gift' WHERE number = 2",
    "the start": "UPDATE cash_movements SET amount = '2000'",
    "the account": "UPDATE account SET initial_cash = '2000'",
    "a deposit is added": f"INSERT INTO cash_movements VALUES (3, {at(6)}, 'deposit', '500', '')",
    "a fill is added": f"INSERT INTO fills VALUES (4, {at(6)}, 'buy', '1', '1', '0', 0, NULL, NULL, '', FALSE)",
}


@pytest.mark.parametrize("statement", TAMPERING.values(), ids=TAMPERING.keys())
def test_tampering_is_noticed_on_open(file, statement):
    closed_worked()
    change(file, statement)
    with pytest.raises(LedgerError, match=r"changed from outside or is damaged|is damaged"):
        opened()


@pytest.mark.parametrize("statement", TAMPERING.values(), ids=TAMPERING.keys())
def test_tampering_before_a_snapshot_is_noticed_by_a_full_check(file, monkeypatch, statement):
    monkeypatch.setattr(store, "SNAPSHOT_EVERY", 1)
    closed_worked()
    change(file, statement)
    with pytest.raises(LedgerError, match=r"changed from outside or is damaged|is damaged"), opened() as ledger:
        ledger.check()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE snapshots SET book = replace(book, '1142.5', '1143.5')",
        "UPDATE snapshots SET book = 'x', digest = '2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881'",
        "DELETE FROM snapshots WHERE number = 1",
    ],
)
def test_a_snapshot_that_was_changed_is_noticed_on_open(file, monkeypatch, statement):
    monkeypatch.setattr(store, "SNAPSHOT_EVERY", 1)
    closed_worked()
    change(file, statement)
    with pytest.raises(LedgerError, match="damaged"):
        opened()


def test_a_row_lost_before_the_snapshot_is_noticed_on_open(file, monkeypatch):
    monkeypatch.setattr(store, "SNAPSHOT_EVERY", 1)
    closed_worked()
    change(file, "DELETE FROM fills WHERE number = 1")
    with pytest.raises(LedgerError, match=r"table fills: it has 2 rows, numbered to 3, of 3"):
        opened()


def test_opening_replays_only_what_follows_the_newest_snapshot(file, monkeypatch):
    monkeypatch.setattr(store, "SNAPSHOT_EVERY", 10)
    with opened() as ledger:
        ledger.append_many(kill_writer.entry(i) for i in range(1, 101))
        expected = ledger.portfolio()
        ledger.check()
    posted = []
    repost = Ledger._repost
    monkeypatch.setattr(Ledger, "_repost", lambda *words: (posted.append(1), repost(*words)))
    with opened() as ledger:
        assert ledger.portfolio() == expected
    assert len(posted) < 10


def test_snapshots_of_many_lots_are_rarer(monkeypatch):
    monkeypatch.setattr(store, "SNAPSHOT_EVERY", 10)
    with opened() as ledger:
        ledger.append_many(Entry(bar(i), [fill(i, "buy", 0.1, 100.0, 0.0)]) for i in range(1, 321))
        with ledger._database.reading() as connection:
            counts = [
                len(Book.load(text).lots)
                for text in connection.scalars(tables.snapshots.select().with_only_columns(tables.snapshots.c.book))
            ]
    assert counts[-1] > 200
    assert sum(counts) < 5 * 320  # not the square


# One writer, many readers


def test_a_second_writer_is_told_who_holds_the_ledger(worked):
    with pytest.raises(LedgerBusy, match=rf"ledger\.db is being written by process {os.getpid()}; one process writes"):
        opened()


def test_the_lock_goes_with_the_ledger_that_is_closed():
    for _ in range(2):
        opened().close()


def test_a_ledger_that_could_not_be_opened_is_not_locked(worked):
    worked.close()
    with pytest.raises(WrongLedger):
        opened(symbol="ETH/USDT")
    opened().close()


def test_readers_follow_the_writer(worked):
    with opened(mode="read") as reader, Ledger.open(URL, mode="read") as other:
        assert reader.portfolio(400.0) == other.portfolio(400.0) == worked.portfolio(400.0)
        worked.append_many([GOOD])
        assert reader.portfolio(400.0) == worked.portfolio(400.0)
        assert reader.state() == worked.state()
        assert len(reader.fill_table()) == 4
        reader.check()


def test_a_reader_cannot_append(worked):
    with opened(mode="read") as reader, pytest.raises(LedgerError, match="opened for reading"):
        reader.append(bar(7), [], [], {})


def test_a_closed_ledger_says_so(worked):
    worked.close()
    with pytest.raises(LedgerError, match="was closed; open it again"):
        worked.state()
    with pytest.raises(LedgerError, match="was closed; open it again"):
        worked.append(bar(7), [], [], {})


def test_requests_of_another_process_wait_until_an_event_names_them(worked):
    with opened(mode="read") as reader:
        first = reader.request("order", {"side": "buy", "quantity": 0.1})
        assert reader.request("cancel", {"order": "a"}, id="mine") == "mine"
        with pytest.raises(LedgerError, match="Request 'mine' was made before"):
            reader.request("cancel", {}, id="mine")
        assert [(one.id, one.kind) for one in worked.pending()] == [(first, "order"), ("mine", "cancel")]
        assert worked.pending()[0].body == {"side": "buy", "quantity": 0.1}
        worked.append(bar(7), [], [OrderEvent(at(7), first, "accepted")], {})
        assert [one.id for one in reader.pending()] == ["mine"]
    worked.check()


def test_a_request_that_no_btclab_can_have_written_is_one_to_refuse(worked):
    odd = ["nonsense", "[" * 100_000, '"text"', r'{"a": "\ud800"}', '{"a": NaN}', "[1]", '{"side": "buy"}']
    with worked._database.writing(apart=True) as connection:
        for number, body in enumerate(odd, 1):
            row = {"number": number, "id": f"r{number}", "created": 1, "kind": "order", "body": body}
            connection.execute(tables.requests.insert(), row)
    assert [(one.kind, one.body) for one in worked.pending()] == [("", {})] * 6 + [("order", {"side": "buy"})]
    with pytest.raises(InputError, match="give a dictionary"):
        worked.request("order", [1])


def test_requests_and_bars_do_not_get_into_each_others_way(worked):
    def ask():
        with opened(mode="read") as reader:
            for _ in range(20):
                reader.request("cancel", {})

    with ThreadPoolExecutor(3) as pool:
        asking = [pool.submit(ask) for _ in range(3)]
        for hour in range(7, 47):
            worked.append(bar(hour), [], [], {})
        for one in asking:
            one.result()
    assert len(worked.pending()) == 60
    worked.check()


# Places, markets, schemas


@pytest.mark.parametrize(
    ("symbol", "timeframe", "message"),
    [
        ("ETH/USDT", "1h", r"the ledger of the market BTC/USDT, not of ETH/USDT"),
        ("BTC/USDT", "4h", r"the ledger of the timeframe 1h, not of 4h"),
    ],
)
def test_a_ledger_of_something_else_is_refused_with_both_names(symbol, timeframe, message):
    closed_worked()
    with pytest.raises(WrongLedger, match=message) as refused:
        opened(symbol=symbol, timeframe=timeframe)
    assert refused.value.exit_code == 2


def test_a_ledger_keeps_the_cash_that_it_began_with():
    closed_worked()
    with Ledger.open(URL, Market(), "1h", 5.0) as ledger:
        assert ledger.initial_cash == 1000


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("sqlite://", "a ledger needs a file"),
        ("sqlite:///:memory:", "a ledger needs a file"),
        ("sqlite:///:memory:?password=hush", "a ledger needs a file"),
        ("mysql://me:hush@host/x", "cannot lie in mysql"),
        ("nonsense me:hush@host", "address is none"),
        ("postgresql+nodriver://me:hush@host/x", r"needs a driver of its own: write postgresql\+psycopg"),
        ("postgresql://me:hu@sh@host/x", "has two @: write %40 for one in the password"),
        ("postgresql://me:hush@host:hush/x", "address is none"),
    ],
)
def test_an_address_that_cannot_hold_a_ledger(url, message):
    with pytest.raises(InputError, match=message) as refused:
        opened(url)
    assert "hush" not in str(refused.value)


def test_an_unknown_mode():
    with pytest.raises(InputError, match="Unknown mode: 'wirte'"):
        Ledger.open(URL, mode="wirte")


def test_a_reader_needs_a_ledger():
    with pytest.raises(WrongLedger, match=r"no ledger at .*ledger\.db; `btclab paper run` begins one"):
        opened(mode="read")


def test_a_file_that_is_no_database(file):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"not a database at all" * 100)
    with pytest.raises(LedgerError, match="damaged or no ledger"):
        opened()
    assert file.read_bytes() == b"not a database at all" * 100


def test_a_database_of_another_program_is_left_alone(file):
    file.parent.mkdir(parents=True, exist_ok=True)
    change(file, "CREATE TABLE songs (title TEXT)")
    with pytest.raises(WrongLedger, match=r"holds other tables \(songs\)"):
        opened()
    with sqlite3.connect(file) as connection:
        assert connection.execute("SELECT count(*) FROM sqlite_master").fetchone() == (1,)


def add_note(connection):
    connection.exec_driver_sql("ALTER TABLE fills ADD COLUMN note TEXT")


def test_an_older_schema_is_migrated_after_a_copy(file, monkeypatch):
    closed_worked()
    monkeypatch.setattr(store, "MIGRATIONS", [add_note])
    monkeypatch.setattr(store, "SCHEMA", 2)
    with pytest.raises(WrongLedger, match="schema 1, and this btclab reads schema 2; let `btclab paper run` open it"):
        opened(mode="read")
    with opened() as ledger:
        ledger.check()
        ledger.append_many([GOOD])
    with opened() as ledger:
        assert ledger.portfolio()["fills"] == 4
    (copy,) = file.parent.glob("ledger.schema1.*.db")
    with sqlite3.connect(copy) as connection:
        assert connection.execute("SELECT max(version), count(*) FROM schema_versions").fetchone() == (1, 1)
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        change(file, "DELETE FROM fills", guarded=True)


def test_a_migration_that_fails_leaves_the_ledger_as_it_was(file, monkeypatch):
    closed_worked()

    def fail(connection):
        add_note(connection)
        raise ZeroDivisionError("no such luck")

    with monkeypatch.context() as patch:
        patch.setattr(store, "MIGRATIONS", [fail])
        patch.setattr(store, "SCHEMA", 2)
        with pytest.raises(
            StorageError, match=r"from schema 1 to 2 and is unchanged: no such luck A copy from before lies at"
        ):
            opened()
    with opened() as ledger:
        ledger.check()
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        change(file, "DELETE FROM fills", guarded=True)


def test_a_newer_schema_is_refused(file, monkeypatch):
    closed_worked()
    change(file, "INSERT INTO schema_versions VALUES (9, 0)")
    with pytest.raises(WrongLedger, match="schema 9, and this btclab reads schema 1; update btclab"):
        opened()


def test_the_tables_keep_every_field_of_the_records():
    kept = {name: set(table.c.keys()) for name, table in tables.metadata.tables.items()}
    assert set(vars(Order(0))) <= kept["orders"]
    assert set(vars(OrderEvent(0, "", ""))) <= kept["order_events"]
    assert set(vars(fill(1, "buy", 1.0, 1.0, 0.0))) - {"timestamp"} <= kept["fills"]  # which is the bar
    assert set(vars(bar(1))) - {"timestamp"} <= kept["marks"]


# Backup, restore, reset, export


def test_a_backup_is_made_while_the_ledger_is_in_use(worked, tmp_path):
    copy = worked.backup(tmp_path / "copy.db")
    worked.append_many([GOOD])
    with Ledger.open(f"sqlite:///{copy}", mode="read") as old:
        assert old.portfolio()["fills"] == 3
        old.check()
    assert [path.name for path in tmp_path.glob("*copy*")] == ["copy.db"]


def test_a_backup_is_restored_and_the_old_ledger_is_kept(worked, tmp_path, file):
    copy = worked.backup(tmp_path / "copy.db")
    worked.append_many([GOOD])
    with pytest.raises(LedgerBusy):
        Ledger.restore(copy, URL)
    worked.close()
    old = Ledger.restore(copy, URL)
    assert old.parent == file.parent and old.name.startswith("ledger.2")
    with opened() as ledger, Ledger.open(f"sqlite:///{old}", mode="read") as kept:
        assert (ledger.portfolio()["fills"], kept.portfolio()["fills"]) == (3, 4)
        ledger.append_many([GOOD])


def test_a_backup_is_restored_where_there_is_nothing(worked, tmp_path):
    assert Ledger.restore(worked.backup(tmp_path / "copy.db"), "sqlite:///data/second.db") is None
    with opened("sqlite:///data/second.db") as second:
        assert second.portfolio() == worked.portfolio()


def test_a_damaged_backup_is_not_restored(worked, tmp_path, file):
    copy = worked.backup(tmp_path / "copy.db")
    worked.close()
    change(copy, "UPDATE fills SET fee = '0' WHERE number = 1")
    with pytest.raises(LedgerError, match="changed from outside"):
        Ledger.restore(copy, URL)
    with opened() as ledger:
        assert ledger.portfolio()["fills"] == 3
    assert sorted(path.name for path in file.parent.glob("*ledger*db")) == ["ledger.db"]
    with pytest.raises(InputError, match="There is no backup at"):
        Ledger.restore(tmp_path / "none.db", URL)


def test_a_reset_keeps_the_old_ledger(worked, file):
    with pytest.raises(LedgerBusy):
        Ledger.reset(URL)
    worked.close()
    old = Ledger.reset(URL)
    assert not file.exists()
    with Ledger.open(f"sqlite:///{old}", mode="read") as kept:
        kept.check()
        assert kept.portfolio()["fills"] == 3
    with opened() as ledger:
        assert ledger.portfolio()["bars"] == 0
    assert Ledger.reset(URL) != old
    assert Ledger.reset(URL) is None


def test_a_reader_goes_on_with_the_ledger_that_follows_a_reset(worked):
    with opened(mode="read") as reader:
        assert reader.portfolio()["fills"] == 3
        worked.close()
        Ledger.reset(URL)
        with pytest.raises(WrongLedger, match="There is no ledger at"):
            reader.portfolio()
        with opened() as ledger:
            ledger.append_many([GOOD])
            asked = reader.request("cancel", {})
            assert [one.id for one in ledger.pending()] == [asked]
            assert reader.portfolio() == ledger.portfolio()
            assert reader.state() == ledger.state()


def test_a_reader_of_the_old_ledger_takes_nothing_from_the_new_one(worked, file):
    """SQLite's log and index are found by name: a connection from before a reset must not touch those of the new ledger."""
    old = sqlite3.connect(file)
    assert old.execute("SELECT count(*) FROM fills").fetchone() == (3,)
    worked.close()
    Ledger.reset(URL)
    with opened() as ledger:
        ledger.append_many([GOOD])
        assert old.execute("SELECT count(*) FROM fills").fetchone() == (3,)
        old.close()
        ledger.append(bar(8), [fill(8, "buy", 0.1, 100.0, 0.0)], [], {})
        copies = [shutil.copy(f"{file}{ending}", f"{file}.copy{ending}") for ending in ("", "-wal")]
    with Ledger.open(f"sqlite:///{copies[0]}", mode="read") as as_after_a_crash:
        assert as_after_a_crash.portfolio()["fills"] == 2
        as_after_a_crash.check()


@pytest.mark.parametrize("format", ["csv", "parquet", "json"])
def test_an_export_has_every_digit(tmp_path, format):
    with opened() as ledger:
        ledger.append_many(kill_writer.entry(i) for i in range(1, 30))
        folder = ledger.export(tmp_path / "export", format)
        expected = ledger.fill_table()
    read = {"csv": lambda path: pd.read_csv(path, float_precision="round_trip"), "parquet": pd.read_parquet}
    read["json"] = lambda path: pd.DataFrame(json.loads(path.read_text(encoding="utf-8")))
    for name in ("fills", "trades", "orders", "events", "movements", "equity", "signals"):
        assert len(read[format](folder / f"{name}.{format}")) > 0
    found = read[format](folder / f"fills.{format}")
    for column in ("quantity", "price", "value", "fee"):
        assert found[column].tolist() == expected[column].tolist()
    assert pd.to_datetime(found["timestamp"]).tolist() == expected.index.tolist()
    with opened() as ledger:
        with pytest.raises(StorageError, match="exists already"):
            ledger.export(tmp_path / "export", format)
        with pytest.raises(InputError, match="Unknown format: 'cvs'"):
            ledger.export(tmp_path / "other", "cvs")


# Disk full, locked, killed


def test_a_full_disk_loses_nothing(worked, file):
    connection = worked._database._writer
    pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
    connection.exec_driver_sql(f"PRAGMA max_page_count = {pages + 1}")
    connection.commit()
    written = 3
    with pytest.raises(StorageError, match="disk is full; free some space and start again"):
        for hour in range(7, 1000):
            worked.append(bar(hour), [fill(hour, "buy", 0.1, 100.0, 0.1)], [], {"much": "x" * 1000})
            written += 1
    assert worked.portfolio()["fills"] == written
    worked.check()
    connection.exec_driver_sql("PRAGMA max_page_count = 1000000")
    connection.commit()
    last = worked.state()[0].timestamp
    worked.append(Bar(last + HOUR, 1.0, 1.0, 1.0, 1.0), [], [], {})
    worked.check()


def test_a_commit_is_on_the_disk_when_it_returns(worked):
    connection = worked._database._writer
    found = {name: connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in ("journal_mode", "synchronous")}
    connection.rollback()
    assert found == {"journal_mode": "wal", "synchronous": 2}  # FULL: the log is synced at each commit


def test_a_locked_database_loses_nothing(monkeypatch, file):
    monkeypatch.setattr(database, "BUSY_S", 0.05)
    with opened() as ledger:
        ledger.append_many(WORKED)
        other = sqlite3.connect(file, isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StorageError, match=r"locked it for more than 0\.05 s; close that one and try again"):
            ledger.append_many([GOOD])
        with opened(mode="read") as reader, pytest.raises(StorageError, match="locked"):
            reader.request("cancel", {})
        assert ledger.portfolio()["fills"] == 3  # reading goes on
        other.execute("ROLLBACK")
        other.close()
        ledger.append_many([GOOD])
        ledger.check()


def test_a_folder_that_cannot_be_made(home):
    (home / "data").write_text("a file", encoding="utf-8")
    with pytest.raises(StorageError, match="Cannot write"):
        opened()


def test_two_ledgers_lie_side_by_side(worked):
    with opened("sqlite:///data/second.db") as second:
        second.append_many([GOOD])
        assert (worked.portfolio()["fills"], second.portfolio()["fills"]) == (3, 1)


@pytest.fixture
def writers(file):
    """The process that forks writers; it is gone when the test is."""
    words = [sys.executable, "-m", "tests.trading.kill_writer", URL]
    root = Path(__file__).resolve().parents[2]
    with subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, cwd=root
    ) as process:
        yield process
        process.stdin.close()


def said_by(writers, kill_after):
    """Start a writer, kill it after so many seconds; what it said, as pairs of a letter and a number."""
    writers.stdin.write("go\n")
    pid = int(writers.stdout.readline().removeprefix("P "))
    time.sleep(kill_after)
    os.kill(pid, signal.SIGKILL)
    lines = iter(writers.stdout.readline, "")
    said = []
    for line in lines:
        word, number = line.split()
        said.append((word, int(number)))
        if word == "X":
            break
    return said


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_writer_that_is_killed_loses_nothing_and_doubles_nothing(writers):
    draw = random.Random(6)
    bars = fills = 0
    within = KILLED_WITHIN
    for _ in range(KILLS):
        *acknowledged, ended = said_by(writers, draw.uniform(0, within))
        assert ended == ("X", -signal.SIGKILL)
        within *= 1 if acknowledged else 1.3  # a busy machine needs longer to begin
        promised = max([bars, *(number for _, number in acknowledged)])
        with Ledger.open(URL, Market(), "1h", 10_000.0) as ledger:  # the lock has died with the writer
            state = ledger.state()[1]
            stands = state.get("number", 0)
            assert promised <= stands <= promised + kill_writer.MOST_BARS
            expected = [kill_writer.entry(number) for number in range(bars + 1, stands + 1)]
            assert not expected or state == expected[-1].state
            added = [one for entry in expected for one in entry.fills]
            table = ledger.fill_table().iloc[fills:]
            assert table["order"].tolist() == [one.order for one in added]
            assert table["quantity"].tolist() == [one.quantity for one in added]
            assert table["price"].tolist() == [one.price for one in added]
            bars, fills = stands, fills + len(added)
    assert bars > KILLS  # it was writing when it was killed
    with opened(mode="read") as ledger:
        ledger.check()
        assert ledger.portfolio()["fills"] == fills
