"""`btclab import`: what it shows, asks, refuses and stores."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import typer
from typer.testing import CliRunner

from btclab.commands import importing
from btclab.errors import InputError
from btclab.market.candles import fingerprint
from btclab.market.store import read_candles

app = typer.Typer()
app.command("import", epilog=importing.EPILOG)(importing.import_file)


@app.callback()
def _root() -> None:
    """Makes `import` a command of its own, as in btclab."""


@pytest.fixture
def week(candles: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pd.DataFrame:
    """A week of hours; the test runs in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return candles.iloc[:168]


def run(*words: str, answers: str = "", code: int = 0) -> str:
    """What `btclab import WORDS` prints; raises the `InputError` it ends with."""
    done = CliRunner().invoke(app, ["import", *words], input=answers)
    if isinstance(done.exception, InputError):
        raise done.exception
    assert done.exit_code == code, (done.output, done.exception)
    return done.output


def stored(symbol: str = "BTC/USDT") -> pd.DataFrame | None:
    return read_candles("mydata", symbol, "1h")


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command believes that somebody sits before it."""
    monkeypatch.setattr(importing, "_can_ask", lambda _: True)


def test_help_has_an_example():
    assert "Example: btclab import prices.csv --as mydata" in run("--help")


def test_a_clear_file_is_shown_stored_and_reported(week):
    week.rename(columns={"close": "Last"}).to_csv("week.csv")
    said = run("week.csv", "--as", "mydata", "--symbol", "BTC/EUR")
    assert fingerprint(stored("BTC/EUR")) == fingerprint(week)
    for part in ("Last", f"{week['close'].iloc[0]:,.10g}", "bars stored", "168", "0 in 0 gaps"):
        assert part in said, part
    assert "--source store:mydata --timeframe 1h" in said


def test_preview_stores_nothing_and_needs_no_name(week):
    week.to_csv("week.csv")
    assert "first rows" in run("week.csv", "--preview")
    assert stored() is None


def test_a_pipe_is_told_what_to_type(week):
    week.tz_localize(None).to_csv("week.csv")
    with pytest.raises(InputError, match=r"btclab import week\.csv --as mydata --tz UTC"):
        run("week.csv", "--as", "mydata")
    assert stored() is None


def test_a_terminal_is_asked_for_what_is_not_known(week, terminal):
    local = week.tz_convert("Asia/Tokyo").tz_localize(None)
    local.set_axis(local.index.strftime("%d/%m/%Y %H:%M")).rename_axis("date").to_csv("week.csv")
    said = run("week.csv", "--as", "mydata", answers="day\nAsia/Tokyo\ny\n")
    assert "is the day first or the month?" in said and "naive" in said and "Store 168 rows as mydata?" in said
    assert fingerprint(stored()) == fingerprint(week)


def test_a_column_can_be_named_on_the_terminal(week, terminal):
    week.rename(columns={"close": "Ende"}).to_csv("week.csv")
    run("week.csv", "--as", "mydata", "--yes", answers="close=Ende\n")
    assert fingerprint(stored()) == fingerprint(week)


@pytest.mark.parametrize(("answers", "error"), [("\n", "No answer to"), ("Mars\n", "'Mars' is no zone")])
def test_no_answer_or_a_wrong_one_stores_nothing(week, terminal, answers, error):
    week.tz_localize(None).to_csv("week.csv")
    with pytest.raises(InputError, match=error):
        run("week.csv", "--as", "mydata", answers=answers)
    assert stored() is None


def test_saying_no_stores_nothing(week, terminal):
    week.to_csv("week.csv")
    run("week.csv", "--as", "mydata", answers="n\n", code=1)
    assert stored() is None


def test_options_say_what_the_file_does_not(week):
    table = week.tz_convert("Asia/Tokyo").tz_localize(None).rename(columns={"close": "Last"})
    closes = table.index + pd.Timedelta("1h")
    table.set_axis(closes.strftime("%m/%d/%Y %H:%M")).rename_axis("when").to_csv("week.csv")
    columns = ("--column", "close=Last", "--column", "timestamp=when")
    run("week.csv", "--as", "mydata", "--tz", "Asia/Tokyo", "--monthfirst", "--stamp", "close", *columns)
    assert fingerprint(stored()) == fingerprint(week)


def test_wrong_rows_are_listed(week):
    week.assign(low=week["low"].where(week.index != week.index[7], -1)).to_csv("week.csv")
    done = CliRunner().invoke(app, ["import", "week.csv", "--as", "mydata"])
    assert "has a price ≤ 0" in done.output and "2021-01-01 07:00:00+00:00" in done.output
    assert str(done.exception).startswith("week.csv has 1 wrong row(s); nothing was stored")
    assert stored() is None


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["week.csv"], "--as mydata"),
        (["week.csv", "--as", "binance"], "--as-exchange"),
        (["nowhere.csv", "--as", "mydata"], "There is no file"),
        (["week.csv", "--as", "mydata", "--column", "Last"], "close=Last"),
        (["week.csv", "--as", "mydata", "--stamp", "middle"], "Unknown stamp: 'middle'"),
        (["week.csv", "--as", "mydata", "--keep", "best"], "Unknown keep: 'best'"),
        (["week.csv", "--as", "mydata", "--timeframe", "1d"], "1h apart, not 1d"),
    ],
)
def test_wrong_input_is_named(week, words, error):
    week.to_csv("week.csv")
    with pytest.raises(InputError, match=error):
        run(*words)
    assert stored() is None
