"""One bar in the life of an account. Bars are open = high = low = close unless the test is about their difference."""

import pytest

from btclab.records import Bar, Costs, Fill, Order
from btclab.trading.engine import Account, next_order, settle, step

FREE = Costs(0, 0)
DEAR = Costs(fee_bps=100, slippage_bps=100)  # 1 % each


def flat(price, timestamp=1):
    return Bar(timestamp, price, price, price, price)


# Filling


def test_an_order_fills_at_the_open_of_the_bar_after_its_decision():
    bar = Bar(timestamp=2, open=100.0, high=180.0, low=50.0, close=150.0)
    _, fill = step(Account(1000.0), bar, Order(decided=1, exposure=1.0), FREE)
    assert fill == Fill(2, "buy", 10.0, 100.0, 0.0, decided=1, exposure=1.0)


def test_a_buy_pays_slippage_and_fee():
    account, fill = step(Account(1020.1), flat(100.0), Order(0, 1.0), DEAR)
    assert fill.price == pytest.approx(101.0)
    assert fill.quantity == pytest.approx(10.0)
    assert fill.fee == pytest.approx(10.1)  # 1 % of what was traded at the fill price
    assert account == Account(0.0, fill.quantity)


def test_a_sell_pays_slippage_and_fee():
    account, fill = step(Account(0.0, 10.0), flat(100.0), Order(0, 0.0), DEAR)
    assert fill.price == pytest.approx(99.0)
    assert fill.fee == pytest.approx(9.9)
    assert account.position == 0.0
    assert account.cash == pytest.approx(990 - 9.9)


def test_without_an_order_nothing_changes():
    account = Account(12.0, 3.0)
    assert step(account, flat(50.0), None, DEAR) == (account, None)


@pytest.mark.parametrize(
    ("account", "exposure"),
    [
        pytest.param(Account(1000.0), 0.0, id="nothing to sell"),
        pytest.param(Account(0.0, 10.0), 1.0, id="no cash to buy with"),
        pytest.param(Account(500.0, 5.0), 0.5, id="there already"),
        pytest.param(Account(500.0, 5.0), 0.501, id="slippage of the buy exceeds what is missing"),
        pytest.param(Account(500.0, 5.0), 0.499, id="slippage of the sale exceeds what is too much"),
    ],
)
def test_an_order_with_nothing_to_trade_gives_no_fill(account, exposure):
    assert step(account, flat(100.0), Order(0, exposure), DEAR) == (account, None)


def test_the_exposure_is_of_the_equity_at_the_fill_not_at_the_decision():
    account, _ = step(Account(500.0, 5.0), flat(200.0), Order(0, 0.5), FREE)  # half and half at 100, two thirds at 200
    assert account.position * 200 == pytest.approx(750.0)
    assert account.cash == pytest.approx(750.0)


def test_a_fill_never_changes_the_account_it_came_from():
    account = Account(1000.0)
    step(account, flat(100.0), Order(0, 1.0), FREE)
    assert account == Account(1000.0)


def test_rounding_in_a_purchase_of_all_cash_is_settled_as_zero():
    assert settle(Account(0.3), Fill(0, "buy", 1.0, 0.1 + 0.2, 0.0, 0, 1.0)).cash == 0.0


def test_a_small_remainder_of_cash_is_kept():
    assert settle(Account(1e-13), Fill(0, "buy", 1.0, 5e-14, 0.0, 0, 0.5)).cash == pytest.approx(5e-14, rel=1e-9, abs=0)


# Deciding


def test_a_changed_target_gives_an_order_stamped_with_the_deciding_bar():
    assert next_order(Account(1000.0), flat(100.0, 7), 1.0, 0.0, None) == Order(7, 1.0)


def test_an_unchanged_target_gives_no_order():
    assert next_order(Account(0.0, 10.0), flat(100.0), 1.0, 1.0, None) is None


def test_a_missing_target_gives_no_order():
    assert next_order(Account(0.0, 10.0), flat(100.0), None, 1.0, None) is None


def test_without_a_band_drift_gives_no_order():
    assert next_order(Account(500.0, 5.0), flat(900.0), 0.5, 0.5, None) is None


@pytest.mark.parametrize("target", [0.5, None])
def test_drift_beyond_the_band_gives_an_order_for_the_target_in_force(target):
    # 5 BTC at 200 beside 500: 66.7 % held instead of 50 %
    assert next_order(Account(500.0, 5.0), flat(200.0, 7), target, 0.5, 0.1) == Order(7, 0.5)


def test_drift_within_the_band_gives_no_order():
    assert next_order(Account(500.0, 5.0), flat(200.0), 0.5, 0.5, 0.2) is None


def test_drift_is_measured_at_the_close():
    bar = Bar(1, open=100.0, high=200.0, low=100.0, close=200.0)
    assert next_order(Account(500.0, 5.0), bar, 0.5, 0.5, 0.1) == Order(1, 0.5)


def test_a_changed_target_inside_the_band_is_still_an_order():
    assert next_order(Account(500.0, 5.0), flat(100.0), 0.51, 0.5, 0.2) == Order(1, 0.51)


def test_an_empty_account_has_no_drift():
    assert next_order(Account(0.0), flat(100.0), 0.5, 0.5, 0.1) is None
