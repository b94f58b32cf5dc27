"""`vigie worker` with a diary: the same command, that also notes when things happened inside it.

    python -m benchmarks.noted NOTES [options of `vigie worker`]

NOTES gets one line of JSON per note, each with `at_ms` (milliseconds since 1970), `cpu_s` (processor time of the whole
process so far) and `what`:

ready    partitions are taken over: a record would be processed now. Looked at every 5 ms.
insert   an insert of events has been answered: from here on every query sees its rows. `table`, `rows`, and `reached`,
         which is [partition, last offset] of each partition in it.
first    the first record has been taken.
last     the last record has become durable; written at the end.

Only the worker's own process knows when an embedded ClickHouse has answered it, because no other can open the
directory. Each note is taken after the fact, on the thread that learns of it, and costs some 0.1 ms an insert.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

# First, as in the command itself: it tells Polars how many threads it may have.
import streams.settings

# isort: split
import streams.cli.worker
import streams.worker
from benchmarks.figures import last_by_partition
from benchmarks.marked import marked
from processors.territory import Territory
from sinks.clickhouse import Sink
from streams.clock import Clock
from streams.settings import Settings
from streams.waiting import wait
from streams.worker import Worker

_LOOK_S: Final = 0.005


class Notes:
    """The diary. Lines are written whole, from any thread."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w", buffering=1, encoding="utf-8")
        self._has_begun = False
        self._last: dict[str, Any] | None = None

    def write(self, what: str, **more: Any) -> None:
        self._file.write(json.dumps(_note(what, more)) + "\n")

    def part(self, durable: bool) -> None:
        """Records came or, where `durable`, became durable."""
        if not self._has_begun:
            self._has_begun = True
            self.write("first")
        # Asking for the processor time of a hundred busy threads is slow: not for each batch that comes.
        if durable:
            self._last = _note("last", {})

    def close(self) -> None:
        if self._last is not None:
            self._file.write(json.dumps(self._last) + "\n")
        self._file.close()


def _note(what: str, more: Mapping[str, Any]) -> dict[str, Any]:
    return {"what": what, "at_ms": time.time_ns() // 1_000_000, "cpu_s": round(time.process_time(), 4), **more}


class _Client:
    """The ClickHouse client, which notes inserts of events."""

    def __init__(self, client: Any, notes: Notes) -> None:
        self._client = client
        self._notes = notes

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def insert_arrow(self, table: str, rows: Any, **more: Any) -> Any:
        answer = self._client.insert_arrow(table, rows, **more)
        if table.startswith("events_"):
            reached = last_by_partition(rows["partition"].to_numpy(), rows["offset"].to_numpy())
            self._notes.write("insert", table=table, rows=rows.num_rows, reached=reached)
        return answer


def main() -> None:
    """Run the command with a diary."""
    notes = Notes(Path(sys.argv[1]))

    class NotedWorker(Worker):
        def __init__(self, settings: Settings, territories: Mapping[str, Territory], sink: Sink, clock: Clock) -> None:
            super().__init__(settings, territories, replace(sink, client=_Client(sink.client, notes)), clock)

        async def work(self) -> None:
            looking = asyncio.create_task(self._look())
            try:
                await super().work()
            finally:
                looking.cancel()
                with suppress(asyncio.CancelledError):
                    await looking

        async def _look(self) -> None:
            never = asyncio.Event()
            while not self.is_ready:
                await wait(never, _LOOK_S)
            notes.write("ready")

    try:
        with (
            patch.object(streams.worker, "Tally", marked(notes.part)),
            patch.object(streams.cli.worker, "Worker", NotedWorker),
        ):
            streams.cli.worker.worker(sys.argv[2:], prog_name="worker")
    finally:
        notes.close()


if __name__ == "__main__":
    main()
