"""The dashboard's server: Voilà in this process, on 127.0.0.1, behind a password.

What it allows is less than Voilà does by default: one notebook, one template, no files, no other host in the address bar
(which stops DNS rebinding), nothing loaded from elsewhere (a content security policy), no configuration from the working
directory. Every page has a kernel of its own, which ends with the page.
"""

from __future__ import annotations

import errno
import logging
import os
import secrets
import shutil
import signal
import socket
import time
from pathlib import Path
from typing import Any

from jupyter_core.utils import run_sync
from jupyter_server.auth.security import passwd
from jupyter_server.services.kernels.kernelmanager import AsyncMappingKernelManager
from rich.console import Console
from tornado.httpserver import HTTPServer
from tornado.ioloop import IOLoop
from tornado.netutil import bind_sockets
from traitlets.config import Config
from voila.app import Voila
from voila.tornado.handler import TornadoVoilaHandler

import btclab.dashboard
from btclab.errors import InputError
from btclab.settings import settings

HOST = "127.0.0.1"
TEMPLATES = Path(btclab.dashboard.__file__).parent / "templates"
LONELY_S = 60  # a kernel without a page for so long is ended; a page loads, or comes back, sooner
WATCH_S = 5
EXTENSIONS = ["@jupyter-widgets/jupyterlab-manager", "@voila-dashboards/widgets-manager8", "anywidget"]
POLICY = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; connect-src 'self' ws: data: blob:; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'self'; object-src 'none'"
)


def serve_dashboard(port: int | None, password: str | None, no_password: bool) -> None:
    """Serve the dashboard until Ctrl-C. `port` None: that of the settings, 0: a free one; `password` None: a new one.

    Raises `InputError` if the port is taken or the password empty.
    """
    if password is not None and not password.strip():
        raise InputError("The password is empty. Give one of at least a character, or none to get a new one.")
    own = settings()
    sockets = _bind(own.dashboard.port if port is None else port)
    chosen = None if no_password else password or secrets.token_urlsafe(12)
    os.environ.pop("BTCLAB_DASHBOARD_PASSWORD", None)  # kernels inherit the environment, and need neither this
    os.environ["BTCLAB_HOME"] = str(own.home.resolve())  # nor to know where a relative home began
    os.environ["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"  # or each kernel prints hints on debuggers
    logging.getLogger("tornado.access").setLevel(logging.ERROR)

    app = _Dashboard(sockets, config=_config(own.notebooks / "dashboard.ipynb", chosen))
    app.initialize([])
    _announce(sockets[0].getsockname()[1], chosen, shown=password is None)
    app.start()


def _bind(port: int) -> list[socket.socket]:
    try:
        return bind_sockets(port, HOST)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            reason = "is in use, perhaps by another dashboard"
        elif error.errno == errno.EACCES:
            reason = "may not be used by this user"
        else:
            raise
        raise InputError(
            f"Port {port} {reason}. Choose another: btclab dashboard --port {port + 1 if port < 65_535 else 8867}, "
            "or --port 0 for any free one."
        ) from error


def _config(notebook: Path, password: str | None) -> Config:
    identity = {"hashed_password": passwd(password) if password else "", "allow_password_change": False}
    return Config(
        {
            "Voila": {
                "notebook_path": str(notebook),
                "open_browser": False,
                "log_level": "ERROR",
                "config_file_paths": [],  # a voila.py in the working directory would be executed
                "tornado_settings": {
                    "allow_remote_access": False,
                    "local_hostnames": ["localhost", HOST],
                    "ws_ping_timeout": 30_000,  # milliseconds; the default is longer than tornado allows, and it says so
                    "headers": {"Content-Security-Policy": POLICY, "Referrer-Policy": "same-origin"},
                },
            },
            "VoilaConfiguration": {
                "allow_template_override": "NO",
                "allow_theme_override": "NO",
                "extension_allowlist": EXTENSIONS,
                "file_allowlist": [],  # Voilà serves the pictures beside a notebook without a login
                "multi_kernel_manager_class": _Kernels,
                "preheat_kernel": True,  # one kernel waits with everything imported: a page opens in half the time
                "default_pool_size": 1,
                "show_tracebacks": False,
                "strip_sources": True,
            },
            "PasswordIdentityProvider": identity,
            "MappingKernelManager": {
                "root_dir": os.getcwd(),  # where kernels start
                "buffer_offline_messages": False,  # or the server hoards them for pages that never come back
                "cull_idle_timeout": LONELY_S,
                "cull_interval": WATCH_S,
            },
            "VoilaKernelManager": {"fill_delay": 10},  # seconds: the next kernel waits until this page is painted
            "KernelManager": {"transport": "ipc"},
        }
    )


def _announce(port: int, password: str | None, shown: bool) -> None:
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"Dashboard: http://{HOST}:{port}/")
    if password is None:
        console.print("[bold yellow]Warning: no password. Every user of this machine can open it.[/]")
    else:
        console.print("Password:  ", end="")
        console.print(password if shown else "the one that you gave", markup=False)
    console.print("Stop with Ctrl-C.")


class _Kernels(AsyncMappingKernelManager):  # type: ignore[misc]
    """Ends every kernel that has had no page for `cull_idle_timeout`: closed, crashed, or never connected.

    The inherited rule asks for silence too, and a kernel that keeps its page fresh is never silent.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._lonely_since: dict[str, float] = {}

    async def cull_kernel_if_idle(self, kernel_id: str) -> None:
        if self._kernel_connections.get(kernel_id, 0):
            self._lonely_since.pop(kernel_id, None)
            return
        since = self._lonely_since.setdefault(kernel_id, time.monotonic())
        if time.monotonic() - since >= self.cull_idle_timeout:
            del self._lonely_since[kernel_id]
            await self.shutdown_kernel(kernel_id, now=True)


class _Page(TornadoVoilaHandler):  # type: ignore[misc]
    """The dashboard's page, which sets the cookie that lets a closing page end its kernel, login or not."""

    async def prepare(self) -> None:
        await super().prepare()
        _ = self.xsrf_token


class _Dashboard(Voila):  # type: ignore[misc]
    """Voilà on sockets that are open already, with our templates first, that ends its kernels when it ends."""

    def __init__(self, sockets: list[socket.socket], **options: Any) -> None:
        super().__init__(**options)
        self._sockets = sockets

    def setup_template_dirs(self) -> None:
        super().setup_template_dirs()
        self.template_paths.insert(0, str(TEMPLATES))

    def init_settings(self) -> dict[str, Any]:
        made: dict[str, Any] = super().init_settings()
        made["jinja2_env"].loader.searchpath.insert(0, str(TEMPLATES))  # the login form
        return made

    def init_handlers(self) -> list[Any]:
        rules = super().init_handlers()
        return [(path, _Page if handler is TornadoVoilaHandler else handler, *more) for path, handler, *more in rules]

    def listen(self) -> None:
        server = HTTPServer(self.app)
        server.add_sockets(self._sockets)
        self.ioloop = IOLoop.current()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: self.ioloop.add_callback_from_signal(self.ioloop.stop))
        try:
            self.ioloop.start()
        finally:
            server.stop()
            self.stop()

    def stop(self) -> None:
        run_sync(self.kernel_manager.shutdown_all)(now=True)  # before their sockets' folder goes
        shutil.rmtree(self.connection_dir, ignore_errors=True)
