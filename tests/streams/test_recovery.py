"""Taking a partition up: from its snapshot, without one, under other versions, from somebody who is not quite dead."""

from __future__ import annotations

import asyncio
from base64 import b64decode
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import numpy as np
import polars as pl
import pytest
import shapely

from processors import snapshot as snapshots
from processors.territory import Territory
from schemas.contracts import RAW_TOPICS
from schemas.records import Rows
from sinks import stored
from sinks.clickhouse import Sink
from sinks.rows import Origin
from streams.broker import BrokerError
from streams.clock import utc_now
from streams.recovery import Recovery, RecoveryError
from streams.settings import load
from tests.streams.lives import Died, Plan, life, live, offer
from tests.streams.worlds import LAMPS, SENSOR, World, log
from tests.support.batches import RECEIVED_MS, batch_of, event, reference
from tests.support.city import CITY, city, zone_table

_IDLE_MS: Final = RECEIVED_MS + 60_000
#: To the middle of a chunk, where a snapshot is taken.
_HALF: Final = Plan(cut=6, until=12)
_REST: Final = Plan(cut=5, idle_ms=_IDLE_MS)


@pytest.fixture
def world(clickhouse: Sink, monkeypatch: pytest.MonkeyPatch) -> World:
    return offer(World(clickhouse, log()), monkeypatch)


def twin(world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """The same log in topics of another id. The broker answers for them until it is offered another world."""
    epochs = dict.fromkeys(RAW_TOPICS.values(), "twin")
    return offer(replace(world, epochs=epochs, produced=[], committed={}), monkeypatch)


def calm(world: World, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the log becomes when nothing happens."""
    other = twin(world, monkeypatch)
    live(other, _HALF)
    live(other, _REST)
    answer = other.answer()
    offer(world, monkeypatch)
    return answer


def half(world: World, *, and_a_tail: bool = True, die_after: int | None = None) -> list[str]:
    """A life that came to offset 12 with a snapshot, and one that came to 20 without one; the effects of the second,
    which may die."""
    live(world, _HALF)
    return (
        live(world, Plan(cut=8, until=20, save_every=99, save=False), die_after=die_after).names if and_a_tail else []
    )


def terms(world: World, offsets: range) -> set[int]:
    """Who has stored these offsets of the sensors, by the rows there are."""
    found = world.sink.rows(
        "SELECT DISTINCT term FROM events_sensor WHERE epoch = {e:String} AND offset BETWEEN {a:Int64} AND {b:Int64}",
        {"e": world.epochs[SENSOR.topic], "a": offsets[0], "b": offsets[-1]},
    )
    return {term for (term,) in found}


# --- from nothing, and from a snapshot


def test_a_partition_of_which_nothing_is_stored_begins_at_its_first_offset(world: World) -> None:
    """Under term 1, claimed in this worker's name, with a snapshot that says so."""

    async def whole() -> None:
        with life(world) as one:
            await one.join()
            for place in (SENSOR, LAMPS):
                entry = one.entry(place)
                assert entry.origin == Origin(place.topic, place.partition, "T1", 1)
                assert (entry.next_offset, entry.tail, entry.state.chunk) == (0, None, None)
                newest = stored.newest_snapshot(entry.origin, world.sink)
                assert newest and newest.next_offset == 0
            owners = world.sink.rows("SELECT topic, partition, term, generation FROM owners ORDER BY topic")
            assert owners == [(LAMPS.topic, 1, 1, 1), (SENSOR.topic, 0, 1, 1)]

    asyncio.run(whole())


def test_a_partition_goes_on_at_its_snapshot_and_skips_what_is_stored(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tail is read again for the state's sake; its rows stay as they are, and everything is as if never stopped."""
    expected = calm(world, monkeypatch)
    half(world)
    before = terms(world, range(12, 20))

    async def whole() -> None:
        with life(world) as one:
            await one.join()
            entry = one.entry(SENSOR)
            assert (entry.next_offset, entry.origin.term) == (12, 3)
            assert entry.tail is not None and entry.tail.last == 19
            assert entry.state.chunk is not None and entry.state.chunk.first_offset == 8
            await one.work(_REST)
            assert entry.tail is None

    asyncio.run(whole())
    assert terms(world, range(12, 20)) == before == {2}
    assert world.faults() == []
    assert world.answer() == expected


def test_a_new_installation_on_an_old_topic_begins_where_kafka_does(world: World) -> None:
    """Its first records are long gone: the first one there is is asked for, believed, and begins the first chunk."""
    world.starts = {SENSOR: 5}
    live(world, _REST)
    assert world.faults() == []
    chunks = world.sink.rows("SELECT DISTINCT chunk FROM events_sensor FINAL ORDER BY chunk")
    assert chunks == [(5,), (13,), (21,)]


def test_what_nobody_else_has_claimed_is_kept(world: World) -> None:
    """A rebalance that leaves a partition with its owner changes nothing; one that was elsewhere begins anew."""

    async def whole() -> None:
        with life(world) as one, life(world) as other:
            await one.join()
            await one.work(_HALF)
            kept, lost = one.entry(SENSOR), one.entry(LAMPS)
            await other.join(LAMPS)
            await one.join()
            assert one.entry(SENSOR) is kept
            assert one.entry(LAMPS) is not lost
            assert [one.entry(LAMPS).origin.term, lost.origin.term] == [3, 1]

    asyncio.run(whole())


# --- under other versions


def older(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """From here on the code is an older one."""
    patch = pytest.MonkeyPatch()
    patch.setattr(snapshots, "CODE_VERSION", "0")
    return patch


def test_what_other_code_stored_beyond_the_snapshot_is_taken_back(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The older code refused events of that age. What it had stored beyond its snapshot is stored anew, as today's code
    has it; what lies before stays, and a chunk of today's code begins."""
    patch = older(monkeypatch)
    half(replace(world, settings={"max_age_days": 20.0}))
    patch.undo()
    assert 19 in world.offsets(SENSOR, "rejects")
    live(world, _REST)
    assert world.faults() == []
    assert 19 in world.offsets(SENSOR, "events_sensor")
    assert 10 in world.offsets(SENSOR, "rejects"), "it lies before the snapshot"
    assert terms(world, range(12, 24)) == {3}
    chunks = world.sink.rows("SELECT DISTINCT chunk FROM events_sensor FINAL ORDER BY chunk")
    assert chunks == [(0,), (8,), (12,), (20,)]


def moved(*, without: str = "") -> Territory:
    """The city in its next version: other names of its quarters, and a layer more or less."""
    zones = [
        ("quarter", "W1", None, None, shapely.box(3.85, 43.60, 3.8775, 43.62)),
        ("quarter", "W2", None, None, shapely.box(3.8775, 43.60, 3.89, 43.62)),
        ("precinct", "P1", None, None, shapely.box(3.80, 43.55, 3.95, 43.67)),
        ("sector", "NEW", None, None, shapely.box(3.865, 43.605, 3.885, 43.615)),
    ]
    kept = [zone for zone in zones if zone[0] != without]
    return replace(
        city(),
        version=f"{CITY}-2",
        zones=zone_table([zone[:4] for zone in kept]),
        geometries=np.array([zone[4] for zone in kept], dtype=object),
    )


@pytest.mark.parametrize("without", ["", "sector"], ids=["a layer more", "a layer less"])
def test_what_was_located_in_other_zones_is_taken_back(
    world: World, monkeypatch: pytest.MonkeyPatch, without: str
) -> None:
    """Windows of zones that are no more count what was stored before the snapshot, and nothing of what came after."""
    half(world)
    offer(replace(world, territories=(moved(without=without),)), monkeypatch)
    live(replace(world, territories=(moved(without=without),)), _REST)
    assert world.faults() == []
    version = "SELECT territory_version, min(offset), max(offset) FROM events_sensor FINAL GROUP BY 1 ORDER BY 1"
    assert world.sink.rows(version) == [(f"{CITY}-1", 0, 11), (f"{CITY}-2", 12, 23)]
    layers = dict(world.sink.rows("SELECT layer, sum(count) FROM windows WHERE endsWith(metric, '.events') GROUP BY 1"))
    events = len(world.offsets(SENSOR, "events_sensor")) + len(world.offsets(LAMPS, "events_lighting"))
    beyond = sum(1 for offset in world.offsets(SENSOR, "events_sensor") if offset >= 12)
    assert layers["quarter"] == events
    assert layers["precinct"] == beyond
    assert layers["sector"] == (events - beyond if without else events)


def taken_up(world: World, monkeypatch: pytest.MonkeyPatch, *, die_after: int | None = None) -> list[str]:
    """The life that takes a tail of other zones back; the effects of its take-over alone. It may die in it."""
    next_world = offer(replace(world, territories=(moved(),)), monkeypatch)

    async def whole() -> list[str]:
        with life(next_world, die_after) as one:
            try:
                await one.join()
            except Died:
                return one.steps.names
            names = list(one.steps.names)
            if die_after is None:
                await one.work(_REST)
            return names

    return asyncio.run(whole())


def test_a_take_back_that_is_interrupted_anywhere_ends_the_same(
    clickhouse: Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After every effect of it, found by counting, a process dies; the next one gives what one alone would have."""

    def begun(name: str) -> World:
        sensors = {SENSOR: log()[SENSOR]}
        one = offer(World(clickhouse, sensors, epochs=dict.fromkeys(RAW_TOPICS.values(), name)), monkeypatch)
        # The tail begins a chunk, as it would again: nothing but the versions tells that it is to be taken back.
        live(one, Plan(cut=16, until=16), Plan(until=22, save_every=99, save=False))
        return one

    alone = begun("alone")
    effects = taken_up(alone, monkeypatch)
    assert {"owners", "snapshots", "window_rows", "DELETE FROM events_sensor", "DELETE FROM rejects"} <= set(effects)
    expected = alone.answer()
    assert alone.faults() == []
    wrong = {}
    for number, effect in enumerate(effects, start=1):
        one = begun(f"interrupted-{number}")
        assert taken_up(one, monkeypatch, die_after=number) == effects[:number]
        taken_up(one, monkeypatch)
        found = one.answer()
        if different := sorted(name for name in expected if found[name] != expected[name]):
            wrong[f"{number}: {effect}"] = different
    assert wrong == {}


# --- without a usable snapshot


def spoil(world: World, change: Callable[[bytes], bytes]) -> None:
    """Write the newest snapshot of the sensors again, with its bytes changed."""
    newest = world.sink.frame(
        "SELECT * REPLACE (base64Encode(state) AS state) FROM snapshots "
        "WHERE topic = {t:String} AND epoch = {e:String} ORDER BY version DESC, taken_at DESC LIMIT 1",
        {"t": SENSOR.topic, "e": world.epochs[SENSOR.topic]},
    )
    spoiled = newest.with_columns(
        pl.Series("state", [change(b64decode(newest["state"].item()))], pl.Binary()),
        pl.lit(utc_now()).dt.cast_time_unit("ms").alias("taken_at"),
    )
    world.sink.insert_whole("snapshots", spoiled.to_arrow(compat_level=pl.CompatLevel.oldest()), str(utc_now()))


def forget(world: World) -> None:
    world.sink.command("DELETE FROM snapshots WHERE topic = {t:String}", {"t": SENSOR.topic})


_RUINS: Final[dict[str, Callable[[World], None]]] = {
    "deleted": forget,
    "one bit": lambda world: spoil(world, lambda state: bytes([state[0] ^ 1]) + state[1:]),
    "cut short": lambda world: spoil(world, lambda state: state[: len(state) // 2]),
    "empty": lambda world: spoil(world, lambda state: b""),
}


@pytest.mark.parametrize("ruin", _RUINS.values(), ids=_RUINS)
def test_without_a_snapshot_it_is_read_again_from_the_chunk_that_was_committed_last(
    world: World, monkeypatch: pytest.MonkeyPatch, ruin: Callable[[World], None]
) -> None:
    """Of what came later nobody knows whether it was told. Rows, rejects and windows are those there would have been;
    what was told is not told in other words."""
    expected = calm(world, monkeypatch)
    half(world)
    ruin(world)

    async def whole() -> None:
        with life(world) as one:
            await one.join()
            assert one.entry(SENSOR).next_offset == 8, "the first offset of the chunk that is committed last"
            assert one.entry(LAMPS).next_offset == 9
            await one.work(_REST)

    asyncio.run(whole())
    assert world.faults() == []
    found = world.answer()
    for name in ("sensor", "lighting", "rejects", "windows", "letters", "durable", "committed"):
        assert found[name] == expected[name], name
    assert one_voice(found).items() >= one_voice(expected).items()
    # Detectors learn again: the first that they hear of a bin is a reading that comes forty days late.
    assert {row[3] for row in found["transitions"]} - {row[3] for row in expected["transitions"]} <= {"silent"}


def one_voice(answer: dict[str, Any]) -> dict[tuple[str, int], str]:
    """Which transition each alert made under each number; an alert that says two things under one has no one voice."""
    voices: dict[tuple[str, int], str] = {}
    for transition_id, fingerprint, sequence, *rest in answer["transitions"]:
        assert voices.setdefault((fingerprint, sequence), transition_id) == transition_id, rest
    return voices


def test_a_partition_with_rejects_alone_begins_again(world: World) -> None:
    """No event says how far it had come: it is read from its first offset, and its rejects are made again."""
    flood = replace(world.log[SENSOR], pieces=[Rows([None] * 24, [b"junk"] * 24, [()] * 24)])
    poisoned = replace(world, log={SENSOR: flood}, settings={"max_consecutive_invalid": 1_000})
    live(poisoned, _HALF)
    forget(poisoned)
    live(poisoned, Plan())
    assert world.offsets(SENSOR, "rejects") == dict.fromkeys(range(24), 1)


# --- what Kafka has lost, and what it has created anew


@pytest.mark.parametrize("start", [14, 18, 20, 22])
@pytest.mark.parametrize("ruin", [None, forget], ids=["snapshot", "no snapshot"])
@pytest.mark.parametrize("died", [False, True], ids=["flushed", "died in the flush"])
def test_records_that_are_gone_leave_what_was_stored_of_them(
    world: World, monkeypatch: pytest.MonkeyPatch, ruin: Callable[[World], None] | None, start: int, died: bool
) -> None:
    """Retention was shorter than the outage. What had been stored stays and is counted once, whatever of it no snapshot
    included and no window counted yet; from the first record that Kafka still has it goes on."""
    effects = half(twin(world, monkeypatch))
    half(offer(world, monkeypatch), die_after=effects.index("asset_state") if died else None)
    before = world.offsets(SENSOR, "events_sensor")
    assert before.keys() & set(range(12, 20))
    if ruin is not None:
        ruin(world)
    world.starts = {SENSOR: start}
    live(world, _REST)
    assert world.faults() == []
    found = world.offsets(SENSOR, "events_sensor")
    assert before.keys() <= found.keys()
    assert found.keys() | world.offsets(SENSOR, "rejects").keys() >= set(range(start, 24))


def test_a_log_that_ends_before_what_was_reached_is_refused(world: World) -> None:
    """Its next records will have offsets that are taken: the message says what has happened and what to do."""
    half(world, and_a_tail=False)
    world.log[SENSOR] = world.log[SENSOR].part(0, 11)
    with pytest.raises(RecoveryError, match=r"city\.raw\.sensor/0 ends at offset 11, and 12 was reached .* anew"):
        live(world, _REST)


def test_a_log_that_ends_before_what_was_stored_is_refused(world: World) -> None:
    """The snapshot is within it, the tail is not: other records under those offsets would be taken for stored."""
    half(world)
    world.log[SENSOR] = world.log[SENSOR].part(0, 16)
    with pytest.raises(RecoveryError, match=r"city\.raw\.sensor/0 ends at offset 16, and 20 was reached"):
        live(world, _REST)


def test_a_topic_that_was_created_anew_begins_at_its_first_offset(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is stored of the old one stays and nothing of it passes for the new one's; but its alerts outlive it."""
    live(world, _REST)
    before = world.answer()
    burning = [event(event_id=f"n{n}", observed_at=RECEIVED_MS + n, temperature_c=95.0) for n in range(12)]
    logs = {**world.log, SENSOR: batch_of(burning, received_ms=RECEIVED_MS + 60_000)}
    anew = replace(world, epochs={**world.epochs, SENSOR.topic: "T2"}, log=logs, committed={})
    live(offer(anew, monkeypatch), _REST)
    assert (world.faults(), anew.faults()) == ([], [])
    found = world.sink.rows("SELECT epoch, max(offset) FROM events_sensor FINAL GROUP BY epoch ORDER BY epoch")
    assert found == [("T1", 23), ("T2", 11)]
    old, both = one_voice(before), one_voice(anew.answer())
    assert both.items() >= old.items()
    new = {number for _, number in both.keys() - old.keys()}
    assert new == {3}, "what burns again is the third thing said of that bin's fire"


def test_a_topic_that_is_gone_is_waited_for(world: World) -> None:
    """Nothing is claimed and nothing taken back for a topic that Kafka does not know at the moment."""
    del world.epochs[SENSOR.topic]
    with pytest.raises(BrokerError, match=r"city\.raw\.sensor.*vigie init"):
        Recovery(load(), reference(*world.territories), "one").take([SENSOR], {}, 1, world.sink)
    assert world.sink.rows("SELECT count() FROM owners") == [(0,)]
