"""Plain Faust, record by record.

    python -m benchmarks.peers.faust_record --bootstrap H:P --job windows|store --count N --territory DIR \
        --schemas DIR --group NAME --results TOPIC [--clickhouse chdb:///PATH]

One agent for each raw topic, `async for event in stream.events()`, as Faust's documentation has it; uvloop, as its
"fast" bundle has it; inserts in a thread, so that the event loop stays free. The window cells are bare dictionaries:
Faust's windowed tables would cost more, by a copy and a changelog record for every update.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final

import faust
import mode.loop

from benchmarks.peers.common.command import Arguments, read_arguments, report
from benchmarks.peers.common.contracts import Record, topic_of
from benchmarks.peers.common.job import Job
from benchmarks.peers.common.store import BATCH_ROWS, Store

#: Inserts that may wait for the one inserting thread before an agent waits for them.
MAX_WAITING: Final = 2
#: Windows that wait for their acknowledgement together, and the bytes of them that one request may have.
RESULTS_AT_ONCE: Final = 10_000
RESULTS_BATCH_BYTES: Final = 512 * 1024
#: Faust would wait twenty minutes for an acknowledgement.
REQUEST_TIMEOUT_S: Final = 60.0
#: Without a record for so long, the topics have fewer than they should.
IDLE_TIMEOUT_S: Final = 60.0


class StalledError(Exception):
    """Records do not come any more, and there are fewer than there should be."""


@dataclass
class Run:
    """What all agents share."""

    arguments: Arguments
    jobs: dict[str, Job]
    store: Store | None
    rows: dict[str, list[Record]] = field(default_factory=dict)
    pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1))
    waiting: list[asyncio.Future[None]] = field(default_factory=list)
    processed: int = 0
    first_at: float | None = None
    done: asyncio.Event = field(default_factory=asyncio.Event)

    async def insert(self, store: Store, domain: str, rows: list[Record]) -> None:
        """Hand rows to the inserting thread; wait only when too many inserts wait already."""
        loop = asyncio.get_running_loop()
        self.waiting.append(loop.run_in_executor(self.pool, store.insert, domain, rows))
        while len(self.waiting) > MAX_WAITING:
            await self.waiting.pop(0)

    async def wait(self) -> None:
        """Return when all records are processed. Raises StalledError when none comes any more."""
        while not self.done.is_set():
            before = self.processed
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.done.wait(), IDLE_TIMEOUT_S)
            if self.processed == before and not self.done.is_set():
                raise StalledError(f"no more than {before} of {self.arguments.count} records")

    async def finish(self, app: faust.App) -> None:
        """Store what is left, then produce the windows; everything is durable when this returns."""
        if self.store is not None:
            for domain, rows in self.rows.items():
                if rows:
                    await self.insert(self.store, domain, rows)
            await asyncio.gather(*self.waiting)
        # The producer itself: a topic's `send` makes one more future and calls the sensors for each message. Partition
        # 0 is the only one, and were it not named, every key would be hashed, in Python.
        producer = await app.maybe_start_producer()
        topic = self.arguments.results
        for job in self.jobs.values():
            cells = job.results()
            while some := list(islice(cells, RESULTS_AT_ONCE)):
                sent = [await producer.send(topic, key, value, 0, None, None) for key, value in some]
                await asyncio.gather(*sent)


def make_app(run: Run) -> faust.App:
    """The Faust application: one agent for each domain, and a task that ends the run."""
    app = faust.App(
        run.arguments.group,
        broker=f"kafka://{run.arguments.bootstrap}",
        store="memory://",
        # Fast paths of its C extensions that are off by default.
        cython_optimizations=True,
        consumer_auto_offset_reset="earliest",
        producer_max_batch_size=RESULTS_BATCH_BYTES,
        producer_request_timeout=REQUEST_TIMEOUT_S,
        topic_allow_declare=False,
        topic_disable_leader=True,
        web_enabled=False,
    )
    for domain in run.jobs:
        add_agent(app, domain, run)

    async def end() -> None:
        await run.wait()
        await run.finish(app)
        report(run.processed, time.monotonic() - (run.first_at or 0.0), run.store)
        # Faust's worker leaves its group and stops on SIGTERM.
        os.kill(os.getpid(), signal.SIGTERM)

    app.task()(end)
    return app


def add_agent(app: faust.App, domain: str, run: Run) -> None:
    topic = app.topic(topic_of(domain), value_type=bytes, value_serializer="raw", key_type=bytes, key_serializer="raw")
    job, store = run.jobs[domain], run.store

    async def process(stream: Any) -> None:
        rows: list[Record] = []
        events: AsyncIterator[Any] = stream.events()
        async for event in events:
            if run.first_at is None:
                run.first_at = time.monotonic()
            record = job.place(event.value)
            job.count(record)
            if store is not None:
                message = event.message
                record["partition"] = message.partition
                record["offset"] = message.offset
                rows.append(record)
                if len(rows) >= BATCH_ROWS:
                    await run.insert(store, domain, rows)
                    rows = []
                run.rows[domain] = rows
            run.processed += 1
            if run.processed == run.arguments.count:
                run.done.set()

    app.agent(topic, name=f"peer-{domain}")(process)


def main() -> None:
    arguments = read_arguments("Plain Faust, record by record.")
    jobs = arguments.jobs()
    store = arguments.store(jobs)
    # Before anything asks for the event loop.
    mode.loop.use("uvloop")
    app = make_app(Run(arguments, jobs, store))
    # At WARN and above Faust shows a spinner and, to make it turn, has every debug line of every library made.
    worker = faust.Worker(app, loglevel="INFO", quiet=True, redirect_stdouts=False)
    worker.execute_from_commandline()


if __name__ == "__main__":
    main()
