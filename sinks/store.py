"""Everything a flush writes, as few and as large inserts as the tables allow."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import numpy as np
import polars as pl
import pyarrow as pa

from schemas.contracts import Domain
from sinks.clickhouse import Sink
from sinks.rows import (
    Origin,
    ZoneMaps,
    alert_table,
    asset_states,
    coded,
    event_tables,
    names_of,
    placed,
    reject_table,
    version_of,
    window_tables,
)

#: Events of one insert: ClickHouse holds them several times over while it sorts and writes them.
_ROWS: Final = 60_000


@dataclass(frozen=True)
class Part:
    """Rows of one batch, as the stages leave them. `known` are offsets that the table already has: they are skipped."""

    origin: Origin
    first_offset: int
    last_offset: int
    frame: pl.DataFrame
    known: pl.Series | None = None

    def new(self) -> pl.DataFrame:
        """The rows that the table does not have."""
        return self.frame if self.known is None else self.frame.filter(~pl.col("offset").is_in(self.known.implode()))


@dataclass(frozen=True)
class ChunkPart:
    """Window rows (WINDOW_SCHEMA) of one chunk, as they stand when the partition has come to `next_offset`."""

    origin: Origin
    chunk: int
    next_offset: int
    rows: pl.DataFrame


@dataclass(frozen=True)
class Snapshot:
    """A partition's state, and the next offset to read with it."""

    origin: Origin
    next_offset: int
    watermark: datetime
    code_version: str
    owner: str
    taken_at: datetime
    state: bytes


@dataclass(frozen=True, order=True)
class Pass:
    """Event time lifted without a record: the last offset read, and the instant in milliseconds since 1970."""

    offset: int
    passed_ms: int


@dataclass
class Block:
    """One flush. `alerts`: (origin, last offset read, values of the Alert contract)."""

    events: dict[Domain, list[Part]] = field(default_factory=lambda: defaultdict(list))
    refused: list[Part] = field(default_factory=list)
    windows: list[ChunkPart] = field(default_factory=list)
    alerts: list[tuple[Origin, int, Mapping[str, Any]]] = field(default_factory=list)
    passes: list[tuple[Origin, Pass]] = field(default_factory=list)


@dataclass(frozen=True)
class RefusedEvent:
    """An event that ClickHouse will not take, whatever is tried."""

    topic: str
    partition: int
    offset: int
    message: str


def store_records(
    block: Block, sink: Sink, zones: ZoneMaps, territory_versions: Mapping[str, str]
) -> list[RefusedEvent]:
    """Write events and rejects: the truth. Returns the events that ClickHouse refused; the others are stored.

    Raises SinkError; then some of it may be written, and writing it again is safe.
    """
    refused = []
    for domain, parts in ((domain, some) for domain, of_it in block.events.items() for some in _in_blocks(of_it)):
        frame = pl.concat([placed(part.new(), part.origin, territory_versions) for part in parts])
        names = _names(parts)
        for day, table in event_tables(frame, domain, zones):
            for row in sink.insert(f"events_{domain}", coded(table), f"{names}|{day}"):
                place = table.select(["topic", "partition", "offset"]).slice(row.row, 1).to_pylist()[0]
                refused.append(RefusedEvent(**place, message=row.message))
    store_rejects(block.refused, sink)
    return refused


def store_rejects(parts: Sequence[Part], sink: Sink) -> None:
    """Write rejects (REJECT_SCHEMA with `offset` and `received_at`)."""
    if parts:
        table = coded(pa.concat_tables([reject_table(part.new(), part.origin) for part in parts]))
        sink.insert_whole("rejects", table, _names(parts))


def store_derived(block: Block, sink: Sink, zones: ZoneMaps) -> None:
    """Write what follows from the records: the newest state of assets, window rows, alert transitions."""
    if block.events:
        states = [asset_states([part.frame for part in parts], domain, zones) for domain, parts in block.events.items()]
        names = _names(part for parts in block.events.values() for part in parts)
        sink.insert_whole("asset_state", coded(pa.concat_tables(states)), names)
    store_windows(block.windows, sink)
    # Before the alerts that came of them: an alert that nobody could make again would stand for ever.
    store_passes(block.passes, sink)
    if block.alerts:
        store_alerts(block.alerts, sink)


def store_alerts(transitions: Sequence[tuple[Origin, int, Mapping[str, Any]]], sink: Sink) -> None:
    """Write alert transitions: (origin, last offset read, values of the Alert contract)."""
    names = ";".join(f"{origin}:{values['transition_id']}@{offset}" for origin, offset, values in transitions)
    sink.insert_whole("alert_transitions", alert_table(transitions), names)


def store_passes(passes: Sequence[tuple[Origin, Pass]], sink: Sink) -> None:
    """Write where and how far time has passed without records."""
    if not passes:
        return
    rows = [
        {"topic": o.topic, "epoch": o.epoch, "partition": o.partition, "term": o.term}
        | {"offset": one.offset, "passed": one.passed_ms}
        for o, one in passes
    ]
    schema = {"partition": pl.UInt16(), "term": pl.UInt32(), "offset": pl.Int64(), "passed": pl.Int64()}
    table = pl.DataFrame(rows, schema_overrides=schema).cast({"passed": pl.Datetime("ms", "UTC")})
    names = ";".join(sorted(f"{o}:{one.offset}:{one.passed_ms}" for o, one in passes))
    sink.insert_whole("passes", table.to_arrow(compat_level=pl.CompatLevel.oldest()), names)


def store_windows(chunks: Iterable[ChunkPart], sink: Sink) -> None:
    """Write window rows. Their version is the owner's term and how far the partition has come."""
    tables: dict[str, list[pa.Table]] = defaultdict(list)
    names = []
    for part in chunks:
        names.append(f"{part.origin}:{part.chunk}-{part.next_offset}")
        for month, table in window_tables(part.rows, part.origin, part.chunk, part.next_offset):
            tables[month].append(table)
    digest = hashlib.sha256(";".join(sorted(names)).encode()).hexdigest()
    for month, parts in sorted(tables.items()):
        sink.insert_whole("window_rows", coded(pa.concat_tables(parts)), f"{digest}|{month}")


def store_snapshots(snapshots: Sequence[Snapshot], sink: Sink) -> None:
    """Write the states of partitions; everything they include must be durable."""
    rows = [
        {
            "topic": s.origin.topic,
            "epoch": s.origin.epoch,
            "partition": s.origin.partition,
            "next_offset": s.next_offset,
            "watermark": s.watermark,
            "code_version": s.code_version,
            "owner": s.owner,
            "taken_at": s.taken_at,
            "version": version_of(s.origin.term, s.next_offset),
            "state": s.state,
        }
        for s in snapshots
    ]
    schema = {"partition": pl.UInt16(), "version": pl.UInt64(), "state": pl.Binary()}
    instants = pl.col("watermark", "taken_at").dt.cast_time_unit("ms")
    table = pl.DataFrame(rows, schema_overrides=schema).with_columns(instants)
    names = ";".join(f"{s.origin}:{s.next_offset}:{s.taken_at}:{s.code_version}" for s in snapshots)
    sink.insert_whole("snapshots", table.to_arrow(compat_level=pl.CompatLevel.oldest()), names)


def _in_blocks(parts: Sequence[Part]) -> Iterator[Sequence[Part]]:
    """Parts in groups of about so many rows, however large the last part is: of few rows that are all bad, the sink
    would believe that the table is at fault."""
    ends = np.cumsum([len(part.frame) for part in parts])
    first, count = 0, max(round(int(ends[-1]) / _ROWS), 1)
    for number in range(1, count + 1):
        after = int(np.searchsorted(ends, ends[-1] * number / count)) + 1
        if after > first:
            yield parts[first:after]
        first = after


def _names(parts: Iterable[Part]) -> str:
    return names_of((part.origin, part.first_offset, part.last_offset) for part in parts)
