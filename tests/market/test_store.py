"""The store: what is saved is found again, whatever is killed, damaged or done twice."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import btclab as bl
from btclab.errors import CandleError, InputError, StorageError
from btclab.market.candles import fingerprint
from btclab.market.store import (
    bar_at,
    folder_of,
    held_spans,
    known_holes,
    read_candles,
    remember_holes,
    save_candles,
    save_repairs,
)

MARKET = ("binance", "BTC/USDT", "1h")
DAYS = 60

# Saves the candles of the file argv[1] day after day, from argv[2] in steps of argv[3], and says each day that is saved.
SAVER = f"""
import sys
import pandas as pd
from btclab.market.store import save_candles
candles = pd.read_parquet(sys.argv[1])
for day in range(int(sys.argv[2]), {DAYS}, int(sys.argv[3])):
    save_candles(candles.iloc[24 * day:24 * day + 24], *{MARKET})
    print(day, flush=True)
"""

# Saves a day, then dies by its own hand in saving the next: when half of the file is written, or before it has its name.
DYING = f"""
import os, signal, sys
import pandas as pd
from btclab.market.store import save_candles
candles = pd.read_parquet(sys.argv[1])
save_candles(candles.iloc[:24], *{MARKET})
def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)
def half(frame, path, **options):
    write(frame, path, **options)
    os.truncate(path, os.path.getsize(path) // 2)
    die()
write = pd.DataFrame.to_parquet
if sys.argv[2] == "half written":
    pd.DataFrame.to_parquet = half
else:
    os.replace = die
save_candles(candles.iloc[24:48], *{MARKET})
"""


@pytest.fixture
def saver(candles: pd.DataFrame, home: Path) -> Iterator[Callable[[int, int], subprocess.Popen[str]]]:
    """Starts a process that saves; none is left when the test ends."""
    candles.to_parquet(home / "candles.parquet")
    started: list[subprocess.Popen[str]] = []

    def start(first: int, step: int) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", SAVER, str(home / "candles.parquet"), str(first), str(step)]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate(timeout=60)


@pytest.fixture(scope="module")
def newyear(candles: pd.DataFrame) -> pd.DataFrame:
    """Ten hours, half of them before New Year 2021."""
    return candles.iloc[:10].set_axis(pd.date_range("2020-12-31T19:00Z", periods=10, freq="h", name="timestamp"))


def file_of(year: int) -> Path:
    return folder_of(*MARKET) / f"{year}.parquet"


# What comes back


def test_nothing_stored_is_none():
    assert read_candles(*MARKET) is None


def test_candles_come_back_to_the_last_bit(candles):
    save_candles(candles, *MARKET)
    pd.testing.assert_frame_equal(read_candles(*MARKET), candles, check_freq=False)


def test_stored_candles_say_where_they_came_from(candles):
    save_candles(candles, *MARKET)
    expected = {"source": "binance", "symbol": "BTC/USDT", "timeframe": "1h", "simulated": False}
    assert read_candles(*MARKET).attrs == expected


def test_markets_and_timeframes_are_kept_apart(candles):
    save_candles(candles, *MARKET)
    for other in [("kraken", "BTC/USDT", "1h"), ("binance", "BTC/USD", "1h"), ("binance", "BTC/USDT", "4h")]:
        assert read_candles(*other) is None


def test_each_year_is_a_file(newyear, home):
    save_candles(newyear, *MARKET)
    folder = home / "data" / "candles" / "binance" / "BTC-USDT" / "1h"
    assert sorted(file.name for file in folder.glob("*.parquet")) == ["2020.parquet", "2021.parquet"]
    assert [len(pd.read_parquet(folder / f"{year}.parquet")) for year in (2020, 2021)] == [5, 5]
    assert fingerprint(read_candles(*MARKET)) == fingerprint(newyear)


def test_a_span_is_read_across_years(newyear):
    save_candles(newyear, *MARKET)
    read = read_candles(*MARKET, "2020-12-31T23:00", "2021-01-01T02:00")
    assert list(read.index.hour) == [23, 0, 1]


def test_a_span_without_bars_is_none(newyear):
    save_candles(newyear, *MARKET)
    assert read_candles(*MARKET, start="2022-01-01") is None


def test_a_later_save_wins_for_a_bar(newyear):
    save_candles(newyear, *MARKET)
    corrected = newyear.iloc[[3]].assign(volume=12_345.0)
    save_candles(corrected, *MARKET)
    read = read_candles(*MARKET)
    assert read["volume"].iloc[3] == 12_345.0
    assert fingerprint(read.drop(index=read.index[3])) == fingerprint(newyear.drop(index=newyear.index[3]))


def test_saving_twice_is_saving_once(newyear):
    save_candles(newyear, *MARKET)
    before = file_of(2020).read_bytes()
    save_candles(newyear, *MARKET)
    assert file_of(2020).read_bytes() == before


def test_what_is_saved_is_not_changed(newyear):
    given_ = newyear.copy()
    given_.attrs = {"source": "here"}
    save_candles(given_, *MARKET)
    assert given_.equals(newyear) and given_.attrs == {"source": "here"}


def test_wrong_candles_are_not_stored(newyear):
    with pytest.raises(CandleError):
        save_candles(newyear.assign(volume=-1.0), *MARKET)
    assert read_candles(*MARKET) is None


@settings(max_examples=5, deadline=None, derandomize=True)
@given(st.integers(0, 2**32 - 1))
def test_pieces_in_any_order_make_the_whole(candles, tmp_path_factory, seed):
    rng = np.random.default_rng(seed)
    part = candles.iloc[:100]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BTCLAB_HOME", str(tmp_path_factory.mktemp("pieces")))
        for rows in rng.permutation(np.array_split(rng.permutation(100), 5), axis=0):
            save_candles(part.iloc[np.sort(rows)], *MARKET)
        assert fingerprint(read_candles(*MARKET)) == fingerprint(part)


# What goes wrong


def damage(path: Path, kind: str) -> None:
    whole = path.read_bytes()
    half = len(whole) // 2
    changed = {
        "cut": whole[:half],
        "empty": b"",
        "junk": bytes(1000),
        "flipped bytes": whole[:300] + bytes(255 - byte for byte in whole[300:340]) + whole[340:],
    }
    path.write_bytes(changed[kind])


@pytest.mark.parametrize("kind", ["cut", "empty", "junk", "flipped bytes"])
def test_damaged_file_is_named_with_the_remedy(candles, kind):
    save_candles(candles, *MARKET)
    damage(file_of(2021), kind)
    with pytest.raises(StorageError, match="Move it away and fetch that year again") as caught:
        read_candles(*MARKET)
    assert str(file_of(2021)) in str(caught.value)
    assert caught.value.exit_code == 1


def test_no_damage_is_read_as_other_prices(candles):
    save_candles(candles.iloc[:48], *MARKET)
    path, rng = file_of(2021), np.random.default_rng(0)
    whole = path.read_bytes()
    for at in range(0, len(whole), 150):
        path.write_bytes(whole[:at] + rng.bytes(20) + whole[at + 20 :])
        try:
            read = read_candles(*MARKET)
        except StorageError:
            continue
        assert fingerprint(read) == fingerprint(candles.iloc[:48]), f"bytes {at} to {at + 20}"


def test_another_table_in_the_store_is_refused(newyear):
    save_candles(newyear, *MARKET)
    pd.DataFrame({"age": [36]}).to_parquet(file_of(2020))
    with pytest.raises(StorageError, match=r"2020\.parquet cannot be read"):
        read_candles(*MARKET)


def test_nothing_is_saved_over_a_damaged_file(newyear):
    save_candles(newyear, *MARKET)
    damage(file_of(2020), "cut")
    before = file_of(2020).read_bytes()
    with pytest.raises(StorageError, match=r"2020\.parquet cannot be read"):
        save_candles(newyear, *MARKET)
    assert file_of(2020).read_bytes() == before


def test_a_file_where_the_folder_should_be_is_named(newyear, home):
    (home / "data").write_text("not a folder")
    with pytest.raises(StorageError, match=r"Cannot write .*candles.binance.BTC-USDT.1h"):
        save_candles(newyear, *MARKET)


def test_a_folder_where_the_file_should_be_is_named(newyear):
    file_of(2020).mkdir(parents=True)
    with pytest.raises(StorageError, match=r"2020\.parquet"):
        save_candles(newyear, *MARKET)


def test_leftover_temporary_files_are_ignored(newyear):
    save_candles(newyear, *MARKET)
    (folder_of(*MARKET) / ".2020.parquet.4711.abcd1234").write_bytes(b"half a file")
    assert fingerprint(read_candles(*MARKET)) == fingerprint(newyear)


# More than one process


def test_a_killed_save_loses_no_bar_that_was_acknowledged(candles, saver):
    saved = 0  # days
    for acknowledged in (1, 4, 6):
        process = saver(saved, 1)
        heard = [process.stdout.readline() for _ in range(acknowledged)]
        process.kill()  # in the midst of the next save
        rest, errors = process.communicate(timeout=60)
        assert all(heard), errors
        saved += len(heard) + len(rest.split())
        read = read_candles(*MARKET)  # every file is readable
        assert len(read) in (24 * saved, 24 * saved + 24)  # a day may be saved, but not yet said to be
        assert fingerprint(read) == fingerprint(candles.iloc[: len(read)])


@pytest.mark.parametrize("moment", ["half written", "before the rename"])
def test_a_save_killed_at_its_worst_leaves_the_old_file(candles, home, moment):
    candles.to_parquet(home / "candles.parquet")
    command = [sys.executable, "-c", DYING, str(home / "candles.parquet"), moment]
    died = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert died.returncode == -signal.SIGKILL, died.stderr
    assert fingerprint(read_candles(*MARKET)) == fingerprint(candles.iloc[:24])
    save_candles(candles.iloc[24:48], *MARKET)  # the lock has died with its holder
    assert fingerprint(read_candles(*MARKET)) == fingerprint(candles.iloc[:48])


def test_two_processes_at_once_lose_nothing(candles, saver):
    both = [saver(0, 2), saver(1, 2)]
    for process in both:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    assert fingerprint(read_candles(*MARKET)) == fingerprint(candles.iloc[: 24 * DAYS])


# What is there


def test_held_spans_are_the_unbroken_stretches_also_over_new_year(newyear):
    save_candles(newyear.drop(index=newyear.index[7]), *MARKET)
    hour = pd.Timedelta("1h")
    assert held_spans(*MARKET) == [
        (newyear.index[0], newyear.index[7]),
        (newyear.index[8], newyear.index[9] + hour),
    ]


def test_nothing_stored_has_no_spans():
    assert held_spans(*MARKET) == []


def test_one_bar_is_found_by_its_time(newyear):
    save_candles(newyear, *MARKET)
    pd.testing.assert_frame_equal(bar_at(*MARKET, newyear.index[6]), newyear.iloc[[6]], check_freq=False)
    assert bar_at(*MARKET, newyear.index[-1] + pd.Timedelta("1h")) is None


def test_holes_are_remembered_and_joined(newyear):
    a, b, c, d = newyear.index[[0, 2, 4, 6]]
    remember_holes([(a, b), (c, d)], *MARKET)
    remember_holes([(b, c)], *MARKET)
    assert known_holes(*MARKET) == [(a, d)]


@pytest.mark.parametrize("name", ["../binance", "a/b", "", "..", ".hidden", "a b"])
def test_a_name_that_climbs_out_of_the_store_is_refused(name):
    with pytest.raises(InputError, match="is no name of a source"):
        read_candles(name, "BTC/USDT", "1h")


@pytest.mark.parametrize(("short", "long"), [("1m", "1h"), ("1h", "4h"), ("1h", "1d"), ("15m", "1d")])
def test_a_longer_timeframe_is_made_from_what_is_stored(candles, short, long):
    index = pd.date_range(
        "2021-01-01", periods=len(candles), freq=pd.Timedelta(short.replace("m", "min")), tz="UTC", name="timestamp"
    )
    bars = candles.set_axis(index)
    save_candles(bars, "binance", "BTC/USDT", short)
    made = bl.load_candles("store:binance", long)
    bars.attrs["timeframe"] = short
    assert fingerprint(made) == fingerprint(bl.resample(bars, long))
    assert made.attrs["remarks"] == [f"Bars of {long} made from the stored {short} of binance"]


# Repairs


def test_repaired_bars_fill_the_gaps_and_say_so(newyear):
    save_candles(newyear.drop(index=newyear.index[3:6]), *MARKET)
    save_repairs(newyear.iloc[2:6] * 1.001, *MARKET, venue="kraken")
    held = read_candles(*MARKET)
    assert list(held.index) == list(newyear.index)
    assert held["close"].iloc[3] == newyear["close"].iloc[3] * 1.001
    assert held["close"].iloc[2] == newyear["close"].iloc[2], "the exchange's own bar wins"
    (span,) = held.attrs["repaired"]
    assert span == {
        "start": newyear.index[3].isoformat(),
        "end": newyear.index[5].isoformat(),
        "bars": 3,
        "venue": "kraken",
    }


def test_a_repair_is_no_bar_of_the_exchange_and_yields_to_it(newyear):
    save_candles(newyear.drop(index=newyear.index[3:6]), *MARKET)
    save_repairs(newyear.iloc[3:6] * 1.001, *MARKET, venue="kraken")
    assert len(held_spans(*MARKET)) == 2
    save_candles(newyear.iloc[3:6], *MARKET)
    assert fingerprint(read_candles(*MARKET)) == fingerprint(newyear)
    assert "repaired" not in read_candles(*MARKET).attrs


def test_repairs_of_two_venues_are_told_apart(newyear):
    save_candles(newyear.drop(index=newyear.index[3:6]), *MARKET)
    save_repairs(newyear.iloc[3:5], *MARKET, venue="kraken")
    save_repairs(newyear.iloc[5:6], *MARKET, venue="bitstamp")
    assert [(span["venue"], span["bars"]) for span in read_candles(*MARKET).attrs["repaired"]] == [
        ("kraken", 2),
        ("bitstamp", 1),
    ]


def test_damaged_repairs_are_named(newyear):
    save_candles(newyear.drop(index=newyear.index[3]), *MARKET)
    save_repairs(newyear.iloc[3:4], *MARKET, venue="kraken")
    (folder_of(*MARKET) / "repairs.parquet").write_bytes(b"no parquet")
    with pytest.raises(StorageError, match=r"repairs.parquet cannot be read .* repair again"):
        read_candles(*MARKET)
