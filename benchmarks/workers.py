"""The workers that are measured, and how each is started and read back."""

from __future__ import annotations

import json
import shutil
import sys
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

from benchmarks import environments, processes
from benchmarks.outputs import Outputs, outputs, read_topic
from benchmarks.processes import ROOT, BenchmarkError, Done

JobName = Literal["windows", "store"]
JOBS: Final[tuple[JobName, ...]] = ("windows", "store")
OURS: Final = "vigie"
#: Its parts doing job `store` alone, as its peers do. In job `windows` that is what `OURS` is.
PARTS: Final = "vigie_parts"

#: A worker slower than this is stuck.
_SLOWEST_EVENTS_PER_S: Final = 1_000
_START_S: Final = 120


@dataclass(frozen=True)
class Setting:
    """What all workers of a session share. `assets`: the registry as a CSV, for peers that read no Parquet."""

    bootstrap: str
    territory: Path
    assets: Path
    events: int
    core: int

    @property
    def timeout_s(self) -> float:
        return _START_S + self.events / _SLOWEST_EVENTS_PER_S

    def run(self, command: Sequence[str], folder: Path, **environment: str) -> Done:
        """Run a process of a worker; what it leaves behind lies in `folder`. Raises BenchmarkError."""
        log = folder / "log.txt"
        return processes.run(
            command, core=self.core, log=log, timeout_s=self.timeout_s, TMPDIR=str(folder), **environment
        )


@dataclass(frozen=True)
class Run:
    """One worker's figures.

    `seconds` is its own: first record received to everything durable. `wall_s` is the process from outside: start,
    connections, join, work and stop; `cpu_s` is what it used of its core in that time. A worker whose `cpu_s` is
    below its `seconds` waited or shared its core with something else, and its figures say little.
    """

    job: JobName
    worker: str
    repeat: int
    events: int
    stored: int
    seconds: float
    wall_s: float
    cpu_s: float
    peak_rss_mib: float

    @property
    def events_per_s(self) -> float:
        return self.events / self.seconds


@dataclass(frozen=True)
class Place:
    """Where one run of a worker works: an empty folder of its own, and its results' topic."""

    folder: Path
    results: str

    @property
    def clickhouse(self) -> str:
        return f"chdb://{self.folder / 'clickhouse'}"


Start = Callable[[Setting, JobName, Place], tuple[Mapping[str, Any], Done]]


@dataclass(frozen=True)
class Worker:
    """One of those that are compared.

    `set_up` makes what it runs on and returns its versions; `start` runs it once and returns its figures, with its
    results in the topic. Both raise BenchmarkError. `in_steps`: see `outputs.Outputs`.
    """

    name: str
    jobs: tuple[JobName, ...]
    set_up: Callable[[], Mapping[str, str]]
    start: Start
    in_steps: bool = False

    def run(self, setting: Setting, job: JobName, place: Place, repeat: int) -> tuple[Run, Outputs]:
        """Run it once. Raises BenchmarkError: also when it has not taken, or not stored, every record."""
        try:
            figures, done = self.start(setting, job, place)
            run = Run(
                job=job,
                worker=self.name,
                repeat=repeat,
                events=figures["events"],
                stored=figures["stored"],
                seconds=figures["seconds"],
                wall_s=round(done.wall_s, 3),
                cpu_s=round(done.cpu_s, 3),
                peak_rss_mib=figures["peak_rss_mib"],
            )
        except KeyError as error:
            raise BenchmarkError(f"{self.name}, job {job}: its figures lack {error}") from None
        except BenchmarkError as error:
            raise BenchmarkError(f"{self.name}, job {job}: {error}") from None
        wanted = setting.events, setting.events if job == "store" else 0
        if (run.events, run.stored) != wanted:
            raise BenchmarkError(
                f"{self.name}, job {job}: took {run.events} and stored {run.stored} of {setting.events} records"
            )
        name = f"{self.name}, job {job}, repeat {repeat}"
        return run, outputs(name, read_topic(setting.bootstrap, place.results), in_steps=self.in_steps)


def group() -> str:
    """A consumer group that nobody has used."""
    return f"bench-{uuid.uuid4().hex[:12]}"


def _options(setting: Setting, job: JobName, place: Place, **more: str) -> list[str]:
    """The command line that every worker of ours and of theirs understands."""
    options = {
        "bootstrap": setting.bootstrap,
        "job": job,
        "count": str(setting.events),
        "territory": str(setting.territory),
        "schemas": str(ROOT / "schemas" / "avro"),
        "group": group(),
        "results": place.results,
        **more,
    }
    if job == "store":
        options["clickhouse"] = place.clickhouse
    return [part for name, value in options.items() for part in (f"--{name}", value)]


def _start_python_peer(name: str, setting: Setting, job: JobName, place: Place) -> tuple[Mapping[str, Any], Done]:
    command = [str(environments.python_of(name)), "-m", f"benchmarks.peers.{name}"]
    done = setting.run([*command, *_options(setting, job, place)], place.folder)
    return done.figures(), done


def _start_kafka_streams(setting: Setting, job: JobName, place: Place) -> tuple[Mapping[str, Any], Done]:
    command = environments.kafka_streams(place.folder)
    done = setting.run([*command, *_options(setting, job, place, assets=str(setting.assets))], place.folder)
    return done.figures(), done


def _start_ours(setting: Setting, job: JobName, place: Place) -> tuple[Mapping[str, Any], Done]:
    return _start_product(setting, place) if job == "store" else _start_parts(setting, job, place)


def _start_parts(setting: Setting, job: JobName, place: Place) -> tuple[Mapping[str, Any], Done]:
    done = setting.run([sys.executable, "-m", "benchmarks.ours_parts", *_options(setting, job, place)], place.folder)
    return done.figures(), done


def _start_product(setting: Setting, place: Place) -> tuple[Mapping[str, Any], Done]:
    """`vigie init`, `vigie worker` until it has caught up, and then its windows out of its ClickHouse."""
    summary_file = place.folder / "summary.json"
    environment = {
        "VIGIE_KAFKA_BOOTSTRAP": setting.bootstrap,
        "VIGIE_CLICKHOUSE_URL": place.clickhouse,
        "VIGIE_TERRITORIES": str(setting.territory),
        "VIGIE_GROUP": group(),
    }
    setting.run([*_vigie(), "init"], place.folder, **environment)
    caught_up = [*_vigie(), "worker", "--until-caught-up", "--summary", str(summary_file)]
    done = setting.run(caught_up, place.folder, **environment)
    summary = json.loads(summary_file.read_text("utf-8"))
    if any(summary["rejected"].values()) or summary["duplicates"]:
        told = {name: summary[name] for name in ("rejected", "duplicates")}
        raise BenchmarkError(f"every record is clean, yet it did not store all: {told}")
    read = [sys.executable, "-m", "benchmarks.ours_stored", "--clickhouse", place.clickhouse]
    setting.run([*read, "--bootstrap", setting.bootstrap, "--results", place.results], place.folder)
    return {**summary, "events": summary["records"]}, done


def _vigie() -> list[str]:
    """The installed command beside this Python, or the same function when the project runs from its folder."""
    script = shutil.which("vigie", path=str(Path(sys.executable).parent))
    return [script] if script else [sys.executable, "-c", "from streams.cli.main import main; main()"]


def _python_peer(name: str) -> Worker:
    return Worker(name, JOBS, partial(environments.versions_of, name), partial(_start_python_peer, name))


#: In the order in which they take turns.
WORKERS: Final[Mapping[str, Worker]] = {
    worker.name: worker
    for worker in (
        Worker(OURS, JOBS, dict, _start_ours, in_steps=True),
        Worker(PARTS, ("store",), dict, _start_parts, in_steps=True),
        _python_peer("faust_record"),
        _python_peer("quix_streams"),
        _python_peer("bytewax"),
        Worker("kafka_streams", ("windows",), environments.versions_of_kafka_streams, _start_kafka_streams),
    )
}
