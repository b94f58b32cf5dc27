"""A place in a consumer group that is taken again after an error, and under a name that the group knows.

After an answer that aiokafka has no way for, its coordinator waits until whoever reads records asks for the error, and
joins again then. Faust reads from the fetcher itself and never asks: such a worker held its partitions and read nothing
until its watchdog ended it.

Only the leader of a group watches for new partitions. Who comes back under its name goes on with what the group had
agreed, and Kafka tells it, also if it led, that somebody else leads: then nobody would watch.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from aiokafka.consumer import consumer
from aiokafka.consumer.group_coordinator import GroupCoordinator

from streams.log import logger

_PAUSE_S: Final = 1.0


class Coordinator(GroupCoordinator):  # type: ignore[misc] # it has no types
    """Says what happened, and joins again after a pause; what lasts is a matter of the watchdog. Who has a name watches
    for new partitions, whoever leads."""

    async def _push_error_to_user(self, exc: BaseException) -> None:
        logger("membership").error("joining the group again", group=self.group_id, error=repr(exc))
        await asyncio.wait([self._closing], timeout=_PAUSE_S)

    async def _on_join_complete(self, *args: Any) -> None:
        if self._group_instance_id is not None and self._group_subscription is None:  # type: ignore[has-type]
            self._group_subscription = set(self._subscription.subscription.topics)
            self._metadata_snapshot = self._get_metadata_snapshot()
        await super()._on_join_complete(*args)


def take_places_again() -> None:
    """Have every consumer of this process take its place in the group again."""
    consumer.GroupCoordinator = Coordinator
