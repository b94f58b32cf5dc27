"""The same from real ClickHouse: what was stored comes back to the last step, whatever the values."""

from __future__ import annotations

from typing import Final

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from processors.alerts import to_record
from processors.rebuild import adopt, regain_time, reopen, window_rows_of
from schemas.contracts import DOMAINS, Domain
from schemas.records import Batch
from sinks.clickhouse import Sink
from sinks.rows import Origin, ZoneMaps
from sinks.store import Block, Part, store_alerts, store_records
from sinks.stored import chunk_events, event_ids, newest_transitions
from tests.processors.restarts import Lives, in_order
from tests.processors.test_pipeline_properties import RULES, long_log
from tests.processors.test_rebuild import extreme_log
from tests.support.batches import MINUTE, batch, raw_bytes, reference
from tests.support.city import CITY, city

_KEY: Final = ("window_start", "jurisdiction_id", "layer", "zone_code", "metric")


def store(lives: Lives, domain: Domain, sink: Sink) -> Origin:
    """Write all that the partition has become so far."""
    first = lives.outcomes[0].batch
    origin = Origin(first.topic, first.partition, "T1", 1)
    parts = [Part(origin, o.batch.first_offset, o.batch.last_offset, o.events) for o in lives.outcomes if len(o.events)]
    assert store_records(Block(events={domain: parts}), sink, ZoneMaps(lives.shared.locator.sets), {CITY: "c-1"}) == []
    told = [(origin, o.batch.last_offset, to_record(t)) for o in lives.outcomes for t in o.transitions]
    if told:
        store_alerts(told, sink)
    return origin


@pytest.mark.parametrize("domain", DOMAINS)
def test_window_rows_survive_the_store(domain: Domain, clickhouse: Sink) -> None:
    """Late ones, nulls, failed readings, the ends of every range, no zone: read back, the rows are the same."""
    whole = extreme_log(domain)
    lives = Lives(lambda: reference(city()), whole)
    lives.take([whole])
    origin = store(lives, domain, clickhouse)
    stored = chunk_events(origin, domain, 0, 10**9, clickhouse)
    found = window_rows_of(stored, domain, reference(city()).locator.sets)
    assert_frame_equal(found.sort(*_KEY), lives.windows.drop("chunk", "version").sort(*_KEY), check_exact=True)
    assert len(found) > 100


class Stored(Lives):
    """A partition whose stored events are read back from ClickHouse."""

    def __init__(self, whole: Batch, domain: Domain, sink: Sink) -> None:
        super().__init__(lambda: reference(city(RULES), chunk_records=50, disorder_ms=10 * MINUTE), whole)
        self.domain, self.sink, self.origin = domain, sink, Origin(whole.topic, whole.partition, "T1", 1)

    def chunk(self, first_offset: int | None) -> pl.DataFrame:
        if first_offset is None:
            return pl.DataFrame()
        return chunk_events(self.origin, self.domain, first_offset, self.last_offset + 1, self.sink)

    def between(self, first_offset: int, before_offset: int | None) -> pl.DataFrame:
        before = self.last_offset + 1 if before_offset is None else before_offset
        return event_ids(self.origin, self.domain, first_offset, before, self.sink)


@pytest.mark.parametrize("domain", DOMAINS)
def test_a_partition_is_reopened_from_the_store(domain: Domain, clickhouse: Sink) -> None:
    """Frozen, and given its chunks back from what ClickHouse has of them: the history is that of one life."""
    whole = batch(long_log(domain, seed=5, count=140), domain)
    once, lives = Stored(whole, domain, clickhouse), Stored(whole, domain, clickhouse)
    once.take([whole])
    store(once, domain, clickhouse)
    for start in range(0, 140, 35):
        lives.take([whole.part(start, start + 35)])
        lives.restart()
    assert_frame_equal(lives.events, once.events)
    assert lives.refused == once.refused
    assert in_order(lives.transitions) == in_order(once.transitions)
    assert raw_bytes(lives.windows.drop("version")) == raw_bytes(once.windows.drop("version"))


@pytest.mark.parametrize("domain", ["sensor", "lighting"])
def test_a_partition_without_a_snapshot_is_taken_from_the_store(domain: Domain, clickhouse: Sink) -> None:
    """Alerts, time and duplicates come back from the tables as they do from memory: nothing rings twice."""
    whole = batch(long_log(domain, seed=5, count=140), domain)
    once, lives = Stored(whole, domain, clickhouse), Stored(whole, domain, clickhouse)
    once.take([whole])
    lives.take([whole.part(0, 100)])
    store(lives, domain, clickhouse)
    lives.begin_anew()
    adopt(lives.state, newest_transitions(lives.origin, 100, clickhouse))
    previous = lives.chunk(50)
    reopen(lives.state, lives.shared, pl.DataFrame(), previous, last_offset=99, chunk_first=None, seen_from=50)
    quality = clickhouse.frame(f"SELECT offset, quality FROM events_{domain} FINAL WHERE chunk = 50")
    regain_time(lives.state, lives.shared, previous.drop("quality", strict=False).join(quality, on="offset"))
    lives.take([whole.part(100, 140)])
    rules = {t.alertname for t in once.transitions} - {"silent"}
    told, expected = ([t for t in in_order(one.transitions) if t.alertname in rules] for one in (lives, once))
    assert told == expected
    assert_frame_equal(lives.events, once.events)
