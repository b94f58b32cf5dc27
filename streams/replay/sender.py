"""Records to Kafka, each confirmed, in the order they are given: a record that is not taken has none behind it.

The producer is idempotent and has one request under way at a time. With several, a broker that does not know the
producer yet would take the second one of a partition though it had refused the first. Nothing times out by itself, for
the same reason: what waits is given up as a whole.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Final, Self

from confluent_kafka import KafkaError, KafkaException, Producer

from schemas.records import Header
from sinks.errors import hint
from streams.broker import BrokerError, client_config
from streams.clock import monotonic_s
from streams.replay import ReplayError
from streams.settings import Settings

_SLICE_S: Final = 0.05
#: How long a client that goes on no more may take to say why.
_REASON_S: Final = 10.0
#: A broker that restarts is back by then.
_PATIENCE_S: Final = 90.0
_BATCH_BYTES: Final = 1_000_000
_CLIENT: Final[dict[str, Any]] = {
    "acks": "all",
    "enable.idempotence": True,
    "enable.gapless.guarantee": True,
    "max.in.flight.requests.per.connection": 1,
    "message.timeout.ms": 0,
    # Whoever has no partition of its own has that of its key, as Java clients, aiokafka and our senders have it.
    "partitioner": "murmur2_random",
    "linger.ms": 20,
    "compression.type": "lz4",
    # What may wait: the memory of a run does not depend on its length.
    "queue.buffering.max.messages": 20_000,
    "queue.buffering.max.kbytes": 32_768,
    # The topic's own limit is the one that counts.
    "message.max.bytes": 200_000_000,
    "delivery.report.only.error": True,
}


class Sender:
    """One run's producer. A context manager; what has not been flushed when it ends is given up.

    `most_bytes` is what the topics take at once (max.message.bytes), the smallest of them: records are sent together up
    to that. `meanwhile` is called while it waits, and may raise.
    """

    def __init__(self, settings: Settings, most_bytes: int, meanwhile: Callable[[], None] = lambda: None) -> None:
        config = {**client_config(settings), **_CLIENT, "batch.size": min(_BATCH_BYTES, most_bytes)}
        self._producer = Producer(config, logger=_silent())
        self._meanwhile = meanwhile
        self._failure: tuple[KafkaError, str] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if len(self._producer):
            self._producer.purge()
            with suppress(KafkaException):
                self._producer.poll(0)

    def send(
        self,
        topic: str,
        partition: int | None,
        key: bytes | None,
        value: bytes | None,
        headers: Sequence[Header],
        at_ms: int = 0,
    ) -> None:
        """Hand over a record; `at_ms` 0 or less leaves its time to the broker or the client, and without a partition
        its key decides. Waits while too much is under way. Raises BrokerError, ReplayError."""
        rest: dict[str, Any] = {} if partition is None else {"partition": partition}
        rest |= {"on_delivery": self._refused, "timestamp": max(at_ms, 0), "headers": list(headers)}
        since_s, left = monotonic_s(), -1
        while True:
            try:
                return self._told(lambda: self._producer.produce(topic, value, key, **rest))
            except BufferError:
                since_s, left = self._wait(since_s, left)

    def serve(self, seconds: float = 0.0) -> None:
        """Take in what has been confirmed or refused meanwhile, for at most so long. Raises BrokerError,
        ReplayError."""
        self._told(lambda: self._producer.poll(seconds))

    def _told(self, call: Callable[[], object]) -> None:
        """Call the client, and raise what it has told of, by then or in it."""
        try:
            call()
        except KafkaException as error:
            told: KafkaError = error.args[0]
            # It says first that it goes on no more, perhaps more than once, and then which record it was.
            is_fatal, until_s = told.fatal() or told.code() == KafkaError._FATAL, monotonic_s() + _REASON_S
            while is_fatal and self._failure is None and monotonic_s() < until_s:
                with suppress(KafkaException):
                    self._producer.poll(_SLICE_S)
            self._failure = self._failure or (told, "the topic")
        if self._failure is not None:
            raise _problem(*self._failure)

    def flush(self) -> None:
        """Wait until everything is confirmed. Raises BrokerError, ReplayError."""
        since_s, left = monotonic_s(), -1
        self.serve()
        while len(self._producer):
            since_s, left = self._wait(since_s, left)

    def _wait(self, since_s: float, left: int) -> tuple[float, int]:
        """Wait a moment. Takes and returns since when no fewer are under way, and how many."""
        self._told(lambda: self._producer.flush(_SLICE_S))
        self._meanwhile()
        now_s, under_way = monotonic_s(), len(self._producer)
        if under_way != left:
            return now_s, under_way
        if now_s - since_s > _PATIENCE_S:
            raise BrokerError(f"Kafka has confirmed none of {under_way} records for {_PATIENCE_S:.0f} s")
        return since_s, left

    def _refused(self, error: KafkaError | None, message: Any) -> None:
        if error is not None and self._failure is None:
            self._failure = error, f"{message.topic()}/{message.partition()}"


def _silent() -> logging.Logger:
    """Takes what the client's library says by itself: the same reaches us as errors, which are told in words."""
    found = logging.getLogger("vigie.replay.producer")
    found.addHandler(logging.NullHandler())
    found.propagate = False
    return found


def _problem(error: KafkaError, where: str) -> Exception:
    if error.code() == KafkaError.MSG_SIZE_TOO_LARGE:
        return ReplayError(f"{where} does not take a record as large as one that came: raise its max.message.bytes")
    advice = hint(error)
    return BrokerError(f"Kafka would not take a record for {where}: {error.str()}{'; ' if advice else ''}{advice}")
