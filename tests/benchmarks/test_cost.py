"""The hot path does not become twice as costly unnoticed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Final

_ROOT: Final = Path(__file__).resolve().parents[2]

#: Measured on two Xeon cores that were busy with other things, Python 3.11: large 0.93 to 1.21, small 1.24 to 1.43.
#: The limits are twice the middle of that: no busy machine comes near, and a path 2.5 times as slow is beyond both.
_LIMITS: Final = {"large": 2.1, "small": 2.7}


def test_the_hot_path_costs_no_more_than_twice_what_it_did() -> None:
    """A stage that begins to work row by row, or a fixed cost added to each batch, fails here and not in production.

    In a process of its own: there Polars has one thread, and nothing of other tests is in memory.
    """
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.cost"], cwd=_ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, float] = json.loads(done.stdout)
    assert found.keys() == _LIMITS.keys()
    assert {name: one for name, one in found.items() if one > _LIMITS[name]} == {}, f"of {found}"
