"""Metrics kept in ClickHouse, for towns that have no Prometheus: the table `worker_samples`.

It is also how a worker without events notices that ClickHouse is away. A sample that cannot be stored is tried again
like any insert, and while it is nothing else is sampled; it never stops the worker.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import pyarrow as pa

from sinks.clickhouse import Sink, SinkError
from streams.log import logger
from streams.telemetry.metrics import DECLARED, Sample

TABLE: Final = "worker_samples"
#: A statement that is under way when the worker ends is waited for so long: the embedded engine must not be closed
#: under it, and a server that hangs must not hold up the end.
_LEAVE_S: Final = 2.0


class Sampling:
    """Stores samples of one worker. `owner` names it among all workers of all times."""

    def __init__(self, sink: Sink, owner: str, interval_s: float) -> None:
        self._log = logger("sampling")
        self._over = threading.Event()
        self._sink = sink.until(self._over)
        self._owner = owner
        self._interval_s = interval_s
        self._thread = ThreadPoolExecutor(1, "sampling")

    async def run(self, gather: Callable[[], Sequence[Sample]], now_ms: Callable[[], int]) -> None:
        """Gather and store, for ever."""
        loop = asyncio.get_running_loop()
        while True:
            storing = loop.run_in_executor(self._thread, self._store, gather(), now_ms())
            try:
                await asyncio.shield(storing)
            except asyncio.CancelledError:
                self._over.set()
                await asyncio.wait([storing], timeout=_LEAVE_S)
                raise
            await asyncio.sleep(self._interval_s)

    def _store(self, samples: Sequence[Sample], at_ms: int) -> None:
        try:
            self._sink.insert_whole(TABLE, rows(samples, self._owner, at_ms), f"{self._owner}:{at_ms}")
        except SinkError as error:
            if not self._over.is_set():
                self._log.warning("a sample is lost", error=str(error))

    def close(self) -> None:
        """Try no more."""
        self._over.set()
        self._thread.shutdown(wait=False, cancel_futures=True)


def rows(samples: Iterable[Sample], owner: str, at_ms: int) -> pa.Table:
    """The samples as rows of `worker_samples`; `at_ms` is milliseconds since 1970."""
    given = list(samples)
    labels = [list(zip(DECLARED[s.metric].labels, s.labels, strict=True)) for s in given]
    return pa.table(
        {
            "at": pa.array([at_ms] * len(given), pa.timestamp("ms", "UTC")),
            "worker": pa.array([owner] * len(given), pa.string()),
            "metric": pa.array([s.metric for s in given], pa.string()),
            "labels": pa.array(labels, pa.map_(pa.string(), pa.string())),
            "value": pa.array([float(s.value) for s in given], pa.float64()),
        }
    )
