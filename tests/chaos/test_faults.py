"""What counts as a fault survived: which errors are excused by what else was going on."""

from __future__ import annotations

from typing import get_args

import pytest

from tests.chaos.faults import Struck, excused
from tests.chaos.schedule import Fault, Kind, kinds


def struck(kind: Kind, target: str, began_s: float, over_s: float, *, undrained: bool = False) -> Struck:
    error = "ended with 1" if undrained else None
    return Struck(Fault(began_s, kind, target, over_s - began_s), began_s, over_s, "told", error, undrained)


TERM = struck("worker_term", "worker-1", 10.0, 18.0, undrained=True)


@pytest.mark.parametrize(
    "other",
    [
        struck("clickhouse_cut", "clickhouse", 5.0, 11.0),
        struck("clickhouse_half_open", "clickhouse", 17.0, 25.0),
        struck("gateway_kill", "gateway", 12.0, 13.0),
        struck("broker_kill", "broker-2", 6.0, 8.0),
    ],
)
def test_a_drain_without_clickhouse_or_a_broker_is_excused(other: Struck) -> None:
    """Nobody can store while the store is away: a worker that says so and ends in time has done its part."""
    assert excused(TERM, [TERM, other]).error is None
    assert other.fault.kind in excused(TERM, [TERM, other]).told


@pytest.mark.parametrize(
    "other",
    [
        struck("clickhouse_cut", "clickhouse", 1.0, 6.0),
        struck("clickhouse_cut", "clickhouse", 18.5, 25.0),
        struck("worker_kill", "worker-2", 12.0, 13.0),
        struck("worker_freeze", "worker-3", 9.0, 19.0),
    ],
)
def test_other_drains_are_not(other: Struck) -> None:
    """What was over before, came after, or struck another worker is no excuse."""
    assert excused(TERM, [TERM, other]) == TERM


def test_other_errors_are_not_excused() -> None:
    """A worker that had to be killed after SIGTERM, or a broker that did not come back, is an error whatever else."""
    late = Struck(TERM.fault, 10.0, 18.0, "", "had not ended", undrained=False)
    assert excused(late, [late, struck("clickhouse_cut", "clickhouse", 5.0, 20.0)]) == late


def test_every_kind_is_drawn() -> None:
    """A kind that is declared and never drawn would be a fault that nobody sees missing."""
    assert set(kinds()) == set(get_args(Kind))
