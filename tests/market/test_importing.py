"""Candles from files: what is understood, and how each wrong file is refused."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import btclab as bl
from btclab.errors import InputError, TooFewBars
from btclab.market.candles import COLUMNS, fingerprint, validate_candles
from btclab.market.importing import read_candle_file

SHARED = Path(__file__).resolve().parents[3] / "shared" / "candles"
HEADER = "timestamp,open,high,low,close,volume\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder in which the test runs, so that file:NAME is found."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def week(candles: pd.DataFrame) -> pd.DataFrame:
    return candles.iloc[:168]


def naive(candles: pd.DataFrame) -> pd.DataFrame:
    return candles.tz_localize(None)


def in_epoch(candles: pd.DataFrame, unit: str) -> pd.DataFrame:
    return candles.set_axis(candles.index.as_unit(unit).asi8).rename_axis("timestamp")


def refusal(path: Path, kind: type[InputError] = InputError) -> str:
    """What is said of the file at `path`: always its name, always as wrong input."""
    with pytest.raises(kind) as caught:
        read_candle_file(path)
    assert caught.value.exit_code == 2
    assert path.name in str(caught.value)
    return str(caught.value)


# What is understood


@pytest.mark.parametrize("suffix", [".csv", ".CSV", ".parquet"])
def test_candles_survive_a_round_trip_to_the_last_bit(folder, week, suffix):
    path = folder / f"week{suffix}"
    (week.to_parquet if suffix == ".parquet" else week.to_csv)(path)
    read = read_candle_file(path)
    pd.testing.assert_frame_equal(read, week, check_freq=False, check_index_type=False)
    assert fingerprint(read) == fingerprint(week)


def test_parquet_may_hold_the_times_as_a_column(folder, week):
    week.reset_index().to_parquet(folder / "week.parquet")
    assert fingerprint(read_candle_file(folder / "week.parquet")) == fingerprint(week)


@pytest.mark.parametrize("name", ["timestamp", "date", "Date", "datetime", "time", "open_time", " Time "])
def test_time_column_is_known_by_its_usual_names(folder, week, name):
    week.rename_axis(name).to_csv(folder / "week.csv")
    assert fingerprint(read_candle_file(folder / "week.csv")) == fingerprint(week)


@pytest.mark.parametrize("name", ["volume", "Volume", "volume_btc", "Volume BTC".replace(" ", "_"), "volume_base"])
def test_volume_column_is_known_by_its_usual_names(folder, week, name):
    week.rename(columns={"volume": name}).to_csv(folder / "week.csv")
    assert fingerprint(read_candle_file(folder / "week.csv")) == fingerprint(week)


def test_capitals_order_and_other_columns_do_not_matter(folder, week):
    week[COLUMNS[::-1]].rename(columns=str.title).assign(trades=1, note="x").to_csv(folder / "week.csv")
    assert fingerprint(read_candle_file(folder / "week.csv")) == fingerprint(week)


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_numbers_are_seconds_or_their_fractions_by_their_size(folder, week, unit):
    in_epoch(week, unit).to_csv(folder / "week.csv")
    assert fingerprint(read_candle_file(folder / "week.csv")) == fingerprint(week)


def test_fractional_seconds_are_times(folder, week):
    in_epoch(week, "s").set_axis(week.index.as_unit("s").asi8.astype(float)).rename_axis("time").to_csv("week.csv")
    assert fingerprint(read_candle_file(folder / "week.csv")) == fingerprint(week)


def test_whole_numbers_are_prices_too(folder):
    (folder / "whole.csv").write_text(HEADER + "2021-01-01T00:00Z,1,2,1,2,3\n2021-01-01T01:00Z,2,2,1,1,0\n")
    assert (read_candle_file(folder / "whole.csv").dtypes == np.float64).all()


def test_another_offset_is_turned_into_utc(folder, week):
    week.tz_convert("Asia/Tokyo").to_csv(folder / "week.csv")
    assert fingerprint(read_candle_file(folder / "week.csv")) == fingerprint(week)


def test_naive_times_are_taken_in_the_zone_that_is_named(folder, week):
    naive(week).to_csv(folder / "week.csv")
    assert fingerprint(bl.load_candles("file:week.csv?tz=UTC")) == fingerprint(week)


def test_naive_local_times_become_utc(folder, week):
    naive(week.tz_convert("Europe/Berlin")).to_csv(folder / "week.csv")
    assert fingerprint(bl.load_candles("file:week.csv?tz=Europe/Berlin")) == fingerprint(week)


def test_a_zone_does_not_move_times_that_have_one(folder, week):
    week.to_csv(folder / "week.csv")
    assert fingerprint(bl.load_candles("file:week.csv?tz=Asia/Tokyo")) == fingerprint(week)


def test_loaded_candles_name_the_file_and_the_timeframe(folder, week):
    week.to_csv(folder / "week.csv")
    assert bl.load_candles("file:week.csv", "4h").attrs == {
        "source": "file:week.csv",
        "symbol": "BTC/USDT",
        "timeframe": "4h",
        "simulated": False,
    }


def test_a_file_that_calls_itself_simulated_stays_simulated(folder, week):
    week.to_csv(folder / "simulated-7.csv")
    assert bl.load_candles("file:simulated-7.csv").attrs["simulated"] is True


@pytest.mark.parametrize(
    ("name", "options", "timeframe", "rows"),
    [
        ("bitstamp_btcusd_1h.csv", "", "1h", 28_164),
        ("coinbase_btcusd_1d.csv", "?tz=UTC", "1d", 2_141),
        ("binance_btcusdt_1d_2017-08_2024-12.csv", "", "1d", 2_694),
    ],
)
def test_files_of_real_venues_load(name, options, timeframe, rows):
    if not (SHARED / name).exists():
        pytest.skip(f"no real candles at {SHARED / name}")
    loaded = bl.load_candles(f"file:{SHARED / name}{options}", timeframe)
    assert len(validate_candles(loaded, timeframe)) == rows


def test_a_file_of_snapshots_is_refused_for_its_columns():
    path = SHARED / "coingecko_btc_1d.csv"
    if not path.exists():
        pytest.skip(f"no real file at {path}")
    assert "no column open, high, low, close, volume; found price_usd" in refusal(path)


# What is refused


def test_naive_times_without_a_zone(folder, week):
    naive(week).to_csv(folder / "week.csv")
    assert "?tz=UTC" in refusal(folder / "week.csv")


def test_option_without_a_value_is_no_zone(folder, week):
    naive(week).to_csv(folder / "week.csv")
    with pytest.raises(InputError, match=r"week\.csv.*naive.*\?tz=UTC"):
        bl.load_candles("file:week.csv?tz=")


@pytest.mark.parametrize("zone", ["Mars/Base", "UTC+27", "../etc"])
def test_unknown_zone(folder, week, zone):
    naive(week).to_csv(folder / "week.csv")
    with pytest.raises(InputError, match=rf"week\.csv.*'{re.escape(zone)}' is no zone"):
        bl.load_candles(f"file:week.csv?tz={zone.replace('+', '%2B')}")


def test_an_hour_that_the_clocks_skipped(folder, week):
    local = pd.date_range("2021-03-28", periods=len(week), freq="h", name="timestamp")
    week.set_axis(local).to_csv(folder / "week.csv")
    with pytest.raises(InputError, match=r"week\.csv.*2021-03-28 02:00:00 is a nonexistent time"):
        bl.load_candles("file:week.csv?tz=Europe/Berlin")


def test_missing_file(folder):
    assert "There is no file" in refusal(folder / "nowhere.csv")


def test_folder_instead_of_a_file(folder):
    (folder / "folder.csv").mkdir()
    assert "There is no file" in refusal(folder / "folder.csv")


@pytest.mark.parametrize("name", ["candles.xlsx", "candles", "candles.csv.gz"])
def test_unknown_suffix_names_the_known_ones(folder, name):
    (folder / name).write_text(HEADER)
    assert "use .csv or .parquet" in refusal(folder / name)


@pytest.mark.parametrize("name", ["empty.csv", "empty.parquet"])
def test_empty_file(folder, name):
    (folder / name).touch()
    assert "cannot be read" in refusal(folder / name)


def test_header_without_rows(folder):
    (folder / "header.csv").write_text(HEADER)
    assert "no rows" in refusal(folder / "header.csv", TooFewBars)


def test_a_single_bar_has_no_timeframe(folder):
    (folder / "one.csv").write_text(HEADER + "2021-01-01T00:00Z,1,1,1,1,1\n")
    assert "at least 2 are needed" in refusal(folder / "one.csv", TooFewBars)


def test_truncated_parquet(folder, week):
    week.to_parquet(folder / "whole.parquet")
    whole = (folder / "whole.parquet").read_bytes()
    (folder / "half.parquet").write_bytes(whole[: len(whole) // 2])
    assert "cannot be read" in refusal(folder / "half.parquet")


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_binary_junk(folder, suffix):
    path = folder / f"junk{suffix}"
    path.write_bytes(np.random.default_rng(0).bytes(4000))
    assert "cannot be read" in refusal(path)


def test_zero_bytes(folder):
    (folder / "zeros.csv").write_bytes(bytes(2000))
    refusal(folder / "zeros.csv")


def test_a_table_that_is_no_candles(folder):
    (folder / "people.csv").write_text("name,age\nAda,36\n")
    assert "no time column: found name, age" in refusal(folder / "people.csv")


def test_missing_columns_are_named(folder, week):
    week.drop(columns=["low", "volume"]).to_csv(folder / "week.csv")
    assert "no column low, volume; found open, high, close" in refusal(folder / "week.csv")


def test_column_twice_but_for_capitals(folder):
    (folder / "twice.csv").write_text("timestamp,open,Open,high,low,close,volume\n2021-01-01T00:00Z,1,1,1,1,1,1\n")
    assert "column open comes twice" in refusal(folder / "twice.csv")


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("2021-01-01T01:00Z,n/a?,1,1,1,1", "not a number: could not convert string to float: 'n/a?'"),
        (
            "2021-01-01T01:00Z,,1,1,1,1",
            "Row 1 at 2021-01-01 01:00:00+00:00 holds a missing or infinite value: open=nan",
        ),
        ("2021-01-01T01:00Z,inf,1,1,1,1", "holds a missing or infinite value"),
        ("2021-01-01T01:00Z,1,1,0,1,1", "Row 1 at 2021-01-01 01:00:00+00:00 has a price ≤ 0"),
        ("2021-01-01T01:00Z,1,1,2,1,1", "high below its low"),
        ("2021-01-01T01:00Z,1,1,1,1,-1", "negative volume"),
        ("2021-01-01T00:00Z,1,1,1,1,1", "00:00:00+00:00 comes twice"),
        ("2020-12-31T23:00Z,1,1,1,1,1", "not sorted"),
        ("soon,1,1,1,1,1", "a timestamp is not a time"),
        (f"{10**40},1,1,1,1,1", "a timestamp is not a time"),
        (",1,1,1,1,1", "Row 1 has no timestamp"),
        ("2021-01-01T01:00Z,1,1,1,1,1,7,8", "cannot be read"),
        ("2021-01-08T00:00Z,1,1,1,1,1", "7 days 00:00:00, which is no timeframe"),
        ("2021-01-01T00:07Z,1,1,1,1,1", "0 days 00:07:00, which is no timeframe"),
    ],
)
def test_wrong_row_is_named(folder, row, said):
    path = folder / "rows.csv"
    path.write_text(HEADER + f"2021-01-01T00:00Z,1,1,1,1,1\n{row}\n")
    assert said in refusal(path)


def test_bars_off_the_hour(folder, week):
    week.set_axis(week.index + pd.Timedelta("7min")).rename_axis("timestamp").to_csv(folder / "week.csv")
    assert "does not start on a whole 1h" in refusal(folder / "week.csv")


def test_a_unit_that_changes(folder, week):
    pd.concat([in_epoch(week.iloc[:80], "ms"), in_epoch(week.iloc[80:], "us")]).to_csv(folder / "week.csv")
    assert "change their unit (ms and us)" in refusal(folder / "week.csv")


def test_rows_longer_than_the_header(folder):
    (folder / "long.csv").write_text(HEADER + "2021-01-01T00:00Z,1,1,1,1,1,9\n2021-01-01T01:00Z,1,1,1,1,1,9\n")
    assert "more values than its header" in refusal(folder / "long.csv")


def test_offsets_that_change(folder):
    rows = "2021-01-01T00:00+01:00,1,1,1,1,1\n2021-01-01T01:00+02:00,1,1,1,1,1\n"
    (folder / "mixed.csv").write_text(HEADER + rows)
    assert "Mixed timezones" in refusal(folder / "mixed.csv")


@pytest.mark.parametrize("options", ["?x=1", "?x", "?zone=UTC", "?tz=UTC&x=1"])
def test_unknown_option(folder, week, options):
    week.to_csv(folder / "week.csv")
    with pytest.raises(InputError, match=r"Unknown option in file:week\.csv.*only tz is known"):
        bl.load_candles(f"file:week.csv{options}")


def test_shorter_bars_than_the_file_holds(folder, week):
    week.to_csv(folder / "week.csv")
    with pytest.raises(InputError, match="Bars of 1h cannot be made into bars of 30m"):
        bl.load_candles("file:week.csv", "30m")
