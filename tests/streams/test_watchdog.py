"""The watchdog: what is a stall, what excuses one, and that nothing else ends a worker."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.watchdog import StalledError, Watchdog


def first_stall_s(dog: Watchdog, *, to_s: int = 10_000, step_s: int = 1, start_s: int = 0, **told: bool) -> int | None:
    """Looks every `step_s` without progress and with records that wait; the instant of StalledError, if it comes."""
    for now_s in range(start_s, to_s, step_s):
        try:
            dog.look(float(now_s), progress=7, lag=True, **told)
        except StalledError:
            return now_s
    return None


def test_lag_without_progress_ends_the_worker() -> None:
    """After the limit, not before; the message names the setting and says that nothing is lost."""
    dog = Watchdog(300.0)
    assert [dog.look(float(now), progress=7, lag=True) for now in range(300)] == [float(now) for now in range(300)]
    with pytest.raises(
        StalledError, match=r"for 300 s nothing was made durable \(VIGIE_WATCHDOG_S is 300\).*not.*lost"
    ):
        dog.look(300.0, progress=7, lag=True)


def test_it_keeps_saying_so() -> None:
    """Who misses the first error gets the next one."""
    dog = Watchdog(10.0)
    assert first_stall_s(dog) == 10
    with pytest.raises(StalledError):
        dog.look(11.0, progress=7, lag=True)


def test_any_progress_begins_the_count_anew() -> None:
    """A worker that moves, however slowly, is not stuck; numbers that fall (partitions taken away) are a move, too."""
    for sign in (1, -1):
        dog = Watchdog(300.0)
        for now in range(2_000):
            assert dog.look(float(now), progress=sign * (now // 200), lag=True) < 200.0


def test_without_lag_there_is_nothing_to_do() -> None:
    """A quiet city: no records, no progress, for weeks; and the first record that comes is not late at once."""
    dog = Watchdog(300.0)
    for now in range(0, 1_000_000, 1_000):
        assert dog.look(float(now), progress=7, lag=False) == 0.0
    assert dog.look(1_000_000.0, progress=7, lag=True) == 0.0
    assert first_stall_s(dog, start_s=1_000_000, to_s=1_001_000) == 1_000_300


def test_the_first_look_counts_nothing() -> None:
    """Nobody knows how long it was before."""
    assert Watchdog(1.0).look(1e9, progress=0, lag=True) == 0.0


def test_waiting_for_clickhouse_does_not_count() -> None:
    """It has a budget of its own, an hour; what was counted before goes on afterwards."""
    dog = Watchdog(300.0)
    assert first_stall_s(dog, to_s=201) is None
    assert first_stall_s(dog, start_s=201, to_s=5_000, away=True) is None
    assert first_stall_s(dog, start_s=5_000) == 5_000 + 99
    assert dog.stalled_s == 300.0


def test_rebalancing_excuses_up_to_its_own_timeout() -> None:
    """A hand-over takes time; one that never ends is a stall."""
    dog = Watchdog(300.0, rebalance_s=60.0)
    assert first_stall_s(dog, rebalancing=True) == 360


def test_many_rebalances_excuse_no_more_than_one() -> None:
    """A group that rebalances every few seconds and never comes to work must not excuse itself for ever."""
    dog = Watchdog(300.0, rebalance_s=60.0)
    ended = None
    for now in range(10_000):
        try:
            dog.look(float(now), progress=7, lag=True, rebalancing=now % 5 < 4)
        except StalledError:
            ended = now
            break
    assert ended == 360


def test_progress_gives_rebalances_their_time_back() -> None:
    """Joining and leaving every few seconds is no stall as long as the worker gets something done in between."""
    dog = Watchdog(300.0, rebalance_s=60.0)
    for now in range(10_000):
        dog.look(float(now), progress=now // 320, lag=True, rebalancing=True)
    assert first_stall_s(dog, start_s=10_000, to_s=20_000, rebalancing=True) is not None


@pytest.mark.parametrize("pause_s", [1_000, 100_000])
def test_a_process_that_was_stopped_gets_a_chance(pause_s: int) -> None:
    """Suspended, in a debugger or starved: the time it could not use does not end it at its first look."""
    dog = Watchdog(300.0)
    assert first_stall_s(dog, to_s=10) is None
    assert dog.look(float(pause_s), progress=7, lag=True) < 100.0
    assert dog.look(pause_s + 1.0, progress=8, lag=True) == 0.0


def test_seldom_looks_still_find_a_stall() -> None:
    """Whoever looks less often than a quarter of the limit finds it later, and finds it."""
    assert first_stall_s(Watchdog(300.0), step_s=1_000) == 4_000


def test_a_clock_that_stands_or_goes_back_counts_nothing() -> None:
    """Monotonic clocks should not; a stall is not made of it."""
    dog = Watchdog(10.0)
    for now in (100.0, 100.0, 50.0, 50.0, 49.0):
        assert dog.look(now, progress=7, lag=True) == 0.0


@given(
    limit_s=st.floats(1, 20),
    looks=st.lists(st.tuples(st.floats(0.01, 5), st.integers(0, 2), st.booleans(), st.booleans(), st.booleans())),
)
def test_it_never_ends_a_worker_before_the_limit(
    limit_s: float, looks: list[tuple[float, int, bool, bool, bool]]
) -> None:
    """Whatever it is told: an error needs at least `limit_s` since the last progress or the last look without lag."""
    dog, now, since, before = Watchdog(limit_s), 0.0, 0.0, -1
    for passed, progress, lag, away, rebalancing in looks:
        now += passed
        if progress != before or not lag:
            since, before = now, progress
        try:
            assert 0.0 <= dog.look(now, progress=progress, lag=lag, away=away, rebalancing=rebalancing) < limit_s
        except StalledError:
            assert now - since >= limit_s * 0.999
