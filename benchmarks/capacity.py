"""How much it takes for a town: the formulas of docs/capacity.md, with the figures measured last.

    python -m benchmarks.capacity [--inhabitants 20000] [--authorities 1] [--per-lamp 6] [--lamp-interval 900] ...

Reads results/latest-scale.json and results/latest-storage.json, and prints a table in Markdown: without --inhabitants
for a town of 20 000, a metropolis of 500 000 and a hundred such metropolises. Nothing is measured here.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import click

from benchmarks.figures import line
from benchmarks.kept import RESULTS

DAY_S: Final = 86_400.0
GIB: Final = 2**30


@dataclass(frozen=True)
class Fleet:
    """Things of one kind: one for so many inhabitants, each speaking every `interval_s` seconds."""

    name: str
    inhabitants_each: float
    interval_s: float


@dataclass(frozen=True)
class Town:
    """Whom it is for. `authorities` of `inhabitants` each share the installation."""

    name: str
    inhabitants: int
    authorities: int = 1


@dataclass(frozen=True)
class Measured:
    """Figures of the benches: processor time an event, memory of a worker without assets and for each asset, bytes."""

    cpu_us: float
    worker_mib: float
    asset_mib: float
    row_bytes: float
    beside_bytes: float
    kafka_bytes: float


@dataclass(frozen=True)
class Policy:
    """Choices.

    `busy`: share of a core that is planned for. `dusk_s`: in what time all lamps of an authority switch, each of which
    says so once. `at_once`: share of the authorities whose dusk falls together. The rest is Kafka's.
    """

    busy: float = 0.5
    dusk_s: float = 60.0
    at_once: float = 1.0
    replicas: int = 3
    kafka_days: float = 7.0


FLEETS: Final = (
    Fleet("lamps", 6, 900),
    Fleet("containers", 100, 600),
    Fleet("counting stations", 800, 360),
    Fleet("other sensors", 2_000, 600),
)
TOWNS: Final = (
    Town("town of 20 000", 20_000),
    Town("metropolis of 500 000", 500_000),
    Town("100 metropolises", 500_000, 100),
)


def load(town: Town, fleets: Sequence[Fleet], policy: Policy) -> dict[str, float]:
    """Assets, events a second on average and at dusk, events a day."""
    people = town.inhabitants * town.authorities
    assets = {fleet.name: people / fleet.inhabitants_each for fleet in fleets}
    average = sum(assets[fleet.name] / fleet.interval_s for fleet in fleets)
    together = max(1.0, policy.at_once * town.authorities) / town.authorities
    peak = average + assets.get("lamps", 0.0) * together / policy.dusk_s
    return {"assets": sum(assets.values()), "average": average, "peak": peak, "a_day": average * DAY_S}


def needs(town: Town, fleets: Sequence[Fleet], policy: Policy, measured: Measured) -> dict[str, float]:
    """What the load takes: workers of one core each, MiB of each, partitions a topic, GiB of disk."""
    found = load(town, fleets, policy)
    core = 1e6 / measured.cpu_us * policy.busy
    workers = max(1, math.ceil(found["peak"] / core))
    kafka = found["a_day"] * measured.kafka_bytes * policy.replicas * policy.kafka_days
    return {
        **found,
        "workers": workers,
        # Every worker holds every registry, whatever its partitions.
        "worker_mib": measured.worker_mib + measured.asset_mib * found["assets"],
        # Two for each worker, so that one more can join; four as `vigie init` makes them.
        "partitions": max(4, 2 ** math.ceil(math.log2(2 * workers))),
        "clickhouse_gib_a_day": found["a_day"] * (measured.row_bytes + measured.beside_bytes) / GIB,
        "kafka_gib": kafka / GIB,
    }


def measured_of(scale: Mapping[str, Any], storage: Mapping[str, Any]) -> Measured:
    """The figures in the results of the two benches."""
    points = scale["axes"]["assets"]["points"]
    at_zero, each = line([p["assets"] for p in points], [p["peak_mib"] for p in points])
    return Measured(
        # The dearest: a plan must not rest on the cheapest size.
        cpu_us=max(point["cpu_us"] for point in points),
        worker_mib=at_zero,
        asset_mib=each,
        row_bytes=storage["bytes_an_event"]["row_merged"],
        beside_bytes=storage["bytes_an_event"]["beside_merged"],
        kafka_bytes=storage["kafka"]["batched"]["bytes"],
    )


#: Rows of the table: what, and how a figure is written.
_ROWS: Final = (
    ("assets", "assets", "{:,.0f}"),
    ("events/s, average", "average", "{:,.1f}"),
    ("events/s, all lamps switching", "peak", "{:,.0f}"),
    ("events a day", "a_day", "{:,.0f}"),
    ("workers (a core each)", "workers", "{:.0f}"),
    ("memory of a worker, MiB", "worker_mib", "{:,.0f}"),
    ("partitions a topic", "partitions", "{:.0f}"),
    ("ClickHouse, GiB a day", "clickhouse_gib_a_day", "{:,.2f}"),
    ("Kafka, GiB", "kafka_gib", "{:,.1f}"),
)


def markdown(towns: Sequence[Town], found: Sequence[Mapping[str, float]]) -> str:
    """The table of docs/capacity.md."""
    lines = ["| | " + " | ".join(town.name for town in towns) + " |", "|---|" + "---:|" * len(towns)]
    for title, name, form in _ROWS:
        lines.append(f"| {title} | " + " | ".join(form.format(one[name]).replace(",", " ") for one in found) + " |")
    return "\n".join(lines)


@click.command()
@click.option("--inhabitants", type=click.IntRange(min=1), help="Of one authority.  [default: the three examples]")
@click.option(
    "--authorities", default=1, show_default=True, type=click.IntRange(min=1), help="How many such authorities."
)
@click.option("--per-lamp", default=FLEETS[0].inhabitants_each, show_default=True, help="Inhabitants for each lamp.")
@click.option(
    "--lamp-interval", default=FLEETS[0].interval_s, show_default=True, help="Seconds between a lamp's words."
)
@click.option("--busy", default=Policy.busy, show_default=True, help="Share of a core that is planned for.")
@click.option("--dusk", default=Policy.dusk_s, show_default=True, help="Seconds in which all lamps switch.")
@click.option("--at-once", default=Policy.at_once, show_default=True, help="Share of authorities with dusk together.")
@click.option("--replicas", default=Policy.replicas, show_default=True, help="Copies that Kafka keeps.")
@click.option("--kafka-days", default=Policy.kafka_days, show_default=True, help="Days that Kafka keeps raw records.")
def main(
    inhabitants: int | None,
    authorities: int,
    per_lamp: float,
    lamp_interval: float,
    busy: float,
    dusk: float,
    at_once: float,
    replicas: int,
    kafka_days: float,
) -> None:
    """Print what a town takes."""
    try:
        scale, storage = (
            json.loads((RESULTS / f"latest-{name}.json").read_text("utf-8")) for name in ("scale", "storage")
        )
    except FileNotFoundError as error:
        raise click.UsageError(f"{error.filename} is missing: run benchmarks.scale and benchmarks.storage") from None
    own = Town(f"{authorities} x {inhabitants}", inhabitants or 1, authorities)
    towns = [own] if inhabitants else TOWNS
    fleets = (Fleet("lamps", per_lamp, lamp_interval), *FLEETS[1:])
    policy = Policy(busy, dusk, at_once, replicas, kafka_days)
    measured = measured_of(scale, storage)
    sys.stdout.write(markdown(towns, [needs(town, fleets, policy, measured) for town in towns]) + "\n")


if __name__ == "__main__":
    main()
