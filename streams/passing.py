"""Time that passes without records: silence is something to be heard too.

Event time is lifted only where a broker has just said that a partition is read to its end, and only up to when it said
so: while Kafka is away nothing comes, and nobody is silent for it.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import Executor
from typing import Final

from faust.types import TP

from processors.pipeline import Reference, advance
from sinks.store import Pass
from streams.clock import Clock, monotonic_s
from streams.custody import Custody
from streams.ledger import Entry, Ledger, Place
from streams.rhythm import Rhythm
from streams.settings import Settings
from streams.waiting import whole

_LOOK_S: Final = 0.5


class Passing:
    """Lets time pass in the partitions of a ledger, and keeps where it did so that it passes there again."""

    def __init__(
        self,
        settings: Settings,
        clock: Clock,
        reference: Reference,
        ledger: Ledger,
        custody: Custody,
        stages: Executor,
        rhythm: Rhythm,
    ) -> None:
        self._grace_ms = round(settings.idle_grace_s * 1_000)
        self._save_s = settings.zone_watch_interval_s
        self._clock = clock
        self._reference = reference
        self._ledger = ledger
        self._custody = custody
        self._stages = stages
        self._rhythm = rhythm

    async def run(self) -> None:
        """Look at every partition twice a second, for ever."""
        while True:
            await asyncio.sleep(_LOOK_S)
            for place, entry in self._ledger:
                end = self._custody.app.consumer.told_end(TP(place.topic, place.partition))
                if end is None or (monotonic_s() - entry.received_s) * 1_000 < self._grace_ms:
                    continue
                end_offset, told_ms = end
                if end_offset <= entry.next_offset:
                    until_ms = min(self._clock.now_ms(), told_ms) - self._grace_ms
                    await whole(self._let_pass(place, entry, self._clock.event_ms(until_ms)))

    async def _let_pass(self, place: Place, entry: Entry, now_ms: int) -> None:
        async with entry.lock:
            if not self._custody.is_open or self._ledger.get(place) is not entry:
                return
            await self.catch_up(entry)
            await self._pass(entry, now_ms - self._reference.limits.disorder_ms)
            if monotonic_s() - entry.snapshot_s >= self._save_s:
                entry.idle_progress = True
        if entry.transitions:
            self._rhythm.hasten()

    async def catch_up(self, entry: Entry) -> None:
        """Let pass again what passed here before. Call under the entry's lock."""
        while entry.due and entry.due[0].offset < entry.next_offset:
            await self._pass(entry, entry.due.pop(0).passed_ms)

    def keep(self, entry: Entry) -> None:
        """Note how far time has passed, before records come behind it: it decides on their order and on alerts."""
        passed_ms = entry.state.passed_ms
        if passed_ms > max(entry.kept_ms, entry.state.watermark_ms):
            self._keep(entry, passed_ms)

    def _keep(self, entry: Entry, passed_ms: int) -> None:
        entry.kept_ms, entry.idle_progress = passed_ms, True
        entry.passes.append(Pass(entry.next_offset - 1, passed_ms))

    async def _pass(self, entry: Entry, passed_ms: int) -> None:
        now_ms = passed_ms + self._reference.limits.disorder_ms
        made = await asyncio.get_running_loop().run_in_executor(
            self._stages, advance, entry.state, now_ms, self._reference
        )
        if made:
            self._keep(entry, entry.state.passed_ms)
            entry.transitions += [(entry.next_offset - 1, transition) for transition in made]
