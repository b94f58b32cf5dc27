"""`vigie worker`: the pipeline, until it is told to stop."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path
from typing import Any

import click

from sinks.clickhouse import Sink
from streams import broker, setup
from streams.cli.errors import say, settings, told
from streams.clock import WallClock
from streams.guard import Guard
from streams.interrupt import undisturbed
from streams.log import configure
from streams.settings import Settings
from streams.summary import window_events
from streams.tuning import tune
from streams.worker import Worker


@click.command()
@click.option("--until-caught-up", is_flag=True, help="End once everything that is in the topics now is stored.")
@click.option(
    "--summary", type=click.Path(path_type=Path, dir_okay=False), help="Write the numbers of the run to FILE."
)
@click.option("--verbose", is_flag=True, help="Log more than the settings say.")
def worker(until_caught_up: bool, summary: Path | None, verbose: bool) -> None:
    """Run one worker: decode, judge, locate, aggregate, detect, store.

    SIGTERM or Ctrl-C ends it cleanly, a second one at once.
    """
    configure(logging.DEBUG if verbose else logging.INFO)
    tune()
    with told():
        chosen = settings()
        setup.pages(chosen)
        with undisturbed():
            territories = setup.territories(chosen, say)
        there = setup.kafka(chosen, say)
        if missing := setup.missing_topics(chosen, there):
            raise setup.SetupError(f"Kafka has no topic {', '.join(missing)}: run `vigie init` first")
        setup.registry(chosen, say)
        sink = setup.sink(chosen, say)
        try:
            setup.tables(sink)
            setup.publish_territories(territories, sink)
            numbers = asyncio.run(_run(chosen, territories, sink, until_caught_up))
            layer = next(iter(territories.values())).layers[0]
            numbers["window_events"] = window_events(sink, layer) if until_caught_up else None
        finally:
            sink.close()
        if summary is not None:
            summary.write_text(json.dumps(numbers, indent=2) + "\n", "utf-8")


async def _run(chosen: Settings, territories: Any, sink: Sink, until_caught_up: bool) -> dict[str, Any]:
    running = Worker(chosen, territories, sink, WallClock())
    guard = Guard(running)
    if until_caught_up:
        running.stop_at({place: end for place, (first, end) in broker.end_offsets(chosen).items() if end > first})
    await running.work()
    if until_caught_up:
        guard.close()
    return running.tally.summary()
