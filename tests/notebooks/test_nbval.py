"""nbval executes the notebooks with their defaults and compares the outputs that must not change."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from btclab.settings import PROJECT
from tests.notebooks.store import ORDER


@pytest.mark.slow
@pytest.mark.parametrize("part", ["reports", *(name for name in ORDER if name.startswith("tutorials"))])
def test_the_notebooks_run_and_give_what_is_stored(home, part):
    notebooks = [f"notebooks/{name}.ipynb" for name in ORDER if name.startswith(part)]
    plugins = ["-p", "no:xdist", "-p", "no:cacheprovider", "-p", "no:randomly"]
    words = [sys.executable, "-m", "pytest", "--nbval-lax", "--nbval-current-env", "--nbval-cell-timeout=240"]
    done = subprocess.run(
        [*words, *plugins, "-q", "-o", "addopts=", "-o", "filterwarnings=", *notebooks],
        cwd=PROJECT,
        env={**os.environ, "BTCLAB_HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
    assert " passed" in done.stdout
