"""The application: what the group's leader, which is one of the workers, gives to whom."""

from __future__ import annotations

import asyncio
import zlib
from typing import Any

import pytest
from aiokafka.coordinator.protocol import ConsumerProtocolMemberMetadata
from faust.assignor.client_assignment import ClientMetadata

from schemas.contracts import ALERT_TOPIC, RAW_TOPICS
from streams import app as faust_app
from streams.settings import load
from tests.streams.test_transport import Keeper

_TOPICS = {*RAW_TOPICS.values(), ALERT_TOPIC}


class Cluster:
    """What a leader asks of Kafka's metadata."""

    def __init__(self, partitions: int) -> None:
        self._partitions = set(range(partitions))

    def partitions_for_topic(self, topic: str) -> set[int]:
        return self._partitions


async def an_assignor() -> Any:
    async def nothing(*args: Any) -> None: ...

    return faust_app.build(load(), Keeper(), ingest=nothing, notify=nothing, on_failure=lambda error: None).assignor


@pytest.mark.parametrize("partitions", [1, 2, 3, 4, 6, 8, 12])
def test_whoever_joins_gets_a_share(partitions: int) -> None:
    """Workers that join one after the other, and are killed one after the other: after each, every partition has one
    worker, none has more than it must, and nobody is left without while there is a partition for everyone."""
    assignor = asyncio.run(an_assignor())
    members: dict[str, Any] = {}

    def rebalance() -> None:
        given = assignor.assign(Cluster(partitions), members)
        for topic in _TOPICS:
            shares = [dict(one.assignment).get(topic, []) for one in given.values()]
            assert sorted(partition for share in shares for partition in share) == list(range(partitions))
            sizes = [len(share) for share in shares]
            assert max(sizes) == -(-partitions // len(members)), (topic, sizes)
            assert min(sizes) >= (partitions >= len(members)), (topic, sizes)
        for name, one in given.items():
            # What a member takes to the next rebalance is what it was given in this one.
            kept = ClientMetadata.loads(zlib.decompress(one.user_data)).dumps()
            members[name] = ConsumerProtocolMemberMetadata(assignor.version, sorted(_TOPICS), kept)

    for number in range(partitions + 1):
        members[f"worker-{number}"] = assignor.metadata(_TOPICS)
        rebalance()
    for number in range(partitions):
        del members[f"worker-{number}"]
        rebalance()
