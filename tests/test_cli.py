"""The command line: help with examples, exit codes, one message and no traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from btclab.errors import NotListed
from btclab.market import sources

COMMANDS = [
    "fetch",
    "import",
    "data check",
    "data repair",
    "cache stats",
    "cache clear",
    "cache optimise",
    "cache export",
    "audit",
    "models list",
    "models show",
    "models promote",
    "models remove",
    "paper run",
    "paper status",
    "paper order",
    "paper cancel",
    "paper close",
    "paper history",
    "paper reset",
    "notify test",
    "notify list",
    "notify queue",
    "pipeline",
    "train",
    "backtest",
    "signal",
    "run",
    "runs",
    "dashboard",
    "doctor",
]


def test_help_names_every_command(call):
    code, out, _ = call("--help")
    assert code == 0
    for name in COMMANDS:
        assert name.partition(" ")[0] in out


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example(call, name):
    code, out, _ = call(*name.split(), "--help")
    assert code == 0
    assert f"Example: btclab {name}" in out


def test_version(call):
    assert call("--version")[:2] == (0, "btclab 0.1.0\n")


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["pipeline", "--source", "nosuch"], 2, "Unknown source: 'nosuch'"),
        (["pipeline", "--source", "simulated:x"], 2, "simulated:1"),
        (["pipeline", "--source", "simulated:1", "--timeframe", "7h"], 2, "Unknown timeframe: '7h'"),
        (["pipeline", "--source", "file:nosuch.csv"], 2, "no file nosuch.csv"),
        (["pipeline", "--source", "store:binance"], 1, "Nothing is stored of binance"),
        (["pipeline", "--source", "binance"], 1, "binance: "),
        (["train", "--source", "simulated:1", "-p", "epoch=3"], 2, "Did you mean 'epochs'"),
        (["train", "--source", "simulated:1", "-p", "epochs=many"], 2, "Parameter 'epochs' is 'many'; it must be int"),
        (["train", "--source", "simulated:1", "-p", "epochs"], 2, "not of the form name=value"),
        (["backtest", "--source", "simulated:1", "-p", "strategy=sma_crss"], 2, "Did you mean 'sma_cross'"),
        (["run", "signal", "-p", "strategy=sma_cross(fst=3)"], 2, "Did you mean 'fast'"),
        (["run", "trian"], 2, "Did you mean 'train'"),
        (["dashboard", "--password", "a", "--no-password"], 2, "exclude each other"),
        (["nosuch"], 2, "nosuch"),
        (["pipeline", "--nosuch"], 2, "--nosuch"),
    ],
)
def test_wrong_input_ends_with_its_exit_code_and_one_message(call, home, words, code, message):
    ended, _, err = call(*words)
    assert ended == code
    assert message in err
    assert "Traceback" not in err
    assert not (home / "papermill_runs").exists()  # nothing was begun


def test_debug_shows_the_traceback_wherever_it_stands(call):
    for words in (["--debug", "run", "trian"], ["run", "trian", "--debug"]):
        assert "Traceback" in call(*words)[2]


def test_an_explicit_source_never_falls_back(call):
    code, out, err = call("pipeline", "--source", "kraken")
    assert code == 1
    assert "kraken: " in err
    assert "simulated market" not in (out + err).lower()
    assert "btclab doctor" in err


@pytest.mark.parametrize("name", ["signal", "backtest"])
def test_no_signal_is_made_from_an_invented_market_when_no_source_answers(call, home, name):
    code, _, err = call(name)
    assert code == 1
    assert "nothing is stored" in err
    assert not (home / "papermill_runs").exists()


def test_a_symbol_that_is_not_listed_is_no_matter_of_the_network(call, monkeypatch):
    def unlisted(name, *_):
        raise NotListed(f"{name}: does not list BTC/USDX. Name another market: --symbol BTC/USD.")

    monkeypatch.setattr(sources, "fetch_candles", unlisted)
    code, _, err = call("pipeline", "--source", "binance", "--symbol", "BTC/USDX")
    assert code == 2
    assert "does not list BTC/USDX" in err
    assert "network" not in err


def test_a_parameter_says_the_same_as_its_option(call):
    code, out, err = call("signal", "-p", "source=file:nosuch.csv")
    assert code == 2
    assert "no file nosuch.csv" in err
    assert "SIMULATED" not in out


def test_a_wrong_setting_is_named(call, monkeypatch):
    monkeypatch.setenv("BTCLAB_TRADING__FEE_BPS", "-5")
    code, _, err = call("pipeline", "--source", "simulated:1")
    assert code == 2
    assert "trading.fee_bps = '-5'" in err


def test_run_without_a_name_lists_notebooks_and_parameters(call):
    code, out, _ = call("run")
    assert code == 0
    assert "btclab run train" in out
    assert "bars ahead that are forecast" in out


def test_runs_says_how_to_make_one(call):
    assert "btclab pipeline" in call("runs")[1]


def test_a_home_that_cannot_be_written_is_named(call, home, monkeypatch):
    (home / "file").write_text("in the way")
    monkeypatch.setenv("BTCLAB_HOME", str(home / "file"))
    code, _, err = call("train", "--source", "simulated:1")
    assert code == 1
    assert "BTCLAB_HOME" in err


def test_doctor_shows_a_table_and_notes_the_exchanges_that_do_not_answer(call):
    code, out, _ = call("doctor")
    assert code == 0
    for word in ("Python", "packages", "free disk", "GPU", "binance", "kraken"):
        assert word in out


def test_doctor_fails_when_a_folder_cannot_be_written(call, home):
    (home / "models").write_text("in the way")
    code, out, _ = call("doctor")
    assert code == 1
    assert "set BTCLAB_HOME" in out


def test_the_installed_command_is_this_one(home):
    program = os.path.join(os.path.dirname(sys.executable), "btclab")  # noqa: PTH118, PTH120
    done = subprocess.run([program, "--version"], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout == "btclab 0.1.0\n"


def test_a_failed_run_keeps_its_notebook_and_says_failed(call, home):
    code, _, err = call("backtest", "--source", "simulated:1", "-p", "checkpoint=nosuch")
    assert code == 2  # the name was wrong
    assert "no checkpoint 'nosuch'" in err
    assert "Traceback" not in err
    (folder,) = (home / "papermill_runs").iterdir()
    assert sorted(path.name for path in folder.iterdir()) == ["notebook.ipynb", "report.html", "run.json"]
    described = json.loads((folder / "run.json").read_text())
    assert described["status"] == "failed"
    assert described["error"]["name"] == "CheckpointError"
    assert "no checkpoint" in (folder / "report.html").read_text()
    assert "failed" in call("runs")[1]
