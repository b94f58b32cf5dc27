"""When a record may go out: with the spacing it had, and no more of them a second than allowed."""

from __future__ import annotations

from math import inf
from typing import Final

#: What the cap may fall behind by and make up for, in seconds: a pause of the broker's must not slow the whole run.
_SLACK_S: Final = 0.25


class Pace:
    """Asked once for each record, in the order they go out. Instants in seconds of any clock that never goes back.

    `speed`: how many times as fast as the records came (by the broker's time), None for as fast as can be. A run that
    falls behind catches up. `rate`: most records a second, also while catching up.
    """

    def __init__(self, speed: float | None, rate: float | None) -> None:
        self._speed = speed
        self._interval_s = 1.0 / rate if rate else 0.0
        self._began: tuple[float, int] | None = None
        self._next_s: float | None = None

    @property
    def is_free(self) -> bool:
        """Whether every record may go at once."""
        return self._speed is None and not self._interval_s

    def due_s(self, at_ms: int, now_s: float) -> float:
        """The instant at which a record of that broker time may go out; `now_s` or before means now."""
        due_s = -inf
        if self._speed is not None:
            if self._began is None:
                self._began = now_s, at_ms
            began_s, first_ms = self._began
            due_s = began_s + (at_ms - first_ms) / 1_000 / self._speed
        if self._interval_s:
            slot_s = now_s if self._next_s is None else max(self._next_s, now_s - _SLACK_S)
            due_s = max(due_s, slot_s)
            self._next_s = due_s + self._interval_s
        return due_s
