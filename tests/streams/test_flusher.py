"""When and what is flushed: consistent cuts, snapshots that are due, and what a flush that fails leaves behind."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
from faust.types import TP

from schemas.contracts import ALERT_TOPIC
from sinks import stored
from sinks.clickhouse import Sink, SinkError
from streams.flusher import Flusher
from streams.ledger import Place
from tests.streams.lives import Life, life, offer
from tests.streams.worlds import LAMPS, SENSOR, World, log
from tests.support.batches import batch, encoded, event


@pytest.fixture
def world(clickhouse: Sink, monkeypatch: pytest.MonkeyPatch) -> World:
    return offer(World(clickhouse, log()), monkeypatch)


def lived(world: World, story: Callable[[Life], Awaitable[None]], **settings: object) -> None:
    """Let the story of one worker happen, from its take-over on; `settings` stand over those of the harness."""

    async def whole() -> None:
        with life(replace(world, settings=settings)) as one:
            await one.join()
            one.steps.names.clear()
            await story(one)

    asyncio.run(whole())


def flusher(one: Life) -> Flusher:
    return one.worker._flusher


def saved(world: World, place: Place) -> int:
    newest = stored.newest_snapshot(world.origin(place), world.sink)
    assert newest is not None
    return newest.next_offset


def offsets(one: Life, place: Place = SENSOR) -> tuple[int, int, int | None]:
    entry = one.entry(place)
    return entry.stored, entry.durable, entry.committed


# --- what is cut


def test_nothing_to_do_is_nothing_done(world: World) -> None:
    """No insert and no snapshot; what the take-over has saved is committed once and never again."""

    async def story(one: Life) -> None:
        assert await flusher(one).flush(save=True) == set()
        assert one.steps.names == ["commit"]
        await flusher(one).flush(save=True)
        assert one.steps.names == ["commit"]

    lived(world, story)
    assert world.committed == {SENSOR: 0, LAMPS: 0}


def test_rows_are_stored_at_every_flush_and_snapshots_when_they_are_due(world: World) -> None:
    """Between two snapshots offsets stay where a restart would begin."""

    async def story(one: Life) -> None:
        for number, until in enumerate((6, 12)):
            await one.read(SENSOR, 6)
            await flusher(one).flush()
            assert offsets(one)[:2] == (until, 0)
            assert ("snapshots" in one.steps.names) is False, number
        one.entry(SENSOR).snapshot_s -= 2e9
        await one.read(SENSOR, 6)
        await flusher(one).flush()
        assert offsets(one) == (18, 18, 18)

    lived(world, story)
    assert (saved(world, SENSOR), saved(world, LAMPS)) == (18, 0)


def test_an_alert_is_told_without_the_others(world: World) -> None:
    """Who is on call does not wait for the rows of a whole city: what has no alert to tell is left for its turn."""

    async def story(one: Life) -> None:
        await one.read(LAMPS, 2)
        while not one.entry(SENSOR).transitions:
            assert await one.read(SENSOR, 6)
        read = one.entry(SENSOR).next_offset
        assert not one.entry(LAMPS).transitions
        assert await flusher(one).flush(alerts_only=True) == set()
        assert (one.entry(SENSOR).stored, one.entry(LAMPS).stored) == (read, 0)
        assert any(message.topic == ALERT_TOPIC for message in world.produced)
        assert world.offsets(LAMPS, "events_lighting") == {}
        await flusher(one).flush(alerts_only=True)
        assert one.entry(LAMPS).stored == 0, "there is nothing to tell"
        await flusher(one).flush()
        assert one.entry(LAMPS).stored == 2

    lived(world, story)


def test_a_snapshot_is_due_even_where_nothing_new_came(world: World) -> None:
    """What was stored since the last one would be read again; asked to save, a flush saves that."""

    async def story(one: Life) -> None:
        await one.read(SENSOR, 6)
        await flusher(one).flush()
        one.steps.names.clear()
        await flusher(one).flush()
        assert "snapshots" not in one.steps.names
        await flusher(one).flush(save=True)
        assert one.steps.names == ["snapshots", "commit"]
        assert offsets(one) == (6, 6, 6)

    lived(world, story)


def test_time_that_passed_is_saved_when_it_is_due(world: World) -> None:
    """It gives no row; the zone watch reads from snapshots how far it has come."""

    async def story(one: Life) -> None:
        await one.read(SENSOR, 6)
        await flusher(one).flush(save=True)
        one.steps.names.clear()
        one.entry(SENSOR).idle_progress = True
        await flusher(one).flush()
        assert one.steps.names == []
        await flusher(one).flush(save=True)
        assert "snapshots" in one.steps.names
        assert not one.entry(SENSOR).unsaved

    lived(world, story)


def test_a_cut_is_of_one_moment(world: World) -> None:
    """Records that are processed while it is being stored belong to the next flush, and to its snapshot."""

    async def story(one: Life) -> None:
        await one.read(SENSOR, 8)
        going_on = True

        async def meanwhile(topic: str, *rest: Any, **more: Any) -> Any:
            nonlocal going_on
            if going_on:
                going_on = False
                await one.read(SENSOR, 8)
            return await type(one.kafka).send(one.kafka, topic, *rest, **more)

        one.kafka.send = meanwhile
        await flusher(one).flush(save=True)
        assert (one.entry(SENSOR).next_offset, offsets(one)) == (16, (8, 8, 8))
        assert one.entry(SENSOR).waiting > 0
        await one.work()

    lived(world, story)
    assert world.faults() == []


def test_a_batch_under_way_is_not_cut_in_two(world: World) -> None:
    """The cut waits for it: half of it would be in the snapshot and half in no row."""

    async def story(one: Life) -> None:
        await one.read(SENSOR, 6)
        entry = one.entry(SENSOR)
        async with entry.lock:
            flushing = asyncio.create_task(flusher(one).flush())
            await asyncio.sleep(0.01)
            assert one.steps.names == []
        await flushing
        assert offsets(one)[0] == 6

    lived(world, story)


def test_there_is_one_flush_at_a_time(world: World) -> None:
    """The second has what the first left, and stores nothing twice."""

    async def story(one: Life) -> None:
        await one.read(SENSOR, 6)
        await asyncio.gather(*(flusher(one).flush(save=True) for _ in range(3)))
        assert one.steps.names.count("events_sensor") == len(
            set(world.sink.rows("SELECT toDate(observed_at) FROM events_sensor"))
        )
        assert one.steps.names.count("snapshots") == 1

    lived(world, story)


# --- what a failure leaves


def test_a_flush_that_fails_takes_its_partitions_with_it(world: World) -> None:
    """What was cut is lost to their state, so they are taken up anew; a partition without a part in it is kept."""

    async def story(one: Life) -> None:
        await one.read(SENSOR, 6)

        async def refused(*_: Any, **__: Any) -> None:
            raise ZeroDivisionError("a bug")

        one.kafka.send = refused
        with pytest.raises(ZeroDivisionError):
            await flusher(one).flush(save=True)
        assert [place for place, _ in one.worker.ledger] == [LAMPS]
        assert flusher(one).in_flight == 0

    lived(world, story)
    assert saved(world, SENSOR) == 0


def test_a_flush_that_is_given_up_takes_its_partitions_with_it(world: World) -> None:
    """A drain has its deadline: the flush is cancelled in the middle, and what it was storing is nobody's state."""

    async def story(one: Life) -> None:
        await one.read(SENSOR, 6)
        reached = asyncio.Event()

        async def never(*_: Any, **__: Any) -> None:
            reached.set()
            await asyncio.Event().wait()

        one.kafka.send = never
        flushing = asyncio.create_task(flusher(one).flush(save=True))
        await reached.wait()
        assert flusher(one).in_flight > 0, "what is being stored still fills the memory"
        flushing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await flushing
        assert [place for place, _ in one.worker.ledger] == [LAMPS]

    lived(world, story)


def test_a_partition_with_a_refused_row_is_named_and_let_go(world: World) -> None:
    """It is taken up again from its snapshot by whoever asked for the flush; the others are durable."""
    world.sink.command("ALTER TABLE events_sensor ADD CONSTRAINT strict CHECK event_id != 's3'")

    async def story(one: Life) -> None:
        await one.read(SENSOR, 6)
        await one.read(LAMPS, 6)
        assert await flusher(one).flush(save=True) == {SENSOR}
        assert one.worker.ledger.get(SENSOR) is None
        assert offsets(one, LAMPS) == (6, 6, 6)
        assert one.worker.tally.stored_by_domain == {"lighting": 5}

    try:
        lived(world, story)
    finally:
        world.sink.command("ALTER TABLE events_sensor DROP CONSTRAINT strict")


def test_only_what_is_durable_is_counted(world: World) -> None:
    """Numbers of the summary are of rows that are there: a flush that fails counts nothing."""

    async def story(one: Life) -> None:
        await one.read(SENSOR, 6)

        def refused(*_: Any, **__: Any) -> None:
            raise SinkError("no space")

        assert one.worker.tally.records == 0
        inserting = type(one.worker.sink.client).insert_arrow
        type(one.worker.sink.client).insert_arrow = refused
        try:
            with pytest.raises(SinkError):
                await flusher(one).flush()
        finally:
            type(one.worker.sink.client).insert_arrow = inserting
        assert one.worker.tally.records == 0
        one.custody.take_up_again(SENSOR)
        await one.settle()
        await one.read(SENSOR, 6)
        await flusher(one).flush()
        assert (one.worker.tally.records, one.worker.tally.stored, one.worker.tally.duplicates) == (6, 4, 1)

    lived(world, story)


# --- commits that come late


def test_a_commit_that_kafka_did_not_take_is_made_later(world: World) -> None:
    """After a while, and not at every flush; asked to save, at once. What is durable does not depend on it."""

    async def story(one: Life) -> None:
        asked: list[dict[Place, int]] = []
        takes = False

        async def commit(offsets: Mapping[TP, int], timeout_s: float) -> bool:
            asked.append({Place(tp.topic, tp.partition): offset for tp, offset in offsets.items()})
            return takes

        one.kafka.commit_offsets = commit
        await one.read(SENSOR, 6)
        await flusher(one).flush(save=True)
        assert asked[0] == {SENSOR: 6}
        assert offsets(one) == (6, 6, None)
        asked.clear()
        await flusher(one).flush(save=True)
        assert asked == [{SENSOR: 6, LAMPS: 0}]
        await flusher(one).flush()
        await flusher(one).flush()
        assert len(asked) == 1, "it was asked a moment ago"
        for place in (SENSOR, LAMPS):
            one.entry(place).commit_s -= 2e9
        takes = True
        await flusher(one).flush()
        assert offsets(one) == (6, 6, 6)
        await flusher(one).flush(save=True)
        assert len(asked) == 2

    lived(world, story)


# --- how much may wait


def test_what_is_refused_waits_as_well(world: World) -> None:
    """A record that becomes a reject is held for its dead letter, so it counts in what stops fetching."""
    same = encoded("sensor", [event(event_id="same")])[0]
    world.log[SENSOR] = batch([same] * 50)

    async def story(one: Life) -> None:
        for number in range(3):
            assert not one.worker._is_full(), number
            assert await one.read(SENSOR, 10)
        assert one.entry(SENSOR).waiting == 30
        assert one.worker._is_full()
        await one.flush()
        assert not one.worker._is_full()

    lived(world, story, flush_rows=10, chunk_records=65_536)


def test_what_is_cut_counts_while_others_are_still_to_be_cut(world: World) -> None:
    """A cut waits for the batch under way; what is cut meanwhile is in memory as before, and stops fetching as well."""

    async def story(one: Life) -> None:
        await one.read(SENSOR, 10)
        await one.read(LAMPS, 10)
        last = [place for place, _ in one.worker.ledger][-1]
        async with one.entry(last).lock:
            flushing = asyncio.create_task(one.worker.flush())
            async with asyncio.timeout(10):
                while not one.worker._flusher.in_flight:  # noqa: ASYNC110 - nothing tells of it
                    await asyncio.sleep(0.005)
            assert 0 < one.worker.ledger.waiting < 19
            assert one.worker.ledger.waiting + one.worker._flusher.in_flight == 19
            assert one.worker._is_full()
        await flushing
        assert one.worker._flusher.in_flight == 0
        assert not one.worker._is_full()

    lived(world, story, flush_rows=6)


def test_what_waits_does_not_hold_what_was_fetched(world: World) -> None:
    """Records that became events are let go when they are processed, and a large flush gives memory back behind it."""

    async def story(one: Life) -> None:
        await one.read(SENSOR, 10)
        waiting = one.entry(SENSOR).outcomes
        assert sum(len(outcome.events) for outcome in waiting) > 0
        assert all(len(outcome.refused) or not outcome.batch.pieces for outcome in waiting)
        await one.flush()
        await one.read(SENSOR, 3)
        await one.flush()

    given: list[None] = []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("streams.flusher._MANY", 10)
        patched.setattr("streams.flusher.give_back", lambda: given.append(None))
        lived(world, story)
    assert len(given) == 1, "behind the large one, and not behind the small one"
