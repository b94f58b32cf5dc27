"""The schedule of faults: decided by the seed, complete, and possible to carry out."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest

from tests.chaos.schedule import Fault, kinds, schedule


def overlaps(faults: list[Fault], target: str) -> int:
    """How often a fault of that target begins before the one before it is over."""
    own = [fault for fault in faults if fault.target.startswith(target)]
    return sum(before.at_s + before.hold_s > after.at_s for before, after in pairwise(own))


def test_the_seed_decides_everything() -> None:
    """The same seed gives the same faults at the same times, another one others: a run can be had again."""
    assert schedule(5, 600, 3, 3) == schedule(5, 600, 3, 3)
    assert schedule(5, 600, 3, 3) != schedule(6, 600, 3, 3)


@pytest.mark.parametrize("seed", range(20))
def test_ninety_seconds_hold_every_kind(seed: int) -> None:
    """The short version leaves no kind of fault out, whatever its seed."""
    assert {fault.kind for fault in schedule(seed, 90, 3, 3)} == set(kinds())


@pytest.mark.parametrize("seed", range(5))
def test_a_target_has_one_fault_at_a_time(seed: int) -> None:
    """Nobody is struck while being struck, and of all brokers one at most is away: two of three must live."""
    faults = schedule(seed, 600, 3, 3)
    for target in ("worker-1", "worker-2", "worker-3", "guest", "broker", "clickhouse", "gateway"):
        assert overlaps(faults, target) == 0, target
    assert overlaps(faults, "") > 0, "different targets are struck at the same time"


def test_faults_come_every_few_seconds_within_the_run() -> None:
    """From the beginning nearly to the end, one every few seconds, in order; every worker and broker has its turn."""
    faults = schedule(1, 600, 3, 3)
    gaps = [after.at_s - before.at_s for before, after in pairwise(faults)]
    assert faults[0].at_s < 5
    assert 580 < faults[-1].at_s < 600
    assert min(gaps) > 0
    assert sum(gaps) / len(gaps) < 4
    assert max(gaps) < 20
    struck = Counter(fault.target for fault in faults)
    assert min(struck[f"{what}-{number}"] for what in ("worker", "broker") for number in (1, 2, 3)) >= 4


def test_one_worker_and_one_broker() -> None:
    """Smaller installations are struck where they are."""
    targets = {fault.target for fault in schedule(3, 600, 1, 1)}
    assert targets == {"worker-1", "broker-1", "guest", "clickhouse", "gateway"}


def test_a_run_too_short_for_faults_has_none() -> None:
    """A few seconds are a run without faults: what it shows is what the driver itself gets wrong."""
    assert schedule(1, 7, 3, 3) == []
