"""What measurements are condensed to: percentiles, growth, and when an offset could be read. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

#: After every instant: what was never seen to happen.
NEVER: Final = 2**62


@dataclass(frozen=True)
class Spread:
    """How values are spread: their number, percentiles and maximum, in the values' own unit.

    Percentiles are values that occurred (nearest rank): at least that share of the values is no larger. With fewer than
    100 values the 99th is the largest.
    """

    count: int
    p50: float
    p95: float
    p99: float
    max: float

    def to_dict(self) -> dict[str, Any]:
        return {name: value if name == "count" else round(value, 2) for name, value in asdict(self).items()}


def spread(values: npt.ArrayLike) -> Spread:
    """The spread of one value or more. Raises ValueError for none."""
    array: Floats = np.asarray(values, np.float64).ravel()
    if not len(array):
        raise ValueError("nothing was measured, so there are no percentiles")
    p50, p95, p99 = np.percentile(array, (50, 95, 99), method="inverted_cdf").tolist()
    return Spread(len(array), p50, p95, p99, float(array.max()))


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """The growth of a cost with size: b of cost = a * size^b, by least squares in logarithms.

    0 is flat, 1 is proportional. Raises ValueError unless there are two different sizes, and for what is not above 0.
    """
    x, y = np.asarray(sizes, np.float64), np.asarray(costs, np.float64)
    if len(x) != len(y) or len(set(sizes)) < 2:
        raise ValueError("growth needs a cost for each of two different sizes at least")
    if (x <= 0).any() or (y <= 0).any():
        raise ValueError("growth is fitted in logarithms: sizes and costs must be above 0")
    logarithms = np.log(x)
    away = logarithms - logarithms.mean()
    return float((away * np.log(y)).sum() / (away * away).sum())


def line(sizes: Sequence[float], values: Sequence[float]) -> tuple[float, float]:
    """What remains at size 0 and what each unit of size adds, by least squares.

    Raises ValueError unless there are two different sizes.
    """
    if len(sizes) != len(values) or len(set(sizes)) < 2:
        raise ValueError("a line needs a value for each of two different sizes at least")
    each, at_zero = np.polyfit(np.asarray(sizes, np.float64), np.asarray(values, np.float64), 1).tolist()
    return float(at_zero), float(each)


def last_by_partition(partitions: Ints, offsets: Ints) -> list[tuple[int, int]]:
    """Each partition that occurs, rising, and the last of its offsets."""
    there, group = np.unique(partitions, return_inverse=True)
    last = np.full(len(there), -1, np.int64)
    np.maximum.at(last, group, offsets)
    return list(zip(there.tolist(), last.tolist(), strict=True))


def first_at(offsets: Ints, instants: Sequence[int], reached: Sequence[int]) -> Ints:
    """When each offset was reached first, where at `instants[i]`, rising, everything up to `reached[i]` was there.

    NEVER for an offset that was not reached. `reached` may fall back: what was there stays there.
    """
    if not len(instants):
        return np.full(len(offsets), NEVER, np.int64)
    highest = np.maximum.accumulate(np.asarray(reached, np.int64))
    place = np.searchsorted(highest, offsets, side="left")
    at: Ints = np.append(np.asarray(instants, np.int64), NEVER)[place]
    return at
