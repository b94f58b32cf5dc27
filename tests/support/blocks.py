"""Record batches as a broker sends them, made with aiokafka's own builder."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import Final

from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.util import calc_crc32c

from schemas.records import Batch, Block, Header
from streams.fetching import _HEADER, _unpacked
from tests.support.batches import RECEIVED_MS

#: Key, value and headers of one record.
Record = tuple[bytes | None, bytes | None, Sequence[Header]]

_CRC_AT: Final = struct.calcsize(">qiib")
_ATTRIBUTES_AT: Final = struct.calcsize(">qiibI")
_LAST_TIME_AT: Final = struct.calcsize(">qiibIhiq")
_BROKERS_TIME: Final = 0x08


def wire(
    records: Iterable[Record], *, first_offset: int = 0, at_ms: int | None = RECEIVED_MS, compression: int = 0
) -> bytes:
    """One record batch. `at_ms`: the broker's time; None leaves each record the time of its producer."""
    builder = DefaultRecordBatchBuilder(2, compression, 0, -1, -1, -1, 1 << 24)
    for number, (key, value, headers) in enumerate(records):
        # Producers' clocks go back now and then.
        assert builder.append(number, RECEIVED_MS - number * 7, key, value, list(headers)) is not None
    out = bytearray(builder.build())
    struct.pack_into(">q", out, 0, first_offset)
    if at_ms is not None:
        (attributes,) = struct.unpack_from(">h", out, _ATTRIBUTES_AT)
        struct.pack_into(">h", out, _ATTRIBUTES_AT, attributes | _BROKERS_TIME)
        struct.pack_into(">q", out, _LAST_TIME_AT, at_ms)
        struct.pack_into(">I", out, _CRC_AT, calc_crc32c(bytes(out[_ATTRIBUTES_AT:])))
    return bytes(out)


def block(records: Iterable[Record]) -> Block:
    """The same as a block."""
    known = list(records)
    whole = memoryview(wire(known))
    return Block(whole[_HEADER.size :], len(known), lambda: _unpacked(whole))


def blocks_of(whole: Batch, sizes: Iterable[int]) -> Batch:
    """A batch with its records in blocks of these sizes; the last takes what is left."""
    pieces, start = [], 0
    for size in [*sizes, len(whole)]:
        stop = min(start + size, len(whole))
        if start < stop:
            pieces.append(block(whole.original(row) for row in range(start, stop)))
        start = stop
    return Batch(whole.topic, whole.partition, whole.offsets, whole.received_ms, pieces)
