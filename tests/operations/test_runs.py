"""Runs: checked parameters, a folder that tells the whole story, and what is left when a run ends badly."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time

import nbformat
import pytest

import btclab as bl
from btclab.errors import InputError, RunFailed
from btclab.files import write_json
from btclab.operations.runs import check_parameters, count_trials, past_runs, run_notebook
from btclab.settings import Settings

CELLS = [
    ("markdown", "# Tiny report"),
    ("code", "count: int = 2  # how many\nname: str = 'x'  # a word\nfail: bool = False  # stop with an error"),
    ("code", "from btclab.operations.runs import record"),
    ("markdown", "## Work"),
    ("code", "if fail:\n    raise ValueError('as asked')"),
    ("code", "record(total=count * 2, word=name)"),
]


@pytest.fixture
def tiny(home, monkeypatch):
    """A report notebook of six cells called `tiny`, instead of those of the project."""
    cells = [(nbformat.v4.new_markdown_cell if k == "markdown" else nbformat.v4.new_code_cell)(s) for k, s in CELLS]
    cells[1].metadata["tags"] = ["parameters"]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    folder = home / "notebooks"
    (folder / "reports").mkdir(parents=True)
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), folder / "reports" / "tiny.ipynb")
    monkeypatch.setattr(Settings, "notebooks", folder)
    return folder


def test_a_run_leaves_notebook_report_and_description(tiny):
    run = run_notebook("tiny", {"count": 3})
    assert sorted(path.name for path in run.folder.iterdir()) == ["notebook.ipynb", "report.html", "run.json"]
    assert run.results == {"total": 6, "word": "x"}


def test_the_folder_is_named_by_time_notebook_and_a_short_id(tiny):
    assert re.fullmatch(r"\d{8}T\d{6}Z_tiny_[0-9a-f]{6}", run_notebook("tiny").folder.name)


def test_the_description_records_parameters_versions_and_code(tiny):
    described = json.loads((run_notebook("tiny", {"count": 5}, colour="red").folder / "run.json").read_text())
    assert described["status"] == "done"
    assert described["parameters"] == {"count": 5, "name": "x", "fail": False}
    assert described["colour"] == "red"
    assert {"python", "torch", "pandas", "btclab"} <= set(described["versions"])
    assert re.fullmatch(r"[0-9a-f]{12}(\+changes)?", described["revision"])
    assert described["error"] is None
    assert described["seconds"] > 0


def test_each_step_names_its_section(tiny):
    steps = []
    run_notebook("tiny", on_step=steps.append)
    assert [step.heading for step in steps] == 3 * ["Tiny report"] + 3 * ["Work"]
    assert all(step.cells == len(CELLS) for step in steps)


def test_the_report_shows_no_code_and_no_recorded_values(tiny):
    page = run_notebook("tiny").report.read_text()
    assert "<h1" in page
    assert "record(total" not in page
    assert "recorded:" not in page


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"cuont": 3}, r"Unknown parameter of notebook 'tiny': 'cuont'\. Did you mean 'count'"),
        ({"count": "three"}, "'count' is 'three'; it must be int, e.g. -p count=3"),
        ({"count": 2.5}, "'count' is 2.5"),
        ({"count": True}, "'count' is True"),
        ({"fail": "maybe"}, "'fail' is 'maybe'; it must be bool"),
    ],
)
def test_a_wrong_parameter_is_refused_before_anything_is_written(tiny, home, given, message):
    with pytest.raises(InputError, match=message):
        run_notebook("tiny", given)
    assert not (home / "papermill_runs").exists()


def test_text_is_read_as_the_type_of_the_parameter(tiny):
    given = {"count": "7", "fail": "true", "name": "7"}
    assert check_parameters("tiny", given) == {"count": 7, "fail": True, "name": "7"}


def test_a_failing_cell_keeps_the_notebook_and_names_the_cell(tiny, home):
    with pytest.raises(RunFailed, match=r"tiny failed in cell 5 \(Work\): as asked"):
        run_notebook("tiny", {"fail": True})
    (run,) = past_runs()
    assert run.record["status"] == "failed"
    assert run.record["error"] == {"cell": 5, "section": "Work", "name": "ValueError", "message": "as asked"}
    outputs = [o for cell in nbformat.read(run.folder / "notebook.ipynb", 4).cells for o in cell.get("outputs", [])]
    assert any(output.output_type == "error" for output in outputs)
    assert "as asked" in run.report.read_text()


def test_the_exit_code_of_a_failed_run_is_that_of_its_error(tiny):
    source = nbformat.read(tiny / "reports" / "tiny.ipynb", 4)
    source.cells[4].source = "from btclab.errors import TooFewBars\nraise TooFewBars('3 bars')"
    nbformat.write(source, tiny / "reports" / "tiny.ipynb")
    with pytest.raises(RunFailed) as failed:
        run_notebook("tiny")
    assert failed.value.exit_code == 2


def test_a_kernel_that_dies_is_a_failed_run(tiny):
    source = nbformat.read(tiny / "reports" / "tiny.ipynb", 4)
    source.cells[4].source = "import os\nos._exit(9)"
    nbformat.write(source, tiny / "reports" / "tiny.ipynb")
    with pytest.raises(RunFailed, match="memory"):
        run_notebook("tiny")
    assert past_runs()[0].record["status"] == "failed"


def test_secrets_of_the_environment_do_not_reach_a_run(tiny, monkeypatch):
    monkeypatch.setenv("BTCLAB_EXCHANGE_SECRET", "hunter2hunter2")
    run = run_notebook("tiny")
    assert not [path for path in run.folder.iterdir() if "hunter2hunter2" in path.read_text()]


def test_the_password_of_the_ledger_does_not_reach_a_run(home, monkeypatch):
    monkeypatch.setenv("BTCLAB_TRADING__LEDGER", "postgresql://joe:hunter2hunter2@127.0.0.1:9/db")
    with pytest.raises(RunFailed, match=r"postgresql\+psycopg://joe@127\.0\.0\.1:9/db cannot be reached") as failed:
        run_notebook("portfolio")
    (run,) = past_runs()
    texts = [str(failed.value), *(path.read_text() for path in run.folder.iterdir())]
    assert len(texts) == 4
    assert not [text for text in texts if "hunter2hunter2" in text]


@pytest.mark.parametrize(
    "part", ["joe:hunter2@host/db", "joe@host/db?password=hunter2", "joe@host/db?PASSWORD=hunter2"]
)
def test_a_ledger_with_a_password_is_refused_as_a_parameter(home, part):
    with pytest.raises(
        InputError, match=r"'ledger' holds a password.* ~/\.pgpass, or .* BTCLAB_TRADING__LEDGER"
    ) as refused:
        run_notebook("portfolio", {"ledger": f"postgresql://{part}"})
    assert "hunter2" not in str(refused.value)
    assert not (home / "papermill_runs").exists()


def test_the_account_is_that_of_the_settings_or_the_one_that_is_named(home, monkeypatch):
    monkeypatch.setenv("BTCLAB_TRADING__LEDGER", "sqlite:///data/other.db")
    run = run_notebook("portfolio")
    assert run.record["parameters"]["ledger"] == ""
    assert run.results["ledger"] == "sqlite:///data/other.db"
    assert "no ledger has begun at sqlite:///data/other.db" in run.report.read_text()
    named = "postgresql://joe@host/db?host=/tmp&sslmode=require"
    assert check_parameters("portfolio", {"ledger": named})["ledger"] == named


@pytest.fixture
def sleeping(tiny, home):
    """A process that runs a notebook which sleeps; its run has begun."""
    source = nbformat.read(tiny / "reports" / "tiny.ipynb", 4)
    source.cells[4].source = "import time\ntime.sleep(60)"
    nbformat.write(source, tiny / "reports" / "tiny.ipynb")
    script = (
        "from pathlib import Path\nfrom btclab.settings import Settings\n"
        f"Settings.notebooks = Path({str(tiny)!r})\n"
        "from btclab.operations.runs import run_notebook\n"
        "run_notebook('tiny', on_step=lambda step: print(step.cell, flush=True))\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    try:
        while process.stdout.readline().strip() != "5":
            assert process.poll() is None
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(timeout=30)
        process.stdout.close()
        for pid in _kernels_of(home):
            os.kill(pid, signal.SIGKILL)


def _kernels_of(home):
    import psutil

    found = []
    for process in psutil.process_iter(["pid", "cmdline"]):
        words = process.info["cmdline"] or []
        if "ipykernel_launcher" in " ".join(words):
            try:
                if process.environ().get("BTCLAB_HOME") == str(home):
                    found.append(process.pid)
            except psutil.Error:
                continue
    return found


def test_an_interrupted_run_says_so_and_keeps_what_it_had(sleeping):
    sleeping.send_signal(signal.SIGINT)
    sleeping.wait(timeout=60)
    (run,) = past_runs()
    assert run.record["status"] == "interrupted"
    assert (run.folder / "notebook.ipynb").exists()


def test_a_killed_run_is_listed_as_killed_and_left_no_half_file(sleeping):
    sleeping.kill()
    sleeping.wait(timeout=30)
    time.sleep(0.1)
    (run,) = past_runs()
    assert run.record["status"] == "killed"
    assert not (run.folder / "notebook.ipynb").exists()
    assert json.loads((run.folder / "run.json").read_text())["status"] == "running"


def test_costs_of_the_settings_go_before_a_notebooks_defaults(tiny, monkeypatch):
    source = nbformat.read(tiny / "reports" / "tiny.ipynb", 4)
    source.cells[1].source += "\nfee_bps: float = 10.0  # of one side"
    nbformat.write(source, tiny / "reports" / "tiny.ipynb")
    monkeypatch.setenv("BTCLAB_TRADING__FEE_BPS", "7.5")
    assert check_parameters("tiny", {})["fee_bps"] == 7.5
    assert check_parameters("tiny", {"fee_bps": 3})["fee_bps"] == 3


def test_trials_are_the_different_backtests_on_the_same_bars(home, candles):
    def past(run_id, **metrics):
        data = {"fingerprint": bl.fingerprint(candles)}
        described = {
            "name": "backtest",
            "status": "done",
            "parameters": {},
            "results": {"metrics": metrics, "data": data},
        }
        write_json(home / "papermill_runs" / run_id / "run.json", described)

    own = bl.buy_and_hold(candles)
    assert count_trials(candles, own) == 1
    past("1_backtest", total_return=own.metrics["total_return"])
    assert count_trials(candles, own) == 1  # the same once more
    past("2_backtest", total_return=5.0)
    assert count_trials(candles, own) == 2
    assert count_trials(candles.iloc[1:], own) == 1  # other bars
