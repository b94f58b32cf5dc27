"""The loop that takes partitions over, for as long as the worker lives, and the topic of the alerts."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from faust.types import TP

from schemas.contracts import ALERT_TOPIC
from sinks.clickhouse import Sink
from streams import broker, custody
from streams.broker import BrokerError
from tests.streams.lives import Life, offer
from tests.streams.test_custody import Blocked, alert_mark, lived, until
from tests.streams.worlds import LAMPS, SENSOR, World, log

_TP = {place: TP(place.topic, place.partition) for place in (SENSOR, LAMPS)}
_ALERTS = TP(ALERT_TOPIC, 0)


@pytest.fixture
def world(clickhouse: Sink, monkeypatch: pytest.MonkeyPatch) -> World:
    return offer(World(clickhouse, log()), monkeypatch)


def test_the_loop_takes_over_whatever_is_assigned(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """And again after a while when Kafka was away; and again when a topic was created anew under its feet."""
    monkeypatch.setattr(custody, "_PAUSE_S", 0.01)
    monkeypatch.setattr(custody, "_LOOK_S", 0.05)

    async def story(one: Life) -> None:
        answers = [BrokerError("away"), BrokerError("away")]

        def ids(settings: object) -> dict[str, str]:
            if answers:
                raise answers.pop()
            return dict(world.epochs)

        monkeypatch.setattr(broker, "topic_ids", ids)
        running = asyncio.create_task(one.custody.run())
        one.custody.assigned(set(_TP.values()))
        one.custody.positioned({})
        await until(lambda: one.custody.is_open)
        assert one.entry(SENSOR).origin.epoch == "T1"
        world.epochs[SENSOR.topic] = "T2"
        await until(lambda: one.entry(SENSOR).origin.epoch == "T2")
        assert one.entry(LAMPS).origin.term == 1, "nobody else has claimed it, so it is kept"
        running.cancel()

    lived(world, story)


def test_alerts_are_read_on_before_clickhouse_answers(world: World) -> None:
    """Whoever is on call does not wait for it. They go on where they were committed."""

    async def story(one: Life) -> None:
        blocked = Blocked(one.worker.sink.client)
        one.custody._patience._sink = replace(one.worker.sink, client=blocked)
        one.custody.assigned({*_TP.values(), _ALERTS})
        assert alert_mark(one) is None
        one.custody.positioned({_ALERTS: 5})
        taking = asyncio.create_task(one.custody._take_over())
        await asyncio.get_running_loop().run_in_executor(None, blocked.asked.wait, 10)
        assert one.kafka.positions == {_ALERTS: 5}
        assert alert_mark(one) == 1
        assert not one.custody.is_open
        blocked.let_go.set()
        assert await taking

    lived(world, story)
