"""Quix Streams, one StreamingDataFrame a topic, the job done in batches by their sink.

    python -m benchmarks.peers.quix_streams --bootstrap H:P --job windows|store --count N --territory DIR \
        --schemas DIR --group NAME --results TOPIC [--clickhouse chdb:///PATH]

A sink is where Quix Streams gives a user records in batches: it is handed them one by one and flushed at every
checkpoint, before offsets are committed. Ours decodes, locates and counts at the flush, a thousand records at a time,
inserts one batch a topic, and at the last checkpoint produces the windows. As steps of the StreamingDataFrame (a
deserializer and `update`), record by record, the same code took up to half as long again.

The window cells are a bare dictionary in the sink. Quix Streams' own windows are for one message key in one partition:
totals of a zone would need every record sent to Kafka once more for each of its zones and metrics, about twenty times
(`group_by`), and then `tumbling_window(60_000).agg(...)` in RocksDB: without the detour through Kafka already a record
took 770 us, with the dictionary it takes 5 us.
"""

from __future__ import annotations

import sys
import tempfile
import time
from typing import Any, Final

from quixstreams import Application
from quixstreams.kafka import Producer
from quixstreams.sinks import BaseSink

from benchmarks.peers.common.command import Arguments, read_arguments, report
from benchmarks.peers.common.contracts import TOPIC_PREFIX, Record, topic_of
from benchmarks.peers.common.job import Job
from benchmarks.peers.common.store import Store

#: Records looked up together, and records between two checkpoints (fewer, if five seconds pass first).
LOOK_UP_AT_ONCE: Final = 1_000
CHECKPOINT_EVERY: Final = 50_000
#: All windows may wait for their acknowledgement at the same time.
MOST_RESULTS: Final = 2_000_000
#: Without a record for so long, the topics have fewer than they should.
IDLE_TIMEOUT_S: Final = 30.0
BROKER_TIMEOUT_S: Final = 30.0

#: Partition, offset and value.
Waiting = tuple[int, int, bytes]


class ResultError(Exception):
    """Kafka did not take a window."""


def check_delivered(error: object, _: object) -> None:
    if error is not None:
        raise ResultError(str(error))


class JobSink(BaseSink):
    """Collects records between checkpoints and does the job at each; nothing is durable before its flush returns."""

    def __init__(self, arguments: Arguments, jobs: dict[str, Job], store: Store | None, producer: Producer) -> None:
        super().__init__(on_client_connect_success=lambda: None)
        self._arguments = arguments
        self._jobs = jobs
        self._store = store
        self._producer = producer
        self._waiting: dict[str, list[Waiting]] = {topic_of(domain): [] for domain in jobs}
        self.processed = 0
        self.first_at: float | None = None
        self.durable_at = 0.0

    def add(self, value: Any, key: Any, timestamp: int, headers: Any, topic: str, partition: int, offset: int) -> None:
        if self.first_at is None:
            self.first_at = time.monotonic()
        self._waiting[topic].append((partition, offset, value))

    def flush(self) -> None:
        for topic, waiting in self._waiting.items():
            if waiting:
                self._take(topic.removeprefix(TOPIC_PREFIX), waiting)
                waiting.clear()
        if self.processed == self._arguments.count:
            self._produce_windows()
            self.durable_at = time.monotonic()

    def on_paused(self) -> None:
        """Quix Streams asks to drop what it will read again."""
        for waiting in self._waiting.values():
            waiting.clear()

    def _take(self, domain: str, waiting: list[Waiting]) -> None:
        job, store = self._jobs[domain], self._store
        rows: list[Record] = []
        for first in range(0, len(waiting), LOOK_UP_AT_ONCE):
            some = waiting[first : first + LOOK_UP_AT_ONCE]
            records = job.place_many([value for _, _, value in some])
            for record in records:
                job.count(record)
            if store is not None:
                for record, (partition, offset, _) in zip(records, some, strict=True):
                    record["partition"], record["offset"] = partition, offset
                rows += records
        if store is not None:
            store.insert(domain, rows)
        self.processed += len(waiting)

    def _produce_windows(self) -> None:
        with self._producer as producer:
            for job in self._jobs.values():
                for key, value in job.results():
                    producer.produce(self._arguments.results, value, key, on_delivery=check_delivered)


def make_app(arguments: Arguments, state: str) -> Application:
    return Application(
        broker_address=arguments.bootstrap,
        consumer_group=arguments.group,
        auto_offset_reset="earliest",
        commit_every=CHECKPOINT_EVERY,
        auto_create_topics=False,
        # No step of it keeps state in RocksDB.
        use_changelog_topics=False,
        state_dir=state,
        producer_extra_config={"queue.buffering.max.messages": MOST_RESULTS},
        broker_availability_timeout=BROKER_TIMEOUT_S,
        request_timeout=BROKER_TIMEOUT_S,
        loglevel="WARNING",
    )


def main() -> None:
    arguments = read_arguments("Quix Streams, one StreamingDataFrame a topic.")
    jobs = arguments.jobs()
    store = arguments.store(jobs)
    with tempfile.TemporaryDirectory(prefix="peer-state-") as state:
        app = make_app(arguments, state)
        sink = JobSink(arguments, jobs, store, app.get_producer())
        for domain in jobs:
            topic = app.topic(topic_of(domain), key_deserializer="bytes", value_deserializer="bytes")
            app.dataframe(topic).sink(sink)
        app.run(count=arguments.count, timeout=IDLE_TIMEOUT_S, collect=False)
    if sink.first_at is None or sink.processed != arguments.count:
        sys.exit(f"the topics have {sink.processed} records, not {arguments.count}")
    report(sink.processed, sink.durable_at - sink.first_at, store)


if __name__ == "__main__":
    main()
