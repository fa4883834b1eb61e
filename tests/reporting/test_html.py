"""The HTML report: self-contained, safe, and every figure in it."""

from __future__ import annotations

import re

import nbformat
import plotly.graph_objects as go
import pytest

from btclab.reporting.html import write_report
from btclab.reporting.mime import PLOTLY, RECORD


def code(*outputs):
    return nbformat.v4.new_code_cell("secret_source = 1", outputs=list(outputs))


def data(**kinds):
    return nbformat.v4.new_output("display_data", {key.replace("_", "/"): value for key, value in kinds.items()})


@pytest.fixture
def page(tmp_path):
    figure = go.Figure(go.Scatter(y=[1, 2])).update_layout(title_text="</script><b>bold</b>")
    cells = [
        nbformat.v4.new_markdown_cell("# A title"),
        code(nbformat.v4.new_output("display_data", {PLOTLY: figure.to_plotly_json() | {"data": [{"y": [1, 2]}]}})),
        code(data(text_html="<table><tr><td>cell</td></tr></table>")),
        code(nbformat.v4.new_output("stream", name="stderr", text="\r10%\r100%")),
        code(nbformat.v4.new_output("display_data", {RECORD: {"a": 1}, "text/plain": "recorded: a"})),
        code(nbformat.v4.new_output("error", ename="ValueError", evalue="<b>wrong</b>", traceback=["a traceback"])),
    ]
    path = tmp_path / "notebook.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    facts, details = {"run": "<i>7</i>"}, {"parameters": {"seed": 3}}
    return write_report(path, tmp_path / "report.html", facts, details).read_text(encoding="utf-8")


def without_script(page):
    return re.sub(r"<script>.*?</script>", "", page, flags=re.S)


def test_every_figure_is_drawn_by_the_one_script_in_the_page(page):
    assert page.count("Plotly.newPlot(place") == 1
    assert page.count("plotly.js v") == 1


def test_nothing_is_fetched_from_anywhere(page):
    assert not re.search(r"<(script|link|img|iframe)[^>]+(src|href)=[\"'](?!data:)", page)
    assert "@import" not in without_script(page)


def test_text_in_a_figure_cannot_end_its_script(page):
    assert "</script><b>bold" not in page


def test_values_are_escaped(page):
    assert "<i>7</i>" not in page
    assert "<b>wrong</b>" not in page


def test_code_progress_bars_and_recorded_values_are_left_out(page):
    for text in ("secret_source", "100%\r", "recorded: a", "a traceback"):
        assert text not in without_script(page)


def test_title_tables_errors_and_parameters_are_there(page):
    assert "<title>A title</title>" in page
    assert "<td>cell</td>" in page
    assert "ValueError" in page
    assert "seed <b>3</b>" in page
