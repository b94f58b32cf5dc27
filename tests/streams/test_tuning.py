"""What the interpreter of a worker gives back."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from streams.tuning import give_back


def resident_mib() -> float:
    """What this process has in memory."""
    status = Path("/proc/self/status").read_text("utf-8")
    return next(int(line.split()[1]) / 1_024 for line in status.splitlines() if line.startswith("VmRSS"))


@pytest.mark.skipif(sys.platform != "linux", reason="glibc alone is asked")
def test_what_blocks_have_left_free_is_given_back() -> None:
    """Blocks of the heap go back to the system also where one behind them is still in use."""
    blocks = [b"x" * 100_000 for _ in range(2_000)]
    last = blocks[-1]
    blocks.clear()
    before = resident_mib()
    give_back()
    assert before - resident_mib() > 100
    assert len(last) == 100_000
