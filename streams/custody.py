"""Which partitions are ours, and the hand-over: what the transport asks (streams.transport.Keeper).

Partitions come in three steps: `assigned` by the group, `positioned` where the group left them, then taken over in the
background, which moves them to where their snapshots end. They go in one: `drain`.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Mapping, Set
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final

from faust.types import TP

from schemas.contracts import ALERT_TOPIC, RAW_TOPICS
from sinks.clickhouse import Sink, SinkAwayError
from streams import broker
from streams.broker import BrokerAwayError, BrokerError
from streams.clock import monotonic_s
from streams.haste import Haste
from streams.ledger import Entry, Ledger, Place
from streams.log import logger
from streams.recovery import GONE, Recovery, Taken
from streams.settings import Settings
from streams.transport import NotOursError

RAW: Final = frozenset(RAW_TOPICS.values())
_PAUSE_S: Final = 1.0
_LOOK_S: Final = 30.0
_FETCH_S, _SHORT_FETCH_S = 1.0, 0.05


class Patience:
    """How long blocking calls go on trying: until `end`, which is for those that have begun before it."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._over = threading.Event()

    @property
    def sink(self) -> Sink:
        """The sink, for one call; it gives up when patience ends."""
        return self._sink.until(self._over)

    def end(self) -> None:
        self._over.set()
        self._over = threading.Event()


class Custody:
    """Keeps the ledger in step with the group. `is_open` says whether batches may be processed."""

    def __init__(
        self,
        settings: Settings,
        ledger: Ledger,
        recovery: Recovery,
        sink: Sink,
        flush: Callable[[], Awaitable[object]],
        fail: Callable[[BaseException], None],
    ) -> None:
        self._settings = settings
        self._ledger = ledger
        self._recovery = recovery
        self._flush = flush
        self._fail = fail
        self._log = logger("custody")
        self._thread = ThreadPoolExecutor(1, "recovery")
        self._patience = Patience(sink)
        self.flushing = Patience(sink)
        self.app: Any = None
        self._places: frozenset[Place] = frozenset()
        self._unplaced: set[Place] = set()
        self._alerts: Mapping[TP, int] = {}
        self.alert_mark: int | None = None
        """Batches of alerts with a lower mark are not to be taken; None while none is."""
        self.serial = 0
        """Grows whenever partitions come or go."""
        self._wanted = asyncio.Event()
        # Between a revoke and the next assignment nothing is ours to take over, whoever asks for it.
        self._is_positioned = False
        self._away_s: float | None = None
        self.haste = Haste(ledger, settings.linger_s)
        self.is_open = False
        self.is_drained = True
        """Whether everything that was begun before the last drain has been stored."""
        self.is_over = False
        """Whether a drain has come to its end with nothing left, and no partition was given since."""

    @property
    def is_wanted(self) -> bool:
        """Whether the group has given us partitions."""
        return bool(self._places)

    @property
    def has_lost_sight(self) -> bool:
        """Whether nothing is known of a partition of ours: its records go nowhere until it is taken up."""
        return any(self._ledger.get(place) is None for place in self._places)

    @property
    def is_kafka_away(self) -> bool:
        """Whether no broker answers, for less than the retry budget. For any thread."""
        since_s = self._away_s
        return since_s is not None and monotonic_s() - since_s < self._settings.retry_budget_s

    # -- what the transport asks ---------------------------------------------------------------------------------------

    @property
    def patience_s(self) -> float:
        """Little while partitions are taken over: they are moved when that is done."""
        return _FETCH_S if self.is_open else _SHORT_FETCH_S

    def wants_batches(self, topic: str) -> bool:
        """Raw topics and alerts come by the batch; Faust's own topics by the record."""
        return topic in RAW or topic == ALERT_TOPIC

    async def rest(self, has_more: bool) -> None:
        await self.haste.rest(has_more)

    async def drain(self) -> None:
        """Make durable and commit what was begun, while the partitions are still ours.

        From here until they have been taken over again nothing more is processed.
        """
        self.is_open = self._is_positioned = False
        self.serial += 1
        self._patience.end()
        held = len(self._ledger)
        try:
            async with asyncio.timeout(self._settings.drain_timeout_s):
                await self._flush()
        except TimeoutError:
            self.flushing.end()
            self._log.warning("not drained in time; these records will be read again", waiting=self._ledger.waiting)
        except Exception as error:  # noqa: BLE001 - at revoke and stop Faust would swallow it; nothing is acknowledged
            self._fail(error)
        self.is_drained = len(self._ledger) == held
        for place, entry in self._ledger:
            entry.inbox.clear()
            if entry.unsaved:
                self.is_drained = False
                self._ledger.drop(place)
        self.is_over = self.is_drained

    def assigned(self, partitions: Set[TP]) -> None:
        """These partitions are ours from now on, and no others."""
        self.is_open = self.is_over = self._is_positioned = False
        self.serial += 1
        self._places = frozenset(Place(tp.topic, tp.partition) for tp in partitions if tp.topic in RAW)
        self._ledger.keep_only(self._places)
        self._unplaced = set(self._places)
        self._alerts = {tp: 0 for tp in partitions if tp.topic == ALERT_TOPIC}
        self.alert_mark = None

    def positioned(self, committed: Mapping[TP, int]) -> None:
        """Partitions are where the group left them; from now on they may be moved."""
        self._alerts = {tp: committed.get(tp, 0) for tp in self._alerts}
        self._is_positioned = True
        self._wanted.set()

    # -- taking over ---------------------------------------------------------------------------------------------------

    def take_up_again(self, place: Place) -> None:
        """Forget what is known of a partition and go on from its snapshot."""
        self._ledger.drop(place)
        self._wanted.set()

    def look_again(self) -> None:
        """Take up the partitions of ours of which nothing is known."""
        self._wanted.set()

    async def run(self) -> None:
        """Take over what was assigned, for ever."""
        while True:
            try:
                # Often enough to know of a broker that is away before the watchdog takes it for a stall.
                async with asyncio.timeout(min(_LOOK_S, self._settings.watchdog_s / 4)):
                    await self._wanted.wait()
            except TimeoutError:
                await self._look_at_topics()
                continue
            self._wanted.clear()
            if not await self._take_over():
                await asyncio.sleep(_PAUSE_S)
                self._wanted.set()

    async def _look_at_topics(self) -> None:
        """A topic that was created anew begins at offset 0 again, which reading alone does not always show."""
        try:
            changed = await asyncio.get_running_loop().run_in_executor(self._thread, self._recovery.topics_have_changed)
        except BrokerError as error:
            self._heard(error)
            return
        self._heard(None)
        if changed:
            self._wanted.set()

    def _heard(self, error: Exception | None) -> None:
        """Note what came of a question to Kafka."""
        if not isinstance(error, BrokerAwayError):
            self._away_s = None
        elif self._away_s is None:
            self._away_s = monotonic_s()
            self._log.warning("Kafka is away", error=str(error))

    async def _take_over(self) -> bool:
        """One attempt. Whether it is done, or no longer asked for."""
        if not self._is_positioned:
            return True
        serial, places = self.serial, self._places
        # Whoever is on call does not wait for ClickHouse.
        if self.alert_mark is None and self._alerts:
            mark = await self._moved(self._alerts)
            if serial != self.serial or mark is None:
                return serial != self.serial
            self.alert_mark = mark
        held = {place: entry.origin for place, entry in self._ledger}
        generation = int(self.app.consumer_generation_id)
        try:
            taken = await asyncio.get_running_loop().run_in_executor(
                self._thread, self._recovery.take, places, held, generation, self._patience.sink
            )
        except (BrokerError, SinkAwayError) as error:
            self._heard(error)
            if serial != self.serial:
                return True
            self._log.warning("partitions are not taken over yet", error=str(error))
            return False
        self._heard(None)
        if serial != self.serial:
            return True
        for one in taken.values():
            self._ledger.hold(one.place, _entry(one))
        return await self._move(serial, {*taken, *self._unplaced})

    async def _move(self, serial: int, places: Set[Place]) -> bool:
        offsets: Mapping[TP, int] = {
            TP(place.topic, place.partition): entry.next_offset for place, entry in self._ledger if place in places
        }
        mark = await self._moved(offsets)
        if serial != self.serial or mark is None:
            return serial != self.serial
        for place, entry in self._ledger:
            if place in places:
                entry.inbox.clear()
                entry.mark, entry.fetched, entry.received_s = mark, entry.next_offset, monotonic_s()
        self._unplaced -= places
        self.is_open = True
        return True

    @property
    def tells(self) -> bool:
        """Whether alerts are ours to tell, of some partitions of their topic at least."""
        return bool(self._alerts)

    async def is_hole(self, place: Place, entry: Entry, first_offset: int) -> bool:
        """Whether Kafka has no record from `entry.fetched` to that offset, which begins what was fetched.

        Asked where the client cannot tell: retention has taken its position from it, or what it gave went astray.
        """
        ask = partial(self._first_from, place, entry.fetched)
        try:
            first, start = await asyncio.get_running_loop().run_in_executor(self._thread, ask)
        except BrokerError as error:
            self._log.warning("a hole in the log is not believed yet", error=str(error))
            return False
        if first is None or first < first_offset:
            self._log.warning("read again", topic=place.topic, partition=place.partition, from_offset=entry.fetched)
            return False
        if (lost := min(start, first_offset) - entry.fetched) > 0:
            self._log.error(GONE, topic=place.topic, partition=place.partition, lost=lost)
        return True

    def _first_from(self, place: Place, offset: int) -> tuple[int | None, int]:
        """The first record from an offset on, and where the log starts by now."""
        first = broker.first_offset_from(self._settings, place, offset)
        return first, broker.end_offsets(self._settings).get(place, (0, 0))[0]

    async def refetch(self, place: Place, entry: Entry) -> None:
        """Read a partition again from the first record that is missing."""
        mark = await self._moved({TP(place.topic, place.partition): entry.fetched})
        if mark is not None:
            entry.mark = mark

    async def _moved(self, offsets: Mapping[TP, int]) -> int | None:
        """Move, and the mark of it; None when a partition is not ours any more."""
        try:
            return int(await self.app.consumer.move(offsets))
        except NotOursError:
            return None

    def close(self) -> None:
        self._patience.end()
        self.flushing.end()
        self._thread.shutdown(wait=False, cancel_futures=True)


def _entry(taken: Taken) -> Entry:
    return Entry(
        taken.state, taken.origin, taken.next_offset, tail=taken.tail, condemned=taken.condemned, due=taken.passes
    )
