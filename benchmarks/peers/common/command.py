"""A peer's command line and its one line of figures."""

from __future__ import annotations

import argparse
import gc
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers.common.job import Job, read_jobs
from benchmarks.peers.common.store import Store


@dataclass(frozen=True)
class Arguments:
    """What a peer is told: `count` records are in the raw topics, and `clickhouse` is None for job `windows`."""

    bootstrap: str
    count: int
    territory: Path
    schemas: Path
    group: str
    results: str
    clickhouse: str | None

    def jobs(self) -> dict[str, Job]:
        """A job for each domain; what they know of the territory is no work for the garbage collector any more."""
        jobs = read_jobs(self.schemas, self.territory)
        gc.freeze()
        return jobs

    def store(self, jobs: dict[str, Job]) -> Store | None:
        """The tables for job `store`, None for job `windows`."""
        return None if self.clickhouse is None else Store(self.clickhouse, jobs)


def read_arguments(description: str) -> Arguments:
    """Read the command line; ends the process with exit code 2 when it is wrong."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--bootstrap", required=True, help="host:port of Kafka")
    parser.add_argument("--job", required=True, choices=("windows", "store"), help="store: every event as a row, too")
    parser.add_argument("--count", required=True, type=int, help="records to process before it ends")
    parser.add_argument("--territory", required=True, type=Path, help="the territory's folder")
    parser.add_argument("--schemas", required=True, type=Path, help="folder with the contracts (*.avsc)")
    parser.add_argument("--group", required=True, help="consumer group, a fresh one for each run")
    parser.add_argument("--results", required=True, help="topic for the windows")
    parser.add_argument("--clickhouse", help="chdb:///PATH or clickhouse://..., for job store")
    given = parser.parse_args()
    if given.job == "store" and given.clickhouse is None:
        parser.error("job store needs --clickhouse")
    return Arguments(
        bootstrap=given.bootstrap,
        count=given.count,
        territory=given.territory,
        schemas=given.schemas,
        group=given.group,
        results=given.results,
        clickhouse=given.clickhouse if given.job == "store" else None,
    )


def report(events: int, seconds: float, store: Store | None) -> None:
    """Write the run's figures to standard output."""
    figures: Mapping[str, float | int] = {
        "events": events,
        "seconds": round(seconds, 3),
        "peak_rss_mib": round(_peak_rss_mib(), 1),
        "stored": 0 if store is None else store.count(),
    }
    sys.stdout.write(json.dumps(figures) + "\n")
    sys.stdout.flush()


def _peak_rss_mib() -> float:
    """Largest resident size so far. Not from getrusage: that begins with the size of the process that started us."""
    status = Path("/proc/self/status").read_text("ascii")
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024
