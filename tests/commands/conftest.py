"""A ledger that was traded, for the commands that read it or leave requests in it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from btclab.operations.session import Choice, opened

RUN = ("paper", "run", "--source", "simulated:1", "--strategy", "sma_cross", "-p", "fast=5", "-p", "slow=20")
HOLD = ("paper", "run", "--source", "simulated:1", "--strategy", "buy_and_hold", "--bars", "3")
URL = "sqlite:///data/ledger.db"


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ledger of sixty bars, traded once for all tests."""
    home = tmp_path_factory.mktemp("once")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BTCLAB_HOME", str(home))
        patch.setenv("BTCLAB_RISK__FRACTION", "0.5")
        choice = Choice("simulated:1", strategy="sma_cross", parameters={"fast": 5, "slow": 20}, bars=60)
        with opened(choice) as ready:
            ready.run()
    return home / "data" / "ledger.db"


@pytest.fixture
def traded(once: Path, half: None, home: Path) -> None:
    """A ledger of sixty bars, as `RUN` leaves it."""
    (home / "data").mkdir()
    shutil.copy(once, home / "data" / "ledger.db")


@pytest.fixture
def half(monkeypatch: pytest.MonkeyPatch) -> None:
    """A strategy holds half of the equity at most, so that there is cash for orders by hand."""
    monkeypatch.setenv("BTCLAB_RISK__FRACTION", "0.5")


@pytest.fixture
def short(home: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    """Words that trade three bars more of an account that may sell short, and is half short."""
    monkeypatch.setenv("BTCLAB_TRADING__ALLOW_SHORT", "true")
    (home / "mine.py").write_text("def bear(candles, features, forecasts):\n    return 0 * candles['close'] - 0.5\n")
    return ("paper", "run", "--source", "simulated:1", "--strategy", f"{home / 'mine.py'}:bear", "--bars", "3")


def asked(out: str) -> str:
    """The id of the request that a command has left."""
    return out.partition(" is recorded")[0].split()[-1]
