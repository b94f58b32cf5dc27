"""The contracts, read from the Avro files beside this module, and what the pipeline derives from them.

The Avro files are the one source: a field's unit, plausible range (`minimum`, `maximum`) and summing
resolution (`resolution`) stand in it as Avro attributes, where integrators read them too.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Final, Literal

import fastavro
import polars as pl

Domain = Literal["sensor", "lighting", "roadway", "report"]
DOMAINS: Final[tuple[Domain, ...]] = ("sensor", "lighting", "roadway", "report")

RAW_TOPICS: Final[Mapping[Domain, str]] = {domain: f"city.raw.{domain}" for domain in DOMAINS}
ALERT_TOPIC: Final = "city.alerts"
DEAD_LETTER_TOPIC: Final = "city.dead-letter"

_RECORD_OF: Final[Mapping[Domain, str]] = {
    "sensor": "SensorObservation",
    "lighting": "LightingObservation",
    "roadway": "RoadwayObservation",
    "report": "CitizenReport",
}

#: Columns every raw event has, in contract order.
HEAD: Final = ("event_id", "source", "jurisdiction_id", "asset_id", "observed_at", "longitude", "latitude")

_POLARS: Final[Mapping[str, pl.DataType]] = {
    "string": pl.String(),
    "double": pl.Float64(),
    "float": pl.Float64(),
    "long": pl.Int64(),
    "int": pl.Int64(),
    "boolean": pl.Boolean(),
}


@dataclass(frozen=True)
class Field:
    """One field of a contract.

    `minimum` and `maximum` bound what is plausible, in `unit`; `resolution` is the step, in `unit`, to which
    a value is rounded before it is summed (sums are kept as whole numbers of steps, so they are exact and do
    not depend on the order of the events). A field without `resolution` is stored and never summed.
    """

    name: str
    dtype: pl.DataType
    nullable: bool
    doc: str
    unit: str | None = None
    minimum: float | None = None
    maximum: float | None = None
    resolution: float | None = None
    pattern: str | None = None
    symbols: tuple[str, ...] = ()

    @property
    def summary(self) -> str:
        """The first sentence of its documentation, to go on within another sentence."""
        first = self.doc.partition(". ")[0].rstrip(".")
        return first if first[1:2].isupper() else first[:1].lower() + first[1:]


@dataclass(frozen=True, eq=False)
class Contract:
    """One Avro record type: its schema as published, parsed, and its fields."""

    name: str
    schema: Mapping[str, Any]
    parsed: Any
    fingerprint: int
    """CRC-64-AVRO of the schema's parsing canonical form; names the writer in single-object encoding."""
    fields: tuple[Field, ...]

    @property
    def fullname(self) -> str:
        return f"{self.schema['namespace']}.{self.name}"

    @property
    def doc(self) -> str:
        return str(self.schema["doc"])

    def field(self, name: str) -> Field:
        return next(f for f in self.fields if f.name == name)

    @property
    def measures(self) -> tuple[Field, ...]:
        """The fields that have a plausible range, positions apart: what quality tests look at."""
        return tuple(f for f in self.fields if f.minimum is not None and f.name not in HEAD)

    @property
    def metrics(self) -> tuple[Field, ...]:
        """The measures that windows sum."""
        return tuple(f for f in self.fields if f.resolution is not None)

    def frame_schema(self) -> dict[str, pl.DataType]:
        """Polars types of a decoded frame, in contract order."""
        return {f.name: f.dtype for f in self.fields}


def fingerprint(schema: Mapping[str, Any]) -> int:
    """CRC-64-AVRO of a schema's parsing canonical form (Avro specification, "Schema Fingerprints")."""
    canonical = fastavro.schema.to_parsing_canonical_form(dict(schema))
    return int.from_bytes(bytes.fromhex(fastavro.schema.fingerprint(canonical, "CRC-64-AVRO")), "little")


def _field(raw: Mapping[str, Any]) -> Field:
    kind: Any = raw["type"]
    nullable = isinstance(kind, list)
    if nullable:
        kind = next(k for k in kind if k != "null")
    symbols: tuple[str, ...] = ()
    dtype: pl.DataType
    if isinstance(kind, dict) and kind.get("logicalType") == "timestamp-millis":
        dtype = pl.Datetime("ms", "UTC")
    elif isinstance(kind, dict) and kind["type"] == "enum":
        dtype, symbols = pl.String(), tuple(kind["symbols"])
    else:
        dtype = _POLARS[kind if isinstance(kind, str) else kind["type"]]
    return Field(
        name=raw["name"],
        dtype=dtype,
        nullable=nullable,
        doc=raw.get("doc", ""),
        unit=raw.get("unit"),
        minimum=raw.get("minimum"),
        maximum=raw.get("maximum"),
        resolution=raw.get("resolution"),
        pattern=raw.get("pattern"),
        symbols=symbols,
    )


@cache
def contract(name: str) -> Contract:
    """The contract of that record name, e.g. `SensorObservation`. Raises FileNotFoundError for another."""
    text = resources.files("schemas").joinpath("avro", f"{name}.avsc").read_text("utf-8")
    schema = json.loads(text)
    return Contract(
        name=name,
        schema=schema,
        parsed=fastavro.parse_schema(schema),
        fingerprint=fingerprint(schema),
        fields=tuple(_field(raw) for raw in schema["fields"]),
    )


def contract_of(domain: Domain) -> Contract:
    """The contract of a raw topic's domain."""
    return contract(_RECORD_OF[domain])


def domain_of(topic: str) -> Domain:
    """The domain of a raw topic. Raises KeyError for a topic that is none."""
    return next((d for d, t in RAW_TOPICS.items() if t == topic), None) or _no_domain(topic)


def _no_domain(topic: str) -> Domain:
    raise KeyError(f"{topic} is not a raw topic; raw topics are {', '.join(RAW_TOPICS.values())}")


def examples(name: str, quality: Literal["good", "bad"]) -> Iterator[dict[str, Any]]:
    """The examples that ship with a contract.

    Good: `{"note", "value"}`, a value in the contract's JSON form. Bad: `{"note", "reason", "value"}` where
    `reason` is the reject reason the pipeline must give.
    """
    text = resources.files("schemas").joinpath("examples", f"{name}.{quality}.jsonl").read_text("utf-8")
    for line in text.splitlines():
        if line.strip():
            yield json.loads(line)
