"""`vigie init`: topics and tables."""

from __future__ import annotations

import click

from streams import broker, setup
from streams.cli.errors import say, settings, told


@click.command()
def init() -> None:
    """Create the Kafka topics and ClickHouse tables that are missing. Safe to run again."""
    with told():
        chosen = settings()
        setup.kafka(chosen, say)
        created = broker.create_topics(chosen)
        click.echo(f"topics created: {', '.join(created) or 'none, all were there'}")
        for name in broker.without_broker_time(chosen):
            say(
                f"warning: {name} does not carry the broker's time; "
                "set message.timestamp.type=LogAppendTime on it, or clocks cannot be judged"
            )
        sink = setup.sink(chosen, say)
        try:
            applied = setup.tables(sink)
        finally:
            sink.close()
        click.echo(f"tables: {', '.join(applied) or 'up to date'}")
