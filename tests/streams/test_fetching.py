"""What a fetch brings, through aiokafka's own fetcher classes: blocks where they can be, records where they cannot."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from aiokafka.consumer import fetcher
from aiokafka.errors import CorruptRecordException
from aiokafka.structs import TopicPartition
from faust.types import TP

from streams.fetching import BlockAt, keep_blocks
from streams.transport import as_batch
from tests.support.batches import RECEIVED_MS
from tests.support.blocks import Record, wire

TOPIC = TopicPartition("city.raw.sensor", 0)
OTHER = TopicPartition("internal", 0)
READINGS: list[Record] = [(b"k%d" % n, b"v%d" % n, ()) for n in range(5)]


@pytest.fixture(autouse=True)
def kept() -> Iterator[None]:
    """The classes of the process as they are with blocks, and afterwards as they were."""
    before = fetcher.FetchResult, fetcher.MemoryRecords, fetcher.PartitionRecords
    keep_blocks(lambda topic: topic.startswith("city."))
    yield
    fetcher.FetchResult, fetcher.MemoryRecords, fetcher.PartitionRecords = before


def fetched(data: bytes, offset: int = 0, tp: TopicPartition = TOPIC, isolation: Any = None) -> Any:
    """What a fetch response becomes, made as aiokafka's fetcher makes it."""
    level = fetcher.READ_UNCOMMITTED if isolation is None else isolation
    return fetcher.PartitionRecords(tp, fetcher.MemoryRecords(data), [], offset, None, None, True, level)


def records(found: Sequence[Any]) -> list[tuple[int, int, Any, Any, Any]]:
    """Offset, time, key, value and headers of each record."""
    batch = as_batch(TP(*TOPIC), list(found))
    return [
        (int(batch.offsets[row]), int(batch.received_ms[row]), *batch.original(row)[:2], tuple(batch.original(row)[2]))
        for row in range(len(batch))
    ]


def expected(first: int, some: Sequence[Record], at_ms: int = RECEIVED_MS) -> list[tuple[int, int, Any, Any, Any]]:
    return [(first + n, at_ms, key, value, tuple(headers)) for n, (key, value, headers) in enumerate(some)]


@pytest.mark.parametrize("compression", [0, 1, 2, 3, 4], ids=["none", "gzip", "snappy", "lz4", "zstd"])
def test_a_record_batch_is_one_block(compression: int) -> None:
    """However it is compressed, with its offsets and the broker's time; the position is behind it."""
    data = wire(READINGS, first_offset=7, compression=compression)
    data += wire(READINGS[:2], first_offset=12, at_ms=RECEIVED_MS + 9, compression=compression)
    run = fetched(data, 7)
    found = list(run)
    assert [type(one) for one in found] == [BlockAt, BlockAt]
    assert run.next_fetch_offset == 14
    assert records(found) == expected(7, READINGS) + expected(12, READINGS[:2], RECEIVED_MS + 9)


def test_the_position_moves_with_each_block() -> None:
    """Whoever stops in between is asked for the next one."""
    run = fetched(wire(READINGS, first_offset=0) + wire(READINGS, first_offset=5))
    next(run)
    assert run.next_fetch_offset == 5


@pytest.mark.parametrize("what", ["producer's time", "asked for the midst", "holes", "older format"])
def test_what_is_no_block_comes_record_by_record(what: str) -> None:
    """And nothing of it is passed over or comes twice."""
    offset = 0
    if what == "producer's time":
        data = wire(READINGS, at_ms=None)
    elif what == "asked for the midst":
        data, offset = wire(READINGS, first_offset=0), 2
    elif what == "holes":
        # Compaction keeps the offsets of what it leaves, and the last one of the batch.
        whole = bytearray(wire(READINGS))
        struct.pack_into(">i", whole, struct.calcsize(">qiibIh"), 8)
        struct.pack_into(">I", whole, struct.calcsize(">qiib"), _crc(whole))
        data = bytes(whole)
    else:
        from aiokafka.record.legacy_records import LegacyRecordBatchBuilder

        builder = LegacyRecordBatchBuilder(1, 0, 1 << 20)
        for number, (key, value, _) in enumerate(READINGS):
            builder.append(number, RECEIVED_MS, key, value)
        data = bytes(builder.build())
    run = fetched(data + wire(READINGS[:1], first_offset=9), offset)
    found = list(run)
    assert [type(one) is BlockAt for one in found] == [False] * (5 - offset) + [True]
    assert [(one[0], one[3]) for one in records(found)] == [(n, b"v%d" % n) for n in range(offset, 5)] + [(9, b"v0")]
    assert run.next_fetch_offset == 10


def _crc(whole: bytearray) -> int:
    from aiokafka.record.util import calc_crc32c

    return int(calc_crc32c(bytes(whole[struct.calcsize(">qiibI") :])))


def test_markers_of_transactions_are_passed_by() -> None:
    """They are no records; the position goes over them."""
    marker = bytearray(wire([(b"\x00\x00\x00\x01", b"\x00\x00\x00\x00\x00\x00", ())], first_offset=5))
    (attributes,) = struct.unpack_from(">h", marker, struct.calcsize(">qiibI"))
    struct.pack_into(">h", marker, struct.calcsize(">qiibI"), attributes | 0x30)
    struct.pack_into(">I", marker, struct.calcsize(">qiib"), _crc(marker))
    run = fetched(wire(READINGS) + bytes(marker) + wire(READINGS, first_offset=6))
    found = list(run)
    assert [len(one) for one in found] == [5, 5]
    assert records(found) == expected(0, READINGS) + expected(6, READINGS)
    run = fetched(bytes(marker), 5)
    assert (list(run), run.next_fetch_offset) == ([], 6)


def test_a_fetch_is_given_out_by_the_record() -> None:
    """As many blocks as hold what was asked for, and the rest when it is asked for again."""

    class State:
        paused, position = False, 0

        def consumed_to(self, offset: int) -> None:
            self.position = offset

    class Assignment:
        active, state = True, State()

        def state_value(self, tp: TopicPartition) -> State:
            return self.state

    data = b"".join(wire(READINGS, first_offset=5 * number) for number in range(4))
    result = fetcher.FetchResult(TOPIC, assignment=Assignment(), partition_records=fetched(data), backoff=0)
    assert [one.offset for one in result.getall(7)] == [0, 5]
    assert (Assignment.state.position, result.has_more()) == (10, True)
    assert [one.offset for one in result.getall(None)] == [10, 15]
    assert (Assignment.state.position, result.has_more()) == (20, False)


def test_a_batch_that_is_cut_off_is_left_for_the_next_fetch() -> None:
    """A fetch ends where its size does."""
    data = wire(READINGS) + wire(READINGS, first_offset=5)[:-3]
    run = fetched(data)
    assert (len(list(run)), run.next_fetch_offset) == (1, 5)


@pytest.mark.parametrize("compression", [0, 3])
def test_a_flipped_bit_is_an_error(compression: int) -> None:
    """The checksum is looked at before anything else is."""
    data = bytearray(wire(READINGS, compression=compression))
    data[-2] ^= 0x10
    with pytest.raises(CorruptRecordException):
        list(fetched(bytes(data)))


def test_other_topics_and_committed_reading_are_as_ever() -> None:
    """Faust's own topics come by the record."""
    run = fetched(wire(READINGS), tp=OTHER)
    assert [one.value for one in run] == [value for _, value, _ in READINGS]
    committed = fetched(wire(READINGS), isolation=fetcher.READ_COMMITTED)
    assert [one.value for one in committed] == [value for _, value, _ in READINGS]


def test_a_batch_keeps_blocks_together_and_is_cut_where_it_is_asked() -> None:
    """Parts hold the same records, whole blocks as they are."""
    found = list(fetched(wire(READINGS) + wire(READINGS, first_offset=5) + wire(READINGS, first_offset=10)))
    whole = as_batch(TP(*TOPIC), found)
    part = whole.part(3, 12)
    assert part.offsets.tolist() == list(range(3, 12))
    assert part.pieces[1] is whole.pieces[1]
    assert [part.original(row)[1] for row in range(9)] == [b"v%d" % (n % 5) for n in range(3, 12)]
    again = part.part(1, 8).part(0, 6)
    assert [again.original(row)[1] for row in range(6)] == [b"v%d" % (n % 5) for n in range(4, 10)]
    last = part.part(7, 9).part(1, 2)
    assert last.original(0)[1] == b"v1"
