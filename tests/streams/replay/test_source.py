"""Records of fixed offsets, as they come or in the order of their times, from the in-process broker."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from confluent_kafka import Producer

from schemas.contracts import RAW_TOPICS
from streams.broker import in_process_broker
from streams.ledger import Place
from streams.replay.offsets import Span
from streams.replay.source import Source
from streams.settings import Settings, load

_TOPIC = RAW_TOPICS["sensor"]
#: Records and the milliseconds between two of them: a full partition must wait for one with little.
_PARTS = {0: (12_000, 1), 1: (40, 300), 2: (1, 6_000)}


@pytest.fixture(scope="module")
def settings() -> Iterator[Settings]:
    """A broker with three partitions of different density over the same twelve seconds, and an empty one."""
    with in_process_broker() as bootstrap:
        producer = Producer({"bootstrap.servers": bootstrap, "log_level": 0})
        for partition, (count, step_ms) in _PARTS.items():
            for number in range(count):
                producer.produce(_TOPIC, b"%d" % number, partition=partition, timestamp=1_000_000 + number * step_ms)
        assert producer.flush(30) == 0
        yield load(kafka_bootstrap=bootstrap)


def read(settings: Settings, spans: dict[Place, Span], merged: bool) -> list[tuple[int, int, int]]:
    """Partition, offset and time of each record, in the order in which they come."""
    with Source(settings, spans, merged=merged) as source:
        found: list[Any] = [message for batch in source.batches() for message in batch]
    return [(m.partition(), m.offset(), m.timestamp()[1]) for m in found]


def spans(**ends: tuple[int, int]) -> dict[Place, Span]:
    return {Place(_TOPIC, int(name[1:])): Span(*span) for name, span in ends.items()}


def test_in_the_order_of_their_times(settings: Settings) -> None:
    """Over all partitions, though one holds three hundred times as much as another and must be held back; each record
    once, and none beyond the ends."""
    asked = spans(p0=(0, 11_000), p1=(5, 40), p2=(0, 1), p3=(0, 0))
    found = read(settings, asked, merged=True)
    times = [at_ms for _, _, at_ms in found]
    assert times == sorted(times)
    assert sorted((partition, offset) for partition, offset, _ in found) == [
        *((0, offset) for offset in range(11_000)), *((1, offset) for offset in range(5, 40)), (2, 0),
    ]  # fmt: skip


def test_as_they_come(settings: Settings) -> None:
    """In the order of each partition, from the first offset to before the last."""
    found = read(settings, spans(p0=(3, 9_003), p1=(0, 40)), merged=False)
    for partition, offsets in ((0, range(3, 9_003)), (1, range(40))):
        assert [offset for number, offset, _ in found if number == partition] == list(offsets)
    assert len(found) == 9_040


def test_nothing_to_read_ends_at_once(settings: Settings) -> None:
    """An empty range asks Kafka for nothing."""
    assert read(settings, spans(p0=(7, 7)), merged=False) == read(settings, {}, merged=True) == []
