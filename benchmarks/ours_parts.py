"""vigie's own parts doing a job and nothing else: what they cost beside peers that do as little.

    python -m benchmarks.ours_parts --bootstrap H:P --job windows --count N --territory DIR --schemas DIR \
        --group NAME --results TOPIC
    python -m benchmarks.ours_parts … --job store --clickhouse chdb:///PATH

Transport, codec, locator, aggregation and the way of events into ClickHouse are the product's, and records are put
together in batches as its worker does it. Left out is what the job does not ask for: validation, duplicates, order,
detectors, states of assets, snapshots. It ends by itself, as every worker does, and prints the same line of JSON.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import time
from collections.abc import Mapping, Set
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import click
import faust
from faust.types import TP

from benchmarks.ours_job import Job
from benchmarks.ours_rows import Store
from benchmarks.wire import encoded, publish
from schemas.contracts import RAW_TOPICS, Domain
from schemas.records import Batch, joined
from streams import settings as vigie
from streams.app import MOST_POLLED
from streams.settings import Settings
from streams.territory.files import load
from streams.transport import SCHEME, BatchSchema, Fetched, Keeper
from streams.tuning import tune
from streams.waiting import linger_s

#: Batches' worth of records that may wait in memory before an agent waits: as in the worker.
_ARRIVED: Final = 5
_COMMIT_S: Final = 30.0


@dataclass
class Counting:
    """What has arrived and what was counted. Also the transport's keeper: nothing here outlives the process."""

    settings: Settings
    job: Job
    store: Store | None
    count: int
    arrived: dict[Domain, list[Batch]] = field(default_factory=lambda: {domain: [] for domain in RAW_TOPICS})
    next_offsets: dict[TP, int] = field(default_factory=dict)
    processed: int = 0
    first_s: float | None = None
    news: dict[Domain, asyncio.Event] = field(
        default_factory=lambda: {domain: asyncio.Event() for domain in RAW_TOPICS}
    )
    done: asyncio.Event = field(default_factory=asyncio.Event)
    room: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def patience_s(self) -> float:
        return 1.0

    async def rest(self, has_more: bool) -> None:
        await asyncio.sleep(self.settings.linger_s / 4)

    async def drain(self) -> None:
        """Nothing is begun that somebody else could go on with."""

    def assigned(self, partitions: Set[TP]) -> None:
        """The only member of its group has them all."""

    def positioned(self, committed: Mapping[TP, int]) -> None:
        """A fresh group begins at the beginning."""

    def wants_batches(self, topic: str) -> bool:
        return True

    @property
    def waiting(self) -> int:
        """Records that have arrived and are not counted."""
        return sum(len(batch) for batches in self.arrived.values() for batch in batches)

    async def arrive(self, domain: Domain, message: Any) -> None:
        """Take one fetched batch of one partition; waits while too much is in memory."""
        if self.first_s is None:
            self.first_s = time.monotonic()
        fetched: Fetched = message.value
        while self.waiting >= _ARRIVED * self.settings.batch_records:
            self.room.clear()
            await self.room.wait()
        self.arrived[domain].append(fetched.batch)
        self.next_offsets[TP(fetched.batch.topic, fetched.batch.partition)] = fetched.batch.last_offset + 1
        self.news[domain].set()

    def take(self, domain: Domain) -> Batch | None:
        """At most a batch's worth of what has arrived of a topic; the rest of what was fetched at once stays.

        Of one partition where rows are stored, which have their place in Kafka.
        """
        taken: list[Batch] = []
        batches, count = self.arrived[domain], 0
        while batches and (not taken or self._go_together(taken[0], batches[0], count)):
            count += len(batches[0])
            taken.append(batches.pop(0))
        return joined(taken) if taken else None

    def _go_together(self, first: Batch, other: Batch, count: int) -> bool:
        is_one = self.store is None or first.partition == other.partition
        return is_one and count + len(other) <= self.settings.batch_records

    async def process(self) -> None:
        """Count what arrives, in a thread, until all of it is counted: a loop for each topic, as in the worker."""
        with ThreadPoolExecutor(1, "stages") as stages:
            loops = [asyncio.create_task(self._loop(domain, stages)) for domain in RAW_TOPICS]
            ended = asyncio.create_task(self.done.wait())
            try:
                finished, _ = await asyncio.wait([ended, *loops], return_when=asyncio.FIRST_COMPLETED)
                for one in finished:
                    one.result()
            finally:
                for one in (ended, *loops):
                    one.cancel()

    async def _loop(self, domain: Domain, stages: Executor) -> None:
        news, most, spent_s = self.news[domain], self.settings.batch_records, 0.0
        while True:
            await news.wait()
            if sum(map(len, self.arrived[domain])) < most:
                await asyncio.sleep(linger_s(self.settings.linger_s, spent_s))
            news.clear()
            spent_s = 0.0
            while (batch := self.take(domain)) is not None:
                started = time.monotonic()
                frame = await asyncio.get_running_loop().run_in_executor(stages, self.job.take, domain, batch)
                spent_s += time.monotonic() - started
                if self.store is not None:
                    await self.store.take(domain, batch, frame)
                self.processed += len(batch)
                self.room.set()
            if self.processed >= self.count:
                self.done.set()


def make_app(settings: Settings, counting: Counting) -> Any:
    """The Faust application over the product's transport; its settings are those of `streams.app` that tell here."""
    app: Any = faust.App(
        settings.group,
        broker=f"{SCHEME}://{settings.kafka_bootstrap}",
        autodiscover=False,
        store="memory://",
        web_enabled=False,
        topic_allow_declare=False,
        topic_disable_leader=True,
        broker_max_poll_records=MOST_POLLED,
        broker_check_crcs=True,
        consumer_max_fetch_size=settings.fetch_bytes,
        consumer_auto_offset_reset="earliest",
        producer_threaded=False,
        stream_buffer_maxsize=4,
    )
    keeper: Keeper = counting
    app.keeper = keeper
    for domain, topic in RAW_TOPICS.items():
        _agent(app, domain, topic, counting)
    app.finalize()
    return app


def _agent(app: Any, domain: Domain, topic: str, counting: Counting) -> None:
    async def agent(stream: Any) -> None:
        async for event in stream.events():
            await counting.arrive(domain, event.message)

    app.agent(app.topic(topic, acks=False, schema=BatchSchema()), name=f"count_{domain}")(agent)


async def count(settings: Settings, job: Job, store: Store | None, records: int, results: str) -> dict[str, Any]:
    """Do the job for so many records; returns the line's figures once results are published, rows inserted and offsets
    committed."""
    counting = Counting(settings, job, store, records)
    app = make_app(settings, counting)
    await app.start()
    try:
        await counting.process()
        if store is not None:
            await store.finish()
        keys, values = encoded(job.changed())
        await asyncio.to_thread(publish, settings.kafka_bootstrap, results, keys, values)
        if not await app.consumer.commit_offsets(counting.next_offsets, _COMMIT_S):
            raise click.ClickException("Kafka did not take the offsets")
        seconds = time.monotonic() - (counting.first_s or 0.0)
    finally:
        await app.stop()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "events": counting.processed,
        "seconds": round(seconds, 3),
        "peak_rss_mib": round(peak, 1),
        "stored": 0 if store is None else store.close(),
    }


@click.command()
@click.option("--bootstrap", required=True, help="host:port of Kafka.")
@click.option("--job", type=click.Choice(["windows", "store"]), required=True, help="What is done.")
@click.option("--count", "records", required=True, type=int, help="Records to process before it ends.")
@click.option("--territory", required=True, type=click.Path(path_type=Path), help="The territory's folder.")
@click.option("--schemas", help="Not read: the contracts are the package's own.")
@click.option("--group", required=True, help="Consumer group, a fresh one for each run.")
@click.option("--results", required=True, help="Topic of the results.")
@click.option("--clickhouse", help="chdb:///PATH, for job `store`.")
def main(
    bootstrap: str,
    job: str,
    records: int,
    territory: Path,
    schemas: str | None,
    group: str,
    results: str,
    clickhouse: str | None,
) -> None:
    """Count records in windows with vigie's own parts, and store them."""
    if (job == "store") != bool(clickhouse):
        raise click.UsageError("job `store` needs --clickhouse, job `windows` has none")
    tune()
    settings = vigie.load(kafka_bootstrap=bootstrap, group=group)
    found, _ = load(territory)
    counted = Job({found.jurisdiction_id: found})
    store = Store(clickhouse, counted, {found.jurisdiction_id: found.version}, settings) if clickhouse else None
    figures = asyncio.run(count(settings, counted, store, records, results))
    sys.stdout.write(json.dumps(figures) + "\n")


if __name__ == "__main__":
    main()
