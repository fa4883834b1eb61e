"""One GET for JSON against a server that misbehaves: an answer, or a reason within a bounded time, and no secret told."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from btclab.errors import DataUnavailable
from btclab.market import cache
from btclab.market.remote import MOST_BYTES, get_json
from btclab.market.wire import rebased

CLOSED = "http://127.0.0.1:9"
SECRET = "s3cr3t-k3y"


class Server:
    """Plays `script`, an answer a request, the last one for ever: (status, body, headers), "closed", "endless" or "cut"."""

    def __init__(self) -> None:
        self.script: list[Any] = [(200, {"price": 1.5}, {})]
        self.paths: list[str] = []
        self.url = ""

    def next(self) -> Any:
        return self.script.pop(0) if len(self.script) > 1 else self.script[0]


class _Handler(BaseHTTPRequestHandler):
    server_state: Server

    def do_GET(self) -> None:
        self.server_state.paths.append(self.path)
        what = self.server_state.next()
        if what == "closed":
            return
        if what == "endless head":
            return self._trickle(b"HTTP/1.1 200 OK\r\nX-Long: ")
        status, body, headers = what if isinstance(what, tuple) else (200, {"price": 1.5}, {})
        text = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        self.send_response(status)
        length = 10**9 if what == "endless" else len(text)
        for name, value in {"Content-Length": str(length), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if what == "endless":
            self._trickle(b"")
        else:
            self.wfile.write(text[: len(text) // 2] if what == "cut" else text)

    def _trickle(self, head: bytes) -> None:
        """A byte now and then, for as long as anybody listens."""
        deadline = time.monotonic() + 20
        try:
            self.wfile.write(head)
            while time.monotonic() < deadline:
                self.wfile.write(b" ")
                self.wfile.flush()
                time.sleep(0.05)
        except OSError:
            pass

    def log_message(self, *_: object) -> None:
        """Silent."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("BTCLAB_MARKET__TIMEOUT_S", "0.5")
    state = Server()
    http = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"server_state": state}))
    http.daemon_threads = True
    state.url = f"http://127.0.0.1:{http.server_port}"
    thread = threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield state
    http.shutdown()
    http.server_close()
    thread.join(10)


def asked(server: Server, **options: Any) -> Any:
    return get_json("src", f"{server.url}/v1/x", {"b": "2", "a": "1"}, kind="daily", **options).content


def refusal(server: Server, **options: Any) -> str:
    begun = time.monotonic()
    with pytest.raises(DataUnavailable) as caught:
        asked(server, **options)
    assert time.monotonic() - begun < 6
    assert str(caught.value).startswith("src: ")
    assert cache.cache_stats()["entries"].sum() == 0, "nothing wrong is cached"
    return str(caught.value)


def test_an_answer_is_asked_for_once(server):
    assert asked(server) == asked(server) == {"price": 1.5}
    assert server.paths == ["/v1/x?b=2&a=1"]


def test_the_base_address_can_be_replaced(server):
    got = get_json("src", "https://api.example.com/v1/x", {"a": "1"}, kind="daily", base=f"{server.url}/mirror")
    assert got.content == {"price": 1.5}
    assert server.paths == ["/mirror/v1/x?a=1"]
    assert rebased("https://a.b/c?d=1", "http://127.0.0.1:9") == "http://127.0.0.1:9/c?d=1"


@pytest.mark.parametrize(
    "trouble", [(500, {}, {}), (503, "busy", {}), (429, {}, {"Retry-After": "0"}), "closed", "cut"]
)
def test_a_passing_failure_is_tried_again(server, trouble):
    server.script = [trouble, (200, {"price": 2}, {})]
    assert asked(server) == {"price": 2}
    assert len(server.paths) == 2


@pytest.mark.parametrize(
    ("trouble", "said", "times"),
    [
        ((500, {}, {}), "answered 500", 3),
        ((429, {}, {"Retry-After": "0"}), "answered 429", 3),
        ((429, {}, {"Retry-After": "3600"}), "asks to wait 3600 s", 1),
        ((418, {}, {}), "answered 418", 1),
        ((451, {}, {}), "answered 451 Unavailable For Legal Reasons", 1),
        ((403, {"error": "no"}, {}), "answered 403", 1),
        ((200, "<html>Please log in</html>", {}), "did not answer in JSON but with '<html>Please log in", 1),
        ((200, '{"price": 1', {}), "did not answer in JSON", 1),
        ((200, "", {}), "did not answer in JSON but with ''", 1),
        ("closed", "ConnectionError: RemoteDisconnected", 3),
        ("cut", "IncompleteRead", 3),
        ("endless", "not complete after 0.5 s", 3),
        ("endless head", "not complete after 0.5 s", 3),
        ((302, {}, {"Location": "/v1/x"}), "sends from one address to the next without end", 4),
        ((200, '{"price": NaN}', {}), "did not answer in JSON", 1),
        ((200, "[" * 200_000, {}), "did not answer in JSON", 1),
    ],
)
def test_a_lasting_failure_is_named_within_a_bounded_time(server, trouble, said, times):
    server.script = [trouble]
    assert said in refusal(server)
    assert len(server.paths) == times


def test_no_network_is_named():
    with pytest.raises(DataUnavailable, match=r"src: ConnectionError: Connection refused"):
        get_json("src", f"{CLOSED}/x", kind="daily")


def test_content_that_fails_the_check_is_neither_returned_nor_cached(server):
    assert refusal(server, check=lambda content: "holds no rows") == "src: holds no rows."
    assert asked(server, check=lambda content: "") == {"price": 1.5}


def test_an_answer_without_end_in_size_is_refused(server, monkeypatch):
    monkeypatch.setattr("btclab.market.remote.MOST_BYTES", 1000)
    server.script = [(200, "[" + "1," * 1000 + "1]", {})]
    assert "is longer than" in refusal(server)
    assert MOST_BYTES > 1_000_000


@pytest.mark.parametrize("trouble", [(500, {}, {}), (403, {}, {}), "closed", (200, "<html>", {}), "endless"])
def test_a_secret_is_sent_and_told_to_nobody_else(server, trouble, home, caplog):
    caplog.set_level("INFO")
    server.script = [trouble]
    assert SECRET not in refusal(server, secret={"api_key": SECRET})
    assert f"api_key={SECRET}" in server.paths[0]
    server.script = [(200, {"price": 1}, {})]
    asked(server, secret={"api_key": SECRET})
    assert SECRET not in caplog.text
    assert not [p for p in home.rglob("*") if p.is_file() and SECRET.encode() in p.read_bytes()]


def test_an_address_that_is_none_is_named():
    with pytest.raises(DataUnavailable, match=r"src: its address is none: 'http://127.0.0.1:abc/x'"):
        get_json("src", "http://joe:pw@127.0.0.1:abc/x", kind="daily")


def test_the_login_of_a_proxy_is_in_no_message_and_no_file(server, home):
    base = server.url.replace("//", "//joe:s3cret@")
    server.script = [(500, {}, {}), (500, {}, {}), (500, {}, {}), (200, {"price": 1}, {})]
    with pytest.raises(DataUnavailable) as caught:
        get_json("src", "https://api.example.com/x", kind="daily", base=base)
    get_json("src", "https://api.example.com/x", kind="daily", base=base)
    assert "s3cret" not in str(caught.value)
    assert not [p for p in home.rglob("*") if p.is_file() and b"s3cret" in p.read_bytes()]


def test_no_network_tells_no_secret():
    with pytest.raises(DataUnavailable) as caught:
        get_json("src", f"{CLOSED}/x", kind="daily", secret={"api_key": SECRET})
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None
