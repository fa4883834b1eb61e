"""The cache: remote answers on disk, so that nothing is asked for twice and a source that fails has a stand-in.

An entry is a line that says when it was fetched (s since 1970), and the answer as JSON. It is read again while it is younger
than its kind allows, and beyond that only if asking anew fails: it is then marked stale. Errors are never stored.
diskcache keeps the entries and evicts the oldest; it would also load pickles, which `_JSONDisk` refuses.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import sqlite3
import threading
import time
import warnings
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import diskcache
import orjson
import pandas as pd
from diskcache.core import MODE_PICKLE
from filelock import FileLock, Timeout

from btclab.errors import DataUnavailable, StorageError, unknown
from btclab.market.candles import lapse
from btclab.settings import settings

SCHEMA = 1  # a change of what entries hold makes the old ones unreadable, not wrong
FOREVER = float("inf")
# How old an answer of each kind may be, in seconds.
LIFETIMES = {"ticker": 10.0, "recent": 300.0, "daily": 3600.0, "markets": 86_400.0, "history": FOREVER}
KEPT_S = 30 * 86_400.0  # an expired answer stands in for a source that fails for this long
PATIENCE_S = 120.0  # for another caller who asks the same
EVENTS = ("hit", "miss", "stale")


@dataclass(frozen=True)
class Answer:
    """What a source answered (JSON; not to be changed), when (UTC), and '' or how old it is and why it is not refreshed."""

    content: Any
    fetched: pd.Timestamp
    stale: str = ""


class _JSONDisk(diskcache.Disk):  # type: ignore[misc]  # diskcache has no types
    """Bytes under text keys. An entry or key that would have to be unpickled was not written by btclab: refused."""

    def put(self, key: Any) -> tuple[Any, bool]:
        if not isinstance(key, str):
            raise TypeError(f"a key is text, not {type(key).__name__}")
        return key, True

    def get(self, key: Any, raw: bool) -> Any:
        if not raw:
            raise _pickled()
        return key

    def fetch(self, mode: int, filename: str | None, value: Any, read: bool) -> Any:
        if mode == MODE_PICKLE:
            raise _pickled()
        return super().fetch(mode, filename, value, read)


def _pickled() -> StorageError:
    return StorageError(
        f"{folder()} holds a pickled entry, which btclab never writes and never loads. Find out who wrote it, then: "
        "btclab cache clear"
    )


def cached(source: str, request: str, kind: str, ask: Callable[[], Any]) -> Answer:
    """The answer of `source` to `request`: a stored one that is young enough for its `kind`, else what `ask()` gives.

    Of many callers at once, in any number of processes, one asks and the others get its answer. When `ask` raises
    `DataUnavailable`, an older answer is returned, marked stale; without one the error is raised. `request` is the key
    together with the source: it must name all that the answer depends on, and no secret.
    """
    if kind not in LIFETIMES:
        raise unknown("kind of answer", kind, LIFETIMES)
    place = folder()
    key = f"{SCHEMA}|{source}|{request}"
    begun, called = time.time(), time.monotonic()
    recent = _recent.get((place, key))
    if recent and called - recent[0] < MEMORY_S and 0 <= begun - recent[1] < LIFETIMES[kind]:
        _count(place, source, "hit")
        return recent[2]
    held = _read(key)
    if held and 0 <= begun - held[0] < LIFETIMES[kind]:
        _count(place, source, "hit")
        return _remembered(place, key, _answer(held))
    lock = FileLock(_lock_path(key))
    try:
        with suppress(OSError, Timeout):  # a folder that cannot be written, a caller that hangs: ask all the same
            lock.acquire(timeout=PATIENCE_S)
        held = _read(key) or held
        if held and held[0] >= begun:
            _count(place, source, "hit")
            return _answer(held)
        if (failed := _failures.get(key)) and failed[0] >= called:  # whoever held the lock has just been refused
            return _stand_in(source, held, failed[1](failed[2]))
        try:
            content = ask()
        except DataUnavailable as error:
            _failures[key] = (time.monotonic(), type(error), str(error))
            return _stand_in(source, held, error)
        _count(place, source, "miss")
        now = time.time()
        _write(key, source, now, content, KEPT_S if LIFETIMES[kind] < FOREVER else None)
        return _remembered(place, key, Answer(content, pd.Timestamp(now, unit="s", tz="UTC")))
    finally:
        lock.release()


_failures: dict[str, tuple[float, type[DataUnavailable], str]] = {}


# The answers of the last minute, so that a hit costs no reading. Their content is shared by all who asked.
_recent: OrderedDict[tuple[Path, str], tuple[float, float, Answer]] = OrderedDict()
MEMORY_S = 60.0  # after which another process' clean-up is noticed
MOST_RECENT = 32


def _remembered(place: Path, key: str, answer: Answer) -> Answer:
    with _counting:
        _recent[(place, key)] = (time.monotonic(), answer.fetched.timestamp(), answer)
        _recent.move_to_end((place, key))
        if len(_recent) > MOST_RECENT:
            _recent.popitem(last=False)
    return answer


def _stand_in(source: str, held: tuple[float, bytes] | None, error: DataUnavailable) -> Answer:
    _count(folder(), source, "stale" if held else "miss")
    if held is None:
        raise error
    old = lapse(pd.Timedelta(seconds=time.time() - held[0]))
    return _answer(held, stale=f"{old} old: {error}")


def _answer(held: tuple[float, bytes], stale: str = "") -> Answer:
    return Answer(orjson.loads(held[1]), pd.Timestamp(held[0], unit="s", tz="UTC"), stale)


def folder() -> Path:
    """Where the cache lies."""
    return settings().data / "cache"


def _lock_path(key: str) -> Path:
    path = folder() / "locks" / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.lock"
    with suppress(OSError):  # said when an entry is written
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


def _open() -> diskcache.Cache:
    return _opened(folder() / "answers", int(settings().cache.size_mb * 1e6))


@lru_cache(maxsize=4)
def _opened(path: Path, limit: int) -> diskcache.Cache:
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.parent.chmod(0o700)
    # Most answers lie in the database itself, which is three times faster to read than a file beside it.
    return diskcache.Cache(str(path), disk=_JSONDisk, disk_min_file_size=1_000_000, size_limit=limit, timeout=5)


def _read(key: str) -> tuple[float, bytes] | None:
    """When the entry was fetched and its JSON; None if there is none that can be read."""
    try:
        entry = _open().get(key)
        if entry is None:
            return None
        head, _, body = entry.partition(b"\n")
        return float(head), body
    except (diskcache.Timeout, OSError, sqlite3.OperationalError):  # locked, full, no more files: not damaged
        return None
    except (sqlite3.DatabaseError, ValueError, KeyError, TypeError, AttributeError) as error:
        _set_aside(error)
        return None


def _write(key: str, source: str, fetched: float, content: Any, expire: float | None) -> None:
    """A cache that cannot be written slows the work down; it must not stop it."""
    entry = f"{fetched!r}\n".encode() + json.dumps(content, allow_nan=False).encode()  # orjson would write NaN as null
    try:
        _open().set(key, entry, expire=expire, tag=source)
    except (OSError, diskcache.Timeout, sqlite3.OperationalError) as error:
        warnings.warn(f"{folder()} cannot be written ({error}): answers are not kept.", RuntimeWarning, stacklevel=3)
    except sqlite3.DatabaseError as error:
        _set_aside(error)


def _set_aside(error: Exception) -> None:
    """A damaged cache is moved away, not repaired: all that it held can be asked for again."""
    away = folder().with_name(f"cache.damaged.{time.time_ns()}")
    _opened.cache_clear()
    with suppress(OSError):  # another process was first
        folder().rename(away)
    warnings.warn(
        f"The cache was damaged ({error}) and now lies in {away}; a new one is begun.", RuntimeWarning, stacklevel=4
    )


# Hits and misses by source, counted in memory and added to the file now and then: a hit must not pay for a write.

_counts: Counter[tuple[Path, str, str]] = Counter()
_counting = threading.Lock()
FLUSH_AT = 200


def _count(place: Path, source: str, event: str) -> None:
    with _counting:
        _counts[(place, source, event)] += 1
        due = _counts.total() >= FLUSH_AT
    if due:
        flush_counts()


@atexit.register
def flush_counts() -> None:
    """Write what has been counted since the last time."""
    with _counting:
        counted = dict(_counts)
        _counts.clear()
    with suppress(OSError, sqlite3.Error, diskcache.Timeout):  # figures, not data
        for place in {place for place, _, _ in counted if place.is_dir()}:
            path = place / "counts.json"
            with FileLock(place / "counts.lock", timeout=5):
                held = _held_counts(path)
                for (where, source, event), number in counted.items():
                    if where == place:
                        held.setdefault(source, dict.fromkeys(EVENTS, 0))[event] += number
                path.write_text(json.dumps(held))


def _held_counts(path: Path) -> dict[str, dict[str, int]]:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return {}


def _entries() -> Iterator[tuple[str, float, int]]:
    """Source, age (s) and bytes of every entry; none of a cache that is damaged or locked."""
    now = time.time()
    if not folder().is_dir():
        return
    try:
        store = _open()
        for key in list(store.iterkeys()):
            entry = store.get(key)
            if entry is not None:  # gone in the meantime
                yield key.split("|")[1], now - float(entry.partition(b"\n")[0]), len(entry)
    except (diskcache.Timeout, OSError, sqlite3.OperationalError) as error:
        warnings.warn(f"{folder()} cannot be read now ({error}).", RuntimeWarning, stacklevel=3)
    except (sqlite3.DatabaseError, ValueError) as error:
        _set_aside(error)


def cache_stats() -> pd.DataFrame:
    """By source: entries, bytes, hits, misses, stale answers given, hit_rate (0…1), oldest and newest (age, s)."""
    flush_counts()
    rows: dict[str, dict[str, Any]] = {}
    blank = {"entries": 0, "bytes": 0, "oldest_s": float("nan"), "newest_s": float("nan")}
    for source, age, size in _entries():
        row = rows.setdefault(source, dict(blank))
        row["entries"] += 1
        row["bytes"] += size
        row["oldest_s"] = max(age, row["oldest_s"]) if row["entries"] > 1 else age
        row["newest_s"] = min(age, row["newest_s"]) if row["entries"] > 1 else age
    for source, counted in _held_counts(folder() / "counts.json").items():
        row = rows.setdefault(source, dict(blank))
        asked = sum(counted.values())
        row |= {"hits": counted["hit"], "misses": counted["miss"], "stale": counted["stale"]}
        row["hit_rate"] = counted["hit"] / asked if asked else float("nan")
    columns = ["entries", "bytes", "hits", "misses", "stale", "hit_rate", "oldest_s", "newest_s"]
    table = pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("source")
    counts = ["entries", "bytes", "hits", "misses", "stale"]
    table[counts] = table[counts].fillna(0).astype("int64")
    return table.sort_index()


LEAST_ASKED = 50  # a rate of fewer requests says nothing


def cache_warnings(stats: pd.DataFrame) -> list[str]:
    """What is wrong with the cache, in words: too few hits, or more bytes than its limit."""
    asked = int(stats[["hits", "misses", "stale"]].to_numpy().sum())
    rate = stats["hits"].sum() / asked if asked else 1.0
    limit, held = settings().cache.size_mb * 1e6, int(stats["bytes"].sum())
    found = []
    if asked >= LEAST_ASKED and rate < settings().cache.warn_hit_rate:
        found.append(
            f"Only {100 * rate:.0f} % of {asked:,} requests were answered from the cache "
            f"(cache.warn_hit_rate is {100 * settings().cache.warn_hit_rate:.0f} %)."
        )
    if held > limit:
        found.append(
            f"The cache holds {held / 1e6:,.1f} MB; cache.size_mb is {limit / 1e6:,.0f}. Try: btclab cache optimise"
        )
    return found


def export_stats(form: str = "json") -> str:
    """The statistics as "json" or as "prometheus" text (exposition format 0.0.4)."""
    stats = cache_stats()
    if form == "json":
        sources = json.loads(stats.to_json(orient="index"))
        return json.dumps(
            {"sources": sources, "warnings": cache_warnings(stats), "limit_bytes": int(settings().cache.size_mb * 1e6)},
            indent=2,
        )
    if form != "prometheus":
        raise unknown("format", form, ("json", "prometheus"))
    meaning = {
        "entries": ("gauge", "Answers held."),
        "bytes": ("gauge", "Bytes held."),
        "hits": ("counter", "Requests answered from the cache."),
        "misses": ("counter", "Requests that a source was asked for."),
        "stale": ("counter", "Old answers given because a source failed."),
        "oldest_s": ("gauge", "Age of the oldest answer in seconds."),
    }
    lines = []
    for column, (kind, help_text) in meaning.items():
        name = f"btclab_cache_{column.replace('oldest_s', 'oldest_seconds')}{'_total' if kind == 'counter' else ''}"
        lines += [f"# HELP {name} {help_text}", f"# TYPE {name} {kind}"]
        for source, value in stats[column].dropna().items():
            escaped = str(source).replace("\\", "\\\\").replace('"', '\\"')
            lines.append(f'{name}{{source="{escaped}"}} {value:.10g}')
    return "\n".join(lines) + "\n"


def clear_cache(source: str | None = None) -> int:
    """Remove the answers of `source`, or all of them and the counts; returns how many went."""
    _recent.clear()
    if not folder().is_dir():
        return 0
    try:
        store = _open()
        if source is not None:
            return int(store.evict(source))
        gone = len(store)
        store.clear()
    except (sqlite3.DatabaseError, OSError, StorageError):
        gone = -1
    if source is None:
        _opened.cache_clear()
        with _counting:
            _counts.clear()
        for path in sorted(folder().rglob("*"), reverse=True):
            with suppress(OSError):
                path.rmdir() if path.is_dir() else path.unlink()
    return max(gone, 0)


def optimise_cache() -> dict[str, int]:
    """Drop what has expired or does not fit, give the space back to the disk; returns how many `expired` and `culled`."""
    if not folder().is_dir():
        return {"expired": 0, "culled": 0}
    gone = {"expired": 0, "culled": 0}
    try:
        store = _open()
        gone = {"expired": int(store.expire()), "culled": int(store.cull())}
        store.check(fix=True)  # entries whose file is lost; also runs SQLite's VACUUM
    except (diskcache.Timeout, OSError, sqlite3.OperationalError):
        return gone  # in use: the next time will do
    except sqlite3.DatabaseError as error:
        _set_aside(error)
        return gone
    for path in (folder() / "locks").glob("*.lock"):
        with suppress(OSError):  # another clean-up was first
            if time.time() - path.stat().st_mtime > PATIENCE_S:
                path.unlink()
    (folder() / "optimised").touch()
    return gone


def maintenance_due() -> bool:
    """Whether the last clean-up is longer ago than `cache.maintenance_h` of the settings."""
    hours = settings().cache.maintenance_h
    marker = folder() / "optimised"
    if not hours or not folder().is_dir():
        return False
    return not marker.exists() or time.time() - marker.stat().st_mtime > hours * 3600
