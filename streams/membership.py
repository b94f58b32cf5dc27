"""A place in a consumer group that is taken again after an error.

After an answer that aiokafka has no way for, its coordinator waits until whoever reads records asks for the error, and
joins again then. Faust reads from the fetcher itself and never asks: such a worker held its partitions and read nothing
until its watchdog ended it.
"""

from __future__ import annotations

import asyncio
from typing import Final

from aiokafka.consumer import consumer
from aiokafka.consumer.group_coordinator import GroupCoordinator

from streams.log import logger

_PAUSE_S: Final = 1.0


class Coordinator(GroupCoordinator):  # type: ignore[misc] # it has no types
    """Says what happened, and joins again after a pause. What lasts is a matter of the watchdog."""

    async def _push_error_to_user(self, exc: BaseException) -> None:
        logger("membership").error("joining the group again", group=self.group_id, error=repr(exc))
        await asyncio.wait([self._closing], timeout=_PAUSE_S)


def rejoin_after_errors() -> None:
    """Have every consumer of this process take its place in the group again."""
    consumer.GroupCoordinator = Coordinator
