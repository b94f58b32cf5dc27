"""What a fetch brings, kept as the broker sent it.

aiokafka makes an object of eleven fields of every record: 2.7 us each, more than all that is done with most of them. On
topics whose records we take by the batch, a record batch becomes one `Block` instead. What a block cannot hold goes
record by record as ever: batches that are compressed in an unknown way, have a producer's times, holes between offsets,
an older format, or records before the offset that was asked for.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from aiokafka import codec
from aiokafka.consumer import fetcher
from aiokafka.consumer.fetcher import READ_UNCOMMITTED, FetchResult, PartitionRecords
from aiokafka.errors import CorruptRecordException
from aiokafka.record.default_records import DefaultRecordBatch
from aiokafka.record.memory_records import MemoryRecords

from schemas.records import Block, Rows

#: Offset and length of a batch, then what is skipped: leader's epoch; format, checksum, attributes, last offset delta,
#: first and last time, producer's id, epoch and sequence, count.
_HEADER: Final = struct.Struct(">qiibIhiqqqhii")
_BEFORE_LENGTH: Final = struct.calcsize(">qi")
_FORMAT_AT: Final = struct.calcsize(">qii")
_FORMAT: Final = 2
_CODEC, _BROKERS_TIME, _CONTROL = 0x07, 0x08, 0x20
_UNCOMPRESSED: Final[dict[int, Callable[[bytes], bytes]]] = {
    1: codec.gzip_decode,
    2: codec.snappy_decode,
    3: codec.lz4_decode,
    4: codec.zstd_decode,
}


@dataclass(frozen=True)
class BlockAt:
    """A block, the offset of its first record (the others follow without a gap), and the broker's time of all."""

    block: Block
    offset: int
    timestamp: int

    def __len__(self) -> int:
        return len(self.block)


def behind(one: Any) -> int:
    """The offset behind what a consumer gave, a block or a record."""
    return int(one.offset) + (len(one) if isinstance(one, BlockAt) else 1)


def keep_blocks(by_batch: Callable[[str], bool]) -> None:
    """Have every consumer of this process hand out blocks on these topics."""
    fetcher.FetchResult = _Result
    fetcher.MemoryRecords = _Kept
    fetcher.PartitionRecords = partial(_records, by_batch)


class _Result(FetchResult):  # type: ignore[misc] # it has no types
    """What was fetched of a partition, given out by so many records, however many of them a block holds."""

    _partition_records: Any

    def getall(self, max_records: int | None = None) -> list[Any]:
        if not self.check_assignment(self._topic_partition) or not self.has_more():
            return []
        given, count = [], 0
        for one in self._partition_records:
            given.append(one)
            count += len(one) if isinstance(one, BlockAt) else 1
            if max_records is not None and count >= max_records:
                self._update_position()
                break
        else:
            self._update_position()
            self._partition_records = None
        return given


class _Kept(MemoryRecords):  # type: ignore[misc] # it has no types
    """The records of a fetch, with their bytes."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.data = data


def _records(by_batch: Callable[[str], bool], tp: Any, records: _Kept, *rest: Any) -> Any:
    return (_Blocks if by_batch(tp.topic) else PartitionRecords)(tp, records, *rest)


class _Blocks(PartitionRecords):  # type: ignore[misc] # it has no types
    """Gives a `BlockAt` for each record batch that can be one, and records as ever for the others."""

    def _unpack_records(self) -> Iterator[Any]:
        if self._isolation_level != READ_UNCOMMITTED:
            yield from super()._unpack_records()
            return
        for part in _parts(self._records.data):
            block = self._block(part)
            if block is None:
                yield from self._one_by_one(part)
            else:
                self.next_fetch_offset = block.offset + len(block)
                yield block

    def _block(self, part: memoryview) -> BlockAt | None:
        if part[_FORMAT_AT] != _FORMAT:
            return None
        offset, _, _, _, _, attributes, last, _, time, _, _, _, count = _HEADER.unpack_from(part)
        whole = count > 0 and last + 1 == count and offset >= self.next_fetch_offset
        if not whole or attributes & _CONTROL or not attributes & _BROKERS_TIME:
            return None
        data: bytes | memoryview = part[_HEADER.size :]
        if compressed := attributes & _CODEC:
            if compressed not in _UNCOMPRESSED:
                return None
            # Before it is trusted with memory.
            self._check(part)
            data = _UNCOMPRESSED[compressed](bytes(data))
        else:
            self._check(part)
        return BlockAt(Block(data, count, partial(_unpacked, part)), offset, time)

    def _check(self, part: memoryview) -> None:
        if self._check_crcs and not DefaultRecordBatch(part).validate_crc():
            raise CorruptRecordException(f"Invalid CRC - {self._tp}")

    def _one_by_one(self, part: memoryview) -> Iterator[Any]:
        """As aiokafka does it, with one batch."""
        whole = PartitionRecords(
            self._tp,
            MemoryRecords(bytes(part)),
            self._aborted_transactions,
            self.next_fetch_offset,
            self._key_deserializer,
            self._value_deserializer,
            self._check_crcs,
            self._isolation_level,
        )
        for record in whole:
            self.next_fetch_offset = whole.next_fetch_offset
            yield record
        self.next_fetch_offset = whole.next_fetch_offset


def _parts(data: bytes) -> Iterator[memoryview]:
    """The record batches of a fetch; the last may be cut off, and is fetched again."""
    view, at = memoryview(data), 0
    while at + _BEFORE_LENGTH <= len(view):
        _, length = struct.unpack_from(">qi", view, at)
        end = at + _BEFORE_LENGTH + length
        if end > len(view):
            return
        if length < _HEADER.size - _BEFORE_LENGTH and view[at + _FORMAT_AT] == _FORMAT:
            raise CorruptRecordException("a record batch is shorter than its header")
        yield view[at:end]
        at = end


def _unpacked(part: memoryview) -> Rows:
    """The records of a batch, taken apart."""
    keys, values, headers = [], [], []
    for record in DefaultRecordBatch(part):
        keys.append(record.key)
        values.append(record.value)
        headers.append(tuple(record.headers))
    return Rows(keys, values, headers)
