"""The oracles of the crash sweep: they are silent about what is right, and say what is wrong in each way it can be."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import polars as pl
import pytest

from processors.alerts import to_record
from processors.pipeline import PartitionState, take_window_rows
from schemas.contracts import DOMAINS, RAW_TOPICS
from schemas.records import Batch
from sinks.clickhouse import Sink
from sinks.rows import Origin, ZoneMaps
from sinks.store import Block, ChunkPart, Part, store_derived, store_records
from tests.support.batches import RECEIVED_MS, batch, process, reference, state_of
from tests.support.city import CITY
from tests.support.load import MOST_PER_PARTITION, Load, territory
from tests.support.oracles import (
    Place,
    Stored,
    Told,
    account_faults,
    alert_faults,
    commit_faults,
    letter_faults,
    overlap_faults,
    read_stored,
    reason_faults,
    window_faults,
)

_LAYERS: Final = ("quarter", "sector")
_SENSOR: Final = (RAW_TOPICS["sensor"], 0)


@pytest.fixture
def logged(clickhouse: Sink) -> tuple[Load, dict[Place, int], Sink]:
    """A load that went through the stages into ClickHouse as it should: its truth, and the ends of its topics."""
    shared, load = reference(territory()), Load(5)
    states: dict[str, PartitionState] = {}
    ends: dict[Place, int] = {}
    for number in range(3):
        now = RECEIVED_MS + 5_000 * number
        records = load.draw(now)
        block = Block()
        for domain in DOMAINS:
            topic = RAW_TOPICS[domain]
            values = [record.value for record in records if record.topic == topic]
            first = ends.get((topic, 0), 0)
            one = batch(values, domain, first_offset=first, received_ms=now)
            ends[topic, 0] = first + len(values)
            state = states.setdefault(topic, state_of(one, shared))
            for outcome in process(one, state, shared):
                _add(block, Origin(topic, 0, "T", 1), outcome, one)
            block.windows += [
                ChunkPart(Origin(topic, 0, "T", 1), c.first_offset, c.last_offset + 1, c.rows)
                for c in take_window_rows(state)
            ]
        zones = ZoneMaps(shared.locator.sets)
        store_records(block, clickhouse, zones, {CITY: "c-1"})
        store_derived(block, clickhouse, zones)
    return load, ends, clickhouse


def _add(block: Block, origin: Origin, outcome: Any, one: Batch) -> None:
    part = outcome.batch
    if len(outcome.events):
        block.events[outcome.domain].append(Part(origin, part.first_offset, part.last_offset, outcome.events))
    rows = outcome.refused["row"].to_numpy()
    refused = outcome.refused.with_columns(
        pl.Series("offset", part.offsets[rows]),
        pl.Series("received_at", part.received_ms[rows]).cast(pl.Datetime("ms", "UTC")),
    )
    block.refused.append(Part(origin, part.first_offset, part.last_offset, refused))
    block.alerts += [(origin, part.last_offset, to_record(transition)) for transition in outcome.transitions]


def ask(sink: Sink) -> Stored:
    return read_stored(lambda *queries: [sink.rows(sql) for sql in queries], _LAYERS)


def told_of(stored: Stored) -> Told:
    """What leaves when nothing goes wrong: every transition on the topic and delivered, every reject a dead letter."""
    identities = [str(t["transition_id"]) for t in stored.transitions if t["state"] in ("firing", "resolved")]
    letters = {(*place, offset) for place, offsets in stored.rejects.items() for offset in offsets}
    return Told(stored.transitions, [(one, b"body of " + one.encode()) for one in identities], letters)


def everything(load: Load, ends: Mapping[Place, int], stored: Stored, told: Told) -> list[str]:
    return [
        *account_faults(ends, stored),
        *overlap_faults(stored),
        *commit_faults(ends, stored),
        *reason_faults(load.refused, stored),
        *window_faults(stored),
        *alert_faults(stored, told),
        *letter_faults(stored, told),
    ]


def test_nothing_to_say_of_what_is_right(logged: tuple[Load, dict[Place, int], Sink]) -> None:
    """All oracles hold for records of every domain, late, repeated and refused ones among them, with alerts."""
    load, ends, sink = logged
    stored = ask(sink)
    assert sum(map(len, stored.events.values())) == load.stored > 200
    assert len(stored.transitions) >= 6
    assert stored.reasons == load.refused
    assert everything(load, ends, stored, told_of(stored)) == []


@pytest.mark.parametrize(
    ("statement", "told"),
    [
        ("DELETE FROM events_sensor WHERE offset = 7", ["city.raw.sensor/0: 7 neither stored", "windows say"]),
        ("DELETE FROM rejects WHERE reason = 'decode'", ["neither stored", "rejected as decode: 0, made to be: 9"]),
        (
            "INSERT INTO rejects (topic, epoch, partition, offset, received_at, stage, reason, detail) "
            "SELECT topic, epoch, partition, offset, received_at, 'x', 'quality', 'y' FROM events_report LIMIT 1",
            ["stored and rejected", "rejected as quality: 4, made to be: 3"],
        ),
        (
            # What a second count of the same records looks like: another chunk with the same rows.
            "INSERT INTO window_rows SELECT * REPLACE (chunk + 1000 AS chunk) FROM window_rows FINAL "
            "WHERE metric LIKE 'bin.%'",
            ["windows say", "differ in all"],
        ),
        ("DELETE FROM window_rows WHERE metric = 'lamp.power_w'", ["lamp.power_w in 999999999", "windows say 0"]),
        (
            "INSERT INTO window_rows SELECT * REPLACE (sum + 1 AS sum, version + 1 AS version) FROM window_rows FINAL "
            "WHERE metric = 'traffic.car.count' LIMIT 1",
            ["traffic.car.count"],
        ),
        (
            "INSERT INTO events_roadway SELECT * REPLACE (asset_id || 'x' AS asset_id) FROM events_roadway LIMIT 1",
            ["stored twice", "windows say"],
        ),
        (
            "INSERT INTO alert_transitions SELECT * REPLACE (summary || '!' AS summary) FROM alert_transitions LIMIT 1",
            ["stored: one id, several contents"],
        ),
        (
            "INSERT INTO alert_transitions SELECT * REPLACE ('other' AS transition_id) FROM alert_transitions LIMIT 1",
            ["stored: one fingerprint and sequence, several transitions", "stored and not on the alert topic"],
        ),
        ("DELETE FROM alert_transitions WHERE sequence = 1", ["sequences with a hole", "not stored"]),
    ],
)
def test_what_is_wrong_in_clickhouse_is_said(
    logged: tuple[Load, dict[Place, int], Sink], statement: str, told: Sequence[str]
) -> None:
    """Each way in which rows can be wrong is told by the oracle it concerns, with where and how much."""
    load, ends, sink = logged
    left = told_of(ask(sink))
    sink.client.command(statement)
    found = "\n".join(everything(load, ends, ask(sink), left))
    assert [words for words in told if words not in found] == [], found


def stored(**changes: Any) -> Stored:
    """Ten offsets of a partition: eight stored, two rejected, and one alert that fired and was resolved."""
    ordinary: dict[str, Any] = {
        "events": {_SENSOR: [0, 1, 2, 4, 5, 6, 8, 9]},
        "rejects": {_SENSOR: [3, 7]},
        "reasons": {"decode": 2},
        "transitions": [transition(1, "firing"), transition(2, "resolved")],
        "windows": [],
    }
    return Stored(**{**ordinary, **changes})


def transition(sequence: int, state: str, **changes: Any) -> dict[str, Any]:
    identity = f"t{sequence}"
    return {
        "transition_id": identity, "fingerprint": "f", "sequence": sequence, "state": state, "alertname": "bin_full",
        "asset_id": "bin-1", "value": 0.9, **changes,
    }  # fmt: skip


def test_commits_and_overlaps() -> None:
    """A commit beyond the first gap is told; before it none is. Offsets twice are always told, gaps at last."""
    gap = stored(events={_SENSOR: [0, 1, 2, 5, 6, 6]})
    assert commit_faults({_SENSOR: 4}, gap) == []
    assert commit_faults({_SENSOR: 5}, gap) == ["city.raw.sensor/0: committed 5, durable 4"]
    assert commit_faults({("city.raw.report", 1): 1}, gap) == ["city.raw.report/1: committed 1, durable 0"]
    assert overlap_faults(gap) == ["city.raw.sensor/0: 6 stored twice"]
    assert overlap_faults(stored(rejects={_SENSOR: [3, 4, 7]})) == ["city.raw.sensor/0: 4 stored and rejected"]


def test_logs_that_begin_later() -> None:
    """What was gone before anybody could read it is not missed, and not allowed to be there either."""
    late = stored(events={_SENSOR: [5, 6, 8, 9]}, rejects={_SENSOR: [7]})
    assert account_faults({_SENSOR: 10}, late, {_SENSOR: 5}) == []
    assert commit_faults({_SENSOR: 10}, late, {_SENSOR: 5}) == []
    assert commit_faults({_SENSOR: 10}, late) == ["city.raw.sensor/0: committed 10, durable 0"]
    assert account_faults({_SENSOR: 10}, late, {_SENSOR: 6}) == ["city.raw.sensor/0: 5 stored, and never produced"]
    assert account_faults({_SENSOR: 9}, late, {_SENSOR: 5}) == ["city.raw.sensor/0: 9 stored, and never produced"]


def _without(told: Told, **changes: Any) -> Told:
    return Told(**{**vars(told), **changes})


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda t: _without(t, transitions=t.transitions[:1]), "stored and not on the alert topic: bin_full bin-1 "),
        (lambda t: _without(t, deliveries=t.deliveries[1:]), "stored and not delivered: bin_full bin-1 firing #1"),
        (lambda t: _without(t, deliveries=[*t.deliveries, ("t9", b"")]), "delivered and not stored: t9"),
        (lambda t: _without(t, deliveries=[*t.deliveries, ("t1", b"?")]), "delivered with several contents: t1"),
        (
            lambda t: _without(t, transitions=[*t.transitions, transition(2, "resolved", value=0.1)]),
            "on the topic: one id, several contents: t2",
        ),
        (
            lambda t: _without(t, transitions=[*t.transitions, transition(2, "firing", transition_id="t3")]),
            "on the topic: one fingerprint and sequence, several transitions: f#2",
        ),
        (lambda t: _without(t, letters=set()), "rejected and not in the dead letters: ('city.raw.sensor', 0, 3)"),
        (lambda t: _without(t, letters={*t.letters, (*_SENSOR, 4)}), "in the dead letters and not rejected"),
    ],
)
def test_what_was_told_wrongly_is_said(change: Callable[[Told], Told], fault: str) -> None:
    """Alerts and dead letters that were not told, told of nothing, or told in two ways."""
    right = stored()
    told = told_of(right)
    assert [*alert_faults(right, told), *letter_faults(right, told)] == []
    found = [*alert_faults(right, change(told)), *letter_faults(right, change(told))]
    assert any(one.startswith(fault) for one in found), found


def test_repeated_telling_is_allowed() -> None:
    """At least once: the same again, under the same id and with the same content, is no fault."""
    right = stored()
    told = told_of(right)
    twice = Told([*told.transitions, *told.transitions], [*told.deliveries, *told.deliveries], told.letters)
    assert alert_faults(right, twice) == []


def test_alerts_that_never_fired_are_not_delivered() -> None:
    """Nobody is told of an alert that has not fired, least of all that it is over."""
    short = [transition(1, "pending"), transition(2, "expired")]
    assert alert_faults(stored(transitions=short), Told(short, [], set())) == []
    found = alert_faults(stored(transitions=short), Told(short, [("t2", b"")], set()))
    assert found == ["delivered and nobody's business: bin_full bin-1 expired #2"]


def test_duplicates_are_near_their_originals() -> None:
    """The load keeps its own promise: no partition gets more records in a draw than chunks are made for."""
    load = Load(9)
    for number in range(20):
        drawn = Counter(record.topic for record in load.draw(RECEIVED_MS + 1_000 * number))
        assert set(drawn) == set(RAW_TOPICS.values())
        assert max(drawn.values()) <= MOST_PER_PARTITION
    assert load.produced > 20 * 100
