"""`btclab cache`: figures, cleaning, export."""

from __future__ import annotations

import json

import pytest

from btclab.market.cache import cache_stats, cached
from tests.conftest import CLOSED


@pytest.fixture
def filled() -> None:
    """Two sources with an answer each, one of them asked for twice."""
    for source, times in (("kraken", 2), ("fred", 1)):
        for _ in range(times):
            cached(source, "r", "daily", lambda: {"price": 1.5})


def test_stats_show_each_source_and_the_sum(filled, call):
    code, out, _ = call("cache", "stats")
    assert code == 0
    rows = {line.split()[1]: line.split() for line in out.splitlines() if "│" in line}
    assert rows["kraken"][3] == "1" and "50" in rows["kraken"]
    assert rows["all"][3] == "2" and "33" in rows["all"]


def test_stats_of_an_empty_cache_say_how_it_fills(call):
    assert "The cache is empty" in call("cache", "stats")[1]


def test_clear_forgets_one_source(filled, call):
    assert call("cache", "clear", "--source", "fred")[:2] == (0, "1 answers of fred removed.\n")
    assert list(cache_stats().query("entries > 0").index) == ["kraken"]


def test_clear_forgets_all(filled, call):
    assert call("cache", "clear")[:2] == (0, "2 answers removed.\n")
    assert cache_stats().empty


def test_optimise_says_what_went(filled, call):
    assert call("cache", "optimise")[:2] == (0, "0 expired and 0 answers too many removed.\n")


def test_optimise_warms_what_the_settings_name(call, monkeypatch):
    monkeypatch.setenv("BTCLAB_CACHE__WARM", '["kraken", "fear_greed"]')
    monkeypatch.setenv("BTCLAB_MARKET__TIMEOUT_S", "0.5")
    monkeypatch.setenv("BTCLAB_CONTEXT__URLS", json.dumps({"alternative.me": CLOSED}))
    code, out, _ = call("cache", "optimise")
    assert code == 1
    assert "not warmed: kraken: " in out
    assert "not warmed: fear_greed: " in out


def test_export_to_the_terminal_and_to_a_file(filled, call, tmp_path):
    code, out, _ = call("cache", "export")
    assert code == 0
    assert json.loads(out)["sources"]["kraken"]["hits"] == 1
    path = tmp_path / "btclab.prom"
    assert call("cache", "export", "--format", "prometheus", "--output", str(path))[0] == 0
    assert 'btclab_cache_entries{source="fred"} 1' in path.read_text().splitlines()


@pytest.mark.parametrize(
    ("words", "said"), [(["--format", "xml"], "Unknown format: 'xml'"), (["--output", "."], "is a folder")]
)
def test_a_wrong_export_is_named(filled, call, words, said):
    code, _, err = call("cache", "export", *words)
    assert code == 2
    assert said in err
