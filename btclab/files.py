"""Durable files: written aside, synced, then renamed, so that a reader or a crash never meets half a file."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from btclab.errors import StorageError


def write_atomically(path: Path, write: Callable[[Path], object]) -> Path:
    """Call `write(aside)` for a file beside `path`, sync it, and rename it onto `path`.

    Raises `StorageError` naming the path when the disk refuses; `path` is then unchanged.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(aside)
        _sync(aside)
        os.replace(aside, path)
        _sync(path.parent)
    except OSError as error:
        raise StorageError(
            f"Cannot write {path}: {error.strerror or error}. Check the folder's owner and the free space."
        ) from error
    finally:
        with suppress(OSError):  # it is renamed, was never made, or its folder is none: the error above says which
            aside.unlink()
    return path


def write_json(path: Path, content: dict[str, Any]) -> Path:
    """`content` as indented JSON at `path`, atomically. NaN is refused: JSON has no word for it."""
    text = json.dumps(content, indent=2, allow_nan=False, default=str) + "\n"
    return write_atomically(path, lambda aside: aside.write_text(text, encoding="utf-8"))


@contextmanager
def folder_aside(path: Path) -> Iterator[Path]:
    """A new folder to fill; it becomes `path` when the block ends well and vanishes when it does not.

    Raises `StorageError` if `path` exists already or the disk refuses.
    """
    if path.exists():
        raise StorageError(f"{path} exists already and is not replaced. Move it away or choose another name.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    except OSError as error:
        raise StorageError(
            f"Cannot write {path}: {error.strerror or error}. Check the folder's owner and the free space."
        ) from error
    try:
        yield aside
        for file in aside.iterdir():
            _sync(file)
        _sync(aside)
        aside.chmod(0o755)
        os.rename(aside, path)
        _sync(path.parent)
    except OSError as error:
        raise StorageError(f"Cannot write {path}: {error.strerror or error}.") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
