"""`vigie simulate`: the simulated city, published to any broker."""

from __future__ import annotations

import json
import signal
import threading
from datetime import timedelta
from pathlib import Path

import click

from streams import setup
from streams.broker import client_config
from streams.cli.errors import say, settings, told
from streams.clock import ScaledClock, instant, utc_now
from streams.simulation.city import simulate as simulated
from streams.simulation.publish import publish
from streams.territory.files import load
from streams.territory.synth import synthesize


@click.command()
@click.option("--territory", type=click.Path(path_type=Path, file_okay=False), help="Territory folder; default: the synthetic city.")
@click.option("--for", "span", default="60s", show_default=True, help="How long to publish: 30s, 5m, 2h.")
@click.option("--seed", default=7, show_default=True, type=click.IntRange(min=0))
@click.option("--rate", default=2_000.0, show_default=True, type=click.FloatRange(min=1), help="Events per second.")
@click.option("--speed", default=1.0, show_default=True, type=click.FloatRange(min=1), help="Event seconds per second.")
@click.option("--truth", type=click.Path(path_type=Path, dir_okay=False), help="Write what was published, and every injected fault, to FILE.")
def simulate(territory: Path | None, span: str, seed: int, rate: float, speed: float, truth: Path | None) -> None:
    """Publish a simulated city to the raw topics of the configured broker. Event time ends now."""
    with told():
        chosen = settings()
        setup.kafka(chosen, say)
        place = load(territory)[0] if territory else synthesize()
        seconds = seconds_of(span)
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
        say(f"publishing {place.name}: {city.active_assets} assets, about {city.expected_events} events in {seconds:.0f} s")
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


_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


def seconds_of(span: str) -> float:
    """Seconds of `90`, `90s`, `5m`, `2h` or `1d`. Raises click.UsageError."""
    number, unit = (span[:-1], span[-1]) if span[-1:] in _UNITS else (span, "s")
    try:
        seconds = timedelta(seconds=float(number) * _UNITS[unit]).total_seconds()
    except (ValueError, OverflowError):
        seconds = 0.0
    if not seconds > 0:
        raise click.UsageError(f"--for {span}: a time above zero is expected, like 60s, 5m or 2h")
    return seconds
