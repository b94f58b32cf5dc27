"""Beginning a replay, taking one up again, and how either ends."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace

from sinks.clickhouse import Sink, SinkError
from sinks.replays import Run, run_of
from streams.clock import WallClock, utc_now
from streams.ledger import Place
from streams.replay import ReplayError
from streams.replay.forward import Job, Show, forward
from streams.replay.journal import (
    Cut,
    Journal,
    abandoned,
    by_name,
    by_place,
    login,
    new_id,
    process_name,
    taken_up,
)
from streams.replay.offsets import Offsets, Span
from streams.replay.pacing import Pace
from streams.replay.selection import Selection
from streams.replay.traces import created_anew, gone, traces
from streams.settings import Settings
from streams.setup import Say


@dataclass(frozen=True)
class Pacing:
    """As it was asked for: `speed` times the original one, None for as fast as can be; at most `rate` records a
    second."""

    speed: float | None = None
    rate: float | None = None


@dataclass(frozen=True)
class Begun:
    """A run that may be gone on with: what to do, from where, and the row that says it is this process that does it.

    `found`: how many records behind `start` were sent already.
    """

    job: Job
    start: Cut
    journal: Journal
    found: int = 0


def command(run_id: str) -> str:
    """What to type to go on with a run."""
    return f"vigie replay --resume {run_id} --no-dry-run"


def begin(
    settings: Settings, sink: Sink, offsets: Offsets, selection: Selection, target: str, spans: Mapping[Place, Span],
    pacing: Pacing,
) -> Begun:  # fmt: skip
    """A new run. Raises BrokerError, SinkError."""
    behind = offsets.ends(Place(target, place.partition) for place in spans)
    start = Cut({place: span.first for place, span in spans.items()}, behind)
    asked = json.loads(selection.to_json()) | {"speed": pacing.speed, "rate": pacing.rate}
    ends = {place: span.end for place, span in spans.items()}
    plan = {"first": by_name(start.next), "end": by_name(ends), "target_first": by_name(behind)}
    run = Run(
        run_id=new_id(),
        kind="replay",
        state="running",
        who=login(),
        process=process_name(),
        started_at=utc_now(),
        source=selection.topic,
        targets=(target,),
        selection=json.dumps(asked),
        plan=json.dumps(plan),
        cut=start.to_json(),
    )
    journal = Journal(run, sink, settings.replay_stale_s)
    journal.open()
    return Begun(Job(run.run_id, selection, spans, target, _expired_ms(offsets, target)), start, journal)


def found(run_id: str, sink: Sink) -> Run:
    """A replay that has not come to its end. Raises ReplayError when there is none of that id, SinkError."""
    run = run_of(run_id, sink)
    if run is None or run.kind != "replay":
        what = "it is a retry: start `vigie dead-letter retry` again" if run else "the table replay_runs has them all"
        raise ReplayError(f"there is no replay {run_id}; {what}")
    return _unfinished(run)


def _unfinished(run: Run) -> Run:
    if run.state == "done":
        raise ReplayError(f"run {run.run_id} is done: {run.sent:,} records were sent, nothing is left")
    return run


def resume(settings: Settings, sink: Sink, offsets: Offsets, run: Run, say: Say) -> Begun:
    """The same run, gone on with behind what it has sent. Raises ReplayError, BrokerError, SinkError."""
    run = _unfinished(abandoned(run, sink, settings.replay_stale_s, say, _busy))
    journal = taken_up(run, sink, settings.replay_stale_s)
    with failing(journal):
        job, start = job_of(run), Cut.of_run(run)
        if places := created_anew(offsets, start.behind) + gone(offsets, start.behind):
            raise ReplayError(
                f"what this run has sent to {places[0].topic}/{places[0].partition} is not all there any more: where "
                "it stopped cannot be known; begin a new run"
            )
        if places := created_anew(offsets, {place: span.end for place, span in job.spans.items()}):
            raise ReplayError(
                f"{places[0].topic}/{places[0].partition} ends before what this run was to read of it: the topic has "
                "been created anew; begin a new run"
            )
        sent, count = dict[Place, int](), 0
        for one, _ in traces(settings, offsets, run.run_id, start.behind):
            place, count = Place(one.topic, one.partition), count + 1
            sent[place] = max(sent.get(place, -1), one.offset)
        job = replace(job, sent=sent, expired_ms=_expired_ms(offsets, job.target))
        return Begun(job, start, journal, count)


def job_of(run: Run) -> Job:
    """What a run was to do, as its row says."""
    plan = json.loads(run.plan)
    first, end = by_place(plan["first"]), by_place(plan["end"])
    spans = {place: Span(first[place], end[place]) for place in first}
    return Job(run.run_id, Selection.of_json(run.selection), spans, run.targets[0])


def pacing_of(run: Run, speed: float | None, rate: float | None) -> Pacing:
    """The pacing of a run, or what is asked for now in its place: a speed of 0 is as fast as can be."""
    asked = json.loads(run.selection)
    return Pacing(asked["speed"] if speed is None else speed or None, rate or asked["rate"])


def _expired_ms(offsets: Offsets, target: str) -> int:
    return offsets.expired_ms(target, WallClock().now_ms())


def _busy(run: Run) -> str:
    if run.state == "running":
        return f"run {run.run_id} is under way: {run.who} on {run.process}; end that process first"
    return f"run {run.run_id} has just ended ({run.state}) on {run.process}: try again"


@contextmanager
def failing(journal: Journal) -> Iterator[None]:
    """What is raised is written into the run's row, too."""
    try:
        yield
    except BaseException as error:
        # Where ClickHouse is away too, the row is left as it is: the run is then one whose process has gone.
        with suppress(SinkError):
            journal.close("failed", str(error) or type(error).__name__)
        raise


def carry_out(
    settings: Settings, offsets: Offsets, begun: Begun, pacing: Pacing, show: Show, stop: Callable[[], bool]
) -> bool:
    """Do a run's work. Returns whether it came to its end before `stop()`. Raises ReplayError, BrokerError,
    SinkError."""
    pace = Pace(pacing.speed, pacing.rate)
    with failing(begun.journal):
        ended = forward(settings, offsets, begun.job, begun.start, begun.journal, pace, show, stop)
    begun.journal.close("done" if ended else "interrupted")
    return ended
