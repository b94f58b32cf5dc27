"""The same event twice: by (source, event_id), within the open chunk of its partition and a chunk's length before."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import polars as pl

from schemas.rejects import Reason, no_rejects, rejects

STAGE: Final = "duplicates"


@dataclass
class Seen:
    """64-bit hashes of stored events: of the open chunk, and of at least a chunk's length before it. Owned by one
    partition and changed in place.

    A duplicate is not remembered anew, so what is stored of them gives the memory back after a restart.

    Two different events share a hash once in about 10^9 chunks of 65 536 events; the second would count as a duplicate.
    """

    open: set[int] = field(default_factory=set)
    previous: set[int] = field(default_factory=set)

    def next_chunk(self) -> None:
        """The open chunk becomes the previous one."""
        self.open, self.previous = set(), self.open


#: UInt64 hash of (source, event_id). Two hashes, and no text of both: any character that would part them may stand in
#: either.
IDENTITY: Final = (pl.col("source").hash(seed=1) ^ pl.col("event_id").hash(seed=2)).alias("identity")


def identities(frame: pl.DataFrame) -> pl.Series:
    """The `IDENTITY` of each row."""
    return frame.select(IDENTITY)["identity"]


def drop_duplicates(frame: pl.DataFrame, seen: Seen) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Keep the first of each event, remember it in `seen`. Returns (events, rejects)."""
    ids = identities(frame).to_list()
    fresh = set(ids)
    if len(fresh) == len(ids) and seen.open.isdisjoint(fresh) and seen.previous.isdisjoint(fresh):
        seen.open |= fresh
        return frame, no_rejects()
    keep = []
    for identity in ids:
        new = identity not in seen.open and identity not in seen.previous
        keep.append(new)
        if new:
            seen.open.add(identity)
    mask = pl.Series(keep, dtype=pl.Boolean)
    out = rejects(frame["row"].filter(~mask), STAGE, Reason.DUPLICATE, "source and event_id seen before")
    return frame.filter(mask), out
