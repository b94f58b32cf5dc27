"""A topic, or a part of it, into another topic: looked at first, then sent.

Each record keeps its key, value, headers, time and the number of its partition. Those of one partition stay in their
order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from streams.clock import monotonic_s
from streams.ledger import Place
from streams.replay import ReplayError
from streams.replay.journal import Cut, Journal
from streams.replay.offsets import Offsets, Span
from streams.replay.pacing import Pace
from streams.replay.provenance import marks
from streams.replay.selection import Judge, Selection
from streams.replay.sender import Sender
from streams.replay.source import Source
from streams.settings import Settings

#: How often everything is waited for, so that the row in ClickHouse tells how far it is. What a killed run has sent
#: since is looked for in the target.
_CUT_S: Final = 2.0
_SLICE_S: Final = 0.1
_LEAST_S: Final = 0.002


@dataclass(frozen=True)
class Standing:
    """How far a run is: offsets passed of all offsets, records read, and sent or to be sent."""

    passed: int
    offsets: int
    read: int
    sent: int


Show = Callable[[Standing], None]


@dataclass
class Part:
    """What would be sent of one partition: how many records, their first and last offset and broker time."""

    records: int = 0
    size_bytes: int = 0
    first_offset: int = -1
    last_offset: int = -1
    first_ms: int = 2**62
    last_ms: int = -(2**62)

    def add(self, message: Any, at_ms: int) -> None:
        """Count one more record."""
        self.records += 1
        self.size_bytes += len(message.value() or b"") + len(message.key() or b"")
        self.last_offset = message.offset()
        if self.first_offset < 0:
            self.first_offset = self.last_offset
        self.first_ms, self.last_ms = min(self.first_ms, at_ms), max(self.last_ms, at_ms)


@dataclass
class Preview:
    """What a run would send of each partition that is read, and what it would leave out, by why."""

    spans: Mapping[Place, Span]
    parts: dict[Place, Part] = field(default_factory=dict)
    left_out: Counter[str] = field(default_factory=Counter)
    expired: int = 0
    """How many of those to be sent are older than the target keeps records."""

    @property
    def records(self) -> int:
        return sum(part.records for part in self.parts.values())


def preview(
    settings: Settings, selection: Selection, spans: Mapping[Place, Span], show: Show, expired_ms: int = -(2**62)
) -> Preview:
    """Read everything and send nothing. `expired_ms`: see `Job`. Raises BrokerError, ReplayError."""
    judge, found = Judge(selection), Preview(spans, {place: Part() for place in spans})
    reached, read = {place: span.first for place, span in spans.items()}, 0
    numbered = {place.partition: place for place in spans}
    with Source(settings, spans) as source:
        for batch in source.batches():
            for message in batch:
                place, (_, at_ms) = numbered[message.partition()], message.timestamp()
                why = judge.leaves_out(message.key(), at_ms)
                if why is None:
                    found.parts[place].add(message, at_ms)
                    found.expired += at_ms < expired_ms
                else:
                    found.left_out[why] += 1
                reached[place] = message.offset() + 1
            read += len(batch)
            show(Standing(_passed(reached, spans), _all(spans), read, found.records))
    return found


@dataclass(frozen=True)
class Job:
    """What a run does. `spans`: what of the source, fixed at the start. `expired_ms`: a record of a time before would
    be deleted from the target at once. `sent`: by partition of the source, the highest offset that is known to be in
    the target; what lies below is not sent again."""

    run_id: str
    selection: Selection
    spans: Mapping[Place, Span]
    target: str
    expired_ms: int = -(2**62)
    sent: Mapping[Place, int] = field(default_factory=dict)


def forward(
    settings: Settings, offsets: Offsets, job: Job, start: Cut, journal: Journal, pace: Pace, show: Show,
    stop: Callable[[], bool],
) -> bool:  # fmt: skip
    """Send what is left of a job behind the cut it starts from. Returns whether it came to its end before `stop()`.

    What was read is confirmed and noted then. Raises BrokerError, and ReplayError also when the journal says so: some
    of what was sent since the last cut may then be on its way.
    """
    with Sender(settings, offsets.most_bytes([job.target]), journal.check) as sender:
        return _Forwarding(offsets, job, start, journal, sender, pace, show, stop).run(settings)


class _Forwarding:
    """The work of `forward`, and its counts."""

    def __init__(
        self, offsets: Offsets, job: Job, start: Cut, journal: Journal, sender: Sender, pace: Pace, show: Show,
        stop: Callable[[], bool],
    ) -> None:  # fmt: skip
        self._offsets = offsets
        self._job = job
        self._judge = Judge(job.selection)
        self._journal = journal
        self._sender = sender
        self._pace = pace
        self._show = show
        self._stop = stop
        self._next = {place: start.next.get(place, span.first) for place, span in job.spans.items()}
        self._read, self._sent, self._left_out = start.read, start.sent, Counter(start.left_out)
        self._numbered = {place.partition: place for place in job.spans}
        self._behind = dict(start.behind)
        self._cut_s, self._shown_s = monotonic_s() + _CUT_S, 0.0
        self._run = job.run_id.encode()

    def run(self, settings: Settings) -> bool:
        spans = {place: Span(self._next[place], span.end) for place, span in self._job.spans.items()}
        with Source(settings, spans, merged=not self._pace.is_free) as source:
            ended = all(self._took(batch) for batch in source.batches())
        if ended:
            # Offsets at the end need not hold records.
            self._next = {place: max(self._next[place], span.end) for place, span in self._job.spans.items()}
        self._cut()
        self._tell()
        return ended

    def _took(self, batch: list[Any]) -> bool:
        """Send a batch. Whether to go on."""
        for message in batch:
            place, (_, at_ms) = self._numbered[message.partition()], message.timestamp()
            why = self._judge.leaves_out(message.key(), at_ms)
            if why is not None:
                self._left_out[why] += 1
            else:
                if message.offset() > self._job.sent.get(place, -1) and not self._send(message, place, at_ms):
                    return False
                self._sent += 1
            self._read += 1
            self._next[place] = message.offset() + 1
        return self._tend()

    def _send(self, message: Any, place: Place, at_ms: int) -> bool:
        """Send one record when its time has come; not at all, and False, when the run is stopped before."""
        if at_ms < self._job.expired_ms:
            raise ReplayError(expired(self._job.target))
        if not self._pace.is_free:
            due_s = self._pace.due_s(at_ms, monotonic_s())
            while (wait_s := due_s - monotonic_s()) > 0:
                self._sender.serve(slice_s(wait_s))
                if not self._tend():
                    return False
        self._journal.check()
        headers = [*(message.headers() or ()), *marks(self._run, place.topic, place.partition, message.offset(), at_ms)]
        self._sender.send(self._job.target, place.partition, message.key(), message.value(), headers, at_ms)
        return True

    def _tend(self) -> bool:
        """What is to be done now and then. Whether to go on."""
        self._sender.serve()
        self._journal.check()
        if monotonic_s() >= self._cut_s:
            self._cut()
        if monotonic_s() >= self._shown_s:
            self._tell()
        return not self._stop()

    def _tell(self) -> None:
        self._show(Standing(_passed(self._next, self._job.spans), _all(self._job.spans), self._read, self._sent))
        self._shown_s = monotonic_s() + _SLICE_S

    def _cut(self) -> None:
        self._sender.flush()
        ends = self._offsets.ends(Place(self._job.target, place.partition) for place in self._job.spans)
        for place, reached in self._next.items():
            # What is skipped because it is there already has its traces further back: they will be looked for again.
            if reached > self._job.sent.get(place, -1):
                there = Place(self._job.target, place.partition)
                self._behind[there] = ends[there]
        self._journal.note(Cut(dict(self._next), dict(self._behind), self._read, self._sent, dict(self._left_out)))
        self._cut_s = monotonic_s() + _CUT_S


def slice_s(wait_s: float) -> float:
    """For how long the client is to wait when there is so much time: it counts in milliseconds, and none is no wait.
    What goes out late then is made up for by what follows."""
    return min(max(wait_s, _LEAST_S), _SLICE_S)


def expired(target: str) -> str:
    """What is wrong with records that are older than a topic keeps them, and what to do."""
    return (
        f"{target} keeps records for its retention.ms by the time that they bear, and would delete what is older "
        "at once: set retention.ms=-1 on it, or message.timestamp.type=LogAppendTime"
    )


def _passed(reached: Mapping[Place, int], spans: Mapping[Place, Span]) -> int:
    return sum(reached[place] - span.first for place, span in spans.items())


def _all(spans: Mapping[Place, Span]) -> int:
    return sum(map(len, spans.values()))
