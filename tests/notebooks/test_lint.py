"""Notebooks hold narrative, parameters, calls and figures; code lives in the library."""

from __future__ import annotations

import ast
import re

import nbformat
import pytest

from btclab.operations.runs import notebook_names, parameters_of
from btclab.settings import PROJECT
from tests.notebooks.store import ORDER

NOTEBOOKS = sorted((PROJECT / "notebooks").rglob("*.ipynb"))
REPORTS = [path for path in NOTEBOOKS if path.parent.name == "reports"]
TUTORIALS = [path for path in NOTEBOOKS if path.parent.name == "tutorials"]
MOST_LINES = 10
PARAMETER = re.compile(r"^[a-z_]+: (str|int|float|bool) = .+  # .+$")


def cells(path, kind):
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == kind]


def parameters_cell(path):
    return next(cell for cell in cells(path, "code") if "parameters" in cell.metadata.get("tags", []))


def named(paths):
    return pytest.mark.parametrize("path", paths, ids=lambda path: path.stem)


@named(NOTEBOOKS)
def test_a_notebook_is_valid_and_runs_on_python3(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"


@named(NOTEBOOKS)
def test_no_cell_defines_code(path):
    for cell in cells(path, "code"):
        assert "sys.path" not in cell.source
        kinds = {type(node) for node in ast.walk(ast.parse(cell.source))}
        assert not kinds & {ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef}, cell.source
        if path not in TUTORIALS:  # which show how a user registers a function of one line
            assert ast.Lambda not in kinds, cell.source


@named(NOTEBOOKS)
def test_no_cell_but_the_parameters_is_longer_than_ten_lines(path):
    for cell in cells(path, "code"):
        if "parameters" not in cell.metadata.get("tags", []):
            assert len(cell.source.splitlines()) <= MOST_LINES, cell.source


@named(REPORTS + TUTORIALS)
def test_the_first_cell_says_what_the_notebook_is_for(path):
    first = nbformat.read(path, as_version=4).cells[0]
    assert first.cell_type == "markdown"
    assert first.source.startswith("# ")
    for word in ("**Question.**", "**Inputs.**", "**Outputs.**", "**Runtime.**"):
        assert word in first.source


@named(REPORTS)
def test_each_parameter_has_a_type_a_default_and_a_help_text(path):
    lines = parameters_cell(path).source.splitlines()
    assert all(PARAMETER.match(line) for line in lines), lines
    assert list(parameters_of(path.stem)) == [line.partition(":")[0] for line in lines]


def test_every_report_and_tutorial_is_executed_by_make_notebooks():
    assert sorted(ORDER) == sorted(f"{path.parent.name}/{path.stem}" for path in REPORTS + TUTORIALS)


def test_a_tutorial_is_no_report_that_can_be_run():
    assert TUTORIALS
    assert not {path.stem for path in TUTORIALS} & set(notebook_names())


@named(REPORTS + TUTORIALS)
def test_what_nbval_compares_is_stored(path):
    for cell in cells(path, "code"):
        if "nbval-check-output" in cell.metadata.get("tags", []):
            assert cell.outputs, f"run `make notebooks`: nothing is stored for\n{cell.source}"


@named(NOTEBOOKS)
def test_no_stored_output_names_a_folder_of_a_machine_or_holds_a_figure(path):
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"/(home|Users|root|tmp|work)/", text)
    assert "application/vnd.plotly" not in text


@named(NOTEBOOKS)
def test_no_error_is_stored(path):
    assert not [o for cell in cells(path, "code") for o in cell.outputs if o.output_type == "error"]
