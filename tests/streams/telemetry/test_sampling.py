"""Samples on their way to ClickHouse: they never stop a worker, and never hold up its end."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from sinks.clickhouse import Sink
from streams.telemetry.metrics import Sample
from streams.telemetry.sampling import Sampling

_ONE = [Sample("vigie_ready", (), 1.0)]


async def until(done: Callable[[], bool]) -> None:
    """Give way until it is so. Raises TimeoutError."""
    async with asyncio.timeout(10):
        while not done():  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0.01)


def test_they_come_at_their_interval(clickhouse: Sink) -> None:
    """The first at once, then one after the other, each at its own instant."""
    now_ms = int(time.time() * 1_000)
    instants = iter(range(now_ms, now_ms + 100_000, 1_000))

    async def whole() -> None:
        sampling = Sampling(clickhouse, "one", 0.01)
        task = asyncio.create_task(sampling.run(lambda: _ONE, lambda: next(instants)))
        await until(lambda: clickhouse.rows("SELECT count() FROM worker_samples")[0][0] >= 3)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        sampling.close()

    asyncio.run(whole())
    told = clickhouse.rows("SELECT DISTINCT toUnixTimestamp64Milli(at) AS ms FROM worker_samples ORDER BY ms LIMIT 3")
    assert told == [(now_ms,), (now_ms + 1_000,), (now_ms + 2_000,)]


class _Refusing:
    """A client that cannot reach ClickHouse."""

    def __init__(self) -> None:
        self.asked = 0

    def insert_arrow(self, *arguments: Any, **rest: Any) -> None:
        self.asked += 1
        raise ConnectionResetError("away")

    def close_connections(self) -> None:
        """Nothing is kept open."""


def test_while_clickhouse_is_away_the_worker_is_seen_waiting(clickhouse: Sink) -> None:
    """Without any event it is the sample that notices; told to end, it ends at once."""

    async def whole() -> float:
        client = _Refusing()
        sink = replace(clickhouse, client=client, retry_budget_s=600.0, waiting=set())
        sampling = Sampling(sink, "one", 0.01)
        task = asyncio.create_task(sampling.run(lambda: _ONE, lambda: 1))
        await until(lambda: sink.is_waiting and client.asked >= 2)
        began_s = time.monotonic()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        sampling.close()
        return time.monotonic() - began_s

    assert asyncio.run(whole()) < 1.0


def test_what_is_refused_is_let_go(clickhouse: Sink, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table that is not there (an older database) costs samples and nothing else."""
    asked: list[int] = []

    def refused(self: Sink, table: str, rows: Any, names: str) -> None:
        asked.append(1)
        self.rows("SELECT * FROM no_such_table")

    monkeypatch.setattr(Sink, "insert_whole", refused)

    async def whole() -> None:
        sampling = Sampling(clickhouse, "one", 0.01)
        task = asyncio.create_task(sampling.run(lambda: _ONE, lambda: 1))
        await until(lambda: len(asked) >= 2)
        assert not task.done()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        sampling.close()

    asyncio.run(whole())


def test_a_statement_that_hangs_does_not_hold_up_the_end(clickhouse: Sink, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that says nothing is left alone after two seconds."""
    begun, over = threading.Event(), threading.Event()

    def hanging(self: Sink, table: str, rows: Any, names: str) -> None:
        begun.set()
        over.wait(10)

    monkeypatch.setattr(Sink, "insert_whole", hanging)

    async def whole() -> float:
        sampling = Sampling(clickhouse, "one", 0.01)
        task = asyncio.create_task(sampling.run(lambda: _ONE, lambda: 1))
        await until(begun.is_set)
        began_s = time.monotonic()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        sampling.close()
        over.set()
        return time.monotonic() - began_s

    assert asyncio.run(whole()) < 5.0
