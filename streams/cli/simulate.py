"""`vigie simulate`: the simulated city, published to any broker."""

from __future__ import annotations

import json
import signal
import threading
from pathlib import Path

import click

from streams import setup
from streams.broker import client_config
from streams.cli import options
from streams.cli.errors import say, settings, told
from streams.clock import ScaledClock, instant, utc_now
from streams.simulation.city import simulate as simulated
from streams.simulation.publish import publish
from streams.territory.files import load
from streams.territory.synth import synthesize


@click.command()
@options.territory
@options.span
@options.seed
@options.rate
@click.option("--speed", default=1.0, show_default=True, type=click.FloatRange(min=1), help="Event seconds per second.")
@click.option("--truth", type=options.FILE, help="Write what was published, and every injected fault, to FILE.")
def simulate(territory: Path | None, span: str, seed: int, rate: float, speed: float, truth: Path | None) -> None:
    """Publish a simulated city to the raw topics of the configured broker. Event time ends now."""
    with told():
        chosen = settings()
        setup.kafka(chosen, say)
        place = load(territory)[0] if territory else synthesize()
        seconds = options.seconds_of(span)
        clock = ScaledClock(speed)
        clock.begin(seconds)
        city = simulated(
            place,
            seed=seed,
            start=instant(clock.start_ms),
            end=instant(clock.end_ms),
            events=round(rate * seconds),
            wall_now=utc_now,
        )
        halt = threading.Event()
        signal.signal(signal.SIGINT, lambda *_: halt.set())
        signal.signal(signal.SIGTERM, lambda *_: halt.set())
        about = f"{city.active_assets} assets, about {city.expected_events} events in {seconds:.0f} s"
        say(f"publishing {place.name}: {about}")
        sent = publish(
            city.records(),
            chosen.kafka_bootstrap,
            pace=lambda at_ms: (clock.wall_ms(at_ms) - clock.now_ms()) / 1_000,
            stop=halt.is_set,
            on_progress=lambda _: None,
            client=client_config(chosen),
        )
        click.echo(f"published {sent} records")
        if truth is not None:
            truth.write_text(json.dumps(city.truth.to_dict(), indent=2) + "\n", "utf-8")
