"""How much is traded, and at what price. Amounts in quote currency unless said otherwise."""

import json
import math

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from btclab.errors import InputError
from btclab.records import Costs, Market, Order
from btclab.trading.broker import PaperBroker
from btclab.trading.engine import Account
from btclab.trading.fills import BUY, SELL, cash_after, fill_price, quantity_to_reach, round_down, terms_of
from tests.trading.reference import Exchange, accounts, all_costs, all_markets

ONE_PERCENT = Costs(fee_bps=100, slippage_bps=0)

cash = st.one_of(st.just(0.0), st.floats(1e-3, 1e12))
position = st.one_of(st.just(0.0), st.floats(1e-8, 1e6))
price = st.floats(1e-6, 1e9)
exposure = st.one_of(st.just(0.0), st.just(1.0), st.floats(0, 1))
costs = st.builds(Costs, fee_bps=st.floats(0, 9_999), slippage_bps=st.just(0))


def trade(account, exposure, price, costs):
    """The account after one trade at `price` towards `exposure`, and what was traded (BTC)."""
    side = BUY if exposure * account.equity(price) > account.position * price else SELL
    quantity = quantity_to_reach(exposure, account.cash, account.position, price, side, costs.fee_bps / 10_000)
    fee = quantity * price * costs.fee_bps / 10_000
    after = Account(cash_after(account.cash, side, quantity, price, fee), account.position + side * quantity)
    return after, quantity


# The price


def test_a_buy_fills_above_the_open_by_the_slippage():
    assert fill_price(200.0, BUY, 0.005) == pytest.approx(201.0)


def test_a_sell_fills_below_the_open_by_the_slippage():
    assert fill_price(200.0, SELL, 0.005) == pytest.approx(199.0)


@pytest.mark.parametrize("side", [BUY, SELL])
def test_without_slippage_a_fill_is_at_the_open(side):
    assert fill_price(123.45, side, 0.0) == 123.45


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
    assert quantity_to_reach(0.5, 500.0, 5.0, 100.0, SELL, 0.01) == 0.0


@pytest.mark.parametrize(("side", "exposure"), [(BUY, 0.2), (SELL, 0.8)])
def test_a_side_that_leads_away_from_the_target_trades_nothing(side, exposure):
    assert quantity_to_reach(exposure, 500.0, 5.0, 100.0, side, 0.01) == 0.0


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


def test_rounding_in_a_purchase_of_all_cash_is_settled_as_zero():
    assert cash_after(0.3, BUY, 1.0, 0.1 + 0.2, 0.0) == 0.0


def test_a_small_remainder_of_cash_is_kept():
    assert cash_after(1e-13, BUY, 1.0, 5e-14, 0.0) == pytest.approx(5e-14, rel=1e-9, abs=0)


# Steps


@pytest.mark.parametrize(
    ("quantity", "step", "whole"),
    [(1.99, 0.5, 1.5), (0.05, 0.1, 0.0), (0.3, 0.1, 0.3), (0.3 - 1e-17, 0.1, 0.3), (1.23, 0, 1.23)],
)
def test_a_quantity_is_rounded_down_to_whole_steps(quantity, step, whole):
    assert round_down(quantity, step) == pytest.approx(whole, abs=1e-15)


@settings(deadline=None, derandomize=True)
@given(quantity=st.floats(0, 1e6), step=st.sampled_from([1e-8, 1e-5, 0.001, 0.1, 1.0]))
def test_rounding_down_never_adds_more_than_rounding(quantity, step):
    whole = round_down(quantity, step)
    assert quantity - step < whole <= quantity + 1e-8 * step + 1e-15 * quantity
    assert round_down(whole, step) == whole


# The settings


def test_what_is_not_set_is_filled_in():
    terms = terms_of(Costs(fee_bps=7, slippage_bps=5), Market())
    assert (terms.maker_fee_bps, terms.slip, terms.participation, terms.step) == (7.0, 0.0005, math.inf, 0.0)


@pytest.mark.parametrize("value", [-1, 10_000, float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["fee_bps", "slippage_bps"])
def test_costs_that_cannot_be_are_refused_by_name(name, value):
    with pytest.raises(InputError, match=rf"{name} is {value!r}.*basis points"):
        Costs(**{name: value})


def test_costs_cannot_be_changed_later():
    with pytest.raises(AttributeError):
        Costs().fee_bps = 0


# The matching rule against the same rule in slow, plain Python: random orders over random bars, to the last digit

CASH = 500.0


def same(broker, exchange):
    fills = [
        (one.timestamp, one.order, one.reason, one.side, one.quantity, one.price, one.fee, one.maker)
        for one in broker.ledger.fills
    ]
    assert fills == exchange.fills
    assert [(one.timestamp, one.order, one.event, one.rule) for one in broker.ledger.events] == exchange.events
    assert (broker.account.cash, broker.account.position) == (exchange.cash, exchange.position)
    assert (broker.equity, broker.state.interest) == (exchange.equity, exchange.interest)
    assert [order.id for order in broker.open_orders] == [order.id for order in exchange.book]


def ask(broker, exchange, what, latency):
    """Place, cancel or replace in both; what is asked of an order that is not open, or late, is left out."""
    if isinstance(what, Order):
        broker.submit(what)
        exchange.submit(what)
        return
    number, order = what if isinstance(what, tuple) else (what, None)
    if latency or number >= len(exchange.book):
        return
    old = exchange.book[number].id
    if order is None:
        broker.cancel(old)
        exchange.cancel(old)
    elif order.parent in ("", *(one.id for one in exchange.book[:number])):
        broker.replace(old, order)
        exchange.replace(old, order)


latencies, bands = st.sampled_from([0, 0, 1, 2]), st.sampled_from([None, 0.05])


@settings(max_examples=250, deadline=None, derandomize=True)
@given(accounts, all_costs, all_markets, latencies, bands)
def test_it_agrees_with_the_slow_and_obvious_rules_to_the_last_digit(account, costs, market, latency, band):
    margin, history = account
    exchange = Exchange(CASH, costs, market, latency, band, margin)
    broker = PaperBroker(CASH, costs, band, market, latency, margin=margin)
    for bar, target, steps in zip(*history, strict=True):
        exchange.walk(bar)
        exchange.decide(target)
        broker.process(bar, target, lambda broker: [ask(broker, exchange, what, latency) for what in steps])  # noqa: B023
        same(broker, exchange)
        assert margin or min(broker.account.cash, broker.account.position) >= 0
        broker.ledger.check(broker.account, bar.close)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(accounts, all_costs, all_markets, latencies, bands, st.sets(st.integers(0, 13)))
def test_restarts_between_bars_change_nothing(account, costs, market, latency, band, stops):
    margin, history = account
    whole = PaperBroker(CASH, costs, band, market, latency, margin=margin)
    halting = PaperBroker(CASH, costs, band, market, latency, margin=margin)
    for i, (bar, target, steps) in enumerate(zip(*history, strict=True)):
        if i in stops:  # also with orders that are not written yet
            halting = PaperBroker.from_dict(json.loads(json.dumps(halting.to_dict(), allow_nan=False)), halting.ledger)
        for broker in (whole, halting):
            broker.process(bar, target)
            for what in steps:
                if isinstance(what, Order):
                    broker.submit(what)
                elif isinstance(what, int) and what < len(broker.open_orders):
                    broker.cancel(broker.open_orders[what].id)
                elif isinstance(what, tuple) and what[0] < len(broker.open_orders):
                    broker.replace(broker.open_orders[what[0]].id, what[1])
        assert halting.to_dict() == whole.to_dict()
    assert halting.ledger.fills == whole.ledger.fills
    assert halting.ledger.events == whole.ledger.events
