"""`python -m tests.chaos --for 600s --seed 1 --summary out.json`: exit code 0 when every number adds up, 1 when not."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path

import click
from rich.console import Console

from streams.cli.options import seconds_of
from tests.chaos.driver import Plan, run
from tests.chaos.report import show, with_machine
from tests.support.kafka import kafka_available


@click.command()
@click.option("--for", "span", default="90s", show_default=True, help="How long records are published: 90s, 10m.")
@click.option("--seed", default=1, show_default=True, help="The same seed gives the same records and faults.")
@click.option("--workers", default=3, show_default=True, type=click.IntRange(min=1))
@click.option("--brokers", default=3, show_default=True, type=click.IntRange(min=1))
@click.option("--rate", default=400.0, show_default=True, type=click.FloatRange(min=20), help="Events per second.")
@click.option("--summary", type=click.Path(path_type=Path, dir_okay=False), help="Write the account to FILE as JSON.")
@click.option(
    "--folder", type=click.Path(path_type=Path, file_okay=False), help="Keep what every process writes in FOLDER."
)
def main(
    span: str, seed: int, workers: int, brokers: int, rate: float, summary: Path | None, folder: Path | None
) -> None:
    """Run workers, Kafka and ClickHouse under random faults, and check that nothing is lost or counted twice."""
    console = Console(stderr=True, soft_wrap=True)
    if (reason := kafka_available()) is not None:
        raise click.UsageError(f"chaos needs real Kafka: {reason}")
    place = folder or Path(tempfile.mkdtemp(prefix="vigie-chaos-"))
    place.mkdir(parents=True, exist_ok=True)
    plan = Plan(seconds_of(span), seed, workers, brokers, rate, place.resolve())
    outcome = run(plan, lambda line: console.print(line, markup=False, highlight=False))
    found = with_machine(outcome.summary())
    if summary is not None:
        summary.write_text(json.dumps(found, indent=2) + "\n", "utf-8")
    show(found, Console(soft_wrap=True))
    if outcome.right and folder is None:
        shutil.rmtree(place, ignore_errors=True)
    if not outcome.right:
        console.print(f"what every process wrote is in {place}", markup=False, highlight=False)
    sys.exit(0 if outcome.right else 1)


if __name__ == "__main__":
    main()
