"""The sources behind HTTP, through the real client: what is stored from a source that behaves, and from one that does not."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from btclab.context.fetch import fetch_context
from btclab.context.series import SERIES
from btclab.context.store import read_values
from btclab.errors import InputError
from tests.conftest import SHARED
from tests.context.serving import TODAY, walk

# One series of each source, and the source's own name for it.
ONE = {
    "alternative.me": ("fear_greed", "fng"),
    "blockchain.info": ("miners_revenue", "miners-revenue"),
    "mempool.space": ("difficulty", "difficulty-adjustments"),
    "coingecko": ("market_cap_midnight", "market_caps"),
    "fred": ("vix", "VIXCLS"),
    "coinmetrics": ("active_addresses", "AdrActCnt"),
}
each_source = pytest.mark.parametrize("source", ONE)


def served(source: str) -> pd.Series:
    """What the server has of the one series of `source` that was public by now."""
    name, code = ONE[source]
    values = walk(code)
    if source == "mempool.space":
        values = values[::14]
    if source == "fred":
        values = values[values.index.dayofweek < 5].drop(values[values.index.dayofweek < 5].index[3])
    return values[values.index + SERIES[name].lag <= pd.Timestamp.now("UTC")]


def fetched(source: str):
    (outcome,) = fetch_context(ONE[source][0])
    return outcome


@each_source
def test_all_that_was_public_is_stored_with_its_stamp(server, source):
    outcome = fetched(source)
    assert (outcome.failed, outcome.skipped, outcome.stale) == ("", "", "")
    stored = read_values(source, outcome.name)
    expected = served(source)
    assert stored.index.equals(expected.index.as_unit("ms"))
    assert np.array_equal(stored.to_numpy(), expected.to_numpy())
    assert (outcome.source, outcome.rows, outcome.new) == (source, len(expected), len(expected))
    assert (outcome.first, outcome.last) == (expected.index[0], expected.index[-1])


@each_source
def test_the_running_day_is_not_stored(server, source):
    fetched(source)
    name = ONE[source][0]
    assert (read_values(source, name).index + SERIES[name].lag <= pd.Timestamp.now("UTC")).all()
    assert server.of(ONE[source][1]).index[-1] == TODAY


@each_source
@pytest.mark.parametrize("mood", ["unordered", "repeated"])
def test_order_and_repetition_mean_nothing(server, source, mood):
    server.mood = mood
    assert fetched(source).failed == ""
    expected = walk(ONE[source][1])
    stored = read_values(source, ONE[source][0])
    assert np.array_equal(stored.to_numpy(), expected[stored.index].to_numpy())


WRONG = {
    "html": "did not answer in JSON",
    "cut": "",
    "closed": "",
    429: "429",
    451: "451",
    500: "500",
    "null": "another shape",
    "sentence": "another shape",
    "list": "another shape",
    "object": "another shape",
    "short": "another shape",
    "empty": "holds no values",
    "words": "n/a",
    "negative": "outside",
    "infinite": "outside",
    "twice": "has two values",
    "future": "no time between 2009-01-01 and now",
    "scale": "no time between 2009-01-01 and now",
}
BARE_NUMBERS = ("blockchain.info", "mempool.space", "coingecko")  # the others send their values as text


@each_source
@pytest.mark.parametrize(("mood", "said"), WRONG.items(), ids=map(str, WRONG))
def test_a_wrong_answer_is_refused_by_name_and_neither_stored_nor_cached(server, source, mood, said):
    if mood == "scale" and source in ("fred", "coinmetrics"):
        mood, said = "future", WRONG["future"]  # their stamps are text
    if mood == "scale" and source == "coingecko":
        said = "rows is stamped, in ms, with 00:00 UTC"
    if mood == "infinite" and source in BARE_NUMBERS:
        said = "did not answer in JSON"  # JSON has no infinity
    server.mood = mood
    outcome = fetched(source)
    assert outcome.failed.startswith(f"{source}: ")
    assert said in outcome.failed
    assert outcome.rows == 0
    assert read_values(source, outcome.name) is None
    server.mood = None
    assert fetched(source).failed == ""
    assert np.array_equal(read_values(source, outcome.name).to_numpy(), served(source).to_numpy())


def test_an_answer_that_does_not_end_is_given_up(server):
    server.mood = "silent"
    assert fetched("alternative.me").failed.startswith("alternative.me: ")
    assert read_values("alternative.me", "fear_greed") is None


def test_an_error_in_the_metadata_of_fear_and_greed_is_said(server, monkeypatch):
    monkeypatch.setattr(server, "answer", lambda *_: {"data": [], "metadata": {"error": "too many requests"}})
    assert "it says 'too many requests'" in fetched("alternative.me").failed


def test_a_chart_that_does_not_exist_is_said(server, monkeypatch):
    monkeypatch.setattr(server, "answer", lambda *_: {"status": "not-found", "error": "no such chart", "values": []})
    assert "its status is 'not-found'" in fetched("blockchain.info").failed


def test_a_metric_of_another_asset_is_refused(server, monkeypatch):
    row = {"asset": "eth", "time": "2024-01-01T00:00:00.000000000Z", "AdrActCnt": "1"}
    monkeypatch.setattr(server, "answer", lambda *_: {"data": [row]})
    assert "another asset than btc" in fetched("coinmetrics").failed


def test_half_of_the_observations_is_not_all(server, monkeypatch):
    row = {"date": "2024-01-02", "value": "13.2"}
    monkeypatch.setattr(server, "answer", lambda *_: {"count": 2, "observations": [row]})
    assert "1 of its 2 observations came" in fetched("fred").failed


def test_pages_are_followed_on_the_address_of_the_settings(server):
    server.page = 25
    assert fetched("coinmetrics").rows == len(served("coinmetrics"))
    assert [query.get("next_page_token") for _, query in server.asked] == [None, "25", "50"]


def test_pages_that_do_not_end_are_refused(server):
    server.page, server.mood = 25, "endless"
    assert "its pages do not end" in fetched("coinmetrics").failed


def test_a_market_cap_of_now_is_no_snapshot_of_midnight(server):
    fetched("coingecko")
    stamps = read_values("coingecko", "market_cap_midnight").index
    assert (stamps == stamps.floor("D")).all()


def test_a_key_is_sent_and_told_to_nobody(server, home):
    server.mood = 500
    outcome = fetched("fred")
    assert server.asked[0][1]["api_key"] == "secret-key-0123456789"
    assert "secret-key" not in repr(outcome)
    server.mood = None
    fetched("fred")
    assert all(b"secret-key" not in path.read_bytes() for path in home.rglob("*") if path.is_file())


@pytest.mark.parametrize("name", ["alternative.me", "alternative_me", "AlternativeMe"])
def test_a_base_address_is_found_under_the_name_with_or_without_dots(server, monkeypatch, name):
    monkeypatch.setenv("BTCLAB_CONTEXT__URLS", json.dumps({name: f"{server.url}/mirror"}))
    fetched("alternative.me")
    assert server.asked[0][0] == "/mirror/fng/"


def test_a_base_address_of_no_source_is_an_error(monkeypatch):
    monkeypatch.setenv("BTCLAB_CONTEXT__URLS", json.dumps({"freed": "http://127.0.0.1:9"}))
    with pytest.raises(InputError, match=r"Unknown source in context\.urls: 'freed'\. Did you mean 'fred'"):
        fetch_context("vix")


@pytest.mark.parametrize(
    ("file", "path", "query", "rows"),
    [
        ("alternative_me_fng.json", "/fng/", {"limit": "1"}, "data"),
        ("coinmetrics_asset_metrics.json", "/v4/timeseries/asset-metrics", {"metrics": "CapMVRVCur"}, "data"),
        ("fred_series_observations.json", "/fred/series/observations", {"series_id": "VIXCLS"}, "observations"),
    ],
)
def test_the_server_answers_in_the_recorded_shapes(server, file, path, query, rows):
    recorded = SHARED / "responses" / "shape_only" / file
    if not recorded.exists():
        pytest.skip(f"no recorded answer at {recorded}")
    theirs = json.loads(recorded.read_text())
    ours = server.answer(path, {"start_time": "2009-01-01", "observation_start": "2009-01-01", **query}, None)
    assert set(ours) <= set(theirs)
    assert set(ours[rows][0]) <= set(theirs[rows][0])
    assert all(type(ours[rows][0][key]) is type(theirs[rows][0][key]) for key in ours[rows][0])
