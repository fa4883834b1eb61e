"""Bringing the store up to date: what is asked for, what is stored, and what a kill, a hole or a foreign bar does."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import btclab as bl
from btclab.errors import DataUnavailable, InputError
from btclab.market import store
from btclab.market.candles import between, fingerprint
from btclab.market.fetch import NEAR, missing_spans, update_candles
from btclab.market.store import folder_of, held_spans, known_holes, read_candles, save_candles
from tests.market.replay import Replay, serving

MARKET = ("binance", "BTC/USDT", "1h")
HOUR = pd.Timedelta("1h")
JANUARY, MARCH, APRIL = (pd.Timestamp(f"2021-0{month}-01", tz="UTC") for month in (1, 3, 4))
KILLS = 50


@pytest.fixture
def server(candles: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> Iterator[Replay]:
    """Binance for this test: three months of simulated hours."""
    with serving(candles) as replay:
        monkeypatch.setenv("BTCLAB_MARKET__EXCHANGE_URLS", json.dumps({"binance": replay.url}))
        yield replay


def stored() -> pd.DataFrame | None:
    return read_candles(*MARKET)


def update(start: pd.Timestamp = JANUARY, end: pd.Timestamp = APRIL, **options: object):
    return update_candles("binance", "1h", start, end, **options)


# What is missing


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.sets(st.integers(0, 40)), st.integers(0, 40), st.integers(0, 40), st.integers(0, 5))
def test_missing_spans_and_held_bars_make_the_whole(held, lower, upper, near):
    hours = [JANUARY + hour * HOUR for hour in sorted(held)]
    spans = [] if not hours else list(store._unbroken(pd.DatetimeIndex(hours), HOUR))
    missing = missing_spans(spans, JANUARY + lower * HOUR, JANUARY + upper * HOUR, HOUR, near)
    asked = [(start - JANUARY) // HOUR + k for start, end in missing for k in range((end - start) // HOUR)]
    assert len(set(asked)) == len(asked)
    assert set(asked) <= set(range(lower, upper))
    assert set(asked) | (held & set(range(lower, upper))) == set(range(lower, upper))
    if near == 0:
        assert not set(asked) & held


def test_holes_far_apart_are_asked_for_one_by_one_and_near_ones_together():
    whole = pd.date_range(JANUARY, periods=2 * NEAR, freq="h")
    held = list(store._unbroken(whole.delete([5, 9, NEAR + 100]), HOUR))
    spans = missing_spans(held, JANUARY, whole[-1] + HOUR, HOUR)
    hours = [((start - JANUARY) // HOUR, (end - JANUARY) // HOUR) for start, end in spans]
    assert hours == [(5, 10), (NEAR + 100, NEAR + 101)]


# What is asked for and stored


def test_a_first_fetch_stores_the_served_bars_and_says_what_it_did(server, candles):
    done = update()
    assert fingerprint(stored()) == fingerprint(candles)
    assert (done.new, done.bars, done.missing, done.asked, done.held, done.short) == (2160, 2160, 0, 2160, 2160, "")
    assert (done.first, done.last) == (candles.index[0], candles.index[-1])


def test_a_second_fetch_asks_for_nothing(server):
    update()
    server.asked.clear()
    assert update().new == 0
    assert server.asked == []


def test_a_new_bar_is_one_page(server):
    update(end=APRIL - HOUR)
    server.asked.clear()
    assert update().new == 1
    assert len(server.asked) == 1


def test_older_bars_are_fetched_backwards_so_that_an_interruption_leaves_no_hole(server, candles):
    update(start=MARCH)
    server.mood, server.patience = 451, 2
    server.asked.clear()
    with pytest.raises(DataUnavailable, match="can be had as store:binance"):
        update(start=JANUARY - 3000 * HOUR)
    assert len(held_spans(*MARKET)) == 1
    assert len(stored()) > 31 * 24
    server.mood, server.patience = None, 0
    update()
    assert fingerprint(stored()) == fingerprint(candles)


def test_an_interrupted_fetch_goes_on_at_the_last_stored_bar(server, candles):
    server.mood, server.patience = 451, 2
    with pytest.raises(DataUnavailable):
        update(end=APRIL + 3000 * HOUR)
    assert len(stored()) == 2000
    server.mood, server.patience = None, 0
    server.asked.clear()
    update()
    assert pd.to_datetime(int(server.asked[0]["startTime"]), unit="ms", utc=True) == candles.index[2000]
    assert fingerprint(stored()) == fingerprint(candles)


def test_ctrl_c_keeps_what_had_arrived(server, candles, monkeypatch):
    took = store.Buffer.add

    def interrupted(buffer: store.Buffer, page: pd.DataFrame) -> None:
        took(buffer, page)
        raise KeyboardInterrupt

    monkeypatch.setattr(store.Buffer, "add", interrupted)
    with pytest.raises(KeyboardInterrupt):
        update()
    assert fingerprint(stored()) == fingerprint(candles.iloc[:1000])


def test_less_than_half_of_what_was_asked_for_is_said(server, candles):
    server.candles = candles.iloc[1500:]
    assert update().short == "has only 660 of the 2,160 bars asked for"


# Holes


def test_a_hole_of_the_exchange_is_asked_for_once(server, candles):
    server.candles = candles.drop(index=candles.index[100:103])
    assert update().missing == 3
    assert known_holes(*MARKET) == [(candles.index[100], candles.index[103])]
    server.asked.clear()
    update()
    assert server.asked == []


def test_a_hole_between_stored_bars_is_asked_for_and_remembered(server, candles):
    server.candles = candles.drop(index=candles.index[100:103])
    save_candles(server.candles, *MARKET)
    update()
    server.asked.clear()
    update()
    assert server.asked == []


def test_a_hole_that_the_exchange_can_fill_is_filled(server, candles):
    save_candles(candles.drop(index=candles.index[100:103]), *MARKET)
    assert update().new == 3
    assert fingerprint(stored()) == fingerprint(candles)
    assert known_holes(*MARKET) == []


def test_a_refresh_asks_for_known_holes_again(server, candles):
    server.candles = candles.drop(index=candles.index[100:103])
    update()
    server.candles = candles
    assert update().new == 0
    assert update(refresh=True).new == 3


def test_an_exchange_that_answers_with_nothing_is_not_taken_for_a_hole(server, candles):
    save_candles(candles.drop(index=candles.index[100:103]), *MARKET)
    server.mood = "empty"
    update()
    assert known_holes(*MARKET) == []


def test_the_time_before_the_market_began_costs_few_questions_and_is_no_hole(server):
    """It may be what the source, or the user's plan with it, does not reach today."""
    update(start=JANUARY - 3000 * HOUR)
    server.asked.clear()
    assert update(start=JANUARY - 3000 * HOUR).new == 0
    assert len(server.asked) <= 3
    assert known_holes(*MARKET) == []


def test_a_page_that_comes_empty_once_leaves_no_hole(server, candles):
    server.mood, server.patience, server.lasts = "empty", 1, 1
    update()
    assert fingerprint(stored()) == fingerprint(candles)
    assert known_holes(*MARKET) == []


def test_a_first_page_that_nothing_confirms_is_not_stored(server):
    """It may be in another unit, and all that comes later would be refused for it."""
    server.mood, server.patience = 451, 1
    with pytest.raises(DataUnavailable):
        update()
    assert stored() is None


@pytest.mark.parametrize(("start", "end"), [(MARCH, JANUARY), (pd.Timestamp("2099-01-01", tz="UTC"), None)])
def test_a_span_without_time_is_wrong_input(server, start, end):
    with pytest.raises(InputError, match="There is no time between"):
        update(start=start, end=end)


def test_lost_notes_of_holes_cost_a_question(server, candles):
    server.candles = candles.drop(index=candles.index[100:103])
    update()
    (folder_of(*MARKET) / "holes.json").write_text("{broken")
    assert update().missing == 3


# Bars that do not belong


@pytest.mark.parametrize("factor", [100, 0.01])
def test_a_page_in_another_unit_than_the_stored_bars_is_refused(server, candles, factor):
    update(end=MARCH)
    columns = ["open", "high", "low", "close"]
    server.candles = candles.assign(**{name: candles[name] * factor for name in columns})
    with pytest.raises(
        DataUnavailable, match=r"binance: answered with wrong candles: .*opens far from the close before"
    ):
        update()
    assert fingerprint(stored()) == fingerprint(between(candles, end=MARCH))


def test_older_bars_in_another_unit_are_refused(server, candles):
    update(start=MARCH)
    columns = ["open", "high", "low", "close"]
    server.candles = candles.assign(**{name: candles[name] * 100 for name in columns})
    with pytest.raises(DataUnavailable, match="wrong candles"):
        update()
    assert fingerprint(stored()) == fingerprint(between(candles, MARCH))


# A kill at any moment

# Fetches in children that are killed after a random time, until that has happened argv[3] times. A child that ends before
# its kill says what it stored, and the next ones start with an empty store; the last store is completed without a kill.
KILLER = """
import os, random, signal, sys, time
import ccxt, pandas, pyarrow.parquet
from btclab.market import store
from btclab.market.candles import fingerprint
from btclab.market.fetch import update_candles
store.FLUSH_S = 0  # every page is written, so that the kills meet many writes
draw, killed, homes = random.Random(7), 0, 0
base = os.environ["BTCLAB_HOME"]

def start(home):
    os.environ["BTCLAB_HOME"] = f"{base}/{home}"
    child = os.fork()
    if child == 0:
        update_candles("binance", "1h", sys.argv[1], sys.argv[2])
        print(fingerprint(store.read_candles("binance", "BTC/USDT", "1h")), flush=True)
        os._exit(0)
    return child

begun = time.monotonic()
os.waitpid(start(homes), 0)
whole = time.monotonic() - begun
homes += 1
while killed < int(sys.argv[3]):
    child = start(homes)
    time.sleep(draw.uniform(0.05, 0.6) * whole)
    os.kill(child, signal.SIGKILL)
    if os.WIFSIGNALED(os.waitpid(child, 0)[1]):
        killed += 1
    else:
        homes += 1
os.waitpid(start(homes), 0)
"""


@pytest.mark.timeout(280)
def test_fetches_killed_at_random_moments_end_in_the_store_of_one_that_was_not(server, home):
    bars = bl.load_candles("simulated:3", end="2022-06-01").tail(12_000)
    server.candles = bars.drop(index=bars.index[5000:5006])
    words = [sys.executable, "-c", KILLER, str(bars.index[0]), str(bars.index[-1] + HOUR), str(KILLS)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=270, check=False)
    assert done.returncode == 0, done.stderr
    stores = re.findall("[0-9a-f]{16}", done.stdout)  # a kill may cut a line's end off
    assert len(stores) >= 2
    assert set(stores) == {fingerprint(server.candles)}


# What is read


def test_the_files_of_other_years_are_not_read(server, candles, monkeypatch):
    save_candles(candles, *MARKET)
    save_candles(candles.set_axis(candles.index - pd.Timedelta("730D")), *MARKET)
    read: list[Path] = []
    whole = store._read
    monkeypatch.setattr(store, "_read", lambda path: read.append(path) or whole(path))
    read_candles(*MARKET, start="2021-02-01")
    assert [path.stem for path in read] == ["2021"]
    read.clear()
    update()
    assert read == []
