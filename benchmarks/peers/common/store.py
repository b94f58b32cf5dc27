"""Every event as a row in ClickHouse."""

from __future__ import annotations

from typing import Any, Final

import clickhouse_connect
import numpy as np
import pyarrow as pa

from benchmarks.peers.common.contracts import Contract, Record, topic_of
from benchmarks.peers.common.job import Job
from benchmarks.peers.common.places import Places

#: Rows an insert should have at least: ClickHouse asks for tens of thousands.
BATCH_ROWS: Final = 20_000


class Store:
    """A table for each domain. What clickhouse-connect raises is passed on."""

    def __init__(self, dsn: str, jobs: dict[str, Job]) -> None:
        """Connect to `chdb:///PATH` (or a server) and make the tables."""
        self._client: Any = clickhouse_connect.get_client(dsn=dsn)
        self._jobs = jobs
        for domain, job in jobs.items():
            self._client.command(events_ddl(f"events_{domain}", job.contract))

    def insert(self, domain: str, rows: list[Record]) -> None:
        """Insert records that also have their "zones", "partition" and "offset"; they are durable on return."""
        job = self._jobs[domain]
        table = events_table(job.contract, job.places, topic_of(domain), rows)
        self._client.insert_arrow(f"events_{domain}", table, settings={"async_insert": 0})

    def count(self) -> int:
        """Rows in all tables."""
        return sum(int(self._client.command(f"SELECT count() FROM events_{domain}")) for domain in self._jobs)


def events_table(contract: Contract, places: Places, topic: str, rows: list[Record]) -> pa.Table:
    """Rows as one Arrow table, columns as in `events_ddl`."""
    columns: dict[str, Any] = {
        column.name: pa.array([row[column.name] for row in rows], column.arrow) for column in contract.columns
    }
    names = pa.array([f"{layer}:{code}" for layer, code in places.zones])
    zones = np.array([row["zones"] for row in rows], dtype=np.int32)
    starts = np.arange(len(rows) + 1, dtype=np.int32) * zones.shape[1]
    # Of few values: as a dictionary they are not copied for each row.
    columns["zones"] = pa.ListArray.from_arrays(pa.array(starts), pa.DictionaryArray.from_arrays(zones.ravel(), names))
    columns["topic"] = pa.repeat(topic, len(rows))
    columns["partition"] = pa.array([row["partition"] for row in rows], pa.int32())
    columns["offset"] = pa.array([row["offset"] for row in rows], pa.int64())
    return pa.table(columns)


def events_ddl(table: str, contract: Contract) -> str:
    fields = "".join(f"`{column.name}` {column.clickhouse}, " for column in contract.columns)
    return (
        f"CREATE TABLE {table} ({fields}zones Array(LowCardinality(String)), topic LowCardinality(String), "
        "`partition` Int32, `offset` Int64) ENGINE = MergeTree PARTITION BY toDate(observed_at) "
        "ORDER BY (asset_id, observed_at, topic, `partition`, `offset`)"
    )
