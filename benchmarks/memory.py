"""Where the memory of a worker is that catches up, by who allocated it.

    python -m benchmarks.memory [--assets 100000] [--events 1000000] [--seed 1] [--keep]

The worker of `benchmarks.scale`: settings that ship, an embedded ClickHouse, one core. Its resident memory is looked at
several times a second and told when it was ready, at the most that was seen and at its end, by the kind of mapping. A
look misses what passes between two of them: the most that the process ever had is the figure of the system.

libraries  code and data of files, ClickHouse's engine among them: they count, and other processes share them
polars     the arena that Polars reserves at its first use (its allocator is a build of mimalloc)
heap       arenas of the C library: Python, numpy, pyarrow
other      mappings of their own: ClickHouse's allocator, Python's arenas, large arrays, stacks of threads

Writes results/latest-memory.json and, with --keep, a dated copy.
"""

from __future__ import annotations

import re
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import click
from rich.console import Console
from rich.table import Table

from benchmarks import kept
from benchmarks.installation import BenchmarkError, installed, two_cores
from benchmarks.process import ProcessError, end_when_told
from benchmarks.scale import BASE
from benchmarks.scale_point import SLOWEST_S, START_S, publish_town
from tests.support.kafka import KafkaError

ASSETS: Final = 100_000
EVENTS: Final = 1_000_000
KINDS: Final = ("libraries", "polars", "heap", "other")
_PAUSE_S: Final = 0.2
#: Of an address range: begin, end, and what is mapped there.
_MAPPING: Final = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) \S+ \S+ \S+ \S+ *(.*)$")
_ARENA: Final = 64 << 20
_RESERVED: Final = 900 << 20

Parts = Mapping[str, float]


def parts(smaps: str) -> dict[str, float]:
    """Resident MiB by kind of mapping, of the text of /proc/PID/smaps."""
    found, kind = dict.fromkeys(KINDS, 0.0), "other"
    for line in smaps.splitlines():
        if mapping := _MAPPING.match(line):
            begin, end = int(mapping[1], 16), int(mapping[2], 16)
            kind = _kind(begin, end - begin, mapping[3])
        elif line.startswith("Rss:"):
            found[kind] += int(line.split()[1]) / 1_024
    return found


def _kind(begin: int, size: int, name: str) -> str:
    if name.startswith("/"):
        return "libraries"
    if name == "[heap]" or (not name and begin % _ARENA == 0 and size <= _ARENA):
        return "heap"
    return "polars" if not name and size >= _RESERVED else "other"


class Watch:
    """The memory of a process over time: each look is (seconds since 1970, parts)."""

    def __init__(self, pid: int) -> None:
        self.looks: list[tuple[float, Parts]] = []
        self._smaps = Path(f"/proc/{pid}/smaps")

    def look(self) -> None:
        """Look once. Nothing where the process has ended, or is ending and has given its memory back."""
        try:
            found = parts(self._smaps.read_text("utf-8"))
        except (FileNotFoundError, ProcessLookupError):
            return
        if any(found.values()):
            self.looks.append((time.time(), found))

    @property
    def peak(self) -> Parts:
        """The look with the most."""
        return max((told for _, told in self.looks), key=lambda told: sum(told.values()))

    def at(self, seconds: float) -> Parts:
        """The first look from then on, or the last one."""
        return next((told for at, told in self.looks if at >= seconds), self.looks[-1][1])


@contextmanager
def watched(pid: int) -> Iterator[Watch]:
    """Look at a process several times a second, as long as the block lasts."""
    watch, over = Watch(pid), threading.Event()

    def look() -> None:
        while not over.wait(_PAUSE_S):
            watch.look()

    looking = threading.Thread(target=look, name="memory")
    looking.start()
    try:
        yield watch
    finally:
        over.set()
        looking.join()


def table(found: Mapping[str, Parts], most_mib: float) -> Table:
    """A row for each instant."""
    out = Table(title=f"Memory of a worker that catches up: {most_mib:,.0f} MiB at its most")
    for name in ("", *KINDS, "together"):
        out.add_column(name, justify="right" if name else "left")
    for instant, told in found.items():
        out.add_row(instant, *(f"{told[kind]:,.0f}" for kind in KINDS), f"{sum(told.values()):,.0f}")
    return out


def measure(assets: int, events: int, seed: int, folder: Path) -> tuple[dict[str, Parts], float]:
    """What was seen when it was ready, at its peak and when all was stored; and the most it ever had, in MiB.

    Raises BenchmarkError, ProcessError, KafkaError.
    """
    settings = {"partitions": BASE.partitions}
    with installed(folder, two_cores(), folder / "territory", settings) as place:
        place.init()
        publish_town(assets, BASE.zones, events, place, seed)
        with place.worker() as worker, watched(worker.process.pid) as watch:
            worker.until_stored(events, START_S + events * SLOWEST_S)
            watch.look()
            ready_s = worker.notes("ready")[0]["at_ms"] / 1_000
            worker.process.stop()
            most_mib = float(worker.summary()["peak_rss_mib"])
    instants = {"ready": watch.at(ready_s), "peak": watch.peak, "stored": watch.at(float("inf"))}
    return {name: {kind: round(mib, 1) for kind, mib in told.items()} for name, told in instants.items()}, most_mib


@click.command()
@click.option("--assets", default=ASSETS, show_default=True, type=click.IntRange(min=100), help="Assets of the town.")
@click.option("--events", default=EVENTS, show_default=True, type=click.IntRange(min=1_000), help="Records.")
@click.option("--seed", default=1, show_default=True, help="Seed of the town.")
@click.option("--keep", is_flag=True, help="Keep a dated copy of the results.")
def main(assets: int, events: int, seed: int, keep: bool) -> None:
    """Measure where the memory of a worker is that catches up."""
    end_when_told()
    console = Console()
    try:
        head = kept.head(quick=events < EVENTS)
        with tempfile.TemporaryDirectory(prefix="vigie-memory-", ignore_cleanup_errors=True) as name:
            found, most_mib = measure(assets, events, seed, Path(name))
    except (BenchmarkError, KafkaError, ProcessError) as error:
        console.print(str(error), markup=False, style="red")
        sys.exit(1)
    console.print(table(found, most_mib))
    told = {"assets": assets, "events": events, "seed": seed, "most_mib": most_mib, "mib": found}
    kept.write("memory", {**head, **told}, keep)


if __name__ == "__main__":
    main()
