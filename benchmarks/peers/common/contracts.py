"""The raw topics' contracts: decoding a record, and what each of its fields is for."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import fastavro
import pyarrow as pa

Record = dict[str, Any]

#: The contract's file for each domain; its topic is `topic_of(domain)`.
CONTRACTS: Final = {
    "sensor": "SensorObservation",
    "lighting": "LightingObservation",
    "roadway": "RoadwayObservation",
    "report": "CitizenReport",
}
TOPIC_PREFIX: Final = "city.raw."
SINGLE_OBJECT: Final = b"\xc3\x01"
PREFIX_BYTES: Final = 10
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


def topic_of(domain: str) -> str:
    return TOPIC_PREFIX + domain


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

    def decode(self, value: bytes) -> Record:
        """One record. Raises ValueError for bytes of another schema."""
        if value[:PREFIX_BYTES] != self.prefix:
            raise ValueError("the record is not of this topic's schema")
        decoded: Any = fastavro.schemaless_reader(io.BytesIO(value[PREFIX_BYTES:]), self.schema, None)
        record: Record = decoded
        return record


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
