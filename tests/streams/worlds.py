"""What outlives a worker: the log, ClickHouse, what was produced and committed; and what must hold of it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import polars as pl

from processors.aggregate import WINDOW_SCHEMA
from processors.territory import Territory
from schemas.contracts import ALERT_TOPIC, DEAD_LETTER_TOPIC, RAW_TOPICS, domain_of
from schemas.records import Batch
from sinks import audited, stored
from sinks.clickhouse import Sink
from sinks.rows import Origin
from streams.flush import Message
from streams.ledger import Place
from streams.repair import expected as windows_of
from tests.support.batches import DAY, HOUR, RECEIVED_MS, batch, encoded, event
from tests.support.city import city


@dataclass
class World:
    """What outlives a process: the log, ClickHouse, what was produced, what is committed.

    `starts` are the first offsets that Kafka still has (0 where none is named), `epochs` the ids of the topics.
    """

    sink: Sink
    log: dict[Place, Batch]
    territories: tuple[Territory, ...] = field(default_factory=lambda: (city(),))
    settings: dict[str, Any] = field(default_factory=dict)
    epochs: dict[str, str] = field(default_factory=lambda: dict.fromkeys(RAW_TOPICS.values(), "T1"))
    starts: dict[Place, int] = field(default_factory=dict)
    produced: list[Message] = field(default_factory=list)
    committed: dict[Place, int] = field(default_factory=dict)
    generation: int = 1

    def bounds(self) -> dict[Place, tuple[int, int]]:
        return {place: (self.starts.get(place, 0), log.last_offset + 1) for place, log in self.log.items()}

    def next_record(self, place: Place, offset: int) -> int | None:
        """The offset of the first record from an offset on that Kafka still has."""
        first = max(offset, self.starts.get(place, 0))
        return next((found for found in self.log[place].offsets.tolist() if found >= first), None)

    async def ids(self, names: Collection[str]) -> dict[str, str]:
        return {name: self.epochs[name] for name in names}

    def origin(self, place: Place) -> Origin:
        return Origin(place.topic, place.partition, self.epochs[place.topic])

    # -- what must hold

    def faults(self) -> list[str]:
        """What does not hold of the stored world, in words."""
        return [fault for place in self.log for fault in (*self._account(place), *self._windows(place))]

    def _account(self, place: Place) -> Iterable[str]:
        """Every offset that was in the log is exactly one event or exactly one reject."""
        events, rejects = self.offsets(place, f"events_{domain_of(place.topic)}"), self.offsets(place, "rejects")
        twice = [offset for table in (events, rejects) for offset, rows in table.items() if rows > 1]
        both = events.keys() & rejects.keys()
        there = {o for o in self.log[place].offsets.tolist() if o >= self.starts.get(place, 0)}
        missing = there - events.keys() - rejects.keys()
        for what, offsets in (("twice", twice), ("event and reject", both), ("missing", missing)):
            if offsets:
                yield f"{place}: {what}: {sorted(offsets)}"

    def offsets(self, place: Place, table: str) -> dict[int, int]:
        """How many rows there are of each offset, as readers see them."""
        where = self.origin(place)
        parameters = {"topic": where.topic, "epoch": where.epoch, "partition": where.partition}
        sql = f"SELECT offset, count() FROM {table} FINAL WHERE {_HERE} GROUP BY offset"
        return {offset: int(count) for offset, count in self.sink.rows(sql, parameters)}

    def _windows(self, place: Place) -> Iterable[str]:
        """The window rows of each chunk are those of its stored events."""
        where, domain = self.origin(place), domain_of(place.topic)
        parameters = {"topic": where.topic, "epoch": where.epoch, "partition": where.partition}
        chunks = self.sink.rows(
            f"SELECT DISTINCT chunk FROM window_rows WHERE {_HERE} "
            f"UNION DISTINCT SELECT DISTINCT chunk FROM events_{domain} WHERE {_HERE}",
            parameters,
        )
        for (chunk,) in sorted(chunks):
            counted = _counted(self.sink, parameters | {"chunk": chunk})
            events = stored.chunk_events(where, domain, chunk, 2**62, self.sink)
            expected = windows_of(where, events, audited.layers(self.sink)).sort(*_KEY)
            if not expected.equals(counted):
                numbers = expected["count"].sum(), counted["count"].sum()
                yield f"{place} chunk {chunk}: windows of {numbers[0]} are stored as {numbers[1]}"

    def answer(self) -> dict[str, Any]:
        """Everything that readers and receivers could see of these topics, in forms that compare, without who did it
        and when. Of the windows each chunk by itself, which is more than readers see."""
        here = f"WHERE epoch IN {tuple(sorted(set(self.epochs.values())))}"
        values = ", ".join(f"argMax({name}, version) AS newest_{name}" for name in WINDOW_SCHEMA if name not in _KEY)
        tables = {
            **{
                str(d): f"SELECT * EXCEPT (term, epoch) FROM events_{d} FINAL {here} ORDER BY {_PLACE}"
                for d in RAW_TOPICS
            },
            "rejects": f"SELECT * EXCEPT (term, epoch) FROM rejects FINAL {here} ORDER BY {_PLACE}",
            "windows": f"SELECT topic, partition, chunk, {', '.join(_KEY)}, {values} FROM window_rows {here} "
            f"GROUP BY topic, partition, chunk, {', '.join(_KEY)} HAVING newest_count > 0 ORDER BY ALL",
            # Where the batches were cut decides how far was read when an alert was made.
            "transitions": f"SELECT * EXCEPT (offset, epoch) FROM alert_transitions FINAL {here} ORDER BY ALL",
        }
        told: set[Any] = {(m.key, m.value) for m in self.produced if m.topic == ALERT_TOPIC}
        letters = {(m.value, *m.headers) for m in self.produced if m.topic == DEAD_LETTER_TOPIC}
        ends = {place: stored.newest_snapshot(self.origin(place), self.sink) for place in self.log}
        durable = {place: end.next_offset for place, end in ends.items() if end is not None}
        read = {name: self.sink.rows(sql) for name, sql in tables.items()}
        return {**read, "told": told, "letters": letters, "durable": durable, "committed": self.committed}


_HERE: Final = "topic = {topic:String} AND epoch = {epoch:String} AND partition = {partition:UInt16}"
_PLACE: Final = "topic, partition, offset"
_KEY: Final = ("window_start", "jurisdiction_id", "layer", "zone_code", "metric")


def _counted(sink: Sink, parameters: Mapping[str, Any]) -> pl.DataFrame:
    """The window rows (WINDOW_SCHEMA) of a chunk that readers add up."""
    values = [name for name in WINDOW_SCHEMA if name not in _KEY]
    newest = ", ".join(f"argMax(r.{name}, version) AS {name}" for name in values)
    found = sink.frame(
        f"SELECT toDateTime64(window_start, 3, 'UTC') AS window_start, {', '.join(_KEY[1:])}, {newest} "
        f"FROM window_rows AS r WHERE {_HERE} AND chunk = {{chunk:Int64}} "
        f"GROUP BY {', '.join(_KEY)} HAVING count > 0",
        parameters,
    )
    if found.is_empty():
        return pl.DataFrame(schema=WINDOW_SCHEMA)
    return found.select(*WINDOW_SCHEMA).cast(dict(WINDOW_SCHEMA)).sort(*_KEY)  # type: ignore[arg-type]


SENSOR: Final = Place(RAW_TOPICS["sensor"], 0)
LAMPS: Final = Place(RAW_TOPICS["lighting"], 1)
_START_MS: Final = RECEIVED_MS - HOUR


def log() -> dict[Place, Batch]:
    """Two partitions with everything that makes a difference: junk, nulls, duplicates within and across chunks, late
    events of another month, a position without a zone, a bin that burns and is put out, one that is full and one that
    stays full, a lamp that is defective and mended."""
    return {SENSOR: _readings(), LAMPS: _lamps()}


def _readings() -> Batch:
    values: list[bytes | None] = []
    for number in range(24):
        changes: dict[str, Any] = {"event_id": f"s{number}", "observed_at": _START_MS + number * 20_000}
        changes["fill_level"] = 0.95 if 4 <= number < 18 else 0.3
        changes |= {"asset_id": "drop-off-0004", "fill_level": 0.9} if number % 5 == 2 else {}
        changes |= {"asset_id": "footfall-01", "sensor_type": "footfall", "motion_count": number} if number == 8 else {}
        changes |= {"temperature_c": 95.0 if number < 13 else 20.0} if number in (6, 13) else {}
        changes |= {"observed_at": RECEIVED_MS - 40 * DAY + number} if number in (4, 10, 19) else {}
        # A duplicate of its own chunk, of the chunk before, of one before that which is remembered no more.
        changes |= {"event_id": f"s{({5: 3, 14: 6, 15: 9, 22: 1})[number]}"} if number in (5, 14, 15, 22) else {}
        values += encoded("sensor", [event(**changes)])
    values[2], values[18] = b"junk", None
    return batch(values, received_ms=[RECEIVED_MS + number for number in range(len(values))])


def _lamps() -> Batch:
    values: list[bytes | None] = []
    for number in range(9):
        changes: dict[str, Any] = {"event_id": f"l{number}", "observed_at": _START_MS + number * 90_000}
        changes |= {"power_state": "on", "power_w": float(number)}
        status = "defective_lamp" if 2 <= number < 5 else "ok"
        changes |= {"asset_id": "lamp-00002", "lamp_status": status} if number % 3 else {}
        values += encoded("lighting", [event("lighting", **changes)])
    values[3] = b"\xc3\x01 more junk"
    return batch(values, "lighting", partition=1, received_ms=[RECEIVED_MS + number for number in range(len(values))])
