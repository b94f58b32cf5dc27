"""`vigie` in a process whose every step is written down, and that may be killed at one of them.

    python -m tests.support.stepped --record FILE [--kill STEP …] [--trouble STEP] [--constant NAME=N] … -- worker

Each step reached is a line of FILE, there at once: it survives the SIGKILL, which comes at the N-th time STEP is
reached, from within the thread that reaches it; the last line is then STEP. With `--armed-by` only the times count at
which that file is there. With `--delay-ms` the kill comes so much later, in the midst of what STEP begins. With
`--trouble` the first time that step is reached ends in the error that the code around it expects. `--constant` replaces
a number of a watched module, `--code-version` what snapshots bear. A command that ends by itself adds which modules of
ours it had imported.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from aiokafka.errors import KafkaConnectionError

from tests.support.steps import ROOT, Hook, install, module_of, site_of, sites

#: Beside the steps the file holds the modules of ours that were imported, so marked.
IMPORTED: Final = "imported "
_OURS: Final = ("streams.", "sinks.")


@dataclass(frozen=True)
class Kill:
    """The `hit`-th time that a step is reached (once `armed_by` is there), and `delay_ms` more."""

    step: str
    hit: int = 1
    delay_ms: float = 0.0
    armed_by: Path | None = None

    @property
    def arguments(self) -> list[str]:
        """The same for the command line."""
        armed = [] if self.armed_by is None else ["--armed-by", str(self.armed_by)]
        return ["--kill", self.step, "--hit", str(self.hit), "--delay-ms", str(self.delay_ms), *armed]


def recorder(file: Path, kill: Kill | None, die: Callable[[], None], trouble: str | None = None) -> Hook:
    """A hook that writes down each step, and calls `die` when the one to be killed at is reached.

    It appends to `file` with one system call per step, from whichever thread. `trouble` is a step that raises the first
    time.
    """
    # Kept open as long as the process lives.
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    lock = threading.Lock()
    reached = 0
    troubles = [trouble] if trouble else []

    def hook(name: str) -> None:
        nonlocal reached
        os.write(descriptor, f"{name}\n".encode())
        if kill is not None and name == kill.step and (kill.armed_by is None or kill.armed_by.exists()):
            with lock:
                reached += 1
                due = reached == kill.hit
            if due and kill.delay_ms:
                threading.Timer(kill.delay_ms / 1_000, die).start()
            elif due:
                die()
        if name in troubles:
            troubles.remove(name)
            raise expected_error(name)

    return hook


def expected_error(name: str) -> BaseException:
    """The error that the code around a step expects there: the first that its `try` names, else a lost connection, as
    Kafka's client tells of one in `streams`."""
    site = next(one for one in sites(ROOT / name.split(" | ")[0]) if one.name == site_of(name))
    for caught in site.catches:
        kind: type[BaseException] = eval(caught, vars(sys.modules[module_of(site.file)]))
        if kind not in (Exception, BaseException, asyncio.CancelledError):
            return kind("made by a test")
    lost = KafkaConnectionError if site.file.startswith("streams/") else ConnectionResetError
    return lost("made by a test")


def die_at_once() -> None:
    """End this process as nothing can prevent."""
    os.kill(os.getpid(), signal.SIGKILL)


@dataclass
class Trace:
    """What a process wrote down: its steps in order, and the modules of ours that it had imported when it ended."""

    steps: list[str] = field(default_factory=list)
    imported: set[str] = field(default_factory=set)

    @property
    def hits(self) -> Counter[str]:
        return Counter(self.steps)


def read(lines: Iterable[str]) -> Trace:
    """The trace in these lines; a line that the kill cut short does not count."""
    trace = Trace()
    for line in lines:
        if not line.endswith("\n"):
            continue
        text = line.removesuffix("\n")
        if text.startswith(IMPORTED):
            trace.imported.add(text.removeprefix(IMPORTED))
        else:
            trace.steps.append(text)
    return trace


def main() -> None:
    parser = argparse.ArgumentParser(prog="stepped", description=__doc__)
    parser.add_argument("--record", type=Path, required=True, metavar="FILE")
    parser.add_argument("--kill", metavar="STEP")
    parser.add_argument("--hit", type=int, default=1, metavar="N")
    parser.add_argument("--armed-by", type=Path, metavar="FILE")
    parser.add_argument("--delay-ms", type=float, default=0.0, metavar="D")
    parser.add_argument("--trouble", metavar="STEP")
    parser.add_argument("--constant", action="append", default=[], metavar="NAME=N")
    parser.add_argument("--code-version", metavar="TEXT")
    parser.add_argument("command", nargs="+")
    chosen = parser.parse_args()
    kill = None
    if chosen.kill is not None:
        kill = Kill(chosen.kill, chosen.hit, chosen.delay_ms, chosen.armed_by)
    # As a worker sets it, only sooner: a quarter of what the imports take is the collector's.
    gc.set_threshold(100_000, 50, 50)
    constants = dict(constant.split("=") for constant in chosen.constant)
    install(recorder(chosen.record, kill, die_at_once, chosen.trouble), {n: int(v) for n, v in constants.items()})
    # Only now: its modules are rewritten as they are imported.
    from streams.cli.main import main as vigie

    if chosen.code_version:
        from processors import pipeline

        vars(pipeline)["CODE_VERSION"] = chosen.code_version

    try:
        vigie(chosen.command, prog_name="vigie")
    finally:
        with chosen.record.open("a", encoding="utf-8") as file:
            file.writelines(f"{IMPORTED}{name}\n" for name in sorted(sys.modules) if name.startswith(_OURS))


if __name__ == "__main__":
    main()
