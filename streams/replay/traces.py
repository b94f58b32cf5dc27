"""What a run that was cut short has sent: read from Kafka itself, by the headers it left."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from schemas.records import Header
from sinks.replays import Refused
from streams.clock import sleep_s
from streams.ledger import Place
from streams.replay.offsets import Offsets, Span
from streams.replay.provenance import origin
from streams.replay.source import Source
from streams.settings import Settings

#: What a process had handed to the network when it died is with the broker by then.
_SETTLED_S: Final = 1.0


def created_anew(offsets: Offsets, behind: Mapping[Place, int]) -> list[Place]:
    """Partitions that end before these offsets, which once they did not: their topic is another one. Raises
    BrokerError."""
    return sorted(place for place, end in offsets.ends(behind).items() if end < behind[place])


def gone(offsets: Offsets, behind: Mapping[Place, int]) -> list[Place]:
    """Partitions of which records behind these offsets have been deleted already. Raises BrokerError."""
    return sorted(place for place, first in offsets.starts(behind).items() if first > behind[place])


def traces(
    settings: Settings, offsets: Offsets, run_id: str, behind: Mapping[Place, int]
) -> Iterator[tuple[Refused, Sequence[Header]]]:
    """Where the records come from that a run has sent to these partitions, from those offsets on; and their headers.

    Looks until nothing of the run has come for a moment. Raises BrokerError.
    """
    run, first, looks, found = run_id.encode(), dict(behind), 0, 0
    while looks < 2 or found:
        if looks:
            sleep_s(_SETTLED_S)
        ends, found, looks = offsets.ends(first), 0, looks + 1
        with Source(settings, {place: Span(first[place], ends[place]) for place in first}) as source:
            for batch in source.batches():
                for message in batch:
                    headers = message.headers() or ()
                    came_from = origin(headers, run)
                    if came_from is not None:
                        found += 1
                        yield came_from, headers
        first = ends
