"""What street lamps, traffic counters and pavement sensors of the simulated city read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from schemas.contracts import contract_of
from streams.simulation.avro import Column, string
from streams.simulation.fleet import FAULT_CODES, SOUND, Fleet, Turns
from streams.simulation.sensors import Model
from streams.simulation.sky import DAY_MS, HOUR_MS, LAMP_SWITCH_DEG, Floats, Sky

#: Share of a working day's vehicles by hour of the day, peaks at 8 and 17.
_HOURLY: Final = np.array([
    0.8, 0.5, 0.3, 0.3, 0.5, 1.2, 3.0, 6.0, 8.0, 6.0, 5.0, 5.2,
    5.8, 5.6, 5.4, 5.8, 6.8, 8.4, 7.4, 5.6, 4.0, 3.0, 2.4, 1.4,
])  # fmt: skip
_MORNING, _EVENING = 8, 17
#: By weekday, Monday first; the mean over a week is one, as in a registry's mean daily flow.
_WEEKDAY: Final = np.array([1.04, 1.06, 1.06, 1.06, 1.08, 0.92, 0.78])
_DIRECTIONS: Final = ("AB", "BA", "total")


@dataclass(frozen=True)
class Closure:
    """A street closed at one roadway asset, between two instants in ms since 1970."""

    asset_id: str
    start_ms: int
    end_ms: int


def lamp(fleet: Fleet, sky: Sky) -> Model:
    """A street lamp: on by the light, low in the small hours, with a meter that only grows."""
    field = contract_of("lighting").field
    on, off, low = (field("power_state").symbols.index(s) for s in ("on", "off", "low"))
    sound, defective = (field("lamp_status").symbols.index(s) for s in ("ok", "defective_lamp"))
    trait = fleet.traits
    switch_deg = LAMP_SWITCH_DEG + 3.0 * (trait[:, 0] - 0.5)
    rated_w = 30 + 90 * trait[:, 1]
    dims = trait[:, 2] < 0.6
    metered_kwh = 200 + 4_000 * trait[:, 3]
    broken, dark, burning = (fleet.fault == FAULT_CODES[r] for r in ("lamp_defective", "lamp_dark", "lamp_lit_by_day"))

    def model(turns: Turns, rng: np.random.Generator) -> dict[str, Column]:
        asset, seen, rows = turns.asset, turns.observed_ms, len(turns.asset)
        start = fleet.fault_start[asset]
        failed = seen >= start
        no_light, always = dark[asset] & failed, burning[asset] & failed
        lit = ((sky.at(sky.sun_deg, seen) < switch_deg[asset]) & ~no_light) | always
        hour = sky.local(seen)[1]
        dimmed = lit & dims[asset] & (hour >= 1) & (hour < 5) & ~always
        ratio = np.where(lit, np.where(dimmed, 0.5, 1.0), 0.0)
        # A defective lamp is switched on all the same; it draws next to nothing.
        drawn = np.where(broken[asset] & failed, 0.04, ratio) * rated_w[asset]
        power = np.where(lit, drawn * (1 + rng.uniform(-0.03, 0.03, rows)), rng.uniform(0.2, 0.6, rows))
        volts = 230 + rng.normal(0, 2, rows)
        burnt_h = sky.at(sky.lit_hours, np.where(no_light | always, start, seen))
        burnt_h += np.where(always, (seen - start) / HOUR_MS, 0)
        return {
            "power_state": np.where(dimmed, low, np.where(lit, on, off)),
            "lamp_status": np.where(broken[asset] & failed, defective, sound),
            "power_w": np.round(power, 1),
            "voltage_v": np.round(volts, 1),
            "current_a": np.round(power / (volts * 0.95), 3),
            "energy_kwh": np.round(metered_kwh[asset] + burnt_h * rated_w[asset] / 1000, 3),
            "dimming_ratio": ratio,
        }

    return model


def hourly_flows(fleet: Fleet) -> Floats:
    """Passages an hour on an average day, (assets, 24): the registry's day and peak hours where it has them."""
    trait = fleet.traits
    daily = np.where(np.isnan(fleet.daily_flow), _usual_daily(fleet), fleet.daily_flow)
    shape = _HOURLY / _HOURLY.sum()
    flows = daily[:, None] * shape
    known = ~np.isnan(fleet.morning_peak) | ~np.isnan(fleet.evening_peak)
    peaks = [_MORNING, _EVENING]
    for hour, registry in ((_MORNING, fleet.morning_peak), (_EVENING, fleet.evening_peak)):
        flows[:, hour] = np.where(np.isnan(registry), flows[:, hour], registry)
    rest = np.delete(np.arange(24), peaks)
    # A peak hour taken in a busier campaign than the day can leave less than nothing for the other hours.
    others = np.maximum(daily - flows[:, peaks].sum(1), 0.3 * daily)
    scaled = shape[rest] / shape[rest].sum() * others[:, None]
    flows[:, rest] = np.where(known[:, None], scaled, flows[:, rest])
    varied: Floats = np.clip(flows, 0, 50_000) * (0.97 + 0.06 * trait[:, 7, None])
    return varied


def _counted(fleet: Fleet) -> list[str]:
    """Who each station counts. Stations with vehicle flows in the registry count vehicles."""
    return [
        "vehicle" if has_flow or draw > 0.4 else "bicycle" if draw < 0.2 else "pedestrian" if draw < 0.3 else "car"
        for has_flow, draw in zip(~np.isnan(fleet.daily_flow), fleet.traits[:, 0].tolist(), strict=True)
    ]


def _usual_daily(fleet: Fleet) -> Floats:
    most = {"vehicle": 15_000.0, "car": 9_000.0, "bicycle": 2_500.0, "pedestrian": 4_000.0}
    return np.array([most[who] for who in _counted(fleet)]) * (0.05 + fleet.traits[:, 1] ** 2)


def traffic(fleet: Fleet, sky: Sky, closures: tuple[Closure, ...]) -> Model:
    """A counting station. It reports a period when the period is over, and `observed_at` is the period's start."""
    symbols = contract_of("roadway").field("mobility_type").symbols
    counted = _counted(fleet)
    mobility = np.array([symbols.index(who) for who in counted])
    motor = np.isin(counted, ("vehicle", "car"))
    flows = hourly_flows(fleet)
    busiest = flows.max(1)
    free_kmh = np.select([motor, np.array(counted) == "bicycle"], [32 + 38 * fleet.traits[:, 2], 17.0], 4.6)
    channels = [string(_DIRECTIONS[int(draw * len(_DIRECTIONS))]) for draw in fleet.traits[:, 3]]
    closed_from = np.full(len(fleet), 2**62, np.int64)
    closed_to = closed_from.copy()
    for closure in closures:
        if closure.asset_id in fleet.asset_ids:
            place = fleet.asset_ids.index(closure.asset_id)
            closed_from[place], closed_to[place] = closure.start_ms, closure.end_ms

    def model(turns: Turns, rng: np.random.Generator) -> dict[str, Column]:
        asset, rows = turns.asset, len(turns.asset)
        period_ms = fleet.interval_ms[asset]
        seen = turns.observed_ms - period_ms
        middle = seen + period_ms // 2
        weekday, hour = sky.local(middle)
        hourly = flows[asset, hour.astype(np.int64)] * _WEEKDAY[weekday]
        hourly = np.where((middle >= closed_from[asset]) & (middle < closed_to[asset]), 0, hourly)
        count = np.minimum(rng.poisson(hourly * period_ms / HOUR_MS), 100_000).astype(np.float64)
        speed = free_kmh[asset] * (1 - 0.35 * np.minimum(1, hourly / np.maximum(busiest[asset], 1)))
        speed = np.round(np.clip(speed + rng.normal(0, 0.05, rows) * free_kmh[asset], 1, 130), 1)
        # Seven metres of car and loop over two lanes.
        occupancy = np.clip(count * HOUR_MS / period_ms * 0.007 / speed / 2, 0, 1)
        draw = rng.random(rows)
        uptime = np.where(draw < 0.004, 0, np.where(draw < 0.03, np.round(rng.uniform(0.7, 0.99, rows), 3), 1.0))
        blind = uptime == 0
        return {
            "observed_at": seen,
            "observation_type": "traffic",
            "channel_id": [channels[a] for a in asset.tolist()],
            "mobility_type": mobility[asset],
            "period_s": period_ms / 1000,
            "count": np.where(blind, np.nan, count),
            "uptime_ratio": uptime,
            "occupancy_ratio": np.where(blind | ~motor[asset], np.nan, np.round(occupancy, 3)),
            "speed_kmh": np.where(blind | (count == 0), np.nan, speed),
        }

    return model


def pavement(fleet: Fleet, sky: Sky) -> Model:
    """A pavement sensor: the condition declines slowly, the surface follows sun and air."""
    trait = fleet.traits

    def model(turns: Turns, rng: np.random.Generator) -> dict[str, Column]:
        asset, seen, rows = turns.asset, turns.observed_ms, len(turns.asset)
        age_days = (seen - sky.start_ms) / DAY_MS
        condition = np.clip(45 + 50 * trait[asset, 0] - 0.01 * age_days + rng.normal(0, 0.2, rows), 1, 99)
        sunshine = np.maximum(0, np.sin(np.radians(sky.at(sky.sun_deg, seen))))
        surface = sky.at(sky.temperature_c, seen) + 13 * sunshine + rng.normal(0, 0.3, rows)
        return {
            "observation_type": "pavement",
            "mobility_type": "unknown",
            "condition_index": np.round(condition, 1),
            "roughness_mm_m": np.round(9 - 0.075 * condition + rng.uniform(0, 0.2, rows), 2),
            "vibration_g": np.round(np.minimum(0.02 + rng.exponential(0.05, rows) * (2 - condition / 100), 5), 3),
            "surface_temperature_c": np.round(surface, 1),
        }

    return model


def plan_closures(fleets: list[Fleet], rng: np.random.Generator, start_ms: int, end_ms: int) -> tuple[Closure, ...]:
    """One or two closures at sound roadway assets, inside the middle of the span."""
    places = [fleet.asset_ids[i] for fleet in fleets if fleet.domain == "roadway"
              for i in np.flatnonzero(fleet.fault == SOUND).tolist()]  # fmt: skip
    if not places:
        return ()
    chosen = rng.choice(len(places), size=min(len(places), int(rng.integers(1, 3))), replace=False)
    span = end_ms - start_ms
    closures = []
    for place in chosen.tolist():
        begin = start_ms + int(span * rng.uniform(0.2, 0.4))
        closures.append(Closure(places[place], begin, begin + min(int(span * rng.uniform(0.2, 0.5)), 12 * HOUR_MS)))
    return tuple(closures)
