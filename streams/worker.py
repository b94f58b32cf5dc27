"""One worker: batches in, everything that follows out, and the loops that keep time.

Batches that arrive are processed (`processing`); what follows from them waits in the ledger until a flush makes it
durable. Any failure that is not a record's own stops the process: nothing is then acknowledged.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from secrets import token_hex
from typing import Any, Final

from faust.types import TP

from processors.locate import Locator
from processors.pipeline import Reference
from processors.territory import Territory
from schemas.contracts import ALERT_TOPIC, RAW_TOPICS
from schemas.registry import Writers
from sinks.clickhouse import Sink, SinkAwayError
from sinks.rows import ZoneMaps
from streams import app as faust_app
from streams import broker
from streams.clock import Clock, monotonic_s
from streams.custody import Custody
from streams.failures import NotDrainedError
from streams.flush import Effects, Message
from streams.flusher import Flusher
from streams.intake import Intake, limits
from streams.ledger import Entry, Ledger, Place
from streams.log import logger
from streams.notify import Notifier
from streams.passing import Passing
from streams.processing import Processing
from streams.produce import Confirmed
from streams.recovery import Recovery
from streams.rhythm import Rhythm
from streams.settings import Settings
from streams.tally import Tally
from streams.telemetry import gather, pages
from streams.telemetry.metrics import Sample
from streams.telemetry.sampling import Sampling
from streams.transport import Fetched
from streams.waiting import wait, whole
from streams.zone_watch import STEP_MS, ZoneWatch

_POLL_S: Final = 0.1
#: What may be in memory before fetching stops: flushes' worth of rows, and batches' worth of records.
_UNFLUSHED: Final = 3
_ARRIVED: Final = 5


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
        self.stalled_s = 0.0
        """For how long records have waited and nothing has moved, as the guard sees it."""
        writers = Writers(older=settings.older_schemas, registry_url=settings.schema_registry_url)
        self.reference = Reference(Locator(territories), limits(settings), writers.older)
        self._intake = Intake(settings, self.reference, writers)
        owner = f"{settings.instance_id or os.uname().nodename}-{token_hex(4)}"
        threads = settings.threads or len(os.sched_getaffinity(0))
        self._stages = ThreadPoolExecutor(threads, "stages")
        # One thread stores; the second is for when the first hangs in a connection that has been given up.
        self._blocking = ThreadPoolExecutor(2, "sink")
        self._notifier = Notifier(settings, clock, self.tally)
        self._zone_watch = ZoneWatch(territories, owner)
        self._recovery = Recovery(settings, self.reference, owner)
        self._sampling = Sampling(sink, owner, settings.sample_interval_s)
        self._ends: dict[Place, int] | None = None
        self._stop = asyncio.Event()
        self.custody = Custody(settings, self.ledger, self._recovery, sink, self._save, self.fail)
        self._rhythm = Rhythm(settings, self.ledger, self.custody, self._flush_while_ours)
        self.app: Any = faust_app.build(
            settings, self.custody, ingest=self._ingest, notify=self._notify, on_failure=self.fail
        )  # fmt: skip
        self.custody.app = self.app
        if settings.web_port:
            pages.serve(self.app, unready=lambda: gather.unready(self), samples=lambda: gather.samples(self))
        self.confirmed = Confirmed(self.app, settings.retry_budget_s)
        effects = Effects(
            sink=lambda: self.custody.flushing.sink,
            zones=ZoneMaps(self.reference.locator.sets),
            territory_versions={j: t.version for j, t in territories.items()},
            blocking=self._blocking,
            owner=owner,
            produce=self._produce,
            commit=self._commit,
            topic_ids=broker.TopicIds(settings).ask,
        )
        self._passing = Passing(settings, clock, self.reference, self.ledger, self.custody, self._stages, self._rhythm)
        self._processing = Processing(
            settings, self.ledger, self.custody, clock, self._rhythm, self._passing, self._intake, self._stages,
            self._is_waiting_enough,
        )  # fmt: skip
        self._flusher = Flusher(settings, self.ledger, effects, self._stages, self.tally, clock)

    # -- life ----------------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Finish what is begun and end. Call from the event loop's thread."""
        self._stop.set()

    def stop_at(self, ends: Mapping[Place, int]) -> None:
        """Stop by itself once every partition is stored up to its offset (the next to read)."""
        self._ends = dict(ends)

    async def between_flushes(self, question: Callable[[Sink], Any]) -> Any:
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
        running: list[Callable[[], Coroutine[Any, Any, None]]] = [
            self._rhythm.run,
            self._passing.run,
            self._watch,
            self.custody.run,
            partial(self._notifier.run, self._told),
            partial(self._sampling.run, self._samples, self.clock.now_ms),
            *(partial(self._processing.run, topic) for topic in RAW_TOPICS.values()),
        ]
        loops = [asyncio.create_task(self._guarded(loop)) for loop in running]
        try:
            while not self._stop.is_set():
                if self.app.crashed or self.app.should_stop:
                    self.fail(self.app.crash_reason or RuntimeError("Faust stopped by itself"))
                    break
                if self._ends is not None and self._has_reached(self._ends):
                    break
                await wait(self._stop, _POLL_S)
        finally:
            self._stop.set()
            asyncio.get_running_loop().call_later(self.settings.drain_timeout_s, self.custody.flushing.end)
            for loop in loops:
                loop.cancel()
            await asyncio.gather(*loops, return_exceptions=True)
            self._notifier.close()
            self._sampling.close()
            await self.app.stop()
            self.custody.close()
            self._stages.shutdown(wait=True)
            self._blocking.shutdown(wait=False, cancel_futures=True)
        if self.failure is None and not self.custody.is_drained:
            raise NotDrainedError("what was begun could not be stored in time; it will be read again")
        if self.failure is not None:
            raise self.failure

    def _has_reached(self, ends: Mapping[Place, int]) -> bool:
        return all(self._has_stored(place, end) for place, end in ends.items())

    def _has_stored(self, place: Place, end: int) -> bool:
        entry = self.ledger.get(place)
        tp = TP(place.topic, place.partition)
        return entry is not None and entry.stored >= self.app.consumer.records_end(tp, end)

    @property
    def is_stopping(self) -> bool:
        """Whether it is about to end, for whatever reason."""
        return self._stop.is_set()

    @property
    def is_ready(self) -> bool:
        """Whether partitions are ours and records would be taken."""
        return self.custody.is_open and len(self.ledger) > 0

    @property
    def is_waiting(self) -> bool:
        """Whether ClickHouse, Kafka or the schema registry is away and being waited for. For any thread."""
        is_kafka_away = self.confirmed.is_waiting or self.custody.is_kafka_away
        return self.sink.is_waiting or is_kafka_away or self.is_registry_away

    @property
    def is_registry_away(self) -> bool:
        """Whether records wait for a schema because the registry does not answer. For any thread."""
        return self._intake.is_waiting

    @property
    def is_busy(self) -> bool:
        """Whether it has records to process, or more than it can take."""
        return self.ledger.arrived > 0 or self._is_full()

    @property
    def lags(self) -> bool:
        """Whether there is something to do that is not done."""
        if not self.custody.is_open:
            return self.custody.is_wanted
        if self.custody.has_lost_sight:
            return True
        return any(entry.inbox or entry.dirty or not self._read_to_its_end(p, entry) for p, entry in self.ledger)

    def _samples(self) -> list[Sample]:
        self.tally.visible_s.take()
        self.tally.flush_s.take()
        return gather.samples(self)

    def has_seen(self, event_ms: int) -> bool:
        """Whether every partition has passed that event time, and the zones have been looked at since."""
        mark = event_ms - self.reference.limits.disorder_ms
        passed = all(entry.state.clock_ms >= mark and not entry.unsaved for _, entry in self.ledger)
        return passed and self._zone_watch.looked_up_to_ms >= mark - mark % STEP_MS

    async def _guarded(self, loop: Callable[[], Coroutine[Any, Any, None]]) -> None:
        try:
            await loop()
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, going on without this loop would lose data
            self.fail(error)

    # -- batches -------------------------------------------------------------------------------------------------------

    async def _ingest(self, message: Any) -> None:
        fetched: Fetched = message.value
        batch, place = fetched.batch, Place(fetched.batch.topic, fetched.batch.partition)
        while self._is_current(message) and (self._is_full() or not self.custody.is_open):
            self._rhythm.moved.clear()
            await wait(self._rhythm.moved, _POLL_S)
        entry = self.ledger.get(place)
        if entry is None or not self._is_wanted(message, place, entry):
            return
        if batch.first_offset < entry.fetched:
            self.log.warning("the log has gone back", topic=place.topic, partition=place.partition)
            self.custody.take_up_again(place)
            return
        if fetched.since > entry.fetched:
            is_hole = await self.custody.is_hole(place, entry, batch.first_offset)
            # The partition may have been handed over or moved while Kafka was asked.
            if not self._is_wanted(message, place, entry):
                return
            if not is_hole:
                await self.custody.refetch(place, entry)
                return
        self.tally.took_part(monotonic_s())
        entry.fetched = batch.last_offset + 1
        entry.inbox.append(batch)
        self._processing.arrived(batch.topic)

    def _is_wanted(self, message: Any, place: Place, entry: Entry) -> bool:
        """Whether a batch is what the entry of its partition is to get next."""
        is_ours = self.custody.is_open and self.ledger.get(place) is entry
        return is_ours and message.value.mark >= entry.mark and self._is_current(message)

    def _is_current(self, message: Any) -> bool:
        return not self._stop.is_set() and message.generation_id == self.app.consumer_generation_id

    def _is_full(self) -> bool:
        """Whether so much is in memory that no more may be fetched."""
        return self._is_waiting_enough() or self.ledger.arrived >= _ARRIVED * self.settings.batch_records

    def _is_waiting_enough(self) -> bool:
        """Whether so much waits to be stored that no more may be processed: what one fetch brought may be a lot."""
        return self.ledger.waiting + self._flusher.in_flight >= _UNFLUSHED * self.settings.flush_rows

    async def _notify(self, message: Any) -> None:
        fetched: Fetched = message.value
        while self._is_current(message) and self._notifier.is_full:
            await wait(self._stop, _POLL_S)
        mark = self.custody.alert_mark
        if self._is_current(message) and mark is not None and fetched.mark >= mark:
            self.custody.haste.told()
            self._notifier.take(message.tp, fetched.batch, message.generation_id)

    async def _told(self, tp: TP, next_offset: int, generation: int) -> bool:
        """Receivers know everything of the alert topic up to there. Whether that is still ours to say."""
        if self._stop.is_set() or generation != self.app.consumer_generation_id:
            return False
        await self.app.consumer.commit_offsets({tp: next_offset}, self.settings.drain_timeout_s)
        return True

    # -- effects -------------------------------------------------------------------------------------------------------

    async def flush(self, *, save: bool = False, alerts_only: bool = False) -> None:
        """Make everything durable that has been processed so far, or what partitions have that have alerts to tell."""
        if await self._flusher.flush(save=save, alerts_only=alerts_only):
            self.custody.look_again()
        self._rhythm.moved.set()

    async def _produce(self, messages: Sequence[Message]) -> None:
        has_alerts = self.custody.tells and any(message.topic == ALERT_TOPIC for message in messages)
        if has_alerts:
            self.custody.haste.sent()
        await self.confirmed.produce(messages)
        if has_alerts:
            self.custody.haste.confirmed()

    async def _save(self) -> None:
        if self.failure is None:
            await self.flush(save=True)

    async def _commit(self, offsets: Mapping[Place, int]) -> bool:
        wanted = {TP(place.topic, place.partition): offset for place, offset in offsets.items()}
        return bool(await self.app.consumer.commit_offsets(wanted, self.settings.drain_timeout_s / 5))

    # -- time ----------------------------------------------------------------------------------------------------------

    async def _flush_while_ours(self, alerts_only: bool = False) -> None:
        serial = self.custody.serial
        try:
            await self.flush(alerts_only=alerts_only)
        except SinkAwayError:
            # Given up because the partitions were to be handed over: the next owner reads those records again.
            if serial == self.custody.serial:
                raise
            # Ours again meanwhile, perhaps, and without the entries that were cut.
            self.custody.look_again()

    def _read_to_its_end(self, place: Place, entry: Entry) -> bool:
        end = self.app.consumer.told_end(TP(place.topic, place.partition))
        return end is not None and end[0] <= entry.next_offset

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self.settings.zone_watch_interval_s)
            if self.custody.is_open and self.app.is_leader():
                await whole(self._look_at_zones())
            else:
                self._zone_watch.forget()

    async def _look_at_zones(self) -> None:
        topic = RAW_TOPICS["report"]
        # Faust's consumer knows only where its aiokafka leads the group, which is another office than Faust's leader.
        partitions = self._recovery.partitions.get(topic, 0)
        sink, loop, serial = self.custody.flushing.sink, asyncio.get_running_loop(), self.custody.serial
        epoch = self._recovery.epochs.get(topic, "")
        try:
            transitions, records = await loop.run_in_executor(
                self._blocking, self._zone_watch.look, partitions, epoch, sink
            )
            await self._produce(records)
            await loop.run_in_executor(self._blocking, self._zone_watch.save, sink, self.clock.now_ms())
        except SinkAwayError:
            self._zone_watch.forget()
            if serial == self.custody.serial:
                raise
            return
        self.tally.transitions.update((t.alertname, t.state) for t in transitions)
