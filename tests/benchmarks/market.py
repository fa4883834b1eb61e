"""Market data: fetching, storing, reading, validating and caching, against the plain way of doing each."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pandas as pd

import btclab as bl
from btclab.market import cache, fetch
from btclab.market.exchange import ExchangeSource
from btclab.market.remote import get_json
from btclab.market.store import read_candles, save_candles

Row = tuple[str, str, str, str]
MINUTES = pd.date_range("2017-01-01", "2025-01-01", freq="min", inclusive="left", tz="UTC", name="timestamp")
SERVER = """
import sys, time
import pandas as pd
from tests.market.replay import serving
with serving(pd.read_parquet(sys.argv[1])) as replay:
    print(replay.url, flush=True)
    sys.stdin.read()
"""


@contextmanager
def replaying(candles: pd.DataFrame, home: str) -> Iterator[str]:
    """A replay exchange in a process of its own; its address, which the settings name for Binance in the block."""
    path = Path(home) / "served.parquet"
    bars = candles.copy()
    bars.attrs = {}
    bars.to_parquet(path)
    words = [sys.executable, "-c", SERVER, str(path)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stdin
        url = process.stdout.readline().strip()
        try:
            with patch.dict(os.environ, {"BTCLAB_MARKET__EXCHANGE_URLS": json.dumps({"binance": url})}):
                yield url
        finally:
            process.stdin.close()
            process.wait(20)


@contextmanager
def new_home() -> Iterator[str]:
    """A BTCLAB_HOME for the block."""
    with tempfile.TemporaryDirectory() as home, patch.dict(os.environ, {"BTCLAB_HOME": home}):
        yield home
        cache._opened.cache_clear()


def unlimited(name: str) -> ExchangeSource:
    """A client without the exchange's rate limit, so that only work is measured; `asking` counts its seconds in ccxt."""
    source = ExchangeSource(name)
    client = source._client
    client.enableRateLimit = False
    client.fetch_ohlcv = timed(client.fetch_ohlcv)
    return source


def limited(name: str) -> ExchangeSource:
    """A client as users have it, whose seconds in ccxt are counted."""
    source = ExchangeSource(name)
    source._client.fetch_ohlcv = timed(source._client.fetch_ohlcv)
    return source


asking = [0.0]


def timed(ask: Callable[..., object]) -> Callable[..., object]:
    """`ask`, its seconds added to `asking`."""

    def asked(*words: object) -> object:
        begun = time.perf_counter()
        try:
            return ask(*words)
        finally:
            asking[0] += time.perf_counter() - begun

    return asked


def took(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def fetching(candles: pd.DataFrame) -> list[Row]:
    """A first fetch against ccxt's own loop over the same pages, and one that finds nothing new."""
    end = candles.index[-1] + pd.Timedelta("1h")

    def bare(source: ExchangeSource) -> None:
        source._client.load_markets()
        for since in range(int(candles.index[0].timestamp() * 1000), int(end.timestamp() * 1000), 1000 * 3_600_000):
            source._client.fetch_ohlcv("BTC/USDT", "1h", since, 1000)

    with new_home() as home, replaying(candles, home), patch.object(fetch, "source_of", unlimited):
        pairs = []
        for i in range(3):
            rival = took(lambda: bare(unlimited("binance")))
            asking[0] = 0.0
            with patch.dict(os.environ, {"BTCLAB_HOME": f"{home}/{i}"}):
                own = took(lambda: fetch.update_candles("binance", "1h", candles.index[0], end))
            pairs.append((own, rival, own - asking[0]))
        own, rival, ours = sorted(pairs, key=lambda pair: pair[2])[1]
        with patch.dict(os.environ, {"BTCLAB_HOME": f"{home}/0"}):
            again = took(lambda: fetch.update_candles("binance", "1h", candles.index[0], end))
    with new_home() as home, replaying(candles, home):
        save_candles(candles.iloc[:-1], "binance", "BTC/USDT", "1h")
        newest = took(lambda: fetch.update_candles("binance", "1h", candles.index[0], end))
        asking[0] = 0.0
        with patch.dict(os.environ, {"BTCLAB_HOME": f"{home}/limited"}), patch.object(fetch, "source_of", limited):
            slow = took(lambda: fetch.update_candles("binance", "1h", candles.index[0], end))
        waiting = asking[0]
    return [
        (
            f"fetch of {len(candles):,} hours",
            f"{own:.2f} s",
            f"{rival:.2f} s: ccxt's loop alone",
            f"{100 * ours / own:.0f} % ours",
        ),
        (
            "… with the exchange's rate limit",
            f"{slow:.2f} s",
            f"{waiting:.2f} s in ccxt",
            f"{100 * (1 - waiting / slow):.0f} % ours",
        ),
        ("fetch, all stored", f"{again:.3f} s", "no page", "–"),
        ("fetch, one bar new", f"{newest:.3f} s", "1 page, and the market once a day", "–"),
    ]


PEAK = r"""
import re, sys
import ccxt, pandas, pyarrow.parquet
from btclab.market import fetch
if sys.argv[1] != sys.argv[2]:
    fetch.update_candles("binance", "1h", sys.argv[1], sys.argv[2])
print(int(re.search(r"VmHWM:\s+(\d+)", open("/proc/self/status").read())[1]) / 1e3)
"""


def memory(candles: pd.DataFrame) -> list[Row]:
    """The largest memory of a process that fetches an eighth, and of one that fetches all."""
    peaks = []
    with new_home() as home, replaying(candles, home):
        for part in (len(candles) // 8, len(candles) - 1):
            words = [sys.executable, "-c", PEAK, str(candles.index[0]), str(candles.index[part])]
            with tempfile.TemporaryDirectory() as own:
                environment = {**os.environ, "BTCLAB_HOME": own}
                done = subprocess.run(words, check=True, capture_output=True, text=True, env=environment)
            peaks.append(float(done.stdout))
    small, whole = peaks
    return [("memory of a fetch", f"{whole:.0f} MB", f"{small:.0f} MB: an eighth of it", f"{whole / small:.2f} ×")]


READ = r"""
import re, time
from btclab.market.store import read_candles
def peak():  # of this process; ru_maxrss also counts the one that started it
    return int(re.search(r"VmHWM:\s+(\d+)", open("/proc/self/status").read())[1])
read_candles("other", "BTC/USDT", "1m")
before = peak()
times = []
for _ in range(3):
    bars = None
    begun = time.perf_counter()
    bars = read_candles("made", "BTC/USDT", "1m", "2021-01-01", "2022-01-01")
    times.append(time.perf_counter() - begun)
assert len(bars) == 525_600
print(sorted(times)[1], (peak() - before) / 1e3)
"""


def minutes() -> list[Row]:
    """Eight years of minutes: reading one of them, validating all, appending a page."""
    rng = np.random.default_rng(0)
    close = 30_000 * np.exp(np.cumsum(rng.normal(0, 5e-4, len(MINUTES))))
    open_ = np.concatenate([[30_000.0], close[:-1]])
    high, low = np.maximum(open_, close) * 1.0002, np.minimum(open_, close) * 0.9998
    columns = {"open": open_, "high": high, "low": low, "close": close, "volume": rng.gamma(2, 5, len(MINUTES))}
    bars = pd.DataFrame(columns, index=MINUTES)
    with new_home() as home:
        save_candles(bars, "made", "BTC/USDT", "1m")
        save_candles(bars.iloc[:10], "other", "BTC/USDT", "1m")  # pays for the imports
        bars.to_parquet(f"{home}/one.parquet")
        done = subprocess.run([sys.executable, "-c", READ], check=True, capture_output=True, text=True)
        own, grown = map(float, done.stdout.split())
        rival = took(lambda: pd.read_parquet(f"{home}/one.parquet").loc["2021"])
        append = took(lambda: save_candles(bars.iloc[-1000:], "made", "BTC/USDT", "1m"))
        whole = took(lambda: read_candles("made", "BTC/USDT", "1m"))
    checked = sorted(took(lambda: bl.validate_candles(bars, "1m")) for _ in range(3))[1]
    plain = sorted(took(bars.describe) for _ in range(3))[1]
    return [
        (
            "read one year of 8 years of 1m",
            f"{1000 * own:.0f} ms",
            f"{1000 * rival:.0f} ms: read all, cut",
            f"1/{rival / own:.0f}",
        ),
        ("… memory that took", f"{grown:.0f} MB", f"{len(bars):,} rows stored", "–"),
        ("read all of them", f"{whole:.2f} s", "–", "–"),
        ("append a page of 1,000 minutes", f"{1000 * append:.0f} ms", "rewrites its year", "–"),
        (
            f"validate {len(bars):,} rows",
            f"{checked:.2f} s",
            f"{plain:.2f} s: DataFrame.describe",
            f"{checked / plain:.2f} ×",
        ),
    ]


def caching(candles: pd.DataFrame) -> list[Row]:
    """A hit against the request to a server on this machine that it saves: one page of 500 candles."""
    with new_home() as home, replaying(candles, home) as url:
        query = {"symbol": "BTCUSDT", "interval": "1h", "limit": "500", "startTime": "0"}

        def hit() -> object:
            return get_json("bench", f"{url}/api/v3/klines", query, kind="history")

        def request(number: int) -> object:
            return get_json("bench", f"{url}/api/v3/klines", {**query, "startTime": str(number)}, kind="history")

        hit()
        hits = sorted(took(hit) for _ in range(300))[150]
        requests = sorted(took(lambda number=i: request(number)) for i in range(1, 60))[30]
    return [
        (
            "cache hit",
            f"{1000 * hits:.3f} ms",
            f"{1000 * requests:.1f} ms: loopback request",
            f"1/{requests / hits:.0f}",
        )
    ]


def main(candles: pd.DataFrame) -> list[Row]:
    """All rows of the market data."""
    return fetching(candles) + memory(candles) + minutes() + caching(candles)
