"""Columns to single-object encoded Avro, many rows in one call.

The simulator makes columns, and writing them one dict at a time would cost more than making them. Rows in which the
same fields are null have bodies of the same layout, so each such group is laid out as one matrix of bytes. Only strings
that differ in length from row to row are joined row by row. A test holds the result against `schemas.codec.encode`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl

from schemas.contracts import Contract, Field

Bytes = npt.NDArray[np.uint8]
#: One column: a constant (null, a string or an enum symbol, a number); an array of numbers, in which NaN stands for
#: null; an array of strings of one length, as bytes `(rows, length)`; or ready-made Avro strings, one for each row.
Column = None | str | float | npt.NDArray[Any] | list[bytes]

_HEX: Final = np.array([[ord(c) for c in f"{n:02x}"] for n in range(256)], np.uint8)
_INSTANT: Final = pl.Datetime("ms", "UTC")


def varint(number: int) -> bytes:
    """Avro's long: zigzag, then seven bits a byte."""
    rest = (number << 1) ^ (number >> 63)
    out = bytearray()
    while rest > 0x7F:
        out.append(rest & 0x7F | 0x80)
        rest >>= 7
    out.append(rest)
    return bytes(out)


def string(text: str) -> bytes:
    """Avro's string: length, then UTF-8."""
    data = text.encode()
    return varint(len(data)) + data


def hexadecimal(numbers: npt.NDArray[np.uint64]) -> Bytes:
    """Sixteen hexadecimal digits for each number, as bytes `(rows, 16)`."""
    return _HEX[numbers.astype(">u8").view(np.uint8).reshape(-1, 8)].reshape(-1, 16)


def encode_rows(contract: Contract, rows: int, columns: Mapping[str, Column]) -> list[bytes]:
    """Single-object encodings of `rows` values, in order. Fields without a column are null.

    Raises KeyError for a column the contract does not have and ValueError for null where the contract has none.
    """
    unknown = columns.keys() - {f.name for f in contract.fields}
    if unknown:
        raise KeyError(f"{contract.name} has no field {', '.join(sorted(unknown))}")
    layout = _layout(contract, rows, columns)
    kinds, group = np.unique(layout, return_inverse=True)
    if len(kinds) == 1:
        return _encode_group(contract, columns, np.arange(rows))
    out: list[bytes] = [b""] * rows
    for kind in range(len(kinds)):
        where = np.flatnonzero(group == kind)
        for row, value in zip(where.tolist(), _encode_group(contract, columns, where), strict=True):
            out[row] = value
    return out


def _layout(contract: Contract, rows: int, columns: Mapping[str, Column]) -> npt.NDArray[np.int64]:
    """A number for each row; rows with the same number have their fields at the same places."""
    code = np.zeros(rows, np.int64)
    for field in contract.fields:
        column = columns.get(field.name)
        if not isinstance(column, np.ndarray):
            continue
        if column.dtype.kind == "f":
            nulls = np.isnan(column)
            if nulls.any():
                code = code * 2 + nulls
                column = np.where(nulls, 0.0, column)
        if _is_whole(field):
            code = code * 11 + _varint_lengths(column)
            # Few layouts occur at once; renumbering keeps the product of their counts from overflowing.
            code = np.unique(code, return_inverse=True)[1].astype(np.int64)
    return code


def _is_whole(field: Field) -> bool:
    return field.dtype == pl.Int64() or field.dtype == _INSTANT


def _zigzag(numbers: npt.NDArray[np.generic]) -> npt.NDArray[np.uint64]:
    whole = numbers.astype(np.int64)
    return ((whole << 1) ^ (whole >> 63)).astype(np.uint64)


def _varint_lengths(numbers: npt.NDArray[np.generic]) -> npt.NDArray[np.int64]:
    rest = _zigzag(numbers)
    length = np.ones(len(rest), np.int64)
    while (rest := rest >> np.uint64(7)).any():
        length += rest > 0
    return length


def _varints(numbers: npt.NDArray[np.generic]) -> Bytes:
    """Varints of numbers that all have the same length, as bytes `(rows, length)`."""
    rest = _zigzag(numbers)
    length = int(_varint_lengths(numbers[:1])[0])
    out = np.empty((len(rest), length), np.uint8)
    for place in range(length):
        out[:, place] = (rest & np.uint64(0x7F)).astype(np.uint8) | (0x80 if place < length - 1 else 0)
        rest >>= np.uint64(7)
    return out


def _encode_group(contract: Contract, columns: Mapping[str, Column], where: npt.NDArray[np.int64]) -> list[bytes]:
    rows = len(where)
    if rows == 0:
        return []
    parts: list[Sequence[bytes]] = []
    fixed: list[bytes | Bytes] = [b"\xc3\x01" + contract.fingerprint.to_bytes(8, "little")]
    for piece in (p for f in contract.fields for p in _pieces(f, columns.get(f.name), where)):
        if isinstance(piece, list):
            parts += [_rows(fixed, rows), piece]
            fixed = []
        else:
            fixed.append(piece)
    parts.append(_rows(fixed, rows))
    return [b"".join(row) for row in zip(*parts, strict=True)]


def _rows(pieces: Sequence[bytes | Bytes], rows: int) -> Sequence[bytes]:
    """The pieces side by side, one value for each row."""
    matrices = [
        np.broadcast_to(np.frombuffer(piece, np.uint8), (rows, len(piece))) if isinstance(piece, bytes) else piece
        for piece in pieces
    ]
    matrix = np.ascontiguousarray(np.concatenate(matrices, axis=1)) if matrices else np.empty((rows, 0), np.uint8)
    width = matrix.shape[1]
    if width == 0:
        return [b""] * rows
    values: list[bytes] = matrix.view(f"V{width}").ravel().tolist()
    return values


def _pieces(field: Field, column: Column, where: npt.NDArray[np.int64]) -> Iterator[bytes | Bytes | list[bytes]]:
    if isinstance(column, np.ndarray) and column.dtype.kind == "f" and np.isnan(column[where[0]]):
        column = None
    if column is None:
        if not field.nullable:
            raise ValueError(f"{field.name} cannot be null")
        yield b"\x00"
        return
    if field.nullable:
        yield b"\x02"
    if isinstance(column, list):
        yield [column[row] for row in where.tolist()]
    elif not isinstance(column, np.ndarray):
        yield _constant(field, column)
    elif _is_whole(field):
        yield _varints(column[where])
    elif field.dtype == pl.Boolean():
        yield column[where].astype(np.uint8).reshape(-1, 1)
    elif field.symbols:
        yield _varints(column[where])
    elif field.dtype == pl.String():
        chosen = column[where].astype(np.uint8)
        yield varint(chosen.shape[1])
        yield chosen
    else:
        yield column[where].astype("<f8").view(np.uint8).reshape(-1, 8)


def _constant(field: Field, value: str | float) -> bytes:
    if field.symbols:
        return varint(field.symbols.index(str(value)))
    if isinstance(value, str):
        return string(value)
    if _is_whole(field):
        return varint(int(value))
    if field.dtype == pl.Boolean():
        return bytes([bool(value)])
    return np.array([value], "<f8").tobytes()
