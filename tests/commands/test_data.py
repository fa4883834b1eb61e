"""`btclab data`: findings are information, repairs are marked, exit codes say what happened."""

from __future__ import annotations

import pandas as pd
import pytest
from typer.testing import CliRunner

from btclab.commands.data import app
from btclab.errors import InputError
from btclab.market.store import read_candles, save_candles
from tests.market.test_venues import second_venue

MARKET = "BTC/USDT"


def run(*words: str):
    return CliRunner().invoke(app, list(words))


@pytest.fixture
def stored(candles):
    """Binance with a hole of 30 hours, Kraken without."""
    save_candles(candles.drop(index=candles.index[50:80]), "binance", MARKET, "1h")
    save_candles(second_venue(candles), "kraken", MARKET, "1h")


def test_clean_candles_have_nothing_bad():
    done = run("check", "--source", "simulated:7", "--end", "2021-04-01", "--strict")
    assert done.exit_code == 0, done.output
    assert "SIMULATED MARKET" in done.output
    assert "Nothing bad found." in done.output


def test_findings_are_information(stored):
    done = run("check", "--source", "store:binance")
    assert done.exit_code == 0, done.output
    assert "1 day 6 h" in done.output
    assert "do not train on these bars" in done.output


def test_strict_makes_bad_findings_a_failure(stored):
    assert run("check", "--source", "store:binance", "--strict").exit_code == 1


def test_a_second_venue_says_whether_it_has_the_bars(stored):
    done = run("check", "--source", "store:binance", "--against", "store:kraken")
    assert "kraken has 30 of these bars" in done.output
    assert "median premium" in done.output


def test_what_is_not_listed_is_counted(candles, home):
    save_candles(candles.drop(index=candles.index[10:1500:40]), "binance", MARKET, "1h")
    done = run("check", "--source", "store:binance", "--most", "3")
    assert "more: --most" in done.output


def test_a_file_with_duplicates_is_examined(candles, tmp_path):
    frame = candles.iloc[:200]
    pd.concat([frame, 2 * frame.iloc[[3]]]).to_csv(tmp_path / "twice.csv")
    done = run("check", "--source", f"file:{tmp_path / 'twice.csv'}")
    assert done.exit_code == 0, done.output
    assert "conflicting duplicate" in done.output


def test_a_wrong_source_is_the_users_error():
    done = run("check", "--source", "simulated:x")
    assert isinstance(done.exception, InputError)


def test_a_repair_fills_and_marks(candles, stored):
    done = run("repair", "--source", "binance", "--from", "store:kraken")
    assert done.exit_code == 0, done.output
    assert "30 of 30 missing bars filled and marked from store:kraken." in done.output
    assert read_candles("binance", MARKET, "1h").attrs["repaired"][0]["venue"] == "kraken"


def test_a_dry_run_only_shows(candles, stored):
    done = run("repair", "--source", "binance", "--from", "store:kraken", "--dry-run")
    assert "30 of 30 missing bars would be filled" in done.output
    assert len(read_candles("binance", MARKET, "1h")) == len(candles) - 30


def test_nothing_to_repair_is_no_failure(candles, stored):
    done = run("repair", "--source", "kraken", "--from", "store:binance")
    assert done.exit_code == 0, done.output
    assert "has no gaps" in done.output


def test_a_repair_that_fills_nothing_is_a_failure_and_says_why(candles, stored):
    other = second_venue(candles)
    other[["open", "high", "low", "close"]] *= 1.05
    save_candles(other, "bitstamp", MARKET, "1h")
    done = run("repair", "--source", "binance", "--from", "store:bitstamp")
    assert done.exit_code == 1
    assert "% apart beside the gap" in done.output


@pytest.mark.parametrize("name", ["check", "repair"])
def test_each_command_has_an_example(name):
    done = run(name, "--help")
    assert done.exit_code == 0
    assert "Example: btclab data" in done.output
