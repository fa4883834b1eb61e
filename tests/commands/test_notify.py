"""`btclab notify`: try the channels, see what is told, see what waits."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from btclab.operations.notify import Notifier

SECRET = "ZXcv-T0ken_9876543210"


class Post(BaseHTTPRequestHandler):
    """Answers 204, or 404 to a path that says so."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(404 if "gone" in self.path else 204)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Silent."""


@pytest.fixture
def port() -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Post)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server.server_port
    server.shutdown()
    server.server_close()
    thread.join(10)


@pytest.fixture
def dotenv(home: Path, port: int) -> Any:
    """Writes .env: a channel a name, at that path of the server."""

    def write(**paths: str) -> None:
        lines = [
            f"BTCLAB_NOTIFICATIONS__SECRET_URLS__{name.upper()}=json://127.0.0.1:{port}/{path}-{SECRET}"
            for name, path in paths.items()
        ]
        (home / ".env").write_text("\n".join(lines))

    return write


def test_test_says_what_to_write_where_when_nothing_is_configured(call, home):
    code, _, err = call("notify", "test")
    assert code == 2
    assert str(home / ".env") in err
    assert "BTCLAB_NOTIFICATIONS__SECRET_URLS__DISCORD=https://discord.com/api/webhooks/<ID>/<TOKEN>" in err


def test_test_tells_each_channel_apart(call, dotenv):
    dotenv(team="well", mine="gone")
    code, out, err = call("notify", "test")
    assert code == 1
    assert "team (JSON): delivered" in out
    assert "mine (JSON): failed answered 404; there is no such address (any more)" in out
    assert SECRET not in out + err


def test_test_of_one_channel(call, dotenv):
    dotenv(team="well", mine="gone")
    code, out, _ = call("notify", "test", "--channel", "team")
    assert code == 0
    assert "mine" not in out


def test_test_of_an_unknown_channel_names_the_known(call, dotenv):
    dotenv(team="well")
    code, _, err = call("notify", "test", "--channel", "taem")
    assert code == 2
    assert "Unknown channel: 'taem'. Did you mean 'team'?" in err


def test_list_shows_channels_and_kinds(call, dotenv, monkeypatch):
    dotenv(team="well")
    monkeypatch.setenv("BTCLAB_NOTIFICATIONS__OFF", '["order"]')
    monkeypatch.setenv("BTCLAB_NOTIFICATIONS__CHANNELS", '{"fill": ["team"]}')
    monkeypatch.setenv("BTCLAB_NOTIFICATIONS__QUIET_HOURS", "22:00-07:00")
    code, out, _ = call("notify", "list")
    assert code == 0
    rows = {line.split()[1]: line for line in out.splitlines() if "│" in line}
    assert "not used yet" in rows["team"]
    assert " no " in rows["order"]
    assert " team " in rows["fill"]
    assert "5 min" in rows["price_move"] and "everywhere" in rows["price_move"]
    assert "22:00-07:00 (UTC)" in out
    assert SECRET not in out


def test_list_without_channels_says_how_to_get_one(call):
    code, out, _ = call("notify", "list")
    assert code == 0
    assert "No channel is configured." in out


def test_list_refuses_rules_that_name_what_does_not_exist(call, monkeypatch):
    monkeypatch.setenv("BTCLAB_NOTIFICATIONS__OFF", '["fils"]')
    code, _, err = call("notify", "list")
    assert code == 2
    assert "Did you mean 'fill'?" in err


def test_queue_of_nothing_makes_no_file(call, home):
    assert call("notify", "queue")[:2] == (0, "No message waits.\n")
    assert call("notify", "queue", "--clear")[:2] == (0, "0 messages given up.\n")
    assert not (home / "data" / "notifications").exists()


def test_queue_shows_what_waits_and_why_and_clears_it(call, dotenv):
    dotenv(mine="gone")
    notifier = Notifier.from_settings(threaded=False)
    notifier.send("error", where="paper run", error="[bold] no such column")
    notifier.work()
    code, out, _ = call("notify", "queue")
    assert code == 0
    assert "Error in paper run: [bold] no such column" in out
    assert "mine: failed 1×: answered 404" in out
    assert SECRET not in out
    assert call("notify", "queue", "--clear")[:2] == (0, "1 messages given up.\n")
    assert call("notify", "queue")[:2] == (0, "No message waits.\n")
