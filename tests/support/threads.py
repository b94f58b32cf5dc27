"""The threads of a process, as Linux tells of them."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def niceness(pid: int) -> dict[str, set[int]]:
    """How nice the threads of a process are, by name."""
    found: dict[str, set[int]] = {}
    for thread in Path(f"/proc/{pid}/task").iterdir():
        # One may have ended meanwhile.
        with suppress(OSError):
            name = (thread / "comm").read_text().strip()
            found.setdefault(name, set()).add(os.getpriority(os.PRIO_PROCESS, int(thread.name)))
    return found
