"""Which dead letters would be accepted now: judged by the worker's own stages, with today's territories and
settings."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Final
from zlib import crc32

import numpy as np
import polars as pl

from processors.duplicates import IDENTITY
from schemas.contracts import RAW_TOPICS, Domain
from schemas.records import Batch, Rows
from schemas.rejects import Reason
from sinks.clickhouse import Sink
from sinks.replays import Refused, stored_identities
from streams.clock import Clock
from streams.intake import Intake
from streams.replay.letters import Letter
from streams.replay.provenance import RUN_HEADER, origin

MOST_RETRIES: Final = 2

RETRIED_ENOUGH: Final = f"retried {MOST_RETRIES} times already"
SENT_BEFORE: Final = "sent again before"
STORED: Final = "stored meanwhile"
NO_VALUE: Final = "its value was not kept"
NO_TOPIC: Final = "of a topic that is not read"
REFUSED_BY_CLICKHOUSE: Final = "refused by ClickHouse (--reason sink tries them)"
STILL: Final = "still "
NOW: Final = "now "

#: Letters of a topic judged at once: a question to ClickHouse each time, whose numbers fit into an address.
_AT_ONCE: Final = 2_000
_AT_ONCE_BYTES: Final = 8_388_608
_DOMAIN_OF: Final[dict[str, Domain]] = {topic: domain for domain, topic in RAW_TOPICS.items()}


class Hope:
    """Sorts letters into those that would be accepted now and the others.

    A record is judged as if the broker took it now. Not foreseen: what ClickHouse says of its row. So those that it has
    refused are left alone unless they are asked for: many at once, all refused again, would stop a worker.
    """

    def __init__(
        self,
        intake: Intake,
        sink: Sink,
        clock: Clock,
        before: Collection[Refused],
        *,
        chunk: int,
        tries_sink: bool,
    ) -> None:
        """`before`: what has been sent again already. `chunk`: how many letters of a topic duplicates are sought in.
        `tries_sink`: those that ClickHouse has refused are asked for."""
        self._intake = intake
        self._sink = sink
        self._clock = clock
        self._before = before
        self._chunk = chunk
        self._tries_sink = tries_sink
        self._met: dict[str, _Met] = {}

    def sorted(self, letters: Iterable[Letter]) -> Iterator[tuple[Letter, str | None]]:
        """Each letter, and why it is not to be sent; None when it is. Those of one partition stay in their order.

        Raises RegistryAwayError, SinkError.
        """
        pending: dict[str, list[Letter]] = {}
        sizes: dict[str, int] = {}
        for letter in letters:
            topic, why = letter.told.topic, self._is_hopeless(letter)
            if why is not None:
                yield letter, why
                continue
            pending.setdefault(topic, []).append(letter)
            sizes[topic] = sizes.get(topic, 0) + len(letter.value or b"")
            if len(pending[topic]) >= _AT_ONCE or sizes[topic] >= _AT_ONCE_BYTES:
                yield from self._judge(topic, pending.pop(topic))
                sizes[topic] = 0
        for topic, rest in pending.items():
            yield from self._judge(topic, rest)

    def _is_hopeless(self, letter: Letter) -> str | None:
        """What is known without looking into the record."""
        if letter.told.topic not in _DOMAIN_OF:
            return NO_TOPIC
        if letter.told.retries >= MOST_RETRIES:
            return RETRIED_ENOUGH
        if letter.told.reason == Reason.DUPLICATE:
            # The stages would only find it out where its original is near.
            return STILL + Reason.DUPLICATE
        if letter.told.reason == Reason.SINK and not self._tries_sink:
            return REFUSED_BY_CLICKHOUSE
        return None if letter.told.has_value else NO_VALUE

    def _judge(self, topic: str, letters: Sequence[Letter]) -> Iterator[tuple[Letter, str | None]]:
        domain = _DOMAIN_OF[topic]
        count, now_ms = len(letters), self._clock.now_ms()
        records = Rows([one.key for one in letters], [one.value for one in letters], [()] * count)
        batch = Batch(topic, 0, np.arange(count), np.full(count, now_ms), [records])
        events, refused = self._intake.would_admit(batch, domain)
        why: list[str | None] = [None] * count
        for row, reason in refused.select("row", "reason").iter_rows():
            why[row] = _refused(letters[row], reason)
        met = self._met.setdefault(topic, _Met(self._chunk))
        for row, identity in events.select("row", IDENTITY).iter_rows():
            if not met.is_first(identity, _root(letters[row])):
                why[row] = _refused(letters[row], Reason.DUPLICATE)
        for row in self._stored(domain, events):
            why[row] = STORED
        for row, letter in enumerate(letters):
            # Judged all the same: the event of another letter may be the one that was sent with this.
            if letter.refused in self._before:
                why[row] = SENT_BEFORE
        yield from zip(letters, why, strict=True)

    def _stored(self, domain: Domain, events: pl.DataFrame) -> list[int]:
        """Rows of events that came another way since."""
        if events.is_empty():
            return []
        observed = events["observed_at"].cast(pl.Int64)
        first_ms, last_ms = int(observed.min()), int(observed.max())  # type: ignore[arg-type]
        crcs = sorted({crc32(one.encode()) for one in events["event_id"]})
        there = stored_identities(f"events_{domain}", first_ms, last_ms, crcs, self._sink)
        named = events.select("row", "source", "event_id").iter_rows()
        return [row for row, source, event_id in named if (source, event_id) in there]


class _Met:
    """The events of a topic's letters, each with the refused record that it was first met in: of the last letters, as
    many as `chunk` at least."""

    def __init__(self, chunk: int) -> None:
        self._chunk = chunk
        self._open: dict[int, Refused] = {}
        self._previous: dict[int, Refused] = {}

    def is_first(self, identity: int, root: Refused) -> bool:
        """Whether no other refused record had this event."""
        if len(self._open) >= self._chunk:
            self._open, self._previous = {}, self._open
        known = self._open.get(identity) or self._previous.get(identity)
        if known is None:
            self._open[identity] = root
        return known is None or known == root


def _refused(letter: Letter, reason: str) -> str:
    """What is said of a letter whose record would be refused today for that reason."""
    return (STILL if reason == letter.told.reason else NOW) + reason


def _root(letter: Letter) -> Refused:
    """The refused record that a letter is about: where a retry of it was refused, the one that was retried."""
    run = dict(letter.told.headers).get(RUN_HEADER)
    former = origin(letter.told.headers, run) if run and letter.told.retries else None
    return former or letter.refused
