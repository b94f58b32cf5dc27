"""One worker: batches in, everything that follows out, and the loops that keep time.

Batches of a partition are processed in order under its lock, in a thread; what follows from them waits in the ledger
until a flush makes it durable. Any failure that is not a record's own stops the process: nothing is then acknowledged.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from faust.types import TP

from processors.locate import Locator
from processors.pipeline import Reference, advance, new_state, take_window_rows
from processors.territory import Territory
from schemas.contracts import ALERT_TOPIC, RAW_TOPICS, domain_of
from schemas.records import Batch
from sinks.clickhouse import Sink
from sinks.rows import ZoneMaps
from streams import app as faust_app
from streams.clock import Clock, monotonic_s
from streams.flush import Effects, Message, settle
from streams.intake import Intake, limits, unseen
from streams.ledger import Cut, Entry, Ledger, Place
from streams.log import logger
from streams.notify import Notifier
from streams.settings import Settings
from streams.tally import Tally
from streams.zone_watch import STEP_MS, ZoneWatch

_POLL_S: Final = 0.1
#: What may be in memory before fetching stops: flushes' worth of rows, and batches' worth of records.
_UNFLUSHED: Final = 4
_ARRIVED: Final = 16
_IDLE_S: Final = 1.0
#: Alerts do not wait for the flush interval, but a storm of them is still written in blocks.
_URGENT_S: Final = 0.05
_RAW: Final = frozenset(RAW_TOPICS.values())


class Worker:
    """The running pipeline over one sink and a set of territories."""

    def __init__(self, settings: Settings, territories: Mapping[str, Territory], sink: Sink, clock: Clock) -> None:
        self.settings = settings
        self.clock = clock
        self.sink = sink
        self.tally = Tally()
        self.ledger = Ledger()
        self.log = logger("worker")
        self.failure: BaseException | None = None
        self.reference = Reference(Locator(territories), limits(settings))
        self._intake = Intake(settings, self.reference)
        threads = settings.threads or len(os.sched_getaffinity(0))
        self._stages = ThreadPoolExecutor(threads, "stages")
        self._blocking = ThreadPoolExecutor(1, "sink")
        self._notifier = Notifier(settings, clock, self.tally)
        self._zone_watch = ZoneWatch(territories, sink)
        self._wake = asyncio.Event()
        self._moved = asyncio.Event()
        self._arrived = {topic: asyncio.Event() for topic in RAW_TOPICS.values()}
        self._flushing = asyncio.Lock()
        self._in_flight = 0
        self._draining = False
        self._ends: dict[Place, int] | None = None
        self._stop = asyncio.Event()
        self._versions = {j: t.version for j, t in territories.items()}
        self.app: Any = faust_app.build(
            settings, self, ingest=self._ingest, notify=self._notify, on_failure=self.fail
        )  # fmt: skip
        self._effects = Effects(
            sink=sink,
            zones=ZoneMaps(self.reference.locator.sets),
            territory_versions=self._versions,
            blocking=self._blocking,
            produce=self._produce,
            commit=self._commit,
        )

    # -- life -----------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Finish what is begun and end. Call from the event loop's thread."""
        self._stop.set()

    def stop_at(self, ends: Mapping[Place, int]) -> None:
        """Stop by itself once every partition is durable up to its offset (the next to read)."""
        self._ends = dict(ends)

    async def ask(self, question: Callable[[Sink], Any]) -> Any:
        """Put a question to ClickHouse between two flushes."""
        return await asyncio.get_running_loop().run_in_executor(self._blocking, question, self.sink)

    def fail(self, error: BaseException) -> None:
        """Stop without acknowledging anything more."""
        if self.failure is None:
            self.failure = error
            self.log.error("stopping", error=str(error), kind=type(error).__name__)
        self._stop.set()

    async def work(self) -> None:
        """Run until `stop` or a failure. Raises the failure."""
        await self.app.start()
        running = [self._flush_loop(), self._idle_loop(), self._watch(), *map(self._process_loop, self._arrived)]
        loops = [asyncio.create_task(self._guarded(loop)) for loop in running]
        try:
            while not self._stop.is_set():
                if self.app.crashed or self.app.should_stop:
                    self.fail(self.app.crash_reason or RuntimeError("Faust stopped by itself"))
                    break
                if self._ends is not None and self._has_reached(self._ends):
                    break
                await _wait(self._stop, _POLL_S)
        finally:
            self._stop.set()
            for loop in loops:
                loop.cancel()
            await asyncio.gather(*loops, return_exceptions=True)
            self._notifier.close()
            await self.app.stop()
            self._stages.shutdown(wait=True)
            self._blocking.shutdown(wait=True)
        if self.failure is not None:
            raise self.failure

    def _has_reached(self, ends: Mapping[Place, int]) -> bool:
        entries = {place: self.ledger.get(place) for place in ends}
        return all(entry is not None and (entry.durable or 0) >= ends[place] for place, entry in entries.items())

    @property
    def is_ready(self) -> bool:
        """Whether partitions are assigned and records would be taken."""
        return any(True for _ in self.ledger) and not self.app.rebalancing

    def has_seen(self, event_ms: int) -> bool:
        """Whether every partition has passed that event time, and the zones have been looked at since."""
        mark = event_ms - self.reference.limits.disorder_ms
        passed = all(entry.state.watermark_ms >= mark and not entry.dirty for _, entry in self.ledger)
        return passed and self._zone_watch.looked_up_to_ms >= mark - mark % STEP_MS

    async def _guarded(self, loop: Coroutine[Any, Any, None]) -> None:
        try:
            await loop
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, going on without this loop would lose data
            self.fail(error)

    # -- batches --------------------------------------------------------------------------------------------------

    async def _ingest(self, message: Any) -> None:
        batch: Batch = message.value
        self.tally.took_part(monotonic_s())
        while self._is_full() and not self._stop.is_set():
            self._moved.clear()
            await _wait(self._moved, _POLL_S)
        entry = self.ledger.get(Place(batch.topic, batch.partition))
        stale = self._draining or message.generation_id != self.app.consumer_generation_id
        if entry is None or stale or self._stop.is_set():
            return
        entry.inbox.append(batch)
        self._arrived[batch.topic].set()

    def _is_full(self) -> bool:
        """Whether so much is in memory that no more may be fetched."""
        unflushed = self.ledger.waiting + self._in_flight
        return (
            unflushed >= _UNFLUSHED * self.settings.flush_rows
            or self.ledger.arrived >= _ARRIVED * self.settings.batch_records
        )

    async def _process_loop(self, topic: str) -> None:
        arrived, most = self._arrived[topic], self.settings.batch_records
        while True:
            await arrived.wait()
            entries = [(place, entry) for place, entry in self.ledger if place.topic == topic]
            if all(entry.arrived < most for _, entry in entries):
                await asyncio.sleep(self.settings.linger_s)
            arrived.clear()
            for place, entry in entries:
                await _whole(self._process(place, entry))
                if entry.inbox:
                    arrived.set()

    async def _process(self, place: Place, entry: Entry) -> None:
        async with entry.lock:
            if self._draining or self.ledger.get(place) is not entry:
                return
            batch = entry.take(self.settings.batch_records)
            if batch is None:
                return
            batch_or_none = unseen(batch, entry.next_offset)
            if batch_or_none is None:
                return
            batch, started = batch_or_none, monotonic_s()
            outcomes = await asyncio.get_running_loop().run_in_executor(
                self._stages, self._intake.through_the_stages, batch, entry.state
            )
            entry.outcomes += outcomes
            entry.transitions += [t for outcome in outcomes for t in outcome.transitions]
            entry.next_offset = batch.last_offset + 1
            entry.received_s = monotonic_s()
        self._moved.set()
        self._intake.log_batch(batch, outcomes, monotonic_s() - started)
        if entry.transitions or self.ledger.waiting >= self.settings.flush_rows:
            self._wake.set()

    async def _notify(self, message: Any) -> None:
        batch: Batch = message.value
        if await self._notifier.deliver(batch) and not self._stop.is_set():
            await self.app.consumer.commit_offsets({message.tp: batch.last_offset + 1})

    # -- effects --------------------------------------------------------------------------------------------------

    async def flush(self) -> None:
        """Make everything durable that has been processed so far."""
        async with self._flushing:
            started = monotonic_s()
            cuts = [cut for place, entry in self.ledger if entry.dirty and (cut := await self._cut(place, entry))]
            if not cuts:
                return
            self._in_flight = sum(len(outcome.events) for cut in cuts for outcome in cut.outcomes)
            await settle(cuts, self._effects, self.ledger, self.clock.now_ms())
            self._in_flight = 0
            now_ms = self.clock.now_ms()
            self.log.debug("flushed", partitions=len(cuts), duration_ms=round((monotonic_s() - started) * 1_000, 1))
            for cut in cuts:
                for outcome in cut.outcomes:
                    self.tally.outcome(outcome, now_ms)
                self.tally.transitions.update((t.alertname, t.state) for t in cut.transitions)
            if any(cut.outcomes for cut in cuts):
                self.tally.took_part(monotonic_s())
            self._moved.set()

    async def _cut(self, place: Place, entry: Entry) -> Cut:
        async with entry.lock:
            outcomes, transitions = tuple(entry.outcomes), tuple(entry.transitions)
            entry.outcomes, entry.transitions, entry.idle_progress = [], [], False
            chunks = await asyncio.get_running_loop().run_in_executor(self._stages, take_window_rows, entry.state)
            return Cut(place, outcomes, tuple(chunks), transitions, entry.next_offset or 0, entry.state.watermark_ms)

    async def _produce(self, messages: Sequence[Message]) -> None:
        producer = self.app.producer
        confirmations = [
            await producer.send(
                m.topic,
                m.key,
                m.value,
                partition=None,
                # Half a millisecond more, because the client truncates the product with 1000.
                timestamp=None if m.timestamp_ms is None else (m.timestamp_ms + 0.5) / 1_000,
                headers=list(m.headers),
            )
            for m in messages
        ]
        for confirmation in confirmations:
            await confirmation

    async def _commit(self, offsets: Mapping[Place, int]) -> bool:
        committed: bool = await self.app.consumer.commit_offsets(
            {TP(place.topic, place.partition): offset for place, offset in offsets.items()}
        )
        return committed

    # -- time -----------------------------------------------------------------------------------------------------

    async def _flush_loop(self) -> None:
        while True:
            if await _wait(self._wake, self.settings.flush_interval_s):
                await asyncio.sleep(_URGENT_S)
            self._wake.clear()
            if self.ledger.dirty:
                await _whole(self.flush())

    async def _idle_loop(self) -> None:
        while True:
            await asyncio.sleep(_IDLE_S)
            now_ms = self.clock.event_ms(self.clock.now_ms() - round(self.settings.idle_grace_s * 1_000))
            for place, entry in self.ledger:
                if monotonic_s() - entry.received_s >= self.settings.idle_grace_s and self._read_to_its_end(
                    place, entry
                ):
                    await _whole(self._let_time_pass(entry, now_ms))

    async def _let_time_pass(self, entry: Entry, now_ms: int) -> None:
        async with entry.lock:
            if self._draining:
                return
            entry.transitions += await asyncio.get_running_loop().run_in_executor(
                self._stages, advance, entry.state, now_ms, self.reference
            )
            if monotonic_s() - entry.progress_s >= self.settings.zone_watch_interval_s:
                entry.progress_s = monotonic_s()
                entry.idle_progress = True
        if entry.transitions:
            self._wake.set()

    def _read_to_its_end(self, place: Place, entry: Entry) -> bool:
        highwater = self.app.consumer.highwater(TP(place.topic, place.partition))
        return highwater is not None and highwater <= (entry.next_offset or 0)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self.settings.zone_watch_interval_s)
            if not self.app.rebalancing and self.app.is_leader():
                await _whole(self._look_at_zones())

    async def _look_at_zones(self) -> None:
        partitions = self.app.consumer.topic_partitions(RAW_TOPICS["report"]) or 0
        transitions, records = await asyncio.get_running_loop().run_in_executor(
            self._blocking, self._zone_watch.look, partitions
        )
        await self._produce(records)
        self.tally.transitions.update((t.alertname, t.state) for t in transitions)

    # -- what the transport asks (streams.transport.Keeper) -----------------------------------------------------------

    @property
    def pause_s(self) -> float:
        """A quarter of the linger: while a batch gathers, a few fetches are enough."""
        return self.settings.linger_s / 4

    def wants_batches(self, topic: str) -> bool:
        """Raw topics and alerts come by the batch; Faust's own topics by the record."""
        return topic in _RAW or topic == ALERT_TOPIC

    async def drain(self) -> None:
        """Make durable and commit what was begun, while the partitions are still ours.

        From here until partitions are assigned again nothing more is processed: it could be stored by two owners.
        """
        self._draining = True
        if self.failure is not None:
            return
        try:
            async with asyncio.timeout(self.settings.drain_timeout_s):
                await self.flush()
        except TimeoutError:
            self.log.warning("not drained in time; these records will be read again", waiting=self.ledger.waiting)
        except Exception as error:  # noqa: BLE001 - at revoke and stop Faust would swallow it; nothing is acknowledged
            self.fail(error)

    def resume_at(self, committed: Mapping[TP, int | None]) -> Mapping[TP, int]:
        """Take up the assigned partitions where the group left them."""
        places = {Place(tp.topic, tp.partition): offset for tp, offset in committed.items() if tp.topic in _RAW}
        self.ledger.keep_only(places)
        self.ledger.resume(places)
        for place, offset in places.items():
            if self.ledger.get(place) is None:
                state = new_state(place.topic, place.partition, domain_of(place.topic), self.reference)
                entry = self.ledger.hold(place, state)
                entry.next_offset = entry.durable = entry.committed = offset
                entry.received_s = monotonic_s()
        self._draining = False
        return {}


async def _whole(work: Coroutine[Any, Any, None]) -> None:
    """Do it to its end even when the loop around it is cancelled meanwhile.

    Half a batch or half a flush would leave state that counts records which are neither stored nor read again.
    """
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await task
        raise


async def _wait(event: asyncio.Event, seconds: float) -> bool:
    """Wait for an event, at most so long. Whether it came."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True
