"""Each asset rule: what must raise it, what must clear it, and, beside these, what must do neither."""

from __future__ import annotations

import json
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from processors.detect.findings import FINDING_SCHEMA
from processors.detect.signals import COLUMNS
from processors.quality import failed_bit
from processors.territory import BinFull, LampDark, LampDefective, Rules
from schemas.contracts import Domain, contract_of
from tests.processors.detect_samples import (
    JURISDICTION,
    MINUTE,
    OTHER,
    detectors,
    frame,
    ms,
    run,
    territory,
    told,
    watermark_after,
)

NOON, NIGHT, DUSK = ms("2026-01-15T12:00"), ms("2026-01-15T23:00"), ms("2026-01-15T16:55")
SENSOR = contract_of("sensor")

#: (domain, rule, events of asset `a` a minute apart from `at`, conditions told).
SAMPLES: list[tuple[str, Domain, str, int, list[dict[str, Any]], list[bool]]] = [
    ("full", "sensor", "bin_full", NOON, [{"fill_level": 0.8}], [True]),
    ("not quite full", "sensor", "bin_full", NOON, [{"fill_level": 0.79}], []),
    ("full, emptied", "sensor", "bin_full", NOON, [{"fill_level": 0.9}, {"fill_level": 0.6}], [True, False]),
    ("full, still high", "sensor", "bin_full", NOON, [{"fill_level": 0.9}, {"fill_level": 0.61}], [True]),
    ("full twice is told once", "sensor", "bin_full", NOON, [{"fill_level": 0.9}, {"fill_level": 0.95}], [True]),
    ("empty from the start", "sensor", "bin_full", NOON, [{"fill_level": 0.1}], []),
    ("drop-off point", "sensor", "bin_full", NOON, [{"fill_level": 0.9, "kind": "drop_off"}], [True]),
    ("no container", "sensor", "bin_full", NOON, [{"fill_level": 0.9, "kind": "air"}], []),
    ("suspect", "sensor", "bin_full", NOON, [{"fill_level": 0.9, "quality": 3}], []),
    ("failed row", "sensor", "bin_full", NOON, [{"fill_level": 0.9, "quality": 4}], []),
    (
        "failed measure",
        "sensor",
        "bin_full",
        NOON,
        [{"fill_level": 0.9, "failed": failed_bit(SENSOR, "fill_level")}],
        [],
    ),
    (
        "another measure failed",
        "sensor",
        "bin_full",
        NOON,
        [{"fill_level": 0.9, "failed": failed_bit(SENSOR, "battery_ratio")}],
        [True],
    ),
    ("unknown quality", "sensor", "bin_full", NOON, [{"fill_level": 0.9, "quality": 2}], [True]),
    (
        "a failed reading clears nothing",
        "sensor",
        "bin_full",
        NOON,
        [{"fill_level": 0.9}, {"fill_level": 0.1, "quality": 4}],
        [True],
    ),
    ("fire", "sensor", "bin_fire", NOON, [{"temperature_c": 70.0}], [True]),
    ("hot day", "sensor", "bin_fire", NOON, [{"temperature_c": 55.0}], []),
    ("fire, out", "sensor", "bin_fire", NOON, [{"temperature_c": 90.0}, {"temperature_c": 50.0}], [True, False]),
    ("fire, warm", "sensor", "bin_fire", NOON, [{"temperature_c": 90.0}, {"temperature_c": 60.0}], [True]),
    ("hot weather station", "sensor", "bin_fire", NOON, [{"temperature_c": 90.0, "kind": "weather"}], []),
    ("defect", "lighting", "lamp_defective", NOON, [{"lamp_status": "defective_lamp"}], [True]),
    ("column", "lighting", "lamp_defective", NOON, [{"lamp_status": "column_issue"}], [True]),
    ("ok", "lighting", "lamp_defective", NOON, [{"lamp_status": "ok"}], []),
    ("unknown", "lighting", "lamp_defective", NOON, [{"lamp_status": "unknown"}], []),
    (
        "defect, unknown, ok",
        "lighting",
        "lamp_defective",
        NOON,
        [{"lamp_status": "broken_lantern"}, {"lamp_status": "unknown"}, {"lamp_status": "ok"}],
        [True, False],
    ),
    ("off at night", "lighting", "lamp_dark", NIGHT, [{"power_state": "off"}], [True]),
    ("on at night", "lighting", "lamp_dark", NIGHT, [{"power_state": "on"}], []),
    ("off at noon", "lighting", "lamp_dark", NOON, [{"power_state": "off"}], []),
    ("off at dusk", "lighting", "lamp_dark", DUSK, [{"power_state": "off"}], []),
    ("booting at night", "lighting", "lamp_dark", NIGHT, [{"power_state": "booting_up"}], []),
    ("dark, dimmed", "lighting", "lamp_dark", NIGHT, [{"power_state": "off"}, {"power_state": "low"}], [True, False]),
    ("dark, says nothing", "lighting", "lamp_dark", NIGHT, [{"power_state": "off"}, {}], [True]),
    (
        "dark until the morning",
        "lighting",
        "lamp_dark",
        NIGHT,
        [{"power_state": "off"}, {"power_state": "off", "at": NIGHT + 11 * 60 * MINUTE}],
        [True, False],
    ),
    ("on at noon", "lighting", "lamp_lit_by_day", NOON, [{"power_state": "on"}], [True]),
    ("low at noon", "lighting", "lamp_lit_by_day", NOON, [{"power_state": "low"}], [True]),
    ("off at noon", "lighting", "lamp_lit_by_day", NOON, [{"power_state": "off"}], []),
    ("on at dusk", "lighting", "lamp_lit_by_day", DUSK, [{"power_state": "on"}], []),
    ("lit, off", "lighting", "lamp_lit_by_day", NOON, [{"power_state": "on"}, {"power_state": "off"}], [True, False]),
    (
        "lit until the night",
        "lighting",
        "lamp_lit_by_day",
        NOON,
        [{"power_state": "on"}, {"power_state": "on", "at": NIGHT}],
        [True, False],
    ),
    ("a report says nothing of the asset", "report", "bin_full", NOON, [{}], []),
    ("a counter has no thresholds", "roadway", "bin_full", NOON, [{"count": 5.0}], []),
]


@pytest.mark.parametrize(("name", "domain", "rule", "at", "events", "expected"), SAMPLES)
def test_sample(
    name: str, domain: Domain, rule: str, at: int, events: list[dict[str, Any]], expected: list[bool]
) -> None:
    """Each rule raises, clears and stays silent on its own samples, for an asset that is in no registry."""
    spaced = [{"asset_id": "a", "at": at + number * MINUTE} | event for number, event in enumerate(events)]
    found = run(lambda: detectors(territory()), frame(domain, spaced), 5_000)
    assert [told_rule[2] for told_rule in told(found) if told_rule[0] == rule] == expected, name
    assert dict(found.schema) == FINDING_SCHEMA


def test_finding_carries_its_evidence() -> None:
    """A finding names the value, the threshold it was held against, the severity and the instant."""
    rows = frame(
        "sensor",
        [
            {"asset_id": "a", "at": NOON, "fill_level": 0.91},
            {"asset_id": "a", "at": NOON + MINUTE, "fill_level": 0.5},
        ],
    )
    found = run(lambda: detectors(territory()), rows, 1).drop("watermark").to_dicts()
    shared = {"rule": "bin_full", "jurisdiction_id": JURISDICTION, "domain": "sensor", "asset_id": "a"}
    assert [shared.items() <= row.items() for row in found] == [True, True]
    assert [(row["raised"], row["value"], row["threshold"]) for row in found] == [
        (True, 0.91, 0.8),
        (False, 0.5, 0.6),
    ]
    assert {(row["severity"], row["hold_s"], row["zone_code"]) for row in found} == {("warning", 0.0, None)}


def test_a_lamp_finding_says_how_high_the_sun_stood() -> None:
    """The value of a lamp finding is the sun's elevation; its hold is the rule's."""
    found = run(
        lambda: detectors(territory(rules=Rules(lamp_dark=LampDark(hold_s=900)))),
        frame("lighting", [{"asset_id": "a", "at": NIGHT, "power_state": "off"}]),
        1,
    ).row(0, named=True)
    assert found["value"] == pytest.approx(-62, abs=3)
    assert (found["threshold"], found["hold_s"]) == (-8.0, 900.0)


def test_late_data_changes_nothing() -> None:
    """An event older than the last one applied to its series neither opens nor clears; the series are apart."""
    rows = frame(
        "sensor",
        [
            {"asset_id": "a", "at": NOON, "fill_level": 0.2},
            {"asset_id": "a", "at": NOON - MINUTE, "fill_level": 0.9},
            {"asset_id": "b", "at": NOON - MINUTE, "fill_level": 0.9},
            {"asset_id": "b", "at": NOON - 2 * MINUTE, "fill_level": 0.1},
        ],
    )
    for size in (1, 4):
        assert told(run(lambda: detectors(territory()), rows, size)) == [("bin_full", "b", True)]


def test_equal_times_are_decided_by_the_order_of_the_rows() -> None:
    """Of two readings of one instant the last one counts, and both changes are told in their order."""
    rows = frame(
        "sensor",
        [{"asset_id": "a", "at": NOON, "fill_level": 0.9}, {"asset_id": "a", "at": NOON, "fill_level": 0.1}],
    )
    for size in (1, 2):
        assert told(run(lambda: detectors(territory()), rows, size)) == [
            ("bin_full", "a", True),
            ("bin_full", "a", False),
        ]


def test_each_territory_has_its_own_rules() -> None:
    """Thresholds are those of the row's authority; a rule set to null is off; an unknown authority has none."""
    strict = territory(rules=Rules(bin_full=BinFull(raise_at=0.5, clear_at=0.4, severity="error")))
    off = territory(OTHER, rules=Rules(bin_full=None))
    rows = frame(
        "sensor",
        [
            {"asset_id": "a", "at": NOON, "fill_level": 0.55},
            {"asset_id": "a", "at": NOON, "fill_level": 0.99, "jurisdiction_id": OTHER},
            {"asset_id": "a", "at": NOON, "fill_level": 0.99, "jurisdiction_id": "999999999"},
        ],
    )
    found = detectors(strict, off).step(rows, watermark_after(rows))
    assert found.select("jurisdiction_id", "severity", "threshold").rows() == [(JURISDICTION, "error", 0.5)]


def test_findings_of_a_condition_stand_in_the_order_of_its_changes() -> None:
    """Rule after rule, each in the order of the rows: an end never stands before the beginning it ends."""
    levels = [0.9, 0.1, 0.9, 0.1]
    rows = frame(
        "sensor", [{"asset_id": "a", "at": NOON, "fill_level": level, "temperature_c": 99.0} for level in levels]
    )
    found = detectors(territory()).step(rows, 0)
    assert told(found) == [("bin_fire", "a", True), *[("bin_full", "a", raised) for raised in (True, False) * 2]]


LOUD: dict[str, dict[str, Any]] = {
    "sensor": {"fill_level": 0.9, "temperature_c": 99.0},
    "lighting": {"lamp_status": "column_issue"},
}


def test_nothing_but_the_declared_columns_is_read() -> None:
    """What rows that wait are kept of is all that detectors ask for: the findings are those of the whole rows."""
    for domain, columns in COLUMNS.items():
        loud: dict[str, Any] = LOUD.get(domain, {})
        rows = frame(domain, [{"asset_id": "a", "at": NOON + n * MINUTE} | loud for n in range(3)])
        found = detectors(territory()).step(rows, NOON)
        if columns:
            kept = rows.select(*columns, "domain", "watermark")
            assert_frame_equal(detectors(territory()).step(kept, NOON), found)
        assert len(found) == len(loud)


@pytest.mark.parametrize(
    ("domain", "at", "events"), [sample[1:2] + sample[3:5] for sample in SAMPLES], ids=[sample[0] for sample in SAMPLES]
)
def test_what_waits_is_foreseen(domain: Domain, at: int, events: list[dict[str, Any]]) -> None:
    """Of each row, before time has passed it, that it will raise what is told at once; afterwards nothing any more."""
    one = detectors(territory(rules=Rules(lamp_dark=LampDark(hold_s=60.0), lamp_lit_by_day=None)))
    one.step(frame(domain, [{"asset_id": "b", "at": at - MINUTE}]), at - MINUTE)
    for number, changes in enumerate(events):
        row, now = frame(domain, [{"asset_id": "a", "at": at + number * MINUTE} | changes]), at + number * MINUTE
        before = one.snapshot()
        foreseen = one.foresee(row, now)
        assert one.snapshot() == before, "looking changes nothing"
        found = one.step(row, now).filter(pl.col("raised") & (pl.col("rule") != "lamp_dark"))
        assert foreseen == ({now} if len(found) else set())
        assert one.foresee(row, now) == set(), "it is no news"


@pytest.mark.parametrize(
    ("domain", "loud", "rules"),
    [
        ("sensor", {"fill_level": 0.9}, Rules(bin_full=BinFull(raise_at=0.95, clear_at=0.5))),
        ("sensor", {"fill_level": 0.9}, Rules(bin_full=None)),
        ("sensor", {"temperature_c": 99.0}, Rules(bin_fire=None)),
        ("lighting", {"lamp_status": "defective_lamp"}, Rules(lamp_defective=None)),
    ],
    ids=["raised later", "full is off", "fire is off", "defective is off"],
)
def test_what_an_authority_does_not_raise_is_not_foreseen(domain: Domain, loud: dict[str, Any], rules: Rules) -> None:
    """Though another one's rule would: else its full bins would have everybody in haste for days."""
    one = detectors(territory(), territory(OTHER, rules=rules))
    one.step(frame(domain, [{"asset_id": "b", "at": NOON}]), NOON - MINUTE)
    here, there = ({"asset_id": "a", "jurisdiction_id": who, "at": NOON} | loud for who in (JURISDICTION, OTHER))
    assert one.foresee(frame(domain, [here]), NOON) == {NOON}
    assert one.foresee(frame(domain, [here]), NOON + 1) == set(), "it has been passed"
    assert one.foresee(frame(domain, [there]), NOON) == set()
    assert one.step(frame(domain, [there]), NOON).is_empty()


def test_rows_without_an_asset_are_passed_over() -> None:
    """A row that names no asset has no series and no findings."""
    rows = frame(
        "sensor",
        [{"asset_id": "", "at": NOON, "fill_level": 0.9}, {"asset_id": None, "at": NOON, "fill_level": 0.9}],
    )
    assert detectors(territory()).step(rows, 0).is_empty()


def test_a_rule_turned_off_is_withdrawn() -> None:
    """What a rule had raised ends when the territory turns the rule off, since nothing else would end it."""
    before, after = detectors(territory()), detectors(territory(rules=Rules(lamp_defective=None)))
    rows = frame("lighting", [{"asset_id": "a", "at": NOON, "lamp_status": "defective_lamp"}])
    before.step(rows, NOON)
    after.restore(before.snapshot())
    assert told(after.step(None, NOON + MINUTE)) == [("lamp_defective", "a", False)]
    assert after.step(None, NOON + 2 * MINUTE).is_empty()


def test_a_changed_threshold_clears_by_the_new_one() -> None:
    """State outlives a change of thresholds: the alert raised under the old one clears by the new one."""
    before = detectors(territory())
    before.step(frame("sensor", [{"asset_id": "a", "at": NOON, "fill_level": 0.9}]), NOON)
    after = detectors(territory(rules=Rules(bin_full=BinFull(raise_at=0.95, clear_at=0.9), lamp_dark=None)))
    after.restore(before.snapshot())
    rows = frame("sensor", [{"asset_id": "a", "at": NOON + MINUTE, "fill_level": 0.9}])
    assert told(after.step(rows, NOON)) == [("bin_full", "a", False)]


def test_one_domain_per_partition() -> None:
    """Rows of another domain are refused with what to do, and so is a domain that does not exist."""
    one = detectors(territory(rules=Rules(lamp_defective=LampDefective())))
    one.step(frame("sensor", [{"asset_id": "a", "at": NOON, "fill_level": 0.1}]), 0)
    with pytest.raises(ValueError, match="one AssetDetectors per topic"):
        one.step(frame("lighting", [{"asset_id": "a", "at": NOON}]), 0)
    strange = frame("sensor", [{"asset_id": "a", "at": NOON}]).with_columns(pl.lit("parks").alias("domain"))
    with pytest.raises(ValueError, match="no domain"):
        detectors(territory()).step(strange, 0)


@pytest.mark.parametrize("broken", [b"", b"{}", b"{}\nARROW1", json.dumps({"version": 99}).encode() + b"\n"])
def test_restore_refuses_what_is_no_snapshot(broken: bytes) -> None:
    """Bytes that are no snapshot give one ValueError that says what to do."""
    with pytest.raises(ValueError, match="rebuild the partition's state"):
        detectors(territory()).restore(broken)


def test_restore_needs_new_detectors() -> None:
    """A snapshot is not mixed into detectors that have seen rows."""
    one = detectors(territory())
    one.step(frame("sensor", [{"asset_id": "a", "at": NOON, "fill_level": 0.1}]), 0)
    with pytest.raises(ValueError, match="new AssetDetectors"):
        one.restore(one.snapshot())
