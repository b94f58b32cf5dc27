"""Who has come how far: one entry per assigned partition, the only keeper of offsets.

Faust's own acknowledgements would commit past a batch that is still in flight, so topics are declared `acks=False` and
offsets move here alone: *received* when a batch is handed out, *durable* when everything that follows from it is stored
and confirmed, *committed* after that. All offsets are the next one to read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from processors.alerts import Transition
from processors.pipeline import ChunkRows, Outcome, PartitionState
from schemas.records import Batch, joined


@dataclass(frozen=True, order=True)
class Place:
    """A topic and partition."""

    topic: str
    partition: int


@dataclass(frozen=True)
class Cut:
    """What one partition has to give at a flush: a consistent cut of everything up to `next_offset`."""

    place: Place
    outcomes: tuple[Outcome, ...]
    chunks: tuple[ChunkRows, ...]
    transitions: tuple[Transition, ...]
    next_offset: int
    watermark_ms: int


@dataclass
class Entry:
    """One partition: what has arrived, its state, and what waits to be flushed.

    `lock` orders batches, cuts and the passing of time.
    """

    state: PartitionState
    inbox: list[Batch] = field(default_factory=list)
    next_offset: int | None = None
    durable: int | None = None
    committed: int | None = None
    received_s: float = 0.0
    progress_s: float = 0.0
    idle_progress: bool = False
    outcomes: list[Outcome] = field(default_factory=list)
    transitions: list[Transition] = field(default_factory=list)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def arrived(self) -> int:
        """Records that have arrived and are not yet processed."""
        return sum(map(len, self.inbox))

    def take(self, most: int) -> Batch | None:
        """The next records to process, at most so many, as one batch."""
        if not self.inbox:
            return None
        taken, count = 0, 0
        while taken < len(self.inbox) and count < most:
            count += len(self.inbox[taken])
            taken += 1
        batch, self.inbox = joined(self.inbox[:taken]), self.inbox[taken:]
        if count <= most:
            return batch
        self.inbox.insert(0, batch.part(most, count))
        return batch.part(0, most)

    @property
    def waiting(self) -> int:
        """Events that are processed and not yet durable."""
        return sum(len(outcome.events) for outcome in self.outcomes)

    @property
    def dirty(self) -> bool:
        return bool(self.outcomes or self.transitions or self.idle_progress)


class Ledger:
    """The partitions this worker holds."""

    def __init__(self) -> None:
        self._entries: dict[Place, Entry] = {}

    def __iter__(self) -> Iterator[tuple[Place, Entry]]:
        return iter(list(self._entries.items()))

    def get(self, place: Place) -> Entry | None:
        return self._entries.get(place)

    def hold(self, place: Place, state: PartitionState) -> Entry:
        """Begin to keep a partition."""
        entry = self._entries[place] = Entry(state)
        return entry

    def drop(self, place: Place) -> None:
        self._entries.pop(place, None)

    def keep_only(self, assigned: Iterable[Place]) -> None:
        """Forget the partitions that are not ours any more."""
        kept = set(assigned)
        for place in list(self._entries):
            if place not in kept:
                del self._entries[place]

    def resume(self, committed: Mapping[Place, int | None]) -> None:
        """Forget state that does not end where reading resumes: it would count what is read again twice.

        What has arrived and is not processed will be read again.
        """
        for place, offset in committed.items():
            entry = self._entries.get(place)
            if entry is not None:
                entry.inbox.clear()
            if entry is not None and (entry.dirty or entry.next_offset != offset):
                del self._entries[place]

    def durable(self, cuts: Iterable[Cut]) -> dict[Place, int]:
        """Note that the cuts are stored and confirmed. Returns the offsets to commit."""
        offsets = {}
        for cut in cuts:
            entry = self._entries.get(cut.place)
            if entry is not None and cut.next_offset > (entry.durable or 0):
                entry.durable = cut.next_offset
                offsets[cut.place] = cut.next_offset
        return offsets

    @property
    def arrived(self) -> int:
        """Records arrived and not yet processed, over all partitions."""
        return sum(entry.arrived for entry in self._entries.values())

    @property
    def waiting(self) -> int:
        """Events processed and not yet durable, over all partitions."""
        return sum(entry.waiting for entry in self._entries.values())

    @property
    def dirty(self) -> bool:
        return any(entry.dirty for entry in self._entries.values())
