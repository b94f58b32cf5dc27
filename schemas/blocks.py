"""A broker's record batches, decoded without taking a record apart.

A record of Kafka's format 2 is written in the very encoding of Avro: zig-zag variable-length integers, bytes led by
their length. So the records of a batch *are* an Avro block of a schema that puts Kafka's own fields around those of the
value, and Polars decodes them in one call: keys, offsets and all the values' fields.

    length, attributes, timestamp delta, offset delta: long    key: bytes    length of the value: long
    framing of the value: a long and a float or double         the fields that its writer wrote
    number of headers: long, 0

Only records that are all alike can be read so: of one writer schema, with values, without headers, all with keys or all
without. Guards tell whether they were. The framing is the writer's in each record, offsets count on from 0 in each
batch, and the bytes that the decoded fields take, added up, are what the record says of its own length. So from the
first record on, each begins where the one before it truly ends: none can be read into its neighbour, whatever is
written in it. Where any of that fails nothing is believed, and the records are taken apart.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl
from polars.exceptions import PanicException, PolarsError

from schemas.framing import CONFLUENT, SINGLE_OBJECT, prefix_of
from schemas.panics import quiet_panics
from schemas.records import Block
from schemas.writers import SYNC, Place, Writer, container, varint

Ints = npt.NDArray[np.int64]

_LENGTH, _ATTRIBUTES, _TIME, _OFFSET = "__vigie_length", "__vigie_attributes", "__vigie_time", "__vigie_offset"
_KEY, _SIZE, _MARK, _SCHEMA, _HEADERS = (
    "__vigie_key", "__vigie_size", "__vigie_mark", "__vigie_schema", "__vigie_headers",
)  # fmt: skip
_ENVELOPE: Final = (_LENGTH, _ATTRIBUTES, _TIME, _OFFSET, _KEY, _SIZE, _MARK, _SCHEMA, _HEADERS)
_LONGEST: Final = 63
#: From these numbers on a zig-zag integer takes another byte.
_LONGER: Final = np.array([1 << (7 * n - 1) for n in range(1, 10)], np.int64)
_NO_KEY: Final = -1


@dataclass(frozen=True)
class Form:
    """What the records of a block have in common, if its first record is like the others."""

    prefix: bytes
    keyed: bool


def form_of(block: Block) -> Form | None:
    """The form of a block's first record; None when no block of such records can be read as a whole."""
    try:
        length, at = _long(block.data, 0)
        end = at + length
        for _ in range(3):  # attributes, and how far time and offset are from the batch's
            _, at = _long(block.data, at)
        key, at = _long(block.data, at)
        size, at = _long(block.data, at + max(key, 0))
        value = bytes(block.data[at : at + min(max(size, 0), 10)])
        without_headers = at + size + 1 == end and block.data[end - 1] == 0
    except IndexError:
        return None
    prefix = prefix_of(value)
    return Form(prefix, key != _NO_KEY) if prefix is not None and without_headers else None


def _long(data: bytes | memoryview, at: int) -> tuple[int, int]:
    """The zig-zag integer at a place, and the place after it."""
    number = shift = 0
    while True:
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return (number >> 1) ^ -(number & 1), at
        shift += 7
        if shift > _LONGEST:
            raise IndexError("no integer of ten bytes at the most")


def read(writer: Writer, form: Form, blocks: Sequence[Block], most_bytes: int) -> pl.DataFrame | None:
    """The records of blocks as one frame of the writer's columns and those of the envelope; None when they must be
    taken apart: one of them is not of that form, or not what the schema says, or its value is longer than
    `most_bytes`."""
    head = _head(writer, form)
    frame = None if head is None else _block(head, [block.data for block in blocks], sum(map(len, blocks)))
    return frame if frame is not None and _holds(frame, writer, form, blocks, most_bytes) else None


@cache
def _head(writer: Writer, form: Form) -> bytes | None:
    """The container header for records of one writer schema and form."""
    if writer.container is None or writer.layout is None:
        return None
    number = "double" if form.prefix.startswith(SINGLE_OBJECT) else "float"
    before = [(name, "long") for name in (_LENGTH, _ATTRIBUTES, _TIME, _OFFSET)]
    before += [(_KEY, "bytes" if form.keyed else "long"), (_SIZE, "long"), (_MARK, "long"), (_SCHEMA, number)]
    return container(writer.schema, before, [(_HEADERS, "long")])


def _block(head: bytes, parts: Sequence[bytes | memoryview], count: int) -> pl.DataFrame | None:
    block = b"".join((head, varint(count), varint(sum(map(len, parts))), *parts, SYNC))
    try:
        with quiet_panics():
            frame = pl.read_avro(io.BytesIO(block))
    except (PolarsError, PanicException, ValueError, OSError, MemoryError):
        return None
    return frame if len(frame) == count else None


def _holds(frame: pl.DataFrame, writer: Writer, form: Form, blocks: Sequence[Block], most_bytes: int) -> bool:
    """Whether every guard is in its place."""
    length, size, time, offset = (_ints(frame, name) for name in (_LENGTH, _SIZE, _TIME, _OFFSET))
    # The same of all: whatever is not stops here, before sizes are added up that may be anything.
    if not (
        _all(frame, _ATTRIBUTES, 0)
        and _all(frame, _HEADERS, 0)
        and _all(frame, _MARK, _mark(form.prefix))
        and bool((_bits(frame) == _schema(form.prefix)).all())
        and bool((offset == _counted(blocks)).all())
        and int(size.max()) <= most_bytes
        and (form.keyed or _all(frame, _KEY, _NO_KEY))
    ):
        return False
    if form.keyed:
        key_bytes = frame[_KEY].bin.size().cast(pl.Int64).to_numpy()
        key: Any = _widths(key_bytes) + key_bytes
    else:
        key = 1
    # Attributes and the number of headers are 0, and take a byte each.
    taken = 2 + _widths(time) + _widths(offset) + key + _widths(size) + size
    return bool(
        (size == len(form.prefix) + _body_bytes(frame, writer.layout or ())).all()
        and (length == taken).all()
        and int((_widths(length) + length).sum()) == sum(len(block.data) for block in blocks)
    )


def _body_bytes(frame: pl.DataFrame, layout: Sequence[Place]) -> Any:
    """The bytes that the writer's fields took in each record. Most columns take as many in all of them."""
    count, taken = len(frame), 0
    asked: list[pl.Expr] = []
    varying: list[tuple[Place, bool]] = []
    for place in layout:
        nulls = frame[place.name].null_count() if place.nullable else 0
        taken += place.nullable
        if nulls == count:
            continue
        if place.fixed is not None and not nulls:
            taken += place.fixed
            continue
        varying.append((place, nulls > 0))
        asked += [_number_of(place)] if place.fixed is None else []
        asked += [_presence_of(place.name)] if nulls else []
    # All in one call: each costs as much as some hundred values.
    numbers = frame.select(asked)
    total: Any = taken
    for place, has_nulls in varying:
        took: Any = place.fixed
        if took is None:
            number = numbers[place.name].to_numpy()
            took = _widths(number) + (number if place.is_text else 0)
        total = total + (took * numbers[place.name + _PRESENT].to_numpy() if has_nulls else took)
    return total


_PRESENT: Final = " is there"


@cache
def _number_of(place: Place) -> pl.Expr:
    """What a field's bytes depend on: the length of a text, or the integer itself; 0 for null."""
    column = pl.col(place.name)
    return (column.str.len_bytes() if place.is_text else column).cast(pl.Int64).fill_null(0)


@cache
def _presence_of(name: str) -> pl.Expr:
    return pl.col(name).is_not_null().alias(name + _PRESENT)


def _widths(numbers: Ints) -> Any:
    """The bytes that these take as zig-zag integers: one number where all take as many."""
    least, most = int(numbers.min()), int(numbers.max())
    if least >= 0 and (width := len(varint(least))) == len(varint(most)):
        return width
    return np.searchsorted(_LONGER, np.maximum(numbers, ~numbers), side="right") + 1


def _all(frame: pl.DataFrame, name: str, number: int) -> bool:
    column = frame[name]
    return bool(column.min() == number == column.max())


def _ints(frame: pl.DataFrame, name: str) -> Ints:
    numbers: Ints = frame[name].to_numpy()
    return numbers


def _counted(blocks: Sequence[Block]) -> Ints:
    """0, 1, 2 … for each block."""
    counts = np.array([len(block) for block in blocks], np.int64)
    begins = np.cumsum(counts) - counts
    return np.arange(int(counts.sum()), dtype=np.int64) - np.repeat(begins, counts)


def _mark(prefix: bytes) -> int:
    return _long(prefix, 0)[0]


def _schema(prefix: bytes) -> int:
    """The bytes that name the schema, as the bits of a number."""
    return int.from_bytes(prefix[1 if prefix.startswith(CONFLUENT) else len(SINGLE_OBJECT) :], "little")


def _bits(frame: pl.DataFrame) -> npt.NDArray[Any]:
    numbers = frame[_SCHEMA].to_numpy()
    return numbers.view(np.uint64 if numbers.dtype == np.float64 else np.uint32)
