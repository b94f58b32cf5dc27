"""What the audit asks of ClickHouse: counts of what is stored, offset by offset and window by window.

Nothing here goes by what the worker believes: rows are counted, never what is said about them. Exact counts of offsets
are bitmaps, so a partition of any length is counted in little memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from schemas.contracts import DOMAINS, domain_of
from sinks.clickhouse import Sink
from sinks.rows import Origin, offset_of

#: After every offset, and before.
END: Final = 2**62
#: The next offset in a version (`sinks.rows.offset_of`).
OFFSET: Final = f"bitAnd(version, {offset_of(2**64 - 1)})"

_TABLES: Final = (*(f"events_{domain}" for domain in DOMAINS), "rejects", "window_rows", "snapshots")
#: Gaps are looked for in runs of so many offsets, so that only what has some is listed offset by offset.
_RUN: Final = 65_536


@dataclass(frozen=True)
class Span:
    """Offsets, or chunks by their first offsets, of one partition: from `first` on, before `end`."""

    origin: Origin
    first: int
    end: int


def table_of(topic: str) -> str:
    """The table of a raw topic's events."""
    return f"events_{domain_of(topic)}"


def _here(origin: Origin) -> dict[str, Any]:
    return {"topic": origin.topic, "epoch": origin.epoch, "partition": origin.partition}


_HERE: Final = "topic = {topic:String} AND epoch = {epoch:String} AND partition = {partition:UInt16}"
_WITHIN: Final = f"{_HERE} AND offset >= {{first:Int64}} AND offset < {{end:Int64}}"


def _within(span: Span) -> dict[str, Any]:
    return _here(span.origin) | {"first": span.first, "end": span.end}


# -- places ------------------------------------------------------------------------------------------------------------


def places(sink: Sink) -> list[Origin]:
    """Every topic, epoch and partition that anything is stored of."""
    union = " UNION DISTINCT ".join(f"SELECT DISTINCT topic, epoch, partition FROM {table}" for table in _TABLES)
    found = sink.rows(f"SELECT topic, epoch, partition FROM ({union}) WHERE topic != '' ORDER BY 1, 2, 3")
    return [Origin(str(topic), int(partition), str(epoch)) for topic, epoch, partition in found]


@dataclass(frozen=True)
class Mark:
    """How far a partition's newest snapshot has come: everything before `next_offset` is to be found stored."""

    next_offset: int
    version: int
    watermark_ms: int
    code_version: str
    owner: str


def mark(origin: Origin, sink: Sink) -> Mark | None:
    """The newest snapshot's place; None where there is none."""
    found = sink.rows(
        "SELECT version, toUnixTimestamp64Milli(watermark), code_version, owner FROM snapshots "
        f"WHERE {_HERE} ORDER BY version DESC, taken_at DESC LIMIT 1",
        _here(origin),
    )
    for version, watermark_ms, code, owner in found:
        return Mark(offset_of(version), int(version), int(watermark_ms), str(code), str(owner))
    return None


def zones_mark_ms(sink: Sink) -> int:
    """How far event time has come with the zones that have a snapshot, milliseconds since 1970; 0 without one."""
    found = sink.rows(
        "SELECT min(mark) FROM (SELECT argMax(toUnixTimestamp64Milli(watermark), (version, taken_at)) AS mark "
        "FROM snapshots WHERE topic = '' GROUP BY epoch)"
    )
    return int(found[0][0] or 0)


def bounds(origin: Origin, from_ms: int | None, to_ms: int | None, sink: Sink) -> tuple[int, int] | None:
    """First offset, and the one after the last, of what is stored or rejected of a partition and was received in that
    time (milliseconds since 1970; None leaves an end open). None where there is nothing."""
    parts = [
        f"SELECT offset FROM {table} WHERE {_HERE} AND received_at >= fromUnixTimestamp64Milli({{from:Int64}}, 'UTC') "
        "AND received_at < fromUnixTimestamp64Milli({to:Int64}, 'UTC')"
        for table in (table_of(origin.topic), "rejects")
    ]
    count, first, last = sink.rows(
        f"SELECT count(), min(offset), max(offset) FROM ({' UNION ALL '.join(parts)})",
        _here(origin) | {"from": from_ms or 0, "to": to_ms if to_ms is not None else 4_102_444_800_000},
    )[0]
    return (int(first), int(last) + 1) if count else None


# -- accounting --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Account:
    """Offsets of a span, each counted once: stored, rejected (`duplicates` among them), both.

    `stored_rows` counts rows as readers with FINAL see them: more rows than offsets means that an offset stands there
    twice, under different sorting keys. (That of rejects is the offset.) `copies` are not merged away yet.
    """

    stored: int
    rejected: int
    duplicates: int
    both: int
    stored_rows: int
    copies: int
    reasons: dict[str, int]

    @property
    def known(self) -> int:
        """Offsets that are stored or rejected."""
        return self.stored + self.rejected - self.both


def account(span: Span, sink: Sink) -> Account:
    """Count the offsets of a span."""
    given, events = _within(span), table_of(span.origin.topic)
    stored, rejected, both, stored_rows = sink.rows(
        f"""
        WITH
            (SELECT (groupBitmapState(toUInt64(offset)), count()) FROM {events} FINAL WHERE {_WITHIN}) AS events,
            (SELECT groupBitmapState(toUInt64(offset)) FROM rejects FINAL WHERE {_WITHIN}) AS refused
        SELECT bitmapCardinality(events.1), bitmapCardinality(refused), bitmapAndCardinality(events.1, refused),
            events.2
        """,
        given,
    )[0]
    physical = sum(
        int(sink.rows(f"SELECT count() FROM {table} WHERE {_WITHIN}", given)[0][0]) for table in (events, "rejects")
    )
    reasons = sink.rows(
        f"SELECT reason, uniqExact(offset) FROM rejects FINAL WHERE {_WITHIN} GROUP BY reason ORDER BY reason", given
    )
    counted = {str(reason): int(n) for reason, n in reasons}
    return Account(
        stored=int(stored),
        rejected=int(rejected),
        duplicates=counted.get("duplicate", 0),
        both=int(both),
        stored_rows=int(stored_rows),
        copies=physical - int(stored_rows) - int(rejected),
        reasons=counted,
    )


def missing(span: Span, sink: Sink) -> list[tuple[int, int]]:
    """Ranges of a span that are neither stored nor rejected: first offset, and the one after the last."""
    given, known = _within(span), _known(span.origin.topic)
    full = dict(
        sink.rows(
            f"SELECT intDiv(offset, {_RUN}) AS run, uniqExact(offset) FROM ({known}) GROUP BY run ORDER BY run", given
        )
    )
    gaps: list[tuple[int, int]] = []
    at = span.first
    for run in sorted(full):
        first, end = max(span.first, run * _RUN), min(span.end, (run + 1) * _RUN)
        if first > at:
            gaps.append((at, first))
        if full[run] < end - first:
            sql = f"SELECT DISTINCT offset FROM ({known}) ORDER BY offset"
            gaps += _holes(first, end, [offset for (offset,) in sink.rows(sql, given | {"first": first, "end": end})])
        at = end
    if at < span.end:
        gaps.append((at, span.end))
    return _joined(gaps)


def _known(topic: str) -> str:
    return f"SELECT offset FROM {table_of(topic)} WHERE {_WITHIN} UNION ALL SELECT offset FROM rejects WHERE {_WITHIN}"


def _holes(first: int, end: int, known: Sequence[int]) -> list[tuple[int, int]]:
    found, at = [], first
    for offset in known:
        if offset > at:
            found.append((at, offset))
        at = offset + 1
    if at < end:
        found.append((at, end))
    return found


def _joined(ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    joined: list[tuple[int, int]] = []
    for first, end in ranges:
        if joined and joined[-1][1] == first:
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((first, end))
    return joined


def in_both(span: Span, most: int, sink: Sink) -> list[int]:
    """Offsets that are stored and rejected, the first of them."""
    sql = (
        f"SELECT DISTINCT offset FROM {table_of(span.origin.topic)} WHERE {_WITHIN} "
        f"AND offset IN (SELECT offset FROM rejects WHERE {_WITHIN}) ORDER BY offset LIMIT {most}"
    )
    return [int(offset) for (offset,) in sink.rows(sql, _within(span))]


def twice(span: Span, most: int, sink: Sink) -> list[int]:
    """Offsets whose event stands there more than once for readers: under different sorting keys."""
    sql = (
        f"SELECT offset FROM {table_of(span.origin.topic)} FINAL WHERE {_WITHIN} "
        f"GROUP BY offset HAVING count() > 1 ORDER BY offset LIMIT {most}"
    )
    return [int(offset) for (offset,) in sink.rows(sql, _within(span))]


@dataclass(frozen=True)
class Beyond:
    """What is stored of a partition from an offset on: offsets of events and of rejects, and window rows that readers
    see and that were written when it had come further."""

    stored: int
    rejected: int
    window_rows: int

    @property
    def records(self) -> int:
        return self.stored + self.rejected


def beyond(origin: Origin, next_offset: int, sink: Sink) -> Beyond:
    """What is stored from that offset on."""
    given = _here(origin) | {"first": next_offset, "end": END}
    # Records are stored before what follows from them: asked in the other order, window rows never stand alone.
    windows = f"SELECT count() FROM window_rows FINAL WHERE {_HERE} AND {OFFSET} > {{first:Int64}}"
    rows = int(sink.rows(windows, given)[0][0])
    stored, rejected = (int(sink.rows(_distinct(t), given)[0][0]) for t in (table_of(origin.topic), "rejects"))
    return Beyond(stored, rejected, rows)


def _distinct(table: str) -> str:
    return f"SELECT uniqExact(offset) FROM {table} WHERE {_WITHIN}"


def repeated(span: Span, sink: Sink) -> int:
    """Stored events of a span whose (source, event_id) another stored event of the partition has, the first of each
    apart: duplicates that were older than the memory of duplicates."""
    sql = f"SELECT count() - uniqExact(source, event_id) FROM {table_of(span.origin.topic)} FINAL WHERE {_WITHIN}"
    return int(sink.rows(sql, _within(span))[0][0])


# -- windows -----------------------------------------------------------------------------------------------------------


def chunks(span: Span, sink: Sink) -> list[tuple[int, int]]:
    """(first offset, stored events) of each chunk of a span of chunks that has events or shows window rows."""
    given = _within(span)
    sql = f"""
        SELECT chunk, sum(n) FROM (
            SELECT chunk, count() AS n FROM {table_of(span.origin.topic)} FINAL
            WHERE {_HERE} AND chunk >= {{first:Int64}} AND chunk < {{end:Int64}} GROUP BY chunk
            UNION ALL
            SELECT DISTINCT chunk, 0 AS n FROM window_rows
            WHERE {_HERE} AND chunk >= {{first:Int64}} AND chunk < {{end:Int64}}
        ) GROUP BY chunk ORDER BY chunk
    """
    return [(int(chunk), int(n)) for chunk, n in sink.rows(sql, given)]


def parts_of(span: Span, held: Sequence[tuple[int, int]], most: int = 100_000) -> Iterator[Span]:
    """A span of chunks in parts of whole chunks with at most so many events, or one chunk. `held`: see `chunks`."""
    first, count, some = span.first, 0, False
    for chunk, events in held:
        if some and count + events > most:
            yield Span(span.origin, first, chunk)
            first, count = chunk, 0
        count, some = count + events, True
    if some:
        yield Span(span.origin, first, span.end)


def chunk_bounds(span: Span, sink: Sink) -> tuple[int, int] | None:
    """First and last chunk of the events of a span of offsets."""
    count, first, last = sink.rows(
        f"SELECT count(), min(chunk), max(chunk) FROM {table_of(span.origin.topic)} WHERE {_WITHIN}", _within(span)
    )[0]
    return (int(first), int(last)) if count else None


def layers(sink: Sink) -> dict[tuple[str, str], tuple[str, ...]]:
    """The layers of each (jurisdiction, territory version) there is or was."""
    sql = "SELECT jurisdiction_id, territory_version, groupUniqArray(layer) FROM zones GROUP BY 1, 2"
    return {(str(j), str(v)): tuple(sorted(map(str, found))) for j, v, found in sink.rows(sql)}


def among(spans: Sequence[Span]) -> str:
    """A condition on rows with topic, epoch, partition and chunk: those of these spans of chunks."""
    parts = (f"({here(s.origin)} AND chunk >= {s.first} AND chunk < {s.end})" for s in spans)
    return " OR ".join(parts) or "0"


def here(origin: Origin) -> str:
    """A condition on rows with topic, epoch and partition."""
    return f"topic = {_text(origin.topic)} AND epoch = {_text(origin.epoch)} AND partition = {origin.partition}"


def _text(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
