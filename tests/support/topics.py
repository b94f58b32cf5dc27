"""What a group has committed and what its workers have told, asked of Kafka again and again without a new client."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final, TypeVar

from confluent_kafka import Consumer, ConsumerGroupState, ConsumerGroupTopicPartitions, KafkaException, TopicPartition
from confluent_kafka import Message as KafkaMessage
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]

from schemas.codec import decode_values
from schemas.contracts import ALERT_TOPIC, DEAD_LETTER_TOPIC, RAW_TOPICS, contract
from schemas.writers import own_writers
from tests.support.oracles import Place

T = TypeVar("T")

_PATIENCE_S: Final = 30.0


class Topics:
    """The topics of one broker, which must all be there. Messages are kept once they have been read."""

    def __init__(self, bootstrap: str) -> None:
        client: dict[str, Any] = {"bootstrap.servers": bootstrap, "log_level": 0}
        self._admin = AdminClient(client)
        self._consumer = Consumer({**client, "group.id": "oracles", "enable.auto.commit": False})
        self._read: dict[str, list[KafkaMessage]] = {ALERT_TOPIC: [], DEAD_LETTER_TOPIC: []}
        there = self._admin.list_topics(timeout=_PATIENCE_S).topics
        self._places = {
            topic: [TopicPartition(topic, number, 0) for number in there[topic].partitions]
            for topic in (*RAW_TOPICS.values(), *self._read)
        }
        self._consumer.assign([place for topic in self._read for place in self._places[topic]])

        self.starts: dict[Place, int] = {}
        """The first offset that is still there, where it is not 0."""

    def close(self) -> None:
        self._consumer.close()

    def ends(self, *topics: str) -> dict[Place, int]:
        """The next offset of each partition that holds something."""
        latest = OffsetSpec.latest()  # type: ignore[no-untyped-call]
        asked = {place: latest for topic in topics for place in self._places[topic]}
        # Not the consumer: on its connection the question would wait for its fetches.

        def ask() -> dict[Place, int]:
            answers = self._admin.list_offsets(asked, request_timeout=_PATIENCE_S)
            return {(p.topic, p.partition): answer.result(timeout=_PATIENCE_S).offset for p, answer in answers.items()}

        return {place: end for place, end in answered(ask).items() if end}

    def forget(self) -> None:
        """Delete everything in the raw topics, as retention would: they begin at a later offset from now on."""
        self.starts = self.ends(*RAW_TOPICS.values())
        deleted = [TopicPartition(topic, number, end) for (topic, number), end in self.starts.items()]
        for future in self._admin.delete_records(deleted).values():
            future.result(timeout=_PATIENCE_S)

    def committed(self, group: str, *topics: str) -> dict[Place, int]:
        """What a group has committed on the topics: the next offset to read, where that is above zero."""

        def ask() -> Any:
            (answer,) = self._admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group)]).values()
            return answer.result(timeout=_PATIENCE_S).topic_partitions

        found = answered(ask)
        return {(str(p.topic), int(p.partition)): int(p.offset) for p in found if p.offset > 0 and p.topic in topics}

    def members(self, group: str) -> int:
        """How many members a group has; 0 while they sort out who gets what."""
        (answer,) = self._admin.describe_consumer_groups([group]).values()
        found = answer.result(timeout=_PATIENCE_S)
        return len(found.members) if found.state == ConsumerGroupState.STABLE else 0

    def transitions(self) -> list[dict[str, Any]]:
        """Everything on the alert topic, as values of the Alert contract."""
        values: list[bytes | None] = [message.value() for message in self._messages(ALERT_TOPIC)]
        alert = contract("Alert")
        found = decode_values(alert, values, own_writers(alert))
        assert found.rejects.is_empty(), f"not alerts: {found.rejects}"
        return list(found.frame.drop("row").iter_rows(named=True))

    def dead_letters(self) -> frozenset[tuple[str, int, int]]:
        """Where the dead letters come from: topic, partition, offset."""
        return frozenset(map(_position, self._messages(DEAD_LETTER_TOPIC)))

    def _messages(self, topic: str) -> list[KafkaMessage]:
        until = time.monotonic() + _PATIENCE_S
        end = sum(self.ends(topic).values())
        while len(self._read[topic]) < end:
            if time.monotonic() > until:
                raise TimeoutError(f"{end - len(self._read[topic])} records of {topic} could not be read")
            for message in self._consumer.consume(end, timeout=0.1):
                if message.error() is None:
                    self._read[str(message.topic())].append(message)
        return self._read[topic]


def answered(ask: Callable[[], T]) -> T:
    """The answer of a broker, asked again while it has to find itself first, as it has where it got no processor."""
    until = time.monotonic() + _PATIENCE_S
    while True:
        try:
            return ask()
        except KafkaException:
            if time.monotonic() > until:
                raise
            time.sleep(0.1)


def _position(letter: KafkaMessage) -> tuple[str, int, int]:
    headers: dict[str, Any] = dict(letter.headers() or ())
    topic, partition, offset = (
        str(headers[f"__connect.errors.{name}"], "utf-8") for name in ("topic", "partition", "offset")
    )
    return topic, int(partition), int(offset)
