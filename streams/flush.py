"""The order of effects, decided here and nowhere else:

rows durable → dead letters and alerts confirmed → snapshot row → offsets committed

A failure anywhere stops the worker with nothing acknowledged; what was written before is written again, the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

import polars as pl

from processors.alerts import to_record
from processors.pipeline import CODE_VERSION
from schemas.contracts import ALERT_TOPIC, DEAD_LETTER_TOPIC, contract
from schemas.framing import encode
from schemas.records import Header
from sinks.clickhouse import Sink
from sinks.dead_letters import dead_letters
from sinks.rows import Origin, ZoneMaps
from sinks.store import Block, store
from streams.clock import instant
from streams.ledger import Cut, Ledger, Place


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
    """The four effects a flush has, as the worker provides them.

    `produce` returns once every message is confirmed by the broker, and raises when one is not. `commit` returns False
    when the partitions are no longer ours.
    """

    sink: Sink
    zones: ZoneMaps
    territory_versions: Mapping[str, str]
    blocking: Executor
    produce: Callable[[Sequence[Message]], Awaitable[None]]
    commit: Callable[[Mapping[Place, int]], Awaitable[bool]]


async def settle(cuts: Sequence[Cut], effects: Effects, ledger: Ledger, now_ms: int) -> None:
    """Make the cuts durable, in the order above."""
    loop = asyncio.get_running_loop()
    await loop.run_in_executor(effects.blocking, _store, cuts, effects)
    await effects.produce(await loop.run_in_executor(effects.blocking, messages, cuts))
    await loop.run_in_executor(effects.blocking, _snapshot, cuts, effects, now_ms)
    offsets = ledger.durable(cuts)
    if await effects.commit(offsets):
        for place, offset in offsets.items():
            if entry := ledger.get(place):
                entry.committed = offset


def _store(cuts: Sequence[Cut], effects: Effects) -> None:
    store(_block(cuts), effects.sink, effects.zones, effects.territory_versions)


def _snapshot(cuts: Sequence[Cut], effects: Effects, now_ms: int) -> None:
    rows = [_progress(cut, now_ms) for cut in cuts]
    store(Block(snapshots=rows), effects.sink, effects.zones, effects.territory_versions)


def _block(cuts: Sequence[Cut]) -> Block:
    block = Block(alerts=[to_record(t) for cut in cuts for t in cut.transitions])
    for cut in cuts:
        origin = Origin(cut.place.topic, cut.place.partition)
        for outcome in cut.outcomes:
            first, last = outcome.batch.first_offset, outcome.batch.last_offset
            if len(outcome.events):
                block.events[outcome.domain].append((origin, first, last, outcome.events))
            if len(outcome.refused):
                rows = outcome.refused["row"].to_numpy()
                frame = outcome.refused.with_columns(
                    pl.Series("offset", outcome.batch.offsets[rows]),
                    pl.Series("received_at", outcome.batch.received_ms[rows]).cast(pl.Datetime("ms", "UTC")),
                )
                block.refused.append((origin, first, last, frame))
        block.windows += [(origin, c.first_offset, c.last_offset, c.rows) for c in cut.chunks]
    return block


def _progress(cut: Cut, now_ms: int) -> dict[str, Any]:
    return {
        "topic": cut.place.topic,
        "partition": cut.place.partition,
        "last_offset": cut.next_offset - 1,
        "watermark": instant(cut.watermark_ms),
        "code_version": CODE_VERSION,
        "taken_at": instant(now_ms),
    }


def messages(cuts: Sequence[Cut]) -> list[Message]:
    """Dead letters and alert transitions of the cuts, as records to produce."""
    found = []
    for cut in cuts:
        for outcome in cut.outcomes:
            for letter in dead_letters(outcome.batch, outcome.refused):
                found.append(Message(DEAD_LETTER_TOPIC, letter.key, letter.value, letter.headers, letter.timestamp_ms))
        found += [alert_message(to_record(t)) for t in cut.transitions]
    return found


def alert_message(transition: Mapping[str, Any]) -> Message:
    """A transition as a record of `city.alerts`, keyed by fingerprint so that compaction keeps the newest."""
    return Message(ALERT_TOPIC, transition["fingerprint"].encode(), encode(contract("Alert"), transition))
