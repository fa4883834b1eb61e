"""What SIGINT and SIGTERM do; imports nothing, so that it holds while the rest is loaded."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


@contextmanager
def on_signals(handler: Callable[[int, FrameType | None], Any] = signal.default_int_handler) -> Iterator[None]:
    """SIGINT and SIGTERM call `handler`, by default one that raises `KeyboardInterrupt`.

    Outside of the main thread, who called says when to end.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {one: signal.signal(one, handler) for one in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for one, own in before.items():
            signal.signal(one, own)


@contextmanager
def held_back() -> Iterator[None]:
    """A signal that comes meanwhile raises `KeyboardInterrupt` at the end: extensions in C++ die of one while they load."""
    came: list[int] = []
    with on_signals(lambda number, _: came.append(number)):
        yield
    if came:
        raise KeyboardInterrupt
