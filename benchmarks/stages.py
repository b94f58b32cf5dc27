"""Floors: one stage of a job alone, on the same records, in a process of its own.

    python -m benchmarks.stages STAGE --bootstrap H:P --count N --territory DIR --group NAME [--results TOPIC] \
        [--clickhouse chdb:///PATH]

What a stage needs from the stages before it is made first and kept in memory; only the stage itself is timed. Prints
one line of JSON: {"events", "seconds", "cpu_s", "peak_rss_mib"}.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import click
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener
from confluent_kafka import Consumer, TopicPartition

from benchmarks import engine
from benchmarks.log import consume, read_batches
from benchmarks.ours_job import Job, decoded, located
from benchmarks.wire import encoded, publish
from processors.locate import Locator
from processors.pipeline import PartitionState, Reference, new_state, run, take_window_rows
from processors.territory import Territory
from schemas.codec import decode
from schemas.contracts import RAW_TOPICS, contract_of, domain_of
from schemas.records import Batch
from schemas.writers import own_writers
from sinks.clickhouse import connect, migrate
from sinks.rows import Origin, ZoneMaps
from sinks.store import Block, ChunkPart, Part, store_derived, store_records
from streams import settings as vigie
from streams.app import MOST_POLLED
from streams.fetching import keep_blocks
from streams.settings import Settings
from streams.territory.files import load
from streams.transport import counted
from streams.tuning import tune


@dataclass
class Stopwatch:
    """Wall and processor seconds between `start` and `stop`, added up."""

    seconds: float = 0.0
    cpu_s: float = 0.0
    _since: tuple[float, float] | None = None

    def start(self) -> None:
        """Begin; nothing where it runs already."""
        self._since = self._since or (time.monotonic(), time.process_time())

    def stop(self) -> None:
        assert self._since is not None
        self.seconds += time.monotonic() - self._since[0]
        self.cpu_s += time.process_time() - self._since[1]
        self._since = None


@dataclass
class Bench:
    """What every stage is given."""

    settings: Settings
    count: int
    territory: Path
    results: str
    clickhouse: str
    watch: Stopwatch = field(default_factory=Stopwatch)

    def territories(self) -> dict[str, Territory]:
        found, _ = load(self.territory)
        return {found.jurisdiction_id: found}

    def batches(self) -> list[Batch]:
        """All records, in batches as the worker makes them."""
        return read_batches(self.settings, self.count)


class _Assigned(ConsumerRebalanceListener):  # type: ignore[misc]
    """Starts the clock when there is something to fetch from."""

    def __init__(self, watch: Stopwatch) -> None:
        self._watch = watch

    def on_partitions_revoked(self, revoked: Any) -> None:
        """Nothing is left to hand over."""

    def on_partitions_assigned(self, assigned: Any) -> None:
        self._watch.start()


def read_aiokafka(bench: Bench) -> None:
    """Fetch as the worker's transport does, and forget."""

    async def read() -> None:
        keep_blocks(lambda topic: topic in RAW_TOPICS.values())
        consumer = AIOKafkaConsumer(
            bootstrap_servers=bench.settings.kafka_bootstrap,
            group_id=bench.settings.group,
            auto_offset_reset="earliest",
            enable_auto_commit=False,
            max_partition_fetch_bytes=bench.settings.fetch_bytes,
            check_crcs=True,
        )
        consumer.subscribe(list(RAW_TOPICS.values()), listener=_Assigned(bench.watch))
        await consumer.start()
        left = bench.count
        try:
            while left > 0:
                found = await consumer.getmany(timeout_ms=1_000, max_records=MOST_POLLED)
                left -= sum(counted(run) for run in found.values())
            bench.watch.stop()
        finally:
            await consumer.stop()

    asyncio.run(read())


def read_librdkafka(bench: Bench) -> None:
    """Fetch with Confluent's client, take the value out of each message, and forget."""
    consumer = Consumer(
        {
            "bootstrap.servers": bench.settings.kafka_bootstrap,
            "group.id": bench.settings.group,
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "check.crcs": True,
        }
    )

    def assigned(_: Consumer, partitions: list[TopicPartition]) -> None:
        bench.watch.start()
        consumer.assign(partitions)

    consumer.subscribe(list(RAW_TOPICS.values()), on_assign=assigned)
    left = bench.count
    for messages in consume(consumer, MOST_POLLED):
        for message in messages:
            message.value()
        left -= len(messages)
        if left <= 0:
            break
    bench.watch.stop()
    consumer.close()


def decode_only(bench: Bench) -> None:
    """Bytes to frames."""
    batches = [(contract_of(domain_of(batch.topic)), batch) for batch in bench.batches()]
    writers = {contract: own_writers(contract) for contract, _ in batches}
    bench.watch.start()
    for contract, batch in batches:
        decode(contract, batch, writers[contract])
    bench.watch.stop()


def locate_only(bench: Bench) -> None:
    """Frames to frames with zones, by a locator that has seen no position yet."""
    frames = [(domain, decoded(domain, batch)) for domain, batch in _by_domain(bench)]
    locator = Locator(bench.territories())
    bench.watch.start()
    for domain, frame in frames:
        locator.locate(frame, domain)
    bench.watch.stop()


def aggregate_only(bench: Bench) -> None:
    """Located frames to window totals."""
    job = Job(bench.territories())
    frames = [(domain, located(job.locator, domain, decoded(domain, batch))) for domain, batch in _by_domain(bench)]
    bench.watch.start()
    for domain, frame in frames:
        job.add(domain, frame)
    job.changed()
    bench.watch.stop()


def publish_only(bench: Bench) -> None:
    """Window totals to the results topic."""
    job = Job(bench.territories())
    for domain, batch in _by_domain(bench):
        job.take(domain, batch)
    windows = job.changed()
    bench.watch.start()
    publish(bench.settings.kafka_bootstrap, bench.results, *encoded(windows))
    bench.watch.stop()


def insert_only(bench: Bench) -> None:
    """Outcomes of the stages to rows, and rows to ClickHouse, in blocks as a flush makes them."""
    territories = bench.territories()
    reference = Reference(Locator(territories))
    versions = {name: territory.version for name, territory in territories.items()}
    sink = connect(bench.clickhouse)
    try:
        migrate(sink)
        zones = ZoneMaps(reference.locator.sets)
        for block in _blocks(bench, reference):
            bench.watch.start()
            if store_records(block, sink, zones, versions):
                raise click.ClickException("ClickHouse refused rows")
            store_derived(block, sink, zones)
            bench.watch.stop()
    finally:
        sink.close()


def _blocks(bench: Bench, reference: Reference) -> Iterator[Block]:
    """Everything the stages give, a flush's worth at a time."""
    states: dict[tuple[str, int], PartitionState] = {}
    touched: set[tuple[str, int]] = set()
    block, rows = Block(), 0
    batches = bench.batches()
    for index, batch in enumerate(batches):
        place, domain = (batch.topic, batch.partition), domain_of(batch.topic)
        state = states.setdefault(place, new_state(*place, domain, reference))
        for outcome in run(batch, state, reference, own_writers(contract_of(domain))):
            part = Part(Origin(*place), outcome.batch.first_offset, outcome.batch.last_offset, outcome.events)
            block.events[domain].append(part)
            rows += len(outcome.events)
        touched.add(place)
        if rows >= bench.settings.flush_rows or index == len(batches) - 1:
            block.windows = [
                ChunkPart(Origin(*one), chunk.first_offset, chunk.last_offset + 1, chunk.rows)
                for one in sorted(touched)
                for chunk in take_window_rows(states[one])
            ]
            yield block
            block, rows, touched = Block(), 0, set()


def _by_domain(bench: Bench) -> Iterator[tuple[Any, Batch]]:
    return ((domain_of(batch.topic), batch) for batch in bench.batches())


def clickhouse_windows(bench: Bench) -> None:
    """ClickHouse's own engine doing the whole of job `windows` in SQL; its results are published, untimed."""
    folder = Path(bench.clickhouse.removeprefix("chdb://")).parent
    done = engine.Engine(folder, bench.clickhouse, *bench.territories().values())
    try:
        done.dump(bench.batches())
        bench.watch.start()
        done.count()
        bench.watch.stop()
        publish(bench.settings.kafka_bootstrap, bench.results, *encoded(done.windows()))
    finally:
        done.close()


STAGES: Final[Mapping[str, Callable[[Bench], None]]] = {
    "read_aiokafka": read_aiokafka,
    "read_librdkafka": read_librdkafka,
    "decode": decode_only,
    "locate": locate_only,
    "aggregate": aggregate_only,
    "publish": publish_only,
    "insert": insert_only,
    "clickhouse_windows": clickhouse_windows,
}


@click.command()
@click.argument("stage", type=click.Choice(list(STAGES)))
@click.option("--bootstrap", required=True, help="host:port of Kafka.")
@click.option("--count", required=True, type=int, help="Records in the topics.")
@click.option("--territory", required=True, type=click.Path(path_type=Path), help="The territory's folder.")
@click.option("--group", required=True, help="Consumer group, a fresh one for each run.")
@click.option("--results", default="", help="Topic of the results, for stages that have any.")
@click.option("--clickhouse", default="", help="chdb:///PATH, for stages that need it.")
def main(stage: str, bootstrap: str, count: int, territory: Path, group: str, results: str, clickhouse: str) -> None:
    """Time one stage alone."""
    tune()
    bench = Bench(vigie.load(kafka_bootstrap=bootstrap, group=group), count, territory, results, clickhouse)
    STAGES[stage](bench)
    figures = {
        "events": count,
        "seconds": round(bench.watch.seconds, 4),
        "cpu_s": round(bench.watch.cpu_s, 4),
        "peak_rss_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
    }
    sys.stdout.write(json.dumps(figures) + "\n")


if __name__ == "__main__":
    main()
