"""The order of effects: what is told and committed is stored, and a failure anywhere acknowledges nothing."""

from __future__ import annotations

import asyncio
from base64 import b64decode
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from clickhouse_connect.driver.exceptions import DatabaseError

from processors.pipeline import CODE_VERSION, take_window_rows
from processors.snapshot import freeze
from schemas.codec import decode_values
from schemas.contracts import ALERT_TOPIC, DEAD_LETTER_TOPIC, contract
from schemas.framing import prefix_of, single_object_prefix
from schemas.writers import own_writers
from sinks.clickhouse import Sink, SinkError
from sinks.rows import Origin, ZoneMaps, version_of
from sinks.stored import Tail, claim
from streams.clock import instant
from streams.flush import Effects, Message, messages, settle
from streams.ledger import Cut, Entry, Ledger, Place
from tests.support.batches import RECEIVED_MS, batch, batch_of, encoded, event, events, process, reference, state_of
from tests.support.city import CITY

PLACE = Place("city.raw.sensor", 2)
ORIGIN = Origin(PLACE.topic, PLACE.partition, "T1", 3)
NOW_MS = RECEIVED_MS + 1_000


@dataclass
class World:
    """A real ClickHouse, and a Kafka that does what it is told: every effect is written down in its order."""

    sink: Sink
    fails: str | None = None
    ours: bool = True
    ids: Mapping[str, str] = field(default_factory=dict)
    journal: list[str] = field(default_factory=list)
    produced: list[Message] = field(default_factory=list)
    committed: list[dict[Place, int]] = field(default_factory=list)
    ledger: Ledger = field(default_factory=Ledger)

    def insert_arrow(self, table: str, rows: pa.Table, settings: dict[str, Any]) -> None:
        """Stands before the client's method of that name."""
        self.journal.append(table)
        if self.fails == table:
            raise DatabaseError("Code: 243. DB::Exception: Cannot reserve 1.00 MiB, not enough space", code=243)
        self.sink.client.insert_arrow(table, rows, settings=settings)

    def query(self, sql: str, **rest: Any) -> Any:
        return self.sink.client.query(sql, **rest)

    async def produce(self, messages: Sequence[Message]) -> None:
        self.journal.append("produce")
        if self.fails == "produce":
            raise ConnectionError("the broker did not confirm")
        self.produced += messages

    async def commit(self, offsets: Mapping[Place, int]) -> bool:
        self.journal.append("commit")
        self.committed.append(dict(offsets))
        return self.ours

    async def topic_ids(self, names: Collection[str]) -> dict[str, str]:
        return {name: self.ids[name] for name in names if name in self.ids}

    def settle(self, cuts: Sequence[Cut], zones: ZoneMaps) -> set[Place]:
        sink = replace(self.sink, client=self)
        with ThreadPoolExecutor(1) as blocking:
            effects = Effects(
                sink=lambda: sink,
                zones=zones,
                territory_versions={CITY: "c-1"},
                blocking=blocking,
                owner="worker-1",
                produce=self.produce,
                commit=self.commit,
                topic_ids=self.topic_ids,
            )
            return asyncio.run(settle(cuts, effects, self.ledger, NOW_MS))

    def count(self, table: str) -> int:
        return int(self.sink.rows(f"SELECT count() FROM {table}")[0][0])


@dataclass
class Work:
    """A partition's records, processed and waiting: three events, one of them a bin on fire, and two rejects."""

    world: World
    zones: ZoneMaps = field(init=False)
    cut: Cut = field(init=False)
    entry: Entry = field(init=False)

    def __post_init__(self) -> None:
        shared = reference()
        values = [*encoded("sensor", [*events(2), event(event_id="fire", temperature_c=95.0)]), b"junk", None]
        one = batch(values, partition=2, first_offset=100, keys=[b"k%d" % i for i in range(5)])
        state = state_of(one, shared)
        self.entry = Entry(state, ORIGIN, 100)
        outcomes = process(one, state, shared)
        transitions = tuple((104, t) for outcome in outcomes for t in outcome.transitions)
        self.zones = ZoneMaps(shared.locator.sets)
        rows = tuple(take_window_rows(state))
        self.cut = Cut(
            PLACE, ORIGIN, tuple(outcomes), rows, transitions, 105, state.clock_ms, state=freeze(state, 104)
        )  # fmt: skip
        self.world.ledger.hold(PLACE, self.entry)

    def settle(self, **changes: Any) -> set[Place]:
        """Settle the cut, or the cut with these changes."""
        return self.world.settle([replace(self.cut, **changes)], self.zones)

    @property
    def offsets(self) -> tuple[int, int, int | None]:
        return self.entry.stored, self.entry.durable, self.entry.committed


@pytest.fixture
def world(clickhouse: Sink) -> World:
    return World(clickhouse)


def test_effects_come_in_their_order(world: World) -> None:
    """Rows, then dead letters and alerts, then the snapshot, then the commit: each rests on the one before."""
    work = Work(world)
    assert work.settle() == set()
    assert world.journal == [
        "events_sensor", "rejects", "asset_state", "window_rows", "alert_transitions", "produce", "snapshots", "commit",
    ]  # fmt: skip
    assert world.committed == [{PLACE: 105}]
    assert work.offsets == (105, 105, 105)
    assert world.count("events_sensor") == 3
    assert world.count("rejects") == 2


@pytest.mark.parametrize("table", ["events_sensor", "rejects", "asset_state", "window_rows", "alert_transitions"])
def test_when_a_row_is_not_stored_nothing_is_told(world: World, table: str) -> None:
    """Any insert that fails: nothing is produced, no snapshot is taken, nothing is committed or called durable."""
    work = Work(world)
    world.fails = table
    with pytest.raises(SinkError, match="not enough space"):
        work.settle()
    assert world.journal[-1] == table
    assert (world.produced, world.committed) == ([], [])
    assert work.offsets == (100, 100, None)


def test_when_a_message_is_not_confirmed_nothing_is_acknowledged(world: World) -> None:
    """Dead letters and alerts are part of the work: without them no snapshot and no commit, though rows are stored."""
    work = Work(world)
    world.fails = "produce"
    with pytest.raises(ConnectionError):
        work.settle()
    assert world.journal[-1] == "produce"
    assert world.committed == []
    assert world.count("snapshots") == 0
    assert work.offsets == (100, 100, None)


def test_when_a_snapshot_fails_there_is_no_commit(world: World) -> None:
    """The snapshot is the truth that the committed offset only advertises."""
    work = Work(world)
    world.fails = "snapshots"
    with pytest.raises(SinkError):
        work.settle()
    assert world.committed == []
    assert work.offsets == (105, 100, None)


def test_without_a_snapshot_there_is_no_commit(world: World) -> None:
    """Most flushes bring none: their rows are stored and told, and a restart reads their records again."""
    work = Work(world)
    work.settle(state=None)
    assert world.journal[-1] == "produce"
    assert (world.committed, world.count("snapshots")) == ([], 0)
    assert work.offsets == (105, 100, None)


def test_only_partitions_with_a_snapshot_are_committed(world: World) -> None:
    """One of two has its snapshot due; the other's offsets stay where a restart would begin."""
    work = Work(world)
    other = Place(PLACE.topic, 3)
    origin = Origin(other.topic, other.partition, "T1", 3)
    world.ledger.hold(other, Entry(work.entry.state, origin, 100))
    world.settle([work.cut, replace(work.cut, place=other, origin=origin, transitions=(), state=None)], work.zones)
    assert world.committed == [{PLACE: 105}]
    assert world.sink.rows("SELECT partition FROM snapshots") == [(2,)]


@pytest.mark.parametrize(
    "failing", ["rejects", "asset_state", "window_rows", "alert_transitions", "produce", "snapshots"]
)
def test_what_was_written_before_a_failure_is_written_again_and_is_the_same(world: World, failing: str) -> None:
    """The process that comes after does it all again; readers see each row once, receivers may hear twice."""
    work = Work(world)
    world.fails = failing
    with pytest.raises((SinkError, ConnectionError)):
        work.settle()
    world.fails = None
    work.settle()
    assert {table: world.count(table) for table in ("events_sensor", "rejects", "asset_state", "snapshots")} == {
        "events_sensor": 3, "rejects": 2, "asset_state": 1, "snapshots": 1,
    }  # fmt: skip
    assert world.sink.rows("SELECT sum(count) FROM windows WHERE layer = 'quarter' AND metric = 'bin.events'") == [(3,)]
    assert world.count("alerts") == 1
    assert work.offsets == (105, 105, 105)


def test_a_commit_that_is_refused_leaves_committed_untouched(world: World) -> None:
    """The group has moved on: what was stored is durable all the same, and its new owner replaces it by itself."""
    work = Work(world)
    world.ours = False
    work.settle()
    assert work.offsets == (105, 105, None)
    assert world.count("snapshots") == 1


def test_a_partition_taken_away_meanwhile_is_stored_and_not_committed(world: World) -> None:
    """Its rows are the same that the new owner writes; its offsets are not ours to move."""
    work = Work(world)
    world.ledger.drop(PLACE)
    work.settle()
    assert world.count("events_sensor") == 3
    assert world.committed == []


def test_time_that_passed_without_records_is_a_snapshot_alone(world: World) -> None:
    """An idle partition moves its clock: a row that says so, and no offset to commit anew."""
    work = Work(world)
    work.settle()
    world.journal.clear()
    work.settle(outcomes=(), chunks=(), transitions=(), clock_ms=NOW_MS)
    assert world.journal == ["produce", "snapshots"]
    assert world.committed == [{PLACE: 105}]
    assert len(world.produced) == 3, "nothing more was told"


def test_the_snapshot_says_how_far_the_partition_has_come(world: World) -> None:
    """The next offset to read, the clock there, the code and the worker that made it, its term, and the state."""
    work = Work(world)
    work.settle()
    instants = "toUnixTimestamp64Milli(watermark), toUnixTimestamp64Milli(taken_at)"
    names = "topic, epoch, partition, next_offset, code_version, owner, version"
    (row,) = world.sink.rows(f"SELECT {names}, {instants}, base64Encode(state) FROM snapshots")
    assert row[:7] == ("city.raw.sensor", "T1", 2, 105, CODE_VERSION, "worker-1", version_of(3, 105))
    assert row[7:9] == (work.cut.clock_ms, NOW_MS)
    assert b64decode(row[9]) == work.cut.state


def test_window_rows_bear_the_owner_and_the_next_offset(world: World) -> None:
    """What a newer owner, or the same one further on, writes of the chunk outranks them."""
    work = Work(world)
    work.settle()
    rows = world.sink.rows("SELECT DISTINCT topic, epoch, partition, chunk, version FROM window_rows")
    assert rows == [("city.raw.sensor", "T1", 2, 100, version_of(3, 105))]


def test_the_messages_are_the_dead_letters_and_the_alerts() -> None:
    """Dead letters carry the record as it was with its own time; alerts are keyed by fingerprint, for compaction."""
    work = Work(World(Sink(None, "")))
    made = messages([work.cut])
    assert [m.topic for m in made] == [DEAD_LETTER_TOPIC, DEAD_LETTER_TOPIC, ALERT_TOPIC]
    assert [(m.key, m.value, m.timestamp_ms) for m in made[:2]] == [
        (b"k3", b"junk", RECEIVED_MS), (b"k4", None, RECEIVED_MS),
    ]  # fmt: skip
    assert dict(made[0].headers)["__connect.errors.offset"] == b"103"
    alert = contract("Alert")
    told = decode_values(alert, [made[2].value], own_writers(alert))
    assert made[2].value is not None and prefix_of(made[2].value) == single_object_prefix(alert.schema)
    (row,) = told.frame.iter_rows(named=True)
    assert (row["alertname"], row["asset_id"], row["state"]) == ("bin_fire", "bin-00017", "firing")
    assert made[2].key == row["fingerprint"].encode()
    assert made[2].timestamp_ms is None


def test_several_partitions_are_one_flush(world: World) -> None:
    """One insert per table for all of them, one commit with the offsets of each."""
    work = Work(world)
    place = Place(PLACE.topic, 3)
    origin = Origin(place.topic, place.partition, "T1", 9)
    world.ledger.hold(place, Entry(work.entry.state, origin, 100))
    world.settle([work.cut, replace(work.cut, place=place, origin=origin, transitions=())], work.zones)
    assert world.journal.count("events_sensor") == 1
    assert world.committed == [{PLACE: 105, place: 105}]
    assert world.count("events_sensor") == 6


# --- what others have claimed and stored


@pytest.mark.parametrize(("term", "lost"), [(2, set()), (3, set()), (4, {PLACE})])
def test_a_partition_that_somebody_has_claimed_since_is_left_to_them(world: World, term: int, lost: set[Place]) -> None:
    """A worker that was stopped for a while finds out before it stores and tells anything."""
    work = Work(world)
    claim([replace(ORIGIN, term=term)], "somebody", 1, instant(NOW_MS), world.sink)
    assert work.settle() == lost
    assert {*world.journal} == ({"produce"} if lost else {*world.journal} | {"events_sensor", "snapshots", "commit"})
    assert (world.produced == []) is bool(lost)
    assert work.offsets == ((100, 100, None) if lost else (105, 105, 105))


@pytest.mark.parametrize(
    ("now", "replaced"), [(ORIGIN.epoch, set()), ("another", {PLACE}), (None, set())], ids=["same", "anew", "unknown"]
)
def test_what_may_be_of_another_topic_is_not_stored(world: World, now: str | None, replaced: set[Place]) -> None:
    """Where a new topic has grown beyond what was read of the old one, reading goes on in it without a sign."""
    work = Work(world)
    world.ids = {} if now is None else {PLACE.topic: now}
    assert work.settle() == replaced
    assert world.count("events_sensor") == (0 if replaced else 3)
    assert (world.produced == []) is bool(replaced)
    assert work.offsets == ((100, 100, None) if replaced else (105, 105, 105))


def test_what_is_stored_already_is_told_again_and_not_stored_again(world: World) -> None:
    """Nobody knows whether the former owner had its letters and alerts confirmed; its rows are there to be seen."""
    work = Work(world)
    offsets = pl.Series("offset", [100, 101], pl.Int64), pl.Series("offset", [103], pl.Int64)
    work.settle(tail=Tail(*offsets, frozenset(), frozenset({100})))
    assert world.sink.rows("SELECT offset FROM events_sensor") == [(102,)]
    assert world.sink.rows("SELECT offset FROM rejects") == [(104,)]
    assert world.sink.rows("SELECT sum(count) FROM windows WHERE layer = 'quarter' AND metric = 'bin.events'") == [(3,)]
    assert [m.topic for m in world.produced] == [DEAD_LETTER_TOPIC, DEAD_LETTER_TOPIC, ALERT_TOPIC]


def test_a_tail_before_the_batch_says_nothing_about_it(world: World) -> None:
    """The offsets of a batch beyond it are not compared one by one."""
    work = Work(world)
    offsets = pl.Series("offset", [98, 99], pl.Int64)
    work.settle(tail=Tail(offsets, offsets, frozenset(), frozenset({90})))
    assert (world.count("events_sensor"), world.count("rejects")) == (3, 2)


# --- what ClickHouse refuses


@pytest.fixture
def strict(world: World) -> Iterator[World]:
    """A ClickHouse that takes no event named `e-1`."""
    world.sink.command("ALTER TABLE events_sensor ADD CONSTRAINT strict CHECK event_id != 'e-1'")
    yield world
    world.sink.command("ALTER TABLE events_sensor DROP CONSTRAINT strict")


def test_a_refused_row_becomes_a_reject_and_nothing_that_counts_it_is_written(strict: World) -> None:
    """The windows, states, alerts and letters of that cut were made with the refused event; its place is named so that
    it is taken up again, where the offset is known from the start as refused."""
    work = Work(strict)
    assert work.settle() == {PLACE}
    assert strict.sink.rows("SELECT offset FROM events_sensor ORDER BY offset") == [(100,), (102,)]
    rejects = strict.sink.rows("SELECT offset, stage, reason, detail FROM rejects ORDER BY offset")
    assert rejects[0] == (101, "sink", "sink", "469 VIOLATED_CONSTRAINT in `strict`")
    assert [offset for offset, *_ in rejects] == [101, 103, 104]
    assert [strict.count(table) for table in ("asset_state", "window_rows", "alert_transitions", "snapshots")] == [
        0
    ] * 4
    assert (strict.produced, strict.committed) == ([], [])
    assert work.offsets == (100, 100, None)


def test_a_refused_row_of_one_partition_does_not_hold_up_the_others(strict: World) -> None:
    """Of the cuts of one flush only the one with the refused row is left where it was."""
    work = Work(strict)
    place = Place(PLACE.topic, 3)
    origin = Origin(place.topic, place.partition, "T1", 9)
    shared = reference()
    good = batch_of(events(1, event_id="good"), partition=3)
    state = state_of(good, shared)
    other = Entry(state, origin, 0)
    strict.ledger.hold(place, other)
    outcomes = process(good, state, shared)
    rows = tuple(take_window_rows(state))
    cut = Cut(place, origin, tuple(outcomes), rows, (), 1, state.clock_ms, state=freeze(state, 0))
    assert strict.settle([work.cut, cut], work.zones) == {PLACE}
    assert strict.committed == [{place: 1}]
    assert (other.stored, other.durable, work.entry.stored) == (1, 1, 100)
    assert strict.sink.rows("SELECT DISTINCT partition FROM window_rows") == [(3,)]
