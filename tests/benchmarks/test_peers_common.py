"""What the Python peers of the benchmark share: were it wrong, they would all be wrong together."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any, Final

import fastavro
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.peers.common.contracts import CONTRACTS, Contract, kind_of, read_contract
from benchmarks.peers.common.job import Job
from benchmarks.peers.common.places import Places, read_places
from benchmarks.peers.common.store import events_table

SCHEMAS: Final = Path(__file__).resolve().parents[2] / "schemas" / "avro"
TODAY: Final = "2026-06-01"
MINUTE_MS: Final = 60_000
BASE: Final[dict[str, Any]] = {
    "event_id": "e1",
    "source": "test",
    "jurisdiction_id": "213400000",
    "asset_id": "lamp-1",
    "observed_at": 0,
}


def square(code: str, west: float, east: float, **properties: str) -> dict[str, Any]:
    """A zone from `west` to `east`, between the latitudes 0 and 1."""
    corners = [[west, 0.0], [east, 0.0], [east, 1.0], [west, 1.0], [west, 0.0]]
    return {
        "type": "Feature",
        "properties": {"code": code, **properties},
        "geometry": {"type": "Polygon", "coordinates": [corners]},
    }


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Places:
    """Districts B (0 to 1) and A (1 to 2) that share a border, one that is no more, and a ward over all of them."""
    folder = tmp_path_factory.mktemp("territory")
    (folder / "zones").mkdir()
    layers = {
        "district": [square("B", 0, 1), square("A", 1, 2), square("0", 0, 2, valid_to="2026-01-01")],
        "ward": [square("W", 0, 2)],
    }
    for layer, features in layers.items():
        text = json.dumps({"type": "FeatureCollection", "features": features})
        (folder / "zones" / f"{layer}.geojson").write_text(text, "utf-8")
    assets = {"asset_id": ["lamp-1", "lamp-2"], "longitude": [0.5, None], "latitude": [0.5, None]}
    pq.write_table(pa.table(assets), folder / "assets.parquet")
    return read_places(folder, TODAY)


def contract(domain: str) -> Contract:
    return read_contract(SCHEMAS / f"{CONTRACTS[domain]}.avsc")


def job(domain: str, places: Places) -> Job:
    return Job(domain, contract(domain), places, kind_of(domain))


def lamp(**fields: Any) -> bytes:
    """A lamp's record as the topic has it."""
    mine = contract("lighting")
    body = io.BytesIO()
    fastavro.schemaless_writer(body, mine.schema, {**BASE, "power_state": "on", "lamp_status": "ok", **fields})
    return mine.prefix + body.getvalue()


def codes(places: Places, **fields: Any) -> list[str]:
    """Codes of a record's zones, district first; the way for one record and the way for many agree."""
    record = {"asset_id": "lamp-1", "longitude": None, "latitude": None, **fields}
    found = places.of(record)
    assert places.of_many([record, {**record, "asset_id": "lamp-2"}, record]) == [
        found,
        places.of({**record, "asset_id": "lamp-2"}),
        found,
    ]
    return [places.zones[index][1] for index in found]


def test_a_record_is_where_it_says_or_else_where_its_asset_is(places: Places) -> None:
    """Half a position is none; an asset that is unknown, or has no position, is in no zone."""
    assert codes(places) == ["B", "W"]
    assert codes(places, longitude=1.5, latitude=0.5) == ["A", "W"]
    assert codes(places, longitude=1.5) == ["B", "W"]
    assert codes(places, longitude=9.0, latitude=0.5) == ["", ""]
    assert codes(places, asset_id="lamp-2") == ["", ""]
    assert codes(places, asset_id="lamp-3") == ["", ""]


def test_on_a_border_the_first_code_counts(places: Places) -> None:
    """A record is in one zone of a layer, or totals of a layer would count it twice."""
    assert codes(places, longitude=1.0, latitude=0.5) == ["A", "W"]
    assert codes(places, longitude=0.0, latitude=0.0) == ["B", "W"]


@pytest.mark.parametrize(
    ("domain", "record", "kind"),
    [
        ("sensor", {"sensor_type": "bin"}, "bin"),
        ("lighting", {}, "lamp"),
        ("report", {"service_code": "graffiti"}, "graffiti"),
        ("roadway", {"observation_type": "traffic", "mobility_type": "bicycle"}, "traffic.bicycle"),
        ("roadway", {"observation_type": "pavement", "mobility_type": "unknown"}, "pavement"),
    ],
)
def test_kinds(domain: str, record: dict[str, Any], kind: str) -> None:
    """Who is counted tells counters of bicycles from those of cars; the other domains say it in one field."""
    assert kind_of(domain)(record) == kind


def test_windows_have_the_counts_sums_and_extremes_of_their_minute(places: Places) -> None:
    """A metric that is null is not counted, one that is not summed by its contract is no metric."""
    mine = job("lighting", places)
    values = [
        lamp(observed_at=MINUTE_MS, power_w=40.0, energy_kwh=7.0),
        lamp(observed_at=2 * MINUTE_MS - 1, power_w=20.5),
        lamp(observed_at=MINUTE_MS + 1),
        lamp(observed_at=2 * MINUTE_MS, power_w=60.0, longitude=1.5, latitude=0.5),
    ]
    for record in [mine.place(values[0]), *mine.place_many(values[1:])]:
        mine.count(record)
    assert dict(mine.results()) == {
        b'["lighting","district","B","lamp.events",60000]': b"[3,0,0,0]",
        b'["lighting","district","B","lamp.power_w",60000]': b"[2,60.5,20.5,40.0]",
        b'["lighting","ward","W","lamp.events",60000]': b"[3,0,0,0]",
        b'["lighting","ward","W","lamp.power_w",60000]': b"[2,60.5,20.5,40.0]",
        b'["lighting","district","A","lamp.events",120000]': b"[1,0,0,0]",
        b'["lighting","district","A","lamp.power_w",120000]': b"[1,60.0,60.0,60.0]",
        b'["lighting","ward","W","lamp.events",120000]': b"[1,0,0,0]",
        b'["lighting","ward","W","lamp.power_w",120000]': b"[1,60.0,60.0,60.0]",
    }


def test_events_outside_all_zones_are_counted_too(places: Places) -> None:
    """Every event is in one window of each layer, so no event can be lost unseen."""
    mine = job("lighting", places)
    mine.count(mine.place(lamp(asset_id="lamp-3")))
    assert [key for key, _ in mine.results()] == [
        b'["lighting","district","","lamp.events",0]',
        b'["lighting","ward","","lamp.events",0]',
    ]


def test_bytes_of_another_schema_are_refused(places: Places) -> None:
    """A record of another topic would decode into nonsense."""
    with pytest.raises(ValueError, match="schema"):
        job("sensor", places).place(lamp())


def test_rows_have_the_zones_and_the_place_in_kafka(places: Places) -> None:
    """What is stored can be traced back to the record."""
    mine = job("lighting", places)
    rows = mine.place_many([lamp(), lamp(asset_id="lamp-3", power_w=1.5)])
    for offset, row in enumerate(rows):
        row["partition"], row["offset"] = 2, offset
    table = events_table(mine.contract, places, "city.raw.lighting", rows)
    shown = table.select(["asset_id", "power_w", "zones", "topic", "partition", "offset"]).to_pylist()
    assert [tuple(row.values()) for row in shown] == [
        ("lamp-1", None, ["district:B", "ward:W"], "city.raw.lighting", 2, 0),
        ("lamp-3", 1.5, ["district:", "ward:"], "city.raw.lighting", 2, 1),
    ]
