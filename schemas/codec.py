"""Bytes to frames, a batch in one call.

Avro bodies of one writer schema put one after the other are an Avro data block, so a container header in front of
them lets Polars decode the batch into columns. The guard that makes this safe: the schema is read with one trailing
`long` field, and each body is followed by its row number. A column other than 0..n-1, or any failure, means that some
record is bad; its block is taken apart until it stands alone, and it is rejected alone.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain
from typing import Any, Final

import fastavro
import polars as pl
from polars.exceptions import PanicException, PolarsError

from schemas.contracts import Contract, Field
from schemas.framing import prefix_of
from schemas.panics import quiet_panics
from schemas.rejects import REJECT_SCHEMA, Reason, no_rejects
from schemas.writers import ROW, SYNC, Writer, varint

STAGE: Final = "decode"

#: A batch that will not decode as a whole is tried again in blocks of this many records, and a block that will not is
#: read record by record: one bad record costs its 255 neighbours about 5 us each, and no more than two failures.
_BLOCK: Final = 256

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


def _one_by_one(w: Writer, rows: list[int], bodies: list[bytes]) -> tuple[list[pl.DataFrame], list[int]]:
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


def _adapted(w: Writer, rows: list[int], frame: pl.DataFrame, *, raw: bool = False) -> pl.DataFrame:
    """A frame with the writer's columns as `row` and the contract's columns, in contract order."""
    return frame.select(pl.Series("row", rows, dtype=pl.UInt32), *(w.raw_adaptation if raw else w.adaptation))
