"""Execute the notebooks in place, in a home of their own: `make notebooks`.

Text and tables are stored, so that nbval has something to compare and a reader on a code host something to read;
figures are not, for they are large and change with every run. Progress bars and recorded values go too.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import nbformat
import papermill

from btclab.reporting.mime import NOISE, PLOTLY
from btclab.settings import PROJECT

NOTEBOOKS = PROJECT / "notebooks"
# backtest and signal read the checkpoint that train stores
ORDER = (
    "reports/train",
    "reports/backtest",
    "reports/signal",
    "reports/data_quality",
    "reports/portfolio",
    "tutorials/features",
    "tutorials/forecasting",
    "tutorials/trading",
)


def store(path: Path, aside: Path) -> None:
    """Run the notebook at `path` with its defaults and keep its light outputs."""
    original = nbformat.read(path, as_version=4)
    papermill.execute_notebook(str(path), str(aside), progress_bar=False)
    executed = nbformat.read(aside, as_version=4)
    for cell, ran in zip(original.cells, executed.cells, strict=True):
        if cell.cell_type == "code":
            cell.outputs = [output for output in ran.outputs if not _heavy(output)]
            cell.execution_count = ran.execution_count
    nbformat.write(original, path)


def _heavy(output: nbformat.NotebookNode) -> bool:
    return any(kind in output.get("data", {}) for kind in (PLOTLY, *NOISE)) or output.get("name") == "stderr"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        os.environ["BTCLAB_HOME"] = folder
        for name in ORDER:
            print(f"executing {name} …", flush=True)
            store(NOTEBOOKS / f"{name}.ipynb", Path(folder) / f"{Path(name).name}.ipynb")
