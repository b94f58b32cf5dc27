"""Writer schemas made ready to be read as one of our contracts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, Final

import fastavro
import polars as pl

from schemas.contracts import Contract, Field
from schemas.framing import single_object_prefix

#: The guard column that follows each record's own fields in a block.
ROW: Final = "__vigie_row"
#: The marker between a container's header and its blocks: any sixteen bytes.
SYNC: Final = bytes(16)

_NUMBERS: Final = ("int", "long", "float", "double")
_WIDTHS: Final[Mapping[str, int]] = {"float": 4, "double": 8}
#: Of an enum with more symbols the last ones have numbers of two bytes.
_ONE_BYTE: Final = 64
_TIME_UNITS: Final[Mapping[str, Any]] = {"timestamp-millis": "ms", "timestamp-micros": "us"}


class IncompatibleSchemaError(ValueError):
    """The writer schema cannot be read as the contract; the message says which field and why."""


@dataclass(frozen=True)
class Place:
    """A field as it lies in a record, behind a byte for its branch where it is nullable: so many bytes, or a text
    behind its length, or an integer of variable length."""

    name: str
    nullable: bool
    fixed: int | None = None
    is_text: bool = False


@dataclass(frozen=True, eq=False)
class Writer:
    """A writer schema made ready to be read as one contract. Made by `writer()`.

    `container` is the Avro container header up to the first block; None where Polars cannot read the schema
    and every record goes through fastavro (slower, never refused).
    """

    contract: Contract
    schema: Mapping[str, Any]
    parsed: Any
    names: Mapping[str, frozenset[str]]
    """The writer's fields; for an enum with its symbols, so that a schema of ours needs no check of each value."""
    columns: Mapping[str, pl.DataType]
    instants: Mapping[str, Any]
    container: bytes | None
    sentinel: bytes
    """A body of zeros that ends every block: Polars does not look at what is left of a block, so bytes after the
    last record would pass for its guard; with the sentinel they shift it, and it reads as something else."""

    @cached_property
    def layout(self) -> tuple[Place, ...] | None:
        """How the writer's fields lie in a record; None where their columns do not tell how many bytes they took."""
        places = [_place(f["name"], f["type"]) for f in self.schema["fields"]]
        known = [place for place in places if place is not None]
        return tuple(known) if len(known) == len(places) else None

    @cached_property
    def adaptation(self) -> tuple[pl.Expr, ...]:
        """The contract's columns from the writer's, as Polars reads them."""
        return tuple(_reader_column(self, field, raw=False) for field in self.contract.fields)

    @cached_property
    def raw_adaptation(self) -> tuple[pl.Expr, ...]:
        """The contract's columns from the writer's, as fastavro reads them without logical types."""
        return tuple(_reader_column(self, field, raw=True) for field in self.contract.fields)


def writer(contract: Contract, schema: Mapping[str, Any]) -> Writer:
    """Make a writer schema ready to be read as `contract`. Raises IncompatibleSchemaError.

    Resolution follows the Avro specification: fields by name, numeric promotion, reader defaults, unknown enum symbols
    to the reader's default.
    """
    if schema.get("type") != "record" or str(schema.get("name", "")).rsplit(".", 1)[-1] != contract.name:
        raise IncompatibleSchemaError(f"schema {schema.get('name')!r} is not {contract.name}, this topic's contract")
    fields = {f["name"]: f for f in schema["fields"]}
    for field in contract.fields:
        raw = fields.get(field.name)
        if raw is None:
            if not field.nullable and not field.symbols:
                raise IncompatibleSchemaError(f"field {field.name} is missing and has no default")
        elif not _compatible(raw["type"], field):
            raise IncompatibleSchemaError(f"field {field.name} cannot be read as {field.dtype}")
    columns = {name: _dtype(f["type"]) for name, f in fields.items()}
    columnar = all(dtype is not None for dtype in columns.values())
    return Writer(
        contract=contract,
        schema=schema,
        # Instants as plain numbers: fastavro cannot make a datetime of the year 12000.
        parsed=fastavro.parse_schema(plain(schema)),
        names={name: frozenset(_symbols(f["type"])) for name, f in fields.items()},
        columns={name: dtype for name, dtype in columns.items() if dtype is not None},
        instants={name: unit for name, f in fields.items() if (unit := _time_unit(f["type"])) is not None},
        container=container(schema, (), [(ROW, "long")]) if columnar else None,
        # Zero is the empty text, false, null (first branch), the first symbol, and a one-byte number.
        sentinel=b"".join(bytes(_WIDTHS.get(_name(f["type"]) or "", 1)) for f in schema["fields"]),
    )


@cache
def own_writer(contract: Contract) -> Writer:
    """The writer for records written with today's contract."""
    return writer(contract, contract.schema)


def own_writers(contract: Contract) -> Mapping[bytes, Writer]:
    """The same by the framing of single-object encoding."""
    return {single_object_prefix(contract.schema): own_writer(contract)}


def _branch(kind: Any) -> tuple[Any, bool]:
    """The one type beside null, and whether null is allowed. The type is None for a wider union."""
    if not isinstance(kind, list):
        return kind, False
    others = [k for k in kind if k != "null"]
    return (others[0] if len(others) == 1 else None), "null" in kind


def _symbols(kind: Any) -> Sequence[str]:
    """The symbols of an enum; nothing for a text, whose values have to be looked at ("" stands for them)."""
    branch, _ = _branch(kind)
    symbols: Sequence[str] = branch["symbols"] if _name(branch) == "enum" else ("",)
    return symbols


def _time_unit(kind: Any) -> Any:
    """The unit in which a field counts instants, None for other fields."""
    branch, _ = _branch(kind)
    return _TIME_UNITS.get(branch.get("logicalType", "")) if isinstance(branch, dict) else None


def _name(kind: Any) -> str | None:
    return kind if isinstance(kind, str) else kind.get("type") if isinstance(kind, dict) else None


def _compatible(kind: Any, field: Field) -> bool:
    branch, nullable = _branch(kind)
    if nullable and not field.nullable:
        return False
    name = _name(branch)
    if field.symbols:
        return name in ("enum", "string")
    if isinstance(field.dtype, pl.Datetime):
        return name == "long" and isinstance(branch, dict) and branch.get("logicalType") in _TIME_UNITS
    if field.dtype == pl.String():
        return name == "string"
    if field.dtype == pl.Boolean():
        return name == "boolean"
    if field.dtype == pl.Int64():
        return name in ("int", "long")
    return name in _NUMBERS


def _dtype(kind: Any) -> pl.DataType | None:
    """The Polars type of a writer field that `read_avro` reads safely, else None."""
    if isinstance(kind, list) and (len(kind) != 2 or kind[0] != "null"):
        return None
    branch, nullable = _branch(kind)
    name = _name(branch)
    if name == "enum" and not nullable:
        return pl.String()
    if isinstance(branch, dict) and (logical := branch.get("logicalType")):
        return pl.Datetime(_TIME_UNITS[logical], "UTC") if name == "long" and logical in _TIME_UNITS else None
    simple: dict[str, pl.DataType] = {
        "string": pl.String(), "boolean": pl.Boolean(), "int": pl.Int32(), "long": pl.Int64(),
        "float": pl.Float32(), "double": pl.Float64(),
    }  # fmt: skip
    return simple.get(name or "")


def plain(schema: Mapping[str, Any]) -> Any:
    """The schema without logical types: what is read by it are numbers."""
    return _without(("logicalType",), schema)


def _without(names: Sequence[str], node: Any) -> Any:
    """The schema without these attributes, wherever they stand."""
    if isinstance(node, dict):
        return {k: _without(names, v) for k, v in node.items() if k not in names}
    if isinstance(node, list):
        return [_without(names, item) for item in node]
    return node


def container(schema: Mapping[str, Any], before: Sequence[tuple[str, str]], after: Sequence[tuple[str, str]]) -> bytes:
    """The Avro container header, up to the first block, for records of a schema with more fields (name, type) before
    and after its own."""
    # Names and types only: Polars refuses some defaults that the specification allows.
    fields = [{"name": f["name"], "type": _without(("default", "doc"), f["type"])} for f in schema["fields"]]
    first, last = ([{"name": name, "type": kind} for name, kind in more] for more in (before, after))
    guarded = {"type": "record", "name": schema["name"], "fields": [*first, *fields, *last]}
    meta = {"avro.codec": b"null", "avro.schema": json.dumps(guarded).encode()}
    out = [b"Obj\x01", varint(len(meta))]
    for key, value in meta.items():
        out += [varint(len(key)), key.encode(), varint(len(value)), value]
    return b"".join((*out, b"\x00", SYNC))


def varint(number: int) -> bytes:
    """Avro's zig-zag variable-length long, for numbers ≥ 0."""
    rest, out = number << 1, bytearray()
    while rest > 0x7F:
        out.append(rest & 0x7F | 0x80)
        rest >>= 7
    out.append(rest)
    return bytes(out)


def _place(name: str, kind: Any) -> Place | None:
    branch, nullable = _branch(kind)
    plain = _name(branch)
    if plain is not None and plain in _WIDTHS:
        return Place(name, nullable, fixed=_WIDTHS[plain])
    if plain == "boolean" or (plain == "enum" and len(branch["symbols"]) <= _ONE_BYTE):
        return Place(name, nullable, fixed=1)
    if plain in ("string", "int", "long"):
        return Place(name, nullable, is_text=plain == "string")
    return None


def _reader_column(w: Writer, field: Field, *, raw: bool) -> pl.Expr:
    """A field of the contract from the writer's columns; `raw` where fastavro read them, instants as plain numbers."""
    present = field.name in w.names
    column = pl.col(field.name)
    if field.symbols:
        unknown = pl.lit(field.symbols[0])
        if not present:
            return unknown.alias(field.name)
        text = column.cast(pl.String)
        if w.names[field.name] <= set(field.symbols):
            return text
        return pl.when(text.is_in(field.symbols)).then(text).otherwise(unknown).alias(field.name)
    if not present:
        return pl.lit(None, dtype=field.dtype).alias(field.name)
    if isinstance(field.dtype, pl.Datetime):
        if raw:
            column = column.cast(pl.Datetime(w.instants[field.name], "UTC"))
        return column if w.instants[field.name] == "ms" else column.dt.cast_time_unit("ms")
    return column if w.columns.get(field.name) == field.dtype and not raw else column.cast(field.dtype)
