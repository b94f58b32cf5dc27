"""Real Kafka works with both of our client libraries, and comes back after it was killed."""

from __future__ import annotations

import asyncio
import os
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from confluent_kafka import TIMESTAMP_LOG_APPEND_TIME, Consumer, KafkaException, Producer
from confluent_kafka.admin import AdminClient

from tests.support import kafka as harness
from tests.support.kafka import Kafka, kafka_available, real_kafka
from tests.support.required import require_kafka

pytestmark = [pytest.mark.kafka, pytest.mark.integration]

LOG_APPEND = {"message.timestamp.type": "LogAppendTime"}
#: An event time of 1970: a topic with broker time must not keep it.
LONG_AGO_MS = 1_000


@pytest.fixture(scope="module")
def kafka() -> Iterator[Kafka]:
    require_kafka()
    with real_kafka(partitions_default=3) as running:
        yield running


@pytest.fixture
def topic(kafka: Kafka) -> str:
    """A fresh topic of three partitions that keeps the broker's time."""
    name = f"harness-{uuid.uuid4().hex[:8]}"
    kafka.create_topic(name, config=LOG_APPEND)
    return name


def produce_with_confluent(bootstrap: str, topic: str, values: list[bytes]) -> None:
    producer = Producer({"bootstrap.servers": bootstrap, "acks": "all"})
    failed: list[str] = []
    for number, value in enumerate(values):
        producer.produce(
            topic,
            value,
            key=b"k",
            partition=number % 3,
            timestamp=LONG_AGO_MS,
            on_delivery=lambda error, _: failed.append(str(error)) if error else None,
        )
    assert producer.flush(30) == 0
    assert failed == []


def consume_with_confluent(bootstrap: str, topic: str, count: int) -> dict[bytes, tuple[int, int]]:
    """Values with their (kind of time, time in milliseconds)."""
    group = uuid.uuid4().hex
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": group, "auto.offset.reset": "earliest"})
    found: dict[bytes, tuple[int, int]] = {}
    deadline = time.monotonic() + 30
    try:
        consumer.subscribe([topic])
        while len(found) < count and time.monotonic() < deadline:
            for message in consumer.consume(count, timeout=0.5):
                assert message.error() is None
                found[message.value() or b""] = message.timestamp()
    finally:
        consumer.close()
    return found


async def consume_with_aiokafka(bootstrap: str, topic: str, count: int, group: str) -> list[tuple[bytes, int, int]]:
    """Value, kind of time and time in milliseconds of each record; commits what it read."""
    found: list[tuple[bytes, int, int]] = []
    consumer = AIOKafkaConsumer(
        topic, bootstrap_servers=bootstrap, group_id=group, auto_offset_reset="earliest", enable_auto_commit=False
    )
    await consumer.start()
    try:
        async with asyncio.timeout(30):
            while len(found) < count:
                for records in (await consumer.getmany(timeout_ms=500)).values():
                    found.extend((record.value, record.timestamp_type, record.timestamp) for record in records)
        await consumer.commit()
    finally:
        await consumer.stop()
    return found


def test_confluent_to_aiokafka(kafka: Kafka, topic: str) -> None:
    """What confluent-kafka produces, an aiokafka group member consumes once, with the broker's time on it."""
    values = [f"value {number}".encode() for number in range(300)]
    before_ms = int(time.time() * 1000)
    produce_with_confluent(kafka.bootstrap, topic, values)
    found = asyncio.run(consume_with_aiokafka(kafka.bootstrap, topic, len(values), "group-a"))
    after_ms = int(time.time() * 1000)
    assert sorted(value for value, _, _ in found) == sorted(values)
    assert {kind for _, kind, _ in found} == {TIMESTAMP_LOG_APPEND_TIME - 1}, "aiokafka counts these kinds from 0"
    assert all(before_ms <= at <= after_ms for _, _, at in found)


def test_aiokafka_to_confluent(kafka: Kafka, topic: str) -> None:
    """What aiokafka produces, confluent-kafka consumes, with the broker's time on it."""
    values = [f"value {number}".encode() for number in range(50)]
    before_ms = int(time.time() * 1000)

    async def produce() -> None:
        producer = AIOKafkaProducer(bootstrap_servers=kafka.bootstrap, acks="all", enable_idempotence=True)
        await producer.start()
        try:
            for value in values:
                await producer.send_and_wait(topic, value, timestamp_ms=LONG_AGO_MS)
        finally:
            await producer.stop()

    asyncio.run(produce())
    found = consume_with_confluent(kafka.bootstrap, topic, len(values))
    assert sorted(found) == sorted(values)
    assert {kind for kind, _ in found.values()} == {TIMESTAMP_LOG_APPEND_TIME}
    assert min(at for _, at in found.values()) >= before_ms


def test_topics_are_not_made_by_use(kafka: Kafka) -> None:
    """Producing to a topic that nobody created fails, as it will in a city's cluster."""
    producer = Producer({"bootstrap.servers": kafka.bootstrap, "message.timeout.ms": 500, "log_level": 0})
    failed: list[bool] = []
    producer.produce("no-such-topic", b"x", on_delivery=lambda error, _: failed.append(error is not None))
    producer.flush(10)
    assert failed == [True]
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
    assert "no-such-topic" not in admin.list_topics(timeout=10).topics


def test_a_topic_is_created_once(kafka: Kafka, topic: str) -> None:
    """Creating a topic that exists is an error, not a silent change of its settings."""
    with pytest.raises(KafkaException):
        kafka.create_topic(topic)


def test_data_and_groups_survive_a_kill(kafka: Kafka, topic: str) -> None:
    """After SIGKILL and a restart the address is the same, records are kept, and a group goes on where it was."""
    produce_with_confluent(kafka.bootstrap, topic, [b"before 0", b"before 1", b"before 2"])
    assert len(asyncio.run(consume_with_aiokafka(kafka.bootstrap, topic, 3, "group-b"))) == 3
    bootstrap, pid = kafka.bootstrap, kafka.pid
    kafka.kill()
    assert kafka.pid is None
    kafka.restart()
    assert kafka.bootstrap == bootstrap
    assert kafka.pid not in (None, pid)
    produce_with_confluent(bootstrap, topic, [b"after 0", b"after 1", b"after 2"])
    found = asyncio.run(consume_with_aiokafka(bootstrap, topic, 3, "group-b"))
    assert sorted(value for value, _, _ in found) == [b"after 0", b"after 1", b"after 2"]


def test_nothing_is_left_behind(kafka: Kafka, tmp_path: Path) -> None:
    """At the end of the context the process is gone; its output stays where it was asked for; its port is free."""
    with real_kafka(log_dir=tmp_path) as other:
        pid, port = other.pid, int(other.bootstrap.rpartition(":")[2])
        assert pid is not None
        assert other.bootstrap != kafka.bootstrap
    assert other.pid is None
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert not harness._listening(port)
    assert [path.suffix for path in tmp_path.iterdir()] == [".log"]


def test_data_stay_within_a_folder(tmp_path: Path) -> None:
    """Who deletes later finds everything there, and the process is gone all the same."""
    with real_kafka(within=tmp_path) as other:
        pid = other.pid
    assert pid is not None
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert len(list(tmp_path.glob("*/data/meta.properties"))) == 1


def test_reason_when_java_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without Java the reason says what to install."""
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "install a JDK or JRE of version 17" in (kafka_available() or "")


def test_reason_when_maven_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With Java but without Maven, Kafka is available only if it was fetched before."""
    java = harness._java()
    if java is None:
        pytest.skip("no java")
    (tmp_path / "java").symlink_to(java)
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(harness, "CACHE", tmp_path / "cache")
    assert "install Maven" in (kafka_available() or "")
    harness._home().mkdir(parents=True)
    assert kafka_available() is None
