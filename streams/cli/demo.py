"""`vigie demo`: everything in one process, and the account of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from streams.cli import options
from streams.cli.errors import Failure, say, told
from streams.cli.live import Live, printed
from streams.demo import Demo, Plan
from streams.interrupt import undisturbed
from streams.log import configure
from streams.summary import faults_of
from streams.territory.files import load
from streams.territory.synth import synthesize
from streams.tuning import tune


@click.command()
@options.territory
@options.span
@options.seed
@options.rate
@click.option(
    "--speed", type=click.FloatRange(min=1), help="Event seconds per second; default: one day in the whole run."
)
@click.option("--data-dir", type=options.FOLDER, help="Keep the ClickHouse files in this folder.")
@click.option("--keep", is_flag=True, help="Keep the temporary ClickHouse folder.")
@click.option("--summary", type=options.FILE, help="Write the account as JSON to FILE.")
def demo(
    territory: Path | None,
    span: str,
    seed: int,
    rate: float,
    speed: float | None,
    data_dir: Path | None,
    keep: bool,
    summary: Path | None,
) -> None:
    """Supervise a simulated city: broker, worker and ClickHouse in this process, nothing else needed.

    Faults and dirt with known truth are injected; the account at the end says what was found. Exit code 1 when a number
    does not add up. Ctrl-C ends early and cleanly.
    """
    configure()
    tune()
    with told():
        plan = Plan(options.seconds_of(span), seed, rate, speed, data_dir, keep)
        with undisturbed():
            place, repaired = (synthesize(), ()) if territory is None else load(territory)
        for line in repaired:
            say(line)
        console = Console()
        with Live(console) as live:
            account = Demo(plan, place, live.say).run(live.show)
        console.print(printed(account))
        if summary is not None:
            summary.write_text(json.dumps(account, indent=2) + "\n", "utf-8")
        _judge(account)


def _judge(account: dict[str, Any]) -> None:
    if problems := faults_of(account):
        raise Failure(*problems)
