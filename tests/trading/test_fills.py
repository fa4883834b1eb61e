"""How much is traded, and at what price. Amounts in quote currency unless said otherwise."""

import math

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from btclab.errors import InputError
from btclab.records import Costs, Fill
from btclab.trading.engine import Account, settle
from btclab.trading.fills import fill_price, quantity_to_reach

FREE = Costs(0, 0)
ONE_PERCENT = Costs(fee_bps=100, slippage_bps=0)

cash = st.one_of(st.just(0.0), st.floats(1e-3, 1e12))
position = st.one_of(st.just(0.0), st.floats(1e-8, 1e6))
price = st.floats(1e-6, 1e9)
exposure = st.one_of(st.just(0.0), st.just(1.0), st.floats(0, 1))
costs = st.builds(Costs, fee_bps=st.floats(0, 9_999), slippage_bps=st.just(0))


def trade(account, exposure, price, costs):
    """The account after one trade at `price` towards `exposure`, and what was traded (BTC)."""
    side = "buy" if exposure * account.equity(price) > account.position * price else "sell"
    quantity = quantity_to_reach(exposure, account.cash, account.position, price, side, costs)
    fee = quantity * price * costs.fee_bps / 10_000
    return settle(account, Fill(0, side, quantity, price, fee, 0, exposure)), quantity


# The price


def test_a_buy_fills_above_the_open_by_the_slippage():
    assert fill_price(200.0, "buy", Costs(0, slippage_bps=50)) == pytest.approx(201.0)


def test_a_sell_fills_below_the_open_by_the_slippage():
    assert fill_price(200.0, "sell", Costs(0, slippage_bps=50)) == pytest.approx(199.0)


@pytest.mark.parametrize("side", ["buy", "sell"])
def test_without_slippage_a_fill_is_at_the_open(side):
    assert fill_price(123.45, side, FREE) == 123.45


# The quantity


def test_exposure_1_spends_all_cash_and_pays_the_fee_from_it():
    after, quantity = trade(Account(1010.0), 1.0, 100.0, ONE_PERCENT)
    assert quantity == pytest.approx(10.0)  # 10 BTC cost 1000, and their fee 10
    assert after.cash == 0.0


def test_exposure_0_sells_all():
    after, quantity = trade(Account(5.0, 10.0), 0.0, 100.0, ONE_PERCENT)
    assert (quantity, after.position) == (10.0, 0.0)
    assert after.cash == pytest.approx(5 + 1000 - 10)


def test_a_partial_buy_reaches_its_target_after_the_fee():
    after, quantity = trade(Account(1005.0), 0.5, 100.0, ONE_PERCENT)
    assert quantity == pytest.approx(5.0)  # 500 in BTC, 5 of fee, 500 left: one half of 1000
    assert after.cash == pytest.approx(500.0)


def test_a_partial_sale_reaches_its_target_after_the_fee():
    after, quantity = trade(Account(0.0, 19.9), 0.5, 100.0, Costs(100, 0))
    assert quantity == pytest.approx(10.0)  # proceeds 1000, fee 10: 990 beside 9.9 BTC worth 990
    assert after.cash == pytest.approx(990.0)


def test_at_the_target_there_is_nothing_to_trade():
    assert quantity_to_reach(0.5, 500.0, 5.0, 100.0, "sell", ONE_PERCENT) == 0.0


@pytest.mark.parametrize(("side", "exposure"), [("buy", 0.2), ("sell", 0.8)])
def test_a_side_that_leads_away_from_the_target_trades_nothing(side, exposure):
    assert quantity_to_reach(exposure, 500.0, 5.0, 100.0, side, ONE_PERCENT) == 0.0


@settings(deadline=None, derandomize=True)
@given(cash=st.floats(1e-3, 1e12), position=position, price=price, costs=costs)
def test_exposure_1_always_leaves_exactly_no_cash(cash, position, price, costs):
    assume(cash + position * price > position * price)  # cash too small to be seen beside the position stays
    after, _ = trade(Account(cash, position), 1.0, price, costs)
    assert after.cash == 0.0


@settings(deadline=None, derandomize=True)
@given(cash=cash, position=position, price=price, costs=costs)
def test_exposure_0_always_leaves_exactly_no_position(cash, position, price, costs):
    after, _ = trade(Account(cash, position), 0.0, price, costs)
    assert after.position == 0.0


@settings(max_examples=300, deadline=None, derandomize=True)
@given(cash=cash, position=position, exposure=exposure, price=price, costs=costs)
def test_no_trade_overspends_or_sells_short(cash, position, exposure, price, costs):
    after, quantity = trade(Account(cash, position), exposure, price, costs)
    assert quantity >= 0
    assert after.cash >= 0
    assert after.position >= 0


@settings(max_examples=300, deadline=None, derandomize=True)
@given(cash=cash, position=position, exposure=exposure, price=price, costs=costs)
def test_after_a_trade_the_position_is_the_exposure_times_equity(cash, position, exposure, price, costs):
    before = Account(cash, position)
    after, _ = trade(before, exposure, price, costs)
    found, asked = after.position * price, exposure * after.equity(price)
    assert math.isclose(found, asked, rel_tol=1e-9, abs_tol=1e-12 * before.equity(price))


@settings(max_examples=300, deadline=None, derandomize=True)
@given(cash=cash, position=position, exposure=exposure, price=price, costs=costs)
def test_a_trade_costs_its_fee_and_nothing_else(cash, position, exposure, price, costs):
    before = Account(cash, position)
    after, quantity = trade(before, exposure, price, costs)
    fee = quantity * price * costs.fee_bps / 10_000
    assert math.isclose(
        before.equity(price) - fee, after.equity(price), rel_tol=1e-9, abs_tol=1e-12 * before.equity(price)
    )


# The settings


@pytest.mark.parametrize("value", [-1, 10_000, float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["fee_bps", "slippage_bps"])
def test_costs_that_cannot_be_are_refused_by_name(name, value):
    with pytest.raises(InputError, match=rf"{name} is {value!r}.*basis points"):
        Costs(**{name: value})


def test_costs_cannot_be_changed_later():
    with pytest.raises(AttributeError):
        Costs().fee_bps = 0
