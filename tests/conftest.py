"""Shared fixtures. Every test has a BTCLAB_HOME of its own and no way to a real exchange."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import btclab as bl

if "PYTEST_XDIST_WORKER" in os.environ:  # the workers share the cores; more threads than cores only wait for each other
    os.environ.setdefault("OMP_NUM_THREADS", "1")

SHARED = Path(__file__).resolve().parents[2] / "shared"
CLOSED = "http://127.0.0.1:9"  # the discard port: nothing listens there, connections are refused at once
EDGE = "simulated:7?edge=0.3"
SMALL: dict[str, Any] = {
    "hidden": 8,
    "epochs": 5,
    "context": 24,
    "stretch": 60,
    "batch": 8,
    "learning_rate": 1e-2,
    "progress": False,
}
EXCHANGES = ("binance", "kraken", "coinbase", "bitstamp")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A new, empty BTCLAB_HOME; exchanges are addressed at a closed port of this machine."""
    monkeypatch.setenv("BTCLAB_HOME", str(tmp_path))
    monkeypatch.setenv("BTCLAB_MARKET__EXCHANGE_URLS", json.dumps(dict.fromkeys(EXCHANGES, CLOSED)))
    monkeypatch.setenv("BTCLAB_MARKET__TIMEOUT_S", "5")
    return tmp_path


@pytest.fixture(scope="session")
def candles() -> pd.DataFrame:
    """Three months of simulated hours, without an edge."""
    return bl.load_candles("simulated:7", end="2021-04-01")


@pytest.fixture(scope="session")
def trained() -> Any:
    """A small network that has found the strong planted edge of `trained_candles`, so that its forecasts move."""
    return bl.train(bl.load_candles(EDGE, end="2021-11-01"), **SMALL)


@pytest.fixture(scope="session")
def trained_candles() -> pd.DataFrame:
    """Ten months of simulated hours with a planted edge."""
    return bl.load_candles(EDGE, end="2021-11-01")


@pytest.fixture(scope="session")
def real_file() -> Path:
    """The real BTC/USDT hours, where they lie beside the project."""
    path = SHARED / "candles" / "binance_btcusdt_1h_2017-08_2024-12.parquet"
    if not path.exists():
        pytest.skip(f"no real candles at {path}")
    return path


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run `btclab WORDS` in this process; returns exit code, standard output, standard error."""
    from btclab import cli

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["btclab", *words])
        monkeypatch.setenv("COLUMNS", "160")
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return run


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[Any]:
    """With BTCLAB_SKIP_NOTHING set, a test that would be skipped fails: nothing is left out unnoticed."""
    report = yield
    if os.environ.get("BTCLAB_SKIP_NOTHING") and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped: {report.longrepr[-1]}"
    return report
