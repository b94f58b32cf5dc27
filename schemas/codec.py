"""Bytes to frames, a batch in one call.

Records that come as a broker keeps them are decoded as they are (`blocks`). What cannot be is taken apart: Avro bodies
of one writer schema put one after the other are an Avro data block, so a container header in front of them lets Polars
decode them into columns. The guard that makes this safe: the schema is read with one trailing
`long` field, and each body is followed by its row number. A column other than 0..n-1, or any failure, means that some
record is bad; its block is taken apart until it stands alone, and it is rejected alone.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain, groupby
from typing import Any, Final, Protocol

import fastavro
import numpy as np
import numpy.typing as npt
import polars as pl
from polars.exceptions import PanicException, PolarsError

from schemas.blocks import Form, form_of, read
from schemas.contracts import Contract, Field
from schemas.framing import prefix_of
from schemas.panics import quiet_panics
from schemas.records import Batch, Block
from schemas.rejects import REJECT_SCHEMA, Reason, no_rejects
from schemas.writers import ROW, SYNC, Writer, varint

STAGE: Final = "decode"

#: A batch that will not decode as a whole is tried again in blocks of this many records, and a block that will not is
#: read record by record: one bad record costs its 255 neighbours about 5 us each, and no more than two failures.
_BLOCK: Final = 256

#: What Kafka takes for a record unless it is told otherwise.
MOST_BYTES: Final = 1_048_576

#: Everything fastavro is known to raise on bytes that are not what the schema says.
_BAD_BYTES: Final = (
    EOFError, ValueError, IndexError, KeyError, TypeError, OverflowError, MemoryError, struct.error, StopIteration,
)  # fmt: skip


@dataclass(frozen=True)
class Decoded:
    """`frame`: `row` (UInt32, index in the batch, ascending) and the contract's columns. `rejects`: REJECT_SCHEMA."""

    frame: pl.DataFrame
    rejects: pl.DataFrame


_ROW_NUMBERS: Final[list[bytes]] = [varint(n) for n in range(16_384)]


def _row_numbers(count: int) -> Sequence[bytes]:
    while len(_ROW_NUMBERS) < count:
        _ROW_NUMBERS.append(varint(len(_ROW_NUMBERS)))
    return _ROW_NUMBERS


class Lookup(Protocol):
    """Resolves the framing bytes of a record to a writer made for the batch's contract; None when nobody knows the
    schema or it does not fit. A dictionary is one."""

    def get(self, prefix: bytes, /) -> Writer | None: ...


def decode(contract: Contract, batch: Batch, writers: Lookup, most_bytes: int = MOST_BYTES) -> Decoded:
    """Decode one batch. Every record ends in exactly one of the two frames; no bytes raise.

    A record whose writer nobody knows is rejected as unknown_schema, one with a value of more than `most_bytes` as
    too_large.
    """
    found = _Found(contract, writers, most_bytes)
    row = 0
    blocks: list[tuple[int, Block]] = []
    rows: list[int] = []
    values: list[bytes | None] = []
    # What is alike is decoded together wherever it stands: a decoding costs as much as some hundred records.
    for piece in batch.pieces:
        if isinstance(piece, Block):
            blocks.append((row, piece))
        else:
            rows += range(row, row + len(piece))
            values += piece.rows.values
        row += len(piece)
    found.blocks(blocks)
    found.values(rows, values)
    return found.decoded()


def decode_values(
    contract: Contract, values: Sequence[bytes | None], writers: Lookup, most_bytes: int = MOST_BYTES
) -> Decoded:
    """The same for values that stand alone."""
    found = _Found(contract, writers, most_bytes)
    found.values(range(len(values)), values)
    return found.decoded()


class _Found:
    """What has been decoded of a batch so far: frames with `row` and the contract's columns, and bad records."""

    def __init__(self, contract: Contract, writers: Lookup, most_bytes: int) -> None:
        self._contract = contract
        self._writers = writers
        self._most_bytes = most_bytes
        self._frames: list[pl.DataFrame] = []
        self._bad: list[tuple[int, Reason, str]] = []

    def decoded(self) -> Decoded:
        if not self._frames:
            frame = pl.DataFrame(schema={"row": pl.UInt32(), **self._contract.frame_schema()})
        elif len(self._frames) == 1:
            frame = self._frames[0]
        else:
            frame = pl.concat(self._frames).sort("row")
        if not self._bad:
            return Decoded(frame, no_rejects())
        bad = [(row, STAGE, reason.value, why) for row, reason, why in sorted(self._bad)]
        return Decoded(frame, pl.DataFrame(bad, schema=REJECT_SCHEMA, orient="row"))

    def blocks(self, numbered: Sequence[tuple[int, Block]]) -> None:
        """Decode blocks; with each the row of its first record."""
        alike = groupby(((row, block, form_of(block)) for row, block in numbered), key=lambda one: one[2])
        for form, group in alike:
            run = [(row, block) for row, block, _ in group]
            writer = None if form is None else self._writers.get(form.prefix)
            if form is None or writer is None:
                self._apart(run)
            elif not self._whole(writer, form, run):
                for part in _gathered(run):
                    if len(part) == len(run) or not self._whole(writer, form, part):
                        self._apart(part)

    def _whole(self, writer: Writer, form: Form, run: Sequence[tuple[int, Block]]) -> bool:
        frame = read(writer, form, [block for _, block in run], self._most_bytes)
        if frame is None:
            return False
        self._frames.append(_adapted(writer, pl.Series(np.concatenate(_rows_of(run))), frame))
        return True

    def _apart(self, run: Sequence[tuple[int, Block]]) -> None:
        self.values(np.concatenate(_rows_of(run)).tolist(), [value for _, block in run for value in block.rows.values])

    def values(self, rows: Sequence[int], values: Sequence[bytes | None]) -> None:
        """Decode values one after the other; `rows` says where in the batch they stand."""
        for prefix, (found, bodies) in self._grouped(rows, values).items():
            writer = self._writers.get(prefix)
            if writer is None:
                why = f"schema {prefix.hex()} is not known here"
                self._bad += ((row, Reason.UNKNOWN_SCHEMA, why) for row in found)
                continue
            pieces, bad_rows = _decode_bodies(writer, found, bodies)
            self._frames += pieces
            self._bad += ((row, Reason.DECODE, f"not a {self._contract.name}") for row in bad_rows)

    def _grouped(
        self, rows: Sequence[int], values: Sequence[bytes | None]
    ) -> Mapping[bytes, tuple[Sequence[int], list[bytes]]]:
        """Rows and bodies by framing; what has none is bad."""
        sizes = [0 if value is None else len(value) for value in values]
        heads = {value[:10] for value in values if value}
        if len(heads) == 1 and min(sizes) and max(sizes) <= self._most_bytes and (only := prefix_of(heads.pop())):
            cut = len(only)
            return {only: (rows, [value[cut:] for value in values if value])}
        groups: dict[bytes, tuple[list[int], list[bytes]]] = {}
        for row, value, size in zip(rows, values, sizes, strict=True):
            prefix = prefix_of(value) if value else None
            if size > self._most_bytes:
                self._bad.append((row, Reason.TOO_LARGE, f"larger than {self._most_bytes} bytes"))
            elif value is None or prefix is None:
                self._bad.append((row, Reason.DECODE, "no value" if not value else "no known framing"))
            else:
                known, bodies = groups.setdefault(prefix, ([], []))
                known.append(row)
                bodies.append(value[len(prefix) :])
        return groups


def _rows_of(run: Sequence[tuple[int, Block]]) -> list[npt.NDArray[np.uint32]]:
    return [np.arange(row, row + len(block), dtype=np.uint32) for row, block in run]


def _gathered(run: Sequence[tuple[int, Block]]) -> Iterator[Sequence[tuple[int, Block]]]:
    """Blocks that follow one another in parts of about `_BLOCK` records."""
    start = count = 0
    for number, (_, block) in enumerate(run):
        count += len(block)
        if count >= _BLOCK or number == len(run) - 1:
            yield run[start : number + 1]
            start, count = number + 1, 0


def _decode_bodies(w: Writer, rows: Sequence[int], bodies: list[bytes]) -> tuple[list[pl.DataFrame], Sequence[int]]:
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
    zeros = _zeros(w)
    if frame is None or zeros is None or not frame.tail(1).equals(zeros):
        return None
    return frame.head(len(bodies))


@cache
def _zeros(w: Writer) -> pl.DataFrame | None:
    """The writer's sentinel as Polars reads it."""
    return _block(w, [w.sentinel])


def _block(w: Writer, bodies: list[bytes]) -> pl.DataFrame | None:
    """The bodies as one Avro block, or None when it does not decode with every guard in its place."""
    assert w.container is not None
    count = len(bodies)
    data = b"".join(chain.from_iterable(zip(bodies, _row_numbers(count), strict=False)))
    block = b"".join((w.container, varint(count), varint(len(data)), data, SYNC))
    try:
        with quiet_panics():
            frame = pl.read_avro(io.BytesIO(block))
    except (PolarsError, PanicException, ValueError, OSError, MemoryError):
        return None
    numbers = frame.drop_in_place(ROW)
    if len(numbers) != count or not (numbers == pl.int_range(count, eager=True)).all():
        return None
    return frame


def _one_by_one(w: Writer, rows: Sequence[int], bodies: list[bytes]) -> tuple[list[pl.DataFrame], list[int]]:
    good_rows: list[int] = []
    good: list[dict[str, Any]] = []
    bad: list[int] = []
    for row, body in zip(rows, bodies, strict=True):
        source = io.BytesIO(body)
        try:
            value: Any = fastavro.schemaless_reader(source, w.parsed, None)
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


def _adapted(w: Writer, rows: Sequence[int] | pl.Series, frame: pl.DataFrame, *, raw: bool = False) -> pl.DataFrame:
    """A frame with the writer's columns as `row` and the contract's columns, in contract order."""
    return frame.select(pl.Series("row", rows, dtype=pl.UInt32), *(w.raw_adaptation if raw else w.adaptation))
