"""Funding rate, open interest and gold through the real ccxt clients."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from btclab.context.fetch import fetch_context
from btclab.context.series import SERIES
from btclab.context.store import read_values
from tests.conftest import CLOSED, SHARED
from tests.context.serving import TODAY, Sources, walk

NOW = pd.Timestamp.now("UTC")


def fetched(name: str, start: object = None):
    (outcome,) = fetch_context(name, start)
    return outcome


@pytest.fixture
def bybit_only(server: Sources, monkeypatch: pytest.MonkeyPatch) -> Sources:
    monkeypatch.setenv(
        "BTCLAB_MARKET__EXCHANGE_URLS", json.dumps({"binanceusdm": CLOSED, "okx": CLOSED, "bybit": server.url})
    )
    return server


def funding(days: int = 60) -> pd.Series:
    values = walk("funding", days, "8h") / 1e6
    return values[values.index + SERIES["funding_rate"].lag <= NOW]


def test_every_settlement_is_stored_from_the_beginning(server):
    server.values["funding"] = walk("funding", 500, "8h") / 1e6
    outcome = fetched("funding_rate")
    assert (outcome.failed, outcome.source) == ("", "binanceusdm")
    stored = read_values("binanceusdm", "funding_rate")
    expected = server.values["funding"][server.values["funding"].index + SERIES["funding_rate"].lag <= NOW]
    assert np.allclose(stored.to_numpy(), expected.to_numpy(), rtol=1e-12)
    assert stored.index.equals(expected.index.as_unit("ms"))


def test_pages_that_begin_long_before_the_market_did_are_crossed(bybit_only):
    outcome = fetched("funding_rate")
    assert (outcome.failed, outcome.source, outcome.rows) == ("", "bybit", len(funding()))
    paths = [path for path, _ in bybit_only.asked if path.endswith("funding/history")]
    days = (TODAY - pd.Timestamp("2019-09-10", tz="UTC")).days
    assert len(paths) <= days * 3 / 200 + 3


def test_the_first_venue_that_answers_keeps_the_series(bybit_only, server, monkeypatch):
    assert fetched("funding_rate").source == "bybit"
    addresses = {"binanceusdm": server.url, "okx": CLOSED, "bybit": server.url}
    monkeypatch.setenv("BTCLAB_MARKET__EXCHANGE_URLS", json.dumps(addresses))
    assert fetched("funding_rate").source == "bybit"
    monkeypatch.setenv("BTCLAB_MARKET__EXCHANGE_URLS", json.dumps({**addresses, "bybit": CLOSED}))
    outcome = fetched("funding_rate")
    assert outcome.failed.startswith("bybit: ")
    assert "The series stays with bybit; for another source move" in outcome.failed
    assert read_values("binanceusdm", "funding_rate") is None


def test_all_venues_are_named_when_all_fail(nowhere):
    failed = fetched("funding_rate").failed
    assert all(f"{venue}: " in failed for venue in ("binanceusdm", "bybit", "okx"))


def test_only_the_newest_settlements_are_asked_for_again(server):
    fetched("funding_rate")
    server.asked.clear()
    outcome = fetched("funding_rate")
    assert (outcome.new, outcome.revised, outcome.failed) == (0, 0, "")
    starts = [int(query["startTime"]) for path, query in server.asked if path.endswith("fundingRate")]
    assert min(starts) >= (TODAY - pd.Timedelta("16D")).timestamp() * 1000


def test_open_interest_is_known_a_day_after_its_stamp(server):
    outcome = fetched("open_interest")
    assert (outcome.failed, outcome.source) == ("", "bybit")
    expected = walk("interest")
    expected = expected[expected.index + SERIES["open_interest"].lag <= NOW]
    stored = read_values("bybit", "open_interest")
    assert stored.index.equals(expected.index.as_unit("ms"))
    assert np.array_equal(stored.to_numpy(), expected.to_numpy())


def test_a_venue_with_a_short_memory_is_asked_for_no_more(server, monkeypatch):
    addresses = {"binanceusdm": server.url, "okx": CLOSED, "bybit": CLOSED}
    monkeypatch.setenv("BTCLAB_MARKET__EXCHANGE_URLS", json.dumps(addresses))
    outcome = fetched("open_interest")
    assert (outcome.failed, outcome.source) == ("", "binanceusdm")
    starts = [int(query["startTime"]) for path, query in server.asked if path.endswith("openInterestHist")]
    assert min(starts) >= (NOW - pd.Timedelta("30D")).timestamp() * 1000


def test_gold_is_the_close_of_a_closed_day(server):
    outcome = fetched("gold", TODAY - pd.Timedelta("20D"))
    assert (outcome.failed, outcome.source) == ("", "binance")
    expected = walk("paxg")
    expected = expected[(expected.index >= TODAY - pd.Timedelta("20D")) & (expected.index + SERIES["gold"].lag <= NOW)]
    assert np.array_equal(read_values("binance", "gold").to_numpy(), expected.to_numpy())


@pytest.mark.parametrize(
    "mood",
    ["html", "cut", "closed", 429, 451, 500, "sentence", "list", "empty", "words", "infinite", "negative", "twice"],
)
@pytest.mark.parametrize("name", ["funding_rate", "open_interest"])
def test_a_wrong_answer_of_every_venue_is_refused_by_name(server, name, mood):
    server.mood, server.only = mood, "und" if name == "funding_rate" else "nterest"
    outcome = fetched(name, TODAY - pd.Timedelta("25D"))
    assert outcome.rows == 0
    assert all(f"{venue}: " in outcome.failed for venue in SERIES[name].sources)
    assert all(read_values(venue, name) is None for venue in SERIES[name].sources)


@pytest.mark.parametrize("mood", ["unordered", "repeated"])
def test_order_and_repetition_mean_nothing(server, mood):
    server.mood, server.only = mood, "fundingRate"
    assert fetched("funding_rate").failed == ""
    assert np.allclose(read_values("binanceusdm", "funding_rate"), funding(), rtol=1e-12)


@pytest.mark.parametrize("name", ["funding_rate", "open_interest"])
def test_okx_gives_its_last_month_without_a_hole_and_in_coins(server, monkeypatch, name):
    addresses = {"binanceusdm": CLOSED, "bybit": CLOSED, "okx": server.url}
    monkeypatch.setenv("BTCLAB_MARKET__EXCHANGE_URLS", json.dumps(addresses))
    outcome = fetched(name)
    assert (outcome.failed, outcome.source) == ("", "okx")
    expected = funding() if name == "funding_rate" else walk("interest")
    stored = read_values("okx", name)
    span = expected[(expected.index >= stored.index[0]) & (expected.index + SERIES[name].lag <= NOW)]
    assert stored.index[0] <= NOW - pd.Timedelta("27D")
    assert np.allclose(stored.to_numpy(), span.to_numpy(), rtol=1e-12)


def test_a_rate_in_percent_is_no_rate(server):
    server.values["funding"] = walk("funding", 60, "8h")  # around 50
    failed = fetched("funding_rate", TODAY - pd.Timedelta("25D")).failed
    assert "is outside -0.1 to 0.1 (fraction per funding interval" in failed


@pytest.mark.parametrize(
    ("file", "path", "rows"),
    [
        ("binance_futures_market_funding_rate.json", "/fapi/v1/fundingRate", lambda answer: answer),
        ("okx_funding_history.json", "/api/v5/public/funding-rate-history", lambda answer: answer["data"]),
        ("bybit_funding_history.json", "/v5/market/funding/history", lambda answer: answer["result"]["list"]),
    ],
)
def test_the_server_answers_in_the_recorded_shapes(server, file, path, rows):
    recorded = SHARED / "responses" / "shape_only" / file
    if not recorded.exists():
        pytest.skip(f"no recorded answer at {recorded}")
    ours = rows(server.answer(path, {"startTime": "0", "before": "0", "limit": "5"}, None))[0]
    theirs = rows(json.loads(recorded.read_text()))[0]
    assert {key: type(value) for key, value in ours.items()} == {key: type(value) for key, value in theirs.items()}
