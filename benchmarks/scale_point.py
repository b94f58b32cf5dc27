"""One point of an axis: a town of that size, its records, and what catching up with them costs."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from benchmarks.installation import BenchmarkError, Cores, DiaryWorker, Installation, installed
from benchmarks.process import Process, cpu_s, module, run
from tests.support.gateway import gateway
from tests.support.kafka import pinned

#: A worker that takes longer over one event than this is stuck.
SLOWEST_S: Final = 0.001
START_S: Final = 600.0
#: Workers wait, stopped, while records are published: Kafka must not take them for dead.
PATIENT: Final[Mapping[str, object]] = {"session_timeout_s": 600}
#: From the last worker's readiness until the one before has given up the partitions it had.
SETTLED_S: Final = 3.0


@dataclass(frozen=True)
class Point:
    """Sizes. `partitions` are of each of the four topics. `shared`: through a gateway, which several workers need."""

    assets: int
    zones: int
    partitions: int
    workers: int
    events: int
    shared: bool = False


@dataclass(frozen=True)
class Cost:
    """What one point cost.

    `cpu_us` is processor time of the workers for one event, in microseconds, from when they are ready and have records
    until the last one is durable; `events_per_s` in the same span. `peak_mib` is the largest resident size of one
    worker in its whole life, ClickHouse included unless it is shared. `ready_s` and `ready_cpu_s` are from the start of
    the (first) process until it would process a record: imports, territory, tables, group. `gateway_cpu_us` is the
    gateway's processor time for one event, `shares` what part of the events each worker stored.
    """

    cpu_us: float
    events_per_s: float
    peak_mib: float
    ready_s: float
    ready_cpu_s: float
    gateway_cpu_us: float | None = None
    shares: tuple[float, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        found = {name: value for name, value in vars(self).items() if value is not None and value != ()}
        return {name: round(value, 3) if isinstance(value, float) else value for name, value in found.items()}


def measure(point: Point, cores: Cores, folder: Path, seed: int) -> Cost:
    """Make the town, publish its records, let the workers catch up. Raises BenchmarkError, ProcessError, KafkaError."""
    settings = {"partitions": point.partitions, **(PATIENT if point.shared else {})}
    with installed(folder, cores, folder / "territory", settings) as place:
        return _shared(point, place, seed) if point.shared else _alone(point, place, seed)


def _alone(point: Point, place: Installation, seed: int) -> Cost:
    place.init()
    _publish(point, place, seed)
    began_ms = time.time() * 1_000
    with place.worker() as worker:
        worker.until_stored(point.events, START_S + point.events * SLOWEST_S)
        worker.process.stop()
        return _cost(point, [worker], [began_ms])


def _shared(point: Point, place: Installation, seed: int) -> Cost:
    with ExitStack() as stack:
        with pinned({place.cores.others}):
            served = stack.enter_context(gateway(place.folder))
        place = replace(place, settings={**place.settings, "clickhouse_url": served.url})
        place.init()
        # The town, without its records: workers read it when they start.
        _publish(replace(point, events=0), place, seed)
        workers, began_ms = [], []
        for number in range(point.workers):
            began_ms.append(time.time() * 1_000)
            workers.append(stack.enter_context(place.worker(name=f"worker-{number}")))
            workers[-1].until_ready()
        time.sleep(SETTLED_S)
        assert served.pid is not None
        with stopped([worker.process for worker in workers]):
            _publish(point, place, seed)
            used = cpu_s(served.pid)
        limit_s = START_S + point.events * SLOWEST_S
        workers[0].process.until(
            lambda: sum(worker.stored for worker in workers) >= point.events,
            f"{point.events} rows were stored",
            limit_s,
        )
        for worker in workers:
            worker.process.stop()
        gateway_us = (cpu_s(served.pid) - used) * 1e6 / point.events
        return replace(_cost(point, workers, began_ms), gateway_cpu_us=gateway_us)


@contextmanager
def stopped(workers: Sequence[Process]) -> Iterator[None]:
    """The workers stand still in the block, so that they find the same backlog together."""
    for worker in workers:
        worker.popen.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for worker in workers:
            worker.popen.send_signal(signal.SIGCONT)


def publish_town(assets: int, zones: int, events: int, place: Installation, seed: int) -> None:
    """Make the town and publish its records. Raises ProcessError, BenchmarkError."""
    options = {"--assets": assets, "--zones": zones, "--seed": seed, "--territory": place.territory}
    options |= {"--bootstrap": place.kafka.bootstrap, "--events": events}
    command = module("benchmarks.town", *(part for option in options.items() for part in option))
    told = json.loads(run(command, place.folder / "town", core=place.cores.others, timeout_s=START_S))
    if told["records"] != events:
        raise BenchmarkError(f"{told['records']} of {events} records were published")


def _publish(point: Point, place: Installation, seed: int) -> None:
    publish_town(point.assets, point.zones, point.events, place, seed)


def _cost(point: Point, workers: Sequence[DiaryWorker], began_ms: Sequence[float]) -> Cost:
    summaries = [worker.summary() for worker in workers]
    stored = sum(summary["stored"] for summary in summaries)
    if stored != point.events or any(any(s["rejected"].values()) or s["duplicates"] for s in summaries):
        raise BenchmarkError(f"{stored} of {point.events} records were stored; all are clean")
    first, last, ready = ([worker.notes(what)[0] for worker in workers] for what in ("first", "last", "ready"))
    # Records that come before partitions are taken over wait for that, which is no part of their own cost.
    began = [max(pair, key=lambda note: float(note["at_ms"])) for pair in zip(first, ready, strict=True)]
    cpu = sum(end["cpu_s"] - start["cpu_s"] for start, end in zip(began, last, strict=True))
    seconds = (max(note["at_ms"] for note in last) - min(note["at_ms"] for note in began)) / 1_000
    return Cost(
        cpu_us=cpu * 1e6 / point.events,
        events_per_s=point.events / seconds,
        peak_mib=max(summary["peak_rss_mib"] for summary in summaries),
        ready_s=(ready[0]["at_ms"] - began_ms[0]) / 1_000,
        ready_cpu_s=ready[0]["cpu_s"],
        shares=tuple(round(s["stored"] / stored, 3) for s in summaries) if len(workers) > 1 else (),
    )
