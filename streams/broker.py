"""Talking to Kafka as an administrator: wait for it, create topics, ask for offsets. And the broker of the demo."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import contextmanager
from functools import partial
from typing import Any, Final, TypeVar

from confluent_kafka import (
    Consumer,
    KafkaError,
    KafkaException,
    Producer,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic, ResourceType  # type: ignore[attr-defined]

from schemas.contracts import ALERT_TOPIC, DEAD_LETTER_TOPIC, RAW_TOPICS
from streams.clock import monotonic_s, sleep_s
from streams.ledger import Place
from streams.settings import Settings

_T = TypeVar("_T")

_TIMEOUT_S: Final = 10.0
#: How long a flush asks whether topics are still the same.
_SHORT_TIMEOUT_S: Final = 1.0
#: What brokers answer while they learn of a topic, or of each other.
_SETTLING: Final = frozenset(
    {
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.LEADER_NOT_AVAILABLE,
    }
)
_DAY_MS: Final = 86_400_000
#: How librdkafka names the cluster of its own broker.
_IN_PROCESS: Final = "mockCluster"


class BrokerError(RuntimeError):
    """Kafka refused or stayed away; the message says what to do."""


class BrokerAwayError(BrokerError):
    """A running worker's question was not answered: the broker is away, and may come back."""


def client_config(settings: Settings) -> dict[str, Any]:
    """librdkafka's settings for these brokers."""
    config: dict[str, Any] = {
        "bootstrap.servers": settings.kafka_bootstrap,
        "security.protocol": settings.kafka_security,
        "log_level": 0,
    }
    if settings.kafka_security.startswith("SASL"):
        assert settings.kafka_password is not None
        config |= {
            "sasl.mechanisms": settings.kafka_sasl_mechanism,
            "sasl.username": settings.kafka_username,
            "sasl.password": settings.kafka_password.get_secret_value(),
        }
    if settings.kafka_ca_file:
        config["ssl.ca.location"] = str(settings.kafka_ca_file)
    return config


def consumer_config(settings: Settings, group: str) -> dict[str, Any]:
    """librdkafka's settings for a consumer that reads as the worker does, and commits nothing."""
    return {
        **client_config(settings),
        "group.id": group,
        "enable.auto.commit": False,
        # librdkafka would otherwise take a partition to end where its first open transaction begins.
        "isolation.level": "read_uncommitted",
    }


def reach(settings: Settings, timeout_s: float = _TIMEOUT_S) -> set[str]:
    """The names of the topics there are. Raises BrokerError when no broker answers."""
    try:
        found = AdminClient(client_config(settings)).list_topics(timeout=timeout_s)
    except KafkaException as error:
        raise BrokerError(
            f"Kafka at {settings.kafka_bootstrap} does not answer ({reason(error)}): "
            "start it or set VIGIE_KAFKA_BOOTSTRAP"
        ) from error
    return set(found.topics)


def leader_topic(group: str) -> str:
    """The topic by which Faust elects a leader among the workers of a group."""
    return f"{group}-__assignor-__leader"


def topics(settings: Settings) -> list[NewTopic]:
    """Every topic of the installation, as `vigie init` creates it.

    Raw topics carry the broker's time (an old event time cannot expire a record, and cannot pass for arrival). Dead
    letters keep the original's time and allow for records as large as the raw ones with their headers. Alerts are
    compacted only when raw records of their age are gone: a receiver that is away for less hears of every transition.
    """
    retention = str(int(settings.retention_days * _DAY_MS))
    raw = {"message.timestamp.type": "LogAppendTime", "retention.ms": retention, "cleanup.policy": "delete"}
    largest = str(max(2 * settings.max_record_bytes, 16_777_216))
    dead = {"cleanup.policy": "delete", "retention.ms": str(30 * _DAY_MS), "max.message.bytes": largest}
    alerts = {"cleanup.policy": "compact", "min.compaction.lag.ms": retention}

    def topic(name: str, partitions: int, config: dict[str, str]) -> NewTopic:
        return NewTopic(name, num_partitions=partitions, replication_factor=settings.replication, config=config)

    return [
        *(topic(name, settings.partitions, raw) for name in RAW_TOPICS.values()),
        topic(DEAD_LETTER_TOPIC, settings.partitions, dead),
        topic(ALERT_TOPIC, 1, alerts),
        topic(leader_topic(settings.group), 1, {"cleanup.policy": "delete"}),
    ]


def create_topics(settings: Settings) -> list[str]:
    """Create the topics that are missing; those that exist stay as they are. Returns the names created."""
    created = []
    admin = AdminClient(client_config(settings))  # must outlive its futures
    futures = admin.create_topics(topics(settings), operation_timeout=30)
    for name, future in futures.items():
        try:
            future.result(timeout=60)
            created.append(name)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise BrokerError(f"Kafka would not create {name}: {reason(error)}") from error
    return sorted(created)


def without_broker_time(settings: Settings) -> list[str]:
    """Raw topics that do not carry the broker's time, which lateness and the clock checks rely on."""
    try:
        return _when_settled(lambda: _without_broker_time(AdminClient(client_config(settings))))
    except KafkaException as error:
        raise BrokerError(f"Kafka would not describe its topics: {reason(error)}") from error


def _when_settled(ask: Callable[[], _T]) -> _T:
    """The answer once brokers agree on what is asked for; not all know of a new topic, or a new leader, at once."""
    until = monotonic_s() + _TIMEOUT_S
    while True:
        try:
            return ask()
        except KafkaException as error:
            if error.args[0].code() not in _SETTLING or monotonic_s() > until:
                raise
            sleep_s(0.1)


def _without_broker_time(admin: AdminClient) -> list[str]:
    wanted = [ConfigResource(ResourceType.TOPIC, name) for name in RAW_TOPICS.values()]
    wrong = []
    for resource, future in admin.describe_configs(wanted, request_timeout=_TIMEOUT_S).items():
        entry = future.result(timeout=2 * _TIMEOUT_S).get("message.timestamp.type")
        if entry is not None and entry.value != "LogAppendTime":
            wrong.append(resource.name)
    return sorted(wrong)


def end_offsets(settings: Settings) -> dict[Place, tuple[int, int]]:
    """First and next offset of every partition of the raw topics. Raises BrokerAwayError."""
    consumer = Consumer(consumer_config(settings, f"{settings.group}-offsets"))
    try:
        found = consumer.list_topics(timeout=_TIMEOUT_S).topics
        return {
            Place(name, partition): _when_settled(partial(_bounds, consumer, TopicPartition(name, partition)))
            for name in RAW_TOPICS.values()
            if name in found
            for partition in found[name].partitions
        }
    except KafkaException as error:
        raise BrokerAwayError(f"Kafka would not tell its offsets: {reason(error)}") from error
    finally:
        consumer.close()


def _bounds(consumer: Consumer, partition: TopicPartition) -> tuple[int, int]:
    first, end = consumer.get_watermark_offsets(partition, timeout=_TIMEOUT_S)
    return first, end


def committed_offset(settings: Settings, place: Place) -> int | None:
    """The offset that the group has committed for a partition, if any. Raises BrokerAwayError."""
    consumer = Consumer(consumer_config(settings, settings.group))
    try:
        (found,) = consumer.committed([TopicPartition(place.topic, place.partition)], timeout=_TIMEOUT_S)
    except KafkaException as error:
        raise BrokerAwayError(f"Kafka would not tell what is committed: {reason(error)}") from error
    finally:
        consumer.close()
    return found.offset if found.offset >= 0 else None


def first_offset_from(settings: Settings, place: Place, offset: int) -> int | None:
    """The offset of the first record that Kafka has from `offset` on; None when it gives none within seconds.

    Raises BrokerAwayError when no broker answers.
    """
    config = consumer_config(settings, f"{settings.group}-offsets")
    consumer = Consumer({**config, "auto.offset.reset": "earliest"})
    try:
        consumer.assign([TopicPartition(place.topic, place.partition, offset)])
        found = consumer.poll(_TIMEOUT_S)
        if found is None:
            return None
        if (error := found.error()) is not None:
            raise BrokerError(f"Kafka would not be read: {error.str()}")
        return found.offset()
    except KafkaException as error:
        raise BrokerAwayError(f"Kafka would not be read: {reason(error)}") from error
    finally:
        consumer.close()


def topic_ids(settings: Settings) -> dict[str, str]:
    """The ids Kafka gave the raw topics when they were created; "" where brokers give none (before 2.8, in process).

    Raises BrokerAwayError when no broker answers.
    """
    admin = AdminClient(client_config(settings))
    try:
        cluster = admin.list_topics(timeout=_TIMEOUT_S)
        names = [name for name in RAW_TOPICS.values() if name in cluster.topics]
        if (cluster.cluster_id or "").startswith(_IN_PROCESS):
            # It does not know the question, and closes the connection.
            return dict.fromkeys(names, "")
        described = admin.describe_topics(TopicCollection(names), request_timeout=_TIMEOUT_S)
        ids = {name: future.result(timeout=2 * _TIMEOUT_S).topic_id for name, future in described.items()}
    except (KafkaException, FutureTimeoutError) as error:
        told = reason(error) if isinstance(error, KafkaException) else "no answer in time"
        raise BrokerAwayError(f"Kafka would not tell the ids of its topics: {told}") from error
    return {name: str(given) if given is not None else "" for name, given in ids.items()}


class TopicIds:
    """Asks for the ids of topics again and again, over one connection."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._admin: AdminClient | None = None

    async def ask(self, names: Collection[str]) -> dict[str, str]:
        """The ids of these topics, by name: of those that are there, and that Kafka tells within a second.

        Only for topics that have ids: see `topic_ids`.
        """
        if not names:
            return {}
        if self._admin is None:
            self._admin = AdminClient(client_config(self._settings))
        described = self._admin.describe_topics(TopicCollection(list(names)), request_timeout=_SHORT_TIMEOUT_S)
        told = await asyncio.gather(*map(asyncio.wrap_future, described.values()), return_exceptions=True)
        found = {n: one for n, one in zip(described, told, strict=True) if not isinstance(one, BaseException)}
        return {name: str(one.topic_id) for name, one in found.items() if one.topic_id is not None}


def reason(error: KafkaException) -> str:
    """What librdkafka says, without its file names and codes."""
    inner = error.args[0] if error.args else error
    return inner.str() if isinstance(inner, KafkaError) else str(inner)


def wait_for(
    what: str,
    attempt: Callable[[], Any],
    errors: tuple[type[Exception], ...],
    *,
    timeout_s: float,
    say: Callable[[str], None],
) -> Any:
    """Call `attempt` until it raises none of `errors`, saying so, or raise the last one after `timeout_s`."""
    until = monotonic_s() + timeout_s
    pause = 0.5
    while True:
        try:
            return attempt()
        except errors as error:
            left = until - monotonic_s()
            if left <= 0:
                raise
            say(f"waiting for {what}, {left:.0f} s left: {error}")
            sleep_s(min(pause, left))
            pause = min(2 * pause, 5.0)


@contextmanager
def in_process_broker() -> Iterator[str]:
    """librdkafka's broker inside this process, in memory: its host:port. It ends with the block.

    It keeps at most 100 000 records or 5 MB per partition, creates topics of four partitions when they are named, and
    serves one member per group: enough for a demo and for tests of one worker.
    """
    producer = Producer({"test.mock.num.brokers": 1, "bootstrap.servers": "", "log_level": 0})
    brokers: Mapping[int, Any] = producer.list_topics(timeout=_TIMEOUT_S).brokers
    (broker,) = brokers.values()
    names = [*RAW_TOPICS.values(), DEAD_LETTER_TOPIC, ALERT_TOPIC]
    for name in names:
        producer.list_topics(name, timeout=_TIMEOUT_S)
    try:
        yield f"{broker.host}:{broker.port}"
    finally:
        producer.purge()
        del producer
