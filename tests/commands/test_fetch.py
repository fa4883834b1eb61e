"""`btclab fetch`: what is stored, what is said, and the exit code."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pandas as pd
import pytest

from btclab.context.sources import HTTP_SOURCES
from btclab.errors import DataUnavailable
from btclab.market.candles import fingerprint
from btclab.market.store import read_candles
from tests.conftest import CLOSED
from tests.context.serving import Sources
from tests.context.serving import serving as serving_context
from tests.market.replay import Replay, serving

SPAN = ("--since", "2021-01-01", "--until", "2021-02-01", "--context", "none")
DERIVATIVES = ("binanceusdm", "bybit", "okx")


@pytest.fixture
def server(candles: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> Iterator[Replay]:
    """Kraken refuses the connection, Binance is served: the order of the settings is Kraken, Binance."""
    with serving(candles) as replay:
        urls = {"binance": replay.url, **dict.fromkeys(("kraken", *DERIVATIVES), CLOSED)}
        monkeypatch.setenv("BTCLAB_MARKET__EXCHANGE_URLS", json.dumps(urls))
        monkeypatch.setenv("BTCLAB_MARKET__EXCHANGES", '["kraken", "binance"]')
        monkeypatch.setenv("BTCLAB_MARKET__TIMEOUT_S", "1")
        monkeypatch.setenv("BTCLAB_CONTEXT__URLS", json.dumps(dict.fromkeys(HTTP_SOURCES, CLOSED)))
        yield replay


@pytest.fixture
def context(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sources]:
    """All sources of context series, on this machine; no key is set."""
    with serving_context() as sources:
        monkeypatch.setenv("BTCLAB_CONTEXT__URLS", json.dumps(dict.fromkeys(HTTP_SOURCES, sources.url)))
        yield sources


def test_the_first_exchange_that_answers_is_stored_and_the_others_reason_is_said(server, candles, call):
    code, out, _ = call("fetch", *SPAN)
    assert code == 0
    assert "source failed kraken: " in out
    assert "binance BTC/USDT 1h: 744 new bars; 744 from 2021-01-01 00:00 to 2021-01-31 23:00 UTC" in out
    assert fingerprint(read_candles("binance", "BTC/USDT", "1h")) == fingerprint(candles.iloc[:744])


def test_again_finds_nothing_new(server, call):
    call("fetch", *SPAN)
    server.asked.clear()
    code, out, _ = call("fetch", *SPAN)
    assert (code, server.asked) == (0, [])
    assert "0 new bars" in out


def test_a_named_source_that_fails_is_a_failure_and_the_others_are_stored_all_the_same(server, call):
    code, out, err = call("fetch", "--source", "kraken", "--source", "binance", *SPAN)
    assert code == 1
    assert "source failed kraken: " in out
    assert "1 of what was asked for could not be had" in err
    assert read_candles("binance", "BTC/USDT", "1h") is not None


def test_the_markets_of_the_settings_are_all_fetched(server, call, monkeypatch):
    monkeypatch.setenv("BTCLAB_MARKET__SYMBOLS", '["ETH/USDT"]')
    code, out, _ = call("fetch", *SPAN)
    assert code == 1
    assert "binance: does not list ETH/USDT" in out
    assert read_candles("binance", "BTC/USDT", "1h") is not None


def test_missing_bars_are_counted(server, candles, call):
    server.candles = candles.drop(index=candles.index[10:13])
    assert (
        "741 new bars; 741 from 2021-01-01 00:00 to 2021-01-31 23:00 UTC, 3 missing between" in call("fetch", *SPAN)[1]
    )


def test_ctrl_c_says_that_nothing_is_lost(server, call, monkeypatch):
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("btclab.market.fetch.update_candles", interrupted)
    code, out, _ = call("fetch", *SPAN)
    assert code == 1
    assert "the same command goes on from there" in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--source", "binanse"), "Did you mean 'binance'"),
        (("--timeframe", "7m"), "Unknown timeframe: '7m'"),
        (("--since", "soon"), "'soon' is not a time"),
        (("--context", "fear_gred"), "Did you mean 'fear_greed'"),
    ],
)
def test_a_wrong_word_is_named_before_anything_is_asked(server, call, words, said):
    code, _, err = call("fetch", *words)
    assert code == 2
    assert said in err
    assert server.asked == []


def test_what_an_exchange_says_is_not_read_as_markup(server, call, monkeypatch):
    def refused(*_: object, **__: object) -> None:
        raise DataUnavailable("binance: answered [/html] down until [noon]")

    monkeypatch.setattr("btclab.market.fetch.update_candles", refused)
    code, out, _ = call("fetch", *SPAN)
    assert code == 1
    assert "answered [/html] down until [noon]" in out


def test_context_list_shows_unit_lag_history_and_key_of_each_series(server, call):
    code, out, _ = call("fetch", "--context", "list")
    assert code == 0
    for word in ("fear_greed", "lag", "history", "BTCLAB_CONTEXT__FRED_API_KEY", "(not set)"):
        assert word in out
    assert server.asked == []


@pytest.fixture
def recent(server: Replay) -> str:
    """Serves bars up to now; returns when they begin."""
    hours = pd.date_range(end=pd.Timestamp.now("UTC").floor("h"), periods=100, freq="h", name="timestamp")
    server.candles = server.candles.iloc[:100].set_axis(hours)
    return hours[0].isoformat()


def test_named_context_series_are_stored_with_the_candles(recent, context, call, home):
    code, out, _ = call("fetch", "--since", recent, "--context", "fear_greed")
    assert code == 0
    assert "fear_greed" in out and "ok" in out
    assert list((home / "data" / "context").rglob("fear_greed.parquet"))


def test_a_series_without_its_key_is_skipped_by_name_and_is_no_failure(recent, context, call):
    code, out, _ = call("fetch", "--since", recent, "--context", "fear_greed,vix")
    assert code == 0
    assert "needs BTCLAB_CONTEXT__FRED_API_KEY" in out


def test_a_series_that_fails_is_a_failure(server, call):
    code, out, err = call("fetch", *SPAN[:4], "--context", "fear_greed")
    assert code == 1
    assert "refused" in out.replace("\n", " ")
    assert "1 of what was asked for" in err


def test_the_cache_is_cleaned_on_the_way_once_a_day(server, call, home):
    call("fetch", *SPAN)
    marker = home / "data" / "cache" / "optimised"
    first = marker.stat().st_mtime_ns
    call("fetch", *SPAN)
    assert marker.stat().st_mtime_ns == first
