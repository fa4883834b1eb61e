"""One exchange through the real ccxt client: which bars come back from a server that behaves, and from one that does not."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest

from btclab.errors import DataUnavailable, InputError, NotListed
from btclab.market.candles import between, close_times, fingerprint, validate_candles
from btclab.market.exchange import ExchangeSource
from tests.conftest import SHARED
from tests.market.replay import EARLY, KRAKEN_ASSETS, KRAKEN_KEPT, KRAKEN_PAIRS, Replay, serving

HOUR = pd.Timedelta("1h")
START, END = pd.Timestamp("2021-01-01", tz="UTC"), pd.Timestamp("2021-03-01", tz="UTC")
LAST = pd.Timestamp("2021-04-01", tz="UTC")  # the candles end before it
VENUES = ("binance", "kraken")


@pytest.fixture
def server(candles: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> Iterator[Replay]:
    """Binance and Kraken for this test: three months of simulated hours on this machine."""
    with serving(candles) as replay:
        monkeypatch.setenv("BTCLAB_MARKET__EXCHANGE_URLS", json.dumps(dict.fromkeys(VENUES, replay.url)))
        monkeypatch.setenv("BTCLAB_MARKET__TIMEOUT_S", "2")
        yield replay


@pytest.fixture
def recorded() -> Callable[[str], Any]:
    """Answers of the exchanges themselves, where they lie beside the project."""
    folder = SHARED / "responses" / "verified"
    if not folder.exists():
        pytest.skip(f"no recorded answers at {folder}")
    return lambda name: json.loads((folder / f"{name}.json").read_text())


def source(name: str = "binance") -> ExchangeSource:
    """A client that does not wait a second between two of Kraken's requests."""
    made = ExchangeSource(name)
    made._client.enableRateLimit = False
    return made


def fetched(
    start: pd.Timestamp = START, end: pd.Timestamp = END, timeframe: str = "1h", name: str = "binance", **options: Any
) -> list[pd.DataFrame]:
    return list(source(name).fetch("BTC/USDT", timeframe, start, end, **options))


def refusal(name: str = "binance", within: float = 20.0, **options: Any) -> str:
    begun = time.monotonic()
    with pytest.raises(DataUnavailable) as caught:
        fetched(name=name, **span_of(name), **options)
    assert time.monotonic() - begun < within
    assert caught.value.exit_code == 1
    assert str(caught.value).startswith(f"{name}: ")
    return str(caught.value)


def span_of(name: str) -> dict[str, pd.Timestamp]:
    """What is asked of that exchange: Kraken keeps the last 720 hours of the candles only."""
    return {"start": LAST - 700 * HOUR, "end": LAST} if name == "kraken" else {"start": START, "end": END}


def served(server: Replay, name: str) -> pd.DataFrame:
    return between(server.candles, *span_of(name).values())


# An exchange that behaves


def test_pages_together_are_exactly_the_served_bars(server, candles):
    pages = fetched()
    assert [len(page) for page in pages] == [1000, 416]
    assert len(server.asked) == 2
    pd.testing.assert_frame_equal(
        pd.concat(pages), between(candles, START, END), check_freq=False, check_index_type=False
    )


def test_markets_are_asked_for_once(server):
    source = ExchangeSource("binance")
    for _ in range(2):
        list(source.fetch("BTC/USDT", "1h", START, START + 5 * HOUR))
    assert server.asked_for_markets == 1


def test_end_is_excluded_and_a_start_between_bars_begins_at_the_next(server):
    (page,) = fetched(START + pd.Timedelta("30min"), START + 4 * HOUR)
    assert list(page.index.hour) == [1, 2, 3]


def test_empty_span_asks_for_no_bars(server):
    assert fetched(END, START) == []
    assert server.asked == []


def test_a_hole_longer_than_a_page_is_crossed(server, candles):
    server.candles = candles.drop(index=candles.index[10:1500])
    pages = pd.concat(fetched(end=candles.index[-1]))
    assert fingerprint(pages) == fingerprint(server.candles.iloc[:-1])


def test_span_before_the_market_began_gives_its_first_bars(server, candles):
    server.candles = candles.iloc[1200:]
    assert fingerprint(pd.concat(fetched())) == fingerprint(between(server.candles, START, END))


def test_span_that_ends_before_the_market_began_is_one_request(server):
    assert fetched(START - 3000 * HOUR, START) == []
    assert len(server.asked) == 1


def test_forming_bar_is_left_out_by_the_clock(server, candles):
    before = pd.Timestamp.now("UTC")
    opened = pd.date_range(end=before.floor("h") + HOUR, periods=48, freq="h", name="timestamp")  # the last two form
    server.candles = candles.iloc[:48].set_axis(opened)
    got = pd.concat(fetched(opened[0], before + 3 * HOUR))
    after = pd.Timestamp.now("UTC")
    assert (close_times(got) <= after).all()
    assert close_times(got)[-1] in (before.floor("h"), after.floor("h"))


def test_kraken_gives_its_newest_bars_whatever_is_asked_for(server, candles):
    got = pd.concat(fetched(START, LAST, name="kraken"))
    assert fingerprint(got) == fingerprint(candles.tail(KRAKEN_KEPT + 1))
    assert len(server.asked) == 1


def test_kraken_is_asked_once_for_a_span_that_it_no_longer_has(server):
    assert fetched(START, START + 100 * HOUR, name="kraken") == []
    assert len(server.asked) == 1


def test_the_rate_limiter_of_ccxt_is_on(server):
    assert ExchangeSource("kraken")._client.enableRateLimit


def test_market_is_remembered_for_the_next_client_of_the_same_address(server):
    for _ in range(3):
        fetched(START, START + 5 * HOUR)
        fetched(LAST - 5 * HOUR, LAST, name="kraken")
    assert (server.asked_for_markets, len(server.asked)) == (2, 6)


def test_second_market_of_a_client_is_loaded_too(server):
    client = source("kraken")
    for symbol in ("BTC/USDT", "BTC/USD", "BTC/USDT"):
        (page,) = client.fetch(symbol, "1h", LAST - 5 * HOUR, LAST)
        assert len(page) == 5
    assert [query["pair"] for query in server.asked] == ["XBTUSDT", "XXBTZUSD", "XBTUSDT"]


@pytest.mark.parametrize("name", VENUES)
def test_ticker_is_the_price_now_and_asked_for_once(server, name):
    tickers = [source(name).ticker("BTC/USDT") for _ in range(3)]
    assert tickers[0]["last"] == server.candles["close"].iloc[-1]
    assert {"last", "bid", "ask", "timestamp", "stale"} == set(tickers[0])
    assert tickers == [tickers[0]] * 3


# Backwards


def test_backward_gives_the_newest_page_first_and_the_same_bars(server, candles):
    pages = fetched(backward=True)
    assert [page.index[-1] for page in pages] == [END - HOUR, END - 1001 * HOUR]
    assert fingerprint(pd.concat(pages[::-1])) == fingerprint(between(candles, START, END))
    assert len(server.asked) == 2


@pytest.mark.parametrize(("name", "most"), [("binance", 5), ("kraken", 4)])
def test_backward_ends_where_the_exchange_has_no_older_bars(server, candles, name, most):
    pages = fetched(START - 20_000 * HOUR, LAST, name=name, backward=True)
    whole = candles if name == "binance" else candles.tail(KRAKEN_KEPT + 1)
    assert fingerprint(pd.concat(pages[::-1])) == fingerprint(whole)
    assert len(server.asked) <= most


def test_backward_crosses_a_hole_longer_than_a_page(server, candles):
    server.candles = candles.drop(index=candles.index[20:1600])
    pages = fetched(START, LAST, backward=True)
    assert fingerprint(pd.concat(pages[::-1])) == fingerprint(server.candles)


def test_backward_through_empty_answers_ends(server):
    server.mood = "empty"
    assert fetched(START - 100_000 * HOUR, LAST, backward=True) == []
    assert len(server.asked) < 30


# An exchange that does not


@pytest.mark.parametrize("name", VENUES)
@pytest.mark.parametrize("mood", ["unordered", "repeated", "corrected", "early"])
def test_unordered_repeated_and_overlapping_bars_are_put_right(server, mood, name):
    server.mood = mood
    pages = fetched(name=name, **span_of(name))
    assert fingerprint(pd.concat(pages)) == fingerprint(served(server, name))


def test_page_that_starts_too_early_gives_what_it_has_of_the_span(server):
    server.mood = "early"
    assert [len(page) for page in fetched(START + 300 * HOUR)] == [1000 - EARLY, 1116 - 1000 + EARLY]


@pytest.mark.parametrize("name", VENUES)
@pytest.mark.parametrize("mood", [429, 500, 503, "closed", "reset", "cut", "truncated"])
def test_failure_that_passes_is_not_seen(server, mood, name):
    server.mood, server.lasts = mood, 2
    pages = fetched(name=name, **span_of(name))
    assert fingerprint(pd.concat(pages)) == fingerprint(served(server, name))


def test_retry_after_is_waited_for(server):
    server.mood, server.lasts, server.retry_after = 429, 1, "1"
    begun = time.monotonic()
    assert sum(map(len, fetched())) == 1416
    assert time.monotonic() - begun >= 1


def test_retry_after_beyond_all_patience_is_said_at_once(server):
    server.mood, server.retry_after = 429, "120"
    assert "Too Many Requests" in (said := refusal(within=1.9))
    assert said.endswith("it asks to wait 120 s. Try again then.")


@pytest.mark.parametrize("retry_after", ["1", None], ids=["by its header", "by its words"])
def test_ban_is_not_tried_again_and_its_length_is_said(server, retry_after):
    server.mood, server.retry_after, server.patience = 418, retry_after, 1
    assert "418" in (said := refusal())
    assert "it asks to wait " in said
    assert len(server.asked) == 2


@pytest.mark.parametrize("mood", [451, 403, "html", "nothing", "sentence", "numbers", "fields"])
def test_what_will_not_pass_is_not_tried_again(server, mood):
    server.mood, server.patience = mood, 1
    refusal()
    assert len(server.asked) == 2


@pytest.mark.parametrize("mood", [500, 429, "closed", "reset", "cut", "truncated"])
def test_what_may_pass_is_tried_three_times(server, mood):
    server.mood, server.patience = mood, 1
    refusal()
    assert len(server.asked) == 4


@pytest.mark.parametrize(
    ("mood", "said"),
    [
        (500, "500 "),
        (451, "Unavailable For Legal Reasons"),
        (418, "418"),
        (429, "Too Many Requests"),
        ("html", "did not answer in JSON but with '<html><body>Please log in"),
        ("truncated", "did not answer in JSON but with "),
        ("closed", "closed connection without response"),
        ("reset", "reset by peer"),
        ("cut", "IncompleteRead"),
    ],
)
@pytest.mark.parametrize("patience", [0, 1], ids=["at once", "on the second page"])
@pytest.mark.parametrize("name", VENUES)
def test_refusal_names_the_exchange_and_its_reason(server, mood, said, patience, name):
    if patience and name == "kraken":  # it has one page
        fetched(name=name, **span_of(name))
    server.mood, server.patience = mood, patience
    assert said in refusal(name)


def test_rate_limit_that_kraken_tells_in_its_answer_is_tried_again(server):
    server.mood, server.lasts = "limited", 1
    assert sum(map(len, fetched(name="kraken", **span_of("kraken")))) == 700
    server.lasts = None
    assert "Rate limit exceeded" in refusal("kraken")


@pytest.mark.parametrize("mood", ["endless", "endless head", "slow"])
@pytest.mark.parametrize("name", VENUES)
def test_answer_that_never_ends_is_cut_off(server, monkeypatch, mood, name):
    fetched(START, START + HOUR)
    monkeypatch.setenv("BTCLAB_MARKET__TIMEOUT_S", "0.5")
    server.mood, server.delay = mood, 60.0
    threads = threading.active_count()
    said = refusal(name, within=3.0)
    assert "within 0.5 s" in said or "timed out" in said  # the second where a busy machine is late to connect
    assert threading.active_count() <= threads


def test_answer_that_ends_after_a_while_is_read_whole(server, candles):
    server.mood, server.lasts, server.delay = "slow", 2, 0.3
    assert fingerprint(pd.concat(fetched())) == fingerprint(between(candles, START, END))


def test_after_an_answer_was_cut_off_the_client_goes_on(server, monkeypatch, candles):
    monkeypatch.setenv("BTCLAB_MARKET__TIMEOUT_S", "0.5")
    client = source()
    list(client.fetch("BTC/USDT", "1h", START, START + HOUR))
    server.mood, server.lasts = "endless", 1
    (page,) = client.fetch("BTC/USDT", "1h", START, START + 9 * HOUR)
    assert fingerprint(page) == fingerprint(candles.iloc[:9])


@pytest.mark.parametrize(
    ("mood", "said"), [("dip", "high below its low"), ("words", "close=nan"), ("short", "volume=nan")]
)
@pytest.mark.parametrize("name", VENUES)
def test_wrong_bars_are_refused_with_their_row(server, mood, said, name):
    server.mood = mood
    message = refusal(name)
    assert f"answered with wrong candles: Row 0 at {served(server, name).index[0]}" in message
    assert said in message


@pytest.mark.parametrize(("name", "year"), [("binance", "1970"), ("kraken", "53218")])
@pytest.mark.parametrize("backward", [False, True])
def test_times_in_another_unit_are_refused(server, name, year, backward):
    server.mood = "unit"
    said = refusal(name, backward=backward)
    assert f"a bar of {year} " in said and "Its times are in another unit." in said


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("name", VENUES)
def test_bar_with_scaled_prices_is_refused(server, name, backward):
    server.mood = "scaled bar"
    assert "opens far from the close before it" in refusal(name, backward=backward)


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("patience", [0, 1], ids=["the first page", "the second page"])
def test_no_page_is_given_whose_neighbour_is_a_hundred_times_away(server, candles, patience, backward):
    fetched(START, START + HOUR)  # the market is known now, and the next answer is a page
    server.asked.clear()
    server.mood, server.patience, server.lasts = "scaled page", patience, 1
    given = []
    with pytest.raises(DataUnavailable, match="opens far from the close before it"):
        for page in source().fetch("BTC/USDT", "1h", START, END, backward=backward):
            given.append(page)
    assert given == []


def test_page_of_another_time_than_asked_for_is_refused(server, candles):
    server.mood = "stuck"
    assert "those of 2021-01-01 00:00:00+00:00 to " in (said := refusal())
    assert "asked for those from 2021-02-11 16:00:00+00:00 on" in said
    assert len(server.asked) == 2


def test_pages_before_a_refusal_are_not_lost(server, candles):
    server.mood, server.patience = 500, 2
    pages = ExchangeSource("binance").fetch("BTC/USDT", "1h", START, candles.index[-1])
    assert fingerprint(next(pages)) == fingerprint(candles.iloc[:1000])
    assert fingerprint(next(pages)) == fingerprint(candles.iloc[1000:2000])
    with pytest.raises(DataUnavailable):
        next(pages)


def test_a_misspelt_exchange_among_the_addresses_is_named(monkeypatch):
    monkeypatch.setenv("BTCLAB_MARKET__EXCHANGE_URLS", '{"binanc": "http://127.0.0.1:9"}')
    with pytest.raises(InputError, match=r"Unknown exchange in market\.exchange_urls: 'binanc'"):
        ExchangeSource("binance")


def test_pages_without_bars_give_none(server):
    server.mood = "empty"
    assert fetched() == []
    assert len(server.asked) == 2


def test_symbol_that_is_not_listed_is_named(server):
    with pytest.raises(DataUnavailable, match="binance: does not list BTC/XYZ"):
        list(ExchangeSource("binance").fetch("BTC/XYZ", "1h", START, END))
    assert server.asked == []


def test_timeframe_that_the_exchange_has_not_is_said_without_asking_it():
    with pytest.raises(NotListed, match=r"coinbase: has no bars of 4h, only of 1m, 5m, .*--timeframe"):
        list(ExchangeSource("coinbase").fetch("BTC/USD", "4h", START, END))


@pytest.mark.parametrize("name", ["binance", "kraken", "coinbase", "bitstamp"])
def test_no_network_is_said_for_each_exchange_of_the_settings(name):
    with pytest.raises(DataUnavailable, match=f"{name}: .*[Rr]efused"):
        list(ExchangeSource(name).fetch("BTC/USDT", "1h", START, END))


@pytest.mark.parametrize("name", ["kraken", "coinbase", "bitstamp"])
def test_a_login_page_is_no_answer_of_any_exchange(server, monkeypatch, name):
    monkeypatch.setenv("BTCLAB_MARKET__EXCHANGE_URLS", json.dumps({name: server.url}))
    server.mood = "html"
    with pytest.raises(DataUnavailable, match=f"{name}: did not answer in JSON"):
        list(ExchangeSource(name).fetch("BTC/USDT", "1h", START, END))


@pytest.mark.parametrize(("wrong", "near"), [("binanse", "'binance'"), ("kraaken", "'kraken'")])
def test_unknown_exchange_suggests_near_ones(wrong, near):
    with pytest.raises(InputError, match=rf"Unknown source: '{wrong}'\. Did you mean .*{near}"):
        ExchangeSource(wrong)


# The server itself


def test_server_leaves_no_thread_whatever_it_was_doing(candles):
    threads = threading.active_count()
    with serving(candles) as replay:
        replay.mood = "endless"
        begun = time.monotonic()
    assert threading.active_count() == threads
    assert time.monotonic() - begun < 2


def test_replay_answers_in_the_shape_of_binance(server, recorded):
    ours, theirs = server.page({"interval": "1h", "limit": "3"}), recorded("binance_spot_klines_1m")
    assert {tuple(type(value) for value in row) for row in ours} == {tuple(type(v) for v in row) for row in theirs}
    assert ours[0][6] - ours[0][0] == 3_599_999  # closes a millisecond before the next one opens
    assert theirs[0][6] - theirs[0][0] == 59_999


def test_replay_answers_in_the_shape_of_kraken(server, recorded):
    theirs = recorded("kraken_ohlc_1m_xbtusdt")["result"]
    ours = server.content("/0/public/OHLC", {"pair": "XBTUSDT", "interval": "60"})["result"]
    assert [type(value) for value in ours["XBTUSDT"][0]] == [type(value) for value in theirs["XBTUSDT"][0]]
    assert len(ours["XBTUSDT"]) == len(theirs["XBTUSDT"]) == KRAKEN_KEPT + 1
    assert recorded("kraken_asset_pairs")["result"]["XBTUSDT"].keys() == KRAKEN_PAIRS["XBTUSDT"].keys()
    ticker = server.content("/0/public/Ticker", {"pair": "XBTUSDT"})["result"]["XBTUSDT"]
    assert recorded("kraken_ticker")["result"]["XBTUSDT"].keys() == ticker.keys()
    assert {pair["base"] for pair in KRAKEN_PAIRS.values()} < set(KRAKEN_ASSETS)


def test_recorded_answer_of_binance_is_read_to_the_last_digit(server, recorded, monkeypatch):
    rows = recorded("binance_spot_klines_1m")
    monkeypatch.setattr(server, "page", lambda query: rows)
    first, last = (pd.to_datetime(row[0], unit="ms", utc=True) for row in (rows[0], rows[-1]))
    (page,) = fetched(first, last + pd.Timedelta("1min"), "1m")
    validate_candles(page, "1m")
    assert np.array_equal(page.to_numpy(), np.array([row[1:6] for row in rows], dtype=float))


def test_recorded_answer_of_kraken_is_read_to_the_last_digit(server, recorded, monkeypatch):
    rows = recorded("kraken_ohlc_1m_xbtusdt")["result"]["XBTUSDT"]
    monkeypatch.setattr(server, "kraken_page", lambda query: rows)
    first, last = (pd.to_datetime(row[0], unit="s", utc=True) for row in (rows[0], rows[-1]))
    (page,) = fetched(first, last + pd.Timedelta("1min"), "1m", name="kraken")
    validate_candles(page, "1m")
    assert np.array_equal(page.to_numpy(), np.array([[*row[1:5], row[6]] for row in rows], dtype=float))
