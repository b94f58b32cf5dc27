"""How the interpreter is set for a process that works in threads."""

from __future__ import annotations

import gc
import sys
from typing import Final

#: Stages and inserts release the interpreter lock dozens of times per batch and want it back each time. At Python's
#: 5 ms a batch of a dozen rows took 50 ms of waiting.
_SWITCH_S: Final = 0.0005
#: A fetch makes one object per record, none of them in a cycle: at Python's 700 the collector runs every millisecond.
_COLLECT_AFTER: Final = 100_000


def tune() -> None:
    """Set the interpreter for a worker. Call once, at start."""
    sys.setswitchinterval(_SWITCH_S)
    gc.set_threshold(_COLLECT_AFTER, 50, 50)
