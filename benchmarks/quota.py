"""A part of a core for a process, by Linux's control groups: how two workers do beside one where none has a core full.

Needs the right to make a control group, as root has it on a machine of its own.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from benchmarks.installation import BenchmarkError

_GROUPS: Final = Path("/sys/fs/cgroup")
#: Short, so that a process rests often and not for long.
_PERIOD_US: Final = 10_000
_LEAST_US: Final = 1_000


@contextmanager
def limited(pid: int, share: float) -> Iterator[None]:
    """Let a process, with all its threads, have this share of one core (0.1 to 1) as long as the block lasts.

    Raises BenchmarkError where that cannot be had.
    """
    quota_us = max(_LEAST_US, round(share * _PERIOD_US))
    is_unified = (_GROUPS / "cgroup.controllers").exists()
    parent = _GROUPS if is_unified else _GROUPS / "cpu"
    group = parent / f"vigie-benchmark-{os.getpid()}-{pid}"
    limits = {"cpu.cfs_period_us": str(_PERIOD_US), "cpu.cfs_quota_us": str(quota_us)}
    if is_unified:
        limits = {"cpu.max": f"{quota_us} {_PERIOD_US}"}
    try:
        group.mkdir()
        try:
            for name, value in limits.items():
                (group / name).write_text(value, "ascii")
            (group / "cgroup.procs").write_text(str(pid), "ascii")
        except OSError:
            _remove(group, parent, pid)
            raise
    except OSError as error:
        raise BenchmarkError(f"a process cannot be given a share of a core here: {error}") from error
    try:
        yield
    finally:
        _remove(group, parent, pid)


def _remove(group: Path, parent: Path, pid: int) -> None:
    """Let the process have what all others have, and forget the group."""
    with suppress(OSError):
        (parent / "cgroup.procs").write_text(str(pid), "ascii")
    # A process that has just ended is in it for a moment.
    for _ in range(50):
        try:
            group.rmdir()
        except OSError:
            time.sleep(0.1)
        else:
            return
