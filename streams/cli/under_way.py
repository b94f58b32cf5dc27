"""A run under way: how far it is, and how Ctrl-C ends it."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Final, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from streams.cli.errors import say
from streams.clock import monotonic_s
from streams.replay.forward import Standing

#: How often a line is written where no terminal listens, in seconds.
_LINE_S: Final = 10.0


class UnderWay:
    """Shows how far a run is, on standard error: a bar on a terminal, elsewhere a line every ten seconds."""

    def __init__(self, what: str, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._began_s = self._told_s = monotonic_s()
        self._first: Standing | None = None
        self._bar = Progress(
            TextColumn(what),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[sent]:,} records, {task.fields[rate]:,.0f}/s, left"),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
        )
        self._task = self._bar.add_task(what, total=None, sent=0, rate=0.0)

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._console.is_terminal:
            self._bar.stop()

    def show(self, now: Standing) -> None:
        """Take in how far it is."""
        self._first = first = self._first or now
        now_s = monotonic_s()
        seconds = max(now_s - self._began_s, 0.001)
        rate = (now.sent - first.sent) / seconds
        if self._console.is_terminal:
            self._bar.update(self._task, completed=now.passed, total=now.offsets, sent=now.sent, rate=rate)
        elif now_s - self._told_s >= _LINE_S:
            self._told_s = now_s
            done = now.passed - first.passed
            left = f"about {seconds * (now.offsets - now.passed) / done:,.0f} s left" if done else "nothing came yet"
            say(f"{now.passed:,} of {now.offsets:,} offsets passed, {now.sent:,} records, {rate:,.0f}/s, {left}")


@contextmanager
def until_stopped() -> Iterator[Callable[[], bool]]:
    """Whether Ctrl-C or SIGTERM has come: what is under way is then to be finished. A second one ends at once."""
    came: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in numbers]

    def stop(number: int, _: Any) -> None:
        came.append(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        say("ending: waiting until what is under way is confirmed (again to end at once)")

    for number in numbers:
        signal.signal(number, stop)
    try:
        yield lambda: bool(came)
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
