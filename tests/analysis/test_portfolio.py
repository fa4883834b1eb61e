"""An account's statement: its parts are the whole, and what the ledger itself says, to the cent."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest

import btclab as bl
from btclab.analysis.portfolio import (
    INTEREST,
    OPEN,
    account_statement,
    open_lots,
    profit_by,
)
from btclab.errors import InputError, TooFewBars
from btclab.market.candles import resample
from btclab.records import Bar, Costs, Fill, Margin, Movement
from btclab.trading.broker import PaperBroker
from btclab.trading.ledger import Entry, Ledger

COSTS = Costs(10, 5)
LONG, LONG_BY_ORDER = "long, without scores", "long, by an order of its own"


def ns(day):
    return pd.Timestamp(day, tz="UTC").value


def entry(day, close, fills=(), movements=(), scores=None, **said):
    """A day that closes at `close`; a fill is (side, quantity, price, fee, reason), decided the day before."""
    before = ns(day) - pd.Timedelta(days=1).value
    made = [
        Fill(ns(day), side, quantity, price, fee, before, np.nan, "", reason)
        for side, quantity, price, fee, reason in fills
    ]
    reasons = {"text": "so it said", **({"scores": scores} if scores else {}), **said}
    signal = {"side": "hold", "exposure": None, "confidence": None, "reasons": reasons}
    return Entry(Bar(ns(day), close, close, close, close), made, signal=signal, movements=movements)


BY_HAND = [
    entry("2021-01-30", 100.0, scores={"technical": 0.3, "sentiment": 0.1, "macro": -0.2}),
    entry("2021-01-31", 110.0, [("buy", 5.0, 100.0, 1.0, "target")]),
    entry("2021-02-01", 120.0, movements=[Movement("deposit", 200.0)]),
    entry("2021-02-02", 90.0, [("sell", 2.0, 95.0, 0.5, "stop")], [Movement("interest", -1.0)]),
]


@pytest.fixture
def kept(home):
    """Makes a ledger of entries, opened for reading."""
    opened = []

    def make(entries, timeframe="1d", cash=1_000.0):
        url = f"sqlite:///data/{len(opened)}.db"
        with Ledger.open(url, timeframe=timeframe, initial_cash=cash) as ledger:
            ledger.append_many(entries)
        opened.append(Ledger.open(url, mode="read"))
        return opened[-1]

    yield make
    for one in opened:
        one.close()


@pytest.fixture(scope="module")
def market(candles):
    return resample(candles, "4h")


def exposure_of(market, seed):
    steps = np.random.default_rng(seed).choice([0.0, 0.5, 1.0, np.nan], size=len(market), p=[0.05, 0.05, 0.05, 0.85])
    return pd.Series(steps, market.index)


def in_memory(market, seed=3):
    broker = PaperBroker(10_000.0, COSTS)
    broker.run(market, exposure_of(market, seed))
    return broker


# The known answer


def test_profit_is_after_fees_and_consists_of_closed_lots_open_ones_and_interest(kept):
    said = account_statement(kept(BY_HAND))
    expected = {
        "opening": 1000.0,
        "deposits": 200.0,
        "profit": -42.5,  # 49 on the last of January, then 50 and −141.5
        "closing": 1157.5,
        "closed": 2 * (95 - 100) - 1.0 * 2 / 5 - 0.5,
        "open": 3 * (90 - 100) - 1.0 * 3 / 5,
        "interest": -1.0,
        "fees": 1.5,
    }
    assert said.totals == pytest.approx(expected, abs=1e-9)
    assert said.curve["profit"].tolist() == pytest.approx([0.0, 49.0, 50.0, -141.5])


def test_a_deposit_is_no_profit_and_no_return(kept):
    said = account_statement(kept(BY_HAND))
    growth = 1.049 * (1299 / 1249)
    assert said.curve["growth"].tolist() == pytest.approx([1, 1.049, growth, growth * 1157.5 / 1299])
    assert said.curve["drawdown"].tolist() == pytest.approx([0, 0, 0, 100 * (1157.5 / 1299 - 1)])
    assert said.figures["max_drawdown"] == pytest.approx(said.curve["drawdown"].min())


def test_months_and_years_are_those_of_utc_and_add_up(kept):
    said = account_statement(kept(BY_HAND))
    months = said.by("month")
    assert [str(name) for name in months.index] == ["2021-01", "2021-02"]
    assert months["profit"].tolist() == pytest.approx([49.0, -91.5])
    assert months["fees"].tolist() == pytest.approx([1.0, 0.5])
    assert months["trades"].tolist() == [0, 1]
    assert months["deposits"].tolist() == pytest.approx([0.0, 200.0])
    assert months["return_pct"].iloc[0] == pytest.approx(4.9)
    assert said.by("year")["profit"].tolist() == pytest.approx([-42.5])
    assert (1 + months["return_pct"] / 100).prod() == pytest.approx(said.curve["growth"].iloc[-1])


def test_an_open_lot_has_an_age_a_cost_and_what_it_has_not_earned_yet(kept):
    (lot,) = account_statement(kept(BY_HAND)).lots.to_dict("records")
    assert lot["entry"] == pd.Timestamp("2021-01-31", tz="UTC")
    assert lot["age_days"] == 3.0  # from the open of the bar that filled to the close of the last
    values = (lot["quantity"], lot["price"], lot["cost"], lot["value"], lot["unrealised"], lot["fees"])
    assert values == pytest.approx((3.0, 100.0, 300.0, 270.0, -30.0, 0.6))


def test_the_categories_that_spoke_for_a_purchase_share_what_became_of_it(kept):
    rows = account_statement(kept(BY_HAND)).by_category()
    assert rows["pnl"].to_dict() == pytest.approx(
        {"technical": -10.9 * 0.75, "sentiment": -10.9 * 0.25, OPEN: -30.6, INTEREST: -1.0}
    )
    assert "macro" not in rows.index  # it spoke against


def test_what_was_bought_without_scores_stands_under_its_side(kept):
    trades = [("buy", 1.0, 100.0, 0.0, "target"), ("sell", 1.0, 110.0, 0.0, "target")]
    alone = [("buy", 1.0, 100.0, 0.0, "limit"), ("sell", 1.0, 90.0, 0.0, "market")]
    said = account_statement(kept([entry("2021-01-01", 100.0), *(
        entry(day, 100.0, fills) for day, fills in (("2021-01-02", trades), ("2021-01-03", alone))
    )]))  # fmt: skip
    assert said.by_category()["pnl"].to_dict() == pytest.approx({LONG: 10.0, LONG_BY_ORDER: -10.0})
    assert said.by_exit()["pnl"].to_dict() == pytest.approx({"target": 10.0, "market": -10.0})
    assert said.by_exit()["wins"].tolist() == [1, 0]


def test_an_order_by_hand_earns_nothing_for_the_scores_of_that_bar(kept):
    hand = [("buy", 1.0, 100.0, 0.0, "market"), ("sell", 1.0, 110.0, 0.0, "market")]
    said = account_statement(
        kept([entry("2021-01-01", 100.0, scores={"technical": 1.0}), entry("2021-01-02", 1, hand)])
    )
    assert said.by_category()["pnl"].to_dict() == {LONG_BY_ORDER: 10.0}


def test_what_was_closed_by_hand_is_no_signal(market):
    broker = PaperBroker(10_000.0, COSTS)
    broker.run(market.iloc[:10], pd.Series(1.0, market.index[:10]))
    broker.close()
    broker.run(market.iloc[10:20], pd.Series(np.nan, market.index[10:20]))
    said = account_statement(broker.ledger, candles=market.iloc[:20])
    assert said.by_exit().index.tolist() == ["by hand"]
    assert said.by_category().index.tolist() == [LONG]


# What is sold short

SHORT = [
    entry("2021-01-30", 100.0, scores={"technical": -0.3, "sentiment": -0.1, "macro": 0.2}),
    entry("2021-01-31", 90.0, [("sell", 5.0, 100.0, 1.0, "target")]),
    entry("2021-02-01", 95.0, movements=[Movement("interest", -0.1)]),
    entry("2021-02-02", 110.0, [("buy", 2.0, 105.0, 0.5, "stop")], [Movement("interest", -0.2)]),
]


def test_a_short_lot_earns_what_the_price_falls_by_and_pays_interest(kept):
    said = account_statement(kept(SHORT))
    expected = {
        "closed": 2 * (100 - 105) - 1.0 * 2 / 5 - 0.5,
        "open": 3 * (100 - 110) - 1.0 * 3 / 5,
        "interest": -0.3,
        "profit": -10.9 - 30.6 - 0.3,
        "closing": 1000 - 41.8,
    }
    assert {name: said.totals[name] for name in expected} == pytest.approx(expected)
    assert said.metrics["interest"] == pytest.approx(0.3)
    assert said.curve["exposure"].lt(0).tolist() == [False, True, True, True]
    (trade,) = said.trades.to_dict("records")
    assert (trade["side"], trade["quantity"], trade["reason"]) == ("short", 2.0, "stop")


def test_an_open_short_lot_is_owed(kept):
    (lot,) = account_statement(kept(SHORT)).lots.to_dict("records")
    values = (lot["quantity"], lot["price"], lot["cost"], lot["value"], lot["unrealised"], lot["fees"])
    assert values == pytest.approx((-3.0, 100.0, -300.0, -330.0, -30.0, 0.6))
    assert lot["side"] == "short"


def test_profit_by_side_is_that_of_the_whole(kept):
    turned = [*SHORT, entry("2021-02-03", 110.0, [("buy", 5.0, 110.0, 0.0, "market")])]
    turned += [entry("2021-02-04", 120.0, [("sell", 2.0, 120.0, 0.0, "market")])]
    said = account_statement(kept(turned))
    assert said.by_side()["pnl"].to_dict() == pytest.approx({"long": 20.0, "short": -41.5, INTEREST: -0.3})
    assert said.by_side()["trades"].tolist() == [1, 2, 0]


def test_the_categories_that_spoke_for_a_short_sale_share_what_became_of_it(kept):
    rows = account_statement(kept(SHORT)).by_category()["pnl"]
    expected = {"technical": -10.9 * 0.75, "sentiment": -10.9 * 0.25, OPEN: -30.6, INTEREST: -0.3}
    assert rows.to_dict() == pytest.approx(expected)


def test_the_parts_of_a_short_account_are_its_whole(kept):
    ledger = kept(SHORT)
    parts = [account_statement(ledger, *span).totals for span in ((None, "2021-02-01"), ("2021-02-01", None))]
    whole = account_statement(ledger).totals
    for name in ("profit", "closed", "open", "interest", "fees"):
        assert sum(one[name] for one in parts) == pytest.approx(whole[name]), name


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_an_account_that_sells_short_has_the_same_statement_in_memory_on_disk_and_in_the_backtest(market, home, seed):
    steps = np.random.default_rng(seed).choice([-1.0, -0.5, 0.0, 1.0, np.nan], size=len(market), p=[0.02] * 4 + [0.92])
    wish, margin = pd.Series(steps, market.index), Margin()
    memory = PaperBroker(10_000.0, COSTS, margin=margin)
    memory.run(market, wish)
    disk = PaperBroker.open("sqlite:///data/ledger.db", 10_000, COSTS, timeframe="4h", margin=margin)
    disk.run(market, wish)
    result = bl.backtest(market, wish.to_frame("exposure"), COSTS, 10_000, margin=margin)
    kept = account_statement(disk.ledger, attrs=market.attrs)
    disk.ledger.close()
    for said in (account_statement(memory.ledger, candles=market), kept):
        assert said.metrics == pytest.approx(result.metrics, rel=1e-6)
        assert said.equity.to_numpy() == pytest.approx(result.equity.to_numpy(), abs=1e-6)
        assert said.totals["interest"] == pytest.approx(-result.metrics["interest"]) != 0.0
        assert set(said.trades["side"]) == {"long", "short"}


# A part of the time


def test_a_statement_from_a_day_on_opens_with_what_the_account_was_worth_then(kept):
    said = account_statement(kept(BY_HAND), start="2021-02-01")
    totals = {"opening": 1049.0, "deposits": 200.0, "profit": -91.5, "closed": -10.9, "open": -30.6 - 49.0}
    assert {name: said.totals[name] for name in totals} == pytest.approx(totals)
    assert len(said.fills) == 1
    assert said.curve["growth"].iloc[0] == pytest.approx(1299 / 1249)


def test_later_bars_change_nothing_in_a_statement_that_ends_before_them(kept):
    whole, cut = kept(BY_HAND), kept(BY_HAND[:3])
    early, other = account_statement(whole, end="2021-02-02"), account_statement(cut)
    assert early.totals == other.totals
    assert early.metrics == other.metrics
    pd.testing.assert_frame_equal(early.curve, other.curve)
    pd.testing.assert_frame_equal(early.lots, other.lots)


def test_the_profits_of_two_parts_are_that_of_the_whole(kept):
    ledger = kept(BY_HAND)
    parts = [account_statement(ledger, *span).totals["profit"] for span in ((None, "2021-02-01"), ("2021-02-01", None))]
    assert sum(parts) == pytest.approx(-42.5)


# Against the ledger, the backtest and the account in memory


def test_it_says_what_the_ledger_says_and_what_the_backtest_measures(market, home):
    exposure = exposure_of(market, 3)
    broker = PaperBroker.open("sqlite:///data/ledger.db", 10_000, COSTS)
    broker.run(market.iloc[:200], exposure.iloc[:200])
    said = account_statement(broker.ledger, attrs=market.attrs)
    known = broker.ledger.portfolio()
    for name in ("win_rate", "profit_factor", "total_return", "max_drawdown", "trades", "fills"):
        assert said.figures[name] == pytest.approx(known[name]), name
    assert said.totals["profit"] == pytest.approx(known["profit"])
    assert said.costs == COSTS
    result = bl.backtest(market.iloc[:200], exposure.iloc[:200].to_frame("exposure"), COSTS, 10_000)
    assert said.metrics == pytest.approx(result.metrics, rel=1e-9)
    broker.ledger.close()


@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_an_account_in_memory_has_the_same_statement_as_its_backtest(market, seed):
    said = account_statement(in_memory(market, seed).ledger, candles=market)
    result = bl.backtest(market, exposure_of(market, seed).to_frame("exposure"), COSTS, 10_000)
    assert said.metrics == pytest.approx(result.metrics, rel=1e-6)
    assert said.equity.to_numpy() == pytest.approx(result.equity.to_numpy(), abs=1e-6)
    for period in ("day", "month", "year"):
        assert said.by(period)["profit"].sum() == pytest.approx(result.equity.iloc[-1] - 10_000, abs=0.005)
    assert said.attrs["simulated"]


def test_holding_is_buy_and_hold_at_the_costs_of_the_account(market):
    said = account_statement(in_memory(market).ledger, candles=market, costs=COSTS)
    held = bl.buy_and_hold(market, COSTS, 10_000)
    assert said.held().metrics["total_return"] == pytest.approx(held.metrics["total_return"], abs=0.2)
    assert len(said.held().fills) == 1
    assert said.held().fills["fee"].sum() == pytest.approx(held.fills["fee"].sum(), rel=0.01)


def test_trials_deflate_the_sharpe_ratio(kept):
    ledger = kept(BY_HAND)
    one, many = account_statement(ledger), account_statement(ledger, trials=50)
    assert many.figures["deflated_sharpe"] < one.figures["deflated_sharpe"]


@pytest.mark.parametrize("seed", range(6))
def test_the_parts_of_any_account_are_its_whole_however_it_is_cut(kept, seed):
    random, held, entries = np.random.default_rng(seed), 0.0, []
    for day in pd.date_range("2020-12-20", periods=60):
        price, fills, moves = round(100 * float(np.exp(random.normal(0, 0.1))), 2), [], []
        if random.random() < 0.4:
            side = "sell" if held and random.random() < 0.5 else "buy"
            quantity = (
                held if side == "sell" and random.random() < 0.5 else round((held or 2) * random.uniform(0.2, 0.9), 3)
            )
            held = round(held - quantity if side == "sell" else held + quantity, 3)
            fills = [(side, quantity, price, 0.1, str(random.choice(["target", "stop", "limit"])))]
        if random.random() < 0.2:
            moves = [Movement("deposit", 50.0), Movement("withdrawal", -20.0), Movement("interest", -0.3)]
        scores = {"technical": float(random.normal()), "macro": float(random.normal())}
        entries.append(entry(day, price, fills, moves[: random.integers(4)], scores))
    ledger = kept(entries, cash=100_000.0)
    whole, known = account_statement(ledger), ledger.portfolio()
    cuts = [None, *sorted(random.choice(whole.curve.index[3:-3:3], 2, replace=False)), None]
    parts = [account_statement(ledger, *span) for span in itertools.pairwise(cuts)]
    for name in ("profit", "deposits", "closed", "open", "interest", "fees"):
        assert sum(one.totals[name] for one in parts) == pytest.approx(whole.totals[name], abs=0.005), name
    assert whole.totals["profit"] == pytest.approx(known["profit"], abs=0.005)
    assert np.prod([one.curve["growth"].iloc[-1] for one in parts]) == pytest.approx(1 + known["total_return"] / 100)
    assert profit_by(ledger, "month", 99).sum() == pytest.approx(known["profit"], abs=0.005)


# What a dashboard asks


def test_the_quick_answers_are_those_of_the_statement(kept, market):
    for ledger in (kept(BY_HAND), kept(BY_HAND[:1])):
        months = profit_by(ledger, "month", 12)
        assert months.tolist() == pytest.approx([49.0, -91.5] if len(months) == 2 else [0.0])
        if ledger.portfolio()["bars"] == 4:
            said = account_statement(ledger)
            pd.testing.assert_frame_equal(open_lots(ledger), said.lots, check_dtype=False)
            assert months.index.tolist() == said.by("month").index.tolist()
            assert profit_by(ledger, "day", 2).tolist() == pytest.approx(said.by("day")["profit"].tolist()[-2:])


def test_open_lots_are_worth_what_is_asked_for(kept):
    assert open_lots(kept(BY_HAND), 200.0)["unrealised"].sum() == pytest.approx(300.0)
    assert open_lots(kept(BY_HAND[:1])).empty


def test_an_account_without_bars_has_earned_nothing(kept):
    assert profit_by(kept([])).empty
    assert open_lots(kept([])).empty


# Whose candles they are


def state(**said):
    return {"trader": said}


def test_the_market_of_a_ledger_is_called_simulated_where_the_trader_kept_it(kept):
    entries = [Entry(one.bar, state=state(source="simulated:5", simulated=True)) for one in BY_HAND]
    attrs = account_statement(kept(entries)).attrs
    assert (attrs["source"], attrs["simulated"], attrs["timeframe"]) == ("simulated:5", True, "1d")
    assert "simulated" not in account_statement(kept(BY_HAND)).attrs


def test_metrics_say_so_when_a_signal_was_in_sample(kept):
    entries = [*BY_HAND[:3], entry("2021-02-02", 90.0, in_sample=True)]
    said = account_statement(kept(entries))
    assert said.in_sample
    assert "in_sample_sharpe" in said.metrics
    assert "sharpe" in said.figures
    assert not account_statement(kept(entries), end="2021-02-02").in_sample


# Wrong input


def test_fewer_than_two_bars_are_no_statement(kept):
    with pytest.raises(TooFewBars, match=r"processed 1 bar\(s\); a statement needs 2"):
        account_statement(kept(BY_HAND[:1]))
    with pytest.raises(TooFewBars, match="from 2022 until now"):
        account_statement(kept(BY_HAND), start="2022")


def test_an_unknown_period_names_those_there_are(kept):
    with pytest.raises(InputError, match="day, month, year"):
        account_statement(kept(BY_HAND)).by("week")
    with pytest.raises(InputError, match="day, month, year"):
        profit_by(kept(BY_HAND), "week")


def test_an_account_in_memory_needs_the_candles_it_traded(market):
    ledger = in_memory(market).ledger
    with pytest.raises(InputError, match="candles=…"):
        account_statement(ledger)
    with pytest.raises(InputError, match="no bar of these candles"):
        account_statement(ledger, candles=market.iloc[::2].set_index(market.index[: len(market.iloc[::2])]))
