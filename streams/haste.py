"""How long fetches rest and small batches gather, and when nobody waits for company: an alert is about to be raised, or
has been sent and is to be told.

A row is judged when time has passed it by the allowed disorder, so it is known beforehand when that will be.
"""

from __future__ import annotations

import asyncio
from typing import Final

from streams.clock import monotonic_s
from streams.ledger import Entry, Ledger
from streams.waiting import wait

#: After a fetch where there is more.
_MORE_S: Final = 0.025
#: What is looked for then needs a moment to be there.
_AFTER_S: Final = 0.02
#: Between two looks in haste. After so long without success there is none any more: time may stand still because one
#: device is ahead of it, and what was sent may be another worker's to tell.
_BETWEEN_S: Final = 0.01
_OVER_S: Final = 0.5
_BACK_S: Final = 0.2
#: A broker whose clock is not ours is believed so far.
_OLDEST_S: Final = 1.0


class Haste:
    """What is expected of the partitions of a ledger, and when.

    `lingering_s`: how long small batches wait for company at present.
    """

    def __init__(self, ledger: Ledger, linger_s: float) -> None:
        self._ledger = ledger
        self.lingering_s = linger_s
        self._sent = asyncio.Event()
        self._sent_until_s = 0.0

    def look(self, entry: Entry, newest_ms: int, now_ms: int) -> None:
        """Note what is expected of a partition, the newest record of which its broker has had since `newest_ms`.

        Both in milliseconds since 1970.
        """
        first_ms = min(entry.state.coming, default=None)
        if first_ms is not None:
            age_s = min(max((now_ms - newest_ms) / 1_000, 0.0), _OLDEST_S)
            # A row goes on when time is past its instant.
            coming_s = monotonic_s() - age_s + (first_ms + 1 - entry.state.clock_ms) / 1_000
            # Of one instant the first guess stands.
            entry.coming_s = min(entry.coming_s, coming_s) if first_ms == entry.coming_ms else coming_s
        entry.coming_ms = first_ms

    def near_s(self, topic: str | None = None) -> float | None:
        """In how long an alert is expected of a topic, or of any; None where none is."""
        now_s = monotonic_s()
        expected = [
            entry.coming_s - now_s
            for place, entry in self._ledger
            if entry.coming_ms is not None and topic in (None, place.topic)
        ]
        near = [seconds for seconds in expected if seconds > -_OVER_S]
        return max(min(near) + _AFTER_S, _BETWEEN_S) if near else None

    def most_s(self, wanted_s: float, topic: str | None = None) -> float:
        """How long who would wait for so long may wait at most."""
        near_s = self.near_s(topic)
        return wanted_s if near_s is None else min(wanted_s, near_s)

    @property
    def pause_s(self) -> float:
        """Between two fetches. A quarter of the linger: while a batch gathers, a few fetches are enough."""
        if monotonic_s() < self._sent_until_s:
            return _BETWEEN_S
        return self.most_s(self.lingering_s / 4)

    async def rest(self, has_more: bool) -> None:
        """Pause after a fetch; shortly where there is more to fetch, and no longer when alerts have been sent."""
        self._sent.clear()
        await wait(self._sent, min(self.pause_s, _MORE_S) if has_more else self.pause_s)

    def sent(self) -> None:
        """Alerts are being sent that may be ours to tell."""
        self._sent_until_s = monotonic_s() + _BACK_S
        self._sent.set()

    def confirmed(self) -> None:
        """They are in their topic, and if they have not come back meanwhile they will."""
        if self._sent_until_s:
            self._sent_until_s = monotonic_s() + _BACK_S

    def told(self) -> None:
        """They have come back."""
        self._sent_until_s = 0.0
