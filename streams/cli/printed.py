"""How runs and their counts are printed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from rich.console import Console
from rich.table import Table

from streams.clock import instant

#: Where no terminal says how wide it is, nothing is folded.
_WIDE: Final = 200


def console() -> Console:
    """Standard output, for tables."""
    out = Console(soft_wrap=True, highlight=False, markup=False)
    return out if out.is_terminal else Console(soft_wrap=True, highlight=False, markup=False, width=_WIDE)


def table(texts: tuple[str, ...], numbers: tuple[str, ...] = (), more: tuple[str, ...] = ()) -> Table:
    """A table with columns of texts, then of numbers, then of texts again."""
    made = Table(box=None, pad_edge=False)
    for heading in (*texts, *numbers, *more):
        made.add_column(heading, justify="right" if heading in numbers else "left", overflow="fold")
    return made


def counts(found: Mapping[str, int]) -> str:
    """Counts in one line, the largest first."""
    return ", ".join(f"{what} {n:,}" for what, n in sorted(found.items(), key=lambda one: (-one[1], one[0])))


def moment(ms: int) -> str:
    """An instant (milliseconds since 1970) to the second, as people and --from read it; the number itself where no
    calendar has it: a record may bear any."""
    try:
        return f"{instant(ms):%Y-%m-%dT%H:%M:%SZ}"
    except (ValueError, OverflowError):
        return f"{ms} ms"
