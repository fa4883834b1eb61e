"""A server on this machine that answers as Binance spot does, from a frame of candles, and misbehaves when told to.

The answers have the shape of `../shared/responses/verified/binance_spot_klines_1m.json`; ccxt takes them for Binance
once `BTCLAB_MARKET__EXCHANGE_URLS` names this server.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pandas as pd

STEPS = {"1m": "1min", "1h": "1h", "4h": "4h", "1d": "1D"}
MARKETS = {
    "timezone": "UTC",
    "symbols": [
        {
            "symbol": "BTCUSDT",
            "status": "TRADING",
            "baseAsset": "BTC",
            "baseAssetPrecision": 8,
            "quoteAsset": "USDT",
            "quotePrecision": 8,
            "isSpotTradingAllowed": True,
            "filters": [
                {"filterType": "PRICE_FILTER", "minPrice": "0.01", "maxPrice": "1000000.00", "tickSize": "0.01"},
                {"filterType": "LOT_SIZE", "minQty": "0.00001", "maxQty": "9000.00", "stepSize": "0.00001"},
            ],
            "permissions": ["SPOT"],
        }
    ],
}
REFUSALS = {
    429: {"code": -1003, "msg": "Too much request weight used; current limit is 6000 request weight per 1 MINUTE."},
    451: {"code": 0, "msg": "Service unavailable from a restricted location."},
    500: {"code": -1000, "msg": "An unknown error occurred while processing the request."},
}
ODD: dict[int | str | None, Any] = {"nothing": None, "sentence": "We will be back soon."}


class Replay:
    """What the server serves (`candles`), how it behaves (`mood`, once `patience` pages were answered well), what it was asked.

    `mood` is None (well), a status of `REFUSALS`, or "html", "closed", "cut", "empty", "unordered", "corrected" (each bar
    twice, the first one wrong), "dip" (one bar's low above its high), "words" (a price is no number), "short" (rows without
    volume), "nothing" or "sentence" (JSON, but neither object nor list).
    """

    def __init__(self, candles: pd.DataFrame, url: str) -> None:
        self.candles, self.url = candles, url
        self.mood: int | str | None = None
        self.patience = 0
        self.asked: list[dict[str, str]] = []  # the query of each request for klines
        self.asked_for_markets = 0

    def page(self, query: dict[str, str]) -> list[list[Any]]:
        """The klines that Binance would give: from `startTime` to `endTime`, both inclusive, `limit` at most."""
        first = pd.to_datetime(int(query.get("startTime", 0)), unit="ms", utc=True)
        last = pd.to_datetime(int(query.get("endTime", 4_102_444_800_000)), unit="ms", utc=True)
        bars = self.candles[(self.candles.index >= first) & (self.candles.index <= last)]
        bars = bars.head(min(int(query.get("limit", 500)), 1000))
        opened = bars.index.as_unit("ms").asi8
        closed = opened + int(pd.Timedelta(STEPS[query["interval"]]).total_seconds() * 1000) - 1
        prices = bars[["open", "high", "low", "close", "volume"]].to_numpy()
        return [
            [int(a), *map(repr, map(float, row)), int(b), "0.0", 1, "0.0", "0.0", "0"]
            for a, row, b in zip(opened, prices, closed, strict=True)
        ]


def spoilt(rows: list[list[Any]], mood: int | str | None) -> list[list[Any]]:
    """`rows` as an exchange in that mood would send them."""
    ways: dict[int | str | None, Callable[[], list[list[Any]]]] = {
        "empty": list,
        "unordered": lambda: rows[::-1],
        "corrected": lambda: [row for right in rows for row in ([right[0], *["1.0"] * 4, *right[5:]], right)],
        "dip": lambda: [[*rows[0][:3], str(2 * float(rows[0][2])), *rows[0][4:]], *rows[1:]],
        "words": lambda: [[*rows[0][:4], "n/a", *rows[0][5:]], *rows[1:]],
        "short": lambda: [row[:5] for row in rows],
    }
    return ways.get(mood, lambda: rows)()


class _Handler(BaseHTTPRequestHandler):
    replay: Replay

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        query, replay = dict(parse_qsl(address.query)), self.replay
        if address.path == "/api/v3/exchangeInfo":
            replay.asked_for_markets += 1
            content: Any = MARKETS
        elif address.path == "/api/v3/klines":
            replay.asked.append(query)
            content = replay.page(query)
        else:
            content = None
        mood = replay.mood if len(replay.asked) > replay.patience or not replay.patience else None
        if mood in REFUSALS:
            return self._answer(int(mood), json.dumps(REFUSALS[mood]))
        if mood == "html":
            return self._answer(200, "<html><body>Please log in to this network.</body></html>", "text/html")
        if mood == "closed":
            return None  # the connection ends without a word
        if content is None:
            return self._answer(404, "{}")
        if mood in ODD:
            content = ODD[mood]
        elif address.path.endswith("klines"):
            content = spoilt(content, mood)
        text = json.dumps(content)
        return self._answer(200, text, cut=mood == "cut")

    def _answer(self, status: int, text: str, kind: str = "application/json", cut: bool = False) -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if cut else body)

    def log_message(self, *_: object) -> None:
        """Silent: the tests read `Replay.asked`."""


@contextmanager
def serving(candles: pd.DataFrame) -> Iterator[Replay]:
    """A server of `candles` for the length of the block."""
    handler = type("Handler", (_Handler,), {})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    replay = handler.replay = Replay(candles, f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield replay
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
