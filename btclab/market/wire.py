"""How a request goes out: with a time limit that holds, to another address if the settings say so, and telling no login."""

from __future__ import annotations

import re
import socket
import threading
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import requests
from requests.adapters import HTTPAdapter


def rebased(url: str, base: str) -> str:
    """`url` with scheme and host replaced by those of `base`, whose path goes before its own."""
    own, new = urlsplit(url), urlsplit(base)
    return urlunsplit((new.scheme, new.netloc, new.path.rstrip("/") + own.path, own.query, own.fragment))


def without_login(text: str) -> str:
    """`text` without the user and password that an address in it may hold."""
    return re.sub(r"//[^/@\s]+@", "//", text)


def root_cause(error: BaseException) -> BaseException:
    """The cause below all others."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__ or error
    return error


class TooLong(Exception):
    """An answer longer than was allowed."""


def _take(answer: requests.Response, most: int) -> None:
    """Read the body of a streamed answer into its `content`."""
    body = bytearray()
    for piece in answer.iter_content(65_536):
        body += piece
        if len(body) > most:
            answer.close()
            raise TooLong
    answer._content = bytes(body)
    answer._content_consumed = True  # type: ignore[attr-defined]


class TimedSession(requests.Session):
    """A session whose timeout bounds the whole answer (requests bounds each read): what takes longer is cut off."""

    def __init__(self) -> None:
        super().__init__()
        self.trust_env = False  # as ccxt's own
        self.answer: requests.Response | None = None
        self._adapter = _Adapter()
        self.mount("https://", self._adapter)
        self.mount("http://", self._adapter)

    def request(self, *arguments: Any, most_bytes: int | None = None, **options: Any) -> requests.Response:
        """As requests has it, with `timeout` in seconds for the whole; `TooLong` for more than `most_bytes` (streamed)."""
        late = threading.Event()

        def cut() -> None:
            late.set()
            self._adapter.shut()

        self.answer = None
        watch = threading.Timer(options["timeout"], cut)
        watch.daemon = True
        watch.start()
        try:
            self.answer = super().request(*arguments, **options)
            if most_bytes is not None:
                _take(self.answer, most_bytes)
        except requests.RequestException:
            if not late.is_set():
                raise
        finally:
            watch.cancel()
            watch.join()
        if late.is_set() or self.answer is None:
            self.answer = None
            raise requests.ReadTimeout(f"no complete answer within {options['timeout']:g} s")
        return self.answer


class _Adapter(HTTPAdapter):
    """Knows the sockets that it opened (by host), so that another thread can end an answer."""

    def __init__(self) -> None:
        self._opened: dict[str, socket.socket] = {}
        super().__init__()

    def get_connection_with_tls_context(self, *arguments: Any, **options: Any) -> Any:
        pool: Any = super().get_connection_with_tls_context(*arguments, **options)
        kind, opened = type(pool).ConnectionCls, self._opened
        if pool.ConnectionCls is kind:

            class Connection(kind):  # type: ignore[misc, valid-type]
                def connect(self) -> None:
                    super().connect()
                    opened[self.host] = self.sock

            pool.ConnectionCls = Connection
        return pool

    def shut(self) -> None:
        for opened in list(self._opened.values()):
            with suppress(OSError):  # closed already
                socket.socket.shutdown(opened, socket.SHUT_RDWR)  # not TLS's: a read is under way
