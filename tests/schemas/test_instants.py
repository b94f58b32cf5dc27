"""Instants in words, to milliseconds."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.instants import InstantError, milliseconds, other_unit
from schemas.problems import Rule

_MS = 1_789_374_600_000


@pytest.mark.parametrize(
    "text",
    [
        "2026-09-14T08:30:00Z",
        "2026-09-14t08:30:00z",
        "2026-09-14 08:30:00Z",
        "2026-09-14T10:30:00+02:00",
        "2026-09-13T22:30:00.000-10:00",
        "2026-09-14T08:30:00.0009999Z",
        "1789374600000",
    ],
)
def test_one_instant_in_many_words(text: str) -> None:
    """RFC 3339 in any zone, with any fraction, and milliseconds as digits are the same instant."""
    assert milliseconds(text) == _MS


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30)),  # noqa: DTZ001 - the zone is drawn beside it
    st.integers(-23 * 60, 23 * 60),
)
def test_every_instant_comes_back(moment: datetime, minutes: int) -> None:
    """Whatever the year and the offset, parts of a millisecond apart."""
    aware = moment.replace(tzinfo=timezone(timedelta(minutes=minutes)))
    expected = (aware - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
    assert milliseconds(aware.isoformat()) == expected


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("2026-09-14T08:30:00", Rule.TIME_ZONE),
        ("2026-09-14 08:30", Rule.TIME_ZONE),
        ("2026-09-14", Rule.INSTANT),
        ("14/09/2026 08:30:00", Rule.INSTANT),
        ("2026-02-30T08:00:00Z", Rule.INSTANT),
        ("2026-09-14T24:00:00Z", Rule.INSTANT),
        ("2026-09-14T08:30:60Z", Rule.INSTANT),
        ("0000-01-01T00:00:00Z", Rule.INSTANT),
        ("1.789E+12", Rule.INSTANT),
        ("yesterday", Rule.INSTANT),
        ("", Rule.INSTANT),
        ("２０２６-09-14T08:30:00Z", Rule.INSTANT),
    ],
)
def test_what_is_no_instant_says_which_rule_it_breaks(text: str, rule: Rule) -> None:
    """A local time is told apart, because its mending is another."""
    with pytest.raises(InstantError) as caught:
        milliseconds(text)
    assert caught.value.rule is rule
    assert caught.value.mend


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.text(max_size=30))
def test_any_text_is_an_instant_or_that_one_error(text: str) -> None:
    """Nothing else is raised, whatever stands there."""
    try:
        assert isinstance(milliseconds(text), int)
    except InstantError as error:
        assert error.found


@pytest.mark.parametrize(
    ("number", "unit"),
    [
        (_MS // 1_000, "seconds"),
        (_MS * 1_000, "microseconds"),
        (_MS * 1_000_000, "nanoseconds"),
        (_MS, None),
        (0, None),
        (-1, None),
        (12_345, None),
    ],
)
def test_other_units_are_recognized(number: int, unit: str | None) -> None:
    """What would be of this century in another unit was most likely meant in it; milliseconds never are."""
    found = other_unit(number)
    assert (found[0] if found else None) == unit
