"""What Kafka is asked for: topics that keep what they hold for as long as somebody may need it."""

from __future__ import annotations

from typing import Final

from schemas.contracts import ALERT_TOPIC, RAW_TOPICS
from streams.broker import topics
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
