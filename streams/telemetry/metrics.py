"""Every metric, declared once: what `/metrics` shows, what `worker_samples` keeps and what dashboards may ask for.

Labels are bounded: topics, partitions, reasons, rules, states and outcomes; never an asset, a zone or an authority.
Counters count durable things only, and begin at 0 with each start of a worker.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Final, Literal, NamedTuple

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST


@dataclass(frozen=True)
class Declared:
    """A metric: its name, what it says, and the names of its labels."""

    name: str
    kind: Literal["counter", "gauge"]
    doc: str
    labels: tuple[str, ...] = ()


class Sample(NamedTuple):
    """A value of a metric at an instant; the values of its labels in their declared order."""

    metric: str
    labels: tuple[str, ...]
    value: float


DECLARED: Final[Mapping[str, Declared]] = {
    one.name: one
    for one in (
        Declared("vigie_records_total", "counter", "records made durable: stored, refused or duplicate", ("topic",)),
        Declared("vigie_events_stored_total", "counter", "events stored as rows", ("topic",)),
        Declared("vigie_late_events_total", "counter", "of these, later than the allowed disorder", ("topic",)),
        Declared("vigie_rejects_total", "counter", "records refused, by reason", ("topic", "reason")),
        Declared("vigie_duplicates_total", "counter", "records that were known already", ("topic",)),
        Declared(
            "vigie_unaccounted_records",
            "gauge",
            "records - stored - refused - duplicates: anything but 0 is a bug",
            ("topic",),
        ),
        Declared("vigie_lag_records", "gauge", "records in Kafka that are not durable yet", ("topic", "partition")),
        Declared("vigie_watermark_timestamp_seconds", "gauge", "how far event time has come", ("topic", "partition")),
        Declared("vigie_snapshot_timestamp_seconds", "gauge", "wall time of the last snapshot", ("topic", "partition")),
        Declared(
            "vigie_visible_seconds",
            "gauge",
            "from the broker's time to a readable row, of what became durable since the last sample",
            ("quantile",),
        ),
        Declared("vigie_flush_seconds", "gauge", "how long flushes took since the last sample", ("quantile",)),
        Declared("vigie_alert_transitions_total", "counter", "transitions of alerts stored", ("alertname", "state")),
        Declared("vigie_notifications_total", "counter", "what became of notifications", ("outcome",)),
        Declared("vigie_waiting_for", "gauge", "1 while it is away and being waited for", ("what",)),
        Declared("vigie_stalled_seconds", "gauge", "for how long records have waited and nothing has moved"),
        Declared("vigie_ready", "gauge", "1 when /ready says yes"),
    )
}


def exposition(samples: Iterable[Sample]) -> bytes:
    """The samples in Prometheus' text format, all declared metrics in their order. Raises KeyError for others."""
    registry = CollectorRegistry()
    registry.register(_Given(samples))
    return generate_latest(registry)


class _Given:
    """Hands prometheus_client what has been gathered."""

    def __init__(self, samples: Iterable[Sample]) -> None:
        order = {name: number for number, name in enumerate(DECLARED)}
        self._samples = sorted(samples, key=lambda sample: order[sample.metric])

    def describe(self) -> Iterable[Metric]:
        """Nothing: it would be collected at once to learn the names."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """One family for each metric that has samples."""
        for name, samples in groupby(self._samples, key=lambda sample: sample.metric):
            declared = DECLARED[name]
            family_of = CounterMetricFamily if declared.kind == "counter" else GaugeMetricFamily
            family = family_of(name, declared.doc, labels=declared.labels)
            for sample in samples:
                family.add_metric(sample.labels, sample.value)
            yield family
