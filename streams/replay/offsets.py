"""Where partitions begin and end, and what is known of the topics. Asked as an administrator: no consumer is in the
way."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Final

from confluent_kafka import KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, OffsetSpec, ResourceType  # type: ignore[attr-defined]

from schemas.codec import MOST_BYTES
from schemas.contracts import ALERT_TOPIC, DEAD_LETTER_TOPIC, RAW_TOPICS
from sinks.errors import Treatment, known
from streams.broker import BrokerError, client_config, reason
from streams.clock import monotonic_s, sleep_s
from streams.ledger import Place
from streams.replay.selection import Selection
from streams.settings import Settings

_TIMEOUT_S: Final = 20.0
#: A broker that restarts is back by then.
_PATIENCE_S: Final = 90.0
_PAUSE_S: Final = 0.5
_OURS: Final = (*RAW_TOPICS.values(), DEAD_LETTER_TOPIC, ALERT_TOPIC)


@dataclass(frozen=True)
class Span:
    """Offsets of one partition from `first` to before `end`. Not each of them needs to hold a record."""

    first: int
    end: int

    def __len__(self) -> int:
        return max(0, self.end - self.first)


class Offsets:
    """Questions about offsets. Every method raises BrokerError."""

    def __init__(self, settings: Settings) -> None:
        self._config = client_config(settings)
        self._admin = AdminClient(self._config)

    def places(self, topic: str) -> list[Place]:
        """The partitions of a topic."""
        try:
            there = self._admin.list_topics(timeout=_TIMEOUT_S).topics
        except KafkaException as error:
            raise BrokerError(f"Kafka would not tell its topics: {reason(error)}") from error
        if topic not in there:
            near = get_close_matches(topic, there, n=1)
            more = "run `vigie init`" if topic in _OURS else f"there is {near[0]}" if near else "look at its name"
            raise BrokerError(f"Kafka has no topic {topic}: {more}")
        return [Place(topic, number) for number in sorted(there[topic].partitions)]

    def starts(self, places: Iterable[Place]) -> dict[Place, int]:
        """The first offset that each still has."""
        return self._ask({place: OffsetSpec.earliest() for place in places})  # type: ignore[no-untyped-call]

    def ends(self, places: Iterable[Place]) -> dict[Place, int]:
        """The next offset of each, records of open transactions included."""
        return self._ask({place: OffsetSpec.latest() for place in places})  # type: ignore[no-untyped-call]

    def at(self, places: Iterable[Place], at_ms: int) -> dict[Place, int]:
        """The first offset of each whose record has that broker time or a later one; none where there is no such."""
        found = self._ask({place: OffsetSpec.for_timestamp(at_ms) for place in places})
        return {place: offset for place, offset in found.items() if offset >= 0}

    def _ask(self, wanted: Mapping[Place, Any]) -> dict[Place, int]:
        if not wanted:
            return {}
        asked = {TopicPartition(place.topic, place.partition): spec for place, spec in wanted.items()}
        until_s = monotonic_s() + _PATIENCE_S
        while True:
            try:
                answers = self._admin.list_offsets(asked, request_timeout=_TIMEOUT_S)
                return {
                    Place(one.topic, one.partition): answer.result(timeout=2 * _TIMEOUT_S).offset
                    for one, answer in answers.items()
                }
            except (KafkaException, FutureTimeoutError) as error:
                # A broker that is away, has been, or has just become a leader is asked again: errors that do not pass
                # are known as such.
                entry = known(error)
                if (entry is not None and entry.treatment is not Treatment.RETRY) or monotonic_s() > until_s:
                    told = reason(error) if isinstance(error, KafkaException) else "no answer in time"
                    raise BrokerError(f"Kafka would not tell its offsets: {told}") from error
            sleep_s(_PAUSE_S)
            # The former one asks with what it knew of the leaders, for minutes.
            self._admin = AdminClient(self._config)

    def setting(self, topic: str, name: str) -> str | None:
        """A setting of a topic; None where the broker does not tell it."""
        try:
            (answer,) = self._admin.describe_configs(
                [ConfigResource(ResourceType.TOPIC, topic)], request_timeout=_TIMEOUT_S
            ).values()
            entry = answer.result(timeout=2 * _TIMEOUT_S).get(name)
        except (KafkaException, FutureTimeoutError):
            # Not everybody who may read a topic may read its settings.
            return None
        return None if entry is None else entry.value

    def most_bytes(self, topics: Iterable[str]) -> int:
        """How many bytes each of the topics takes at once; what Kafka takes unless it is told otherwise, where it is
        not known."""
        found = (self.setting(topic, "max.message.bytes") for topic in topics)
        return min(int(one) if one else MOST_BYTES for one in found)

    def expired_ms(self, topic: str, now_ms: int) -> int:
        """Records that bear a time before this one are deleted from the topic as soon as they are there, which is a
        matter where it keeps their own time; the least there is where it keeps them for ever."""
        kept_ms = int(self.setting(topic, "retention.ms") or -1)
        return now_ms - kept_ms if kept_ms >= 0 and not self.has_broker_time(topic) else -(2**62)

    def has_broker_time(self, topic: str) -> bool:
        """Whether records bear the time at which the broker took them, which rises with the offset."""
        return self.setting(topic, "message.timestamp.type") == "LogAppendTime"


def spans(offsets: Offsets, selection: Selection) -> dict[Place, Span]:
    """The offsets to read for a selection, their ends as they are now. Raises BrokerError.

    Where times are the senders' they need not rise with the offset: such partitions are read to their end, and each
    record is looked at.
    """
    places = offsets.places(selection.topic)
    strange = sorted(set(selection.partitions) - {place.partition for place in places})
    if strange:
        raise BrokerError(f"{selection.topic} has {len(places)} partitions, from 0 on, and no {strange[0]}")
    if selection.partitions:
        places = [place for place in places if place.partition in selection.partitions]
    starts, ends = offsets.starts(places), offsets.ends(places)
    if selection.from_ms is not None:
        starts = _reached(offsets.at(places, selection.from_ms), starts, ends)
    if selection.to_ms is not None and offsets.has_broker_time(selection.topic):
        ends = _reached(offsets.at(places, selection.to_ms), starts, ends)
    return {place: Span(starts[place], max(starts[place], ends[place])) for place in places}


def _reached(at: Mapping[Place, int], starts: Mapping[Place, int], ends: Mapping[Place, int]) -> dict[Place, int]:
    """The offset of an instant in each partition, its end where nothing is that late."""
    return {place: min(max(at.get(place, end), starts[place]), end) for place, end in ends.items()}


def check_target(offsets: Offsets, source: str, target: str, allowed: Collection[str]) -> list[str]:
    """Whether a topic may take what is replayed of another. Returns what is worth knowing about it.

    Raises ValueError when it must not be written to, and BrokerError when it cannot be.
    """
    if target == source:
        raise ValueError(f"{target} is what is read: a replay goes into another topic")
    if target not in allowed:
        there = f"it names {', '.join(sorted(allowed))}" if allowed else "it names none"
        raise ValueError(f"{target} is not among the topics that replays may write to: VIGIE_REPLAY_TOPICS ({there})")
    few, enough = len(offsets.places(target)), len(offsets.places(source))
    if few < enough:
        raise BrokerError(
            f"{target} has {few} partitions and {source} has {enough}: every record keeps its partition's number, so "
            f"create {target} with {enough} partitions"
        )
    if "compact" in (offsets.setting(target, "cleanup.policy") or ""):
        raise BrokerError(f"{target} is compacted: of records with one key only the last would stay; take another")
    if offsets.has_broker_time(target):
        return [f"{target} gives records its own time (LogAppendTime); the original one is in the header of the origin"]
    return []
