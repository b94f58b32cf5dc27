"""A command under way on one core: what it uses, what it tells, and its end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.support.kafka import pinned
from tests.support.pipeline import environment

ROOT: Final = Path(__file__).resolve().parents[1]
#: The installed command's function: it runs from this folder, whatever is installed.
VIGIE: Final = (sys.executable, "-c", "from streams.cli.main import main; main()")

_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
_POLL_S: Final = 0.02
_STOP_S: Final = 60.0


class ProcessError(Exception):
    """A command failed or did not end in time; the message ends with what it told."""


def module(name: str, *arguments: object) -> list[str]:
    """The command that runs a module of ours."""
    return [sys.executable, "-m", name, *map(str, arguments)]


class Process:
    """A command that has been started. Made by `started`, or ended by `run`."""

    def __init__(self, command: Sequence[str], folder: Path, core: int | None, settings: Mapping[str, object]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.name = " ".join(command[-4:])
        self.out, self.err = folder / "stdout.txt", folder / "stderr.txt"
        own = environment(settings) | {"TMPDIR": str(folder), "COLUMNS": "500"}
        with self.out.open("wb") as out, self.err.open("wb") as err, pinned(None if core is None else {core}):
            self.popen = subprocess.Popen(command, cwd=ROOT, env=own, stdin=subprocess.PIPE, stdout=out, stderr=err)

    @property
    def pid(self) -> int:
        return self.popen.pid

    def told(self, most: int = 3_000) -> str:
        """The end of what it wrote, standard output first."""
        return (self.out.read_text("utf-8", "replace") + self.err.read_text("utf-8", "replace"))[-most:]

    def say(self, line: str) -> None:
        """A line for its standard input."""
        assert self.popen.stdin is not None
        self.popen.stdin.write(line.encode() + b"\n")
        self.popen.stdin.flush()

    def until(self, so: Callable[[], bool], what: str, timeout_s: float) -> None:
        """Wait until it is so. Raises ProcessError when the command ends before, or never within `timeout_s`."""
        end = time.monotonic() + timeout_s
        while not so():
            if self.popen.poll() is not None:
                raise ProcessError(f"{self.name} ended with {self.popen.returncode} before {what}:\n{self.told()}")
            if time.monotonic() > end:
                raise ProcessError(f"{self.name}: not within {timeout_s:.0f} s: {what}\n{self.told()}")
            time.sleep(_POLL_S)

    def end(self, timeout_s: float) -> str:
        """Wait for its end; what it wrote to standard output. Raises ProcessError unless it ends in time with 0."""
        try:
            code = self.popen.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise ProcessError(f"{self.name}: no end after {timeout_s:.0f} s:\n{self.told()}") from None
        if code != 0:
            raise ProcessError(f"{self.name}: exit code {code}:\n{self.told()}")
        return self.out.read_text("utf-8", "replace")

    def stop(self) -> str:
        """End it as an operator would (SIGTERM). Raises ProcessError unless it ends with 0."""
        self.popen.send_signal(signal.SIGTERM)
        return self.end(_STOP_S)

    def kill(self) -> None:
        """End it at once (SIGKILL). Nothing if it has ended."""
        if self.popen.stdin is not None:
            self.popen.stdin.close()
        self.popen.kill()
        self.popen.wait()


@contextmanager
def started(
    command: Sequence[str], folder: Path, *, core: int | None = None, settings: Mapping[str, object] | None = None
) -> Iterator[Process]:
    """Start a command on a core, with settings (`name` for VIGIE_NAME) and no others; it does not outlive the block.

    Its output and temporary files go to `folder`.
    """
    process = Process(command, folder, core, settings or {})
    try:
        yield process
    finally:
        process.kill()


def run(
    command: Sequence[str],
    folder: Path,
    *,
    core: int | None = None,
    settings: Mapping[str, object] | None = None,
    timeout_s: float = 600.0,
) -> str:
    """Run a command to its end; what it wrote to standard output. Raises ProcessError."""
    with started(command, folder, core=core, settings=settings) as process:
        return process.end(timeout_s)


def end_when_told() -> None:
    """Have SIGTERM end this process as Ctrl-C does: what it has started ends with it."""
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))


def cpu_s(pid: int) -> float:
    """Processor time that a running process has used, all its threads together, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


def memory_mib(pid: int, field: str = "VmRSS") -> float:
    """What a running process has in memory, in MiB: VmRSS now, VmHWM at most so far."""
    for line in Path(f"/proc/{pid}/status").read_text("utf-8").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1024
    raise ValueError(f"/proc/{pid}/status has no {field}")
