"""The dashboard's page says what the newest signal run recorded, how old it is, and what went wrong."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest

from btclab.dashboard import cards
from btclab.dashboard.views import Dashboard, chart, look
from btclab.errors import InputError
from btclab.files import write_json
from btclab.operations.runs import Run

ACCOUNT = {"worth": 10_412.37, "cash": 12.5, "position": 1.883221, "fees": 103.2, "fills": 11, "profit": 412.37}
SIGNAL = {
    "bar": "2024-12-31T23:00:00+00:00",
    "side": "hold",
    "exposure": 0.0,
    "confidence": 0.504,
    "reasons": "probability of up 49.6 %; between exit 48 % and enter 52 %: keep cash",
    "prob_up": 0.496,
    "mean": -2.6e-05,
    "interval_low": -0.0069,
    "interval_high": 0.0070,
    **{"q05": -0.0069, "q25": -0.0022, "q50": 0.0, "q75": 0.0021, "q95": 0.0070},
}


def fabricate(home: Path, run_id: str = "20261122T223317Z_signal_000001", **changes: Any) -> Run:
    """Write the `run.json` of a finished signal run on simulated:1; `changes` are laid over its record, results deeply."""
    data = {
        "source": "simulated:1",
        "symbol": "BTC/USDT",
        "timeframe": "1h",
        "simulated": True,
        "stale": None,
        "last": "2024-12-31T23:00:00+00:00",
    }
    results = {"signal": SIGNAL, "data": data, "checkpoint": "20261122T223253_base_1h_3fbf9b", "account": ACCOUNT}
    for name, value in changes.pop("results", {}).items():
        results[name] = {**results[name], **value} if isinstance(value, dict) and results.get(name) else value
    record = {
        "name": "signal",
        "status": "done",
        "started": "2026-11-22T22:33:17+00:00",
        "finished": "2026-11-22T22:33:30+00:00",
        "parameters": {"source": "simulated:1", "timeframe": "1h", "symbol": "BTC/USDT"},
        "results": results,
    }
    folder = home / "papermill_runs" / run_id
    write_json(folder / "run.json", record | changes)
    return Run(folder, record | changes)


def words(dashboard: Dashboard) -> str:
    """Everything that the page says, as HTML."""
    return "".join(part.value for part in (dashboard.head, dashboard.notes, dashboard.signal, dashboard.account))


def painted() -> Dashboard:
    dashboard = Dashboard()
    dashboard.paint(look())
    return dashboard


def test_without_a_signal_run_it_says_what_to_type(home: Path) -> None:
    dashboard = painted()
    assert "btclab pipeline" in words(dashboard)
    assert dashboard.chart.layout.display == "none"


def test_it_shows_signal_account_and_chart_of_the_newest_finished_run(home: Path) -> None:
    fabricate(home, "20261122T000000Z_signal_000001", results={"signal": {"side": "sell"}})
    fabricate(home, "20261122T010000Z_signal_000002", results={"signal": {"side": "buy"}})
    dashboard = painted()
    said = words(dashboard)
    for expected in (
        "SIMULATED MARKET",
        "BUY",
        "keep cash",
        "50.4 %",
        "-0.69 % … +0.70 %",
        "10,412.37 USDT",
        "base_1h",
    ):
        assert expected in said
    assert "SELL" not in said
    (figure,) = dashboard.chart.children
    assert len(figure.data[0].x) == 300
    assert any("SIMULATED MARKET" in note.text for note in figure.layout.annotations)


def test_what_was_not_recorded_is_called_so_and_not_invented(home: Path) -> None:
    fabricate(
        home, results={"account": None, "equity": 10_000.0, "signal": {"mean": None, "q05": None, "confidence": None}}
    )
    dashboard = painted()
    assert "10,000.00 USDT" in dashboard.account.value
    assert dashboard.account.value.count("not recorded") == 5
    assert dashboard.signal.value.count("not recorded") == 3  # confidence, expected return and skill


def test_data_go_stale_while_the_page_is_open(home: Path) -> None:
    fabricate(
        home, results={"data": {"simulated": False, "source": "store:binance", "last": "2026-11-22T21:00:00+00:00"}}
    )
    run = look("20261122T223317Z_signal_000001").run
    fresh, later = pd.Timestamp("2026-11-22T22:35", tz="UTC"), pd.Timestamp("2026-11-23T00:05", tz="UTC")
    assert "35 min" in cards.head(run, fresh)
    assert cards.notes(run, None, fresh) == ""
    assert "STALE" in cards.notes(run, None, later)
    assert "2 h 5 min" in cards.notes(run, None, later)


@pytest.mark.parametrize(("status", "said"), [("failed", "ended as failed"), ("running", "being computed")])
def test_a_later_run_that_did_not_finish_is_mentioned(home: Path, status: str, said: str) -> None:
    fabricate(home, "20261122T000000Z_signal_000001")
    error = {"message": "no <candles>"} if status == "failed" else None
    process = {"pid": 1, "pid_started": psutil.Process(1).create_time()}
    fabricate(home, "20261122T010000Z_signal_000002", status=status, results={}, error=error, **process)
    dashboard = painted()
    assert said in dashboard.notes.value
    assert "HOLD" in dashboard.signal.value
    assert "<candles>" not in dashboard.notes.value


def test_an_exchange_is_never_asked(home: Path) -> None:
    run = fabricate(home, parameters={"source": "binance", "timeframe": "1h", "symbol": "BTC/USDT"})
    with pytest.raises(InputError, match="store:binance can"):
        chart(run)
    dashboard = painted()
    assert "No price chart" in dashboard.chart.children[0].value
    assert "HOLD" in dashboard.signal.value


def test_text_from_a_run_is_escaped(home: Path) -> None:
    fabricate(
        home, results={"checkpoint": "<script>", "signal": {"reasons": "<img src=x>"}, "data": {"symbol": "<b>/<i>"}}
    )
    said = words(painted())
    assert "<script>" not in said
    assert "<img" not in said
    assert "<i>" not in said


def test_the_task_shows_new_runs_and_errors_and_recovers(home: Path) -> None:
    async def lives() -> None:
        dashboard = painted()
        dashboard.refresh_s = 0.01
        task = asyncio.create_task(dashboard.keep_fresh())

        async def until_said(text: str) -> None:
            async with asyncio.timeout(10):
                while text not in words(dashboard):
                    await asyncio.sleep(0.01)

        fabricate(home)
        await until_said("HOLD")
        broken = home / "papermill_runs" / "20261123T000000Z_signal_000009" / "run.json"
        broken.parent.mkdir()
        broken.write_text("{")
        await until_said("is not JSON")
        assert "HOLD" in words(dashboard)
        beat = dashboard.pulse.beat
        broken.unlink()
        async with asyncio.timeout(10):
            while "is not JSON" in words(dashboard):
                await asyncio.sleep(0.01)
        assert dashboard.pulse.beat > beat
        task.cancel()

    asyncio.run(lives())


def test_the_chart_is_drawn_once_per_run(home: Path) -> None:
    fabricate(home)
    dashboard = painted()
    before = dashboard.chart.children
    dashboard.paint(look("20261122T223317Z_signal_000001"))
    assert dashboard.chart.children == before


def test_its_kernel_stays_light(home: Path) -> None:
    fabricate(home)
    script = (
        "import json, sys\nfrom btclab.dashboard.views import Dashboard, look\nDashboard().paint(look())\n"
        "print(json.dumps([name for name in ('torch', 'ccxt', 'sklearn', 'papermill') if name in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert json.loads(done.stdout) == []
