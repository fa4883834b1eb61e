"""A finished notebook as one HTML page that opens with no network: no code, every figure interactive."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import nbformat
from nbconvert import HTMLExporter
from plotly.offline import get_plotlyjs
from traitlets.config import Config

from btclab.files import write_atomically
from btclab.reporting.mime import NOISE, PLOTLY

TEMPLATES = Path(__file__).parent / "templates"


def write_report(notebook: Path, target: Path, facts: dict[str, str], details: dict[str, Any] | None = None) -> Path:
    """Convert the executed `notebook` to HTML at `target`.

    `facts` (run, source, revision …) are printed above it, `details` (parameters, versions …) can be unfolded there.
    """
    content = nbformat.read(notebook, as_version=4)
    _drop_noise(content)
    config = Config()
    config.NbConvertBase.display_data_priority = [PLOTLY, "text/html", "text/markdown", "image/png", "text/plain"]
    exporter = HTMLExporter(config=config, template_name="btclab", extra_template_basedirs=[str(TEMPLATES)])
    exporter.register_filter("safe_json", _safe_json)
    report = {
        "title": _title(content),
        "figure": PLOTLY,
        "facts": facts,
        "details": details or {},
        "plotly": get_plotlyjs(),
        "style": (TEMPLATES / "btclab" / "style.css").read_text(encoding="utf-8"),
    }
    page, _ = exporter.from_notebook_node(content, resources={"report": report})
    return write_atomically(target, lambda aside: aside.write_text(page, encoding="utf-8"))


def _safe_json(value: Any) -> str:
    """JSON that may stand inside a script element."""
    return json.dumps(value).replace("<", "\\u003c")


def _title(content: Any) -> str:
    heading = next((re.search(r"^# (.+)$", c.source, re.M) for c in content.cells if c.cell_type == "markdown"), None)
    return heading.group(1) if heading else "btclab report"


def _drop_noise(content: Any) -> None:
    """What helps while a notebook runs but not a reader: progress bars, and values recorded for `run.json`."""
    for cell in content.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if not _is_noise(output)]


def _is_noise(output: Any) -> bool:
    if output.output_type == "stream":
        return bool(output.name == "stderr" and "\r" in output.text)
    return any(kind in output.get("data", {}) for kind in NOISE)
