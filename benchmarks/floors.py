"""What the job costs at least: each of its stages alone, and ClickHouse's own engine doing all of it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from benchmarks.outputs import Outputs, outputs, read_topic
from benchmarks.processes import BenchmarkError
from benchmarks.workers import JobName, Place, Setting, group


@dataclass(frozen=True)
class Floor:
    """A floor: what it is, of which job. `parts`: not measured, but the sum of these others. `last` ends a section.

    `results`: it gives results, which must agree with everybody's.
    """

    title: str
    job: JobName
    parts: tuple[str, ...] = ()
    results: bool = False
    last: bool = False


#: In the order of the table. The names are those of `stages.STAGES`.
FLOORS: Final[Mapping[str, Floor]] = {
    "read_librdkafka": Floor("read (librdkafka) and forget", "windows"),
    "read_aiokafka": Floor("read (aiokafka) and forget", "windows"),
    "decode": Floor("decode", "windows"),
    "locate": Floor("locate", "windows"),
    "aggregate": Floor("aggregate", "windows"),
    "publish": Floor("publish results", "windows"),
    "stages": Floor(
        "all of these but librdkafka",
        "windows",
        parts=("read_aiokafka", "decode", "locate", "aggregate", "publish"),
        last=True,
    ),
    "clickhouse_windows": Floor("all of it in ClickHouse's SQL", "windows", results=True, last=True),
    "insert": Floor("convert and insert (job store)", "store"),
}


@dataclass(frozen=True)
class FloorRun:
    """One floor's figures: seconds and processor time of the stage alone, memory of its whole process."""

    floor: str
    repeat: int
    events: int
    seconds: float
    cpu_s: float
    peak_rss_mib: float

    @property
    def us_per_event(self) -> float:
        return self.seconds * 1e6 / self.events


def run_floor(name: str, setting: Setting, place: Place, repeat: int) -> tuple[FloorRun, Outputs | None]:
    """Measure a floor once, on the workers' core. Raises BenchmarkError."""
    command = [sys.executable, "-m", "benchmarks.stages", name]
    options = {
        "bootstrap": setting.bootstrap,
        "count": str(setting.events),
        "territory": str(setting.territory),
        "group": group(),
        "results": place.results,
        "clickhouse": place.clickhouse,
    }
    try:
        done = setting.run([*command, *(part for n, v in options.items() for part in (f"--{n}", v))], place.folder)
        run = FloorRun(floor=name, repeat=repeat, **done.figures())
    except BenchmarkError as error:
        raise BenchmarkError(f"floor {name}: {error}") from None
    if not FLOORS[name].results:
        return run, None
    return run, outputs(f"floor {name}, repeat {repeat}", read_topic(setting.bootstrap, place.results), in_steps=False)
