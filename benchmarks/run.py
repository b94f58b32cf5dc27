"""The pipeline against its peers: the same records, the same jobs, the same run. README.md here is the protocol.

    python -m benchmarks.run [--quick] [--events N] [--repeats 3] [--job windows|store] [--only NAME] [--keep]

Writes results/latest.json (and, with --keep, a dated copy). Ends with exit code 1, writing nothing and showing no
figures, when a worker fails or when two of them disagree about a single window.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import click
import polars as pl
from confluent_kafka import KafkaException
from rich.console import Console

from benchmarks import processes, report
from benchmarks.floors import FLOORS, FloorRun, run_floor
from benchmarks.machine import commit
from benchmarks.outputs import Agreement, Outputs
from benchmarks.process import end_when_told
from benchmarks.processes import ROOT, BenchmarkError
from benchmarks.workers import JOBS, WORKERS, JobName, Place, Run, Setting
from tests.support.kafka import Kafka, KafkaError, kafka_available, real_kafka

RESULTS: Final = ROOT / "benchmarks" / "results"
EVENTS: Final = 400_000
QUICK_EVENTS: Final = 50_000
REPEATS: Final = 3
#: What --only takes beside the workers' names.
_FLOORS: Final = "floors"


@dataclass
class Session:
    """One Kafka with the records in it, and what has been measured so far."""

    console: Console
    kafka: Kafka
    folder: Path
    setting: Setting
    agreement: Agreement
    runs: list[Run] = field(default_factory=list)
    floors: list[FloorRun] = field(default_factory=list)

    def measure(self, names: Collection[str], jobs: Sequence[JobName], repeats: int) -> None:
        """All runs, workers taking turns. Raises BenchmarkError."""
        for repeat in range(1, repeats + 1):
            for job in jobs:
                for worker in WORKERS.values():
                    if worker.name in names and job in worker.jobs:
                        with self._place(f"{job}-{worker.name}-{repeat}") as place:
                            run, outputs = worker.run(self.setting, job, place, repeat)
                        self._take(f"{worker.name}, job {job}", run.seconds, run.cpu_s, run.events, outputs)
                        self.runs.append(run)
            for name, one in FLOORS.items() if _FLOORS in names else ():
                if one.job in jobs and not one.parts:
                    with self._place(f"floor-{name}-{repeat}") as place:
                        floor, found = run_floor(name, self.setting, place, repeat)
                    self._take(f"floor {name}", floor.seconds, floor.cpu_s, floor.events, found)
                    self.floors.append(floor)

    def _take(self, name: str, seconds: float, cpu_s: float, events: int, outputs: Outputs | None) -> None:
        if outputs is not None:
            self.agreement.take(outputs)
        self.console.print(f"{name}: {events / seconds:,.0f} events/s in {seconds:.2f} s", highlight=False)
        # A worker's processor time covers start and stop as well, so one that had its core has more of it than seconds.
        if cpu_s < 0.9 * seconds:
            self.console.print("  it waited, or shared its core: is the machine quiet?", style="yellow")

    @contextmanager
    def _place(self, name: str) -> Iterator[Place]:
        """An empty folder, and an empty topic of one partition.

        The folder stays until the end of the whole: for minutes after files are deleted ext4 takes several times as
        long to create others, and whoever comes next would pay for it.
        """
        folder, topic = self.folder / name, f"bench.results.{name}"
        folder.mkdir()
        try:
            self.kafka.create_topic(topic, partitions=1)
        except KafkaException as error:
            raise BenchmarkError(f"{topic} could not be made: {error}") from None
        yield Place(folder, topic)


def publish(setting: Setting, folder: Path, seed: int) -> dict[str, Any]:
    """Make and publish the records, in a process of its own, and write the registry as a CSV. Raises BenchmarkError."""
    command = [sys.executable, "-m", "benchmarks.load", "--bootstrap", setting.bootstrap, "--seed", str(seed)]
    command += ["--events", str(setting.events), "--territory", str(setting.territory)]
    # Making records takes longer than publishing them, and nothing is measured yet: on any core.
    done = processes.run(command, core=None, log=folder / "load.txt", timeout_s=setting.timeout_s)
    assets = pl.read_parquet(setting.territory / "assets.parquet", columns=["asset_id", "longitude", "latitude"])
    assets.write_csv(setting.assets)
    return {**done.figures(), "seed": seed}


def set_up(console: Console, names: Collection[str]) -> dict[str, Mapping[str, str]]:
    """Make what the workers run on, and return the versions of each. Raises BenchmarkError."""
    versions = {}
    for worker in WORKERS.values():
        if worker.name in names:
            with console.status(f"setting up {worker.name}"):
                found = worker.set_up()
            if found:
                versions[worker.name] = found
    return versions


def keep(found: Mapping[str, Any], dated: bool) -> None:
    """Write the results, and a dated copy where it is wanted."""
    text = json.dumps(found, indent=2) + "\n"
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "latest.json").write_text(text, "utf-8")
    if dated:
        name = f"{datetime.now(UTC).date().isoformat()}-{commit(ROOT) or 'uncommitted'}.json"
        (RESULTS / name).write_text(text, "utf-8")


@click.command()
@click.option("--quick", is_flag=True, help=f"{QUICK_EVENTS} events, one repeat: does it run, not how fast.")
@click.option("--events", type=click.IntRange(min=1_000), help=f"Records to publish.  [default: {EVENTS}]")
@click.option("--repeats", type=click.IntRange(min=1), help=f"Runs of each worker.  [default: {REPEATS}]")
@click.option(
    "--only", multiple=True, type=click.Choice([*WORKERS, _FLOORS]), help="Run only this; nothing is written."
)
@click.option("--job", type=click.Choice(JOBS), help="Do only this job; nothing is written.")
@click.option("--seed", default=1, show_default=True, help="Seed of the territory and of its city.")
@click.option("--keep", "dated", is_flag=True, help="Keep a dated copy of the results.")
def main(
    quick: bool,
    events: int | None,
    repeats: int | None,
    only: tuple[str, ...],
    job: JobName | None,
    seed: int,
    dated: bool,
) -> None:
    """Measure the pipeline, its peers and its floors on the same records."""
    end_when_told()
    console = Console()
    reason = kafka_available()
    if reason is not None:
        raise click.UsageError(reason)
    free = sorted(os.sched_getaffinity(0))
    if len(free) < 2:
        raise click.UsageError("needs two cores: one for the worker, one for Kafka")
    cores = {"worker": free[0], "kafka": free[1]}
    events = events or (QUICK_EVENTS if quick else EVENTS)
    names, jobs = set(only or (*WORKERS, _FLOORS)), (job,) if job else JOBS
    try:
        versions = set_up(console, names)
        with tempfile.TemporaryDirectory(prefix="vigie-bench-") as name, real_kafka(cores={cores["kafka"]}) as kafka:
            folder = Path(name)
            setting = Setting(kafka.bootstrap, folder / "territory", folder / "assets.csv", events, cores["worker"])
            load = publish(setting, folder, seed)
            console.print(f"{events:,} records of {load['bytes'] / events:.0f} bytes published", highlight=False)
            session = Session(console, kafka, folder, setting, Agreement(events))
            session.measure(names, jobs, repeats or (1 if quick else REPEATS))
    except (BenchmarkError, KafkaError) as error:
        # Notes are the end of Kafka's output.
        told = "\n".join((str(error), *getattr(error, "__notes__", ())))
        console.print(told, markup=False, highlight=False, style="red")
        sys.exit(1)
    for one in jobs:
        if report.by_worker(session.runs, one):
            console.print(report.job_table(session.runs, one))
    if session.floors:
        console.print(report.floor_table(session.runs, session.floors))
    if session.agreement.keys:
        console.print(f"All outputs agree: {session.agreement.keys:,} windows, key by key.", highlight=False)
    if not only and not job:
        windows = session.agreement.keys
        keep(
            report.result(session.runs, session.floors, load=load, cores=cores, versions=versions, windows=windows),
            dated,
        )


if __name__ == "__main__":
    main()
