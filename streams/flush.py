"""The order of effects, decided here and nowhere else:

rows durable → dead letters and alerts confirmed → snapshots → offsets committed

A failure anywhere leaves everything after it undone and nothing acknowledged; what was written before is written again,
the same. Snapshots and commits are made where a cut brings a frozen state, every few flushes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence, Set
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Final

import polars as pl

from processors.alerts import to_record
from processors.pipeline import CODE_VERSION
from schemas.contracts import ALERT_TOPIC, DEAD_LETTER_TOPIC, contract
from schemas.framing import encode
from schemas.records import Batch, Header
from schemas.rejects import Reason, rejects
from sinks.clickhouse import Sink
from sinks.dead_letters import dead_letters
from sinks.rows import ZoneMaps
from sinks.store import (
    Block,
    ChunkPart,
    Part,
    RefusedEvent,
    Snapshot,
    store_derived,
    store_records,
    store_rejects,
    store_snapshots,
)
from sinks.stored import terms
from streams.clock import instant
from streams.ledger import Cut, Ledger, Place
from streams.log import logger

#: The stage that a record is refused at when ClickHouse will not take its row.
STAGE: Final = "sink"


@dataclass(frozen=True)
class Message:
    """A record to produce. `timestamp_ms` None leaves the time to the broker."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Sequence[Header] = ()
    timestamp_ms: int | None = None


@dataclass(frozen=True)
class Effects:
    """The effects a flush has, as the worker provides them.

    `sink` gives the sink for one flush. `produce` returns once every message is confirmed by the broker, and raises
    when one is not. `commit` returns False when Kafka did not take the offsets: they are advice to tools that show lag,
    the snapshots are the truth. `topic_ids` gives the ids that topics have now, of those that Kafka tells in time.
    """

    sink: Callable[[], Sink]
    zones: ZoneMaps
    territory_versions: Mapping[str, str]
    blocking: Executor
    owner: str
    produce: Callable[[Sequence[Message]], Awaitable[None]]
    commit: Callable[[Mapping[Place, int]], Awaitable[bool]]
    topic_ids: Callable[[Collection[str]], Awaitable[Mapping[str, str]]]


async def settle(cuts: Sequence[Cut], effects: Effects, ledger: Ledger, now_ms: int) -> set[Place]:
    """Make the cuts durable, in the order above.

    Returns places that must be taken up again from their last snapshots, because nothing that follows from their cuts
    was done: ClickHouse refused rows of them, which are rejects now, somebody has claimed them since, or their topic
    was created anew.
    """
    loop, sink = asyncio.get_running_loop(), effects.sink()
    claimed, replaced = await asyncio.gather(
        loop.run_in_executor(effects.blocking, _claimed, cuts, sink), _replaced(cuts, effects)
    )
    lost = claimed | replaced
    cuts = [cut for cut in cuts if cut.place not in lost]
    events = await loop.run_in_executor(effects.blocking, _store_records, cuts, effects, sink)
    refused = {Place(event.topic, event.partition) for event in events}
    _tell(claimed, replaced, refused)
    again = refused | lost
    cuts = [cut for cut in cuts if cut.place not in again]
    await loop.run_in_executor(effects.blocking, _store_derived, cuts, effects, sink)
    await effects.produce(await loop.run_in_executor(effects.blocking, messages, cuts))
    ledger.stored(cuts)
    saved = [cut for cut in cuts if cut.state is not None]
    if saved:
        await loop.run_in_executor(effects.blocking, _store_snapshots, saved, effects.owner, now_ms, sink)
        await commit(ledger.durable(saved), effects, ledger)
    return again


async def commit(offsets: Mapping[Place, int], effects: Effects, ledger: Ledger) -> None:
    """Tell Kafka what is durable."""
    if offsets and await effects.commit(offsets):
        for place, offset in offsets.items():
            if entry := ledger.get(place):
                entry.committed = offset


def _tell(claimed: Set[Place], replaced: Set[Place], refused: Set[Place]) -> None:
    """Log why partitions are taken up again."""
    log = logger("flush")
    for place in claimed:
        log.warning("another worker has claimed it since", topic=place.topic, partition=place.partition)
    for place in replaced:
        log.warning("the topic was created anew", topic=place.topic, partition=place.partition)
    for place in refused:
        log.error("ClickHouse refused rows: stored as rejects", topic=place.topic, partition=place.partition)


async def _replaced(cuts: Sequence[Cut], effects: Effects) -> set[Place]:
    """Places whose topic is another than it was when they were taken over.

    A client asks for records by the name of the topic: where a new log has grown beyond the offset that was reached in
    the old one, it goes on in the new one as if nothing had happened. What was fetched before this question and is of
    a topic that has the same id now cannot be of another. A broker that is away tells nothing, and gives nothing new.
    """
    ids = await effects.topic_ids({cut.place.topic for cut in cuts if cut.origin.epoch})
    return {cut.place for cut in cuts if ids.get(cut.place.topic, cut.origin.epoch) != cut.origin.epoch}


def _claimed(cuts: Sequence[Cut], sink: Sink) -> set[Place]:
    """Places that somebody else has claimed. A worker that was stopped for a while finds out here before it tells."""
    known = terms([cut.origin for cut in cuts], sink)
    return {cut.place for cut in cuts if known[cut.place.topic, cut.place.partition] > cut.origin.term}


def _store_records(cuts: Sequence[Cut], effects: Effects, sink: Sink) -> list[RefusedEvent]:
    refused = store_records(_block(cuts), sink, effects.zones, effects.territory_versions)
    if refused:
        store_rejects(_refused_parts(refused, cuts), sink)
    return refused


def _store_derived(cuts: Sequence[Cut], effects: Effects, sink: Sink) -> None:
    store_derived(_block(cuts), sink, effects.zones)


def _store_snapshots(cuts: Sequence[Cut], owner: str, now_ms: int, sink: Sink) -> None:
    store_snapshots([snapshot(cut, owner, now_ms) for cut in cuts], sink)


def snapshot(cut: Cut, owner: str, now_ms: int) -> Snapshot:
    """The snapshot of a cut that brings its state."""
    assert cut.state is not None
    return Snapshot(
        origin=cut.origin,
        next_offset=cut.next_offset,
        watermark=instant(cut.clock_ms),
        code_version=CODE_VERSION,
        owner=owner,
        taken_at=instant(now_ms),
        state=cut.state,
    )


def _block(cuts: Sequence[Cut]) -> Block:
    block = Block()
    for cut in cuts:
        for outcome in cut.outcomes:
            first, last = outcome.batch.first_offset, outcome.batch.last_offset
            beyond = cut.tail is None or first > cut.tail.last
            if len(outcome.events):
                known = None if beyond or cut.tail is None else cut.tail.events
                block.events[outcome.domain].append(Part(cut.origin, first, last, outcome.events, known))
            if len(outcome.refused):
                known = None if beyond or cut.tail is None else cut.tail.rejects
                block.refused.append(Part(cut.origin, first, last, _placed(outcome.refused, outcome.batch), known))
        block.windows += [ChunkPart(cut.origin, c.first_offset, c.last_offset + 1, c.rows) for c in cut.chunks]
        block.passes += [(cut.origin, one) for one in cut.passes]
        block.alerts += [(cut.origin, offset, to_record(transition)) for offset, transition in cut.transitions]
    return block


def _placed(refused: pl.DataFrame, batch: Batch) -> pl.DataFrame:
    rows = refused["row"].to_numpy()
    return refused.with_columns(
        pl.Series("offset", batch.offsets[rows]),
        pl.Series("received_at", batch.received_ms[rows]).cast(pl.Datetime("ms", "UTC")),
    )


def _refused_parts(refused: Sequence[RefusedEvent], cuts: Sequence[Cut]) -> list[Part]:
    """What ClickHouse refused, as rejects: found again in the batches they came in."""
    parts = []
    for event in refused:
        for cut in cuts:
            for outcome in cut.outcomes if cut.place == Place(event.topic, event.partition) else ():
                rows = (outcome.batch.offsets == event.offset).nonzero()[0]
                if len(rows):
                    frame = rejects(pl.Series(rows), STAGE, Reason.SINK, event.message)
                    place = event.offset, event.offset
                    parts.append(Part(cut.origin, *place, _placed(frame, outcome.batch)))
    return parts


def messages(cuts: Sequence[Cut]) -> list[Message]:
    """Dead letters and alert transitions of the cuts, as records to produce."""
    found = []
    for cut in cuts:
        for outcome in cut.outcomes:
            for letter in dead_letters(outcome.batch, outcome.refused):
                found.append(Message(DEAD_LETTER_TOPIC, letter.key, letter.value, letter.headers, letter.timestamp_ms))
        found += [alert_message(to_record(transition)) for _, transition in cut.transitions]
    return found


def alert_message(transition: Mapping[str, object]) -> Message:
    """A transition as a record of `city.alerts`, keyed by fingerprint so that compaction keeps the newest."""
    key = str(transition["fingerprint"]).encode()
    return Message(ALERT_TOPIC, key, encode(contract("Alert"), transition))
