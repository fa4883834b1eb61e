"""A paper trader on an exchange: at the costs of the settings, by the rules of the exchange, and waiting for one that is away.

The exchange is played by `tests.market.replay`, in bars of a day that end today.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from btclab.errors import DataUnavailable, InputError, NotListed
from btclab.market.cache import clear_cache
from btclab.operations import paper, session
from btclab.operations.notify import Notifier
from btclab.operations.session import Choice, Session, opened
from btclab.records import Costs, Market
from btclab.trading.ledger import Ledger, store
from btclab.trading.strategies import register_strategy
from tests.conftest import CLOSED
from tests.market.replay import Replay, serving

pytestmark = pytest.mark.timeout(60)

URL = "sqlite:///data/ledger.db"
RULES = Market("BTC/USDT", quantity_step=1e-5, min_quantity=1e-5, min_value=5.0, price_tick=0.01)
IDLE = Choice("binance", timeframe="1d", strategy="idle")


@pytest.fixture(autouse=True)
def strategies(monkeypatch: pytest.MonkeyPatch) -> None:
    """`idle` holds nothing; `sliver` wants so little that it is worth about 3."""
    from btclab.trading import strategies

    monkeypatch.setattr(strategies, "STRATEGIES", dict(strategies.STRATEGIES))
    register_strategy("idle", lambda candles, features, forecasts: pd.Series(0.0, candles.index))
    register_strategy("sliver", lambda candles, features, forecasts: pd.Series(0.0003, candles.index))


@pytest.fixture
def server(candles: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> Iterator[Replay]:
    """Binance and Kraken for this test: 900 days until yesterday."""
    today = pd.Timestamp.now("UTC").floor("1D")
    days = candles.iloc[:900].set_axis(
        pd.date_range(end=today, periods=901, freq="1D", name="timestamp")[:-1].as_unit("ms")
    )
    with serving(days) as replay:
        addressed(monkeypatch, binance=replay.url, kraken=replay.url)
        monkeypatch.setenv("BTCLAB_MARKET__TIMEOUT_S", "2")
        monkeypatch.setenv("BTCLAB_RISK__MIN_TRADE", "0")
        monkeypatch.setattr(paper, "FIRST_WAIT_S", 0.01)
        yield replay


def addressed(monkeypatch: pytest.MonkeyPatch, **urls: str) -> None:
    monkeypatch.setenv("BTCLAB_MARKET__EXCHANGE_URLS", json.dumps(urls))


def traded(server: Replay, monkeypatch: pytest.MonkeyPatch, choice: Choice = IDLE, *asked: dict[str, Any]) -> None:
    """Trade the bar 20 days ago; then, with `asked` as orders by hand at its close, the days since then."""
    whole = server.candles
    server.candles = whole.iloc[:-20]
    with opened(replace(choice, bars=1)) as ready:
        ready.run()
    server.candles = whole
    with Ledger.open(URL, mode="read") as ledger, monkeypatch.context() as then:
        then.setattr(store, "time", SimpleNamespace(time_ns=lambda: whole.index[-20].as_unit("ns").value))
        for number, body in enumerate(asked):
            ledger.request("order", body, f"hand-{number}")
    with opened(replace(choice, bars=20)) as ready:
        assert ready.run() == "as many bars as were asked for"


def notes_on_rules(ready: Session) -> list[str]:
    return [note for note in ready.notes if "rules" in note]


def table(name: str) -> pd.DataFrame:
    with Ledger.open(URL, mode="read") as ledger:
        ledger.check()
        found: pd.DataFrame = getattr(ledger, f"{name}_table")()
        return found


# The rules of the exchange


@pytest.mark.parametrize(
    ("order", "rule", "said"),
    [
        ({"kind": "limit", "quantity": 0.01, "limit": 100.005}, "price_tick", "100.005 is no multiple of the tick 0.01"),
        ({"kind": "market", "quantity": 1e-6}, "min_quantity", "1e-06 BTC are less than .* 1e-05 BTC"),
        ({"kind": "market", "quantity": 5e-5}, "min_value", "A value of [0-4].[0-9]{2} is less than .* 5.00"),
    ],
)  # fmt: skip
def test_an_order_that_the_exchange_would_not_take_is_refused_with_the_numbers(server, monkeypatch, order, rule, said):
    traded(server, monkeypatch, IDLE, {"side": "buy", **order})
    events = table("event").set_index("order")
    assert events.loc[["hand-0"], ["event", "rule"]].to_numpy().tolist() == [["refused", rule]]
    assert pd.Series([events.loc["hand-0", "text"]]).str.contains(said).all()
    assert len(table("fill")) == 0


def test_so_is_what_a_strategy_wants(server, monkeypatch):
    traded(server, monkeypatch, replace(IDLE, strategy="sliver"))
    assert set(table("event")["rule"]) == {"min_value"}
    assert len(table("fill")) == 0


def test_what_fills_is_in_steps_of_the_exchange(server, monkeypatch):
    traded(server, monkeypatch, replace(IDLE, strategy="buy_and_hold"))
    steps = table("fill")["quantity"].iloc[0] / RULES.quantity_step
    assert steps == pytest.approx(round(steps), abs=1e-6)


def test_each_start_reads_the_rules_of_its_exchange(server):
    with opened(IDLE) as ready:
        assert ready.trader.broker.conditions.market == RULES
        assert not notes_on_rules(ready)
    with opened(replace(IDLE, source="kraken")) as ready:
        assert ready.trader.broker.conditions.market.price_tick == 0.1


def test_a_recording_has_none(server):
    with opened(Choice("simulated:1", strategy="idle", bars=1)) as ready:
        assert ready.trader.broker.conditions.market == Market("BTC/USDT")
        assert not notes_on_rules(ready)


@pytest.mark.parametrize(
    ("bars", "rules", "said"),
    [(1, RULES, "by those that the ledger was written by"), (0, Market("BTC/USDT"), "without a step, a minimum or a tick")],
)  # fmt: skip
def test_where_they_cannot_be_had_it_goes_on_by_those_it_knows_and_says_so(
    server, monkeypatch, caplog, bars, rules, said
):
    monkeypatch.setattr(session, "bars_kept", lambda *_: 100)  # which are stored by then: no candle is asked for
    with opened(replace(IDLE, bars=1)) as ready:
        if bars:
            ready.run()
    clear_cache()
    addressed(monkeypatch, binance=CLOSED)
    with caplog.at_level(logging.WARNING), opened(IDLE) as ready:
        assert ready.trader.broker.conditions.market == rules
        (note,) = notes_on_rules(ready)
        assert f"it trades {said}. binance: " in note
    assert said in caplog.text


# The costs of the settings


def test_it_trades_at_the_costs_of_the_settings(server, monkeypatch):
    costs = {"FEE_BPS": 20, "MAKER_FEE_BPS": 2, "PARTICIPATION": 1e-5, "LATENCY_BARS": 1}
    for name, value in costs.items():
        monkeypatch.setenv(f"BTCLAB_TRADING__{name}", str(value))
    bars = server.candles.iloc[-19:]  # from the bar after the decision on
    limit = round(float(bars["low"].iloc[:8].min()) - 100, 2)  # reached later
    market = {"kind": "market", "side": "buy", "quantity": 0.05}
    traded(server, monkeypatch, IDLE, market, {"kind": "limit", "side": "buy", "quantity": 0.02, "limit": limit})
    fills = table("fill")
    taken, made = (fills[fills["order"] == name] for name in ("hand-0", "hand-1"))
    shares = 1e-5 * bars["volume"].iloc[1:4]
    assert taken.index.tolist() == bars.index[1:4].tolist()  # a bar late, and in three parts
    assert taken["quantity"].tolist() == pytest.approx([*shares.iloc[:2], 0.05 - shares.iloc[:2].sum()], abs=2e-5)
    assert taken["fee"].tolist() == pytest.approx((20e-4 * taken["quantity"] * taken["price"]).tolist())
    assert made[["price", "maker", "quantity"]].to_numpy().tolist() == [[limit, True, pytest.approx(0.02)]]
    assert made["fee"].tolist() == pytest.approx([2e-4 * 0.02 * limit])


def test_costs_that_changed_are_those_from_now_on(server, monkeypatch):
    with opened(replace(IDLE, bars=1)) as ready:
        ready.run()
        assert ready.trader.broker.costs == Costs(10, 5)
    monkeypatch.setenv("BTCLAB_TRADING__MAKER_FEE_BPS", "1")
    monkeypatch.setenv("BTCLAB_TRADING__LATENCY_BARS", "2")
    monkeypatch.setenv("BTCLAB_TRADING__ALLOW_SHORT", "true")
    with opened(IDLE) as ready:
        conditions = ready.trader.broker.conditions
        assert (conditions.costs, conditions.latency) == (Costs(10, 5, maker_fee_bps=1), 2)
        assert conditions.margin is not None
    monkeypatch.setenv("BTCLAB_TRADING__LATENCY_BARS", "0")
    monkeypatch.setenv("BTCLAB_TRADING__ALLOW_SHORT", "false")
    with opened(IDLE) as ready:
        assert (ready.trader.broker.conditions.latency, ready.trader.broker.conditions.margin) == (0, None)


# An exchange that is away


def test_it_waits_until_the_exchange_answers_and_says_so(server, caplog):
    server.mood, server.lasts = 451, 2
    with opened(replace(IDLE, bars=1)) as ready:
        assert ready.run() == "as many bars as were asked for"
    said = [one.getMessage() for one in caplog.records if "asked again in" in one.getMessage()]
    assert len(said) == 2
    assert all("Trading begins once an exchange answers" in text for text in said)
    assert ["binance: " in text for text in said] == [True, False]  # why, once


def test_pauses_grow_up_to_ten_minutes(monkeypatch):
    waiting = paper.waits()
    assert [next(waiting) for _ in range(9)] == [5, 10, 20, 40, 80, 160, 320, 600, 600]


def test_of_several_exchanges_the_first_that_answers_is_traded_on(server, monkeypatch, caplog):
    addressed(monkeypatch, binance=CLOSED, kraken=server.url)
    monkeypatch.setenv("BTCLAB_MARKET__EXCHANGES", '["binance", "coingecko", "kraken"]')
    server.mood, server.lasts = 451, 1
    with opened(replace(IDLE, source=None)) as ready:
        assert ready.trader.source == "kraken"
    (said,) = [one.getMessage() for one in caplog.records if "asked again in" in one.getMessage()]
    assert "· binance: " in said
    assert "· kraken: " in said


def test_the_waiting_is_told(server, monkeypatch):
    told: list[tuple[str, dict[str, Any]]] = []

    class Recorder:
        def send(self, kind: str, key: str = "", **figures: Any) -> None:
            Notifier.render(kind, figures)
            told.append((kind, figures))

        def close(self) -> None:
            told.append(("closed", {}))

    monkeypatch.setattr(Notifier, "from_settings", Recorder)
    server.mood, server.lasts = 451, 1
    with opened(IDLE):
        assert [kind for kind, _ in told] == ["error"]
        assert told[0][1]["where"] == "the start of paper trading"
    assert told[-1][0] == "closed"


def test_patience_may_be_bounded(server):
    server.mood = 451
    begun = time.monotonic()
    with pytest.raises(DataUnavailable, match="binance: "), opened(replace(IDLE, patience_s=0.5)):
        pass
    assert 0.1 < time.monotonic() - begun < 10


@pytest.mark.parametrize(
    ("choice", "error", "said"),
    [
        (Choice("binanse", strategy="idle"), InputError, "Unknown source: 'binanse'"),
        (Choice("binance", "BTC/XYZ", strategy="idle"), NotListed, "binance: does not list BTC/XYZ"),
        (Choice("binance", timeframe="7h", strategy="idle"), InputError, "Unknown timeframe: '7h'"),
        (Choice("coinbase", timeframe="4h", strategy="idle"), NotListed, "coinbase: has no bars of 4h"),
        (Choice("coingecko", timeframe="1d", strategy="idle"), InputError, "name an exchange"),
        (Choice(None, "BTC/XYZ", strategy="idle"), NotListed, "kraken: does not list BTC/XYZ"),
    ],
)  # fmt: skip
def test_what_no_waiting_helps_ends_it_at_once(server, monkeypatch, choice, error, said):
    monkeypatch.setenv("BTCLAB_MARKET__EXCHANGES", '["binance", "kraken"]')
    with pytest.raises(error, match=said), opened(choice):
        pass


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_waiting_at_once(server, monkeypatch, sign):
    monkeypatch.setattr(paper, "FIRST_WAIT_S", 30.0)
    server.mood, before = 451, signal.getsignal(sign)
    timer = threading.Timer(1.0, os.kill, (os.getpid(), sign))
    timer.start()
    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt), opened(IDLE):
        pass
    timer.join()
    assert time.monotonic() - begun < 10
    assert signal.getsignal(sign) is before
    assert not (session.settings().data / "ledger.db").exists()


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_command_well_while_it_loads(home, tmp_path, sign):
    rule = tmp_path / "mine.py"
    rule.write_text("import time\nprint('loading', flush=True)\ntime.sleep(50)\n")
    words = [
        sys.executable,
        "-m",
        "btclab.cli",
        "paper",
        "run",
        "--source",
        "simulated:1",
        "--strategy",
        f"{rule}:mine",
    ]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "loading\n"
        process.send_signal(sign)
        out, err = process.communicate(timeout=20)
    finally:
        process.kill()
    assert (process.returncode, out) == (0, "stopped: interrupted before it began\n"), err


def test_a_signal_ends_the_command_well_while_it_imports(home):
    words = [
        sys.executable,
        "-v",
        "-m",
        "btclab.cli",
        "paper",
        "run",
        "--source",
        "simulated:1",
    ]  # -v: says what it imports
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        while "import 'pandas._libs'" not in process.stderr.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=40)
    finally:
        process.kill()
    assert (process.returncode, out) == (0, "stopped: interrupted before it began\n")


def test_the_handlers_are_the_old_ones_once_it_is_ready(server):
    before = signal.getsignal(signal.SIGTERM)
    with opened(IDLE):
        assert signal.getsignal(signal.SIGTERM) is before


def test_the_command_waits_says_so_and_ends_when_asked(home):
    words = [sys.executable, "-m", "btclab.cli", "paper", "run", "--source", "binance", "--strategy", "buy_and_hold"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        assert "Trading begins once an exchange answers; asked again in 5 s" in process.stderr.readline()
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=20)
    finally:
        process.kill()
    assert (process.returncode, out) == (0, "stopped: interrupted before it began\n")
