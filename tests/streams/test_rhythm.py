"""The worker's rhythm: how long small batches gather, when a flush comes, and what does not wait for it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from itertools import pairwise
from typing import Any

import pytest

from sinks.clickhouse import Sink
from streams.clock import monotonic_s
from tests.streams.lives import Life, life, offer
from tests.streams.worlds import LAMPS, SENSOR, World, log

#: Longer than any of these tests may take.
_NEVER_S = 120.0


@pytest.fixture
def world(clickhouse: Sink, monkeypatch: pytest.MonkeyPatch) -> World:
    return offer(World(clickhouse, log()), monkeypatch)


def lived(world: World, story: Callable[[Life], Awaitable[None]], **settings: float) -> None:
    """Let the story of one worker happen, with these settings."""
    world.settings.update(settings)

    async def whole() -> None:
        with life(world) as one:
            await one.join()
            await story(one)

    asyncio.run(whole())


async def during(loop: Coroutine[Any, Any, None], story: Awaitable[None]) -> None:
    """Let the story happen while a loop of the worker turns."""
    task = asyncio.create_task(loop)
    try:
        async with asyncio.timeout(30):
            await story
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def until(done: Callable[[], bool]) -> None:
    """Give way until it is so."""
    while not done():  # noqa: ASYNC110 - nothing tells of it
        await asyncio.sleep(0.005)


async def arrive(one: Life, most: int) -> None:
    """Some records of the sensors are fetched, and not yet processed."""
    await one.worker._ingest(one.kafka.fetch(SENSOR, most, None))


def test_what_has_arrived_goes_with_the_flush_that_is_due(world: World) -> None:
    """Records that linger when a flush is due are processed for it, and do not wait for the next one."""

    async def story(one: Life) -> None:
        async def act() -> None:
            await arrive(one, 6)
            lingering = one.worker._rhythm._lingers
            await until(lambda: SENSOR.topic in lingering)
            assert one.entry(SENSOR).next_offset == 0, "it lingers"
            await one.worker._rhythm.gather()
            assert one.entry(SENSOR).next_offset == 6

        await during(one.worker._processing.run(SENSOR.topic), act())

    lived(world, story, linger_s=_NEVER_S)


def test_records_of_a_partition_that_comes_while_others_linger(world: World) -> None:
    """They are processed with the others, though the partition was not there when the lingering began."""

    async def story(one: Life) -> None:
        async def act() -> None:
            await arrive(one, 6)
            await until(lambda: SENSOR.topic in one.worker._rhythm._lingers)
            one.custody.take_up_again(SENSOR)
            await one.settle()
            await arrive(one, 6)
            assert one.entry(SENSOR).next_offset == 0, "it lingers"
            await until(lambda: one.entry(SENSOR).next_offset == 6)

        await during(one.worker._processing.run(SENSOR.topic), act())

    lived(world, story, linger_s=0.1)


def test_a_flush_does_not_wait_for_long(world: World) -> None:
    """Where records come faster than they are processed, what is processed is stored all the same."""

    async def story(one: Life) -> None:
        await arrive(one, 6)
        began_s = monotonic_s()
        await one.worker._rhythm.gather()
        assert monotonic_s() - began_s < 5.0
        assert one.entry(SENSOR).arrived == 6, "nobody processed them, and nothing is lost"

    lived(world, story)


def test_a_flush_waits_no_longer_when_there_are_alerts(world: World) -> None:
    """They are told at once, and not when everything that has arrived is processed."""

    async def story(one: Life) -> None:
        async def come() -> None:
            await asyncio.sleep(0.02)
            one.worker._rhythm.hasten()

        await arrive(one, 6)
        began_s = monotonic_s()
        await asyncio.gather(one.worker._rhythm.gather(), come())
        assert monotonic_s() - began_s < 0.2

    lived(world, story)


def test_flushes_come_at_their_interval(world: World) -> None:
    """The interval is from one beginning to the next: a flush that takes long does not put off the next one."""
    begun: list[float] = []

    async def story(one: Life) -> None:
        async def slow(*, save: bool = False, alerts_only: bool = False) -> set[Any]:
            assert not alerts_only
            begun.append(monotonic_s())
            for _ in range(4):
                await asyncio.sleep(0.1)
            return set()

        one.worker._flusher.flush = slow  # type: ignore[method-assign]
        await during(one.worker._rhythm.run(), until(lambda: len(begun) >= 4))

    lived(world, story, flush_interval_s=0.5)
    gaps = sorted(after - before for before, after in pairwise(begun))
    assert gaps[0] >= 0.4, "and not all at once either"
    assert gaps[0] < 0.5 + 0.4


def test_an_alert_is_flushed_at_once_and_puts_nothing_off(world: World) -> None:
    """A storm of alerts has their partitions flushed again and again, in blocks; the others' turn still comes."""
    seen: list[bool] = []
    at_s: list[float] = []

    async def story(one: Life) -> None:
        async def noted(*, save: bool = False, alerts_only: bool = False) -> set[Any]:
            seen.append(alerts_only)
            at_s.append(monotonic_s())
            return set()

        async def storm() -> None:
            while seen.count(False) < 3:
                one.worker._rhythm.wake.set()
                await asyncio.sleep(0.01)

        one.worker._flusher.flush = noted  # type: ignore[method-assign]
        await during(one.worker._rhythm.run(), storm())

    lived(world, story, flush_interval_s=0.4)
    assert seen[0] is True
    assert seen.count(True) >= 3
    assert min(after - before for before, after in pairwise(at_s)) > 0.045


@pytest.mark.parametrize(("flush_rows", "expected"), [(100_000, [True, True, False]), (1, [False, False, False])])
def test_alerts_come_first_when_a_flush_is_due(world: World, flush_rows: int, expected: list[bool]) -> None:
    """A flush of everything takes longer than one of theirs, so those that come meanwhile have one too, and the others
    their turn after it; but where much waits, two would take longer than one."""
    seen: list[bool] = []

    async def story(one: Life) -> None:
        async def noted(*, save: bool = False, alerts_only: bool = False) -> set[Any]:
            seen.append(alerts_only)
            return set()

        while not one.entry(SENSOR).transitions:
            assert await one.read(SENSOR, 6)
        one.worker._flusher.flush = noted  # type: ignore[method-assign]
        rhythm = one.worker._rhythm
        rhythm._settings = one.worker.settings.model_copy(update={"flush_rows": flush_rows})
        rhythm.wake.clear()
        await during(rhythm.run(), until(lambda: len(seen) >= 3))

    lived(world, story, flush_interval_s=0.1)
    assert seen[:3] == expected


def test_as_many_rows_as_fill_a_flush_are_no_alert(world: World) -> None:
    """When so much waits, everything is flushed, whatever woke the loop."""
    seen: list[bool] = []

    async def story(one: Life) -> None:
        async def noted(*, save: bool = False, alerts_only: bool = False) -> set[Any]:
            seen.append(alerts_only)
            return set()

        await one.read(LAMPS, 6)
        one.worker._flusher.flush = noted  # type: ignore[method-assign]
        one.worker._rhythm.wake.set()
        await during(one.worker._rhythm.run(), until(lambda: bool(seen)))

    lived(world, story, flush_interval_s=_NEVER_S, flush_rows=5)
    assert seen[0] is False


def test_fewer_fetches_where_batches_gather_for_longer(world: World) -> None:
    """Each fetch costs a round of two threads, whatever it brings: their pauses grow with what batches wait."""

    async def story(one: Life) -> None:
        haste = one.custody.haste
        assert haste.pause_s == pytest.approx(0.01)
        haste.lingering_s = 0.2
        assert haste.pause_s == pytest.approx(0.05)
        await arrive(one, 6)

        async def act() -> None:
            await until(lambda: one.entry(SENSOR).next_offset == 6)

        await during(one.worker._processing.run(SENSOR.topic), act())
        assert haste.pause_s == pytest.approx(0.01), "what is processed for the first time has cost nothing yet"

    lived(world, story, linger_s=0.04)


def test_small_batches_wait_for_a_flush_that_is_under_way(world: World) -> None:
    """They would take their time from it; but one that hangs does not keep them, and none does who will alert."""
    begun, ended = asyncio.Event(), asyncio.Event()

    async def story(one: Life) -> None:
        async def slow(*, save: bool = False, alerts_only: bool = False) -> set[Any]:
            begun.set()
            await ended.wait()
            return set()

        async def act() -> None:
            try:
                rhythm.wake.set()
                await begun.wait()
                lingering = [asyncio.create_task(rhythm.linger(SENSOR.topic, 0.0)) for _ in range(2)]
                await asyncio.sleep(0.1)
                assert not any(task.done() for task in lingering)
                ended.set()
                started_s = monotonic_s()
                await asyncio.gather(*lingering)
                assert monotonic_s() - started_s < 0.1
                begun.clear()
                ended.clear()
                rhythm.wake.set()
                await begun.wait()
                started_s = monotonic_s()
                await rhythm.linger(SENSOR.topic, 0.0)
                assert monotonic_s() - started_s > 0.2
                one.entry(SENSOR).coming_ms, one.entry(SENSOR).coming_s = 1, monotonic_s()
                started_s = monotonic_s()
                await rhythm.linger(SENSOR.topic, 0.0)
                assert monotonic_s() - started_s < 0.2
                assert not ended.is_set()
            finally:
                ended.set()

        rhythm = one.worker._rhythm
        one.worker._flusher.flush = slow  # type: ignore[method-assign]
        await during(rhythm.run(), act())

    lived(world, story, linger_s=0.01, flush_interval_s=_NEVER_S)
