"""One size changes at a time, and the growth told is that of what was measured."""

from __future__ import annotations

import pytest

from benchmarks.scale import AXES, BASE, growth, points
from benchmarks.scale_point import Cost
from benchmarks.storage import an_event


@pytest.mark.parametrize("axis", AXES)
def test_an_axis_changes_one_size(axis: str) -> None:
    """All else is the base point's; only the axis of workers goes through a gateway, for one worker too."""
    for quick in (False, True):
        sizes = AXES[axis][quick]
        for size, point in zip(sizes, points(axis, sizes, 1_000), strict=True):
            wanted = {**vars(BASE), "events": 1_000, "shared": axis == "workers", axis: size}
            assert vars(point) == wanted


def test_growth_is_told_for_each_cost() -> None:
    """Cost per event flat, memory proportional, start in between."""
    sizes = (1_000, 10_000, 100_000)
    costs = [
        Cost(cpu_us=9.0, events_per_s=1.0, peak_mib=size / 10, ready_s=1.0, ready_cpu_s=size**0.5) for size in sizes
    ]
    assert growth(sizes, costs) == {"cpu_us": 0.0, "peak_mib": 1.0, "ready_cpu_s": 0.5}


def test_bytes_of_an_event_are_all_tables_but_those_written_once() -> None:
    """What a territory takes does not grow with its events."""
    tables = {
        "events_sensor": {"rows": 10, "bytes": 500, "merged_bytes": 300},
        "events_lighting": {"rows": 30, "bytes": 1_100, "merged_bytes": 900},
        "window_rows": {"rows": 5, "bytes": 90, "merged_bytes": 40},
        "assets": {"rows": 1_000, "bytes": 99_999, "merged_bytes": 99_999},
    }
    assert an_event(tables) == {"row": 40.0, "row_merged": 30.0, "beside_merged": 1.0}
