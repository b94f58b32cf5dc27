"""Which event of a file has come before, and where, in eight bytes an event and eight for its line."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]
Lines = npt.NDArray[np.int64]

#: Events remembered, in 64 MiB; of a longer file the oldest quarter is forgotten again and again.
_MOST: Final = 4_194_304


class Identities:
    """Hashes of events and the lines they are on, in sorted runs that are merged when they are as long as the next.

    Two different events share a hash once in about two million files of four million events.
    """

    def __init__(self, most: int = _MOST) -> None:
        self._most = most
        self._runs: list[tuple[Hashes, Lines]] = []
        self.forgot = False

    @property
    def size(self) -> int:
        """How many are remembered."""
        return sum(len(known) for known, _ in self._runs)

    def first_lines(self, hashes: Hashes, lines: Lines) -> Lines:
        """The line on which each event was met before, 0 for none. Those that are new are remembered."""
        unique, first, inverse = np.unique(hashes, return_index=True, return_inverse=True)
        met = np.zeros(len(unique), np.int64)
        for known, places in self._runs:
            index = np.minimum(np.searchsorted(known, unique), len(known) - 1)
            met = np.where(known[index] == unique, places[index], met)
        new = met == 0
        found: Lines = np.where(new, lines[first], met)[inverse]
        found[first[new]] = 0
        if new.any():
            self._add(unique[new], lines[first[new]])
        return found

    def _add(self, hashes: Hashes, lines: Lines) -> None:
        runs = self._runs
        runs.append((hashes, lines))
        while len(runs) > 1 and len(runs[-1][0]) >= len(runs[-2][0]) < self._most // 4:
            last, before = runs.pop(), runs.pop()
            both = np.concatenate((before[0], last[0]))
            order = np.argsort(both, kind="stable")
            runs.append((both[order], np.concatenate((before[1], last[1]))[order]))
        while self.size > self._most and len(runs) > 1:
            del runs[0]
            self.forgot = True
