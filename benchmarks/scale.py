"""How the cost of an event grows: with assets, zones, partitions and workers, one at a time around one base point.

    python -m benchmarks.scale [--quick] [--axis NAME] [--events N] [--seed 1] [--keep]

Each point is a fresh Kafka, a fresh ClickHouse and a town of its own (`benchmarks.town`) whose records the worker
catches up with, pinned to one core; everything else is on the other core. The growth of a cost is the exponent b of
cost = a * size^b, by least squares over the points of an axis: 0 is flat, below 1 it grows slower than the size.

Two workers need four cores to show what they can do. Here both share the core that one has, through a gateway on the
other, so what is measured is what sharing costs: the processor time of both for one event against that of one. Their
speed-up on cores of their own is 2 / that ratio, as long as Kafka and ClickHouse keep up.

Writes results/latest-scale.json and, with --keep, a dated copy.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

import click
from rich.console import Console
from rich.table import Table

from benchmarks import kept
from benchmarks.figures import exponent
from benchmarks.installation import BenchmarkError, two_cores
from benchmarks.process import ProcessError, end_when_told
from benchmarks.scale_point import Cost, Point, measure
from tests.support.gateway import GatewayError
from tests.support.kafka import KafkaError

EVENTS: Final = 2_000_000
QUICK_EVENTS: Final = 100_000
BASE: Final = Point(assets=30_000, zones=100, partitions=4, workers=1, events=EVENTS)
#: By axis: sizes of the full run, and of the quick one.
AXES: Final[Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]] = {
    "assets": ((1_000, 10_000, 100_000, 1_000_000), (1_000, 100_000)),
    "zones": ((10, 100, 1_000, 10_000), (10, 1_000)),
    "partitions": ((4, 16, 64), (4, 16)),
    "workers": ((1, 2), (1, 2)),
}
#: Costs whose growth is told.
GROWING: Final = ("cpu_us", "peak_mib", "ready_cpu_s")


def points(axis: str, sizes: Sequence[int], events: int) -> list[Point]:
    """The points of one axis: the base point, with that size in its place."""
    base = replace(BASE, events=events, shared=axis == "workers")
    changes: list[dict[str, Any]] = [{axis: size} for size in sizes]
    return [replace(base, **change) for change in changes]


def growth(sizes: Sequence[int], costs: Sequence[Cost]) -> dict[str, float]:
    """The exponent of each cost that grows."""
    return {name: round(exponent(sizes, [getattr(cost, name) for cost in costs]), 3) for name in GROWING}


def table(found: Mapping[str, Any]) -> Table:
    """One row per point."""
    out = Table(title="Catching up, one core")
    for name in ("axis", "size", "CPU us/event", "events/s", "MiB", "ready s", "CPU s"):
        out.add_column(name, justify="left" if name == "axis" else "right", no_wrap=True)
    for axis, told in found.items():
        last = len(told["points"]) - 1
        for number, point in enumerate(told["points"]):
            out.add_row(
                axis if number == 0 else "",
                f"{point[axis]:,}",
                f"{point['cpu_us']:.2f}",
                f"{point['events_per_s']:,.0f}",
                f"{point['peak_mib']:,.0f}",
                f"{point['ready_s']:.1f}",
                f"{point['ready_cpu_s']:.1f}",
                end_section=number == last,
            )
    return out


def told_growth(axis: str, grown: Mapping[str, float]) -> str:
    """The exponents of an axis in words."""
    cpu, memory, start = (f"{grown[name]:+.2f}" for name in GROWING)
    return f"{axis}: CPU an event grows as size^{cpu}, memory as size^{memory}, CPU of the start as size^{start}"


@click.command()
@click.option("--quick", is_flag=True, help=f"{QUICK_EVENTS} events, two points an axis: does it run.")
@click.option(
    "--axis", "only", multiple=True, type=click.Choice(list(AXES)), help="This axis only; nothing is written."
)
@click.option("--events", type=click.IntRange(min=1_000), help=f"Records of each point.  [default: {EVENTS}]")
@click.option("--seed", default=1, show_default=True, help="Seed of the towns.")
@click.option("--keep", is_flag=True, help="Keep a dated copy of the results.")
def main(quick: bool, only: tuple[str, ...], events: int | None, seed: int, keep: bool) -> None:
    """Measure how the cost of an event grows."""
    end_when_told()
    console = Console()
    events = events or (QUICK_EVENTS if quick else EVENTS)
    found: dict[str, Any] = {}
    measured: dict[Point, Cost] = {}
    folder = Path(tempfile.mkdtemp(prefix="vigie-scale-"))
    try:
        cores = two_cores()
        head = kept.head(quick)
        for axis in only or AXES:
            sizes = AXES[axis][quick]
            costs = []
            for size, point in zip(sizes, points(axis, sizes, events), strict=True):
                if point not in measured:
                    measured[point] = measure(point, cores, folder / str(len(measured)), seed)
                costs.append(measured[point])
                console.print(
                    f"{axis} {size:,}: {costs[-1].cpu_us:.2f} us of CPU an event, {costs[-1].peak_mib:,.0f} MiB"
                )
            told = [{axis: size, **cost.to_dict()} for size, cost in zip(sizes, costs, strict=True)]
            found[axis] = {"points": told, "growth": growth(sizes, costs)}
    except (BenchmarkError, GatewayError, KafkaError, ProcessError) as error:
        console.print(str(error), markup=False, style="red")
        sys.exit(1)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    console.print(table(found))
    for axis in (axis for axis in found if axis != "workers"):
        console.print(told_growth(axis, found[axis]["growth"]), highlight=False)
    if "workers" in found:
        one, two = (point["cpu_us"] for point in found["workers"]["points"])
        console.print(
            f"two workers cost {two / one:.2f} times the CPU of one: {2 * one / two:.2f} times as fast on two cores"
        )
    if not only:
        base = {name: value for name, value in asdict(replace(BASE, events=events)).items() if name != "shared"}
        kept.write("scale", {**head, "base": base, "axes": found}, keep)


if __name__ == "__main__":
    main()
