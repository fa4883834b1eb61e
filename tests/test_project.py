"""The files that describe the project agree with each other."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import btclab as bl
from btclab.settings import PROJECT
from tests.trading.test_postgres import PLACES

CONDA_NAMES = {"pytorch": "torch"}


@pytest.fixture(scope="module")
def project():
    return tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def requirements(lines):
    """name → (extras, range) of requirement lines."""
    parsed = [Requirement(line) for line in lines]
    return {canonicalize_name(CONDA_NAMES.get(r.name, r.name)): str(r.specifier) for r in parsed}


def test_environment_yml_asks_for_what_pyproject_asks_for(project):
    listed = yaml.safe_load((PROJECT / "environment.yml").read_text(encoding="utf-8"))["dependencies"]
    conda, pip = [line for line in listed if isinstance(line, str)], listed[-1]["pip"]
    found = requirements([*conda, *pip])
    assert found.pop("python") == project["requires-python"]
    assert found.pop("hatchling") == ">=1.27"
    assert found.pop("pip") == ""
    assert found == requirements(project["dependencies"])


@pytest.mark.parametrize("group", ["dependencies", "dev", "cluster", "postgres"])
def test_the_lock_file_pins_every_requirement_within_its_range(project, group):
    asked = project["dependencies"] if group == "dependencies" else project["optional-dependencies"][group]
    lines = (PROJECT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    pins = {canonicalize_name(name): version for name, version in (line.split("==") for line in lines if "==" in line)}
    for text in asked:
        requirement = Requirement(text)
        version = pins.get(canonicalize_name(requirement.name))
        assert version, f"{requirement.name} is not pinned: make lock"
        assert requirement.specifier.contains(version, prereleases=True)


def test_the_lock_file_names_versions_and_no_places():
    for line in (PROJECT / "requirements.lock").read_text(encoding="utf-8").splitlines():
        assert line.startswith("#") or re.fullmatch(r"[\w.\-]+==[\w.]+", line), line
    assert "torch==2.13.0\n" in (PROJECT / "requirements.lock").read_text(encoding="utf-8")


def test_the_extras_that_the_readme_names_exist(project):
    assert {"intel", "cluster", "dev", "postgres"} <= set(project["optional-dependencies"])
    assert project["requires-python"] == ">=3.11"


def test_every_make_target_in_the_readme_exists():
    readme = (PROJECT / "README.md").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", (PROJECT / "Makefile").read_text(encoding="utf-8"), re.M))
    used = {one or other for one, other in re.findall(r"`make ([a-z]+)|^make ([a-z]+)", readme, re.M)}
    assert used
    assert used <= targets
    assert {"run", "test", "lab", "dashboard", "bench", "lint", "clean", "help"} <= targets


def test_make_help_lists_the_targets():
    done = subprocess.run(["make", "help"], cwd=PROJECT, capture_output=True, text=True, check=True, timeout=20)
    assert "make run" in done.stdout
    assert "make test" in done.stdout


def test_every_python_example_of_the_readme_uses_names_that_exist():
    readme = (PROJECT / "README.md").read_text(encoding="utf-8")
    used = {
        name for block in re.findall(r"```python\n(.*?)```", readme, re.S) for name in re.findall(r"\bbl\.(\w+)", block)
    }
    assert used
    assert used <= set(dir(bl))


def test_every_file_the_readme_links_to_exists():
    readme = (PROJECT / "README.md").read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?:|#)([^)]+)\)|src=\"([^\"]+)\"", readme):
        assert (PROJECT / next(filter(None, target)).partition("#")[0]).exists(), target


def test_ci_looks_for_postgresql_where_the_tests_do():
    text = (PROJECT / ".ci" / "run").read_text(encoding="utf-8")
    (line,) = re.findall(r"^command -v initdb (.*)", text, re.MULTILINE)
    assert tuple(re.findall(r"(\S+)/initdb", line)) == PLACES


def test_ci_says_what_to_install_where_it_cannot(tmp_path):
    (tmp_path / "dirname").symlink_to(shutil.which("dirname"))
    (tmp_path / "apt-get").write_text("#!/bin/sh\nexit 100\n")
    (tmp_path / "apt-get").chmod(0o755)
    done = subprocess.run(
        [shutil.which("bash"), PROJECT / ".ci" / "run"],
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 1
    assert re.fullmatch(r"Not installed: (chromium.*)\. Type: sudo apt-get install \1\n", done.stderr)
