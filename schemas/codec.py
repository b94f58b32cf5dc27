"""Bytes to frames and back, a batch in one call.

Avro bodies of one writer schema put one after the other are an Avro data block, so a container header in front of
them lets Polars decode the batch into columns. The guard that makes this safe: the schema is read with one trailing
`long` field, and each body is followed by its row number. A column other than 0..n-1, or any failure, means that some
record is bad; its block is read one by one with fastavro, and it is rejected alone.

Wire formats: Confluent framing (`00`, schema id in 4 bytes) and Avro single-object encoding (`C3 01`, CRC-64-AVRO
fingerprint in 8 bytes). The framing bytes, called the *prefix*, name the writer schema.
"""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import chain
from typing import Any, Final

import fastavro
import polars as pl
from polars.exceptions import PanicException, PolarsError

from schemas.contracts import Contract, Field, fingerprint
from schemas.panics import quiet_panics
from schemas.rejects import REJECT_SCHEMA, Reason, no_rejects

STAGE: Final = "decode"
SINGLE_OBJECT: Final = b"\xc3\x01"
CONFLUENT: Final = b"\x00"

_ROW: Final = "__vigie_row"
_SYNC: Final = bytes(16)
#: A batch that will not decode as a whole is tried again in blocks of this many records, and a block that will not is
#: read record by record: one bad record costs its 255 neighbours about 5 us each, and no more than two failures.
_BLOCK: Final = 256

_NUMBERS: Final = ("int", "long", "float", "double")
_WIDTHS: Final[Mapping[str, int]] = {"float": 4, "double": 8}
_TIME_UNITS: Final[Mapping[str, Any]] = {"timestamp-millis": "ms", "timestamp-micros": "us"}

#: Everything fastavro is known to raise on bytes that are not what the schema says.
_BAD_BYTES: Final = (
    EOFError, ValueError, IndexError, KeyError, TypeError, OverflowError, MemoryError, struct.error, StopIteration,
)  # fmt: skip


class IncompatibleSchemaError(ValueError):
    """The writer schema cannot be read as the contract; the message says which field and why."""


@dataclass(frozen=True)
class Writer:
    """A writer schema made ready to be read as one contract. Made by `writer()`.

    `container` is the Avro container header up to the first block; None where Polars cannot read the schema
    and every record goes through fastavro (slower, never refused).
    """

    contract: Contract
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
    def zeros(self) -> pl.DataFrame | None:
        """The sentinel as Polars reads it."""
        return _block(self, [self.sentinel])

    @cached_property
    def adaptation(self) -> tuple[pl.Expr, ...]:
        """The contract's columns from the writer's, as Polars reads them."""
        return tuple(_reader_column(self, field, raw=False) for field in self.contract.fields)

    @cached_property
    def raw_adaptation(self) -> tuple[pl.Expr, ...]:
        """The contract's columns from the writer's, as fastavro reads them without logical types."""
        return tuple(_reader_column(self, field, raw=True) for field in self.contract.fields)


@dataclass(frozen=True)
class Decoded:
    """`frame`: `row` (UInt32, index in the batch, ascending) and the contract's columns. `rejects`: REJECT_SCHEMA."""

    frame: pl.DataFrame
    rejects: pl.DataFrame


def encode(contract: Contract, value: Mapping[str, Any]) -> bytes:
    """One value in single-object encoding. Instants are integer milliseconds or aware datetimes."""
    return _framed(SINGLE_OBJECT + contract.fingerprint.to_bytes(8, "little"), contract, value)


def encode_confluent(contract: Contract, value: Mapping[str, Any], schema_id: int) -> bytes:
    """One value in Confluent framing, under the id the registry gave to the contract's schema."""
    return _framed(CONFLUENT + schema_id.to_bytes(4, "big"), contract, value)


def _framed(prefix: bytes, contract: Contract, value: Mapping[str, Any]) -> bytes:
    out = io.BytesIO()
    out.write(prefix)
    fastavro.schemaless_writer(out, contract.parsed, value)
    return out.getvalue()


def single_object_prefix(schema: Mapping[str, Any]) -> bytes:
    """The ten bytes that name a schema in single-object encoding."""
    return SINGLE_OBJECT + fingerprint(schema).to_bytes(8, "little")


def prefix_of(value: bytes) -> bytes | None:
    """The framing bytes of a record value; None when it has no framing that we know."""
    if value.startswith(SINGLE_OBJECT) and len(value) >= 10:
        return value[:10]
    if value.startswith(CONFLUENT) and len(value) >= 5:
        return value[:5]
    return None


def prefixes(values: Iterable[bytes | None]) -> set[bytes]:
    """The distinct framings in a batch: what has to be resolved to writers before `decode`."""
    heads = {value[:10] for value in values if value}
    return {prefix for head in heads if (prefix := prefix_of(head)) is not None}


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
        # Instants as plain numbers: fastavro cannot make a datetime of the year 12000.
        parsed=fastavro.parse_schema(_without(("logicalType",), schema)),
        names={name: frozenset(_symbols(f["type"])) for name, f in fields.items()},
        columns={name: dtype for name, dtype in columns.items() if dtype is not None},
        instants={name: unit for name, f in fields.items() if (unit := _time_unit(f["type"])) is not None},
        container=_container(schema) if columnar else None,
        # Zero is the empty text, false, null (first branch), the first symbol, and a one-byte number.
        sentinel=b"".join(bytes(_WIDTHS.get(_name(f["type"]) or "", 1)) for f in schema["fields"]),
    )


@cache
def own_writer(contract: Contract) -> Writer:
    """The writer for records written with today's contract."""
    return writer(contract, contract.schema)


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


def _without(names: Sequence[str], node: Any) -> Any:
    """The schema without these attributes, wherever they stand."""
    if isinstance(node, dict):
        return {k: _without(names, v) for k, v in node.items() if k not in names}
    if isinstance(node, list):
        return [_without(names, item) for item in node]
    return node


def _container(schema: Mapping[str, Any]) -> bytes:
    # Names and types only: Polars refuses some defaults that the specification allows.
    fields = [{"name": f["name"], "type": _without(("default", "doc"), f["type"])} for f in schema["fields"]]
    guarded = {"type": "record", "name": schema["name"], "fields": [*fields, {"name": _ROW, "type": "long"}]}
    meta = {"avro.codec": b"null", "avro.schema": json.dumps(guarded).encode()}
    out = [b"Obj\x01", _varint(len(meta))]
    for key, value in meta.items():
        out += [_varint(len(key)), key.encode(), _varint(len(value)), value]
    return b"".join((*out, b"\x00", _SYNC))


def _varint(number: int) -> bytes:
    """Avro's zig-zag variable-length long, for numbers ≥ 0."""
    rest, out = number << 1, bytearray()
    while rest > 0x7F:
        out.append(rest & 0x7F | 0x80)
        rest >>= 7
    out.append(rest)
    return bytes(out)


_ROW_NUMBERS: Final[list[bytes]] = [_varint(n) for n in range(16_384)]


def _row_numbers(count: int) -> Sequence[bytes]:
    while len(_ROW_NUMBERS) < count:
        _ROW_NUMBERS.append(_varint(len(_ROW_NUMBERS)))
    return _ROW_NUMBERS


def decode(contract: Contract, values: Sequence[bytes | None], writers: Mapping[bytes, Writer | None]) -> Decoded:
    """Decode one batch. Every row of `values` ends in exactly one of the two frames; no bytes raise.

    `writers` resolves each prefix of `prefixes(values)`: to a writer made for this contract, or to None when nobody
    knows the schema or it does not fit (the record is then rejected as unknown_schema).
    """
    groups: dict[bytes, tuple[list[int], list[bytes]]] = {}
    bad: list[tuple[int, Reason, str]] = []
    heads = {value[:10] for value in values if value}
    if len(heads) == 1 and None not in values and b"" not in values and (only := prefix_of(next(iter(heads)))):
        cut = len(only)
        groups[only] = (list(range(len(values))), [value[cut:] for value in values if value is not None])
    else:
        for row, value in enumerate(values):
            prefix = prefix_of(value) if value else None
            if value is None or prefix is None:
                bad.append((row, Reason.DECODE, "no value" if not value else "no known framing"))
                continue
            rows, bodies = groups.setdefault(prefix, ([], []))
            rows.append(row)
            bodies.append(value[len(prefix) :])
    frames: list[pl.DataFrame] = []
    for prefix, (rows, bodies) in groups.items():
        found = writers.get(prefix)
        if found is None:
            bad.extend((row, Reason.UNKNOWN_SCHEMA, f"schema {prefix.hex()} is not known here") for row in rows)
            continue
        pieces, bad_rows = _decode_bodies(found, rows, bodies)
        frames.extend(pieces)
        bad.extend((row, Reason.DECODE, f"not a {contract.name}") for row in bad_rows)
    if not frames:
        frame = pl.DataFrame(schema={"row": pl.UInt32(), **contract.frame_schema()})
    elif len(frames) == 1:
        frame = frames[0]
    else:
        frame = pl.concat(frames).sort("row")
    if not bad:
        return Decoded(frame, no_rejects())
    bad.sort()
    return Decoded(
        frame,
        pl.DataFrame([(r, STAGE, reason.value, why) for r, reason, why in bad], schema=REJECT_SCHEMA, orient="row"),
    )


def _decode_bodies(w: Writer, rows: list[int], bodies: list[bytes]) -> tuple[list[pl.DataFrame], list[int]]:
    """Frames of the good bodies, and the batch rows of the bad ones."""
    if w.container is not None and (frame := _columnar(w, bodies)) is not None:
        return [_adapted(w, rows, frame)], []
    if w.container is None:
        return _one_by_one(w, rows, bodies)
    if len(bodies) == 1:
        return [], rows
    frames: list[pl.DataFrame] = []
    bad: list[int] = []
    for part in _parts(w, bodies):
        pieces, bad_rows = _decode_bodies(w, [rows[i] for i in part], [bodies[i] for i in part])
        frames += pieces
        bad += bad_rows
    return frames, bad


def _parts(w: Writer, bodies: list[bytes]) -> Iterable[Sequence[int]]:
    """How to divide bodies that do not decode together: blocks, then what fastavro can read and each of the rest.

    fastavro only finds the suspects. It and Polars disagree on some bytes (branches of unions, booleans above 1), and
    what a record becomes must not depend on its neighbours, so Polars has the last word on every record.
    """
    count = len(bodies)
    if count > _BLOCK:
        return [range(start, min(start + _BLOCK, count)) for start in range(0, count, _BLOCK)]
    suspects = [i for i in range(count) if not _is_readable(w, bodies[i])]
    if not suspects:
        return [range(count // 2), range(count // 2, count)]
    chosen = set(suspects)
    readable = [i for i in range(count) if i not in chosen]
    return [*([readable] if readable else []), *([i] for i in suspects)]


def _is_readable(w: Writer, body: bytes) -> bool:
    source = io.BytesIO(body)
    try:
        fastavro.schemaless_reader(source, w.parsed, None)
    except _BAD_BYTES:
        return False
    return source.tell() == len(body)


def _columnar(w: Writer, bodies: list[bytes]) -> pl.DataFrame | None:
    """The bodies as one frame with the writer's columns, or None when any of them is not what the schema says."""
    frame = _block(w, [*bodies, w.sentinel])
    if frame is None or w.zeros is None or not frame.tail(1).equals(w.zeros):
        return None
    return frame.head(len(bodies))


def _block(w: Writer, bodies: list[bytes]) -> pl.DataFrame | None:
    """The bodies as one Avro block, or None when it does not decode with every guard in its place."""
    assert w.container is not None
    count = len(bodies)
    data = b"".join(chain.from_iterable(zip(bodies, _row_numbers(count), strict=False)))
    block = b"".join((w.container, _varint(count), _varint(len(data)), data, _SYNC))
    try:
        with quiet_panics():
            frame = pl.read_avro(io.BytesIO(block))
    except (PolarsError, PanicException, ValueError, OSError, MemoryError):
        return None
    numbers = frame.drop_in_place(_ROW)
    if len(numbers) != count or not (numbers == pl.int_range(count, eager=True)).all():
        return None
    return frame


def _one_by_one(w: Writer, rows: list[int], bodies: list[bytes]) -> tuple[list[pl.DataFrame], list[int]]:
    good_rows: list[int] = []
    good: list[dict[str, Any]] = []
    bad: list[int] = []
    for row, body in zip(rows, bodies, strict=True):
        source = io.BytesIO(body)
        try:
            value = fastavro.schemaless_reader(source, w.parsed, None)
        except _BAD_BYTES:
            bad.append(row)
            continue
        if source.tell() != len(body):
            bad.append(row)
            continue
        good_rows.append(row)
        good.append({f.name: value[f.name] for f in w.contract.fields if f.name in value})
    if not good:
        return [], bad
    columns = {
        f.name: pl.Series(f.name, [value[f.name] for value in good], dtype=_raw_dtype(f), strict=False)
        for f in w.contract.fields
        if f.name in good[0]
    }
    return [_adapted(w, good_rows, pl.DataFrame(columns), raw=True)], bad


def _raw_dtype(field: Field) -> pl.DataType:
    """The type of a field read one by one, where instants are plain numbers of the writer's unit."""
    return pl.Int64() if isinstance(field.dtype, pl.Datetime) else field.dtype


def _adapted(w: Writer, rows: list[int], frame: pl.DataFrame, *, raw: bool = False) -> pl.DataFrame:
    """A frame with the writer's columns as `row` and the contract's columns, in contract order."""
    return frame.select(pl.Series("row", rows, dtype=pl.UInt32), *(w.raw_adaptation if raw else w.adaptation))


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
