"""What Kafka is asked for: topics that keep what they hold for as long as somebody may need it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any, Final

import pytest
from confluent_kafka import KafkaError, KafkaException

from schemas.contracts import ALERT_TOPIC, RAW_TOPICS
from streams import broker
from streams.broker import TopicIds, topics
from streams.settings import load

_DAY_MS: Final = 86_400_000


def configured(**settings: float) -> dict[str, dict[str, str]]:
    """The configuration of each topic that `vigie init` creates."""
    return {topic.topic: dict(topic.config or {}) for topic in topics(load(**settings))}


def test_alerts_are_compacted_only_when_raw_records_of_their_age_are_gone() -> None:
    """A receiver that is away hears of *firing* before *resolved*, for as long as its outage may last."""
    for days in (0.5, 7.0, 90.0):
        config = configured(retention_days=days)
        assert config[ALERT_TOPIC] == {"cleanup.policy": "compact", "min.compaction.lag.ms": str(int(days * _DAY_MS))}
        assert {config[raw]["retention.ms"] for raw in RAW_TOPICS.values()} == {str(int(days * _DAY_MS))}


def answering(*codes: int) -> Callable[[], int]:
    """A question that fails with these codes, one after the other; then the answer is how often it was asked."""
    asked: list[int] = []

    def ask() -> int:
        asked.append(len(asked))
        if len(asked) <= len(codes):
            raise KafkaException(KafkaError(codes[len(asked) - 1]))
        return len(asked)

    return ask


def test_brokers_are_asked_again_until_they_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that has just been started does not know at once what it leads; what else it says is an answer."""
    monkeypatch.setattr(broker, "sleep_s", lambda seconds: None)
    assert broker._when_settled(answering(KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.UNKNOWN_TOPIC_OR_PART)) == 3
    with pytest.raises(KafkaException, match="TOPIC_AUTHORIZATION_FAILED"):
        broker._when_settled(answering(KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.TOPIC_AUTHORIZATION_FAILED))
    monkeypatch.setattr(broker, "_TIMEOUT_S", -1.0)
    with pytest.raises(KafkaException, match="NOT_LEADER_FOR_PARTITION"):
        broker._when_settled(answering(KafkaError.NOT_LEADER_FOR_PARTITION))


def test_a_broker_that_is_away_tells_no_ids_and_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """A flush asks in passing: it does not wait for an answer, and nothing is asked where nothing is to be known."""
    monkeypatch.setattr(broker, "_SHORT_TIMEOUT_S", 0.05)
    ids = TopicIds(load(kafka_bootstrap="127.0.0.1:1"))
    assert asyncio.run(ids.ask([])) == {}
    assert ids._admin is None
    assert asyncio.run(ids.ask(["city.raw.sensor"])) == {}


def test_a_topic_of_which_no_id_is_told_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither where a broker knows no ids nor where the question about this one topic fails: it is left out."""

    def describe(names: Any, request_timeout: float) -> dict[str, Future[Any]]:
        told: dict[str, Future[Any]] = {name: Future() for name in ("a", "b", "c")}
        told["a"].set_result(SimpleNamespace(topic_id="mLio4JOpRduW5T0g8bMU5A"))
        told["b"].set_result(SimpleNamespace(topic_id=None))
        told["c"].set_exception(KafkaException(KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART)))
        return told

    monkeypatch.setattr(broker, "AdminClient", lambda _: SimpleNamespace(describe_topics=describe))
    assert asyncio.run(TopicIds(load()).ask(["a", "b", "c"])) == {"a": "mLio4JOpRduW5T0g8bMU5A"}
