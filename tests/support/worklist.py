"""Which kills a crash sweep still has to do: found from the lives that were led, shared by its lanes."""

from __future__ import annotations

import heapq
import random
import re
import threading
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Final
from zlib import crc32

from tests.support.lane import PHASES, Began, Life, Phase
from tests.support.stepped import Kill
from tests.support.steps import Site, site_of

#: How often a step is tried that a life passed by without reaching it.
_TRIES: Final = 10
#: A kill in the midst of an effect comes at most so late, in milliseconds: inserts take five to twenty.
_LATEST_MS: Final = 12.0


@dataclass(frozen=True)
class Job:
    """A life to be led: what it begins with, which step fails, and where it is killed, in which phase.

    `after` is the kill that it must be the restart from, `position` where in a life the step was seen, `first` whether
    nothing else kills at this step, `whenever` whether the kill may also come before that phase.
    """

    began: Began
    phase: Phase = Phase.BACKLOG
    kill: Kill | None = None
    trouble: str | None = None
    after: Kill | None = None
    position: int = 0
    tries: int = 0
    first: bool = True
    whenever: bool = False

    def __str__(self) -> str:
        if self.kill is None:
            return f"failing: {self.trouble}"
        hit = f", hit {self.kill.hit}" if self.kill.hit > 1 else ""
        delay = f", {self.kill.delay_ms:.1f} ms later" if self.kill.delay_ms else ""
        failing = f", failing: {self.trouble}" if self.trouble else ""
        return f"{self.kill.step} [{self.began}, {self.phase}{hit}{delay}{failing}]"


class Worklist:
    """The lives still to be led. Every step that was reached gets a kill, in the plainest circumstances it was seen in.

    Besides, effects that change something get one in their midst; steps around which an error is expected get a life
    in which they raise it; and `share` of the steps that are reached again and again, or while a worker drains, get
    another kill there. `only` takes none but the steps in whose name that expression is found. With `phase` nothing is
    done but kills at `sample` of the steps that are reached in that phase of a life, and, if that is given, at every
    step that was not killed at `elsewhere`. `part` (i, n) takes the i-th of n parts of the steps that undisturbed lives
    reach, and of those that only others do all that were not killed at `elsewhere`: no part can count on seeing them.
    """

    def __init__(
        self,
        sites: list[Site],
        *,
        seed: int,
        share: float,
        only: str = "",
        phase: Phase | None = None,
        sample: float = 1.0,
        part: tuple[int, int] = (0, 1),
        elsewhere: Collection[str] | None = None,
    ) -> None:
        self.reached: set[str] = set()
        self.imported: set[str] = set()
        self.done: Counter[str] = Counter()
        self._missed: list[Job] = []
        self._sites = {site.name: site for site in sites}
        self._seed = seed
        self._share = share
        self._only = re.compile(only)
        self._phase = phase
        self._sample = sample
        self._part = part
        self._elsewhere = elsewhere
        self.planned: set[str] = set()
        """Steps that are to be killed at."""
        self._common: frozenset[str] | None = None
        self._known: set[tuple[str, str]] = set()
        self._waiting: dict[str, Job] = {}
        self._new: list[Job] = []
        self._heap: list[tuple[float, int, Job]] = []
        self._count = 0
        self._busy = 0
        self._is_open = False
        self._stopped = False
        self._changed = threading.Condition()

    @property
    def missed(self) -> list[Job]:
        """Kills at steps that were reached once, and never again to be killed there."""
        return [job for job in self._missed if job.kill is not None and job.kill.step not in self.done]

    def __len__(self) -> int:
        return len(self._heap) + len(self._new)

    def note(self, life: Life, *, after: Kill | None = None, trouble: str | None = None) -> None:
        """Take up what a life has reached; `after` is the kill that it was the restart from."""
        with self._changed:
            self.imported |= life.trace.imported
            for phase, hits in life.hits.items():
                for position, (step, n) in enumerate(hits.items()):
                    self.reached.add(step)
                    if not self._only.search(step):
                        continue
                    job = Job(life.began, phase, Kill(step), trouble, after, position)
                    if life.began is Began.NEW and not self._is_open:
                        self._waiting.setdefault(step, job)
                    else:
                        self._waiting.pop(step, None)
                        self._plan(step, n, job)
            self._changed.notify_all()

    def open(self) -> None:
        """Begin to hand out: what only the beginning of a new world has reached is not reached in a plainer way."""
        with self._changed:
            self._is_open, self._common = True, frozenset(self.reached)
            for step, job in self._waiting.items():
                self._plan(step, 1, job)
            self._changed.notify_all()

    def _is_taken(self, step: str) -> bool:
        if self._elsewhere is not None and step in self._elsewhere:
            return False
        return self.is_mine(step) or (self._common is not None and step not in self._common)

    def is_mine(self, step: str) -> bool:
        """Whether a step is in this part, wherever it is reached."""
        number, count = self._part
        return crc32(step.encode()) % count == number

    def _plan(self, step: str, hits: int, job: Job) -> None:
        rng = random.Random(f"{self._seed}|{step}|{job.phase}")
        assert job.kill is not None
        if self._phase is not None:
            new = self._elsewhere is not None and step not in self._elsewhere
            wanted = new or (job.phase is self._phase and rng.random() < self._sample)
            if wanted and self._is_unknown(step, "first"):
                self.planned.add(step)
                self._push(job, rng)
            return
        if not self._is_taken(step):
            return
        if self._is_unknown(step, "first"):
            if rng.random() >= self._sample:
                return
            self.planned.add(step)
            self._push(job, rng)
            if _is_writing(step):
                kill = replace(job.kill, delay_ms=round(rng.uniform(0.3, _LATEST_MS), 2))
                self._push(replace(job, kill=kill, first=False), rng)
        site = self._sites.get(site_of(step))
        if (
            site is not None
            and _may_fail(site)
            and " | before" in step
            and job.began in (Began.CLEAN, Began.NEW)
            and self._is_unknown(site_of(step), "fails")
            and random.Random(f"{self._seed}|{step}|fails").random() < self._sample
        ):
            self._push(replace(job, kill=None, trouble=step, first=False), rng)
        again = job.phase is Phase.END or (job.phase is Phase.BACKLOG and hits > 2)
        plain = job.began in (Began.CLEAN, Began.CRASHED) and not job.trouble
        if again and plain and self._is_unknown(step, job.phase) and rng.random() < self._share:
            hit = 1 if job.phase is Phase.END else rng.randint(2, max(2, hits // 2))
            self._push(replace(job, kill=replace(job.kill, hit=hit), first=False), rng)

    def _is_unknown(self, name: str, what: str) -> bool:
        known = (name, what) in self._known
        self._known.add((name, what))
        return not known

    def _push(self, job: Job, rng: random.Random) -> None:
        self._count += 1
        if job.began is Began.NEW and job.trouble is None and not job.tries:
            # In the order of a life: each can then be reached from what the kill before it has left.
            self._new.append(job)
            self._new.sort(key=lambda one: (PHASES.index(one.phase), one.position))
        else:
            heapq.heappush(self._heap, (rng.random(), self._count, job))

    def take(self, *, new: bool) -> Job | None:
        """The next life, or None when there is no more; waits for what other lanes may find yet. `new`: also those that
        begin in a new world."""
        with self._changed:
            while not self._stopped:
                if self._is_open and (self._heap or (new and self._new)):
                    self._busy += 1
                    return self._new.pop(0) if new and self._new else heapq.heappop(self._heap)[2]
                if self._is_open and not self._busy:
                    return None
                self._changed.wait()
            return None

    def put_back(self, job: Job, *, done: bool) -> None:
        """Say what became of a job that was taken. A kill that was not reached comes again, for the first times."""
        with self._changed:
            self._busy -= 1
            if job.kill is not None and done:
                self.done[job.kill.step] += 1
            elif job.kill is not None and job.tries + 1 < _TRIES and (job.first or job.tries < 2):
                kill = replace(job.kill, hit=max(1, job.kill.hit // 2))
                # What came late in a life, on a busy machine, may come early in every other.
                again = replace(job, kill=kill, tries=job.tries + 1, whenever=job.first and job.tries % 2 == 0)
                self._push(again, random.Random(f"{self._seed}|{job}"))
            elif job.kill is not None and job.first:
                self._missed.append(job)
            self._changed.notify_all()

    def stop(self) -> None:
        """Hand out nothing more."""
        with self._changed:
            self._stopped = self._is_open = True
            self._changed.notify_all()


def _may_fail(site: Site) -> bool:
    """Whether the code there must be ready for an error: it asks ClickHouse or a receiver, stands in a `try`, or awaits
    the method of a library that it overrides."""
    return site.kind == "effect" or (
        site.kind == "await" and (bool(site.catches) or site.text.startswith("await super()."))
    )


def _is_writing(step: str) -> bool:
    """Whether a kill can come in the midst of what the step begins: a call that changes something elsewhere."""
    return step.startswith("sinks/") and re.search(r"\| before \| (insert|command|send)", step) is not None
