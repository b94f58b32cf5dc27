"""The worker's rhythm: how long small batches gather, when a flush comes, and what does not wait for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final

from streams.clock import monotonic_s
from streams.custody import Custody
from streams.ledger import Ledger
from streams.settings import Settings
from streams.waiting import linger_s, wait, whole

#: Alerts do not wait for the flush interval, but a storm of them is still written in blocks: so long after the alert,
#: and so long after the flush before.
_URGENT_S: Final = 0.02
_STORM_S: Final = 0.05
#: How long a flush waits at most for records that have arrived to be processed.
_GATHER_S: Final = 0.25
#: A flush of everything takes so long on a core that has more to do. It lets alerts go first that have been raised, or
#: are expected while it would be under way, for half an interval and so long at most.
_FLUSH_S: Final = 0.3
_FIRST_S: Final = 0.5
#: What raises an alert is fetched and processed so long after it is expected.
_LATE_S: Final = 0.1
#: Between two flushes, where each takes longer than the interval: the event loop belongs to others too.
_PAUSE_S: Final = 0.1


class Rhythm:
    """Keeps time for one worker. `flush(alerts_only)` stores what has been processed.

    `wake` asks for a flush before its time: there are alerts, or as many rows as a flush takes. `moved` is set whenever
    something was processed or stored.
    """

    def __init__(
        self, settings: Settings, ledger: Ledger, custody: Custody, flush: Callable[[bool], Coroutine[Any, Any, None]]
    ) -> None:
        self._settings = settings
        self._ledger = ledger
        self._custody = custody
        self._flush = flush
        self._due = asyncio.Event()
        self._is_still = asyncio.Event()
        self._is_still.set()
        self._lingers: dict[str, float] = {}
        self.wake = asyncio.Event()
        self.moved = asyncio.Event()

    @property
    def _first_s(self) -> float:
        """How much later everything is flushed where alerts go first."""
        return min(_FIRST_S, self._settings.flush_interval_s / 2)

    async def run(self) -> None:
        """Flush, for ever."""
        ended_s = monotonic_s()
        due_s = ended_s + self._settings.flush_interval_s
        while True:
            is_woken = await self._is_woken(due_s)
            woke_s = monotonic_s()
            if is_woken:
                await asyncio.sleep(max(_URGENT_S, ended_s + _STORM_S - woke_s))
            else:
                await self.gather()
            # Alerts do not wait for the others' turn, nor go with it, and do not put it off for long.
            has_alerts, is_full = self._ledger.has_alerts, self._ledger.waiting >= self._settings.flush_rows
            is_due = is_full or woke_s >= due_s + (self._first_s if has_alerts else 0.0)
            if is_due:
                # From one beginning to the next: how long a flush takes is no reason to begin the next one later.
                due_s = woke_s + self._settings.flush_interval_s
            self.wake.clear()
            if self._custody.is_open:
                self._is_still.clear()
                try:
                    if not is_due or (has_alerts and not is_full):
                        await whole(self._flush(True))
                    # Partitions may have been taken from us meanwhile.
                    if is_due and self._custody.is_open:
                        await whole(self._flush(False))
                finally:
                    self._is_still.set()
                ended_s = monotonic_s()

    async def _is_woken(self, due_s: float) -> bool:
        """Wait until a flush is due, or a little longer for an alert that is expected. Whether one was asked for."""
        if await wait(self.wake, max(due_s - monotonic_s(), _PAUSE_S)):
            return True
        soon_s, left_s = self._custody.haste.next_s(), due_s + self._first_s - monotonic_s()
        if soon_s is None or soon_s > min(left_s, _FLUSH_S):
            return False
        return await wait(self.wake, min(soon_s + _LATE_S, left_s))

    async def gather(self) -> None:
        """Have what has arrived processed, so that it need not wait for the next flush: nobody lingers meanwhile."""
        until_s, arrived = monotonic_s() + _GATHER_S, [(entry, entry.fetched) for _, entry in self._ledger]
        # Who lingers now goes on; who comes to it later lingers.
        self._due.set()
        self._due.clear()
        while monotonic_s() < until_s and any(entry.next_offset < end for entry, end in arrived):
            self.moved.clear()
            await wait(self.moved, _GATHER_S)

    async def linger(self, topic: str, spent_s: float) -> None:
        """Let a topic's small batches wait for company, where those before them took so long to process."""
        haste = self._custody.haste
        self._lingers[topic] = linger_s(self._settings.linger_s, spent_s)
        haste.lingering_s = max(self._lingers.values())
        await wait(self._due, min(self._lingers[topic], haste.most_s(topic)))
        # On one core a flush takes twice as long beside a batch, and what comes of the batch waits for it anyway.
        await wait(self._is_still, _GATHER_S)
