"""Stalls are measured from what is seen: the time in which nothing moved although something waited."""

from __future__ import annotations

from tests.chaos.progress import Stalls

A, B = ("sensor", 0), ("sensor", 1)


def test_progress_of_any_partition_is_progress() -> None:
    """The installation stalls only while no partition moves; each partition has a stall of its own."""
    stalls = Stalls()
    for second in range(10):
        stalls.see(float(second), {A: 100, B: 100}, {A: second, B: 0})
    assert stalls.longest_s == 1.0
    assert stalls.longest_partition_s == 9.0


def test_a_stall_lasts_until_something_moves() -> None:
    """From the last progress seen to the next."""
    stalls = Stalls()
    for now, reached in ((0.0, 1), (1.0, 2), (2.0, 2), (7.0, 2), (8.0, 3), (9.0, 4)):
        stalls.see(now, {A: 100}, {A: reached})
    assert stalls.longest_s == stalls.longest_partition_s == 7.0


def test_nothing_to_do_is_no_stall() -> None:
    """A partition that is at its end may rest; what comes after the rest waits from then on."""
    stalls = Stalls()
    for now, end, reached in ((0.0, 10, 9), (1.0, 10, 10), (100.0, 10, 10), (101.0, 11, 10), (103.0, 11, 10)):
        stalls.see(now, {A: end}, {A: reached})
    assert stalls.longest_s == stalls.longest_partition_s == 3.0


def test_no_answer_is_no_progress() -> None:
    """A database that does not answer has not moved; when it answers again, what it reached counts."""
    stalls = Stalls()
    stalls.see(0.0, {A: 10}, {A: 1})
    stalls.see(1.0, {A: 10}, {A: 2})
    for now in (2.0, 3.0, 4.0):
        stalls.see(now, {A: 10}, None)
    stalls.see(5.0, {A: 10}, {A: 3})
    assert stalls.longest_s == 4.0
    assert stalls.lag == 7
    assert stalls.lags == [9, 8, 8, 8, 8, 7]
    assert stalls.answers == 3


def test_what_went_back_has_not_moved() -> None:
    """An older answer is no progress, and the next newer one is none before it passes the best seen."""
    stalls = Stalls()
    for now, reached in ((0.0, 5), (1.0, 6), (2.0, 4), (3.0, 6), (4.0, 7)):
        stalls.see(now, {A: 10}, {A: reached})
    assert stalls.longest_s == 3.0
