"""Candles from files: what is understood, and how each wrong file is refused."""

from __future__ import annotations

import gzip
import io
import json
import re
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import btclab as bl
from btclab.errors import InputError, TooFewBars
from btclab.market.candles import COLUMNS, fingerprint, validate_candles
from btclab.market.importing import import_candles, inspect_file, read_candle_file, read_closes
from btclab.market.inspection import bar_opens
from btclab.market.store import read_candles

SHARED = Path(__file__).resolve().parents[3] / "shared" / "candles"
HEADER = "timestamp,open,high,low,close,volume\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder in which the test runs, so that file:NAME is found."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def week(candles: pd.DataFrame) -> pd.DataFrame:
    week = candles.iloc[:168].copy()
    week.attrs = {}  # as if it were of an exchange
    return week


def naive(candles: pd.DataFrame) -> pd.DataFrame:
    return candles.tz_localize(None)


def in_epoch(candles: pd.DataFrame, unit: str) -> pd.DataFrame:
    return candles.set_axis(candles.index.as_unit(unit).asi8).rename_axis("timestamp")


def refusal(path: Path, kind: type[InputError] = InputError, **options: object) -> str:
    """What is said of the file at `path`: always its name, always as wrong input."""
    with pytest.raises(kind) as caught:
        read_candle_file(path, **options)
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
    said = refusal(path)
    assert "no column open, high, low, close, volume; found date, price_usd" in said
    assert "prices are never invented" in said and "read_closes" in said


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
    with pytest.raises(InputError, match=r"week\.csv: row 4 \(2021-03-28 02:00:00\) does not exist in Europe/Berlin"):
        bl.load_candles("file:week.csv?tz=Europe/Berlin")


def test_missing_file(folder):
    assert "There is no file" in refusal(folder / "nowhere.csv")


def test_folder_instead_of_a_file(folder):
    (folder / "folder.csv").mkdir()
    assert "There is no file" in refusal(folder / "folder.csv")


@pytest.mark.parametrize("name", ["candles.xls", "candles", "candles.pkl", "candles.parquet.7z", "candles.gz"])
def test_unknown_suffix_names_the_known_ones(folder, name):
    (folder / name).write_text(HEADER)
    assert "use one of .csv, .tsv, .txt, .xlsx, .parquet, .json" in refusal(folder / name)


@pytest.mark.parametrize("name", ["candles.xlsx", "candles.csv.gz", "candles.csv.zip", "candles.json", "candles.jsonl"])
def test_a_file_that_is_not_what_its_suffix_says(folder, name):
    (folder / name).write_text(HEADER)
    assert "cannot be read" in refusal(folder / name)


@pytest.mark.parametrize("name", ["empty.csv", "empty.parquet", "empty.xlsx", "empty.json", "empty.csv.gz"])
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
    assert "no column low, volume; found timestamp, open, high, close" in refusal(folder / "week.csv")


def test_column_twice_but_for_capitals(folder):
    (folder / "twice.csv").write_text("timestamp,open,Open,high,low,close,volume\n2021-01-01T00:00Z,1,1,1,1,1,1\n")
    assert "column open comes twice" in refusal(folder / "twice.csv")


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("2021-01-01T01:00Z,n/a?,1,1,1,1", "open is not a number: 'n/a?'"),
        ("2021-01-01T01:00Z,,1,1,1,1", "holds a missing or infinite value: open=nan"),
        ("2021-01-01T01:00Z,inf,1,1,1,1", "holds a missing or infinite value"),
        ("2021-01-01T01:00Z,1,1,0,1,1", "has a price ≤ 0"),
        ("2021-01-01T01:00Z,1,1,2,1,1", "high below its low"),
        ("2021-01-01T01:00Z,1,1,1,2,1", "opens or closes outside its range"),
        ("2021-01-01T01:00Z,1,1,1,1,-1", "negative volume"),
        ("2021-01-01T01:00Z,100,100,100,100,1", "opens far from the close before it"),
        ("2121-01-01T00:00Z,1,1,1,1,1", "lies in the future"),
        ("2008-01-01T00:00Z,1,1,1,1,1", "lies before Bitcoin's first block"),
        ("soon,1,1,1,1,1", "(soon) 'soon' is not a time"),
        (f"{10**40},1,1,1,1,1", "is not a time"),
        ("2021-02-30T00:00Z,1,1,1,1,1", "is not a time"),
        ("2021-01-01T01:00,1,1,1,1,1", "names no zone, other rows do"),
        (",1,1,1,1,1", "(–) has no timestamp"),
    ],
)
def test_wrong_row_is_named_by_its_line(folder, row, said):
    path = folder / "rows.csv"
    hours = "".join(f"2020-12-31T{hour}:00Z,1,1,1,1,1\n" for hour in (22, 23))
    path.write_text(HEADER + f"{hours}2021-01-01T00:00Z,1,1,1,1,1\n{row}\n")
    found = refusal(path)
    assert "row 5 " in found and said in found, found


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("2021-01-01T01:00Z,1,1,1,1,1,7,8", "cannot be read"),
        ("2021-01-08T00:00Z,1,1,1,1,1", "7 days 00:00:00, which is no timeframe"),
        ("2021-01-01T00:07Z,1,1,1,1,1", "0 days 00:07:00, which is no timeframe"),
    ],
)
def test_a_file_without_a_timeframe_or_a_shape(folder, row, said):
    path = folder / "rows.csv"
    path.write_text(HEADER + f"2021-01-01T00:00Z,1,1,1,1,1\n{row}\n")
    assert said in refusal(path)


def test_bars_off_the_hour(folder, week):
    week.set_axis(week.index + pd.Timedelta("7min")).rename_axis("timestamp").to_csv(folder / "week.csv")
    assert "does not start on a whole 1h" in refusal(folder / "week.csv")


def test_rows_longer_than_the_header(folder):
    (folder / "long.csv").write_text(HEADER + "2021-01-01T00:00Z,1,1,1,1,1,9\n2021-01-01T01:00Z,1,1,1,1,1,9\n")
    assert "more values than its header" in refusal(folder / "long.csv")


@pytest.mark.parametrize("options", ["?x=1", "?x", "?zone=UTC", "?tz=UTC&x=1"])
def test_unknown_option(folder, week, options):
    week.to_csv(folder / "week.csv")
    with pytest.raises(InputError, match=r"Unknown option of file:week\.csv"):
        bl.load_candles(f"file:week.csv{options}")


def test_shorter_bars_than_the_file_holds(folder, week):
    week.to_csv(folder / "week.csv")
    with pytest.raises(InputError, match="Bars of 1h cannot be made into bars of 30m"):
        bl.load_candles("file:week.csv", "30m")


# Exports of exchanges, aggregators and chart programs

HEADERS = {
    "Kaggle": "Timestamp,Open,High,Low,Close,Volume_(BTC),Volume_(Currency),Weighted_Price",
    "CryptoDataDownload": "unix,date,symbol,open,high,low,close,Volume BTC,Volume USD",
    "Binance": "open_time,open,high,low,close,volume,close_time,quote_volume,count,taker_buy_volume",
    "TradingView": "time,open,high,low,close,Volume,Volume MA",
    "Coinbase": "time,low,high,open,close,volume",
    "Dukascopy": "Gmt time,Open,High,Low,Close,Volume",
    "MetaTrader": "<DATE>,<TIME>,<OPEN>,<HIGH>,<LOW>,<CLOSE>,<VOL>",
    "German": "Datum;Eröffnung;Hoch;Tief;Schlusskurs;Volumen",
}


def test_typical_headers_are_understood(folder, week):
    opened = week.index.as_unit("s").asi8
    values = {
        **{name: opened for name in ("Timestamp", "unix", "open_time", "time")},
        "date": week.index.strftime("%Y-%m-%d %H:%M:%S"),
        **{name: week.index.strftime("%Y-%m-%d %H:%M:%S") for name in ("Gmt time",)},
        "<DATE>": week.index.strftime("%Y.%m.%d"),
        "<TIME>": week.index.strftime("%H:%M:%S"),
        "Datum": week.index.strftime("%Y-%m-%d %H:%M:%SZ"),
        **{name: week["open"] for name in ("open", "Open", "<OPEN>", "Eröffnung")},
        **{name: week["high"] for name in ("high", "High", "<HIGH>", "Hoch")},
        **{name: week["low"] for name in ("low", "Low", "<LOW>", "Tief")},
        **{name: week["close"] for name in ("close", "Close", "<CLOSE>", "Schlusskurs")},
        **{name: week["volume"] for name in ("volume", "Volume", "Volume BTC", "Volume_(BTC)", "<VOL>", "Volumen")},
    }
    for origin, header in HEADERS.items():
        separator = ";" if ";" in header else ","
        names = header.split(separator)
        table = pd.DataFrame({name: np.asarray(values.get(name, np.full(len(week), 7))) for name in names})
        table.to_csv(folder / "export.csv", index=False, sep=separator)
        zone = "UTC" if origin == "MetaTrader" else None
        assert fingerprint(read_candle_file(folder / "export.csv", zone)) == fingerprint(week), origin


def test_mapping_is_shown(folder, week):
    week.rename(columns={"close": "Close", "volume": "Volume BTC"}).assign(**{"Adj Close": 1.0}).to_csv("week.csv")
    seen = inspect_file(folder / "week.csv")
    assert seen.columns == {
        "timestamp": "timestamp",
        "open": "open",
        "high": "high",
        "low": "low",
        "close": "Close",
        "volume": "Volume BTC",
    }
    assert (seen.unit, seen.zone, seen.stamp, seen.timeframe, seen.rows) == ("text", "as written", "open", "1h", 168)
    assert fingerprint(seen.first) == fingerprint(week.head(5))
    assert not seen.questions and seen.problems.empty


def test_given_columns_go_before_guessed_ones(folder, week):
    week.rename(columns={"close": "Last"}).assign(close=1.0).to_csv("week.csv")
    assert fingerprint(read_candle_file(folder / "week.csv", columns={"close": "last"})) == fingerprint(week)


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"close": "Lst"}, "Unknown column: 'Lst'. Did you mean 'Last'"),
        ({"clse": "Last"}, "Unknown candle column: 'clse'"),
    ],
)
def test_a_given_column_that_is_not_there(folder, week, columns, said):
    week.rename(columns={"close": "Last"}).to_csv("week.csv")
    with pytest.raises(InputError, match=re.escape(said)):
        read_candle_file(folder / "week.csv", columns=columns)


def test_an_option_that_does_not_exist(folder, week):
    week.to_csv("week.csv")
    with pytest.raises(InputError, match="Unknown option: 'zon'"):
        inspect_file(folder / "week.csv", zon="UTC")


def test_lines_above_the_header_and_blank_lines_keep_the_row_numbers(folder, week):
    lines = week.to_csv().splitlines()
    lines[4:4] = [""]
    (folder / "week.csv").write_text("\n".join(["https://www.example.org", *lines]))
    assert fingerprint(read_candle_file(folder / "week.csv")) == fingerprint(week)
    lines[6] = lines[6].replace(",", ",-", 1)
    (folder / "week.csv").write_text("\n".join(["https://www.example.org", *lines]))
    assert "row 8 " in refusal(folder / "week.csv")  # as an editor counts lines


def test_unordered_rows_are_sorted_and_identical_ones_dropped_and_both_are_said(folder, week):
    pd.concat([week[::-1], week.iloc[[5, 5, 9]]]).to_csv("week.csv")
    seen = inspect_file(folder / "week.csv")
    assert (seen.duplicates, seen.rows) == (3, 171)
    assert any("sorted" in note for note in seen.notes)
    assert fingerprint(read_candle_file(folder / "week.csv")) == fingerprint(week)


def test_rows_with_one_time_and_other_values_are_refused_by_both_numbers(folder, week):
    pd.concat([week, week.iloc[[5]] * 1.01]).to_csv("week.csv")
    said = refusal(folder / "week.csv")
    assert "row 7 " in said and "row 170 " in said and "--keep" in said


@pytest.mark.parametrize(("keep", "factor"), [("first", 1.0), ("last", 1.01)])
def test_which_of_two_rows_with_one_time_is_kept_can_be_said(folder, week, keep, factor):
    pd.concat([week, week.iloc[[5]] * 1.01]).to_csv("week.csv")
    read = read_candle_file(folder / "week.csv", keep=keep)
    assert read["close"].iloc[5] == pytest.approx(week["close"].iloc[5] * factor)
    assert len(read) == len(week)


def test_rows_without_any_price_are_gaps_and_counted(folder, week):
    week.copy().assign(**{name: week[name].where(np.arange(168) != 7) for name in COLUMNS}).to_csv("week.csv")
    seen = inspect_file(folder / "week.csv")
    assert seen.empty == 1
    assert fingerprint(read_candle_file(folder / "week.csv")) == fingerprint(week.drop(index=week.index[7]))


def test_many_wrong_rows_are_counted_and_all_are_in_the_table(folder, week):
    week.assign(high=1.0).to_csv("week.csv")
    seen = inspect_file(folder / "week.csv")
    assert seen.problems["row"].tolist() == list(range(2, 170))
    assert seen.problems["timestamp"].iloc[0] == "2021-01-01 00:00:00+00:00"
    assert "and 163 more" in refusal(folder / "week.csv")


def test_a_bar_with_a_huge_range_is_named_not_refused(folder, week):
    week.assign(low=week["low"].where(np.arange(168) != 3, 0.06)).to_csv("week.csv")
    assert "range over 10 times their low, the first in row 5" in inspect_file(folder / "week.csv").notes[0]


# Numbers


def comma(value: float, digits: int = 5) -> str:
    return f"{value:,.{digits}f}".translate(str.maketrans(",.", ".,"))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_decimal_commas_with_thousands_in_any_encoding(folder, week, encoding):
    rows = [
        ";".join([f"{stamp:%d.%m.%Y %H:%M}", *map(comma, row)])
        for stamp, row in zip(week.index, week.to_numpy(), strict=True)
    ]
    text = "\n".join(["Datum;Eröffnung;Höchst;Tief;Schluss;Volumen", *rows])
    (folder / "de.csv").write_bytes(text.encode(encoding))
    read = read_candle_file(folder / "de.csv", "UTC", dayfirst=True)
    assert np.allclose(read, week, rtol=1e-12) and (read.index == week.index).all()


def test_thousands_without_decimals_in_a_file_with_decimal_commas(folder):
    rows = [f"2021-01-01T0{hour}:00Z;29.001;29.300,5;28.900;29.100,25;1.000" for hour in range(3)]
    (folder / "de.csv").write_text("timestamp;open;high;low;close;volume\n" + "\n".join(rows))
    assert read_candle_file(folder / "de.csv").iloc[0].tolist() == [29001, 29300.5, 28900, 29100.25, 1000]


def test_english_thousands(folder):
    rows = [f'2021-01-01T0{hour}:00Z,"29,001","29,300.5","28,900","29,100.25",7' for hour in range(3)]
    (folder / "en.csv").write_text(HEADER + "\n".join(rows))
    assert read_candle_file(folder / "en.csv").iloc[0].tolist() == [29001, 29300.5, 28900, 29100.25, 7]


def test_a_comma_that_could_be_either_is_asked_for(folder):
    rows = [f"2021-01-01T0{hour}:00Z;1,001;1,300;1,000;1,100;1" for hour in range(3)]
    (folder / "odd.csv").write_text("timestamp;open;high;low;close;volume\n" + "\n".join(rows))
    assert "--decimal" in refusal(folder / "odd.csv")
    assert read_candle_file(folder / "odd.csv", decimal=",")["high"].iloc[0] == 1.3
    assert read_candle_file(folder / "odd.csv", decimal=".")["high"].iloc[0] == 1300


def test_only_a_quote_volume_is_asked_for_and_divided_only_when_named(folder, week):
    quote = week["volume"] * week[["open", "high", "low", "close"]].mean(axis=1)
    week.drop(columns="volume").assign(**{"Volume USDT": quote}).to_csv("week.csv")
    assert "'Volume USDT', is in quote currency" in refusal(folder / "week.csv")
    assert "--volume-unit" in refusal(folder / "week.csv", columns={"volume": "Volume USDT"})
    read = read_candle_file(folder / "week.csv", volume_unit="quote")
    assert np.allclose(read["volume"], week["volume"])
    assert "approximation" in inspect_file(folder / "week.csv", volume_unit="quote").notes[0]


def test_more_volume_than_there_are_coins_is_asked_for(folder, week):
    days = week.iloc[:30].set_axis(pd.date_range("2021-01-01", periods=30, tz="UTC", name="Date"))
    days.assign(volume=3e10).to_csv("yahoo.csv")
    assert "more than there are bitcoins" in refusal(folder / "yahoo.csv")
    assert read_candle_file(folder / "yahoo.csv", volume_unit="quote")["volume"].max() < 2e6
    assert read_candle_file(folder / "yahoo.csv", volume_unit="base")["volume"].max() == 3e10


# Times


def test_each_number_is_read_in_its_own_unit(folder, week):
    parts = [week.iloc[:80], week.iloc[80:120], week.iloc[120:]]
    pd.concat([in_epoch(part, unit) for part, unit in zip(parts, ("s", "ms", "us"), strict=True)]).to_csv("week.csv")
    assert fingerprint(read_candle_file(folder / "week.csv")) == fingerprint(week)
    assert inspect_file(folder / "week.csv").unit == "s and ms and us"


def test_offsets_that_change_with_the_clocks_are_times(folder, week):
    local = week.set_axis(pd.date_range("2021-03-27", periods=168, freq="h", tz="UTC", name="timestamp"))
    local.tz_convert("Europe/Berlin").to_csv("week.csv")
    assert fingerprint(read_candle_file(folder / "week.csv")) == fingerprint(local)


def test_an_hour_that_comes_twice_when_the_clocks_change(folder, week):
    local = pd.date_range("2021-10-31", periods=6, freq="h", name="timestamp")
    week.iloc[:6].set_axis(local).to_csv("week.csv")
    assert "row 4 (2021-10-31 02:00:00) comes twice in Europe/Berlin" in refusal(
        folder / "week.csv", zone="Europe/Berlin"
    )


@pytest.mark.parametrize(
    ("form", "options"),
    [
        ("%d/%m/%Y %H:%M", {"dayfirst": True}),
        ("%m/%d/%Y %H:%M", {"dayfirst": False}),
        ("%d.%m.%Y %H:%M:%S", {"dayfirst": True}),
        ("%Y/%m/%d %H:%M", {}),
        ("%Y-%m-%d %H:%M:%S UTC", {}),
        ("%Y-%m-%d %H:%M:%S+00", {}),
        ("%Y-%m-%d %I-%p", {}),
        ("%b %d, %Y %H:%M", {}),
        ("%d %B %Y %H:%M", {}),
    ],
)
def test_ways_to_write_a_time(folder, week, form, options):
    week.set_axis(week.index.strftime(form)).rename_axis("date").to_csv("week.csv")
    assert fingerprint(read_candle_file(folder / "week.csv", "UTC", **options)) == fingerprint(week)


def test_day_or_month_first_is_asked_for_unless_a_number_tells(folder, week):
    week.set_axis(week.index.strftime("%d/%m/%Y %H:%M")).rename_axis("date").to_csv("week.csv")
    assert "is the day first or the month?" in refusal(folder / "week.csv", zone="UTC")
    later = week.set_axis(pd.date_range("2021-01-10", periods=168, freq="h", tz="UTC", name="timestamp"))
    for form, said in (("%d/%m/%Y %H:%M", "text, day first"), ("%m/%d/%Y %H:%M", "text, month first")):
        later.set_axis(later.index.strftime(form)).rename_axis("date").to_csv("later.csv")
        assert inspect_file(folder / "later.csv", zone="UTC").unit == said
        assert fingerprint(read_candle_file(folder / "later.csv", "UTC")) == fingerprint(later)


@pytest.mark.parametrize("form", ["%d/%m/%y %H:%M", "%y-%m-%d %H:%M", "%d-%b-%y %H:%M"])
def test_years_of_two_digits_are_refused_not_guessed(folder, week, form):
    week.set_axis(week.index.strftime(form)).rename_axis("date").to_csv("week.csv")
    assert "is not a time" in refusal(folder / "week.csv", zone="UTC")


def test_a_header_inside_a_joined_file_is_one_wrong_row(folder, week):
    text = week.to_csv()
    (folder / "week.csv").write_text(text + text.splitlines()[0] + "\n")
    assert "row 170 (timestamp) 'timestamp' is not a time" in refusal(folder / "week.csv")
    assert len(inspect_file(folder / "week.csv").problems) == 1


def test_a_column_that_says_utc_needs_no_zone(folder, week):
    naive(week).rename_axis("Date (UTC)").to_csv("week.csv")
    assert inspect_file(folder / "week.csv", columns={"timestamp": "Date (UTC)"}).zone == "UTC"


@pytest.mark.parametrize("form", ["%Y%m%d", "serial"])
def test_days_as_whole_numbers(folder, week, form):
    index = pd.date_range("2021-01-01", periods=168, tz="UTC", name="timestamp")
    days = week.set_axis(index)
    serial = (index.tz_localize(None) - pd.Timestamp("1899-12-30")).days
    days.set_axis(serial if form == "serial" else index.strftime(form)).rename_axis("Date").to_csv("days.csv")
    assert fingerprint(read_candle_file(folder / "days.csv", "UTC")) == fingerprint(days)


# Stamps: which moment of the bar a row is dated by


@pytest.mark.parametrize("late", ["0s", "-1ms", "-1s"])
def test_stamps_of_the_close_become_the_open(folder, week, late):
    week.set_axis(week.index + pd.Timedelta("1h") + pd.Timedelta(late)).rename_axis("timestamp").to_csv("week.csv")
    assert fingerprint(read_candle_file(folder / "week.csv", stamp="close")) == fingerprint(week)


def test_last_seconds_of_bars_are_asked_for_and_a_closing_column_says_it(folder, week):
    ends = week.set_axis(week.index + pd.Timedelta("1h") - pd.Timedelta("1ms"))
    ends.rename_axis("timestamp").to_csv("week.csv")
    assert "--stamp close" in refusal(folder / "week.csv")
    ends.rename_axis("close_time").to_csv("week.csv")
    assert fingerprint(read_candle_file(folder / "week.csv")) == fingerprint(week)


def test_snapshots_are_the_close_of_the_bar_before():
    stamps = pd.DatetimeIndex(["2024-01-02 00:00:03", "2024-01-03 00:00:00"], tz="UTC")
    assert list(bar_opens(stamps, "1d", "snapshot").day) == [1, 2]


def test_real_snapshots_agree_with_an_exchange_only_when_they_are_taken_as_such():
    ours, theirs = SHARED / "binance_btcusdt_1d_2017-08_2024-12.csv", SHARED / "coingecko_btc_1d.csv"
    if not ours.exists():
        pytest.skip(f"no real files at {SHARED}")
    closes = read_candle_file(ours)["close"]["2018-02-01":]
    apart = {
        stamp: np.log(read_closes(theirs, "price_usd", "UTC", stamp) / closes).dropna().abs().median()
        for stamp in ("snapshot", "open")
    }
    assert apart["snapshot"] < 0.002
    assert apart["open"] > 0.01


# Other formats


def test_workbook_with_a_title_and_two_sheets(folder, week):
    with pd.ExcelWriter(folder / "book.xlsx") as book:
        pd.DataFrame({"a": [1]}).to_excel(book, sheet_name="About", index=False)
        naive(week).reset_index().to_excel(book, sheet_name="Prices", index=False, startrow=3)
    assert "sheet 'About' of 'About', 'Prices'" in inspect_file(folder / "book.xlsx", columns={}).notes[0]
    read = read_candle_file(folder / "book.xlsx", "UTC", sheet="Prices")
    assert fingerprint(read) == fingerprint(week)
    with pytest.raises(InputError, match="Unknown sheet: 'Price'"):
        inspect_file(folder / "book.xlsx", sheet="Price")


def test_row_numbers_of_a_workbook_are_those_it_shows(folder, week):
    spoilt = naive(week).reset_index()
    spoilt.loc[3, "low"] = -1
    spoilt.to_excel(folder / "book.xlsx", index=False, startrow=2)
    assert "row 7 " in refusal(folder / "book.xlsx", zone="UTC")


def as_json(week: pd.DataFrame, shape: str) -> str:
    klines = [
        [int(stamp), *map(repr, map(float, row))]
        for stamp, row in zip(week.index.as_unit("ms").asi8, week.to_numpy(), strict=True)
    ]
    records = week.assign(time=week.index.strftime("%Y-%m-%dT%H:%M:%SZ")).to_dict("records")
    kraken = [[row[0] // 1000, *row[1:5], row[4], row[5], 7] for row in klines]
    coinbase = [[row[0] // 1000, row[3], row[2], row[1], row[4], row[5]] for row in klines]
    shapes = {
        "records": records,
        "klines": [[*row, row[0] + 3_599_999, "1", 1, "1", "1", "0"] for row in klines],
        "Coinbase": coinbase,
        "Kraken": {"error": [], "result": {"XXBTZUSD": kraken, "last": 1}},
        "wrapped": {"status": "ok", "data": records},
        "columns": {"t": [row[0] for row in klines], **{name[0]: week[name].tolist() for name in COLUMNS}},
    }
    if shape == "lines":
        return "\n".join(map(json.dumps, records))
    return (
        week.to_json(orient=shape.removeprefix("pandas ")) if shape.startswith("pandas") else json.dumps(shapes[shape])
    )


@pytest.mark.parametrize(
    "shape",
    ["records", "klines", "Coinbase", "Kraken", "wrapped", "columns", "lines", "pandas columns", "pandas split"],
)
def test_shapes_of_json(folder, week, shape):
    if shape == "pandas split":
        week.reset_index().to_json(folder / "week.json", orient="split")
    else:
        (folder / "week.json").write_text(as_json(week, shape))
    read = read_candle_file(folder / "week.json")
    assert np.allclose(read, week, rtol=1e-9) and (read.index == week.index).all()


@pytest.mark.parametrize(
    "text", ["{}", "[]", "7", '{"a": [1, 2]}', "[[1, 2], [3]]", '{"prices": [[1, 2]]}', "[" * 10_000]
)
def test_json_without_candles(folder, text):
    (folder / "odd.json").write_text(text)
    refusal(folder / "odd.json")


def test_dump_without_a_header_is_known_by_its_columns_and_counts_rows_from_one(folder, week):
    rows = json.loads(as_json(week, "klines"))
    pd.DataFrame(rows).to_csv("BTCUSDT-1h.csv", header=False, index=False)
    seen = inspect_file(folder / "BTCUSDT-1h.csv")
    assert seen.columns["close"] == "column 5" and seen.unit == "ms"
    assert fingerprint(read_candle_file(folder / "BTCUSDT-1h.csv")) == fingerprint(week)
    rows[3][2] = "-1"
    pd.DataFrame(rows).to_csv("BTCUSDT-1h.csv", header=False, index=False)
    assert "row 4 " in refusal(folder / "BTCUSDT-1h.csv")


def test_columns_without_a_header_that_fit_no_order_are_asked_for(folder, week):
    odd = in_epoch(week, "s").reset_index()[["timestamp", "high", "open", "close", "low", "volume"]]
    odd.to_csv("odd.csv", header=False, index=False)
    assert "fit no known order" in refusal(folder / "odd.csv")
    names = {"timestamp": "column 1", "open": "column 3", "high": "column 2", "low": "column 5", "close": "column 4"}
    read = read_candle_file(folder / "odd.csv", columns={**names, "volume": "column 6"})
    assert fingerprint(read) == fingerprint(week)


def test_packed_text(folder, week):
    text = week.to_csv().encode()
    (folder / "week.csv.gz").write_bytes(gzip.compress(text))
    with zipfile.ZipFile(folder / "week.zip", "w") as archive:
        archive.writestr("week.csv", text)
    for name in ("week.csv.gz", "week.zip"):
        assert fingerprint(read_candle_file(folder / name)) == fingerprint(week)
    with zipfile.ZipFile(folder / "week.zip", "a") as archive:
        archive.writestr("other.csv", text)
    assert "holds 2 files" in refusal(folder / "week.zip")


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_separators(folder, week, separator):
    week.to_csv(folder / "week.txt", sep=separator)
    assert fingerprint(read_candle_file(folder / "week.txt")) == fingerprint(week)


# Into the store


def test_imported_candles_can_be_loaded_by_their_name(folder, week):
    week.drop(index=week.index[3:6]).to_csv("week.csv")
    done = import_candles(folder / "week.csv", "mydata")
    assert (done.symbol, done.timeframe, done.rows, done.kept) == ("BTC/USDT", "1h", 165, 165)
    assert (len(done.gaps), int(done.gaps["bars"].sum()), done.first, done.last) == (
        1,
        3,
        week.index[0],
        week.index[-1],
    )
    assert fingerprint(bl.load_candles("store:mydata")) == fingerprint(week.drop(index=week.index[3:6]))
    assert done.report.set_index("finding").loc["missing bars", "value"] == "3 in 1 gaps"


@pytest.mark.parametrize("kind", ["bytes", "open file"])
def test_uploads_are_imported_by_the_same_call(week, kind):
    data = week.to_csv().encode()
    import_candles(data if kind == "bytes" else io.BytesIO(data), "mydata", "BTC/EUR", filename="week.csv")
    assert fingerprint(read_candles("mydata", "BTC/EUR", "1h")) == fingerprint(week)


def test_an_upload_needs_a_name(week):
    with pytest.raises(InputError, match="filename="):
        import_candles(week.to_csv().encode(), "mydata")


def test_the_bar_that_has_not_closed_is_left_out(folder, week):
    now = pd.Timestamp.now("UTC").floor("1h")
    week.set_axis(pd.date_range(end=now, periods=168, freq="h", name="timestamp")).to_csv("week.csv")
    done = import_candles(folder / "week.csv", "mydata")
    assert (done.forming, done.kept, done.last) == (1, 167, now - pd.Timedelta("1h"))


def test_a_second_import_says_what_it_replaced(folder, week):
    week.to_csv("week.csv")
    import_candles(folder / "week.csv", "mydata")
    assert import_candles(folder / "week.csv", "mydata").replaced == 0
    week.assign(volume=week["volume"].where(np.arange(168) > 1, 7)).to_csv("week.csv")
    assert import_candles(folder / "week.csv", "mydata").replaced == 2


def test_nothing_is_stored_of_a_file_with_a_wrong_row(folder, week):
    week.assign(low=week["low"].where(np.arange(168) != 167, -1)).to_csv("week.csv")
    with pytest.raises(InputError, match=r"week\.csv: row 169 .* has a price ≤ 0"):
        import_candles(folder / "week.csv", "mydata")
    assert read_candles("mydata", "BTC/USDT", "1h") is None


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("binance", "is an exchange"),
        ("coingecko", "is an exchange"),
        ("store", "kind of source"),
        ("../up", "is no name"),
        ("", "is no name"),
        ("Mine", "small letters"),
    ],
)
def test_names_that_cannot_be(folder, week, name, said):
    week.to_csv("week.csv")
    with pytest.raises(InputError, match=said):
        import_candles(folder / "week.csv", name)


def test_an_exchange_can_be_named_on_purpose(folder, week):
    week.to_csv("week.csv")
    import_candles(folder / "week.csv", "binance", as_exchange=True)
    assert fingerprint(read_candles("binance", "BTC/USDT", "1h")) == fingerprint(week)


@pytest.mark.parametrize("name", ["simulated.csv", "week.parquet"])
def test_simulated_candles_are_not_stored_as_real_ones(folder, candles, name):
    week = candles.iloc[:168]
    (week.to_parquet if name.endswith("parquet") else week.to_csv)(name)
    with pytest.raises(InputError, match="holds simulated candles"):
        import_candles(folder / name, "mydata")


def test_a_timeframe_that_the_file_has_not(folder, week):
    week.to_csv("week.csv")
    with pytest.raises(InputError, match="bars are 1h apart, not 4h"):
        import_candles(folder / "week.csv", "mydata", timeframe="4h")
