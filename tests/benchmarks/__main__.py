"""`make bench`: what btclab costs in time and memory, as measured now, against named rivals in the same run.

make bench                          simulated market
make bench ARGS=file:PATH           the same on your candles
make bench ARGS="file:PATH --no-pipeline"   without the three notebooks
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

import pandas as pd
from rich.console import Console
from rich.table import Table

import btclab as bl
from tests.benchmarks import features as features_benchmark
from tests.benchmarks import forecasts, ledger, market, paper, trading

REPEATS = 3


def seconds(work: Callable[[], object], repeats: int = REPEATS) -> float:
    """Median wall time of `work`."""
    times = []
    for _ in range(repeats):
        begun = time.perf_counter()
        work()
        times.append(time.perf_counter() - begun)
    return statistics.median(times)


def in_new_process(*words: str) -> float:
    return seconds(lambda: subprocess.run([sys.executable, *words], check=True, capture_output=True), 5)


def imports() -> list[tuple[str, str, str, str]]:
    """A new interpreter that does nothing, one that imports btclab, one that imports pandas, and the help text."""
    bare, own = in_new_process("-c", ""), in_new_process("-c", "import btclab")
    rival, help_text = in_new_process("-c", "import pandas"), in_new_process("-m", "btclab.cli", "--help")
    return [
        ("import btclab", f"{own:.3f} s", f"{rival:.3f} s: import pandas", f"{own / rival:.2f} ×"),
        ("btclab --help", f"{help_text:.3f} s", f"{bare:.3f} s: python -c ''", f"{help_text / bare:.1f} ×"),
    ]


def other_steps(candles: pd.DataFrame) -> list[tuple[str, str, str, str]]:
    return [
        ("validation", f"{1000 * seconds(lambda: bl.validate_candles(candles, '1h')):.1f} ms", "–", "–"),
    ]


def pipeline(source: str) -> list[tuple[str, str, str, str]]:
    """The three notebooks in a home of their own; memory is the largest of all its processes."""
    with tempfile.TemporaryDirectory() as home:
        begun = time.perf_counter()
        words = [sys.executable, "-m", "btclab.cli", "pipeline", "--source", source]
        subprocess.run(words, check=True, capture_output=True, env={**os.environ, "BTCLAB_HOME": home})
        took = time.perf_counter() - begun
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6
    return [("btclab pipeline", f"{took:.0f} s", f"largest process {peak:.2f} GB", "–")]


def main() -> None:
    source = next((word for word in sys.argv[1:] if not word.startswith("--")), "simulated:1")
    candles = bl.load_candles(source)
    rows = imports() + market.main(candles) + other_steps(candles) + features_benchmark.main(candles, source)
    rows += forecasts.main(candles, source)
    rows += trading.main(candles, source) + ledger.main() + paper.main(candles, source)
    if "--no-pipeline" not in sys.argv:
        rows += pipeline(source)
    table = Table("what", "btclab", "rival or size", "ratio", title=f"{candles.attrs['source']}, {len(candles):,} bars")
    for row in rows:
        table.add_row(*row)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
