"""Metrics: each declared once, shown as Prometheus reads them, kept in ClickHouse with the same names."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from schemas.contracts import RAW_TOPICS
from sinks.clickhouse import Sink
from streams.tally import Spread
from streams.telemetry.metrics import DECLARED, Sample, exposition
from streams.telemetry.sampling import TABLE, rows
from tests.streams.lives import life, offer
from tests.streams.worlds import SENSOR, World, log


def parsed(text: bytes) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Every line of an exposition, by name and labels."""
    families = text_string_to_metric_families(text.decode())
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for family in families for s in family.samples}


@pytest.mark.parametrize("name", DECLARED)
def test_names_follow_the_conventions(name: str) -> None:
    """Ours, with the unit last, `_total` for what only grows, and a sentence about it."""
    declared = DECLARED[name]
    assert name.startswith("vigie_")
    assert name.endswith("_total") == (declared.kind == "counter")
    assert len(declared.doc.split()) >= 3
    assert len(declared.labels) <= 2


def test_prometheus_reads_what_is_shown() -> None:
    """Names, labels and values arrive as they were given, whatever stands in a label."""
    given = [
        Sample("vigie_ready", (), 1.0),
        Sample("vigie_rejects_total", ("city.raw.sensor", 'a "quoted"\\ reason\n'), 3),
        Sample("vigie_rejects_total", ("city.raw.report", "decode"), 4),
        Sample("vigie_lag_records", ("city.raw.sensor", "0"), 5),
    ]
    assert parsed(exposition(given)) == {
        ("vigie_ready", ()): 1.0,
        ("vigie_rejects_total", (("reason", 'a "quoted"\\ reason\n'), ("topic", "city.raw.sensor"))): 3.0,
        ("vigie_rejects_total", (("reason", "decode"), ("topic", "city.raw.report"))): 4.0,
        ("vigie_lag_records", (("partition", "0"), ("topic", "city.raw.sensor"))): 5.0,
    }


def test_what_is_not_declared_is_not_shown() -> None:
    """A metric is declared before it is used, so that there is one list of them."""
    with pytest.raises(KeyError, match="vigie_made_up"):
        exposition([Sample("vigie_made_up", (), 1.0)])
    with pytest.raises(ValueError, match="argument"):
        rows([Sample("vigie_lag_records", ("city.raw.sensor",), 1.0)], "one", 0)


@pytest.fixture
def world(clickhouse: Sink, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    yield offer(World(clickhouse, log()), monkeypatch)


def test_every_metric_comes_from_a_worker(world: World) -> None:
    """A worker that has stored, refused and told has a value for every declared metric, with its labels, and they add
    up to what it was given."""
    found: list[Sample] = []

    async def whole() -> None:
        with life(world) as one:
            one.kafka.told_end = lambda tp: (one.kafka.highwater(tp), one.worker.clock.now_ms())
            await one.join()
            await one.work()
            one.worker.tally.notified["delivered"] += 1
            found.extend(one.worker._samples())

    asyncio.run(whole())
    assert {sample.metric for sample in found} == set(DECLARED)
    assert all(len(sample.labels) == len(DECLARED[sample.metric].labels) for sample in found)
    value = {(sample.metric, *sample.labels): sample.value for sample in found}
    assert len(value) == len(found), "no metric has two values with the same labels"
    for topic in RAW_TOPICS.values():
        ended = sum(
            one.value
            for one in found
            if one.metric in ("vigie_events_stored_total", "vigie_rejects_total", "vigie_duplicates_total")
            and one.labels[0] == topic
        )
        assert value["vigie_records_total", topic] == ended
        assert value["vigie_unaccounted_records", topic] == 0
    assert value["vigie_records_total", SENSOR.topic] == sum(
        len(log) for place, log in world.log.items() if place.topic == SENSOR.topic
    )
    assert value["vigie_lag_records", SENSOR.topic, str(SENSOR.partition)] == 0
    assert parsed(exposition(found))["vigie_ready", ()] == 1.0


def test_samples_are_kept_with_their_labels(clickhouse: Sink) -> None:
    """What is kept is what was gathered: a dashboard finds a topic under its name."""
    # Of the last days: older ones are not kept.
    now_ms = int(time.time() * 1_000)
    given = [Sample("vigie_lag_records", ("city.raw.sensor", "3"), 7), Sample("vigie_ready", (), True)]
    clickhouse.insert_whole(TABLE, rows(given, "one", now_ms), "a")
    assert clickhouse.rows(
        "SELECT toUnixTimestamp64Milli(at), worker, metric, labels['topic'], labels['partition'], value "
        "FROM worker_samples ORDER BY metric"
    ) == [
        (now_ms, "one", "vigie_lag_records", "city.raw.sensor", "3", 7.0),
        (now_ms, "one", "vigie_ready", "", "", 1.0),
    ]


def test_quantiles_are_of_what_came_since() -> None:
    """Each sample tells of its own seconds; of seconds in which nothing came it tells nothing."""
    spread = Spread()
    spread.add(np.arange(1, 100_001) / 1_000)
    spread.take()
    assert spread.last["0.5"] == pytest.approx(50, rel=0.01)
    assert spread.last["0.99"] == pytest.approx(99, rel=0.01)
    spread.add(np.array([2.0]))
    spread.take()
    assert spread.last == {"0.5": 2.0, "0.99": 2.0}
    spread.take()
    assert spread.last == {}
