"""Ends the process when it cannot end itself: it stalls, stopping takes too long, or somebody asks a second time.

Nothing is lost by it: what is not acknowledged is read again.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from contextlib import suppress
from typing import Final

from streams.clock import monotonic_s
from streams.log import logger
from streams.watchdog import StalledError, Watchdog
from streams.worker import Worker

_LOOK_S: Final = 0.25
#: Beyond the drain itself a stop leaves the group and closes connections, which a broker that is away can hold up.
_LEAVE_S: Final = 5.0
_FAILED: Final = 1


class Guard:
    """Watches a worker from a thread of its own, which a stuck event loop does not stop.

    It goes on after the loop has ended, unless it is closed: closing what hangs can hold up the exit too.
    """

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._log = logger("guard")
        self._watchdog = Watchdog(worker.settings.watchdog_s, worker.settings.rebalance_timeout_s)
        self._loop = asyncio.get_running_loop()
        self._stopping_s: float | None = None
        self._is_asked = False
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="guard", daemon=True)
        for number in (signal.SIGINT, signal.SIGTERM):
            self._loop.add_signal_handler(number, self._signalled, number)
        self._thread.start()

    def close(self) -> None:
        """Watch no longer: whatever comes now may take its time."""
        self._over.set()

    def _signalled(self, number: int) -> None:
        if self._is_asked:
            self._end(128 + number, "ended at once, as asked for the second time")
        self._is_asked = True
        # The time that stopping may take begins now, not when somebody looks.
        self._stopping_s = self._stopping_s or monotonic_s()
        self._worker.stop()

    def _watch(self) -> None:
        try:
            while not self._over.wait(_LOOK_S):
                self._look(monotonic_s())
        except Exception as error:  # noqa: BLE001 - whatever it is, a worker that nobody watches must not go on
            self._end(_FAILED, f"the guard cannot watch any more: {type(error).__name__}: {error}")

    def _look(self, now_s: float) -> None:
        worker = self._worker
        if self._stopping_s is None and worker.is_stopping:
            self._stopping_s = now_s
        if self._stopping_s is not None:
            if now_s - self._stopping_s > worker.settings.drain_timeout_s + _LEAVE_S:
                drained = worker.failure is None and worker.custody.is_over
                self._end(0 if drained else _FAILED, "could not leave in time")
            return
        try:
            worker.stalled_s = self._watchdog.look(
                now_s,
                progress=worker.ledger.progress,
                lag=worker.lags,
                away=worker.is_waiting,
                rebalancing=not worker.custody.is_open,
            )
        except StalledError as error:
            self._stopping_s = now_s
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(worker.fail, error)

    def _end(self, code: int, why: str) -> None:
        self._log.error("ending at once", reason=why, code=code)
        os._exit(code)
