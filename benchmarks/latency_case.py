"""One load through one worker: when each row could be read, when each alarm's webhook came."""

from __future__ import annotations

import base64
import json
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import polars as pl
from confluent_kafka import Message

from benchmarks.figures import NEVER, Ints, first_at, spread
from benchmarks.installation import BenchmarkError, Cores, DiaryWorker, Installation, installed
from benchmarks.phases import Phases
from benchmarks.process import Process, cpu_s, memory_mib, module, started
from benchmarks.reader import TABLES, Reader
from benchmarks.stored import answers
from schemas.codec import decode_values
from schemas.contracts import contract
from schemas.writers import own_writers
from tests.support.gateway import gateway
from tests.support.kafka import pinned
from tests.support.pipeline import alert_messages
from tests.support.receiver import Answer, Received, WebhookReceiver

Through = Literal["embedded", "gateway"]

ALERTS: Final = contract("Alert")
#: A producer whose records left so much later than they were due did not hold its rate.
BEHIND_MS: Final = 50.0
_MAKE_S: Final = 300.0
#: How long after the last record a worker may still be catching up.
_CATCH_UP_S: Final = 120.0
_SECRET: Final = "whsec_" + base64.b64encode(b"a benchmark's secret, not secret").decode()


@dataclass(frozen=True)
class Case:
    """A load and the settings that it meets: those that differ from what ships, and how many partitions a topic has."""

    name: str
    rate: int
    phases: Phases
    alarms: int
    through: Through = "embedded"
    settings: Mapping[str, object] = field(default_factory=dict)
    partitions: int = 4


class Timed(WebhookReceiver):
    """A receiver that notes when each request was there, in milliseconds since 1970."""

    def __init__(self) -> None:
        self.arrived: list[tuple[int, Received]] = []
        super().__init__()

    def take(self, received: Received) -> Answer:
        self.arrived.append((time.time_ns() // 1_000_000, received))
        return super().take(received)

    def firing(self) -> dict[tuple[str, str], int]:
        """When the first word of each firing alert came, by rule and asset."""
        found: dict[tuple[str, str], int] = {}
        for at_ms, request in self.arrived:
            alert = json.loads(request.body)["alerts"][0]
            if alert["status"] == "firing":
                found.setdefault((alert["labels"]["alertname"], alert["labels"].get("asset_id", "")), at_ms)
        return found

    def has_told(self, alarms: int) -> bool:
        """Whether so many alerts have been told."""
        return len(self.arrived) >= alarms and len(self.firing()) >= alarms


Reading = Mapping[tuple[str, int], tuple[Sequence[int], Sequence[int]]]


def answered(notes: Sequence[Mapping[str, Any]]) -> Reading:
    """From the diary: by table and partition, when inserts were answered and the last offset of each."""
    found: dict[tuple[str, int], tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
    for note in notes:
        for partition, offset in note["reached"]:
            instants, offsets = found[note["table"], partition]
            instants.append(note["at_ms"])
            offsets.append(offset)
    return found


def readable_at(rows: pl.DataFrame, seen: Reading) -> Ints:
    """When each row (`table`, `partition`, `offset`) could be read; NEVER where it was not."""
    at = np.full(len(rows), NEVER, np.int64)
    offsets, number = rows["offset"].to_numpy(), np.arange(len(rows))
    for (table, partition), (instants, reached) in seen.items():
        here = number[((rows["table"] == table) & (rows["partition"] == partition)).to_numpy()]
        at[here] = first_at(offsets[here], instants, reached)
    return at


def measure(case: Case, cores: Cores, territory: Path, folder: Path, seed: int) -> dict[str, Any]:
    """Run one case; its figures as JSON values. Raises BenchmarkError, ProcessError, KafkaError."""
    with ExitStack() as stack:
        receiver = stack.enter_context(Timed())
        told = {"webhook_url": receiver.url, "webhook_secrets": _SECRET, "partitions": case.partitions}
        place = stack.enter_context(installed(folder, cores, territory, {**case.settings, **told}))
        place, reader, served = _through(case, place, stack)
        place.init()
        load = stack.enter_context(started(_load(case, place, seed), folder / "load", core=cores.others))
        worker = stack.enter_context(place.worker())
        worker.until_ready()
        load.until(lambda: "made" in load.told(), "its records were made", _MAKE_S)
        with reader or ExitStack():
            report, used = _loaded(case, load, worker, served, receiver)
        sent = recorded(alert_messages(place.kafka.bootstrap))
        worker.process.stop()
        summary, notes = worker.summary(), worker.notes("insert")
        stack.close()
    rows = _rows(place.database, folder / "answers", int(report["begin_ms"]), case.phases)
    inserted_ms = _seen(case, rows, answered(notes))
    found: dict[str, Any] = {
        "case": case.name,
        "through": case.through,
        "rate": case.rate,
        "partitions": case.partitions,
        "settings": dict(case.settings),
        "sent": report["sent"],
        "stored": summary["stored"],
        "producer_late_ms": report["late_ms"],
        "producer_behind": report["late_ms"]["p99"] > BEHIND_MS,
        "worker": used,
        "inserts_per_s": round(_inserts(notes, int(report["begin_ms"]), case.phases) / case.phases.rows_s, 2),
        "sent_to_kafka_ms": spread(rows["received_ms"] - rows["sent_ms"]).to_dict(),
        "row_ms": spread(inserted_ms - rows["received_ms"].to_numpy()).to_dict(),
        "alert_ms": spread(_alerts(case, report["alarms"], receiver.firing())).to_dict() if case.alarms else None,
        "alert_sent_ms": spread(_alerts(case, report["alarms"], sent)).to_dict() if case.alarms else None,
        "worker_says_ms": summary["visible_latency_ms"],
    }
    if reader is not None:
        seen_ms = _seen(case, rows, {key: (one.at_ms, one.offset) for key, one in reader.reached.items()})
        found["read_by_another_ms"] = spread(seen_ms - rows["received_ms"].to_numpy()).to_dict()
        found["after_the_answer_ms"] = spread(seen_ms - inserted_ms).to_dict()
        found["reader_lag_ms"] = spread(reader.lag_ms).to_dict()
    return found


def recorded(messages: Iterable[Message]) -> dict[tuple[str, str], int]:
    """When the worker sent each firing alert to the topic of alerts, by rule and asset (milliseconds since 1970)."""
    told = list(messages)
    alerts = decode_values(ALERTS, [message.value() for message in told], own_writers(ALERTS)).frame
    found: dict[tuple[str, str], int] = {}
    for alert in alerts.iter_rows(named=True):
        if alert["state"] == "firing":
            sent_ms = int(told[alert["row"]].timestamp()[1])
            found.setdefault((alert["alertname"], alert["asset_id"] or ""), sent_ms)
    return found


def _seen(case: Case, rows: pl.DataFrame, seen: Reading) -> Ints:
    """When each row could be read. Raises BenchmarkError when there is none, or one that never could."""
    at = readable_at(rows, seen) if len(rows) else np.full(1, NEVER)
    if (at == NEVER).any():
        raise BenchmarkError(f"{case.name}: {int((at == NEVER).sum())} of {len(rows)} rows were never seen")
    return at


def _load(case: Case, place: Installation, seed: int) -> list[str]:
    phases = case.phases
    options: dict[str, object] = {
        "--bootstrap": place.kafka.bootstrap, "--territory": place.territory, "--seed": seed, "--rate": case.rate,
        "--warm-up": phases.warm_up_s, "--rows": phases.rows_s, "--alarms": phases.alarms_s,
        "--alarm-count": case.alarms,
    }  # fmt: skip
    return module("benchmarks.open_loop", *(part for option in options.items() for part in option))


def _through(case: Case, place: Installation, stack: ExitStack) -> tuple[Installation, Reader | None, int | None]:
    """The installation as the case has it, who reads, and the process id of who serves."""
    if case.through == "embedded":
        return place, None, None
    with pinned({place.cores.others}):
        served = stack.enter_context(gateway(place.folder))
    there = Installation(
        place.kafka, place.folder, place.cores, place.territory, {**place.settings, "clickhouse_url": served.url}
    )
    return there, Reader(served.url), served.pid


def _loaded(
    case: Case, load: Process, worker: DiaryWorker, served: int | None, receiver: Timed
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Let the load run, wait until it is stored and told; what the load reports, and what the worker used."""
    watched = {"worker": worker.process.pid} | ({"gateway": served} if served else {})
    samples: list[tuple[float, dict[str, float]]] = []
    load.say("go")
    until = time.monotonic() + case.phases.end_s + _CATCH_UP_S
    while load.popen.poll() is None:
        samples.append((time.time() * 1_000, {name: cpu_s(pid) for name, pid in watched.items()}))
        if time.monotonic() > until:
            raise BenchmarkError(f"{case.name}: the load did not end:\n{load.told()}")
        time.sleep(0.25)
    report = json.loads(load.end(1).splitlines()[-1])
    began = time.monotonic()
    # What the machine cannot keep up with is told as that, not waited for without end.
    worker.until_stored(report["sent"], _CATCH_UP_S)
    behind_s = time.monotonic() - began
    worker.process.until(lambda: receiver.has_told(case.alarms), "every alarm was told", _CATCH_UP_S)
    begin_ms = report["begin_ms"]
    first_ms, last_ms = begin_ms + case.phases.warm_up_s * 1_000, begin_ms + case.phases.rows_end_s * 1_000
    window = [(at, used) for at, used in samples if first_ms <= at <= last_ms]
    share = {
        f"{name}_cpu": round((window[-1][1][name] - window[0][1][name]) * 1_000 / (window[-1][0] - window[0][0]), 3)
        for name in watched
    }
    used = {**share, "peak_rss_mib": round(memory_mib(worker.process.pid, "VmHWM"), 1)}
    return report, {**used, "caught_up_after_s": round(behind_s, 2)}


def _rows(database: Path, folder: Path, begin_ms: int, phases: Phases) -> pl.DataFrame:
    """Every stored row that was sent while rows were looked at: table, partition, offset, sent_ms, received_ms."""
    first = begin_ms + round(phases.warm_up_s * 1_000)
    last = begin_ms + round(phases.rows_end_s * 1_000)
    asked = [
        f"SELECT '{table}' AS table, toInt64(partition) AS partition, offset, "
        "toUnixTimestamp64Milli(observed_at) AS sent_ms, toUnixTimestamp64Milli(received_at) AS received_ms "
        f"FROM {table} WHERE sent_ms >= {first} AND sent_ms < {last}"
        for table in TABLES
    ]
    found = [frame for frame in answers(database, asked, folder) if len(frame)]
    return pl.concat([f.with_columns(pl.col("table").cast(pl.String)) for f in found]) if found else pl.DataFrame()


def _inserts(notes: Sequence[Mapping[str, Any]], begin_ms: int, phases: Phases) -> int:
    first, last = begin_ms + phases.warm_up_s * 1_000, begin_ms + phases.rows_end_s * 1_000
    return sum(first <= note["at_ms"] < last for note in notes)


def _alerts(case: Case, alarms: Sequence[Mapping[str, Any]], firing: Mapping[tuple[str, str], int]) -> list[int]:
    """Milliseconds from each alarm in Kafka to its webhook. Raises BenchmarkError when one was not told."""
    missing = [a["asset_id"] for a in alarms if (a["rule"], a["asset_id"]) not in firing]
    if missing:
        raise BenchmarkError(f"{case.name}: {len(missing)} of {len(alarms)} alarms were not told, {missing[0]} first")
    return [firing[a["rule"], a["asset_id"]] - a["appended_ms"] for a in alarms]
