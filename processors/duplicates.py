"""The same event twice: by (source, event_id), within the open chunk of its partition and a chunk's length before."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

from schemas.rejects import Reason, no_rejects, rejects

STAGE: Final = "duplicates"

Ids = npt.NDArray[np.uint64]


class Hashes:
    """A set of 64-bit hashes in eight bytes each: sorted runs, which are merged when they are as long as the next."""

    def __init__(self, values: Ids | None = None) -> None:
        self._runs: list[Ids] = []
        if values is not None:
            self.add(np.unique(values))

    def have(self, unique: Ids) -> npt.NDArray[np.bool_]:
        """Which of them are in it. They are sorted, and none comes twice."""
        found = np.zeros(len(unique), np.bool_)
        for run in self._runs:
            found |= run[np.minimum(np.searchsorted(run, unique), len(run) - 1)] == unique
        return found

    def add(self, unique: Ids) -> None:
        """Add some that are not in it. They are sorted, and none comes twice."""
        if not len(unique):
            return
        self._runs.append(unique)
        while len(self._runs) > 1 and len(self._runs[-1]) >= len(self._runs[-2]):
            last, before = self._runs.pop(), self._runs.pop()
            self._runs.append(np.sort(np.concatenate((before, last))))

    def __len__(self) -> int:
        return sum(map(len, self._runs))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Hashes) and np.array_equal(self._sorted(), other._sorted())

    def _sorted(self) -> Ids:
        return np.sort(np.concatenate((np.empty(0, np.uint64), *self._runs)))


@dataclass
class Seen:
    """64-bit hashes of stored events: of the open chunk, and of at least a chunk's length before it. Owned by one
    partition and changed in place.

    A duplicate is not remembered anew, so what is stored of them gives the memory back after a restart.

    Two different events share a hash once in about 10^9 chunks of 65 536 events; the second would count as a duplicate.
    """

    open: Hashes = field(default_factory=Hashes)
    previous: Hashes = field(default_factory=Hashes)

    def know(self, unique: Ids) -> npt.NDArray[np.bool_]:
        """Which of them have been seen. They are sorted, and none comes twice."""
        return self.open.have(unique) | self.previous.have(unique)

    def next_chunk(self) -> None:
        """The open chunk becomes the previous one."""
        self.open, self.previous = Hashes(), self.open


#: UInt64 hash of (source, event_id). Two hashes, and no text of both: any character that would part them may stand in
#: either.
IDENTITY: Final = (pl.col("source").hash(seed=1) ^ pl.col("event_id").hash(seed=2)).alias("identity")


def identities(frame: pl.DataFrame) -> pl.Series:
    """The `IDENTITY` of each row."""
    return frame.select(IDENTITY)["identity"]


def drop_duplicates(frame: pl.DataFrame, seen: Seen) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Keep the first of each event, remember it in `seen`. Returns (events, rejects)."""
    ids = identities(frame).to_numpy()
    unique = np.sort(ids)
    if (unique[1:] != unique[:-1]).all() and not seen.know(unique).any():
        seen.open.add(unique)
        return frame, no_rejects()
    unique, first = np.unique(ids, return_index=True)
    new = ~seen.know(unique)
    seen.open.add(unique[new])
    keep = np.zeros(len(ids), np.bool_)
    keep[first[new]] = True
    mask = pl.Series(keep)
    out = rejects(frame["row"].filter(~mask), STAGE, Reason.DUPLICATE, "source and event_id seen before")
    return frame.filter(mask), out
