"""A small city by hand: every example of the contracts is inside it, and every question about places has one answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np
import polars as pl
import shapely

from processors.territory import ASSET_SCHEMA, ZONE_SCHEMA, Rules, Territory

CITY: Final = "999999999"
#: Where the examples of the contracts are.
HERE: Final = (3.8772, 43.6112)
#: In the city, in no zone of any layer.
NOWHERE: Final = (3.8110, 43.5610)
#: A minute from `HERE`, in the other quarter, outside the sector.
THERE: Final = (3.8580, 43.6040)

TOWN: Final = "888888888"
#: A zone code that the city has too, an asset name that the city has too.
TOWN_PLACE: Final = (4.8350, 45.7640)

_Zone = tuple[str, str, str | None, str | None, Any]

#: Layer, code, valid from, valid to, polygon. The two quarters share the border of longitude 3.87; the sector's two
#: vintages meet at the beginning of 2026; the works are a zone of one month.
_CITY_ZONES: Final[Sequence[_Zone]] = (
    ("quarter", "Q02", None, None, shapely.box(3.87, 43.60, 3.89, 43.62)),
    ("quarter", "Q01", None, None, shapely.box(3.85, 43.60, 3.87, 43.62)),
    ("sector", "OLD", None, "2026-01-01", shapely.box(3.865, 43.605, 3.885, 43.615)),
    ("sector", "NEW", "2026-01-01", None, shapely.box(3.865, 43.605, 3.885, 43.615)),
    ("sector", "WORKS", "2026-03-01", "2026-04-01", shapely.box(3.855, 43.601, 3.860, 43.606)),
)
_TOWN_ZONES: Final[Sequence[_Zone]] = (("district", "Q01", None, None, shapely.box(4.80, 45.75, 4.85, 45.78)),)

#: Asset, domain, kind, longitude, latitude, reporting interval in seconds.
_Asset = tuple[str, str, str, float, float, float | None]
_CITY_ASSETS: Final[Sequence[_Asset]] = (
    ("bin-00017", "sensor", "bin", *HERE, 1_800.0),
    ("drop-off-0004", "sensor", "drop_off", *THERE, None),
    ("weather-01", "sensor", "weather", 3.8800, 43.6100, None),
    ("footfall-01", "sensor", "footfall", *NOWHERE, None),
    ("lamp-00001", "lighting", "lamp", 3.8775, 43.6113, 3_600.0),
    ("lamp-00002", "lighting", "lamp", 3.8600, 43.6100, None),
    ("count-0001", "roadway", "traffic", 3.8700, 43.6100, 3_600.0),
    ("pavement-0003", "roadway", "pavement", 3.8710, 43.6100, None),
)
_TOWN_ASSETS: Final[Sequence[_Asset]] = (("bin-00017", "sensor", "bin", *TOWN_PLACE, None),)


def city(rules: Rules | None = None) -> Territory:
    """The authority 999999999: two layers, vintages, eight assets."""
    return _territory(CITY, (3.80, 43.55, 3.95, 43.67), _CITY_ZONES, _CITY_ASSETS, rules)


def town() -> Territory:
    """Another authority far away, with one layer, a code and an asset that have the names of the city's."""
    return _territory(TOWN, (4.75, 45.70, 4.90, 45.80), _TOWN_ZONES, _TOWN_ASSETS, None)


def both() -> dict[str, Territory]:
    return {CITY: city(), TOWN: town()}


def _territory(
    jurisdiction: str,
    area: tuple[float, float, float, float],
    zones: Sequence[_Zone],
    assets: Sequence[_Asset],
    rules: Rules | None,
) -> Territory:
    names = ("asset_id", "domain", "kind", "longitude", "latitude", "report_interval_s")
    return Territory(
        jurisdiction_id=jurisdiction,
        name="A small city",
        timezone="Europe/Paris",
        version=f"{jurisdiction}-1",
        area=area,
        zones=zone_table([zone[:4] for zone in zones]),
        geometries=np.array([zone[4] for zone in zones], dtype=object),
        assets=asset_table([dict(zip(names, asset, strict=True)) for asset in assets]),
        rules=rules or Rules(),
    )


def zone_table(zones: Sequence[tuple[str, str, str | None, str | None]]) -> pl.DataFrame:
    """Zones (layer, code, first day, day after the last) as the table a territory has."""
    rows = [(layer, code, code, _day(start), _day(end)) for layer, code, start, end in zones]
    return pl.DataFrame(rows, schema=dict(ZONE_SCHEMA), orient="row")


def asset_table(assets: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """Assets as the table a registry has; what they leave out is null."""
    return pl.DataFrame([{name: a.get(name) for name in ASSET_SCHEMA} for a in assets], schema=dict(ASSET_SCHEMA))


def _day(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text).replace(tzinfo=UTC)


def ms(text: str) -> int:
    """Milliseconds since 1970 of an ISO instant in UTC."""
    return round(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1_000)
