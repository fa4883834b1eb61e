"""A server on this machine that answers as the sources of context do, and misbehaves when told to.

The answers have the shapes of `../shared/responses/shape_only`, and where none is recorded there, of the source's own
documentation. The values are invented; `Sources.values` can be set by a test.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import numpy as np
import pandas as pd

from tests.market.replay import MARKETS

TODAY = pd.Timestamp.now("UTC").floor("D")
DAYS = 60  # of history that every source has
PERPETUAL = {
    **MARKETS["symbols"][0],
    "pair": "BTCUSDT",
    "contractType": "PERPETUAL",
    "deliveryDate": 4133404800000,
    "onboardDate": 1569398400000,
    "marginAsset": "USDT",
    "pricePrecision": 2,
    "quantityPrecision": 3,
}
BYBIT = {
    "symbol": "BTCUSDT",
    "contractType": "LinearPerpetual",
    "status": "Trading",
    "baseCoin": "BTC",
    "quoteCoin": "USDT",
    "settleCoin": "USDT",
    "launchTime": "1585526400000",
    "deliveryTime": "0",
    "priceScale": "2",
    "fundingInterval": 480,
    "leverageFilter": {"minLeverage": "1", "maxLeverage": "100.00", "leverageStep": "0.01"},
    "priceFilter": {"minPrice": "0.50", "maxPrice": "999999.00", "tickSize": "0.50"},
    "lotSizeFilter": {"maxOrderQty": "100.000", "minOrderQty": "0.001", "qtyStep": "0.001"},
}
OKX = {
    "instType": "SWAP",
    "instId": "BTC-USDT-SWAP",
    "uly": "BTC-USDT",
    "baseCcy": "",
    "quoteCcy": "",
    "settleCcy": "USDT",
    "ctVal": "0.01",
    "ctMult": "1",
    "ctValCcy": "BTC",
    "ctType": "linear",
    "state": "live",
    "tickSz": "0.1",
    "lotSz": "1",
    "minSz": "1",
    "lever": "100",
    "expTime": "",
    "listTime": "1573557408000",
}
JSON_MOODS: dict[Any, Any] = {"null": None, "sentence": "We will be back soon.", "list": [1], "object": {"a": 1}}
REFUSALS = (429, 451, 500)


def walk(code: str, days: int = DAYS, every: str = "1D") -> pd.Series:
    """Invented values of one series, the same for the same name: the last is stamped with the running day."""
    steps = days * (pd.Timedelta("1D") // pd.Timedelta(every))
    stamps = pd.date_range(end=TODAY, periods=steps, freq=every)
    rng = np.random.default_rng(sum(map(ord, code)))
    return pd.Series(50 + rng.uniform(-20, 20, steps).round(2), index=stamps)


class Sources:
    """What the server serves, how it behaves (`mood`, with requests that contain `only` in their path), what it was asked.

    `mood` is None (well), a status of `REFUSALS`, a key of `JSON_MOODS`, or "html", "cut", "closed", "silent" (an answer
    that does not end), "empty", "short" (a row lacks its value), "words", "negative", "infinite", "twice" (a stamp with two
    values), "future", "scale" (stamps in the wrong unit), "unordered", "repeated", "endless" (pages name themselves as next).
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.mood: int | str | None = None
        self.only = ""
        self.values: dict[str, pd.Series] = {}
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.page = 10_000  # the largest that CoinMetrics gives

    def of(self, code: str, every: str = "1D") -> pd.Series:
        return self.values.get(code, walk(code, every=every))

    def rows(self, values: pd.Series, mood: Any) -> list[tuple[pd.Timestamp, Any]]:
        rows: list[tuple[pd.Timestamp, Any]] = list(zip(values.index, values.tolist(), strict=True))
        middle = len(rows) // 2
        stamp, value = rows[middle] if rows else (TODAY, 0.0)
        changed = {
            "negative": (stamp, -1e9),
            "infinite": (stamp, float("inf")),
            "words": (stamp, "n/a"),
            "future": (TODAY + pd.Timedelta("300D"), value),
        }
        if mood in changed and rows:
            rows[middle] = changed[mood]
        elif mood == "empty":
            rows = []
        elif mood == "twice" and rows:
            rows.insert(middle, (stamp, value + 1))
        elif mood == "repeated":
            rows = [row for row in rows for _ in range(2)]
        elif mood == "unordered":
            rows = [rows[i] for i in np.random.default_rng(1).permutation(len(rows))]
        return rows

    def answer(self, path: str, query: dict[str, str], mood: Any) -> Any:  # noqa: PLR0911  one a source
        """The content that the source would give at `path`; None for a path that none of them has."""
        seconds, thousands = (1000, 1) if mood == "scale" else (1, 1000)

        def unix(moment: pd.Timestamp) -> int:
            return int(moment.timestamp()) * seconds

        def ms(moment: pd.Timestamp) -> int:
            return int(moment.timestamp()) * thousands

        def spoil(rows: list[dict[str, Any]], key: str) -> list[dict[str, Any]]:
            if mood == "short" and rows:
                del rows[len(rows) // 2][key]
            return rows

        if path == "/fng/":
            days = int(query["limit"]) or None
            rows = self.rows(self.of("fng"), mood)[::-1][:days]
            data = [
                {"value": str(value), "value_classification": "Neutral", "timestamp": str(unix(stamp))}
                for stamp, value in rows
            ]
            return {"name": "Fear and Greed Index", "data": spoil(data, "value"), "metadata": {"error": None}}
        if path.startswith("/charts/"):
            days = 10_000 if query["timespan"] == "all" else int(query["timespan"].removesuffix("days"))
            rows = self.rows(self.of(path.removeprefix("/charts/")).tail(days), mood)
            data = [{"x": unix(stamp), "y": value} for stamp, value in rows]
            return {"status": "ok", "name": "A chart", "unit": "1", "period": "day", "values": spoil(data, "y")}
        if path.startswith("/api/v1/mining/"):
            rows = self.rows(self.of("difficulty-adjustments")[::14], mood)[::-1]
            return [
                [unix(stamp), 800_000 + i, value, 1.01][: 2 if mood == "short" and i == 1 else 4]
                for i, (stamp, value) in enumerate(rows)
            ]
        if path == "/api/v3/coins/bitcoin/market_chart":
            rows = self.rows(self.of("market_caps").tail(int(query["days"])), mood)
            now = int((pd.Timestamp.now("UTC") - pd.Timedelta("2h")).timestamp()) * thousands + 1  # a cache on the way
            caps = [[ms(stamp), value] for stamp, value in rows] + ([[now, 1.0]] if rows else [])
            if mood == "short":
                caps[1] = caps[1][:1]
            return {"prices": caps, "market_caps": caps, "total_volumes": caps}
        if path == "/fred/series/observations":
            values = self.of(query["series_id"])
            values = values[values.index.dayofweek < 5]
            rows = self.rows(values[values.index >= pd.Timestamp(query["observation_start"], tz="UTC")], mood)
            data = [{"realtime_start": "2026-01-01", "realtime_end": "9999-12-31"} for _ in rows]
            for i, (row, (stamp, value)) in enumerate(zip(data, rows, strict=True)):
                row |= {"date": f"{stamp:%Y-%m-%d}", "value": "." if i == 3 and not mood else str(value)}
            return {"count": len(data), "offset": 0, "limit": 100000, "observations": spoil(data, "value")}
        if path == "/v4/timeseries/asset-metrics":
            code = query["metrics"]
            values = self.of(code)
            rows = self.rows(values[values.index >= pd.Timestamp(query["start_time"], tz="UTC")], mood)
            offset = int(query.get("next_page_token", 0))
            data = [
                {"asset": "btc", "time": f"{stamp:%Y-%m-%dT%H:%M:%S}.000000000Z", code: str(value)}
                for stamp, value in rows[offset : offset + self.page]
            ]
            content: dict[str, Any] = {"data": spoil(data, code)}
            if offset + self.page < len(rows) or mood == "endless":
                content["next_page_token"] = str(0 if mood == "endless" and offset else offset + self.page)
                content["next_page_url"] = "https://community-api.coinmetrics.io/v4/elsewhere"
                if mood == "endless":
                    content["next_page_token"] = str(self.page)
            return content
        return self.exchange(path, query, mood)

    def exchange(self, path: str, query: dict[str, str], mood: Any) -> Any:  # noqa: PLR0911  one a path
        """Binance (spot and perpetuals), Bybit and OKX."""
        if path == "/fapi/v1/exchangeInfo":
            return {**MARKETS, "symbols": [PERPETUAL]}
        if path == "/api/v3/exchangeInfo":
            return {"symbols": [{**MARKETS["symbols"][0], "symbol": "PAXGUSDT", "baseAsset": "PAXG"}]}
        if path == "/api/v5/public/instruments":
            return {"code": "0", "msg": "", "data": [OKX]}
        if path == "/api/v5/public/funding-rate-history":
            rates = self.values.get("funding", walk("funding", every="8h") / 1e6)
            rows = self.rows(rates[rates.index.as_unit("ms").asi8 > int(query["before"])], mood)[::-1]
            data = [
                {
                    "instType": "SWAP",
                    "instId": "BTC-USDT-SWAP",
                    "fundingRate": "0.09",
                    "realizedRate": str(value),
                    "fundingTime": str(int(stamp.timestamp() * 1000)),
                }
                for stamp, value in rows[: int(query["limit"])]
            ]
            return {"code": "0", "msg": "", "data": data}
        if path == "/api/v5/rubik/stat/contracts/open-interest-history":
            held = self.of("interest")
            stamps = held.index.as_unit("ms").asi8
            rows = self.rows(held[(stamps > int(query["begin"])) & (stamps < int(query["end"]))], mood)[::-1]
            data = [[str(int(stamp.timestamp() * 1000)), "100", str(value), "1"] for stamp, value in rows]
            return {"code": "0", "msg": "", "data": data}
        if path == "/v5/market/instruments-info":
            return {"retCode": 0, "retMsg": "OK", "result": {"category": "linear", "list": [BYBIT]}, "time": 1}

        def within(values: pd.Series) -> list[tuple[int, Any]]:
            first, last = int(query["startTime"]), int(query.get("endTime", 1e15))
            stamps = values.index.as_unit("ms").asi8
            rows = self.rows(values[(stamps >= first) & (stamps <= last)], mood)
            return [(int(stamp.timestamp() * 1000), value) for stamp, value in rows]

        rate = self.values.get("funding", walk("funding", every="8h") / 1e6)
        if path == "/fapi/v1/fundingRate":
            rows = within(rate)[: int(query["limit"])]
            return [{"symbol": "BTCUSDT", "fundingRate": str(v), "fundingTime": at} for at, v in rows]
        if path == "/v5/market/funding/history":
            rows = within(rate)[-int(query["limit"]) :][::-1]
            listed = [{"symbol": "BTCUSDT", "fundingRate": str(v), "fundingRateTimestamp": str(at)} for at, v in rows]
            return {"retCode": 0, "retMsg": "OK", "result": {"category": "linear", "list": listed}, "time": 1}
        if path == "/v5/market/open-interest":
            rows = within(self.of("interest"))[-int(query["limit"]) :][::-1]
            listed = [{"openInterest": str(v), "timestamp": str(at)} for at, v in rows]
            return {
                "retCode": 0,
                "retMsg": "OK",
                "result": {"symbol": "BTCUSDT", "category": "linear", "list": listed, "nextPageCursor": ""},
                "time": 1,
            }
        if path == "/futures/data/openInterestHist":
            rows = within(self.of("interest"))[: int(query["limit"])]
            return [
                {"symbol": "BTCUSDT", "sumOpenInterest": str(v), "sumOpenInterestValue": "1", "timestamp": at}
                for at, v in rows
            ]
        if path == "/api/v3/klines":
            day = 86_399_999
            return [
                [at, str(v), str(v + 1), str(v - 1), str(v), "1", at + day, "1", 1, "1", "1", "0"]
                for at, v in within(self.of("paxg"))
            ]
        return None


class _Handler(BaseHTTPRequestHandler):
    sources: Sources

    def do_GET(self) -> None:
        address, sources = urlsplit(self.path), self.sources
        query = dict(parse_qsl(address.query))
        sources.asked.append((address.path, query))
        mood = sources.mood if sources.only in address.path else None
        if mood in REFUSALS:
            return self._send(int(mood), json.dumps({"error": "no"}))
        if mood == "html":
            return self._send(200, "<html><body>Please log in to this network.</body></html>")
        if mood == "closed":
            return None
        content = JSON_MOODS[mood] if mood in JSON_MOODS else sources.answer(address.path, query, mood)
        if content is None and mood not in JSON_MOODS:
            return self._send(404, "{}")
        return self._send(200, json.dumps(content), mood)

    def _send(self, status: int, text: str, mood: Any = None) -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if mood == "silent":
            self.wfile.write(body[:10])
            self.wfile.flush()
            threading.Event().wait(1.5)
            return
        self.wfile.write(body[: len(body) // 2] if mood == "cut" else body)

    def log_message(self, *_: object) -> None:
        """Silent: the tests read `Sources.asked`."""


@contextmanager
def serving() -> Iterator[Sources]:
    """The sources of context for the length of the block."""
    handler = type("Handler", (_Handler,), {})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    sources = handler.sources = Sources(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield sources
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
