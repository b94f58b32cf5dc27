"""What is done with a batch that was fetched: taken in its turn, or read again, and never passed over."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest
import structlog
from faust.types import TP

from schemas.records import Rows
from sinks import stored
from sinks.clickhouse import Sink
from streams import broker
from streams.intake import PoisonError
from streams.recovery import GONE
from tests.streams.lives import Life, Plan, life, offer
from tests.streams.worlds import SENSOR, World, log
from tests.support.batches import batch

_TP = TP(SENSOR.topic, SENSOR.partition)


@pytest.fixture
def world(clickhouse: Sink, monkeypatch: pytest.MonkeyPatch) -> World:
    return offer(World(clickhouse, log()), monkeypatch)


def lived(world: World, story: Callable[[Life], Awaitable[None]]) -> None:
    """Let the story of one worker happen."""

    async def whole() -> None:
        with life(world) as one:
            await one.join()
            await story(one)

    asyncio.run(whole())


def durable(world: World) -> int:
    newest = stored.newest_snapshot(world.origin(SENSOR), world.sink)
    assert newest is not None
    return newest.next_offset


def test_batches_that_were_fetched_before_the_move_are_not_taken(world: World) -> None:
    """They may be of any position; what follows the move begins where it moved to."""

    async def story(one: Life) -> None:
        early = one.kafka.fetch(SENSOR, 6, None)
        one.custody.take_up_again(SENSOR)
        await one.settle()
        await one.worker._ingest(early)
        assert one.entry(SENSOR).inbox == []
        assert await one.read(SENSOR, 6)
        assert one.entry(SENSOR).next_offset == 6

    lived(world, story)


def test_batches_of_another_generation_are_not_taken(world: World) -> None:
    """The partition may have been somewhere else in between."""

    async def story(one: Life) -> None:
        early = one.kafka.fetch(SENSOR, 6, None)
        one.kafka.consumer_generation_id += 1
        await one.worker._ingest(early)
        assert one.entry(SENSOR).inbox == []

    lived(world, story)


def test_a_batch_that_begins_too_late_is_fetched_again(world: World) -> None:
    """Kafka says that there are records in between: nothing is passed over, reading goes back to the first of them."""

    async def story(one: Life) -> None:
        one.kafka.positions[_TP] = 4
        ahead = one.kafka.fetch(SENSOR, 6, None)
        await one.worker._ingest(ahead)
        entry = one.entry(SENSOR)
        assert (entry.inbox, one.kafka.positions[_TP]) == ([], 0)
        await one.worker._ingest(ahead)
        assert entry.inbox == [], "it was fetched before that"
        await one.work()

    lived(world, story)
    assert world.faults() == []


@pytest.mark.parametrize("comes", ["taken up again", "moved", "handed over", "another generation"])
def test_a_batch_that_is_overtaken_while_kafka_is_asked_is_not_taken(world: World, comes: str) -> None:
    """It begins where the partition was to go on before. Taken now, it would hide what lies between."""

    async def story(one: Life) -> None:
        await one.work(Plan(until=9))
        entry = one.entry(SENSOR)
        one.kafka.positions[_TP] = 12
        ahead = one.kafka.fetch(SENSOR, 6, None)

        async def overtaken(*asked: object) -> bool:
            if comes == "taken up again":
                one.custody.take_up_again(SENSOR)
                await one.settle()
            elif comes == "moved":
                entry.mark += 1
            elif comes == "handed over":
                await one.custody.drain()
            else:
                one.kafka.consumer_generation_id += 1
            return True

        one.worker.custody.is_hole = overtaken  # type: ignore[assignment]
        await one.worker._ingest(ahead)
        assert [held.inbox for _, held in one.worker.ledger] == [[]] * len(one.worker.ledger)
        assert entry.fetched == 9

    lived(world, story)
    assert durable(world) == 9


def with_markers(world: World) -> World:
    """The same world, where a few offsets of the readings hold no record."""
    readings = world.log[SENSOR]
    kept = [offset for offset in range(24) if not 9 <= offset < 12]
    world.log[SENSOR] = replace(
        readings,
        offsets=readings.offsets[kept],
        received_ms=readings.received_ms[kept],
        pieces=[Rows(*zip(*(readings.original(row) for row in kept), strict=True))],
    )
    return world


def test_markers_of_transactions_are_passed_over_without_a_question(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client knows that it left nothing out; to ask Kafka costs up to half a second, for each transaction."""

    def refuse(*asked: object) -> None:
        raise AssertionError("Kafka was asked")

    monkeypatch.setattr(broker, "first_offset_from", refuse)

    async def story(one: Life) -> None:
        await one.work(Plan(cut=9))

    lived(with_markers(world), story)
    assert world.faults() == []
    assert durable(world) == 24


def test_a_hole_that_the_client_does_not_know_is_believed_when_kafka_confirms_it(world: World) -> None:
    """Its position was lost on the way, and what was left out had no record."""

    async def story(one: Life) -> None:
        await one.work(Plan(until=9))
        one.kafka.positions[_TP] = 10
        await one.work()

    with structlog.testing.capture_logs() as lines:
        lived(with_markers(world), story)
    assert [line for line in lines if line["log_level"] in ("warning", "error")] == []
    assert world.faults() == []
    assert durable(world) == 24


def test_what_retention_takes_from_a_worker_is_reported(world: World) -> None:
    """As at a start: how many, of which partition. What is left is read."""

    async def story(one: Life) -> None:
        await one.work(Plan(until=6))
        world.starts[SENSOR] = 15
        await one.work()

    with structlog.testing.capture_logs() as lines:
        lived(world, story)
    told = [line for line in lines if line["log_level"] in ("warning", "error")]
    assert [(line["event"], line["topic"], line["partition"], line["lost"]) for line in told] == [
        (GONE, SENSOR.topic, SENSOR.partition, 9)
    ]
    assert world.faults() == []
    assert durable(world) == 24


def test_a_worker_stops_behind_the_last_record_of_the_log(world: World) -> None:
    """Told to stop at an end that a marker stands before, it does not wait for a record that never comes."""

    async def story(one: Life) -> None:
        one.kafka.records_end = lambda tp, offset: min(offset, 24)
        one.worker.stop_at({SENSOR: 25})
        assert not one.worker._has_reached({SENSOR: 25})
        await one.work()
        assert one.worker._has_reached({SENSOR: 25})

    lived(world, story)


def test_a_log_that_has_gone_back_is_taken_up_again(world: World) -> None:
    """Its offsets were rewound by hand, or it is another log: the snapshot says where to go on."""

    async def story(one: Life) -> None:
        await one.work(Plan(until=12))
        one.kafka.positions[_TP] = 2
        await one.worker._ingest(one.kafka.fetch(SENSOR, 6, None))
        assert one.worker.ledger.get(SENSOR) is None
        await one.settle()
        assert (one.entry(SENSOR).next_offset, one.kafka.positions[_TP]) == (12, 12)
        await one.work()

    lived(world, story)
    assert world.faults() == []


PLACES = [replace(SENSOR, partition=number) for number in range(3)]


def several(clickhouse: Sink, monkeypatch: pytest.MonkeyPatch) -> World:
    """A world whose topic has three partitions."""
    readings = log()[SENSOR]
    return offer(
        World(clickhouse, {place: replace(readings, partition=place.partition) for place in PLACES}), monkeypatch
    )


def test_partitions_that_are_processed_together(clickhouse: Sink, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each goes on from its own offset; one that is lost meanwhile is left alone until it is taken up again."""
    world = several(clickhouse, monkeypatch)

    async def story(one: Life) -> None:
        for place in PLACES:
            await one.worker._ingest(one.kafka.fetch(place, 6, None))
        some = [(place, one.entry(place)) for place in PLACES]
        lost, entry = some[0]
        one.worker.ledger.drop(lost)
        await one.worker._processing.process(some)
        assert (entry.next_offset, entry.outcomes, entry.arrived) == (0, [], 6)
        for place, other in some[1:]:
            assert (other.next_offset, [o.batch.partition for o in other.outcomes]) == (6, [place.partition])
        one.custody.take_up_again(lost)
        await one.settle()
        await one.work()

    lived(world, story)
    assert world.faults() == []


def test_a_flood_in_one_partition_keeps_nothing_of_its_company(
    clickhouse: Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Records that were processed together with a flood are read again: no flush that waited for them stores a state
    that has seen them, and nothing that went before is lost."""
    world, flooded = several(clickhouse, monkeypatch), PLACES[1]
    world.log[flooded] = batch([b"junk"] * 24, partition=flooded.partition)
    world.settings["max_consecutive_invalid"] = 3

    async def story(one: Life) -> None:
        entries = {place: one.entry(place) for place in PLACES}
        for place in (PLACES[0], PLACES[2]):
            await one.read(place, 6)
        for place in PLACES:
            await one.worker._ingest(one.kafka.fetch(place, 6, None))
        processing = asyncio.create_task(one.worker._processing.process(list(entries.items())))
        await asyncio.sleep(0)
        flushing = asyncio.create_task(one.flush(save=True))
        with pytest.raises(PoisonError):
            await processing
        await flushing
        assert len(one.worker.ledger) == 0

    lived(world, story)
    for place in PLACES:
        newest = stored.newest_snapshot(world.origin(place), world.sink)
        assert newest is None or newest.next_offset == 0, place
        assert world.offsets(place, "events_sensor") == {}
