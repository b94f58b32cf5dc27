"""What commands print of instants and counts."""

from __future__ import annotations

import pytest

from streams.cli import printed


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (1_789_430_400_999, "2026-09-15T00:00:00Z"),
        (-1, "1969-12-31T23:59:59Z"),
        (1_789_430_400_999_000, "1789430400999000 ms"),
        (-(2**63), f"{-(2**63)} ms"),
    ],
)
def test_any_time_that_a_record_bears(ms: int, text: str) -> None:
    """Microseconds in place of milliseconds are a mistake of somebody else's, and no reason to show nothing at all."""
    assert printed.moment(ms) == text
