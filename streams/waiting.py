"""Ways of waiting in the event loop, and how long."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Final

#: A small batch costs ten milliseconds, of whose records there are few: nine parts of ten are left to others.
_RESTING: Final = 9
#: Times the setting, at the most.
_LONGEST: Final = 5


async def whole(work: Coroutine[Any, Any, None]) -> None:
    """Do it to its end even when the loop around it is cancelled meanwhile.

    Half a batch or half a flush would leave state that counts records which are neither stored nor read again.
    """
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await task
        raise


async def wait(event: asyncio.Event, seconds: float) -> bool:
    """Wait for an event, at most so long. Whether it came."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True


def linger_s(setting_s: float, spent_s: float) -> float:
    """How long small batches wait for company, after so long spent on those before them. All in seconds.

    A batch costs about ten milliseconds however small it is: where many partitions bring a little each, working it off
    at once would take a whole core.
    """
    return min(max(setting_s, _RESTING * spent_s), _LONGEST * setting_s)
