"""The ledger keeps every fill, and its sums are the account's."""

import math

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from btclab.records import Costs, Fill
from btclab.trading.broker import PaperBroker
from btclab.trading.engine import Account
from btclab.trading.ledger import FILL_COLUMNS, TRADE_COLUMNS, Ledger, LedgerError
from tests.analysis.reference import bands, bps, make_candles, markets

HOUR = 3_600_000_000_000  # ns
START = pd.Timestamp("2021-01-01", tz="UTC").value

all_costs = st.builds(Costs, fee_bps=bps, slippage_bps=bps)
starting_cash = st.one_of(st.just(10_000.0), st.floats(0.01, 1e9))


def fill(bar, side, quantity, price, fee):
    return Fill(START + bar * HOUR, side, quantity, price, fee, START + (bar - 1) * HOUR, 0.5)


@pytest.fixture
def worked():
    """Two purchases of 1 BTC, at 100 and at 200, and a sale of 1.5 BTC at 300; each fee is 1 %."""
    ledger = Ledger(1000.0, [])
    for one in (fill(1, "buy", 1.0, 100.0, 1.0), fill(3, "buy", 1.0, 200.0, 2.0), fill(6, "sell", 1.5, 300.0, 4.5)):
        ledger.append(one)
    return ledger


# The worked example, reckoned by hand
#   lot 1: 1 BTC 100 → 300     gross 200, fees 1 + 4.5 × 1/1.5 = 4     P&L 196 on 100
#   lot 2: ½ BTC 200 → 300     gross  50, fees 2 × ½ + 4.5 × ½/1.5 = 2.5   P&L 47.5 on 100
#   open: ½ BTC from 200
#   cash: 1000 − 101 − 202 + 445.5 = 1142.5


def test_a_sale_closes_the_oldest_purchases_first(worked):
    trades = worked.trade_table(HOUR)
    assert trades["entry_price"].tolist() == [100.0, 200.0]
    assert trades["exit_price"].tolist() == [300.0, 300.0]
    assert trades["quantity"].tolist() == [1.0, 0.5]


def test_a_trade_earns_its_gross_profit_less_its_share_of_both_fees(worked):
    trades = worked.trade_table(HOUR)
    assert trades["gross_pnl"].tolist() == pytest.approx([200.0, 50.0])
    assert trades["fees"].tolist() == pytest.approx([4.0, 2.5])
    assert trades["pnl"].tolist() == pytest.approx([196.0, 47.5])


def test_the_return_of_a_trade_is_on_what_was_paid_for_it(worked):
    assert worked.trade_table(HOUR)["return_pct"].tolist() == pytest.approx([196.0, 47.5])


def test_a_trade_says_when_it_was_open(worked):
    trades = worked.trade_table(HOUR)
    hour = pd.Timestamp("2021-01-01", tz="UTC").floor("h")
    assert trades["entry"].tolist() == [hour + pd.Timedelta(hours=h) for h in (1, 3)]
    assert trades["exit"].tolist() == [hour + pd.Timedelta(hours=6)] * 2
    assert trades["bars_open"].tolist() == [5, 3]


def test_gross_profit_counts_the_open_lot_at_the_given_price(worked):
    assert worked.gross_pnl(400.0) == pytest.approx(250 + 0.5 * 200)


def test_fees_are_the_sum_of_all_fees(worked):
    assert worked.fees == pytest.approx(7.5)


def test_the_worked_account_agrees_with_its_ledger(worked):
    worked.check(Account(1142.5, 0.5), price=400.0)


def test_a_lot_sold_in_two_parts_shares_its_fee_between_them():
    ledger = Ledger(1000.0, [fill(1, "buy", 1.0, 100.0, 4.0), fill(2, "sell", 0.25, 100.0, 0.0)])
    ledger.append(fill(3, "sell", 0.75, 100.0, 0.0))
    assert ledger.trade_table(HOUR)["fees"].tolist() == pytest.approx([1.0, 3.0])


# Tables


def test_the_fill_table_has_one_row_per_fill_at_the_bar_in_which_it_filled(worked):
    table = worked.fill_table()
    assert table.columns.tolist() == ["side", "quantity", "price", "value", "fee", "decided", "exposure"]
    assert table.index.name == "timestamp"
    assert table.index.tolist() == [pd.Timestamp(f"2021-01-01 0{h}:00", tz="UTC") for h in (1, 3, 6)]
    assert table["decided"].tolist() == [pd.Timestamp(f"2021-01-01 0{h}:00", tz="UTC") for h in (0, 2, 5)]
    assert table["side"].tolist() == ["buy", "buy", "sell"]


def test_the_value_of_a_fill_is_quantity_times_price(worked):
    assert worked.fill_table()["value"].tolist() == [100.0, 200.0, 450.0]


def test_an_empty_ledger_has_empty_tables_with_all_columns():
    ledger = Ledger(1000.0, [])
    assert ledger.fill_table().columns.tolist() == list(FILL_COLUMNS)
    assert ledger.trade_table(HOUR).columns.tolist() == list(TRADE_COLUMNS)
    assert len(ledger.fill_table()) == len(ledger.trade_table(HOUR)) == 0
    assert str(ledger.fill_table().index.tz) == "UTC"


# Appending and checking


def test_a_fill_before_the_last_one_is_refused(worked):
    with pytest.raises(LedgerError, match="cannot follow"):
        worked.append(fill(5, "buy", 1.0, 100.0, 1.0))


def test_a_refused_fill_is_not_kept(worked):
    with pytest.raises(LedgerError):
        worked.append(fill(5, "buy", 1.0, 100.0, 1.0))
    assert len(worked.fills) == 3


@pytest.mark.parametrize(
    "account",
    [
        pytest.param(Account(1142.51, 0.5), id="a cent too much"),
        pytest.param(Account(1142.49, 0.5), id="a cent too little"),
        pytest.param(Account(1142.5, 0.5001), id="BTC from nowhere"),
        pytest.param(Account(math.nan, 0.5), id="cash is no number"),
        pytest.param(Account(1142.5, math.nan), id="position is no number"),
    ],
)
def test_an_account_that_was_tampered_with_is_noticed(worked, account):
    with pytest.raises(LedgerError, match=r"its ledger says 1342\.50"):
        worked.check(account, price=400.0)


def test_a_fill_missing_from_the_ledger_is_noticed(worked):
    worked.fills.pop(1)
    with pytest.raises(LedgerError):
        worked.check(Account(1142.5, 0.5), price=400.0)


def test_a_cent_is_noticed_after_a_turnover_of_millions():
    candles = make_candles([100.0] * 600, [100.0] * 600)
    broker = PaperBroker(10_000.0, Costs(0, 0))
    broker.run(candles, pd.Series([1.0, 0.0] * 300, candles.index))
    with pytest.raises(LedgerError):
        broker.ledger.check(Account(10_000.01), price=100.0)


# The identity: cash + position × price = start + gross P&L − fees


@settings(max_examples=150, deadline=None, derandomize=True)
@given(history=markets(), costs=all_costs, cash=starting_cash, band=bands)
def test_the_account_agrees_with_its_ledger_after_every_bar(history, costs, cash, band):
    broker = PaperBroker(cash, costs, band)
    for bar in broker.replay(*history):
        broker.ledger.check(broker.account, bar.close)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(history=markets(jump=0.3), costs=all_costs, cash=st.floats(0.01, 1e6), band=bands)
def test_equity_is_start_plus_gross_profit_less_fees_to_the_cent(history, costs, cash, band):
    candles, exposure = history
    broker = PaperBroker(cash, costs, band)
    broker.run(candles, exposure)
    bought = sold = fees = position = 0.0
    for row in broker.ledger.fill_table().itertuples():
        if row.side == "buy":
            bought, position = bought + row.quantity * row.price, position + row.quantity
        else:
            sold, position = sold + row.quantity * row.price, position - row.quantity
        fees += row.fee
    gross = sold - bought + position * candles["close"].iloc[-1]
    assert abs(broker.equity - (cash + gross - fees)) < max(0.005, 1e-12 * (bought + sold))


@settings(max_examples=75, deadline=None, derandomize=True)
@given(history=markets(), costs=all_costs, cash=starting_cash)
def test_once_all_is_sold_the_trades_sum_to_what_was_earned(history, costs, cash):
    candles, exposure = history
    exposure.iloc[-2:] = 0.0
    broker = PaperBroker(cash, costs)
    broker.run(candles, exposure)
    assert broker.account.position == 0.0
    earned = math.fsum(broker.ledger.trade_table(HOUR)["pnl"])
    turnover = broker.ledger.fill_table()["value"].sum()
    assert abs(earned - (broker.equity - cash)) < max(0.005, 1e-12 * turnover)


@settings(max_examples=75, deadline=None, derandomize=True)
@given(history=markets(), costs=all_costs)
def test_an_account_never_borrows_or_sells_short(history, costs):
    broker = PaperBroker(10_000.0, costs)
    for _ in broker.replay(*history):
        assert broker.account.cash >= 0
        assert broker.account.position >= 0


# Rounding


def test_many_small_purchases_sold_at_once_leave_no_crumb_behind():
    """A falling market, rebalanced at each bar, buys tiny lots: their rounding must not become trades of 1e-14 BTC."""
    prices = [100 * 0.999**i for i in range(400)]
    candles = make_candles(prices, prices)
    target = pd.Series(0.5, candles.index)
    target.iloc[49::50] = 0.0
    broker = PaperBroker(10_000.0, Costs(10, 0), rebalance_band=1e-7)
    broker.run(candles, target)
    trades = broker.ledger.trade_table(HOUR)
    assert len(trades) > 100
    assert trades["quantity"].min() > 1e-9


def test_empty_tables_have_the_types_of_full_ones(worked):
    empty = Ledger(1000.0, [])
    assert empty.fill_table().dtypes.equals(worked.fill_table().dtypes)
    assert empty.trade_table(HOUR).dtypes.equals(worked.trade_table(HOUR).dtypes)
