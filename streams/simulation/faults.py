"""What goes wrong in the simulated city, decided before the first record is drawn."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

import numpy as np

from streams.simulation.fleet import FAULT_CODES, JITTER, MAX_DELAY_MS, SOUND, Fleet
from streams.simulation.records import Fault, FaultRule
from streams.simulation.sensors import OVERFLOW_INTERVALS
from streams.simulation.sky import Sky

_MINUTE_MS: Final = 60_000
#: Sun elevations, in degrees, beyond which nobody doubts that it is night or day.
NIGHT_DEG: Final = -10.0
DAY_DEG: Final = 8.0
#: A lamp must be wrong for this long, and in this many reports, to be held against it.
_WRONG_FOR_MS: Final = 40 * _MINUTE_MS
#: Intervals in which three reports surely fall, jitter included.
_THREE_REPORTS: Final = 3 + 2 * JITTER + 0.3
_TWO_REPORTS: Final = 2 + 2 * JITTER
#: Intervals of silence before the end, and reports before the silence.
_SILENT_INTERVALS: Final = 6
_REPORTS_BEFORE: Final = 2
#: Share of a kind's assets that one fault strikes; at least two where the kind has as many.
_SHARE: Final[dict[str, float]] = {
    "bin_full": 0.006, "bin_fire": 0.004, "lamp_defective": 0.004, "lamp_dark": 0.004, "lamp_lit_by_day": 0.004,
    "silent": 0.004,
}  # fmt: skip
_CONTAINERS: Final = ("bin", "drop_off")

Planner = Callable[[Fleet, int, Sky, np.random.Generator], tuple[int, int | None, int] | None]


def plan_asset_faults(fleets: list[Fleet], sky: Sky, rng: np.random.Generator) -> tuple[Fault, ...]:
    """Decide which assets fail, how and when, and write it into the fleets. An asset has at most one fault.

    A fault that could not be seen within the simulated span is not planned. Returned in order of their start.
    """
    plans: tuple[tuple[FaultRule, tuple[str, ...], Planner], ...] = (
        ("lamp_dark", ("lamp",), _lamp_dark),
        ("lamp_lit_by_day", ("lamp",), _lamp_lit_by_day),
        ("lamp_defective", ("lamp",), _for_good),
        ("bin_full", _CONTAINERS, _bin_full),
        ("bin_fire", _CONTAINERS, _bin_fire),
        ("silent", tuple({fleet.kind: None for fleet in fleets}), _silent),
    )
    faults: list[Fault] = []
    for rule, kinds, plan in plans:
        concerned = [fleet for fleet in fleets if fleet.kind in kinds]
        wanted = max(2, round(_SHARE[rule] * sum(map(len, concerned))))
        for fleet, asset in _candidates(concerned, rng):
            if wanted == 0:
                break
            planned = plan(fleet, asset, sky, rng)
            if planned is None:
                continue
            start, end, evident = planned
            fleet.fault[asset] = FAULT_CODES[rule]
            fleet.fault_start[asset] = start
            if end is not None:
                fleet.fault_end[asset] = end
            faults.append(Fault(rule, fleet.asset_ids[asset], None, None, start, end, evident))
            wanted -= 1
    return tuple(sorted(faults, key=lambda f: (f.start_ms, f.rule, f.asset_id or "")))


def _candidates(fleets: list[Fleet], rng: np.random.Generator) -> Iterator[tuple[Fleet, int]]:
    """Sound assets, by turns over kinds and over zones. Each kind keeps most of its assets sound."""
    queues = []
    for fleet in fleets:
        sound = rng.permutation(np.flatnonzero(fleet.fault == SOUND))
        zones = fleet.zone[sound]
        nth_of_zone = np.zeros(len(sound))
        for zone in np.unique(zones):
            inside = np.flatnonzero(zones == zone)
            nth_of_zone[inside] = np.arange(len(inside)) + rng.random() / 2
        may_fail = len(fleet) // 2 - (len(fleet) - len(sound))
        queues.append((fleet, iter(sound[np.argsort(nth_of_zone, kind="stable")].tolist()), may_fail))
    while queues:
        going_on = []
        for fleet, queue, may_fail in queues:
            asset = next(queue, None)
            if may_fail > 0 and asset is not None:
                yield fleet, asset
                going_on.append((fleet, queue, may_fail - int(fleet.fault[asset] != SOUND)))
        queues = going_on


def _earliest(fleet: Fleet, asset: int) -> int:
    """An instant after the asset's second report, on its way and all."""
    return int(fleet.first_ms[asset] + (_REPORTS_BEFORE - 1 + JITTER) * fleet.interval_ms[asset]) + MAX_DELAY_MS + 1


def _margin(fleet: Fleet, asset: int, intervals: float) -> int:
    """Time in which that many intervals' reports are published, in ms."""
    return int(intervals * fleet.interval_ms[asset]) + MAX_DELAY_MS


def _between(rng: np.random.Generator, low: int, high: int) -> int | None:
    return int(rng.integers(low, high + 1)) if low <= high else None


def _for_good(fleet: Fleet, asset: int, sky: Sky, rng: np.random.Generator) -> tuple[int, int | None, int] | None:
    needed = _margin(fleet, asset, _THREE_REPORTS)
    latest = sky.end_ms - max(needed, (sky.end_ms - sky.start_ms) // 5)
    start = _between(rng, _earliest(fleet, asset), latest)
    return None if start is None else (start, None, start + needed)


def _bin_full(fleet: Fleet, asset: int, sky: Sky, rng: np.random.Generator) -> tuple[int, int | None, int] | None:
    needed = _margin(fleet, asset, OVERFLOW_INTERVALS + _TWO_REPORTS)
    start = _between(rng, _earliest(fleet, asset), sky.end_ms - needed)
    if start is None:
        return None
    emptied = start + needed + int(rng.uniform(0.1, 1.0) * (sky.end_ms - sky.start_ms) / 3)
    seen_empty = emptied + _margin(fleet, asset, _THREE_REPORTS)
    return start, emptied if seen_empty < sky.end_ms and rng.random() < 0.6 else None, start + needed


def _bin_fire(fleet: Fleet, asset: int, sky: Sky, rng: np.random.Generator) -> tuple[int, int | None, int] | None:
    needed = _margin(fleet, asset, _THREE_REPORTS)
    start = _between(rng, _earliest(fleet, asset), sky.end_ms - needed)
    if start is None:
        return None
    out = start + max(needed, int(rng.uniform(20, 90) * _MINUTE_MS))
    return start, out if out < sky.end_ms else None, start + needed


def _lamp_dark(fleet: Fleet, asset: int, sky: Sky, rng: np.random.Generator) -> tuple[int, int | None, int] | None:
    return _wrong_light(fleet, asset, sky.spells(below_deg=NIGHT_DEG), sky.end_ms, rng)


def _lamp_lit_by_day(
    fleet: Fleet, asset: int, sky: Sky, rng: np.random.Generator
) -> tuple[int, int | None, int] | None:
    return _wrong_light(fleet, asset, sky.spells(above_deg=DAY_DEG), sky.end_ms, rng)


def _wrong_light(
    fleet: Fleet, asset: int, spells: list[tuple[int, int]], end_ms: int, rng: np.random.Generator
) -> tuple[int, int | None, int] | None:
    """A start such that one night (or day) shows the lamp in the wrong state long and often enough."""
    needed = max(_WRONG_FOR_MS, _margin(fleet, asset, _THREE_REPORTS)) + MAX_DELAY_MS
    choices = []
    for begins, ends in spells:
        # It may fail up to an hour before its state is wrong.
        low = max(_earliest(fleet, asset), begins - 60 * _MINUTE_MS)
        high = min(ends, end_ms) - needed
        if low <= high:
            choices.append((low, high, begins))
    if not choices:
        return None
    low, high, begins = choices[int(rng.integers(len(choices)))]
    start = int(rng.integers(low, high + 1))
    return start, None, max(start, begins) + needed


def _silent(fleet: Fleet, asset: int, sky: Sky, rng: np.random.Generator) -> tuple[int, int | None, int] | None:
    interval, first = int(fleet.interval_ms[asset]), int(fleet.first_ms[asset])
    # A report can come a tenth of an interval after its turn.
    last_turn = (sky.end_ms - MAX_DELAY_MS - int((_SILENT_INTERVALS + JITTER) * interval) - first) // interval
    turn = _between(rng, _REPORTS_BEFORE + 1, last_turn)
    if turn is None:
        return None
    fleet.turns[asset] = turn + 1
    # A counter's last report is about the period before.
    begins = first + (turn - 1 if fleet.kind == "traffic" else turn) * interval
    return begins, None, first + int((turn + JITTER + _SILENT_INTERVALS) * interval) + MAX_DELAY_MS
