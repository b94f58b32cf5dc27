"""Runs and retried letters in ClickHouse: one row per run, and the newest of it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from zlib import crc32

import pytest

from sinks.clickhouse import Sink
from sinks.replays import (
    Refused,
    Run,
    retried,
    run_of,
    store_retried,
    store_run,
    stored_identities,
    unsettled_retries,
)
from sinks.rows import ZoneMaps
from sinks.store import store_records
from tests.sinks.test_store import block_of
from tests.support.batches import HOUR, RECEIVED_MS, Ran, batch_of, events, reference

_RUN = Run(
    run_id="20260915-080000-abcdef",
    kind="retry",
    state="running",
    who="jeanne",
    process="host, process 1 (ab)",
    started_at=datetime(2026, 9, 15, 8, 0, 0, 123_000, UTC),
    source="city.dead-letter",
    targets=("city.raw.sensor", "city.raw.report"),
    selection='{"reasons": ["decode"]}',
    plan="{}",
    cut="{}",
    left_out={"still decode": 5, "sent again before": 2},
)


def test_the_newest_row_of_a_run_is_the_run(clickhouse: Sink) -> None:
    """Every field comes back; the time it was written is ClickHouse's, and so is how long ago that was."""
    assert run_of(_RUN.run_id, clickhouse) is None
    store_run(_RUN, clickhouse, "1")
    ended = replace(_RUN, state="done", ended_at=datetime(2026, 9, 15, 8, 1, tzinfo=UTC), read=9, sent=2, problem="no")
    store_run(ended, clickhouse, "2")
    found = run_of(_RUN.run_id, clickhouse)
    assert found is not None and found.updated_at is not None
    utc = {name: getattr(found, name).replace(tzinfo=UTC) for name in ("started_at", "ended_at")}
    assert replace(found, updated_at=None, age_s=0.0, **utc) == ended
    assert 0 <= found.age_s < 30


def test_retries_of_which_it_is_not_known_what_they_sent(clickhouse: Sink) -> None:
    """Those that run or have failed, without the one that asks; replays look after themselves."""
    for number, (kind, state) in enumerate(
        [("retry", "failed"), ("retry", "running"), ("retry", "done"), ("retry", "interrupted"), ("replay", "failed")]
    ):
        started = datetime(2026, 9, 15, 9 - number, tzinfo=UTC)
        store_run(replace(_RUN, run_id=f"r{number}", kind=kind, state=state, started_at=started), clickhouse, "1")  # type: ignore[arg-type]
    assert [run.run_id for run in unsettled_retries(clickhouse, but="")] == ["r1", "r0"]
    assert [run.run_id for run in unsettled_retries(clickhouse, but="r1")] == ["r0"]


def test_what_was_retried_is_known_by_place_and_time(clickhouse: Sink) -> None:
    """Written twice it is there once; the same place at another time is another record, of a topic created anew."""
    one, other = Refused("city.raw.sensor", 3, 17, RECEIVED_MS), Refused("city.raw.sensor", 3, 17, RECEIVED_MS + 1)
    report = Refused("city.raw.report", 0, 0, 0)
    store_retried([], "run", clickhouse)
    store_retried([(one, 1), (report, 2)], "run", clickhouse)
    store_retried([(one, 1)], "run again", clickhouse)
    assert retried(["city.raw.sensor"], clickhouse) == {one}
    store_retried([(other, 1)], "run", clickhouse)
    assert retried(["city.raw.sensor", "city.raw.report"], clickhouse) == {one, other, report}


@pytest.mark.parametrize(("first_ms", "last_ms", "found"), [(0, 3_000, {"e-0", "e-2"}), (1_000, 3_000, {"e-2"})])
def test_events_that_are_stored_are_found_by_their_identity(
    clickhouse: Sink, first_ms: int, last_ms: int, found: set[str]
) -> None:
    """In the span asked for, by source and event id, whatever partition they came from."""
    ran = Ran([batch_of(events(3))], reference())
    store_records(block_of(ran), clickhouse, ZoneMaps(ran.shared.locator.sets), {"999999999": "v"})
    begin = RECEIVED_MS - HOUR
    asked = [crc32(one.encode()) for one in ("e-0", "e-2", "e-7")]
    answer = stored_identities("events_sensor", begin + first_ms, begin + last_ms, asked, clickhouse)
    assert answer == {("gateway", one) for one in found}
    assert stored_identities("events_report", begin, begin + HOUR, asked, clickhouse) == set()
