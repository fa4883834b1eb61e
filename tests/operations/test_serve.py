"""The dashboard's server: who is let in, what is served, and that it ends with everything that it started."""

from __future__ import annotations

import asyncio
import http.client
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlencode

import psutil
import pytest

from btclab.errors import InputError
from btclab.operations import serve
from btclab.operations.serve import serve_dashboard

pytestmark = pytest.mark.timeout(120)


@dataclass(frozen=True)
class Server:
    """A dashboard in a process of its own, and what it printed."""

    process: subprocess.Popen[str]
    port: int
    password: str | None
    said: str

    def kernels(self) -> list[psutil.Process]:
        """Its kernels, oldest first."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        return sorted(
            (one for one in children if "ipykernel_launcher" in " ".join(one.cmdline())), key=psutil.Process.create_time
        )

    def ask(self, method: str, path: str, body: str | None = None, **headers: str) -> http.client.HTTPResponse:
        """One request, without following redirects; the answer is read."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        answer.text = answer.read().decode()  # type: ignore[attr-defined]
        return answer

    def log_in(self, password: str) -> http.client.HTTPResponse:
        """Send the login form."""
        cookie = self.ask("GET", "/login").getheader("Set-Cookie", "")
        token = re.search(r"_xsrf=([^;]+)", cookie)[1]  # type: ignore[index]
        form = urlencode({"_xsrf": token, "password": password})
        kind = "application/x-www-form-urlencoded"
        return self.ask("POST", "/login", form, **{"Cookie": f"_xsrf={token}", "Content-Type": kind})


@contextmanager
def running(home: Path, *options: str, **environment: str) -> Iterator[Server]:
    """`btclab dashboard --port 0` on `home`; on leaving it is ended, with its kernels."""
    process = subprocess.Popen(
        [sys.executable, "-m", "btclab.cli", "dashboard", "--port", "0", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "BTCLAB_HOME": str(home), **environment},
    )
    try:
        said = ""
        assert process.stdout
        for line in process.stdout:
            said += line
            if "Ctrl-C" in line:
                break
        port = re.search(r"http://127\.0\.0\.1:(\d+)/", said)
        assert port, said
        password = re.search(r"Password:\s+(\S+)\n", said)
        yield Server(process, int(port[1]), password[1] if password else None, said)
    finally:
        _end(process)


def _end(process: subprocess.Popen[str]) -> None:
    """Ask it to end, as a service manager would; kill it and what it started if it does not."""
    if process.poll() is None:
        children = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(5)
        for child in psutil.wait_procs(children, 5)[1]:
            child.kill()
    if process.stdout:
        process.stdout.close()


def gone(process: psutil.Process, within_s: float) -> bool:
    """Whether `process` ends within so many seconds."""
    try:
        process.wait(within_s)
    except psutil.TimeoutExpired:
        return False
    return True


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("home")) as started:
        yield started


def test_a_port_in_use_is_named_with_the_remedy() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=rf"Port {port} is in use.*--port {port + 1}, or --port 0"):
            serve_dashboard(port, None, False)


def test_an_empty_password_is_refused() -> None:
    with pytest.raises(InputError, match="empty"):
        serve_dashboard(0, " ", False)


def test_it_prints_address_password_and_how_to_stop_and_nothing_else(server: Server) -> None:
    assert server.password is not None
    assert len(server.password) >= 16
    assert len(server.said.splitlines()) == 3
    assert server.password not in " ".join(psutil.Process(server.process.pid).cmdline())


def test_without_a_login_it_redirects_to_the_form(server: Server) -> None:
    answer = server.ask("GET", "/")
    assert answer.status == 302
    assert answer.getheader("Location", "").startswith("/login")


def test_a_wrong_password_is_refused_and_the_right_one_let_in(server: Server) -> None:
    assert server.log_in("wrong").status == 401
    assert server.password
    answer = server.log_in(server.password)
    assert answer.status == 302
    assert "Set-Cookie" in str(answer.headers)


def test_the_form_speaks_of_btclab_and_loads_nothing(server: Server) -> None:
    answer = server.ask("GET", "/login")
    text = answer.text  # type: ignore[attr-defined]
    assert "btclab" in text
    assert "Jupyter" not in text
    assert "http" not in text
    assert "default-src 'self'" in answer.getheader("Content-Security-Policy", "")


@pytest.mark.parametrize("path", ["picture.png", "dashboard.ipynb", "reports/signal.ipynb", "../data/config.toml"])
def test_no_file_is_served(server: Server, path: str) -> None:
    assert server.ask("GET", f"/voila/files/{path}").status == 403


def test_another_host_name_is_refused(server: Server) -> None:
    """A page elsewhere whose name is made to point here (DNS rebinding) gets nothing."""
    assert server.ask("GET", "/login", Host="evil.example").status == 403


def test_without_a_password_it_says_so_and_ctrl_c_ends_all(home: Path) -> None:
    with running(home, "--no-password") as started:
        assert "no password" in started.said
        page = started.ask("GET", "/")
        assert page.status == 200
        assert "cdn." not in page.text  # type: ignore[attr-defined]
        kernels = started.kernels()
        assert kernels
        started.process.send_signal(signal.SIGINT)
        assert started.process.wait(20) == 0
        assert all(gone(kernel, 5) for kernel in kernels)


def test_a_password_of_ones_own_is_not_printed(home: Path) -> None:
    with running(home, BTCLAB_DASHBOARD_PASSWORD="correct horse") as started:
        assert "correct" not in started.said
        assert started.log_in("correct horse").status == 302
        for kernel in started.kernels():
            assert "BTCLAB_DASHBOARD_PASSWORD" not in kernel.environ()


def test_a_kernel_without_a_page_is_ended_however_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = serve._Kernels(cull_idle_timeout=60, connection_dir="unused")
    ended: list[str] = []
    clock = iter(range(0, 1000, 40))

    async def shut_down(kernel_id: str, now: bool) -> None:
        ended.append(kernel_id)

    monkeypatch.setattr(kernels, "shutdown_kernel", shut_down)
    monkeypatch.setattr(serve, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    kernels._kernel_connections = {"watched": 1, "lonely": 0}
    for _ in range(2):
        for kernel_id in ("watched", "lonely"):
            asyncio.run(kernels.cull_kernel_if_idle(kernel_id))
    assert ended == ["lonely"]
