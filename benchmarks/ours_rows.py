"""Every event of a job as a row in ClickHouse, by the product's own way, in blocks as a flush makes them."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import polars as pl

from benchmarks.ours_job import Job
from schemas.contracts import DOMAINS, Domain
from schemas.records import Batch
from sinks.clickhouse import connect, migrate
from sinks.rows import Origin, ZoneMaps
from sinks.store import Block, Part, store_records
from streams.settings import Settings


class RowsRefusedError(RuntimeError):
    """ClickHouse refused rows of the load, and every one is clean."""


class Store:
    """Rows on their way into an embedded ClickHouse: while one block is inserted, the next one gathers."""

    def __init__(self, url: str, job: Job, versions: Mapping[str, str], settings: Settings) -> None:
        """`versions`: of the territories, by jurisdiction. Makes the tables. Raises SinkError."""
        self._sink = connect(url)
        migrate(self._sink)
        self._zones = ZoneMaps(job.locator.sets)
        self._versions = versions
        self._most = settings.flush_rows
        self._gathered: dict[Domain, list[Part]] = defaultdict(list)
        self._count = 0
        self._thread = ThreadPoolExecutor(1, "sink")
        self._inserting: asyncio.Future[None] | None = None
        self._turn = asyncio.Lock()

    async def take(self, domain: Domain, batch: Batch, frame: pl.DataFrame) -> None:
        """Take the located rows of a batch of one partition. Waits while two blocks are in memory."""
        rows = frame["row"].to_numpy()
        placed = frame.with_columns(
            pl.Series("offset", batch.offsets[rows]),
            pl.Series("received_at", batch.received_ms[rows]).cast(pl.Datetime("ms", "UTC")),
            pl.lit(0, dtype=pl.Int64).alias("chunk"),
            pl.lit(1, dtype=pl.UInt8).alias("quality"),
        )
        origin = Origin(batch.topic, batch.partition)
        self._gathered[domain].append(Part(origin, batch.first_offset, batch.last_offset, placed))
        self._count += len(frame)
        if self._count >= self._most:
            await self._insert(self._most)

    async def finish(self) -> None:
        """Have everything inserted. Raises RowsRefusedError."""
        await self._insert(at_least=1)
        if self._inserting is not None:
            await self._inserting
        self._thread.shutdown()

    def close(self) -> int:
        """Close it; how many rows there are."""
        ((rows,),) = self._sink.rows("SELECT " + " + ".join(f"(SELECT count() FROM events_{one})" for one in DOMAINS))
        self._sink.close()
        return int(rows)

    async def _insert(self, at_least: int) -> None:
        async with self._turn:
            if self._inserting is not None:
                await self._inserting
            # Another may have taken them meanwhile.
            if self._count < at_least:
                return
            block = Block(events=self._gathered)
            self._gathered, self._count = defaultdict(list), 0
            self._inserting = asyncio.get_running_loop().run_in_executor(self._thread, self._store, block)

    def _store(self, block: Block) -> None:
        if store_records(block, self._sink, self._zones, self._versions):
            raise RowsRefusedError("ClickHouse refused rows")
