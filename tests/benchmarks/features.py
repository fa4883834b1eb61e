"""The default features: time, memory and scaling, against the same indicators one by one through pandas-ta-classic."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd

import btclab as bl
from btclab.features.build import _one_computation
from btclab.features.spec import Feature, FeatureSpec, resolve_spec
from btclab.market.candles import COLUMNS, timeframe_of
from tests.features.test_build import daily_context

Row = tuple[str, str, str, str]
MILLION = 1_000_000
ROWS = 200  # newest rows that are timed and compared
AUDITED = 10_000
SAME = {"psar_distance": "psar", "vortex_difference": "vortex"}  # ours, and the one of pandas-ta that it is made of


def seconds(work: Callable[[], object], repeats: int = 3) -> float:
    """Median wall time of `work`, which has been done once before: everything is compiled and imported."""
    work()
    times = []
    for _ in range(repeats):
        begun = time.perf_counter()
        work()
        times.append(time.perf_counter() - begun)
    return sorted(times)[repeats // 2]


def shared_with_library(spec: FeatureSpec) -> FeatureSpec:
    """The features whose indicator pandas-ta has as well; what it lacks is left out on both sides."""
    from btclab.features.indicators import pandas_ta_names

    return spec.only(one.name for one in spec.features if SAME.get(one.indicator, one.indicator) in pandas_ta_names())


def through_library(candles: pd.DataFrame, spec: FeatureSpec) -> list[object]:
    """One call of pandas-ta for each computation of `spec`, with its parameters, on resampled bars where it asks for them."""
    import pandas_ta_classic as ta

    plain = candles.tz_localize(None)
    how = {"open": "first", "high": "max", "low": "min", "close": "last", "volume": "sum"}
    bars = {"": plain} | {
        timeframe: plain.resample(timeframe).agg(how).dropna()
        for timeframe in {one.timeframe for one in spec.features} - {""}
    }
    results = []
    for first, *_ in _one_computation(list(spec.features)):
        function = getattr(ta, SAME.get(first.indicator, first.indicator))
        lines = function(**_series(function, first, bars[first.timeframe]), **first.parameters)
        results.append(lines.reindex(plain.index, method="ffill") if first.timeframe else lines)
    return results


def _series(function: Callable[..., Any], feature: Feature, bars: pd.DataFrame) -> dict[str, Any]:
    accepted = inspect.signature(function).parameters
    columns = [
        key for key in accepted if key.rstrip("_") in COLUMNS and accepted[key].default is inspect.Parameter.empty
    ]
    names = (*feature.inputs, *(key.rstrip("_") for key in columns[len(feature.inputs) :]))
    fixed = {"talib": False} if "talib" in accepted else {}
    fixed |= {"include_chikou": False, "as_dataframe": True} if function.__name__ == "ichimoku" else {}
    return {key: bars[name] for key, name in zip(columns, names, strict=True)} | fixed


def against_library(candles: pd.DataFrame) -> list[Row]:
    spec = shared_with_library(resolve_spec("technical"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rival = seconds(lambda: through_library(candles, spec))
    own = seconds(lambda: bl.build_features(candles, spec=spec))
    calls = len(_one_computation(list(spec.features)))
    return [
        (
            f"{len(spec.columns)} features that pandas-ta has too",
            f"{own:.2f} s",
            f"{rival:.2f} s: its {calls} calls",
            f"{own / rival:.2f} ×",
        )
    ]


def whole_sets(candles: pd.DataFrame) -> list[Row]:
    context = daily_context(candles)
    technical = seconds(lambda: bl.build_features(candles, spec="technical"))
    everything = seconds(lambda: bl.build_features(candles, context))
    columns = [len(resolve_spec(name).columns) for name in ("technical", "default")]
    return [
        (
            f"default set without context, {columns[0]} columns",
            f"{technical:.2f} s",
            "goal 4 s",
            f"{technical / 4:.2f} ×",
        ),
        (f"… with context, {columns[1]} columns", f"{everything:.2f} s", "goal 4 s", f"{everything / 4:.2f} ×"),
    ]


PEAK = r"""
import re, sys
import btclab as bl
from tests.features.test_build import daily_context

def said(name):
    return int(re.search(name + r":\s+(\d+)", open("/proc/self/status").read())[1]) / 1e3

candles = bl.load_candles(sys.argv[1])
context = daily_context(candles)
bl.build_features(candles.iloc[-3000:], context.iloc[-3000:])
open("/proc/self/clear_refs", "w").write("5")  # the peak is counted from here
before = said("VmRSS")
features = bl.build_features(candles, context)
print(said("VmHWM") - before, before, features.memory_usage().sum() / 1e6)
"""


def memory(candles: pd.DataFrame, source: str) -> list[Row]:
    done = subprocess.run([sys.executable, "-c", PEAK, source], check=True, capture_output=True, text=True)
    grown, before, table = map(float, done.stdout.split())
    return [
        ("… memory that took, table included", f"{grown:.0f} MB", "goal 600 MB", f"{grown / 600:.2f} ×"),
        ("… the table alone", f"{table:.0f} MB", f"{before:.0f} MB held before", "–"),
    ]


def tiled(candles: pd.DataFrame, bars: int) -> pd.DataFrame:
    """`candles` over and over, until there are so many; a jump where they begin anew."""
    values = np.resize(candles[COLUMNS].to_numpy(), (bars, len(COLUMNS)))
    index = pd.date_range("1970-01-01", periods=bars, freq=timeframe_of(candles), tz="UTC", name="timestamp")
    return pd.DataFrame(values, columns=COLUMNS, index=index)


def scaling(candles: pd.DataFrame) -> list[Row]:
    costs = {}
    for bars in (64_000, MILLION):
        many = tiled(candles, bars)
        costs[bars] = seconds(lambda many=many: bl.build_features(many, spec="technical")) / bars
    small, large = (1e6 * costs[bars] for bars in (64_000, MILLION))
    return [
        ("cost per bar at 1,000,000 bars", f"{large:.1f} µs", f"{small:.1f} µs at 64,000", f"{large / small:.2f} ×")
    ]


def live_row(candles: pd.DataFrame) -> list[Row]:
    """The newest row from the stored history, at random ends; and what it differs from the whole table, in column sizes."""
    context = daily_context(candles)
    whole = bl.build_features(candles, context)
    size = whole.abs().max().to_numpy() + 1e-12
    ends = np.random.default_rng(0).integers(
        resolve_spec("default").warmup_at(timeframe_of(candles)) + 1, len(candles), ROWS
    )
    bl.build_features(candles, context, last=1)
    times, error = [], 0.0
    for end in ends:
        bars, series = candles.iloc[:end], context.iloc[:end]
        begun = time.perf_counter()
        row = bl.build_features(bars, series, last=1)
        times.append(1000 * (time.perf_counter() - begun))
        one, other = row.to_numpy()[0], whole.iloc[end - 1].to_numpy()
        assert (np.isnan(one) == np.isnan(other)).all()
        error = max(error, float(np.nanmax(np.abs(one - other) / size)))
    middle, slow = np.percentile(times, [50, 95])
    return [
        ("newest row, median", f"{middle:.1f} ms", "goal 50 ms", f"{middle / 50:.2f} ×"),
        ("… 95th percentile", f"{slow:.1f} ms", "goal 50 ms", f"{slow / 50:.2f} ×"),
        (
            "… differs from the whole table by",
            f"{error:.1e}",
            "goal 1e-9 of the column's size",
            f"{error / 1e-9:.2g} ×",
        ),
    ]


def audit(candles: pd.DataFrame) -> list[Row]:
    part = candles.iloc[-AUDITED:]
    begun = time.perf_counter()
    found = bl.audit_features(part)
    took = time.perf_counter() - begun
    return [
        (
            f"look-ahead audit, {len(part):,} bars",
            f"{took:.1f} s",
            f"goal 60 s; {str(found)[:40]}…",
            f"{took / 60:.2f} ×",
        )
    ]


FIRST = r"""
import time
import numpy, pandas
begun = time.perf_counter()
import btclab as bl
from btclab.features.build import build_features
imported = time.perf_counter() - begun
candles = bl.load_candles("simulated:1", end="2021-06-01")
times = []
for _ in range(2):
    begun = time.perf_counter()
    build_features(candles, spec="technical")
    times.append(time.perf_counter() - begun)
print(imported, times[0] - times[1])
"""


def compiling() -> list[Row]:
    """What the first table of a process pays beside the work: imports beside pandas, and loading or compiling the loops."""

    def first(folder: str) -> tuple[float, float]:
        with patch.dict(os.environ, {"NUMBA_CACHE_DIR": folder}):
            done = subprocess.run([sys.executable, "-c", FIRST], check=True, capture_output=True, text=True)
        imported, extra = map(float, done.stdout.split())
        return imported, extra

    with tempfile.TemporaryDirectory() as folder:
        compiled = sum(first(folder))
        again = sorted((first(folder) for _ in range(3)), key=sum)[1]
        kept = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file()) / 1e6
    return [
        ("first table ever: compiling", f"{compiled:.1f} s", f"{kept:.1f} MB kept on disk", "–"),
        (
            "… in a second process",
            f"{sum(again):.2f} s",
            f"goal 1 s; {again[0]:.2f} s of it imports",
            f"{sum(again):.2f} ×",
        ),
    ]


def main(candles: pd.DataFrame, source: str) -> list[Row]:
    """All rows of the features."""
    rows = whole_sets(candles) + against_library(candles) + memory(candles, source) + scaling(candles)
    return rows + live_row(candles) + audit(candles) + compiling()
