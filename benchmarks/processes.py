"""Processes on a core of their own, and what they took."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.support.kafka import pinned

ROOT: Final = Path(__file__).resolve().parents[1]
#: Lines of a failed process's standard error that are shown.
_TAIL: Final = 30


class BenchmarkError(Exception):
    """Something a benchmark started failed, or gave another output than the others; the message says which."""


@dataclass(frozen=True)
class Done:
    """A process that ended well: what it printed to standard output, seconds from outside, and its processor time."""

    printed: str
    wall_s: float
    cpu_s: float

    def figures(self) -> dict[str, Any]:
        """The object of JSON that is the last line it printed. Raises BenchmarkError without one."""
        for line in reversed(self.printed.splitlines()):
            # A terminal's control sequences may stand before it.
            start = line.find("{")
            if start >= 0:
                try:
                    found: Any = json.loads(line[start:])
                except json.JSONDecodeError:
                    break
                if isinstance(found, dict):
                    return found
                break
        raise BenchmarkError(f"printed no figures:\n{self.printed[-2000:]}")


def run(command: Sequence[str], *, core: int | None, log: Path, timeout_s: float, **environment: str) -> Done:
    """Run a process on that core until it ends; its standard error is added to `log`.

    `environment` comes on top of ours. Raises BenchmarkError, with the end of `log`, when it fails or takes too long.
    """
    began, used = time.monotonic(), _cpu_of_children_s()
    with log.open("ab") as errors, pinned(None if core is None else {core}):
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
        )
    # Leaving the block closes the pipe and waits for the end.
    with process:
        try:
            printed, _ = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            raise BenchmarkError(f"no end after {timeout_s:.0f} s: {_told(command, log)}") from None
        finally:
            process.kill()
    text = printed.decode("utf-8", "replace")
    if process.returncode != 0:
        raise BenchmarkError(f"exit code {process.returncode}: {_told(command, log)}\n{text[-2000:]}".rstrip())
    return Done(text, time.monotonic() - began, _cpu_of_children_s() - used)


def _cpu_of_children_s() -> float:
    """Processor time of the processes that have ended so far (Kafka runs on, so it is not among them)."""
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


def _told(command: Sequence[str], log: Path) -> str:
    """The command's beginning and the end of what it told on standard error."""
    end = "\n".join(log.read_text("utf-8", "replace").splitlines()[-_TAIL:])
    return f"{' '.join(command[:4])}\n{end}"
