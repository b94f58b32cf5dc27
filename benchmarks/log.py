"""What the raw topics hold, read whole into memory."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, TopicPartition
from confluent_kafka import Consumer, KafkaException, Message
from faust.types import TP

from schemas.contracts import RAW_TOPICS
from schemas.records import Batch
from streams.broker import end_offsets
from streams.fetching import keep_blocks
from streams.settings import Settings
from streams.transport import as_batch, counted

PATIENCE_S: Final = 30.0
_MOMENT_S: Final = 0.1


class NothingComesError(Exception):
    """Kafka gave no more records, and there should be more."""


def some(consumer: Consumer, most: int) -> list[Message]:
    """At least one message and at most so many; none only where none has come for `PATIENCE_S`.

    The client waits until it has as many as it is asked for: it is asked for a moment at a time.
    """
    until = time.monotonic() + PATIENCE_S
    while True:
        messages: list[Message] = consumer.consume(most, timeout=_MOMENT_S)
        if messages or time.monotonic() >= until:
            return messages


def consume(consumer: Consumer, most: int) -> Iterator[Sequence[Message]]:
    """Messages without end, at most so many at once. Raises NothingComesError and KafkaException."""
    while True:
        messages = some(consumer, most)
        if not messages:
            raise NothingComesError(f"no record for {PATIENCE_S:.0f} s")
        for message in messages:
            if (error := message.error()) is not None:
                raise KafkaException(error)
        yield messages


def read_batches(settings: Settings, count: int) -> list[Batch]:
    """The first `count` records of the raw topics, as the worker's transport fetches them.

    Raises NothingComesError when there are fewer.
    """
    return asyncio.run(_read(settings, count))


async def _read(settings: Settings, count: int) -> list[Batch]:
    keep_blocks(lambda topic: topic in RAW_TOPICS.values())
    consumer = AIOKafkaConsumer(
        bootstrap_servers=settings.kafka_bootstrap,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        max_partition_fetch_bytes=settings.fetch_bytes,
    )
    await consumer.start()
    found: dict[TP, list[Any]] = defaultdict(list)
    try:
        # The consumer's own metadata knows only topics that it was asked for.
        places = [TopicPartition(place.topic, place.partition) for place in end_offsets(settings)]
        consumer.assign(places)
        await consumer.seek_to_beginning(*places)
        left = count
        while left > 0:
            some = await consumer.getmany(timeout_ms=round(PATIENCE_S * 1_000))
            if not some:
                raise NothingComesError(f"no record for {PATIENCE_S:.0f} s")
            for place, run in some.items():
                found[TP(place.topic, place.partition)] += run
                left -= counted(run)
    finally:
        await consumer.stop()
    return [
        part for place, run in sorted(found.items()) for part in _parted(as_batch(place, run), settings.batch_records)
    ]


def _parted(batch: Batch, most: int) -> Iterator[Batch]:
    """As large as the worker makes them."""
    start = 0
    while start < len(batch):
        rest = batch.part(start, len(batch))
        until = rest.whole_up_to(most)
        yield rest.part(0, until)
        start += until
