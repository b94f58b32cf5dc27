"""When the leader looks at the zones, up to which event time, and what the next leader knows of it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Final

import polars as pl
import pytest

from processors.aggregate import WINDOW_SCHEMA
from processors.alerts import Transition
from processors.territory import Territory
from schemas.contracts import ALERT_TOPIC, RAW_TOPICS
from sinks.clickhouse import Sink
from sinks.rows import Origin, version_of
from sinks.store import ChunkPart, Snapshot, store_snapshots, store_windows
from streams.zone_watch import STEP_MS, ZoneWatch
from tests.support.city import CITY, city, town

_TOPIC: Final = RAW_TOPICS["report"]
_EPOCH: Final = "T1"
_NOON: Final = datetime(2026, 9, 15, 12, tzinfo=UTC)
_NOW_MS: Final = 1_789_500_000_000


def ms(instant: datetime) -> int:
    return round(instant.timestamp() * 1_000)


def reach(sink: Sink, partition: int, watermark: datetime, *, epoch: str = _EPOCH, term: int = 1) -> None:
    """Let a partition of the report topic have come so far."""
    origin = Origin(_TOPIC, partition, epoch, term)
    store_snapshots([Snapshot(origin, 1, watermark, "2", "worker", watermark, b"")], sink)


def received(sink: Sink, at: datetime, count: int, zone: str = "Q02", *, jurisdiction: str = CITY) -> None:
    """Let so many requests about waste have come in a zone, in that minute."""
    row = dict.fromkeys(WINDOW_SCHEMA, 0) | {
        "window_start": at, "jurisdiction_id": jurisdiction, "layer": "quarter", "zone_code": zone,
        "metric": "waste.received", "resolution": 1.0, "count": count, "last_at": at,
    }  # fmt: skip
    rows = pl.DataFrame([row], schema_overrides={"window_start": pl.Datetime("ms", "UTC")}).cast(dict(WINDOW_SCHEMA))  # type: ignore[arg-type]
    origin = Origin(_TOPIC, int(jurisdiction != CITY), _EPOCH, 1)
    store_windows([ChunkPart(origin, round(at.timestamp()) + ord(zone[-1]), 1, rows)], sink)


def burst(sink: Sink) -> None:
    """A quiet day in two quarters, and in the last half hour before noon forty requests in one of them."""
    for hour in range(24):
        for zone in ("Q01", "Q02"):
            received(sink, _NOON - timedelta(hours=25 - hour), 1, zone)
    received(sink, _NOON - timedelta(minutes=25), 40)


def watch(owner: str = "worker-1") -> ZoneWatch:
    return ZoneWatch({CITY: city()}, owner)


def told(made: list[Transition]) -> list[tuple[str | None, str, int]]:
    return [(one.zone_code, one.state, one.sequence) for one in made]


# --- how far


def test_nothing_is_said_before_every_partition_is_known(clickhouse: Sink) -> None:
    """A partition that has not reported yet may hold the reports that are missing."""
    reach(clickhouse, 0, _NOON)
    watching = watch()
    assert watching.look(2, _EPOCH, clickhouse) == ([], [])
    assert watching.looked_up_to_ms == 0


def test_the_slowest_partition_decides(clickhouse: Sink) -> None:
    """Windows are complete up to the smallest watermark, and are looked at on the step below it."""
    reach(clickhouse, 0, _NOON + timedelta(hours=3))
    reach(clickhouse, 1, _NOON + timedelta(minutes=17))
    watching = watch()
    watching.look(2, _EPOCH, clickhouse)
    assert watching.looked_up_to_ms == ms(_NOON + timedelta(minutes=10))


def test_partitions_of_a_topic_that_is_no_more_do_not_count(clickhouse: Sink) -> None:
    """A topic that was created anew has come nowhere yet, however far the old one had."""
    for partition in (0, 1):
        reach(clickhouse, partition, _NOON, epoch="T0")
    reach(clickhouse, 0, _NOON)
    watching = watch()
    watching.look(2, _EPOCH, clickhouse)
    assert watching.looked_up_to_ms == 0


def test_the_newest_owner_says_how_far_a_partition_has_come(clickhouse: Sink) -> None:
    """It took over at an earlier snapshot and has not got as far again as the one before it."""
    reach(clickhouse, 0, _NOON, term=5)
    reach(clickhouse, 0, _NOON + timedelta(hours=1), term=4)
    watching = watch()
    watching.look(1, _EPOCH, clickhouse)
    assert watching.looked_up_to_ms == ms(_NOON)


@pytest.mark.parametrize(
    ("hours", "steps"), [(0.1, 0), (0.5, 3), (30, 180), (168, 1_008), (500, 1_008)], ids=str
)  # fmt: skip
def test_every_step_since_the_last_look_is_evaluated(clickhouse: Sink, hours: float, steps: int) -> None:
    """However far event time came meanwhile, no step is left out; of a long gap the last week is evaluated."""
    reach(clickhouse, 0, _NOON)
    watching = watch()
    watching.look(1, _EPOCH, clickhouse)
    then = ms(_NOON + timedelta(hours=hours))
    ends = list(watching._ends(CITY, then, clickhouse))
    assert len(ends) == steps
    assert ends == list(range(then - then % STEP_MS - (steps - 1) * STEP_MS, then + 1, STEP_MS))[:steps]


def test_the_first_look_begins_with_the_first_report(clickhouse: Sink) -> None:
    """What is found of a day that was replayed at once is what would have been found while it passed."""
    received(clickhouse, _NOON - timedelta(hours=2, minutes=3), 1)
    ends = watch()._ends(CITY, ms(_NOON), clickhouse)
    assert (ends[0], ends[-1]) == (ms(_NOON - timedelta(hours=2)), ms(_NOON))


# --- what is remembered


def test_a_hot_spot_is_stored_before_it_is_told(clickhouse: Sink) -> None:
    """Once, when it is found: with its message, and as a row of no partition."""
    burst(clickhouse)
    reach(clickhouse, 0, _NOON)
    made, messages = watch().look(1, _EPOCH, clickhouse)
    assert told(made) == [("Q02", "firing", 1)]
    assert [message.topic for message in messages] == [ALERT_TOPIC]
    stored = clickhouse.rows("SELECT topic, fingerprint, state FROM alert_transitions")
    assert stored == [("", made[0].fingerprint, "firing")]


def test_the_next_leader_goes_on_where_the_last_one_saved(clickhouse: Sink) -> None:
    """It repeats nothing, looks from there, and ends what the other one had raised, under the same name."""
    burst(clickhouse)
    reach(clickhouse, 0, _NOON)
    first, second = watch(), watch("worker-2")
    (raised,), _ = first.look(1, _EPOCH, clickhouse)
    first.save(clickhouse, _NOW_MS)
    assert second.look(1, _EPOCH, clickhouse) == ([], [])
    assert second.looked_up_to_ms == ms(_NOON)
    reach(clickhouse, 0, _NOON + timedelta(hours=4), term=2)
    (ended,), _ = second.look(1, _EPOCH, clickhouse)
    assert (ended.fingerprint, ended.state, ended.sequence) == (raised.fingerprint, "resolved", 2)


def test_what_was_not_saved_is_said_again_in_the_same_words(clickhouse: Sink) -> None:
    """A leader died between telling and saving: the next one tells the same transitions, which receivers recognize."""
    burst(clickhouse)
    reach(clickhouse, 0, _NOON)
    first, _ = watch().look(1, _EPOCH, clickhouse)
    again, _ = watch("worker-2").look(1, _EPOCH, clickhouse)
    assert again == first
    assert clickhouse.rows("SELECT count() FROM alert_transitions FINAL") == [(1,)]


def test_a_leader_that_comes_back_has_forgotten(clickhouse: Sink) -> None:
    """Another one led meanwhile: what is known is what that one saved, not what was known before."""
    burst(clickhouse)
    reach(clickhouse, 0, _NOON)
    first, second = watch(), watch("worker-2")
    first.look(1, _EPOCH, clickhouse)
    first.save(clickhouse, _NOW_MS)
    first.forget()
    assert first.looked_up_to_ms == 0
    reach(clickhouse, 0, _NOON + timedelta(hours=4), term=2)
    second.look(1, _EPOCH, clickhouse)
    second.save(clickhouse, _NOW_MS)
    assert first.look(1, _EPOCH, clickhouse) == ([], [])
    assert first.looked_up_to_ms == ms(_NOON + timedelta(hours=4))


def test_a_leader_that_is_none_any_more_does_not_overwrite_the_next(clickhouse: Sink) -> None:
    """It saves late, and even further on: the newer leader's memory counts."""
    reach(clickhouse, 0, _NOON)
    first, second = watch(), watch("worker-2")
    first.look(1, _EPOCH, clickhouse)
    second.look(1, _EPOCH, clickhouse)
    second.save(clickhouse, _NOW_MS)
    reach(clickhouse, 0, _NOON + timedelta(hours=1), term=2)
    first.look(1, _EPOCH, clickhouse)
    first.save(clickhouse, _NOW_MS + 1_000)
    (row,) = clickhouse.rows("SELECT owner, version FROM snapshots FINAL WHERE topic = ''")
    assert row == ("worker-2", version_of(2, ms(_NOON)))


def test_nothing_is_saved_that_is_saved_already(clickhouse: Sink) -> None:
    """A look that got no further writes no row; nor does a leader that has not looked yet."""
    watching = watch()
    watching.save(clickhouse, _NOW_MS)
    reach(clickhouse, 0, _NOON)
    for _ in range(3):
        watching.look(1, _EPOCH, clickhouse)
        watching.save(clickhouse, _NOW_MS)
    assert clickhouse.rows("SELECT count() FROM snapshots WHERE topic = ''") == [(1,)]


def test_a_memory_that_cannot_be_read_is_begun_anew(clickhouse: Sink) -> None:
    """Zones are looked at all the same, from the beginning; what was raised may be told twice, and nothing is lost."""
    burst(clickhouse)
    reach(clickhouse, 0, _NOON)
    origin = Origin("", 0, CITY, 1)
    store_snapshots([Snapshot(origin, ms(_NOON), _NOON, "2", "worker-0", _NOON, b"\xff no memory")], clickhouse)
    made, _ = watch().look(1, _EPOCH, clickhouse)
    assert told(made) == [("Q02", "firing", 1)]


def test_authorities_are_remembered_apart(clickhouse: Sink) -> None:
    """Each has a row of its own; one that joins later does not hold back the others' memory."""
    reach(clickhouse, 0, _NOON)
    alone = watch()
    alone.look(1, _EPOCH, clickhouse)
    alone.save(clickhouse, _NOW_MS)
    together = ZoneWatch({t.jurisdiction_id: t for t in (city(), town())}, "worker-2")
    reach(clickhouse, 0, _NOON + timedelta(minutes=10), term=2)
    together.look(1, _EPOCH, clickhouse)
    together.save(clickhouse, _NOW_MS)
    found = "SELECT count(), min(next_offset), max(next_offset) FROM snapshots FINAL WHERE topic = ''"
    end = ms(_NOON + timedelta(minutes=10))
    assert clickhouse.rows(found) == [(2, end, end)]


def test_an_authority_that_is_put_back_has_nothing_told_again(clickhouse: Sink) -> None:
    """Its territory was taken out for a day, in which another one had a hot spot: that was told, and is not told again
    under other ids. What was missed of the one that is back is looked at."""

    def led(owner: str, until: datetime, *territories: Territory) -> list[tuple[str, str, int]]:
        reach(clickhouse, 0, until)
        leading = ZoneWatch({territory.jurisdiction_id: territory for territory in territories}, owner)
        made, _ = leading.look(1, _EPOCH, clickhouse)
        leading.save(clickhouse, _NOW_MS)
        assert leading.looked_up_to_ms == ms(until)
        return [(one.jurisdiction_id, one.state, one.sequence) for one in made]

    burst(clickhouse)
    other = replace(city(), jurisdiction_id="other-town")
    assert led("worker-1", _NOON - timedelta(hours=1), city(), other) == []
    assert led("worker-2", _NOON, city()) == [(CITY, "firing", 1)]
    assert led("worker-3", _NOON + timedelta(hours=12), city()) == [(CITY, "resolved", 2)]
    for hour in range(24):
        received(clickhouse, _NOON - timedelta(hours=25 - hour), 1, jurisdiction="other-town")
    received(clickhouse, _NOON - timedelta(minutes=25), 40, jurisdiction="other-town")
    assert led("worker-4", _NOON + timedelta(hours=13), city(), other) == [
        ("other-town", "firing", 1),
        ("other-town", "resolved", 2),
    ]
    told = "SELECT fingerprint, groupArray(sequence) FROM (SELECT * FROM alert_transitions FINAL ORDER BY sequence) "
    assert [sequences for _, sequences in clickhouse.rows(f"{told} GROUP BY fingerprint")] == [[1, 2], [1, 2]]
