"""Who has come how far: one entry per assigned partition, the only keeper of offsets.

Faust's own acknowledgements would commit past a batch that is still in flight, so topics are declared `acks=False` and
offsets move here alone. All offsets are the next one to read: `next_offset` when a batch is processed, `stored` when
everything that follows from it is stored and confirmed, `durable` when a snapshot includes it, so that a restart goes
on from there, `committed` when Kafka knows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from processors.alerts import Transition
from processors.pipeline import ChunkRows, Outcome, PartitionState
from schemas.records import Batch, joined
from sinks.rows import Origin
from sinks.store import Pass
from sinks.stored import Tail


@dataclass(frozen=True, order=True)
class Place:
    """A topic and partition."""

    topic: str
    partition: int


@dataclass(frozen=True)
class Cut:
    """What one partition has to give at a flush: a consistent cut of everything up to `next_offset`.

    `transitions`: (last offset read when it was made, transition). `state` is the frozen state where a snapshot is due.
    """

    place: Place
    origin: Origin
    outcomes: tuple[Outcome, ...]
    chunks: tuple[ChunkRows, ...]
    transitions: tuple[tuple[int, Transition], ...]
    next_offset: int
    clock_ms: int
    tail: Tail | None = None
    state: bytes | None = None
    passes: tuple[Pass, ...] = ()

    @property
    def records(self) -> int:
        """Records whose outcomes are in it."""
        return sum(len(outcome.batch) for outcome in self.outcomes)


@dataclass
class Entry:
    """One partition: what has arrived, its state, and what waits to be flushed.

    `lock` orders batches, cuts and the passing of time. `mark` parts fetches begun before this entry from later ones.
    `tail` is what a former owner had stored beyond the state, until it has been processed again; `condemned` the
    offsets that ClickHouse refused; `due` where time is to pass again as it did before. `fetched` is the offset that
    the next batch should begin with. `in_flight`: a cut of it has not been settled yet. `kept_ms` is how far time had
    passed without records when that was last kept. `coming_ms` is the first instant whose row waits and
    will raise an alert, if there is one, and `coming_s` when time is expected to pass it (monotonic).
    """

    state: PartitionState
    origin: Origin
    next_offset: int
    mark: int = 0
    tail: Tail | None = None
    condemned: frozenset[int] = frozenset()
    due: list[Pass] = field(default_factory=list)
    inbox: list[Batch] = field(default_factory=list)
    stored: int = 0
    durable: int = 0
    committed: int | None = None
    fetched: int = 0
    kept_ms: int = 0
    received_s: float = 0.0
    snapshot_s: float = 0.0
    commit_s: float = 0.0
    coming_ms: int | None = None
    coming_s: float = 0.0
    idle_progress: bool = False
    in_flight: bool = False
    outcomes: list[Outcome] = field(default_factory=list)
    transitions: list[tuple[int, Transition]] = field(default_factory=list)
    passes: list[Pass] = field(default_factory=list)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    def __post_init__(self) -> None:
        self.stored = self.durable = self.fetched = self.next_offset

    @property
    def arrived(self) -> int:
        """Records that have arrived and are not yet processed."""
        return sum(map(len, self.inbox))

    def take(self, most: int) -> Batch | None:
        """The next records to process, about so many at most and none beyond where time is due to pass, as one batch.

        Blocks stay whole, because only a whole one is decoded as it is.
        """
        if not self.inbox:
            return None
        if self.due and self.inbox[0].first_offset <= self.due[0].offset:
            first = self.inbox[0]
            until = int((first.offsets <= self.due[0].offset).sum())
            if until < len(first):
                self.inbox[:1] = [first.part(0, until), first.part(until, len(first))]
            return self.inbox.pop(0)
        taken, count = 0, 0
        while taken < len(self.inbox) and count < most:
            count += len(self.inbox[taken])
            taken += 1
        batch, self.inbox = joined(self.inbox[:taken]), self.inbox[taken:]
        until = batch.whole_up_to(most)
        if until == count:
            return batch
        self.inbox.insert(0, batch.part(until, count))
        return batch.part(0, until)

    @property
    def waiting(self) -> int:
        """Records that are processed and not yet stored. Refused ones count: each is kept for its dead letter."""
        return sum(len(outcome.batch) for outcome in self.outcomes)

    @property
    def dirty(self) -> bool:
        """Whether something waits to be stored."""
        return bool(self.outcomes or self.transitions or self.next_offset > self.stored)

    @property
    def unsaved(self) -> bool:
        """Whether the newest snapshot lacks something."""
        return self.dirty or self.in_flight or self.idle_progress or self.stored > self.durable


def in_company(entries: Iterable[tuple[Place, Entry]], most: int) -> Iterator[Sequence[tuple[Place, Entry]]]:
    """Partitions of a topic in groups to be processed together: of as few as have `most` records, or all there are."""
    group: list[tuple[Place, Entry]] = []
    count = 0
    for place, entry in entries:
        if group and count + min(entry.arrived, most) > most:
            yield group
            group, count = [], 0
        group.append((place, entry))
        count += min(entry.arrived, most)
    if group:
        yield group


class Ledger:
    """The partitions this worker holds."""

    def __init__(self) -> None:
        self._entries: dict[Place, Entry] = {}

    def __iter__(self) -> Iterator[tuple[Place, Entry]]:
        return iter(list(self._entries.items()))

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, place: Place) -> Entry | None:
        return self._entries.get(place)

    def hold(self, place: Place, entry: Entry) -> None:
        """Begin to keep a partition, in place of what was known of it."""
        self._entries[place] = entry

    def drop(self, place: Place) -> None:
        self._entries.pop(place, None)

    def release(self, place: Place, entry: Entry) -> None:
        """Drop this very entry; one that has taken its place stays."""
        if self._entries.get(place) is entry:
            self.drop(place)

    def keep_only(self, assigned: Iterable[Place]) -> None:
        """Forget the partitions that are not ours any more."""
        kept = set(assigned)
        for place in list(self._entries):
            if place not in kept:
                del self._entries[place]

    def stored(self, cuts: Iterable[Cut]) -> None:
        """Note that the cuts are stored and confirmed."""
        for cut in cuts:
            if entry := self._same(cut):
                entry.stored = max(entry.stored, cut.next_offset)
                if entry.tail is not None and cut.next_offset > entry.tail.last:
                    entry.tail = None

    def durable(self, cuts: Iterable[Cut]) -> dict[Place, int]:
        """Note that snapshots include the cuts. Returns the offsets to commit."""
        offsets = {}
        for cut in cuts:
            if entry := self._same(cut):
                entry.durable = max(entry.durable, cut.next_offset)
                if entry.durable != entry.committed:
                    offsets[cut.place] = entry.durable
        return offsets

    def _same(self, cut: Cut) -> Entry | None:
        """The entry that a cut was made of; None when the partition has changed hands since."""
        entry = self._entries.get(cut.place)
        return entry if entry is not None and entry.origin == cut.origin else None

    def uncommitted(self, before_s: float) -> dict[Place, int]:
        """Offsets that Kafka has not been told, and was not asked to take since `before_s` (monotonic)."""
        return {
            place: entry.durable
            for place, entry in self._entries.items()
            if entry.durable != entry.committed and entry.commit_s <= before_s
        }

    @property
    def progress(self) -> int:
        """A number that grows whenever anything moves on. For any thread."""
        return sum(entry.next_offset + entry.stored + entry.durable for _, entry in self)

    @property
    def arrived(self) -> int:
        """Records arrived and not yet processed, over all partitions."""
        return sum(entry.arrived for entry in self._entries.values())

    @property
    def waiting(self) -> int:
        """Records processed and not yet stored, over all partitions."""
        return sum(entry.waiting for entry in self._entries.values())

    @property
    def dirty(self) -> bool:
        return any(entry.dirty for entry in self._entries.values())
