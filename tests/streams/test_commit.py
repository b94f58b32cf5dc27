"""Commits through the transport: committed offsets are advice, and what becomes of them is an answer."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest
from aiokafka.errors import CommitFailedError, IllegalGenerationError, KafkaConnectionError
from faust.types import TP

from tests.streams.test_transport import OTHER, SENSOR, a_consumer, heard


class Client:
    """The client of the consumer's thread: it holds one partition, and commits as it is told to."""

    def __init__(self, error: BaseException | None = None, hangs: bool = False) -> None:
        self.error, self.hangs = error, hangs
        self.committed: list[dict[Any, Any]] = []

    async def call_thread(self, call: Any, *arguments: Any) -> Any:
        return await call(*arguments)

    def assignment(self) -> set[TP]:
        return {SENSOR}

    def _ensure_consumer(self) -> Client:
        return self

    async def commit(self, offsets: Mapping[Any, Any]) -> None:
        if self.hangs:
            await asyncio.Event().wait()
        if self.error is not None:
            raise self.error
        self.committed.append({TP(*tp): found.offset for tp, found in offsets.items()})


@pytest.mark.parametrize(
    ("client", "offsets", "taken", "committed"),
    [
        (Client(), {SENSOR: 5}, True, [{SENSOR: 5}]),
        (Client(), {SENSOR: 5, OTHER: 3}, False, [{SENSOR: 5}]),
        (Client(), {OTHER: 3}, False, []),
        (Client(IllegalGenerationError()), {SENSOR: 5}, False, []),
        (Client(CommitFailedError("already rebalanced")), {SENSOR: 5}, False, []),
        (Client(KafkaConnectionError("away")), {SENSOR: 5}, False, []),
        (Client(hangs=True), {SENSOR: 5}, False, []),
    ],
    ids=["taken", "one of two ours", "not ours", "another generation", "rebalanced", "away", "no answer"],
)
def test_a_commit_that_fails_is_an_answer_and_no_end(
    client: Client, offsets: dict[TP, int], taken: bool, committed: list[Any]
) -> None:
    """Committed offsets are advice: whatever becomes of them, the worker goes on, and knows it."""

    async def get() -> bool:
        consumer = await a_consumer({}, _thread=client)
        return await consumer.commit_offsets(offsets, 0.05)

    assert asyncio.run(get()) is taken
    assert client.committed == committed


def test_a_bug_in_a_commit_is_not_taken_for_an_answer() -> None:
    """Only what Kafka says is."""
    with pytest.raises(ZeroDivisionError):
        heard(lambda consumer: consumer.commit_offsets({SENSOR: 5}, 0.05), _thread=Client(ZeroDivisionError()))
