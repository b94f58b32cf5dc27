"""`vigie worker` with a clock at each of its steps: the same command, that also tells where its processor time went.

    python -m benchmarks.profiled FILE [options of `vigie worker`]

FILE gets one object of JSON when the worker has ended: `steps` (name, calls, `cpu_s` of the thread that called and
`wall_s`), `threads` (processor time by name) and `cpu_s` of the process. The last two are between the first record
taken and the last that became durable; the steps begin with the process. What Polars and ClickHouse do in threads of
their own stands under `threads` alone; on one core Polars has one, and waits for it.

A clock reads two clocks before and after a call; in a run of 400 000 events there are about a thousand calls.
"""

from __future__ import annotations

import functools
import json
import os
import re
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

# First, as in the command itself: it tells Polars how many threads it may have.
import streams.settings

# isort: split
import processors.pipeline
import sinks.rows
import sinks.store
import streams.cli.worker
import streams.flusher
import streams.ledger
import streams.worker
from benchmarks.marked import marked
from processors.aggregate import Windows
from processors.alerts import AlertBook
from processors.detect.asset import AssetDetectors
from processors.locate import Locator
from processors.order import Held
from sinks.clickhouse import Sink

#: Steps in the way of the data: name, whose attribute it is, and which. None of them is within another.
STEPS: Final[tuple[tuple[str, Any, str], ...]] = (
    ("gather", streams.ledger.Entry, "take"),
    ("decode", processors.pipeline, "decode"),
    ("validate", processors.pipeline, "validate"),
    ("locate", Locator, "locate"),
    ("duplicates", processors.pipeline, "drop_duplicates"),
    ("late", processors.pipeline, "mark_late"),
    ("aggregate", Windows, "add"),
    ("order", Held, "step"),
    ("detect", AssetDetectors, "step"),
    ("alerts", AlertBook, "step"),
    ("merge windows", streams.flusher, "take_window_rows"),
    ("freeze", streams.flusher, "freeze"),
    ("event rows", sinks.rows, "_event_table"),
    ("asset rows", sinks.store, "asset_states"),
    ("code texts", sinks.store, "coded"),
    ("insert", Sink, "_insert"),
)

#: A thread that used less is not worth a line.
_LEAST_S: Final = 0.01


class Clocks:
    """Calls and time by step, from any thread."""

    def __init__(self) -> None:
        self.found: dict[str, list[float]] = {}
        self._lock = threading.Lock()

    def timed(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """The same function; inserts are told apart by their table."""

        @functools.wraps(call)
        def clocked(*given: Any, **named: Any) -> Any:
            wall_s, cpu_s = time.perf_counter(), time.thread_time()
            try:
                return call(*given, **named)
            finally:
                wall_s, cpu_s = time.perf_counter() - wall_s, time.thread_time() - cpu_s
                full = f"{name} {given[1]}" if name == "insert" else name
                with self._lock:
                    entry = self.found.setdefault(full, [0, 0.0, 0.0])
                    for at, value in enumerate((1.0, cpu_s, wall_s)):
                        entry[at] += value

        return clocked


def threads_cpu_s() -> dict[str, float]:
    """Processor time of the living threads by their names without numbers: Python's names, else the system's."""
    python = {thread.native_id: thread.name for thread in threading.enumerate()}
    tick, found = os.sysconf("SC_CLK_TCK"), defaultdict[str, float](float)
    for task in Path("/proc/self/task").iterdir():
        try:
            told = (task / "stat").read_text("utf-8", errors="replace")
        except OSError:
            continue
        name, _, rest = told.partition("(")[2].rpartition(")")
        fields = rest.split()
        name = python.get(int(task.name), name)
        found[re.sub(r"[-_]?\d+(_\d+)?$", "", name)] += (int(fields[11]) + int(fields[12])) / tick
    return found


class Span:
    """Processor time between the first record taken and the last that became durable."""

    def __init__(self) -> None:
        self._first: tuple[float, dict[str, float]] | None = None
        self._last: tuple[float, dict[str, float]] | None = None

    def mark(self, durable: bool) -> None:
        """A record was taken or, where `durable`, records became so."""
        if self._first is None:
            self._first = time.process_time(), threads_cpu_s()
        elif durable:
            self._last = time.process_time(), threads_cpu_s()

    def told(self) -> dict[str, Any]:
        """`cpu_s` and `threads`, most first. Threads that have ended are missing from the second."""
        if self._first is None or self._last is None:
            return {"cpu_s": 0.0, "threads": {}}
        (began_s, before), (ended_s, after) = self._first, self._last
        spent = {name: round(cpu_s - before.get(name, 0.0), 3) for name, cpu_s in after.items()}
        most_first = sorted(spent.items(), key=lambda one: -one[1])
        return {
            "cpu_s": round(ended_s - began_s, 3),
            "threads": {name: cpu_s for name, cpu_s in most_first if cpu_s >= _LEAST_S},
        }


def main() -> None:
    """Run the command with clocks."""
    file, clocks, span = Path(sys.argv[1]), Clocks(), Span()

    with ExitStack() as patches:
        patches.enter_context(patch.object(streams.worker, "Tally", marked(span.mark)))
        for name, owner, attribute in STEPS:
            timed = clocks.timed(name, getattr(owner, attribute))
            patches.enter_context(patch.object(owner, attribute, timed))
        try:
            streams.cli.worker.worker(sys.argv[2:], prog_name="worker")
        finally:
            steps = [
                {"step": name, "calls": int(calls), "cpu_s": round(cpu_s, 4), "wall_s": round(wall_s, 4)}
                for name, (calls, cpu_s, wall_s) in clocks.found.items()
            ]
            file.write_text(json.dumps({**span.told(), "steps": steps}) + "\n", "utf-8")


if __name__ == "__main__":
    main()
