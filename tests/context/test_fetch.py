"""Fetching many series: only what is new, whatever fails beside it, and nothing replaced."""

from __future__ import annotations

import pandas as pd
import pytest

from btclab.context.fetch import fetch_context
from btclab.context.join import load_context
from btclab.context.series import SERIES
from btclab.context.store import path_of, read_values
from btclab.errors import InputError
from btclab.market.cache import LIFETIMES, clear_cache
from tests.context.serving import TODAY, walk
from tests.context.test_join import bars

DAY = pd.Timedelta("1D")


def by_name(*names: str, **options):
    return {one.name: one for one in fetch_context(names or None, **options)}


def test_all_series_are_fetched_in_the_order_of_the_catalogue(server):
    server.values["DGS10"] = walk("DGS10") / 20
    outcomes = fetch_context()
    assert [one.name for one in outcomes] == list(SERIES)
    assert [one for one in outcomes if one.failed or one.skipped or one.stale] == []
    context = load_context(bars(48, begin=TODAY - 12 * DAY))
    assert context.attrs["missing"] == {}
    assert context.notna().all(axis=None)


def test_only_what_is_newer_and_two_weeks_of_revisions_are_asked_for(server):
    by_name("active_addresses", "fear_greed", "vix", "miners_revenue")
    server.asked.clear()
    clear_cache()
    outcomes = by_name("active_addresses", "fear_greed", "vix", "miners_revenue")
    assert {one.new for one in outcomes.values()} == {0}
    queries = {path: query for path, query in server.asked}
    recent = TODAY - 26 * DAY
    assert pd.Timestamp(queries["/v4/timeseries/asset-metrics"]["start_time"], tz="UTC") >= recent
    assert pd.Timestamp(queries["/fred/series/observations"]["observation_start"], tz="UTC") >= recent
    assert int(queries["/fng/"]["limit"]) <= 26
    assert int(queries["/charts/miners-revenue"]["timespan"].removesuffix("days")) <= 26


def test_what_is_new_is_added_and_what_was_revised_is_counted(server):
    whole = walk("AdrActCnt")
    server.values["AdrActCnt"] = whole[whole.index < TODAY - 8 * DAY]
    held = by_name("active_addresses")["active_addresses"].rows
    revised = whole.copy()
    revised[TODAY - 10 * DAY] += 1
    server.values["AdrActCnt"] = revised
    clear_cache()
    outcome = by_name("active_addresses")["active_addresses"]
    assert (outcome.rows, outcome.new, outcome.revised) == (held + 7, 7, 1)
    assert read_values("coinmetrics", "active_addresses")[TODAY - 10 * DAY] == revised[TODAY - 10 * DAY]


def test_a_failing_series_stops_no_other(server):
    server.mood, server.only = 451, "fng"
    outcomes = by_name("fear_greed", "miners_revenue")
    assert outcomes["fear_greed"].failed.startswith("alternative.me: answered 451")
    assert outcomes["miners_revenue"].failed == ""
    assert outcomes["miners_revenue"].new > 0


def test_a_source_without_its_key_is_skipped_by_name_and_asked_nothing(server, monkeypatch):
    monkeypatch.delenv("BTCLAB_CONTEXT__FRED_API_KEY")
    outcomes = by_name("sp500", "fear_greed")
    assert outcomes["sp500"].skipped.startswith("needs BTCLAB_CONTEXT__FRED_API_KEY in .env: free at https://")
    assert (outcomes["sp500"].failed, outcomes["sp500"].rows) == ("", 0)
    assert {path for path, _ in server.asked} == {"/fng/"}
    assert not path_of("fred", "sp500").exists()


def test_a_source_that_failed_twice_is_not_asked_for_the_rest(server):
    server.mood, server.only = 451, "asset-metrics"
    names = [name for name, one in SERIES.items() if list(one.sources) == ["coinmetrics"]]
    outcomes = by_name(*names)
    assert len(server.asked) == 2 < len(names)
    assert outcomes[names[-1]].failed.startswith("coinmetrics is not asked again: coinmetrics: answered 451")


def test_another_source_of_a_series_is_asked_when_the_first_fails(server):
    server.mood, server.only = 451, "asset-metrics"
    outcome = by_name("hash_rate")["hash_rate"]
    assert (outcome.source, outcome.failed) == ("blockchain.info", "")
    assert outcome.notes.startswith("coinmetrics: answered 451")
    assert load_context(bars(), "hash_rate").attrs["series"]["hash_rate"]["source"] == "blockchain.info"


def test_an_old_answer_that_stands_in_is_called_stale_and_adds_no_unfinished_day(server, monkeypatch):
    by_name("miners_revenue")
    path_of("blockchain.info", "miners_revenue").unlink()
    monkeypatch.setitem(LIFETIMES, "daily", 0.0)
    server.mood = 451
    outcome = by_name("miners_revenue")["miners_revenue"]
    assert outcome.failed == ""
    assert "min old: blockchain.info: answered 451" in outcome.stale
    assert outcome.last == TODAY - 2 * DAY


def test_start_and_end_bound_what_is_stored(server):
    start, end = TODAY - 20 * DAY, TODAY - 10 * DAY
    outcome = by_name("miners_revenue", start=start, end=end)["miners_revenue"]
    assert (outcome.first, outcome.last) == (start, end - DAY)


def test_an_earlier_start_fetches_what_was_left_out(server):
    server.values["miners-revenue"] = walk("miners-revenue", 200)
    by_name("miners_revenue", start=TODAY - 20 * DAY)
    outcome = by_name("miners_revenue", start=TODAY - 150 * DAY)["miners_revenue"]
    assert outcome.first <= TODAY - 150 * DAY


def test_a_span_without_values_is_said(server):
    outcome = by_name("fear_greed", start="2018-03-01", end="2018-04-01")["fear_greed"]
    assert outcome.failed.startswith("alternative.me: has nothing of fear_greed between 2018-03-01")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"names": "fear_gread"}, "Did you mean 'fear_greed'"),
        ({"names": "fear_greed", "start": "soon"}, "is not a time"),
        ({"names": "fear_greed", "start": "2024-02-01", "end": "2024-01-01"}, "is not before end"),
    ],
)
def test_wrong_input_is_refused_before_anything_is_asked(server, options, said):
    with pytest.raises(InputError, match=said):
        fetch_context(**options)
    assert server.asked == []


def test_a_damaged_file_fails_its_series_alone(server):
    by_name("fear_greed")
    path_of("alternative.me", "fear_greed").write_bytes(b"no parquet")
    outcomes = by_name("fear_greed", "miners_revenue")
    assert "cannot be read" in outcomes["fear_greed"].failed
    assert outcomes["miners_revenue"].failed == ""
