"""When a row could be read follows from who says so."""

from __future__ import annotations

import polars as pl

from benchmarks.figures import NEVER
from benchmarks.latency import FAST, RATES, cases, shipped
from benchmarks.latency_case import answered, readable_at
from benchmarks.phases import Phases
from benchmarks.reader import TABLES, question
from streams.settings import Settings

_NOTES = [
    {"at_ms": 1_000, "table": "events_sensor", "reached": [[0, 4], [1, 2]]},
    {"at_ms": 2_000, "table": "events_lighting", "reached": [[0, 9]]},
    {"at_ms": 3_000, "table": "events_sensor", "reached": [[0, 8]]},
]


def test_rows_are_readable_by_table_and_partition() -> None:
    """Offsets of one partition say nothing about another's."""
    rows = pl.DataFrame(
        {
            "table": ["events_sensor", "events_sensor", "events_sensor", "events_lighting", "events_roadway"],
            "partition": [0, 0, 1, 0, 0],
            "offset": [4, 5, 3, 9, 0],
        }
    )
    assert readable_at(rows, answered(_NOTES)).tolist() == [1_000, 3_000, NEVER, 2_000, NEVER]


def test_a_question_asks_every_table_for_what_is_new() -> None:
    """Each part is read once, whichever table it is of."""
    asked = question(["events_sensor/20261128_1_1_0", "events_sensor/20261128_2_2_0", "events_report/all_1_1_0"])
    assert asked.count("UNION ALL") == len(TABLES) - 1
    assert "FROM events_sensor WHERE _part NOT IN ('20261128_1_1_0', '20261128_2_2_0') GROUP" in asked
    assert "FROM events_lighting GROUP" in asked


def test_every_rate_is_measured_as_it_ships_and_fast() -> None:
    """And once with a reader outside, which must not be forgotten when other rates are asked for."""
    for rates, checked in ((RATES, 10_000), ((500,), 500)):
        found = cases(rates, Phases(1, 1, 1), alarms=3, partitions=8)
        assert [(c.rate, dict(c.settings)) for c in found[:-1]] == [(r, s) for r in rates for s in ({}, dict(FAST))]
        assert {case.partitions for case in found} == {8}
        assert (found[-1].through, found[-1].rate, dict(found[-1].settings)) == ("gateway", checked, {})


def test_fast_is_faster_in_settings_that_exist() -> None:
    """A name that is no setting would be refused by the worker, and one that is no lower would prove nothing."""
    assert FAST.keys() <= Settings.model_fields.keys()
    assert all(float(str(value)) < shipped()[name] for name, value in FAST.items())
