"""Faust transport whose event is a batch: the records of one partition that one fetch brought.

Registered as URL scheme `vigie` (entry-point group `faust.transports`). Everything else is Faust's aiokafka driver.
See the notes in the ledger for why Faust's own acknowledgements are not used.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Final, Protocol

import numpy as np
from aiokafka.errors import IllegalStateError
from aiokafka.errors import KafkaError as AioKafkaError
from aiokafka.structs import OffsetAndMetadata, TopicPartition
from faust.serializers.schemas import Schema
from faust.transport.drivers import aiokafka
from faust.types import TP, ConsumerMessage

from schemas.records import Batch, Piece, Rows
from streams.fetching import BlockAt, behind, keep_blocks
from streams.membership import take_places_again
from streams.reading import Readings

SCHEME: Final = "vigie"
_FETCH_WAIT_MS: Final = 250
#: Where partitions are left out that may be wanted again.
_SHORT_S: Final = 0.025


class Keeper(Protocol):
    """Who owns offsets and in-flight work: the worker, reached as `app.keeper`."""

    @property
    def patience_s(self) -> float:
        """Seconds that a fetch may wait for records; as long may a `move` have to wait."""
        ...

    async def rest(self, has_more: bool) -> None:
        """Wait after a fetch that brought little, and did or did not bring its partitions to their ends."""
        ...

    async def drain(self) -> None:
        """Finish, store and commit what was begun, within its own deadline."""
        ...

    def assigned(self, partitions: Set[TP]) -> None:
        """These partitions are ours from now on, and no others."""
        ...

    def positioned(self, committed: Mapping[TP, int]) -> None:
        """Partitions are where the group left them, if it did; the keeper is to `move` those whose batches it gets.

        What was fetched meanwhile may be from before or after, so batches older than the move are not to be taken.
        """
        ...

    def wants_batches(self, topic: str) -> bool:
        """Whether the topic is handed out by the batch."""
        ...


class NotOursError(RuntimeError):
    """A partition is not assigned to this worker any more."""


@dataclass(frozen=True)
class Fetched:
    """One batch, and the consumer's mark when it was fetched: what is older than a `move` has a lower one.

    Kafka has no record between `since` and the batch: markers of transactions at most.
    """

    batch: Batch
    mark: int
    since: int


class BatchSchema(Schema):  # type: ignore[type-arg]
    """Hands the batch to the agent untouched: a decode error inside Faust would acknowledge it."""

    def loads_key(self, app: Any, message: Any, *, loads: Any = None, serializer: Any = None) -> Any:
        return None

    def loads_value(self, app: Any, message: Any, *, loads: Any = None, serializer: Any = None) -> Any:
        return message.value


class ClientThread(aiokafka.AIOKafkaConsumerThread):
    """The client's thread, which notes how far it has read."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.readings = Readings()

    def client_state(self, tp: TP) -> Any:
        """What the client holds of a partition; None when it is not ours, or not yet. For any thread."""
        subscription = None if self._consumer is None else self._consumer._subscription.subscription
        assignment = None if subscription is None else subscription.assignment
        return None if assignment is None else assignment.state_value(tp)

    def _states(self, partitions: Iterable[TP]) -> dict[TP, Any]:
        found = {tp: self.client_state(tp) for tp in partitions}
        return {tp: state for tp, state in found.items() if state is not None}

    # The signatures are Faust's.
    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer = super()._create_worker_consumer(transport)
        # Faust would have the broker keep a fetch that finds nothing for 1.5 s, and a partition that is moved meanwhile
        # is not read before that is over. Idle, it is four short requests per second and broker.
        consumer._fetch_max_wait_ms = _FETCH_WAIT_MS
        return consumer

    async def _fetch_records(self, consumer: Any, *args: Any, **kwargs: Any) -> Any:
        records = await super()._fetch_records(consumer, *args, **kwargs)
        self.readings.fetched(records, self._states(consumer.assignment()))
        return records

    async def _seek_wait(self, consumer: Any, partitions: Mapping[TP, int]) -> None:
        self.readings.moved(partitions, self._states(partitions))
        try:
            await super()._seek_wait(consumer, partitions)
        except BaseException:
            self.readings.forget(partitions)
            raise

    async def seek_to_committed(self) -> Mapping[TP, int]:
        told: Mapping[TP, int] = await self.call_thread(self._seek_to_committed)
        return told

    async def _seek_to_committed(self) -> Any:
        with self.readings.suspended():
            return await self._ensure_consumer().seek_to_committed()


class BatchConsumer(aiokafka.Consumer):
    """One message per partition and fetch on batch topics; one per record on Faust's own."""

    _thread: ClientThread

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        keep_blocks(self._keeper.wants_batches)
        take_places_again()
        self._mark = 0
        # A fetch that is under way while a partition is moved can have been answered before or after.
        self._fetching = asyncio.Lock()

    def _new_consumer_thread(self) -> ClientThread:
        return ClientThread(self, loop=self.loop, beacon=self.beacon)

    @property
    def _keeper(self) -> Keeper:
        app: Any = self.app
        keeper: Keeper = app.keeper
        return keeper

    # The signature is Faust's.
    async def getmany(self, timeout: float) -> AsyncIterator[tuple[TP, ConsumerMessage]]:  # noqa: ASYNC109
        async with self._fetching:
            generation, mark = self.app.consumer_generation_id, self._mark
            # Partitions whose agent has enough for now are not asked for, and who waits for others is not woken when
            # they are wanted again, though their records may be there.
            longest_s = _SHORT_S if self._buffered_partitions else self._keeper.patience_s
            records, active = await self._wait_next_records(min(timeout, longest_s))
            since = {tp: self._thread.readings.since(tp, run) for tp, run in (records or {}).items() if run}
        if not records or self.should_stop:
            return
        for tp, run in records.items():
            if not run:
                continue
            usable = self.flow_active and self.app.consumer_generation_id == generation
            if not usable or not (active is None or tp in active or tp in self._buffered_partitions):
                # Fetched for an assignment that is no more. The keeper moves what is assigned now: nothing is skipped.
                continue
            self.app.monitor.track_tp_end_offset(tp, self.highwater(tp))
            if self._keeper.wants_batches(tp.topic):
                # Faust drops what is older than it has seen, and learns of what it has seen after a `move` back.
                self._read_offset.pop(tp, None)
                yield tp, _message(tp, generation, Fetched(as_batch(tp, run), mark, since[tp]))
            else:
                for record in run:
                    yield tp, self._to_message(tp, record)
        if sum(map(counted, records.values())) < self.app.conf.broker_max_poll_records:
            # Each fetch costs a round of both threads and each batch a round of the stages, however little they bring.
            await self._keeper.rest(not self._has_all(records))

    def _has_all(self, records: Mapping[TP, Sequence[Any]]) -> bool:
        """Whether a fetch brought its partitions to their ends: some brokers give little at a time, and have more."""
        ends = ((run[-1], self.highwater(tp)) for tp, run in records.items() if run)
        return all(end is None or behind(last) >= end for last, end in ends)

    async def wait_empty(self) -> None:
        """Called at revoke and at stop, where the partitions are still ours."""
        await self._keeper.drain()

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        """Called where the group has given out its partitions; none may be among them."""
        self._keeper.assigned(frozenset(TP(*tp) for tp in assigned))
        await super().on_partitions_assigned(assigned, generation_id)

    async def perform_seek(self) -> None:
        """Called once partitions are ours. Committed offsets are advice; the keeper moves those of its topics later."""
        try:
            told: Mapping[TP, int | None] = await self.seek_to_committed()
        except IllegalStateError:
            # The group has moved on already: it will be asked again for what it gives next.
            return
        committed = {TP(*tp): offset for tp, offset in told.items() if offset is not None and offset >= 0}
        self._read_offset.update(committed)
        self._committed_offset.update({tp: offset for tp, offset in committed.items() if offset})
        self._keeper.positioned(committed)

    async def move(self, offsets: Mapping[TP, int]) -> int:
        """Read these partitions on from these offsets. Returns the mark that batches fetched from there bear.

        Raises NotOursError when one of them has gone to somebody else.
        """
        async with self._fetching:
            try:
                await self.seek_wait(offsets)
            except IllegalStateError as error:
                raise NotOursError(str(error)) from error
            self._mark += 1
            return self._mark

    def told_end(self, tp: TP) -> tuple[int, int] | None:
        """The end of a partition's log when a broker last told it, and that instant in milliseconds since 1970.

        Once it is read so far, the end is the offset behind its last record, though markers of transactions may follow:
        whoever has processed everything up to there has everything. None when nobody has told. For any thread.
        """
        state = self._thread.client_state(tp)
        if state is None:
            return None
        # In this order: the end may be newer than the instant, but never older.
        told_ms, end = state.timestamp, state.highwater
        return None if end is None or told_ms is None else (self._thread.readings.end(tp, state, end), int(told_ms))

    def records_end(self, tp: TP, offset: int) -> int:
        """Behind which record the log up to `offset` ends; `offset` itself until it is read so far. For any thread."""
        return self._thread.readings.end(tp, self._thread.client_state(tp), offset)

    async def commit_offsets(self, offsets: Mapping[TP, int], timeout_s: float) -> bool:
        """Commit offsets to read next. False when Kafka did not take them: the group has moved on, or it is away.

        Faust's own commit would end the process for each of these.
        """
        return bool(await self._thread.call_thread(self._commit_in_thread, dict(offsets), timeout_s))

    async def _commit_in_thread(self, offsets: Mapping[TP, int], timeout_s: float) -> bool:
        thread = self._thread
        mine = thread.assignment()
        wanted = {
            TopicPartition(tp.topic, tp.partition): OffsetAndMetadata(offset, "")
            for tp, offset in offsets.items()
            if tp in mine
        }
        if not wanted:
            return False
        try:
            async with asyncio.timeout(timeout_s):
                await thread._ensure_consumer().commit(wanted)
        except (AioKafkaError, TimeoutError):
            return False
        return len(wanted) == len(offsets)


def counted(run: Iterable[Any]) -> int:
    """How many records a fetch brought of a partition."""
    return sum(len(one) if isinstance(one, BlockAt) else 1 for one in run)


def _message(tp: TP, generation: int, fetched: Fetched) -> ConsumerMessage:
    # Faust takes a value for bytes and hands on whatever it is.
    value: Any = fetched
    last, time = fetched.batch.last_offset, fetched.batch.received_ms[-1] / 1000.0
    return ConsumerMessage(
        tp.topic, tp.partition, last, time, 1, [], None, value,
        None, None, None, TP(tp.topic, tp.partition), generation_id=generation,
    )  # fmt: skip


def as_batch(tp: TP, run: Sequence[Any]) -> Batch:
    """What a fetch brought of a partition, blocks and records, as one batch."""
    pieces: list[Piece] = []
    firsts, times, counts = [], [], []
    for is_block, group in groupby(run, key=lambda one: isinstance(one, BlockAt)):
        some = list(group)
        firsts += [one.offset for one in some]
        times += [one.timestamp for one in some]
        if is_block:
            pieces += [one.block for one in some]
            counts += list(map(len, some))
        else:
            pieces.append(Rows([r.key for r in some], [r.value for r in some], [r.headers for r in some]))
            counts += [1] * len(some)
    counted = np.array(counts, np.int64)
    total = int(counted.sum())
    begins = np.array(firsts, np.int64) - (np.cumsum(counted) - counted)
    return Batch(
        topic=tp.topic,
        partition=tp.partition,
        offsets=np.arange(total, dtype=np.int64) + np.repeat(begins, counted),
        received_ms=np.repeat(np.array(times, np.int64), counted),
        pieces=pieces,
    )


class Transport(aiokafka.Transport):
    """Faust transport of scheme `vigie://host:port`."""

    Consumer = BatchConsumer
