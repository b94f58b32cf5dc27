"""The order of effects: what is told and committed is stored, and a failure anywhere acknowledges nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa
import pytest
from clickhouse_connect.driver.exceptions import DatabaseError

from processors.pipeline import CODE_VERSION, take_window_rows
from schemas.codec import decode
from schemas.contracts import ALERT_TOPIC, DEAD_LETTER_TOPIC, contract
from schemas.framing import prefixes, single_object_prefix
from schemas.writers import own_writer
from sinks.clickhouse import Sink, SinkError
from sinks.rows import ZoneMaps
from streams.flush import Effects, Message, messages, settle
from streams.ledger import Cut, Ledger, Place
from tests.support.batches import RECEIVED_MS, batch, encoded, event, events, process, reference, state_of
from tests.support.city import CITY

PLACE = Place("city.raw.sensor", 2)
NOW_MS = RECEIVED_MS + 1_000


@dataclass
class World:
    """A real ClickHouse, and a Kafka that does what it is told: every effect is written down in its order."""

    sink: Sink
    fails: str | None = None
    ours: bool = True
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

    async def produce(self, messages: Sequence[Message]) -> None:
        self.journal.append("produce")
        if self.fails == "produce":
            raise ConnectionError("the broker did not confirm")
        self.produced += messages

    async def commit(self, offsets: Mapping[Place, int]) -> bool:
        self.journal.append("commit")
        self.committed.append(dict(offsets))
        return self.ours

    def settle(self, cuts: Sequence[Cut], zones: ZoneMaps) -> None:
        sink = replace(self.sink, client=self)
        with ThreadPoolExecutor(1) as blocking:
            effects = Effects(sink, zones, {CITY: "c-1"}, blocking, self.produce, self.commit)
            asyncio.run(settle(cuts, effects, self.ledger, NOW_MS))

    def count(self, table: str) -> int:
        return int(self.sink.rows(f"SELECT count() FROM {table}")[0][0])


@dataclass
class Work:
    """A partition's records, processed and waiting: three events, one of them a bin on fire, and two rejects."""

    world: World
    zones: ZoneMaps = field(init=False)
    cut: Cut = field(init=False)

    def __post_init__(self) -> None:
        shared = reference()
        values = [*encoded("sensor", [*events(2), event(event_id="fire", temperature_c=95.0)]), b"junk", None]
        one = batch(values, partition=2, first_offset=100, keys=[b"k%d" % i for i in range(5)])
        state = state_of(one, shared)
        outcomes = process(one, state, shared)
        transitions = tuple(t for outcome in outcomes for t in outcome.transitions)
        self.zones = ZoneMaps(shared.locator.sets)
        self.cut = Cut(PLACE, tuple(outcomes), tuple(take_window_rows(state)), transitions, 105, state.watermark_ms)
        self.entry = self.world.ledger.hold(PLACE, state)

    def settle(self) -> None:
        self.world.settle([self.cut], self.zones)


@pytest.fixture
def world(clickhouse: Sink) -> World:
    return World(clickhouse)


def test_effects_come_in_their_order(world: World) -> None:
    """Rows, then dead letters and alerts, then the snapshot, then the commit: each rests on the one before."""
    work = Work(world)
    work.settle()
    assert world.journal == [
        "events_sensor", "asset_state", "rejects", "window_rows", "alert_transitions", "produce", "snapshots", "commit",
    ]  # fmt: skip
    assert world.committed == [{PLACE: 105}]
    assert (work.entry.durable, work.entry.committed) == (105, 105)
    assert world.count("events_sensor") == 3
    assert world.count("rejects") == 2


@pytest.mark.parametrize("table", ["events_sensor", "asset_state", "rejects", "window_rows", "alert_transitions"])
def test_when_a_row_is_not_stored_nothing_is_told(world: World, table: str) -> None:
    """Any insert that fails: nothing is produced, no snapshot is taken, nothing is committed or called durable."""
    work = Work(world)
    world.fails = table
    with pytest.raises(SinkError, match="not enough space"):
        work.settle()
    assert world.journal[-1] == table
    assert (world.produced, world.committed) == ([], [])
    assert (work.entry.durable, work.entry.committed) == (None, None)


def test_when_a_message_is_not_confirmed_nothing_is_acknowledged(world: World) -> None:
    """Dead letters and alerts are part of the work: without them no snapshot and no commit, though rows are stored."""
    work = Work(world)
    world.fails = "produce"
    with pytest.raises(ConnectionError):
        work.settle()
    assert world.journal[-1] == "produce"
    assert world.committed == []
    assert world.count("snapshots") == 0
    assert (work.entry.durable, work.entry.committed) == (None, None)


def test_without_a_snapshot_there_is_no_commit(world: World) -> None:
    """The snapshot is the truth that the committed offset only advertises."""
    work = Work(world)
    world.fails = "snapshots"
    with pytest.raises(SinkError):
        work.settle()
    assert world.committed == []
    assert (work.entry.durable, work.entry.committed) == (None, None)


@pytest.mark.parametrize("failing", ["asset_state", "window_rows", "alert_transitions", "produce", "snapshots"])
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
    assert work.entry.committed == 105


def test_a_commit_that_is_refused_leaves_committed_untouched(world: World) -> None:
    """The group has moved on: what was stored is durable all the same, and its new owner replaces it by itself."""
    work = Work(world)
    world.ours = False
    work.settle()
    assert (work.entry.durable, work.entry.committed) == (105, None)
    assert world.count("snapshots") == 1


def test_a_partition_taken_away_meanwhile_is_stored_and_not_committed(world: World) -> None:
    """Its rows are the same that the new owner writes; its offsets are not ours to move."""
    work = Work(world)
    world.ledger.drop(PLACE)
    work.settle()
    assert world.count("events_sensor") == 3
    assert world.committed == [{}]


def test_time_that_passed_without_records_is_a_snapshot_alone(world: World) -> None:
    """An idle partition moves its watermark: a row that says so, and no offset to commit."""
    work = Work(world)
    work.settle()
    world.journal.clear()
    idle = Cut(PLACE, (), (), (), 105, NOW_MS)
    world.settle([idle], work.zones)
    assert world.journal == ["produce", "snapshots", "commit"]
    assert world.committed[-1] == {}
    assert world.produced[-1].topic in (ALERT_TOPIC, DEAD_LETTER_TOPIC)


def test_the_snapshot_says_how_far_the_partition_has_come(world: World) -> None:
    """Last offset included, watermark there, and the code that made it."""
    work = Work(world)
    work.settle()
    instants = "toUnixTimestamp64Milli(watermark), toUnixTimestamp64Milli(taken_at)"
    (row,) = world.sink.rows(f"SELECT topic, partition, last_offset, code_version, {instants} FROM snapshots")
    assert row == ("city.raw.sensor", 2, 104, CODE_VERSION, work.cut.watermark_ms, NOW_MS)


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
    told = decode(alert, [made[2].value], {single_object_prefix(alert.schema): own_writer(alert)})
    assert prefixes([made[2].value]) == {single_object_prefix(alert.schema)}
    (row,) = told.frame.iter_rows(named=True)
    assert (row["alertname"], row["asset_id"], row["state"]) == ("bin_fire", "bin-00017", "firing")
    assert made[2].key == row["fingerprint"].encode()
    assert made[2].timestamp_ms is None


def test_several_partitions_are_one_flush(world: World) -> None:
    """One insert per table for all of them, one commit with the offsets of each."""
    work = Work(world)
    other = replace(work.cut, place=Place(PLACE.topic, 3), transitions=())
    world.ledger.hold(other.place, work.entry.state)
    world.settle([work.cut, other], work.zones)
    assert world.journal.count("events_sensor") == 1
    assert world.committed == [{PLACE: 105, other.place: 105}]
    assert world.count("events_sensor") == 6
