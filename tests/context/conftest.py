"""The sources of context, on this machine."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from btclab.context.sources import HTTP_SOURCES
from tests.conftest import CLOSED
from tests.context.serving import Sources, serving

VENUES = ("binance", "kraken", "binanceusdm", "bybit", "okx")


@pytest.fixture(autouse=True)
def nowhere(home, monkeypatch: pytest.MonkeyPatch) -> None:
    """No source can be reached unless a test serves it; no key is set."""
    monkeypatch.setenv("BTCLAB_CONTEXT__URLS", json.dumps(dict.fromkeys(HTTP_SOURCES, CLOSED)))
    monkeypatch.setenv("BTCLAB_MARKET__EXCHANGE_URLS", json.dumps(dict.fromkeys(VENUES, CLOSED)))
    monkeypatch.setenv("BTCLAB_MARKET__TIMEOUT_S", "0.5")
    monkeypatch.delenv("BTCLAB_CONTEXT__FRED_API_KEY", raising=False)


@pytest.fixture
def server(nowhere: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sources]:
    """All sources and exchanges, answered by this machine, and a key for FRED."""
    with serving() as sources:
        monkeypatch.setenv("BTCLAB_CONTEXT__URLS", json.dumps(dict.fromkeys(HTTP_SOURCES, sources.url)))
        monkeypatch.setenv("BTCLAB_MARKET__EXCHANGE_URLS", json.dumps(dict.fromkeys(VENUES, sources.url)))
        monkeypatch.setenv("BTCLAB_MARKET__TIMEOUT_S", "1")
        monkeypatch.setenv("BTCLAB_CONTEXT__FRED_API_KEY", "secret-key-0123456789")
        yield sources
