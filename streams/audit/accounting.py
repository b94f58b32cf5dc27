"""Every record that was offered is stored or rejected, once: offsets counted against offsets, by partition."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from sinks import audited
from sinks.audited import Account, Beyond, Mark, Span
from sinks.clickhouse import Sink
from sinks.rows import Origin
from streams.audit import kafka
from streams.audit.differences import Findings, length, ranges, some
from streams.audit.kafka import Facts
from streams.ledger import Place
from streams.settings import Settings

#: Offsets that are listed of one kind, at most.
_LISTED: Final = 1_000


@dataclass(frozen=True)
class Extent:
    """What of a partition is judged: the offsets from `first` on, before `end`.

    `mark` is the newest snapshot: up to there everything must be durable. `kafka` are the first offset that Kafka still
    keeps and its end, None for a topic that is gone or was not asked for. `whole` says that no time range cut it.
    """

    origin: Origin
    first: int
    end: int
    mark: Mark | None
    kafka: tuple[int, int] | None
    committed: int | None
    whole: bool

    @property
    def place(self) -> str:
        return f"{self.origin.topic}/{self.origin.partition}"

    @property
    def span(self) -> Span:
        return Span(self.origin, self.first, self.end)


@dataclass(frozen=True)
class Accounted:
    """A partition's account. `gaps` are offsets that never held a record; `beyond` is stored past the snapshot."""

    extent: Extent
    account: Account
    records: int
    gaps: int
    missing: int
    beyond: Beyond | None
    repeated: int

    def to_dict(self) -> dict[str, Any]:
        extent, account = self.extent, self.account
        return {
            "topic": extent.origin.topic,
            "epoch": extent.origin.epoch,
            "partition": extent.origin.partition,
            "first_offset": extent.first,
            "next_offset": extent.end,
            "snapshot_offset": None if extent.mark is None else extent.mark.next_offset,
            "committed_offset": extent.committed,
            "kafka_first_offset": None if extent.kafka is None else extent.kafka[0],
            "kafka_next_offset": None if extent.kafka is None else extent.kafka[1],
            "records": self.records,
            "stored": account.stored,
            "rejected": account.rejected - account.duplicates,
            "duplicates": account.duplicates,
            "reasons": account.reasons,
            "missing": self.missing,
            "without_record": self.gaps,
            "older_duplicates": self.repeated,
            "unmerged_copies": account.copies,
            "beyond_snapshot": None if self.beyond is None else asdict(self.beyond),
        }


def extents(
    settings: Settings,
    sink: Sink,
    found: Facts | None,
    *,
    from_ms: int | None,
    to_ms: int | None,
    topic: str | None,
    partition: int | None,
    strict_end: bool,
) -> list[Extent]:
    """What is to be judged: every partition of every epoch that is stored, and those that Kafka has.

    A time range becomes a range of offsets: from the first to the last that was received in it.
    """
    origins = set(audited.places(sink))
    if found is not None:
        origins |= {Origin(p.topic, p.partition, found.epochs.get(p.topic, "")) for p in found.bounds}
    wanted = sorted(
        (o for o in origins if topic in (None, o.topic) and partition in (None, o.partition)),
        key=lambda o: (o.topic, o.partition, o.epoch),
    )
    timed = from_ms is not None or to_ms is not None
    current = [Place(o.topic, o.partition) for o in wanted if _is_current(o, found)]
    starts = kafka.offsets_at(settings, current, from_ms) if found is not None and from_ms is not None else {}
    stops = kafka.offsets_at(settings, current, to_ms) if found is not None and to_ms is not None else {}
    judged = []
    for origin in wanted:
        place = Place(origin.topic, origin.partition)
        bounds = found.bounds.get(place) if found is not None and _is_current(origin, found) else None
        extent = Extent(
            origin=origin,
            first=0,
            end=0,
            mark=audited.mark(origin, sink),
            kafka=bounds,
            committed=found.committed.get(place) if found is not None and bounds is not None else None,
            whole=not timed,
        )
        stored = audited.bounds(origin, from_ms, to_ms, sink)
        offered = None if bounds is None else (starts.get(place, bounds[0]), stops.get(place, bounds[1]))
        first, end = _union(stored, offered)
        if not timed and extent.mark is not None:
            # Whatever is stored of it: the snapshot says that it has come so far.
            end = max(end, extent.mark.next_offset)
        limit = end
        if not strict_end:
            # Without a snapshot nobody says that anything is done.
            limit = first if extent.mark is None else min(end, extent.mark.next_offset)
        if end > first or extent.mark is not None:
            judged.append(replace(extent, first=min(first, limit), end=limit))
    return judged


def _is_current(origin: Origin, found: Facts | None) -> bool:
    return found is not None and found.epochs.get(origin.topic, "") == origin.epoch


def _union(one: tuple[int, int] | None, other: tuple[int, int] | None) -> tuple[int, int]:
    given = [bounds for bounds in (one, other) if bounds is not None and bounds[1] > bounds[0]]
    if not given:
        return other or one or (0, 0)
    return min(first for first, _ in given), max(end for _, end in given)


def check(settings: Settings, extent: Extent, sink: Sink, *, strict_end: bool) -> tuple[Accounted, Findings]:
    """Account for the offsets of one partition."""
    findings, span = Findings(), extent.span
    account = audited.account(span, sink)
    gaps = audited.missing(span, sink) if account.known < span.end - span.first else []
    lost, without = _judge_gaps(settings, extent, gaps, findings)
    _judge_repeats(extent, account, findings, sink)
    beyond = None
    if extent.mark is not None:
        beyond = audited.beyond(extent.origin, extent.mark.next_offset, sink)
        _judge_beyond(extent, extent.mark, beyond, strict_end, findings)
    else:
        findings.notes.append(
            f"{extent.place}: there is no snapshot, and nobody says how far it has come; see --strict-end"
        )
    _judge_end(extent, strict_end, findings)
    repeated = audited.repeated(span, sink)
    if repeated:
        findings.notes.append(
            f"{extent.place}: {repeated:,} stored events bear the (source, event_id) of another: duplicates that came "
            "when the two chunks that remember them were over"
        )
    records = span.end - span.first - length(without)
    return Accounted(extent, account, records, length(without), length(lost), beyond, repeated), findings


_Ranges = list[tuple[int, int]]


def _judge_gaps(settings: Settings, extent: Extent, gaps: _Ranges, findings: Findings) -> tuple[_Ranges, _Ranges]:
    """What is neither stored nor rejected, by whether Kafka has a record there. Returns (lost, without a record)."""
    if not gaps:
        return [], []
    start, end = extent.kafka if extent.kafka is not None else (2**62, 2**62)
    seen = [(max(first, start), min(last, end)) for first, last in gaps if last > start and first < end]
    unseen = [(first, min(last, start)) for first, last in gaps if first < start]
    place = Place(extent.origin.topic, extent.origin.partition)
    held = kafka.records_at(settings, place, seen) if seen else []
    reached = 0 if extent.mark is None else extent.mark.next_offset
    if lost := [offset for offset in held if offset < reached]:
        findings.add(
            "missing",
            extent.place,
            f"offsets {ranges(_runs(lost))}",
            {"missing": len(lost)},
            f"Kafka has {len(lost):,} records that are neither stored nor rejected, though the newest snapshot is past "
            "them. Keep the topic as it is and report this: it is a bug, or rows were deleted. To have the last chunk "
            "read again, stop the workers, delete the partition's row in `snapshots` and start them",
        )
    if waiting := [offset for offset in held if offset >= reached]:
        findings.add(
            "not_processed",
            extent.place,
            f"offsets {ranges(_runs(waiting))}",
            {"missing": len(waiting)},
            f"Kafka has {len(waiting):,} records that no worker has finished. Start one and let it catch up",
        )
    if unseen:
        gone = extent.kafka is not None
        findings.add(
            "missing_unseen",
            extent.place,
            f"offsets {ranges(unseen)}",
            {"missing": length(unseen)},
            f"{length(unseen):,} offsets are neither stored nor rejected, and "
            + ("Kafka no longer keeps them" if gone else "Kafka was not asked, or the topic was created anew since")
            + ": they are lost unless they never held a record (transaction markers, compaction). "
            + ("Was retention shorter than an outage? See VIGIE_RETENTION_DAYS" if gone else "Audit with Kafka"),
        )
    return _runs(held) + unseen, _without(seen, held)


def _runs(offsets: list[int]) -> _Ranges:
    found: _Ranges = []
    for offset in sorted(offsets):
        if found and found[-1][1] == offset:
            found[-1] = (found[-1][0], offset + 1)
        else:
            found.append((offset, offset + 1))
    return found


def _without(wanted: _Ranges, held: list[int]) -> _Ranges:
    """Ranges without the offsets in `held`."""
    left, here = [], _runs(held)
    for first, end in wanted:
        at = first
        for start, stop in here:
            if first <= start < end:
                if start > at:
                    left.append((at, start))
                at = stop
        if at < end:
            left.append((at, end))
    return left


def _judge_repeats(extent: Extent, account: Account, findings: Findings, sink: Sink) -> None:
    if account.both:
        found = audited.in_both(extent.span, _LISTED, sink)
        findings.add(
            "stored_and_rejected",
            extent.place,
            f"offsets {some(found)}",
            {"offsets": account.both},
            f"{account.both:,} records are stored as events and rejected as well, so they are counted twice. Compare "
            "`term` of both rows: the higher one is the newer owner's; delete the other row",
        )
    if account.stored_rows > account.stored:
        table = audited.table_of(extent.origin.topic)
        found = audited.twice(extent.span, _LISTED, sink)
        findings.add(
            "stored_twice",
            extent.place,
            f"offsets {some(found)}",
            {"rows": account.stored_rows, "offsets": account.stored},
            f"{account.stored_rows - account.stored:,} more rows than offsets in {table}: one record stands there "
            "under several sorting keys and is counted several times. Compare `term`: the highest is the newest "
            "owner's; delete the others",
        )
    if account.copies:
        findings.notes.append(
            f"{extent.place}: {account.copies:,} rows are copies that ClickHouse will merge away; readers with FINAL "
            "do not see them"
        )


def _judge_beyond(extent: Extent, mark: Mark, beyond: Beyond, strict_end: bool, findings: Findings) -> None:
    if not any(asdict(beyond).values()):
        return
    counted = ", ".join(f"{n:,} {name.replace('_', ' ')}" for name, n in asdict(beyond).items() if n)
    if strict_end:
        findings.add(
            "beyond_snapshot",
            extent.place,
            f"from offset {mark.next_offset}",
            asdict(beyond),
            f"{counted} beyond the newest snapshot: a worker died and none has taken the partition up since. Start "
            "one, let it catch up and stop it",
        )
    else:
        findings.notes.append(
            f"{extent.place}: {counted} beyond the newest snapshot (offset {mark.next_offset:,}): a worker is at "
            "it, or died there; the next owner settles it"
        )


def _judge_end(extent: Extent, strict_end: bool, findings: Findings) -> None:
    if extent.mark is None:
        return
    reached = extent.mark.next_offset
    if extent.committed is not None and extent.committed > reached:
        findings.add(
            "committed_too_far",
            extent.place,
            f"offset {extent.committed}",
            {"committed": extent.committed, "durable": reached},
            f"the group has committed offset {extent.committed:,}, but only {reached:,} is in a snapshot. Workers go "
            "by the snapshot, so nothing is lost by that; tools that show lag show too little",
        )
    if extent.kafka is None or not extent.whole:
        return
    lag = extent.kafka[1] - reached
    if lag < 0:
        findings.add(
            "not_produced",
            extent.place,
            f"offsets {extent.kafka[1]}-{reached - 1}",
            {"offsets": -lag},
            f"the snapshot is at offset {reached:,}, and Kafka ends at {extent.kafka[1]:,}: Kafka has lost records (an "
            "unclean leader election?). Create the topic anew",
        )
    elif lag and not strict_end:
        findings.notes.append(f"{extent.place}: {lag:,} offsets wait to be processed")
