"""The generator: publishes the records of a run at their time, and knows of every one what must become of it.

Kafka holds each confirmed record, in the order of its partition (idempotent producer, all replicas), and nobody else
writes to the raw topics. It was once seen to hold two of 170 000 twice, when brokers were killed one after the other on
a crowded machine: so what stands where is read from Kafka itself when all is over, and a second copy is a duplicate.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from hashlib import blake2b
from typing import Final

import polars as pl
from confluent_kafka import Consumer, KafkaError, Message, Producer, TopicPartition

from streams.simulation.records import DUPLICATE
from tests.chaos.records import STORED, Label, Labelled

Place = tuple[str, int]

_SLICE_S: Final = 0.02
#: Brokers come and go: a record waits for its confirmation longer than any outage of a run.
_DELIVERY_TIMEOUT_MS: Final = 180_000


class GeneratorError(Exception):
    """What was published is not known any more: the run proves nothing."""


class Generator:
    """Publishes in a thread of its own from `start` on. The counts may be read from any thread while it runs."""

    def __init__(self, records: Iterable[Labelled], bootstrap: str) -> None:
        self.records = 0
        """Confirmed records."""
        self.burnt: Counter[str] = Counter()
        """By blinker, how often a confirmed record has set it on fire."""
        self.behind_s = 0.0
        """The most that a record went out later than it was due."""
        self._source = records
        self._bootstrap = bootstrap
        self._ends: dict[Place, int] = {}
        # By what a record holds, what must become of it: of equal ones, one after the other.
        self._fates: defaultdict[Place, dict[bytes, list[str]]] = defaultdict(dict)
        self._failures: list[str] = []
        self._halt = threading.Event()
        self._thread = threading.Thread(target=self._run, name="generator", daemon=True)
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap,
                "acks": "all",
                "enable.idempotence": True,
                "partitioner": "murmur2_random",
                "delivery.timeout.ms": _DELIVERY_TIMEOUT_MS,
                "request.timeout.ms": 5_000,
                "reconnect.backoff.max.ms": 1_000,
                "linger.ms": 20,
                "compression.type": "lz4",
                "log_level": 0,
            }
        )

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Draw no more records; what is under way is still confirmed."""
        self._halt.set()

    def finish(self) -> None:
        """Wait for the end. Raises GeneratorError when a record was not confirmed or not where it must be."""
        self._thread.join()
        if self._failures:
            raise GeneratorError(f"{len(self._failures)} failures, the first: {self._failures[0]}")

    def ends(self) -> dict[Place, int]:
        """The next offset of each partition, as far as confirmed."""
        return dict(self._ends)

    def truth(self) -> pl.DataFrame:
        """`topic`, `partition`, `offset` of every record that Kafka holds, and `expected`: stored, or a reason.

        Raises GeneratorError for a record that nobody published, or a published one that is not there.
        """
        left = {place: {key: list(fates) for key, fates in known.items()} for place, known in self._fates.items()}
        rows: list[tuple[str, int, int, str]] = []
        last: dict[tuple[Place, bytes], str] = {}
        for place, offset, value in _everything(self._bootstrap, sorted(left)):
            key = _digest(value)
            fates = left[place].get(key)
            if fates is None:
                raise GeneratorError(f"{place[0]}/{place[1]} has at {offset} what nobody published")
            before = last.get((place, key))
            again = DUPLICATE if before in (STORED, DUPLICATE) else before
            fate = fates.pop(0) if fates else again
            assert fate is not None
            last[place, key] = fate
            rows.append((*place, offset, fate))
        if missing := sum(len(fates) for known in left.values() for fates in known.values()):
            raise GeneratorError(f"Kafka has lost {missing} records that it had confirmed")
        schema = {"topic": pl.String, "partition": pl.Int64, "offset": pl.Int64, "expected": pl.String}
        return pl.DataFrame(rows, schema=schema, orient="row").sort("topic", "partition", "offset")

    def _run(self) -> None:
        try:
            for record, label in self._source:
                if not self._wait_until(record.at_ms) or self._failures:
                    break
                self._hand_over(
                    partial(
                        self._producer.produce, record.topic, record.value, record.key,
                        on_delivery=partial(self._confirmed, label),
                    )
                )  # fmt: skip
            until = time.monotonic() + _DELIVERY_TIMEOUT_MS / 1_000 + 10
            while (left := self._producer.flush(0.5)) and time.monotonic() < until:
                pass
            if left:
                self._failures.append(f"{left} records were neither confirmed nor refused")
        except Exception as error:  # noqa: BLE001 - raised again by `finish`, in the thread that waits
            self._failures.append(f"{type(error).__name__}: {error}")

    def _wait_until(self, at_ms: int) -> bool:
        """Whether to go on, once that instant has come."""
        while (wait := at_ms / 1_000 - time.time()) > 0:
            if self._halt.is_set():
                return False
            self._producer.poll(min(wait, _SLICE_S))
        self.behind_s = max(self.behind_s, -wait)
        self._producer.poll(0)
        return not self._halt.is_set()

    def _hand_over(self, produce: Callable[[], None]) -> None:
        while True:
            try:
                produce()
                return
            except BufferError:
                self._producer.poll(_SLICE_S)

    def _confirmed(self, label: Label, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self._failures.append(f"not confirmed: {error.str()}")
            return
        place = (str(message.topic()), int(message.partition() or 0))
        offset = message.offset()
        # A confirmation that was lost and asked for again comes without an offset.
        reached = self._ends.get(place, 0) + 1 if offset is None or offset < 0 else offset + 1
        self._ends[place] = max(self._ends.get(place, 0), reached)
        self._fates[place].setdefault(_digest(message.value()), []).append(label.expected)
        self.records += 1
        if label.burns is not None:
            self.burnt[label.burns] += 1


def _digest(value: bytes | str | None) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return blake2b(data if data is not None else b"\0nothing", digest_size=12).digest()


def _everything(bootstrap: str, places: Iterable[Place]) -> Iterator[tuple[Place, int, bytes | None]]:
    """Every record of these partitions, in the order of each."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "truth", "enable.auto.commit": False})
    try:
        for topic, partition in places:
            _, end = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=30)
            consumer.assign([TopicPartition(topic, partition, 0)])
            offset = -1
            while offset + 1 < end:
                message = consumer.poll(30)
                if message is None or message.error() is not None:
                    raise GeneratorError(f"{topic}/{partition} cannot be read back from {offset + 1}")
                offset = int(message.offset() or 0)
                yield (topic, partition), offset, message.value()
    finally:
        consumer.close()
