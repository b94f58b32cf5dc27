"""What all assets of the simulated city share: the sun, local time and the weather, on a grid of five minutes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt
from astral import Observer
from astral.sun import elevation

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

HOUR_MS: Final = 3_600_000
DAY_MS: Final = 24 * HOUR_MS
_STEP_MS: Final = 300_000
#: Late records and counting periods reach back before the first report.
_BEFORE_MS: Final = 26 * HOUR_MS
#: Sun elevation, in degrees, at which the light meter of an average lamp switches.
LAMP_SWITCH_DEG: Final = -2.0


@dataclass(frozen=True)
class Sky:
    """Values on a grid of instants; read them at any instant of the simulation with `at`.

    Units: degrees, hours of lamp light since the start of the grid, degC, ratio, mm/h, m/s, hPa.
    """

    start_ms: int
    end_ms: int
    grid_ms: Ints
    utc_offset_ms: Ints
    sun_deg: Floats
    lit_hours: Floats
    temperature_c: Floats
    humidity: Floats
    rain_mm_h: Floats
    wind_m_s: Floats
    pressure_hpa: Floats

    def at(self, values: Floats, instants_ms: npt.NDArray[np.generic]) -> Floats:
        """Grid values interpolated at instants (ms since 1970)."""
        return np.interp(instants_ms.astype(np.float64), self.grid_ms.astype(np.float64), values)

    def local(self, instants_ms: Ints) -> tuple[Ints, Floats]:
        """Weekday (Monday is 0) and hour of the day (0 to 24, with fractions) in the territory's time zone."""
        step = np.clip((instants_ms - self.grid_ms[0]) // _STEP_MS, 0, len(self.grid_ms) - 1)
        local_ms = instants_ms + self.utc_offset_ms[step]
        # 1970-01-01 was a Thursday.
        return (local_ms // DAY_MS + 3) % 7, (local_ms % DAY_MS) / HOUR_MS

    def spells(self, above_deg: float | None = None, below_deg: float | None = None) -> list[tuple[int, int]]:
        """Runs of the simulated span during which the sun stands above or below an elevation, as (from, to) in ms."""
        inside = (self.grid_ms >= self.start_ms) & (self.grid_ms <= self.end_ms)
        if above_deg is not None:
            inside &= self.sun_deg > above_deg
        if below_deg is not None:
            inside &= self.sun_deg < below_deg
        edges = np.flatnonzero(np.diff(np.concatenate([[False], inside, [False]]).astype(np.int8)))
        return [(int(self.grid_ms[a]), int(self.grid_ms[b - 1])) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def utc(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)


def make_sky(
    rng: np.random.Generator, start_ms: int, end_ms: int, longitude: float, latitude: float, timezone: str
) -> Sky:
    """The sky over a place from a day before `start_ms` to `end_ms`. Positions in degrees, instants in ms."""
    first = (start_ms - _BEFORE_MS) // _STEP_MS * _STEP_MS
    grid = np.arange(first, end_ms + 2 * _STEP_MS, _STEP_MS, dtype=np.int64)
    instants = [utc(int(ms)) for ms in grid]
    observer = Observer(latitude, longitude)
    sun = np.array([elevation(observer, instant) for instant in instants])
    zone = ZoneInfo(timezone)
    offset = np.array([(instant.astimezone(zone).utcoffset() or timedelta()) // timedelta(milliseconds=1)
                       for instant in instants], np.int64)  # fmt: skip
    lit = np.concatenate([[0.0], np.cumsum(sun[:-1] < LAMP_SWITCH_DEG) * (_STEP_MS / HOUR_MS)])

    # The southern year is half a year off.
    season = np.cos(2 * np.pi * (grid / DAY_MS - 201) / 365.25) * (1.0 if latitude >= 0 else -1.0)
    hour = ((grid + offset) % DAY_MS) / HOUR_MS
    daily = np.cos(2 * np.pi * (hour - 15) / 24)
    spells = _wander(rng, len(grid), hours=10)
    rain = np.clip(spells - 1.3, 0, 2) * 3.0
    temperature = 27 - 0.32 * abs(latitude) + 8.5 * season + 4.5 * daily + 1.5 * _wander(rng, len(grid), hours=30)
    temperature = np.clip(temperature - np.minimum(rain, 3.0), -25, 36)
    humidity = np.clip(0.62 - 0.15 * daily + 0.1 * spells + 0.05 * _wander(rng, len(grid), hours=6), 0.15, 1.0)
    wind = np.abs(3.5 + 1.2 * daily + 2.0 * _wander(rng, len(grid), hours=8))
    pressure = np.clip(1015 - 5 * spells + 3 * _wander(rng, len(grid), hours=48), 960, 1050)
    return Sky(start_ms, end_ms, grid, offset, sun, lit, temperature, humidity, rain, wind, pressure)


def _wander(rng: np.random.Generator, count: int, hours: float) -> Floats:
    """Smooth noise of standard deviation about one, that forgets itself in some hours."""
    knots = int(count * _STEP_MS / HOUR_MS / hours) + 4
    return np.interp(np.linspace(1, knots - 2, count), np.arange(knots), np.clip(rng.normal(0, 1.2, knots), -2.5, 2.5))
