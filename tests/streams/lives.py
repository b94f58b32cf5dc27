"""Lives of a worker without Kafka: a real one over a real ClickHouse, led step by step, that may die after any effect.
Then a next life takes over, as a process would: with nothing but the world.

Effects are counted as they happen (inserts, deletes, messages, commits), so that a test can let a process die after
each of them without a list of them.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any, Final

import pytest
from faust.types import TP

from sinks import stored
from streams import broker, recovery
from streams.clock import WallClock
from streams.custody import Custody
from streams.flush import Message
from streams.ledger import Entry, Place
from streams.settings import load
from streams.setup import publish_territories
from streams.transport import Fetched
from streams.worker import Worker
from tests.streams.worlds import World

#: Snapshots are taken where a plan says so, and never because time has passed.
_SETTINGS: Final[dict[str, Any]] = {
    "snapshot_interval_s": 1e9, "zone_watch_interval_s": 1e-9, "chunk_records": 8, "disorder_s": 2.0,
    "log_batches": False, "threads": 1,
}  # fmt: skip


class Died(BaseException):
    """The process is gone: nothing after the last effect happens."""


@dataclass
class Steps:
    """The effects of one life, by name, and after how many of them it dies (None: it lives)."""

    die_after: int | None = None
    names: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def alive(self) -> None:
        if self.die_after is not None and len(self.names) >= self.die_after:
            raise Died

    def done(self, name: str) -> None:
        with self.lock:
            self.names.append(name)
        self.alive()


@dataclass
class _Client:
    """The client of the engine as one process has it."""

    engine: Any
    steps: Steps

    def insert_arrow(self, table: str, rows: Any, settings: dict[str, Any]) -> None:
        self.steps.alive()
        self.engine.insert_arrow(table, rows, settings=settings)
        self.steps.done(table)

    def command(self, sql: str, **rest: Any) -> Any:
        self.steps.alive()
        answer = self.engine.command(sql, **rest)
        self.steps.done(" ".join(sql.split()[:3]))
        return answer

    def query(self, sql: str, **rest: Any) -> Any:
        self.steps.alive()
        return self.engine.query(sql, **rest)

    def query_arrow(self, sql: str, **rest: Any) -> Any:
        self.steps.alive()
        return self.engine.query_arrow(sql, **rest)

    def close_connections(self) -> None:
        self.engine.close_connections()


@dataclass(frozen=True)
class Plan:
    """How a life goes: `cut` records at a time, a flush after each of them, a snapshot with every `save_every`th.

    `until`: how far each partition is read (None: to its end). `idle_ms`: the event time that passes then. `save`:
    whether a snapshot ends it, as it does a clean stop.
    """

    cut: int = 12
    save_every: int = 2
    until: int | None = None
    idle_ms: int | None = None
    save: bool = True


PLAN: Final = Plan()


class Kafka:
    """What Faust is to one worker: a consumer and a producer, over the world's log."""

    def __init__(self, world: World, steps: Steps) -> None:
        self.world, self.steps = world, steps
        self.consumer_generation_id = world.generation
        self.positions: dict[TP, int] = {}
        self.mark = 0

    @property
    def consumer(self) -> Kafka:
        return self

    @property
    def producer(self) -> Kafka:
        return self

    async def move(self, offsets: Mapping[TP, int]) -> int:
        self.positions.update(offsets)
        self.mark += 1
        return self.mark

    async def commit_offsets(self, offsets: Mapping[TP, int], timeout_s: float) -> bool:
        for tp, offset in offsets.items():
            place = Place(tp.topic, tp.partition)
            newest = stored.newest_snapshot(self.world.origin(place), self.world.sink)
            assert newest is not None and newest.next_offset >= offset, f"{place}: {offset} committed before a snapshot"
            self.world.committed[place] = offset
        self.steps.done("commit")
        return True

    async def send(self, topic: str, key: bytes | None, value: bytes | None, **rest: Any) -> asyncio.Future[None]:
        self.steps.alive()
        self.world.produced.append(Message(topic, key, value, rest["headers"]))
        self.steps.done(topic)
        confirmed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        confirmed.set_result(None)
        return confirmed

    def highwater(self, tp: TP) -> int:
        return self.world.bounds()[Place(tp.topic, tp.partition)][1]

    def fetch(self, place: Place, most: int, until: int | None) -> Any:
        """The message of the next fetch of a partition; None at its end."""
        tp, log = TP(place.topic, place.partition), self.world.log[place]
        gone = self.world.starts.get(place, 0)
        first = max(self.positions[tp], gone)
        start = int((log.offsets < first).sum())
        stop = min(start + most, len(log) if until is None else int((log.offsets < until).sum()))
        if start >= stop:
            return None
        batch = log.part(start, stop)
        # The client does not know what it missed when its position is gone.
        since = batch.first_offset if gone > self.positions[tp] else self.positions[tp]
        self.positions[tp] = batch.last_offset + 1
        value = Fetched(batch, self.mark, since)
        return SimpleNamespace(tp=tp, value=value, generation_id=self.consumer_generation_id)


class Life:
    """One process: a real worker that is led step by step. `steps` are the effects it has had.

    Make it in a running event loop.
    """

    def __init__(self, world: World, die_after: int | None = None) -> None:
        self.world = world
        self.steps = Steps(die_after)
        # A delete on a busy machine takes longer than the tests of the sink would wait.
        sink = replace(world.sink, client=_Client(world.sink.client, self.steps), retry_budget_s=60.0)
        territories = {territory.jurisdiction_id: territory for territory in world.territories}
        self.worker = Worker(load(**{**_SETTINGS, **world.settings}), territories, sink, WallClock())
        self.faust: Any = self.worker.app
        self.kafka: Any = Kafka(world, self.steps)
        self.worker.app = self.custody.app = self.worker.confirmed._app = self.kafka

    @property
    def custody(self) -> Custody:
        return self.worker.custody

    def entry(self, place: Place) -> Entry:
        found = self.worker.ledger.get(place)
        assert found is not None
        return found

    async def join(self, *places: Place) -> None:
        """Be given these partitions by the group, or all there are, and take them over."""
        self.custody.assigned({TP(place.topic, place.partition) for place in places or self.world.log})
        self.custody.positioned({})
        await self.settle()

    async def settle(self) -> None:
        """Take over what is wanted."""
        while self.custody._wanted.is_set():
            self.custody._wanted.clear()
            assert await self.custody._take_over()

    async def read(self, place: Place, most: int, until: int | None = None) -> bool:
        """Fetch once, and take what it brings through the stages. Whether there was anything."""
        message = self.kafka.fetch(place, most, until)
        if message is None:
            return False
        await self.worker._ingest(message)
        entry = self.entry(place)
        while entry.inbox:
            await self.worker._processing.process([(place, entry)])
        return True

    async def idle(self, now_ms: int) -> None:
        """Let event time pass in every partition."""
        for place, entry in self.worker.ledger:
            await self.worker._passing._let_pass(place, entry, now_ms)

    async def flush(self, *, save: bool = False) -> None:
        """Flush, and take up again what must be."""
        await self.worker.flush(save=save)
        await self.settle()

    async def work(self, plan: Plan = PLAN) -> None:
        """Read, flush and save as planned, from where the partitions stand."""
        turn = 0
        while any([await self.read(place, plan.cut, plan.until) for place, _ in self.worker.ledger]):
            turn += 1
            await self.flush(save=turn % plan.save_every == 0)
        if plan.idle_ms is not None:
            await self.idle(plan.idle_ms)
        before = dict(self.kafka.positions)
        await self.flush(save=plan.save)
        if self.kafka.positions != before:
            # Something was refused in the last flush, and what was taken up again is still to be read.
            await self.work(plan)

    def end(self) -> None:
        """Leave nothing behind in this process."""
        self.custody.close()
        self.worker._notifier.close()
        self.worker._sampling.close()
        self.worker._stages.shutdown()
        self.worker._blocking.shutdown()


@contextmanager
def life(world: World, die_after: int | None = None) -> Iterator[Life]:
    """A process that ends with the block, without a word to the world."""
    one = Life(world, die_after)
    try:
        yield one
    finally:
        one.end()


def live(world: World, *plans: Plan, die_after: int | None = None) -> Steps:
    """A whole life from its take-over on, which may be cut short. Returns its effects."""

    async def whole() -> Steps:
        with life(world, die_after) as one:
            with suppress(Died):
                await one.join()
                for plan in plans or (PLAN,):
                    await one.work(plan)
            return one.steps

    return asyncio.run(whole())


def offer(world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """Let the broker of this world answer in place of a real one; one partition is taken over after the other.

    Alerts outlive topics that are created anew, so a world that has not begun forgets those of the others.
    """
    epochs = sorted(set(world.epochs.values()))
    if world.sink.rows("SELECT count() FROM owners WHERE epoch IN {e:Array(String)}", {"e": epochs}) == [(0,)]:
        world.sink.command("TRUNCATE TABLE alert_transitions")
    monkeypatch.setattr(broker, "topic_ids", lambda settings: dict(world.epochs))
    monkeypatch.setattr(broker, "TopicIds", lambda settings: SimpleNamespace(ask=world.ids))
    monkeypatch.setattr(broker, "end_offsets", lambda settings: world.bounds())
    monkeypatch.setattr(broker, "committed_offset", lambda settings, place: world.committed.get(place))
    monkeypatch.setattr(broker, "first_offset_from", lambda settings, place, offset: world.next_record(place, offset))
    monkeypatch.setattr(broker, "committed_offset", lambda settings, place: world.committed.get(place))
    monkeypatch.setattr(recovery, "_AT_ONCE", 1)
    publish_territories({territory.jurisdiction_id: territory for territory in world.territories}, world.sink)
    return world
