"""Where citizens of the simulated city report from: zones of one layer, and positions inside them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

import numpy as np
import polars as pl
import shapely
from shapely.geometry.base import BaseGeometry

from processors.territory import Territory
from streams.simulation.fleet import SOUND, Fleet
from streams.simulation.sky import Floats, utc

#: West, south, east, north in WGS84 degrees.
Area = tuple[float, float, float, float]

_ROUNDS: Final = 60
#: A reporter stands within about ten metres of what the report is about.
_NEAR_DEG: Final = 0.0001


@dataclass(frozen=True)
class Places:
    """Zones of one layer that hold for the whole simulated span and reach into the territory's area.

    `eligible` are the zones that can be a hot spot: their code names them alone. `nearby[i]` are sound active assets
    in zone i, as (asset_id, longitude, latitude). Without any zone, positions come from anywhere in the area.
    """

    area: Area
    codes: list[str]
    shapes: list[BaseGeometry]
    tree: shapely.STRtree
    eligible: list[int]
    nearby: list[list[tuple[str, float, float]]]

    def __len__(self) -> int:
        return len(self.shapes)

    def positions(
        self, rng: np.random.Generator, zone: int, count: int, *, alone: bool = False
    ) -> tuple[Floats, Floats]:
        """`count` positions in a zone, as longitudes and latitudes; `alone` ones lie in no other zone of the layer.

        May be fewer than asked when the zone offers hardly any room.
        """
        west, south, east, north = _overlap(self.shapes[zone].bounds, self.area)
        lon, lat = np.empty(0), np.empty(0)
        for _ in range(_ROUNDS):
            if len(lon) >= count or west >= east or south >= north:
                break
            x, y = rng.uniform(west, east, 2 * count + 8), rng.uniform(south, north, 2 * count + 8)
            keep = shapely.contains_xy(self.shapes[zone], x, y)
            if alone:
                point, _zone = self.tree.query(shapely.points(x, y), predicate="intersects")
                keep &= np.bincount(point, minlength=len(x)) == 1
            lon, lat = np.concatenate([lon, x[keep]]), np.concatenate([lat, y[keep]])
        return np.round(lon[:count], 6), np.round(lat[:count], 6)

    def anywhere(self, rng: np.random.Generator, count: int = 1) -> tuple[Floats, Floats]:
        """Positions in the area, inside zones where there are any."""
        if self.shapes:
            zone = int(rng.integers(len(self.shapes)))
            lon, lat = self.positions(rng, zone, count)
            if len(lon) == count:
                return lon, lat
        west, south, east, north = self.area
        return np.round(rng.uniform(west, east, count), 6), np.round(rng.uniform(south, north, count), 6)

    def near_asset(self, rng: np.random.Generator, zone: int) -> tuple[str, float, float] | None:
        """A sound asset of the zone, and a position within about ten metres of it, still in the zone."""
        if not self.nearby[zone]:
            return None
        asset_id, lon, lat = self.nearby[zone][int(rng.integers(len(self.nearby[zone])))]
        x, y = rng.uniform(-_NEAR_DEG, _NEAR_DEG, 2)
        if not shapely.contains_xy(self.shapes[zone], lon + x, lat + y) or not within(self.area, lon + x, lat + y):
            x, y = 0.0, 0.0
        return asset_id, round(lon + float(x), 6), round(lat + float(y), 6)


def within(area: Area, lon: float, lat: float) -> bool:
    """Whether a position lies in an area (west, south, east, north)."""
    return area[0] <= lon <= area[2] and area[1] <= lat <= area[3]


def _overlap(a: Area, b: Area) -> Area:
    return max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])


def make_places(territory: Territory, fleets: list[Fleet], start_ms: int, end_ms: int) -> Places:
    """The places of a territory, over the layer whose hot spots it looks for, else its first layer."""
    rule = territory.rules.report_hot_spot
    layers = territory.layers
    layer = rule.layer if rule is not None and rule.layer in layers else (layers[0] if layers else "")
    rows = [row for row, z in enumerate(territory.zones.iter_rows(named=True))
            if z["layer"] == layer and _holds(z["valid_from"], z["valid_to"], utc(start_ms), utc(end_ms))]  # fmt: skip
    box = shapely.box(*territory.area)
    rows = [row for row in rows if territory.geometries[row].intersection(box).area > 0]
    shapes = [territory.geometries[row] for row in rows]
    codes = territory.zones[rows]["code"].to_list()
    named = territory.zones.filter(pl.col("layer") == layer)["code"].to_list()
    tree = shapely.STRtree(shapes)
    nearby: list[list[tuple[str, float, float]]] = [[] for _ in shapes]
    for fleet in fleets:
        sound = np.flatnonzero(fleet.fault == SOUND)
        points = shapely.points(fleet.longitude[sound], fleet.latitude[sound])
        for place, zone in zip(*tree.query(points, predicate="intersects").tolist(), strict=True):
            asset = int(sound[place])
            if within(territory.area, fleet.longitude[asset], fleet.latitude[asset]):
                nearby[zone].append((fleet.asset_ids[asset], fleet.longitude[asset], fleet.latitude[asset]))
    eligible = [i for i, code in enumerate(codes) if named.count(code) == 1]
    return Places(territory.area, codes, shapes, tree, eligible, nearby)


def _holds(valid_from: datetime | None, valid_to: datetime | None, start: datetime, end: datetime) -> bool:
    return (valid_from is None or valid_from <= start) and (valid_to is None or valid_to >= end)
