"""What a bench installs: Kafka on one core, the tables and topics, and a worker with a diary on the other."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from benchmarks.process import VIGIE, Process, module, run, started
from tests.support.kafka import Kafka, kafka_available, real_kafka

#: Starting, importing and joining a group on a busy machine.
READY_S: Final = 180.0


class BenchmarkError(Exception):
    """Something did not work, or its outputs are not what they must be: there are no figures."""


@dataclass(frozen=True)
class Cores:
    """Where things run: the workers on the first core, everything else (Kafka, load, reader) on the second."""

    worker: int
    others: int


def two_cores() -> Cores:
    """The cores to use; this process moves to the second. Raises BenchmarkError when something is missing."""
    reason = kafka_available()
    if reason is not None:
        raise BenchmarkError(reason)
    free = sorted(os.sched_getaffinity(0))
    if len(free) < 2:
        raise BenchmarkError("needs two cores: one for the worker, one for Kafka and the load")
    os.sched_setaffinity(0, {free[1]})
    return Cores(free[0], free[1])


@dataclass(frozen=True)
class Installation:
    """One Kafka, one ClickHouse, one territory. `settings` are by name, beyond those that say where things are."""

    kafka: Kafka
    folder: Path
    cores: Cores
    territory: Path
    settings: Mapping[str, object] = field(default_factory=dict)

    @property
    def database(self) -> Path:
        """Directory of the embedded ClickHouse."""
        return self.folder / "clickhouse"

    @property
    def all_settings(self) -> dict[str, object]:
        where = {"kafka_bootstrap": self.kafka.bootstrap, "territories": self.territory}
        return {**where, "clickhouse_url": f"chdb://{self.database}", **self.settings}

    def init(self) -> None:
        """`vigie init`. Raises ProcessError."""
        run([*VIGIE, "init"], self.folder / "init", core=self.cores.worker, settings=self.all_settings)

    @contextmanager
    def worker(self, name: str = "worker") -> Iterator[DiaryWorker]:
        """A worker that does not outlive the block."""
        folder = self.folder / name
        folder.mkdir(parents=True, exist_ok=True)
        notes, summary = folder / "notes.jsonl", folder / "summary.json"
        command = module("benchmarks.noted", notes, "--summary", summary)
        with started(command, folder, core=self.cores.worker, settings=self.all_settings) as process:
            yield DiaryWorker(process, notes, summary)


class DiaryWorker:
    """A worker under way, with the diary it writes and, at its end, its numbers."""

    def __init__(self, process: Process, notes: Path, summary: Path) -> None:
        self.process = process
        self._file, self._summary = notes, summary
        self._read = 0
        self._notes: list[dict[str, Any]] = []

    def notes(self, what: str | None = None) -> list[dict[str, Any]]:
        """The diary so far, or its notes of one kind."""
        if self._file.exists():
            with self._file.open("rb") as file:
                file.seek(self._read)
                # The last line may still be being written.
                whole = file.read().rpartition(b"\n")[0]
            if whole:
                self._read += len(whole) + 1
                self._notes += map(json.loads, whole.splitlines())
        return [note for note in self._notes if what in (None, note["what"])]

    def until_ready(self) -> None:
        """Wait until it would process a record. Raises ProcessError."""
        self.process.until(lambda: bool(self.notes("ready")), "it was ready", READY_S)

    @property
    def stored(self) -> int:
        """Rows of events that ClickHouse has answered for."""
        return sum(note["rows"] for note in self.notes("insert"))

    def until_stored(self, rows: int, timeout_s: float) -> None:
        """Wait until it has stored so many events. Raises ProcessError."""
        self.process.until(lambda: self.stored >= rows, f"{rows} events were stored", timeout_s)

    def summary(self) -> dict[str, Any]:
        """Its numbers, once it has ended."""
        found: dict[str, Any] = json.loads(self._summary.read_text("utf-8"))
        return found


@contextmanager
def installed(
    folder: Path, cores: Cores, territory: Path, settings: Mapping[str, object] | None = None
) -> Iterator[Installation]:
    """A fresh Kafka with an installation that has not been initialized. Raises KafkaError.

    Everything stays in the folder: for minutes after many files are deleted, ext4 takes long to make others, so whoever
    measures more than once deletes when all is measured.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with real_kafka(cores={cores.others}, within=folder) as kafka:
        yield Installation(kafka, folder, cores, territory, settings or {})
