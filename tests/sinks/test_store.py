"""A flush in the tables: written again it is the same, and readers see each thing once, at its newest."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

from processors.pipeline import ChunkRows
from schemas.contracts import Domain, contract
from sinks.clickhouse import Refused, Sink
from sinks.rows import Origin, ZoneMaps, version_of
from sinks.store import (
    Block,
    ChunkPart,
    Part,
    RefusedEvent,
    Snapshot,
    store_alerts,
    store_derived,
    store_records,
    store_snapshots,
)
from tests.support.batches import (
    DAY,
    HOUR,
    RECEIVED_MS,
    Ran,
    batch,
    batch_of,
    cut,
    encoded,
    event,
    events,
    newest,
    reference,
)
from tests.support.city import CITY, ms


def block_of(
    ran: Ran,
    domain: Domain = "sensor",
    *,
    term: int = 1,
    epoch: str = "T1",
    windows: Iterable[ChunkRows] | None = None,
    known: Sequence[int] | None = None,
) -> Block:
    """What a flush writes of this run: all its outcomes, and the window rows taken (or the given ones)."""
    block = Block()
    first = ran.outcomes[0].batch
    origin = Origin(first.topic, first.partition, epoch, term)
    there = None if known is None else pl.Series("offset", known, pl.Int64)
    for outcome in ran.outcomes:
        one = outcome.batch
        if len(outcome.events):
            block.events[domain].append(Part(origin, one.first_offset, one.last_offset, outcome.events, there))
        if len(outcome.refused):
            rows = outcome.refused["row"].to_numpy()
            placed = outcome.refused.with_columns(
                pl.Series("offset", one.offsets[rows]),
                pl.Series("received_at", one.received_ms[rows]).cast(pl.Datetime("ms", "UTC")),
            )
            block.refused.append(Part(origin, one.first_offset, one.last_offset, placed, there))
    taken = ran.taken if windows is None else windows
    block.windows += [ChunkPart(origin, c.first_offset, c.last_offset + 1, c.rows) for c in taken]
    return block


def write(ran: Ran, sink: Sink, domain: Domain = "sensor", **rest: Any) -> list[RefusedEvent]:
    block, zones = block_of(ran, domain, **rest), ZoneMaps(ran.shared.locator.sets)
    refused = store_records(block, sink, zones, {CITY: "c-1"})
    store_derived(block, sink, zones)
    return refused


def count(sink: Sink, table: str) -> int:
    return int(sink.rows(f"SELECT count() FROM {table}")[0][0])


def window_events(sink: Sink, layer: str = "quarter") -> int:
    """Events counted by the windows of one layer, as any reader would add them."""
    found = sink.rows(
        "SELECT sum(count) FROM windows WHERE endsWith(metric, '.events') AND layer = {layer:String}", {"layer": layer}
    )
    return int(found[0][0])


# --- writing


def test_a_flush_written_twice_is_stored_once(clickhouse: Sink) -> None:
    """A worker that died after the insert writes the same block again: no table has a row more."""
    values = [*events(5), event(event_id="old", observed_at=RECEIVED_MS - 40 * DAY)]
    ran = Ran([batch([*encoded("sensor", values), b"junk", None])], reference())
    for _ in range(3):
        write(ran, clickhouse)
    assert {t: count(clickhouse, t) for t in ("events_sensor", "rejects", "asset_state")} == {
        "events_sensor": 6, "rejects": 2, "asset_state": 1,
    }  # fmt: skip
    assert count(clickhouse, "window_rows") == len(ran.windows)
    assert window_events(clickhouse) == 6


def test_events_and_rejects_are_the_records(clickhouse: Sink) -> None:
    """In the tables as in the batch: each offset is an event or a reject, with its reason and position."""
    good = encoded("sensor", events(3))
    ran = Ran([batch([good[0], b"junk", good[1], good[0], good[2]], partition=1, first_offset=40)], reference())
    write(ran, clickhouse)
    assert clickhouse.rows("SELECT offset, partition, chunk FROM events_sensor ORDER BY offset") == [
        (40, 1, 40), (42, 1, 40), (44, 1, 40),
    ]  # fmt: skip
    assert clickhouse.rows("SELECT offset, partition, stage, reason FROM rejects ORDER BY offset") == [
        (41, 1, "decode", "decode"), (43, 1, "duplicates", "duplicate"),
    ]  # fmt: skip


def test_a_replay_in_other_batches_adds_nothing_for_readers(clickhouse: Sink) -> None:
    """Fetched again with another cut, rows are inserted under other names and replace each other by offset."""
    whole = batch_of([event(event_id=str(i), observed_at=RECEIVED_MS - HOUR + i) for i in range(20)])
    for sizes in ([20], [3, 9]):
        write(Ran(cut(whole, sizes), reference()), clickhouse)
    assert clickhouse.rows("SELECT count(), uniqExact(offset) FROM events_sensor FINAL") == [(20, 20)]
    assert window_events(clickhouse) == 20
    assert clickhouse.rows("SELECT count() FROM asset_state FINAL") == [(1,)]


def test_rows_that_are_there_are_skipped(clickhouse: Sink) -> None:
    """What a former owner has stored is not sent again, events and rejects alike; what it has not is."""
    good = encoded("sensor", events(4))
    ran = Ran([batch([good[0], b"junk", good[1], None, good[2], good[3]])], reference())
    write(ran, clickhouse, known=[0, 1, 2])
    assert clickhouse.rows("SELECT offset FROM events_sensor ORDER BY offset") == [(4,), (5,)]
    assert clickhouse.rows("SELECT offset FROM rejects ORDER BY offset") == [(3,)]
    assert window_events(clickhouse) == 4, "windows and states are the whole's, whoever stored the events"
    assert count(clickhouse, "asset_state") == 1


def test_a_batch_of_which_everything_is_there_writes_no_record(clickhouse: Sink) -> None:
    """Nothing is left of it, and an empty block is no insert."""
    ran = Ran([batch([*encoded("sensor", events(2)), b"junk"])], reference())
    write(ran, clickhouse, known=[0, 1, 2])
    assert (count(clickhouse, "events_sensor"), count(clickhouse, "rejects")) == (0, 0)


def test_of_two_owners_the_one_with_the_higher_term_has_the_last_word(clickhouse: Sink) -> None:
    """An older one that writes later, or even further, changes nothing for readers: neither records nor windows."""
    older = Ran([batch([*encoded("sensor", events(6)), b"junk"])], reference())
    newer = Ran([batch_of(events(5), received_ms=RECEIVED_MS + 1)], reference())
    write(newer, clickhouse, term=8)
    write(older, clickhouse, term=7)
    assert clickhouse.rows("SELECT offset, term FROM events_sensor FINAL ORDER BY offset LIMIT 5") == [
        (offset, 8) for offset in range(5)
    ]
    assert window_events(clickhouse) == 5


def test_a_topic_that_was_created_anew_is_another_topic(clickhouse: Sink) -> None:
    """Its offsets begin again and name other records: both are stored and counted, under epochs of their own."""
    for epoch, number in (("T1", 3), ("T2", 2)):
        values = [event(event_id=f"{epoch}-{i}", observed_at=RECEIVED_MS - HOUR + i) for i in range(number)]
        write(Ran([batch([*encoded("sensor", values), b"junk"])], reference()), clickhouse, epoch=epoch)
    found = "SELECT epoch, count() FROM {} FINAL GROUP BY epoch ORDER BY epoch"
    assert clickhouse.rows(found.format("events_sensor")) == [("T1", 3), ("T2", 2)]
    assert clickhouse.rows(found.format("rejects")) == [("T1", 1), ("T2", 1)]
    assert window_events(clickhouse) == 5


def test_what_clickhouse_refuses_is_named_and_its_neighbours_are_stored(clickhouse: Sink) -> None:
    """Each refused event by topic, partition and offset, whatever day its block was of; never by its values."""
    values = events(6, fill_level=0.5)
    values[4]["observed_at"] = RECEIVED_MS - 3 * DAY
    for row in (1, 4):
        values[row]["battery_ratio"] = 0.125
    ran = Ran([batch_of(values, partition=3, first_offset=10)], reference())
    clickhouse.command("ALTER TABLE events_sensor ADD CONSTRAINT no_eighth CHECK ifNull(battery_ratio, 0) != 0.125")
    try:
        refused = write(ran, clickhouse)
    finally:
        clickhouse.command("ALTER TABLE events_sensor DROP CONSTRAINT no_eighth")
    place = [(one.topic, one.partition, one.offset) for one in refused]
    assert sorted(place) == [("city.raw.sensor", 3, 11), ("city.raw.sensor", 3, 14)]
    assert {one.message for one in refused} == {"469 VIOLATED_CONSTRAINT in `no_eighth`"}
    assert clickhouse.rows("SELECT offset FROM events_sensor ORDER BY offset") == [(10,), (12,), (13,), (15,)]


def test_an_empty_flush_writes_nothing(clickhouse: Sink) -> None:
    """Nothing to write is no insert at all."""
    assert store_records(Block(), clickhouse, ZoneMaps([]), {}) == []
    store_derived(Block(), clickhouse, ZoneMaps([]))
    assert all(count(clickhouse, table) == 0 for table in ("events_sensor", "rejects", "window_rows", "snapshots"))


def snapshot(partition: int, next_offset: int, taken_ms: int, term: int = 1) -> Snapshot:
    at = datetime.fromtimestamp(taken_ms / 1_000, UTC)
    origin = Origin("city.raw.sensor", partition, "T1", term)
    return Snapshot(origin, next_offset, at, "2", "worker-1", at, b"state")


def test_snapshots_keep_the_newest_of_each_partition(clickhouse: Sink) -> None:
    """One row says how far a partition has come; the same flush written twice is one row."""
    for snapshots in (
        [snapshot(0, 10, RECEIVED_MS), snapshot(1, 5, RECEIVED_MS)],
        [snapshot(0, 10, RECEIVED_MS), snapshot(1, 5, RECEIVED_MS)],
        [snapshot(0, 20, RECEIVED_MS + 1_000)],
    ):
        store_snapshots(snapshots, clickhouse)
    assert count(clickhouse, "snapshots") == 3
    found = "SELECT partition, next_offset, version FROM snapshots FINAL ORDER BY partition"
    assert clickhouse.rows(found) == [(0, 20, version_of(1, 20)), (1, 5, version_of(1, 5))]


def test_a_snapshot_of_a_newer_owner_counts_though_it_has_come_less_far(clickhouse: Sink) -> None:
    """It was there last, and has undone what lies beyond."""
    store_snapshots([snapshot(0, 50, RECEIVED_MS + 9_000, term=3)], clickhouse)
    store_snapshots([snapshot(0, 40, RECEIVED_MS, term=4)], clickhouse)
    assert clickhouse.rows("SELECT next_offset FROM snapshots FINAL") == [(40,)]


# --- reading windows


def as_read(sink: Sink) -> pl.DataFrame:
    return sink.frame("SELECT * FROM windows ORDER BY window_start, layer, zone_code, metric")


def test_the_view_adds_chunks_and_partitions(clickhouse: Sink) -> None:
    """A minute of one zone is spread over partitions and chunks; its totals and its last value are the whole's."""
    at = RECEIVED_MS - HOUR
    levels = [0.25, 0.5, 0.75, 1.0, 0.125, 0.0625]
    values = [event(event_id=str(i), observed_at=at + i, fill_level=level) for i, level in enumerate(levels)]
    for partition, part in enumerate((values[:4], values[4:])):
        write(Ran([batch_of(part, partition=partition)], reference(chunk_records=3)), clickhouse)
    assert clickhouse.rows("SELECT uniqExact(partition, chunk) FROM window_rows") == [(3,)]
    (row,) = as_read(clickhouse).filter(metric="bin.fill_level", layer="quarter").iter_rows(named=True)
    assert row["count"] == 6
    assert row["sum"] == pytest.approx(sum(round(v * 10_000) for v in levels) * 0.0001, abs=1e-12)
    squares = sum(round(v * 10_000) ** 2 for v in levels)
    assert row["sum_squares"] == pytest.approx(squares * 1e-8, abs=1e-12)
    assert (row["minimum"], row["maximum"], row["last"]) == pytest.approx((0.0625, 1.0, 0.0625), abs=1e-4)
    assert row["mean"] == pytest.approx(row["sum"] / 6)
    assert row["last_at"] == datetime.fromtimestamp((at + 5) / 1_000, UTC)


def test_the_view_takes_each_chunk_at_its_newest_version(clickhouse: Sink) -> None:
    """Flush after flush a chunk's rows are written whole under a higher version; readers never add two of them."""
    whole = batch_of(events(30))
    ran = Ran(cut(whole, [1] * 30), reference(chunk_records=20))
    assert len(ran.taken) == 30
    write(ran, clickhouse)
    assert window_events(clickhouse) == window_events(clickhouse, "sector") == 30
    (row,) = as_read(clickhouse).filter(metric="bin.fill_level", layer="quarter").iter_rows(named=True)
    assert row["count"] == 30


def test_an_older_version_written_later_loses(clickhouse: Sink) -> None:
    """The worker that lost a partition writes what it had: its version is lower, so nobody ever reads it."""
    ran = Ran(cut(batch_of(events(10)), [4, 6]), reference())
    first, second = ran.taken
    write(ran, clickhouse, windows=[second])
    write(ran, clickhouse, windows=[first])
    assert window_events(clickhouse) == 10
    clickhouse.client.command("OPTIMIZE TABLE window_rows FINAL")
    assert window_events(clickhouse) == 10


def test_the_newest_version_counts_even_when_it_says_less(clickhouse: Sink) -> None:
    """Newest is by offset and never the largest: a chunk that was built anew with fewer events is what it says now."""
    before, after = (Ran([batch_of(events(count))], reference()) for count in (10, 3))
    (old,), (new,) = before.taken, after.taken
    write(before, clickhouse, windows=[replace(old, last_offset=20)])
    write(after, clickhouse, windows=[replace(new, last_offset=30)])
    assert window_events(clickhouse) == 3


def test_the_view_is_the_stages_own_rows(clickhouse: Sink) -> None:
    """Row for row, what readers see is what the windows of the run hold: late ones, other days, no zone."""
    values = [
        event(
            event_id=str(i), asset_id=asset, sensor_type="bin", fill_level=i / 100,
            observed_at=ms("2026-09-14T23:59:00") + i * 7_000 - (DAY if i % 5 == 0 else 0),
        )
        for i, asset in enumerate(["bin-00017", "drop-off-0004", "footfall-01", "unregistered"] * 10)
    ]  # fmt: skip
    ran = Ran(cut(batch_of(values, received_ms=RECEIVED_MS + HOUR), [13, 13]), reference())
    write(ran, clickhouse)
    key = ["window_start", "layer", "zone_code", "metric"]
    steps = newest(ran.taken).sort(key)
    read = as_read(clickhouse).sort(key)
    exact = ["layer", "zone_code", "metric", "count", "late"]
    assert read.select(exact).rows() == steps.select(exact).rows()
    for name in ("sum", "minimum", "maximum", "last"):
        assert read[name].to_list() == (steps[name] * steps["resolution"]).to_list()
    assert read["late"].sum() > 0


# --- states and alerts


def test_the_state_of_an_asset_is_its_newest_by_event_time(clickhouse: Sink) -> None:
    """A late reading that is stored later does not become the state."""
    for number, (shift, level) in enumerate(((0, 0.5), (HOUR // 2, 0.7), (-HOUR, 0.1))):
        one = event(event_id=str(number), observed_at=RECEIVED_MS - HOUR + shift, fill_level=level)
        write(Ran([batch_of([one], first_offset=number)], reference()), clickhouse)
    assert clickhouse.rows("SELECT measures['fill_level'] FROM asset_state FINAL") == [(0.7,)]


def test_many_events_are_several_inserts(clickhouse: Sink, monkeypatch: pytest.MonkeyPatch) -> None:
    """None is much larger than is good for memory, and none much smaller than the others; together they are all events,
    once, however often they are written."""
    monkeypatch.setattr("sinks.store._ROWS", 5)
    inserted: list[int] = []

    class Noting(Sink):
        def insert(self, table: str, rows: pa.Table, names: str) -> tuple[Refused, ...]:
            inserted.append(rows.num_rows)
            return super().insert(table, rows, names)

    values = events(20)
    ran = Ran([batch_of(values[n : n + 3], first_offset=n) for n in range(0, 20, 3)], reference())
    for _ in range(2):
        write(ran, Noting(clickhouse.client, clickhouse.url))
    assert inserted == [6, 6, 3, 5] * 2
    assert sorted(clickhouse.rows("SELECT offset FROM events_sensor")) == [(n,) for n in range(20)]
    monkeypatch.setattr("sinks.store._ROWS", 14)
    write(ran, Noting(clickhouse.client, clickhouse.url))
    assert inserted[8:] == [20], "what is little more stays one"


def transition(sequence: int, state: str, at_ms: int, **changes: Any) -> dict[str, Any]:
    """A value of the Alert contract."""
    blank = {f.name: "unknown" if f.symbols else None for f in contract("Alert").fields}
    return blank | {
        "transition_id": f"f-{sequence}", "fingerprint": "f" * 16, "sequence": sequence, "alertname": "bin_full",
        "jurisdiction_id": CITY, "domain": "sensor", "asset_id": "bin-00017", "severity": "warning", "state": state,
        "at": at_ms, "starts_at": RECEIVED_MS, "summary": f"step {sequence}",
    } | changes  # fmt: skip


def alerts(sink: Sink) -> list[tuple[Any, ...]]:
    return sink.rows("SELECT state, fired, summary, ends_at IS NULL, value FROM alerts ORDER BY starts_at")


def stored_alerts(sink: Sink, steps: Sequence[dict[str, Any]]) -> None:
    for step in steps:
        store_alerts([(Origin("city.raw.sensor", 0, "T1", 1), 7, step)], sink)


def test_an_alert_is_what_its_last_transition_says(clickhouse: Sink) -> None:
    """One row per life, by the number of the transition and not by arrival; repeats change nothing."""
    pending = transition(1, "pending", RECEIVED_MS, value=0.9)
    firing = transition(2, "firing", RECEIVED_MS + 1, value=0.9)
    resolved = transition(3, "resolved", RECEIVED_MS + 2, ends_at=RECEIVED_MS + 2, value=0.1)
    stored_alerts(clickhouse, [firing, pending])
    assert alerts(clickhouse) == [("firing", True, "step 2", True, 0.9)]
    stored_alerts(clickhouse, [resolved, firing, resolved])
    assert alerts(clickhouse) == [("resolved", True, "step 3", False, 0.1)]


def test_an_end_without_a_value_does_not_show_an_older_one(clickhouse: Sink) -> None:
    """What the last transition leaves out is null in the alert: an old value beside a new state would mislead."""
    stored_alerts(
        clickhouse,
        [
            transition(1, "firing", RECEIVED_MS, value=0.9),
            transition(2, "resolved", RECEIVED_MS + 1, ends_at=RECEIVED_MS + 1),
        ],
    )
    assert alerts(clickhouse) == [("resolved", True, "step 2", False, None)]


def test_an_alert_that_is_made_again_is_of_the_topic_that_made_it_last(clickhouse: Sink) -> None:
    """The topic was created anew, or another owner reads it again: the block is another one, and the row replaced."""
    step = transition(1, "firing", RECEIVED_MS)
    for epoch in ("T1", "T2"):
        store_alerts([(Origin("city.raw.sensor", 0, epoch, 1), 7, step)], clickhouse)
    assert clickhouse.rows("SELECT epoch, count() FROM alert_transitions FINAL GROUP BY epoch") == [("T2", 1)]


def test_lives_of_one_alert_are_apart(clickhouse: Sink) -> None:
    """The same bin full again next week is another row; one that only was pending never fired."""
    later = RECEIVED_MS + 7 * DAY
    stored_alerts(
        clickhouse,
        [
            transition(1, "firing", RECEIVED_MS),
            transition(2, "resolved", RECEIVED_MS + 1, ends_at=RECEIVED_MS + 1),
            transition(3, "pending", later, starts_at=later),
            transition(4, "expired", later + 1, starts_at=later, ends_at=later + 1),
        ],
    )
    assert [(state, fired) for state, fired, *_ in alerts(clickhouse)] == [("resolved", True), ("expired", False)]
