"""Taking a partition up under other settings than those its former owner had."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import fastavro
import pytest

from schemas.contracts import contract_of
from schemas.framing import single_object_prefix
from sinks.clickhouse import Sink
from tests.streams.lives import Plan, live, offer
from tests.streams.worlds import SENSOR, World, log
from tests.support.batches import batch, encoded, events


@pytest.fixture
def world(clickhouse: Sink, monkeypatch: pytest.MonkeyPatch) -> World:
    return offer(World(clickhouse, log()), monkeypatch)


@pytest.mark.parametrize(
    ("former", "now"),
    [
        ({"chunk_records": 16}, {"chunk_records": 4}),
        ({}, {"max_record_bytes": 100}),
        ({"max_age_days": 30.0}, {"max_age_days": 400.0}),
        ({"max_age_days": 400.0}, {"max_age_days": 30.0}),
        ({"disorder_s": 2.0}, {"disorder_s": 4_000.0}),
    ],
)
def test_a_setting_changed_after_a_crash(world: World, former: dict[str, Any], now: dict[str, Any]) -> None:
    """What a former life stored beyond its snapshot is taken back when it would become something else now: no record
    is both event and reject, none is counted in two chunks."""
    live(replace(world, settings=former), Plan(cut=6, until=6), Plan(cut=6, save_every=99, until=12, save=False))
    after = replace(world, settings=now)
    live(after, Plan(cut=6))
    assert after.faults() == []


def test_an_older_schema_is_named_after_a_crash(world: World, tmp_path: Path) -> None:
    """Records that nobody could read are rejects of a life that stopped; the next can read them, and they are events
    and nothing else."""
    schema = json.loads(json.dumps(contract_of("sensor").schema))
    schema["fields"].append({"name": "firmware", "type": "long"})
    file = tmp_path / "older.avsc"
    file.write_text(json.dumps(schema), "utf-8")
    framing, parsed = single_object_prefix(schema), fastavro.parse_schema(schema)
    readings = []
    for number, value in enumerate(events(12)):
        body = io.BytesIO()
        fastavro.schemaless_writer(body, parsed, value | {"firmware": 7})
        readings.append(framing + body.getvalue() if number >= 4 else encoded("sensor", [value])[0])
    world = replace(world, log={SENSOR: batch(readings)}, settings={"max_consecutive_invalid": 1_000})
    live(world, Plan(cut=4, until=4), Plan(cut=4, save_every=99, until=8, save=False))
    assert sorted(world.offsets(SENSOR, "rejects")) == [4, 5, 6, 7]
    after = replace(world, settings={**world.settings, "older_schemas": str(file)})
    live(after, Plan(cut=4))
    assert after.faults() == []
    assert sorted(world.offsets(SENSOR, "events_sensor")) == list(range(12))
