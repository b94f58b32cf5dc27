"""What a worker has done since it started: the numbers of the summary, the live table and the log."""

from __future__ import annotations

import resource
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from processors.pipeline import Outcome
from schemas.rejects import Reason

#: Latencies kept: enough for a p99 that a few batches cannot move.
_SAMPLES: Final = 200_000


@dataclass
class Tally:
    """Counts of durable things only: a record counts once its row or its reject is stored."""

    records: int = 0
    stored: int = 0
    late: int = 0
    duplicates: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    stored_by_domain: Counter[str] = field(default_factory=Counter)
    location_quality: Counter[str] = field(default_factory=Counter)
    transitions: Counter[tuple[str, str]] = field(default_factory=Counter)
    notified: Counter[str] = field(default_factory=Counter)
    first_s: float | None = None
    last_s: float | None = None
    _latency_ms: list[npt.NDArray[np.int64]] = field(default_factory=list)
    _sampled: int = 0

    def outcome(self, outcome: Outcome, durable_at_ms: int) -> None:
        """Count one batch that became durable at that wall instant (milliseconds since 1970)."""
        self.records += len(outcome.batch)
        self.stored += len(outcome.events)
        self.stored_by_domain[outcome.domain] += len(outcome.events)
        if len(outcome.events):
            self.late += int(outcome.events["late"].sum())
            for quality, n in outcome.events["location_quality"].value_counts().iter_rows():
                self.location_quality[quality] += n
        for reason, n in outcome.refused["reason"].value_counts().iter_rows():
            if reason == Reason.DUPLICATE:
                self.duplicates += n
            else:
                self.rejected[reason] += n
        if self._sampled < _SAMPLES:
            self._latency_ms.append(durable_at_ms - outcome.batch.received_ms)
            self._sampled += len(outcome.batch)

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
