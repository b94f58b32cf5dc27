"""Which zones a record lies in."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import shapely
import shapely.geometry

from benchmarks.peers.common.contracts import Record

#: Indices into `Places.zones`, one for each layer.
Zones = tuple[int, ...]


@dataclass
class Places:
    """The zones of a territory and the positions of its assets.

    An asset's zones are looked up once and kept by its identifier. A record with a position of its own is looked up
    each time: measured positions seldom repeat. `zones` are (layer, code), in the order of their layers and codes; a
    layer that has no zone at a position is at the end of them with the code "".
    """

    zones: list[tuple[str, str]]
    nowhere: Zones
    layer_of: list[int]
    tree: shapely.STRtree
    geometries: Any
    assets: Mapping[str, tuple[float, float]]
    by_asset: dict[str, Zones] = field(default_factory=dict)

    def of(self, record: Record) -> Zones:
        """The record's zones, by its own position or else its asset's."""
        longitude, latitude = record["longitude"], record["latitude"]
        if longitude is None or latitude is None:
            return self._of_asset(record["asset_id"])
        return self._at(longitude, latitude)

    def of_many(self, records: Sequence[Record]) -> list[Zones]:
        """The same for many records at once, measured positions in one query."""
        found: list[Zones] = []
        rows: list[int] = []
        positions: list[tuple[float, float]] = []
        for row, record in enumerate(records):
            longitude, latitude = record["longitude"], record["latitude"]
            if longitude is None or latitude is None:
                found.append(self._of_asset(record["asset_id"]))
            else:
                found.append(self.nowhere)
                rows.append(row)
                positions.append((longitude, latitude))
        if not rows:
            return found
        points = shapely.points(positions)
        near_point, near = self.tree.query(points)
        hit = shapely.intersects(self.geometries[near], points[near_point])
        zones = [list(self.nowhere) for _ in rows]
        for point, zone in zip(near_point[hit].tolist(), near[hit].tolist(), strict=True):
            self._settle(zones[point], zone)
        for row, one in zip(rows, zones, strict=True):
            found[row] = tuple(one)
        return found

    def _of_asset(self, asset: str) -> Zones:
        found = self.by_asset.get(asset)
        if found is None:
            registered = self.assets.get(asset)
            found = self.by_asset[asset] = self.nowhere if registered is None else self._at(*registered)
        return found

    def _at(self, longitude: float, latitude: float) -> Zones:
        # All zones, not the tree's few: making one point and asking the tree with it takes three times as long.
        found = list(self.nowhere)
        for zone in np.flatnonzero(shapely.intersects_xy(self.geometries, longitude, latitude)).tolist():
            self._settle(found, zone)
        return tuple(found)

    def _settle(self, found: list[int], zone: int) -> None:
        """On a shared border the first code counts, and zones are in the order of their codes, "nowhere" last."""
        layer = self.layer_of[zone]
        if zone < found[layer]:
            found[layer] = zone


def read_places(territory: Path, today: str) -> Places:
    """Read a territory's folder: `zones/<layer>.geojson` and `assets.parquet`. Zones not valid `today` are left out."""
    zones: list[tuple[str, str]] = []
    layer_of: list[int] = []
    shapes: list[Any] = []
    files = sorted((territory / "zones").glob("*.geojson"))
    for layer, file in enumerate(files):
        features = json.loads(file.read_text("utf-8"))["features"]
        for feature in sorted(features, key=lambda one: str(one["properties"]["code"])):
            properties = feature["properties"]
            if (properties.get("valid_from") or "") <= today < (properties.get("valid_to") or "9999"):
                zones.append((file.stem, str(properties["code"])))
                layer_of.append(layer)
                shapes.append(shapely.geometry.shape(feature["geometry"]))
    nowhere = tuple(range(len(zones), len(zones) + len(files)))
    zones.extend((file.stem, "") for file in files)
    geometries = np.array(shapes, dtype=object)
    shapely.prepare(geometries)
    assets = pq.read_table(territory / "assets.parquet", columns=["asset_id", "longitude", "latitude"]).to_pydict()
    positions = zip(assets["longitude"], assets["latitude"], strict=True)
    return Places(
        zones=zones,
        nowhere=nowhere,
        layer_of=layer_of,
        tree=shapely.STRtree(geometries),
        geometries=geometries,
        assets={
            asset_id: position
            for asset_id, position in zip(assets["asset_id"], positions, strict=True)
            if None not in position
        },
    )
