"""The pipeline against its peers: the same records, the same job, the same run. README.md here is the protocol.

    python -m benchmarks.run [--quick] [--events N] [--repeats 3] [--only NAME] [--keep]

Writes results/latest.json (and, with --keep, a dated copy). Ends with exit code 1, writing nothing, when a worker fails
or when two of them disagree about what they stored or counted.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import click
from rich.console import Console
from rich.table import Table

from benchmarks.machine import commit, machine
from tests.support.kafka import KafkaError, kafka_available, pinned, real_kafka

ROOT: Final = Path(__file__).resolve().parents[1]
RESULTS: Final = ROOT / "benchmarks" / "results"
OURS: Final = "vigie"
EVENTS: Final = 400_000
QUICK_EVENTS: Final = 50_000
REPEATS: Final = 3
#: A worker slower than this is stuck.
SLOWEST_EVENTS_PER_S: Final = 1_000
START_S: Final = 120


class BenchmarkError(Exception):
    """A worker failed, or its outputs are not those of the others; the message says which."""


@dataclass(frozen=True)
class Setting:
    """What all workers of a run share."""

    bootstrap: str
    territory: Path
    events: int
    core: int
    peer_python: str

    @property
    def timeout_s(self) -> float:
        return START_S + self.events / SLOWEST_EVENTS_PER_S


@dataclass(frozen=True)
class Run:
    """One worker's figures.

    `seconds` is its own: first record received to everything durable. `wall_s` is the process from outside: start,
    connections, join, work and stop; `cpu_s` is what it used of its core in that time. A worker whose `cpu_s` is
    below its `seconds` waited or shared its core with something else, and its figures say little.
    """

    worker: str
    repeat: int
    events: int
    stored: int
    window_events: int
    seconds: float
    wall_s: float
    cpu_s: float
    peak_rss_mib: float

    @property
    def events_per_s(self) -> float:
        return self.events / self.seconds


def run_vigie(setting: Setting, folder: Path, repeat: int) -> Run:
    """`vigie init`, then `vigie worker` until it has caught up. Raises BenchmarkError."""
    summary_file = folder / "summary.json"
    environment = {
        **os.environ,
        "VIGIE_KAFKA_BOOTSTRAP": setting.bootstrap,
        "VIGIE_CLICKHOUSE_URL": f"chdb://{folder / 'clickhouse'}",
        "VIGIE_TERRITORIES": str(setting.territory),
        "VIGIE_GROUP": f"bench-{uuid.uuid4().hex[:12]}",
    }
    _run([*_vigie(), "init"], setting, folder, environment)
    done = _run(
        [*_vigie(), "worker", "--until-caught-up", "--summary", str(summary_file)], setting, folder, environment
    )
    summary = json.loads(summary_file.read_text("utf-8"))
    if any(summary["rejected"].values()) or summary["duplicates"]:
        told = {name: summary[name] for name in ("rejected", "duplicates")}
        raise BenchmarkError(f"every record is clean, yet {OURS} did not store all: {told}")
    return Run(
        worker=OURS,
        repeat=repeat,
        events=summary["records"],
        stored=summary["stored"],
        window_events=summary["window_events"],
        seconds=summary["seconds"],
        wall_s=done.wall_s,
        cpu_s=done.cpu_s,
        peak_rss_mib=summary["peak_rss_mib"],
    )


def run_faust_record(setting: Setting, folder: Path, repeat: int) -> Run:
    """Plain Faust, record by record. Raises BenchmarkError."""
    command = [setting.peer_python, "-m", "benchmarks.peers.faust_record", "--loop", _loop(setting.peer_python)]
    options = {
        "--bootstrap": setting.bootstrap,
        "--count": str(setting.events),
        "--territory": str(setting.territory),
        "--schemas": str(ROOT / "schemas" / "avro"),
        "--clickhouse": f"chdb://{folder / 'clickhouse'}",
        "--group": f"bench-{uuid.uuid4().hex[:12]}",
    }
    done = _run([*command, *(part for option in options.items() for part in option)], setting, folder, os.environ)
    # A terminal's control sequences may stand before it.
    found = [line[line.index("{") :] for line in done.printed.splitlines() if "{" in line]
    if not found:
        raise BenchmarkError(f"faust_record printed no figures:\n{done.printed}")
    figures = json.loads(found[-1])
    return Run(
        worker="faust_record",
        repeat=repeat,
        events=figures["events"],
        stored=figures["stored"],
        window_events=figures["window_events"],
        seconds=figures["seconds"],
        wall_s=done.wall_s,
        cpu_s=done.cpu_s,
        peak_rss_mib=figures["peak_rss_mib"],
    )


Worker = Callable[[Setting, Path, int], Run]
WORKERS: Final[Mapping[str, Worker]] = {OURS: run_vigie, "faust_record": run_faust_record}


def _vigie() -> list[str]:
    """The installed command beside this Python, or the same function when the project runs from its folder."""
    script = shutil.which("vigie", path=str(Path(sys.executable).parent))
    return [script] if script else [sys.executable, "-c", "from streams.cli.main import main; main()"]


def _loop(python: str) -> str:
    """uvloop where the peer's Python has it (about 8 % faster), else asyncio's."""
    probe = [python, "-c", "import importlib.util, sys; sys.exit(importlib.util.find_spec('uvloop') is None)"]
    return "uvloop" if subprocess.run(probe, check=False).returncode == 0 else "aio"


@dataclass(frozen=True)
class _Done:
    """A process that ended well: what it printed to standard output, and what it took."""

    printed: str
    wall_s: float
    cpu_s: float


def _run(command: Sequence[str], setting: Setting, folder: Path, environment: Mapping[str, str]) -> _Done:
    """Run a process on the workers' core. Raises BenchmarkError when it fails or takes too long."""
    log = folder / "log.txt"
    began, used = time.monotonic(), _cpu_of_children_s()
    with log.open("ab") as errors, pinned({setting.core}):
        process = subprocess.Popen(
            command, cwd=ROOT, env=dict(environment), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors
        )
    try:
        printed, _ = process.communicate(timeout=setting.timeout_s)
    except subprocess.TimeoutExpired:
        raise BenchmarkError(f"no end after {setting.timeout_s:.0f} s: {_told(command, log)}") from None
    finally:
        process.kill()
        process.wait()
    text = printed.decode("utf-8", "replace")
    if process.returncode != 0:
        raise BenchmarkError(f"exit code {process.returncode}: {_told(command, log)}\n{text[-2000:]}")
    return _Done(text, time.monotonic() - began, _cpu_of_children_s() - used)


def _cpu_of_children_s() -> float:
    """Processor time of the processes that have ended so far (Kafka runs on, so it is not among them)."""
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


def _told(command: Sequence[str], log: Path) -> str:
    """The command's name and the end of what it told on standard error."""
    end = "\n".join(log.read_text("utf-8", "replace").splitlines()[-30:])
    return f"{' '.join(command[:4])}\n{end}"


def check(runs: Sequence[Run], events: int) -> None:
    """Every worker has taken and stored every record, and counts the same events in windows; else BenchmarkError."""
    wrong = [
        f"{run.worker}, repeat {run.repeat}: took {run.events}, stored {run.stored}, of {events} records"
        for run in runs
        if not run.events == run.stored == events
    ]
    totals = {run.window_events for run in runs}
    if len(totals) > 1:
        wrong += [f"{run.worker}, repeat {run.repeat}: {run.window_events} events in windows" for run in runs]
    if wrong:
        raise BenchmarkError("outputs disagree, so there are no figures:\n" + "\n".join(wrong))


def medians(runs: Sequence[Run], worker: str) -> dict[str, float]:
    """Median events per second and peak memory of a worker's runs."""
    mine = [run for run in runs if run.worker == worker]
    return {
        "events_per_s": round(statistics.median(run.events_per_s for run in mine), 1),
        "peak_rss_mib": round(statistics.median(run.peak_rss_mib for run in mine), 1),
    }


def result(runs: Sequence[Run], load: Mapping[str, Any], cores: Mapping[str, int], seed: int) -> dict[str, Any]:
    """What is kept of a run: the machine, the load, the medians, and every single figure."""
    ours = medians(runs, OURS)
    peers = {name: medians(runs, name) for name in WORKERS if name != OURS}
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "commit": commit(ROOT),
        "load": {**load, "seed": seed},
        "cores": dict(cores),
        "ours": ours,
        "peers": peers,
        "ratio": round(ours["events_per_s"] / peers["faust_record"]["events_per_s"], 2),
        "runs": [{**asdict(run), "events_per_s": round(run.events_per_s, 1)} for run in runs],
    }


def table(runs: Sequence[Run]) -> Table:
    """One row per worker: medians, extremes, and how many times the slowest it is."""
    out = Table(title="Whole pipeline, one core, every event stored")
    for name in ("worker", "events/s", "min - max", "times", "peak MiB", "CPU/wall", "in windows"):
        out.add_column(name, justify="left" if name == "worker" else "right")
    names = list(dict.fromkeys(run.worker for run in runs))
    slowest = min(medians(runs, name)["events_per_s"] for name in names)
    for name in names:
        speeds = [run.events_per_s for run in runs if run.worker == name]
        found = medians(runs, name)
        out.add_row(
            name,
            f"{found['events_per_s']:,.0f}",
            f"{min(speeds):,.0f} - {max(speeds):,.0f}",
            f"{found['events_per_s'] / slowest:.1f}",
            f"{found['peak_rss_mib']:,.0f}",
            f"{statistics.median(run.cpu_s / run.wall_s for run in runs if run.worker == name):.0%}",
            f"{next(run.window_events for run in runs if run.worker == name):,}",
        )
    return out


def publish(setting: Setting, folder: Path, seed: int) -> dict[str, Any]:
    """Make and publish the records, in a process of its own. Raises BenchmarkError."""
    command = [sys.executable, "-m", "benchmarks.load", "--bootstrap", setting.bootstrap, "--seed", str(seed)]
    command += ["--events", str(setting.events), "--territory", str(setting.territory)]
    found: dict[str, Any] = json.loads(_run(command, setting, folder, os.environ).printed)
    return found


def measure(console: Console, setting: Setting, folder: Path, names: Sequence[str], repeats: int) -> list[Run]:
    """All runs, workers alternating. Raises BenchmarkError."""
    runs: list[Run] = []
    for repeat in range(1, repeats + 1):
        for name in names:
            own = folder / f"{name}-{repeat}"
            own.mkdir()
            run = WORKERS[name](setting, own, repeat)
            shutil.rmtree(own)
            runs.append(run)
            console.print(f"{name}, repeat {repeat}: {run.events_per_s:,.0f} events/s in {run.seconds:.1f} s")
            # Processor time covers start and stop as well, so a worker that had its core has more of it than seconds.
            if run.cpu_s < run.seconds:
                console.print("  it waited, or shared its core: is the machine quiet?", style="yellow")
    return runs


@click.command()
@click.option("--quick", is_flag=True, help=f"{QUICK_EVENTS} events, one repeat: does it run, not how fast.")
@click.option("--events", type=click.IntRange(min=1_000), help=f"Records to publish.  [default: {EVENTS}]")
@click.option("--repeats", type=click.IntRange(min=1), help=f"Runs of each worker.  [default: {REPEATS}]")
@click.option("--only", multiple=True, type=click.Choice(sorted(WORKERS)), help="Run this worker; nothing is written.")
@click.option("--seed", default=1, show_default=True, help="Seed of the territory and of its city.")
@click.option("--peer-python", default=sys.executable, help="Python of the peer's environment.  [default: this one]")
@click.option("--keep", is_flag=True, help="Keep a dated copy of the results.")
def main(
    quick: bool,
    events: int | None,
    repeats: int | None,
    only: tuple[str, ...],
    seed: int,
    peer_python: str,
    keep: bool,
) -> None:
    """Measure the pipeline and its peers on the same records."""
    console = Console()
    reason = kafka_available()
    if reason is not None:
        raise click.UsageError(reason)
    free = sorted(os.sched_getaffinity(0))
    if len(free) < 2:
        raise click.UsageError("needs two cores: one for the worker, one for Kafka")
    cores = {"worker": free[0], "kafka": free[1]}
    repeats = repeats or (1 if quick else REPEATS)
    events = events or (QUICK_EVENTS if quick else EVENTS)
    names = [name for name in WORKERS if not only or name in only]
    try:
        with tempfile.TemporaryDirectory(prefix="vigie-bench-") as name, real_kafka(cores={cores["kafka"]}) as kafka:
            folder = Path(name)
            setting = Setting(kafka.bootstrap, folder / "territory", events, cores["worker"], peer_python)
            published = publish(setting, folder, seed)
            console.print(f"{events:,} records of {published['bytes'] / events:.0f} bytes published")
            runs = measure(console, setting, folder, names, repeats)
        check(runs, events)
    except (BenchmarkError, KafkaError) as error:
        console.print(str(error), markup=False, style="red")
        sys.exit(1)
    console.print(table(runs))
    if len(names) < len(WORKERS):
        return
    found = json.dumps(result(runs, published, cores, seed), indent=2) + "\n"
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "latest.json").write_text(found, "utf-8")
    if keep:
        name = f"{datetime.now(UTC).date().isoformat()}-{commit(ROOT) or 'uncommitted'}.json"
        (RESULTS / name).write_text(found, "utf-8")


if __name__ == "__main__":
    main()
