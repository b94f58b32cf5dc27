"""What the peer does with one record: decode it, find its zones, count it in its windows, keep its row.

Nothing here knows Faust, and nothing of vigie is imported: contracts come as Avro files, zones
and assets as a territory's folder.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import fastavro
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import shapely
import shapely.geometry

Record = dict[str, Any]
#: Count, sum, smallest and largest of one metric in one window.
Cell = list[float]

SINGLE_OBJECT: Final = b"\xc3\x01"
PREFIX_BYTES: Final = 10
WINDOW_MS: Final = 60_000
_ARROW: Final[Mapping[str, pa.DataType]] = {
    "string": pa.string(),
    "double": pa.float64(),
    "long": pa.int64(),
    "boolean": pa.bool_(),
}
_CLICKHOUSE: Final[Mapping[str, str]] = {
    "string": "String",
    "double": "Float64",
    "long": "Int64",
    "boolean": "Bool",
    "timestamp-millis": "DateTime64(3, 'UTC')",
    "enum": "LowCardinality(String)",
}


@dataclass(frozen=True)
class Column:
    """One contract field: its name, Arrow and ClickHouse types, and whether windows sum it."""

    name: str
    arrow: pa.DataType
    clickhouse: str
    metric: bool


@dataclass(frozen=True)
class Contract:
    """One raw topic's contract: the bytes every record begins with, the parsed schema and the columns."""

    prefix: bytes
    schema: Any
    columns: tuple[Column, ...]
    metrics: tuple[str, ...]


def read_contract(path: Path) -> Contract:
    """Read an Avro file. Times are decoded as whole milliseconds: making a datetime per field would cost more."""
    raw = json.loads(path.read_text("utf-8"))
    canonical = fastavro.schema.to_parsing_canonical_form(raw)
    fingerprint = bytes.fromhex(fastavro.schema.fingerprint(canonical, "CRC-64-AVRO"))
    columns = tuple(_column(one) for one in raw["fields"])
    plain = json.loads(path.read_text("utf-8"), object_hook=_without_logical_type)
    return Contract(
        prefix=SINGLE_OBJECT + fingerprint,
        schema=fastavro.parse_schema(plain),
        columns=columns,
        metrics=tuple(column.name for column in columns if column.metric),
    )


def _without_logical_type(node: dict[str, Any]) -> Any:
    node.pop("logicalType", None)
    return node


def _column(raw: Mapping[str, Any]) -> Column:
    kind: Any = raw["type"]
    nullable = isinstance(kind, list)
    if nullable:
        kind = next(one for one in kind if one != "null")
    name = kind if isinstance(kind, str) else kind.get("logicalType", kind["type"])
    arrow = pa.timestamp("ms", "UTC") if name == "timestamp-millis" else _ARROW.get(name, pa.string())
    clickhouse = f"Nullable({_CLICKHOUSE[name]})" if nullable else _CLICKHOUSE[name]
    return Column(str(raw["name"]), arrow, clickhouse, "resolution" in raw)


@dataclass
class Places:
    """Which zone of each layer a record lies in.

    An asset's zones are looked up once and kept by its identifier. A record with a position of its own is looked up
    each time: measured positions seldom repeat. `zones` are (layer, code); a layer that has no zone at a position is
    there with the code "".
    """

    zones: list[tuple[str, str]]
    nowhere: tuple[int, ...]
    layer_of: list[int]
    tree: shapely.STRtree
    geometries: Any
    assets: Mapping[str, tuple[float, float]]
    by_asset: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def of(self, record: Record) -> tuple[int, ...]:
        """Indices into `zones`, one for each layer."""
        longitude, latitude = record["longitude"], record["latitude"]
        if longitude is not None and latitude is not None:
            return self._look_up((longitude, latitude))
        asset = record["asset_id"]
        found = self.by_asset.get(asset)
        if found is None:
            registered = self.assets.get(asset)
            found = self.by_asset[asset] = self.nowhere if registered is None else self._look_up(registered)
        return found

    def _look_up(self, position: tuple[float, float]) -> tuple[int, ...]:
        point = shapely.Point(position)
        near = self.tree.query(point)
        found = list(self.nowhere)
        # On a shared border the first code counts, and zones are in the order of their codes.
        for index in sorted(near[shapely.intersects(self.geometries[near], point)].tolist(), reverse=True):
            found[self.layer_of[index]] = index
        return tuple(found)


def read_places(territory: Path, today: str) -> Places:
    """Read a territory's folder: `zones/<layer>.geojson` and `assets.parquet`. Zones not valid `today` are left out."""
    zones: list[tuple[str, str]] = []
    layer_of: list[int] = []
    shapes: list[Any] = []
    files = sorted((territory / "zones").glob("*.geojson"))
    for layer, file in enumerate(files):
        features = json.loads(file.read_text("utf-8"))["features"]
        for feature in sorted(features, key=lambda one: str(one["properties"]["code"])):
            properties = feature["properties"]
            if (properties.get("valid_from") or "") <= today < (properties.get("valid_to") or "9999"):
                zones.append((file.stem, str(properties["code"])))
                layer_of.append(layer)
                shapes.append(shapely.geometry.shape(feature["geometry"]))
    nowhere = tuple(range(len(zones), len(zones) + len(files)))
    zones.extend((file.stem, "") for file in files)
    geometries = np.array(shapes, dtype=object)
    shapely.prepare(geometries)
    assets = pq.read_table(territory / "assets.parquet", columns=["asset_id", "longitude", "latitude"]).to_pydict()
    positions = zip(assets["longitude"], assets["latitude"], strict=True)
    return Places(
        zones=zones,
        nowhere=nowhere,
        layer_of=layer_of,
        tree=shapely.STRtree(geometries),
        geometries=geometries,
        assets={
            asset_id: position
            for asset_id, position in zip(assets["asset_id"], positions, strict=True)
            if None not in position
        },
    )


def kind_of(domain: str) -> Callable[[Record], str]:
    """What sort of thing speaks: the first half of a window metric's name."""
    if domain == "sensor":
        return lambda record: str(record["sensor_type"])
    if domain == "lighting":
        return lambda record: "lamp"
    if domain == "report":
        return lambda record: str(record["service_code"])

    def roadway(record: Record) -> str:
        kind = str(record["observation_type"])
        return f"traffic.{record['mobility_type']}" if kind == "traffic" else kind

    return roadway


@dataclass
class Job:
    """The work on one raw topic, with its window cells and the rows that wait for their insert.

    `windows` has the cells of each metric by (start in milliseconds, zone, kind).
    """

    contract: Contract
    places: Places
    kind: Callable[[Record], str]
    rows: list[Record] = field(default_factory=list)
    windows: dict[tuple[int, int, str], dict[str, Cell]] = field(default_factory=dict)

    def take(self, value: bytes, partition: int, offset: int) -> None:
        """Do the whole job for one record. Raises ValueError for bytes of another schema."""
        contract, windows = self.contract, self.windows
        if value[:PREFIX_BYTES] != contract.prefix:
            raise ValueError("the record is not of this topic's schema")
        record: Any = fastavro.schemaless_reader(io.BytesIO(value[PREFIX_BYTES:]), contract.schema, None)
        zones = self.places.of(record)
        kind = self.kind(record)
        observed: int = record["observed_at"]
        start = observed - observed % WINDOW_MS
        present = [(name, number) for name in contract.metrics if (number := record[name]) is not None]
        for zone in zones:
            key = (start, zone, kind)
            cells = windows.get(key)
            if cells is None:
                cells = windows[key] = {"events": [0.0, 0.0, 0.0, 0.0]}
            cells["events"][0] += 1.0
            for name, number in present:
                cell = cells.get(name)
                if cell is None:
                    cells[name] = [1.0, number, number, number]
                    continue
                cell[0] += 1.0
                cell[1] += number
                if number < cell[2]:
                    cell[2] = number
                elif number > cell[3]:
                    cell[3] = number
        record["zones"] = zones
        record["partition"] = partition
        record["offset"] = offset
        self.rows.append(record)

    def take_rows(self) -> list[Record]:
        """The rows so far; the next one begins a new list."""
        rows, self.rows = self.rows, []
        return rows


def events_table(contract: Contract, places: Places, topic: str, rows: list[Record]) -> pa.Table:
    """Rows as one Arrow table, columns as in `events_ddl`."""
    names = [f"{layer}:{code}" for layer, code in places.zones]
    columns = {column.name: pa.array([row[column.name] for row in rows], column.arrow) for column in contract.columns}
    columns["zones"] = pa.array([[names[index] for index in row["zones"]] for row in rows], pa.list_(pa.string()))
    columns["topic"] = pa.array([topic] * len(rows), pa.string())
    columns["partition"] = pa.array([row["partition"] for row in rows], pa.int32())
    columns["offset"] = pa.array([row["offset"] for row in rows], pa.int64())
    return pa.table(columns)


def events_ddl(table: str, contract: Contract) -> str:
    fields = "".join(f"`{column.name}` {column.clickhouse}, " for column in contract.columns)
    return (
        f"CREATE TABLE {table} ({fields}zones Array(LowCardinality(String)), topic LowCardinality(String), "
        "`partition` Int32, `offset` Int64) ENGINE = MergeTree PARTITION BY toDate(observed_at) "
        "ORDER BY (asset_id, observed_at, topic, `partition`, `offset`)"
    )


WINDOWS_DDL: Final = (
    "CREATE TABLE windows (window_start DateTime64(3, 'UTC'), domain LowCardinality(String), "
    "zone_layer LowCardinality(String), zone_code LowCardinality(String), metric LowCardinality(String), "
    "count Float64, sum Float64, min Float64, max Float64) "
    "ENGINE = MergeTree ORDER BY (domain, zone_layer, zone_code, metric, window_start)"
)


def windows_table(domain: str, job: Job) -> pa.Table:
    """All window cells of a topic as one Arrow table, columns as in `WINDOWS_DDL`."""
    keys: list[tuple[int, str, str, str]] = []
    cells: list[Cell] = []
    for (start, zone, kind), metrics in job.windows.items():
        layer, code = job.places.zones[zone]
        keys.extend((start, layer, code, f"{kind}.{metric}") for metric in metrics)
        cells.extend(metrics.values())
    return pa.table(
        {
            "window_start": pa.array([key[0] for key in keys], pa.timestamp("ms", "UTC")),
            "domain": pa.array([domain] * len(keys), pa.string()),
            "zone_layer": pa.array([key[1] for key in keys], pa.string()),
            "zone_code": pa.array([key[2] for key in keys], pa.string()),
            "metric": pa.array([key[3] for key in keys], pa.string()),
            **{
                name: pa.array([cell[index] for cell in cells], pa.float64())
                for index, name in enumerate(("count", "sum", "min", "max"))
            },
        }
    )
