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

    `wake` is set when a flush is to come before its time: there are alerts, or as many rows as a flush takes. `moved`
    is set then too, and whenever something was processed or stored.
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

    def hasten(self) -> None:
        """Have a flush come before its time."""
        self.wake.set()
        self.moved.set()

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
            await self._flushes(alerts_only)
            ended_s = monotonic_s()

    async def _flushes(self, alerts_only: bool) -> None:
        self._is_still.clear()
        try:
            if not alerts_only:
                # A flush of everything takes several times as long as one of alerts, which come first then; those that
                # come meanwhile too, once.
                for _ in range(2):
                    if self._is_short() and any(entry.transitions for _, entry in self._ledger):
                        await self._flushed(alerts_only=True)
            await self._flushed(alerts_only)
        finally:
            self._is_still.set()

    def _is_full(self) -> bool:
        """Whether so much waits that it fills a flush."""
        return self._ledger.waiting >= self._settings.flush_rows

    def _is_short(self) -> bool:
        """Whether so little waits that one flush more costs little: a quarter of what fills one."""
        return 4 * self._ledger.waiting < self._settings.flush_rows

    async def _flushed(self, alerts_only: bool) -> None:
        self.wake.clear()
        if self._custody.is_open:
            await whole(self._flush(alerts_only))

    async def gather(self) -> None:
        """Have what has arrived processed, so that it need not wait for the next flush: nobody lingers meanwhile.

        Over as soon as there are alerts, where little waits.
        """
        until_s, arrived = monotonic_s() + _GATHER_S, [(entry, entry.fetched) for _, entry in self._ledger]
        # Who lingers now goes on; who comes to it later lingers.
        self._due.set()
        self._due.clear()
        while monotonic_s() < until_s and any(entry.next_offset < end for entry, end in arrived):
            if self.wake.is_set() and self._is_short():
                break
            self.moved.clear()
            await wait(self.moved, _GATHER_S)

    async def linger(self, topic: str, spent_s: float) -> None:
        """Let a topic's small batches wait for company, where those before them took so long to process."""
        haste = self._custody.haste
        self._lingers[topic] = linger_s(self._settings.linger_s, spent_s)
        haste.lingering_s = max(self._lingers.values())
        await wait(self._due, haste.most_s(self._lingers[topic], topic))
        # On one core a flush takes twice as long beside a batch. An alert must be there when it is over.
        await wait(self._is_still, haste.most_s(_GATHER_S, topic))
