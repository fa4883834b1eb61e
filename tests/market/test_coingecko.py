"""CoinGecko through the real pycoingecko, against a server on this machine that answers in CoinGecko's shape."""

from __future__ import annotations

import json
import threading
import time
import traceback
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import numpy as np
import pandas as pd
import pytest

from btclab.errors import DataUnavailable, NotListed
from btclab.market.candles import fingerprint, validate_candles
from btclab.market.coingecko import CoinGeckoSource
from tests.conftest import SHARED

DAY = pd.Timedelta("1D")
KEY = "CG-secret-key"


def midnight() -> pd.Timestamp:
    return pd.Timestamp.now("UTC").floor("1D")


class Gecko:
    """What the server answers from (`hours`, ending now, and `caps` by the day at whose 00:00 they were) and how.

    `mood` is None (well), a status, "html", "cut", "empty", "seconds", "shifted", "scaled", "words", "sentence" or "slow".
    """

    def __init__(self, hours: pd.DataFrame, url: str) -> None:
        self.hours, self.url, self.mood = hours, url, None
        days = pd.date_range(end=midnight(), periods=400)
        self.caps = pd.Series(1e12 + 1e9 * np.arange(400), index=days)
        self.asked: list[tuple[str, dict[str, str]]] = []

    def answer(self, path: str, query: dict[str, str]) -> Any:
        now = pd.Timestamp.now("UTC")
        if path.endswith("/ohlc/range"):
            first, last = (pd.Timestamp(int(query[edge]), unit="s", tz="UTC") for edge in ("from", "to"))
            return [row for row in self.bars("1D", now) if first.value // 10**6 <= row[0] <= last.value // 10**6]
        if path.endswith("/ohlc"):
            since = (now - int(query["days"]) * DAY).value // 10**6
            return [row for row in self.bars("4h", now) if row[0] >= since]
        days = 9999 if "range" in path or query["days"] == "max" else int(query["days"])
        daily = self.hours.resample("1D").agg({"volume": "sum", "close": "last"})
        quoted = (daily["volume"] * daily["close"]).set_axis(daily.index + DAY)[lambda day: day.index <= midnight()]
        since = midnight() - days * DAY
        latest = [now.value // 10**6, 7e12]  # now, in the middle of a day
        return {
            "prices": [],
            "market_caps": [*rows_of(self.caps[self.caps.index >= since]), latest],
            "total_volumes": [*rows_of(quoted[quoted.index >= since]), latest],
        }

    def bars(self, step: str, now: pd.Timestamp) -> list[list[float]]:
        """Rows dated by their close; the forming one is dated now."""
        how = {"open": "first", "high": "max", "low": "min", "close": "last"}
        bars = self.hours.resample(step).agg(how).dropna()
        closes = [min(stamp + pd.Timedelta(step), now).value // 10**6 for stamp in bars.index]
        return [[stamp, *map(float, row)] for stamp, row in zip(closes, bars.to_numpy(), strict=True)]


def rows_of(values: pd.Series) -> list[list[float]]:
    return [[stamp.value // 10**6, float(value)] for stamp, value in values.items()]


def spoilt(content: Any, mood: Any) -> Any:
    if mood == "empty":
        return [] if isinstance(content, list) else {name: [] for name in content}
    if mood == "sentence":
        return {"status": {"error_code": 10005, "error_message": "maintenance"}}
    ways = {
        "seconds": lambda row: [row[0] // 1000, *row[1:]],
        "shifted": lambda row: [row[0] + 1_800_000, *row[1:]],
        "scaled": lambda row: [row[0], *(100 * price for price in row[1:])] if row[0] > days_ago else row,
        "words": lambda row: [row[0], "n/a", *row[2:]],
    }
    days_ago = (midnight() - 5 * DAY).value // 10**6
    return [ways[mood](row) for row in content] if mood in ways and isinstance(content, list) else content


class _Handler(BaseHTTPRequestHandler):
    gecko: Gecko

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        query = dict(parse_qsl(parts.query))
        self.gecko.asked.append((parts.path, query))
        mood = self.gecko.mood
        if isinstance(mood, int):
            self._send(mood, json.dumps({"status": {"error_code": mood, "error_message": "no"}}))
        elif mood == "html":
            self._send(200, "<html>please log in</html>")
        elif mood == "slow":
            self.send_response(200)
            self.end_headers()
            with_time = time.monotonic() + 20
            try:
                while time.monotonic() < with_time:
                    self.wfile.write(b" ")
                    time.sleep(0.05)
            except OSError:
                return
        else:
            text = json.dumps(spoilt(self.gecko.answer(parts.path, query), mood))
            self._send(200, text[: len(text) // 2] if mood == "cut" else text)

    def _send(self, status: int, text: str) -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if status == 429:
            self.send_header("Retry-After", "0" if self.gecko.mood == 429 else "3600")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Silent: the tests read `Gecko.asked`."""


@pytest.fixture(scope="module")
def hours(candles: pd.DataFrame) -> pd.DataFrame:
    """Two months of hours that end in the hour that is forming now."""
    some = candles.iloc[-1440:]
    index = pd.date_range(end=pd.Timestamp.now("UTC").floor("1h"), periods=len(some), freq="h", name="timestamp")
    return some.set_axis(index)


@pytest.fixture
def gecko(hours: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gecko]:
    """CoinGecko for this test."""
    handler = type("Handler", (_Handler,), {})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    handler.gecko = Gecko(hours, f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    address(monkeypatch, handler.gecko.url)
    monkeypatch.setenv("BTCLAB_MARKET__TIMEOUT_S", "1")
    try:
        yield handler.gecko
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


def address(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("BTCLAB_MARKET__EXCHANGE_URLS", json.dumps({"coingecko": url}))


def fetched(days: int = 20, symbol: str = "BTC/USD", timeframe: str = "1d") -> list[pd.DataFrame]:
    now = pd.Timestamp.now("UTC")
    return list(CoinGeckoSource().fetch(symbol, timeframe, midnight() - days * DAY, now))


def expected(hours: pd.DataFrame, days: int) -> pd.DataFrame:
    """The exchange's own days."""
    how = {"open": "first", "high": "max", "low": "min", "close": "last", "volume": "sum"}
    daily = hours.resample("1D").agg(how)
    return daily[(daily.index >= midnight() - days * DAY) & (daily.index < midnight())]


# Bars


def test_days_are_those_of_the_exchange_stamped_by_their_open(gecko, hours):
    (page,) = fetched(20)
    pd.testing.assert_frame_equal(page, expected(hours, 20), check_freq=False, check_index_type=False, rtol=1e-12)
    assert len(page) == 20
    validate_candles(page, "1d")


def test_the_day_that_is_forming_is_left_out(gecko):
    (page,) = fetched(3)
    assert page.index[-1] == midnight() - DAY


def test_a_bar_says_what_its_volume_is(gecko):
    (page,) = fetched(3)
    assert "24-hour volume in USD" in page.attrs["notes"][0]


def test_a_day_with_a_missing_bar_is_missing(gecko, hours):
    day = midnight() - 5 * DAY
    gecko.hours = hours.drop(hours[day : day + pd.Timedelta("11h")].index)
    (page,) = fetched(20)
    assert len(page) == 19 and day not in page.index


def test_only_what_is_asked_for_comes_and_the_answer_is_kept(gecko):
    start = midnight() - 7 * DAY
    for _ in range(2):
        (page,) = CoinGeckoSource().fetch("BTC/USD", "1d", start, start + 2 * DAY)
        assert list(page.index) == [start, start + DAY]
    assert [path for path, _ in gecko.asked] == ["/api/v3/coins/bitcoin/ohlc", "/api/v3/coins/bitcoin/market_chart"]


def test_what_is_older_than_the_free_plan_is_said_not_made(gecko):
    source = CoinGeckoSource()
    (page,) = source.fetch("BTC/USD", "1d", midnight() - 50 * DAY, midnight())
    assert 28 <= len(page) <= 30
    assert "the free plan reaches back to" in source.notes[0] and "pro-api.coingecko.com" in source.notes[0]
    with pytest.raises(DataUnavailable, match=r"free plan reaches back to .* paid plan"):
        list(source.fetch("BTC/USD", "1d", midnight() - 50 * DAY, midnight() - 40 * DAY))


@pytest.mark.parametrize("symbol", ["BTC/USDT", "NOPE/USD", "BTC", "BTC/BTC"])
def test_a_market_that_it_does_not_price(gecko, symbol):
    with pytest.raises(NotListed, match=rf"coingecko: does not list {symbol}.*--symbol BTC/USD"):
        fetched(3, symbol)
    assert not gecko.asked


def test_hours_are_not_to_be_had(gecko):
    with pytest.raises(NotListed, match="only of 1d"):
        fetched(3, timeframe="1h")


@pytest.mark.parametrize("backward", [False, True])
def test_paid_plan_pages_through_years_of_days(gecko, monkeypatch, backward):
    address(monkeypatch, gecko.url + "/pro-api")
    monkeypatch.setenv("BTCLAB_MARKET__COINGECKO_API_KEY", KEY)
    index = pd.date_range(end=midnight() - pd.Timedelta("1h"), periods=500 * 24, freq="h")
    close = 20_000 + np.arange(len(index)) * 0.5
    prices = {"open": close - 0.5, "high": close + 1, "low": close - 1, "close": close, "volume": 3.0}
    gecko.hours = pd.DataFrame(prices, index=index)
    start = midnight() - 450 * DAY
    pages = list(CoinGeckoSource().fetch("BTC/USD", "1d", start, midnight(), backward=backward))
    assert [len(page) for page in pages] == ([90, 180, 180] if backward else [180, 180, 90])
    whole = pd.concat(pages).sort_index()
    assert (whole.index == pd.date_range(start, periods=450)).all()
    assert np.allclose(whole, expected(gecko.hours, 450))
    path, query = gecko.asked[0]
    assert path == "/pro-api/api/v3/coins/bitcoin/ohlc/range" and query["x_cg_pro_api_key"] == KEY


# Market capitalisation


def test_a_snapshot_belongs_to_the_day_that_ends_with_it(gecko):
    caps = CoinGeckoSource().market_cap(start=midnight() - 10 * DAY)
    assert caps.index[-1] == midnight() - DAY  # the row dated now is none
    assert (caps.to_numpy() == gecko.caps.iloc[-10:].to_numpy()).all()
    assert list(caps.index) == list(gecko.caps.index[-10:] - DAY)
    assert caps.attrs["unit"] == "USD" and not caps.attrs["notes"]


def test_real_capitalisation_moves_with_the_exchange_on_the_same_day(gecko):
    aggregated, exchange = (
        SHARED / "candles" / name for name in ("coingecko_btc_1d.csv", "binance_btcusdt_1d_2017-08_2024-12.csv")
    )
    if not aggregated.exists():
        pytest.skip(f"no real files at {SHARED}")
    real = pd.read_csv(aggregated, index_col="date", parse_dates=True)["market_cap_usd"].tz_localize("UTC").iloc[-300:]
    late = midnight() - real.index[-1]
    gecko.caps = real.set_axis(real.index + late)
    caps = CoinGeckoSource().market_cap()
    closes = pd.read_csv(exchange, index_col="timestamp", parse_dates=True)["close"]
    ours, theirs = np.log(caps).diff().set_axis(caps.index - late), np.log(closes).diff()
    assert ours.corr(theirs) > 0.95
    assert abs(ours.corr(theirs.shift(1))) < 0.3


def test_capitalisation_older_than_a_year_is_said(gecko):
    caps = CoinGeckoSource().market_cap(start=midnight() - 390 * DAY)
    assert len(caps) == 366 and "free plan" in caps.attrs["notes"][0]
    with pytest.raises(DataUnavailable, match="no market capitalisation from 2015-01-01"):
        CoinGeckoSource().market_cap("2015-01-01", "2016-01-01")


# A server that misbehaves


@pytest.mark.parametrize(
    ("mood", "said"),
    [
        (429, "429"),
        (500, "500"),
        (451, "451"),
        ("html", "did not answer in JSON"),
        ("cut", "did not answer in JSON"),
        ("empty", "without any bar"),
        ("sentence", "did not answer with a list of bars"),
        ("seconds", "not in milliseconds"),
        ("scaled", "wrong candles"),
        ("words", "a row that is no bar"),
        ("shifted", "no multiple of 0 days 04:00:00"),
        ("slow", "1 s"),
    ],
)
def test_each_failure_is_named_within_a_bounded_time_and_not_kept(gecko, hours, mood, said):
    gecko.mood = mood
    begun = time.monotonic()
    with pytest.raises(DataUnavailable, match=said) as caught:
        fetched(20)
    assert str(caught.value).startswith("coingecko: ")
    assert time.monotonic() - begun < 8
    gecko.mood = None
    assert fingerprint(fetched(20)[0].round(6)) == fingerprint(expected(hours, 20).round(6))


def test_a_kept_answer_in_place_of_a_failure_is_said(gecko, monkeypatch):
    fetched(20)
    monkeypatch.setattr("btclab.market.cache.LIFETIMES", {"daily": 0.0})
    gecko.mood = 500
    source, pages = CoinGeckoSource(), []
    with pytest.raises(DataUnavailable, match=r"only a kept answer could be had, .* old: coingecko: .*500"):
        pages.extend(source.fetch("BTC/USD", "1d", midnight() - 3 * DAY, midnight()))


def test_an_address_where_nobody_listens(monkeypatch):
    address(monkeypatch, "http://127.0.0.1:9")
    monkeypatch.setenv("BTCLAB_MARKET__TIMEOUT_S", "1")
    with pytest.raises(DataUnavailable, match=r"coingecko: .*refused"):
        fetched(3)


@pytest.mark.parametrize("mood", [None, 401, 500, "html", "words"])
def test_the_key_is_sent_and_is_in_no_message_and_no_cache(gecko, monkeypatch, home, mood):
    monkeypatch.setenv("BTCLAB_MARKET__COINGECKO_API_KEY", KEY)
    gecko.mood = mood
    try:
        fetched(3)
    except DataUnavailable:
        assert KEY not in traceback.format_exc()
    assert gecko.asked[0][1]["x_cg_demo_api_key"] == KEY
    assert KEY not in repr(vars(CoinGeckoSource()))
    assert not [path for path in home.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]
