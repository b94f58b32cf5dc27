"""Taking over partitions: whose they are from now on, where each stands, and what is stored beyond that.

A partition goes on from its newest snapshot. What a former owner had stored after that snapshot is the tail: the same
code and territory would write the same rows again, so they are skipped; others would not, so the tail is taken back.
Without a snapshot the last chunk is taken back and read again, and detectors are learning.

Everything here blocks on Kafka and ClickHouse and may be ended by SIGKILL anywhere: begun again, it gives the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Final

import polars as pl

from processors.aggregate import WINDOW_SCHEMA
from processors.pipeline import CODE_VERSION, PartitionState, Reference, chunk_before, new_state
from processors.rebuild import adopt, regain_time, reopen
from processors.snapshot import SnapshotError, Thawed, freeze, thaw
from schemas.contracts import domain_of
from sinks import audited, stored
from sinks.clickhouse import Sink
from sinks.rows import Origin, offset_of
from sinks.store import Pass, Snapshot, store_snapshots, store_windows
from sinks.stored import StoredSnapshot, Tail
from streams import broker
from streams.broker import BrokerError
from streams.clock import instant, utc_now
from streams.failures import WorkerStopped
from streams.ledger import Place
from streams.log import logger
from streams.repair import expected, whole_chunk
from streams.settings import Settings

#: Claims are made again when somebody else claims at the same instant; more than a few times is no coincidence.
_CLAIMS: Final = 8
#: Partitions taken over at the same time: most of it is waiting for ClickHouse.
_AT_ONCE: Final = 4
#: Where a snapshot is lost, windows of so many full flushes are written again: the last flush may not have come so far.
_FLUSHES: Final = 10
_NOTHING: Final = pl.DataFrame()
#: The term of a partition's first owner.
_FIRST_TERM: Final = 1
GONE: Final = "records are gone before they were read: retention was shorter than the outage"


class RecoveryError(WorkerStopped):
    """A partition cannot be taken up as it is; the message says what to do."""


@dataclass(frozen=True)
class Taken:
    """A partition that is ours, ready for the record at `next_offset`. `tail` is None where nothing is beyond it."""

    place: Place
    origin: Origin
    state: PartitionState
    next_offset: int
    tail: Tail | None
    condemned: frozenset[int]
    passes: list[Pass]


class Recovery:
    """Takes over partitions for one worker. `owner` names it among all workers of all times."""

    def __init__(self, settings: Settings, reference: Reference, owner: str) -> None:
        self._settings = settings
        self._reference = reference
        self._owner = owner
        self._log = logger("recovery")
        self.epochs: Mapping[str, str] = {}
        """Ids of the topics, as they were at the last recovery."""
        self.partitions: Mapping[str, int] = {}
        """How many partitions each topic had then, whoever has them."""

    def topics_have_changed(self) -> bool:
        """Whether a topic is no longer the one of the last recovery. Raises BrokerError."""
        now = broker.topic_ids(self._settings)
        return any(now.get(topic, epoch) != epoch for topic, epoch in self.epochs.items())

    def take(
        self, places: Collection[Place], held: Mapping[Place, Origin], generation: int, sink: Sink
    ) -> dict[Place, Taken]:
        """Take over these partitions, but for those `held` that nobody else has claimed since.

        `generation` is Kafka's, of the assignment. Raises BrokerError and SinkAwayError where waiting may help,
        RecoveryError and SinkError where it does not.
        """
        self.epochs = broker.topic_ids(self._settings)
        bounds = broker.end_offsets(self._settings)
        self.partitions = Counter(place.topic for place in bounds)
        if gone := sorted({place.topic for place in places} - set(self.epochs)):
            raise BrokerError(f"Kafka has no topic {', '.join(gone)} any more: run `vigie init`")
        origins = {p: Origin(p.topic, p.partition, self.epochs[p.topic]) for p in places}
        known = stored.terms(origins.values(), sink) if origins else {}
        wanted = {
            place: replace(origin, term=known[place.topic, place.partition] + 1)
            for place, origin in origins.items()
            if held.get(place) != replace(origin, term=known[place.topic, place.partition])
        }
        claimed = self._claimed(wanted, generation, sink)
        with ThreadPoolExecutor(_AT_ONCE, "recovery") as pool:
            taken = pool.map(lambda one: self._take(one[0], one[1], bounds.get(one[0], (0, 0)), sink), claimed.items())
            return {one.place: one for one in taken}

    def _claimed(self, wanted: Mapping[Place, Origin], generation: int, sink: Sink) -> dict[Place, Origin]:
        """Write the claims, under terms that nobody else has."""
        claimed: dict[Place, Origin] = {}
        open_claims = dict(wanted)
        for _ in range(_CLAIMS):
            if not open_claims:
                return claimed
            stored.claim(list(open_claims.values()), self._owner, generation, utc_now(), sink)
            again = {}
            rivals = stored.rivals(list(open_claims.values()), self._owner, sink)
            for place, origin in open_claims.items():
                rival = rivals.get(origin)
                if rival is None:
                    claimed[place] = origin
                elif rival.generation > generation:
                    raise BrokerError(f"{place.topic}/{place.partition} has been given to another worker meanwhile")
                else:
                    again[place] = replace(origin, term=rival.term + 1)
            open_claims = again
        raise RecoveryError(f"{', '.join(f'{p.topic}/{p.partition}' for p in open_claims)}: claimed again and again")

    def _take(self, place: Place, origin: Origin, bounds: tuple[int, int], sink: Sink) -> Taken:
        if origin.term == _FIRST_TERM:
            return self._first(place, origin, sink)
        newest = stored.newest_snapshot(origin, sink)
        thawed = None if newest is None else self._thawed(origin, newest)
        if newest is None or thawed is None:
            return self._begin(place, origin, bounds, sink)
        next_offset = thawed.last_offset + 1
        found = stored.tail(origin, thawed.state.domain, next_offset, sink)
        self._check(place, max(next_offset, found.last + 1), bounds[1])
        if next_offset < bounds[0]:
            self._log.error(
                GONE,
                topic=place.topic,
                partition=place.partition,
                lost=bounds[0] - next_offset,
            )
            reached = stored.last_chunk(origin, thawed.state.domain, next_offset, sink)
            return self._anew(place, origin, thawed.state, bounds[0], reached or 0, sink)
        chunk = thawed.chunk_first if thawed.chunk_first is not None else next_offset
        # Chunks that begin beyond the snapshot are the same ones that will begin there again.
        same = thawed.same_versions and all(c == chunk or c >= next_offset for c in found.chunks)
        # The registry may have learnt since what it did not know.
        same = same and not (found.has_unknown_schemas and self._settings.schema_registry_url)
        if same and not newest.is_taking_back:
            self._save(origin, thawed.state, next_offset, sink)
        else:
            self._take_back(origin, thawed.state, next_offset, found, sink)
        domain = thawed.state.domain
        reopen(
            thawed.state,
            self._reference,
            stored.chunk_events(origin, domain, chunk, next_offset, sink) if chunk < next_offset else _NOTHING,
            stored.event_ids(origin, domain, thawed.seen_from, chunk, sink),
            last_offset=thawed.last_offset,
            chunk_first=thawed.chunk_first,
            seen_from=thawed.seen_from,
        )
        self._log.debug(
            "resumed",
            topic=place.topic,
            partition=place.partition,
            next_offset=next_offset,
            term=origin.term,
            tail=len(found.events) + len(found.rejects),
            same_versions=thawed.same_versions,
        )
        kept = found if same and not newest.is_taking_back else None
        passes = self._passes(origin, thawed.state, next_offset, sink)
        return Taken(place, origin, thawed.state, next_offset, kept, found.condemned, passes)

    def _first(self, place: Place, origin: Origin, sink: Sink) -> Taken:
        """Take up a partition that nobody has held. Nothing of it is stored, because whoever stores has claimed it; the
        alerts of a topic that had its name before are."""
        state = new_state(place.topic, place.partition, domain_of(place.topic), self._reference)
        adopt(state, stored.newest_transitions(origin, None, sink))
        self._save(origin, state, 0, sink)
        self._log.debug("begun", topic=place.topic, partition=place.partition, next_offset=0, term=origin.term)
        return Taken(place, origin, state, 0, None, frozenset(), [])

    def _thawed(self, origin: Origin, newest: StoredSnapshot) -> Thawed | None:
        domain = domain_of(origin.topic)
        try:
            thawed = thaw(newest.state, origin.topic, origin.partition, domain, self._reference)
        except SnapshotError as error:
            self._log.error("snapshot is of no use", topic=origin.topic, partition=origin.partition, error=str(error))
            return None
        if thawed.last_offset + 1 != newest.next_offset:
            self._log.error("snapshot is of another offset", topic=origin.topic, partition=origin.partition)
            return None
        return thawed

    def _check(self, place: Place, reached: int, end: int) -> None:
        if reached > end:
            raise RecoveryError(
                f"{place.topic}/{place.partition} ends at offset {end}, and {reached} was reached before: Kafka "
                "has lost records (an unclean leader election?) and will use their offsets again. Create the topic "
                "anew: its records are then told apart from the old ones"
            )

    def _begin(self, place: Place, origin: Origin, bounds: tuple[int, int], sink: Sink) -> Taken:
        """Take up a partition of which there is no snapshot: its last chunk is read again as far as Kafka has it."""
        domain = domain_of(place.topic)
        chunk = self._last_confirmed_chunk(place, origin, sink)
        next_offset = 0 if chunk is None else max(chunk, bounds[0])
        self._check(place, stored.tail(origin, domain, next_offset, sink).last + 1, bounds[1])
        state = new_state(place.topic, place.partition, domain, self._reference)
        adopt(state, stored.newest_transitions(origin, None if chunk is None else next_offset, sink))
        return self._anew(place, origin, state, next_offset, None, sink)

    def _anew(
        self, place: Place, origin: Origin, state: PartitionState, next_offset: int, chunk: int | None, sink: Sink
    ) -> Taken:
        """Begin a chunk at an offset. What is stored before stays; the windows of `chunk` and later ones may not have
        been written to their end, and are. None: the snapshot is lost, so that nobody knows since when."""
        seen_from = chunk_before(next_offset, self._reference)
        events = stored.events(origin, state.domain, seen_from, next_offset, sink)
        if stored.last_chunk(origin, state.domain, next_offset, sink) is not None:
            flushed = next_offset - _FLUSHES * self._settings.flush_rows - 2 * self._settings.batch_records
            doubtful = stored.last_chunk(origin, state.domain, max(flushed, 0), sink) if chunk is None else chunk
            self._count_again(origin, state, doubtful or 0, next_offset, sink)
        reopen(
            state,
            self._reference,
            _NOTHING,
            events,
            last_offset=next_offset - 1,
            chunk_first=None,
            seen_from=seen_from,
        )
        if chunk is None:
            regain_time(state, self._reference, events)
        found = stored.tail(origin, state.domain, next_offset, sink)
        self._take_back(origin, state, next_offset, found, sink)
        self._log.debug(
            "begun", topic=place.topic, partition=place.partition, next_offset=next_offset, term=origin.term
        )
        passes = self._passes(origin, state, next_offset, sink)
        return Taken(place, origin, state, next_offset, None, found.condemned, passes)

    def _count_again(
        self, origin: Origin, state: PartitionState, first_chunk: int, next_offset: int, sink: Sink
    ) -> None:
        """Write the windows of the events that are stored before an offset, from a chunk on."""
        keys, layers = stored.window_keys(origin, first_chunk, sink), audited.layers(sink)
        parts = []
        for chunk in sorted(stored.tail(origin, state.domain, first_chunk, sink).chunks):
            if chunk < next_offset:
                events = stored.chunk_events(origin, state.domain, chunk, next_offset, sink)
                rows = expected(origin, events, layers)
                mine = keys.filter(pl.col("chunk") == chunk) if len(keys) else rows.clear()
                parts.append(whole_chunk(origin, chunk, next_offset, rows, mine))
        store_windows(parts, sink)

    def _last_confirmed_chunk(self, place: Place, origin: Origin, sink: Sink) -> int | None:
        """The chunk to read again. Of what is stored beyond the committed offset, dead letters and alerts may not have
        been sent; where nothing is committed, that is taken to be less than a chunk."""
        domain = domain_of(place.topic)
        last = stored.last_chunk(origin, domain, None, sink)
        if last is None:
            return None
        committed = broker.committed_offset(self._settings, place)
        before = last if committed is None else committed + 1
        found = stored.last_chunk(origin, domain, before, sink)
        return 0 if found is None else min(found, last)

    def _passes(self, origin: Origin, state: PartitionState, next_offset: int, sink: Sink) -> list[Pass]:
        """Where time passed beyond the state: it made alerts that may be known already, and must be made again."""
        return [one for one in stored.passes(origin, next_offset - 1, sink) if one.passed_ms > state.passed_ms]

    def _save(
        self, origin: Origin, state: PartitionState, next_offset: int, sink: Sink, code_version: str = CODE_VERSION
    ) -> None:
        """The first snapshot of a term: from here on whatever a former owner still writes is older."""
        snapshot = Snapshot(
            origin=origin,
            next_offset=next_offset,
            watermark=instant(state.clock_ms),
            code_version=code_version,
            owner=self._owner,
            taken_at=utc_now(),
            state=freeze(state, next_offset - 1),
        )
        store_snapshots([snapshot], sink)

    def _take_back(self, origin: Origin, state: PartitionState, next_offset: int, found: Tail, sink: Sink) -> None:
        """Undo what is stored from `next_offset` on, under a snapshot that says so until it is done."""
        if not len(found.events) and not len(found.rejects):
            self._save(origin, state, next_offset, sink)
            return
        self._save(origin, state, next_offset, sink, stored.TAKING_BACK)
        chunk = stored.last_chunk(origin, state.domain, next_offset, sink)
        keys = stored.window_keys(origin, chunk if chunk is not None else next_offset, sink)
        if len(keys):
            beyond = pl.Series([offset_of(version) > next_offset for version in keys["version"].to_list()])
            spoiled = keys.filter((pl.col("chunk") >= next_offset) | beyond)
            parts, layers = [], audited.layers(sink)
            for first in sorted(spoiled["chunk"].unique().to_list()):
                rows = pl.DataFrame(schema=WINDOW_SCHEMA)
                if first < next_offset:
                    events = stored.chunk_events(origin, state.domain, first, next_offset, sink)
                    rows = expected(origin, events, layers)
                mine = keys.filter(pl.col("chunk") == first)
                parts.append(whole_chunk(origin, first, next_offset, rows, mine))
            store_windows(parts, sink)
        stored.delete_from(origin, state.domain, next_offset, sink)
        self._save(origin, state, next_offset, sink)
