"""Bytewax, one worker, batch by batch.

    python -m benchmarks.peers.bytewax --bootstrap H:P --job windows|store --count N --territory DIR \
        --schemas DIR --group NAME --results TOPIC [--clickhouse chdb:///PATH]

KafkaSource reads to the end of every partition (`tail=False`), so the dataflow ends by itself. `flat_map_batch` decodes
and locates a batch as Kafka gave it. The batch then flows as one item to `stateful_batch`, whose logic has the window
cells of a topic and emits them at the end of the input, and to a sink of our own, which inserts rows.

The window cells are a bare dictionary behind `stateful_batch`, the operator documented for full control. Bytewax's
windowing operators want an item for each zone and metric of a record, about twenty: with `fold_window` over tumbling
one-minute windows a record took 510 us, with the dictionary it takes 5 us.

Bytewax has no consumer group: it keeps offsets in its recovery store. `--group` is taken and not used.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

import bytewax.operators as op
from bytewax.connectors.kafka import KafkaSink, KafkaSinkMessage, KafkaSource, KafkaSourceMessage
from bytewax.dataflow import Dataflow
from bytewax.operators import StatefulBatchLogic
from bytewax.outputs import DynamicSink, StatelessSinkPartition
from bytewax.run import cli_main
from confluent_kafka.admin import AdminClient

from benchmarks.peers.common.command import Arguments, read_arguments, report
from benchmarks.peers.common.contracts import TOPIC_PREFIX, Record, topic_of
from benchmarks.peers.common.job import Job
from benchmarks.peers.common.store import BATCH_ROWS, Store

READ_AT_ONCE: Final = 1_000
#: The sink produces all windows of a topic before it waits for any; librdkafka's queue must hold them.
MOST_RESULTS: Final = 2_000_000
BROKER_TIMEOUT_S: Final = 30


class ResultError(Exception):
    """Kafka did not take a window."""


def check_delivered(error: object, _: object) -> None:
    if error is not None:
        raise ResultError(str(error))


class Located(NamedTuple):
    """Records of one topic that came together, decoded and with their zones."""

    job: Job
    records: list[Record]


#: A domain and its records.
Batch = tuple[str, Located]


class Progress:
    """Records so far, and when the first was received (monotonic seconds)."""

    def __init__(self) -> None:
        self.events = 0
        self.first_at: float | None = None


class Windows(StatefulBatchLogic[Located, KafkaSinkMessage, None]):
    """The window cells of one topic, kept by its job."""

    def __init__(self) -> None:
        self._job: Job | None = None

    def on_batch(self, values: list[Located]) -> tuple[Iterable[KafkaSinkMessage], bool]:
        for job, records in values:
            self._job = job
            for record in records:
                job.count(record)
        return (), StatefulBatchLogic.RETAIN

    def on_eof(self) -> tuple[Iterable[KafkaSinkMessage], bool]:
        cells = () if self._job is None else self._job.results()
        return [KafkaSinkMessage(key, value) for key, value in cells], StatefulBatchLogic.DISCARD

    def snapshot(self) -> None:
        """Nothing: without a recovery store it would be thrown away."""


class Rows(StatelessSinkPartition[Batch]):
    """Inserts `BATCH_ROWS` records of a topic at a time, and the rest when the input has ended."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._waiting: dict[str, list[Record]] = {}

    def write_batch(self, items: list[Batch]) -> None:
        for domain, (_, records) in items:
            waiting = self._waiting.setdefault(domain, [])
            waiting.extend(records)
            if len(waiting) >= BATCH_ROWS:
                self._store.insert(domain, self._waiting.pop(domain))

    def close(self) -> None:
        for domain, records in self._waiting.items():
            self._store.insert(domain, records)
        self._waiting.clear()


class RowSink(DynamicSink[Batch]):
    """ClickHouse; the one worker has the one connection."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def build(self, step_id: str, worker_index: int, worker_count: int) -> Rows:
        return Rows(self._store)


def make_flow(arguments: Arguments, jobs: dict[str, Job], store: Store | None, progress: Progress) -> Dataflow:
    """The dataflow: Kafka, the job, its windows to Kafka again, and with a store its rows to ClickHouse."""
    brokers = [arguments.bootstrap]
    flow = Dataflow("peer")
    source = KafkaSource(
        brokers,
        [topic_of(domain) for domain in jobs],
        tail=False,
        batch_size=READ_AT_ONCE,
    )

    def take(messages: list[KafkaSourceMessage]) -> list[Batch]:
        if progress.first_at is None:
            progress.first_at = time.monotonic()
        by_domain: dict[str, list[KafkaSourceMessage]] = {}
        for message in messages:
            by_domain.setdefault(str(message.topic), []).append(message)
        progress.events += len(messages)
        batches: list[Batch] = []
        for topic, some in by_domain.items():
            domain = topic.removeprefix(TOPIC_PREFIX)
            records = jobs[domain].place_many([message.value or b"" for message in some])
            if store is not None:
                for record, message in zip(records, some, strict=True):
                    record["partition"] = message.partition
                    record["offset"] = message.offset
            batches.append((domain, Located(jobs[domain], records)))
        return batches

    batches = op.flat_map_batch("take", op.input("events", flow, source), take)
    windows = op.stateful_batch("windows", batches, lambda _: Windows())
    producing: dict[str, Any] = {"queue.buffering.max.messages": MOST_RESULTS, "on_delivery": check_delivered}
    sink = KafkaSink(brokers, arguments.results, producing)
    op.output("results", op.key_rm("results_only", windows), sink)
    if store is not None:
        op.output("rows", batches, RowSink(store))
    return flow


def main() -> None:
    arguments = read_arguments("Bytewax, one worker, batch by batch.")
    # The source waits for ever for a broker that is not there.
    AdminClient({"bootstrap.servers": arguments.bootstrap}).list_topics(timeout=BROKER_TIMEOUT_S)
    jobs = arguments.jobs()
    store = arguments.store(jobs)
    progress = Progress()
    cli_main(make_flow(arguments, jobs, store, progress))
    if progress.first_at is None or progress.events != arguments.count:
        sys.exit(f"the topics have {progress.events} records, not {arguments.count}")
    report(progress.events, time.monotonic() - progress.first_at, store)


if __name__ == "__main__":
    main()
