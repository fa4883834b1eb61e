"""The paper broker on a durable ledger: it goes on where it stood, to the last digit, and lets one process trade."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import btclab as bl
from btclab.errors import InputError
from btclab.records import Bar, Costs, Market, Order
from btclab.trading.broker import PaperBroker, bars_of
from btclab.trading.ledger import LedgerBusy, WrongLedger

URL = "sqlite:///data/ledger.db"
COSTS = Costs(10, 5)


@pytest.fixture(scope="module")
def market(candles):
    return candles.iloc[:300]


@pytest.fixture(scope="module")
def exposure(market):
    steps = np.random.default_rng(3).choice([0.0, 0.5, 1.0, np.nan], size=len(market), p=[0.1, 0.1, 0.1, 0.7])
    return pd.Series(steps, market.index)


def in_pieces(market, exposure, cuts, url=URL):
    """Trade with a new broker, on the same ledger, for each piece."""
    fills, equity = [], []
    for one, other in zip([0, *cuts], [*cuts, len(market)], strict=True):
        broker = PaperBroker.open(url, 10_000, COSTS)
        for bar, target in zip(list(bars_of(market))[one:other], exposure.iloc[one:other], strict=True):
            fills += broker.process(bar, None if np.isnan(target) else target)
            equity.append(broker.equity)
        broker.ledger.close()
    return fills, equity


@pytest.mark.parametrize("cuts", [[], [1], [150], [40, 41, 200, 299]])
def test_restarts_leave_the_backtest_as_it_is_to_the_last_digit(market, exposure, cuts, home):
    fills, equity = in_pieces(market, exposure, cuts)
    result = bl.backtest(market, exposure.to_frame("exposure"), COSTS, 10_000)
    assert equity == result.equity.tolist()
    assert [(f.timestamp, f.side, f.quantity, f.price, f.fee) for f in fills] == list(
        zip(
            result.fills.index.as_unit("ns").asi8,
            *(result.fills[name] for name in ("side", "quantity", "price", "fee")),
            strict=True,
        )
    )


def test_what_is_kept_is_what_happened(market, exposure, home):
    fills, equity = in_pieces(market, exposure, [100])
    broker = PaperBroker.open(URL)
    table = broker.ledger.fill_table()
    assert table["quantity"].tolist() == [fill.quantity for fill in fills]
    assert broker.ledger.equity_curve()["equity"].tolist() == pytest.approx(equity, abs=0.01)
    assert float(broker.ledger.cash) == pytest.approx(broker.account.cash, abs=1e-6)
    assert broker.initial_cash == 10_000
    broker.ledger.check()
    broker.ledger.close()


def test_bars_that_were_processed_before_the_restart_do_nothing(market, exposure, home):
    in_pieces(market.iloc[:200], exposure.iloc[:200], [])
    broker = PaperBroker.open(URL)
    before = broker.summary()
    assert broker.run(market.iloc[:200], exposure.iloc[:200]) == []
    assert broker.summary() == before
    broker.ledger.close()


def test_open_orders_survive(market, home):
    bars = list(bars_of(market))
    broker = PaperBroker.open(URL, 10_000, COSTS)
    low = min(bar.low for bar in bars)
    deep = Order(bars[0].timestamp, id="deep", kind="limit", side="buy", quantity=0.01, limit=low)
    broker.process(bars[0], None, lambda it: it.submit(deep))
    broker.ledger.close()
    again = PaperBroker.open(URL)
    assert [order.id for order in again.open_orders] == ["deep"]
    fills = [fill for bar in bars[1:] for fill in again.process(bar)]
    assert [(fill.order, fill.price, fill.maker) for fill in fills] == [("deep", low, True)]
    again.ledger.close()


def test_an_id_is_used_once_across_restarts(market, home):
    bars = list(bars_of(market))
    order = Order(bars[0].timestamp, id="mine", kind="market", side="buy", quantity=0.01)
    broker = PaperBroker.open(URL, 10_000, COSTS)
    broker.process(bars[0], None, lambda it: it.submit(order))
    broker.process(bars[1])
    broker.ledger.close()
    again = PaperBroker.open(URL)
    assert again.submit(order).rule == "duplicate_id"
    again.process(bars[2])
    assert again.ledger.event_table()["rule"].tolist().count("duplicate_id") == 1
    again.ledger.close()


def test_what_is_refused_is_recorded_with_the_numbers_and_changes_nothing_else(market, home):
    bars = list(bars_of(market))
    broker = PaperBroker.open(URL, 100, COSTS, Market(quantity_step=0.001, min_value=10))
    broker.process(bars[0])
    before = broker.summary()
    time = bars[0].timestamp
    rules = [
        broker.submit(Order(time, id="dear", kind="market", side="buy", quantity=50.0)).rule,
        broker.submit(Order(time, id="tiny", kind="market", side="buy", quantity=1e-6)).rule,
        broker.submit(Order(time, id="free", kind="limit", side="buy", quantity=0.01, limit=0.0)).rule,
        broker.cancel("nobody")[0].rule,
    ]
    assert all(rules)
    assert broker.summary() == before
    broker.process(bars[1])
    events = broker.ledger.event_table()
    assert events[events["event"] == "refused"]["rule"].tolist() == rules
    assert events["text"].str.len().min() > 20
    broker.ledger.close()


def test_two_traders_on_one_ledger_are_one_too_many(home):
    broker = PaperBroker.open(URL)
    with pytest.raises(LedgerBusy, match=r"writes|process"):
        PaperBroker.open(URL)
    broker.ledger.close()
    PaperBroker.open(URL).ledger.close()


def test_a_ledger_of_another_market_is_refused(home):
    PaperBroker.open(URL, market=Market("BTC/USDT")).ledger.close()
    with pytest.raises(WrongLedger, match="ETH/USDT"):
        PaperBroker.open(URL, market=Market("ETH/USDT"))
    PaperBroker.open(URL).ledger.close()  # and the refusal left no lock


@pytest.mark.parametrize("name", ["target-1", "close-2"])
def test_the_ids_of_the_brokers_own_orders_are_not_for_others(market, home, name):
    bars = list(bars_of(market))
    broker = PaperBroker.open(URL, 10_000, COSTS)
    broker.process(bars[0])
    order = Order(bars[0].timestamp, id=name, kind="market", side="buy", quantity=0.01)
    assert broker.submit(order).rule == "reserved_id"
    assert broker.open_orders == ()
    broker.ledger.close()


@pytest.mark.parametrize("name", ["target-7-stop", "close-1", " ", "a b", "é", "x" * 61, "a\udcff", "-1"])
def test_a_request_may_not_have_an_id_that_no_order_may_have(home, name):
    broker = PaperBroker.open(URL)
    with pytest.raises(InputError, match="cannot be used: write letters, digits"):
        broker.ledger.request("order", {"kind": "market"}, name)
    broker.ledger.close()


def test_a_request_may_not_have_the_id_of_an_order_that_is_there(market, home):
    bars = list(bars_of(market))
    broker = PaperBroker.open(URL)
    order = Order(bars[0].timestamp, id="mine", kind="market", side="buy", quantity=0.01)
    broker.process(bars[0], None, lambda it: it.submit(order))
    with pytest.raises(InputError, match="There is an order 'mine' already"):
        broker.ledger.request("order", {"kind": "market"}, "mine")
    broker.ledger.close()


@pytest.mark.parametrize(
    "body",
    [{"limit": 10**400}, {"limit": float("nan")}, {"quantity": float("inf")}, {"reason": "\ud800"}, {"expires": 2**70}],
)
def test_a_request_that_no_trader_could_read_is_refused_when_it_is_made(home, body):
    broker = PaperBroker.open(URL)
    with pytest.raises(InputError, match="request cannot be kept"):
        broker.ledger.request("order", body, "bad")
    assert broker.ledger.pending() == []
    broker.ledger.close()


def test_a_ledger_under_two_names_is_one(home, tmp_path):
    broker = PaperBroker.open(URL)
    (tmp_path / "other").symlink_to(tmp_path / "data")
    with pytest.raises(LedgerBusy):
        PaperBroker.open("sqlite:///other/ledger.db")
    broker.ledger.close()


def test_a_bar_without_a_volume_has_not_traded():
    for volume in (float("nan"), -1.0):
        with pytest.raises(InputError, match="a volume ≥ 0"):
            Bar(0, 1, 1, 1, 1, volume)


def test_a_second_close_is_refused_and_not_called_done(market, home):
    bars = list(bars_of(market))
    broker = PaperBroker.open(URL, 10_000, COSTS)
    broker.process(bars[0], 1.0)
    broker.process(
        bars[1], None, lambda it: (it.close(), it.cancel(f"close-{bars[1].timestamp}"), it.close(order_id="again"))
    )
    assert [order.id for order in broker.open_orders] == ["again"]
    broker.process(bars[2])
    assert broker.account.position == 0
    broker.ledger.close()


def test_rounding_of_the_engine_does_not_show_in_the_portfolio(market, exposure, home):
    """Cash that was spent whole is 0, not −8e-11, and what is then held is all of the account."""
    in_pieces(market, pd.Series(1.0, market.index), [])
    broker = PaperBroker.open(URL)
    shown = broker.ledger.portfolio()
    assert (shown["cash"], shown["exposure"]) == (0.0, 1.0)
    assert str(broker.ledger.portfolio(1e9)["drawdown"]) == "0.0"
    broker.ledger.close()
