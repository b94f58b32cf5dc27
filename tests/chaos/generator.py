"""The generator: publishes the records of a run at their time, and knows of every one what must become of it.

Kafka holds each confirmed record exactly once (idempotent producer, all replicas), in the order of its partition, and
nobody else writes to the raw topics: the n-th confirmed record of a partition has offset n.
"""

from __future__ import annotations

import threading
import time
from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from functools import partial
from typing import Final

import polars as pl
from confluent_kafka import KafkaError, Message, Producer

from tests.chaos.records import Label, Labelled

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
        self._codes: dict[str, int] = {}
        self._fates: defaultdict[Place, array[int]] = defaultdict(lambda: array("B"))
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
        return {place: len(fates) for place, fates in list(self._fates.items())}

    def truth(self) -> pl.DataFrame:
        """`topic`, `partition`, `offset` of every confirmed record, and `expected`: stored, or a reason."""
        names = {code: name for name, code in self._codes.items()}
        frames = [
            pl.DataFrame(
                {
                    "topic": [topic] * len(fates),
                    "partition": pl.Series([partition] * len(fates), dtype=pl.Int64),
                    "offset": pl.Series(range(len(fates)), dtype=pl.Int64),
                    "expected": [names[code] for code in fates],
                }
            )
            for (topic, partition), fates in sorted(self._fates.items())
        ]
        return pl.concat(frames) if frames else pl.DataFrame()

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
        fates = self._fates[place]
        offset = message.offset()
        # A confirmation that was lost and asked for again comes without an offset.
        if offset is not None and offset >= 0 and offset != len(fates):
            self._failures.append(f"record {len(fates)} of {place[0]}/{place[1]} has offset {offset}")
        fates.append(self._codes.setdefault(label.expected, len(self._codes)))
        self.records += 1
        if label.burns is not None:
            self.burnt[label.burns] += 1
