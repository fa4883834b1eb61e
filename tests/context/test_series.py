"""What the catalogue says of each series."""

from __future__ import annotations

import pandas as pd
import pytest

from btclab.context.exchanges import REACH
from btclab.context.series import KEY_PAGES, SERIES, Series, catalogue, chosen, key_missing, span_text
from btclab.context.sources import HTTP_SOURCES
from btclab.errors import InputError

DAY = pd.Timedelta("1D")
MACRO = ("sp500", "vix", "yield_10y", "dollar_broad")


def test_the_catalogue_says_of_every_series_what_a_user_must_know():
    table = catalogue()
    assert list(table.index) == list(SERIES)
    columns = ["group", "source", "unit", "every", "lag", "why", "max_age", "history", "key", "key_set"]
    assert list(table.columns) == columns
    assert (table.drop(columns=["key", "key_set"]).map(len) > 0).all(axis=None)
    assert set(table["group"]) == {"sentiment", "on-chain", "derivatives", "macro"}


def test_the_catalogue_says_which_key_is_needed_and_whether_it_is_set(monkeypatch):
    needed = catalogue().query("key != ''")
    assert set(needed.index) == set(MACRO)
    assert set(needed["key"]) == {"BTCLAB_CONTEXT__FRED_API_KEY"}
    assert not needed["key_set"].any()
    monkeypatch.setenv("BTCLAB_CONTEXT__FRED_API_KEY", "secret-key-0123456789")
    assert catalogue()["key_set"].all()
    assert "secret-key" not in catalogue().to_string()


def test_a_missing_key_names_the_variable_and_where_it_is_free():
    assert key_missing(SERIES["vix"]) == (
        "needs BTCLAB_CONTEXT__FRED_API_KEY in .env: free at https://fred.stlouisfed.org/docs/api/api_key.html"
    )
    assert key_missing(SERIES["fear_greed"]) == ""


@pytest.mark.parametrize("name", SERIES)
def test_every_source_of_a_series_can_be_asked(name):
    series = SERIES[name]
    for source in series.sources:
        assert source in HTTP_SOURCES or (name, source) in REACH or name == "gold"
    assert not series.key or series.key in KEY_PAGES


@pytest.mark.parametrize(
    "name", [name for name, one in SERIES.items() if one.group == "on-chain" and one.every == "day"]
)
def test_a_count_of_a_day_is_not_known_before_the_day_is_over(name):
    snapshot = name == "market_cap_midnight"
    assert SERIES[name].lag > (pd.Timedelta(0) if snapshot else DAY)


def test_a_yield_of_a_friday_before_a_holiday_is_known_on_tuesday_evening():
    friday, published = pd.Timestamp("2024-02-16", tz="UTC"), pd.Timestamp("2024-02-20 21:15", tz="UTC")
    assert friday + SERIES["yield_10y"].lag >= published
    assert friday + SERIES["vix"].lag >= published


def test_the_dollar_of_a_monday_is_known_on_monday_evening_of_the_week_after_or_a_day_later():
    monday, published = pd.Timestamp("2024-02-12", tz="UTC"), pd.Timestamp("2024-02-20 21:15", tz="UTC")
    assert monday + SERIES["dollar_broad"].lag >= published


@pytest.mark.parametrize("name", MACRO)
def test_weekday_series_outlast_a_long_weekend(name):
    assert SERIES[name].max_age > 4 * DAY


def test_a_lag_before_the_stamp_is_refused():
    with pytest.raises(ValueError, match="look-ahead"):
        Series("x", "macro", "1", {"fred": "X"}, -DAY, "", DAY, "2020-01-01")


def test_an_unknown_name_suggests_near_ones():
    with pytest.raises(InputError, match=r"Unknown context series: 'feer_greed'\. Did you mean 'fear_greed'"):
        chosen(["feer_greed"])


def test_names_are_taken_once_and_in_order():
    assert [one.name for one in chosen(["vix", "fear_greed", "vix"])] == ["vix", "fear_greed"]
    assert [one.name for one in chosen("gold")] == ["gold"]
    assert [one.name for one in chosen(None)] == list(SERIES)


@pytest.mark.parametrize(
    ("span", "said"), [("1h", "1 h"), ("36h", "1 day 12 h"), ("5min", "5 min"), ("2D", "2 days"), ("0h", "none")]
)
def test_spans_are_said_in_words(span, said):
    assert span_text(pd.Timedelta(span)) == said
