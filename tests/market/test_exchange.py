"""One exchange through the real ccxt client: which bars come back from a server that behaves, and from one that does not."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import pandas as pd
import pytest

from btclab.errors import DataUnavailable, InputError
from btclab.market.candles import between, close_times, fingerprint, validate_candles
from btclab.market.exchange import ExchangeSource
from tests.market.replay import Replay, serving

HOUR = pd.Timedelta("1h")
START, END = pd.Timestamp("2021-01-01", tz="UTC"), pd.Timestamp("2021-03-01", tz="UTC")


@pytest.fixture
def server(candles: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> Iterator[Replay]:
    """Binance for this test: three months of simulated hours on this machine."""
    with serving(candles) as replay:
        monkeypatch.setenv("BTCLAB_MARKET__EXCHANGE_URLS", json.dumps({"binance": replay.url}))
        yield replay


def fetched(start: pd.Timestamp = START, end: pd.Timestamp = END, timeframe: str = "1h") -> list[pd.DataFrame]:
    return list(ExchangeSource("binance").fetch("BTC/USDT", timeframe, start, end))


def refusal() -> str:
    with pytest.raises(DataUnavailable) as caught:
        fetched()
    assert caught.value.exit_code == 1
    assert str(caught.value).startswith("binance: ")
    return str(caught.value)


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


# An exchange that does not


@pytest.mark.parametrize("mood", ["unordered", "corrected"])
def test_unordered_and_repeated_bars_are_put_right(server, candles, mood):
    server.mood = mood
    assert fingerprint(pd.concat(fetched())) == fingerprint(between(candles, START, END))


@pytest.mark.parametrize(
    ("mood", "said"),
    [
        (500, "500 Server Error"),
        (451, "Unavailable For Legal Reasons"),
        (429, "Too Many Requests"),
        ("html", "did not answer in JSON but with '<html><body>Please log in"),
        ("nothing", "did not answer in JSON"),
        ("sentence", "did not answer in JSON"),
        ("closed", "closed connection without response"),
        ("cut", "IncompleteRead"),
    ],
)
@pytest.mark.parametrize("patience", [0, 1], ids=["at once", "on the second page"])
def test_refusal_names_the_exchange_and_its_reason(server, mood, said, patience):
    server.mood, server.patience = mood, patience
    assert said in refusal()


@pytest.mark.parametrize(
    ("mood", "said"), [("dip", "high below its low"), ("words", "close=nan"), ("short", "volume=nan")]
)
def test_wrong_bars_are_refused_with_their_row(server, mood, said):
    server.mood = mood
    message = refusal()
    assert "answered with wrong candles: Row 0 at 2021-01-01 00:00:00+00:00" in message
    assert said in message


def test_pages_before_a_refusal_are_not_lost(server, candles):
    server.mood, server.patience = 500, 1
    pages = ExchangeSource("binance").fetch("BTC/USDT", "1h", START, END)
    assert fingerprint(next(pages)) == fingerprint(candles.iloc[:1000])
    with pytest.raises(DataUnavailable):
        next(pages)


def test_pages_without_bars_give_none(server):
    server.mood = "empty"
    assert fetched() == []
    assert len(server.asked) == 2


def test_symbol_that_is_not_listed_is_named(server):
    with pytest.raises(DataUnavailable, match="binance: does not list BTC/XYZ"):
        list(ExchangeSource("binance").fetch("BTC/XYZ", "1h", START, END))
    assert server.asked == []


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


def test_replay_answers_in_the_shape_of_binance(server, real_file):
    recorded = json.loads((real_file.parents[1] / "responses" / "verified" / "binance_spot_klines_1m.json").read_text())
    ours = server.page({"interval": "1h", "limit": "3"})
    assert {tuple(type(value) for value in row) for row in ours} == {tuple(type(v) for v in row) for row in recorded}
    assert ours[0][6] - ours[0][0] == 3_599_999  # closes a millisecond before the next one opens
    assert recorded[0][6] - recorded[0][0] == 59_999


def test_recorded_answer_of_binance_is_read_to_the_last_digit(server, real_file, monkeypatch):
    recorded = json.loads((real_file.parents[1] / "responses" / "verified" / "binance_spot_klines_1m.json").read_text())
    monkeypatch.setattr(server, "page", lambda query: recorded)
    first, last = (pd.to_datetime(row[0], unit="ms", utc=True) for row in (recorded[0], recorded[-1]))
    (page,) = fetched(first, last + pd.Timedelta("1min"), "1m")
    validate_candles(page, "1m")
    assert np.array_equal(page.to_numpy(), np.array([row[1:6] for row in recorded], dtype=float))
