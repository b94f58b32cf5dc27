"""Where the processor time of job `store` goes: the worker that catches up, with a clock at each of its steps.

    python -m benchmarks.profile [--events 400000] [--seed 1] [--keep]

The same records, territory, core and command as in `benchmarks.run`. Microseconds are of processor time for one event:
of the thread that called, so that of an insert only what ClickHouse does in it counts, and what Polars and ClickHouse
do in threads of their own stands below, by thread. Writes results/latest-profile.json and, with --keep, a dated copy.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from benchmarks import kept
from benchmarks.installation import BenchmarkError, installed, two_cores
from benchmarks.process import ProcessError, end_when_told, module, run
from benchmarks.run import EVENTS
from tests.support.kafka import KafkaError


def measure(folder: Path, events: int, seed: int) -> dict[str, Any]:
    """Publish, let a worker catch up, read its clocks. Raises BenchmarkError, ProcessError, KafkaError."""
    cores, territory, told = two_cores(), folder / "territory", folder / "told.json"
    with installed(folder, cores, territory) as place:
        options = {"--bootstrap": place.kafka.bootstrap, "--events": events, "--seed": seed, "--territory": territory}
        run(module("benchmarks.load", *(part for option in options.items() for part in option)), folder / "load")
        place.init()
        summary = folder / "summary.json"
        command = module("benchmarks.profiled", told, "--until-caught-up", "--summary", summary)
        run(command, folder / "worker", core=cores.worker, settings=place.all_settings)
    found, stored = json.loads(told.read_text("utf-8")), json.loads(summary.read_text("utf-8"))
    if stored["stored"] != events:
        raise BenchmarkError(f"{stored['stored']} of {events} records were stored; all are clean")
    for step in found["steps"]:
        step["us_per_event"] = round(step["cpu_s"] * 1e6 / events, 3)
    found["steps"].sort(key=lambda step: -step["cpu_s"])
    return {"events": events, "seconds": stored["seconds"], "events_per_s": stored["events_per_s"], **found}


def table(found: Mapping[str, Any]) -> Table:
    """A row for each step, then one for each thread."""
    events = found["events"]
    out = Table(title=f"Processor time of {events:,} events, one core: {found['events_per_s']:,.0f} events/s")
    out.add_column("step or thread")
    for name in ("calls", "CPU s", "us/event"):
        out.add_column(name, justify="right")
    for step in found["steps"]:
        out.add_row(step["step"], f"{step['calls']:,}", f"{step['cpu_s']:.2f}", f"{step['us_per_event']:.2f}")
    out.add_section()
    for name, cpu_s in found["threads"].items():
        out.add_row(f"thread {name}", "", f"{cpu_s:.2f}", f"{cpu_s * 1e6 / events:.2f}")
    out.add_section()
    out.add_row("process", "", f"{found['cpu_s']:.2f}", f"{found['cpu_s'] * 1e6 / events:.2f}")
    return out


@click.command()
@click.option("--events", default=EVENTS, show_default=True, type=click.IntRange(min=1_000), help="Records to publish.")
@click.option("--seed", default=1, show_default=True, help="Seed of the territory and of its city.")
@click.option("--keep", is_flag=True, help="Keep a dated copy of the results.")
def main(events: int, seed: int, keep: bool) -> None:
    """Show what each step of the worker costs."""
    end_when_told()
    console = Console()
    head = kept.head(False)
    try:
        with tempfile.TemporaryDirectory(prefix="vigie-profile-", ignore_cleanup_errors=True) as name:
            found = measure(Path(name), events, seed)
    except (BenchmarkError, KafkaError, ProcessError) as error:
        console.print(str(error), markup=False, style="red")
        sys.exit(1)
    console.print(table(found))
    kept.write("profile", {**head, "seed": seed, **found}, keep)


if __name__ == "__main__":
    main()
