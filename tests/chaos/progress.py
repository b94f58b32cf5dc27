"""How far the installation has come, seen from outside twice a second, and for how long it did not move."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Final, Protocol

from tests.chaos.database import Database, DatabaseError
from tests.chaos.generator import Place

EVERY_S: Final = 0.5
#: A server that takes longer is not there for now.
_ANSWER_S: Final = 2.0
#: By partition, the offset before which everything is durable.
_REACHED: Final = (
    "SELECT toString(topic) AS topic, partition, max(next_offset) AS reached FROM snapshots "
    "WHERE topic != '' GROUP BY topic, partition"
)


class Ends(Protocol):
    """The next offset of each partition, as far as it is known to be confirmed."""

    def __call__(self) -> Mapping[Place, int]: ...


@dataclass
class _Wait:
    """Since when something has waited without moving (None: nothing waits), and the longest such time, in seconds."""

    since_s: float | None = None
    longest_s: float = 0.0

    def see(self, last_s: float, now_s: float, *, waits: bool, moved: bool) -> None:
        # What waits now and did not at the last look began to between the two.
        since_s = last_s if self.since_s is None else self.since_s
        if waits or self.since_s is not None:
            self.longest_s = max(self.longest_s, now_s - since_s)
        self.since_s = None if not waits else now_s if moved else since_s


class Stalls:
    """The longest times without progress while records waited. Pure: it is told the time, in seconds that ascend.

    A question that nobody answered is no progress: what there was is seen a moment later.
    """

    def __init__(self) -> None:
        self.lag = 0
        """Records that waited at the last look."""
        self.lags: list[int] = []
        """The same at every look from the first on."""
        self.answers = 0
        """Looks that were answered."""
        self._reached: dict[Place, int] = {}
        self._places: defaultdict[Place, _Wait] = defaultdict(_Wait)
        self._all = _Wait()
        self._last_s: float | None = None

    @property
    def longest_s(self) -> float:
        """Of the installation: no partition moved."""
        return self._all.longest_s

    @property
    def longest_partition_s(self) -> float:
        """Of any one partition."""
        return max((wait.longest_s for wait in self._places.values()), default=0.0)

    def see(self, now_s: float, ends: Mapping[Place, int], reached: Mapping[Place, int] | None) -> None:
        """Take in one look: the next offset of each partition, and how far it is done (None: nobody answered)."""
        last_s = now_s if self._last_s is None else self._last_s
        any_moved = False
        self.lag = 0
        self.answers += reached is not None
        for place, end in ends.items():
            before = self._reached.get(place, 0)
            after = self._reached[place] = max(before, (reached or {}).get(place, 0))
            self._places[place].see(last_s, now_s, waits=after < end, moved=after > before)
            any_moved = any_moved or after > before
            self.lag += max(0, end - after)
        self._all.see(last_s, now_s, waits=self.lag > 0, moved=any_moved)
        self.lags.append(self.lag)
        self._last_s = now_s


@contextmanager
def watched(url: str, ends: Ends) -> Iterator[Stalls]:
    """Look twice a second, as long as the block lasts, at the database at that URL."""
    stalls = Stalls()
    over = threading.Event()

    def watch(database: Database) -> None:
        while not over.wait(EVERY_S):
            # The ends first: what is published meanwhile must not look like lag.
            known = ends()
            try:
                reached = {(topic, number): end for topic, number, end in database.rows(_REACHED)}
            except DatabaseError:
                reached = None
            stalls.see(time.monotonic(), known, reached)

    with closing(Database(url, _ANSWER_S)) as database:
        thread = threading.Thread(target=watch, args=(database,), name="watcher")
        thread.start()
        try:
            yield stalls
        finally:
            over.set()
            thread.join()
