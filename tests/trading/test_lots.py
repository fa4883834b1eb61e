"""Lots: first in, first out; a fee is shared over its quantity; the tables; the identity."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from btclab.errors import LedgerError
from btclab.records import Fill
from btclab.trading.lots import (
    FILL_COLUMNS,
    TRADE_COLUMNS,
    check_identity,
    fill_arrays,
    fill_table,
    gross_pnl,
    match_lots,
    trade_table,
)

HOUR = 3_600_000_000_000  # ns
START = pd.Timestamp("2021-01-01", tz="UTC").value


def fill(bar, side, quantity, price, fee, reason="target"):
    return Fill(START + bar * HOUR, side, quantity, price, fee, START + (bar - 1) * HOUR, 0.5, f"o{bar}", reason)


# Two purchases of 1 BTC, at 100 and at 200, and a sale of 1.5 BTC at 300; each fee is 1 %.
#   lot 1: 1 BTC 100 → 300     gross 200, fees 1 + 4.5 × 1/1.5 = 4         P&L 196 on 100
#   lot 2: ½ BTC 200 → 300     gross  50, fees 2 × ½ + 4.5 × ½/1.5 = 2.5   P&L 47.5 on 100
#   open: ½ BTC from 200, fee 1;  cash: 1000 − 101 − 202 + 445.5 = 1142.5
WORKED = [fill(1, "buy", 1.0, 100.0, 1.0), fill(3, "buy", 1.0, 200.0, 2.0), fill(6, "sell", 1.5, 300.0, 4.5, "stop")]


@pytest.fixture
def arrays():
    return fill_arrays(WORKED)


@pytest.fixture
def lots(arrays):
    return match_lots(arrays["side"], arrays["quantity"], arrays["fee"])


def test_a_sale_closes_the_oldest_purchases_first(lots):
    assert (lots.entry.tolist(), lots.exit.tolist(), lots.closed.tolist()) == ([0, 1], [2, 2], [1.0, 0.5])


def test_what_is_not_sold_stays_open_with_its_share_of_the_fee(lots):
    assert (lots.open_entry.tolist(), lots.open.tolist(), lots.open_fees.tolist()) == ([1], [0.5], [1.0])


def test_a_trade_earns_its_gross_profit_less_its_share_of_both_fees(arrays, lots):
    trades = trade_table(arrays, lots, HOUR)
    assert trades["gross_pnl"].tolist() == pytest.approx([200.0, 50.0])
    assert trades["fees"].tolist() == pytest.approx([4.0, 2.5])
    assert trades["pnl"].tolist() == pytest.approx([196.0, 47.5])
    assert trades["return_pct"].tolist() == pytest.approx([196.0, 47.5])


def test_a_trade_says_when_it_was_open_and_why_it_was_closed(arrays, lots):
    trades = trade_table(arrays, lots, HOUR)
    hour = pd.Timestamp("2021-01-01", tz="UTC")
    assert trades["entry"].tolist() == [hour + pd.Timedelta(hours=h) for h in (1, 3)]
    assert trades["exit"].tolist() == [hour + pd.Timedelta(hours=6)] * 2
    assert trades["bars_open"].tolist() == [5, 3]
    assert trades["reason"].tolist() == ["stop", "stop"]


def test_gross_profit_counts_the_open_lot_at_the_last_price(arrays, lots):
    assert gross_pnl(lots, arrays["price"], 400.0) == pytest.approx(250 + 0.5 * 200)


def test_the_worked_account_agrees_with_its_fills(arrays, lots):
    check_identity(1142.5 + 0.5 * 400.0, 400.0, 1000.0, arrays, lots)


@pytest.mark.parametrize("equity", [1342.51, 1342.49, np.nan])
def test_an_account_that_differs_by_a_cent_is_noticed(arrays, lots, equity):
    with pytest.raises(LedgerError, match=r"its ledger says 1342\.50"):
        check_identity(equity, 400.0, 1000.0, arrays, lots)


def test_the_fill_table_has_one_row_per_fill(arrays):
    table = fill_table(arrays)
    assert table.columns.tolist() == FILL_COLUMNS
    assert table.index.tolist() == [pd.Timestamp(f"2021-01-01 0{h}:00", tz="UTC") for h in (1, 3, 6)]
    assert table["side"].tolist() == ["buy", "buy", "sell"]
    assert table["value"].tolist() == [100.0, 200.0, 450.0]
    assert table["order"].tolist() == ["o1", "o3", "o6"]
    assert not table["maker"].any()


def test_empty_tables_have_the_columns_and_types_of_full_ones(arrays, lots):
    none = fill_arrays([])
    nothing = match_lots(none["side"], none["quantity"], none["fee"])
    assert fill_table(none).dtypes.equals(fill_table(arrays).dtypes)
    assert trade_table(none, nothing, HOUR).dtypes.equals(trade_table(arrays, lots, HOUR).dtypes)
    assert trade_table(none, nothing, HOUR).columns.tolist() == TRADE_COLUMNS


def test_a_lot_sold_in_many_parts_pays_its_fee_once():
    fills = fill_arrays([fill(1, "buy", 1.0, 100.0, 4.0), *(fill(n, "sell", 0.1, 100.0, 0.5) for n in range(2, 12))])
    lots = match_lots(fills["side"], fills["quantity"], fills["fee"])
    assert lots.closed_fees.sum() == pytest.approx(4.0 + 10 * 0.5)
    assert len(lots.open) == 0
