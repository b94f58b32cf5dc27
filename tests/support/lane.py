"""One lane of the crash sweep: a broker, a webhook receiver, a load, and lives of a worker that may be cut short.

A *world* is a consumer group and a ClickHouse directory; a new one reads the same log from its beginning. A *life* is
one worker process: it works off what is waiting, is left alone for a moment, gets more records, and SIGTERM among them.

Longer than 400 lines because worlds, lives and what must hold of them are one state.
"""

from __future__ import annotations

import base64
import contextlib
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from enum import StrEnum
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from schemas.contracts import ALERT_TOPIC, DOMAINS, RAW_TOPICS
from streams.broker import leader_topic
from streams.territory.files import versioned, write
from tests.support import oracles
from tests.support.kafka import Kafka, real_kafka
from tests.support.load import MOST_PER_PARTITION, SPAN_MS, Load, territory
from tests.support.oracles import Place, Reader, Told
from tests.support.pipeline import ROOT, environment, send, succeeded, vigie
from tests.support.receiver import Answer, Received, WebhookReceiver, status
from tests.support.stepped import Kill, Trace, read
from tests.support.topics import Topics

SECRET: Final = "whsec_" + base64.b64encode(b"0123456789abcdef0123456789abcdef").decode()

_PARTITIONS: Final = 2
#: When records were sent that Kafka does not have any more: long before the others.
_BEFORE_MS: Final = 1_700_000_000_000
#: A worker takes two to three seconds on a quiet machine.
_PATIENCE_S: Final = 60.0
_TROUBLED_S: Final = 15.0
_POLL_S: Final = 0.03
#: Of so many news one is put off, and of so many one is taken slowly.
_BUSY: Final = 5
_SLOW: Final = 3
_SLOWLY_S: Final = 0.2
#: Between two looks at the zones, so that some fall into every sweep.
_STEP_S: Final = 120
#: Records are in the topics within this.
_SENDING_S: Final = 3.0
#: Longer than the idle grace and the worker's looks at it together, on a machine that is not busy.
_QUIET_S: Final = 1.8
#: On one that is, or with a leader that is found late, so many looks at the zones say that time has passed.
_LOOKS: Final = 4
_LOOKED: Final = "streams/worker.py | Worker._watch | await whole(self._look_at_zones()) | after"
#: Within this the records that come just before SIGTERM are fetched, processed or flushed, as it happens.
_LATEST_TERM_S: Final = 0.25

#: What makes a life short, and everything in it happen: chunks that close, flushes and looks that come often.
SETTINGS: Final[Mapping[str, object]] = {
    "partitions": _PARTITIONS,
    # A member that was killed is replaced by its successor at once, instead of after its session.
    "instance_id": "sweep",
    "flush_interval_s": 0.1,
    "linger_s": 0.01,
    "batch_records": 20,
    # So little that fetching has to stop in between.
    "flush_rows": 10,
    "chunk_records": 2 * MOST_PER_PARTITION,
    "disorder_s": 0.2,
    "idle_grace_s": 0.3,
    "snapshot_interval_s": 0.2,
    "zone_watch_interval_s": 0.4,
    "drain_timeout_s": 20,
    "log_batches": "false",
    # So little that what the receiver puts off is given up, and told again after a pause.
    "webhook_budget_s": 0.1,
}
#: Limits of the code that so small and short a load would never meet.
_CONSTANTS: Final[Mapping[str, int]] = {
    "streams.notify._MOST_WAITING": 1,
    "streams.zone_watch.STEP_MS": _STEP_S * 1_000,
}

_PLACE: Final = "topic, partition, offset"
#: What one log must always give, without what says who wrote it and when. `received_at` is the broker's, and equal.
_TABLES: Final = {
    **{f"events_{d}": f"SELECT * EXCEPT('^term$') FROM events_{d} FINAL ORDER BY {_PLACE}" for d in DOMAINS},
    "rejects": f"SELECT {_PLACE}, received_at, stage, reason, detail FROM rejects FINAL ORDER BY {_PLACE}",
    "windows": "SELECT * FROM windows ORDER BY ALL",
    "asset_state": "SELECT * FROM asset_state FINAL ORDER BY ALL",
}
#: The newest of each alert. What a look at the zones brought after an instant depends on when somebody asks.
_ALERTS: Final = """
SELECT * FROM (
    SELECT * EXCEPT (transition_id, sequence, topic, epoch, partition, offset),
        countIf(state = 'firing') OVER (PARTITION BY fingerprint, starts_at) > 0 AS fired
    FROM alert_transitions FINAL WHERE topic != '' OR at <= fromUnixTimestamp64Milli({})
    ORDER BY sequence DESC LIMIT 1 BY fingerprint, starts_at
) ORDER BY ALL
"""


class Began(StrEnum):
    """What a life finds: nothing, what an ended one left, or a killed one, no snapshots, those of other code."""

    NEW = "new"
    CLEAN = "clean"
    CRASHED = "crashed"
    LOST = "lost"
    UPGRADED = "upgraded"


class Phase(StrEnum):
    """Where in a life: working off what waits, left alone, ending among new records."""

    BACKLOG = "backlog"
    QUIET = "quiet"
    END = "end"


PHASES: Final = tuple(Phase)


class Course(StrEnum):
    """How far a life is led: all its phases; no new records; ended as soon as it has caught up."""

    WHOLE = "whole"
    RESTED = "rested"
    CAUGHT_UP = "caught up"


@dataclass
class Life:
    """What became of one worker process. `marks`: how many steps it had reached when a phase began."""

    began: Began
    is_troubled: bool = False
    code: int = 0
    trace: Trace = field(default_factory=Trace)
    marks: dict[Phase, int] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    wrote: str = ""

    @property
    def killed(self) -> bool:
        return self.code == -signal.SIGKILL

    @property
    def hits(self) -> dict[Phase, Counter[str]]:
        """How often each step was reached in each phase."""
        begins = [*self.marks.values(), len(self.trace.steps)]
        parts = [self.trace.steps[begin:end] for begin, end in pairwise(begins)]
        return dict(zip(self.marks, map(Counter, parts), strict=True))


class _Receiver(WebhookReceiver):
    """A receiver that is busy now and then, so that alerts have to wait for one another."""

    def __init__(self) -> None:
        super().__init__()
        self.accepted: list[Received] = []
        self._known: set[str] = set()

    def take(self, received: Received) -> Answer:
        answer = super().take(received)
        identity = received.headers["webhook-id"]
        # Only news: a new world tells everything again, and that is to go fast.
        if identity not in self._known:
            self._known.add(identity)
            if len(self._known) % _SLOW == 0:
                time.sleep(_SLOWLY_S)
            if len(self._known) % _BUSY == 0:
                return status(503)
        self.accepted.append(received)
        return answer


class Lane:
    """The broker, the receiver and the world of the moment; a context manager that ends what it started.

    `faults` of lives and of `check` are sentences about what does not hold.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.load = Load(seed)
        self.began = Began.NEW
        self._random = random.Random(seed)
        self._stack = ExitStack()
        self._world = 0
        self.is_young = True
        """Whether this world's worker has never been left alone: alerts that time alone brings may be missing."""
        self.has_upgraded = False
        """Whether this world has seen two code versions: chunks end where another one takes over."""
        self._lives = 0
        self._versions = 0

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._territory = versioned(territory())
            write(self._territory, self.folder / "territory")
            self.kafka: Kafka = stack.enter_context(real_kafka(partitions_default=_PARTITIONS, log_dir=self.folder))
            self.receiver = stack.enter_context(_Receiver())
            self._reader = stack.enter_context(Reader())
            self._open(stack)
            self.renew()
            # Its tables are not this world's: the first life is to make them.
            elsewhere = {"clickhouse_url": f"chdb://{self.folder / 'init' / 'clickhouse'}"}
            succeeded(vigie("init", folder=self.folder / "init", settings=self.settings | elsewhere))
            self.topics = Topics(self.kafka.bootstrap)
            stack.callback(self.topics.close)
            # A log of some age does not begin at offset 0.
            send(Load(0).draw(_BEFORE_MS), self.kafka.bootstrap)
            self.topics.forget()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _open(self, stack: ExitStack) -> None:
        """Start what else is needed, before the first world."""

    # -- worlds

    @property
    def group(self) -> str:
        return f"sweep-{self._world}"

    @property
    def url(self) -> str:
        """ClickHouse, of this world."""
        return f"chdb://{self.folder / self.group / 'clickhouse'}"

    @property
    def settings(self) -> dict[str, object]:
        return {
            **SETTINGS,
            "kafka_bootstrap": self.kafka.bootstrap,
            "clickhouse_url": self.url,
            "territories": self.folder / "territory",
            "group": self.group,
            "webhook_url": self.receiver.url,
            "webhook_secrets": SECRET,
        }

    def renew(self, *, keep: bool = False) -> None:
        """Begin a new world: nothing is committed and nothing stored, and the log is still there. `keep` the old one's
        files, for somebody to look at."""
        if self._world:
            if not keep:
                shutil.rmtree(self.folder / self.group)
            self.kafka.create_topic(leader_topic(f"sweep-{self._world + 1}"), partitions=1)
        self._world += 1
        self.is_young, self.has_upgraded = True, False
        (self.folder / self.group).mkdir(parents=True)
        self.began = Began.NEW

    def lose_snapshots(self) -> None:
        """Take away every snapshot; what they stood beside stays."""
        self._reader.rows(self.url, "TRUNCATE TABLE snapshots")
        self.began = Began.LOST

    def upgrade(self) -> None:
        """Let the workers from now on be of another code version, by their own account."""
        self._versions += 1
        self.has_upgraded = True
        self.began = Began.UPGRADED

    # -- lives

    def send(self) -> None:
        """Put the next records of the load into the topics; none of them about the time before a look at the zones
        that may have been taken already. A zone's alert goes by what is known when it is looked at."""
        since_look_s = time.time() % _STEP_S
        if since_look_s < SPAN_MS / 1_000:
            time.sleep(SPAN_MS / 1_000 - since_look_s)
        elif since_look_s > _STEP_S - _SENDING_S:
            time.sleep(_STEP_S - since_look_s + SPAN_MS / 1_000)
        send(self.load.draw(round(time.time() * 1_000)), self.kafka.bootstrap)

    def live(
        self, course: Course, kill: Kill | None = None, phase: Phase = Phase.BACKLOG, trouble: str | None = None
    ) -> Life:
        """One worker from its start to its end, which the kill may bring, in that phase or a later one.

        Where nothing waits to be worked off, more is sent first. `trouble`: a step that fails the first time; the
        worker may then end by itself as it likes.
        """
        if self._has_committed(*RAW_TOPICS.values()):
            self.send()
        self._lives += 1
        folder = self.folder / self.group / f"life-{self._lives}"
        folder.mkdir(parents=True)
        if kill is not None and phase is not Phase.BACKLOG:
            kill = replace(kill, armed_by=folder / phase)
        life = Life(self.began, trouble is not None, marks={Phase.BACKLOG: 0})
        with self._worker(folder, kill, trouble) as process:
            self._lead(life, process, folder, course)
            life.code = process.wait()
        life.trace, life.wrote = _trace(folder), (folder / "output.txt").read_text("utf-8", "replace")
        if life.code and not trouble and not (life.killed and (kill is not None or life.faults)):
            life.faults.append(f"the worker ended with exit code {life.code}: {life.wrote[-1_500:]}")
        self.began = Began.CRASHED if life.code else Began.CLEAN
        if not life.code and course is not Course.CAUGHT_UP:
            self.is_young = False
        if not life.faults:
            shutil.rmtree(folder)
        return life

    @contextlib.contextmanager
    def _worker(self, folder: Path, kill: Kill | None, trouble: str | None) -> Iterator[subprocess.Popen[bytes]]:
        runner = [sys.executable, "-m", "tests.support.stepped", "--record", str(folder / "trace")]
        runner += [part for name, number in _CONSTANTS.items() for part in ("--constant", f"{name}={number}")]
        if self._versions:
            runner += ["--code-version", f"sweep-{self._versions}"]
        if trouble:
            runner += ["--trouble", trouble]
        with (folder / "output.txt").open("wb") as output:
            process = subprocess.Popen(
                [*runner, *(kill.arguments if kill else ()), "--", "worker"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment(self.settings) | {"TMPDIR": str(folder)},
                cwd=ROOT,
            )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()

    def _lead(self, life: Life, process: subprocess.Popen[bytes], folder: Path, course: Course) -> None:
        """See a worker through its phases, until it has ended."""
        caught_up = self._wait(life, process, self.is_caught_up, "it had caught up")
        if caught_up and course is not Course.CAUGHT_UP:
            self._enter(life, folder, Phase.QUIET)
            over, looks = time.monotonic() + _QUIET_S, self._looks(folder) + _LOOKS

            def is_over() -> bool:
                return time.monotonic() > over and (life.is_troubled or self._looks(folder) >= looks)

            self._wait(life, process, is_over, "the quiet was over")
        if caught_up and course is Course.WHOLE:
            self.send()
            time.sleep(self._random.random() * _LATEST_TERM_S)
        if process.poll() is None:
            self._enter(life, folder, Phase.END)
            process.terminate()
        self._wait(life, process, lambda: False, "it had ended")

    def _looks(self, folder: Path) -> int:
        """How often the worker has looked at the zones."""
        return _trace(folder).hits[_LOOKED]

    def _enter(self, life: Life, folder: Path, phase: Phase) -> None:
        life.marks[phase] = len(_trace(folder).steps)
        (folder / phase).touch()

    def _wait(self, life: Life, process: subprocess.Popen[bytes], something: Callable[[], bool], what: str) -> bool:
        """Wait for something; False when the worker ends before. One that takes too long is killed, and told."""
        patience_s = _TROUBLED_S if life.is_troubled else _PATIENCE_S
        until = time.monotonic() + patience_s
        while process.poll() is None:
            if something():
                return True
            if time.monotonic() > until:
                # After a failure that was made up it may wait for what would follow a real one.
                if not life.is_troubled:
                    life.faults.append(f"{patience_s:.0f} s went by before {what}")
                process.kill()
                process.wait()
            time.sleep(_POLL_S)
        return False

    # -- what must hold

    def is_caught_up(self) -> bool:
        """Whether everything in the raw topics and on the alert topic is committed."""
        return self._has_committed(*RAW_TOPICS.values(), ALERT_TOPIC)

    def _has_committed(self, *topics: str) -> bool:
        committed, ends = self.topics.committed(self.group, *topics), self.topics.ends(*topics)
        return all(
            committed.get(place, 0) >= end for place, end in ends.items() if end > self.topics.starts.get(place, 0)
        )

    def _committed(self) -> dict[Place, int]:
        return self.topics.committed(self.group, *RAW_TOPICS.values())

    def told(self) -> Told:
        """What has left so far: the alert topic, the dead letters, the webhooks."""
        deliveries = [(request.headers["webhook-id"], request.body) for request in list(self.receiver.accepted)]
        return Told(self.topics.transitions(), deliveries, self.topics.dead_letters())

    def check_at_rest(self, *, rebuilding: bool = False) -> list[str]:
        """What does not hold although no worker runs, whatever the last one was doing when it ended.

        `rebuilding`: it had no snapshot that it could use. Such a worker takes back what it is going to read again, and
        committed offsets, which are advice, stay where they are.
        """
        durable = self._reader.durable(self.url)
        ahead = [] if rebuilding else oracles.commit_faults(self._committed(), durable, self.topics.starts)
        return [*ahead, *oracles.overlap_faults(durable, self.topics.starts)]

    def check(self) -> list[str]:
        """What does not hold once a worker has caught up and ended."""
        stored = self._reader.stored(self.url, self._territory.layers)
        told = self.told()
        return [
            *oracles.account_faults(self.topics.ends(*RAW_TOPICS.values()), stored, self.topics.starts),
            *oracles.commit_faults(self._committed(), stored, self.topics.starts),
            *oracles.reason_faults(self.load.refused, stored),
            *oracles.window_faults(stored),
            *oracles.alert_faults(stored, told),
            *oracles.letter_faults(stored, told),
        ]

    def tables(self, until_ms: int, *, chunks: bool) -> dict[str, oracles.Rows]:
        """What this world has made of the log, in an order that any other has too; alerts of zones as they stood
        at that instant, which every partition must have passed. Without `chunks` no event tells its chunk."""
        asked = {name: sql if chunks else sql.replace("^term$", "^(term|chunk)$") for name, sql in _TABLES.items()}
        asked["alerts"] = _ALERTS.format(until_ms)
        return dict(zip(asked, self._reader.rows(self.url, *asked.values()), strict=True))


def _trace(folder: Path) -> Trace:
    file = folder / "trace"
    return read(file.read_text("utf-8").splitlines(keepends=True)) if file.exists() else Trace()
