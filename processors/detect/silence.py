"""Silence: an asset has said nothing for too long, by the watermark of its partition.

An asset is silent over a gap of more than its limit after the last record heard, as soon as the watermark or its own
next record shows the gap; after `dead_ms` it is dead, which is told once more. What it says ends the silence, unless
the watermark shows that even that was too long ago (a backlog being uploaded). A reading flagged SUSPECT or FAIL is
heard, so it keeps silence from beginning, but it ends none. An asset is known once it has spoken in the partition.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from processors.detect.rows import NEVER, NO_END, Bools, Ints, Rows, grown

Step = Literal["silent", "dead", "heard"]


@dataclass(frozen=True)
class Spoken:
    """A step in the silence of one series, at an event time in milliseconds.

    `unheard_ms` is how long nothing had been heard; `row` is the row that ended the silence.
    """

    series: int
    step: Step
    at: int
    unheard_ms: int
    row: int | None = None


class Silence:
    """State of the rule `silent`: per series, the last record heard and how far its silence has come."""

    def __init__(self) -> None:
        self.heard_at: Ints = np.zeros(0, np.int64)
        self.silent_from: Ints = np.zeros(0, np.int64)
        self.silent: Bools = np.zeros(0, np.bool_)
        self.dead: Bools = np.zeros(0, np.bool_)
        self.limit_ms: Ints = np.zeros(0, np.int64)
        self.dead_ms: Ints = np.zeros(0, np.int64)
        # Deadlines only move back while assets speak, so an old minimum stays a lower bound (an end of silence lowers
        # it): the whole table is looked at when the watermark reaches it, not at every batch.
        self._earliest = NEVER

    def reserve(self, size: int) -> None:
        """Make room for `size` series."""
        self.heard_at = grown(self.heard_at, size, NEVER)
        self.silent_from = grown(self.silent_from, size, NEVER)
        self.silent = grown(self.silent, size, False)
        self.dead = grown(self.dead, size, False)
        self.limit_ms = grown(self.limit_ms, size, NO_END)
        self.dead_ms = grown(self.dead_ms, size, NO_END)

    def expect(self, series: Ints, limit_ms: Ints, dead_ms: Ints) -> None:
        """Set how long these series may be silent; NO_END leaves one out. Death never comes before silence."""
        self.limit_ms[series] = limit_ms
        self.dead_ms[series] = np.maximum(dead_ms, limit_ms)
        self._earliest = NEVER

    def adopt(self, series: int, silent: bool, heard_at: int, silent_from: int, told_at: int) -> None:
        """Set the state of a series whose own is lost, from the newest step told. Milliseconds since 1970."""
        self.heard_at[series], self.silent_from[series] = heard_at, silent_from
        self.silent[series], self.dead[series] = silent, silent and told_at > silent_from
        self._earliest = NEVER

    def apply(self, rows: Rows, watermark: int) -> list[Spoken]:
        """Steps shown by a batch and by the watermark after it, in milliseconds."""
        steps = list(self._walk(rows)) if len(rows.at) else []
        steps += self._passed(watermark)
        return steps

    def _walk(self, rows: Rows) -> Iterator[Spoken]:
        series, heard = rows.series, self.heard_at[rows.series]
        limited = self.limit_ms[series] < NO_END
        deadline = heard + self.limit_ms[series]
        gap = (rows.at > deadline) | (rows.watermark > deadline)
        known = heard != NEVER
        interesting = np.zeros(len(self.silent), np.bool_)
        interesting[series[limited & (self.silent[series] | (known & gap))]] = True
        # The gaps of a series that is new in this batch lie between its rows, if it has several.
        newcomers = series[limited & ~known]
        if len(newcomers):
            interesting |= np.bincount(newcomers, minlength=len(self.silent)) > 1
        walked = interesting[series]
        if walked.any():
            interesting[:] = False
            interesting[self._with_gaps(rows, np.flatnonzero(walked))] = True
            walked = interesting[series]
        for row in np.flatnonzero(walked).tolist():
            yield from self._hear(rows, row)
        rest = np.flatnonzero(~walked & (rows.at >= heard))
        np.maximum.at(self.heard_at, series[rest], rows.at[rest])

    def _with_gaps(self, rows: Rows, chosen: Ints) -> Ints:
        """Series of the chosen rows, which are all that their series have, that are silent or have a gap before one of
        their rows: what was heard last before a row may be a row of the same batch."""
        order = chosen[np.argsort(rows.series[chosen], kind="stable")]
        series, at = rows.series[order], rows.at[order]
        is_first = np.append(True, series[1:] != series[:-1])
        # The latest of the rows before it: of one running maximum, in which each series begins above the one before.
        step = int(at.max() - at.min()) + 1
        above = np.cumsum(is_first) * step - int(at.min())
        latest = np.maximum.accumulate(at + above) - above
        before = np.where(is_first, NEVER, np.roll(latest, 1))
        heard = np.maximum(self.heard_at[series], before)
        gap = np.maximum(at, rows.watermark[order]) > heard + self.limit_ms[series]
        found: Ints = series[self.silent[series] | ((heard != NEVER) & (at >= heard) & gap)]
        return found

    def _hear(self, rows: Rows, row: int) -> Iterator[Spoken]:
        series, at, watermark = int(rows.series[row]), int(rows.at[row]), int(rows.watermark[row])
        heard, limit = int(self.heard_at[series]), int(self.limit_ms[series])
        if at < heard:
            return
        if heard != NEVER:
            yield from self._fall_silent(series, max(at, watermark))
        # The watermark is beyond the beginning of every silence, but of an adopted one whose rows are read again.
        recent = max(watermark, int(self.silent_from[series]) + 1) <= at + limit
        if self.silent[series] and rows.good[row] and recent:
            since = max(at, int(self.silent_from[series]))
            self.silent[series] = self.dead[series] = False
            self._earliest = min(self._earliest, at + limit)
            yield Spoken(series, "heard", since, at - heard, row)
        self.heard_at[series] = at

    def _fall_silent(self, series: int, seen: int) -> Iterator[Spoken]:
        """The steps due for a series when event time has been seen to pass `seen`."""
        heard = int(self.heard_at[series])
        limit, dead = int(self.limit_ms[series]), int(self.dead_ms[series])
        if not self.silent[series] and seen > heard + limit:
            self.silent[series], self.silent_from[series] = True, heard + limit
            yield Spoken(series, "silent", heard + limit, limit)
        if self.silent[series] and not self.dead[series] and seen > heard + dead:
            self.dead[series] = True
            yield Spoken(series, "dead", heard + dead, dead)

    def _passed(self, watermark: int) -> Iterator[Spoken]:
        if watermark <= self._earliest:
            return
        for series in np.flatnonzero(self._deadlines() < watermark).tolist():
            yield from self._fall_silent(series, watermark)
        self._earliest = int(self._deadlines().min(initial=NO_END))

    def _deadlines(self) -> Ints:
        wait = np.where(self.silent, self.dead_ms, self.limit_ms)
        due = (self.heard_at != NEVER) & (wait < NO_END) & ~self.dead
        return np.where(due, self.heard_at + wait, NO_END)
