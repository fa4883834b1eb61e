"""Durable files: a reader meets the old content or the new one, and a failure leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from btclab.errors import StorageError
from btclab.files import folder_aside, write_atomically, write_json


def failing(aside: Path) -> None:
    aside.write_text("half of it")
    raise RuntimeError("stopped")


# Files


def test_content_is_what_the_writer_wrote(tmp_path):
    path = write_atomically(tmp_path / "a.txt", lambda aside: aside.write_text("new"))
    assert path == tmp_path / "a.txt"
    assert path.read_text() == "new"


def test_missing_folders_are_made(tmp_path):
    assert write_atomically(tmp_path / "x" / "y" / "a.txt", lambda aside: aside.write_text("new")).exists()


def test_no_temporary_file_is_left(tmp_path):
    write_atomically(tmp_path / "a.txt", lambda aside: aside.write_text("new"))
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]


def test_old_content_stays_until_the_writer_is_done(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write(aside: Path) -> None:
        aside.write_text("new")
        assert path.read_text() == "old"

    write_atomically(path, write)
    assert path.read_text() == "new"


def test_old_content_stays_when_the_writer_raises(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError, match="stopped"):
        write_atomically(path, failing)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_full_disk_is_named_with_the_path(tmp_path):
    def full(aside: Path) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(StorageError, match=r"Cannot write .*a\.txt: No space left on device\. Check .* free space"):
        write_atomically(tmp_path / "a.txt", full)
    assert list(tmp_path.iterdir()) == []


def test_a_file_where_the_folder_should_be_is_named(tmp_path):
    (tmp_path / "folder").touch()
    with pytest.raises(StorageError, match=r"Cannot write .*folder.a\.txt"):
        write_atomically(tmp_path / "folder" / "a.txt", lambda aside: aside.write_text("new"))


def test_a_folder_where_the_file_should_be_is_named(tmp_path):
    (tmp_path / "a.txt").mkdir()
    with pytest.raises(StorageError, match=r"Cannot write .*a\.txt"):
        write_atomically(tmp_path / "a.txt", lambda aside: aside.write_text("new"))
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]


def test_a_name_that_the_disk_cannot_hold_is_named(tmp_path):
    with pytest.raises(StorageError, match=r"Cannot write .*too long"):
        write_atomically(tmp_path / ("x" * 300), lambda aside: aside.write_text("new"))


def test_content_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    done: list[str] = []
    sync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (done.append("sync"), sync(handle)))
    monkeypatch.setattr(os, "replace", lambda *names: (done.append("rename"), replace(*names)))
    write_atomically(tmp_path / "a.txt", lambda aside: aside.write_text("new"))
    assert done == ["sync", "rename", "sync"]  # the file, its name, the folder that holds the name


def test_writers_at_once_leave_one_whole_content(tmp_path):
    path = tmp_path / "a.txt"
    texts = [str(digit) * 100_000 for digit in range(8)]
    writers = [
        threading.Thread(target=write_atomically, args=(path, lambda aside, text=text: aside.write_text(text)))
        for text in texts
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(30)
    assert path.read_text() in texts
    assert list(tmp_path.iterdir()) == [path]


# JSON


def test_json_comes_back(tmp_path):
    content = {"name": "Zürich", "values": [1, 2.5, None]}
    assert json.loads(write_json(tmp_path / "a.json", content).read_text(encoding="utf-8")) == content


def test_json_has_no_nan(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"value": float("nan")})
    assert list(tmp_path.iterdir()) == []


# Folders


def test_folder_appears_whole_at_the_end(tmp_path):
    path = tmp_path / "made" / "run"
    with folder_aside(path) as aside:
        (aside / "a.txt").write_text("new")
        assert not path.exists()
    assert (path / "a.txt").read_text() == "new"
    assert [file.name for file in path.parent.iterdir()] == ["run"]


def test_folder_may_be_read_by_others(tmp_path):
    with folder_aside(tmp_path / "run"):
        pass
    assert stat.S_IMODE((tmp_path / "run").stat().st_mode) == 0o755


def test_folder_may_hold_folders(tmp_path):
    with folder_aside(tmp_path / "run") as aside:
        (aside / "inner").mkdir()
        (aside / "inner" / "a.txt").write_text("new")
    assert (tmp_path / "run" / "inner" / "a.txt").read_text() == "new"


@pytest.mark.parametrize("error", [RuntimeError("stopped"), KeyboardInterrupt()])
def test_folder_vanishes_when_the_block_fails(tmp_path, error):
    with pytest.raises(type(error)), folder_aside(tmp_path / "run") as aside:
        (aside / "a.txt").write_text("half")
        raise error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("held", [[], ["old.txt"]], ids=["empty", "filled"])
def test_existing_folder_is_refused_and_stays(tmp_path, held):
    (tmp_path / "run").mkdir()
    for name in held:
        (tmp_path / "run" / name).write_text("old")
    with pytest.raises(StorageError, match="run"), folder_aside(tmp_path / "run") as aside:
        (aside / "new.txt").write_text("new")
    assert sorted(file.name for file in (tmp_path / "run").iterdir()) == held
    assert [file.name for file in tmp_path.iterdir()] == ["run"]


def test_existing_file_is_refused_and_stays(tmp_path):
    (tmp_path / "run").write_text("old")
    with pytest.raises(StorageError, match="run"), folder_aside(tmp_path / "run"):
        pass
    assert (tmp_path / "run").read_text() == "old"


def test_folder_that_came_meanwhile_is_refused_and_stays(tmp_path):
    with pytest.raises(StorageError, match="run"), folder_aside(tmp_path / "run"):
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "theirs.txt").touch()
    assert [file.name for file in tmp_path.rglob("*")] == ["run", "theirs.txt"]


def test_a_file_where_the_parent_should_be_is_named(tmp_path):
    (tmp_path / "parent").touch()
    with pytest.raises(StorageError, match=r"Cannot write .*parent.run"), folder_aside(tmp_path / "parent" / "run"):
        pass


def test_a_process_killed_while_it_fills_a_folder_leaves_nothing_under_its_name(tmp_path):
    script = (
        "import os, signal\nfrom pathlib import Path\nfrom btclab.files import folder_aside\n"
        f"with folder_aside(Path({str(tmp_path / 'run')!r})) as aside:\n"
        "    (aside / 'weights').write_text('half')\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "run").exists()
    with folder_aside(tmp_path / "run") as aside:  # what the killed one left is in nobody's way
        (aside / "weights").write_text("whole")
    assert (tmp_path / "run" / "weights").read_text() == "whole"
