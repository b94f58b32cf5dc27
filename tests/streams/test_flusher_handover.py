"""What a rebalance does to a flush that is under way: neither the next owner nor what was cut may suffer from it."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from typing import Any, Final

import pytest
from clickhouse_connect.driver.exceptions import OperationalError

from sinks.clickhouse import Sink
from tests.streams.lives import Life, offer
from tests.streams.test_flusher import lived
from tests.streams.worlds import LAMPS, SENSOR, World, log
from tests.support.batches import DAY, RECEIVED_MS

_MUCH_LATER: Final = RECEIVED_MS + 40 * DAY


@pytest.fixture
def world(clickhouse: Sink, monkeypatch: pytest.MonkeyPatch) -> World:
    return offer(World(clickhouse, log()), monkeypatch)


class _Hanging:
    """A client whose inserts hang, as in a half-open connection, until they are let go and time out."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self.reached, self.let_go = threading.Event(), threading.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def insert_arrow(self, *_: Any, **__: Any) -> None:
        self.reached.set()
        self.let_go.wait(20)
        raise OperationalError("timed out")


def test_a_flush_that_ends_late_leaves_the_next_owner_alone(world: World) -> None:
    """The drain has given it up, and the same partitions have come back: what it drops at its end is its own entry,
    not the one that is at work now."""

    async def story(one: Life) -> None:
        await one.read(SENSOR, 12)
        good = one.custody.flushing._sink
        hanging = _Hanging(one.worker.sink.client)
        one.custody.flushing._sink = replace(good, client=hanging)
        under_way = asyncio.create_task(one.worker._flush_while_ours())
        await asyncio.get_running_loop().run_in_executor(None, hanging.reached.wait, 5)
        await one.custody.drain()
        assert not one.custody.is_drained
        one.custody.flushing._sink = good
        await one.join()
        entry = one.entry(SENSOR)
        hanging.let_go.set()
        await under_way
        assert one.entry(SENSOR) is entry
        assert not one.custody.has_lost_sight
        await one.settle()
        await one.work()

    lived(world, story, drain_timeout_s=0.3, rebalance_timeout_s=5, retry_budget_s=60)
    assert world.faults() == []


@pytest.mark.parametrize("busy", ["cutting", "storing"])
def test_alerts_of_a_flush_that_a_drain_gives_up_come_again(world: World, busy: str) -> None:
    """Transitions that time alone has made are no records: an entry they were cut from must not go on as if they had
    been told."""

    async def story(one: Life) -> None:
        while await one.read(SENSOR, 24):
            pass
        await one.flush(save=True)
        entry, lamps = one.entry(SENSOR), one.entry(LAMPS)
        await one.worker._passing._let_pass(SENSOR, entry, _MUCH_LATER)
        assert [(t.alertname, t.state) for _, t in entry.transitions] == [("silent", "firing")] * 2
        assert entry.next_offset == entry.stored
        if busy == "cutting":
            await one.read(LAMPS, 3)
            async with lamps.lock:
                await one.custody.drain()
        else:
            hanging = _Hanging(one.worker.sink.client)
            good = one.custody.flushing._sink
            one.custody.flushing._sink = replace(good, client=hanging)
            under_way = asyncio.create_task(one.worker._flush_while_ours())
            await asyncio.get_running_loop().run_in_executor(None, hanging.reached.wait, 5)
            await one.custody.drain()
            hanging.let_go.set()
            await under_way
            one.custody.flushing._sink = good
        assert not one.custody.is_drained
        await one.join()
        assert one.entry(SENSOR) is not entry
        await one.work()
        await one.worker._passing._let_pass(SENSOR, one.entry(SENSOR), _MUCH_LATER)
        await one.flush(save=True)

    lived(world, story, drain_timeout_s=0.3, rebalance_timeout_s=5, retry_budget_s=60)
    told = world.sink.rows("SELECT alertname, state FROM alert_transitions FINAL WHERE alertname = 'silent'")
    assert told == [("silent", "firing")] * 2
