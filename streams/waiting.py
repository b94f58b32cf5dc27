"""Two ways of waiting in the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


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
