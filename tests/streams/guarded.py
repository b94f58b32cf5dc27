"""A process with a guard over a worker that does what it is told, for tests/streams/test_guard.py.

    python -m tests.streams.guarded KIND

Kinds: moving, stalled, stuck, failed, broken, slow-to-stop, slow-to-leave, slow-to-exit. It says "ready", then what the
worker hears.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from types import SimpleNamespace
from typing import Any

from streams import guard
from streams.guard import Guard
from streams.ledger import Ledger
from streams.settings import load

#: The guard looks every second and allows seconds to leave; a test has no such time.
_LOOK_S = 0.02
_LEAVE_S = 0.2
#: Longer than any of these processes may last.
_STUCK_S = 60.0


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


class Worker:
    """What the guard sees of a worker. It stops at once, unless it is slow; it fails with what it is given."""

    def __init__(self, kind: str) -> None:
        self.settings = load(watchdog_s=0.3, drain_timeout_s=0.2, rebalance_timeout_s=0.3)
        self.kind = kind
        self.ledger: Any = Ledger()
        self.custody = SimpleNamespace(is_open=True, is_over=False)
        self.is_waiting = False
        self.is_stopping = kind == "failed"
        self.failure: BaseException | None = RuntimeError("by itself") if kind == "failed" else None
        self.over = asyncio.Event()

    @property
    def lags(self) -> bool:
        if self.kind == "broken":
            raise ZeroDivisionError("of the worker's")
        return self.kind in ("stalled", "stuck")

    def stop(self) -> None:
        say("stopping")
        self.is_stopping = True
        self.custody.is_over = self.kind in ("slow-to-leave", "slow-to-exit")
        if self.kind not in ("slow-to-stop", "slow-to-leave"):
            self.over.set()

    def fail(self, error: BaseException) -> None:
        say(f"failed: {type(error).__name__}")
        self.failure, self.is_stopping = error, True
        self.over.set()


async def main(kind: str) -> int:
    worker: Any = Worker(kind)
    watching = Guard(worker)
    say("ready")
    if kind == "stuck":
        time.sleep(_STUCK_S)  # noqa: ASYNC251 - the event loop is to be stuck
    await worker.over.wait()
    if kind == "slow-to-exit":
        # As concurrent.futures does with its own: the interpreter waits for this thread before it ends.
        threading.Thread(target=time.sleep, args=(_STUCK_S,)).start()
    else:
        watching.close()
    return 1 if worker.failure else 0


if __name__ == "__main__":
    guard._LOOK_S, guard._LEAVE_S = _LOOK_S, _LEAVE_S  # type: ignore[misc]
    sys.exit(asyncio.run(main(sys.argv[1])))
