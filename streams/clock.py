"""The only module that reads the clock. Everything else is told the time."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Wall time, and the event time that corresponds to it."""

    def now_ms(self) -> int:
        """Wall clock, milliseconds since 1970, UTC."""
        ...

    def event_ms(self, wall_ms: int) -> int:
        """The event time that sensors live in at that wall instant, milliseconds since 1970, UTC."""
        ...


class WallClock:
    """The real world: event time is wall time."""

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def event_ms(self, wall_ms: int) -> int:
        return wall_ms


@dataclass
class ScaledClock:
    """A demo's world: event time starts in the past, runs `speed` times as fast and stops at `end_ms`.

    Until `begin` no event time passes, and none ever passes beyond `published_ms`, where it is set: a city whose
    records are held up or at an end has not fallen silent.
    """

    speed: float
    start_wall_ms: int = 0
    start_ms: int = 0
    end_ms: int = 0
    published_ms: int | None = None

    def begin(self, seconds: float, lead_ms: int = 0) -> None:
        """Let event time run in `lead_ms`, for so many wall seconds; at its end it is the wall time."""
        self.start_wall_ms = self.now_ms() + lead_ms
        self.end_ms = self.start_wall_ms + round(seconds * 1_000)
        self.start_ms = self.end_ms - round(seconds * self.speed * 1_000)

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def event_ms(self, wall_ms: int) -> int:
        if not self.end_ms:
            return 0
        last_ms = self.end_ms if self.published_ms is None else min(self.end_ms, self.published_ms)
        return min(last_ms, self.start_ms + int((wall_ms - self.start_wall_ms) * self.speed))

    def wall_ms(self, event_ms: int) -> int:
        """The wall instant at which that event time comes."""
        return self.start_wall_ms + int((event_ms - self.start_ms) / self.speed)


def monotonic_s() -> float:
    """Seconds from an unknown start that never go back: for durations."""
    return time.monotonic()


def boot_s() -> float:
    """The same, with the time for which the machine was suspended, where its system counts that (Linux)."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def utc_now() -> datetime:
    return datetime.now(UTC)


def sleep_s(seconds: float) -> None:
    """Block the calling thread."""
    time.sleep(seconds)


def instant(ms: int) -> datetime:
    """Milliseconds since 1970 as an aware datetime, UTC."""
    return datetime.fromtimestamp(ms / 1000, UTC)
