"""Time passes without records only where a broker has said that there are none, and only as far as it said so."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, Final

import pytest
from faust.types import TP

from sinks.clickhouse import Sink
from sinks.store import Pass
from streams import passing
from tests.streams.lives import Life, life, offer
from tests.streams.worlds import SENSOR, World, log
from tests.support.batches import DAY, RECEIVED_MS

#: When the broker told the end of the log: long after the last record, long before now.
_TOLD_MS: Final = RECEIVED_MS + DAY
_GRACE_MS: Final = 10
_DISORDER_MS: Final = 2_000


@pytest.fixture
def world(clickhouse: Sink, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(passing, "_LOOK_S", 0.005)
    return offer(World(clickhouse, {SENSOR: log()[SENSOR]}), monkeypatch)


def lived(world: World, story: Callable[[Life], Awaitable[None]], **settings: object) -> None:
    """Let the story of one worker happen, which has read the log to its end."""

    async def whole() -> None:
        given = {"idle_grace_s": _GRACE_MS / 1_000, "disorder_s": _DISORDER_MS / 1_000, **settings}
        with life(replace(world, settings=given)) as one:
            await one.join()
            await one.work()
            await story(one)

    asyncio.run(whole())


async def looked(one: Life, end: tuple[int, int] | None) -> int:
    """How far time has passed once it was looked several times, with the broker telling that."""
    asked = 0

    def told_end(tp: TP) -> tuple[int, int] | None:
        nonlocal asked
        asked += 1
        return end

    one.kafka.told_end = told_end
    running = asyncio.create_task(one.worker._passing.run())
    async with asyncio.timeout(20):
        while asked < 5:  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0.005)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    return one.entry(SENSOR).state.passed_ms


def test_time_passes_up_to_when_the_broker_told_the_end(world: World) -> None:
    """Less the grace and the allowed disorder: what comes within them is not behind the time."""

    async def story(one: Life) -> None:
        assert await looked(one, (24, _TOLD_MS)) == _TOLD_MS - _GRACE_MS - _DISORDER_MS

    lived(world, story)


@pytest.mark.parametrize(
    ("end", "grace_s"),
    [((25, _TOLD_MS), 0.01), (None, 0.01), ((24, _TOLD_MS), 3_600.0)],
    ids=["records wait", "nobody has told", "a record has just come"],
)
def test_time_does_not_pass_where_nobody_is_silent(world: World, end: Any, grace_s: float) -> None:
    """While Kafka is away, while there is something to read, or while the last record is fresh."""

    async def story(one: Life) -> None:
        assert await looked(one, end) == 0

    lived(world, story, idle_grace_s=grace_s)


def test_time_does_not_pass_in_partitions_that_are_being_handed_over(world: World) -> None:
    """Whoever has them next lets it pass."""

    async def story(one: Life) -> None:
        await one.custody.drain()
        assert await looked(one, (24, _TOLD_MS)) == 0

    lived(world, story)


def test_where_alerts_come_of_it_is_kept_with_them(world: World) -> None:
    """A bin has been silent for a day: whoever reads the partition again lets time pass there again."""

    async def story(one: Life) -> None:
        passed_ms = await looked(one, (24, _TOLD_MS))
        entry = one.entry(SENSOR)
        assert {transition.alertname for _, transition in entry.transitions} == {"silent"}
        assert entry.passes == [Pass(23, passed_ms)]
        assert one.worker._rhythm.wake.is_set(), "alerts do not wait for the next flush"

    lived(world, story)


def test_how_far_time_had_passed_is_kept_before_records_come_behind_it(world: World) -> None:
    """Without an alert it is not worth a row, until records come that it made late: then it decides on their order."""

    async def story(one: Life) -> None:
        entry = one.entry(SENSOR)
        passed_ms = await looked(one, (24, RECEIVED_MS + 60_000))
        assert passed_ms > entry.state.watermark_ms
        assert (entry.transitions, entry.passes) == ([], [])
        one.worker._passing.keep(entry)
        assert entry.passes == [Pass(23, passed_ms)]
        one.worker._passing.keep(entry)
        assert len(entry.passes) == 1, "once is enough"

    lived(world, story)
