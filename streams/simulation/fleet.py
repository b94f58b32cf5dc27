"""Which assets of a territory take part in a simulation, and when each of them reports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl
import shapely

from processors.territory import Territory
from schemas.contracts import Domain
from streams.simulation.avro import string
from streams.simulation.sky import Floats, Ints

#: Faults an asset can have, as codes in `Fleet.fault`.
SOUND: Final = 0
FAULT_CODES: Final[Mapping[str, int]] = {
    "bin_full": 1, "bin_fire": 2, "lamp_defective": 3, "lamp_dark": 4, "lamp_lit_by_day": 5, "silent": 6,
}  # fmt: skip
NEVER: Final = 2**62

#: Reports come at most this share of the interval after their turn, so gaps stay within 10 % of the interval.
JITTER: Final = 0.1
#: How long a record is under way at most, in ms; for quick assets a share of the interval, so that they keep order.
MAX_DELAY_MS: Final = 5_000
_DELAY_SHARE: Final = 0.4

#: Assets that take part however few events are asked for: enough of each kind for its faults, and sound ones beside.
_AT_LEAST: Final[Mapping[str, int]] = {
    "lamp": 14, "bin": 10, "drop_off": 6, "traffic": 6, "pavement": 3, "weather": 2, "air": 2, "noise": 3,
    "footfall": 3,
}  # fmt: skip
#: A city has far more lamps than anything else; every other kind takes part with this multiple of the lamps' share.
_RICHER: Final = 4
_SHARE_SENDING_POSITION: Final = 0.2
_TRAITS: Final = 8


@dataclass(frozen=True)
class Fleet:
    """The active assets of one kind, sorted by nothing in particular; every array has one value for each.

    `traits` are constant random numbers between 0 and 1, for the models to give each asset a character of its own.
    `zone` is the row of the territory's zones (first layer), -1 for none. The asset's turn to report comes at
    `first_ms + n * interval_ms` for n = 0, 1, ...; from turn `turns` on it says nothing.
    The arrays `fault`, `fault_start`, `fault_end` and `turns` are filled in when faults are planned.
    """

    domain: Domain
    kind: str
    asset_ids: list[str]
    keys: list[bytes]
    avro_ids: list[bytes]
    interval_ms: Ints
    first_ms: Ints
    turns: Ints
    longitude: Floats
    latitude: Floats
    sends_position: npt.NDArray[np.bool_]
    zone: Ints
    traits: Floats
    depth_mm: Floats
    daily_flow: Floats
    morning_peak: Floats
    evening_peak: Floats
    fault: Ints
    fault_start: Ints
    fault_end: Ints

    def __len__(self) -> int:
        return len(self.asset_ids)

    def expected_events(self, end_ms: int) -> float:
        turns = np.minimum(self.turns, np.maximum(0, -((self.first_ms - end_ms) // self.interval_ms)))
        return float(turns.sum())


@dataclass(frozen=True)
class Turns:
    """Some reports of one fleet: which asset, when it observed, when the record is due. Instants in ms since 1970."""

    asset: Ints
    observed_ms: Ints
    at_ms: Ints


def draw_turns(fleet: Fleet, rng: np.random.Generator, from_ms: int, to_ms: int) -> Turns:
    """The reports whose turn comes in `[from_ms, to_ms)`, asset by asset."""

    def nth(instant: int) -> Ints:
        number: Ints = np.clip(-((fleet.first_ms - instant) // fleet.interval_ms), 0, fleet.turns)
        return number

    first = nth(from_ms)
    counts = nth(to_ms) - first
    asset = np.repeat(np.arange(len(fleet)), counts)
    place = np.arange(len(asset)) - np.repeat(np.cumsum(counts) - counts, counts)
    interval = fleet.interval_ms[asset]
    turn = fleet.first_ms[asset] + (first[asset] + place) * interval
    observed = turn + (rng.random(len(asset)) * JITTER * interval).astype(np.int64)
    delay = (rng.random(len(asset)) * np.minimum(MAX_DELAY_MS, _DELAY_SHARE * interval)).astype(np.int64)
    return Turns(asset, observed, observed + delay)


def make_fleets(
    territory: Territory, rng: np.random.Generator, start_ms: int, end_ms: int, events: float
) -> list[Fleet]:
    """Active assets by kind, such that they report about `events` times in all.

    Each kind but lamps gives the same share of its assets, spread evenly over the zones of the first layer, and never
    fewer than a handful; all take part when all together report less often than asked. Assets without a position or
    interval stay out.
    """
    assets = territory.assets.filter(
        pl.col("report_interval_s").is_not_null() & (pl.col("report_interval_s") > 0)
        & pl.col("longitude").is_finite() & pl.col("latitude").is_finite()
    ).sort("domain", "kind", "asset_id")  # fmt: skip
    if assets.is_empty():
        return []
    zones = _zones_of(territory, assets["longitude"].to_numpy(), assets["latitude"].to_numpy())
    kinds = [key for key, _ in assets.group_by("domain", "kind", maintain_order=True)]
    spread: dict[tuple[str, str], Ints] = {}
    load: dict[tuple[str, str], Floats] = {}
    interval_ms = assets["report_interval_s"].to_numpy() * 1000
    for domain, kind in kinds:
        rows = np.flatnonzero(((assets["domain"] == domain) & (assets["kind"] == kind)).to_numpy())
        spread[domain, kind] = _spread(rng, rows, zones)
        load[domain, kind] = np.cumsum((end_ms - start_ms) / interval_ms[spread[domain, kind]])
    share = _share_for(load, events)
    return [
        _fleet(territory, rng, assets, spread[key][: _taken(key[1], len(spread[key]), share)], zones, start_ms)
        for key in spread
    ]


def _taken(kind: str, count: int, share: float) -> int:
    richer = 1 if kind == "lamp" else _RICHER
    return min(count, max(round(richer * share * count), _AT_LEAST.get(kind, 3)))


def _share_for(load: Mapping[tuple[str, str], Floats], events: float) -> float:
    """The share of each kind's assets that makes about `events` events, found by halving."""

    def made(share: float) -> float:
        return sum(float(total[_taken(kind, len(total), share) - 1]) for (_, kind), total in load.items())

    low, high = 0.0, 1.0
    if made(high) <= events:
        return high
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if made(middle) <= events else (low, middle)
    return low


def _spread(rng: np.random.Generator, rows: Ints, zones: Ints) -> Ints:
    """The rows in an order whose every beginning holds the zones in proportion."""
    rows = rng.permutation(rows)
    rank = np.empty(len(rows))
    for zone in np.unique(zones[rows]):
        inside = np.flatnonzero(zones[rows] == zone)
        rank[inside] = (np.arange(len(inside)) + 0.5) / len(inside)
    chosen: Ints = rows[np.argsort(rank, kind="stable")]
    return chosen


def _zones_of(territory: Territory, longitude: Floats, latitude: Floats) -> Ints:
    """Zone row of the first layer for each position, -1 for none; of several, the first."""
    out = np.full(len(longitude), -1, np.int64)
    if not territory.layers:
        return out
    rows = np.flatnonzero((territory.zones["layer"] == territory.layers[0]).to_numpy())
    points = shapely.points(longitude, latitude)
    found, zone = shapely.STRtree(territory.geometries[rows]).query(points, predicate="intersects")
    for point, row in zip(found[::-1].tolist(), rows[zone][::-1].tolist(), strict=True):
        out[point] = row
    return out


def _fleet(
    territory: Territory, rng: np.random.Generator, assets: pl.DataFrame, rows: Ints, zones: Ints, start_ms: int
) -> Fleet:
    own = assets[rows]
    ids: list[str] = own["asset_id"].to_list()
    count = len(ids)
    interval = np.maximum(1, (own["report_interval_s"].to_numpy() * 1000).round()).astype(np.int64)

    def registry(column: str) -> Floats:
        return own[column].fill_null(float("nan")).to_numpy().astype(np.float64)

    return Fleet(
        domain=own["domain"][0],
        kind=own["kind"][0],
        asset_ids=ids,
        keys=[f"{territory.jurisdiction_id}|{asset_id}".encode() for asset_id in ids],
        avro_ids=[string(asset_id) for asset_id in ids],
        interval_ms=interval,
        first_ms=start_ms + (rng.random(count) * interval).astype(np.int64),
        turns=np.full(count, NEVER, np.int64),
        longitude=registry("longitude"),
        latitude=registry("latitude"),
        sends_position=rng.random(count) < _SHARE_SENDING_POSITION,
        zone=zones[rows],
        traits=rng.random((count, _TRAITS)),
        depth_mm=registry("depth_mm"),
        daily_flow=registry("daily_flow"),
        morning_peak=registry("morning_peak_flow"),
        evening_peak=registry("evening_peak_flow"),
        fault=np.zeros(count, np.int64),
        fault_start=np.full(count, NEVER, np.int64),
        fault_end=np.full(count, NEVER, np.int64),
    )
