"""What citizens of the simulated city report: requests, their steps, and one hot spot."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import shapely

from processors.territory import Territory
from streams.simulation.fleet import MAX_DELAY_MS
from streams.simulation.places import Places
from streams.simulation.records import Fault
from streams.simulation.sensors import activity
from streams.simulation.sky import DAY_MS, HOUR_MS, Ints, Sky

SOURCE: Final = "sim/reports"
CATEGORIES: Final = ("pothole", "street_light", "waste", "graffiti", "noise", "tree", "water_leak")
_WEIGHTS: Final = np.array([0.16, 0.17, 0.2, 0.13, 0.12, 0.12, 0.1])
_CHANNELS: Final = ("app", "web", "phone", "counter", "email", "agent", "sensor")
_CHANNEL_WEIGHTS: Final = np.array([0.45, 0.2, 0.18, 0.06, 0.06, 0.04, 0.01])

#: Share of all events that are steps of requests, and the requests a day below and above which it does not go: a town
#: has some to show, and a zone of a real town does not send hundreds.
_SHARE: Final = 0.015
_LEAST_A_DAY: Final = 150
_MOST_A_DAY_PER_ZONE: Final = 40
#: The least may cost at most this share of the events.
_LEAST_SHARE: Final = 0.05

_HOT_SPOT_MS: Final = 2 * HOUR_MS
_HOT_SPOT_SPAN_MS: Final = 8 * HOUR_MS
#: Of the hot category's ordinary requests in the hot zone, the share that stays.
_QUIET: Final = 0.3
_NEAR_ASSET, _NAMES_ASSET, _REPEATS, _PSEUDONYM = 0.2, 0.3, 0.05, 0.7


@dataclass(frozen=True)
class Request:
    """One request; its steps are kept apart. Position in degrees."""

    number: int
    category: str
    channel: str
    asset_id: str
    longitude: float
    latitude: float
    parent: int | None
    pseudonym: str | None


@dataclass(frozen=True)
class Requests:
    """All requests of a simulation; `steps` are (request index, status) at `step_ms`, which ascends."""

    requests: list[Request]
    step_ms: Ints
    steps: list[tuple[int, str]]


def request_id(number: int) -> str:
    return f"R{number:07d}"


def step_value(jurisdiction_id: str, request: Request, status: str, event_id: str, observed_ms: int) -> dict[str, Any]:
    """One step as a value of the `CitizenReport` contract."""
    return {
        "event_id": event_id,
        "source": SOURCE,
        "jurisdiction_id": jurisdiction_id,
        "asset_id": request.asset_id,
        "observed_at": observed_ms,
        "longitude": request.longitude,
        "latitude": request.latitude,
        "service_request_id": request_id(request.number),
        "service_code": request.category,
        "status": status,
        "channel": request.channel,
        "parent_request_id": None if request.parent is None else request_id(request.parent),
        "reporter_pseudonym": request.pseudonym,
    }


def plan_hot_spot(territory: Territory, places: Places, sky: Sky, rng: np.random.Generator) -> tuple[int, Fault] | None:
    """A zone (index into `places`) in which one category piles up for two hours, late enough for a past to exist.

    None over spans below eight hours, without zones, or where the territory has the rule switched off.
    """
    span = sky.end_ms - sky.start_ms
    if span < _HOT_SPOT_SPAN_MS or not places.eligible or territory.rules.report_hot_spot is None:
        return None
    rest = HOUR_MS + MAX_DELAY_MS if span >= 12 * HOUR_MS else HOUR_MS // 4
    latest = sky.end_ms - rest - _HOT_SPOT_MS
    # A town's usual number of reports shows only after a while, so the later part of what is allowed.
    earliest = max(sky.start_ms + int(0.4 * span), latest - span // 4)
    begins = int(rng.integers(earliest, latest + 1))
    for zone in rng.permutation(places.eligible).tolist():
        if len(places.positions(rng, zone, 40, alone=True)[0]) == 40:
            category = CATEGORIES[int(rng.choice(len(CATEGORIES), p=_WEIGHTS))]
            ends = begins + _HOT_SPOT_MS
            return zone, Fault("report_hot_spot", None, places.codes[zone], category, begins, ends, ends)
    return None


def plan_requests(
    places: Places, sky: Sky, rng: np.random.Generator, events: float, hot_spot: tuple[int, Fault] | None
) -> Requests:
    """The requests of the simulated span and their steps; about 1.5 % of `events`, within what a town reports."""
    days = (sky.end_ms - sky.start_ms) / DAY_MS
    trial = [len(_steps(at, sky.end_ms, rng)) for at in rng.integers(sky.start_ms, sky.end_ms, 400).tolist()]
    # Of a span so short that no step comes within it, each is taken for one.
    steps_each = max(1.0, float(np.mean(trial)))
    most = max(_LEAST_A_DAY, _MOST_A_DAY_PER_ZONE * len(places)) * days
    least = min(_LEAST_A_DAY * days, _LEAST_SHARE * events / steps_each)
    count = round(max(least, min(_SHARE * events / steps_each, most)))

    requests: list[Request] = []
    begins: list[int] = []
    latest: dict[str, Request] = {}
    for at in _arrivals(sky, rng, count):
        category = CATEGORIES[int(rng.choice(len(CATEGORIES), p=_WEIGHTS))]
        request = _request(places, rng, len(requests), category, latest.get(category))
        if hot_spot is not None and category == hot_spot[1].category and rng.random() > _QUIET:
            inside = shapely.intersects_xy(places.shapes[hot_spot[0]], request.longitude, request.latitude)
            if inside:
                continue
        requests.append(request)
        begins.append(at)
        latest[category] = request
    if hot_spot is not None:
        zone, fault = hot_spot
        lon, lat = places.positions(rng, zone, int(rng.integers(25, 41)), alone=True)
        category = fault.category or ""
        for x, y in zip(lon.tolist(), lat.tolist(), strict=True):
            requests.append(Request(len(requests), category, _channel(rng), "", x, y, None, _pseudonym(rng)))
            begins.append(fault.start_ms + int(rng.integers(0, _HOT_SPOT_MS - 60_000)))
    steps = [(at, number, status) for number, begin in enumerate(begins)
             for at, status in _steps(begin, sky.end_ms, rng)]  # fmt: skip
    steps.sort()
    return Requests(
        requests, np.array([at for at, _, _ in steps], np.int64), [(number, status) for _, number, status in steps]
    )


def _arrivals(sky: Sky, rng: np.random.Generator, count: int) -> list[int]:
    grid = np.linspace(sky.start_ms, sky.end_ms, 2 + int((sky.end_ms - sky.start_ms) / (HOUR_MS / 4)))
    weight = 0.45 + 0.9 * activity(sky.local(grid.astype(np.int64))[1])
    total = np.concatenate([[0.0], np.cumsum((weight[1:] + weight[:-1]) / 2)])
    arrivals: list[int] = np.sort(np.interp(rng.random(count) * total[-1], total, grid)).astype(np.int64).tolist()
    return arrivals


def _request(places: Places, rng: np.random.Generator, number: int, category: str, earlier: Request | None) -> Request:
    asset_id, near, parent = "", None, None
    if len(places) and rng.random() < _NEAR_ASSET:
        near = places.near_asset(rng, int(rng.integers(len(places))))
    if earlier is not None and rng.random() < _REPEATS:
        x, y, parent = earlier.longitude, earlier.latitude, earlier.number
    elif near is not None:
        asset_id, x, y = near
        asset_id = asset_id if rng.random() < _NAMES_ASSET else ""
    else:
        lon, lat = places.anywhere(rng)
        x, y = float(lon[0]), float(lat[0])
    return Request(number, category, _channel(rng), asset_id, x, y, parent, _pseudonym(rng))


def ordinary_request(places: Places, rng: np.random.Generator, number: int) -> Request:
    """A request of its own beside the planned ones, with `number` as its number; names no asset."""
    category = CATEGORIES[int(rng.choice(len(CATEGORIES), p=_WEIGHTS))]
    lon, lat = places.anywhere(rng)
    return Request(number, category, _channel(rng), "", float(lon[0]), float(lat[0]), None, _pseudonym(rng))


def _channel(rng: np.random.Generator) -> str:
    return _CHANNELS[int(rng.choice(len(_CHANNELS), p=_CHANNEL_WEIGHTS))]


def _pseudonym(rng: np.random.Generator) -> str | None:
    reporter = int(rng.integers(1, 50_000))
    return hashlib.sha256(f"reporter {reporter}".encode()).hexdigest() if rng.random() < _PSEUDONYM else None


def _steps(begin: int, end_ms: int, rng: np.random.Generator) -> list[tuple[int, str]]:
    """The steps of a request received at `begin`, as far as they come before `end_ms`."""
    draw = rng.random(4)
    way = ["received", "to_qualify"] if draw[0] < 0.5 else ["received"]
    if draw[1] < 0.05:
        way.append("rejected")
    elif draw[1] < 0.08:
        way.append("cancelled")
    else:
        way += ["transferred"] if draw[2] < 0.05 else []
        way += ["assigned"] + (["scheduled"] if draw[2] > 0.85 else []) + ["in_progress"]
        way += (["on_hold", "in_progress"] if draw[3] < 0.06 else []) + ["done"]
        way += ["reopened"] if draw[3] > 0.97 else []
    hours = np.cumsum(np.concatenate([[0.0], 0.08 + rng.exponential([0.4, 1.2, *[2.5] * 7])]))
    steps = [(begin + int(h * HOUR_MS), status) for h, status in zip(hours.tolist(), way, strict=False)]
    return [(at, status) for at, status in steps if at < end_ms - MAX_DELAY_MS]
