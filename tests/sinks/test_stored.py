"""What is stored of a partition, read back from the real engine: its owner, its snapshot, its tail, its chunks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Final

import polars as pl
import pytest

from processors.alerts import to_record
from processors.pipeline import advance, take_window_rows
from processors.rebuild import adopt, window_rows_of
from schemas.contracts import DOMAINS, Domain, contract_of, examples
from schemas.rejects import Reason, rejects
from sinks import stored
from sinks.clickhouse import Sink
from sinks.rows import Origin, ZoneMaps, offset_of, version_of
from sinks.store import (
    Block,
    ChunkPart,
    Part,
    Pass,
    store_alerts,
    store_passes,
    store_records,
    store_rejects,
    store_windows,
)
from tests.support.batches import (
    HOUR,
    RECEIVED_MS,
    Ran,
    batch,
    batch_of,
    encoded,
    event,
    events,
    process,
    reference,
    state_of,
)
from tests.support.city import CITY, TOWN, city, town

_TOPIC: Final = "city.raw.sensor"


def origin(partition: int = 0, *, topic: str = _TOPIC, epoch: str = "T1", term: int = 1) -> Origin:
    return Origin(topic, partition, epoch, term)


def write(ran: Ran, sink: Sink, where: Origin, domain: Domain = "sensor") -> None:
    """Store the events, rejects and window rows of a run, as a flush of that owner does."""
    block = Block()
    for outcome in ran.outcomes:
        one = outcome.batch
        block.events[domain].append(Part(where, one.first_offset, one.last_offset, outcome.events))
        rows = outcome.refused["row"].to_numpy()
        placed = outcome.refused.with_columns(
            pl.Series("offset", one.offsets[rows]),
            pl.Series("received_at", one.received_ms[rows]).cast(pl.Datetime("ms", "UTC")),
        )
        if len(placed):
            block.refused.append(Part(where, one.first_offset, one.last_offset, placed))
    versions = {CITY: "c-1", TOWN: "t-1"}
    assert store_records(block, sink, ZoneMaps(ran.shared.locator.sets), versions) == []
    store_windows([ChunkPart(where, c.first_offset, c.last_offset + 1, c.rows) for c in ran.taken], sink)


def condemn(sink: Sink, where: Origin, *offsets: int) -> None:
    """Let ClickHouse have refused the rows of these offsets."""
    refused = rejects(pl.Series(range(len(offsets))), "sink", Reason.SINK, "469 VIOLATED_CONSTRAINT").with_columns(
        pl.Series("offset", offsets, pl.Int64),
        pl.Series("received_at", [RECEIVED_MS] * len(offsets)).cast(pl.Datetime("ms", "UTC")),
    )
    store_rejects([Part(where, min(offsets), max(offsets), refused)], sink)


def offsets(sink: Sink, table: str = "events_sensor") -> list[int]:
    return [offset for (offset,) in sink.rows(f"SELECT offset FROM {table} FINAL ORDER BY offset")]


# --- the tail


def test_the_tail_is_what_is_stored_from_an_offset_on(clickhouse: Sink) -> None:
    """Events and rejects apart, in offset order, with the chunks of the events; nothing before, nobody else's."""
    good = encoded("sensor", events(12))
    shared = reference(chunk_records=5)
    values = [*good[:6], b"junk", *good[6:9], None, *good[9:]]
    write(Ran([batch(values)], shared), clickhouse, origin())
    write(Ran([batch(values, partition=1)], shared), clickhouse, origin(1))
    write(Ran([batch(values)], shared), clickhouse, origin(epoch="T0"))
    found = stored.tail(origin(), "sensor", 4, clickhouse)
    assert found.events.to_list() == [4, 5, 7, 8, 9, 11, 12, 13]
    assert found.rejects.to_list() == [6, 10]
    assert found.chunks == {0, 5, 10}
    assert (found.last, found.condemned) == (13, frozenset())


def test_a_row_stored_twice_is_in_the_tail_once(clickhouse: Sink) -> None:
    """Two owners wrote it, and ClickHouse has not merged it yet."""
    ran = Ran([batch([*encoded("sensor", events(3)), b"junk"])], reference())
    for term in (1, 2):
        write(ran, clickhouse, origin(term=term))
    found = stored.tail(origin(), "sensor", 0, clickhouse)
    assert (found.events.to_list(), found.rejects.to_list()) == ([0, 1, 2], [3])


def test_rows_that_clickhouse_refused_are_told_apart(clickhouse: Sink) -> None:
    """Reading them again they must be rejects from the start, though no stage refuses them."""
    write(Ran([batch([*encoded("sensor", events(3)), b"junk"])], reference()), clickhouse, origin())
    condemn(clickhouse, origin(), 5, 7)
    found = stored.tail(origin(), "sensor", 1, clickhouse)
    assert found.rejects.to_list() == [3, 5, 7]
    assert found.condemned == {5, 7}
    assert stored.tail(origin(), "sensor", 6, clickhouse).condemned == {7}


def test_beyond_the_end_there_is_no_tail(clickhouse: Sink) -> None:
    """Empty series of offsets, as comparable as full ones."""
    write(Ran([batch_of(events(3))], reference()), clickhouse, origin())
    found = stored.tail(origin(), "sensor", 3, clickhouse)
    assert (found.last, len(found.events), len(found.rejects), found.chunks) == (-1, 0, 0, frozenset())
    assert found.events.dtype == found.rejects.dtype == pl.Int64()


# --- chunks


def test_the_last_chunk_is_that_of_the_stored_events(clickhouse: Sink) -> None:
    """Before an offset or at all; a partition without events has none, also when it has rejects."""
    write(Ran([batch([b"junk"])], reference()), clickhouse, origin())
    assert stored.last_chunk(origin(), "sensor", None, clickhouse) is None
    write(Ran([batch_of(events(12))], reference(chunk_records=5)), clickhouse, origin())
    ends = {None: 10, 11: 10, 10: 5, 6: 5, 5: 0, 1: 0, 0: None}
    assert {before: stored.last_chunk(origin(), "sensor", before, clickhouse) for before in ends} == ends
    assert stored.last_chunk(origin(1), "sensor", None, clickhouse) is None


def everything(domain: Domain) -> list[dict[str, Any]]:
    """Every good example of a contract, nulls and all, under names of their own, and one of another authority."""
    blank = {f.name: f.symbols[0] if f.symbols else None for f in contract_of(domain).fields}
    values = [blank | example["value"] for example in examples(contract_of(domain).name, "good")]
    values.append(event(domain, jurisdiction_id=TOWN, asset_id="" if domain == "report" else "bin-00017"))
    if domain == "report":
        values[-1] |= {"longitude": 4.8350, "latitude": 45.7640}
    named = [value | {"event_id": f"{number}/{value['event_id'][:100]}"} for number, value in enumerate(values)]
    return [*named, *(named[0] | {"event_id": f"x{n}", "observed_at": named[0]["observed_at"] - n} for n in range(3))]


@pytest.mark.parametrize("domain", DOMAINS)
def test_the_events_of_a_chunk_come_back_as_they_went(clickhouse: Sink, domain: Domain) -> None:
    """Field by field, nulls and zones too, for a process that numbers its zones anew: what they count is the same."""
    ran = Ran([batch_of(everything(domain), domain)], reference(city(), town()))
    where = origin(topic=f"city.raw.{domain}")
    write(ran, clickhouse, where, domain)
    found = stored.chunk_events(where, domain, 0, 1_000, clickhouse)
    anew = reference(city(), town()).locator.sets
    again = window_rows_of(found, domain, anew)
    key = ["window_start", "jurisdiction_id", "layer", "zone_code", "metric"]
    assert again.sort(key).equals(ran.windows.select(again.columns).sort(key))
    (outcome,) = ran.outcomes
    fields = [f.name for f in contract_of(domain).fields]
    names = [*fields, "kind", "late", "failed", "offset", "chunk"]
    types = outcome.events.select(names).schema
    assert found.select(names).cast(dict(types)).equals(outcome.events.select(names).sort("offset"))  # type: ignore[arg-type]


def test_the_events_of_a_chunk_end_before_an_offset(clickhouse: Sink) -> None:
    """In offset order, each once, and of that chunk alone."""
    write(Ran([batch_of(events(12))], reference(chunk_records=5)), clickhouse, origin())
    write(Ran([batch_of(events(12))], reference(chunk_records=5)), clickhouse, origin(term=2))
    found = stored.chunk_events(origin(), "sensor", 5, 8, clickhouse)
    assert found["offset"].to_list() == [5, 6, 7]
    assert len(stored.chunk_events(origin(), "sensor", 3, 8, clickhouse)) == 0


def test_events_are_found_from_an_offset_to_another(clickhouse: Sink) -> None:
    """In offset order, each once, of all chunks between; whole, or only what duplicates are known by."""
    write(Ran([batch_of(events(12))], reference(chunk_records=5)), clickhouse, origin())
    write(Ran([batch_of(events(12))], reference(chunk_records=5)), clickhouse, origin(term=2))
    write(Ran([batch_of(events(12))], reference(chunk_records=5)), clickhouse, origin(epoch="another"))
    found = stored.events(origin(), "sensor", 3, 11, clickhouse)
    assert found["offset"].to_list() == list(range(3, 11))
    assert found["chunk"].unique().sort().to_list() == [0, 5, 10]
    ids = stored.event_ids(origin(), "sensor", 3, 11, clickhouse)
    assert ids.equals(found.select("offset", "source", "event_id"))
    assert stored.event_ids(origin(), "sensor", 3, 3, clickhouse).is_empty()


# --- taking back


def delete_from(where: Origin, first_offset: int, sink: Sink) -> None:
    # On a busy machine longer than the tests of the sink would wait.
    stored.delete_from(where, "sensor", first_offset, replace(sink, retry_budget_s=60.0))


def test_what_is_deleted_lies_beyond_and_is_the_partitions_own(clickhouse: Sink) -> None:
    """Events and rejects from the offset on; what ClickHouse refused stays refused; others lose nothing."""
    values = [*encoded("sensor", events(6)), b"junk", None]
    ran = Ran([batch(values)], reference())
    write(ran, clickhouse, origin())
    condemn(clickhouse, origin(), 9)
    for other in (origin(1), origin(epoch="T2")):
        write(ran, clickhouse, other)
    delete_from(origin(term=2), 4, clickhouse)
    mine = "epoch = 'T1' AND partition = 0"
    assert clickhouse.rows(f"SELECT offset FROM events_sensor WHERE {mine} ORDER BY offset") == [(0,), (1,), (2,), (3,)]
    assert clickhouse.rows(f"SELECT offset, reason FROM rejects WHERE {mine}") == [(9, "sink")]
    assert clickhouse.rows(f"SELECT count() FROM events_sensor WHERE NOT ({mine})") == [(12,)]
    assert clickhouse.rows(f"SELECT count() FROM rejects WHERE NOT ({mine})") == [(4,)]


def test_what_was_deleted_can_be_stored_again(clickhouse: Sink) -> None:
    """By the owner that had it deleted, in the same cut: the tokens that ClickHouse remembers are of another term."""
    ran = Ran([batch([*encoded("sensor", events(4)), b"junk"])], reference())
    write(ran, clickhouse, origin(term=1))
    delete_from(origin(term=2), 0, clickhouse)
    assert (offsets(clickhouse), offsets(clickhouse, "rejects")) == ([], [])
    write(ran, clickhouse, origin(term=2))
    assert (offsets(clickhouse), offsets(clickhouse, "rejects")) == ([0, 1, 2, 3], [4])


def test_a_stale_owner_deletes_nothing_of_a_newer_one(clickhouse: Sink) -> None:
    """It hung in its take-over, the next owner has stored and saved meanwhile, and now its delete arrives."""
    ran = Ran([batch([*encoded("sensor", events(4)), b"junk"])], reference())
    write(ran, clickhouse, origin(term=1))
    write(ran, clickhouse, origin(term=3))
    delete_from(origin(term=2), 0, clickhouse)
    assert (offsets(clickhouse), offsets(clickhouse, "rejects")) == ([0, 1, 2, 3], [4])


def test_time_that_passed_without_records_is_known_where_it_did(clickhouse: Sink) -> None:
    """From an offset on, in the order it passed, whoever wrote it and however often; of this partition alone."""
    passed = [(origin(), Pass(9, 500)), (origin(), Pass(4, 100)), (origin(), Pass(9, 300)), (origin(1), Pass(9, 900))]
    for term in (1, 2):
        store_passes([(replace(where, term=term), one) for where, one in passed], clickhouse)
    assert stored.passes(origin(), 0, clickhouse) == [Pass(4, 100), Pass(9, 300), Pass(9, 500)]
    assert stored.passes(origin(), 5, clickhouse) == [Pass(9, 300), Pass(9, 500)]
    assert stored.passes(origin(epoch="T2"), 0, clickhouse) == []


# --- windows


def test_window_keys_name_the_rows_of_a_partition_from_a_chunk_on(clickhouse: Sink) -> None:
    """Each key once, at its newest version, also where the newest counts nothing."""
    ran = Ran([batch_of(events(12))], reference(chunk_records=5))
    write(ran, clickhouse, origin())
    write(ran, clickhouse, origin(1))
    write(ran, clickhouse, origin(epoch="T2"))
    later = [c for c in ran.taken if c.first_offset == 10]
    emptied = later[0].rows.with_columns(pl.lit(0, pl.UInt64).alias("count"))
    store_windows([ChunkPart(origin(term=4), 10, 11, emptied)], clickhouse)
    found = stored.window_keys(origin(), 5, clickhouse)
    assert set(found["chunk"].to_list()) == {5, 10}
    expected = ran.windows.filter(pl.col("chunk") >= 5)
    key = ["window_start", "jurisdiction_id", "layer", "zone_code", "metric", "chunk"]
    same = found.with_columns(pl.col("window_start").dt.cast_time_unit("ms")).select(key).sort(key)
    assert same.cast(dict(expected.select(key).schema)).equals(expected.select(key).sort(key))  # type: ignore[arg-type]
    versions = {chunk: set(part["version"].to_list()) for (chunk,), part in found.group_by("chunk")}
    assert versions == {5: {version_of(1, 10)}, 10: {version_of(4, 11)}}
    assert {offset_of(version) for version in versions[10]} == {11}


def test_window_keys_can_be_written_again(clickhouse: Sink) -> None:
    """Their resolution and instants are those of the rows, so that a row that takes one back fits its column."""
    ran = Ran([batch_of(events(3))], reference())
    write(ran, clickhouse, origin())
    key = ["window_start", "layer", "zone_code", "metric"]
    found = stored.window_keys(origin(), 0, clickhouse).sort(key)
    expected = ran.windows.sort(key)
    assert found["resolution"].to_list() == expected["resolution"].to_list()
    assert found["last_at"].dt.epoch("ms").to_list() == expected["last_at"].dt.epoch("ms").to_list()


def test_a_partition_without_windows_has_no_keys(clickhouse: Sink) -> None:
    """Nothing to take back."""
    assert len(stored.window_keys(origin(), 0, clickhouse)) == 0


# --- alerts


def fires() -> list[dict[str, Any]]:
    """A bin that burns and is put out, and one that burns on."""
    start = RECEIVED_MS - HOUR
    burning = [(0, "bin-00017", 95.0), (60_000, "bin-00017", 20.0), (120_000, "drop-off-0004", 99.0)]
    return [
        event(event_id=f"f{number}", observed_at=start + after, asset_id=asset, temperature_c=degrees)
        for number, (after, asset, degrees) in enumerate(burning)
    ]


def store_transitions(sink: Sink, where: Origin, made: Iterable[tuple[int, Any]]) -> list[dict[str, Any]]:
    records = [(offset, to_record(transition)) for offset, transition in made]
    store_alerts([(where, offset, record) for offset, record in records], sink)
    return [record for _, record in records]


def test_the_newest_transition_of_each_alert_comes_back_as_it_went(clickhouse: Sink) -> None:
    """Values of the Alert contract, instants in milliseconds; made before the offset, by this partition."""
    ran = Ran([batch_of([one], first_offset=10 * number) for number, one in enumerate(fires())], reference())
    made = [(o.batch.last_offset, t) for o in ran.outcomes for t in o.transitions]
    made += [(30, t) for t in advance(ran.state, RECEIVED_MS, ran.shared)]
    records = store_transitions(clickhouse, origin(), made)
    elsewhere = [(offset, replace(t, transition_id=f"x{t.sequence}", fingerprint="x")) for offset, t in made]
    store_transitions(clickhouse, origin(1), elsewhere)
    for before in (1_000, 15, 5):
        newest = {r["fingerprint"]: r for (offset, _), r in zip(made, records, strict=True) if offset < before}
        found = stored.newest_transitions(origin(), before, clickhouse)
        assert {r["fingerprint"]: r for r in found} == newest
        assert len(found) == len(newest)
    assert {r["state"] for r in stored.newest_transitions(origin(), 1_000, clickhouse)} >= {"firing", "resolved"}
    assert stored.newest_transitions(origin(epoch="T9"), 1_000, clickhouse) == []


def test_alerts_that_were_read_back_go_on(clickhouse: Sink) -> None:
    """A state that adopts them says nothing anew of what burns on, and ends it under its name when it is put out."""
    shared = reference()
    ran = Ran([batch_of(fires())], shared)
    made = [(2, t) for o in ran.outcomes for t in o.transitions]
    made += [(2, t) for t in advance(ran.state, RECEIVED_MS, shared)]
    store_transitions(clickhouse, origin(), made)
    (raised,) = [t for _, t in made if t.asset_id == "drop-off-0004"]
    after = [
        event(event_id=f"g{n}", observed_at=RECEIVED_MS - n, asset_id="drop-off-0004", temperature_c=degrees)
        for n, degrees in ((9, 98.0), (5, 20.0), (1, 20.0))
    ]
    batches = [batch_of([one], first_offset=3 + n) for n, one in enumerate(after)]
    state = state_of(batches[0], shared)
    adopt(state, stored.newest_transitions(origin(), 1_000, clickhouse))
    said = [t for one in batches for o in process(one, state, shared) for t in o.transitions]
    said += advance(state, RECEIVED_MS + HOUR, shared)
    assert [(t.fingerprint, t.state, t.sequence) for t in said if t.alertname == "bin_fire"] == [
        (raised.fingerprint, "resolved", raised.sequence + 1)
    ]
    assert take_window_rows(state)
