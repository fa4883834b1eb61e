"""`btclab audit`: the sentence, the guilty columns and the exit code."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from btclab.context.series import SERIES
from btclab.context.store import save_values
from btclab.features.indicators import CUSTOM
from btclab.market.store import save_candles

SOURCE = ("--source", "simulated:7")
MINE = """
[mine]
steady = { indicator = "rsi", length = 14 }
ahead = { indicator = "ahead", warmup = 20 }
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A spec file with a feature of the user's own that looks ahead."""
    monkeypatch.setitem(CUSTOM, "ahead", lambda candles: candles["close"].shift(-1) / candles["close"])
    path = tmp_path / "mine.toml"
    path.write_text(MINE, encoding="utf-8")
    return str(path)


def test_sound_features_pass_with_the_sentence_of_the_certificate(call):
    code, out, _ = call("audit", *SOURCE, "--spec", "core", "--cuts", "3")
    assert code == 0
    assert "SIMULATED MARKET" in out
    assert "features  core · 25 columns" in out
    assert "Look-ahead audit passed: none of 25 features changed at 3 cuts" in out
    assert "looks ahead" not in out


def test_a_leak_is_a_failure_that_names_column_test_bar_and_size(call, mine):
    code, out, _ = call("audit", *SOURCE, "--spec", mine, "--cuts", "3", "--seed", "1")
    assert code == 1
    assert "Look-ahead audit FAILED: ahead changed at 3 cuts (later bars removed, later bars replaced)." in out
    rows = [line for line in out.splitlines() if line.startswith("│ ahead")]
    assert len(rows) == 2
    assert "∞" in rows[0] + rows[1]
    assert "steady" not in out


def test_stored_context_is_audited_beside_real_candles_and_what_is_not_verified_is_said(call, candles, tmp_path):
    save_candles(candles, "binance", "BTC/USDT", "1h")
    days = pd.date_range("2020-12-20", "2021-04-01", freq="D", tz="UTC")
    values = pd.Series(np.random.default_rng(0).integers(5, 95, len(days)).astype(float), days)
    save_values(SERIES["fear_greed"], "alternative.me", values)
    (tmp_path / "fear.toml").write_text(
        '[s]\nfear = { indicator = "level", inputs = ["fear_greed"] }\n', encoding="utf-8"
    )
    code, out, _ = call("audit", "--source", "store:binance", "--spec", str(tmp_path / "fear.toml"), "--cuts", "3")
    assert code == 0
    assert "none of 1 features changed at 3 cuts" in out
    assert "context as it was public" in out


def test_what_cannot_be_verified_is_listed_with_the_reason(call, tmp_path, monkeypatch):
    random = pd.Series(
        np.random.default_rng(0).normal(size=40_000), pd.date_range("2021", periods=40_000, freq="h", tz="UTC")
    )
    monkeypatch.setitem(CUSTOM, "outside", lambda candles: random.reindex(candles.index))
    (tmp_path / "o.toml").write_text('[s]\noutside = { indicator = "outside", warmup = 0 }\n', encoding="utf-8")
    code, out, _ = call("audit", *SOURCE, "--spec", str(tmp_path / "o.toml"), "--cuts", "2")
    assert code == 0
    assert "not verified outside: it depends on the date beyond hour and weekday" in out


def test_columns_without_values_are_counted(call, tmp_path):
    path = tmp_path / "two.toml"
    path.write_text('[s]\nbody = { indicator = "shape" }\nvix = { indicator = "level", inputs = ["vix"] }\n', "utf-8")
    code, out, _ = call("audit", *SOURCE, "--spec", str(path), "--cuts", "2")
    assert code == 0
    assert "none of 1 features" in out
    assert "1 column holds no values here" in out


def test_a_checkpoint_is_audited_with_its_features(call, trained):
    trained.save()
    code, out, _ = call("audit", "--source", "simulated:7?edge=0.3", "--checkpoint", trained.name, "--cuts", "2")
    assert code == 0
    assert f"none of {len(trained.spec.columns)} features changed at 2 cuts" in out
    assert f"figures of checkpoint {trained.name} changed at 4 cuts" in out


def test_warm_ups_that_last_pass(call):
    code, out, _ = call("audit", *SOURCE, "--spec", "core", "--warmup", "--cuts", "4")
    assert code == 0
    assert "Warm-up audit passed: 25 features need no more bars than they declare, from 4 starts." in out
    assert "atr_14" in out


def test_a_warm_up_that_is_too_short_is_a_failure(call, tmp_path):
    path = tmp_path / "short.toml"
    path.write_text('[s]\nshort = { indicator = "ema", length = 20, warmup = 20 }\n', encoding="utf-8")
    code, out, _ = call("audit", *SOURCE, "--spec", str(path), "--warmup", "--cuts", "4")
    assert code == 1
    assert "Warm-up audit FAILED: 1 of 1 features need more bars than they declare." in out
    assert "│ short" in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--spec", "cor"), "Did you mean 'core'"),
        (("--spec", "none.toml"), "none.toml cannot be read"),
        (("--source", "simulated:x"), "Simulated market 'x'"),
        (("--checkpoint", "none"), "There is no checkpoint 'none'"),
        (("--cuts", "0"), "Invalid value for '--cuts'"),
        (("--timeframe", "7m"), "Unknown timeframe: '7m'"),
    ],
)
def test_wrong_input_is_named(call, words, said):
    code, _, err = call("audit", *(SOURCE if "--source" not in words else ()), *words)
    assert code == 2
    assert said in " ".join(err.replace("│", " ").split())


def test_too_few_bars_are_wrong_input(call, candles, tmp_path):
    candles.iloc[:300].to_parquet(tmp_path / "few.parquet")
    code, _, err = call("audit", "--source", f"file:{tmp_path / 'few.parquet'}", "--spec", "core")
    assert code == 2
    assert "needs at least" in err


def test_help_has_an_example(call):
    code, out, _ = call("audit", "--help")
    assert code == 0
    assert "Example: btclab audit" in out
