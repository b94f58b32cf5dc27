"""Plain Faust, record by record: the peer the pipeline is measured against.

    python -m benchmarks.peers.faust_record --bootstrap H:P --count N --territory DIR --schemas DIR \
        --clickhouse chdb:///PATH --group NAME

It ends by itself when `count` records are processed and everything is durable, and writes one line of JSON to standard
output: {"events", "seconds", "peak_rss_mib", "window_events", "stored"}. `seconds` runs from the first record received
to everything durable.

One agent for each raw topic, `async for event in stream.events()`, as Faust's documentation has it; uvloop, as its
"fast" bundle has it; inserts of 5 000 rows in a thread, so that the event loop stays free. What it does not do and
vigie does: validation, duplicates, detectors, snapshots, offsets that wait for the insert.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import clickhouse_connect
import faust
import mode.loop
import pyarrow as pa

from benchmarks.peers.faust_record.job import (
    WINDOWS_DDL,
    Contract,
    Job,
    events_ddl,
    events_table,
    kind_of,
    read_contract,
    read_places,
    windows_table,
)

CONTRACTS: Final = {
    "sensor": "SensorObservation",
    "lighting": "LightingObservation",
    "roadway": "RoadwayObservation",
    "report": "CitizenReport",
}
BATCH_ROWS: Final = 5_000
#: Inserts that may wait for the one inserting thread before an agent waits for them.
MAX_WAITING: Final = 4


@dataclass
class Run:
    """What all agents share."""

    count: int
    client: Any
    jobs: dict[str, Job]
    pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1))
    waiting: list[asyncio.Future[None]] = field(default_factory=list)
    processed: int = 0
    first_at: float | None = None
    done: asyncio.Event = field(default_factory=asyncio.Event)

    async def store(self, domain: str) -> None:
        """Hand the rows of a domain to the inserting thread; wait only when too many inserts wait already."""
        rows = self.jobs[domain].take_rows()
        if not rows:
            return
        job = self.jobs[domain]

        def insert() -> None:
            self.insert(f"events_{domain}", events_table(job.contract, job.places, f"city.raw.{domain}", rows))

        self.waiting.append(asyncio.get_running_loop().run_in_executor(self.pool, insert))
        while len(self.waiting) > MAX_WAITING:
            await self.waiting.pop(0)

    def insert(self, table: str, rows: pa.Table) -> None:
        self.client.insert_arrow(table, rows, settings={"async_insert": 0})

    async def finish(self) -> None:
        """Store what is left, then the windows; everything is durable when this returns."""
        for domain in self.jobs:
            await self.store(domain)
        await asyncio.gather(*self.waiting)
        loop = asyncio.get_running_loop()
        for domain, job in self.jobs.items():
            if job.windows:
                await loop.run_in_executor(self.pool, self.insert, "windows", windows_table(domain, job))

    def report(self, seconds: float) -> dict[str, float | int]:
        """The run's figures, counts as ClickHouse has them.

        `window_events` is what the windows of one layer count, and every event is in one zone of each layer (or in
        the layer's "nowhere"); raises ValueError if layers disagree.
        """
        stored = sum(self._count(f"SELECT count() FROM events_{domain}") for domain in self.jobs)
        by_layer = "(SELECT sum(count) AS n FROM windows WHERE metric LIKE '%.events' GROUP BY zone_layer)"
        fewest, most = (self._count(f"SELECT toUInt64({which}(n)) FROM {by_layer}") for which in ("min", "max"))
        if fewest != most:
            raise ValueError(f"one layer counts {fewest} events in its windows, another {most}")
        return {
            "events": self.processed,
            "seconds": round(seconds, 4),
            "peak_rss_mib": round(peak_rss_mib(), 1),
            "window_events": most,
            "stored": stored,
        }

    def _count(self, query: str) -> int:
        return int(self.client.command(query))


def peak_rss_mib() -> float:
    """Largest resident size so far. Not from getrusage: that begins with the size of the process that started us."""
    status = Path("/proc/self/status").read_text("ascii")
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024


def make_app(bootstrap: str, group: str, run: Run) -> faust.App:
    """The Faust application: one agent for each domain, and a task that ends the run."""
    app = faust.App(
        group,
        broker=f"kafka://{bootstrap}",
        store="memory://",
        consumer_auto_offset_reset="earliest",
        topic_allow_declare=False,
        topic_disable_leader=True,
        web_enabled=False,
    )
    for domain in run.jobs:
        add_agent(app, domain, run)

    async def end() -> None:
        await run.done.wait()
        await run.finish()
        seconds = time.monotonic() - (run.first_at or 0.0)
        sys.stdout.write(json.dumps(run.report(seconds)) + "\n")
        sys.stdout.flush()
        # Faust's worker leaves its group and stops on SIGTERM.
        os.kill(os.getpid(), signal.SIGTERM)

    app.task()(end)
    return app


def add_agent(app: faust.App, domain: str, run: Run) -> None:
    topic = app.topic(
        f"city.raw.{domain}", value_type=bytes, value_serializer="raw", key_type=bytes, key_serializer="raw"
    )
    job = run.jobs[domain]

    async def process(stream: Any) -> None:
        events: AsyncIterator[Any] = stream.events()
        async for event in events:
            if run.first_at is None:
                run.first_at = time.monotonic()
            message = event.message
            job.take(event.value, message.partition, message.offset)
            run.processed += 1
            if len(job.rows) >= BATCH_ROWS:
                await run.store(domain)
            if run.processed == run.count:
                run.done.set()

    app.agent(topic, name=f"peer-{domain}")(process)


def main() -> None:
    parser = argparse.ArgumentParser(description="Plain Faust, record by record.")
    parser.add_argument("--bootstrap", required=True, help="host:port of Kafka")
    parser.add_argument("--count", required=True, type=int, help="records to process before it ends")
    parser.add_argument("--territory", required=True, type=Path, help="the territory's folder")
    parser.add_argument("--schemas", required=True, type=Path, help="folder with the contracts (*.avsc)")
    parser.add_argument("--clickhouse", required=True, help="chdb:///PATH or clickhouse://...")
    parser.add_argument("--group", required=True, help="consumer group, a fresh one for each run")
    parser.add_argument("--loop", choices=("uvloop", "aio"), default="uvloop", help="event loop, as Faust names them")
    arguments = parser.parse_args()

    contracts: dict[str, Contract] = {
        domain: read_contract(arguments.schemas / f"{name}.avsc") for domain, name in CONTRACTS.items()
    }
    places = read_places(arguments.territory, datetime.now(UTC).date().isoformat())
    client = clickhouse_connect.get_client(dsn=arguments.clickhouse)
    for domain, contract in contracts.items():
        client.command(events_ddl(f"events_{domain}", contract))
    client.command(WINDOWS_DDL)
    jobs = {domain: Job(contract, places, kind_of(domain)) for domain, contract in contracts.items()}
    # Before anything asks for the event loop.
    mode.loop.use(arguments.loop)
    run = Run(arguments.count, client, jobs)
    app = make_app(arguments.bootstrap, arguments.group, run)
    faust.Worker(app, loglevel="WARN", quiet=True, redirect_stdouts=False).execute_from_commandline()


if __name__ == "__main__":
    main()
