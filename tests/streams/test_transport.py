"""The transport plug-in: one message per partition and fetch, and nothing that was fetched is ever passed over.

Fetching itself is Faust's and is shown by the integration tests; here a consumer of the real application is given what
a fetch brought, at the four methods where it asks its client's thread.
"""

from __future__ import annotations

import asyncio
import tomllib
from collections.abc import Awaitable, Callable, Iterable, Mapping, Set
from importlib import import_module
from inspect import getsource
from pathlib import Path
from typing import Any

import pytest
from aiokafka.errors import IllegalStateError
from aiokafka.structs import ConsumerRecord
from faust.types import TP, ConsumerMessage

from schemas.records import Batch
from streams import app as faust_app
from streams.settings import load
from streams.transport import SCHEME, BatchConsumer, BatchSchema, Fetched, NotOursError, Transport

SENSOR = TP("city.raw.sensor", 0)
OTHER = TP("city.raw.sensor", 1)
INTERNAL = TP("vigie-__assignor-__leader", 0)
FULL = 4


class Keeper:
    """Wants batches of the city's topics, and writes down what it hears."""

    patience_s = 1.0

    def __init__(self) -> None:
        self.heard: list[Any] = []

    async def rest(self, has_more: bool) -> None:
        self.heard.append(("rest", has_more))

    async def drain(self) -> None:
        self.heard.append("drain")

    def assigned(self, partitions: Set[TP]) -> None:
        self.heard.append(partitions)

    def positioned(self, committed: Mapping[TP, int]) -> None:
        self.heard.append(dict(committed))

    def wants_batches(self, topic: str) -> bool:
        return topic.startswith("city.")


class Given(BatchConsumer):
    """A consumer that is given what a fetch brought, what the group committed, and whose seeks are written down."""

    records: Mapping[TP, list[ConsumerRecord]]
    active: set[TP] | None = None
    ours: bool = True
    told: Mapping[TP, int | None]
    seeks: list[dict[TP, int]]
    fetching: asyncio.Event | None = None
    answered: asyncio.Event | None = None
    waited_s: float | None = None

    async def _wait_next_records(self, timeout: float) -> Any:  # noqa: ASYNC109 - Faust's own signature
        self.waited_s = timeout
        if self.fetching is not None and self.answered is not None:
            self.fetching.set()
            await self.answered.wait()
        return self.records, self.active

    async def seek_to_committed(self) -> Any:
        return self.told

    async def seek_wait(self, partitions: Mapping[TP, int]) -> None:
        if not self.ours:
            raise IllegalStateError("not assigned")
        self.seeks.append(dict(partitions))

    def highwater(self, tp: TP) -> int:
        return 1_000


def record(tp: TP, offset: int, value: bytes | None = b"v") -> ConsumerRecord:
    key, at = b"k%d" % offset, 1_789_430_400_000 + offset
    headers = (("ce_id", b"1"),) if offset % 2 else ()
    return ConsumerRecord(tp.topic, tp.partition, offset, at, 1, key, value, None, 2, 1, headers)


def run_of(tp: TP, *offsets: int) -> list[ConsumerRecord]:
    return [record(tp, offset) for offset in offsets]


async def a_consumer(records: Mapping[TP, list[ConsumerRecord]], **changes: Any) -> Given:
    async def nothing(*args: Any) -> None: ...

    settings = load(batch_records=FULL, linger_s=0.0)
    app = faust_app.build(settings, Keeper(), ingest=nothing, notify=nothing, on_failure=lambda error: None)
    consumer = Given(app.transport, callback=nothing, on_partitions_revoked=nothing, on_partitions_assigned=nothing)
    consumer.records, consumer.told, consumer.seeks = records, {}, []
    # The client's thread is never started, and closes its loop only at its end.
    consumer._thread.thread_loop.close()
    for name, value in changes.items():
        setattr(consumer, name, value)
    return consumer


def fetched(records: Mapping[TP, list[ConsumerRecord]], **changes: Any) -> list[tuple[TP, ConsumerMessage]]:
    """Messages of one fetch. `changes`: attributes of the consumer."""

    async def get() -> list[tuple[TP, ConsumerMessage]]:
        consumer = await a_consumer(records, **changes)
        return [pair async for pair in consumer.getmany(0.1)]

    return asyncio.run(get())


def heard(do: Callable[[Given], Awaitable[object]], **changes: Any) -> list[Any]:
    """What the keeper hears of a consumer."""

    async def get() -> list[Any]:
        consumer = await a_consumer({}, **changes)
        await do(consumer)
        return list(consumer._keeper.heard)  # type: ignore[attr-defined]

    return asyncio.run(get())


def batch_in(message: ConsumerMessage) -> Batch:
    value: Any = message.value
    assert isinstance(value, Fetched)
    return value.batch


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
    messages = fetched({SENSOR: run_of(SENSOR, 3, 4, 7), OTHER: run_of(OTHER, 0)})
    assert [tp for tp, _ in messages] == [SENSOR, OTHER]
    message = messages[0][1]
    assert (message.offset, message.topic, message.partition) == (7, "city.raw.sensor", 0)
    batch = batch_in(message)
    assert (batch.topic, batch.partition, batch.offsets.tolist()) == ("city.raw.sensor", 0, [3, 4, 7])
    assert batch.received_ms.tolist() == [1_789_430_400_003, 1_789_430_400_004, 1_789_430_400_007]
    assert [batch.original(row) for row in range(3)] == [
        (b"k3", b"v", (("ce_id", b"1"),)), (b"k4", b"v", ()), (b"k7", b"v", (("ce_id", b"1"),))
    ]  # fmt: skip


def test_records_are_handed_over_as_they_are() -> None:
    """Null values, empty bytes and what is not Avro are the stages' business: nothing is decoded or dropped here."""
    records = [record(SENSOR, i, value) for i, value in enumerate((None, b"", b"\xff\x00"))]
    ((_, message),) = fetched({SENSOR: records})
    assert list(batch_in(message).values) == [None, b"", b"\xff\x00"]
    assert BatchSchema().loads_value(None, message) is message.value
    assert BatchSchema().loads_key(None, message) is None


def test_fausts_own_topics_come_by_the_record() -> None:
    """Faust's machinery reads its own topics as it always does."""
    messages = fetched({INTERNAL: run_of(INTERNAL, 0, 1)})
    assert [(message.offset, message.value) for _, message in messages] == [(0, b"v"), (1, b"v")]


def test_a_fetch_without_records_is_no_message() -> None:
    """No empty batches."""
    assert fetched({}) == []
    assert fetched({SENSOR: []}) == []


# --- partitions that come and go


@pytest.mark.parametrize("changes", [{"flow_active": False}, {"active": {OTHER}}], ids=["paused", "not active"])
def test_what_was_fetched_for_an_assignment_that_is_no_more_is_dropped(changes: dict[str, Any]) -> None:
    """Nothing is sought from here: whoever holds the partition next moves it to where its snapshot ends."""
    assert fetched({SENSOR: run_of(SENSOR, 5, 6)}, **changes) == []


def test_a_rebalance_between_two_partitions_of_a_fetch_stops_the_second() -> None:
    """A message belongs to the generation it was fetched in; once that ends, the rest of the fetch is nobody's."""

    async def get() -> list[TP]:
        consumer = await a_consumer({SENSOR: run_of(SENSOR, 1), OTHER: run_of(OTHER, 8, 9)})
        seen = []
        async for tp, message in consumer.getmany(0.1):
            seen.append(tp)
            assert message.generation_id == consumer.app.consumer_generation_id
            consumer.app.consumer_generation_id += 1
        return seen

    assert asyncio.run(get()) == [SENSOR]


def test_a_rebalance_during_a_fetch_drops_all_of_it() -> None:
    """The generation is that of before the fetch: what was asked for by an earlier assignment never passes for ours."""

    async def get() -> int:
        fetching, answered = asyncio.Event(), asyncio.Event()
        consumer = await a_consumer({SENSOR: run_of(SENSOR, 1)}, fetching=fetching, answered=answered)

        async def messages() -> int:
            return len([pair async for pair in consumer.getmany(0.1)])

        count = asyncio.create_task(messages())
        await fetching.wait()
        consumer.app.consumer_generation_id += 1
        answered.set()
        return await count

    assert asyncio.run(get()) == 0


def test_the_keeper_hears_of_partitions_before_anything_else_does() -> None:
    """Also when there are none: what is held of others must go, and a standby is no exception."""

    async def assign(consumer: Given) -> None:
        for assigned in ({SENSOR, INTERNAL}, set()):
            await consumer.on_partitions_assigned(assigned, 4)

    assert heard(assign) == [{SENSOR, INTERNAL}, set()]


def test_reading_goes_on_at_the_committed_offsets_until_the_keeper_moves_it() -> None:
    """Faust's own topics stay there; a partition of which nothing is committed begins where Kafka's setting says."""

    async def get() -> tuple[Any, ...]:
        consumer = await a_consumer({}, told={SENSOR: 7, OTHER: None, INTERNAL: 0})
        await consumer.perform_seek()
        return dict(consumer._read_offset), dict(consumer._committed_offset), consumer._keeper.heard  # type: ignore[attr-defined]

    read, committed, heard = asyncio.run(get())
    assert read == {SENSOR: 7, INTERNAL: 0}
    assert committed == {SENSOR: 7}
    assert heard == [{SENSOR: 7, INTERNAL: 0}]


def test_a_batch_is_handed_on_however_far_faust_has_read() -> None:
    """Faust drops what is older than it has seen; after a move back everything is."""

    async def get() -> list[int]:
        consumer = await a_consumer({SENSOR: run_of(SENSOR, 3, 4)})
        consumer._read_offset[SENSOR] = 90
        offsets = [message.offset async for _, message in consumer.getmany(0.1)]
        assert consumer._read_offset.get(SENSOR) is None
        return offsets

    assert asyncio.run(get()) == [4]


def test_a_group_that_has_moved_on_positions_nothing() -> None:
    """It took the partitions before their offsets could be asked for: the keeper hears of the next assignment."""

    async def gone() -> Any:
        raise IllegalStateError("not assigned")

    assert heard(lambda consumer: consumer.perform_seek(), seek_to_committed=gone) == []


def test_the_end_of_an_assignment_drains_the_keeper() -> None:
    """Faust asks at revoke and at stop, while the partitions are still ours."""
    assert heard(lambda consumer: consumer.wait_empty()) == ["drain"]


def test_what_is_fetched_after_a_move_bears_its_mark() -> None:
    """By that mark the keeper tells batches that were asked for before from those that begin where it moved to."""

    async def get() -> tuple[list[int], list[dict[TP, int]]]:
        consumer = await a_consumer({SENSOR: run_of(SENSOR, 1)})
        marks = []
        for offset in (0, 40):
            ((_, message),) = [pair async for pair in consumer.getmany(0.1)]
            fetched: Any = message.value
            marks += [fetched.mark, await consumer.move({SENSOR: offset})]
        return marks, consumer.seeks

    marks, seeks = asyncio.run(get())
    assert marks == [0, 1, 1, 2]
    assert seeks == [{SENSOR: 0}, {SENSOR: 40}]


def test_a_partition_that_has_gone_cannot_be_moved() -> None:
    """The group took it in between: that is an answer, and the mark stays where it was."""

    async def get() -> list[int]:
        consumer = await a_consumer({SENSOR: run_of(SENSOR, 1)}, ours=False)
        with pytest.raises(NotOursError):
            await consumer.move({SENSOR: 9})
        return [message.value.mark async for _, message in consumer.getmany(0.1)]  # type: ignore[union-attr]

    assert asyncio.run(get()) == [0]


def waited_s(patience_s: float, full: Iterable[TP] = ()) -> float | None:
    """How long a fetch of 0.1 s that finds nothing may wait; the agents of `full` have enough."""

    async def get() -> float | None:
        consumer = await a_consumer({})
        consumer._keeper.patience_s = patience_s  # type: ignore[misc]
        consumer._set_active_tps({SENSOR, OTHER})
        for tp in full:
            consumer.on_buffer_full(tp)
        assert [pair async for pair in consumer.getmany(0.1)] == []
        return consumer.waited_s

    return asyncio.run(get())


def test_a_fetch_waits_no_longer_than_its_keeper_has_patience() -> None:
    """While partitions are taken over somebody waits to move them, and a fetch comes first."""
    assert [waited_s(patience_s) for patience_s in (0.02, 1.0)] == [0.02, 0.1]


def test_a_fetch_without_partitions_that_have_enough_is_short() -> None:
    """Nobody wakes it when they are wanted again."""
    assert [waited_s(1.0, full) for full in ([], [SENSOR])] == [0.1, 0.025]


def test_a_broker_keeps_an_empty_fetch_for_a_moment_only() -> None:
    """A partition that is moved while it does is not read before: the client has one fetch at a time under way."""

    async def get() -> Any:
        thread = (await a_consumer({}))._thread
        consumer = thread._create_worker_consumer(thread.transport)
        await consumer.stop()
        return consumer

    consumer = asyncio.run(get())
    assert "fetch_max_wait_ms=self._fetch_max_wait_ms" in getsource(type(consumer).start)
    assert consumer._fetch_max_wait_ms <= 250


def test_a_move_waits_for_the_fetch_that_is_under_way() -> None:
    """Its answer may be from before or after the move, so it must bear the older mark."""

    async def get() -> list[str]:
        fetching, answered = asyncio.Event(), asyncio.Event()
        consumer = await a_consumer({SENSOR: run_of(SENSOR, 1)}, fetching=fetching, answered=answered)
        order = []

        async def fetch() -> None:
            async for _, message in consumer.getmany(0.1):
                fetched: Any = message.value
                order.append(f"fetched under mark {fetched.mark}")

        async def move() -> None:
            order.append(f"moved to mark {await consumer.move({SENSOR: 9})}")

        fetch_task = asyncio.create_task(fetch())
        await fetching.wait()
        move_task = asyncio.create_task(move())
        await asyncio.sleep(0)
        assert consumer.seeks == []
        answered.set()
        await asyncio.gather(fetch_task, move_task)
        return sorted(order)

    assert asyncio.run(get()) == ["fetched under mark 0", "moved to mark 1"]


@pytest.mark.parametrize(
    ("offsets", "rests"),
    [((3, 4), [("rest", True)]), ((998, 999), [("rest", False)]), (range(996, 1_000), [])],
    ids=["there is more", "that was all", "much at once"],
)
def test_whoever_rests_is_told_whether_there_is_more(offsets: Iterable[int], rests: list[Any]) -> None:
    """A broker that gives little at a time is asked again soon; one that has given all lets a batch gather."""

    async def heard() -> list[Any]:
        consumer = await a_consumer({SENSOR: run_of(SENSOR, *offsets)})
        assert len([message async for message in consumer.getmany(0.1)]) == 1
        return consumer._keeper.heard  # type: ignore[attr-defined, no-any-return]

    assert asyncio.run(heard()) == rests
