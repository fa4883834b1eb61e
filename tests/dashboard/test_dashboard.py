"""The dashboard in a real browser, from the login form to the end of its kernel."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.dashboard.test_views import fabricate
from tests.operations.test_serve import gone, running

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.mark.timeout(120)
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium; install it with: apt-get install -y chromium")
def test_the_page_from_login_to_close(home: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    from playwright.sync_api import sync_playwright

    fabricate(home, "20261122T000000Z_signal_000001")
    profile = tmp_path_factory.mktemp("profile")
    errors: list[str] = []
    hosts: set[str | None] = set()
    with running(home, BTCLAB_DASHBOARD__REFRESH_S="1") as server, sync_playwright() as playwright:
        browser = playwright.chromium.launch_persistent_context(
            profile, executable_path=CHROMIUM, args=ARGUMENTS, viewport={"width": 1280, "height": 800}
        )
        page = browser.new_page()
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda request: hosts.add(urlsplit(request.url.removeprefix("blob:")).hostname))

        page.goto(f"http://127.0.0.1:{server.port}/")
        page.fill("#password_input", str(server.password))
        page.click("#login_submit", no_wait_after=True)
        page.wait_for_selector(".btclab-chart .main-svg", timeout=60_000)
        for part in (".btclab-signal", ".btclab-account", ".btclab-chart .main-svg"):
            assert page.locator(part).first.is_visible()
        said = page.inner_text("body")
        for expected in ("SIMULATED MARKET", "keep cash", "HOLD", "10,412.37 USDT", "simulated:1", "checked at"):
            assert expected in said

        kernel = server.kernels()[0]
        fabricate(home, "20261122T010000Z_signal_000002", results={"signal": {"side": "buy"}})
        page.wait_for_selector(".btclab-buy", timeout=15_000)

        # A kernel that hangs looks to the page like one that died.
        kernel.send_signal(signal.SIGSTOP)
        page.wait_for_selector(".btclab-silent:visible", timeout=15_000)
        assert "STALE PAGE" in page.inner_text("body")
        kernel.send_signal(signal.SIGCONT)
        page.wait_for_selector(".btclab-silent", state="hidden", timeout=15_000)

        page.set_viewport_size({"width": 700, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= 700
        assert errors == []
        assert hosts <= {"127.0.0.1", None}  # None: data: addresses
        page.close(run_before_unload=True)
        assert gone(kernel, 15)
        browser.close()
