"""Where did it happen: registry, coordinates, zones of every layer at event time, nearest asset.

One spatial query per position never seen before, not per event. A position's zones are kept as a *zone set*: a number
standing for one code per layer of one territory ("" where the layer has no zone there), so later stages carry an
integer. Zones have vintages; an *era* is a span of time in which no vintage of the territory begins or ends.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from itertools import repeat
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl
import pyproj
import shapely

from processors.territory import Territory
from schemas.contracts import Domain
from schemas.rejects import Reason, no_rejects, rejects

STAGE: Final = "locate"

#: Positions kept; at about 200 bytes each. A fleet of moving devices starts again from empty, which costs time only.
_CACHE_LIMIT: Final = 500_000
_GRID: Final = 1e7  # 1e-7 degree: about a centimetre

#: What `location_quality` may be here, in the order in which `locate` decides.
_QUALITIES: Final = pl.Series(["device_gps", "swapped", "out_of_area", "registry", "missing"])
_DEVICE_GPS, _SWAPPED, _OUT_OF_AREA, _REGISTRY, _MISSING = range(5)

_STORED_ZONES: Final = pl.List(pl.Struct({"key": pl.String(), "value": pl.String()}))

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


class ZoneSets:
    """Numbers for combinations of zones. Safe from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._number: dict[tuple[str, tuple[str, ...]], int] = {}
        self._set: list[tuple[str, tuple[str, ...]]] = []
        self._layers: dict[str, tuple[str, ...]] = {}

    def add_territory(self, jurisdiction_id: str, layers: tuple[str, ...]) -> int:
        """Declare a territory's layers. Returns the number of its "no zone anywhere" set."""
        self._layers[jurisdiction_id] = layers
        return self.number(jurisdiction_id, ("",) * len(layers))

    def number(self, jurisdiction_id: str, codes: tuple[str, ...]) -> int:
        key = (jurisdiction_id, codes)
        found = self._number.get(key)
        if found is None:
            with self._lock:
                found = self._number.get(key, len(self._set))
                if found == len(self._set):
                    self._set.append(key)
                    self._number[key] = found
        return found

    def numbers(self, jurisdictions: pl.Series, zones: pl.Series) -> pl.Series:
        """The number of each row's zones as they are stored: a list of `key` (layer) and `value` (code), any order,
        without the layers that have none there. Combinations that are new get one. Returns UInt32.

        Raises ValueError for an authority or a layer that was not declared.
        """
        rows = pl.DataFrame(
            [jurisdictions.cast(pl.String).alias("jurisdiction"), zones.cast(_STORED_ZONES).alias("zones")]
        )
        found = rows.unique()
        known = [self._of_stored(jurisdiction, pairs) for jurisdiction, pairs in found.iter_rows()]
        numbered = found.with_columns(pl.Series("number", known, pl.UInt32))
        joined = rows.join(numbered, on=["jurisdiction", "zones"], how="left", maintain_order="left", nulls_equal=True)
        return joined["number"]

    def _of_stored(self, jurisdiction_id: str, pairs: Iterable[Mapping[str, str]] | None) -> int:
        codes = {pair["key"]: pair["value"] for pair in pairs or ()}
        layers = self._layers.get(jurisdiction_id)
        if layers is None or not codes.keys() <= set(layers):
            strange = ", ".join(sorted(codes.keys() - set(layers or ()))) or "its events"
            raise ValueError(
                f"the territory {jurisdiction_id} has no layer for {strange}: "
                "these events were stored under another version of the territory, declare its layers"
            )
        return self.number(jurisdiction_id, tuple(codes.get(layer, "") for layer in layers))

    def __len__(self) -> int:
        return len(self._set)

    def __getitem__(self, number: int) -> tuple[str, dict[str, str]]:
        """Jurisdiction and code by layer, "" where there is none."""
        jurisdiction_id, codes = self._set[number]
        return jurisdiction_id, dict(zip(self._layers[jurisdiction_id], codes, strict=True))


class _Place:
    """One territory made ready for questions about positions."""

    def __init__(self, territory: Territory, sets: ZoneSets) -> None:
        self.territory = territory
        self.sets = sets
        self.empty = sets.add_territory(territory.jurisdiction_id, territory.layers)
        self.tree = shapely.STRtree(territory.geometries)
        zones = territory.zones
        layer_of = {name: index for index, name in enumerate(territory.layers)}
        self.layer = np.array([layer_of[name] for name in zones["layer"]], dtype=np.int64)
        self.code: list[str] = zones["code"].to_list()
        # On a shared border a position is in one zone of a layer, the first by code, or totals would count it twice.
        self.rank = np.argsort(np.argsort(np.array(self.code, dtype=object), kind="stable"), kind="stable")
        self.start = zones["valid_from"].cast(pl.Int64).fill_null(-(2**62)).to_numpy()
        self.end = zones["valid_to"].cast(pl.Int64).fill_null(2**62).to_numpy()
        bounds = np.concatenate((self.start, self.end))
        self.boundaries: Ints = np.unique(bounds[np.abs(bounds) < 2**61])

        assets = territory.assets
        longitude, latitude = assets["longitude"].to_numpy(), assets["latitude"].to_numpy()
        # The last row is that of an asset that is not in the registry, whose number is -1.
        nowhere = np.full((1, len(self.boundaries) + 1), self.empty, np.uint32)
        self.of_assets = np.concatenate((self._query(longitude, latitude), nowhere))
        self.clear_of_borders = np.append(_distance_to_borders(territory.geometries, longitude, latitude), -1.0)
        self._cell_row: dict[int, int] = {}
        self._of_cells = np.empty((0, len(self.boundaries) + 1), dtype=np.uint32)

    def of_positions(self, longitude: Floats, latitude: Floats) -> npt.NDArray[np.uint32]:
        """Zone sets by era of finite positions: shape (positions, eras). Asks the tree only for positions not seen."""
        # The grid's positions are asked for, or the first of two on either side of a border would decide for both.
        longitude, latitude = np.rint(longitude * _GRID) / _GRID, np.rint(latitude * _GRID) / _GRID
        unique, first, inverse = np.unique(_cell(longitude, latitude), return_index=True, return_inverse=True)
        keys = unique.tolist()
        new = [i for i, key in enumerate(keys) if key not in self._cell_row]
        if len(self._cell_row) + len(new) > _CACHE_LIMIT:
            self._cell_row.clear()
            self._of_cells, new = self._of_cells[:0], list(range(len(keys)))
        if new:
            asked = first[new]
            self._cell_row.update(zip((keys[i] for i in new), range(len(self._of_cells), 2**62), strict=False))
            self._of_cells = np.concatenate((self._of_cells, self._query(longitude[asked], latitude[asked])))
        return self._of_cells[[self._cell_row[key] for key in keys]][inverse]

    def _query(self, longitude: Floats, latitude: Floats) -> npt.NDArray[np.uint32]:
        """Zone set of each position in each era: shape (positions, eras)."""
        eras = len(self.boundaries) + 1
        best = np.full((len(longitude), eras, len(self.territory.layers)), -1, dtype=np.int64)
        point, zone = self.tree.query(shapely.points(longitude, latitude), predicate="covered_by")
        order = np.argsort(-self.rank[zone], kind="stable")
        point, zone = point[order], zone[order]
        begins = np.concatenate(([-(2**62)], self.boundaries))
        for era in range(eras):
            valid = (self.start[zone] <= begins[era]) & (begins[era] < self.end[zone])
            best[point[valid], era, self.layer[zone[valid]]] = zone[valid]
        out = np.empty((len(longitude), eras), dtype=np.uint32)
        unique, inverse = np.unique(best.reshape(-1, best.shape[2]), axis=0, return_inverse=True)
        numbers = np.array([self._number(row) for row in unique], dtype=np.uint32)
        out[:] = numbers[inverse.reshape(out.shape)]
        return out

    def _number(self, row: npt.NDArray[np.int64]) -> int:
        codes = tuple("" if zone < 0 else self.code[zone] for zone in row)
        return self.sets.number(self.territory.jurisdiction_id, codes)


def _distance_to_borders(geometries: npt.NDArray[Any], longitude: Floats, latitude: Floats) -> Floats:
    """How far each position is from the nearest border of any zone, in degrees of the plane the zones are drawn in."""
    lines = shapely.get_parts(shapely.boundary(geometries)) if len(geometries) else np.empty(0, object)
    coordinates, line = shapely.get_coordinates(lines, return_index=True)
    joined = np.flatnonzero(line[1:] == line[:-1])
    if not len(joined) or not len(longitude):
        return np.full(len(longitude), np.inf)
    segments: Any = shapely.linestrings(np.stack((coordinates[joined], coordinates[joined + 1]), axis=1))
    tree = shapely.STRtree(segments)
    _, distance = tree.query_nearest(shapely.points(longitude, latitude), return_distance=True, all_matches=False)
    return np.asarray(distance, np.float64)


def _cell(longitude: Floats, latitude: Floats) -> Ints:
    """One integer per position, to about a centimetre."""
    x = np.rint((longitude + 180.0) * _GRID).astype(np.int64)
    y = np.rint((latitude + 90.0) * _GRID).astype(np.int64)
    return x * 1_800_000_001 + y


class Locator:
    """The territories of an installation, indexed. Safe from several threads; answers do not depend on earlier ones."""

    def __init__(self, territories: Mapping[str, Territory]) -> None:
        self.territories = dict(territories)
        self.sets = ZoneSets()
        self._lock = threading.Lock()
        self.jurisdictions = sorted(territories)
        self._places = [_Place(territories[j], self.sets) for j in self.jurisdictions]
        self._areas = np.array([territories[j].area for j in self.jurisdictions], dtype=np.float64).reshape(-1, 4)
        self._place_of = {j: index for index, j in enumerate(self.jurisdictions)}
        # Registry rows by asset, of one territory after the other.
        self._asset_of = [dict(zip(p.territory.assets["asset_id"], range(2**62), strict=False)) for p in self._places]
        self._first = np.cumsum([0, *(len(p.territory.assets) for p in self._places)])
        self._longitude, self._latitude = (
            np.concatenate([*(p.territory.assets[name].to_numpy() for p in self._places), [np.nan]])
            for name in ("longitude", "latitude")
        )
        self._metres = pyproj.Transformer.from_crs(4326, 2154, always_xy=True)
        self._trees: dict[int, shapely.STRtree] = {}

    def _tree(self, index: int) -> shapely.STRtree:
        """The assets of a territory by their position, which reports alone ask for: made when the first one does."""
        with self._lock:
            if index not in self._trees:
                assets = self._places[index].territory.assets
                x, y = self._metres.transform(assets["longitude"].to_numpy(), assets["latitude"].to_numpy())
                self._trees[index] = shapely.STRtree(shapely.points(x, y))
            return self._trees[index]

    def locate(self, frame: pl.DataFrame, domain: Domain) -> tuple[pl.DataFrame, pl.DataFrame]:
        """Give every row a position, its quality and its zones. Returns (events, rejects).

        Adds `location_quality` (String) and `zone_set` (UInt32, a number of `self.sets`), mends `longitude` and
        `latitude` (degrees, null when unknown) and, for reports, adds `nearest_asset_id` (String) and
        `nearest_asset_m` (Float64, metres), null when none is within the territory's `nearest_asset_m`. A position
        outside the area is a reject unless it makes sense swapped or the registry knows the asset.
        """
        if frame.is_empty():
            return self._with_nearest(_empty_located(frame), domain), no_rejects()
        place, asset = self._registered(frame)
        lon, lat = _numbers(frame["longitude"]), _numbers(frame["latitude"])
        given = np.flatnonzero(np.isfinite(lon) & np.isfinite(lat) & ((lon != 0) | (lat != 0)))
        x, y, authority = lon[given], lat[given], place[given]
        inside = self._inside(authority, x, y)
        swapped = ~inside & self._inside(authority, y, x)
        quality = np.where(asset >= 0, _REGISTRY, _MISSING)
        quality[given] = np.where(inside, _DEVICE_GPS, np.where(swapped, _SWAPPED, _OUT_OF_AREA))
        usable = inside | swapped
        own, registered = given[usable], np.where(asset >= 0, asset + self._first[place], -1)
        lon, lat = self._longitude[registered], self._latitude[registered]
        lon[own], lat[own] = np.where(swapped, y, x)[usable], np.where(swapped, x, y)[usable]
        with self._lock:
            sets = self._zone_sets(place, own, asset, lon, lat, frame["observed_at"])
        frame = frame.with_columns(
            pl.Series("longitude", lon, nan_to_null=True),
            pl.Series("latitude", lat, nan_to_null=True),
            _QUALITIES.gather(quality).alias("location_quality"),
            pl.Series("zone_set", sets),
        )
        out = no_rejects()
        refused = (quality == _OUT_OF_AREA) & (asset < 0)
        if refused.any():
            mask = pl.Series(refused)
            out = rejects(frame["row"].filter(mask), STAGE, Reason.OUT_OF_AREA, "position outside the territory")
            frame, place = frame.filter(~mask), place[~refused]
        return self._with_nearest(frame, domain, place), out

    def _registered(self, frame: pl.DataFrame) -> tuple[Ints, Ints]:
        """Number of each row's territory, and of its asset in that registry, -1 for none."""
        assets = frame["asset_id"].to_list()
        if len(self._places) == 1:
            known = self._asset_of[0]
            return np.zeros(len(assets), np.int64), np.array(list(map(known.get, assets, repeat(-1))), np.int64)
        place = np.fromiter((self._place_of[j] for j in frame["jurisdiction_id"]), np.int64)
        pairs = zip(place.tolist(), assets, strict=True)
        return place, np.fromiter((self._asset_of[p].get(a, -1) for p, a in pairs), np.int64)

    def _inside(self, place: Ints, lon: Floats, lat: Floats) -> Bools:
        west, south, east, north = self._areas[place].T
        inside: Bools = (lon >= west) & (lon <= east) & (lat >= south) & (lat <= north)
        return inside

    def _zone_sets(
        self, place: Ints, own: Ints, asset: Ints, lon: Floats, lat: Floats, observed: pl.Series
    ) -> npt.NDArray[np.uint32]:
        """Zone set of each row: by coordinates for the rows `own`, else by registry row, or nowhere."""
        out = np.empty(len(place), dtype=np.uint32)
        at = observed.cast(pl.Int64).to_numpy()
        for index, spot in enumerate(self._places):
            here, mine = place == index, own[place[own] == index]
            era = np.searchsorted(spot.boundaries, at[here], side="right")
            out[here] = spot.of_assets[asset[here], era]
            asked = mine[~self._within_asset_zones(spot, index, asset[mine], lon[mine], lat[mine])]
            if len(asked):
                era = np.searchsorted(spot.boundaries, at[asked], side="right")
                out[asked] = spot.of_positions(lon[asked], lat[asked])[np.arange(len(asked)), era]
        return out

    def _within_asset_zones(self, spot: _Place, index: int, asset: Ints, lon: Floats, lat: Floats) -> Bools:
        """Whether no border can lie between a row's own position and its asset's: then the zones are the same.

        A receiver's position wanders by metres from one reading to the next, so each would be a new position.
        """
        row = np.where(asset >= 0, asset + self._first[index], -1)
        near: Bools = np.hypot(lon - self._longitude[row], lat - self._latitude[row]) < spot.clear_of_borders[asset]
        return near

    def _with_nearest(self, frame: pl.DataFrame, domain: Domain, place: Ints | None = None) -> pl.DataFrame:
        if domain != "report":
            return frame
        names: list[str | None] = [None] * len(frame)
        metres: list[float | None] = [None] * len(frame)
        if place is not None:
            ask = ((frame["asset_id"] == "") & frame["longitude"].is_not_null()).to_numpy()
            for index, spot in enumerate(self._places):
                radius = spot.territory.rules.nearest_asset_m
                rows = np.flatnonzero(ask & (place == index))
                if len(rows) and radius > 0 and len(spot.territory.assets):
                    self._ask_nearest(frame, index, rows, radius, names, metres)
        return frame.with_columns(
            pl.Series("nearest_asset_id", names, dtype=pl.String),
            pl.Series("nearest_asset_m", metres, dtype=pl.Float64),
        )

    def _ask_nearest(
        self, frame: pl.DataFrame, index: int, rows: Ints, radius: float, names: list[Any], metres: list[Any]
    ) -> None:
        x, y = self._metres.transform(frame["longitude"].to_numpy()[rows], frame["latitude"].to_numpy()[rows])
        (asked, asset), distance = self._tree(index).query_nearest(
            shapely.points(x, y), max_distance=radius, return_distance=True, all_matches=False
        )
        ids = self._places[index].territory.assets["asset_id"]
        for i, a, d in zip(asked, asset, distance, strict=True):
            names[rows[i]], metres[rows[i]] = ids[int(a)], float(d)


def _numbers(column: pl.Series) -> Floats:
    """The column as floats with NaN for null."""
    return column.cast(pl.Float64).to_numpy()


def _empty_located(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.with_columns(
        pl.lit(None, dtype=pl.String).alias("location_quality"), pl.lit(None, dtype=pl.UInt32).alias("zone_set")
    )
