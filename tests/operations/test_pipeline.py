"""The main job from end to end, by its command, on the simulated market and on real candles."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pandas as pd
import pytest

from btclab.errors import DataUnavailable, NotListed
from btclab.market import sources
from btclab.operations.pipeline import SIMULATED, choose_source

REAL_BARS = 16_000
FIGURES = {"train": (8, 9, 10), "backtest": (3,), "signal": (5,)}  # two of train only where the forecast ever changes


def pipeline(home, *words, cwd=None):
    """`btclab pipeline WORDS` in a new process; returns what it printed and the three runs by name."""
    command = [sys.executable, "-m", "btclab.cli", "pipeline", *words]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=280, cwd=cwd, env={**os.environ, "COLUMNS": "400"}, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    runs = {}
    for path in (home / "papermill_runs").glob("*/run.json"):
        described = json.loads(path.read_text(encoding="utf-8"))
        runs[described["name"]] = (path.parent, described)
    return done.stdout, runs


@pytest.mark.slow
class TestWithoutASource:
    """Nothing can be reached and nothing is stored, so the simulated market is used, and called so everywhere."""

    @pytest.fixture(scope="class")
    def finished(self, tmp_path_factory):
        from tests.conftest import CLOSED, EXCHANGES

        home = tmp_path_factory.mktemp("home")
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("BTCLAB_HOME", str(home))
            patch.setenv("BTCLAB_MARKET__EXCHANGE_URLS", json.dumps(dict.fromkeys(EXCHANGES, CLOSED)))
            return home, *pipeline(home)

    def test_the_terminal_says_which_sources_failed_and_that_the_market_is_simulated(self, finished):
        _, printed, _ = finished
        for name in ("binance", "kraken", "coinbase", "bitstamp"):
            assert f"source failed {name}: " in printed
        assert "SIMULATED MARKET" in printed

    def test_the_terminal_says_where_the_three_reports_lie(self, finished):
        _, printed, runs = finished
        assert set(runs) == {"train", "backtest", "signal"}
        for folder, _ in runs.values():
            assert str(folder / "report.html") in printed

    def test_every_run_is_done_and_says_simulated(self, finished):
        for _, described in finished[2].values():
            assert described["status"] == "done"
            assert described["simulated"] is True
            assert described["results"]["data"]["source"] == SIMULATED
            assert len(described["failed_sources"]) == 4

    def test_every_report_has_the_banner_and_labels_each_figure(self, finished):
        for name, (folder, _) in finished[2].items():
            page = (folder / "report.html").read_text(encoding="utf-8")
            assert "<b>SIMULATED MARKET</b>" in page
            figures = page.split("const figure = ")[1:]
            assert len(figures) in FIGURES[name]
            assert all("SIMULATED MARKET" in figure.split("</script>")[0] for figure in figures)

    def test_where_there_is_no_edge_the_skill_cannot_be_told_from_zero(self, finished):
        folder, described = finished[2]["train"]
        assert described["results"]["metrics"]["distinguishable"] is False
        page = (folder / "report.html").read_text(encoding="utf-8")
        assert "cannot be told from zero" in page or "Validation saw <strong>no skill</strong>" in page
        assert "The placebo, the same training on shuffled outcomes, reached" in page

    def test_all_three_used_the_same_candles_and_the_same_checkpoint(self, finished):
        home, _, runs = finished
        names = {described["results"]["checkpoint"] for _, described in runs.values()}
        assert len(names) == 1
        assert (home / "models" / names.pop() / "weights.safetensors").exists()
        fingerprints = [runs[name][1]["results"]["data"]["fingerprint"] for name in ("backtest", "signal")]
        assert len(set(fingerprints)) == 1


@pytest.mark.slow
def test_real_candles_through_all_three_stages(home, real_file, tmp_path):
    real = pd.read_parquet(real_file)
    real.iloc[-REAL_BARS:].to_parquet(tmp_path / "recent.parquet")
    _, runs = pipeline(home, "--source", "file:recent.parquet", cwd=tmp_path)
    train, backtest, signal = (runs[name][1]["results"] for name in ("train", "backtest", "signal"))
    assert train["data"]["bars"] == REAL_BARS
    assert train["data"]["simulated"] is False
    assert 0.85 < train["metrics"]["coverage_90"] < 0.95
    assert 0.98 < train["metrics"]["error_ratio"] < 1.02
    assert backtest["data"]["first"] == train["folds"]["test_start"]
    assert signal["signal"]["bar"] == real.index[-1].isoformat()
    assert signal["account"]["worth"] == pytest.approx(
        backtest["metrics"]["total_return"] / 100 * 10_000 + 10_000
    )  # paper account and backtest are one engine
    for folder, described in runs.values():
        assert described["simulated"] is False
        assert "SIMULATED" not in (folder / "report.html").read_text(encoding="utf-8")


def test_a_file_is_named_by_its_whole_path_so_that_it_is_found_from_elsewhere(candles, tmp_path, monkeypatch):
    candles.to_parquet(tmp_path / "mine.parquet")
    monkeypatch.chdir(tmp_path)
    assert choose_source("file:mine.parquet", "1h", "BTC/USDT").source == f"file:{tmp_path / 'mine.parquet'}"


def test_a_simulated_file_stays_simulated(candles, tmp_path):
    import btclab as bl

    candles.to_parquet(tmp_path / "simulated_market.parquet")
    assert bl.load_candles(f"file:{tmp_path / 'simulated_market.parquet'}").attrs["simulated"]


def test_a_symbol_that_no_exchange_lists_is_wrong_input_and_not_a_reason_to_simulate(monkeypatch):
    def unlisted(name, *_):
        raise NotListed(f"{name}: does not list BTC/USDX.")

    monkeypatch.setattr(sources, "update_candles", unlisted)
    with pytest.raises(NotListed, match="No exchange of the settings lists BTC/USDX") as refused:
        choose_source(None, "1h", "BTC/USDX")
    assert refused.value.exit_code == 2


def test_there_is_no_simulated_market_of_minutes_to_fall_back_to():
    with pytest.raises(DataUnavailable, match="nothing is stored"):
        choose_source(None, "5m", "BTC/USDT")
