"""Window totals are the stored events: once as readers see them, once row by row and chunk by chunk.

The first asks ClickHouse alone to count both sides. The second makes the window rows again from the stored events, with
the code that made them, and compares every column.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import polars as pl

from processors.aggregate import WINDOW_SCHEMA
from sinks import audited, audited_windows
from sinks.audited import END, Mark, Span
from sinks.clickhouse import Sink
from sinks.rows import Origin
from streams.audit.accounting import Extent
from streams.audit.differences import SOME, Findings
from streams.repair import WINDOW_KEY, Layers, expected

_VALUES: Final = tuple(name for name in WINDOW_SCHEMA if name not in WINDOW_KEY)
#: Windows that are listed when totals differ.
_LISTED: Final = 1_000


@dataclass(frozen=True)
class ChunkDifference:
    """One chunk whose window rows are not those of its events.

    `right`: all rows there should be (WINDOW_SCHEMA); `wrong`: rows that are shown and should not be at all; `missing`
    and `changed` count the others. `next_offset` follows its last stored event.
    """

    origin: Origin
    chunk: int
    next_offset: int
    right: pl.DataFrame
    wrong: pl.DataFrame
    missing: int
    changed: int
    events: int
    shown_events: int


def spans(extents: Sequence[Extent], sink: Sink, *, strict_end: bool) -> list[Span]:
    """The chunks to compare of each partition: all that have events within its extent, but for those that a worker is
    at. With `strict_end` there is none."""
    found = []
    for extent in extents:
        first, end = -1, END
        if not extent.whole:
            held = audited.chunk_bounds(extent.span, sink)
            if held is None:
                continue
            first, end = held[0], held[1] + 1
        found.append(Span(extent.origin, first, end))
    return found if strict_end else at_rest(found, extents, sink)


def at_rest(compared: Sequence[Span], extents: Sequence[Extent], sink: Sink) -> list[Span]:
    """The same spans without the chunks that somebody has been at since the snapshots of the extents were read.

    They change while they are compared. Chunks that were over in the snapshot never do.
    """
    marks = {extent.origin: extent.mark for extent in extents}
    kept = []
    for span in compared:
        mark = marks[span.origin]
        if mark is None:
            continue
        if audited.mark(span.origin, sink) != mark or audited.beyond(span.origin, mark.next_offset, sink).records:
            span = Span(span.origin, span.first, min(span.end, open_chunk(span.origin, mark, sink)))
        if span.end > span.first:
            kept.append(span)
    return kept


def open_chunk(origin: Origin, mark: Mark, sink: Sink) -> int:
    """The first chunk that may be open in a snapshot: the last one that has events. Those before it are over."""
    held = audited.chunk_bounds(Span(origin, 0, mark.next_offset), sink)
    return mark.next_offset if held is None else held[1]


def totals(compared: Sequence[Span], *, everything: bool, sink: Sink) -> Findings:
    """Compare the event counts of windows with the stored events, by layer, zone, kind and minute.

    `everything`: as the view `windows` shows them, which is what readers see.
    """
    findings = Findings()
    wrong = audited_windows.wrong_totals(None if everything else compared, _LISTED, sink)
    if wrong.is_empty():
        return findings
    total = int(wrong["windows"][0])
    for (jurisdiction, layer), rows in wrong.group_by(["jurisdiction_id", "layer"], maintain_order=True):
        shown, stored = int(rows["shown"].sum()), int(rows["stored"].sum())
        examples = [
            f"{r['metric']} in {r['zone_code'] or '(no zone)'} at {r['window_start']:%Y-%m-%d %H:%M} shows "
            f"{r['shown']:,} for {r['stored']:,}"
            for r in rows.head(SOME).to_dicts()
        ]
        findings.add(
            "window_totals",
            f"{jurisdiction} {layer}",
            "; ".join(examples) + (" …" if len(rows) > SOME else ""),
            {"windows": len(rows), "shown": shown, "stored": stored},
            f"{len(rows):,} windows of the layer {layer} show {shown:,} events where {stored:,} are stored"
            + (f" (of {total:,} windows in all, the largest differences are listed)" if total > len(wrong) else "")
            + ". `vigie audit --repair` makes them again from the stored events",
        )
    return findings


def differing(span: Span, layers: Layers, sink: Sink) -> Iterator[ChunkDifference]:
    """Chunks of the span whose window rows are not those of their stored events, in order, in bounded memory."""
    for part in audited.parts_of(span, audited.chunks(span, sink)):
        events = audited_windows.chunks_events(part, sink)
        shown = _typed(audited_windows.chunks_windows(part, sink))
        numbers = {*shown["chunk"].unique()} | (set() if events.is_empty() else {*events["chunk"].unique()})
        for chunk in sorted(numbers):
            mine = events if events.is_empty() else events.filter(pl.col("chunk") == chunk)
            found = compare(span.origin, chunk, mine, shown.filter(pl.col("chunk") == chunk), layers)
            if found is not None:
                yield found


def _typed(shown: pl.DataFrame) -> pl.DataFrame:
    """Stored window rows in the types of the stages; an empty answer has no columns."""
    types = {**WINDOW_SCHEMA, "chunk": pl.Int64()}
    if shown.is_empty():
        return pl.DataFrame(schema=types)
    return shown.select(*types).cast(types)  # type: ignore[arg-type]


def compare(
    origin: Origin, chunk: int, events: pl.DataFrame, shown: pl.DataFrame, layers: Layers
) -> ChunkDifference | None:
    """One chunk's stored events against its window rows (WINDOW_SCHEMA); None where they agree."""
    right = expected(origin, events, layers)
    both = right.join(shown, on=list(WINDOW_KEY), how="inner", suffix="_shown")
    same = pl.all_horizontal(pl.col(name) == pl.col(f"{name}_shown") for name in _VALUES)
    changed = len(both) - int(both.select(same.sum()).item() or 0)
    wrong = shown.join(right, on=list(WINDOW_KEY), how="anti")
    missing = len(right) - len(both)
    if not (changed or missing or len(wrong)):
        return None
    is_events = pl.col("metric").str.ends_with(".events")
    by_layer = shown.filter(is_events).group_by("layer").agg(pl.col("count").sum())["count"].to_list()
    return ChunkDifference(
        origin=origin,
        chunk=chunk,
        next_offset=chunk if events.is_empty() else max(events["offset"].to_list()) + 1,
        right=right,
        wrong=wrong.select(*WINDOW_SCHEMA),
        missing=missing,
        changed=changed,
        events=len(events),
        shown_events=max(by_layer, default=0),
    )


def check(compared: Sequence[Span], sink: Sink) -> Findings:
    """Compare window rows chunk by chunk."""
    findings, layers = Findings(), audited.layers(sink)
    for span in compared:
        for one in differing(span, layers, sink):
            findings.add(
                "window_rows",
                f"{one.origin.topic}/{one.origin.partition}",
                f"chunk {one.chunk}",
                {
                    "missing": one.missing,
                    "changed": one.changed,
                    "unfounded": len(one.wrong),
                    "shown_events": one.shown_events,
                    "stored_events": one.events,
                },
                f"window rows of the chunk that begins at offset {one.chunk:,} are not those of its {one.events:,} "
                f"stored events: {one.missing:,} missing, {one.changed:,} with other values, {len(one.wrong):,} that "
                "no event stands for. `vigie audit --repair` makes them again from the stored events",
            )
    return findings
