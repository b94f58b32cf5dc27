"""What Kafka holds, as the pipeline receives it: consecutive records of one partition."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

Header = tuple[str, bytes | None]


@dataclass(frozen=True)
class Rows:
    """Records one by one. All sequences have the same length."""

    keys: Sequence[bytes | None]
    values: Sequence[bytes | None]
    headers: Sequence[Sequence[Header]]

    def __len__(self) -> int:
        return len(self.values)

    @property
    def rows(self) -> Rows:
        return self

    @property
    def size_bytes(self) -> int:
        """What the values take."""
        return sum(map(len, filter(None, self.values)))

    def part(self, start: int, stop: int) -> Rows:
        """The records from index `start` to before `stop`."""
        return Rows(self.keys[start:stop], self.values[start:stop], self.headers[start:stop])


@dataclass(frozen=True, eq=False)
class Block:
    """Records as a broker keeps them together: the uncompressed records of one record batch of Kafka's format 2.

    `unpack` takes them apart, which costs more than all else that is done with most of them.
    """

    data: bytes | memoryview
    count: int
    unpack: Callable[[], Rows]

    def __len__(self) -> int:
        return self.count

    @cached_property
    def rows(self) -> Rows:
        """The records one by one."""
        return self.unpack()

    @property
    def size_bytes(self) -> int:
        """What the records take, with their keys, headers and framing."""
        return len(self.data)

    def part(self, start: int, stop: int) -> Excerpt:
        """The records from index `start` to before `stop`."""
        return Excerpt(self, start, stop)


@dataclass(frozen=True, eq=False)
class Excerpt:
    """Some consecutive records of a block, which is only taken apart when somebody asks for them."""

    block: Block
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    @cached_property
    def rows(self) -> Rows:
        """The records one by one."""
        return self.block.rows.part(self.start, self.stop)

    @property
    def size_bytes(self) -> int:
        """Its share of what the block takes."""
        return len(self) * self.block.size_bytes // len(self.block)

    def part(self, start: int, stop: int) -> Excerpt:
        """The records from index `start` to before `stop`."""
        return Excerpt(self.block, self.start + start, self.start + stop)


Piece = Rows | Block | Excerpt


@dataclass(frozen=True, eq=False)
class Batch:
    """Records of one partition in offset order. `pieces` hold as many as there are offsets, at least 1, or nothing
    where the records themselves have been let go.

    `offsets` are strictly increasing (compaction and transactions leave gaps). `received_ms` is the broker's time in
    milliseconds since 1970.
    """

    topic: str
    partition: int
    offsets: npt.NDArray[np.int64]
    received_ms: npt.NDArray[np.int64]
    pieces: Sequence[Piece]

    def __len__(self) -> int:
        return len(self.offsets)

    @property
    def first_offset(self) -> int:
        return int(self.offsets[0])

    @property
    def last_offset(self) -> int:
        return int(self.offsets[-1])

    @property
    def size_bytes(self) -> int:
        """About what its records take."""
        return sum(piece.size_bytes for piece in self.pieces)

    @property
    def values(self) -> list[bytes | None]:
        """Every value, taken out of its piece."""
        return [value for piece in self.pieces for value in piece.rows.values]

    def original(self, row: int) -> tuple[bytes | None, bytes | None, Sequence[Header]]:
        """Key, value and headers of the record at an index."""
        number = int(np.searchsorted(self._ends, row, side="right"))
        piece = self.pieces[number]
        rows, index = piece.rows, row - int(self._ends[number]) + len(piece)
        return rows.keys[index], rows.values[index], rows.headers[index]

    def whole_up_to(self, most: int) -> int:
        """How many records from the first on to take at once, where `most` are wanted: blocks stay whole.

        At most `most`, or up to twice as many where the first block has so many.
        """
        if len(self) <= most:
            return len(self)
        number = int(np.searchsorted(self._ends, most, side="right"))
        if not isinstance(self.pieces[number], Block):
            return most
        return int(self._ends[number - 1]) if number else min(int(self._ends[0]), 2 * most)

    @cached_property
    def _ends(self) -> npt.NDArray[np.int64]:
        return np.cumsum([len(piece) for piece in self.pieces])

    def part(self, start: int, stop: int) -> Batch:
        """The records from index `start` to before `stop`."""
        return Batch(
            self.topic,
            self.partition,
            self.offsets[start:stop],
            self.received_ms[start:stop],
            list(_between(self.pieces, start, stop)),
        )


def _between(pieces: Iterable[Piece], start: int, stop: int) -> Iterator[Piece]:
    end = 0
    for piece in pieces:
        begin, end = end, end + len(piece)
        low, high = max(start, begin), min(stop, end)
        if low < high:
            yield piece if high - low == len(piece) else piece.part(low - begin, high - begin)


def joined(batches: Sequence[Batch]) -> Batch:
    """Batches one behind the other as one: consecutive ones of a partition; or, for what looks at each record by
    itself, those of several, under the partition of the first and with offsets that need not increase."""
    if len(batches) == 1:
        return batches[0]
    return Batch(
        batches[0].topic,
        batches[0].partition,
        np.concatenate([b.offsets for b in batches]),
        np.concatenate([b.received_ms for b in batches]),
        [piece for b in batches for piece in b.pieces],
    )
