"""When and what is flushed: consistent cuts of the partitions, handed to the order of effects."""

from __future__ import annotations

import asyncio
from concurrent.futures import Executor
from typing import Final

import numpy as np

from processors.pipeline import ChunkRows, PartitionState, take_window_rows
from processors.snapshot import freeze
from streams.clock import Clock, monotonic_s
from streams.flush import Effects, commit, settle
from streams.ledger import Cut, Entry, Ledger, Place
from streams.log import logger
from streams.settings import Settings
from streams.tally import Tally
from streams.tuning import give_back

#: Rows of a flush after which memory is worth giving back.
_MANY: Final = 50_000


class Flusher:
    """Makes durable what the ledger holds, one flush at a time."""

    def __init__(
        self, settings: Settings, ledger: Ledger, effects: Effects, stages: Executor, tally: Tally, clock: Clock
    ) -> None:
        self._settings = settings
        self._ledger = ledger
        self._effects = effects
        self._stages = stages
        self._tally = tally
        self._clock = clock
        self._flushing = asyncio.Lock()
        self._log = logger("flush")
        self.in_flight = 0
        """Records that are cut, and whose rows are being stored."""

    async def flush(self, *, save: bool = False, alerts_only: bool = False) -> set[Place]:
        """Store everything processed so far, and take the snapshots that are due, or all of them with `save`.

        With `alerts_only` partitions that have no alert to tell are left for another time.
        Returns places that must be taken up again from their snapshots, as `settle` says. Entries whose flush did not
        come to its end are released from the ledger, because what was cut is lost to them; an entry that has taken the
        place of such a one meanwhile is another owner's, and stays.
        """
        async with self._flushing:
            again, records = await self._flush(save, alerts_only)
        if records >= _MANY:
            asyncio.get_running_loop().run_in_executor(self._stages, give_back)
        return again

    async def _flush(self, save: bool, alerts_only: bool) -> tuple[set[Place], int]:
        """Flush. Returns the places to take up again, and how many records were flushed."""
        started = monotonic_s()
        # What is cut is nowhere else until it is settled.
        begun: list[tuple[Place, Entry]] = []
        try:
            chosen = [(p, entry) for p, entry in self._ledger if entry.transitions or not alerts_only]
            cuts = []
            for place, entry in chosen:
                if cut := await self._cut(place, entry, save, begun):
                    cuts.append(cut)
            if not cuts:
                await self._commit_late(save)
                return set(), 0
            again = await settle(cuts, self._effects, self._ledger, self._clock.now_ms())
        except BaseException:
            for place, entry in begun:
                self._ledger.release(place, entry)
            raise
        finally:
            self.in_flight = 0
            for _, entry in begun:
                entry.in_flight = False
        for place, entry in begun:
            if place in again:
                self._ledger.release(place, entry)
        self._count([cut for cut in cuts if cut.place not in again])
        seconds = monotonic_s() - started
        self._tally.flush_s.add(np.array([seconds]))
        self._log.debug("flushed", partitions=len(cuts), duration_ms=round(seconds * 1_000, 1))
        return again, sum(cut.records for cut in cuts)

    async def _cut(self, place: Place, entry: Entry, save: bool, begun: list[tuple[Place, Entry]]) -> Cut | None:
        due = save or monotonic_s() - entry.snapshot_s >= self._settings.snapshot_interval_s
        if not (entry.dirty or (due and entry.unsaved)):
            return None
        async with entry.lock:
            if self._ledger.get(place) is not entry:
                # It was given up while it was waited for: its state may be of records whose outcomes are lost.
                return None
            begun.append((place, entry))
            entry.in_flight = True
            self.in_flight += entry.waiting
            outcomes, transitions, passes = tuple(entry.outcomes), tuple(entry.transitions), tuple(entry.passes)
            entry.outcomes, entry.transitions, entry.passes = [], [], []
            if due:
                entry.idle_progress, entry.snapshot_s = False, monotonic_s()
            last_offset = entry.next_offset - 1 if due else None
            chunks, state = await asyncio.get_running_loop().run_in_executor(
                self._stages, _frozen, entry.state, last_offset
            )
            return Cut(
                place=place,
                origin=entry.origin,
                outcomes=outcomes,
                chunks=tuple(chunks),
                transitions=transitions,
                next_offset=entry.next_offset,
                clock_ms=entry.state.clock_ms,
                tail=entry.tail,
                state=state,
                passes=passes,
            )

    async def _commit_late(self, save: bool) -> None:
        """Tell Kafka again what it did not take before."""
        now_s = monotonic_s()
        offsets = self._ledger.uncommitted(now_s if save else now_s - self._settings.snapshot_interval_s)
        for place in offsets:
            if entry := self._ledger.get(place):
                entry.commit_s = now_s
        await commit(offsets, self._effects, self._ledger)

    def _count(self, cuts: list[Cut]) -> None:
        now_ms = self._clock.now_ms()
        for cut in cuts:
            for outcome in cut.outcomes:
                self._tally.outcome(outcome, now_ms)
            self._tally.transitions.update((t.alertname, t.state) for _, t in cut.transitions)
        if any(cut.outcomes for cut in cuts):
            self._tally.took_part(monotonic_s())


def _frozen(state: PartitionState, last_offset: int | None) -> tuple[list[ChunkRows], bytes | None]:
    """Window rows that changed and, where a snapshot is due, the state that includes them."""
    rows = take_window_rows(state)
    return rows, None if last_offset is None else freeze(state, last_offset)
