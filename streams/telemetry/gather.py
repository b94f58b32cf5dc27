"""The values of all metrics of a worker at one instant, and the reasons why it is not ready.

Both are read from what the worker keeps anyway and ask nobody, so they answer while everything else is away.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from faust.types import TP

from schemas.contracts import RAW_TOPICS
from schemas.rejects import Reason
from streams.clock import monotonic_s
from streams.settings import without_password
from streams.telemetry.metrics import Sample

if TYPE_CHECKING:
    from streams.worker import Worker

#: An idle broker answers a fetch four times a second.
_SILENT_MS: Final = 10_000


def samples(worker: Worker) -> list[Sample]:
    """Every declared metric. Call from the event loop's thread."""
    return [*_counts(worker), *_places(worker), *_state(worker)]


def _counts(worker: Worker) -> Iterator[Sample]:
    tally = worker.tally
    for topic in RAW_TOPICS.values():
        records, ended = tally.by_topic[topic], {e: n for (t, e), n in tally.ended.items() if t == topic}
        yield Sample("vigie_records_total", (topic,), records)
        yield Sample("vigie_events_stored_total", (topic,), ended.get("stored", 0))
        yield Sample("vigie_late_events_total", (topic,), tally.late_by_topic[topic])
        yield Sample("vigie_duplicates_total", (topic,), ended.get(Reason.DUPLICATE, 0))
        yield Sample("vigie_unaccounted_records", (topic,), records - sum(ended.values()))
        for reason in Reason:
            if reason is not Reason.DUPLICATE:
                yield Sample("vigie_rejects_total", (topic, reason.value), ended.get(reason, 0))
    for labels, count in tally.transitions.items():
        yield Sample("vigie_alert_transitions_total", labels, count)
    for outcome, count in tally.notified.items():
        yield Sample("vigie_notifications_total", (outcome,), count)
    for metric, spread in (("vigie_visible_seconds", tally.visible_s), ("vigie_flush_seconds", tally.flush_s)):
        for quantile, seconds in spread.last.items():
            yield Sample(metric, (quantile,), seconds)


def _places(worker: Worker) -> Iterator[Sample]:
    now_ms, now_s = worker.clock.now_ms(), monotonic_s()
    for place, entry in worker.ledger:
        labels = (place.topic, str(place.partition))
        if (end := worker.app.consumer.told_end(TP(place.topic, place.partition))) is not None:
            yield Sample("vigie_lag_records", labels, max(0, end[0] - entry.stored))
        if entry.state.watermark_ms > 0:
            yield Sample("vigie_watermark_timestamp_seconds", labels, entry.state.watermark_ms / 1_000)
        if entry.snapshot_s:
            yield Sample("vigie_snapshot_timestamp_seconds", labels, now_ms / 1_000 - (now_s - entry.snapshot_s))


def _state(worker: Worker) -> Iterator[Sample]:
    yield Sample("vigie_waiting_for", ("clickhouse",), worker.sink.is_waiting)
    yield Sample("vigie_waiting_for", ("kafka",), _kafka_is_away(worker))
    yield Sample("vigie_waiting_for", ("registry",), worker.is_registry_away)
    yield Sample("vigie_stalled_seconds", (), worker.stalled_s)
    yield Sample("vigie_ready", (), not unready(worker))


def unready(worker: Worker) -> list[str]:
    """Why the worker is not ready, in words; nothing when it is.

    Ready is a worker that has taken over what the group gave it (which may be nothing: it stands by) and sees
    ClickHouse, Kafka and, where it asks one, the schema registry. Call from the event loop's thread.
    """
    if worker.failure is not None:
        return [f"it is stopping: {worker.failure}"]
    if worker.is_stopping:
        return ["it is stopping"]
    found = []
    if worker.sink.is_waiting:
        found.append(f"ClickHouse is away and being waited for: {without_password(worker.sink.url)}")
    if _kafka_is_away(worker):
        found.append(f"Kafka is away and being waited for: {worker.settings.kafka_bootstrap}")
    if worker.is_registry_away:
        registry = without_password(worker.settings.schema_registry_url or "")
        found.append(f"the schema registry is away and being waited for: {registry}")
    if not worker.custody.is_open:
        found.append("its partitions are not taken over yet")
    return found


def _kafka_is_away(worker: Worker) -> bool:
    return worker.custody.is_kafka_away or worker.confirmed.is_waiting or _is_silent(worker)


def _is_silent(worker: Worker) -> bool:
    """Whether no broker has answered a fetch for a while, of a worker that has nothing else to do than to fetch."""
    if worker.is_busy or not worker.custody.is_open:
        return False
    ends = [worker.app.consumer.told_end(TP(place.topic, place.partition)) for place, _ in worker.ledger]
    told = [end[1] for end in ends if end is not None]
    return bool(told) and worker.clock.now_ms() - max(told) > _SILENT_MS
