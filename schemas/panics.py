"""Keeps Rust's panic reports off the terminal while bytes are tried that may be bad.

Polars panics on some corrupt Avro. The panic is caught and the record rejected, but Rust's hook has by then written a
page of backtrace to file descriptor 2, once per bad block: an attacker's log flood. The hook cannot be set from Python,
so descriptor 2 points to the null device for the few milliseconds of the call. What other native code writes there
meanwhile is lost; Python's own logging keeps a descriptor of its own (see `own_stderr`) and loses nothing.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, TextIO

_lock: Final = threading.Lock()
_state: Final = {"inside": 0, "saved": -1, "null": -1}


@contextmanager
def quiet_panics() -> Iterator[None]:
    """Silence descriptor 2 of the process; nests and is safe from several threads."""
    with _lock:
        if _state["null"] < 0:
            _state["null"] = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        if _state["inside"] == 0:
            _state["saved"] = os.dup(2)
            os.dup2(_state["null"], 2)
        _state["inside"] += 1
    try:
        yield
    finally:
        with _lock:
            _state["inside"] -= 1
            if _state["inside"] == 0:
                os.dup2(_state["saved"], 2)
                os.close(_state["saved"])


def own_stderr() -> TextIO:
    """A text stream on a duplicate of descriptor 2, for logging that must not be silenced."""
    with _lock:
        source = _state["saved"] if _state["inside"] else 2
        return os.fdopen(os.dup(source), "w", buffering=1, encoding="utf-8", errors="backslashreplace")
