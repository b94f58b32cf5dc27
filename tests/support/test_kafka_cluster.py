"""Three brokers are one cluster: what it has confirmed is kept, whichever one of them dies."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from tests.support.kafka import KafkaError
from tests.support.kafka_cluster import Cluster, kafka_cluster
from tests.support.pipeline import everything
from tests.support.required import require_kafka

pytestmark = [pytest.mark.kafka, pytest.mark.integration]


@pytest.fixture(scope="module")
def kafka() -> Iterator[Cluster]:
    require_kafka()
    with kafka_cluster(brokers=3) as running:
        yield running


@pytest.fixture
def topic(kafka: Cluster) -> str:
    """A fresh topic of three partitions with as many copies as the cluster makes by itself."""
    name = f"harness-{uuid.uuid4().hex[:8]}"
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap, "log_level": 0})
    admin.create_topics([NewTopic(name, num_partitions=3, replication_factor=-1)])[name].result(timeout=30)
    kafka.wait_in_sync()
    return name


def produce(bootstrap: str, topic: str, values: list[bytes]) -> None:
    producer = Producer({"bootstrap.servers": bootstrap, "acks": "all", "enable.idempotence": True, "log_level": 0})
    failed: list[str] = []
    for number, value in enumerate(values):
        producer.produce(
            topic, value, partition=number % 3, on_delivery=lambda e, _: failed.append(str(e)) if e else None
        )
    assert producer.flush(60) == 0
    assert failed == []


def test_there_are_three_brokers_and_three_copies(kafka: Cluster, topic: str) -> None:
    """Every broker runs and is known by its number, and a topic is copied to all of them without being asked to."""
    assert kafka.running == kafka.numbers == (1, 2, 3)
    assert len({kafka.pid(number) for number in kafka.numbers}) == 3
    found = AdminClient({"bootstrap.servers": kafka.bootstrap}).list_topics(timeout=10)
    assert set(found.brokers) == {1, 2, 3}
    assert [sorted(p.replicas) for p in found.topics[topic].partitions.values()] == [[1, 2, 3]] * 3
    assert kafka.behind() == []


@pytest.mark.parametrize("number", [1, 2, 3])
def test_nothing_confirmed_is_lost_with_a_broker(kafka: Cluster, topic: str, number: int) -> None:
    """While any one broker is dead the others take records; after its restart everything is there, once."""
    bootstrap, pid = kafka.bootstrap, kafka.pid(number)
    produce(bootstrap, topic, [f"before {n}".encode() for n in range(300)])
    kafka.kill(number)
    assert kafka.pid(number) is None
    assert number not in kafka.running
    produce(bootstrap, topic, [f"during {n}".encode() for n in range(300)])
    assert any(place.startswith(f"{topic}/") for place in kafka.behind())
    kafka.start(number)
    kafka.wait_in_sync()
    assert kafka.pid(number) not in (None, pid)
    produce(bootstrap, topic, [f"after {n}".encode() for n in range(300)])
    found = sorted(message.value() or b"" for message in everything(bootstrap, [topic]))
    assert found == sorted(f"{when} {n}".encode() for when in ("before", "during", "after") for n in range(300))


def test_two_dead_brokers_confirm_nothing(kafka: Cluster, topic: str) -> None:
    """Less than two copies are no confirmation: what is sent then waits, and arrives when a broker is back."""
    kafka.kill(1)
    kafka.kill(2)
    producer = Producer(
        {"bootstrap.servers": kafka.bootstrap, "acks": "all", "enable.idempotence": True, "log_level": 0}
    )
    confirmed: list[bool] = []
    producer.produce(topic, b"x", on_delivery=lambda error, _: confirmed.append(error is None))
    assert producer.flush(1.0) == 1
    assert confirmed == []
    kafka.start(1, 2)
    assert producer.flush(60) == 0
    assert confirmed == [True]
    kafka.wait_in_sync()


def test_a_cluster_that_is_not_whole_is_told(kafka: Cluster, topic: str) -> None:
    """Waiting for the copies of a dead broker ends with an error that names what is missing."""
    kafka.stop(3)
    with pytest.raises(KafkaError, match=topic):
        kafka.wait_in_sync(seconds=0.0)
    kafka.restart(3)
    kafka.wait_in_sync()


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    """At the end of the context every process is gone, and each broker's output is where it was asked for."""
    with kafka_cluster(brokers=3, log_dir=tmp_path) as other:
        pids = [other.pid(number) or 0 for number in other.numbers]
        assert all(pids)
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    assert len([path for path in tmp_path.iterdir() if path.suffix == ".log"]) == 3
