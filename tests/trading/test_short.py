"""Selling short: what it earns and costs, the margin call, and that a ledger, a restart and the risk rules go with it."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import btclab as bl
from btclab.analysis.account import from_memory
from btclab.errors import InputError
from btclab.records import Bar, Costs, Fill, Margin, Order
from btclab.trading.broker import PaperBroker, bars_of
from btclab.trading.engine import Conditions, State, decide, step, submit
from btclab.trading.lots import check_identity, fill_arrays, gross_pnl, match_lots, trade_table
from btclab.trading.protection import bracket
from btclab.trading.risk import Holding, RiskRules, RiskState, check
from tests.analysis.reference import bps, make_candles, markets, reference_backtest

FREE, HOUR, NAN = Costs(0, 0), 3_600_000_000_000, math.nan
URL = "sqlite:///data/ledger.db"
LENT = Conditions(FREE, margin=Margin(interest_pct=0, maintenance=0.1))
SHORT = State(2_000.0, -10.0, target=-1.0, bar=Bar(0, 100, 100, 100, 100))  # sold at 100 with 1,000 of one's own


def flat(price, bar=1):
    return Bar(bar * HOUR, price, price, price, price)


def order(kind, side, quantity=1.0, name="a", **more):
    return Order(0, id=name, kind=kind, side=side, quantity=quantity, **more)


def placed(state, *orders, conditions=LENT):
    for one in orders:
        state, event = submit(state, one, conditions)
        assert event.event == "accepted", event
    return state


def ends(events):
    return [(one.order, one.event, one.rule) for one in events if one.event not in ("accepted", "done")]


# Exposure below 0


def test_exposure_minus_1_sells_as_much_as_the_account_is_worth_and_gains_when_the_price_falls():
    state, fills, _ = step(State(1_000.0), flat(100), [Order(0, -1.0, "t")], LENT)
    assert (fills[0].side, fills[0].quantity, state.account.cash) == ("sell", 10.0, 2_000.0)
    assert state.account.equity(50.0) == 1_500.0


def test_the_exposure_is_that_after_the_fee():
    state, _, _ = step(State(1_000.0), flat(100), [Order(0, -1.0, "t")], Conditions(Costs(100, 0), margin=Margin()))
    assert -100 * state.position == pytest.approx(state.account.equity(100.0))
    assert state.account.equity(100.0) == pytest.approx(1_000 - 0.01 * -100 * state.position)


def test_exposure_0_buys_all_back():
    state, fills, _ = step(SHORT, flat(80), [Order(0, 0.0, "t")], LENT)
    assert (fills[0].side, fills[0].quantity) == ("buy", 10.0)
    assert state.account.position == 0
    assert state.account.cash == 1_200


def test_one_order_goes_from_long_to_short():
    long = State(0.0, 10.0, target=1.0, bar=flat(100, 0))
    state, (fill,), _ = step(decide(long, -1.0, None, LENT), flat(100), (), LENT)
    assert (fill.side, fill.quantity, state.position) == ("sell", 20.0, -10.0)


def test_the_band_corrects_the_drift_of_a_short_position():
    state, _, _ = step(SHORT, flat(110), (), LENT)  # equity 900, sold short 1,100
    state, (fill,), _ = step(decide(state, None, 0.1, LENT), flat(110, 2), (), LENT)
    assert fill.side == "buy"
    assert 110 * state.position == pytest.approx(-state.account.equity(110.0))


@given(markets(jump=0.08, wanted=st.just(NAN) | st.floats(-1, 1)), bps, bps)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_it_agrees_with_a_slow_and_obvious_backtest(market, fee, slippage):
    candles, exposure = market
    terms = Margin(interest_pct=0, maintenance=1e-9)
    result = bl.backtest(candles, exposure.to_frame(), Costs(fee, slippage), margin=terms)
    assume("margin_call" not in set(result.fills["reason"]))
    equity, fees = reference_backtest(candles, exposure, Costs(fee, slippage), 10_000)
    assert result.equity.tolist() == pytest.approx(equity, rel=1e-9)
    assert result.metrics["fees"] == pytest.approx(fees, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("wanted", [-1.0, -0.01])
def test_without_margin_it_is_refused_and_the_way_out_is_said(wanted):
    candles = make_candles([100.0] * 3, [100.0] * 3)
    with pytest.raises(InputError, match=r"must lie in 0…1.*set allow_short in \[trading\], or give margin=bl.Margin"):
        bl.backtest(candles, pd.DataFrame({"exposure": wanted}, candles.index))
    with pytest.raises(InputError, match="allow_short"):
        PaperBroker(1_000, FREE).process(flat(100), wanted)
    with pytest.raises(InputError, match=r"must lie in -1…1"):
        PaperBroker(1_000, FREE, margin=Margin()).process(flat(100), -1.5)


# Interest


def test_interest_is_paid_at_the_open_for_the_bar_before():
    terms = Conditions(FREE, margin=Margin(interest_pct=10))
    state, _, _ = step(State(1_000.0), flat(100, 1), [Order(0, -1.0, "t")], terms)
    assert state.interest == 0
    state, _, _ = step(state, flat(150, 2), (), terms)
    assert state.interest == pytest.approx(1_000 * 0.10 / 8_760)  # on the value at the last close, for an hour
    closed, _, _ = step(state, flat(100, 5), [Order(0, 0.0, "u")], terms)  # after a hole of two hours
    assert closed.interest - state.interest == pytest.approx(1_500 * 0.10 * 3 / 8_760)
    assert step(closed, flat(100, 6), (), terms)[0].interest == closed.interest


def test_interest_is_in_the_metrics_and_in_the_identity():
    candles = make_candles([100.0] * 50, [100.0] * 50)
    result = bl.backtest(candles, pd.DataFrame({"exposure": -1.0}, candles.index), FREE, margin=Margin(interest_pct=20))
    assert result.metrics["interest"] == pytest.approx(10_000 * 0.20 * 48 / 8_760, rel=1e-3)
    assert result.equity.iloc[-1] == pytest.approx(10_000 - result.metrics["interest"])
    assert result.metrics["time_in_market"] == pytest.approx(100 * 49 / 50)


@pytest.mark.parametrize("wrong", [{"interest_pct": -1}, {"interest_pct": NAN}, {"maintenance": 0}, {"maintenance": 1}])
def test_terms_that_cannot_be_are_refused(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        Margin(**wrong)


# The margin call


def called(bar, *orders, state=SHORT, conditions=LENT):
    return step(placed(state, *orders), bar, (), conditions)


def test_it_comes_where_equity_is_the_maintenance_margin_of_what_is_owed():
    level = 2_000 / 1.1 / 10
    state, (fill,), events = called(Bar(1, 100, 190, 90, 120))
    assert (fill.reason, fill.side, fill.quantity, fill.order) == ("margin_call", "buy", 10.0, "margin-call-1")
    assert fill.price == pytest.approx(level)
    assert state.account.equity(level) == pytest.approx(0.1 * 10 * level)
    assert state.position == 0
    assert "Margin call: from 181.82 on" in events[0].text


def test_it_does_not_come_below_that():
    assert called(Bar(1, 100, 181.8, 90, 120))[1] == []


def test_a_stop_beyond_it_is_not_reached_first():
    state, fills, events = called(Bar(1, 100, 260, 90, 120), order("stop", "buy", 10.0, stop=250.0))
    assert [(fill.reason, fill.price) for fill in fills] == [("margin_call", pytest.approx(2_000 / 11))]
    assert ends(events)[-1] == ("a", "cancelled", "margin_call")
    assert state.account.cash > 0


def test_a_target_that_sells_nothing_short_outlives_it():
    state, fills, _ = step(decide(SHORT, 1.0, None, LENT), flat(190), (), LENT)
    assert [(fill.reason, fill.side) for fill in fills] == [("margin_call", "buy"), ("target", "buy")]
    assert state.account.cash == 0


def test_the_bracket_of_a_target_that_outlives_it_stays_with_it():
    state = decide(SHORT, 1.0, None, LENT)
    state = placed(state, *bracket(Order(0, 1.0, "target-0"), flat(100, 0), NAN, RiskRules(stop_loss=0.6)))
    state, fills, _ = step(state, flat(190), (), LENT)
    assert [fill.reason for fill in fills] == ["margin_call", "target"]
    assert [one.order.id for one in state.orders] == ["target-0-stop"]


def test_stops_on_the_way_to_it_come_first_wherever_they_stand_in_the_book():
    low, high = order("stop", "buy", 4.0, "lo", stop=150.0), order("stop", "buy", 6.0, "hi", stop=200.0)
    for orders in ((low, high), (high, low)):
        _, fills, _ = called(Bar(1, 100, 210, 90, 120), *orders)
        assert [(fill.order, fill.price) for fill in fills] == [("lo", 150.0), ("hi", 200.0)]


def test_it_ends_every_order_and_the_strategy_does_not_go_on_before_it_changes_its_mind():
    state, fills, events = called(Bar(1, 100, 190, 90, 120), order("limit", "buy", limit=50.0))
    assert ("a", "cancelled", "margin_call") in ends(events)
    assert len(fills) == 1
    assert decide(state, -1.0, 0.05, LENT).orders == ()
    assert len(decide(state, 0.5, None, LENT).orders) == 1


def test_over_a_gap_it_buys_at_the_open_and_the_account_may_owe():
    state, (fill,), _ = called(flat(250))
    assert fill.price == 250
    assert state.account.cash == -500
    state, fills, _ = step(decide(state, 1.0, None, LENT), flat(100, 2), (), LENT)
    assert (fills, state.account.cash) == ([], -500)
    refused = submit(state, order("market", "buy"), LENT)[1]
    assert refused.rule == "insufficient_funds"


def test_it_pays_slippage_and_the_fee_and_waits_for_no_volume():
    dear = Conditions(Costs(100, 100, impact_bps=5_000, participation=0.1), margin=Margin(0, 0.1))
    _, (fill,), _ = step(SHORT, Bar(1, 100, 190, 90, 120, 0.01), (), dear)
    assert fill.price == pytest.approx(2_000 / 11 * 1.01)
    assert fill.fee == pytest.approx(0.01 * 10 * fill.price)


def test_a_stop_before_it_is_reached_first():
    _, fills, _ = called(Bar(1, 100, 190, 90, 120), order("stop", "buy", 10.0, stop=150.0))
    assert [(fill.reason, fill.price) for fill in fills] == [("stop", 150.0)]


def test_what_was_sold_short_within_a_bar_can_be_called_in_it():
    state = placed(State(1_000.0, bar=flat(100, 0)), order("limit", "sell", 9.0, limit=110.0))
    _, fills, _ = step(state, Bar(1, 100, 250, 90, 120), (), LENT)
    assert [fill.reason for fill in fills] == ["limit", "margin_call"]
    assert fills[1].price == pytest.approx(1_990 / 1.1 / 9)


@pytest.mark.parametrize("risk", [None, RiskRules()])
def test_an_account_with_nothing_left_has_metrics(risk):
    candles = make_candles([100.0, 100.0, 200.0, 200.0], [100.0, 100.0, 200.0, 200.0])
    signals = pd.DataFrame({"exposure": -1.0}, candles.index)
    result = bl.backtest(candles, signals, FREE, 1_000, margin=Margin(0), risk=risk, progress=False)
    assert result.equity.iloc[-1] == 0
    assert result.exposure.tolist() == [0, -1, 0, 0]
    assert result.metrics["total_return"] == -100
    assert result.metrics["time_in_market"] == 25
    assert not any(isinstance(value, float) and math.isnan(value) for value in result.metrics.values())


def test_the_statement_of_an_account_with_nothing_left_says_that_it_holds_nothing():
    candles = make_candles([100.0, 100.0, 200.0, 200.0], [100.0, 100.0, 200.0, 200.0])
    broker = PaperBroker(1_000, FREE, margin=Margin(0))
    broker.run(candles, pd.Series(-1.0, candles.index))
    marks = from_memory(broker.ledger, candles, None, FREE).marks
    assert marks["equity"].tolist() == [1_000, 1_000, 0, 0]
    assert marks["exposure"].tolist() == [0, -1, 0, 0]


def test_an_account_that_owes_has_metrics():
    candles = make_candles([100.0, 100.0, 300.0, 300.0], [100.0, 100.0, 300.0, 300.0])
    result = bl.backtest(candles, pd.DataFrame({"exposure": -1.0}, candles.index), FREE, 1_000, margin=Margin(0))
    assert result.equity.iloc[-1] == -1_000
    assert result.metrics["total_return"] == pytest.approx(-200)
    assert result.trades["side"].tolist() == ["short"]


# Orders by hand


def test_no_more_can_be_sold_than_the_account_is_worth():
    start = State(1_000.0, bar=flat(100, 0))
    assert submit(start, order("market", "sell", 10.0), LENT)[1].event == "accepted"
    event = submit(start, order("market", "sell", 10.5), LENT)[1]
    assert event.rule == "insufficient_margin"
    assert "It sells 10.50000000 BTC; 10.00000000 may be sold" in event.text


def test_what_was_sold_short_may_be_bought_back_with_more_than_the_cash():
    poor = State(900.0, -10.0, bar=flat(100, 0))
    state = placed(poor, order("market", "buy", 10.0))
    state, fills, _ = step(state, flat(81), (), LENT)  # no call: it would come from 81.81 on
    assert [fill.quantity for fill in fills] == [10.0]
    assert state.account.cash == 90
    assert submit(poor, order("market", "buy", 11.0), LENT)[1].rule == "insufficient_funds"


def test_a_protective_order_never_opens_the_other_side():
    small = State(1_500.0, -5.0, bar=flat(100, 0))
    state = placed(small, order("market", "sell", 2.0, "p"), order("stop", "buy", NAN, "s", stop=120.0, parent="p"))
    state, _, _ = step(state, flat(100), (), LENT)
    state = placed(state, order("market", "buy", 6.0, "most"))
    state, fills, events = step(state, Bar(2 * HOUR, 100, 125, 100, 110), (), LENT)
    assert [(fill.order, fill.quantity) for fill in fills] == [
        ("most", 6.0),
        ("s", 1.0),
    ]  # and not the 2 that it guarded
    assert state.position == 0
    assert events[-1].text == "It buys 2.00000000 BTC back; 1.00000000 were sold short."


def test_a_bracket_on_a_turn_to_short_guards_what_is_short_and_the_old_one_goes():
    rules, bar = RiskRules(stop_loss=0.1, take_profit=0.2), flat(100, 0)
    long = State(1_000.0, bar=bar)
    long = placed(decide(long, 1.0, None, LENT), *bracket(Order(0, 1.0, "target-0"), bar, NAN, rules))
    long, _, _ = step(long, flat(100, 1), (), LENT)
    turned = decide(long, -1.0, None, LENT)
    turned = placed(turned, *bracket(Order(HOUR, -1.0, f"target-{HOUR}"), flat(100, 1), NAN, rules))
    state, _, events = step(turned, flat(100, 2), (), LENT)
    assert [one for one in ends(events) if one[1] == "cancelled"] == [
        ("target-0-stop", "cancelled", "flat"),
        ("target-0-take_profit", "cancelled", "flat"),
    ]
    assert [(one.order.side, one.order.stop, one.remaining) for one in state.orders] == [
        ("buy", pytest.approx(110.0), 10.0),
        ("buy", pytest.approx(80.0), 10.0),
    ]
    state, fills, _ = step(state, Bar(3 * HOUR, 100, 115, 100, 112), (), LENT)
    assert [(fill.reason, fill.quantity) for fill in fills] == [("stop", 10.0)]
    assert state.position == 0
    assert state.orders == ()


# Lots


def test_a_fill_that_turns_the_position_closes_a_lot_and_opens_one():
    # long 1 from 100, sold 3 at 120 (fee 3): a long trade of 20, and short 2 from 120; 1 of it bought back at 90
    fills = [
        fill(1, "buy", 1.0, 100.0, 1.0),
        fill(2, "sell", 3.0, 120.0, 3.0),
        fill(3, "buy", 1.0, 90.0, 0.5),
    ]
    arrays = fill_arrays(fills)
    lots = match_lots(arrays["side"], arrays["quantity"], arrays["fee"])
    assert lots.closed.tolist() == [1.0, -1.0]
    assert lots.open.tolist() == [-1.0]
    assert lots.open_fees.tolist() == pytest.approx([1.0])
    trades = trade_table(arrays, lots, HOUR)
    assert trades["side"].tolist() == ["long", "short"]
    assert trades["quantity"].tolist() == [1.0, 1.0]
    assert trades["pnl"].tolist() == pytest.approx([20 - 2, 30 - 1.5])
    assert trades["return_pct"].tolist() == pytest.approx([18, 100 * 28.5 / 120])
    assert gross_pnl(lots, arrays["price"], 110.0) == pytest.approx(20 + 30 + 10)
    cash = 1_000 - 101 + 360 - 3 - 90.5
    check_identity(cash - 110, 110.0, 1_000, arrays, lots)


def fill(bar, side, quantity, price, fee):
    return Fill(bar * HOUR, side, quantity, price, fee, (bar - 1) * HOUR, NAN, f"o{bar}")


# Ledger and restarts


@pytest.fixture(scope="module")
def market(candles):
    return candles.iloc[:400]


@pytest.fixture(scope="module")
def exposure(market):
    choices = np.random.default_rng(5).choice([0.0, 0.5, 1.0, -0.5, -1.0, NAN], len(market), p=[0.05] * 5 + [0.75])
    return pd.Series(choices, market.index, name="exposure")


@pytest.mark.parametrize("maintenance", [0.1, 0.98])  # the second calls after a rise of 1 %
def test_paper_trading_with_restarts_is_the_backtest_to_the_last_digit(market, exposure, maintenance, home):
    terms = Margin(25.0, maintenance)
    result = bl.backtest(market, exposure.to_frame(), Costs(10, 5), margin=terms)
    assert result.metrics["interest"] > 0
    assert ("margin_call" in set(result.fills["reason"])) == (maintenance == 0.98)
    fills, equity, bars = [], [], list(bars_of(market))
    for first, last in ((0, 130), (130, 131), (131, 400)):
        broker = PaperBroker.open(URL, 10_000, Costs(10, 5), margin=terms)
        for bar, wish in zip(bars[first:last], exposure.iloc[first:last], strict=True):
            fills += broker.process(bar, None if math.isnan(wish) else wish)
            equity.append(broker.equity)
        paid, ledger = broker.state.interest, broker.ledger
        ledger.close()
    assert equity == result.equity.tolist()
    assert [fill.price for fill in fills] == result.fills["price"].tolist()
    assert paid == result.metrics["interest"]
    with bl.Ledger.open(URL, mode="read") as kept:
        kept.check()
        now = kept.portfolio()
        assert now["interest"] == pytest.approx(-paid)
        assert now["equity"] == pytest.approx(equity[-1])
        assert set(kept.trade_table()["side"]) == {"long", "short"}


def test_a_short_account_is_not_opened_where_shorting_is_off(home, monkeypatch):
    broker = PaperBroker.open(URL, 1_000, FREE, margin=Margin())
    broker.process(flat(100), -1.0)
    broker.process(flat(100, 2))
    broker.ledger.close()
    with pytest.raises(InputError, match=r"has sold 10.00000000 BTC short. Set allow_short = true"):
        PaperBroker.open(URL)
    monkeypatch.setenv("BTCLAB_TRADING__ALLOW_SHORT", "true")
    monkeypatch.setenv("BTCLAB_TRADING__SHORT_INTEREST_PCT", "30")
    broker = PaperBroker.open(URL)
    assert broker.conditions.margin == Margin(30.0, 0.1)
    broker.ledger.close()


def test_a_target_below_0_is_given_up_where_shorting_is_off(home):
    broker = PaperBroker.open(URL, 1_000, FREE, margin=Margin())
    broker.process(flat(100), -1.0)
    broker.ledger.close()
    broker = PaperBroker.open(URL, costs=FREE)
    assert (broker.target, broker.open_orders) == (0.0, ())
    broker.process(flat(100, 2))
    assert broker.account.position == 0
    assert "cancelled" in {event.event for event in broker.ledger.event_table().itertuples()}
    broker.ledger.close()


def test_a_turn_to_short_that_was_under_way_still_closes_where_shorting_is_off(home):
    broker = PaperBroker.open(URL, 1_000, FREE, margin=Margin())
    broker.process(flat(100, 1), 1.0)
    broker.process(flat(100, 2), -1.0)
    assert broker.account.position == 10
    broker.ledger.close()
    broker = PaperBroker.open(URL, costs=FREE)
    broker.process(flat(100, 3), 0.0)
    assert broker.account.position == 0
    broker.ledger.close()


def test_a_short_target_by_hand_is_given_up_where_shorting_is_off(home):
    broker = PaperBroker.open(URL, 1_000, FREE, margin=Margin())
    broker.process(flat(100, 1), None, lambda it: it.submit(Order(HOUR, -0.5, "hand")))
    broker.ledger.close()
    broker = PaperBroker.open(URL, costs=FREE)
    broker.process(flat(100, 2))
    assert broker.account.position == 0
    broker.ledger.close()


def test_a_sale_without_costs_pays_no_interest_either():
    candles = make_candles([100.0] * 50, [100.0] * 50)
    signals = pd.DataFrame({"exposure": -1.0}, candles.index)
    table = bl.cost_sensitivity(candles, signals, Costs(10, 5), margin=Margin(500))
    assert table["total_return"].iloc[0] == 0
    assert table["total_return"].is_monotonic_decreasing


# Risk rules


def guarded(closes, rules, exposure=-1.0, margin=Margin(0)):  # noqa: B008  (it cannot be changed)
    candles = make_candles([closes[0], *closes[:-1]], closes)
    signals = pd.DataFrame({"exposure": exposure}, index=candles.index)
    return bl.backtest(candles, signals, FREE, 1_000, risk=rules, progress=False, margin=margin)


def test_without_rules_the_guard_changes_nothing(market, exposure):
    plain = bl.backtest(market, exposure.to_frame(), margin=Margin())
    walked = bl.backtest(market, exposure.to_frame(), margin=Margin(), risk=RiskRules(), progress=False)
    assert walked.equity.tolist() == plain.equity.tolist()
    assert walked.metrics == plain.metrics


def test_a_stop_buys_back_above_and_the_trade_waits_for_a_new_signal():
    result = guarded([100, 100, 103, 120, 120, 120, 120], RiskRules(stop_loss=0.1), [-1, -1, -1, -1, -1, 1, 1])
    assert result.fills["reason"].tolist() == ["target", "stop", "target"]
    assert result.fills["price"].tolist() == pytest.approx([100, 110, 120])
    assert "new_signal" in {event.rule for event in result.events}


def test_a_target_takes_the_profit_below():
    result = guarded([100, 100, 97, 70, 70], RiskRules(take_profit=0.2))
    assert result.fills["reason"].tolist() == ["target", "take_profit"]
    assert result.fills["price"].tolist() == pytest.approx([100, 80])


def test_a_drawdown_buys_all_back_for_good():
    result = guarded([100, 100, 130, 130, 90, 90], RiskRules(max_drawdown=0.2))
    assert result.exposure.iloc[-1] == 0
    assert "max_drawdown" in {event.rule for event in result.events}


def test_what_may_be_sold_short_is_cut():
    assert guarded([100, 100, 100], RiskRules(max_position=0.4)).exposure.iloc[-1] == pytest.approx(-0.4)


def test_a_turn_is_an_exit_that_is_never_refused_and_an_entry_that_waits_for_the_cooldown():
    result = guarded([100] * 8, RiskRules(cooldown_bars=2), [1, 1, -1, -1, -1, -1, -1, -1])
    assert result.fills["side"].tolist() == ["buy", "sell", "sell"]
    assert result.exposure.tolist() == [0, 1, 1, 0, 0, 0, -1, -1]
    assert "cooldown" in {event.rule for event in result.events}


def test_a_position_by_hand_on_the_other_side_does_not_wait_for_a_cooldown():
    candles = make_candles([100.0] * 6, [100.0] * 6)
    first = int(candles.index.as_unit("ns").asi8[0])
    wish = pd.DataFrame({"exposure": [0, 0, -1, -1, -1, -1.0]}, candles.index)
    by_hand = Order(first, id="mine", kind="market", side="buy", quantity=5.0)
    result = bl.backtest(
        candles, wish, FREE, 1_000, orders=[by_hand], risk=RiskRules(cooldown_bars=2), margin=Margin(0), progress=False
    )
    assert result.fills["side"].tolist() == ["buy", "sell"]
    assert result.exposure.iloc[-1] == -1


def test_after_a_margin_call_the_same_signal_does_not_sell_short_again():
    result = guarded([100, 100, 190, 190, 190, 190, 190], RiskRules(cooldown_bars=2))
    assert result.fills["reason"].tolist() == ["target", "margin_call"]
    assert "new_signal" in {event.rule for event in result.events}


def test_once_halted_no_sale_by_hand_opens_a_position():
    closes = [
        100,
        100,
        80,
        110,
        110,
    ]  # after the halt it opens at 80, where all is sold, and comes back to 105 and more
    candles = make_candles([100, *closes[:-1]], closes)
    first = int(candles.index.as_unit("ns").asi8[1])
    resting = Order(first, id="mine", kind="limit", side="sell", quantity=10.0, limit=105.0)
    result = bl.backtest(
        candles,
        pd.DataFrame({"exposure": 1.0}, candles.index),
        FREE,
        1_000,
        orders=[resting],
        risk=RiskRules(max_drawdown=0.1),
        margin=Margin(0),
        progress=False,
    )
    assert result.fills["reason"].tolist() == ["target", "target"]
    assert result.exposure.iloc[-1] == 0


def test_an_account_that_sells_nothing_short_holds_cash_and_says_so_once():
    state, rules = RiskState.start(1_000.0), RiskRules()
    holding = Holding(0.0, 10.0, 100.0, 1.0)
    assert check(state, -1.0, rules, holding)[0] == 0
    assert check(state, -1.0, rules, holding)[1][0][0] == "allow_short"
    assert check(state, -1.0, rules, holding, short=True) == (-1.0, [])


def test_orders_by_hand_count_with_what_is_open():
    state, rules, holding = RiskState.start(1_000.0), RiskRules(max_position=0.5), Holding(1_000.0, 0.0, 100.0)
    resting = order("limit", "buy", 3.0, "first", limit=100.0)
    assert check(state, order("market", "buy", 3.0), rules, holding)[0] is not None
    allowed, said = check(state, order("market", "buy", 3.0), rules, holding, [resting])
    assert (allowed, said[0][0]) == (None, "max_position")
    assert "60.0 % of equity in BTC" in said[0][1]
    pending = Order(0, 0.4, "target-0")
    assert check(state, order("market", "buy", 3.0), rules, holding, [pending])[0] is None
    stop = order("stop", "sell", NAN, "s", stop=90.0, parent="first")
    assert check(state, stop, rules, holding, [resting]) == (stop, [])
    more = order("limit", "buy", NAN, "more", limit=100.0, parent="first")  # as much again, once the first has filled
    assert check(state, more, rules, holding, [resting])[0] is None


def test_of_orders_that_cancel_each_other_one_counts():
    halted, holding = RiskState.start(1_000.0)._replace(halted=1), Holding(500.0, 5.0, 100.0, 0.5)
    target = order("limit", "sell", 5.0, "target", limit=120.0, group="g")
    stop = order("stop", "sell", 5.0, "stop", stop=80.0, group="g")
    assert check(halted, stop, RiskRules(), holding, [target], True)[0] is stop
    third = order("limit", "sell", 1.0, "third", limit=130.0)
    assert check(halted, third, RiskRules(), holding, [target, stop], True)[0] is None


def test_sales_that_together_are_more_than_is_held_are_an_entry():
    state, rules, holding = RiskState.start(1_000.0), RiskRules(max_position=0.3), Holding(700.0, 3.0, 100.0, 0.3)
    one, two = order("limit", "sell", 3.0, "one", limit=100.0), order("limit", "sell", 3.0, "two", limit=100.0)
    three = order("limit", "sell", 3.0, "three", limit=100.0)
    assert check(state, one, rules, holding, [], True)[0] is one
    assert check(state, two, rules, holding, [one], True)[0] is two  # -30 % is what may be short
    assert check(state, three, rules, holding, [one, two], True)[1][0][0] == "max_position"
    paused, leaving = state._replace(cooling_until=5), Order(0, 0.0, "target-0")
    assert check(paused, one, rules, holding, [leaving], True)[1][0][0] == "cooldown"
    stop = order("stop", "sell", 5.0, "s", stop=90.0, parent="target-1")
    entering = Order(0, 0.8, "target-1")
    assert check(paused, stop, rules, holding, [entering], True)[0] is stop


def test_a_sale_short_by_hand_is_an_entry_and_a_purchase_that_only_closes_is_none():
    halted, rules = RiskState.start(1_000.0)._replace(halted=1), RiskRules()
    short = Holding(2_000.0, -10.0, 100.0, -1.0)
    assert check(halted, order("market", "sell", 1.0), rules, short, short=True)[1][0][0] == "max_drawdown"
    assert check(halted, order("market", "buy", 10.0), rules, short, short=True)[0] is not None
    assert check(halted, order("market", "buy", 11.0), rules, short, short=True)[0] is None
