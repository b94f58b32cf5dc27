"""What two workers would have said of themselves: drawn rows of `worker_samples`, with what makes them hard to read.

The first worker is gone for a while in the middle; meanwhile its partitions are the other one's. Then a third one takes
its place, with counters at 0. In = stored + rejected + duplicates holds in every sample.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

import polars as pl
import pyarrow as pa

from schemas.contracts import RAW_TOPICS

STEP_S: Final = 15
#: Steps between the first worker and the third, and how many there are in all: two hours.
GONE: Final = range(230, 250)
STEPS: Final = 480
FIRST, SECOND, THIRD = WORKERS = ("worker-1", "worker-2", "worker-3")

_PARTITIONS: Final = (0, 1)
_REASONS: Final = ("decode", "future", "quality")

#: Counters by topic that are there from the first sample on; those of alerts and notifications come when they count.
_COUNTED: Final = (
    "vigie_records_total", "vigie_events_stored_total", "vigie_duplicates_total", "vigie_late_events_total",
)  # fmt: skip

Series = tuple[str, tuple[tuple[str, str], ...]]


@dataclass(frozen=True)
class Sample:
    """One row: what a worker says of a metric."""

    at: datetime
    worker: str
    metric: str
    labels: tuple[tuple[str, str], ...]
    value: float


@dataclass
class _Worker:
    """The counters of one life of a worker."""

    name: str
    counters: Counter[Series] = field(default_factory=Counter)

    def add(self, metric: str, count: int, **labels: str) -> None:
        self.counters[metric, tuple(labels.items())] += count


def samples(end: datetime, seed: int = 7) -> Iterator[Sample]:
    """The samples of the two hours before `end`."""
    rng = random.Random(seed)
    workers = {name: _Worker(name) for name in WORKERS}
    for step in range(STEPS):
        at = end - timedelta(seconds=STEP_S * (STEPS - step))
        alive = (SECOND,) if step in GONE else (FIRST if step < GONE.start else THIRD, SECOND)
        for name in alive:
            yield from _said(workers[name], at, rng)
        for number, partition in enumerate(_PARTITIONS):
            holder = workers[alive[number % len(alive)]]
            for topic in RAW_TOPICS.values():
                yield from _gauges(holder, topic, partition, at, rng)
                _count(holder, topic, rng)


def _count(worker: _Worker, topic: str, rng: random.Random) -> None:
    stored, duplicates = rng.randrange(1_000, 2_000), rng.randrange(5)
    rejects = {reason: rng.randrange(3) for reason in _REASONS}
    worker.add("vigie_events_stored_total", stored, topic=topic)
    worker.add("vigie_duplicates_total", duplicates, topic=topic)
    worker.add("vigie_late_events_total", rng.randrange(20), topic=topic)
    worker.add("vigie_records_total", stored + duplicates + sum(rejects.values()), topic=topic)
    for reason, count in rejects.items():
        worker.add("vigie_rejects_total", count, topic=topic, reason=reason)


def _gauges(worker: _Worker, topic: str, partition: int, at: datetime, rng: random.Random) -> Iterator[Sample]:
    labels = (("topic", topic), ("partition", str(partition)))
    seconds = at.timestamp()
    for metric, value in (
        ("vigie_lag_records", float(rng.randrange(500))),
        ("vigie_watermark_timestamp_seconds", seconds - rng.uniform(1, 5)),
        ("vigie_snapshot_timestamp_seconds", seconds - rng.uniform(0, 5)),
    ):
        yield Sample(at, worker.name, metric, labels, value)


def _said(worker: _Worker, at: datetime, rng: random.Random) -> Iterator[Sample]:
    for topic in RAW_TOPICS.values():
        for metric in _COUNTED:
            worker.add(metric, 0, topic=topic)
        for reason in _REASONS:
            worker.add("vigie_rejects_total", 0, topic=topic, reason=reason)
    for (metric, labels), count in worker.counters.items():
        yield Sample(at, worker.name, metric, labels, float(count))
    if rng.random() < 0.1:
        worker.add("vigie_alert_transitions_total", 1, alertname="bin_full", state=rng.choice(("firing", "resolved")))
        worker.add("vigie_notifications_total", 1, outcome="delivered")
    for topic in RAW_TOPICS.values():
        yield Sample(at, worker.name, "vigie_unaccounted_records", (("topic", topic),), 0.0)
    for quantile, visible, flush in (("0.5", 0.3, 0.05), ("0.99", 0.9, 0.2)):
        labels = (("quantile", quantile),)
        yield Sample(at, worker.name, "vigie_visible_seconds", labels, visible + rng.uniform(0, 0.1))
        yield Sample(at, worker.name, "vigie_flush_seconds", labels, flush + rng.uniform(0, 0.05))
    for what in ("clickhouse", "kafka", "registry"):
        yield Sample(at, worker.name, "vigie_waiting_for", (("what", what),), 0.0)
    yield Sample(at, worker.name, "vigie_stalled_seconds", (), rng.uniform(0, 1))
    yield Sample(at, worker.name, "vigie_ready", (), 1.0)


def table(end: datetime) -> pa.Table:
    """The samples of the two hours before `end`, as rows of `worker_samples`."""
    found = list(samples(end))
    columns = {
        "at": pl.Series([one.at for one in found], dtype=pl.Datetime("ms", "UTC")).to_arrow(),
        "worker": pa.array([one.worker for one in found]),
        "metric": pa.array([one.metric for one in found]),
        "labels": pa.array([list(one.labels) for one in found], pa.map_(pa.string(), pa.string())),
        "value": pa.array([one.value for one in found]),
    }
    return pa.table(columns)
