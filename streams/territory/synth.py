"""A plausible city that does not exist, so that the demo and the tests need nothing from outside."""

from __future__ import annotations

from datetime import UTC, date, datetime, time
from typing import Final
from zoneinfo import ZoneInfo

import numpy as np
import polars as pl
import shapely

from processors.territory import ReportHotSpot, Rules, Territory
from streams.territory import files, zones
from streams.territory.synth_assets import Floats, assets
from streams.territory.synth_zones import Plot, plots

#: Off the coast of Languedoc: no real city is meant.
_CENTRE: Final = (3.9, 43.5)
_METRES_PER_DEGREE: Final = 111_195.0
_TIMEZONE: Final = ZoneInfo("Europe/Paris")
#: Metres east and north of the centre. Wider than the city, so that there is ground outside every zone.
_AREA_M: Final = ((-6_000.0, -5_000.0), (6_000.0, 6_000.0))


def _degrees(xy: Floats) -> Floats:
    """Longitudes and latitudes, to 1e-6 degrees (10 cm): coarse enough to be the same on every machine."""
    longitude = _CENTRE[0] + xy[:, 0] / (_METRES_PER_DEGREE * 0.7253743710122877)  # the cosine of 43.5 degrees
    latitude = _CENTRE[1] + xy[:, 1] / _METRES_PER_DEGREE
    return np.column_stack((longitude, latitude)).round(6)


def _midnight(day: date | None) -> datetime | None:
    return None if day is None else datetime.combine(day, time(), _TIMEZONE).astimezone(UTC)


def _zone(number: int, plot: Plot) -> zones.Zone:
    shape = shapely.transform(plot.geometry, _degrees)
    return zones.Zone(number, plot.code, plot.name, _midnight(plot.valid_from), _midnight(plot.valid_to), shape)


def synthesize(seed: int = 7) -> Territory:
    """The city of Vigie-sur-Mer. One seed gives one city; another seed moves its sub-districts and streets.

    Layers: quartier (8), sous_quartier (32, tiling the quartiers), qpv (7, one of them two vintages of one place),
    collection_sector (5). 30 000 lamps and some 2 300 other assets; a few stand outside every zone.
    """
    ground = plots(np.random.Generator(np.random.PCG64([seed, 0])))
    cells = [plot.geometry for plot in ground if plot.layer == "sous_quartier"]
    registry = assets(cells, np.random.Generator(np.random.PCG64([seed, 1])))
    position = _degrees(registry.select("longitude", "latitude").to_numpy())
    registry = registry.with_columns(
        pl.Series("longitude", position[:, 0]),
        pl.Series("latitude", position[:, 1]),
    )
    layers = list(dict.fromkeys(plot.layer for plot in ground))
    table, geometries = zones.table(
        (layer, [_zone(n, plot) for n, plot in enumerate(p for p in ground if p.layer == layer)]) for layer in layers
    )
    corners = _degrees(np.array(_AREA_M)).round(4)
    (west, south), (east, north) = corners.tolist()
    return files.versioned(
        Territory(
            jurisdiction_id="999999999",
            name="Vigie-sur-Mer",
            timezone=_TIMEZONE.key,
            version="",
            area=(west, south, east, north),
            zones=table,
            geometries=geometries,
            assets=registry,
            rules=Rules(report_hot_spot=ReportHotSpot(layer="quartier")),
        )
    )
