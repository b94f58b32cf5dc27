"""A condition with two sides per series: signals turn it on, turn it off, or leave it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from processors.detect.rows import NEVER, Bools, Floats, Ints, Rows, grown


@dataclass(frozen=True)
class Signals:
    """What one rule reads in the n rows of a batch.

    `says`: the row has something to say to the rule. `sign`: +1 the condition holds, -1 it does not, 0 it stays as it
    is. `value` is what was read, `raise_at` and `clear_at` what it was held against (NaN: nothing).
    """

    says: Bools
    sign: npt.NDArray[np.int8]
    value: Floats
    raise_at: Floats
    clear_at: Floats


@dataclass(frozen=True)
class Change:
    """A condition of one series begins or ends at a row of the batch."""

    series: int
    row: int
    raised: bool


class Switch:
    """State of one rule: per series, whether the condition holds and the event time last applied.

    Late data never opens or clears: a row older than the last one applied to its series changes nothing. Of rows of one
    event time the last one counts.
    """

    def __init__(self) -> None:
        self.last_at: Ints = np.zeros(0, np.int64)
        self.raised: Bools = np.zeros(0, np.bool_)

    def reserve(self, size: int) -> None:
        """Make room for `size` series."""
        self.last_at = grown(self.last_at, size, NEVER)
        self.raised = grown(self.raised, size, False)

    def adopt(self, series: int, raised: bool, told_at: int) -> None:
        """Set the state of a series whose own is lost. `told_at`: its last change, milliseconds since 1970."""
        # Rows of one instant go on together, so those of the change's own instant had all been applied.
        self.raised[series], self.last_at[series] = raised, told_at + 1

    def apply(self, rows: Rows, signals: Signals) -> list[Change]:
        """Changes of condition, in row order. Rows that are not `good` are passed over."""
        fresh = signals.says & rows.good & (rows.at >= self.last_at[rows.series])
        changing = fresh & (signals.sign != 0) & ((signals.sign > 0) != self.raised[rows.series])
        changes = list(self._walk(rows, signals, fresh, changing)) if changing.any() else []
        np.maximum.at(self.last_at, rows.series[fresh], rows.at[fresh])
        return changes

    def _walk(self, rows: Rows, signals: Signals, fresh: Bools, changing: Bools) -> Iterator[Change]:
        # A series none of whose fresh rows contradicts its state cannot change: only the others are walked.
        moved = np.zeros(len(self.raised), np.bool_)
        moved[rows.series[changing]] = True
        applied: dict[int, int] = {}
        for row in np.flatnonzero(fresh & moved[rows.series]).tolist():
            series, at, sign = int(rows.series[row]), int(rows.at[row]), int(signals.sign[row])
            if at < applied.get(series, NEVER):
                continue
            applied[series] = at
            if sign != 0 and (sign > 0) != self.raised[series]:
                self.raised[series] = sign > 0
                yield Change(series, row, sign > 0)
