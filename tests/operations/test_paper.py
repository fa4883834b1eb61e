"""The paper trader: what the backtest does, on disk before the next bar, whatever the feed, the process or the disk does."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
import pytest

import btclab as bl
from btclab.context.fetch import Outcome as Fetched
from btclab.context.series import SERIES
from btclab.context.store import save_values
from btclab.errors import DataUnavailable, InputError, LedgerError, StorageError
from btclab.market.feed import BarClosed, Event, ReplayFeed, Status, bars_of
from btclab.operations import paper, session
from btclab.operations.channels import Outcome
from btclab.operations.decision import Decider
from btclab.operations.notify import Notifier
from btclab.operations.paper import Stop, follow
from btclab.operations.session import Choice, opened, running
from btclab.records import Costs, Market, Order
from btclab.settings import NotificationSettings
from btclab.trading.filters import Filters
from btclab.trading.ledger import Ledger, LedgerBusy, WrongLedger, database
from btclab.trading.risk import RiskRules
from btclab.trading.sizing import Sizing
from btclab.trading.strategies import Strategy, register_strategy, run_strategy, strategy
from tests.operations.paper_process import FIRST, trade, trader_on

pytestmark = pytest.mark.timeout(120)

URL = "sqlite:///data/ledger.db"
COSTS = Costs(10, 5)
NONE = RiskRules()
SWIFT = "swift"  # a strategy that trades often
KILLS = int(os.environ.get("BTCLAB_KILLS", "6"))


@pytest.fixture(autouse=True)
def swift(monkeypatch: pytest.MonkeyPatch) -> None:
    """A moving-average cross that trades every few hours."""
    from btclab.trading import strategies

    monkeypatch.setattr(strategies, "STRATEGIES", dict(strategies.STRATEGIES))
    register_strategy(SWIFT, lambda candles, features, forecasts: cross(candles))


def cross(candles: pd.DataFrame) -> pd.Series:
    close = candles["close"]
    return (close.rolling(3).mean() > close.rolling(8).mean()).astype(float)


@pytest.fixture(scope="module")
def market(candles: pd.DataFrame) -> pd.DataFrame:
    """440 simulated hours, of which the first 300 are history."""
    return candles.iloc[:440]


class Played:
    """A feed that gives these events, all at once or in pieces, and then ends or raises."""

    def __init__(self, events: Iterable[Event], error: Exception | None = None, size: int = 7) -> None:
        self.events, self.error, self.size = list(events), error, size

    async def take(self) -> list[Event]:
        await asyncio.sleep(0)
        taken, self.events = self.events[: self.size], self.events[self.size :]
        if not taken and self.error:
            raise self.error
        return taken

    def __aiter__(self) -> Any:
        raise NotImplementedError

    async def aclose(self) -> None:
        self.events = []


def bars(candles: pd.DataFrame) -> list[BarClosed]:
    return list(bars_of(candles, "replay"))  # type: ignore[arg-type]


def run(
    market: pd.DataFrame,
    chosen: Strategy | str = SWIFT,
    rules: RiskRules = NONE,
    cuts: Iterable[int] = (),
    **given: Any,
) -> None:
    """Trade all of `market` from FIRST on, with a new process after each of `cuts` bars."""
    for end in [*cuts, len(market)]:
        trader, rest = trader_on(market.iloc[:end], URL, rules, chosen, **given)
        try:
            follow(trader, lambda rest=rest: ReplayFeed(rest))
        finally:
            trader.tape.close()


def tables() -> tuple[pd.DataFrame, ...]:
    with Ledger.open(URL, mode="read") as ledger:
        ledger.check()
        return ledger.fill_table(), ledger.order_table(), ledger.event_table(), ledger.equity_curve()


def same_as(result: bl.Result) -> None:
    """The ledger holds the fills and the equity of the backtest, to the last digit."""
    fills, _, _, curve = tables()
    assert len(fills) == len(result.fills) > 0
    for name in ("side", "quantity", "price", "fee"):
        assert fills[name].tolist() == result.fills[name].tolist()
    assert fills.index.tolist() == result.fills.index.tolist()
    equity = engine_equity()
    assert equity == result.equity.tolist()
    assert curve["equity"].tolist() == pytest.approx(equity, abs=1e-6)  # its own: exact decimals


def engine_equity() -> list[float]:
    """The equity of the engine after each bar, from the states that were written."""
    import json

    with Ledger.open(URL, mode="read") as ledger, ledger._database.reading() as connection:
        rows = connection.exec_driver_sql("SELECT state FROM marks ORDER BY bar").all()
    states = [json.loads(text)["state"] for (text,) in rows]
    return [one["cash"] + one.get("position", 0.0) * one["bar"]["close"] for one in states]


# One engine


@pytest.mark.parametrize("name", [SWIFT, "buy_and_hold", "sma_cross", "rsi_reversion"])
@pytest.mark.parametrize("cuts", [[], [301, 302, 380]], ids=["at once", "with restarts"])
def test_a_recording_gives_the_backtest_to_the_last_digit(market, home, name, cuts):
    chosen = strategy(name, fast=5, slow=20) if name == "sma_cross" else strategy(name)
    run(market, chosen, cuts=cuts)
    signals = run_strategy(chosen, market).iloc[FIRST:]
    same_as(bl.backtest(market.iloc[FIRST:], signals, COSTS, 10_000))


def test_so_does_a_network(trained, trained_candles, home):
    market = trained_candles.iloc[: len(trained_candles)]
    first = len(market) - 80
    run(market, "forecast", checkpoint=trained, first=first, cuts=[first + 30])
    signals = run_strategy("forecast", market, None, bl.forecast(trained, market)).iloc[first:]
    same_as(bl.backtest(market.iloc[first:], signals, COSTS, 10_000))
    with Ledger.open(URL, mode="read") as ledger:
        kept = ledger.signals_table()
    assert kept["exposure"].tolist() == signals["exposure"].tolist()
    assert kept["confidence"].tolist() == pytest.approx(signals["confidence"].tolist(), rel=1e-6)
    assert kept["reasons"].iloc[-1]["text"] == signals["reasons"].iloc[-1]


@pytest.mark.parametrize(
    "rules",
    [
        RiskRules(stop_loss=0.01, take_profit=0.015),
        RiskRules(trailing_stop=0.01, reenter=True, cooldown_bars=2),
        RiskRules("atr", stop_loss=2, take_profit=3, max_position=0.6),
    ],
    ids=["stop and target", "trailing stop", "atr"],
)
def test_so_do_protective_orders(market, home, rules):
    run(market, SWIFT, rules, cuts=[350, 351])
    fills, orders, _, _ = tables()
    assert {"target", *fills["reason"]} > {"target"}
    targets = orders[orders["kind"] == "target"]
    exposure = pd.Series(targets["exposure"].to_numpy(), targets["decided"]).reindex(market.index[FIRST:])
    others = [ordered(row) for _, row in orders[orders["kind"] != "target"].iterrows()]
    same_as(bl.backtest(market.iloc[FIRST:], exposure.to_frame("exposure"), COSTS, 10_000, orders=others))


@pytest.mark.parametrize(
    "rules",
    [
        RiskRules(stop_loss=0.01, take_profit=0.015),
        RiskRules(trailing_stop=0.01, cooldown_bars=2, daily_loss=0.02),
        RiskRules(max_position=0.5, max_drawdown=0.04, min_trade=50.0),
    ],
    ids=["stop and target", "daily loss", "halt"],
)
def test_a_backtest_under_the_same_risk_rules_is_the_same(market, home, rules):
    run(market, SWIFT, rules, cuts=[340, 400])
    exposure = cross(market).iloc[FIRST:].to_frame("exposure")
    result = bl.backtest(market.iloc[FIRST:], exposure, COSTS, 10_000, risk=rules, progress=False)
    same_as(result)
    plain = bl.backtest(market.iloc[FIRST:], exposure, COSTS, 10_000)
    assert len(result.fills) != len(plain.fills) or result.equity.iloc[-1] != plain.equity.iloc[-1]
    refused = {event.rule for event in result.events if event.event == "refused"}
    assert refused == set(tables()[2]["rule"][tables()[2]["event"] == "refused"])


def test_so_do_orders_by_hand_of_every_kind(market, home):
    """Asked for at random, with a new process every few bars."""
    draw, cut = np.random.default_rng(3), 0
    trader, rest = trader_on(market, URL, NONE, SWIFT)
    for number, bar in enumerate(bars(rest)):
        if draw.random() < 0.5:
            trader.tape.ledger.request("order", drawn(draw, bar), f"hand-{number}")
        trader.on_bar(bar)
        if draw.random() < 0.1:
            trader.tape.close()
            trader, _ = trader_on(market, URL, NONE, SWIFT)
            cut += 1
    trader.tape.close()
    _, orders, events, _ = tables()
    others = [ordered(row) for _, row in orders[orders["kind"] != "target"].iterrows()]
    assert {order.kind for order in others} == {"market", *PRICED}
    assert {"refused", "triggered", "cancelled", "expired"} <= set(events["event"])
    assert cut > 5
    exposure = cross(market).iloc[FIRST:].to_frame("exposure")
    same_as(bl.backtest(market.iloc[FIRST:], exposure, COSTS, 10_000, orders=others))


# Kinds of orders, and where their price lies beside the close when they buy: below (−1) or above (1)
PRICED = {"limit": -1, "stop": 1, "take_profit": -1, "stop_limit": 1, "trailing_stop": 0}


def drawn(draw: np.random.Generator, bar: BarClosed) -> dict[str, Any]:
    """An order as `btclab paper order` would ask for it."""
    kind, side = str(draw.choice(["market", *PRICED])), str(draw.choice(["buy", "sell"]))
    away = bar.close * draw.uniform(0, 0.02) * PRICED.get(kind, 0) * (1 if side == "buy" else -1)
    body: dict[str, Any] = {"kind": kind, "side": side, "quantity": float(draw.uniform(0.001, 0.05))}
    if kind in ("limit", "stop_limit"):
        body["limit"] = bar.close + away
    if kind in ("stop", "stop_limit", "take_profit"):
        body["stop"] = bar.close + away
    if kind == "trailing_stop":
        body["trail"] = float(draw.uniform(0.001, 0.02))
    if draw.random() < 0.3:
        body["group"] = f"group-{draw.integers(5)}"
    if draw.random() < 0.3:
        opened = bar.timestamp.as_unit("ns").value
        body |= {"lifetime": "gtd", "expires": opened + int(draw.integers(2, 9)) * 3_600_000_000_000}
    elif draw.random() < 0.2:
        body["lifetime"] = "ioc"
    return body


def ordered(row: pd.Series) -> Order:
    names = ("id", "kind", "side", "quantity", "limit", "stop", "trail", "lifetime", "group", "parent", "reason")
    expires = 0 if pd.isna(row["expires"]) else row["expires"].as_unit("ns").value
    return Order(row["decided"].as_unit("ns").value, expires=expires, **{name: row[name] for name in names})


def test_risk_rules_refuse_and_the_refusal_is_kept_once(market, home):
    run(market, "buy_and_hold", RiskRules(max_position=0.5))
    fills, orders, events, _ = tables()
    refused = events[events["event"] == "refused"]
    assert refused["rule"].tolist() == ["max_position"]
    assert "50 %" in refused["text"].iloc[0]
    assert orders["exposure"].tolist() == [0.5]
    assert len(fills) == 1


def test_a_halt_outlives_the_process_and_ends_when_asked(market, home):
    rules = RiskRules(max_drawdown=0.01)
    run(market, "buy_and_hold", rules, cuts=[360, 400])
    fills, _, events, _ = tables()
    assert fills["side"].tolist() == ["buy", "sell"]
    assert events["rule"].tolist().count("max_drawdown") == 1
    with Ledger.open(URL, mode="read") as ledger:
        ledger.request("resume", {}, "go-on")
    longer = pd.concat([market, extended(market, 20)])
    longer.attrs = market.attrs
    run(longer, "buy_and_hold", rules)
    assert tables()[0]["side"].tolist()[:3] == ["buy", "sell", "buy"]


def extended(market: pd.DataFrame, count: int) -> pd.DataFrame:
    """More bars at the last close, which do nothing."""
    index = pd.date_range(market.index[-1], periods=count + 1, freq="1h", name="timestamp")[1:].as_unit(
        market.index.unit
    )
    close = market["close"].iloc[-1]
    return pd.DataFrame({name: close for name in ("open", "high", "low", "close")} | {"volume": 1.0}, index)


# Killed


def test_a_trader_that_is_killed_at_any_moment_goes_on_as_if_it_had_not_been(candles, home):
    seed = int(os.environ.get("BTCLAB_KILL_SEED", "11"))
    draw = random.Random(seed)
    count = max(150, 6 * KILLS)
    trade(candles.iloc[: FIRST + count], "sqlite:///data/whole.db", seed)
    words = [sys.executable, "-m", "tests.operations.paper_process", URL, str(seed), str(count)]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin and process.stdout
    acknowledged = kills = 0
    try:
        while True:
            process.stdin.write("go\n")
            process.stdin.flush()
            child = int(process.stdout.readline().split()[1])
            after = draw.randrange(1 + 6 * count // (5 * KILLS + 5)) if kills < KILLS else -1  # bars
            early = kills < KILLS and draw.random() < 0.2  # it may be opening the ledger
            timer = threading.Timer(draw.random() * (0.3 if early else 0.02), os.kill, (child, signal.SIGKILL))
            if early:
                timer.start()
            for line in process.stdout:
                word, value = line.split()
                if word == "X":
                    break
                acknowledged = int(value)
                if after == 0 and not early:
                    timer.start()
                after -= 1
            if timer.ident is not None:
                timer.join()
            with Ledger.open(URL, mode="read") as ledger:
                ledger.check()
                bar, _ = ledger.state()
            assert bar is not None or not acknowledged
            assert (bar.timestamp if bar else 0) >= acknowledged
            if value == "0":
                break
            assert value == "-9"
            kills += 1
    finally:
        process.stdin.close()
        process.wait(10)
        process.stdout.close()
    assert kills == KILLS
    for other, own in zip(tables(), whole_tables(), strict=True):
        pd.testing.assert_frame_equal(other, own, check_exact=True)


def whole_tables() -> tuple[pd.DataFrame, ...]:
    with Ledger.open("sqlite:///data/whole.db", mode="read") as ledger:
        found = ledger.fill_table(), ledger.order_table(), ledger.event_table(), ledger.equity_curve()
        assert len(found[0]) > 30
        assert {"market", "target", "stop", "take_profit"} <= set(found[0]["reason"])
    return found


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_after_the_bar_in_hand(market, home, sign):
    trader, rest = trader_on(market, URL, NONE, SWIFT)

    def each(event: BarClosed, acted: bool) -> None:
        if event.timestamp == rest.index[20]:
            os.kill(os.getpid(), sign)

    assert follow(trader, lambda: ReplayFeed(rest), progress=each) == "interrupted"
    trader.tape.close()
    assert len(tables()[3]) == 21
    run(market)
    same_as(bl.backtest(market.iloc[FIRST:], cross(market).iloc[FIRST:].to_frame("exposure"), COSTS, 10_000))


def test_a_signal_ends_it_while_it_waits(market, home):
    class Silent(Played):
        async def take(self) -> list[Event]:
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.sleep(60)
            return []

    trader, _ = trader_on(market, URL, NONE, SWIFT)
    begun = time.monotonic()
    assert follow(trader, lambda: Silent([])) == "interrupted"
    assert time.monotonic() - begun < 5
    trader.tape.close()


def test_two_traders_on_one_ledger_are_one_too_many(market, home):
    trader, _ = trader_on(market, URL, NONE)
    with pytest.raises(LedgerBusy, match="process"):
        trader_on(market, URL, NONE)
    assert running(URL) == os.getpid()
    trader.tape.close()
    assert running(URL) is None


# What a feed may do


def test_bars_that_repeat_or_come_late_change_nothing(market, home, caplog):
    shuffled: list[BarClosed] = []
    draw = random.Random(5)
    for number, bar in enumerate(bars(market.iloc[FIRST:])):
        shuffled.append(bar)
        if draw.random() < 0.2:
            shuffled.append(bar)
        if number and draw.random() < 0.2:
            shuffled.append(bars(market.iloc[FIRST + number - 1 : FIRST + number])[0])
    trader, _ = trader_on(market, URL, NONE, SWIFT)
    follow(trader, lambda: Played(shuffled))
    trader.tape.close()
    assert trader.ignored["repeated"] > 10
    assert trader.ignored["late"] > 10
    same_as(bl.backtest(market.iloc[FIRST:], cross(market).iloc[FIRST:].to_frame("exposure"), COSTS, 10_000))
    assert "was ignored" in caplog.text


def test_bars_that_are_missing_are_counted_and_nothing_is_made_up(market, home):
    gaps = market.drop(market.index[[350, 351, 420]])
    gaps.attrs = dict(market.attrs)
    trader, rest = trader_on(gaps, URL, NONE, SWIFT)
    follow(trader, lambda: Played(bars(rest)))
    trader.tape.close()
    assert trader.ignored["missing"] == 3
    same_as(bl.backtest(gaps.iloc[FIRST:], cross(gaps).iloc[FIRST:].to_frame("exposure"), COSTS, 10_000))


def test_bars_that_cannot_be_are_told_and_left_out(market, home):
    good = bars(market.iloc[FIRST : FIRST + 30])
    one = good[10]
    wrong = [
        BarClosed(one.timestamp, one.open, one.low / 2, one.low, one.close, 1.0, "stream"),
        BarClosed(one.timestamp + pd.Timedelta("7min"), one.open, one.high, one.low, one.close, 1.0, "stream"),
        BarClosed(good[9].timestamp, *[2 * one.high] * 4, 1.0, "stream"),
    ]
    sent = Recorder()
    trader, _ = trader_on(market, URL, NONE, SWIFT, notifier=sent)
    follow(trader, lambda: Played([*good[:10], *wrong, *good[10:]]))
    trader.tape.close()
    assert dict(trader.ignored) == {"impossible": 1, "off the grid": 1, "changed": 1}
    assert sum(kind == "error" for kind, _ in sent.told) == 3
    assert len(tables()[3]) == 30


def test_a_late_bar_is_told_once_and_a_repeated_one_is_not(market, home):
    good = bars(market.iloc[FIRST : FIRST + 30])
    sent = Recorder()
    trader, _ = trader_on(market, URL, NONE, SWIFT, notifier=sent)
    follow(trader, lambda: Played([*good[:10], good[9], good[3], good[4], *good[10:]]))
    trader.tape.close()
    assert dict(trader.ignored) == {"repeated": 1, "late": 2}
    told = [figures["error"] for kind, figures in sent.told if kind == "error"]
    assert [text.partition(":00+")[0] for text in told] == [
        f"The bar {good[number].timestamp:%Y-%m-%d %H:%M}" for number in (3, 4)
    ]
    assert all("is late: it is not after the last bar" in text for text in told)
    assert {key for kind, key in sent.keys if kind == "error"} == {"a bar of simulated:7:late"}  # so a channel gets one


def test_a_live_feed_that_gives_up_is_made_anew_from_the_last_bar(market, home, monkeypatch, caplog):
    monkeypatch.setattr(paper, "FIRST_WAIT_S", 0.01)
    made = []
    trader, rest = trader_on(market, URL, NONE, SWIFT, live=True)

    def make() -> Played:
        last = trader.broker.last_bar
        after = rest if last is None else rest[rest.index > pd.Timestamp(last.timestamp, tz="UTC")]
        made.append(len(after))
        stale = Status("stale", "no answer", pd.Timestamp.now("UTC"), rest.index[0])
        gone = None if len(made) == 4 else DataUnavailable("binance: gone")
        return Played([*bars(after.iloc[:50]), stale], gone)

    assert follow(trader, make) == "the recording has ended"
    trader.tape.close()
    assert made == [140, 90, 40, 0]
    same_as(bl.backtest(market.iloc[FIRST:], cross(market).iloc[FIRST:].to_frame("exposure"), COSTS, 10_000))
    assert "asked again in" in caplog.text


# A strategy that fails, a disk that fails


def test_a_strategy_that_raises_keeps_the_target_and_trading_goes_on(market, home, caplog):
    bad = set(market.index[340:345])

    def moody(candles: pd.DataFrame, features: Any, forecasts: Any) -> pd.Series:
        if candles.index[-1] in bad:
            raise ZeroDivisionError("on a bad day")
        return cross(candles)

    register_strategy("moody", moody)
    sent = Recorder()
    with caplog.at_level(logging.ERROR):
        run(market, "moody", notifier=sent)
    exposure = cross(market).where(~market.index.isin(bad)).iloc[FIRST:]
    same_as(bl.backtest(market.iloc[FIRST:], exposure.to_frame("exposure"), COSTS, 10_000))
    with Ledger.open(URL, mode="read") as ledger:
        kept = ledger.signals_table()
    said = [one["text"] for one in kept["reasons"] if "error" in one]
    assert said == ["no decision: ZeroDivisionError: on a bad day"] * 5
    assert ("error", "strategy moody") in [(kind, told.get("where")) for kind, told in sent.told]
    assert "on a bad day" in caplog.text


def test_while_features_warm_up_there_is_no_opinion(market, home):
    register_strategy("reader", lambda candles, features, forecasts: cross(candles), needs=("features",))
    run(market.iloc[: FIRST + 5], "reader")
    with Ledger.open(URL, mode="read") as ledger:
        kept = ledger.signals_table()
    assert kept["exposure"].isna().all()
    assert all(one["text"].startswith("warming up") for one in kept["reasons"])


def test_features_are_those_of_the_whole_history_bar_by_bar(candles, home):
    """And the composite's reasons say how far each category pushed."""
    market = bl.load_candles("simulated:7", end="2021-05-25")
    first = len(market) - 15
    run(market, "composite", first=first, window=100, cuts=[first + 7])
    signals = run_strategy("composite", market, bl.build_features(market)).iloc[first:]
    with Ledger.open(URL, mode="read") as ledger:
        kept = ledger.signals_table()
    assert [one["text"] for one in kept["reasons"]] == signals["reasons"].tolist()
    assert kept["exposure"].tolist() == signals["exposure"].tolist()
    assert list(kept["reasons"].iloc[-1]["scores"]) == ["technical"]


def test_context_is_read_as_it_is_stored_and_fetched_by_a_thread_of_its_own(home, monkeypatch, caplog):
    market = bl.load_candles("simulated:7", end="2021-05-25")
    market.attrs |= {"simulated": False}
    mood = SERIES["fear_greed"]
    days = pd.date_range("2020-06-01", "2021-06-01", tz="UTC", name="timestamp")
    save_values(mood, next(iter(mood.sources)), pd.Series(10.0, days, name="fear_greed"))
    decider = Decider(strategy("composite"), market, filters=Filters(), sizing=Sizing(), window=50)
    assert "sentiment" in decider.decide()["reasons"]["scores"]
    assert "fear_greed" in decider.series
    asked, ended = [], threading.Event()

    def fetch(names: tuple[str, ...]) -> list[Fetched]:
        asked.append(names)
        ended.set()
        return [Fetched("fear_greed", "alternative.me", failed="nobody answers")]

    monkeypatch.setattr("btclab.context.fetch.fetch_context", fetch)
    session._keep_context(decider.series, ended)
    assert asked == [decider.series]
    assert "nobody answers" in caplog.text


def test_a_full_disk_stops_it_and_it_goes_on_when_there_is_room(market, home):
    trader, rest = trader_on(market, URL, NONE, SWIFT)
    half = iter(bars(rest))
    for _ in range(50):
        trader.on_bar(next(half))
    before = trader.broker.to_dict()
    writer = trader.tape.ledger._database._writer
    pages = writer.exec_driver_sql("PRAGMA page_count").scalar()
    writer.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
    writer.rollback()
    with pytest.raises(StorageError, match="disk is full"):
        for bar in half:
            before = trader.broker.to_dict()
            trader.on_bar(bar)
    assert trader.broker.to_dict() == before
    trader.tape.close()
    run(market)
    same_as(bl.backtest(market.iloc[FIRST:], cross(market).iloc[FIRST:].to_frame("exposure"), COSTS, 10_000))


def test_a_locked_database_stops_it_with_the_remedy(market, home, monkeypatch):
    monkeypatch.setattr(database, "BUSY_S", 0.05)
    trader, rest = trader_on(market, URL, NONE, SWIFT)
    other = sqlite3.connect(home / "data" / "ledger.db")
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StorageError, match="another program has locked it"):
        follow(trader, lambda: ReplayFeed(rest))
    other.close()
    trader.tape.close()
    run(market)
    assert len(tables()[3]) == len(market) - FIRST


# Requests


def test_an_order_by_hand_is_placed_once_and_fills_after_that(market, home):
    run(market.iloc[: FIRST + 10], "buy_and_hold", RiskRules(max_position=0.5))
    with Ledger.open(URL, mode="read") as ledger:
        ledger.request("order", {"kind": "market", "side": "sell", "quantity": 0.01}, "mine")
        with pytest.raises(LedgerError, match="used once"):
            ledger.request("order", {"kind": "market", "side": "sell", "quantity": 0.01}, "mine")
    run(market, "buy_and_hold", RiskRules(max_position=0.5), cuts=[FIRST + 11, FIRST + 12])
    fills, orders, events, _ = tables()
    mine = fills[fills["order"] == "mine"]
    assert mine.index.tolist() == [market.index[FIRST + 11]]  # decided at the close of the bar before
    assert orders["id"].tolist().count("mine") == 1
    assert events[events["order"] == "mine"]["event"].tolist() == ["accepted", "done"]


@pytest.mark.parametrize(
    ("kind", "body", "rule"),
    [
        ("order", {"kind": "market", "side": "buy", "quantity": 50.0}, "insufficient_funds"),
        ("order", {"kind": "limit", "side": "buy", "quantity": 0.01, "limit": -1.0}, "price"),
        ("order", {"kind": "market", "side": "sell", "quantity": 5.0}, "insufficient_position"),
        ("order", {"kind": "market", "side": "buy", "quantity": 1e-9}, "min_trade"),
        ("order", {"kind": "market", "side": "sideways", "quantity": 1.0}, "side"),
        ("order", {"kind": "market", "size": 1.0}, "request"),
        ("order", {"kind": "market", "side": "buy", "quantity": "many"}, "request"),
        ("order", {"kind": "market", "side": "buy", "quantity": 0.01, "exposure": None}, "request"),
        ("order", {"kind": "market", "side": "buy", "quantity": True}, "request"),
        ("order", {"kind": "market", "side": "buy", "quantity": 0.01, "reason": 5}, "request"),
        ("cancel", {"order": "nobody"}, "unknown_order"),
        ("cancel", {}, "request"),
        ("dance", {}, "request"),
    ],
)
def test_what_is_refused_is_recorded_with_its_rule_and_nothing_else(market, home, kind, body, rule):
    market = market.iloc[: FIRST + 4]
    trader, rest = trader_on(market, URL, RiskRules(min_trade=10), "buy_and_hold")
    feed = iter(bars(rest))
    trader.on_bar(next(feed))
    trader.tape.ledger.request(kind, body, "asked")
    for bar in feed:
        trader.on_bar(bar)
    assert trader.tape.ledger.pending() == []
    trader.tape.close()
    fills, orders, events, _ = tables()
    asked = events[events["order"] == "asked"]
    assert asked[["event", "rule"]].to_numpy().tolist() == [["refused", rule]]
    assert asked["text"].str.len().min() > 10
    assert len(fills) == len(orders) == 1


def test_orders_are_cancelled_and_all_is_closed_by_hand(market, home):
    trader, rest = trader_on(market, URL, NONE, "buy_and_hold")
    feed, ledger = iter(bars(rest)), trader.tape.ledger
    trader.on_bar(next(feed))
    trader.on_bar(next(feed))
    far = {"kind": "limit", "side": "sell", "quantity": 0.01, "limit": 10_000_000.0}
    ledger.request("order", far, "far")
    ledger.request("order", far, "farther")
    trader.on_bar(next(feed))
    assert [one.id for one in trader.broker.open_orders] == ["far", "farther"]
    ledger.request("cancel", {"order": "far"}, "stop-it")
    trader.on_bar(next(feed))
    assert [one.id for one in trader.broker.open_orders] == ["farther"]
    ledger.request("close", {}, "all-out")
    for _ in range(5):
        trader.on_bar(next(feed))
    assert trader.broker.open_orders == ()
    assert trader.broker.account.position == 0
    trader.tape.close()
    events = tables()[2]
    assert events[events["order"] == "stop-it"]["event"].tolist() == ["done"]
    assert events[events["order"] == "all-out"]["event"].tolist()[:1] == ["accepted"]  # the order that sold all


def test_live_an_order_counts_at_the_first_close_after_it_was_made(home, market):
    now = pd.Timestamp.now("UTC").floor("h")
    recent = market.set_axis(
        pd.date_range(end=now + pd.Timedelta("2h"), periods=len(market), freq="1h", name="timestamp")
    )
    recent.attrs = market.attrs
    trader, rest = trader_on(recent, URL, NONE, "buy_and_hold", first=len(recent) - 5, live=True)
    trader.tape.ledger.request("order", {"kind": "market", "side": "sell", "quantity": 0.001}, "now")
    for bar in bars(rest):
        trader.on_bar(bar)
    trader.tape.close()
    orders = tables()[1]
    decided = orders[orders["id"] == "now"]["decided"].iloc[0]
    assert decided == now  # the bar in which it was asked for, not one that had closed before


# Left together: an order and what is to protect it

ENTRY = {"kind": "market", "side": "buy", "quantity": 0.01}
EXIT = {"kind": "stop", "side": "sell", "parent": "mine"}


def test_what_was_left_before_the_tick_was_known_is_put_on_it(market, home):
    trader, rest = trader_on(market.iloc[: FIRST + 3], URL, NONE, SWIFT)
    tick = Market("BTC/USDT", price_tick=0.1)
    trader.broker.conditions = dataclasses.replace(trader.broker.conditions, market=tick)
    trader.tape.ledger.request_all([("order", ENTRY, "mine"), ("order", EXIT | {"stop": 10.04}, "mine-stop")])
    trader.tape.ledger.request("order", EXIT | {"stop": 10.04}, "later")  # by whoever knows the market
    trader.on_bar(bars(rest)[0])
    (stop,) = [one for one in trader.broker.open_orders if one.id == "mine-stop"]
    trader.tape.close()
    events = tables()[2]
    assert stop.stop == pytest.approx(10.0)
    assert events[events["order"] == "later"]["rule"].tolist() == ["price_tick"]


@pytest.mark.parametrize("latency", [0, 2])
@pytest.mark.parametrize("stop", [-1.0, "near"], ids=["refused", "not to be read"])
def test_nothing_is_bought_unprotected_that_was_to_be_protected(market, home, stop, latency):
    register_strategy("cash", lambda candles, features, forecasts: 0.0 * candles["close"])
    trader, rest = trader_on(market.iloc[: FIRST + 8], URL, NONE, "cash")
    trader.broker.conditions = dataclasses.replace(trader.broker.conditions, latency=latency)
    trader.tape.ledger.request_all(
        [
            ("order", ENTRY, "mine"),
            ("order", EXIT | {"stop": stop}, "mine-stop"),
            ("order", EXIT | {"kind": "take_profit", "stop": 1e6}, "mine-profit"),
        ]
    )
    trader.tape.ledger.request("order", ENTRY, "bare")
    trader.tape.ledger.request("order", EXIT | {"stop": stop, "parent": "bare"}, "too-late")
    follow(trader, lambda: ReplayFeed(rest))
    assert trader.broker.open_orders == ()
    trader.tape.close()
    fills, _, events, _ = tables()
    assert fills["order"].tolist() == ["bare"]  # left apart, it is an order of its own
    (said,) = events[events["rule"] == "unprotected"].to_dict("records")
    assert (said["order"], said["event"]) == ("mine", "refused")
    assert "'mine-stop', which was to protect it, was refused" in said["text"]
    assert set(events[events["order"] == "mine-stop"]["event"]) == {"refused"}


# Telling


class Recorder:
    """Notes what is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, dict[str, Any]]] = []
        self.keys: list[tuple[str, str]] = []

    def send(self, kind: str, key: str = "", **figures: Any) -> None:
        Notifier.render(kind, figures)  # every figure that its template needs is there
        self.told.append((kind, figures))
        self.keys.append((kind, key))


def test_what_happens_is_told_once_and_simulated_money_is_called_so(market, home):
    sent = Recorder()
    trader, rest = trader_on(market, URL, RiskRules(stop_loss=0.01), SWIFT, notifier=sent)
    trader.teller.start("swift", trader.broker, trader.guard.state.peak)
    stale = Status("stale", "no answer", rest.index[-1] + pd.Timedelta("3h"), rest.index[-1])
    follow(trader, lambda: Played([*bars(rest), stale]))
    trader.teller.stop("as asked", trader.broker)
    trader.teller.training_due("quantile-7", pd.Timedelta(days=100))
    trader.tape.close()
    kinds = {kind for kind, _ in sent.told}
    assert kinds >= {
        "start",
        "signal",
        "order",
        "fill",
        "triggered",
        "price_move",
        "feed_stale",
        "stop",
        "training_due",
    }
    counted = [one for one in sent.keys if one[0] in ("order", "fill", "signal", "triggered")]
    assert len(counted) == len(set(counted))
    assert sum(kind == "fill" for kind, _ in sent.told) == len(tables()[0])
    for kind, figures in sent.told:
        message = Notifier.render(kind, figures)
        assert "USDT" not in message.body or "simulated USDT" in message.title + message.body


class Stuck:
    """A channel that answers to nobody until it is let go."""

    name, secrets, most_characters = "stuck", (), 1_000

    def __init__(self) -> None:
        self.go = threading.Event()

    def deliver(self, message: Any) -> Outcome:
        self.go.wait(30)
        raise RuntimeError("and then it breaks")


def test_a_channel_that_hangs_or_breaks_holds_nothing_up(market, home):
    stuck = Stuck()
    notifier = Notifier([stuck], NotificationSettings(), home / "data" / "notifications")
    try:
        run(market, SWIFT, notifier=notifier)  # ends while the channel hangs
        assert len(tables()[0]) > 5
    finally:
        stuck.go.set()
        notifier.close()


# From a choice to a trader


def test_a_recording_is_replayed_from_where_history_and_honesty_allow(home):
    choice = Choice("simulated:1", strategy="sma_cross", bars=20)
    with opened(choice) as ready:
        assert ready.run() == "as many bars as were asked for"
        first = ready.trader.decider.candles.index[-20]
    candles = bl.load_candles("simulated:1")
    assert candles.index.searchsorted(first) == 5_000
    with opened(choice) as ready:
        ready.run()
        assert ready.trader.decider.candles.index[-1] == candles.index[5_039]


def test_a_start_may_be_named(home):
    with opened(Choice("simulated:1", strategy="buy_and_hold", bars=3, start="2023-05-01")) as ready:
        ready.run()
    assert tables()[3].index[0] == pd.Timestamp("2023-05-01", tz="UTC")


def test_a_recording_that_has_ended_is_no_error(home, market):
    path = home / "hours.parquet"
    market.iloc[:50].to_parquet(path)
    choice = Choice(f"file:{path}", strategy="buy_and_hold")
    for _ in range(2):
        with opened(choice) as ready:
            assert ready.run() == "the recording has ended"
    assert len(tables()[3]) == 25


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (Choice("simulated:2", strategy="buy_and_hold"), "another recording"),
        (Choice("simulated:1", strategy="buy_and_hold", timeframe="4h"), "timeframe"),
    ],
)
def test_another_market_does_not_go_on_with_a_ledger(home, other, message):
    with opened(Choice("simulated:1", strategy="buy_and_hold", bars=2)) as ready:
        ready.run()
    with pytest.raises(WrongLedger, match=message), opened(other):
        pass
    assert running(URL) is None


def test_real_prices_do_not_go_on_with_a_simulated_account(home, market):
    with opened(Choice("simulated:1", strategy="buy_and_hold", bars=2)) as ready:
        ready.run()
    later = market.set_axis(pd.date_range("2026-01-01", periods=len(market), freq="1h", tz="UTC", name="timestamp"))
    later.to_parquet(home / "real.parquet")
    with (
        pytest.raises(WrongLedger, match="btclab paper reset"),
        opened(Choice(f"file:{home}/real.parquet", strategy="buy_and_hold")),
    ):
        pass


def test_what_does_not_exist_is_said_before_a_ledger_is_made(home):
    for choice in (
        Choice("simulated:1", strategy="nosuch"),
        Choice("simulated:1", strategy="sma_cross", parameters={"quick": 3}),
        Choice("simulated:1", strategy="sma_cross", checkpoint="mine"),
        Choice("simulated:1", strategy="forecast"),  # nothing is trained
        Choice("simulated:1", strategy="sma_cross", bars=0),
        Choice("simulated:1", strategy="sma_cross", parameters={"fast": 300}),
        Choice("simulated:1", strategy="sma_cross", start="2031-01-01"),
        Choice("simulated:1", strategy="sma_cross", ledger="memory://"),
        Choice("binance", strategy="sma_cross", patience_s=0),  # nobody answers
        Choice(strategy="sma_cross", patience_s=0),
    ):
        with pytest.raises((InputError, bl.errors.BtclabError)), opened(choice):
            pass
    assert not (home / "data" / "ledger.db").exists()


def test_live_it_begins_with_the_bar_that_closed_last_and_replays_the_hole_after_a_restart(market, home, monkeypatch):
    made: list[tuple[Any, float]] = []
    real = market.copy()
    real.attrs = {**market.attrs, "simulated": False, "source": "binance"}

    class Live(Played):
        def __init__(self, source: str, symbol: str, timeframe: str, since: Any, before: float, ticks: bool) -> None:
            made.append((since, before))
            super().__init__(bars(real[real.index > since].iloc[:40]))

    from btclab.market import live_feed

    monkeypatch.setattr(live_feed, "LiveFeed", Live)
    for end in (360, 420):
        monkeypatch.setattr(session, "load_candles", lambda *_, end=end, **__: real.iloc[:end])
        with opened(Choice("binance", strategy="buy_and_hold")) as ready:
            ready.run()
    assert [since for since, _ in made] == [real.index[358], real.index[398]]
    assert made[1][1] == real["close"].iloc[398]
    curve = tables()[3]
    assert curve.index.tolist() == real.index[359:439].tolist()


def test_it_can_be_asked_to_stop_from_within(market, home):
    stop = Stop()
    trader, rest = trader_on(market, URL, NONE, SWIFT)
    ended = follow(trader, lambda: ReplayFeed(rest), progress=lambda *_: stop.set(), stop=stop)
    trader.tape.close()
    assert ended == "interrupted"
    assert len(tables()[3]) == 1


def test_a_bar_is_on_disk_within_a_sixth_of_a_second(trained, trained_candles, home):
    """In full: features, forecast, decision, fill. `tests/benchmarks/paper.py` measures it properly."""
    trader, rest = trader_on(
        trained_candles, URL, NONE, "forecast", first=len(trained_candles) - 40, checkpoint=trained
    )
    times = []
    for bar in bars(rest):
        begun = time.perf_counter()
        trader.on_bar(bar)
        times.append(time.perf_counter() - begun)
    trader.tape.close()
    assert np.median(times) < 0.15
