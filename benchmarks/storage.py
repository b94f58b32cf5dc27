"""What an event takes on disk: in Kafka, and in ClickHouse before and after its parts are merged.

    python -m benchmarks.storage [--quick] [--events N] [--seed 1] [--keep]

Records are those of the simulated city, several hours of all its assets: how well a column compresses depends on what
the same asset said before, so neither random values nor a few minutes would do.

Kafka       bytes of the log a record, key and headers of the format included: each record sent alone, as slow
            publishers do; in full batches; and the same with lz4. One copy.
ClickHouse  bytes on disk a row, by table: as the worker left it (background merges as far as they came), and after
            OPTIMIZE FINAL, as parts are once merged. Beside events: window rows, states, snapshots, everything else.

Writes results/latest-storage.json and, with --keep, a dated copy.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import click
import polars as pl
from confluent_kafka import Producer
from rich.console import Console
from rich.table import Table

from benchmarks import kept
from benchmarks.installation import BenchmarkError, installed, two_cores
from benchmarks.load import LoadError, Wire, city, publish
from benchmarks.process import ProcessError, end_when_told
from benchmarks.stored import answers
from tests.support.kafka import Kafka, KafkaError

EVENTS: Final = 800_000
QUICK_EVENTS: Final = 40_000
#: Records sent alone cost a request each.
ALONE: Final = 20_000
#: How records are sent, by name: librdkafka's settings, and how many of them at most.
WAYS: Final[Mapping[str, tuple[Mapping[str, Any], int | None]]] = {
    "alone": ({"batch.num.messages": 1, "linger.ms": 0}, ALONE),
    "batched": ({"linger.ms": 50}, None),
    "batched, lz4": ({"linger.ms": 50, "compression.type": "lz4"}, None),
}
_PARTITIONS: Final = 4
_WORK_S: Final = 1_800.0
_PARTS: Final = (
    "SELECT table, sum(rows) AS rows, sum(bytes_on_disk) AS bytes, count() AS parts FROM system.parts "
    "WHERE active AND database = currentDatabase() GROUP BY table HAVING rows > 0 ORDER BY table"
)
_HOURS: Final = "SELECT dateDiff('second', min(observed_at), max(observed_at)) / 3600 AS hours FROM events_lighting"
#: What a territory takes once, however many events there are.
_ONCE: Final = ("zones", "assets", "migrations")
#: Records that are queued at once, and how long the broker may take for them.
_QUEUED: Final = 50_000
_FLUSH_S: Final = 120.0


def in_kafka(kafka: Kafka, records: Sequence[Wire]) -> dict[str, dict[str, float]]:
    """Bytes of the log a record for each way of sending, on topics of their own. Raises BenchmarkError."""
    found = {}
    for number, (way, (settings, most)) in enumerate(WAYS.items()):
        topic = f"storage-{number}"
        kafka.create_topic(topic, partitions=_PARTITIONS, config={"message.timestamp.type": "LogAppendTime"})
        sent = records[:most]
        _send(kafka.bootstrap, topic, sent, settings)
        size = log_bytes(kafka.output.parent / "data", topic)
        payload = sum(len(record.key) + len(record.value) for record in sent)
        found[way] = {
            "records": len(sent),
            "bytes": round(size / len(sent), 1),
            "payload": round(payload / len(sent), 1),
        }
    return found


def _send(bootstrap: str, topic: str, records: Sequence[Wire], settings: Mapping[str, Any]) -> None:
    failed: list[str] = []

    def refused(error: object, _: object) -> None:
        if error is not None:
            failed.append(str(error))

    client = {"bootstrap.servers": bootstrap, "acks": "all", "enable.idempotence": True, "log_level": 3}
    client |= {"partitioner": "murmur2_random", "delivery.report.only.error": True, "on_delivery": refused}
    producer = Producer({**client, **settings})
    for first in range(0, len(records), _QUEUED):
        for record in records[first : first + _QUEUED]:
            producer.produce(topic, record.value, record.key)
        if producer.flush(_FLUSH_S) or failed:
            raise BenchmarkError(f"records were not taken within {_FLUSH_S:.0f} s: {failed[:1]}")


def log_bytes(data: Path, topic: str) -> int:
    """Bytes of a topic's segments; indexes apart, which Kafka allocates ahead."""
    return sum(file.stat().st_size for folder in data.glob(f"{topic}-*") for file in folder.glob("*.log"))


def in_clickhouse(database: Path, folder: Path) -> dict[str, dict[str, float]]:
    """Rows, and bytes a row before and after merging, of each table that has rows. Raises ProcessError."""
    (before,) = answers(database, [_PARTS], folder / "before")
    tables = before["table"].cast(pl.String).to_list()
    *_, after = answers(database, [*(f"OPTIMIZE TABLE {name} FINAL" for name in tables), _PARTS], folder / "after")
    merged = {row["table"]: row for row in after.with_columns(pl.col("table").cast(pl.String)).iter_rows(named=True)}
    return {
        row["table"]: {
            "rows": row["rows"],
            "parts": row["parts"],
            "bytes": row["bytes"],
            "merged_rows": merged[row["table"]]["rows"],
            "merged_bytes": merged[row["table"]]["bytes"],
        }
        for row in before.with_columns(pl.col("table").cast(pl.String)).iter_rows(named=True)
        if row["table"] in merged
    }


def an_event(tables: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Bytes for one event, over all domains: its own row before and after merging, and everything beside events."""
    own = {name: figures for name, figures in tables.items() if name.startswith("events_")}
    count = sum(figures["rows"] for figures in own.values())
    if not count:
        raise BenchmarkError("no event was stored")
    beside = [figures for name, figures in tables.items() if name not in own and name not in _ONCE]
    return {
        "row": round(sum(figures["bytes"] for figures in own.values()) / count, 1),
        "row_merged": round(sum(figures["merged_bytes"] for figures in own.values()) / count, 1),
        "beside_merged": round(sum(figures["merged_bytes"] for figures in beside) / count, 1),
    }


def table(found: Mapping[str, Any]) -> Table:
    """Kafka's ways of sending, then ClickHouse's tables."""
    out = Table(title=f"Bytes on disk, {found['events']:,} events of {found['hours']:.1f} hours")
    for name in ("where", "rows", "bytes a row", "merged"):
        out.add_column(name, justify="left" if name == "where" else "right")
    for way, one in found["kafka"].items():
        out.add_row(f"Kafka, {way}", f"{one['records']:,}", f"{one['bytes']:,.0f}", "")
    out.add_section()
    for name, one in found["clickhouse"].items():
        merged = one["merged_bytes"] / one["merged_rows"]
        out.add_row(name, f"{one['rows']:,}", f"{one['bytes'] / one['rows']:,.1f}", f"{merged:,.1f}")
    return out


@click.command()
@click.option("--quick", is_flag=True, help=f"{QUICK_EVENTS} events: does it run.")
@click.option("--events", type=click.IntRange(min=1_000), help=f"Records.  [default: {EVENTS}]")
@click.option("--seed", default=1, show_default=True, help="Seed of the territory and of its city.")
@click.option("--keep", is_flag=True, help="Keep a dated copy of the results.")
def main(quick: bool, events: int | None, seed: int, keep: bool) -> None:
    """Measure what an event takes on disk."""
    end_when_told()
    console = Console()
    events = events or (QUICK_EVENTS if quick else EVENTS)
    try:
        cores = two_cores()
        head = kept.head(quick)
        with tempfile.TemporaryDirectory(prefix="vigie-storage-", ignore_cleanup_errors=True) as name:
            folder = Path(name)
            records = city(folder / "territory", events=events, seed=seed)
            with installed(folder, cores, folder / "territory") as place:
                kafka = in_kafka(place.kafka, records)
                place.init()
                publish(place.kafka.bootstrap, records)
                with place.worker() as worker:
                    worker.until_stored(events, _WORK_S)
                    worker.process.stop()
                    summary = worker.summary()
            if summary["stored"] != events:
                raise BenchmarkError(f"{summary['stored']} of {events} records were stored; all are clean")
            hours = (_HOURS, "SELECT uniqExact(window_start, layer, zone_code, metric) AS totals FROM window_rows")
            span, totals = answers(place.database, hours, folder / "span")
            tables = in_clickhouse(place.database, folder)
    except (BenchmarkError, KafkaError, LoadError, ProcessError) as error:
        console.print(str(error), markup=False, style="red")
        sys.exit(1)
    found = {
        "events": events, "hours": round(float(span["hours"][0]), 2), "window_totals": int(totals["totals"][0]),
        "kafka": kafka, "clickhouse": tables, "bytes_an_event": an_event(tables),
    }  # fmt: skip
    console.print(table(found))
    kept.write("storage", {**head, "seed": seed, **found}, keep)


if __name__ == "__main__":
    main()
