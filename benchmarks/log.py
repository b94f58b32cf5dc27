"""What the raw topics hold, read whole into memory."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaException, Message, TopicPartition

from schemas.contracts import RAW_TOPICS
from schemas.records import Batch
from streams.settings import Settings

_PATIENCE_S: Final = 30.0


class NothingComesError(Exception):
    """Kafka gave no more records, and there should be more."""


def consume(consumer: Consumer, most: int) -> Iterator[Sequence[Message]]:
    """Messages without end, at most so many at once. Raises NothingComesError and KafkaException."""
    while True:
        messages = consumer.consume(most, timeout=_PATIENCE_S)
        if not messages:
            raise NothingComesError(f"no record for {_PATIENCE_S:.0f} s")
        for message in messages:
            if (error := message.error()) is not None:
                raise KafkaException(error)
        yield messages


def read_batches(settings: Settings, count: int) -> list[Batch]:
    """The first `count` records of the raw topics, in batches of one partition as large as the worker makes them.

    Raises NothingComesError when there are fewer.
    """
    consumer = Consumer(
        {
            "bootstrap.servers": settings.kafka_bootstrap,
            "group.id": f"{settings.group}-read",
            "enable.auto.commit": False,
        }
    )
    found: dict[tuple[str, int], list[Any]] = defaultdict(list)
    try:
        metadata = consumer.list_topics(timeout=_PATIENCE_S)
        consumer.assign(
            [
                TopicPartition(topic, partition, OFFSET_BEGINNING)
                for topic in RAW_TOPICS.values()
                for partition in metadata.topics[topic].partitions
            ]
        )
        left = count
        for messages in consume(consumer, settings.batch_records):
            for message in messages:
                found[message.topic() or "", message.partition() or 0].append(message)
            left -= len(messages)
            if left <= 0:
                break
    finally:
        consumer.close()
    return [
        _batch(*place, messages[start : start + settings.batch_records])
        for place, messages in sorted(found.items())
        for start in range(0, len(messages), settings.batch_records)
    ]


def _batch(topic: str, partition: int, messages: Sequence[Any]) -> Batch:
    return Batch(
        topic=topic,
        partition=partition,
        offsets=np.array([one.offset() for one in messages], np.int64),
        received_ms=np.array([one.timestamp()[1] for one in messages], np.int64),
        keys=[one.key() for one in messages],
        values=[one.value() for one in messages],
        headers=[()] * len(messages),
    )
