"""Publishing to a broker: an in-process one, and one that is not there."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import pytest
from confluent_kafka import Consumer, Producer

from streams.simulation.publish import PublishError, publish
from streams.simulation.records import Record


@pytest.fixture
def bootstrap() -> Iterator[str]:
    """The address of an in-process broker, alive as long as its producer is."""
    keeper = Producer({"bootstrap.servers": "unused", "test.mock.num.brokers": 1, "log_level": 0})
    broker = next(iter(keeper.list_topics(timeout=10).brokers.values()))
    yield f"{broker.host}:{broker.port}"
    keeper.flush(0)


def records() -> Iterator[Record]:
    return (Record("city.raw.sensor", f"123456782|bin-{n % 7}".encode(), None if n == 3 else b"%d" % n, n)
            for n in count())  # fmt: skip


def consumed(bootstrap: str, expected: int) -> list[tuple[bytes | None, bytes | None, int | None]]:
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "test", "auto.offset.reset": "earliest",
                         "log_level": 0})  # fmt: skip
    consumer.subscribe(["city.raw.sensor"])
    got: list[tuple[bytes | None, bytes | None, int | None]] = []
    for _ in range(200):
        for message in consumer.consume(500, timeout=0.1):
            assert message.error() is None
            got.append((message.key(), message.value(), message.partition()))
        if len(got) >= expected:
            break
    consumer.close()
    return got


def test_every_record_arrives_and_keys_stay_together(bootstrap: str) -> None:
    """All records arrive with their keys and values, null too, and each key in one partition, in order."""
    sent = [record for record, _ in zip(records(), range(2_500), strict=False)]
    told: list[int] = []
    assert publish(sent, bootstrap, pace=None, stop=lambda: False, on_progress=told.append) == 2_500
    assert told == [1_000, 2_000, 2_500]
    got = consumed(bootstrap, 2_500)
    for key in {record.key for record in sent}:
        assert [v for k, v, _ in got if k == key] == [r.value for r in sent if r.key == key]
        assert len({partition for k, _, partition in got if k == key}) == 1


def test_what_is_drawn_is_published_even_when_stopped_while_waiting(bootstrap: str) -> None:
    """Stopping during a long wait ends it at once; the record drawn goes out, and no other is drawn."""
    drawn: list[Record] = []

    def drawing() -> Iterator[Record]:
        for record in records():
            drawn.append(record)
            yield record

    asked = count()
    number = publish(drawing(), bootstrap, pace=lambda at: 0 if at < 5 else 3_600, stop=lambda: next(asked) > 20,
                     on_progress=lambda _: None)  # fmt: skip
    assert number == len(drawn) == len(consumed(bootstrap, number)) == 6


def test_pace_is_asked_with_event_time(bootstrap: str) -> None:
    """A record waits until pace says zero."""
    left = {0: [0.0], 1: [0.02, 0.01, 0.0], 2: [-1.0]}
    some = [record for record, _ in zip(records(), range(3), strict=False)]
    publish(some, bootstrap, pace=lambda at: left[at].pop(0), stop=lambda: False, on_progress=lambda _: None)
    assert left == {0: [], 1: [], 2: []}


def test_an_absent_broker_is_an_error_that_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody listening: PublishError with the address, after the delivery timeout."""
    monkeypatch.setattr("streams.simulation.publish._DELIVERY_TIMEOUT_MS", 300)
    with pytest.raises(PublishError, match=r"127\.0\.0\.1:1: check that it runs"):
        publish(records(), "127.0.0.1:1", pace=lambda _: 0.0, stop=lambda: False, on_progress=lambda _: None)


def test_nothing_to_publish(bootstrap: str) -> None:
    """No records, or stopped before the first: zero."""
    assert publish([], bootstrap, pace=None, stop=lambda: False, on_progress=lambda _: None) == 0
    assert publish(records(), bootstrap, pace=None, stop=lambda: True, on_progress=lambda _: None) == 0
