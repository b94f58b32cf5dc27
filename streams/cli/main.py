"""The command `vigie`."""

from __future__ import annotations

import click

import streams.settings  # noqa: F401 - first: it tells Polars how many threads it may have
from streams.cli.check import check
from streams.cli.demo import demo
from streams.cli.init import init
from streams.cli.simulate import simulate
from streams.cli.territory import territory
from streams.cli.worker import worker


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="vigie")
def main() -> None:
    """Live supervision of public services: Kafka events in, zones, windows, anomalies and alerts out.

    Exit codes: 0 done, 1 something failed (the message says what to do), 2 wrong usage.
    """


for command in (check, demo, init, simulate, territory, worker):
    main.add_command(command)
