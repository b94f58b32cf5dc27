"""What bins, drop-off points, weather, air, noise and footfall sensors of the simulated city read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import numpy as np

from streams.simulation.avro import Column
from streams.simulation.fleet import FAULT_CODES, Fleet, Turns
from streams.simulation.sky import DAY_MS, HOUR_MS, Floats, Ints, Sky

#: Turns of a fleet to the columns of its contract, without the head.
Model = Callable[[Turns, np.random.Generator], dict[str, Column]]

#: A container is emptied at the latest at this level unless something is wrong with it.
_EMPTIED_AT: Final = 0.72
_DEFAULT_DEPTH_MM: Final = 1_500.0
#: How many intervals a full bin takes to overflow, and how hot a fire is at least.
OVERFLOW_INTERVALS: Final = 2
_FIRE_C: Final = (200.0, 600.0)


def activity(hour: Floats) -> Floats:
    """How busy the city is at an hour of the day, 0.08 to 1."""
    return np.interp(hour, [0, 3, 5, 7, 8.5, 10, 12.5, 15, 17.5, 20, 22, 24],
                     [0.2, 0.08, 0.1, 0.55, 1.0, 0.75, 0.85, 0.75, 1.0, 0.65, 0.4, 0.2])  # fmt: skip


def container(fleet: Fleet, sky: Sky) -> Model:
    """A bin or a drop-off point: it fills, faster by day, and is emptied; it may overflow or burn."""
    trait = fleet.traits
    cycle_h = 14 + 56 * trait[:, 0]
    emptied_at = 0.5 + (_EMPTIED_AT - 0.5) * trait[:, 1]
    left = 0.02 + 0.06 * trait[:, 2]
    depth = np.where(np.isnan(fleet.depth_mm), _DEFAULT_DEPTH_MM, fleet.depth_mm)
    full, burning = (fleet.fault == FAULT_CODES[rule] for rule in ("bin_full", "bin_fire"))

    def usual_level(asset: Ints, instants: Ints) -> Floats:
        hours = instants / HOUR_MS
        solar = hours + fleet.longitude[asset] / 15
        # Derivative between 0.35 and 1.65: more is thrown away in the afternoon, never less than nothing.
        warped = hours + 2.5 * np.sin(2 * np.pi * (solar - 14) / 24)
        share = (warped / cycle_h[asset] + trait[asset, 3]) % 1
        level: Floats = left[asset] + (emptied_at - left)[asset] * share
        return level

    def overflow(asset: Ints, instants: Ints, level: Floats) -> Floats:
        start, end = fleet.fault_start[asset], fleet.fault_end[asset]
        before = usual_level(asset, start)
        top = 0.93 + 0.05 * trait[asset, 4]
        rise = np.clip((instants - start) / (OVERFLOW_INTERVALS * fleet.interval_ms[asset]), 0, 1)
        emptied = np.minimum(0.1 + 0.01 * (instants - end) / HOUR_MS, 0.4)
        return np.where(instants < start, level, np.where(instants < end, before + (top - before) * rise, emptied))

    def model(turns: Turns, rng: np.random.Generator) -> dict[str, Column]:
        asset, seen = turns.asset, turns.observed_ms
        rows = len(asset)
        level = usual_level(asset, seen)
        rows_full = np.flatnonzero(full[asset])
        level[rows_full] = overflow(asset[rows_full], seen[rows_full], level[rows_full])
        level = np.clip(level + np.clip(rng.normal(0, 0.004, rows), -0.012, 0.012), 0, 1)

        sunshine = np.maximum(0, np.sin(np.radians(sky.at(sky.sun_deg, seen))))
        inside = sky.at(sky.temperature_c, seen) + 6 * trait[asset, 5] * sunshine + rng.uniform(-0.5, 0.5, rows)
        start, end = fleet.fault_start[asset], fleet.fault_end[asset]
        flames = np.clip(260 + 280 * trait[asset, 4] + rng.normal(0, 15, rows), *_FIRE_C)
        embers = inside + 12 * np.exp(-np.maximum(0, seen - end) / HOUR_MS)
        alight = burning[asset] & (seen >= start)
        inside = np.where(alight, np.where(seen < end, flames, embers), inside)
        return {
            "sensor_type": fleet.kind,
            "fill_level": np.round(level, 4),
            "temperature_c": np.round(inside, 2),
            "tilt_deg": np.round(0.5 + 2.5 * trait[asset, 6] + rng.uniform(0, 0.5, rows), 1),
            "lid_open": rng.random(rows) < 0.015,
            "battery_ratio": _battery(fleet, sky, turns),
            "distance_mm": np.round(np.clip(depth[asset] * (1 - level) + rng.uniform(-3, 3, rows), 0, 20_000)),
        }

    return model


def _battery(fleet: Fleet, sky: Sky, turns: Turns) -> Floats:
    trait = fleet.traits[turns.asset, 7]
    days = (turns.observed_ms - sky.start_ms) / DAY_MS
    charge: Floats = np.round(np.clip(0.55 + 0.44 * trait - (0.001 + 0.002 * trait) * days, 0.05, 1), 3)
    return charge


def _period_s(fleet: Fleet, turns: Turns) -> Floats:
    seconds: Floats = fleet.interval_ms[turns.asset] / 1000
    return seconds


def weather(fleet: Fleet, sky: Sky) -> Model:
    """A weather station, on mains power."""

    def model(turns: Turns, rng: np.random.Generator) -> dict[str, Column]:
        seen, rows = turns.observed_ms, len(turns.asset)
        own = fleet.traits[turns.asset]
        period_s = _period_s(fleet, turns)
        rain = sky.at(sky.rain_mm_h, seen) * period_s / 3600
        return {
            "sensor_type": fleet.kind,
            "temperature_c": np.round(sky.at(sky.temperature_c, seen) + own[:, 0] - 0.5 + rng.normal(0, 0.1, rows), 2),
            "humidity_ratio": np.round(np.clip(sky.at(sky.humidity, seen) + rng.normal(0, 0.01, rows), 0.05, 1), 3),
            "pressure_hpa": np.round(sky.at(sky.pressure_hpa, seen) - 10 * own[:, 1] + rng.normal(0, 0.1, rows), 1),
            "precipitation_mm": np.round(np.minimum(rain, 400), 1),
            "wind_speed_m_s": np.round(np.abs(sky.at(sky.wind_m_s, seen) * (0.7 + 0.6 * own[:, 2])
                                              + rng.normal(0, 0.4, rows)), 1),
            "period_s": period_s,
        }  # fmt: skip

    return model


def air(fleet: Fleet, sky: Sky) -> Model:
    """An air sensor: nitrogen dioxide follows the traffic, ozone the sun."""

    def model(turns: Turns, rng: np.random.Generator) -> dict[str, Column]:
        seen, rows = turns.observed_ms, len(turns.asset)
        own = fleet.traits[turns.asset]
        still = 1 / (1 + 0.15 * sky.at(sky.wind_m_s, seen))
        busy = activity(sky.local(seen)[1])
        no2 = (6 + 45 * busy * (0.4 + own[:, 0])) * still + rng.normal(0, 1.5, rows)
        sunshine = np.maximum(0, np.sin(np.radians(sky.at(sky.sun_deg, seen))))
        ozone = 45 + 50 * sunshine - 0.5 * no2 + rng.normal(0, 2, rows)
        pm10 = (10 + 22 * own[:, 1] + 8 * busy) * still + rng.normal(0, 1, rows)
        return {
            "sensor_type": fleet.kind,
            "no2_ug_m3": np.round(np.clip(no2, 0.5, None), 1),
            "o3_ug_m3": np.round(np.clip(ozone, 0.5, None), 1),
            "pm10_ug_m3": np.round(np.clip(pm10, 1.0, None), 1),
            "pm2_5_ug_m3": np.round(np.clip(pm10 * (0.5 + 0.2 * own[:, 2]), 0.5, None), 1),
            "temperature_c": np.round(sky.at(sky.temperature_c, seen) + rng.normal(0, 0.2, rows), 2),
            "humidity_ratio": np.round(np.clip(sky.at(sky.humidity, seen) + rng.normal(0, 0.01, rows), 0.05, 1), 3),
            "battery_ratio": _battery(fleet, sky, turns),
            "period_s": _period_s(fleet, turns),
        }

    return model


def noise(fleet: Fleet, sky: Sky) -> Model:
    """A sound level meter."""

    def model(turns: Turns, rng: np.random.Generator) -> dict[str, Column]:
        busy = activity(sky.local(turns.observed_ms)[1])
        level = 42 + 10 * fleet.traits[turns.asset, 0] + 18 * busy + rng.normal(0, 1.5, len(busy))
        return {
            "sensor_type": fleet.kind,
            "laeq_dba": np.round(np.clip(level, 30, 110), 1),
            "battery_ratio": _battery(fleet, sky, turns),
            "period_s": _period_s(fleet, turns),
        }

    return model


def footfall(fleet: Fleet, sky: Sky) -> Model:
    """A counter of people passing."""

    def model(turns: Turns, rng: np.random.Generator) -> dict[str, Column]:
        weekday, hour = sky.local(turns.observed_ms)
        period_s = _period_s(fleet, turns)
        hourly = (20 + 600 * fleet.traits[turns.asset, 0] ** 2) * activity(hour) * np.where(weekday >= 5, 1.2, 1.0)
        return {
            "sensor_type": fleet.kind,
            "motion_count": np.minimum(rng.poisson(hourly * period_s / 3600), 1_000_000).astype(np.int64),
            "battery_ratio": _battery(fleet, sky, turns),
            "period_s": period_s,
        }

    return model


SENSOR_MODELS: Final[Mapping[str, Callable[[Fleet, Sky], Model]]] = {
    "bin": container, "drop_off": container, "weather": weather, "air": air, "noise": noise, "footfall": footfall,
}  # fmt: skip
