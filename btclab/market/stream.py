"""The WebSocket side of an exchange: a ccxt.pro client that can be pointed elsewhere, fails in the open and closes for good."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from btclab.errors import DataUnavailable
from btclab.market.exchange import _reason, _rebased
from btclab.settings import settings

POLITE_S = 0.5  # how long a server may take to say good-bye
# What ccxt's parsers raise on a message that is not what they expect.
UNREADABLE = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError)


def connection(source: str) -> Any:
    """A new ccxt.pro client of `source`; nothing that a broken connection said or held lives on in it."""
    import ccxt.pro

    timeout = int(settings().market.timeout_s * 1000)
    client = getattr(ccxt.pro, source, None) or getattr(ccxt.async_support, source)
    made: Any = client({"enableRateLimit": True, "timeout": timeout})
    made.newUpdates = False  # with it, ccxt hides a late update of an older bar
    made.options["ws"] = {**made.options.get("ws", {}), "connectionTimeout": max(1000, timeout)}
    if source == "binance":
        made.options["fetchMarkets"] = {"types": ["spot"]}
    base = settings().market.exchange_urls.get(source)
    if base:
        made.urls["api"] = addresses(made.urls["api"], base)
    return _guarded(made)


async def answer(ask: Callable[..., Awaitable[Any]], *arguments: object) -> Any:
    """What a coroutine of ccxt gives. Raises `DataUnavailable` when it cannot, with the reason."""
    import ccxt

    try:
        return await ask(*arguments)
    except (ccxt.BaseError, OSError, *UNREADABLE) as error:
        raise DataUnavailable(_reason(error)) from error
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise DataUnavailable("the connection was closed") from None  # ccxt cancels what waits for it


def addresses(urls: Any, base: str) -> Any:
    """ccxt's (nested) REST and WebSocket addresses at `base`: where one was ws or wss, http becomes ws and https wss."""
    if isinstance(urls, dict):
        return {key: addresses(value, base) for key, value in urls.items()}
    moved: str = _rebased(urls, base)
    return "ws" + moved.removeprefix("http") if urls.startswith("ws") else moved


def watches(client: Any, ticks: bool) -> dict[str, str]:
    """What of this exchange can be watched, by its name in `client.has`, and ccxt's method for it."""
    methods = {"watchOHLCV": "watch_ohlcv", "watchTicker": "watch_ticker", "watchTrades": "watch_trades"}
    able = {kind: method for kind, method in methods.items() if client.has.get(kind) is True}
    if not ticks or "watchTicker" in able:
        able.pop("watchTrades", None)
    if not ticks:
        able.pop("watchTicker", None)
    return able


def _guarded(client: Any) -> Any:
    """`client`, but once a connection of it is broken it does not watch any more.

    Left alone, ccxt connects again unseen, and what was missed meanwhile would look like a bar's last word; and its
    receive loop dies unseen of a message that it cannot read.
    """
    import ccxt

    connect, on_error, on_close = client.client, client.on_error, client.on_close
    broken: list[str] = []

    def failed(socket: Any, error: object) -> None:
        broken.append(str(error))
        on_error(socket, error)

    def closed(socket: Any, code: object) -> None:
        broken.append(f"Connection closed by remote server, closing code {code}")
        on_close(socket, code)

    def connection(url: str) -> Any:
        if broken:
            raise ccxt.NetworkError(broken[0])
        made = connect(url)
        if "handle_message" not in vars(made):
            read = made.handle_message

            def handle(message: Any) -> None:
                try:
                    read(message)
                except (*UNREADABLE, ccxt.BaseError) as error:
                    made.on_error(ccxt.NetworkError(f"cannot be read ({error}): {str(message.data)[:60]!r}"))

            made.handle_message = handle
        return made

    client.client, client.on_error, client.on_close = connection, failed, closed
    return client


async def hang_up(client: Any) -> None:
    """Closes all connections of `client`, politely if the server answers in time."""
    with suppress(TimeoutError):
        async with asyncio.timeout(POLITE_S):  # wait_for may swallow a cancellation
            await client.close()
    if client.session is not None:
        await client.session.close()
        client.session = None
        await client.close_connector()
