"""Runs: a parameterised notebook, executed by papermill into a folder of its own.

    papermill_runs/<UTC time>_<name>_<short id>/   notebook.ipynb   report.html   run.json

`run.json` records what the run read, with which parameters, seed, versions and code, and what came of it; its `status`
is running, done, failed or interrupted.
"""

from __future__ import annotations

import ast
import importlib.metadata
import json
import os
import platform
import secrets
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from btclab.errors import InputError, RunFailed, StorageError, exit_code_of, unknown
from btclab.files import write_json
from btclab.market.candles import fingerprint
from btclab.reporting.mime import RECORD
from btclab.settings import PROJECT, settings

if TYPE_CHECKING:
    import pandas as pd

    from btclab.analysis.backtest import Result

PACKAGES = ("btclab", "numpy", "pandas", "torch", "pandas-ta-classic", "ccxt", "papermill", "plotly")
NOTEBOOK, REPORT, DESCRIPTION = "notebook.ipynb", "report.html", "run.json"


@dataclass(frozen=True)
class Run:
    """A finished run: its folder and what `run.json` says."""

    folder: Path
    record: dict[str, Any]

    @property
    def report(self) -> Path:
        return self.folder / REPORT

    @property
    def source(self) -> str:
        """Where its candles came from; a file without its folder."""
        return str(self.results.get("data", {}).get("source") or self.record["parameters"].get("source", "–"))

    @property
    def results(self) -> dict[str, Any]:
        """What the notebook passed to `record`."""
        return dict(self.record["results"])


@dataclass(frozen=True)
class Step:
    """Where a run stands: cell `cell` of `cells` begins, in the section `heading`."""

    cell: int
    cells: int
    heading: str


def record(**results: Any) -> None:
    """Called in a notebook: keep `results` (JSON values) in its outputs, so that the run that executes it can read them."""
    from IPython.display import display

    display({RECORD: results, "text/plain": f"recorded: {', '.join(results)}"}, raw=True)


def count_trials(candles: pd.DataFrame, result: Result) -> int:
    """How many different backtests on these bars there have been, this one included.

    Trials are told apart by their total return: the same settings run twice are one. The best of many looks good by
    luck alone, which the deflated Sharpe ratio allows for.
    """
    bars = fingerprint(candles)
    seen = [run.results for run in past_runs() if run.record["name"] == "backtest"]
    returns = [past["metrics"].get("total_return") for past in seen if past.get("data", {}).get("fingerprint") == bars]
    return len({*returns, result.metrics.get("total_return")})


def notebook_names() -> list[str]:
    """The report notebooks that can be run."""
    return sorted(path.stem for path in (settings().notebooks / "reports").glob("*.ipynb"))


def notebook_path(name: str) -> Path:
    """The report notebook called `name`. Raises `InputError` naming those that exist."""
    folder = settings().notebooks / "reports"
    if name not in notebook_names():
        raise unknown("notebook", name, notebook_names(), f"They lie in {folder}.")
    return folder / f"{name}.ipynb"


def past_runs() -> list[Run]:
    """All runs on disk, newest first. A run that says it is running but whose process is gone was killed."""
    found = []
    for path in sorted(settings().runs.glob(f"*/{DESCRIPTION}"), reverse=True):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            missing = {"name", "status", "parameters", "results"} - set(content)
            if missing:
                raise ValueError(f"without {', '.join(sorted(missing))}")
        except ValueError as error:
            raise StorageError(
                f"{path} is not JSON of a run ({error}). Move its folder away; the run's notebook is in it."
            ) from error
        if content["status"] == "running" and _started(content["pid"]) != content.get("pid_started"):
            content["status"] = "killed"
        found.append(Run(path.parent, content))
    return found


def parameters_of(name: str) -> dict[str, dict[str, Any]]:
    """The parameters of a report notebook: name → `default`, `type`, `help`."""
    import papermill

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # papermill warns of each blank line in a parameters cell
        found = papermill.inspect_notebook(str(notebook_path(name)))
    return {
        key: {"default": ast.literal_eval(value["default"]), "type": value["inferred_type_name"], "help": value["help"]}
        for key, value in found.items()
    }


def check_parameters(name: str, given: dict[str, Any]) -> dict[str, Any]:
    """All parameters of the notebook: `given`, over the settings `[trading]`, over its defaults.

    Raises `InputError` for an unknown name or a wrong type, and for a ledger whose address may hold a secret: what a run
    was given stands in its report. That of the settings is left to the notebook, which reads it there.

    Text is read as the type of the parameter, as it comes from a command line; papermill itself would only warn of a
    misspelt name and run the defaults.
    """
    known = parameters_of(name)
    own = settings().trading.model_dump(
        exclude={"ledger"}
    )  # what the user has set for all runs goes before the notebook's default
    settled = {key: own.get(key, value["default"]) for key, value in known.items()}
    for key, value in given.items():
        if key not in known:
            raise unknown(f"parameter of notebook {name!r}", key, known)
        settled[key] = _as_type(key, value, known[key]["type"])
    if settled.get("ledger"):
        _check_readable(settled["ledger"])
    return settled


def _check_readable(ledger: str) -> None:
    from btclab.trading.ledger.database import address
    from btclab.trading.ledger.postgres import SHOWN, readable

    url, _ = address(ledger)
    if readable(url) != url.render_as_string(hide_password=False):
        raise InputError(
            f"Parameter 'ledger' holds a password, or an option other than {', '.join(SHOWN)}, which the report would show: "
            "keep the password in ~/.pgpass, or the address in the setting BTCLAB_TRADING__LEDGER and leave -p ledger= out."
        )


def _as_type(key: str, value: Any, type_name: str) -> Any:
    wrong = InputError(
        f"Parameter {key!r} is {value!r}; it must be {type_name}, e.g. -p {key}={_EXAMPLES.get(type_name, '…')}."
    )
    if type_name == "bool":
        if isinstance(value, bool):
            return value
        words = {"true": True, "false": False}
        if str(value).lower() not in words:
            raise wrong
        return words[str(value).lower()]
    if isinstance(value, bool):
        raise wrong
    try:
        if type_name == "int" and float(value) != int(float(value)):
            raise wrong
        return _READERS[type_name](value)
    except (ValueError, TypeError, OverflowError):
        raise wrong from None


_READERS: dict[str, Callable[[Any], Any]] = {"int": lambda value: int(float(value)), "float": float, "str": str}
_EXAMPLES = {"int": "3", "float": "0.5", "bool": "true", "str": "text"}


def run_notebook(
    name: str, parameters: dict[str, Any] | None = None, on_step: Callable[[Step], None] | None = None, **facts: Any
) -> Run:
    """Execute the report notebook `name` and return its finished run.

    `parameters` replace the notebook's defaults; `facts` are kept in `run.json` as they are; `on_step` hears of each
    cell before it runs. Raises `InputError` before anything is written if a parameter is wrong, and `RunFailed` if a
    cell fails: notebook, report and a `run.json` with status "failed" are then kept.
    """
    settled = check_parameters(name, parameters or {})
    started = datetime.now(UTC)
    run_id = f"{started:%Y%m%dT%H%M%SZ}_{name}_{secrets.token_hex(3)}"
    folder = settings().runs / run_id
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise StorageError(
            f"Cannot make {folder}: {error.strerror}. Set BTCLAB_HOME to a folder that you may write."
        ) from error
    description = {
        "id": run_id,
        "name": name,
        "status": "running",
        "started": started.isoformat(timespec="seconds"),
        "pid": os.getpid(),
        "pid_started": _started(os.getpid()),
        "parameters": settled,
        "seed": settled.get("seed"),
        "simulated": str(settled.get("source", "")).startswith("simulated:"),
        **facts,
        "versions": _versions(),
        "revision": _revision(),
        "results": {},
    }
    write_json(folder / DESCRIPTION, description)
    status, problem = "failed", None
    try:
        problem = _execute(notebook_path(name), folder, settled, on_step)
        status = "failed" if problem else "done"
    except KeyboardInterrupt:
        status = "interrupted"
        raise
    finally:
        finished = datetime.now(UTC)
        description |= {
            "status": status,
            "finished": finished.isoformat(timespec="seconds"),
            "seconds": round((finished - started).total_seconds(), 1),
            "results": (results := _recorded(folder / NOTEBOOK)),
            "simulated": results.get("data", {}).get("simulated", description["simulated"]),
            "error": problem,
        }
        write_json(folder / DESCRIPTION, description)
        _write_html(folder, description)
    if problem:
        raise RunFailed(
            f"{name} failed in cell {problem['cell']} ({problem['section']}): {problem['message']}\n"
            f"The notebook is kept: {folder / NOTEBOOK}",
            exit_code_of(problem["name"]),
        )
    return Run(folder, description)


def _execute(
    source: Path, folder: Path, parameters: dict[str, Any], on_step: Callable[[Step], None] | None
) -> dict[str, Any] | None:
    """Run papermill; None, or where and why it stopped. The notebook appears under its name only when it is whole."""
    import nbformat
    import papermill
    from nbclient.exceptions import DeadKernelError

    cells = nbformat.read(source, as_version=4).cells
    headings, places = _headings(cells), {cell["id"]: place for place, cell in enumerate(cells)}

    def begin(cell: Any, cell_index: int) -> None:
        place = places.get(cell["id"])  # the cell that papermill puts in for the parameters has none
        if on_step and place is not None:
            on_step(Step(place + 1, len(cells), headings[place]))

    aside = folder / ".running.ipynb"
    try:
        with _private_kernel() as config, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            papermill.execute_notebook(
                str(source),
                str(aside),
                parameters=parameters,
                progress_bar=False,
                config=config,
                cwd=os.getcwd(),
                kernel_name="python3",
                on_cell_start=begin,
            )
    except papermill.PapermillExecutionError as error:
        place = places.get(_failing_cell(aside), 0)
        return {"cell": place + 1, "section": headings[place], "name": error.ename, "message": error.evalue}
    except DeadKernelError as error:
        return {
            "cell": 0,
            "section": "kernel",
            "name": "DeadKernelError",
            "message": f"{error} It may have run out of memory.",
        }
    finally:
        if aside.exists():
            os.replace(aside, folder / NOTEBOOK)
    return None


@contextmanager
def _private_kernel() -> Iterator[Any]:
    """Configuration of a kernel that talks over a socket file of its own: no port open to others on this machine.

    The debugger's hints are kept out of the user's terminal.
    """
    from traitlets.config import Config

    name = "PYDEVD_DISABLE_FILE_VALIDATION"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        with tempfile.TemporaryDirectory(prefix="btclab-") as folder:
            yield Config({"KernelManager": {"transport": "ipc", "ip": f"{folder}/kernel"}})
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _headings(cells: list[Any]) -> list[str]:
    """For each cell the section heading above it."""
    heading, result = "", []
    for cell in cells:
        if cell.cell_type == "markdown":
            titles = [line.lstrip("# ").strip() for line in cell.source.splitlines() if line.startswith("#")]
            heading = titles[-1] if titles else heading
        result.append(heading)
    return result


def _failing_cell(path: Path) -> str | None:
    """The id of the first cell of an executed notebook that ended in an error."""
    import nbformat

    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code" and any(output.output_type == "error" for output in cell.outputs):
            return str(cell["id"])
    return None


def _recorded(path: Path) -> dict[str, Any]:
    """Everything that the notebook passed to `record`, later values over earlier ones."""
    if not path.exists():
        return {}
    results: dict[str, Any] = {}
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        for output in cell.get("outputs", []):
            results |= output.get("data", {}).get(RECORD, {})
    return results


def _write_html(folder: Path, description: dict[str, Any]) -> None:
    from btclab.reporting.html import write_report

    if (folder / NOTEBOOK).exists():
        facts = {"run": description["id"], "status": description["status"], "took": f"{description['seconds']} s"}
        facts |= {"source": Run(folder, description).source, "code": description["revision"] or "unknown"}
        details = {"parameters": description["parameters"], "versions": description["versions"]}
        write_report(folder / NOTEBOOK, folder / REPORT, facts, details)


def _started(pid: int) -> float | None:
    """When the process began (a number is used again, this is not); None if it is gone."""
    import psutil

    try:
        return psutil.Process(pid).create_time()
    except psutil.NoSuchProcess:
        return None


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "platform": sys.platform}
    for package in PACKAGES:
        found[package] = importlib.metadata.version(package)
    return found


def _revision() -> str | None:
    """The commit of the code, with '+changes' if files differ from it; None outside a git checkout."""
    try:
        commit = _git("rev-parse", "--short=12", "HEAD")
        return commit + ("+changes" if _git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(*words: str) -> str:
    return subprocess.run(
        ["git", "-C", str(PROJECT), *words], capture_output=True, text=True, check=True
    ).stdout.strip()
