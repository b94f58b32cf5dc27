"""When the leader looks at the zones, and up to which event time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

import polars as pl
import pytest

from schemas.contracts import RAW_TOPICS
from sinks.clickhouse import Sink
from streams.zone_watch import STEP_MS, ZoneWatch
from tests.support.city import city

_TOPIC: Final = RAW_TOPICS["report"]
_NOON: Final = datetime(2026, 9, 15, 12, tzinfo=UTC)


def ms(instant: datetime) -> int:
    return round(instant.timestamp() * 1_000)


def reach(sink: Sink, partition: int, watermark: datetime) -> None:
    """Let a partition of the report topic have come so far."""
    row = {
        "topic": [_TOPIC],
        "partition": [partition],
        "last_offset": [1],
        "watermark": [watermark],
        "code_version": ["1"],
        "taken_at": [watermark],
    }
    frame = pl.DataFrame(row).with_columns(pl.col("watermark", "taken_at").dt.cast_time_unit("ms"))
    sink.insert("snapshots", frame.to_arrow(compat_level=pl.CompatLevel.oldest()), f"{partition}|{watermark}")


def watch(sink: Sink) -> ZoneWatch:
    territory = city()
    return ZoneWatch({territory.jurisdiction_id: territory}, sink)


def test_nothing_is_said_before_every_partition_is_known(clickhouse: Sink) -> None:
    """A partition that has not reported yet may hold the reports that are missing."""
    reach(clickhouse, 0, _NOON)
    watching = watch(clickhouse)
    assert watching.look(2) == ([], [])
    assert watching.looked_up_to_ms == 0


def test_the_slowest_partition_decides(clickhouse: Sink) -> None:
    """Windows are complete up to the smallest watermark, and are looked at on the step below it."""
    reach(clickhouse, 0, _NOON + timedelta(hours=3))
    reach(clickhouse, 1, _NOON + timedelta(minutes=17))
    watching = watch(clickhouse)
    watching.look(2)
    assert watching.looked_up_to_ms == ms(_NOON + timedelta(minutes=10))


@pytest.mark.parametrize(
    ("hours", "steps"), [(0.1, 0), (0.5, 3), (4, 24), (6, 36), (30, 36)], ids=["none", "few", "hours", "most", "gap"]
)
def test_every_step_since_the_last_look_is_evaluated(clickhouse: Sink, hours: float, steps: int) -> None:
    """However far event time came meanwhile, no step is left out; of a long gap the last six hours are evaluated."""
    reach(clickhouse, 0, _NOON)
    watching = watch(clickhouse)
    watching.look(1)
    then = ms(_NOON + timedelta(hours=hours))
    ends = list(watching._ends(then))
    assert len(ends) == steps
    assert ends == list(range(then - then % STEP_MS - (steps - 1) * STEP_MS, then + 1, STEP_MS))[:steps]
