"""How many records in a row, or of the last many, were refused: a flood of rejects is a fault, and no data.

A bad deploy of a publisher must not drain a whole topic into the dead letters. Each record counts once, in offset
order, so where a limit is first exceeded does not depend on the cut of the batches.
"""

from __future__ import annotations

import json
from collections import Counter, deque
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from schemas.rejects import Reason

_VERSION: Final = 1


@dataclass(frozen=True)
class RefusalLimits:
    """How much may be refused: at most `max_ratio` of the last `window` records, at most `max_consecutive` in a row.

    The ratio is judged only once `window` records have been read. Duplicates are not refusals: they are the price of
    delivery at least once.
    """

    max_ratio: float = 0.5
    max_consecutive: int = 1_000
    window: int = 10_000


@dataclass(frozen=True)
class Breach:
    """A limit that was exceeded: `refused` of `records` records, the last of them at `last_offset`.

    `first_offset` is the first refused one of them, `reason` the most frequent reason.
    """

    kind: Literal["ratio", "consecutive"]
    refused: int
    records: int
    first_offset: int
    last_offset: int
    reason: str


class Refusals:
    """What was refused of one partition lately. Memory: one small entry per refused record of the window."""

    def __init__(self) -> None:
        # Records read so far, and how many of the last ones the window has heard of.
        self._read = 0
        self._covered = 0
        # (number of the record, offset, reason) of the refused ones: of the window, and of the row without an end.
        self._window: deque[tuple[int, int, str]] = deque()
        self._row_length = 0
        self._row_first = -1
        self._row_reasons: Counter[str] = Counter()

    def step(self, offsets: npt.NDArray[np.int64], refused: pl.DataFrame, limits: RefusalLimits) -> Breach | None:
        """Count the records of a batch. `refused`: its rejects (REJECT_SCHEMA, `row` an index of `offsets`).

        Returns the first breach of a limit in the batch, if there is one. While it goes on, every batch has one.
        """
        reasons = {
            row: reason
            for row, reason in zip(refused["row"].to_list(), refused["reason"].to_list(), strict=True)
            if reason != Reason.DUPLICATE.value
        }
        # The record that makes the window full decides too, be it refused or not.
        last = limits.window - self._covered - 1
        full = {last} if 0 <= last < len(offsets) else set()
        breach: Breach | None = None
        previous = -1
        for row in sorted(reasons.keys() | full):
            offset = int(offsets[row])
            if row in reasons:
                if row != previous + 1:
                    self._end_row()
                previous = row
                self._count(self._read + row, offset, reasons[row])
                breach = breach or self._consecutive(offset, limits)
            breach = breach or self._ratio(row, offset, limits)
        if previous != len(offsets) - 1:
            self._end_row()
        self._read += len(offsets)
        self._covered = min(self._covered + len(offsets), limits.window)
        self._forget(self._read - limits.window)
        return breach

    def _count(self, number: int, offset: int, reason: str) -> None:
        self._window.append((number, offset, reason))
        self._row_first = self._row_first if self._row_length else offset
        self._row_length += 1
        self._row_reasons[reason] += 1

    def _end_row(self) -> None:
        self._row_length, self._row_first = 0, -1
        self._row_reasons.clear()

    def _forget(self, before: int) -> None:
        while self._window and self._window[0][0] < before:
            self._window.popleft()

    def _consecutive(self, offset: int, limits: RefusalLimits) -> Breach | None:
        length = self._row_length
        if length <= limits.max_consecutive:
            return None
        return Breach("consecutive", length, length, self._row_first, offset, _most(self._row_reasons))

    def _ratio(self, row: int, offset: int, limits: RefusalLimits) -> Breach | None:
        """Judge the window that ends with a row of the batch."""
        self._forget(self._read + row + 1 - limits.window)
        count = len(self._window)
        if self._covered + row + 1 < limits.window or count <= limits.max_ratio * limits.window:
            return None
        reasons = Counter(reason for _, _, reason in self._window)
        return Breach("ratio", count, limits.window, self._window[0][1], offset, _most(reasons))

    def snapshot(self) -> bytes:
        """The state, for `restore`, as JSON."""
        return json.dumps(
            {
                "version": _VERSION,
                "read": self._read,
                "covered": self._covered,
                "window": list(self._window),
                "row": [self._row_length, self._row_first, self._row_reasons],
            },
            separators=(",", ":"),
        ).encode()

    def restore(self, snapshot: bytes) -> None:
        """Take the state of a snapshot in place of one's own. Raises ValueError for bytes that are none."""
        try:
            held: Any = json.loads(snapshot)
            if held["version"] != _VERSION:
                raise ValueError(f"version {held['version']}, this code reads {_VERSION}")
            window = deque((int(number), int(offset), str(reason)) for number, offset, reason in held["window"])
            (length, first, reasons), read, covered = held["row"], int(held["read"]), int(held["covered"])
            self._row_length, self._row_first, self._row_reasons = int(length), int(first), Counter(reasons)
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"not a snapshot of refusals ({error}): rebuild the partition's state") from error
        self._read, self._covered, self._window = read, covered, window


def _most(reasons: Counter[str]) -> str:
    """The most frequent reason; of equals the first by name."""
    return min(reasons, key=lambda reason: (-reasons[reason], reason))
