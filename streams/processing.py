"""Batches that have arrived, through the stages: in order under their partitions' locks, in a thread, small ones of a
topic together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextlib import AsyncExitStack
from typing import Final

from processors.pipeline import Outcome, Turn
from schemas.contracts import RAW_TOPICS
from streams.clock import Clock, monotonic_s
from streams.custody import Custody
from streams.intake import Intake, PoisonError, unseen
from streams.ledger import Entry, Ledger, Place, in_company
from streams.passing import Passing
from streams.rhythm import Rhythm
from streams.settings import Settings
from streams.waiting import wait, whole

_POLL_S: Final = 0.1


class Processing:
    """Works off what has arrived of each topic; what follows from it waits in the ledger until a flush.

    `is_full` says whether so much waits there that no more may be processed.
    """

    def __init__(
        self,
        settings: Settings,
        ledger: Ledger,
        custody: Custody,
        clock: Clock,
        rhythm: Rhythm,
        passing: Passing,
        intake: Intake,
        stages: Executor,
        is_full: Callable[[], bool],
    ) -> None:
        self._settings = settings
        self._ledger = ledger
        self._custody = custody
        self._clock = clock
        self._rhythm = rhythm
        self._passing = passing
        self._intake = intake
        self._stages = stages
        self._is_full = is_full
        self._arrived = {topic: asyncio.Event() for topic in RAW_TOPICS.values()}

    def arrived(self, topic: str) -> None:
        """There is something in an inbox of that topic."""
        self._arrived[topic].set()

    async def run(self, topic: str) -> None:
        """Process what arrives of a topic, for ever."""
        arrived, most, spent_s = self._arrived[topic], self._settings.batch_records, 0.0
        while True:
            await arrived.wait()
            if all(entry.arrived < most for _, entry in self._held(topic)):
                await self._rhythm.linger(topic, spent_s)
            arrived.clear()
            spent_s = 0.0
            # Asked after that: partitions may have come meanwhile, and their records with them.
            for some in in_company(self._held(topic), most):
                while self._is_full():
                    self._rhythm.moved.clear()
                    await wait(self._rhythm.moved, _POLL_S)
                started = monotonic_s()
                await whole(self.process(some))
                spent_s += monotonic_s() - started
                # What is left when partitions are handed over is read again.
                if self._custody.is_open and any(entry.inbox for _, entry in some):
                    arrived.set()

    def _held(self, topic: str) -> list[tuple[Place, Entry]]:
        return [(place, entry) for place, entry in self._ledger if place.topic == topic]

    async def process(self, some: Sequence[tuple[Place, Entry]]) -> None:
        """Process what these partitions of a topic have to process next. Raises PoisonError, and what stages raise."""
        async with AsyncExitStack() as locked:
            for _, entry in some:
                await locked.enter_async_context(entry.lock)
            try:
                processed = await self._take_turns(some)
            except BaseException:
                # Their states have moved on, and what followed is lost: nothing may be kept of any of them.
                for place, entry in some:
                    self._ledger.release(place, entry)
                raise
        if not processed:
            return
        self._rhythm.moved.set()
        if self._ledger.waiting >= self._settings.flush_rows or any(entry.transitions for entry in processed):
            self._rhythm.hasten()

    async def _take_turns(self, some: Sequence[tuple[Place, Entry]]) -> list[Entry]:
        """Those that had something to process, which is done."""
        turns = [(entry, turn) for place, entry in some if (turn := await self._turn(place, entry))]
        if not turns:
            return []
        started = monotonic_s()
        found = await asyncio.get_running_loop().run_in_executor(
            self._stages, self._intake.through_the_stages, [turn for _, turn in turns]
        )
        seconds = monotonic_s() - started
        for (_, turn), outcomes in zip(turns, found, strict=True):
            for outcome in outcomes:
                if outcome.breach is not None:
                    raise PoisonError(turn.batch.topic, turn.batch.partition, outcome.breach)
        for (entry, turn), outcomes in zip(turns, found, strict=True):
            await self._keep(entry, turn, outcomes)
            self._intake.log_batch(turn.batch, outcomes, seconds)
        return [entry for entry, _ in turns]

    async def _turn(self, place: Place, entry: Entry) -> Turn | None:
        """What a partition of ours has to process now. Call under the entry's lock."""
        if not self._custody.is_open or self._ledger.get(place) is not entry:
            return None
        await self._passing.catch_up(entry)
        taken = entry.take(self._settings.batch_records)
        batch = None if taken is None else unseen(taken, entry.next_offset)
        if batch is None:
            return None
        self._passing.keep(entry)
        return Turn(batch, entry.state, entry.condemned)

    async def _keep(self, entry: Entry, turn: Turn, outcomes: Sequence[Outcome]) -> None:
        entry.outcomes += [outcome.lean() for outcome in outcomes]
        entry.transitions += [(o.batch.last_offset, t) for o in outcomes for t in o.transitions]
        entry.next_offset = turn.batch.last_offset + 1
        entry.received_s = monotonic_s()
        self._custody.haste.look(entry, int(turn.batch.received_ms[-1]), self._clock.now_ms())
        await self._passing.catch_up(entry)
