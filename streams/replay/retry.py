"""Dead letters that would be accepted now, back to the topics they came from: each once.

What has been sent is written down in ClickHouse. Between the two a process may die, so a retry first reads from Kafka
what the ones before it had sent and not written down.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from schemas.contracts import DEAD_LETTER_TOPIC, RAW_TOPICS
from schemas.records import Header
from sinks.clickhouse import Sink
from sinks.dead_letters import REPLAY_HEADER, retries_of
from sinks.replays import Refused, Run, store_retried, unsettled_retries
from streams.clock import monotonic_s, utc_now
from streams.ledger import Place
from streams.replay.forward import Show, Standing, slice_s
from streams.replay.hope import Hope
from streams.replay.journal import Cut, Journal, abandoned, by_name, login, new_id, process_name, taken_up
from streams.replay.letters import Letter, Reading, Wanted, letters
from streams.replay.offsets import Offsets
from streams.replay.pacing import Pace
from streams.replay.provenance import ORIGIN_HEADER, RUN_HEADER, marks
from streams.replay.runs import failing
from streams.replay.sender import Sender
from streams.replay.traces import gone, traces
from streams.settings import Settings
from streams.setup import Say

_CUT_S: Final = 2.0
#: So many sent letters are written down at once at the most.
_CUT_LETTERS: Final = 5_000
_OURS: Final = (REPLAY_HEADER, RUN_HEADER, ORIGIN_HEADER)


@dataclass
class Outlook:
    """What a retry sends, and what it leaves and why, by the reason that the letters were refused for."""

    sent: Counter[str] = field(default_factory=Counter)
    left: dict[str, Counter[str]] = field(default_factory=dict)

    def add(self, letter: Letter, why: str | None) -> None:
        if why is None:
            self.sent[letter.told.reason] += 1
        else:
            self.left.setdefault(letter.told.reason, Counter())[why] += 1

    @property
    def reasons(self) -> list[str]:
        return sorted(self.sent.keys() | self.left.keys())

    @property
    def left_out(self) -> Counter[str]:
        return sum(self.left.values(), Counter())


def outlook(hope: Hope, found: Iterable[Letter]) -> Outlook:
    """What would be sent of these letters. Raises as reading and judging them do."""
    seen = Outlook()
    for letter, why in hope.sorted(found):
        seen.add(letter, why)
    return seen


def begin(settings: Settings, sink: Sink, offsets: Offsets, wanted: Wanted, rate: float | None, say: Say) -> Journal:
    """The row of a new retry, once every one before it is settled. Raises ReplayError while another one is under way,
    BrokerError, SinkError."""
    asked = {"reasons": wanted.reasons, "topics": wanted.topics, "from_ms": wanted.from_ms, "to_ms": wanted.to_ms}
    behind = offsets.ends(_targets(offsets, wanted))
    run = Run(
        run_id=new_id(),
        kind="retry",
        state="running",
        who=login(),
        process=process_name(),
        started_at=utc_now(),
        source=DEAD_LETTER_TOPIC,
        targets=wanted.topics or tuple(RAW_TOPICS.values()),
        selection=json.dumps(
            {name: value for name, value in {**asked, "rate": rate}.items() if value not in (None, ())}
        ),
        plan=json.dumps({"target_first": by_name(behind)}),
        cut=Cut(behind=behind).to_json(),
    )
    journal = Journal(run, sink, settings.replay_stale_s)
    # The row first: of two that begin at a time, each sees the other or is seen.
    journal.open()
    try:
        for former in unsettled_retries(sink, run.run_id):
            _settle(former, settings, sink, offsets, say)
    except BaseException as error:
        # It has sent nothing, so nobody needs to look for anything.
        journal.close("interrupted", str(error) or type(error).__name__)
        raise
    return journal


def _settle(run: Run, settings: Settings, sink: Sink, offsets: Offsets, say: Say) -> None:
    """Write down what a retry that was cut short had sent since its last cut."""
    run = abandoned(run, sink, settings.replay_stale_s, say, _busy)
    if run.state not in ("running", "failed"):
        return
    journal = taken_up(run, sink, settings.replay_stale_s)
    with failing(journal):
        start = Cut.of_run(run)
        for place in gone(offsets, start.behind):
            say(
                f"retry {run.run_id} was cut short, and what it may have sent to {place.topic}/{place.partition} is "
                "being deleted already: a letter that it sent last may be sent again"
            )
        starts = offsets.starts(start.behind)
        behind = {place: max(offset, starts[place]) for place, offset in start.behind.items()}
        found = [(one, retries_of(headers)) for one, headers in traces(settings, offsets, run.run_id, behind)]
        store_retried(found, run.run_id, sink)
        journal.note(replace(start, behind=offsets.ends(start.behind), sent=start.sent + len(found)))
    journal.close("interrupted", f"cut short; {len(found)} letters that it had sent last were found in Kafka")


def _busy(run: Run) -> str:
    return f"retry {run.run_id} is under way: {run.who} on {run.process}; wait for it, or end that process first"


def _targets(offsets: Offsets, wanted: Wanted) -> list[Place]:
    return [place for topic in wanted.topics or RAW_TOPICS.values() for place in offsets.places(topic)]


@dataclass(frozen=True)
class Retried:
    """What became of a retry: whether it came to its end before it was stopped."""

    outlook: Outlook
    ended: bool


def retry(
    settings: Settings, sink: Sink, offsets: Offsets, wanted: Wanted, hope: Hope, journal: Journal, met: Reading,
    rate: float | None, show: Show, stop: Callable[[], bool],
) -> Retried:  # fmt: skip
    """Send the letters that would be accepted now, and write down which. Raises BrokerError, ReplayError, SinkError."""
    with failing(journal), Sender(settings, offsets.most_bytes(journal.run.targets), journal.check) as sender:
        work = _Retrying(offsets, sink, journal, sender, Pace(None, rate), stop)
        found = letters(settings, offsets, wanted, met, work.showing(show), stop)
        for letter, why in hope.sorted(found):
            if stop() or not work.take(letter, why):
                break
        work.cut()
    ended = not stop()
    journal.close("done" if ended else "interrupted")
    return Retried(work.outlook, ended)


class _Retrying:
    """The work of `retry`, and its counts."""

    def __init__(
        self, offsets: Offsets, sink: Sink, journal: Journal, sender: Sender, pace: Pace, stop: Callable[[], bool]
    ) -> None:
        self.outlook = Outlook()
        self._offsets = offsets
        self._sink = sink
        self._journal = journal
        self._sender = sender
        self._pace = pace
        self._stop = stop
        self._run = journal.run.run_id.encode()
        self._behind: Mapping[Place, int] = Cut.of_run(journal.run).behind
        self._under_way: list[tuple[Refused, int]] = []
        self._cut_s = monotonic_s() + _CUT_S
        self._read = 0

    def showing(self, show: Show) -> Show:
        """The same, with how many letters are sent in place of how many are wanted."""
        return lambda now: show(replace_sent(now, self.outlook.sent.total()))

    def take(self, letter: Letter, why: str | None) -> bool:
        """Send a letter, or count why not. False when the retry is stopped before its turn comes."""
        if why is None:
            due_s = self._pace.due_s(0, monotonic_s())
            while (wait_s := due_s - monotonic_s()) > 0:
                self._sender.serve(slice_s(wait_s))
                self._tend()
                if self._stop():
                    return False
            self._journal.check()
            # Before it is sent: what a cut is made of is confirmed, so it cannot count what is not handed over.
            self._sender.send(letter.told.topic, None, letter.key, letter.value, self._headers(letter))
            self._under_way.append((letter.refused, letter.told.retries + 1))
        self.outlook.add(letter, why)
        self._read += 1
        self._tend()
        return True

    def _headers(self, letter: Letter) -> list[Header]:
        one = letter.refused
        own = [header for header in letter.told.headers if header[0] not in _OURS]
        count = REPLAY_HEADER, b"%d" % (letter.told.retries + 1)
        return [*own, count, *marks(self._run, one.topic, one.partition, one.offset, one.received_ms)]

    def _tend(self) -> None:
        self._sender.serve()
        self._journal.check()
        if monotonic_s() >= self._cut_s or len(self._under_way) >= _CUT_LETTERS:
            self.cut()

    def cut(self) -> None:
        """Wait until everything sent is confirmed, write it down, and only then say so."""
        self._sender.flush()
        store_retried(self._under_way, self._journal.run.run_id, self._sink)
        self._under_way = []
        self._behind = self._offsets.ends(self._behind)
        left_out = dict(self.outlook.left_out)
        self._journal.note(Cut({}, self._behind, self._read, self.outlook.sent.total(), left_out))
        self._cut_s = monotonic_s() + _CUT_S


def replace_sent(now: Standing, sent: int) -> Standing:
    return replace(now, sent=sent)
