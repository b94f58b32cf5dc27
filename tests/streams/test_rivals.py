"""Two owners of one partition: who claims at the same time, and who is stale and does not know it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from processors.pipeline import Reference
from schemas.contracts import RAW_TOPICS
from sinks import stored
from sinks.clickhouse import Sink
from sinks.rows import Origin
from streams import broker, flush
from streams.broker import BrokerError, in_process_broker
from streams.clock import utc_now
from streams.recovery import Recovery
from streams.settings import load
from tests.streams.lives import Plan, life, live, offer
from tests.streams.worlds import LAMPS, SENSOR, World, log
from tests.support.batches import RECEIVED_MS, reference

_HALF = Plan(cut=6, until=12)
_REST = Plan(cut=5, idle_ms=RECEIVED_MS + 60_000)


@pytest.fixture
def world(clickhouse: Sink, monkeypatch: pytest.MonkeyPatch) -> World:
    return offer(World(clickhouse, log()), monkeypatch)


def territory(world: World) -> Reference:
    return reference(*world.territories)


def crossed(world: World, first: Callable[[], None]) -> Sink:
    """A sink by which somebody else acts after one has read the terms and before one's claim is written."""
    waiting = [first]

    class Crossing:
        def __getattr__(self, name: str) -> Any:
            return getattr(world.sink.client, name)

        def insert_arrow(self, table: str, rows: Any, settings: Any) -> None:
            if table == "owners" and waiting:
                waiting.pop()()
            world.sink.client.insert_arrow(table, rows, settings=settings)

    return replace(world.sink, client=Crossing())


def test_of_two_that_claim_at_once_each_gets_a_term_of_its_own(world: World) -> None:
    """The second claims between the first one's claim and its look at rivals: the first claims again, above."""
    one = Recovery(load(), territory(world), "one")
    two = Recovery(load(), territory(world), "two")

    def first() -> None:
        assert two.take([SENSOR], {}, 5, world.sink)[SENSOR].origin.term == 1

    assert one.take([SENSOR], {}, 5, crossed(world, first))[SENSOR].origin.term == 2
    owners = world.sink.rows("SELECT term, owner FROM owners ORDER BY term, owner")
    assert owners == [(1, "one"), (1, "two"), (2, "one")]


def test_who_claims_for_an_assignment_that_is_no_more_gives_way(world: World) -> None:
    """The rival was given the partition in a later generation of the group: it is theirs, and nothing is touched."""
    live(world, _HALF)
    late = Recovery(load(), territory(world), "late")
    newest = stored.newest_snapshot(world.origin(SENSOR), world.sink)

    def first() -> None:
        term = stored.terms([world.origin(SENSOR)], world.sink)[SENSOR.topic, SENSOR.partition] + 1
        stored.claim([replace(world.origin(SENSOR), term=term)], "newer", 9, utc_now(), world.sink)

    with pytest.raises(BrokerError, match="given to another worker"):
        late.take([SENSOR], {}, 8, crossed(world, first))
    assert stored.newest_snapshot(world.origin(SENSOR), world.sink) == newest


def test_an_owner_that_is_stale_overwrites_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was stopped for a while with work in its hands. The next one has taken over and come less far; what the first
    writes when it wakes up, too late to find out, is outranked or, where nobody has been yet, the same."""

    async def whole() -> None:
        with life(world) as stale, life(world) as newer:
            await stale.join()
            await stale.work(_HALF)
            await stale.read(SENSOR, 7)
            flusher = stale.worker._flusher
            cuts = [await flusher._cut(place, entry, True, []) for place, entry in stale.worker.ledger]
            await newer.join()
            await newer.work(Plan(until=14))
            before = world.answer()

            async def refused(*_: Any) -> bool:
                return False

            stale.kafka.commit_offsets = refused
            monkeypatch.setattr(flush, "_claimed", lambda cuts, sink: set())
            await flush.settle([cut for cut in cuts if cut], flusher._effects, stale.worker.ledger, RECEIVED_MS)
            after = world.answer()
            assert after["durable"] == before["durable"]
            assert set(after["windows"]) >= set(before["windows"]), "what is not there yet it may add"
            monkeypatch.undo()
            await newer.work(_REST)

    asyncio.run(whole())
    assert world.faults() == []


def test_an_owner_that_is_stale_finds_out_before_it_tells(world: World) -> None:
    """Its flush stores nothing and tells nothing; it takes the partition up again only when it is given it."""

    async def whole() -> None:
        with life(world) as stale, life(world) as newer:
            await stale.join()
            await stale.read(SENSOR, 12)
            await newer.join(SENSOR)
            told = len(world.produced)
            assert await stale.worker._flusher.flush(save=True) == {SENSOR}
            assert len(world.produced) == told
            assert stale.worker.ledger.get(SENSOR) is None
            assert world.offsets(SENSOR, "events_sensor") == {}

    asyncio.run(whole())


# --- a real broker


@pytest.mark.integration
def test_the_in_process_broker_answers_what_recovery_asks(clickhouse: Sink) -> None:
    """Ids and offsets as a demo has them: no ids, empty partitions from 0 to 0."""
    with in_process_broker() as bootstrap:
        settings = load(kafka_bootstrap=bootstrap)
        assert broker.topic_ids(settings) == dict.fromkeys(RAW_TOPICS.values(), "")
        world = World(clickhouse, log())
        taken = Recovery(settings, territory(world), "one").take([SENSOR, LAMPS], {}, 1, clickhouse)
        assert {place: (one.origin, one.next_offset) for place, one in taken.items()} == {
            place: (Origin(place.topic, place.partition, "", 1), 0) for place in (SENSOR, LAMPS)
        }
