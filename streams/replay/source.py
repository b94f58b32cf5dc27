"""The records of fixed offsets, read once by a consumer that belongs to no group and commits nothing."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from secrets import token_hex
from types import TracebackType
from typing import Any, Final, Self

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from streams.broker import BrokerError, consumer_config, reason
from streams.clock import monotonic_s
from streams.ledger import Place
from streams.replay import ReplayError
from streams.replay.offsets import Span
from streams.settings import Settings

_AT_ONCE: Final = 500
_WAIT_S: Final = 0.1
#: A broker that restarts is back by then.
_SILENCE_S: Final = 90.0
#: Records of a partition that wait for the other partitions' to come in their order: above the first it is not read on,
#: and below the second it is again.
_ENOUGH: Final = 4_000
_FEW: Final = 1_000
_CLIENT: Final[dict[str, Any]] = {
    "enable.partition.eof": True,
    # A record that is gone is told of, and not passed over.
    "auto.offset.reset": "error",
    # What is fetched ahead, beside one answer of at most 4 MiB: the memory of a run does not depend on its length.
    "queued.max.messages.kbytes": 8_192,
    "queued.min.messages": 2_000,
    "fetch.max.bytes": 4_194_304,
    "fetch.message.max.bytes": 1_048_576,
    # It waits for hours between two records, where they came so.
    "max.poll.interval.ms": 86_400_000,
}


class Source:
    """Records of partitions between fixed offsets. A context manager.

    `merged`: in the order of their times over all partitions, as far as each partition's own order allows; else
    partition by partition as they come.
    """

    def __init__(self, settings: Settings, spans: Mapping[Place, Span], *, merged: bool = False) -> None:
        self._left = {place: span for place, span in spans.items() if len(span)}
        self._merged = merged
        self._waiting: dict[Place, deque[Any]] = {place: deque() for place in self._left}
        self._paused: set[Place] = set()
        config = {**consumer_config(settings, f"{settings.group}-replay-{token_hex(6)}"), **_CLIENT}
        self._consumer = Consumer(config)
        self._heard_s = 0.0

    def __enter__(self) -> Self:
        if self._left:
            self._consumer.assign([TopicPartition(p.topic, p.partition, s.first) for p, s in self._left.items()])
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._consumer.close()

    def batches(self) -> Iterator[list[Any]]:
        """Messages in offset order of their partition, until each span is read; now and then an empty list.

        Raises BrokerError, and ReplayError when records have been deleted before they were read.
        """
        return self._in_order() if self._merged else self._as_they_come()

    def _as_they_come(self) -> Iterator[list[Any]]:
        while self._left:
            yield self._fetched()

    def _in_order(self) -> Iterator[list[Any]]:
        while self._left or any(self._waiting.values()):
            while any(not self._waiting[place] for place in self._left):
                for message in self._fetched():
                    self._waiting[_place(message)].append(message)
                yield []
                self._hold_back()
            heads = {place: queue[0].timestamp()[1] for place, queue in self._waiting.items() if queue}
            if heads:
                yield [self._next_of(min(heads, key=lambda place: (heads[place], place)))]

    def _next_of(self, place: Place) -> Any:
        queue = self._waiting[place]
        message = queue.popleft()
        if place in self._paused and place in self._left and len(queue) < _FEW:
            self._paused.discard(place)
            self._consumer.resume([TopicPartition(place.topic, place.partition)])
        return message

    def _hold_back(self) -> None:
        full = [place for place in self._left if len(self._waiting[place]) > _ENOUGH and place not in self._paused]
        if full:
            self._paused.update(full)
            self._consumer.pause([TopicPartition(place.topic, place.partition) for place in full])

    def _fetched(self) -> list[Any]:
        """What comes within a moment, of the spans."""
        began_s = monotonic_s()
        try:
            messages = self._consumer.consume(_AT_ONCE, timeout=_WAIT_S)
        except KafkaException as error:
            raise BrokerError(f"Kafka would not be read: {reason(error)}") from error
        self._heard_s = 0.0 if messages else self._heard_s + monotonic_s() - began_s
        if self._heard_s > _SILENCE_S:
            raise BrokerError(f"Kafka has given no record for {_SILENCE_S:.0f} s, though there are some")
        return [message for message in messages if self._is_of_a_span(message)]

    def _is_of_a_span(self, message: Any) -> bool:
        place = _place(message)
        span = self._left.get(place)
        error = message.error()
        if error is not None:
            if error.code() == KafkaError._PARTITION_EOF:
                # Behind the last record there may be offsets that hold none: markers of transactions, what was
                # compacted away. A broker that has just become a leader may not know of all there is: then more comes.
                if span is not None and message.offset() >= span.end:
                    self._done(place)
            else:
                self._failed(place, error)
            return False
        if span is None:
            return False
        offset = message.offset()
        if offset + 1 >= span.end:
            self._done(place)
        return bool(offset < span.end)

    def _failed(self, place: Place, error: Any) -> None:
        if error.code() == KafkaError._AUTO_OFFSET_RESET:
            raise ReplayError(
                f"records of {place.topic}/{place.partition} that were to be read have been deleted meanwhile: "
                "the topic's retention has passed them; begin a new run, with --from, for what is left"
            )
        if not error.retriable() and error.code() != KafkaError._TRANSPORT:
            raise BrokerError(f"Kafka would not let {place.topic} be read: {error.str()}")

    def _done(self, place: Place) -> None:
        if self._left.pop(place, None) is not None:
            self._consumer.pause([TopicPartition(place.topic, place.partition)])


def _place(message: Any) -> Place:
    return Place(message.topic(), message.partition())
