"""`--repair`: chunks whose window rows are not what their stored events give are written again.

Under a new term, so that what is written outranks everything that is there. A chunk that is over is nobody's any more
and is always safe to write; the open chunk of a partition belongs to its worker, and is written only where there is
none. Claiming a term takes nothing from a live worker: it goes on with its open chunk, and at the next rebalance claims
a higher one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from secrets import token_hex

from sinks import audited, stored
from sinks.audited import Mark, Span
from sinks.clickhouse import Sink
from sinks.rows import Origin
from sinks.store import ChunkPart, store_windows
from streams.audit.accounting import Extent
from streams.audit.windows import ChunkDifference, differing, open_chunk
from streams.clock import utc_now
from streams.repair import whole_chunk


@dataclass
class Repaired:
    """Chunks written again, and sentences about those that were not."""

    chunks: list[tuple[str, int]] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, object]:
        return {"chunks": [{"place": place, "chunk": chunk} for place, chunk in self.chunks], "refused": self.refused}


def repair(extents: Sequence[Extent], compared: Sequence[Span], sink: Sink, *, idle: bool) -> Repaired:
    """Write the chunks of these spans again that differ. `idle`: no worker runs on this database.

    Raises SinkError; what is written then is right, and repairing again goes on from there.
    """
    done, layers, owner = Repaired(), audited.layers(sink), f"audit-{token_hex(4)}"
    marks = {extent.origin: extent.mark for extent in extents}
    for span in compared:
        claimed: Origin | None = None
        place, mark = f"{span.origin.topic}/{span.origin.partition}", marks.get(span.origin)
        still_open = -1 if mark is None else open_chunk(span.origin, mark, sink)
        for one in differing(span, layers, sink):
            if not idle and one.chunk >= still_open:
                done.refused.append(
                    f"{place}, chunk {one.chunk}: it may be open, and workers may be running. Stop them, repair, and "
                    "start them again"
                )
                continue
            claimed = claimed or _claimed(span.origin, owner, sink)
            if claimed is None:
                done.refused.append(f"{place}: a worker has just taken it over; repair again")
                break
            store_windows([_part(one, claimed, mark)], sink)
            done.chunks.append((place, one.chunk))
    return done


def _claimed(origin: Origin, owner: str, sink: Sink) -> Origin | None:
    """The partition under a term of our own; None where somebody claims it at this very instant."""
    term = stored.terms([origin], sink)[origin.topic, origin.partition] + 1
    claimed = replace(origin, term=term)
    # Kafka has given us nothing: in the name of no generation, so that every worker goes before us.
    stored.claim([claimed], owner, 0, utc_now(), sink)
    return None if stored.rivals([claimed], owner, sink) else claimed


def _part(one: ChunkDifference, claimed: Origin, mark: Mark | None) -> ChunkPart:
    # Not beyond the snapshot: recovery would take it back.
    next_offset = one.next_offset if mark is None else min(one.next_offset, mark.next_offset)
    return whole_chunk(claimed, one.chunk, next_offset, one.right, one.wrong)
