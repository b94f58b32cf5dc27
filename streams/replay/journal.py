"""The row of a run: written every few seconds while its process lives, so that no two processes do the same work.

A process that has not been able to write it for most of the time after which another may take over stops by itself.
"""

from __future__ import annotations

import json
import os
import pwd
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from secrets import token_hex
from typing import Final

from sinks.clickhouse import Sink, SinkError
from sinks.replays import Run, RunState, run_of, store_run
from streams.clock import boot_s, sleep_s, utc_now
from streams.ledger import Place
from streams.replay import ReplayError
from streams.setup import Say

#: How often the row is written within the time after which a run counts as abandoned.
_BEATS: Final = 10
#: Whoever takes a run up looks again after this part of that time whether somebody else has, too.
_SETTLED: Final = 20
_LAST_WORD_S: Final = 2.0
#: The part of that time after which a process that could not write its row stops: the rest is for what is under way.
_SILENT: Final = 2 / 3


@dataclass(frozen=True)
class Cut:
    """How far a run had come when everything before was confirmed by Kafka.

    `next`: the next offset to read of each partition of the source. `behind`: whatever the run sends later to a
    partition of a target lies at this offset or a later one. `left_out`: records that were read and not sent, by why.
    """

    next: Mapping[Place, int] = field(default_factory=dict)
    behind: Mapping[Place, int] = field(default_factory=dict)
    read: int = 0
    sent: int = 0
    left_out: Mapping[str, int] = field(default_factory=dict)

    def to_json(self) -> str:
        return json.dumps({"next": by_name(self.next), "behind": by_name(self.behind)})

    @classmethod
    def of_run(cls, run: Run) -> Cut:
        """The cut that a run's row holds."""
        found = json.loads(run.cut)
        return cls(by_place(found["next"]), by_place(found["behind"]), run.read, run.sent, run.left_out)


def by_name(offsets: Mapping[Place, int]) -> dict[str, int]:
    """Offsets as JSON has them: by `topic/partition`."""
    return {f"{place.topic}/{place.partition}": offset for place, offset in sorted(offsets.items())}


def by_place(offsets: Mapping[str, int]) -> dict[Place, int]:
    """And back."""
    parted = {name.rpartition("/")[::2]: offset for name, offset in offsets.items()}
    return {Place(topic, int(number)): offset for (topic, number), offset in parted.items()}


def new_id() -> str:
    """An id for a run: when it began, so that a list of them is in order, and something that makes it the only one."""
    return f"{utc_now():%Y%m%d-%H%M%S}-{token_hex(3)}"


def login() -> str:
    """Who runs this process: the login name, or the number where there is none, as in many containers."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return f"uid {os.geteuid()}"


def process_name() -> str:
    """This process, as a person finds it, and unlike any that had its number before."""
    return f"{os.uname().nodename}, process {os.getpid()} ({token_hex(4)})"


class Journal:
    """Keeps one run's row. Made for a run that begins; `taken_up` makes it for one that goes on."""

    def __init__(self, run: Run, sink: Sink, stale_s: float) -> None:
        self._run = run
        self._sink = sink
        self._stale_s = stale_s
        self._stop = threading.Event()
        self._told_s = boot_s()
        self._written = 0
        self._other: str | None = None
        self._away = ""
        self._thread = threading.Thread(target=self._keep, name="journal", daemon=True)

    @property
    def run(self) -> Run:
        """The run as it stands."""
        return self._run

    def open(self) -> None:
        """Write the row, and go on writing it. Raises SinkError."""
        self._write(self._sink)
        self._thread.start()

    def note(self, cut: Cut) -> None:
        """From now on the row tells of this cut. For the thread that does the run's work."""
        self._run = replace(self._run, cut=cut.to_json(), read=cut.read, sent=cut.sent, left_out=dict(cut.left_out))

    def check(self) -> None:
        """Raises ReplayError when another process has the run, or when it cannot be told any more that this one has."""
        if self._other is not None:
            raise ReplayError(f"another process has taken the run up: {self._other}")
        silent_s = boot_s() - self._told_s
        if silent_s > _SILENT * self._stale_s:
            raise ReplayError(
                f"ClickHouse could not be told for {silent_s:.0f} s that this run goes on: another process might begin "
                f"to do the same{': ' if self._away else ''}{self._away}"
            )

    def close(self, state: RunState, problem: str = "") -> None:
        """Write the row for the last time. Raises SinkError; then the run counts as abandoned after a while.

        For a run that has failed nobody waits long: what it was may be ClickHouse.
        """
        self.leave()
        if self._other is None:
            self._run = replace(self._run, state=state, problem=problem, ended_at=utc_now())
            quick = min(_LAST_WORD_S, self._sink.retry_budget_s)
            self._write(replace(self._sink, retry_budget_s=quick) if state == "failed" else self._sink)

    def leave(self) -> None:
        """Leave the row to whoever has it now."""
        self._stop.set()
        self._thread.join()

    def _keep(self) -> None:
        sink = self._sink.until(self._stop)
        while not self._stop.wait(self._stale_s / _BEATS):
            try:
                found = run_of(self._run.run_id, sink)
                if found is not None and found.process != self._run.process:
                    self._other = found.process
                    return
                self._write(sink)
            except SinkError as error:
                self._away = str(error)

    def _write(self, sink: Sink) -> None:
        begun_s = boot_s()
        self._written += 1
        store_run(self._run, sink, f"{self._run.process}|{self._written}")
        # Since when another process sees that it goes on, at the latest: not since the answer came.
        self._told_s = begun_s


def abandoned(run: Run, sink: Sink, stale_s: float, say: Say, what: Callable[[Run], str]) -> Run:
    """The run once it is sure that its former process does nothing more. Waits until its row would be stale.

    Raises ReplayError as soon as the row moves: `what` then says of the run what is to be done.
    """
    first = run
    if run.state == "running" and run.age_s < stale_s:
        say(f"run {run.run_id} may still be under way on {run.process}: watching it for {stale_s - run.age_s:.0f} s")
    while run.state == "running" and run.age_s < stale_s:
        sleep_s(min(0.5, stale_s / _BEATS))
        run = run_of(run.run_id, sink) or run
        if run.process != first.process or (run.state == "running" and run.updated_at != first.updated_at):
            raise ReplayError(what(run))
    return run


def taken_up(run: Run, sink: Sink, stale_s: float) -> Journal:
    """The journal of an abandoned run, for this process alone. Raises ReplayError when another one was as quick."""
    mine = replace(run, state="running", process=process_name(), who=login(), ended_at=None, problem="")
    journal = Journal(mine, sink, stale_s)
    journal.open()
    sleep_s(stale_s / _SETTLED)
    found = run_of(run.run_id, sink)
    if found is None or found.process != mine.process:
        journal.leave()
        raise ReplayError(f"run {run.run_id} has just been taken up by {found.process if found else 'nobody known'}")
    return journal
