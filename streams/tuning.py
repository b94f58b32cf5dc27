"""How the interpreter is set for a process that works in threads, and what it gives back."""

from __future__ import annotations

import ctypes
import gc
import io
import sys
from typing import Final, NamedTuple

import polars as pl

#: Stages and inserts release the interpreter lock dozens of times per batch and want it back each time. At Python's
#: 5 ms a batch of a dozen rows took 50 ms of waiting.
_SWITCH_S: Final = 0.0005
#: A fetch makes one object per record, none of them in a cycle: at Python's 700 the collector runs every millisecond.
_COLLECT_AFTER: Final = 100_000
_LIBC: Final = ctypes.CDLL(None)
#: A block from this size on is mapped by itself, and gone when it is free. The C library raises the limit to the size
#: of what is freed, up to 32 MiB: blocks of what is fetched leave holes in its heaps.
_MAPPED: Final = 1 << 20
#: So much may stay free at the end of a heap: little more than nothing, where it is not told.
_SPARE: Final = 64 << 20
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def tune() -> None:
    """Set the interpreter for a worker. Call once, at start."""
    sys.setswitchinterval(_SWITCH_S)
    gc.set_threshold(_COLLECT_AFTER, 50, 50)
    if sys.platform == "linux" and hasattr(_LIBC, "mallopt"):
        _LIBC.mallopt(_M_MMAP_THRESHOLD, _MAPPED)
        _LIBC.mallopt(_M_TRIM_THRESHOLD, _SPARE)
    _load_polars()


def give_back() -> None:
    """Give the system what large blocks have left free in the C library's heap, in some milliseconds. glibc only."""
    if sys.platform == "linux" and hasattr(_LIBC, "malloc_trim"):
        _LIBC.malloc_trim(0)


class _Row(NamedTuple):
    number: int
    text: str


def _load_polars() -> None:
    """Have Polars load what it loads at first use: two threads that come first at the same time make it fail."""
    frame = pl.DataFrame([_Row(1, "a")], schema=["number", "text"], orient="row")
    frame = pl.DataFrame([{"number": 1, "text": "a"}]).vstack(frame)
    pl.from_arrow(frame.to_arrow())
    pl.Series("number", frame["number"].to_numpy())
    stored = io.BytesIO()
    frame.write_ipc(stored)
    pl.read_ipc(stored.getvalue())
