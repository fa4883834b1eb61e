"""The direction of imports, and what importing costs."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest

import btclab as bl
from btclab.settings import PROJECT

PACKAGE = PROJECT / "btclab"
# Along the flow; each may import those to its left. The plain modules at the top may be imported by all.
FLOW = ["market", "context", "features", "forecasting", "trading", "analysis", "reporting"]
ENDS = ["dashboard", "operations", "commands", "cli"]  # import everything, are imported by nothing to their left
PLAIN = {"errors", "files", "records", "settings", "__version__"}


def imported(path):
    """Names of the btclab parts that a module imports when it runs; type-checking imports do not count."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for child in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "btclab":
            parts = node.module.split(".")
            yield from [parts[1]] if len(parts) > 1 else [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            yield from [a.name.split(".")[1] for a in node.names if a.name.startswith("btclab.")]


@pytest.mark.parametrize("package", FLOW)
def test_imports_point_along_the_flow(package):
    allowed = PLAIN | set(FLOW[: FLOW.index(package) + 1])
    for path in (PACKAGE / package).rglob("*.py"):
        assert set(imported(path)) <= allowed, f"{path.relative_to(PACKAGE)} imports {set(imported(path)) - allowed}"


@pytest.mark.parametrize("name", sorted(PLAIN - {"__version__"}))
def test_plain_modules_import_no_package(name):
    assert set(imported(PACKAGE / f"{name}.py")) <= PLAIN


def test_the_dashboard_imports_nothing_that_imports_it():
    for path in (PACKAGE / "operations").rglob("*.py"):
        assert "cli" not in set(imported(path)), path
    assert not {"cli"} & {name for path in (PACKAGE / "dashboard").rglob("*.py") for name in imported(path)}


def test_trading_imports_neither_torch_nor_ccxt():
    heavy = loaded("import btclab.trading.broker, btclab.trading.strategy, btclab.trading.ledger")
    assert not {"torch", "ccxt"} & heavy


def loaded(statement):
    """Top-level packages that are in memory after `statement` in a new process."""
    script = f"{statement}\nimport sys\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    return set(done.stdout.split())


@pytest.mark.parametrize("statement", ["import btclab", "import btclab.cli"])
def test_importing_btclab_loads_nothing_heavy(statement):
    heavy = {"torch", "pandas", "numpy", "ccxt", "pandas_ta_classic", "plotly", "papermill", "pydantic"}
    assert not heavy & loaded(statement)


@pytest.mark.parametrize("name", bl.__all__)
def test_every_public_name_can_be_had_and_is_documented(name):
    assert getattr(bl, name).__doc__


def test_the_names_that_stay():
    expected = [
        "load_candles",
        "build_features",
        "indicator",
        "audit_features",
        "train",
        "Checkpoint",
        "load_checkpoint",
        "forecast",
        "make_signals",
        "backtest",
        "Costs",
        "PaperBroker",
    ]
    assert set(expected) <= set(dir(bl))


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'bactest'"):
        _ = bl.bactest


def test_nothing_loads_a_pickle():
    for path in PACKAGE.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = {a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names}
        assert not names & {"pickle", "joblib", "cloudpickle", "dill", "shelve"}, path
        calls = [ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)]
        assert not {"torch.load", "torch.save", "pd.read_pickle", "eval", "exec"} & set(calls), path


def test_only_labels_look_forward():
    for path in PACKAGE.rglob("*.py"):
        if path.name == "labels.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(".shift"):
                assert not any(isinstance(arg, ast.UnaryOp) for arg in node.args), f"{path}:{node.lineno}"
