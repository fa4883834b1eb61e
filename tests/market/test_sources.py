"""`load_candles`: what is asked for and stored, who stands in for whom, and what is said when nobody can."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pandas as pd
import pytest

import btclab as bl
from btclab.errors import DataUnavailable, InputError, TooFewBars
from btclab.market.candles import between, fingerprint
from btclab.market.store import read_candles, save_candles
from tests.market.replay import Replay, serving

CLOSED = "http://127.0.0.1:9"
HOUR = pd.Timedelta("1h")
JANUARY, FEBRUARY, MARCH, APRIL = (f"2021-{month:02d}-01" for month in (1, 2, 3, 4))


@pytest.fixture
def server(candles: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> Iterator[Replay]:
    """Binance for this test: three months of simulated hours. The other exchanges refuse the connection."""
    with serving(candles) as replay:
        urls = dict.fromkeys(("kraken", "coinbase", "bitstamp"), CLOSED) | {"binance": replay.url}
        monkeypatch.setenv("BTCLAB_MARKET__EXCHANGE_URLS", json.dumps(urls))
        yield replay


def asked(server: Replay) -> list[str]:
    """The hours from which the server was asked for bars, since the last time."""
    hours = [f"{pd.to_datetime(int(query['startTime']), unit='ms'):%m-%d %H:%M}" for query in server.asked]
    server.asked.clear()
    return hours


def stored(name: str = "binance") -> pd.DataFrame | None:
    return read_candles(name, "BTC/USDT", "1h")


def unavailable(source: str | None, start: str = JANUARY, end: str = MARCH, **options: str) -> str:
    with pytest.raises(DataUnavailable) as caught:
        bl.load_candles(source, start=start, end=end, **options)
    return str(caught.value)


# What is fetched, and what is not


def test_fetched_candles_are_the_served_ones_and_say_so(server, candles):
    loaded = bl.load_candles("binance", start=JANUARY, end=MARCH)
    assert fingerprint(loaded) == fingerprint(between(candles, JANUARY, MARCH))
    assert loaded.attrs == {"source": "binance", "symbol": "BTC/USDT", "timeframe": "1h", "simulated": False}


def test_what_is_fetched_is_stored(server, candles):
    bl.load_candles("binance", start=JANUARY, end=MARCH)
    assert fingerprint(stored()) == fingerprint(between(candles, JANUARY, MARCH))


def test_same_span_again_asks_for_nothing(server):
    bl.load_candles("binance", start=JANUARY, end=MARCH)
    asked(server)
    bl.load_candles("binance", start=JANUARY, end=MARCH)
    assert (asked(server), server.asked_for_markets) == ([], 1)


def test_longer_span_asks_for_what_is_before_and_after(server, candles):
    bl.load_candles("binance", start=FEBRUARY, end=MARCH)
    asked(server)
    loaded = bl.load_candles("binance", start="2021-01-30", end="2021-03-03")
    assert asked(server) == ["01-30 00:00", "03-01 00:00"]
    assert fingerprint(loaded) == fingerprint(between(candles, "2021-01-30", "2021-03-03"))


def test_two_spans_apart_leave_no_hole_between_them(server, candles):
    bl.load_candles("binance", start="2021-03-01", end="2021-03-05")
    bl.load_candles("binance", start="2021-01-01", end="2021-01-05")
    loaded = bl.load_candles("binance", start=JANUARY, end="2021-03-05")
    assert fingerprint(loaded) == fingerprint(between(candles, JANUARY, "2021-03-05"))


def test_an_end_between_two_bars_includes_the_bar_that_opened_before_it(server, candles):
    bl.load_candles("binance", start=JANUARY, end="2021-01-02T10:00")
    loaded = bl.load_candles("binance", start=JANUARY, end="2021-01-02T10:30")
    assert loaded.index[-1] == pd.Timestamp("2021-01-02T10:00Z")


# One source that was named


@pytest.mark.parametrize("mood", [500, 451, 429, "html", "closed", "cut", "dip", "words", "empty"])
def test_named_source_that_fails_is_named_and_stores_nothing(server, mood):
    server.mood = mood
    assert unavailable("binance").startswith("binance: ")
    assert stored() is None


def test_named_source_never_falls_back(server, candles):
    save_candles(candles, "kraken", "BTC/USDT", "1h")
    server.mood = 500
    message = unavailable("binance")
    assert "kraken" not in message


def test_named_source_that_fails_tells_of_what_is_stored(server):
    bl.load_candles("binance", start=JANUARY, end=FEBRUARY)
    server.mood = 500
    assert "stored up to 2021-01-31 23:00:00+00:00 can be had as store:binance" in unavailable("binance")


def test_symbol_that_is_not_listed_is_named(server):
    assert "binance: does not list BTC/XYZ" in unavailable("binance", symbol="BTC/XYZ")


@pytest.mark.parametrize("wrong", ["binanse", "stor:binance", "binance:", ""])
def test_unknown_source_lists_the_kinds_of_source(wrong):
    with pytest.raises(InputError, match=r"Unknown source.* file:PATH, simulated:SEED or store:EXCHANGE"):
        bl.load_candles(wrong, start=JANUARY)


@pytest.mark.parametrize("options", [{"start": "soon"}, {"end": "2021-13-01"}, {"timeframe": "1w"}])
def test_wrong_span_or_timeframe_is_refused(server, options):
    with pytest.raises(InputError):
        bl.load_candles("binance", **options)
    assert server.asked == []


# The store as a source


def test_nothing_stored_names_the_command_that_fetches():
    assert unavailable("store:binance").endswith(
        "Fetch it: btclab fetch --source binance --symbol BTC/USDT --timeframe 1h"
    )


def test_store_is_read_without_asking_the_exchange(server, candles):
    save_candles(candles, "binance", "BTC/USDT", "1h")
    assert fingerprint(bl.load_candles("store:binance")) == fingerprint(candles)
    assert (server.asked, server.asked_for_markets) == ([], 0)


def test_old_store_is_marked_stale_with_its_age(candles):
    save_candles(candles, "binance", "BTC/USDT", "1h")
    assert bl.load_candles("store:binance").attrs["stale"].startswith("stored data, ")
    assert "days" in bl.load_candles("store:binance").attrs["stale"]


def test_fresh_store_is_not_marked(candles):
    last = pd.Timestamp.now("UTC").floor("h") - HOUR
    index = pd.date_range(end=last, periods=48, freq="h", name="timestamp")
    save_candles(candles.iloc[:48].set_axis(index), "binance", "BTC/USDT", "1h")
    assert "stale" not in bl.load_candles("store:binance").attrs


def test_span_without_bars_says_what_is_held(candles):
    save_candles(candles, "binance", "BTC/USDT", "1h")
    with pytest.raises(
        TooFewBars, match=r"no bars from 2030-01-01 to now; it holds 2021-01-01 00:00:00.* to 2021-03-31"
    ):
        bl.load_candles("store:binance", start="2030-01-01")


# No source named: the exchanges in turn


@pytest.fixture
def binances(candles: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., list[Replay]]]:
    """Servers for exchanges that answer alike, in the order of the settings."""
    with ExitStack() as stack:

        def serve(*names: str) -> list[Replay]:
            servers = [stack.enter_context(serving(candles)) for _ in names]
            urls = {name: server.url for name, server in zip(names, servers, strict=True)}
            monkeypatch.setenv("BTCLAB_MARKET__EXCHANGE_URLS", json.dumps(urls))
            monkeypatch.setenv("BTCLAB_MARKET__EXCHANGES", json.dumps(names))
            return servers

        yield serve


def test_the_first_exchange_of_the_settings_is_asked_and_no_other(binances):
    first, second = binances("binance", "binanceus")
    loaded = bl.load_candles(start=JANUARY, end=MARCH)
    assert loaded.attrs["source"] == "binance"
    assert loaded.attrs["notes"] == []
    assert (len(first.asked), second.asked_for_markets) == (2, 0)


def test_order_of_the_settings_decides(binances):
    binances("binanceus", "binance")
    assert bl.load_candles(start=JANUARY, end=MARCH).attrs["source"] == "binanceus"


@pytest.mark.parametrize("mood", [451, "html", "closed", "dip", "empty"])
def test_the_next_exchange_stands_in_and_the_reason_is_noted(binances, candles, mood):
    first, _ = binances("binance", "binanceus")
    first.mood = mood
    loaded = bl.load_candles(start=JANUARY, end=MARCH)
    assert loaded.attrs["source"] == "binanceus"
    assert [note.partition(":")[0] for note in loaded.attrs["notes"]] == ["binance"]
    assert "stale" not in loaded.attrs
    assert fingerprint(loaded) == fingerprint(between(candles, JANUARY, MARCH))


def test_exchange_that_keeps_only_the_newest_bars_is_passed_over(binances, candles):
    first, _ = binances("binance", "binanceus")
    first.candles = candles.iloc[1200:]
    loaded = bl.load_candles(start=JANUARY, end=MARCH)
    assert loaded.attrs["source"] == "binanceus"
    assert loaded.attrs["notes"] == ["binance: has only 216 of the 1,416 bars asked for"]


def test_unknown_exchange_in_the_settings_is_refused(binances):
    binances("binanse", "binance")
    with pytest.raises(InputError, match="Unknown source: 'binanse'"):
        bl.load_candles(start=JANUARY, end=MARCH)


def test_a_file_keeps_the_mark_of_the_simulated_market_and_loses_its_forming_bar(candles, tmp_path):
    fresh = candles.iloc[-100:].copy()
    fresh.index = pd.date_range(end=pd.Timestamp.now("UTC").floor("h"), periods=100, freq="h", name="timestamp")
    fresh.to_parquet(tmp_path / "mine.parquet")
    loaded = bl.load_candles(f"file:{tmp_path / 'mine.parquet'}")
    assert loaded.attrs["simulated"]
    assert loaded.index[-1] == fresh.index[-2]


def test_when_all_fail_stored_data_is_marked_stale_with_its_age(candles):
    save_candles(candles, "kraken", "BTC/USDT", "1h")
    loaded = bl.load_candles(start=JANUARY, end="2021-04-02")
    assert loaded.attrs["source"] == "kraken"
    assert loaded.attrs["stale"].startswith("stored data, ") and loaded.attrs["stale"].endswith(" old")
    assert [note.partition(":")[0] for note in loaded.attrs["notes"]] == ["binance", "kraken", "coinbase", "bitstamp"]
    assert fingerprint(loaded) == fingerprint(candles)


def test_a_past_span_that_is_stored_whole_is_not_stale(candles):
    save_candles(candles, "kraken", "BTC/USDT", "1h")
    loaded = bl.load_candles(start=JANUARY, end=MARCH)
    assert loaded.attrs["source"] == "kraken" and "stale" not in loaded.attrs


def test_when_all_fail_and_nothing_is_stored_each_exchange_and_its_reason_is_named():
    message = unavailable(None)
    assert message.startswith("No source could be reached and nothing is stored.")
    lines = message.splitlines()[1:]
    assert [line.strip(" ·").partition(":")[0] for line in lines] == ["binance", "kraken", "coinbase", "bitstamp"]
    assert all("refused" in line for line in lines)


def test_an_old_file_is_marked_stale_for_whoever_acts_on_its_last_bar(candles, tmp_path):
    real = candles.iloc[-50:].copy()
    real.attrs = {}
    real.to_parquet(tmp_path / "mine.parquet")
    loaded = bl.load_candles(f"file:{tmp_path / 'mine.parquet'}")
    assert "stale" not in loaded.attrs
    assert bl.mark_if_stale(loaded).attrs["stale"].startswith("data of a file, ")


def test_simulated_candles_have_no_age(candles):
    assert "stale" not in bl.mark_if_stale(candles).attrs
