"""`vigie gateway`: one process owns an embedded ClickHouse, and others reach it over HTTP."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any, Final

import click

from sinks.clickhouse_gateway import serve
from streams.cli import options
from streams.cli.errors import say, told
from streams.interrupt import undisturbed

_TURN_S: Final = 0.5


@click.command()
@click.option("--data-dir", type=options.FOLDER, required=True, help="Directory of the database, made when missing.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port", default=8123, show_default=True, type=click.IntRange(0, 65_535), help="Port to listen on; 0: a free one."
)
@click.option("--read-only", is_flag=True, help="Run only statements that read, within limits.")
def gateway(data_dir: Path, host: str, port: int, read_only: bool) -> None:
    """Share an embedded ClickHouse with other processes of this machine, as VIGIE_CLICKHOUSE_URL=http://HOST:PORT.

    Without --read-only it can be written to by whoever reaches it, so it listens on loopback only. SIGTERM or Ctrl-C
    lets statements under way finish, for 10 s; a second one ends it at once.
    """
    stopping = threading.Event()

    def stop(number: int, frame: Any) -> None:
        stopping.set()
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.SIG_DFL)

    with told():
        with undisturbed():
            try:
                running = serve(data_dir, host=host, port=port, read_only=read_only, on_error=say)
            except ValueError as error:
                raise click.UsageError(str(error)) from None
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, stop)
        click.echo(f"listening on {running.url}")
        # In turns: a signal that the kernel hands to another thread does not wake a wait without end.
        while not stopping.wait(_TURN_S):
            pass
        if not running.stop():
            say("Error: a statement would not end within 20 s; nothing that was answered is lost")
            # The engine crashes when the interpreter takes it down under a running statement.
            os._exit(1)
