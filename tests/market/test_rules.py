"""The rules of an exchange for orders: read from its list of markets, however it counts, and from nowhere else."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator
from typing import Any

import ccxt
import pandas as pd
import pytest

import btclab as bl
from btclab.errors import DataUnavailable, InputError, NotListed
from btclab.market import cache
from btclab.market.exchange import ExchangeSource
from btclab.market.rules import rules_of
from btclab.records import Market
from tests.conftest import CLOSED, SHARED
from tests.market import replay
from tests.market.replay import Replay, serving

BINANCE = Market("BTC/USDT", quantity_step=1e-5, min_quantity=1e-5, min_value=5.0, price_tick=0.01)
KRAKEN = Market("BTC/USDT", quantity_step=1e-8, min_quantity=5e-5, min_value=0.5, price_tick=0.1)


@pytest.fixture
def server(candles: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> Iterator[Replay]:
    """Binance and Kraken for this test."""
    with serving(candles) as replay:
        monkeypatch.setenv("BTCLAB_MARKET__EXCHANGE_URLS", json.dumps(dict.fromkeys(("binance", "kraken"), replay.url)))
        yield replay


def listing(mode: int, **said: Any) -> dict[str, Any]:
    """A market as ccxt has it, with these parts."""
    return {"precisionMode": mode, "precision": {"amount": None, "price": None}, "limits": {}, **said}


@pytest.mark.parametrize("rules", [BINANCE, KRAKEN], ids=["binance", "kraken"])
def test_rules_are_those_of_the_exchange(server, request, rules):
    assert bl.trading_rules(request.node.callspec.id) == rules


def test_rules_of_the_recorded_answer_of_kraken(server, monkeypatch):
    path = SHARED / "responses" / "verified" / "kraken_asset_pairs.json"
    if not path.exists():
        pytest.skip(f"no recorded answer at {path}")
    monkeypatch.setattr(replay, "KRAKEN_PAIRS", json.loads(path.read_text())["result"])
    assert bl.trading_rules("kraken", "BTC/USDT") == KRAKEN


def test_they_hold_for_a_backtest(server, candles):
    signals = pd.DataFrame({"exposure": 0.5}, index=candles.index)
    result = bl.backtest(candles, signals, market=bl.trading_rules("binance"))
    steps = result.fills["quantity"] / 1e-5
    assert (steps - steps.round()).abs().max() < 1e-6
    free = bl.backtest(candles, signals).fills["quantity"] / 1e-5
    assert (free - free.round()).abs().max() > 1e-3


@pytest.mark.parametrize("source", ["simulated:1", "store:binance", "file:candles.csv", "coingecko"])
def test_what_is_recorded_simulated_or_aggregated_has_none(server, source):
    assert bl.trading_rules(source, "BTC/EUR") == Market("BTC/EUR")
    assert server.asked_for_markets == 0


def test_the_list_is_asked_for_once(server):
    assert bl.trading_rules("binance") == bl.trading_rules("binance")
    assert server.asked_for_markets == 1


def test_without_a_network_the_last_list_holds_and_the_log_says_how_old_it_is(server, monkeypatch, caplog):
    bl.trading_rules("binance")
    server.mood = 451
    monkeypatch.setitem(cache.LIFETIMES, "markets", 0.0)
    with caplog.at_level(logging.WARNING):
        assert bl.trading_rules("binance") == BINANCE
    assert "binance: the trading rules of BTC/USDT are " in caplog.text
    assert "old: binance: " in caplog.text


def test_without_a_network_and_a_list_they_are_not_known(monkeypatch):
    monkeypatch.setenv("BTCLAB_MARKET__EXCHANGE_URLS", json.dumps({"binance": CLOSED}))
    with pytest.raises(DataUnavailable, match=r"binance: .*[Rr]efused"):
        bl.trading_rules("binance")


def test_what_does_not_exist_is_named(server):
    with pytest.raises(InputError, match=r"Unknown source: 'binanse'"):
        bl.trading_rules("binanse")
    with pytest.raises(NotListed, match="binance: does not list BTC/XYZ"):
        bl.trading_rules("binance", "BTC/XYZ")


def test_a_rule_that_cannot_be_is_refused(server, monkeypatch):
    pair = {**replay.KRAKEN_PAIRS["XBTUSDT"], "costmin": "-0.5"}
    monkeypatch.setattr(replay, "KRAKEN_PAIRS", {"XBTUSDT": pair})
    with pytest.raises(DataUnavailable, match=r"kraken: says of BTC/USDT .* \(least cost -0\.5\)"):
        bl.trading_rules("kraken")


# How exchanges count


@pytest.mark.parametrize(
    ("mode", "parts"),
    [
        (ccxt.DECIMAL_PLACES, {"precision": {"amount": math.inf}}),
        (ccxt.DECIMAL_PLACES, {"precision": {"amount": -400}}),
        (ccxt.DECIMAL_PLACES, {"precision": {"amount": 400}}),
        (ccxt.DECIMAL_PLACES, {"precision": {"amount": 2.5}}),
        (ccxt.DECIMAL_PLACES, {"precision": {"price": True}}),
        (ccxt.TICK_SIZE, {"precision": {"amount": True}}),
        (ccxt.TICK_SIZE, {"precision": {"price": 1e-320}}),
        (ccxt.TICK_SIZE, {"limits": {"cost": {"min": 10**400}}}),
        (ccxt.TICK_SIZE, {"contract": True, "linear": True, "precision": {"amount": 1.0}}),
        (ccxt.TICK_SIZE, {"contract": True, "linear": True, "contractSize": 0, "precision": {"amount": 1.0}}),
    ],
)
def test_what_cannot_be_a_rule_is_refused_however_it_is_counted(monkeypatch, mode, parts):
    monkeypatch.setattr(ExchangeSource, "listing", lambda *_: {"stale": "", **listing(mode, **parts)})
    with pytest.raises(DataUnavailable, match="binance: says of BTC/USDT what cannot be a trading rule"):
        bl.trading_rules("binance")


@pytest.mark.parametrize(
    ("mode", "amount", "price", "step", "tick"),
    [
        (ccxt.TICK_SIZE, 1e-4, 0.5, 1e-4, 0.5),
        (ccxt.DECIMAL_PLACES, 4, 2, 1e-4, 1e-2),
        (ccxt.DECIMAL_PLACES, 0, -1, 1.0, 10.0),
        (ccxt.SIGNIFICANT_DIGITS, 8, 5, 1e-8, 0.0),  # five digits are a tick of 1 at 60,000 and of 10 at 100,000
        (ccxt.TICK_SIZE, None, None, 0.0, 0.0),
        (ccxt.DECIMAL_PLACES, None, None, 0.0, 0.0),
    ],
)
def test_precisions_are_steps_places_or_digits(mode, amount, price, step, tick):
    rules = rules_of(listing(mode, precision={"amount": amount, "price": price}), "BTC/USDT")
    assert (rules.quantity_step, rules.price_tick) == pytest.approx((step, tick), rel=1e-12)


def test_what_is_not_limited_is_no_rule():
    said = listing(ccxt.TICK_SIZE, limits={"amount": {"min": None, "max": 3}, "cost": None})
    assert rules_of(said, "BTC/USDT") == Market("BTC/USDT")
    assert rules_of({"precisionMode": ccxt.TICK_SIZE}, "BTC/USDT") == Market("BTC/USDT")


@pytest.mark.parametrize(("linear", "step", "least"), [(True, 0.01, 0.02), (False, 0.0, 0.0)])
def test_quantities_of_contracts_come_out_in_btc(linear, step, least):
    parts = {"precision": {"amount": 1.0, "price": 0.1}, "limits": {"amount": {"min": 2}}}
    said = listing(ccxt.TICK_SIZE, contract=True, linear=linear, contractSize=0.01, **parts)
    rules = rules_of(said, "BTC/USDT:USDT")
    assert (rules.quantity_step, rules.min_quantity, rules.price_tick) == (step, least, 0.1)
