"""Everything a flush writes, as few and as large inserts as the tables allow."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl
import pyarrow as pa

from schemas.contracts import Domain
from sinks.clickhouse import Sink
from sinks.rows import (
    Origin,
    ZoneMaps,
    alert_table,
    asset_states,
    event_tables,
    names_of,
    placed,
    reject_table,
    window_tables,
)


@dataclass
class Block:
    """One flush. Parts are (origin, first offset, last offset); frames are as the stages leave them."""

    events: dict[Domain, list[tuple[Origin, int, int, pl.DataFrame]]] = field(default_factory=lambda: defaultdict(list))
    refused: list[tuple[Origin, int, int, pl.DataFrame]] = field(default_factory=list)
    windows: list[tuple[Origin, int, int, pl.DataFrame]] = field(default_factory=list)
    """(origin, chunk's first offset, version, rows)"""
    alerts: Sequence[Mapping[str, Any]] = field(default_factory=list)
    snapshots: Sequence[Mapping[str, Any]] = field(default_factory=list)


def store(block: Block, sink: Sink, zones: ZoneMaps, territory_versions: Mapping[str, str]) -> None:
    """Write one flush. Raises SinkError; then some of its tables may be written, and writing it again is safe.

    Truth goes first: events and rejects, then what is derived from them.
    """
    for domain, parts in block.events.items():
        _store_events(domain, parts, sink, zones, territory_versions)
    if block.refused:
        table = pa.concat_tables([reject_table(frame, origin) for origin, _, _, frame in block.refused])
        sink.insert("rejects", table, names_of([part[:3] for part in block.refused]))
    _store_windows(block.windows, sink)
    if block.alerts:
        store_alerts(block.alerts, sink)
    if block.snapshots:
        rows = pl.DataFrame(block.snapshots).to_arrow(compat_level=pl.CompatLevel.oldest())
        names = ";".join(f"{s['topic']}/{s['partition']}:{s['last_offset']}:{s['taken_at']}" for s in block.snapshots)
        sink.insert("snapshots", rows, names)


def store_alerts(transitions: Sequence[Mapping[str, Any]], sink: Sink) -> None:
    """Write alert transitions (values of the Alert contract)."""
    sink.insert("alert_transitions", alert_table(transitions), ";".join(t["transition_id"] for t in transitions))


def _store_events(
    domain: Domain,
    parts: Sequence[tuple[Origin, int, int, pl.DataFrame]],
    sink: Sink,
    zones: ZoneMaps,
    territory_versions: Mapping[str, str],
) -> None:
    frame = pl.concat([placed(frame, origin, territory_versions) for origin, _, _, frame in parts])
    if frame.is_empty():
        return
    names = names_of([part[:3] for part in parts])
    for day, table in event_tables(frame, domain, zones):
        sink.insert(f"events_{domain}", table, f"{names}|{day}")
    states = asset_states(frame, domain, zones)
    sink.insert("asset_state", states, f"{domain}|{names}")


def _store_windows(chunks: Iterable[tuple[Origin, int, int, pl.DataFrame]], sink: Sink) -> None:
    tables: dict[str, list[pa.Table]] = defaultdict(list)
    names = []
    for origin, chunk, version, rows in chunks:
        names.append(f"{origin.topic}/{origin.partition}:{chunk}@{version}")
        for month, table in window_tables(rows, origin, chunk, version):
            tables[month].append(table)
    digest = hashlib.sha256(";".join(sorted(names)).encode()).hexdigest()
    for month, parts in sorted(tables.items()):
        sink.insert("window_rows", pa.concat_tables(parts), f"{digest}|{month}")
