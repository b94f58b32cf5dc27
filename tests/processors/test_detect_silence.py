"""Silence: what raises it, what ends it, and what must do neither."""

from __future__ import annotations

from typing import Any

import pytest

from processors.territory import Rules, Silent
from schemas.contracts import Domain
from tests.processors.detect_samples import (
    DISORDER,
    HOUR,
    MINUTE,
    detectors,
    frame,
    ms,
    run,
    territory,
)

T0 = ms("2026-01-15T12:00")
DAY = 24 * HOUR
REGISTRY = {"a": 900.0, "b": 900.0, "no-interval": None}
RULES = Rules(silent=Silent(intervals=4, dead_after_s=2 * 86_400))


def _run(
    events: list[dict[str, Any]], size: int, end_ms: int | None = None, domain: Domain = "sensor"
) -> list[dict[str, Any]]:
    """Silent findings of these events, then of time passing to `end_ms`."""
    found = run(
        lambda: detectors(territory(domain=domain, intervals=REGISTRY, rules=RULES)),
        frame(domain, events),
        size,
        end_ms,
    )
    return [row for row in found.sort("at", maintain_order=True).to_dicts() if row["rule"] == "silent"]


def _steps(found: list[dict[str, Any]]) -> list[tuple[str, int, bool]]:
    return [(row["asset_id"], (round(row["at"].timestamp() * 1_000) - T0) // MINUTE, row["raised"]) for row in found]


@pytest.mark.parametrize("size", [1, 2, 5_000])
@pytest.mark.parametrize("domain", ["sensor", "lighting", "roadway"])
def test_silent_after_its_intervals_by_the_watermark(size: int, domain: Domain) -> None:
    """What others say lets an asset's silence begin, four intervals after its last word."""
    events = [{"asset_id": "a", "at": T0}, {"asset_id": "b", "at": T0 + HOUR + DISORDER + MINUTE}]
    found = _run(events, size, domain=domain)
    assert _steps(found) == [("a", 60, True)]
    assert (found[0]["value"], found[0]["threshold"]) == (3_600.0, 3_600.0)


@pytest.mark.parametrize("size", [1, 5_000])
def test_not_silent_at_its_limit(size: int) -> None:
    """A watermark just at the limit shows no silence yet: the next record may still be in time."""
    assert _run([{"asset_id": "a", "at": T0}, {"asset_id": "b", "at": T0 + HOUR + DISORDER}], size) == []


@pytest.mark.parametrize("size", [1, 5_000])
def test_a_gap_is_told_even_when_seen_afterwards(size: int) -> None:
    """A silence that lies between two records of one batch is told like any other: begun and ended."""
    found = _run([{"asset_id": "a", "at": T0}, {"asset_id": "a", "at": T0 + 3 * HOUR}], size)
    assert _steps(found) == [("a", 60, True), ("a", 180, False)]
    assert found[1]["value"] == 3 * 3_600.0


@pytest.mark.parametrize("size", [1, 5_000])
def test_a_regular_asset_is_never_silent(size: int) -> None:
    """Records an hour apart (the limit) show no silence."""
    assert _run([{"asset_id": "a", "at": T0 + hour * HOUR} for hour in range(48)], size) == []


@pytest.mark.parametrize("size", [1, 5_000])
def test_dead_is_told_once_more(size: int) -> None:
    """After `dead_after_s` a second finding says so with its value; speaking ends it once."""
    events = [{"asset_id": "a", "at": T0}, {"asset_id": "a", "at": T0 + 3 * DAY}]
    found = _run(events, size)
    assert _steps(found) == [("a", 60, True), ("a", 2 * 1_440, True), ("a", 3 * 1_440, False)]
    assert [row["threshold"] for row in found] == [3_600.0, 2 * 86_400.0, 3_600.0]
    assert {row["severity"] for row in found} == {"warning"}


def test_time_alone_makes_silence() -> None:
    """With no further record, the passing watermark raises silence, then death, and each only once."""
    one = detectors(territory(intervals=REGISTRY, rules=RULES))
    one.step(frame("sensor", [{"asset_id": "a", "at": T0}]), T0)
    counts = [one.step(None, T0 + day * DAY).height for day in (0, 1, 1, 2, 3, 4)]
    assert counts == [0, 1, 0, 0, 1, 0]


def test_who_never_spoke_or_has_no_interval_is_left_out() -> None:
    """Assets without an interval, unknown assets, and registered ones never heard here are no silence."""
    events = [{"asset_id": "no-interval", "at": T0}, {"asset_id": "not-registered", "at": T0}]
    assert _run(events, 5_000, end_ms=T0 + 90 * DAY) == []


def test_a_report_about_an_asset_is_not_its_voice() -> None:
    """Citizen requests neither make an asset known nor silent."""
    assert _run([{"asset_id": "a", "at": T0}], 1, end_ms=T0 + DAY, domain="report") == []


@pytest.mark.parametrize("size", [1, 5_000])
def test_a_failed_reading_keeps_silence_away_but_ends_none(size: int) -> None:
    """A SUSPECT or FAIL reading shows that the asset speaks, so no silence begins; it clears none by itself."""
    steady = [{"asset_id": "a", "at": T0 + n * HOUR, "quality": 4} for n in range(5)]
    assert _run(steady, size) == []
    back = [{"asset_id": "a", "at": T0}, {"asset_id": "a", "at": T0 + 3 * HOUR, "quality": 3}]
    assert _steps(_run(back, size)) == [("a", 60, True)]
    assert _steps(_run([*back, {"asset_id": "a", "at": T0 + 3 * HOUR + MINUTE}], size)) == [
        ("a", 60, True),
        ("a", 181, False),
    ]


@pytest.mark.parametrize("size", [1, 3, 5_000])
def test_a_backlog_does_not_end_silence_before_it_is_recent(size: int) -> None:
    """Old records uploaded after an outage end the silence only when they come within the limit of the watermark."""
    events = [
        {"asset_id": "a", "at": T0},
        {"asset_id": "b", "at": T0 + 5 * HOUR},
        *({"asset_id": "a", "at": T0 + minutes * MINUTE} for minutes in range(30, 300, 30)),
    ]
    found = [step for step in _steps(_run(events, size)) if step[0] == "a"]
    assert found == [("a", 60, True), ("a", 240, False)]


@pytest.mark.parametrize("size", [1, 2, 5_000])
def test_the_beginning_of_silence_after_its_end(size: int) -> None:
    """An asset that comes back and falls silent again is told again, also when everything else is quiet."""
    events = [{"asset_id": "a", "at": T0}, {"asset_id": "a", "at": T0 + 3 * HOUR}]
    found = _run(events, size, end_ms=T0 + 5 * HOUR)
    assert _steps(found) == [("a", 60, True), ("a", 180, False), ("a", 240, True)]


@pytest.mark.parametrize("size", [1, 3, 5_000])
def test_a_late_word_takes_silence_back_where_it_began(size: int) -> None:
    """A record older than the watermark that shows there was no silence ends it at its beginning, never before it."""
    events = [
        {"asset_id": "a", "at": T0},
        {"asset_id": "b", "at": T0 + HOUR + DISORDER + MINUTE},
        {"asset_id": "a", "at": T0 + 55 * MINUTE},
    ]
    assert _steps(_run(events, size)) == [("a", 60, True), ("a", 60, False)]
