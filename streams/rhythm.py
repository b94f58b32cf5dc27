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

    async def run(self) -> None:
        """Flush, for ever."""
        ended_s = monotonic_s()
        due_s = ended_s + self._settings.flush_interval_s
        while True:
            is_woken = await wait(self.wake, max(due_s - monotonic_s(), _PAUSE_S))
            # Alerts do not wait for the others' turn, and do not put it off.
            alerts_only = (now_s := monotonic_s()) < due_s and not self._is_full()
            if not alerts_only:
                # From one beginning to the next: how long a flush takes is no reason to begin the next one later.
                due_s = now_s + self._settings.flush_interval_s
            if is_woken:
                await asyncio.sleep(max(_URGENT_S, ended_s + _STORM_S - now_s))
            else:
                await self.gather()
            if not alerts_only and not self._is_full() and any(entry.transitions for _, entry in self._ledger):
                # Their turn comes first then: a flush of everything takes several times as long as theirs.
                await self._flushed(alerts_only=True)
            await self._flushed(alerts_only)
            ended_s = monotonic_s()

    def _is_full(self) -> bool:
        """Whether so much waits that it fills a flush."""
        return self._ledger.waiting >= self._settings.flush_rows

    async def _flushed(self, alerts_only: bool) -> None:
        self.wake.clear()
        if self._custody.is_open:
            self._is_still.clear()
            try:
                await whole(self._flush(alerts_only))
            finally:
                self._is_still.set()

    async def gather(self) -> None:
        """Have what has arrived processed, so that it need not wait for the next flush: nobody lingers meanwhile.

        Over as soon as there are alerts.
        """
        until_s, arrived = monotonic_s() + _GATHER_S, [(entry, entry.fetched) for _, entry in self._ledger]
        # Who lingers now goes on; who comes to it later lingers.
        self._due.set()
        self._due.clear()
        while monotonic_s() < until_s and any(entry.next_offset < end for entry, end in arrived):
            self.moved.clear()
            await wait(self.moved, _GATHER_S)
            if self.wake.is_set():
                break

    async def linger(self, topic: str, spent_s: float) -> None:
        """Let a topic's small batches wait for company, where those before them took so long to process."""
        haste = self._custody.haste
        self._lingers[topic] = linger_s(self._settings.linger_s, spent_s)
        haste.lingering_s = max(self._lingers.values())
        await wait(self._due, min(self._lingers[topic], haste.most_s(topic)))
        if haste.most_s(topic) >= self._lingers[topic]:
            # On one core a flush takes twice as long beside a batch; and what comes of it waits for the next one.
            await wait(self._is_still, _GATHER_S)
