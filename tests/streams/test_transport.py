"""The transport plug-in: one message per partition and fetch, and nothing that was fetched is ever passed over.

Fetching itself is Faust's and is shown by the integration tests; here a consumer of the real application is given what
a fetch brought, at the four methods where it asks its client's thread.
"""

from __future__ import annotations

import asyncio
import tomllib
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from aiokafka.structs import ConsumerRecord
from faust.types import TP, ConsumerMessage

from schemas.records import Batch
from streams import app as faust_app
from streams.settings import load
from streams.transport import SCHEME, BatchConsumer, BatchSchema, Transport

SENSOR = TP("city.raw.sensor", 0)
OTHER = TP("city.raw.sensor", 1)
INTERNAL = TP("vigie-__assignor-__leader", 0)
FULL = 4


class Keeper:
    """Wants batches of the city's topics."""

    pause_s = 0.0

    async def drain(self) -> None:
        """Nothing is in flight."""

    def resume_at(self, committed: Mapping[TP, int | None]) -> Mapping[TP, int]:
        return {}

    def wants_batches(self, topic: str) -> bool:
        return topic.startswith("city.")


class Fetched(BatchConsumer):
    """A consumer that is given what a fetch brought, and that writes down where it was sent back to."""

    records: Mapping[TP, list[ConsumerRecord]]
    active: set[TP] | None = None
    assigned: set[TP]
    seeks: dict[TP, int]

    async def _wait_next_records(self, timeout: float) -> Any:  # noqa: ASYNC109 - Faust's own signature
        return self.records, self.active

    def assignment(self) -> set[TP]:
        return self.assigned

    async def _seek(self, partition: TP, offset: int) -> None:
        self.seeks[partition] = offset

    def highwater(self, tp: TP) -> int:
        return 1_000


def record(tp: TP, offset: int, value: bytes | None = b"v") -> ConsumerRecord:
    key, at = b"k%d" % offset, 1_789_430_400_000 + offset
    headers = (("ce_id", b"1"),) if offset % 2 else ()
    return ConsumerRecord(tp.topic, tp.partition, offset, at, 1, key, value, None, 2, 1, headers)


def run_of(tp: TP, *offsets: int) -> list[ConsumerRecord]:
    return [record(tp, offset) for offset in offsets]


async def _consumer(records: Mapping[TP, list[ConsumerRecord]]) -> Fetched:
    async def nothing(*args: Any) -> None: ...

    settings = load(batch_records=FULL, linger_s=0.0)
    app = faust_app.build(settings, Keeper(), ingest=nothing, notify=nothing, on_failure=lambda error: None)
    consumer = Fetched(app.transport, callback=nothing, on_partitions_revoked=nothing, on_partitions_assigned=nothing)
    consumer.records, consumer.assigned, consumer.seeks = records, set(records), {}
    # The client's thread is never started, and closes its loop only at its end.
    consumer._thread.thread_loop.close()
    return consumer


def fetched(
    records: Mapping[TP, list[ConsumerRecord]], **changes: Any
) -> tuple[list[tuple[TP, ConsumerMessage]], dict[TP, int]]:
    """Messages of one fetch, and where partitions were sent back to. `changes`: attributes of the consumer."""

    async def get() -> tuple[list[tuple[TP, ConsumerMessage]], dict[TP, int]]:
        consumer = await _consumer(records)
        for name, value in changes.items():
            setattr(consumer, name, value)
        return [pair async for pair in consumer.getmany(0.1)], consumer.seeks

    return asyncio.run(get())


def test_the_plug_in_is_found_by_its_scheme() -> None:
    """The wheel registers the transport under the scheme that the application's broker URLs have."""
    root = Path(__file__).resolve().parents[2]
    project = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]
    module, _, name = project["entry-points"]["faust.transports"][SCHEME].partition(":")
    assert getattr(import_module(module), name) is Transport
    assert Transport.Consumer is BatchConsumer


def test_the_application_speaks_through_it() -> None:
    """Every broker of the settings gets the scheme, and Faust builds this transport from it."""

    async def build() -> Any:
        async def nothing(message: Any) -> None: ...

        settings = load(kafka_bootstrap="one:9092, two:9093")
        return faust_app.build(settings, Keeper(), ingest=nothing, notify=nothing, on_failure=lambda error: None)

    app = asyncio.run(build())
    assert isinstance(app.transport, Transport)
    assert [str(url) for url in app.conf.broker] == ["vigie://one:9092", "vigie://two:9093"]


def test_one_fetch_of_a_partition_is_one_message() -> None:
    """The run of records as a batch, in offset order, with the position of the last one on the message."""
    messages, seeks = fetched({SENSOR: run_of(SENSOR, 3, 4, 7), OTHER: run_of(OTHER, 0)})
    assert [tp for tp, _ in messages] == [SENSOR, OTHER]
    message = messages[0][1]
    assert (message.offset, message.topic, message.partition) == (7, "city.raw.sensor", 0)
    batch: Any = message.value
    assert isinstance(batch, Batch)
    assert (batch.topic, batch.partition, batch.offsets.tolist()) == ("city.raw.sensor", 0, [3, 4, 7])
    assert batch.received_ms.tolist() == [1_789_430_400_003, 1_789_430_400_004, 1_789_430_400_007]
    assert (list(batch.keys), list(batch.values)) == ([b"k3", b"k4", b"k7"], [b"v"] * 3)
    assert [tuple(headers) for headers in batch.headers] == [(("ce_id", b"1"),), (), (("ce_id", b"1"),)]
    assert seeks == {}


def test_records_are_handed_over_as_they_are() -> None:
    """Null values, empty bytes and what is not Avro are the stages' business: nothing is decoded or dropped here."""
    records = [record(SENSOR, i, value) for i, value in enumerate((None, b"", b"\xff\x00"))]
    ((_, message),), _ = fetched({SENSOR: records})
    batch: Any = message.value
    assert list(batch.values) == [None, b"", b"\xff\x00"]
    assert BatchSchema().loads_value(None, message) is message.value
    assert BatchSchema().loads_key(None, message) is None


def test_fausts_own_topics_come_by_the_record() -> None:
    """Faust's machinery reads its own topics as it always does."""
    messages, _ = fetched({INTERNAL: run_of(INTERNAL, 0, 1)})
    assert [(message.offset, message.value) for _, message in messages] == [(0, b"v"), (1, b"v")]


def test_a_fetch_without_records_is_no_message() -> None:
    """No empty batches."""
    assert fetched({}) == ([], {})
    assert fetched({SENSOR: []}) == ([], {})


@pytest.mark.parametrize("changes", [{"flow_active": False}, {"active": {OTHER}}], ids=["paused", "not active"])
def test_what_cannot_be_handed_out_is_read_again(changes: dict[str, Any]) -> None:
    """While partitions move, what was fetched is not passed over: reading goes back to the first of it."""
    messages, seeks = fetched({SENSOR: run_of(SENSOR, 5, 6)}, **changes)
    assert messages == []
    assert seeks == {SENSOR: 5}


def test_what_is_not_ours_any_more_is_left_to_its_owner() -> None:
    """A partition that was taken away is not sought in: that would be an error, and its new owner reads it."""
    messages, seeks = fetched({SENSOR: run_of(SENSOR, 5)}, flow_active=False, assigned=set())
    assert (messages, seeks) == ([], {})


def test_a_rebalance_between_two_partitions_of_a_fetch_stops_the_second() -> None:
    """A message belongs to the generation it was fetched in; once that ends, the rest of the fetch is read again."""

    async def get() -> tuple[list[TP], dict[TP, int]]:
        consumer = await _consumer({SENSOR: run_of(SENSOR, 1), OTHER: run_of(OTHER, 8, 9)})
        seen = []
        async for tp, message in consumer.getmany(0.1):
            seen.append(tp)
            assert message.generation_id == consumer.app.consumer_generation_id
            consumer.app.consumer_generation_id += 1
        return seen, consumer.seeks

    assert asyncio.run(get()) == ([SENSOR], {OTHER: 8})
