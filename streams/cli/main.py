"""The command `vigie`."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import Final, NoReturn

import click

from streams.interrupt import undisturbed

_COMMANDS: Final = (
    "alert",
    "audit",
    "check",
    "contract",
    "dead-letter",
    "demo",
    "gateway",
    "init",
    "replay",
    "simulate",
    "territory",
    "worker",
)


class _Commands(click.Group):
    """Commands, each in the module of its name, imported when it is asked for.

    Imports take most of a second. Here Ctrl-C during that second ends the command as quietly as later on.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        with undisturbed():
            # First: it tells Polars how many threads it may have.
            import_module("streams.settings")
            name = cmd_name.replace("-", "_")
            command: click.Command = getattr(import_module(f"streams.cli.{name}"), name)
        return command


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="vigie")
def main() -> None:
    """Live supervision of public services: Kafka events in, zones, windows, anomalies and alerts out.

    Exit codes: 0 done, 1 something failed (the message says what to do), 2 wrong usage.
    """


def run() -> NoReturn:
    """The command as a process: its end is the process's.

    What commands open they close. To take the interpreter apart after that would take a worker more than a second on a
    busy machine, during which nothing watches whether it ends: threads of native libraries can hold it up.
    """
    try:
        main()
    except SystemExit as end:
        if not isinstance(end.code, int):
            raise
        code = end.code
    else:
        code = 0
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        # What cannot be written any more was not said.
        code = code or 1
    os._exit(code)
