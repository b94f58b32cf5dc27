"""What the interpreter of a worker gives back."""

from __future__ import annotations

import ctypes
import os
import subprocess
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


#: Prints the MiB that are mapped by themselves for a block, after one of eight times its size was freed.
_MAPPED = """
import ctypes
from streams.tuning import tune

class Info(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in (*"abcd", "hblkhd", *"efghi")]

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes, libc.mallinfo2.restype = [ctypes.c_void_p], Info
TUNE
libc.free(libc.malloc(16 << 20))
before = libc.mallinfo2().hblkhd
block = libc.malloc(2 << 20)
print((libc.mallinfo2().hblkhd - before) >> 20)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="glibc alone is asked, of 2.33 or later")
@pytest.mark.parametrize(("first", "mapped_mib"), [("tune()", 2), ("", 0)])
def test_large_blocks_are_no_part_of_the_heap(first: str, mapped_mib: int) -> None:
    """What was larger and is free changes nothing about it, as it does by default."""
    program = _MAPPED.replace("TUNE", first)
    own = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=own)
    assert int(told.stdout) == mapped_mib
