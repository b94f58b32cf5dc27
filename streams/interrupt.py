"""Ctrl-C during the start, where libraries of native code are loaded and called."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def undisturbed() -> Iterator[None]:
    """Ctrl-C waits for the end of the block, and raises KeyboardInterrupt there.

    Native libraries that are interrupted midway panic, or say that they are not installed. For blocks of a second or
    so, in the main thread.
    """
    came: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: came.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if came:
        raise KeyboardInterrupt
