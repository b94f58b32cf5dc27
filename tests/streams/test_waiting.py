"""How long small batches wait for company."""

from __future__ import annotations

import pytest

from streams.waiting import linger_s


@pytest.mark.parametrize(
    ("spent", "pause"),
    [(0.0, 0.1), (0.005, 0.1), (0.02, 0.18), (0.04, 0.36), (0.06, 0.5), (10.0, 0.5)],
)
def test_a_tenth_of_the_time_is_spent_on_small_batches(spent: float, pause: float) -> None:
    """Never shorter than the setting, never longer than five times that, whatever the machine is doing."""
    assert linger_s(0.1, spent) == pytest.approx(pause)


def test_who_does_not_want_to_wait_never_waits() -> None:
    """A setting of zero is kept, whatever batches cost."""
    assert linger_s(0.0, 3.0) == 0.0
