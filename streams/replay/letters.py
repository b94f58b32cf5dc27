"""The dead letters there are, each refused record once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from heapq import heappush, heappushpop
from typing import Any, Final

from confluent_kafka import TIMESTAMP_CREATE_TIME

from schemas.contracts import DEAD_LETTER_TOPIC
from sinks.dead_letters import Told, told
from sinks.replays import Refused
from streams.replay.forward import Show, Standing
from streams.replay.offsets import Offsets, spans
from streams.replay.selection import Selection
from streams.replay.source import Source
from streams.settings import Settings

#: The bits of an offset in a number that stands for an offset and a time.
_OFFSET_BITS: Final = 48


@dataclass(frozen=True)
class Letter:
    """A dead letter: the record as it was refused, and what is told of that. `at_ms` is the broker's time of the record
    where it was refused, in milliseconds since 1970; or, where the topic gives dead letters a time of its own, that."""

    key: bytes | None
    value: bytes | None
    at_ms: int
    told: Told
    has_its_time: bool = True

    @property
    def refused(self) -> Refused:
        """Where and when it was refused, which no other record was."""
        at_ms = self.at_ms if self.has_its_time else 0
        return Refused(self.told.topic, self.told.partition, self.told.offset, at_ms)


@dataclass(frozen=True)
class Wanted:
    """Which dead letters: of these reasons or all, of these topics or all, of records that the broker had received from
    `from_ms` to before `to_ms` (milliseconds since 1970)."""

    reasons: tuple[str, ...] = ()
    topics: tuple[str, ...] = ()
    from_ms: int | None = None
    to_ms: int | None = None

    def takes(self, letter: Letter) -> bool:
        return (
            (not self.reasons or letter.told.reason in self.reasons)
            and (not self.topics or letter.told.topic in self.topics)
            and (self.from_ms is None or letter.at_ms >= self.from_ms)
            and (self.to_ms is None or letter.at_ms < self.to_ms)
        )


@dataclass
class Reading:
    """What was met on the way: letters that came again, and records that are no dead letters of ours."""

    repeated: int = 0
    strange: int = 0


def letters(
    settings: Settings,
    offsets: Offsets,
    wanted: Wanted,
    met: Reading,
    show: Show,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[Letter]:
    """The dead letters that are wanted, in their order of each partition, each refused record once: they come at least
    once. Raises BrokerError, ReplayError.

    Memory: a number for each letter that is wanted, about 60 bytes.
    """
    parts = spans(offsets, Selection(DEAD_LETTER_TOPIC, from_ms=wanted.from_ms))
    seen: dict[tuple[str, int], set[int]] = {}
    read = given = passed = 0
    everything, reached = sum(map(len, parts.values())), {place.partition: s.first for place, s in parts.items()}
    with Source(settings, parts) as source:
        for batch in source.batches():
            if stop():
                return
            for message in batch:
                passed += message.offset() + 1 - reached[message.partition()]
                reached[message.partition()] = message.offset() + 1
                letter = letter_of(message)
                if letter is None:
                    met.strange += 1
                elif wanted.takes(letter):
                    known = seen.setdefault((letter.told.topic, letter.told.partition), set())
                    number = letter.refused.received_ms << _OFFSET_BITS | letter.told.offset
                    if number in known:
                        met.repeated += 1
                    else:
                        known.add(number)
                        given += 1
                        yield letter
            read += len(batch)
            show(Standing(passed, everything, read, given))


def letter_of(message: Any) -> Letter | None:
    """A message of the dead-letter topic as a letter; None when it is none of ours."""
    found = told(message.headers() or ())
    if found is None:
        return None
    kind, at_ms = message.timestamp()
    return Letter(message.key(), message.value(), at_ms, found, kind == TIMESTAMP_CREATE_TIME)


@dataclass
class Group:
    """Letters that are alike: how many, and the first and last broker time of their records."""

    records: int = 0
    first_ms: int = 2**62
    last_ms: int = 0

    def add(self, letter: Letter) -> None:
        self.records += 1
        self.first_ms, self.last_ms = min(self.first_ms, letter.at_ms), max(self.last_ms, letter.at_ms)


@dataclass
class Stats:
    """Letters by (reason, topic, how often they were retried)."""

    groups: dict[tuple[str, str, int], Group] = field(default_factory=dict)

    def add(self, letter: Letter) -> None:
        key = letter.told.reason, letter.told.topic, letter.told.retries
        self.groups.setdefault(key, Group()).add(letter)

    @property
    def records(self) -> int:
        return sum(group.records for group in self.groups.values())

    def by_reason(self) -> Counter[str]:
        found: Counter[str] = Counter()
        for (reason, _, _), group in self.groups.items():
            found[reason] += group.records
        return found


def newest(found: Iterator[Letter], most: int) -> list[Letter]:
    """The last `most` of these letters by the broker's time of their records, the newest first."""
    heap: list[tuple[int, int, Letter]] = []
    for number, letter in enumerate(found):
        # Keys and values are not shown, so they need not be kept.
        one = (letter.at_ms, number, Letter(None, None, letter.at_ms, letter.told))
        if len(heap) < most:
            heappush(heap, one)
        else:
            heappushpop(heap, one)
    return [letter for _, _, letter in sorted(heap, reverse=True)]
