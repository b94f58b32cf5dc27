"""Headers that say which run sent a record, and what record it is a copy of."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from schemas.records import Header
from sinks.dead_letters import MOST_PARTITION
from sinks.replays import Refused

RUN_HEADER: Final = "vigie_replay_run"
ORIGIN_HEADER: Final = "vigie_replay_origin"

_ORIGIN: Final = re.compile(rb"([A-Za-z0-9._-]{1,249})/(\d{1,9})/(\d{1,18})@(-?\d{1,18})")


def marks(run: bytes, topic: str, partition: int, offset: int, at_ms: int) -> tuple[Header, Header]:
    """The two headers. The origin is `topic/partition/offset@milliseconds since 1970`, by the broker's time."""
    return (RUN_HEADER, run), (ORIGIN_HEADER, b"%s/%d/%d@%d" % (topic.encode(), partition, offset, at_ms))


def origin(headers: Sequence[Header], run: bytes) -> Refused | None:
    """Where a record that this run has sent comes from; None for records of others.

    The last of each name count: a record that is replayed again keeps the headers of the time before.
    """
    last = dict(headers)
    if last.get(RUN_HEADER) != run:
        return None
    found = _ORIGIN.fullmatch(last.get(ORIGIN_HEADER) or b"")
    if found is None or int(found[2]) > MOST_PARTITION:
        return None
    return Refused(found[1].decode(), *map(int, found.groups()[1:]))
