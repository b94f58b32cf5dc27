"""The hand-over of partitions: what is begun is made durable while it is ours, and nothing is touched that is not."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
from clickhouse_connect.driver.exceptions import OperationalError
from faust.types import TP

from schemas.contracts import ALERT_TOPIC
from sinks import stored
from sinks.clickhouse import Sink
from streams import broker, custody
from streams.broker import BrokerAwayError, BrokerError
from streams.ledger import Place
from streams.transport import NotOursError
from tests.streams.lives import Life, Plan, life, offer
from tests.streams.worlds import LAMPS, SENSOR, World, log

_TP = {place: TP(place.topic, place.partition) for place in (SENSOR, LAMPS)}
_ALERTS = TP(ALERT_TOPIC, 0)


@pytest.fixture
def world(clickhouse: Sink, monkeypatch: pytest.MonkeyPatch) -> World:
    return offer(World(clickhouse, log()), monkeypatch)


def lived(world: World, story: Callable[[Life], Awaitable[None]], **settings: object) -> None:
    """Let the story of one worker happen."""

    async def whole() -> None:
        with life(replace(world, settings=settings)) as one:
            await story(one)

    asyncio.run(whole())


def claims(world: World) -> int:
    return int(world.sink.rows("SELECT count() FROM owners")[0][0])


def durable(world: World, place: Place = SENSOR) -> int:
    newest = stored.newest_snapshot(world.origin(place), world.sink)
    assert newest is not None
    return newest.next_offset


def alert_mark(one: Life) -> int | None:
    return one.custody.alert_mark


class Away:
    """A ClickHouse that takes no insert any more."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self.attempts = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def insert_arrow(self, table: str, rows: Any, settings: Any) -> None:
        self.attempts += 1
        raise OperationalError("Error ConnectionRefusedError executing HTTP request")


def gone_away(one: Life) -> Away:
    """Let ClickHouse go away for this worker."""
    away = Away(one.worker.sink.client)
    one.custody.flushing._sink = replace(one.custody.flushing._sink, client=away)
    return away


# --- giving away


def test_a_drain_makes_durable_what_was_begun(world: World) -> None:
    """Rows, letters, alerts, a snapshot and the commit, though no snapshot was due; then nothing waits."""

    async def story(one: Life) -> None:
        await one.join()
        await one.read(SENSOR, 12)
        await one.custody.drain()
        assert (one.custody.is_open, one.custody.is_drained) == (False, True)
        assert not one.entry(SENSOR).unsaved
        assert (durable(world), world.committed[SENSOR]) == (12, 12)

    lived(world, story)
    assert len(world.offsets(SENSOR, "events_sensor")) == 10


def test_nothing_is_processed_after_a_drain(world: World) -> None:
    """What had arrived and was not begun is let go: its new owner reads it."""

    async def story(one: Life) -> None:
        await one.join()
        message = one.kafka.fetch(SENSOR, 6, None)
        await one.worker._ingest(message)
        await one.custody.drain()
        entry = one.entry(SENSOR)
        assert entry.inbox == []
        entry.inbox.append(message.value.batch)
        await one.worker._processing.process([(SENSOR, entry)])
        assert (entry.next_offset, len(entry.inbox)) == (0, 1)

    lived(world, story)


def test_fetches_are_short_until_partitions_are_taken_over(world: World) -> None:
    """They are moved then, and a move waits for the fetch that is under way."""

    async def story(one: Life) -> None:
        shown = [one.custody.patience_s]
        await one.join()
        shown.append(one.custody.patience_s)
        await one.custody.drain()
        shown.append(one.custody.patience_s)
        assert [patience_s < 0.1 for patience_s in shown] == [True, False, True]

    lived(world, story)


def test_a_drain_ends_at_its_deadline(world: World) -> None:
    """ClickHouse stays away: what could not be stored is dropped, so that it is read again by whoever comes, the thread
    that was storing gives up too, and the worker knows that it has not drained."""

    async def story(one: Life) -> None:
        await one.join()
        await one.read(SENSOR, 12)
        away = gone_away(one)
        await asyncio.wait_for(one.custody.drain(), 5)
        assert (one.custody.is_drained, one.worker.failure) == (False, None)
        assert one.worker.ledger.get(SENSOR) is None
        assert one.worker.ledger.get(LAMPS) is not None, "it had nothing to lose"
        await asyncio.wait_for(asyncio.get_running_loop().run_in_executor(one.worker._blocking, threading.Event), 5)
        attempts = away.attempts
        await asyncio.sleep(0.05)
        assert away.attempts == attempts > 0

    lived(world, story, drain_timeout_s=0.5, retry_budget_s=60)
    assert world.committed == {}


def test_a_drain_that_waits_for_another_flush_ends_at_its_deadline(world: World) -> None:
    """What was processed since that flush was cut is in nobody's hands: it is dropped too, and read again."""

    async def story(one: Life) -> None:
        await one.join()
        await one.read(SENSOR, 12)
        reached = asyncio.Event()

        async def never(*_: Any, **__: Any) -> None:
            reached.set()
            await asyncio.Event().wait()

        one.kafka.send = never
        flushing = asyncio.create_task(one.worker.flush())
        await reached.wait()
        await one.read(LAMPS, 6)
        await asyncio.wait_for(one.custody.drain(), 5)
        assert one.custody.is_drained is False
        assert one.worker.ledger.get(LAMPS) is None
        flushing.cancel()
        await asyncio.gather(flushing, return_exceptions=True)
        assert one.worker.ledger.get(SENSOR) is None

    lived(world, story, drain_timeout_s=0.05)
    assert world.committed == {}


def test_a_drain_that_fails_stops_the_worker(world: World) -> None:
    """Faust would swallow the error; nothing is acknowledged, and the process ends with it."""

    async def story(one: Life) -> None:
        await one.join()
        await one.read(SENSOR, 12)

        async def refused(*_: Any, **__: Any) -> None:
            raise ZeroDivisionError("a bug")

        one.kafka.send = refused
        await one.custody.drain()
        assert isinstance(one.worker.failure, ZeroDivisionError)
        assert one.custody.is_drained is False
        assert one.worker.ledger.get(SENSOR) is None

    lived(world, story)
    assert world.committed == {}


# --- being given


def test_a_partition_is_ours_once_it_is_taken_over_and_moved(world: World) -> None:
    """Assigned and positioned it is not yet: until then no record of it is taken."""

    async def story(one: Life) -> None:
        one.custody.assigned(set(_TP.values()))
        assert not one.custody.is_open
        one.custody.positioned({_TP[SENSOR]: 3})
        assert not one.custody.is_open
        assert one.custody.is_wanted
        await one.settle()
        assert one.custody.is_open
        assert one.kafka.positions == dict.fromkeys(_TP.values(), 0), "the snapshot decides, and not what is committed"
        assert [one.entry(place).mark for place in _TP] == [1, 1]

    lived(world, story)


def test_partitions_that_are_not_ours_any_more_are_forgotten(world: World) -> None:
    """Those that stay keep their state, and are moved all the same: the group has positioned them elsewhere."""

    async def story(one: Life) -> None:
        await one.join()
        await one.work(Plan(until=12))
        kept = one.entry(SENSOR)
        await one.custody.drain()
        one.kafka.positions.clear()
        await one.join(SENSOR)
        assert one.entry(SENSOR) is kept
        assert one.worker.ledger.get(LAMPS) is None
        assert one.kafka.positions == {_TP[SENSOR]: 12}
        assert claims(world) == 2

    lived(world, story)


def test_a_worker_without_partitions_is_a_standby(world: World) -> None:
    """It claims nothing, and is open for what may come."""

    async def story(one: Life) -> None:
        one.custody.assigned(set())
        one.custody.positioned({})
        await one.settle()
        assert (one.custody.is_open, one.custody.is_wanted, claims(world)) == (True, False, 0)

    lived(world, story)


def test_a_broker_that_is_away_is_asked_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is open until it has answered; that it was away stops nobody."""

    async def story(one: Life) -> None:
        def away(settings: object) -> dict[str, str]:
            raise BrokerError("no answer in time")

        monkeypatch.setattr(broker, "topic_ids", away)
        one.custody.assigned(set(_TP.values()))
        one.custody.positioned({})
        assert not await one.custody._take_over()
        assert (one.custody.is_open, one.worker.failure) == (False, None)
        offer(world, monkeypatch)
        await one.settle()
        assert one.custody.is_open

    lived(world, story)


def test_a_broker_that_is_away_is_known(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Idle or not, the watchdog must not take it for a stall: within the retry budget, and only while none answers."""
    monkeypatch.setattr(custody, "_PAUSE_S", 0.01)
    monkeypatch.setattr(custody, "_LOOK_S", 0.01)
    error: list[BrokerError] = []

    def ids(settings: object) -> dict[str, str]:
        if error:
            raise error[0]
        return dict(world.epochs)

    async def story(one: Life) -> None:
        monkeypatch.setattr(broker, "topic_ids", ids)
        running = asyncio.create_task(one.custody.run())
        one.custody.assigned(set(_TP.values()))
        error.append(BrokerAwayError("no answer"))
        await until(lambda: one.worker.is_waiting)
        one.custody.positioned({})
        error[0] = BrokerError("has been given to another worker meanwhile")
        await until(lambda: not one.worker.is_waiting)
        error[0] = BrokerAwayError("no answer")
        await until(lambda: one.worker.is_waiting)
        since_s = one.custody._away_s
        assert since_s is not None
        one.custody._away_s = since_s - 3_600
        assert not one.worker.is_waiting
        error.clear()
        await until(lambda: one.custody.is_open and one.custody._away_s is None)
        running.cancel()

    lived(world, story)


def test_partitions_that_went_during_the_move_are_not_opened(world: World) -> None:
    """The group took them before reading could be moved; the next assignment says whose they are."""

    async def story(one: Life) -> None:
        async def not_ours(offsets: Mapping[TP, int]) -> int:
            raise NotOursError("not assigned")

        one.kafka.move = not_ours
        one.custody.assigned(set(_TP.values()))
        one.custody.positioned({})
        assert not await one.custody._take_over()
        assert not one.custody.is_open

    lived(world, story)


async def until(something: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not something():  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0.01)


class Blocked:
    """A ClickHouse that does not answer one thread until it is let go."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self.asked, self.let_go = threading.Event(), threading.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def query(self, sql: str, **rest: Any) -> Any:
        self.asked.set()
        assert self.let_go.wait(10)
        return self._engine.query(sql, **rest)


def test_a_revoke_during_a_take_over_ends_it(world: World) -> None:
    """The thread may still be asking; what it brings back is nobody's, and the next assignment is taken over."""

    async def story(one: Life) -> None:
        blocked = Blocked(one.worker.sink.client)
        one.custody._patience._sink = replace(one.worker.sink, client=blocked)
        one.custody.assigned(set(_TP.values()))
        one.custody.positioned({})
        taking = asyncio.create_task(one.custody._take_over())
        await asyncio.get_running_loop().run_in_executor(None, blocked.asked.wait, 10)
        await one.custody.drain()
        blocked.let_go.set()
        assert await taking, "it is not asked for any more"
        assert (len(one.worker.ledger), one.custody.is_open, claims(world)) == (0, False, 0)
        await one.join(SENSOR)
        assert one.custody.is_open
        assert one.entry(SENSOR).origin.term == 1

    lived(world, story)


def test_nothing_is_taken_over_between_a_revoke_and_the_next_assignment(
    clickhouse: Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ClickHouse refuses a row in the very flush that hands the partition over. It is to be taken up again, but not by
    us: a claim now would outrank the one of its next owner."""
    world = offer(World(clickhouse, log()), monkeypatch)

    async def story(one: Life) -> None:
        await one.join()
        await one.read(SENSOR, 12)
        await one.custody.drain()
        assert one.worker.ledger.get(SENSOR) is None
        before = claims(world)
        await one.settle()
        assert await one.custody._take_over()
        assert (claims(world), one.custody.is_open) == (before, False)
        await one.join()
        assert one.custody.is_open

    clickhouse.command("ALTER TABLE events_sensor ADD CONSTRAINT strict CHECK event_id != 's7'")
    try:
        lived(world, story)
    finally:
        clickhouse.command("ALTER TABLE events_sensor DROP CONSTRAINT strict")
