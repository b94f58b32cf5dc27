"""A flush in the tables: written again it is the same, and readers see each thing once, at its newest."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import polars as pl
import pytest

from processors.pipeline import ChunkRows
from schemas.contracts import Domain, contract
from sinks.clickhouse import Sink
from sinks.rows import Origin, ZoneMaps
from sinks.store import Block, store, store_alerts
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


def block_of(ran: Ran, domain: Domain = "sensor", *, windows: Iterable[ChunkRows] | None = None) -> Block:
    """What a flush writes of this run: all its outcomes, and the window rows taken (or the given ones)."""
    block = Block()
    first = ran.outcomes[0].batch
    origin = Origin(first.topic, first.partition)
    for outcome in ran.outcomes:
        one = outcome.batch
        if len(outcome.events):
            block.events[domain].append((origin, one.first_offset, one.last_offset, outcome.events))
        if len(outcome.refused):
            rows = outcome.refused["row"].to_numpy()
            placed = outcome.refused.with_columns(
                pl.Series("offset", one.offsets[rows]),
                pl.Series("received_at", one.received_ms[rows]).cast(pl.Datetime("ms", "UTC")),
            )
            block.refused.append((origin, one.first_offset, one.last_offset, placed))
    taken = ran.taken if windows is None else windows
    block.windows += [(origin, c.first_offset, c.last_offset, c.rows) for c in taken]
    return block


def write(ran: Ran, sink: Sink, domain: Domain = "sensor", **rest: Any) -> None:
    store(block_of(ran, domain, **rest), sink, ZoneMaps(ran.shared.locator.sets), {CITY: "c-1"})


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


def test_an_empty_flush_writes_nothing(clickhouse: Sink) -> None:
    """Nothing to write is no insert at all."""
    store(Block(), clickhouse, ZoneMaps([]), {})
    assert all(count(clickhouse, table) == 0 for table in ("events_sensor", "rejects", "window_rows", "snapshots"))


def test_snapshots_keep_the_newest_of_each_partition(clickhouse: Sink) -> None:
    """One row says how far a partition has come; the same flush written twice is one row."""

    def snapshot(partition: int, last: int, taken_ms: int) -> Mapping[str, Any]:
        at = datetime.fromtimestamp(taken_ms / 1_000, UTC)
        return {
            "topic": "city.raw.sensor", "partition": partition, "last_offset": last, "watermark": at,
            "code_version": "1", "taken_at": at,
        }  # fmt: skip

    for rows in (
        [snapshot(0, 9, RECEIVED_MS), snapshot(1, 4, RECEIVED_MS)],
        [snapshot(0, 9, RECEIVED_MS), snapshot(1, 4, RECEIVED_MS)],
        [snapshot(0, 19, RECEIVED_MS + 1_000)],
    ):
        store(Block(snapshots=rows), clickhouse, ZoneMaps([]), {})
    assert count(clickhouse, "snapshots") == 3
    assert clickhouse.rows("SELECT partition, last_offset FROM snapshots FINAL ORDER BY partition") == [(0, 19), (1, 4)]


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
        store_alerts([step], sink)


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
