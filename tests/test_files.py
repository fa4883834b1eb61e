"""Durable files: a reader meets the old content or the new one, never half of it, and nothing is left lying about."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest

from btclab.errors import StorageError
from btclab.files import folder_aside, write_atomically, write_json


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file that holds "old"; nothing else lies in its folder."""
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "file.txt").write_text("old")
    return folder / "file.txt"


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def half_then_fail(error: BaseException):
    def write(aside: Path) -> None:
        aside.write_text("ne")
        raise error

    return write


# One file


def test_new_content_replaces_the_old(path):
    assert write_atomically(path, lambda aside: aside.write_text("new")) == path
    assert path.read_text() == "new"
    assert names(path.parent) == ["file.txt"]


def test_missing_folders_are_made(tmp_path):
    write_atomically(tmp_path / "a" / "b" / "file.txt", lambda aside: aside.write_text("new"))
    assert (tmp_path / "a" / "b" / "file.txt").read_text() == "new"


def test_old_content_stands_until_the_new_one_is_whole(path):
    def write(aside: Path) -> None:
        aside.write_text("ne")
        assert path.read_text() == "old"
        aside.write_text("new")

    write_atomically(path, write)
    assert path.read_text() == "new"


@pytest.mark.parametrize("error", [RuntimeError("broken"), KeyboardInterrupt(), ValueError("wrong")])
def test_writer_that_fails_leaves_the_old_content_and_nothing_else(path, error):
    with pytest.raises(type(error)):
        write_atomically(path, half_then_fail(error))
    assert path.read_text() == "old"
    assert names(path.parent) == ["file.txt"]


def test_disk_that_refuses_is_a_storage_error_that_names_the_path(path):
    with pytest.raises(StorageError) as caught:
        write_atomically(path, half_then_fail(OSError(28, "No space left on device")))
    assert f"Cannot write {path}: No space left on device" in str(caught.value)
    assert "free space" in str(caught.value)
    assert path.read_text() == "old"
    assert names(path.parent) == ["file.txt"]


@pytest.mark.parametrize("below", ["x.txt", "deeper/x.txt"])
def test_file_where_the_folder_should_be(path, below):
    with pytest.raises(StorageError, match="Cannot write"):
        write_atomically(path / below, lambda aside: aside.write_text("new"))
    assert path.read_text() == "old"


def test_folder_where_the_file_should_be(path):
    with pytest.raises(StorageError, match="Is a directory"):
        write_atomically(path.parent, lambda aside: aside.write_text("new"))
    assert path.read_text() == "old"
    assert names(path.parent.parent) == ["folder"]


def test_name_that_the_disk_cannot_hold(path):
    with pytest.raises(StorageError, match="too long"):
        write_atomically(path.with_name("x" * 300), lambda aside: aside.write_text("new"))


def test_writer_that_writes_nothing_is_an_error(path):
    with pytest.raises(StorageError, match="Cannot write"):
        write_atomically(path, lambda aside: None)
    assert path.read_text() == "old"


def test_file_is_on_the_disk_before_it_has_its_name(path, monkeypatch):
    done: list[str] = []
    real_sync, real_replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (done.append("sync"), real_sync(handle))[1])
    monkeypatch.setattr(os, "replace", lambda *names: (done.append("rename"), real_replace(*names))[1])
    write_atomically(path, lambda aside: aside.write_text("new"))
    assert done == ["sync", "rename", "sync"]  # the file, the name, the folder that holds the name


def test_json_reads_back(path):
    write_json(path, {"name": "é", "value": 0.1, "where": Path("/x")})
    assert json.loads(path.read_text(encoding="utf-8")) == {"name": "é", "value": 0.1, "where": "/x"}


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_json_without_a_word_for_it_is_refused_before_anything_is_written(path, value):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"sharpe": value})
    assert path.read_text() == "old"
    assert names(path.parent) == ["file.txt"]


# One folder


def test_folder_appears_whole_at_the_end(path):
    target = path.parent / "run"
    with folder_aside(target) as aside:
        (aside / "one.txt").write_text("1")
        (aside / "below").mkdir()
        (aside / "below" / "two.txt").write_text("2")
        assert not target.exists()
    assert names(target) == ["below", "one.txt"]
    assert (target / "below" / "two.txt").read_text() == "2"
    assert names(path.parent) == ["file.txt", "run"]


def test_folder_can_be_read_by_others(path):
    with folder_aside(path.parent / "run"):
        pass
    assert (path.parent / "run").stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("error", [RuntimeError("broken"), KeyboardInterrupt()])
def test_folder_vanishes_when_the_block_fails(path, error):
    with pytest.raises(type(error)), folder_aside(path.parent / "run") as aside:
        (aside / "one.txt").write_text("1")
        raise error
    assert names(path.parent) == ["file.txt"]


@pytest.mark.parametrize("kind", ["empty folder", "full folder", "file"])
def test_what_exists_already_is_not_replaced(path, kind):
    target = path.parent / "run"
    if kind == "file":
        target.write_text("kept")
    else:
        target.mkdir()
    if kind == "full folder":
        (target / "kept.txt").write_text("kept")
    before = names(target) if target.is_dir() else target.read_text()
    with pytest.raises(StorageError, match=r"run exists already"), folder_aside(target):
        pytest.fail("the block must not run")
    assert (names(target) if target.is_dir() else target.read_text()) == before
    assert names(path.parent) == ["file.txt", "run"]


def test_folder_that_another_makes_meanwhile_is_kept(path):
    target = path.parent / "run"
    with pytest.raises(StorageError, match="Cannot write"), folder_aside(target) as aside:
        (aside / "mine.txt").write_text("1")
        target.mkdir()
        (target / "theirs.txt").write_text("2")
    assert names(target) == ["theirs.txt"]
    assert names(path.parent) == ["file.txt", "run"]


def test_folder_below_a_file(path):
    with pytest.raises(StorageError, match="Cannot write"), folder_aside(path / "run"):
        pytest.fail("the block must not run")
