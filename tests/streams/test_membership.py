"""Places in a group, on real Kafka: after errors that nobody asks for, as Faust never does, and under a name."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener
from aiokafka.consumer import consumer
from aiokafka.errors import GroupAuthorizationFailedError, UnknownError
from confluent_kafka.admin import AdminClient, NewPartitions  # type: ignore[attr-defined]

from streams.membership import Coordinator, take_places_again
from tests.support.kafka import Kafka, real_kafka
from tests.support.required import require_kafka

pytestmark = [pytest.mark.integration, pytest.mark.kafka]

_PATIENCE_S = 60.0


@pytest.fixture(scope="module")
def kafka() -> Iterator[Kafka]:
    require_kafka()
    with real_kafka(partitions_default=2) as running:
        running.create_topic("readings", partitions=2)
        yield running


@pytest.fixture(autouse=True)
def rejoining(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumer, "GroupCoordinator", consumer.GroupCoordinator)
    monkeypatch.setattr("streams.membership._PAUSE_S", 0.05)
    take_places_again()


@pytest.mark.parametrize("error", [UnknownError("made by a test"), GroupAuthorizationFailedError("made by a test")])
def test_it_joins_again(kafka: Kafka, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """Whatever the error was, and however often it comes, the partitions are ours once it comes no more."""
    join, failed = Coordinator.ensure_active_group, 0

    async def failing(self: Any, *args: Any) -> Any:
        nonlocal failed
        if failed < 3:
            failed += 1
            raise error
        return await join(self, *args)

    monkeypatch.setattr(Coordinator, "ensure_active_group", failing)

    async def story() -> None:
        member = AIOKafkaConsumer("readings", bootstrap_servers=kafka.bootstrap, group_id=f"g-{type(error).__name__}")
        await asyncio.wait_for(member.start(), _PATIENCE_S)
        assert {place.partition for place in member.assignment()} == {0, 1}
        await asyncio.wait_for(member.stop(), _PATIENCE_S)

    asyncio.run(story())
    assert failed == 3


def test_it_ends_in_the_midst_of_errors(kafka: Kafka, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that is told to stop does not wait for the group."""

    async def failing(self: Any, *args: Any) -> Any:
        raise UnknownError("made by a test")

    monkeypatch.setattr(Coordinator, "ensure_active_group", failing)
    monkeypatch.setattr("streams.membership._PAUSE_S", 1_000)

    async def story() -> None:
        member = AIOKafkaConsumer(bootstrap_servers=kafka.bootstrap, group_id="ends")
        await member.start()
        member.subscribe(["readings"])
        await asyncio.sleep(0.1)
        await asyncio.wait_for(member.stop(), _PATIENCE_S)

    asyncio.run(story())


def test_who_comes_back_hears_of_new_partitions(kafka: Kafka) -> None:
    """The only member takes up its name again, and is told that somebody else leads."""
    kafka.create_topic("grows", partitions=2)
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})

    async def story() -> None:
        given: asyncio.Queue[int] = asyncio.Queue()

        class Listener(ConsumerRebalanceListener):  # type: ignore[misc] # it has no types
            def on_partitions_revoked(self, revoked: Any) -> None:
                pass

            def on_partitions_assigned(self, assigned: Any) -> None:
                given.put_nowait(len(assigned))

        for life in (1, 2):
            where = {"bootstrap_servers": kafka.bootstrap, "metadata_max_age_ms": 100}
            member = AIOKafkaConsumer(group_id="named", group_instance_id="name", **where)
            member.subscribe(["grows"], listener=Listener())
            await asyncio.wait_for(member.start(), _PATIENCE_S)
            assert await asyncio.wait_for(given.get(), _PATIENCE_S) == 2
            if life == 2:
                admin.create_partitions([NewPartitions("grows", 3)])["grows"].result(_PATIENCE_S)
                assert await asyncio.wait_for(given.get(), _PATIENCE_S) == 3
            await asyncio.wait_for(member.stop(), _PATIENCE_S)

    asyncio.run(story())
