"""Avro container files, block by block, by whatever schema they were written with.

The library reads a file as a whole, makes dates of instants, which fails for those of the year 12000, and does not
notice a file cut off where a block begins. So blocks are cut out here, and each is handed to it as a file of its own
under a header without logical types.
"""

from __future__ import annotations

import io
import json
import lzma
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, Final

import fastavro

from schemas.contracts import Contract
from schemas.field_rules import foreign_symbol
from schemas.instants import EXPECTED
from schemas.problems import Problem, Rule
from schemas.writers import plain
from streams.contract_files.lines import Line

MAGIC: Final = b"Obj\x01"
_HEADER: Final = fastavro.parse_schema(
    {
        "type": "record",
        "name": "org.apache.avro.file.Header",
        "fields": [
            {"name": "magic", "type": {"type": "fixed", "name": "Magic", "size": 4}},
            {"name": "meta", "type": {"type": "map", "values": "bytes"}},
            {"name": "sync", "type": {"type": "fixed", "name": "Sync", "size": 16}},
        ],
    }
)
#: A block is in memory as a whole; writers make them of some kilobytes to a megabyte.
_LARGEST_BLOCK: Final = 64 * 1_048_576
_WRITE_ANEW: Final = "the file is damaged or was cut short: write or copy it anew"
#: What the library raises on bytes that are not what the schema says, and on codecs that it lacks.
_BAD: Final = (
    EOFError, ValueError, IndexError, KeyError, TypeError, OverflowError, MemoryError, struct.error, StopIteration,
    OSError, AttributeError, RecursionError, zlib.error, lzma.LZMAError,
)  # fmt: skip
_PER_MS: Final[Mapping[str, int]] = {"timestamp-millis": 1, "timestamp-micros": 1_000, "timestamp-nanos": 1_000_000}


class NoAvroError(ValueError):
    """Not the header of an Avro container file of records; the message says what is wrong with it."""


@dataclass(frozen=True)
class Header:
    """What a container says of itself: the writer's schema, and what makes a file of one of its blocks."""

    schema: Mapping[str, Any]
    codec: str
    sync: bytes
    plain: bytes

    @property
    def name(self) -> str:
        return str(self.schema.get("name", "")).rsplit(".", 1)[-1]

    @property
    def fields(self) -> tuple[str, ...]:
        return tuple(str(field["name"]) for field in self.schema["fields"])


def header(stream: BinaryIO) -> Header:
    """Read the header. Raises NoAvroError."""
    try:
        found: Any = fastavro.schemaless_reader(stream, _HEADER, None)
        if found["magic"] != MAGIC:
            raise NoAvroError("does not begin as an Avro container file does")
        schema = json.loads(found["meta"]["avro.schema"])
        if not isinstance(schema, dict) or schema.get("type") != "record":
            raise NoAvroError("holds something else than records")
        without = plain(schema)
        fastavro.parse_schema(without)
    except NoAvroError:
        raise
    except (*_BAD, fastavro.schema.SchemaParseException) as error:
        raise NoAvroError("has a header that cannot be read") from error
    codec = found["meta"].get("avro.codec", b"null")
    out = io.BytesIO()
    meta = {"avro.codec": codec, "avro.schema": json.dumps(without).encode()}
    fastavro.schemaless_writer(out, _HEADER, {"magic": MAGIC, "meta": meta, "sync": found["sync"]})
    return Header(schema, codec.decode("ascii", "replace"), found["sync"], out.getvalue())


def read(stream: BinaryIO, contract: Contract, head: Header) -> Iterator[Line]:
    """The records after the header, by number. The last is a problem where the file ends before it should."""
    number = 0
    logical = {f["name"]: _logical(f["type"]) for f in head.schema["fields"]}
    while True:
        try:
            block = _block(stream, head.sync)
            if block is None:
                return
            size = len(block) // max(1, _count(block))
            for value in fastavro.reader(io.BytesIO(head.plain + block)):
                number += 1
                yield Line(number, _values(contract, value, logical), size_bytes=size)
        except _BAD as error:
            found = f"{_why(error, head.codec)}; what came after record {number} could not be read"
            yield Line(number + 1, problems=(Problem(None, Rule.AVRO, found, _WRITE_ANEW),))
            return


def _block(stream: BinaryIO, sync: bytes) -> bytes | None:
    """The next block with its counts and its marker, None at the end of the file. Raises EOFError or ValueError."""
    first = stream.read(1)
    if not first:
        return None
    count, rest = _varint(stream, first)
    size, more = _varint(stream)
    if not 0 <= size <= _LARGEST_BLOCK or count < 0:
        raise ValueError("impossible block")
    data = stream.read(size)
    marker = stream.read(len(sync))
    if len(data) < size or len(marker) < len(sync):
        raise EOFError("cut short")
    if marker != sync:
        raise ValueError("no marker")
    return rest + more + data + marker


def _varint(stream: BinaryIO, first: bytes = b"") -> tuple[int, bytes]:
    """Avro's zig-zag integer, and its bytes."""
    out = first
    while len(out) < 10:
        if out and out[-1] < 0x80:
            break
        byte = stream.read(1)
        if not byte:
            raise EOFError("cut short")
        out += byte
    number = sum((byte & 0x7F) << (7 * place) for place, byte in enumerate(out))
    return (number >> 1) ^ -(number & 1), out


def _count(block: bytes) -> int:
    return max(0, _varint(io.BytesIO(block))[0])


def _why(error: BaseException, codec: str) -> str:
    if isinstance(error, EOFError):
        return "the file ends in the middle of a block"
    if "codec" in str(error):
        return f"its blocks are packed with {codec}, which cannot be unpacked here"
    return "a block that is not what the schema says"


def _logical(kind: Any) -> str | None:
    branches = kind if isinstance(kind, list) else [kind]
    return next((b["logicalType"] for b in branches if isinstance(b, dict) and "logicalType" in b), None)


def _values(contract: Contract, value: Any, logical: Mapping[str, str | None]) -> Mapping[str, Any]:
    """A record as JSON would have it: instants in milliseconds, symbols that only its writer knows told."""
    found = dict(value)
    for field in contract.fields:
        given = found.get(field.name)
        if given is None:
            continue
        kind = logical.get(field.name)
        if field.symbols and isinstance(given, str) and given not in field.symbols:
            # What Avro's resolution makes of it: the reader's default.
            found[field.name] = foreign_symbol(field, given, warning=True)
        elif kind is not None and kind.startswith("local-timestamp"):
            found[field.name] = Problem(field.name, Rule.TIME_ZONE, f"{kind}, a time without a zone", EXPECTED)
        elif kind is not None and kind in _PER_MS and isinstance(given, int):
            found[field.name] = given // _PER_MS[kind]
    return found
