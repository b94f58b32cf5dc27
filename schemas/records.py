"""What Kafka holds, as the pipeline receives it: consecutive records of one partition."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Header = tuple[str, bytes | None]


@dataclass(frozen=True)
class Batch:
    """Records of one partition in offset order. All sequences have the same length, at least 1.

    `offsets` are strictly increasing (compaction and transactions leave gaps). `received_ms` is the broker's time in
    milliseconds since 1970.
    """

    topic: str
    partition: int
    offsets: npt.NDArray[np.int64]
    received_ms: npt.NDArray[np.int64]
    keys: Sequence[bytes | None]
    values: Sequence[bytes | None]
    headers: Sequence[Sequence[Header]]

    def __len__(self) -> int:
        return len(self.offsets)

    @property
    def first_offset(self) -> int:
        return int(self.offsets[0])

    @property
    def last_offset(self) -> int:
        return int(self.offsets[-1])

    def part(self, start: int, stop: int) -> Batch:
        """The records from index `start` to before `stop`."""
        return Batch(
            self.topic,
            self.partition,
            self.offsets[start:stop],
            self.received_ms[start:stop],
            self.keys[start:stop],
            self.values[start:stop],
            self.headers[start:stop],
        )


def joined(batches: Sequence[Batch]) -> Batch:
    """Consecutive batches of one partition as one."""
    if len(batches) == 1:
        return batches[0]
    return Batch(
        batches[0].topic,
        batches[0].partition,
        np.concatenate([b.offsets for b in batches]),
        np.concatenate([b.received_ms for b in batches]),
        [key for b in batches for key in b.keys],
        [value for b in batches for value in b.values],
        [headers for b in batches for headers in b.headers],
    )
