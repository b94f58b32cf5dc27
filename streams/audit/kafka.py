"""What Kafka has to say about it: where partitions begin and end, what the group has committed, and whether an offset
holds a record at all. Only read: the consumers here belong to no group's life and commit nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaError,
    KafkaException,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient

from schemas.contracts import ALERT_TOPIC, RAW_TOPICS
from streams import broker
from streams.broker import BrokerError
from streams.clock import monotonic_s
from streams.ledger import Place
from streams.settings import Settings

_TIMEOUT_S: Final = 10.0
#: Reading a partition may take long; a silence of this length may not.
_SILENCE_S: Final = 20.0
_AT_ONCE: Final = 5_000
#: Records that are read to no use, rather than to begin anew behind them: that takes half a second.
_READ_OVER: Final = 50_000


@dataclass(frozen=True)
class Facts:
    """Kafka's side. Offsets are the next to read; `members` are the workers that the group has now, None where the
    broker cannot tell (the one in process)."""

    epochs: Mapping[str, str]
    bounds: Mapping[Place, tuple[int, int]]
    committed: Mapping[Place, int]
    members: int | None


def facts(settings: Settings) -> Facts:
    """What Kafka says now. Raises BrokerError."""
    return Facts(
        epochs=broker.topic_ids(settings),
        committed=_committed(settings),
        members=members(settings),
        # Last: whatever was committed before is not beyond these ends.
        bounds=broker.end_offsets(settings),
    )


def _committed(settings: Settings) -> dict[Place, int]:
    # Not through the admin client: its question ends the process (a null pointer) while topics are created anew. A
    # consumer that subscribes to nothing does not join the group.
    consumer = Consumer(broker.consumer_config(settings, settings.group))
    try:
        there = consumer.list_topics(timeout=_TIMEOUT_S).topics
        places = [TopicPartition(t, n) for t in RAW_TOPICS.values() if t in there for n in there[t].partitions]
        found = consumer.committed(places, timeout=2 * _TIMEOUT_S) if places else []
    except KafkaException as error:
        what = f"what {settings.group} has committed"
        raise BrokerError(f"Kafka would not tell {what}: {broker.reason(error)}") from error
    finally:
        consumer.close()
    return {Place(p.topic, p.partition): p.offset for p in found if p.offset >= 0}


def members(settings: Settings) -> int | None:
    """How many workers the group has now; None where the broker cannot tell. Raises BrokerError."""
    admin = AdminClient(broker.client_config(settings))
    try:
        (answer,) = admin.describe_consumer_groups([settings.group], request_timeout=_TIMEOUT_S).values()
        return len(answer.result(timeout=2 * _TIMEOUT_S).members)
    except KafkaException as error:
        if error.args[0].code() == KafkaError.GROUP_ID_NOT_FOUND:
            return 0
        if error.args[0].code() == KafkaError._UNSUPPORTED_FEATURE:
            return None
        raise BrokerError(
            f"Kafka would not tell who is in the group {settings.group}: {broker.reason(error)}"
        ) from error


@contextmanager
def _reader(settings: Settings) -> Iterator[Any]:
    consumer = Consumer(
        {
            **broker.consumer_config(settings, f"{settings.group}-audit"),
            "enable.partition.eof": True,
            "auto.offset.reset": "earliest",
            "check.crcs": False,
        }
    )
    try:
        yield consumer
    finally:
        consumer.close()


def records_at(settings: Settings, place: Place, wanted: Sequence[tuple[int, int]]) -> list[int]:
    """Which offsets of these ranges (first, the one after the last; rising) hold a record. Raises BrokerError.

    Offsets without one are transaction markers, or were compacted away.
    """
    found: list[int] = []
    ranges = list(wanted)
    with _reader(settings) as consumer:
        while ranges:
            first, end = ranges[0]
            near = [end]
            for start, stop in ranges[1:]:
                if start - near[-1] > _READ_OVER:
                    break
                near.append(stop)
            consumer.assign([TopicPartition(place.topic, place.partition, first)])
            read = [message.offset() for message in _messages(consumer, {place.partition: near[-1]})]
            found += _inside(read, ranges[: len(near)])
            ranges = ranges[len(near) :]
    return found


def _inside(offsets: Sequence[int], ranges: Sequence[tuple[int, int]]) -> list[int]:
    """The offsets (rising) that lie in the ranges (rising)."""
    known = np.asarray(offsets, np.int64)
    parts = [known[np.searchsorted(known, first) : np.searchsorted(known, end)].tolist() for first, end in ranges]
    return [offset for part in parts for offset in part]


def _messages(consumer: Any, ends: Mapping[int, int]) -> Iterator[Any]:
    """What comes from the assigned partitions of one topic, until each has come to its end (the next offset)."""
    left = dict(ends)
    heard_s = monotonic_s()
    while left:
        for message in consumer.consume(_AT_ONCE, timeout=0.2):
            heard_s = monotonic_s()
            error = message.error()
            if error is None:
                if message.offset() + 1 >= left.get(message.partition(), 2**63):
                    left.pop(message.partition(), None)
                yield message
            elif error.code() == KafkaError._PARTITION_EOF:
                left.pop(message.partition(), None)
            elif not error.retriable() and error.code() != KafkaError._TRANSPORT:
                raise BrokerError(f"Kafka would not let {message.topic()} be read: {error.str()}")
        if monotonic_s() - heard_s > _SILENCE_S:
            raise BrokerError("Kafka has stopped answering: start the audit again once it does")


def offsets_at(settings: Settings, places: Sequence[Place], at_ms: int) -> dict[Place, int]:
    """The first offset of each partition that was received at that instant (milliseconds since 1970) or later; the end
    where there is none. Raises BrokerError."""
    with _reader(settings) as consumer:
        try:
            asked = [TopicPartition(p.topic, p.partition, at_ms) for p in places]
            answered = consumer.offsets_for_times(asked, timeout=_TIMEOUT_S) if asked else []
            return {
                Place(p.topic, p.partition): p.offset
                if p.offset >= 0
                else consumer.get_watermark_offsets(TopicPartition(p.topic, p.partition), timeout=_TIMEOUT_S)[1]
                for p in answered
                if p.error is None
            }
        except KafkaException as error:
            raise BrokerError(f"Kafka would not tell the offsets of an instant: {broker.reason(error)}") from error


@dataclass(frozen=True)
class AlertLog:
    """The values of every record of `city.alerts`. `whole`: none was compacted away or has expired."""

    values: list[bytes]
    whole: bool


def alerts(settings: Settings) -> AlertLog:
    """Read the alert topic from its first record to its end. Raises BrokerError."""
    with _reader(settings) as consumer:
        try:
            partitions = consumer.list_topics(ALERT_TOPIC, timeout=_TIMEOUT_S).topics[ALERT_TOPIC].partitions
            bounds = {
                number: consumer.get_watermark_offsets(TopicPartition(ALERT_TOPIC, number), timeout=_TIMEOUT_S)
                for number in partitions
            }
        except KafkaException as error:
            raise BrokerError(f"Kafka would not tell of {ALERT_TOPIC}: {broker.reason(error)}") from error
        ends = {number: end for number, (first, end) in bounds.items() if end > first}
        if not ends:
            return AlertLog([], all(end == 0 for _, end in bounds.values()))
        consumer.assign([TopicPartition(ALERT_TOPIC, number, OFFSET_BEGINNING) for number in ends])
        read = [message.value() for message in _messages(consumer, ends)]
        return AlertLog([value for value in read if value is not None], len(read) >= sum(e for _, e in bounds.values()))
