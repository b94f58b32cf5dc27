"""How far the client has read: markers of transactions are passed over, records never, and nobody mixes them up.

aiokafka's own state of a partition over a log with offsets that hold no record; the fetching between them is played.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from types import SimpleNamespace
from typing import Any, Final

import pytest
from aiokafka.consumer.subscription_state import SubscriptionState
from aiokafka.structs import ConsumerRecord, TopicPartition
from faust.types import TP, ConsumerMessage

from streams import app as faust_app
from streams.settings import load
from streams.transport import BatchConsumer, Fetched
from tests.streams.test_transport import Keeper, record

SENSOR: Final = TP("city.raw.sensor", 0)
OTHER: Final = TP("city.raw.sensor", 1)
_TOLD_MS: Final = 1_789_430_400_000


class Client:
    """aiokafka's client as far as it is asked. Of its one partition it gives what is in the log, `most` at a time."""

    def __init__(self, offsets: Collection[int], end: int, most: int) -> None:
        self.offsets, self.end, self.most = sorted(offsets), end, most
        self.start, self.committed = 0, 0
        self._subscription = self._subscriptions = SubscriptionState()
        self._fetcher, self._closed, self._max_poll_records = self, False, most
        self.assign()

    def assign(self) -> None:
        """Begin an assignment, at the committed offset."""
        self._subscription.subscribe({SENSOR.topic})
        self._subscription.assign_from_subscribed({TopicPartition(*SENSOR)})
        self.state.await_reset(-2)
        self.state.reset_to(self.committed)

    def assignment(self) -> Any:
        return self._subscription.assigned_partitions()

    @property
    def state(self) -> Any:
        return self._subscription._assigned_state(TopicPartition(*SENSOR))

    def seek(self, tp: TP, offset: int) -> None:
        self._subscription.seek(TopicPartition(*tp), offset)

    def highwater(self, tp: TP) -> Any:
        return self.state.highwater

    async def position(self, tp: TP) -> int:
        return int(self.state.position)

    async def seek_to_committed(self) -> dict[TopicPartition, int]:
        self.seek(SENSOR, self.committed)
        return {TopicPartition(*SENSOR): self.committed}

    def expire(self, start: int) -> None:
        """Let retention take what is before an offset; who reads there begins anew at it."""
        self.start, self.offsets = start, [offset for offset in self.offsets if offset >= start]

    async def fetched_records(self, partitions: Any, **rest: Any) -> Mapping[TopicPartition, list[ConsumerRecord]]:
        state = self.state
        if state.position < self.start:
            state.await_reset(-2)
            state.reset_to(self.start)
        run = [offset for offset in self.offsets if offset >= state.position][: self.most]
        behind = run[-1] + 1 if len(run) == self.most else self.end
        state.highwater, state.timestamp = self.end, _TOLD_MS
        state.consumed_to(behind)
        return {TopicPartition(*SENSOR): [record(SENSOR, offset) for offset in run]} if run else {}


class Reader(BatchConsumer):
    """The consumer over such a client, without a thread."""

    client: Client

    async def _wait_next_records(self, timeout: float) -> Any:  # noqa: ASYNC109 - Faust's own signature
        return await self._getmany(active_partitions={SENSOR}, timeout=timeout), {SENSOR}

    async def fetch(self) -> list[Fetched]:
        """What one fetch brings."""
        return [fetched_in(message) async for _, message in self.getmany(0.1)]

    def processed(self, next_offset: int) -> bool:
        """Whether who has processed so far has read the partition to its end."""
        told = self.told_end(SENSOR)
        return told is not None and told[0] <= next_offset


def fetched_in(message: ConsumerMessage) -> Fetched:
    value: Any = message.value
    assert isinstance(value, Fetched)
    return value


def lived(story: Callable[[Reader], Awaitable[None]], offsets: Collection[int], end: int, most: int = 100) -> None:
    """Let the story of a consumer happen that has been moved to offset 0."""

    async def nothing(*args: Any) -> None: ...

    async def direct(call: Callable[..., Awaitable[Any]], *args: Any, **kwargs: Any) -> Any:
        return await call(*args, **kwargs)

    async def whole() -> None:
        settings = load(batch_records=100, linger_s=0.0)
        app = faust_app.build(settings, Keeper(), ingest=nothing, notify=nothing, on_failure=lambda error: None)
        reader = Reader(app.transport, callback=nothing, on_partitions_revoked=nothing, on_partitions_assigned=nothing)
        thread: Any = reader._thread
        thread.thread_loop.close()
        thread.call_thread, reader.flow_active = direct, True
        thread._consumer = reader.client = Client(offsets, end, most)
        await reader.move({SENSOR: 0})
        await story(reader)

    asyncio.run(whole())


def spans(fetched: list[Fetched]) -> list[tuple[int, int, int]]:
    """From where each leaves nothing out, its first and its last offset."""
    return [(one.since, one.batch.first_offset, one.batch.last_offset) for one in fetched]


# --- the end


def test_a_partition_that_ends_with_a_marker_is_read_to_its_end() -> None:
    """Its end is behind the last record, which is as far as anybody can process it."""

    async def story(reader: Reader) -> None:
        assert reader.told_end(SENSOR) is None, "nobody has told yet"
        await reader.fetch()
        assert reader.told_end(SENSOR) == (5, _TOLD_MS)
        assert reader.records_end(SENSOR, 6) == 5

    lived(story, range(5), end=6)


def test_what_was_handed_out_and_is_not_processed_is_not_read() -> None:
    """Wherever it waits: the client has passed it, and time must not pass before it does."""

    async def story(reader: Reader) -> None:
        await reader.fetch()
        assert [reader.processed(next_offset) for next_offset in (0, 4, 5, 6)] == [False, False, True, True]

    lived(story, range(5), end=6)


def test_a_marker_that_is_not_passed_yet_may_be_a_record() -> None:
    """The end was told with a fetch that brought a part: nobody knows what the rest is."""

    async def story(reader: Reader) -> None:
        await reader.fetch()
        assert reader.told_end(SENSOR) == (6, _TOLD_MS)
        assert reader.records_end(SENSOR, 6) == 6
        assert reader.records_end(SENSOR, 5) == 5
        assert await reader.fetch() == []
        assert reader.told_end(SENSOR) == (5, _TOLD_MS)

    lived(story, range(5), end=6, most=5)


def test_records_that_come_behind_a_marker_are_to_be_read() -> None:
    """From the instant a broker tells of them."""

    async def story(reader: Reader) -> None:
        await reader.fetch()
        reader.client.state.highwater = 8
        assert reader.told_end(SENSOR) == (8, _TOLD_MS)
        reader.client.offsets, reader.client.end = [*range(5), 6, 7], 9
        assert spans(await reader.fetch()) == [(5, 6, 7)]
        assert reader.told_end(SENSOR) == (8, _TOLD_MS)

    lived(story, range(5), end=6)


def test_the_end_of_a_past_instant_is_not_what_came_after_it() -> None:
    """A worker that is to stop there needs nothing that came later."""

    async def story(reader: Reader) -> None:
        await reader.fetch()
        assert [reader.records_end(SENSOR, offset) for offset in (3, 9, 10, 11)] == [3, 9, 9, 11]

    lived(story, range(9), end=10)


def test_a_partition_that_is_moved_back_is_not_read() -> None:
    """Not before everything has been given again."""

    async def story(reader: Reader) -> None:
        await reader.fetch()
        await reader.move({SENSOR: 2})
        assert reader.told_end(SENSOR) == (6, _TOLD_MS)
        await reader.fetch()
        assert reader.told_end(SENSOR) == (5, _TOLD_MS)

    lived(story, range(5), end=6)


def test_a_partition_that_is_taken_up_before_a_marker_is_read_to_its_end() -> None:
    """A restart: everything is processed, and what is behind it is a marker."""

    async def story(reader: Reader) -> None:
        await reader.move({SENSOR: 5})
        assert await reader.fetch() == []
        assert reader.told_end(SENSOR) == (5, _TOLD_MS)

    lived(story, range(5), end=7)


def test_another_assignment_knows_nothing_of_the_one_before() -> None:
    """Somebody else may have read in between."""

    async def story(reader: Reader) -> None:
        await reader.fetch()
        reader.client.committed = 4
        reader.client.assign()
        assert reader.told_end(SENSOR) is None
        reader.client.state.highwater, reader.client.state.timestamp = 6, _TOLD_MS
        assert reader.told_end(SENSOR) == (6, _TOLD_MS)
        assert reader.records_end(SENSOR, 6) == 6
        assert spans(await reader.fetch()) == [(4, 4, 4)]

    lived(story, range(5), end=6)


@pytest.mark.parametrize("how", ["not started", "not subscribed", "not assigned", "not ours", "given up"])
def test_of_a_partition_that_is_not_ours_nobody_tells(how: str) -> None:
    """The guard asks from a thread of its own, at any instant of a start, a rebalance and a stop."""

    async def story(reader: Reader) -> None:
        await reader.fetch()
        thread: Any = reader._thread
        if how == "not started":
            thread._consumer = None
        elif how == "not subscribed":
            reader.client._subscription._subscription = None
        elif how == "not assigned":
            reader.client._subscription.subscribe({SENSOR.topic})
        elif how == "given up":
            reader.client._subscription.unsubscribe()
        tp = OTHER if how == "not ours" else SENSOR
        assert reader.told_end(tp) is None
        assert reader.records_end(tp, 6) == 6

    lived(story, range(5), end=6)


# --- what is left out


def test_batches_behind_markers_leave_nothing_out() -> None:
    """However fetches are cut: the client went from one to the next and passed over no record."""
    offsets = [0, 1, 3, 4, 6, 7, 8, 12]

    async def story(reader: Reader) -> None:
        found = [span for _ in range(4) for span in spans(await reader.fetch())]
        assert found == [(0, 0, 3), (4, 4, 7), (8, 8, 12)]
        assert reader.told_end(SENSOR) == (13, _TOLD_MS)

    lived(story, offsets, end=14, most=3)


def test_a_batch_that_begins_behind_a_marker_leaves_nothing_out() -> None:
    """The marker came with it, or alone in a fetch before it."""

    async def story(reader: Reader) -> None:
        await reader.fetch()
        reader.client.offsets, reader.client.end = [*range(5), 6], 8
        assert spans(await reader.fetch()) == [(5, 6, 6)]
        reader.client.end = 9
        assert await reader.fetch() == []
        reader.client.offsets, reader.client.end = [*range(5), 6, 10], 11
        assert spans(await reader.fetch()) == [(7, 10, 10)]

    lived(story, range(5), end=5, most=5)


def test_a_fetch_that_nobody_got_is_missed() -> None:
    """It was given to somebody who did not wait for it: the next one says that it begins behind it."""

    async def story(reader: Reader) -> None:
        thread: Any = reader._thread
        await thread._fetch_records(reader.client, {SENSOR}, timeout=0.1)
        reader.client.offsets, reader.client.end = [*range(5), 6, 7], 9
        assert not reader.processed(0)
        assert spans(await reader.fetch()) == [(5, 6, 7)]

    lived(story, range(5), end=6)


def test_a_position_that_was_lost_claims_nothing() -> None:
    """Retention took what was to be read: the batch begins where it begins, and Kafka must be asked what was before."""

    async def story(reader: Reader) -> None:
        await reader.fetch()
        reader.client.offsets, reader.client.end = list(range(20)), 20
        reader.client.expire(9)
        assert spans(await reader.fetch()) == [(9, 9, 13)]
        assert spans(await reader.fetch()) == [(14, 14, 18)]

    lived(story, range(5), end=5, most=5)


def test_a_position_that_was_lost_before_anything_came_claims_nothing_later() -> None:
    """All that was to be read is gone: the partition is read to its end, and of what comes next Kafka must be asked."""

    async def story(reader: Reader) -> None:
        await reader.fetch()
        reader.client.end = 20
        reader.client.expire(20)
        assert await reader.fetch() == []
        assert reader.processed(5)
        reader.client.offsets, reader.client.end = [20, 21], 22
        assert spans(await reader.fetch()) == [(20, 20, 21)]

    lived(story, range(5), end=5)


@pytest.mark.parametrize("committed", [3, 8])
def test_where_the_group_left_it_claims_nothing(committed: int) -> None:
    """Committed offsets are advice: what is before them may not have been processed."""

    async def story(reader: Reader) -> None:
        await reader.fetch()
        reader.client.committed = committed
        reader.client.offsets, reader.client.end = list(range(10)), 11
        await reader.perform_seek()
        assert reader.told_end(SENSOR) == (6, _TOLD_MS)
        assert spans(await reader.fetch()) == [(committed, committed, 9)]

    lived(story, range(5), end=6)


def test_what_is_read_while_it_is_being_moved_claims_nothing() -> None:
    """Nobody can say whether it was before or after."""

    async def story(reader: Reader) -> None:
        thread: Any = reader._thread

        async def slow() -> dict[TopicPartition, int]:
            await thread._fetch_records(reader.client, {SENSOR}, timeout=0.1)
            reader.client.seek(SENSOR, 7)
            await thread._fetch_records(reader.client, {SENSOR}, timeout=0.1)
            reader.client.seek(SENSOR, 9)
            return {}

        reader.client.seek_to_committed = slow  # type: ignore[method-assign]
        await reader.perform_seek()
        assert spans(await reader.fetch()) == [(9, 9, 9)]

    lived(story, range(10), end=11)


def test_a_move_that_fails_is_not_noted() -> None:
    """Nobody knows where the client stands."""

    async def story(reader: Reader) -> None:
        await reader.fetch()

        def refuse(tp: TP, offset: int) -> None:
            raise ConnectionError

        reader.client.seek = refuse  # type: ignore[method-assign]
        with pytest.raises(ConnectionError):
            await reader.move({SENSOR: 3})
        assert reader._thread.readings.end(SENSOR, reader.client.state, 6) == 6

    lived(story, range(5), end=6)


def test_a_run_that_nobody_noted_claims_nothing() -> None:
    """What is not known is asked."""

    async def story(reader: Reader) -> None:
        run = [SimpleNamespace(offset=offset) for offset in (11, 12)]
        assert reader._thread.readings.since(SENSOR, run) == 11

    lived(story, range(5), end=6)
