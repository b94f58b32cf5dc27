"""Replays and retries in ClickHouse: one row per run, which its process keeps alive, and which refused records were
sent again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Literal

import polars as pl
import pyarrow as pa

from sinks.clickhouse import Sink
from sinks.queries import ask

RunKind = Literal["replay", "retry"]
#: `failed`: what it sent last may still have been on its way.
RunState = Literal["running", "interrupted", "failed", "done"]

_INSTANT: Final = pa.timestamp("ms", tz="UTC")
_OLDEST: Final = pl.CompatLevel.oldest()


@dataclass(frozen=True)
class Run:
    """A run as its row tells it. `selection`, `plan` and `cut` are JSON; `process` names who keeps it alive.

    `age_s`: seconds since the row was written, by ClickHouse's clock; 0 for a row that has not been.
    """

    run_id: str
    kind: RunKind
    state: RunState
    who: str
    process: str
    started_at: datetime
    source: str
    targets: tuple[str, ...]
    selection: str
    plan: str
    cut: str
    read: int = 0
    sent: int = 0
    left_out: Mapping[str, int] = field(default_factory=dict)
    ended_at: datetime | None = None
    problem: str = ""
    updated_at: datetime | None = None
    age_s: float = 0.0


@dataclass(frozen=True, order=True)
class Refused:
    """Where a record was refused, and its broker time there in milliseconds since 1970."""

    topic: str
    partition: int
    offset: int
    received_ms: int


def store_run(run: Run, sink: Sink, number: str) -> None:
    """Write a run's row anew. `number` is another one for each writing. Raises SinkError."""
    texts = ("run_id", "kind", "state", "who", "process", "source", "selection", "plan", "cut", "problem")
    columns: dict[str, Any] = {name: pa.array([getattr(run, name)], pa.string()) for name in texts}
    columns |= {name: pa.array([getattr(run, name)], _INSTANT) for name in ("started_at", "ended_at")}
    columns |= {name: pa.array([getattr(run, name)], pa.uint64()) for name in ("read", "sent")}
    columns["targets"] = pa.array([list(run.targets)], pa.list_(pa.string()))
    columns["left_out"] = pa.array([sorted(run.left_out.items())], pa.map_(pa.string(), pa.uint64()))
    sink.insert_whole("replay_runs", pa.table(columns), f"{run.run_id}|{number}")


def run_of(run_id: str, sink: Sink) -> Run | None:
    """The run of that id; None when there is none. Raises SinkError."""
    found = [_run(row) for row in ask(sink, "replay_run", run_id=run_id)]
    return found[0] if found else None


def unsettled_retries(sink: Sink, but: str) -> list[Run]:
    """Retries of which it is not known what they sent last, without that one; the oldest first. Raises SinkError."""
    return [_run(row) for row in ask(sink, "unsettled_retries", run_id=but)]


def _run(row: Mapping[str, Any]) -> Run:
    return Run(**{**row, "targets": tuple(row["targets"]), "left_out": dict(row["left_out"])})


def store_retried(refused: Sequence[tuple[Refused, int]], run_id: str, sink: Sink) -> None:
    """Write down refused records that were sent again, each with how many times that makes. Raises SinkError."""
    if not refused:
        return
    rows = [(one.topic, one.partition, one.offset, one.received_ms, retry) for one, retry in refused]
    schema = {
        "topic": pl.String(),
        "partition": pl.UInt16(),
        "offset": pl.Int64(),
        "received_at": pl.Int64(),
        "retry": pl.UInt8(),
    }
    table = pl.DataFrame(rows, schema=schema, orient="row").with_columns(
        pl.col("received_at").cast(pl.Datetime("ms", "UTC")), pl.lit(run_id).alias("run_id")
    )
    names = ";".join(f"{one.topic}/{one.partition}/{one.offset}@{one.received_ms}" for one, _ in refused)
    sink.insert_whole("dead_letter_retries", table.to_arrow(compat_level=_OLDEST), f"{run_id}|{names}")


def retried(topics: Iterable[str], sink: Sink) -> set[Refused]:
    """The refused records of these topics that have been sent again. Raises SinkError."""
    return {Refused(**row) for row in ask(sink, "retried_letters", topics=sorted(topics))}


def stored_identities(table: str, first_ms: int, last_ms: int, crcs: Sequence[int], sink: Sink) -> set[tuple[str, str]]:
    """(source, event_id) of stored events observed in that span, of all whose event_id has one of these CRC32: of those
    that are asked for, and of a few others. Raises SinkError."""
    rows = ask(sink, "stored_identities", table=table, first_ms=first_ms, last_ms=last_ms, crcs=list(crcs))
    return {(row["source"], row["event_id"]) for row in rows}
