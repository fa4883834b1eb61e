"""What is kept of a series on disk, and what two writers do to it."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from btclab.context.series import SERIES
from btclab.context.store import path_of, read_values, save_values, stored_source
from btclab.errors import DataUnavailable, StorageError

FEAR = SERIES["fear_greed"]


def days(first: str, *values: float) -> pd.Series:
    return pd.Series(values, index=pd.date_range(first, periods=len(values), freq="D", tz="UTC"), dtype=float)


def test_what_is_saved_is_read_to_the_last_digit():
    values = days("2024-01-01", 0.1 + 0.2, 99.99999999999999)
    saved = save_values(FEAR, "alternative.me", values)
    stored = read_values("alternative.me", "fear_greed")
    assert (saved.new, saved.revised) == (2, 0)
    assert stored.index.equals(values.index)
    assert np.array_equal(stored.to_numpy(), values.to_numpy())


def test_the_newest_answer_wins_and_revisions_are_counted():
    save_values(FEAR, "alternative.me", days("2024-01-01", 10, 20, 30))
    saved = save_values(FEAR, "alternative.me", days("2024-01-02", 21, 30, 40))
    assert (saved.new, saved.revised) == (1, 1)
    assert read_values("alternative.me", "fear_greed").tolist() == [10, 21, 30, 40]


def test_earlier_values_go_before_the_stored_ones():
    save_values(FEAR, "alternative.me", days("2024-01-03", 30))
    save_values(FEAR, "alternative.me", days("2024-01-01", 10, 20))
    assert read_values("alternative.me", "fear_greed").tolist() == [10, 20, 30]


def test_nothing_new_leaves_the_file_as_it_is():
    save_values(FEAR, "alternative.me", days("2024-01-01", 10, 20))
    before = path_of("alternative.me", "fear_greed").stat()
    save_values(FEAR, "alternative.me", days("2024-01-02", 20))
    assert path_of("alternative.me", "fear_greed").stat().st_ino == before.st_ino


def test_nothing_stored_is_none():
    assert read_values("alternative.me", "fear_greed") is None
    assert stored_source(FEAR) == ""


def test_the_source_of_a_series_is_the_first_that_is_stored():
    save_values(SERIES["hash_rate"], "blockchain.info", days("2024-01-01", 1))
    assert stored_source(SERIES["hash_rate"]) == "blockchain.info"
    save_values(SERIES["hash_rate"], "coinmetrics", days("2024-01-01", 1))
    assert stored_source(SERIES["hash_rate"]) == "coinmetrics"


def test_a_change_of_unit_is_not_joined_to_the_past():
    series = SERIES["hash_rate"]
    save_values(series, "coinmetrics", days("2024-01-01", 500, 510, 490, 505))
    with pytest.raises(
        DataUnavailable, match=r"coinmetrics: hash_rate is now 1e\+06 times what it was .* another unit\?"
    ):
        save_values(series, "coinmetrics", 1e6 * days("2024-01-01", 500, 510, 490, 505, 500))
    assert read_values("coinmetrics", "hash_rate").tolist() == [500, 510, 490, 505]


@pytest.mark.parametrize("damage", ["flipped", "cut", "text"])
def test_a_damaged_file_is_said_with_the_way_out(damage):
    save_values(FEAR, "alternative.me", days("2024-01-01", *range(100)))
    path = path_of("alternative.me", "fear_greed")
    content = bytearray(path.read_bytes())
    if damage == "flipped":
        content[60] ^= 0xFF
    path.write_bytes(
        b"no parquet" if damage == "text" else content[: len(content) // 2] if damage == "cut" else content
    )
    with pytest.raises(StorageError, match=r"fear_greed\.parquet cannot be read .* btclab fetch --context fear_greed"):
        read_values("alternative.me", "fear_greed")


WRITER = """
import sys, pandas as pd
from btclab.context.series import SERIES
from btclab.context.store import save_values
for day in range(int(sys.argv[1]), 40, 2):
    stamp = pd.DatetimeIndex([pd.Timestamp("2024-01-01", tz="UTC") + pd.Timedelta(days=day)])
    save_values(SERIES["fear_greed"], "alternative.me", pd.Series([float(day)], index=stamp))
"""


def test_two_writers_lose_nothing():
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(first)]) for first in (0, 1)]
    assert [writer.wait(60) for writer in writers] == [0, 0]
    assert read_values("alternative.me", "fear_greed").tolist() == list(range(40))
    assert [path.name for path in path_of("alternative.me", "x").parent.glob("*.parquet")] == ["fear_greed.parquet"]


def test_a_folder_that_cannot_be_written_is_said(home):
    (home / "data").mkdir(exist_ok=True)
    (home / "data" / "context").write_text("a file where a folder should be")
    with pytest.raises(StorageError, match="Cannot write"):
        save_values(FEAR, "alternative.me", days("2024-01-01", 1))
