"""Both wire formats and earlier schema versions, through the whole worker into the tables."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import fastavro
import pytest

from schemas.contracts import RAW_TOPICS, contract_of
from schemas.framing import encode, encode_confluent, single_object_prefix
from streams.simulation.records import Record
from tests.support.batches import event
from tests.support.city import CITY
from tests.support.pipeline import broker_in_process, rows, send, succeeded, vigie
from tests.support.registry import schema_registry

pytestmark = pytest.mark.integration

_SENSOR = contract_of("sensor")
_KNOWN, _UNKNOWN, _FOREIGN = 41, 42, 43


def reading(number: int) -> dict[str, Any]:
    """A bin's reading of a minute ago."""
    at = int(time.time() * 1_000) - 60_000 + number
    return event("sensor", event_id=f"e-{number}", observed_at=at, fill_level=number / 100, tilt_deg=3.0)


def record(value: bytes) -> Record:
    return Record(RAW_TOPICS["sensor"], f"{CITY}|bin-00017".encode(), value, 0)


def earlier_schema() -> Mapping[str, Any]:
    """The contract as a vendor knew it before tilt was added, without our documentation."""
    fields = [
        {key: field[key] for key in ("name", "type", "default") if key in field}
        for field in _SENSOR.schema["fields"]
        if field["name"] != "tilt_deg"
    ]
    return {"type": "record", "name": _SENSOR.name, "namespace": "vigie", "fields": fields}


def written_with(schema: Mapping[str, Any], value: Mapping[str, Any], prefix: bytes) -> bytes:
    out = io.BytesIO(prefix)
    out.seek(0, io.SEEK_END)
    fastavro.schemaless_writer(out, fastavro.parse_schema(dict(schema)), dict(value))
    return out.getvalue()


def test_wire_formats(small_folder: Path, tmp_path: Path) -> None:
    """Single-object and Confluent records, today's schema and an earlier one, meet in one table.

    A schema that nobody knows, or that is of something else, makes a reject and stops nobody.
    """
    older = earlier_schema()
    older_file = tmp_path / "SensorObservation-0.avsc"
    older_file.write_text(json.dumps(older), "utf-8")
    foreign = {"type": "record", "name": "Other", "fields": [{"name": "x", "type": "long"}]}
    values = [
        encode(_SENSOR, reading(0)),
        encode_confluent(_SENSOR, reading(1), _KNOWN),
        encode_confluent(_SENSOR, reading(2), _UNKNOWN),
        written_with(older, reading(3), single_object_prefix(older)),
        written_with(older, reading(4), b"\x00" + (44).to_bytes(4, "big")),
        written_with(foreign, {"x": 5}, b"\x00" + _FOREIGN.to_bytes(4, "big")),
        written_with(foreign, {"x": 6}, single_object_prefix(foreign)),
        encode(_SENSOR, reading(7)),
    ]
    known = {_KNOWN: _SENSOR.schema, _FOREIGN: foreign, 44: older}
    with broker_in_process() as bootstrap, schema_registry(known) as registry:
        send(map(record, values), bootstrap)
        settings = {
            "kafka_bootstrap": bootstrap,
            "clickhouse_url": f"chdb://{tmp_path / 'clickhouse'}",
            "territories": small_folder,
            "schema_registry_url": registry,
            "older_schemas": older_file,
        }
        succeeded(vigie("worker", "--until-caught-up", folder=tmp_path, settings=settings))
    stored, refused = rows(
        tmp_path / "clickhouse",
        "SELECT event_id, fill_level, tilt_deg FROM events_sensor ORDER BY event_id",
        "SELECT offset, reason FROM rejects ORDER BY offset",
    )
    assert stored == [
        ("e-0", 0.00, 3.0),
        ("e-1", 0.01, 3.0),
        ("e-3", 0.03, None),
        ("e-4", 0.04, None),
        ("e-7", 0.07, 3.0),
    ]
    assert refused == [(2, "unknown_schema"), (5, "unknown_schema"), (6, "unknown_schema")]
