"""`btclab doctor`: what this machine has, what is missing, and what to type about it."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import psutil
from packaging.requirements import Requirement

from btclab.errors import BtclabError
from btclab.market.exchange import ExchangeSource
from btclab.settings import config_path, settings

MIN_FREE_GB = 2.0


@dataclass(frozen=True)
class Finding:
    """One line of the table; `state` is ok, note (works without it) or bad (does not work)."""

    check: str
    finding: str
    state: str
    remedy: str = ""


def examine() -> list[Finding]:
    """All findings, in the order in which a new user would want to know them."""
    found = [_python(), *_packages(), _config(), *map(_folder, (settings().data, settings().models, settings().runs))]
    found += [_disk(), _memory(), _accelerator()]
    with ThreadPoolExecutor() as pool:
        found += pool.map(_exchange, settings().market.exchanges)
    return [*found, _browser()]


def _python() -> Finding:
    good = sys.version_info >= (3, 11)
    return Finding("Python", sys.version.split()[0], "ok" if good else "bad", "" if good else "install 3.11 or newer")


def _packages() -> list[Finding]:
    """One line if all is well, else one a package that is missing or outside the range that btclab asks for."""
    wrong, count = [], 0
    for text in importlib.metadata.requires("btclab") or []:
        requirement = Requirement(text)
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        count += 1
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            wrong.append(Finding(requirement.name, "not installed", "bad", "make setup"))
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            wrong.append(
                Finding(requirement.name, f"{version}, not {requirement.specifier}", "bad", "make clean setup")
            )
    return wrong or [Finding("packages", f"all {count} in range", "ok")]


def _config() -> Finding:
    path = config_path()
    return Finding(
        "settings", str(path) if path.exists() else "defaults", "ok", "" if path.exists() else f"write {path}"
    )


def _folder(path: Path) -> Finding:
    name = f"folder {path.name}/"
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            return Finding(name, str(path), "ok")
    except OSError as error:
        return Finding(name, f"{path}: {error.strerror}", "bad", "set BTCLAB_HOME to a folder that you may write")


def _disk() -> Finding:
    place = next(folder for folder in (settings().home, *settings().home.parents) if folder.exists())
    free = shutil.disk_usage(place).free / 1e9
    enough = free >= MIN_FREE_GB
    return Finding(
        "free disk", f"{free:,.1f} GB", "ok" if enough else "bad", "" if enough else f"free {MIN_FREE_GB:g} GB"
    )


def _memory() -> Finding:
    free = psutil.virtual_memory().available / 1e9
    enough = free >= MIN_FREE_GB
    cores = f"{os.cpu_count()} cores, {free:,.1f} GB of memory free"
    return Finding("machine", cores, "ok" if enough else "note", "" if enough else "close other programs")


def _accelerator() -> Finding:
    import torch

    from btclab.forecasting.accelerate import available, choose

    device = available()[0]
    if device == "cpu":
        said = f"none; networks of 100 states train on the processor in {choose().precision}"
        return Finding("GPU", said, "note", "not needed; measure: btclab doctor --accelerators")
    return Finding("GPU", torch.cuda.get_device_name(0) if device == "cuda" else device, "ok")


def _exchange(name: str) -> Finding:
    """Ask for the newest closed hours of the market of the settings."""
    market = settings().market
    now = pd.Timestamp.now("UTC")
    try:
        pages = list(ExchangeSource(name).fetch(market.symbol, "1h", now - pd.Timedelta(hours=5), now))
    except BtclabError as error:
        return Finding(
            name, str(error).removeprefix(f"{name}: "), "note", "check the network, or use --source simulated:1"
        )
    bars = sum(map(len, pages))
    return Finding(name, f"answers: {bars} bars of {market.symbol}", "ok" if bars else "note")


def _browser() -> Finding:
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    remedy = "" if found else "apt-get install -y chromium (for browser tests only)"
    return Finding("Chromium", found or "none", "ok" if found else "note", remedy)
