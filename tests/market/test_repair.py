"""Gaps are filled from a named second venue only: recorded bars, unscaled, marked, and refused where the venues part."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import btclab as bl
from btclab.errors import DataUnavailable, InputError
from btclab.market.candles import COLUMNS
from btclab.market.repair import repair_candles, repair_stored
from btclab.market.store import read_candles, save_candles
from tests.market.test_venues import second_venue

MARKET = "BTC/USDT"


def holed(candles: pd.DataFrame, *rows: int) -> pd.DataFrame:
    return candles.drop(index=candles.index[list(rows)])


@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.sets(st.integers(1, 2100), max_size=40))
def test_exactly_the_missing_bars_are_given_as_the_other_venue_has_them(candles, rows):
    other = second_venue(candles)
    bars, done = repair_candles(holed(candles, *rows), other)
    pd.testing.assert_frame_equal(bars, other.iloc[sorted(rows)][COLUMNS])
    assert done["filled"].sum() == len(rows)
    assert (done["refused"] == "").all()


def test_the_premium_beside_the_gap_is_reported_and_the_bars_are_not_scaled(candles):
    other = second_venue(candles, noise=0)
    other[["open", "high", "low", "close"]] *= 1.01
    bars, done = repair_candles(holed(candles, 50, 51), other)
    assert done[["premium_before", "premium_after"]].to_numpy() == pytest.approx(-np.log(1.01))
    pd.testing.assert_frame_equal(bars, other.iloc[[50, 51]][COLUMNS])
    assert done["venue"].tolist() == ["elsewhere"]


@pytest.mark.parametrize("row", [49, 52], ids=["before", "after"])
def test_a_gap_stays_one_where_the_venues_are_apart_beside_it(candles, row):
    other = second_venue(candles, noise=0)
    other.iloc[row, :4] *= 1.03
    bars, done = repair_candles(holed(candles, 50, 51, 90), other)
    assert bars.index.tolist() == [candles.index[90]]
    assert done["refused"].tolist() == ["the prices are -3.0 % apart beside the gap; at most ±2 % is taken", ""]


def test_a_gap_stays_one_where_the_prices_beside_it_cannot_be_compared(candles):
    bars, done = repair_candles(holed(candles, 50, 51), second_venue(candles).drop(index=candles.index[52]))
    assert bars.empty
    assert "no bar beside the gap" in done["refused"].iloc[0]


def test_a_gap_that_the_other_venue_has_too_stays_one(candles):
    bars, done = repair_candles(holed(candles, 50, 51), holed(second_venue(candles), 50, 51))
    assert bars.empty
    assert "has no bars there" in done["refused"].iloc[0]


def test_bars_that_the_other_venue_made_up_itself_are_left_out(candles):
    other = second_venue(candles, noise=0)
    price = other["close"].iloc[50]
    other.iloc[51:55] = [price, price, price, price, 0.0]
    bars, done = repair_candles(holed(candles, *range(48, 60)), other)
    assert not set(candles.index[51:55]) & set(bars.index)
    assert done[["bars", "filled"]].values.tolist() == [[12, 8]]


def test_only_gaps_that_touch_the_spans_are_filled(candles):
    spans = [(candles.index[85], candles.index[95])]
    bars, done = repair_candles(holed(candles, 50, 90), second_venue(candles), spans)
    assert bars.index.tolist() == [candles.index[90]]
    assert len(done) == 1


def test_shorter_bars_of_the_other_venue_are_made_longer(candles):
    daily = bl.resample(candles, "1d")
    bars, _ = repair_candles(holed(daily, 20), second_venue(candles, noise=0))
    pd.testing.assert_frame_equal(bars, daily.iloc[[20]], check_freq=False)


def test_another_quote_currency_must_be_named(candles):
    other = second_venue(candles)
    other.attrs["symbol"] = "BTC/EUR"
    with pytest.raises(InputError, match=r"different currencies.*--from-symbol BTC/EUR"):
        repair_candles(holed(candles, 50), other)
    assert len(repair_candles(holed(candles, 50), other, other_symbol="BTC/EUR")[0]) == 1


def test_simulated_and_real_bars_are_not_mixed(candles):
    other = second_venue(candles)
    other.attrs["simulated"] = False
    with pytest.raises(InputError, match="not mixed"):
        repair_candles(holed(candles, 50), other)


# What is stored


@pytest.fixture
def stored(candles, home):
    """Binance with two holes, Kraken without."""
    save_candles(holed(candles, 50, 51, 900), "binance", MARKET, "1h")
    save_candles(second_venue(candles), "kraken", MARKET, "1h")


def test_stored_gaps_are_filled_and_marked(candles, stored):
    bars, done = repair_stored("binance", "store:kraken", "1h", MARKET)
    assert (len(bars), done["filled"].tolist()) == (3, [2, 1])
    whole = read_candles("binance", MARKET, "1h")
    assert len(whole) == len(candles)
    assert [(span["bars"], span["venue"]) for span in whole.attrs["repaired"]] == [(2, "kraken"), (1, "kraken")]


def test_a_dry_run_stores_nothing(candles, stored):
    bars, _ = repair_stored("binance", "store:kraken", "1h", MARKET, dry_run=True)
    assert len(bars) == 3
    assert len(read_candles("binance", MARKET, "1h")) == len(candles) - 3


def test_what_is_filled_is_no_gap_any_more(stored):
    repair_stored("binance", "store:kraken", "1h", MARKET)
    bars, done = repair_stored("binance", "store:kraken", "1h", MARKET)
    assert bars.empty
    assert done.empty


def test_a_venue_cannot_repair_itself(stored):
    with pytest.raises(InputError, match="cannot repair itself"):
        repair_stored("binance", "store:binance", "1h", MARKET)


def test_only_the_store_is_repaired():
    with pytest.raises(InputError, match="is not in the store"):
        repair_stored("file:prices.csv", "kraken", "1h", MARKET)


def test_a_venue_that_cannot_be_reached_is_named(stored):
    with pytest.raises(DataUnavailable, match="bitstamp gave no bars for the gaps"):
        repair_stored("binance", "bitstamp", "1h", MARKET)
    assert "repaired" not in read_candles("binance", MARKET, "1h").attrs
