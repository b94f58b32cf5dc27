"""Faust transport whose event is a batch: the records of one partition that one fetch brought.

Registered as URL scheme `vigie` (entry-point group `faust.transports`). Everything else is Faust's aiokafka driver.
See the notes in the ledger for why Faust's own acknowledgements are not used.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final, Protocol

import numpy as np
from faust.serializers.schemas import Schema
from faust.transport.drivers import aiokafka
from faust.types import TP, ConsumerMessage

from schemas.records import Batch

SCHEME: Final = "vigie"


class Keeper(Protocol):
    """Who owns offsets and in-flight work: the worker, reached as `app.keeper`."""

    @property
    def pause_s(self) -> float:
        """Seconds to wait after a fetch that brought little."""
        ...

    async def drain(self) -> None:
        """Finish, store and commit what was begun, within its own deadline."""
        ...

    def resume_at(self, committed: Mapping[TP, int | None]) -> Mapping[TP, int]:
        """Offsets to read next where they differ from the committed ones."""
        ...

    def wants_batches(self, topic: str) -> bool:
        """Whether the topic is handed out by the batch."""
        ...


class BatchSchema(Schema):  # type: ignore[type-arg]
    """Hands the batch to the agent untouched: a decode error inside Faust would acknowledge it."""

    def loads_key(self, app: Any, message: Any, *, loads: Any = None, serializer: Any = None) -> Any:
        return None

    def loads_value(self, app: Any, message: Any, *, loads: Any = None, serializer: Any = None) -> Any:
        return message.value


class BatchConsumer(aiokafka.Consumer):
    """One message per partition and fetch on batch topics; one per record on Faust's own."""

    @property
    def _keeper(self) -> Keeper:
        app: Any = self.app
        keeper: Keeper = app.keeper
        return keeper

    # The signature is Faust's.
    async def getmany(self, timeout: float) -> AsyncIterator[tuple[TP, ConsumerMessage]]:  # noqa: ASYNC109
        generation = self.app.consumer_generation_id
        records, active = await self._wait_next_records(timeout)
        if not records or self.should_stop:
            return
        for tp, run in records.items():
            if not run:
                continue
            usable = self.flow_active and self.app.consumer_generation_id == generation
            if not usable or not (active is None or tp in active or tp in self._buffered_partitions):
                # Fetched for an assignment that is no more. Never skipped: read again from the first of them.
                if tp in self.assignment():
                    await self._seek(tp, run[0].offset)
                continue
            self.app.monitor.track_tp_end_offset(tp, self.highwater(tp))
            if self._keeper.wants_batches(tp.topic):
                yield tp, _message(tp, run, generation)
            else:
                for record in run:
                    yield tp, self._to_message(tp, record)
        if sum(map(len, records.values())) < self.app.conf.broker_max_poll_records:
            # Each fetch costs a round of both threads and each batch a round of the stages, however little they bring.
            await asyncio.sleep(self._keeper.pause_s)

    async def wait_empty(self) -> None:
        """Called at revoke and at stop, where the partitions are still ours."""
        await self._keeper.drain()

    async def perform_seek(self) -> None:
        """Committed offsets, except where the keeper's state includes another."""
        told: Mapping[TP, int | None] = await self.seek_to_committed()
        committed = {TP(*tp): offset if offset is not None and offset >= 0 else None for tp, offset in told.items()}
        self._read_offset.update(committed)
        self._committed_offset.update({tp: offset for tp, offset in committed.items() if offset})
        for tp, offset in self._keeper.resume_at(committed).items():
            await self.seek(tp, offset)

    async def commit_offsets(self, offsets: Mapping[TP, int]) -> bool:
        """Commit offsets to read next; False when the group has moved on and they are no longer ours."""
        if not offsets:
            return True
        committed: bool = await self._thread.commit(offsets)
        return committed


def _message(tp: TP, run: list[Any], generation: int) -> ConsumerMessage:
    # Faust takes a value for bytes and hands on whatever it is.
    batch: Any = Batch(
        topic=tp.topic,
        partition=tp.partition,
        offsets=np.array([r.offset for r in run], np.int64),
        received_ms=np.array([r.timestamp for r in run], np.int64),
        keys=[r.key for r in run],
        values=[r.value for r in run],
        headers=[r.headers for r in run],
    )
    last = run[-1]
    return ConsumerMessage(
        tp.topic, tp.partition, last.offset, last.timestamp / 1000.0, last.timestamp_type, [], None, batch,
        None, None, None, TP(tp.topic, tp.partition), generation_id=generation,
    )  # fmt: skip


class Transport(aiokafka.Transport):
    """Faust transport of scheme `vigie://host:port`."""

    Consumer = BatchConsumer
