"""What the embedded engine is given: a block as a file in pieces, the same file, and none of it a copy. Who comes last
in its process: merges."""

from __future__ import annotations

import os
import struct
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from sinks.clickhouse import Sink
from sinks.embedded import ArrowFile
from sinks.rows import Origin
from sinks.store import Pass, store_passes
from tests.support.threads import niceness

_MAPS = pa.map_(pa.dictionary(pa.int32(), pa.large_string()), pa.float64())


def block(rows: int) -> pa.Table:
    """Rows with numbers, texts, nulls, dictionaries, and maps."""
    texts = [f"asset {row}" if row % 3 else None for row in range(rows)]
    return pa.table(
        {
            "number": pa.array(range(rows), pa.int64()),
            "text": pa.array(texts, pa.large_string()),
            "coded": pa.array([f"kind {row % 7}" for row in range(rows)]).dictionary_encode(),
            "maps": pa.array([[("a", row / 2)] * (row % 3) for row in range(rows)], _MAPS),
        }
    )


def pieces(file: ArrowFile, size: int = 1 << 20) -> list[memoryview]:
    """What is read until nothing comes any more."""
    found = []
    while piece := file.read(size):
        found.append(piece)
    return found


@pytest.mark.parametrize("size", [7, 64, 1 << 20])
@pytest.mark.parametrize("rows", [0, 1, 5_000])
def test_the_pieces_are_the_file(rows: int, size: int) -> None:
    """Put together they are an Arrow file of the rows, and none is longer than what was asked for."""
    given = block(rows)
    found = pieces(ArrowFile(given), size)
    assert max(map(len, found)) <= size
    assert pa.ipc.open_file(pa.py_buffer(b"".join(found))).read_all() == given


def test_a_part_of_a_table() -> None:
    """A slice, whose memory begins in the middle of the table's, is a file of its own rows alone."""
    given = block(5_000)
    part = given.slice(1_234, 17)
    found = b"".join(pieces(ArrowFile(part)))
    assert pa.ipc.open_file(pa.py_buffer(found)).read_all() == part
    assert len(found) < 10_000


def test_nothing_is_copied() -> None:
    """The memory of a column is what is read."""
    given = block(5_000)
    values = given.to_batches()[0].column(0).buffers()[1]
    assert values is not None
    assert values.address in [np.frombuffer(piece, np.uint8).ctypes.data for piece in pieces(ArrowFile(given))]


def test_it_outlives_the_table() -> None:
    """Pieces hold the memory they show."""
    given = block(50_000)
    wanted = given["number"].to_pylist()
    file = ArrowFile(given)
    del given
    found = pa.ipc.open_file(pa.py_buffer(b"".join(pieces(file)))).read_all()
    assert found["number"].to_pylist() == wanted


@pytest.mark.skipif(sys.platform != "linux", reason="threads have no niceness of their own but on Linux")
def test_merges_let_others_go_first(clickhouse: Sink) -> None:
    """Once something has been inserted, the threads that merge are nicer than all others of the process."""
    store_passes([(Origin("city.raw.sensor", 0), Pass(1, 2))], clickhouse)
    own = os.getpriority(os.PRIO_PROCESS, 0)
    found = niceness(os.getpid())
    assert found.pop("MergeMutate") == {min(19, own + 10)}
    assert max(set().union(*found.values())) == own


def test_merges_are_few(clickhouse: Sink) -> None:
    """At most two merges at a time, each of which takes memory, and none so large that it goes on for hours."""
    found = dict(
        clickhouse.rows(
            "SELECT name, toFloat64(value) FROM system.server_settings "
            "WHERE name IN ('background_pool_size', 'background_merges_mutations_concurrency_ratio')"
        )
    )
    assert found["background_pool_size"] * found["background_merges_mutations_concurrency_ratio"] == 2
    largest = "SELECT value FROM system.merge_tree_settings WHERE name = 'max_bytes_to_merge_at_max_space_in_pool'"
    assert clickhouse.rows(largest) == [(str(1 << 30),)]


def test_blocks_are_small(clickhouse: Sink) -> None:
    """A merge holds blocks of each part and column, so none is large, whatever a row is like."""
    values = "arrayMap(i -> toString(i + number), range(20))"
    clickhouse.command(
        "INSERT INTO asset_state (jurisdiction_id, domain, asset_id, kind, observed_at, zones) "
        "SELECT 'a', 'lighting', toString(number), 'lamp', 1, mapFromArrays(arrayMap(i -> toString(i), range(20)), "
        f"{values}) FROM numbers(50000)"
    )
    ((folder,),) = clickhouse.rows("SELECT path FROM system.parts WHERE table = 'asset_state' AND active")
    sizes = [size for file in Path(folder).glob("*.bin") for size in block_sizes(file.read_bytes())]
    assert max(sizes) <= 131_072
    assert sum(sizes) > 10 << 20


def block_sizes(data: bytes) -> list[int]:
    """Bytes of the blocks of a column's file, uncompressed: each has a checksum, a method and its sizes before it."""
    sizes, at = [], 0
    while at < len(data):
        compressed, uncompressed = struct.unpack_from("<II", data, at + 17)
        sizes.append(uncompressed)
        at += 16 + compressed
    return sizes
