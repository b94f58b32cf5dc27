"""Memory is told by who allocated it, and every resident page in one kind."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks.memory import KINDS, Watch, parts, table
from benchmarks.process import memory_mib

_SMAPS = """\
55d0c0a00000-55d0c0a21000 rw-p 00000000 00:00 0                          [heap]
Size:                132 kB
Rss:                 100 kB
7f0400000000-7f0403c00000 rw-p 00000000 00:00 0
Rss:               51200 kB
7f0500001000-7f0540001000 rw-p 00000000 00:00 0
Rss:              102400 kB
Pss:              102400 kB
7f0600001000-7f0600801000 rw-p 00000000 00:00 0
Rss:                2048 kB
7f0700000000-7f0710000000 r-xp 00000000 fd:00 1234                       /usr/lib/engine (1).so
Rss:              204800 kB
7ffd00000000-7ffd00021000 rw-p 00000000 00:00 0                          [stack]
Rss:                1024 kB
"""


def test_each_mapping_has_a_kind() -> None:
    """The heap and its arenas of 64 MiB, the reserved gibibyte, files, and all else."""
    expected = {"libraries": 200.0, "polars": 100.0, "heap": pytest.approx(50 + 100 / 1_024), "other": 3.0}
    assert parts(_SMAPS) == expected


def test_the_kinds_together_are_what_the_process_has() -> None:
    """Of this very process, within what changes meanwhile."""
    found = parts(Path(f"/proc/{os.getpid()}/smaps").read_text("utf-8"))
    assert tuple(found) == KINDS
    assert sum(found.values()) == pytest.approx(memory_mib(os.getpid()), rel=0.02)


def test_the_peak_is_one_look() -> None:
    """Not the most of each kind at different times."""
    watch = Watch(os.getpid())
    watch.looks = [(1.0, {"heap": 5.0, "other": 1.0}), (2.0, {"heap": 3.0, "other": 4.0}), (3.0, {"heap": 2.0})]
    assert watch.peak == {"heap": 3.0, "other": 4.0}
    assert (watch.at(1.5), watch.at(float("inf"))) == ({"heap": 3.0, "other": 4.0}, {"heap": 2.0})


def test_a_process_that_has_ended_is_not_looked_at() -> None:
    """Its files are there until somebody has waited for it, and empty: that is no memory of 0."""
    ended = subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE)
    assert ended.stdout is not None
    ended.stdout.read()
    watch = Watch(ended.pid)
    try:
        os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
        watch.look()
        assert watch.looks == []
    finally:
        ended.wait()
        ended.stdout.close()


def test_the_most_it_ever_had_stands_above_what_was_seen() -> None:
    """A look misses what passes between two of them, and a limit is not kept by being looked at seldom."""
    out = io.StringIO()
    Console(file=out, width=120).print(table({"peak": dict.fromkeys(KINDS, 250.0)}, 1_078.4))
    told = " ".join(out.getvalue().split())
    assert "1,078 MiB at its most" in told
    assert "1,000" in told
