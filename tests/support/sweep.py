"""The crash sweep: live, note every step that is reached, and kill a worker at each of them.

Lanes work off one list of kills. Kills come in chains, each worker being the restart after the kill before, so that
steps are killed in what crashes leave as well; a chain ends with a clean life and the oracles. What a chain breaks is
attributed by repeating its kills one by one, each in a world of its own.

    python -m tests.support.sweep FOLDER --seed 3 --lanes 3 [--only PATTERN]
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import click

from tests.support.excuses import Rule, excuse
from tests.support.lane import Began, Course, Lane, Life, Phase
from tests.support.oracles import Rows
from tests.support.pair import PairLane
from tests.support.steps import Site, site_of, sites, watched_files
from tests.support.worklist import Job, Worklist

#: Kills from one clean life to the next. In a new world more: what is reached only there comes in a row.
_CHAIN: Final = 5
_NEW_CHAIN: Final = 16
#: What begins without a snapshot that can be used.
_REBUILT: Final = (Began.LOST, Began.UPGRADED)
#: Each violation costs its attribution; beyond these there is no more to learn.
_ENOUGH: Final = 3


@dataclass(frozen=True)
class Violation:
    """What does not hold, and the kills that it followed: one, where repeating it alone did the same."""

    faults: Sequence[str]
    kills: Sequence[Job]
    attributed: bool


@dataclass
class Report:
    """What a sweep has done and found."""

    sites: Sequence[Site]
    work: Worklist
    violations: list[Violation] = field(default_factory=list)
    lives: int = 0
    kills: int = 0
    checks: int = 0
    seconds: float = 0.0

    @property
    def unreached(self) -> dict[str, Rule | None]:
        """Sites that no life reached, and why they need not be; None where they must."""
        reached = {site_of(step) for step in self.work.reached}
        return {site.name: excuse(site, self.work.imported) for site in self.sites if site.name not in reached}

    @property
    def faults(self) -> list[str]:
        """Everything for which the sweep is not a success."""
        found = [
            f"after {' → '.join(map(str, v.kills)) or 'no kill at all'}: {fault}"
            for v in self.violations
            for fault in v.faults
        ]
        found += [f"never reached: {name}" for name, rule in self.unreached.items() if rule is None]
        found += [f"reached once, and not again to be killed there: {job}" for job in self.work.missed]
        return found

    def lines(self) -> Iterator[str]:
        """The report for people."""
        yield (
            f"{len(self.sites)} places in the code, {len(self.work.reached)} steps reached, "
            f"{len(self.work.done)} of them killed at; {self.kills} kills, {self.lives} lives, "
            f"{self.checks} checks of everything, {self.seconds:.0f} s"
        )
        for name, rule in self.unreached.items():
            yield f"not reached ({rule or 'MUST BE'}): {name}"
        yield from (f"violated {fault}" for fault in self.faults)


class Sweep:
    """A sweep over one code and seed, in so many lanes at a time."""

    def __init__(
        self,
        folder: Path,
        *,
        seed: int,
        lanes: int,
        share: float = 0.1,
        only: str = "",
        sample: float = 1.0,
        part: tuple[int, int] = (0, 1),
        elsewhere: Collection[str] | None = None,
    ) -> None:
        self._make: type[Lane] = Lane
        self._folder = folder
        self._seed = seed
        self._lanes = lanes
        self._lock = threading.Lock()
        self._log = logging.getLogger("sweep")
        found = [site for path in watched_files() for site in sites(path)]
        work = Worklist(found, seed=seed, share=share, only=only, sample=sample, part=part, elsewhere=elsewhere)
        self.report = Report(found, work)

    @classmethod
    def of_pairs(
        cls,
        folder: Path,
        *,
        seed: int,
        lanes: int,
        sample: float,
        only: str = "",
        elsewhere: Collection[str] | None = None,
    ) -> Sweep:
        """A sweep over `sample` of the steps that a worker takes while another one joins and leaves, and over all those
        that were not reached `elsewhere`, by workers that were alone and had an embedded ClickHouse."""
        sweep = cls(folder, seed=seed, lanes=lanes, only=only)
        sweep._make = PairLane
        found = list(sweep.report.sites)
        sweep.report.work = Worklist(
            found, seed=seed, share=0.0, only=only, phase=Phase.QUIET, sample=sample, elsewhere=elsewhere
        )
        return sweep

    def run(self) -> Report:
        """Do all of it. Raises what a lane raises; then it is no statement about the code."""
        started = time.monotonic()
        with ThreadPoolExecutor(self._lanes, "lane") as pool:
            running = [pool.submit(self._work, number) for number in range(self._lanes)]
            for lane in running:
                lane.result()
        self.report.seconds = time.monotonic() - started
        return self.report

    def _work(self, number: int) -> None:
        work = self.report.work
        try:
            with self._make(self._folder / f"lane-{number}", self._seed * 100 + number) as lane:
                if number == 0:
                    self._first_lives(lane)
                    work.open()
                self._work_off(lane, new=number == 0)
                self._compare(lane)
        except BaseException:
            work.stop()
            raise

    def _work_off(self, lane: Lane, *, new: bool) -> None:
        work, chain = self.report.work, list[Job]()
        while True:
            if job := work.take(new=new):
                done = False
                try:
                    done, chain = self._do(lane, job, chain)
                finally:
                    work.put_back(job, done=done)
            elif chain:
                # Its life may reach what no other has.
                self._settle(lane, chain)
                chain = []
            else:
                return

    def _first_lives(self, lane: Lane) -> None:
        """Lives that nobody disturbs, in all circumstances: from them the first steps are known."""
        self._live(lane, Job(Began.NEW), Course.WHOLE)
        self._live(lane, Job(Began.CLEAN), Course.WHOLE)
        self._settle(lane, [])
        for began in _REBUILT if self._make is Lane else ():
            self._prepare(lane, Job(began), [])
            self._live(lane, Job(began), Course.CAUGHT_UP)
            self._settle(lane, [Job(began)])

    def _do(self, lane: Lane, job: Job, chain: list[Job]) -> tuple[bool, list[Job]]:
        """One life. Whether what it was led for has happened, and the chain that is still to be checked."""
        chain = self._prepare(lane, job, chain)
        course = Course.CAUGHT_UP if job.phase is Phase.BACKLOG and job.kill else Course.WHOLE
        life = self._live(lane, job, course, chain)
        chain = [*chain, job]
        faults = [*life.faults, *lane.check_at_rest(rebuilding=any(one.began in _REBUILT for one in chain))]
        done = life.killed if job.kill else job.trouble in life.trace.hits
        self._log.info("%s %s; %d left", "done" if done else "passed by", job, len(self.report.work))
        if faults:
            self._violated(lane, faults, chain)
            chain = []
        elif len(chain) >= (_NEW_CHAIN if job.began is Began.NEW else _CHAIN):
            self._settle(lane, chain)
            chain = []
        return done, chain

    def _prepare(self, lane: Lane, job: Job, chain: list[Job]) -> list[Job]:
        """Bring about what the job begins with. The chain that it then continues."""
        if job.began is Began.NEW:
            alone = job.tries or job.trouble
            if alone or not chain or chain[-1].began is not Began.NEW or chain[-1].trouble:
                self._settle(lane, chain)
                lane.renew()
                return []
        elif job.tries or (chain and (chain[-1].began is Began.NEW or job.began is Began.LOST)):
            # Who loses the snapshots while a crash waits to be mended loses what only they knew: that is no promise.
            self._settle(lane, chain)
            chain = []
        if job.began in _REBUILT and lane.began is Began.NEW:
            # A lane that has led no life yet has nothing to lose.
            self._settle(lane, [])
        if job.began is Began.LOST:
            lane.lose_snapshots()
        elif job.began is Began.UPGRADED:
            lane.upgrade()
        elif job.began is Began.CRASHED and job.after is not None and lane.began is not Began.CRASHED:
            before = Job(Began.CLEAN, kill=replace(job.after, armed_by=None))
            self._live(lane, before, Course.CAUGHT_UP, chain)
            chain = [*chain, before]
        return chain

    def _live(self, lane: Lane, job: Job, course: Course, chain: Sequence[Job] = ()) -> Life:
        life = lane.live(course, job.kill, Phase.BACKLOG if job.whenever else job.phase, job.trouble)
        after = chain[-1].kill if chain and life.began is Began.CRASHED else None
        self.report.work.note(life, after=after, trouble=job.trouble)
        with self._lock:
            self.report.lives += 1
            self.report.kills += life.killed
        return life

    def _settle(self, lane: Lane, chain: Sequence[Job]) -> None:
        """A clean life, and every oracle. What does not hold is attributed, and a new world begun."""
        if faults := self._clean(lane, chain):
            self._violated(lane, faults, chain)

    def _clean(self, lane: Lane, chain: Sequence[Job] = ()) -> list[str]:
        # In a young world, alerts that time alone has brought forth have to come again.
        course = Course.RESTED if lane.is_young else Course.CAUGHT_UP
        life = self._live(lane, Job(lane.began), course, chain)
        return [*life.faults, *self._checked(lane)]

    def _checked(self, lane: Lane) -> list[str]:
        """Every oracle, once everything is delivered: what a worker's last look at the zones found was stored and told
        to Kafka, and the rest is its successor's business."""
        faults: list[str] = []
        if not lane.is_caught_up():
            faults = self._live(lane, Job(lane.began), Course.CAUGHT_UP).faults
        with self._lock:
            self.report.checks += 1
        return [*faults, *lane.check()]

    def _violated(self, lane: Lane, faults: Sequence[str], chain: Sequence[Job]) -> None:
        self._log.warning("violated after %s: %s", " → ".join(map(str, chain)), "; ".join(faults))
        violation = Violation(faults, tuple(chain), attributed=len(chain) <= 1)
        for number, job in enumerate(chain if len(chain) > 1 else ()):
            lane.renew(keep=number == 0)
            if alone := self._alone(lane, job):
                violation = Violation(alone, (job,), attributed=True)
                break
        with self._lock:
            self.report.violations.append(violation)
            if len(self.report.violations) >= _ENOUGH:
                self.report.work.stop()
        lane.renew(keep=True)
        if undisturbed := self._clean(lane):
            with self._lock:
                self.report.violations.append(Violation(undisturbed, (), attributed=True))
            self.report.work.stop()

    def _alone(self, lane: Lane, job: Job) -> list[str]:
        """What does not hold after that life alone, in a new world."""
        if job.began is not Began.NEW:
            self._clean(lane)
            self._prepare(lane, replace(job, tries=0), [])
        life = self._live(lane, job, Course.CAUGHT_UP if job.phase is Phase.BACKLOG and job.kill else Course.WHOLE)
        at_rest = lane.check_at_rest(rebuilding=job.began in _REBUILT)
        return [*life.faults, *at_rest, *self._clean(lane, [job])]

    def _compare(self, lane: Lane) -> None:
        """The world that saw the kills against one that nobody disturbs, over the same log."""
        until_ms, chunks = round(time.time() * 1_000), not lane.has_upgraded
        rested = lane.live(Course.RESTED)
        disturbed = lane.tables(until_ms, chunks=chunks)
        lane.renew(keep=True)
        again = lane.live(Course.RESTED)
        faults = [*rested.faults, *again.faults, *differences(disturbed, lane.tables(until_ms, chunks=chunks))]
        faults += self._checked(lane)
        if faults:
            with self._lock:
                self.report.violations.append(Violation([f"compared at the end: {f}" for f in faults], (), False))


def differences(one: Mapping[str, Rows], other: Mapping[str, Rows]) -> Iterator[str]:
    """Where the tables of a world with kills differ from those of one without."""
    for table in sorted({*one, *other}):
        here, there = Counter(map(repr, one.get(table, []))), Counter(map(repr, other.get(table, [])))
        more, less = here - there, there - here
        if more or less:
            example = next(iter(more or less))[:300]
            yield f"{table}: {more.total()} rows only with kills, {less.total()} only without, such as {example}"


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--seed", default=1)
@click.option("--lanes", default=3)
@click.option("--share", default=0.1, help="Of the steps that can be killed at again, the share that is.")
@click.option(
    "--pairs", type=float, help="Instead: this share of the steps taken while another worker joins and leaves."
)
@click.option("--only", default="", help="Only steps in whose name this regular expression is found.")
def main(folder: Path, seed: int, lanes: int, share: float, pairs: float | None, only: str) -> None:
    """Sweep by hand, into an empty FOLDER."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(threadName)s %(message)s")
    if pairs is None:
        sweep = Sweep(folder, seed=seed, lanes=lanes, share=share, only=only)
    else:
        sweep = Sweep.of_pairs(folder, seed=seed, lanes=lanes, sample=pairs, only=only)
    report = sweep.run()
    for line in report.lines():
        click.echo(line)
    raise SystemExit(1 if report.faults else 0)


if __name__ == "__main__":
    main()
