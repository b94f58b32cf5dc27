"""What is stored of a partition, read back: its owner, its snapshot, its events. Written for recovery and the audit."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import polars as pl

from schemas.contracts import Domain, contract_of
from sinks.clickhouse import Sink
from sinks.rows import Origin, offset_of
from sinks.store import Pass

_HERE: Final = "topic = {topic:String} AND epoch = {epoch:String} AND partition = {partition:UInt16}"


#: What the stages added to an event and its windows, identity and alerts are made of.
_ADDED: Final = ("kind", "late", "failed", "quality", "offset", "chunk", "zones", "territory_version")
#: After every offset.
_END: Final = 2**62
#: Two chunks as they ship: a look so far back does not read a table's history.
_NEAR: Final = 2 * 65_536


def _place(origin: Origin) -> dict[str, Any]:
    return {"topic": origin.topic, "epoch": origin.epoch, "partition": origin.partition}


# -- owners ------------------------------------------------------------------------------------------------------------


def terms(origins: Iterable[Origin], sink: Sink) -> dict[tuple[str, int], int]:
    """The highest term of each (topic, partition); 0 where nobody has held it."""
    wanted = list(origins)
    found = sink.rows(
        "SELECT topic, partition, max(term) FROM owners WHERE (topic, epoch) IN {epochs:Array(Tuple(String, String))} "
        "GROUP BY topic, partition",
        {"epochs": sorted({(origin.topic, origin.epoch) for origin in wanted})},
    )
    known = {(topic, partition): term for topic, partition, term in found}
    return {(o.topic, o.partition): known.get((o.topic, o.partition), 0) for o in wanted}


def claim(origins: Sequence[Origin], owner: str, generation: int, at: datetime, sink: Sink) -> None:
    """Write that this owner holds these partitions under the terms of the origins."""
    rows = [
        {"topic": o.topic, "epoch": o.epoch, "partition": o.partition, "term": o.term, "owner": owner}
        | {"generation": generation, "claimed_at": at}
        for o in origins
    ]
    schema = {"partition": pl.UInt16(), "term": pl.UInt32(), "generation": pl.Int64()}
    table = pl.DataFrame(rows, schema_overrides=schema).with_columns(pl.col("claimed_at").dt.cast_time_unit("ms"))
    names = f"{owner}|{';'.join(sorted(map(str, origins)))}"
    sink.insert_whole("owners", table.to_arrow(compat_level=pl.CompatLevel.oldest()), names)


@dataclass(frozen=True)
class Rival:
    """Somebody else who claimed a partition at the same time: their highest term, and its generation of the group."""

    term: int
    generation: int


def rivals(origins: Sequence[Origin], owner: str, sink: Sink) -> dict[Origin, Rival]:
    """Origins of which another owner has claimed the same term or a higher one."""
    if not origins:
        return {}
    found = sink.rows(
        "SELECT topic, epoch, partition, max(term), argMax(generation, term) FROM owners "
        "WHERE (topic, epoch) IN {epochs:Array(Tuple(String, String))} AND owner != {owner:String} "
        "GROUP BY topic, epoch, partition",
        {"epochs": sorted({(origin.topic, origin.epoch) for origin in origins}), "owner": owner},
    )
    others = {(topic, epoch, partition): Rival(int(term), int(gen)) for topic, epoch, partition, term, gen in found}
    known = {origin: others.get((origin.topic, origin.epoch, origin.partition)) for origin in origins}
    return {origin: rival for origin, rival in known.items() if rival is not None and rival.term >= origin.term}


# -- snapshots ---------------------------------------------------------------------------------------------------------


#: Stands as the code version of a snapshot while what is stored beyond it is being taken back.
TAKING_BACK: Final = "taking back"


@dataclass(frozen=True)
class StoredSnapshot:
    """The newest snapshot of a partition: its version's offset and the state's bytes, not yet looked at."""

    next_offset: int
    code_version: str
    state: bytes

    @property
    def is_taking_back(self) -> bool:
        """Whether its owner died while it took back what was stored beyond the snapshot."""
        return self.code_version == TAKING_BACK


def newest_snapshot(origin: Origin, sink: Sink) -> StoredSnapshot | None:
    """The snapshot of the newest owner at its newest offset, if there is one."""
    # Bytes that are no text do not travel as they are.
    sql = (
        f"SELECT version, code_version, base64Encode(state) FROM snapshots WHERE {_HERE} "
        "ORDER BY version DESC, taken_at DESC LIMIT 1"
    )
    for version, code_version, state in sink.rows(sql, _place(origin)):
        return StoredSnapshot(offset_of(version), code_version, b64decode(state))
    return None


# -- events ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tail:
    """What is stored of a partition from an offset on: offsets of events and of rejects, ascending."""

    events: pl.Series
    rejects: pl.Series
    condemned: frozenset[int]
    """Rejects whose reason is that ClickHouse refused the row."""
    chunks: frozenset[int]
    """The chunks that the events belong to."""
    has_unknown_schemas: bool = False
    """Whether a reject is one because nobody knew its schema."""

    @property
    def last(self) -> int:
        """The last offset of it; -1 when there is none."""
        ends = [series.item(-1) for series in (self.events, self.rejects) if len(series)]
        return max(ends, default=-1)


def tail(origin: Origin, domain: Domain, first_offset: int, sink: Sink) -> Tail:
    """What is stored from `first_offset` on."""
    parameters = _place(origin) | {"first": first_offset}
    events = sink.frame(
        f"SELECT DISTINCT offset, chunk FROM events_{domain} "
        f"WHERE {_HERE} AND offset >= {{first:Int64}} ORDER BY offset",
        parameters,
    )
    rejects = sink.frame(
        "SELECT offset, max(reason = 'sink') AS condemned, max(reason = 'unknown_schema') AS unknown FROM rejects "
        f"WHERE {_HERE} AND offset >= {{first:Int64}} GROUP BY offset ORDER BY offset",
        parameters,
    )
    none = pl.Series("offset", [], dtype=pl.Int64)
    condemned = rejects.filter(pl.col("condemned") > 0)["offset"] if len(rejects) else none
    return Tail(
        events=events["offset"] if len(events) else none,
        rejects=rejects["offset"] if len(rejects) else none,
        condemned=frozenset(condemned.to_list()),
        chunks=frozenset(events["chunk"].to_list()) if len(events) else frozenset(),
        has_unknown_schemas=bool(len(rejects) and rejects["unknown"].max()),
    )


def last_chunk(origin: Origin, domain: Domain, before_offset: int | None, sink: Sink) -> int | None:
    """First offset of the last chunk that has stored events (before an offset); None when there is none."""
    sql = (
        f"SELECT count(), max(chunk) FROM events_{domain} "
        f"WHERE {_HERE} AND offset >= {{since:Int64}} AND offset < {{before:Int64}}"
    )
    before = before_offset if before_offset is not None else _END
    # Chunks follow one another, so the last event is of the last chunk; near the end it is found without the history.
    for since in (before - _NEAR, 0):
        count, chunk = sink.rows(sql, _place(origin) | {"since": max(since, 0), "before": before})[0]
        if count:
            return int(chunk)
    return None


def chunk_events(origin: Origin, domain: Domain, chunk: int, before_offset: int, sink: Sink) -> pl.DataFrame:
    """The stored events of a chunk before an offset, in offset order: what its windows and identities are made of.

    Columns: the contract's fields and `_ADDED`; `zones` is a map from layer to code.
    """
    # A chunk is named by its first offset; only the index over offsets passes the history by.
    return _events(origin, domain, _columns(domain), chunk, before_offset, "AND chunk = {first:Int64}", sink)


def events(origin: Origin, domain: Domain, first_offset: int, before_offset: int, sink: Sink) -> pl.DataFrame:
    """The stored events from one offset to before another, with the columns of `chunk_events`."""
    return _events(origin, domain, _columns(domain), first_offset, before_offset, "", sink)


def event_ids(origin: Origin, domain: Domain, first_offset: int, before_offset: int, sink: Sink) -> pl.DataFrame:
    """`offset`, `source` and `event_id` of those events: what duplicates are known by."""
    return _events(origin, domain, ("offset", "source", "event_id"), first_offset, before_offset, "", sink)


def _columns(domain: Domain) -> list[str]:
    fields = [field.name for field in contract_of(domain).fields]
    return [*fields, *(c for c in _ADDED if c not in fields)]


def _events(
    origin: Origin, domain: Domain, columns: Iterable[str], first_offset: int, before_offset: int, more: str, sink: Sink
) -> pl.DataFrame:
    return sink.frame(
        f"SELECT {', '.join(f'`{name}`' for name in columns)} FROM events_{domain} FINAL WHERE {_HERE} "
        f"AND offset >= {{first:Int64}} AND offset < {{before:Int64}} {more} ORDER BY offset",
        _place(origin) | {"first": first_offset, "before": before_offset},
    )


def delete_from(origin: Origin, domain: Domain, first_offset: int, sink: Sink) -> None:
    """Delete events and rejects from an offset on, but for rejects that ClickHouse itself made: they stay refused.

    Only what owners of earlier terms stored: a delete that arrives late takes nothing from those that came after.
    """
    parameters = _place(origin) | {"first": first_offset, "term": origin.term}
    here = f"{_HERE} AND offset >= {{first:Int64}} AND term < {{term:UInt32}}"
    sink.delete(f"events_{domain}", here, parameters)
    sink.delete("rejects", f"{here} AND reason != 'sink'", parameters)


def passes(origin: Origin, first_offset: int, sink: Sink) -> list[Pass]:
    """Where time passed without records, from an offset on, in the order it did."""
    found = sink.rows(
        f"SELECT DISTINCT offset, toUnixTimestamp64Milli(passed) FROM passes "
        f"WHERE {_HERE} AND offset >= {{first:Int64}} ORDER BY 1, 2",
        _place(origin) | {"first": first_offset},
    )
    return [Pass(int(offset), int(passed_ms)) for offset, passed_ms in found]


# -- windows -----------------------------------------------------------------------------------------------------------


def window_keys(origin: Origin, first_chunk: int, sink: Sink) -> pl.DataFrame:
    """Keys of the window rows of a partition from a chunk on: what `windows` would show of them.

    Columns: window_start, jurisdiction_id, layer, zone_code, metric, resolution, last_at, chunk, version.
    """
    return sink.frame(
        "SELECT toDateTime64(window_start, 3, 'UTC') AS window_start, jurisdiction_id, layer, zone_code, metric, "
        "any(resolution) AS resolution, any(last_at) AS last_at, chunk, max(version) AS version "
        f"FROM window_rows WHERE {_HERE} AND chunk >= {{chunk:Int64}} "
        "GROUP BY window_start, jurisdiction_id, layer, zone_code, metric, chunk",
        _place(origin) | {"chunk": first_chunk},
    )


# -- alerts ------------------------------------------------------------------------------------------------------------


def newest_transitions(origin: Origin, before_offset: int | None, sink: Sink) -> list[dict[str, Any]]:
    """Of each alert of a partition the newest transition made before an offset: values of the Alert contract.

    With None, of all epochs: the alerts of a topic outlive it when it is created anew.
    """
    here = _HERE if before_offset is not None else "topic = {topic:String} AND partition = {partition:UInt16}"
    instants = ", ".join(f"toUnixTimestamp64Milli({name}) AS {name}_ms" for name in ("at", "starts_at"))
    found = sink.frame(
        f"SELECT * EXCEPT (topic, epoch, partition, offset, at, starts_at, ends_at), {instants}, "
        "if(ends_at IS NULL, NULL, toUnixTimestamp64Milli(assumeNotNull(ends_at))) AS ends_at_ms "
        f"FROM alert_transitions FINAL WHERE {here} AND offset < {{before:Int64}} "
        "ORDER BY sequence DESC LIMIT 1 BY fingerprint",
        _place(origin) | {"before": _END if before_offset is None else before_offset},
    )
    return [{name.removesuffix("_ms"): value for name, value in row.items()} for row in found.to_dicts()]
