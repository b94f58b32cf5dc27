"""Publish records to a broker, each delivery confirmed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from streams.simulation.records import Record

Confirmation = Callable[[KafkaError | None, Message], None]

#: How long a wait lasts before `stop` is asked again, and how often an unpaced publication asks.
_SLICE_S: Final = 0.05
_EVERY: Final = 256
_DELIVERY_TIMEOUT_MS: Final = 30_000
_PROGRESS_EVERY: Final = 1_000


class PublishError(Exception):
    """A record could not be delivered; the message says what to do."""


def publish(
    records: Iterable[Record],
    bootstrap: str,
    *,
    pace: Callable[[int], float] | None,
    stop: Callable[[], bool],
    on_progress: Callable[[int], None],
    client: Mapping[str, Any] | None = None,
    on_confirmed: Callable[[int], None] | None = None,
) -> int:
    """Publish records in their order and wait until the broker has confirmed every one; returns how many.

    `pace(at_ms)` is how many seconds remain until a record due at that event time may go out; it is asked again while
    waiting. Without it, records go out as fast as the broker takes them. When `stop()` turns true, a record already
    drawn is still published, no other is drawn, and what is under way is confirmed: the truth about the records drawn
    is the truth about those published. `client` holds librdkafka settings for brokers that ask who is there.
    `on_progress` is told now and then, and at the end, how many have been handed over; `on_confirmed` the number of
    each record, from 0 in their order, once the broker has it. Raises PublishError when a delivery fails.

    Keys are partitioned with murmur2, as Java clients and aiokafka do, so one asset's records meet in one partition.
    """
    failures: list[KafkaError] = []

    def confirmed(error: KafkaError | None, _message: Message, number: int = 0) -> None:
        if error is not None:
            failures.append(error)
        elif on_confirmed is not None:
            on_confirmed(number)

    producer = _producer(bootstrap, client or {})
    sent = 0
    try:
        for record in _until(records, stop):
            while pace is not None and not stop() and (wait := pace(record.at_ms)) > 0:
                producer.poll(min(wait, _SLICE_S))
                _check(failures, bootstrap)
            confirmation = confirmed if on_confirmed is None else partial(confirmed, number=sent)
            _hand_over(producer, record, confirmation, failures, bootstrap)
            sent += 1
            if sent % _EVERY == 0 or pace is not None:
                producer.poll(0)
                _check(failures, bootstrap)
            if sent % _PROGRESS_EVERY == 0:
                on_progress(sent)
        while producer.flush(_SLICE_S):
            _check(failures, bootstrap)
    except KafkaException as exc:
        raise PublishError(_advice(exc.args[0], bootstrap)) from exc
    finally:
        if failures:
            producer.purge()
    _check(failures, bootstrap)
    on_progress(sent)
    return sent


def _producer(bootstrap: str, client: Mapping[str, Any]) -> Producer:
    settings: dict[str, Any] = {
        **client,
        "bootstrap.servers": bootstrap,
        "acks": "all",
        "enable.idempotence": True,
        "partitioner": "murmur2_random",
        "delivery.timeout.ms": _DELIVERY_TIMEOUT_MS,
        "linger.ms": 50,
        "compression.type": "lz4",
        # Errors reach us through the confirmations; the library's own log would write over a live table.
        "log_level": 0,
    }
    try:
        return Producer(settings)
    except KafkaException as exc:
        raise PublishError(_advice(exc.args[0], bootstrap)) from exc


def _until(records: Iterable[Record], stop: Callable[[], bool]) -> Iterator[Record]:
    """Records up to `stop`, which is asked before each is drawn."""
    source = iter(records)
    while not stop():
        try:
            yield next(source)
        except StopIteration:
            return


def _hand_over(
    producer: Producer, record: Record, confirmed: Confirmation, failures: list[KafkaError], bootstrap: str
) -> None:
    while True:
        try:
            producer.produce(record.topic, record.value, record.key, on_delivery=confirmed)
            return
        except BufferError:
            # The producer's own queue is full: let the broker catch up.
            producer.poll(_SLICE_S)
            _check(failures, bootstrap)


def _check(failures: list[KafkaError], bootstrap: str) -> None:
    if failures:
        raise PublishError(_advice(failures[0], bootstrap))


def _advice(error: KafkaError, bootstrap: str) -> str:
    code = error.code()
    if code in (KafkaError._MSG_TIMED_OUT, KafkaError._ALL_BROKERS_DOWN, KafkaError._TRANSPORT, KafkaError._RESOLVE):
        return f"no confirmation from the broker at {bootstrap}: check that it runs and that the address is right"
    if code in (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION):
        return f"the broker at {bootstrap} lacks a raw topic ({error.str()}): run `vigie init` first"
    if code in (KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.CLUSTER_AUTHORIZATION_FAILED):
        return f"the broker at {bootstrap} refuses to be written to ({error.str()}): allow Write and IdempotentWrite"
    return f"the broker at {bootstrap} did not take a record: {error.str()}; check the broker's log"
