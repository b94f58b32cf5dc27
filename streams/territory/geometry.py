"""From the coordinates people publish to valid WGS84 polygons, or a reason why not."""

from __future__ import annotations

import json
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyproj
import shapely
from pyproj.exceptions import CRSError, ProjError
from shapely.geometry.base import BaseGeometry

Box = tuple[float, float, float, float]

METRES: Final = (
    "coordinates are not degrees of longitude and latitude, they look like metres"
    " (Lambert-93, EPSG:2154?): convert the file to WGS84, or declare its `epsg: 2154` where it is built"
)
SWAPPED: Final = "longitude and latitude are swapped: GeoJSON and this folder put the longitude first"

#: Where a French authority can be (west, south, east, north): mainland, Antilles, Guyane, La Reunion, Mayotte,
#: Saint-Pierre-et-Miquelon, Nouvelle-Caledonie and Wallis, Polynesie. Only used to recognize swapped coordinates.
_FRANCE: Final[tuple[Box, ...]] = (
    (-5.6, 41.2, 9.8, 51.3),
    (-63.3, 14.2, -60.7, 18.3),
    (-54.8, 2.0, -51.5, 6.0),
    (55.1, -21.5, 56.0, -20.7),
    (44.9, -13.1, 45.4, -12.5),
    (-56.6, 46.6, -56.0, 47.2),
    (158.0, -23.5, 172.5, -17.5),
    (-178.3, -14.5, -176.0, -13.0),
    (-155.0, -28.0, -134.0, -7.5),
)

#: Square degrees below which a polygon is a rounding error (about a tenth of a square metre).
_LEAST: Final = 1e-11


class Fault(ValueError):
    """Why a geometry, a position or a projection cannot be used; the text says what to do."""


def _meets(a: Box, b: Box) -> bool:
    return a[0] <= b[2] and b[0] <= a[2] and a[1] <= b[3] and b[1] <= a[3]


def in_degrees(box: Box) -> bool:
    """Whether all of the box can be longitudes and latitudes."""
    return box[0] >= -180 and box[1] >= -90 and box[2] <= 180 and box[3] <= 90


def swapped(box: Box, expected: Box | None = None) -> bool:
    """Whether the box lies elsewhere as it stands and where it should once longitude and latitude change places.

    Where it should be is `expected`, or anywhere in France when that is not known.
    """
    turned = (box[1], box[0], box[3], box[2])
    places = _FRANCE if expected is None else (expected,)
    return not any(_meets(box, place) for place in places) and any(_meets(turned, place) for place in places)


def transformer(epsg: int) -> pyproj.Transformer:
    """From that reference system, longitude or easting first, to WGS84. Raises Fault for a number that is none."""
    try:
        return pyproj.Transformer.from_crs(epsg, 4326, always_xy=True)
    except (CRSError, ProjError) as error:
        raise Fault(f"EPSG:{epsg} is not a known reference system") from error


def to_degrees(
    x: npt.NDArray[np.float64], y: npt.NDArray[np.float64], projection: pyproj.Transformer
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """WGS84 longitudes and latitudes, rounded to 1e-7 degrees (1 cm); infinite where the projection has none."""
    longitude, latitude = projection.transform(x, y)
    return np.asarray(longitude, np.float64).round(7), np.asarray(latitude, np.float64).round(7)


def parse(raw: Any) -> BaseGeometry:
    """The planar geometry of a GeoJSON geometry object. Raises Fault when it is none, empty, or has NaN in it."""
    if not isinstance(raw, dict):
        raise Fault("has no geometry")
    try:
        text = json.dumps(raw, allow_nan=False)
    except ValueError as error:
        raise Fault("a coordinate is NaN or infinite") from error
    geometry = shapely.from_geojson(text, on_invalid="ignore")
    if geometry is None:
        raise Fault(
            "the geometry cannot be read: wrong type, a ring that is not closed, or a coordinate that is no number"
        )
    if geometry.is_empty:
        raise Fault("the geometry is empty")
    return shapely.force_2d(geometry)


def polygon(
    raw: Any,
    *,
    expected: Box | None = None,
    projection: pyproj.Transformer | None = None,
    latitude_first: bool = False,
) -> tuple[BaseGeometry, str | None]:
    """A valid WGS84 polygon or multipolygon from a GeoJSON geometry, and what was repaired, if anything.

    `projection` is applied first where the file is not in degrees. Raises Fault when the geometry is not polygonal,
    does not lie on the globe, has its coordinates swapped, or has nothing polygonal left after repair.
    """
    geometry = parse(raw)
    if geometry.geom_type not in ("Polygon", "MultiPolygon"):
        raise Fault(f"a zone is a Polygon or a MultiPolygon, not a {geometry.geom_type}")
    if latitude_first:
        geometry = shapely.transform(geometry, lambda xy: xy[:, ::-1])
    if projection is not None:
        geometry = shapely.transform(geometry, lambda xy: np.column_stack(to_degrees(xy[:, 0], xy[:, 1], projection)))
        if not np.isfinite(shapely.get_coordinates(geometry)).all():
            raise Fault("coordinates lie outside the declared projection: check `epsg`")
    west, south, east, north = geometry.bounds
    box = (west, south, east, north)
    if not in_degrees(box):
        raise Fault(METRES)
    if swapped(box, expected):
        raise Fault(SWAPPED)
    return _valid(geometry)


def _valid(geometry: BaseGeometry) -> tuple[BaseGeometry, str | None]:
    if shapely.is_valid(geometry):
        if geometry.area < _LEAST:
            raise Fault("the polygon encloses no ground")
        return geometry, None
    reason = str(shapely.is_valid_reason(geometry)).split("[")[0].strip().lower()
    parts = shapely.get_parts(shapely.make_valid(geometry))
    flat = shapely.get_parts(parts)  # make_valid nests a multipolygon in the collection it may return
    kept = [part for part in flat if part.geom_type == "Polygon" and part.area >= _LEAST]
    if not kept:
        raise Fault(f"is not a valid polygon ({reason}) and nothing polygonal remains after repair")
    repaired = kept[0] if len(kept) == 1 else shapely.union_all(kept)
    return repaired, f"was not a valid polygon ({reason}); repaired"
