"""Percentiles, growth and first instants are what the figures of every bench are made of."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.figures import NEVER, exponent, first_at, last_by_partition, line, spread


def test_percentiles_are_values_that_occurred() -> None:
    """A p99 between two values would be one that nobody waited."""
    found = spread(range(1, 1_001))
    assert (found.count, found.p50, found.p95, found.p99, found.max) == (1_000, 500, 950, 990, 1_000)


def test_at_least_that_share_is_no_larger() -> None:
    """With few values the 99th percentile is the largest, not one just below it."""
    assert spread([5.0, 1.0, 3.0]).p99 == 5.0
    assert spread([7.0]).p50 == 7.0


def test_nothing_measured_has_no_percentiles() -> None:
    """A bench that measured nothing must not print zeros."""
    with pytest.raises(ValueError, match="nothing was measured"):
        spread([])


@pytest.mark.parametrize(("power", "factor"), [(0.0, 9.0), (0.5, 2.0), (1.0, 0.3), (2.0, 1.0)])
def test_growth_is_the_power(power: float, factor: float) -> None:
    """Whatever the factor, a cost that grows as a power of the size has that exponent."""
    sizes = [1_000, 10_000, 100_000, 1_000_000]
    assert exponent(sizes, [factor * size**power for size in sizes]) == pytest.approx(power)


def test_growth_is_fitted_to_all_points() -> None:
    """Least squares: the middle point pulls the line up and leaves its slope alone."""
    assert exponent([1, 10, 100], [1, 100, 100]) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("sizes", "costs"), [([10], [1.0]), ([10, 10], [1.0, 2.0]), ([1, 2], [1.0]), ([1, 2], [0.0, 1.0])]
)
def test_growth_needs_two_sizes_and_costs_above_nothing(sizes: list[float], costs: list[float]) -> None:
    """One point has no slope, and nothing has no logarithm."""
    with pytest.raises(ValueError, match="growth"):
        exponent(sizes, costs)


def test_a_line_has_what_remains_and_what_each_adds() -> None:
    """Memory: so much without an asset, so much for each."""
    at_zero, each = line([1_000, 10_000, 100_000], [502.0, 520.0, 700.0])
    assert at_zero == pytest.approx(500.0)
    assert each == pytest.approx(0.002)
    with pytest.raises(ValueError, match="two different sizes"):
        line([5, 5], [1.0, 2.0])


def test_the_last_offset_of_each_partition() -> None:
    """Rows of an insert stand in any order, and a partition of which there is nothing has no last one."""
    assert last_by_partition(np.array([3, 0, 3, 0]), np.array([7, 40, 9, 12])) == [(0, 40), (3, 9)]


def test_an_offset_is_there_with_the_first_that_is_not_before_it() -> None:
    """An insert up to offset 9 makes 0 to 9 readable, at its own instant."""
    at = first_at(np.array([0, 9, 10, 25, 26]), [100, 200, 300], [9, 20, 25])
    assert at.tolist() == [100, 100, 200, 300, NEVER]


def test_what_was_there_stays_there() -> None:
    """A merge shows an older part again; that takes nothing back."""
    assert first_at(np.array([5, 12, 18]), [100, 200, 300], [15, 8, 20]).tolist() == [100, 100, 300]


def test_nothing_reached_is_never() -> None:
    """A partition of which nothing was seen has no instant."""
    assert first_at(np.array([0, 1]), [], []).tolist() == [NEVER, NEVER]
