"""A process that is told to stop while it tells a receiver of an alert, for tests/streams/test_notify.py.

    python -m tests.streams.telling URL

It stops, as the worker does, when its standard input ends.
"""

from __future__ import annotations

import asyncio
import sys

from faust.types import TP

from tests.streams.test_notify import batch, notifier, transition


async def never(tp: TP, next_offset: int, generation: int) -> bool:
    raise AssertionError("nothing was told, so nothing is to be committed")


async def main(url: str) -> None:
    one = notifier(url)
    one.take(TP("city.alerts", 0), batch(0, transition(1)), 1)
    telling = asyncio.create_task(one.run(never))
    await asyncio.to_thread(sys.stdin.read)
    telling.cancel()
    await asyncio.gather(telling, return_exceptions=True)
    one.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
