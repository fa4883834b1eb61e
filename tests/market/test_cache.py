"""The cache: what is kept, for how long, who asks, and what happens when it is damaged, full or shared."""

from __future__ import annotations

import json
import pickle
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from btclab.errors import DataUnavailable, InputError, StorageError
from btclab.market import cache
from btclab.market.cache import cached


class Asked:
    """A source that counts how often it is asked, and fails when told to."""

    def __init__(self, content: Any = None, takes: float = 0.0) -> None:
        self.content, self.takes, self.times, self.fails = content or {"price": 1.5}, takes, 0, False

    def __call__(self) -> Any:
        self.times += 1
        time.sleep(self.takes)
        if self.fails:
            raise DataUnavailable("source: refused.")
        return self.content


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Moves the cache's clock forward, in seconds."""
    ahead = [0.0]
    real = time.time
    monkeypatch.setattr(cache.time, "time", lambda: real() + ahead[0])
    return lambda seconds: ahead.__setitem__(0, ahead[0] + seconds)


@pytest.fixture(autouse=True)
def _no_memory(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Every test but those that say otherwise is of the disk."""
    if "memory" not in request.node.name:
        monkeypatch.setattr(cache, "MEMORY_S", 0)


# What is kept, and for how long


def test_memory_answers_like_the_disk_and_no_longer_than_the_kind_lives(clock):
    ask = Asked()
    first, again = (cached("s", "r", "ticker", ask) for _ in range(2))
    assert first.content == again.content and ask.times == 1
    clock(11)
    cached("s", "r", "ticker", ask)
    assert ask.times == 2


def test_memory_is_bounded_and_cleared_with_the_disk():
    for i in range(2 * cache.MOST_RECENT):
        cached("s", str(i), "history", Asked())
    assert len(cache._recent) <= cache.MOST_RECENT
    cache.clear_cache()
    ask = Asked()
    cached("s", str(2 * cache.MOST_RECENT - 1), "history", ask)
    assert ask.times == 1


def test_memory_of_another_home_is_not_read(monkeypatch, home):
    cached("s", "r", "history", Asked())
    monkeypatch.setenv("BTCLAB_HOME", str(home / "other"))
    ask = Asked()
    cached("s", "r", "history", ask)
    assert ask.times == 1


def test_an_answer_is_asked_for_once_and_comes_back_equal():
    ask = Asked({"rows": [[1, "2.50", None, True]], "text": "Übung"})
    first, second = cached("s", "r", "daily", ask), cached("s", "r", "daily", ask)
    assert ask.times == 1
    assert first.content == second.content == ask.content
    assert (first.stale, second.stale) == ("", "")
    assert abs((second.fetched - first.fetched).total_seconds()) < 1e-3


@pytest.mark.parametrize(
    ("kind", "young", "old"),
    [("ticker", 9, 11), ("recent", 290, 310), ("daily", 3500, 3700), ("markets", 86_000, 87_000)],
)
def test_each_kind_lives_its_time(clock, kind, young, old):
    ask = Asked()
    cached("s", "r", kind, ask)
    clock(young)
    cached("s", "r", kind, ask)
    assert ask.times == 1
    clock(old - young)
    cached("s", "r", kind, ask)
    assert ask.times == 2


def test_closed_history_lives_for_ever(clock):
    ask = Asked()
    cached("s", "r", "history", ask)
    clock(10 * 365 * 86_400)
    cache.optimise_cache()
    cached("s", "r", "history", ask)
    assert ask.times == 1


def test_sources_and_requests_are_kept_apart():
    for source, request in (("a", "r"), ("b", "r"), ("a", "q")):
        ask = Asked(f"{source}{request}")
        assert cached(source, request, "daily", ask).content == f"{source}{request}"


def test_another_schema_version_reads_nothing_of_this_one(monkeypatch):
    ask = Asked()
    cached("s", "r", "daily", ask)
    monkeypatch.setattr(cache, "SCHEMA", cache.SCHEMA + 1)
    cached("s", "r", "daily", ask)
    assert ask.times == 2


def test_an_unknown_kind_is_refused():
    with pytest.raises(InputError, match=r"Unknown kind of answer: 'dayly'\. Did you mean 'daily'\?"):
        cached("s", "r", "dayly", Asked())


# A source that fails


def test_an_error_is_not_kept():
    ask = Asked()
    ask.fails = True
    for _ in range(2):
        with pytest.raises(DataUnavailable, match="source: refused"):
            cached("s", "r", "daily", ask)
    ask.fails = False
    assert cached("s", "r", "daily", ask).content == ask.content
    assert ask.times == 3


def test_an_old_answer_stands_in_marked_with_its_age_and_the_reason(clock):
    ask = Asked()
    cached("s", "r", "ticker", ask)
    clock(7200)
    ask.fails = True
    answer = cached("s", "r", "ticker", ask)
    assert answer.content == ask.content
    assert answer.stale == "2 h 0 min old: source: refused."


def test_an_error_that_is_no_failure_of_the_source_is_not_hidden():
    cached("s", "r", "ticker", Asked())

    def broken() -> Any:
        raise KeyError("a fault")

    with pytest.raises(KeyError):
        cached("s", "other", "ticker", broken)


# Many callers


def test_of_ten_threads_one_asks():
    ask = Asked(takes=0.3)
    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(lambda _: cached("s", "r", "daily", ask), range(10)))
    assert ask.times == 1
    assert [answer.content for answer in answers] == [ask.content] * 10


def test_ten_threads_share_one_failure():
    ask = Asked(takes=0.3)
    ask.fails = True
    barrier = threading.Barrier(10)

    def call(_: int) -> str:
        barrier.wait(10)
        with pytest.raises(DataUnavailable) as caught:
            cached("s", "r", "daily", ask)
        return str(caught.value)

    with ThreadPoolExecutor(10) as pool:
        assert set(pool.map(call, range(10))) == {"source: refused."}
    assert ask.times == 1


def test_of_several_processes_one_asks(home):
    script = """
import pathlib, sys, time
from btclab.market.cache import cached
def ask():
    with open(sys.argv[1], "a") as file:
        file.write("x")
    time.sleep(2)
    return 1
while not pathlib.Path(sys.argv[1] + ".go").exists():
    time.sleep(0.01)
assert cached("s", "r", "daily", ask).content == 1
"""
    log = home / "asked"
    processes = [subprocess.Popen([sys.executable, "-c", script, str(log)]) for _ in range(3)]
    Path(f"{log}.go").touch()
    try:
        assert [process.wait(60) for process in processes] == [0, 0, 0]
    finally:
        for process in processes:
            process.kill()
    assert log.read_text() == "x"


# What lies on disk


def test_the_folder_is_the_users_alone():
    cached("s", "r", "daily", Asked())
    assert stat.S_IMODE(cache.folder().stat().st_mode) == 0o700


def test_entries_are_json(home):
    for size in (1, 2_000_000):  # in the database, and in a file beside it
        cached("s", str(size), "daily", Asked({"price": "x" * size}))
        head, body = cache._open().get(f"{cache.SCHEMA}|s|{size}").split(b"\n")
        assert abs(float(head) - time.time()) < 60
        assert json.loads(body) == {"price": "x" * size}


class _Bomb:
    """Would make a file if it were unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("where", ["database", "file", "key"])
def test_a_pickled_entry_is_refused_and_not_loaded(home, where):
    cached("s", "r", "daily", Asked("x" * 2_000_000))
    bomb = pickle.dumps(_Bomb(home / "exploded"))
    base = sqlite3.connect(cache.folder() / "answers" / "cache.db")
    with base:
        if where == "key":
            base.execute("UPDATE Cache SET key = ?, raw = 0", (bomb,))
        elif where == "database":
            base.execute("UPDATE Cache SET mode = 4, filename = NULL, value = ?", (bomb,))
        else:
            (entry,) = cache.folder().rglob("*.val")
            entry.write_bytes(bomb)
            base.execute("UPDATE Cache SET mode = 4")
    base.close()
    with pytest.raises(StorageError, match=r"pickled entry.*btclab cache clear"):
        cached("s", "r", "daily", Asked()) if where != "key" else cache.cache_stats()
    assert not (home / "exploded").exists()
    cache.clear_cache()
    assert cached("s", "r", "daily", Asked()).content == {"price": 1.5}


def test_values_that_are_no_json_are_refused():
    with pytest.raises(ValueError, match="JSON"):
        cached("s", "r", "daily", Asked({"price": float("nan")}))


@pytest.mark.parametrize("damage", ["database", "entry", "lost entry"])
def test_a_damaged_cache_costs_a_question_and_no_answer(damage):
    ask = Asked("x" * 2_000_000)
    cached("s", "r", "daily", ask)
    (entry,) = cache.folder().rglob("*.val")
    if damage == "lost entry":
        entry.unlink()
        assert cached("s", "r", "daily", ask).content == ask.content
    else:
        path = entry if damage == "entry" else cache.folder() / "answers" / "cache.db"
        if damage == "database":
            cache._opened(cache.folder() / "answers", 256_000_000).close()
            for beside in path.parent.glob("cache.db-*"):
                beside.unlink()
        path.write_bytes(b"\x00garbage" * 1000)
        with pytest.warns(RuntimeWarning, match="The cache was damaged .* a new one is begun"):
            assert cached("s", "r", "daily", ask).content == ask.content
    assert cached("s", "r", "daily", ask).content == ask.content
    assert ask.times == 2


def test_a_folder_that_cannot_be_made_slows_the_work_and_does_not_stop_it(home):
    (home / "data").mkdir(exist_ok=True)
    (home / "data" / "cache").write_text("a file where the folder should be")
    ask = Asked()
    for _ in range(2):
        with pytest.warns(RuntimeWarning, match="answers are not kept"):
            assert cached("s", "r", "daily", ask).content == ask.content
    assert ask.times == 2


def test_the_oldest_answers_go_when_it_is_full(monkeypatch):
    monkeypatch.setenv("BTCLAB_CACHE__SIZE_MB", "1")
    for i in range(60):
        cached("s", str(i), "history", Asked("x" * 50_000))
    held = cache.cache_stats().loc["s"]
    assert held["bytes"] <= 1_100_000
    newest = Asked()
    cached("s", "59", "history", newest)
    assert newest.times == 0


# Figures and cleaning


def test_statistics_count_by_source(clock):
    for source, times in (("a", 4), ("b", 1)):
        for _ in range(times):
            cached(source, "r", "daily", Asked("x" * 1000))
    clock(120)
    stats = cache.cache_stats()
    assert stats.loc["a", ["entries", "hits", "misses", "stale"]].tolist() == [1, 3, 1, 0]
    assert stats.loc["a", "hit_rate"] == 0.75
    assert stats.loc["b", "hit_rate"] == 0
    assert 1000 < stats.loc["a", "bytes"] < 1100
    assert 120 <= stats.loc["a", "oldest_s"] < 180


def test_statistics_of_no_cache_are_empty():
    assert cache.cache_stats().empty
    assert json.loads(cache.export_stats())["sources"] == {}


def test_statistics_of_other_processes_are_counted():
    script = "from btclab.market.cache import cached\nfor _ in range(3): cached('s', 'r', 'daily', lambda: 1)"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
    assert cache.cache_stats().loc["s", ["hits", "misses"]].tolist() == [2, 1]


def test_export_as_json_and_prometheus():
    cached("s", "r", "daily", Asked())
    cached("s", "r", "daily", Asked())
    assert json.loads(cache.export_stats())["sources"]["s"]["hits"] == 1
    lines = cache.export_stats("prometheus").splitlines()
    assert 'btclab_cache_hits_total{source="s"} 1' in lines
    assert "# TYPE btclab_cache_hits_total counter" in lines
    assert all(line.startswith("#") or line.count(" ") == 1 for line in lines)
    with pytest.raises(InputError, match="Unknown format: 'xml'"):
        cache.export_stats("xml")


def test_a_low_hit_rate_is_warned_of(monkeypatch):
    for i in range(cache.LEAST_ASKED):
        cached("s", str(i), "daily", Asked())
    assert cache.cache_warnings(cache.cache_stats())[0].startswith("Only 0 % of 50 requests")
    monkeypatch.setenv("BTCLAB_CACHE__WARN_HIT_RATE", "0")
    assert cache.cache_warnings(cache.cache_stats()) == []


def test_too_many_bytes_are_warned_of(monkeypatch):
    cached("s", "r", "daily", Asked("x" * 1_500_000))
    monkeypatch.setenv("BTCLAB_CACHE__SIZE_MB", "1")
    assert "The cache holds 1.5 MB; cache.size_mb is 1" in cache.cache_warnings(cache.cache_stats())[0]


def test_clearing_one_source_leaves_the_others():
    for source in ("a", "b"):
        cached(source, "r", "daily", Asked())
    assert cache.clear_cache("a") == 1
    ask_a, ask_b = Asked(), Asked()
    cached("a", "r", "daily", ask_a)
    cached("b", "r", "daily", ask_b)
    assert (ask_a.times, ask_b.times) == (1, 0)


def test_clearing_all_leaves_nothing():
    cached("a", "r", "daily", Asked())
    assert cache.clear_cache() == 1
    assert list(cache.folder().rglob("*")) == []
    assert cache.cache_stats().empty


def test_optimising_drops_what_has_expired_and_keeps_the_rest(clock):
    cached("s", "old", "ticker", Asked())
    cached("s", "for ever", "history", Asked())
    clock(cache.KEPT_S + 1)
    assert cache.optimise_cache() == {"expired": 1, "culled": 0}
    assert cache.cache_stats().loc["s", "entries"] == 1
    assert list((cache.folder() / "locks").glob("*.lock")) == []


def test_maintenance_is_due_once_a_day(clock, monkeypatch):
    assert not cache.maintenance_due()  # there is nothing to clean
    cached("s", "r", "daily", Asked())
    assert cache.maintenance_due()
    cache.optimise_cache()
    assert not cache.maintenance_due()
    clock(25 * 3600)
    assert cache.maintenance_due()
    monkeypatch.setenv("BTCLAB_CACHE__MAINTENANCE_H", "0")
    assert not cache.maintenance_due()
