"""One run: start everything, publish, strike, heal, let it catch up, stop it, and hold it against the truth."""

from __future__ import annotations

import contextlib
import json
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from processors.territory import Territory
from tests.chaos import account
from tests.chaos.account import Account
from tests.chaos.database import Database, DatabaseError
from tests.chaos.faults import Struck, strike
from tests.chaos.generator import Generator, GeneratorError
from tests.chaos.installation import DRAIN_S, END_S, Installation, Say, installation
from tests.chaos.progress import EVERY_S, watched
from tests.chaos.records import Stream, stream
from tests.chaos.schedule import schedule
from tests.chaos.slots import FaultError, Slot
from tests.chaos.town import town
from tests.support.pipeline import vigie

#: When everything is healed and nothing moves for so long, it never will. Longer than the watchdog of the workers.
_STALLED_S: Final = 90.0
#: However it moves, after so long it is too slow.
_LONGEST_CATCH_UP_S: Final = 600.0
_POLL_S: Final = 1.0
_AUDIT_S: Final = 300.0
#: An instant for the first records to be due after the generator has begun.
_LEAD: Final = timedelta(seconds=0.5)


@dataclass(frozen=True)
class Plan:
    """What to run. `rate` is in events a second, `brokers` 3 in earnest; `folder` keeps what the processes write."""

    seconds: float
    seed: int
    workers: int
    brokers: int
    rate: float
    folder: Path


@dataclass
class Outcome:
    """How a run ended: `wrong` says in words what must not be; nothing in it is a success."""

    plan: Plan
    account: Account = field(default_factory=Account)
    struck: list[Struck] = field(default_factory=list)
    differences: list[Any] | None = None
    """What `vigie audit` found; None when it did not tell."""
    wrong: list[str] = field(default_factory=list)
    longest_stall_s: float = 0.0
    longest_partition_stall_s: float = 0.0
    published_s: float = 0.0
    lag: int = 0
    """Records that waited when everything was healed."""
    lags: list[int] = field(default_factory=list)
    seconds: float = 0.0
    behind_s: float = 0.0
    own_ends: Counter[int] = field(default_factory=Counter)
    told_ends: Counter[int] = field(default_factory=Counter)
    killed: int = 0
    longest_drain_s: float = 0.0
    peak_mib: int = 0

    def summary(self) -> dict[str, Any]:
        """Everything as JSON values."""
        judged, done = self.account, [struck for struck in self.struck if struck.error is None]
        return {
            "records": judged.records,
            "stored": judged.stored,
            "rejected": sum(judged.rejected.values()),
            "duplicates": judged.duplicates,
            "faults": len(done),
            "differences": len(self.wrong) + len(judged.wrong) + len(self.differences or []),
            "longest_stall_s": round(self.longest_stall_s, 1),
            "longest_partition_stall_s": round(self.longest_partition_stall_s, 1),
            "events_per_s": round(judged.records / self.seconds) if self.seconds else 0,
            "seconds": round(self.seconds, 1),
            "published_s": round(self.published_s, 1),
            "lag_when_healed": self.lag,
            "lag_every_5_s": self.lags[:: round(5 / EVERY_S)],
            "catch_up_s": round(max(0.0, self.seconds - self.published_s), 1),
            "generator_behind_s": round(self.behind_s, 1),
            "seed": self.plan.seed,
            "workers": self.plan.workers,
            "brokers": self.plan.brokers,
            "rate": self.plan.rate,
            "rejected_by_reason": judged.rejected,
            "faults_by_kind": dict(sorted(Counter(struck.fault.kind for struck in done).items())),
            "alerts": {"transitions": judged.transitions, "fired": judged.fired, "deliveries": judged.delivered},
            "worker_ends": {
                "killed": self.killed,
                "after_sigterm": {str(code): n for code, n in sorted(self.told_ends.items())},
                "by_themselves": {str(code): n for code, n in sorted(self.own_ends.items())},
            },
            "longest_drain_s": round(self.longest_drain_s, 1),
            "peak_rss_mib": self.peak_mib,
            "audit": self.differences,
            "wrong": [*self.wrong, *judged.wrong],
            "struck": [struck.to_dict() for struck in self.struck],
        }

    @property
    def right(self) -> bool:
        return self.differences == [] and not self.wrong and not self.account.wrong


def run(plan: Plan, say: Say) -> Outcome:
    """Run the plan. What is wrong is in the outcome; raises only when there was nothing to run."""
    outcome = Outcome(plan)
    territory = town(plan.rate)
    with (
        installation(territory, plan.folder, workers=plan.workers, brokers=plan.brokers, say=say) as on,
        contextlib.closing(Database(on.database)) as database,
    ):
        begun_s = time.monotonic()
        records, generator = _published(plan, territory, on)
        with watched(on.database, generator.ends) as stalls:
            try:
                _live(plan, on, generator, outcome)
            finally:
                generator.stop()
            outcome.published_s, outcome.lag = time.monotonic() - begun_s, stalls.lag
            say(f"{generator.records} records are published and every fault is over; catching up")
            owed = _catch_up(database, generator, on, outcome)
            outcome.seconds = time.monotonic() - begun_s
        outcome.longest_stall_s, outcome.lags = stalls.longest_s, stalls.lags
        outcome.longest_partition_stall_s = stalls.longest_partition_s
        outcome.behind_s = generator.behind_s
        if not stalls.answers:
            outcome.wrong.append("nobody answered how far the partitions are: the stalls are not known")
        _stop(on, outcome)
        _audit(on, outcome)
        _judge(territory, on, database, records, generator, owed, outcome)
    return outcome


def _published(plan: Plan, territory: Territory, on: Installation) -> tuple[Stream, Generator]:
    start = datetime.now(UTC) + _LEAD
    end = start + timedelta(seconds=plan.seconds)
    made = stream(territory, seed=plan.seed, rate=plan.rate, start=start, end=end, wall_now=lambda: datetime.now(UTC))
    generator = Generator(made.records(), on.kafka.bootstrap)
    generator.start()
    return made, generator


def _live(plan: Plan, on: Installation, generator: Generator, outcome: Outcome) -> None:
    """The faults while the records come, then the end of the records, and everything healed."""
    faults = schedule(plan.seed, plan.seconds, plan.workers, plan.brokers)
    outcome.struck = strike(faults, on, go_on=lambda: generator.running)
    outcome.wrong += [f"{s.fault.kind} of {s.fault.target}: {s.error}" for s in outcome.struck if s.error]
    if missing := len(faults) - len(outcome.struck):
        outcome.wrong.append(f"{missing} of {len(faults)} faults were not done: the records had ended")
    try:
        generator.finish()
    except GeneratorError as error:
        outcome.wrong.append(f"the truth is not known: {error}")
    on.proxy.heal()
    for number in on.kafka.numbers:
        if number not in on.kafka.running:
            on.kafka.start(number)
    if on.gateway.pid is None:
        on.gateway.start()


def _catch_up(database: Database, generator: Generator, on: Installation, outcome: Outcome) -> list[str]:
    """Return once every position is known and every alert delivered, or note that it does not get there.

    Returns the ids of the alert transitions that must have been delivered: those that come while the workers are ended
    are told after the next start.
    """
    until = time.monotonic() + _LONGEST_CATCH_UP_S
    owed: list[str] = []
    seen, moved_s = (-1, -1), time.monotonic()
    while True:
        with contextlib.suppress(DatabaseError):
            known = int(database.rows(f"SELECT uniqExact(topic, partition, offset) FROM ({account.POSITIONS})")[0][0])
            owed = account.to_deliver(account.transitions(database))
            missing = account.undelivered(owed, on.receiver.requests)
            if known >= generator.records and not missing:
                return owed
            if (known, len(missing)) != seen:
                seen, moved_s = (known, len(missing)), time.monotonic()
        if time.monotonic() - moved_s > _STALLED_S or time.monotonic() > until:
            outcome.wrong.append(
                f"not caught up: {seen[0]} of {generator.records} records known, {seen[1]} transitions not delivered, "
                f"and nothing has moved for {time.monotonic() - moved_s:.0f} s"
            )
            return owed
        time.sleep(_POLL_S)


def _stop(on: Installation, outcome: Outcome) -> None:
    """End every worker as an operator would, all at once."""

    def stopped(slot: Slot) -> str | None:
        try:
            slot.wait_until_it_listens()
            code, _ = slot.terminate(DRAIN_S + END_S)
        except FaultError as error:
            return str(error)
        return f"{slot.name} ended with {code} after the last SIGTERM:\n{slot.tail()}" if code else None

    with ThreadPoolExecutor(len(on.slots)) as threads:
        outcome.wrong += [said for said in threads.map(stopped, on.slots) if said]
    for slot in (*on.slots, on.guest):
        outcome.own_ends += slot.own_ends
        outcome.told_ends += slot.told_ends
        outcome.killed += slot.killed
        outcome.longest_drain_s = max(outcome.longest_drain_s, slot.longest_drain_s)
        outcome.peak_mib = max(outcome.peak_mib, slot.peak_mib)
    if outcome.own_ends[0]:
        outcome.wrong.append(f"{outcome.own_ends[0]} workers ended with 0 and nobody had told them to")


def _audit(on: Installation, outcome: Outcome) -> None:
    past = on.settings | {"clickhouse_url": on.database}
    done = vigie("audit", "--json", "--strict-end", folder=on.folder / "audit", settings=past, seconds=_AUDIT_S)
    try:
        found = json.loads(done.out)["differences"]
    except (ValueError, KeyError, TypeError):
        outcome.wrong.append(f"vigie audit ended with {done.code} and told no differences:\n{done.text[-2_000:]}")
        return
    outcome.differences = list(found)
    if bool(found) != bool(done.code):
        outcome.wrong.append(f"vigie audit found {len(found)} differences and ended with {done.code}")


def _judge(
    territory: Territory,
    on: Installation,
    database: Database,
    records: Stream,
    generator: Generator,
    owed: Sequence[str],
    outcome: Outcome,
) -> None:
    faults = records.simulation.truth.evident_faults()
    outcome.account = account.judge(
        database,
        generator.truth(),
        generator.burnt,
        [(fault.rule, fault.asset_id or "") for fault in faults],
        on.receiver.requests,
        owed,
        territory.layers,
    )
