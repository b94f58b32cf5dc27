"""A process that cannot end itself is ended: each test starts one, with the guard over a worker that does as told.

The worker is a stand-in, because a real one cannot be made to hang where a test wants it to.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parents[2]
#: A process that has not ended by then hangs.
_PATIENCE_S = 60.0

pytestmark = pytest.mark.integration


class Process:
    """The process, and what it has said so far."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.said: list[str] = []

    def hear(self, word: str) -> None:
        """Wait until it says that."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.said.append(line.strip())
            if word in line:
                return
        raise AssertionError(f"it ended without {word!r}: {self.said}")

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def end(self) -> int:
        """Its exit code, and the rest of what it said."""
        rest, _ = self._process.communicate(timeout=_PATIENCE_S)
        self.said += rest.splitlines()
        return self._process.returncode

    @property
    def text(self) -> str:
        return "\n".join(self.said)


@contextmanager
def guarded(kind: str) -> Iterator[Process]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.streams.guarded", kind],
        cwd=_ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        one = Process(process)
        one.hear("ready")
        yield one
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda n: n.name)
def test_a_signal_stops_the_worker(number: signal.Signals) -> None:
    """It ends by itself, and well."""
    with guarded("moving") as process:
        process.send(number)
        process.hear("stopping")
        assert process.end() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda n: n.name)
def test_a_second_signal_ends_it_at_once(number: signal.Signals) -> None:
    """Whatever it is doing: nothing that is not acknowledged can be lost by that. The code says by which signal."""
    with guarded("slow-to-stop") as process:
        process.send(number)
        process.hear("stopping")
        began = time.monotonic()
        process.send(number)
        assert process.end() == 128 + number
        assert time.monotonic() - began < 10
    assert "asked for the second time" in process.text


@pytest.mark.parametrize(("kind", "code"), [("slow-to-stop", 1), ("slow-to-leave", 0), ("slow-to-exit", 0)])
def test_a_stop_that_takes_too_long_is_ended(kind: str, code: int) -> None:
    """It is a failure when something was not made durable, and none when only Kafka could not be left in time, or when
    a thread still hangs in a connection after the event loop has ended."""
    with guarded(kind) as process:
        process.send(signal.SIGTERM)
        assert process.end() == code
    assert "ending at once" in process.text


def test_a_worker_that_stalls_fails() -> None:
    """Records wait and nothing moves: the worker hears of it in its own loop, and the process ends as failed."""
    with guarded("stalled") as process:
        assert process.end() == 1
    assert "failed: StalledError" in process.text
    assert "ending at once" not in process.text


def test_a_worker_whose_event_loop_is_stuck_is_ended_as_well() -> None:
    """It cannot hear of anything any more; the guard has a thread of its own."""
    with guarded("stuck") as process:
        assert process.end() == 1
    assert "failed" not in process.text
    assert "ending at once" in process.text


def test_a_worker_that_fails_by_itself_and_does_not_end_is_ended() -> None:
    """Kafka does not confirm, say, what its last flush has to tell: it has as long as one that is asked to stop."""
    with guarded("failed") as process:
        assert process.end() == 1
    assert "ending at once" in process.text


def test_a_guard_that_breaks_ends_the_worker() -> None:
    """Whatever it was: a worker that nobody watches would hang unseen. It says what broke."""
    with guarded("broken") as process:
        assert process.end() == 1
    assert "ending at once" in process.text
    assert "ZeroDivisionError: of the worker's" in process.text
