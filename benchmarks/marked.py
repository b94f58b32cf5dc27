"""A worker's tally that also tells when records came and when they became durable."""

from __future__ import annotations

from collections.abc import Callable

from processors.pipeline import Outcome
from streams.tally import Tally


def marked(mark: Callable[[bool], None]) -> type[Tally]:
    """A Tally that calls `mark` whenever records were taken (False) or became durable (True)."""

    class Marked(Tally):
        has_stored = False

        def outcome(self, outcome: Outcome, durable_at_ms: int) -> None:
            super().outcome(outcome, durable_at_ms)
            self.has_stored = True

        def took_part(self, now_s: float) -> None:
            super().took_part(now_s)
            mark(self.has_stored)
            self.has_stored = False

    return Marked
