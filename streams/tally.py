"""What a worker has done since it started: the numbers of the summary, the live table, the metrics and the log."""

from __future__ import annotations

import resource
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from processors.pipeline import Outcome
from schemas.contracts import domain_of
from schemas.rejects import Reason

#: Latencies kept: enough for a p99 that a few batches cannot move.
_SAMPLES: Final = 200_000
#: Of one batch, for the quantiles of a few seconds.
_OF_A_BATCH: Final = 1_000
#: How a record ends that becomes a row.
STORED: Final = "stored"


@dataclass
class Spread:
    """Quantiles of what came since they were taken last, by name ("0.5", "0.99"), in the unit of what came."""

    last: dict[str, float] = field(default_factory=dict)
    _came: list[npt.NDArray[np.float64]] = field(default_factory=list)

    def add(self, values: npt.NDArray[np.float64]) -> None:
        """Take in values; of many only some, evenly chosen."""
        self._came.append(values[:: max(1, len(values) // _OF_A_BATCH)])

    def take(self) -> None:
        """Make `last` of what came, and begin anew. Nothing came: nothing is said."""
        came, self._came = self._came, []
        self.last = {}
        if came:
            p50, p99 = np.percentile(np.concatenate(came), (50, 99))
            self.last = {"0.5": float(p50), "0.99": float(p99)}


@dataclass
class Tally:
    """Counts of durable things only: a record counts once its row or its reject is stored.

    `ended` counts records by topic and by how they ended: STORED, or a reason.
    """

    by_topic: Counter[str] = field(default_factory=Counter)
    ended: Counter[tuple[str, str]] = field(default_factory=Counter)
    late_by_topic: Counter[str] = field(default_factory=Counter)
    location_quality: Counter[str] = field(default_factory=Counter)
    transitions: Counter[tuple[str, str]] = field(default_factory=Counter)
    notified: Counter[str] = field(default_factory=Counter)
    visible_s: Spread = field(default_factory=Spread)
    flush_s: Spread = field(default_factory=Spread)
    first_s: float | None = None
    last_s: float | None = None
    _latency_ms: list[npt.NDArray[np.int64]] = field(default_factory=list)
    _sampled: int = 0

    def outcome(self, outcome: Outcome, durable_at_ms: int) -> None:
        """Count one batch that became durable at that wall instant (milliseconds since 1970)."""
        topic = outcome.batch.topic
        self.by_topic[topic] += len(outcome.batch)
        if len(outcome.events):
            self.ended[topic, STORED] += len(outcome.events)
            self.late_by_topic[topic] += int(outcome.events["late"].sum())
            for quality, n in outcome.events["location_quality"].value_counts().iter_rows():
                self.location_quality[quality] += n
        for reason, n in outcome.refused["reason"].value_counts().iter_rows():
            self.ended[topic, reason] += n
        latency_ms = durable_at_ms - outcome.batch.received_ms
        self.visible_s.add(latency_ms / 1_000)
        if self._sampled < _SAMPLES:
            self._latency_ms.append(latency_ms)
            self._sampled += len(outcome.batch)

    @property
    def records(self) -> int:
        """Records, however they ended."""
        return self.by_topic.total()

    @property
    def stored(self) -> int:
        """Events stored."""
        return self.stored_by_domain.total()

    @property
    def stored_by_domain(self) -> Counter[str]:
        """Events stored, by domain."""
        return Counter({domain_of(topic): n for (topic, end), n in self.ended.items() if end == STORED})

    @property
    def late(self) -> int:
        """Events stored that were late."""
        return self.late_by_topic.total()

    @property
    def duplicates(self) -> int:
        """Records that were known already."""
        return sum(n for (_, end), n in self.ended.items() if end == Reason.DUPLICATE)

    @property
    def rejected(self) -> Counter[str]:
        """Records refused by reason; duplicates are no refusals."""
        found = Counter[str]()
        for (_, end), n in self.ended.items():
            if end not in (STORED, Reason.DUPLICATE):
                found[end] += n
        return found

    def took_part(self, now_s: float) -> None:
        """Note that records were taken or became durable at that monotonic instant."""
        self.first_s = now_s if self.first_s is None else self.first_s
        self.last_s = now_s

    @property
    def seconds(self) -> float:
        """From the first record taken to the last one durable."""
        return (self.last_s or 0.0) - (self.first_s or 0.0)

    def latency_ms(self) -> dict[str, float]:
        """Broker time to durable and readable row: p50 and p99 in milliseconds."""
        if not self._latency_ms:
            return {"p50": 0.0, "p99": 0.0}
        p50, p99 = np.percentile(np.concatenate(self._latency_ms), (50, 99))
        return {"p50": round(float(p50), 1), "p99": round(float(p99), 1)}

    def summary(self) -> dict[str, Any]:
        """The numbers as JSON values."""
        return {
            "records": self.records,
            "stored": self.stored,
            "rejected": dict(sorted(self.rejected.items())),
            "duplicates": self.duplicates,
            "late": self.late,
            "location_quality": dict(sorted(self.location_quality.items())),
            "seconds": round(self.seconds, 3),
            "events_per_s": round(self.records / self.seconds, 1) if self.seconds > 0 else 0.0,
            "visible_latency_ms": self.latency_ms(),
            "peak_rss_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
        }
