"""From findings to alerts: who is told what, when, and under which name."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta
from typing import Any

import fastavro
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from processors.alerts import AlertBook, Transition, summary, to_record
from processors.detect.asset import AssetDetectors
from processors.detect.findings import Finding, findings, no_findings
from processors.territory import Rules, Silent
from schemas.contracts import contract
from tests.processors.detect_samples import (
    HOUR,
    JURISDICTION,
    MINUTE,
    batches,
    detectors,
    frame,
    ms,
    territory,
)

T0 = ms("2026-01-15T23:00")
START = datetime(2026, 1, 15, 23, 0, tzinfo=UTC)


def _finding(minute: int, raised: bool, **changes: Any) -> Finding:
    plain = Finding(
        rule="lamp_dark",
        jurisdiction_id=JURISDICTION,
        domain="lighting",
        asset_id="lamp-7",
        zone_layer=None,
        zone_code=None,
        category=None,
        at=T0 + minute * MINUTE,
        raised=raised,
        value=-20.0,
        threshold=-8.0,
        severity="warning",
        hold_s=0.0,
        watermark=None,
    )
    return plain._replace(**changes)


def _told(transitions: list[Transition]) -> list[tuple[str, int]]:
    """(state, minute) of each transition."""
    return [(one.state, round((one.at - START) / timedelta(minutes=1))) for one in transitions]


def test_a_condition_without_hold_fires_at_once() -> None:
    """Raised fires, ended resolves; the resolved one bears both instants and the values that ended it."""
    book = AlertBook()
    begun = book.step(findings([_finding(0, True)]), T0)
    ended = book.step(findings([_finding(5, False, value=3.0)]), T0 + 5 * MINUTE)
    assert _told(begun + ended) == [("firing", 0), ("resolved", 5)]
    assert (begun[0].starts_at, begun[0].ends_at, begun[0].value) == (START, None, -20.0)
    assert (ended[0].starts_at, ended[0].ends_at, ended[0].value) == (START, START + timedelta(minutes=5), 3.0)
    assert begun[0].fingerprint == ended[0].fingerprint
    assert [one.sequence for one in begun + ended] == [1, 2]


def test_a_held_condition_waits_for_the_watermark() -> None:
    """With a hold the alert is pending, and fires at raise + hold when the watermark has come there, not before."""
    book = AlertBook()
    told = book.step(findings([_finding(0, True, hold_s=600)]), T0)
    assert _told(told) == [("pending", 0)]
    assert book.step(no_findings(), T0 + 10 * MINUTE - 1) == []
    fired = book.step(no_findings(), T0 + 10 * MINUTE)
    assert _told(fired) == [("firing", 10)]
    assert (fired[0].starts_at, fired[0].ends_at) == (START, None)
    assert book.step(no_findings(), T0 + HOUR) == []


def test_a_later_finding_shows_that_the_hold_has_passed() -> None:
    """An end that comes after the hold fires and resolves, even before the watermark has come there."""
    book = AlertBook()
    told = book.step(findings([_finding(0, True, hold_s=600), _finding(10, False, hold_s=600)]), T0)
    assert _told(told) == [("pending", 0), ("firing", 10), ("resolved", 10)]


def test_a_pending_alert_that_ends_expires() -> None:
    """Nobody is told resolved who was never told firing."""
    book = AlertBook()
    told = book.step(findings([_finding(0, True, hold_s=600), _finding(9, False, hold_s=600)]), T0)
    assert _told(told) == [("pending", 0), ("expired", 9)]
    assert told[1].ends_at == START + timedelta(minutes=9)
    assert book.step(no_findings(), T0 + HOUR) == []


def test_what_changes_nothing_is_not_told() -> None:
    """An end of what is not raised, and a raise of what is, give no transition."""
    book = AlertBook()
    assert book.step(findings([_finding(0, False)]), T0) == []
    book.step(findings([_finding(1, True)]), T0)
    assert book.step(findings([_finding(2, True, value=-30.0)]), T0) == []


def test_a_late_end_does_not_precede_the_firing() -> None:
    """When the watermark had let an alert fire, an end that bears an earlier instant resolves it at the firing."""
    book = AlertBook()
    book.step(findings([_finding(0, True, hold_s=600)]), T0 + HOUR)
    ended = book.step(findings([_finding(4, False, hold_s=600)]), T0 + HOUR)
    assert _told(ended) == [("resolved", 10)]


def test_the_watermark_of_a_finding_counts() -> None:
    """A finding whose record came after the watermark had passed the hold finds the alert firing, in any cut."""
    late = _finding(4, False, hold_s=600, watermark=T0 + 12 * MINUTE)
    whole = AlertBook().step(findings([_finding(0, True, hold_s=600), late]), T0 + 12 * MINUTE)
    book = AlertBook()
    apart = book.step(findings([_finding(0, True, hold_s=600)]), T0 + 12 * MINUTE)
    apart += book.step(findings([late]), T0 + 12 * MINUTE)
    assert whole == apart
    assert _told(whole) == [("pending", 0), ("firing", 10), ("resolved", 10)]


def test_a_dead_asset_is_told_again() -> None:
    """A second step of a silence fires again under the same start; a repeated one does not."""
    silent = {"rule": "silent", "value": 3_600.0, "threshold": 3_600.0}
    dead = {"rule": "silent", "value": 2_592_000.0, "threshold": 2_592_000.0}
    told = AlertBook().step(
        findings(
            [
                _finding(0, True, **silent),
                _finding(9, True, **dead),
                _finding(10, True, **dead),
                _finding(11, False, **silent),
            ]
        ),
        T0,
    )
    assert _told(told) == [("firing", 0), ("firing", 9), ("resolved", 11)]
    assert {one.starts_at for one in told} == {START}
    assert told[1].summary == "Asset lamp-7 has said nothing for 30 days"


def test_identity_is_in_the_labels() -> None:
    """Another rule, authority, domain, asset, zone, category or severity is another fingerprint; a value is not."""
    changes: list[dict[str, Any]] = [
        {},
        {"rule": "lamp_lit_by_day"},
        {"jurisdiction_id": "200000002"},
        {"domain": "sensor"},
        {"asset_id": "lamp-8"},
        {"asset_id": None, "zone_layer": "iris", "zone_code": "lamp-7"},
        {"asset_id": None, "zone_layer": "district", "zone_code": "lamp-7"},
        {"category": "trash"},
        {"severity": "error"},
    ]
    made = [AlertBook().step(findings([_finding(0, True, **change)]), T0)[0] for change in changes]
    assert len({one.fingerprint for one in made}) == len(changes)
    same = AlertBook().step(findings([_finding(3, True, value=-1.0, threshold=-2.0)]), T0)[0]
    assert same.fingerprint == made[0].fingerprint
    assert same.transition_id != made[0].transition_id


def test_names_are_stable() -> None:
    """Fingerprint and transition id never change between versions: receivers hold them."""
    one = AlertBook().step(findings([_finding(0, True)]), T0)[0]
    assert (one.fingerprint, one.transition_id) == ("f66ad3d8105b05cd", "2b8fef8199780478648c36407a904dbc")


def test_a_changed_severity_does_not_orphan_an_alert() -> None:
    """An alert keeps the severity it was raised with, and its end finds it whatever the rule says by then."""
    book = AlertBook()
    begun = book.step(findings([_finding(0, True)]), T0)
    ended = book.step(findings([_finding(5, False, severity="critical")]), T0)
    assert (ended[0].state, ended[0].fingerprint, ended[0].severity) == ("resolved", begun[0].fingerprint, "warning")


def test_sequence_counts_over_the_life_of_a_fingerprint() -> None:
    """A second life goes on counting, so its transitions have names of their own."""
    book = AlertBook()
    told = [
        one
        for minute in range(4)
        for one in book.step(findings([_finding(minute, minute % 2 == 0)]), T0 + minute * MINUTE)
    ]
    assert [one.sequence for one in told] == [1, 2, 3, 4]
    assert len({one.transition_id for one in told}) == 4


def test_a_transition_is_an_alert_record() -> None:
    """A transition has exactly the contract's fields, and its record survives Avro in every state."""
    alert = contract("Alert")
    assert list(Transition.__dataclass_fields__) == [field.name for field in alert.fields]
    told = AlertBook().step(findings([_finding(0, True, hold_s=60), _finding(5, False, value=None)]), T0)
    assert [one.state for one in told] == ["pending", "firing", "resolved"]
    for one in told:
        record = to_record(one)
        assert record["starts_at"] == T0 and isinstance(record["at"], int)
        body = io.BytesIO()
        fastavro.schemaless_writer(body, alert.parsed, record, strict=True)
        body.seek(0)
        read = fastavro.schemaless_reader(body, alert.parsed, None)
        assert isinstance(read, dict)
        assert (read["ends_at"], read["value"], read["state"]) == (one.ends_at, one.value, one.state)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"rule": "bin_full", "asset_id": "bin-0012", "value": 0.91, "threshold": 0.8},
            "Bin bin-0012 is full: 0.91 (threshold 0.80)",
        ),
        (
            {"rule": "bin_full", "asset_id": "bin-0012", "value": 0.5, "threshold": 0.6, "raised": False},
            "Bin bin-0012 is no longer full: 0.50 (clears at 0.60)",
        ),
        ({"rule": "bin_fire", "value": 81.2, "threshold": 70.0}, "Bin lamp-7 may be on fire: 81 °C (threshold 70 °C)"),
        ({"rule": "lamp_defective"}, "Lamp lamp-7 reports a defect"),
        ({"rule": "lamp_defective", "raised": False}, "Lamp lamp-7 reports no defect any more"),
        ({}, "Lamp lamp-7 is off in the dark: sun at -20.0° (threshold -8.0°)"),
        ({"raised": False, "value": None}, "Lamp lamp-7 is no longer dark at night"),
        (
            {"rule": "lamp_lit_by_day", "value": 20.0, "threshold": 5.0},
            "Lamp lamp-7 is lit in daylight: sun at 20.0° (threshold 5.0°)",
        ),
        ({"rule": "silent", "value": 3_600.0, "threshold": 3_600.0}, "Asset lamp-7 has said nothing for 60 min"),
        ({"rule": "silent", "raised": False, "value": 10_800.0}, "Asset lamp-7 is no longer silent after 3 h"),
        (
            {
                "rule": "report_hot_spot",
                "asset_id": None,
                "zone_layer": "iris",
                "zone_code": "341720101",
                "category": "trash",
                "value": 22.0,
                "threshold": 1.24,
            },
            "Unusually many reports of trash in iris 341720101: 22 (1.2 expected)",
        ),
        ({"rule": "new_rule"}, "new_rule holds for lamp-7"),
    ],
)
def test_summary(changes: dict[str, Any], sentence: str) -> None:
    """Every rule has a sentence for a person, and a rule without one still gets a plain one."""
    assert summary(_finding(0, True)._replace(**changes)) == sentence


def test_every_rule_has_its_own_sentence() -> None:
    """No rule of a territory falls back to the plain sentence, raised or ended, with or without values."""
    rules = [name for name in Rules.model_fields if name != "nearest_asset_m"]
    for rule in rules:
        for raised in (True, False):
            for value in (1.0, None):
                text = summary(_finding(0, raised, rule=rule, value=value, zone_layer="iris", zone_code="1"))
                assert not text.startswith((f"{rule} holds", f"{rule} has ended"))
                assert "None (" not in text


def test_raised_zones() -> None:
    """The book knows which zones and categories of a rule are raised, per authority, until they end."""
    book = AlertBook()
    hot = {"rule": "report_hot_spot", "asset_id": None, "zone_layer": "iris", "zone_code": "1", "category": "trash"}
    book.step(findings([_finding(0, True, **hot), _finding(0, True)]), T0)
    assert book.raised("report_hot_spot", JURISDICTION) == {("1", "trash")}
    assert book.raised("report_hot_spot", "200000002") == set()
    book.step(findings([_finding(1, False, **hot)]), T0)
    assert book.raised("report_hot_spot", JURISDICTION) == set()


def _whole_way(rows: pl.DataFrame, size: int, end_ms: int, stop_at: int = -1) -> list[Transition]:
    """Transitions of detectors and book over the rows cut by `size`; both are restarted before batch `stop_at`."""

    def make() -> tuple[AssetDetectors, AlertBook]:
        rules = Rules(silent=Silent(intervals=2, dead_after_s=4 * 3_600))
        return detectors(territory(domain="lighting", intervals={"a": 1_800.0}, rules=rules)), AlertBook()

    found, book = make()
    told: list[Transition] = []
    for number, (batch, watermark) in enumerate(batches(rows, size)):
        if number == stop_at:
            held = found.snapshot(), book.snapshot()
            found, book = make()
            found.restore(held[0])
            book.restore(held[1])
        told += book.step(found.step(batch, watermark), watermark)
    told += book.step(found.step(None, end_ms), end_ms)
    return sorted(told, key=lambda one: (one.fingerprint, one.sequence))


@given(
    drawn=st.lists(
        st.tuples(
            st.sampled_from("ab"),
            st.sampled_from([-90, -15, -4, 0, 1, 4, 8, 20, 75]),
            st.sampled_from(["on", "off", "low", "unknown"]),
            st.sampled_from(["ok", "defective_lamp"]),
        ),
        max_size=50,
    ),
    size=st.integers(1, 20),
    stop_at=st.integers(0, 10),
)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_cuts_and_restarts_change_nothing(drawn: list[tuple[str, int, str, str]], size: int, stop_at: int) -> None:
    """In other cuts, and with a restart in between, the same events give the same transitions under the same names;
    and of each alert's life: firing before resolved, never resolved without having fired, times in order."""
    clock, events = T0, []
    for asset, minutes, power, status in drawn:
        clock += max(minutes, 0) * MINUTE
        at = clock + min(minutes, 0) * MINUTE
        events.append({"asset_id": asset, "at": at, "power_state": power, "lamp_status": status})
    rows, end = frame("lighting", events), clock + 30 * HOUR
    whole = _whole_way(rows, 5_000, end)
    for cut, stop in ((1, -1), (7, -1), (size, stop_at)):
        assert _whole_way(rows, cut, end, stop) == whole
    assert len({one.transition_id for one in whole}) == len(whole)
    state: dict[str, str] = {}
    for one in whole:
        before = state.get(one.fingerprint, "")
        assert one.starts_at <= one.at
        assert (one.state == "resolved") <= (before == "firing")
        assert (one.state == "expired") <= (before == "pending")
        assert (one.ends_at is not None) == (one.state in ("resolved", "expired"))
        state[one.fingerprint] = one.state


@pytest.mark.parametrize("broken", [b"", b"[]", b"{}", b'{"version": 99}', b'{"version": 2, "open": [[[], 1]]}'])
def test_restore_refuses_what_is_no_snapshot(broken: bytes) -> None:
    """Bytes that are no snapshot give one ValueError that says what to do, and leave the book as it was."""
    book = AlertBook()
    book.step(findings([_finding(0, True)]), T0)
    with pytest.raises(ValueError, match="rebuild the partition's state"):
        book.restore(broken)
    assert [one.state for one in book.step(findings([_finding(1, False)]), T0)] == ["resolved"]
