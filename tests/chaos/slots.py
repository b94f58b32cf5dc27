"""A place in which one worker runs: started, struck, and started again, with every end of it counted.

`watch` plays the orchestrator: a worker that ends by itself is started again, later each time it does so at once.
"""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

from tests.support.pipeline import Command

#: Beyond this a worker that was started is stuck.
_START_S: Final = 60.0
_POLL_S: Final = 0.05
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.3, 5.0
#: A worker that lived for so long had started well.
_WELL_S: Final = 20.0


class FaultError(Exception):
    """A fault could not be done, or what it struck did not do what it must."""


class Slot:
    """One worker. `settings` are those of every start; each start has a folder of its own in `folder`."""

    def __init__(self, name: str, folder: Path, settings: Mapping[str, object], say: Callable[[str], None]) -> None:
        self.name = name
        self.folder = folder
        self.starts = 0
        self.own_ends: Counter[int] = Counter()
        """Exit codes of workers that ended without being told to."""
        self.told_ends: Counter[int] = Counter()
        """Exit codes after SIGTERM."""
        self.killed = 0
        self.longest_drain_s = 0.0
        self.peak_mib = 0
        self._settings = settings
        self._say = say
        self._command: Command | None = None
        self._wanted = False
        self._lock = threading.RLock()
        self._pause_s = _FIRST_PAUSE_S
        self._started_s = 0.0
        self._due_s = 0.0

    def start(self) -> None:
        """Start a worker. From now on it is wanted: `watch` keeps it running."""
        with self._lock:
            self._wanted = True
            self._pause_s = _FIRST_PAUSE_S
            self._launch()

    def wait_until_it_listens(self, halt: Callable[[], bool] = lambda: False) -> None:
        """Return once the worker has a handler for SIGTERM, so that one is a request and not a death."""
        until = time.monotonic() + _START_S
        while not self._handles_sigterm():
            if halt():
                raise FaultError(f"{self.name} was not up before the end of the run")
            if time.monotonic() > until:
                raise FaultError(f"{self.name} does not come up within {_START_S:.0f} s:\n{self.tail()}")
            time.sleep(_POLL_S)

    def kill(self) -> None:
        """SIGKILL. It stays down until `start`."""
        with self._struck() as process:
            process.kill()
            process.wait()
            self.killed += 1

    def terminate(self, seconds: float) -> tuple[int, float]:
        """SIGTERM. Returns its exit code and how long it took; it stays down until `start`.

        Raises FaultError when it has not ended after so many seconds; it is then killed.
        """
        with self._struck() as process:
            begun = time.monotonic()
            process.send_signal(signal.SIGTERM)
            try:
                code = process.wait(seconds)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                self.killed += 1
                raise FaultError(f"{self.name} had not ended {seconds:.0f} s after SIGTERM:\n{self.tail()}") from None
            took = time.monotonic() - begun
            self.told_ends[code] += 1
            self.longest_drain_s = max(self.longest_drain_s, took)
            return code, took

    def freeze(self, wait: Callable[[], None]) -> None:
        """SIGSTOP, `wait()`, SIGCONT."""
        with self._struck(stays=True) as process:
            process.send_signal(signal.SIGSTOP)
            try:
                wait()
            finally:
                process.send_signal(signal.SIGCONT)

    def watch(self) -> None:
        """Start it again if it has ended by itself; call several times a second."""
        # One that is being struck is looked at the next time.
        if not self._lock.acquire(blocking=False):
            return
        try:
            self._look()
        finally:
            self._lock.release()

    def remove(self) -> None:
        """Leave no process behind, whatever state it is in."""
        with self._lock:
            self._wanted = False
            if self._command is not None and self._command.process.poll() is None:
                self._command.process.send_signal(signal.SIGCONT)
                self._command.process.kill()
                self._command.process.wait()

    def pids(self) -> list[int]:
        """The process id of the worker, if one runs."""
        command = self._command
        return [command.process.pid] if command is not None and command.process.poll() is None else []

    def tail(self, lines: int = 15) -> str:
        """The last lines of what the newest worker wrote."""
        text = self._command.text if self._command is not None else ""
        return "\n".join(text.splitlines()[-lines:])

    @contextlib.contextmanager
    def _struck(self, *, stays: bool = False) -> Iterator[subprocess.Popen[bytes]]:
        """The running process; it ended by itself and is not back yet: wait until it is."""
        until = time.monotonic() + _START_S
        while True:
            with self._lock:
                self._look()
                command = self._command
                if command is not None and command.process.poll() is None:
                    self._wanted = stays
                    yield command.process
                    self._measure()
                    return
            if time.monotonic() > until:
                raise FaultError(f"{self.name} does not stay up for {_START_S:.0f} s:\n{self.tail()}")
            time.sleep(_POLL_S)

    def _look(self) -> None:
        self._measure()
        now = time.monotonic()
        if not self._wanted:
            return
        if self._command is not None:
            code = self._command.process.poll()
            if code is None:
                return
            self.own_ends[code] += 1
            self._say(f"{self.name} ended by itself with {code}: {_reason(self._command.text)}")
            self._command = None
            self._pause_s = _FIRST_PAUSE_S if now - self._started_s > _WELL_S else self._pause_s
            self._due_s = now + self._pause_s
            self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)
        if now >= self._due_s:
            self._launch()

    def _launch(self) -> None:
        self.starts += 1
        self._started_s = time.monotonic()
        self._command = Command("worker", folder=self.folder / f"{self.starts:03d}", settings=self._settings)

    def _measure(self) -> None:
        if self._command is None:
            return
        with contextlib.suppress(OSError):
            status = Path(f"/proc/{self._command.process.pid}/status").read_text("ascii")
            if found := re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE):
                self.peak_mib = max(self.peak_mib, int(found[1]) // 1024)

    def _handles_sigterm(self) -> bool:
        command = self._command
        if command is None:
            return False
        try:
            status = Path(f"/proc/{command.process.pid}/status").read_text("ascii")
        except OSError:
            return False
        found = re.search(r"^SigCgt:\s+([0-9a-f]+)", status, re.MULTILINE)
        return found is not None and bool(int(found[1], 16) >> (signal.SIGTERM - 1) & 1)


def _reason(text: str) -> str:
    """The last line that a worker wrote, shortened: it says why it ended."""
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it wrote nothing"
