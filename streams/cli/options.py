"""Options that several commands share."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click


class _Instant(click.ParamType):
    """An instant, as milliseconds since 1970."""

    name = "RFC 3339"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            found = datetime.fromisoformat(value)
        except ValueError:
            self.fail(f"{value!r} is no instant: one like 2026-09-15T08:00:00Z is expected", param, ctx)
        if found.tzinfo is None:
            self.fail(f"{value!r} has no time zone: add Z or an offset like +02:00", param, ctx)
        return (found - datetime(1970, 1, 1, tzinfo=UTC)) // (datetime.resolution * 1_000)


INSTANT = _Instant()
FILE = click.Path(path_type=Path, dir_okay=False)
FOLDER = click.Path(path_type=Path, file_okay=False)

territory = click.option("--territory", type=FOLDER, help="Territory folder; default: the synthetic city.")
span = click.option("--for", "span", default="60s", show_default=True, help="How long to run: 30s, 5m, 2h.")
seed = click.option(
    "--seed", default=7, show_default=True, type=click.IntRange(min=0), help="The same seed gives the same city."
)
rate = click.option(
    "--rate", default=2_000.0, show_default=True, type=click.FloatRange(min=1), help="Events per second."
)

_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


def seconds_of(text: str) -> float:
    """Seconds of `90`, `90s`, `5m`, `2h` or `1d`. Raises click.UsageError."""
    number, unit = (text[:-1], text[-1]) if text[-1:] in _UNITS else (text, "s")
    try:
        seconds = timedelta(seconds=float(number) * _UNITS[unit]).total_seconds()
    except (ValueError, OverflowError):
        seconds = 0.0
    if not seconds > 0:
        raise click.UsageError(f"--for {text}: a time above zero is expected, like 60s, 5m or 2h")
    return seconds
