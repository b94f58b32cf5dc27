"""The way of the data, from a batch of records to everything that follows from it. It flows one way:

decode → validate → locate → duplicates → lateness → aggregate → order → detect → alerts

What is stored and counted follows from a record at once; what is detected waits until time has passed it (`order`).
Each stage is a function of (frame, reference data, state). One partition's state is owned by whoever calls `run` for
it, one batch at a time and in offset order; nothing here reads a clock.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from hashlib import blake2b
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

from processors.aggregate import Codes, Windows
from processors.alerts import AlertBook, Transition
from processors.detect.asset import AssetDetectors
from processors.duplicates import Seen, drop_duplicates
from processors.lateness import mark_late
from processors.locate import Locator
from processors.order import Held
from processors.refusals import Breach, RefusalLimits, Refusals
from processors.validate import ClockLimits, validate
from schemas.codec import MOST_BYTES, Lookup, decode
from schemas.contracts import Domain, contract_of
from schemas.records import Batch
from schemas.records import joined as one_batch
from schemas.rejects import Reason, joined, no_rejects, rejects

#: Changes when the same records would give other rows; stands on every chunk.
CODE_VERSION: Final = "2"

#: The stage of records that no stage refuses, but ClickHouse does.
SINK_STAGE: Final = "sink"


@dataclass(frozen=True)
class Limits:
    """What the stages are told of the installation. Spans in milliseconds, sizes in bytes.

    `disorder_ms` is how much older than its neighbours an event may be and not be late. Alerts wait for it.
    """

    clock: ClockLimits = field(default_factory=ClockLimits)
    disorder_ms: int = 0
    chunk_records: int = 65_536
    max_record_bytes: int = MOST_BYTES
    refusals: RefusalLimits = field(default_factory=RefusalLimits)


@dataclass(frozen=True)
class Reference:
    """What every partition shares: the territories, indexed, and the limits."""

    locator: Locator
    limits: Limits = field(default_factory=Limits)
    older_schemas: tuple[str, ...] = ()
    """Fingerprints of the schemas that can be read beside today's."""

    @property
    def territory_versions(self) -> str:
        """The versions of all territories in one text: `jurisdiction=version`, sorted, parted by commas."""
        territories = sorted(self.locator.territories.items())
        return ",".join(f"{jurisdiction}={territory.version}" for jurisdiction, territory in territories)

    @cached_property
    def settings_version(self) -> str:
        """Changes when the same records would become other rows because of a setting. How many refusals are allowed
        only decides whether the worker goes on."""
        told = replace(self.limits, refusals=RefusalLimits())
        return blake2b(repr((told, sorted(self.older_schemas))).encode(), digest_size=8).hexdigest()


@dataclass
class Chunk:
    """A run of consecutive offsets, named by its first: the unit of exact aggregation.

    It has one version of the code, the territories and the settings: with others a process begins a chunk of its own.
    """

    first_offset: int
    windows: Windows
    last_offset: int


@dataclass
class PartitionState:
    """All that a partition remembers between batches.

    `watermark_ms`, in milliseconds since 1970, follows from the records alone and decides what is late; `passed_ms` is
    what `advance` has lifted. `seen_from`: duplicates of what is stored from this offset on are known; it lies at least
    a chunk's length before the open chunk (before the next one, where none is open). `closed` holds chunks whose last
    rows have not been taken yet. `unopened` names the chunk that was open when the state was frozen: until it is
    reopened no record can be processed. `coming`: instants (milliseconds since 1970) whose rows wait and will raise an
    alert, as far as is known; nothing follows from it but how soon somebody looks, and snapshots do not have it.
    """

    topic: str
    partition: int
    domain: Domain
    detectors: AssetDetectors
    alerts: AlertBook
    held: Held
    refusals: Refusals
    territory_versions: str
    settings_version: str
    watermark_ms: int = 0
    passed_ms: int = 0
    seen: Seen = field(default_factory=Seen)
    chunk: Chunk | None = None
    seen_from: int = 0
    unopened: int | None = None
    closed: list[Chunk] = field(default_factory=list)
    coming: frozenset[int] = frozenset()

    @property
    def clock_ms(self) -> int:
        """How far event time has come: what detectors and alerts go by."""
        return max(self.watermark_ms, self.passed_ms)


@dataclass(frozen=True)
class Outcome:
    """What one batch became.

    `events`: stored rows with every column the stages added, and `offset`, `received_at`, `chunk`. `refused`:
    REJECT_SCHEMA, `row` an index of `batch`. Each record of the batch is in exactly one of the two. `transitions`
    follow from the rows that time has passed with this batch, which may be rows of batches before. `breach`: more was
    refused than the limits allow; what to do about it is the caller's.
    """

    batch: Batch
    domain: Domain
    events: pl.DataFrame
    refused: pl.DataFrame
    transitions: tuple[Transition, ...]
    breach: Breach | None = None

    def lean(self) -> Outcome:
        """The same without the records, where none was refused: nobody asks for them any more, and what was fetched
        with them is free."""
        return self if len(self.refused) else replace(self, batch=replace(self.batch, pieces=()))


def new_state(topic: str, partition: int, domain: Domain, reference: Reference) -> PartitionState:
    """The state of a partition of which nothing is known: detectors begin in learning."""
    return PartitionState(
        topic=topic,
        partition=partition,
        domain=domain,
        detectors=AssetDetectors(reference.locator.territories),
        alerts=AlertBook(),
        held=Held(domain),
        refusals=Refusals(),
        territory_versions=reference.territory_versions,
        settings_version=reference.settings_version,
    )


@dataclass(frozen=True)
class Turn:
    """What a partition has to process: its next records, and the state they meet.

    `condemned`: offsets that ClickHouse has refused before. They become rejects and touch nothing else.
    """

    batch: Batch
    state: PartitionState
    condemned: Container[int] = frozenset()


def run(
    batch: Batch,
    state: PartitionState,
    reference: Reference,
    writers: Lookup,
    condemned: Container[int] = frozenset(),
) -> list[Outcome]:
    """Take one batch through every stage, once per chunk it touches. Changes `state`. Raises ValueError as below."""
    return run_together([Turn(batch, state, condemned)], reference, writers)[0]


def run_together(turns: Sequence[Turn], reference: Reference, writers: Lookup) -> list[list[Outcome]]:
    """Take batches of several partitions of one topic through every stage. Changes their states; returns the outcomes
    of each turn, one per chunk it touches.

    They become what each would become alone. What judges a record by itself looks at all of them at once: it costs as
    much for a few records as for some hundred. Raises ValueError, before anything is changed, for a state whose open
    chunk has not been given back by `rebuild.reopen`.
    """
    for state in (turn.state for turn in turns):
        if state.unopened is not None:
            raise ValueError(
                f"chunk {state.unopened} of {state.topic}/{state.partition} must be reopened before more is read"
            )
    # Whole, as they came, and cut at the ends of chunks when they are decoded.
    whole = one_batch([turn.batch for turn in turns])
    parts = [(number, *part) for number, turn in enumerate(turns) for part in _by_chunk(turn, reference.limits)]
    ends = np.cumsum([len(batch) for _, batch, _ in parts])
    chunks = np.repeat([chunk for *_, chunk in parts], [len(batch) for _, batch, _ in parts])
    condemned = [
        first + row
        for (number, batch, _), first in zip(parts, [0, *ends[:-1].tolist()], strict=True)
        if turns[number].condemned
        for row, offset in enumerate(batch.offsets.tolist())
        if offset in turns[number].condemned
    ]
    frame, refused = admit(whole, turns[0].state.domain, reference, writers, chunks, condemned)
    outcomes: list[list[Outcome]] = [[] for _ in turns]
    for (number, batch, chunk), mine, theirs in zip(parts, _split(frame, ends), _split(refused, ends), strict=True):
        outcomes[number].append(_within_chunk(batch, chunk, mine, theirs, turns[number].state, reference))
    return outcomes


def _by_chunk(turn: Turn, limits: Limits) -> Iterator[tuple[Batch, int]]:
    """The batch in parts that each lie in one chunk, and the first offset of that chunk."""
    batch, chunk = turn.batch, turn.state.chunk
    first, start = None if chunk is None else chunk.first_offset, 0
    while start < len(batch):
        offset = int(batch.offsets[start])
        if first is None or offset >= first + limits.chunk_records:
            first = offset
        stop = int(np.searchsorted(batch.offsets, first + limits.chunk_records, side="left"))
        yield batch.part(start, stop), first
        start = stop


def _split(frame: pl.DataFrame, ends: npt.NDArray[np.int64]) -> Iterator[pl.DataFrame]:
    """A frame with `row` in the parts of what was judged together, each counted from its own first row."""
    if len(ends) == 1:
        yield frame
        return
    rows, first = frame["row"].to_numpy(), 0
    in_order = bool((rows[1:] >= rows[:-1]).all())
    for end in ends.tolist():
        if in_order:
            start, stop = np.searchsorted(rows, (first, end)).tolist()
            part = frame.slice(start, stop - start)
        else:
            part = frame.filter(pl.Series((rows >= first) & (rows < end)))
        yield part.with_columns(part["row"] - first) if first and len(part) else part
        first = end


def _within_chunk(
    batch: Batch,
    first_offset: int,
    frame: pl.DataFrame,
    refused: pl.DataFrame,
    state: PartitionState,
    reference: Reference,
) -> Outcome:
    """The stages that remember: `frame` and `refused` are what those before made of the batch."""
    limits, chunk = reference.limits, _open_chunk(state, first_offset, reference)
    frame, repeated = drop_duplicates(frame, state.seen)
    refused = joined(refused, repeated)
    frame, state.watermark_ms = mark_late(
        frame, state.watermark_ms, disorder_ms=limits.disorder_ms, max_future_ms=limits.clock.max_future_ms
    )
    chunk.windows.add(frame, contract_of(state.domain), state.domain)
    transitions = _detect(frame, state)
    breach = state.refusals.step(batch.offsets, refused, limits.refusals)
    chunk.last_offset = batch.last_offset
    return Outcome(batch, state.domain, frame, refused, transitions, breach)


def admit(
    batch: Batch,
    domain: Domain,
    reference: Reference,
    writers: Lookup,
    chunks: npt.NDArray[np.int64] | None = None,
    condemned: Sequence[int] = (),
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The stages that judge each record by itself: decode, validate, locate.

    `chunks` are the first offsets of each record's chunk, `condemned` indices of records that ClickHouse has refused.
    Returns the events, in the order of the batch, with `offset`, `received_at`, `chunk` and what the stages add, and
    the rejects (REJECT_SCHEMA). Each record of the batch is in exactly one of the two.
    """
    contract, limits, locator = contract_of(domain), reference.limits, reference.locator
    decoded = decode(contract, batch, writers, limits.max_record_bytes)
    frame = _with_position(decoded.frame, batch, np.zeros(len(batch), np.int64) if chunks is None else chunks, domain)
    frame, unstorable = _without_condemned(frame, condemned)
    frame, invalid = validate(frame, contract, domain, locator.jurisdictions, limits.clock)
    frame, elsewhere = locator.locate(frame, domain)
    return frame, joined(decoded.rejects, unstorable, invalid, elsewhere)


def _detect(frame: pl.DataFrame | None, state: PartitionState) -> tuple[Transition, ...]:
    """Order, detect, alerts: what follows from the rows that time has passed by now."""
    passed = state.held.step(frame, passed_ms=state.passed_ms, clock_ms=state.clock_ms)
    findings = state.detectors.step(passed, state.clock_ms)
    seen = set() if frame is None else state.detectors.foresee(frame, state.clock_ms)
    state.coming = frozenset(at for at in state.coming if at >= state.clock_ms) | seen
    return tuple(state.alerts.step(findings, state.clock_ms))


def advance(state: PartitionState, now_ms: int, reference: Reference) -> tuple[Transition, ...]:
    """Let time pass in a partition that is read to its end: silence is something to be heard too.

    `now_ms` lifts the clock of detectors and alerts as an event of that instant would; what is late, and so every
    stored row, goes by the records alone. Returns the transitions that follow.
    """
    state.passed_ms = max(state.passed_ms, now_ms - reference.limits.disorder_ms)
    return _detect(None, state)


@dataclass(frozen=True)
class ChunkRows:
    """Window rows (WINDOW_SCHEMA) of one chunk that changed, and the last offset they include: their version."""

    first_offset: int
    last_offset: int
    rows: pl.DataFrame


def take_window_rows(state: PartitionState) -> list[ChunkRows]:
    """Window rows changed since the last call, by chunk. Call between batches of the partition."""
    chunks = [*state.closed, *((state.chunk,) if state.chunk else ())]
    state.closed = []
    taken = [ChunkRows(c.first_offset, c.last_offset, c.windows.take_changed()) for c in chunks]
    return [rows for rows in taken if len(rows.rows)]


def chunk_before(offset: int, reference: Reference) -> int:
    """A chunk's length before an offset: what a chunk that begins there must at least know as duplicates."""
    return max(0, offset - reference.limits.chunk_records)


def _open_chunk(state: PartitionState, first_offset: int, reference: Reference) -> Chunk:
    """The chunk that begins there: the one that is open, or a new one in its place."""
    if state.chunk is not None and state.chunk.first_offset != first_offset:
        state.closed.append(state.chunk)
        state.seen_from = state.chunk.first_offset
        state.chunk = None
        state.seen.next_chunk()
    if state.chunk is None:
        state.chunk = Chunk(first_offset, Windows(Codes(reference.locator.sets)), first_offset)
    return state.chunk


def _with_position(frame: pl.DataFrame, batch: Batch, chunks: npt.NDArray[np.int64], domain: Domain) -> pl.DataFrame:
    rows = frame["row"].to_numpy()
    return frame.hstack(
        [
            pl.Series("offset", batch.offsets[rows], dtype=pl.Int64),
            pl.Series("received_at", batch.received_ms[rows], dtype=pl.Int64).cast(pl.Datetime("ms", "UTC")),
            pl.Series("chunk", chunks[rows], dtype=pl.Int64),
            pl.Series("domain", [domain]).new_from_index(0, len(rows)),
        ]
    )


def _without_condemned(frame: pl.DataFrame, condemned: Sequence[int]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The rows that ClickHouse has not refused, and the rejects of those it has."""
    if not condemned:
        return frame, no_rejects()
    refused = pl.Series(np.isin(frame["row"].to_numpy(), condemned))
    out = rejects(frame["row"].filter(refused), SINK_STAGE, Reason.SINK, "refused by ClickHouse")
    return frame.filter(~refused), out
