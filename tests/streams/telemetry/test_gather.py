"""Whether a worker is ready, and the reasons in words when it is not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from sinks.clickhouse import Sink
from streams.telemetry.gather import samples, unready
from tests.streams.lives import Life, life, offer
from tests.streams.worlds import World, log


@pytest.fixture
def world(clickhouse: Sink, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    yield offer(World(clickhouse, log()), monkeypatch)


def looked_at(world: World, look: Callable[[Life], Any], *, joined: bool = True) -> None:
    """Look at a worker that has taken its partitions over and heard from its broker, or has not joined."""

    async def whole() -> None:
        with life(world) as one:
            one.kafka.told_end = lambda tp: (one.kafka.highwater(tp), one.worker.clock.now_ms())
            if joined:
                await one.join()
            look(one)

    asyncio.run(whole())


def test_a_worker_that_works_is_ready(world: World) -> None:
    """It has its partitions and sees ClickHouse and Kafka."""

    def look(one: Life) -> None:
        assert unready(one.worker) == []

    looked_at(world, look)


def test_a_worker_that_stands_by_is_ready(world: World) -> None:
    """More workers than partitions is how one waits for another's end: none of them is broken."""

    async def whole() -> None:
        with life(world) as one:
            one.custody.assigned(set())
            one.custody.positioned({})
            await one.settle()
            assert unready(one.worker) == []

    asyncio.run(whole())


def test_before_it_has_taken_over_it_is_not(world: World) -> None:
    """Between the start, or a rebalance, and the takeover nobody reads for it."""

    def look(one: Life) -> None:
        assert unready(one.worker) == ["its partitions are not taken over yet"]

    looked_at(world, look, joined=False)


def test_what_is_away_is_named(world: World) -> None:
    """Who is on call reads which of them to look at; no password stands there."""

    def look(one: Life) -> None:
        one.worker.sink.waiting.add(call := object())
        assert unready(one.worker) == [f"ClickHouse is away and being waited for: {world.sink.url}"]
        one.worker.sink.waiting.discard(call)
        one.kafka.told_end = lambda tp: (0, one.worker.clock.now_ms() - 11_000)
        assert unready(one.worker) == [f"Kafka is away and being waited for: {one.worker.settings.kafka_bootstrap}"]

    looked_at(world, look)


def test_a_registry_that_is_away_is_named_without_its_password(world: World) -> None:
    """The page asks nobody who he is."""
    world.settings["schema_registry_url"] = "http://reader:hunter2@127.0.0.1:1/registry"

    def look(one: Life) -> None:
        waiting = next(sample for sample in samples(one.worker) if sample.labels == ("registry",))
        assert waiting.value == 0
        one.worker._intake._waiting.add(object())
        (reason,) = unready(one.worker)
        assert reason == "the schema registry is away and being waited for: http://reader:********@127.0.0.1:1/registry"
        waiting = next(sample for sample in samples(one.worker) if sample.labels == ("registry",))
        assert (waiting.value, one.worker.is_waiting) == (1, True)

    looked_at(world, look)


def test_a_worker_that_has_enough_to_do_does_not_miss_kafka(world: World) -> None:
    """While it works off what it has it fetches nothing, so nothing is said."""

    def look(one: Life) -> None:
        one.kafka.told_end = lambda tp: (0, one.worker.clock.now_ms() - 11_000)
        ((place, entry), *_) = one.worker.ledger
        entry.inbox.append(world.log[place])
        assert one.worker.is_busy
        assert unready(one.worker) == []

    looked_at(world, look)


def test_the_end_is_told_with_its_reason(world: World) -> None:
    """Whatever takes it out of service also says why."""

    def look(one: Life) -> None:
        one.worker.fail(RuntimeError("the disk is full"))
        assert unready(one.worker) == ["it is stopping: the disk is full"]

    looked_at(world, look)


@pytest.mark.parametrize("port", [0, 6066])
def test_a_page_that_is_not_wanted_is_not_served(world: World, port: int) -> None:
    """Port 0 opens nothing; any other is opened on the address that the settings say, loopback as they ship."""
    world.settings["web_port"] = port

    async def whole() -> None:
        with life(world) as one:
            conf = one.faust.conf
            assert conf.web_enabled == (port > 0)
            if port:
                assert (conf.web_bind, conf.web_port) == ("127.0.0.1", port)

    asyncio.run(whole())
