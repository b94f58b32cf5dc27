"""A small territory folder to start from, and to spoil."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from streams.territory.files import TerritoryError, load

HEAD = """\
jurisdiction_id: "123456789"
name: Essai
timezone: Europe/Paris
area: [3.0, 43.0, 4.0, 44.0]
layers: [quartier, qpv]
rules:
  bin_full: {raise_at: 0.9, clear_at: 0.5}
  lamp_dark: null
"""
ASSETS = """\
asset_id,domain,kind,name,longitude,latitude,report_interval_s
lamp-1,lighting,lamp,Rue A 1,3.2,43.2,900
bin-1,sensor,bin,,3.7,43.7,600
"""


def square(west: float, south: float, side: float = 0.4) -> dict[str, Any]:
    """A square polygon with its south-west corner there."""
    east, north = west + side, south + side
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    return {"type": "Polygon", "coordinates": [ring]}


def feature(code: str, geometry: Any, **properties: Any) -> dict[str, Any]:
    """A zone's feature."""
    body = {"code": code, "name": f"Zone {code}", **properties}
    return {"type": "Feature", "properties": body, "geometry": geometry}


def collection(*features: dict[str, Any]) -> str:
    """A FeatureCollection as text. NaN is written as JSON does not allow."""
    return json.dumps({"type": "FeatureCollection", "features": list(features)})


def make(directory: Path) -> Path:
    """Write a sound territory: two quartiers, one QPV in two vintages, two assets."""
    (directory / "zones").mkdir(parents=True)
    (directory / "territory.yaml").write_text(HEAD)
    (directory / "assets.csv").write_text(ASSETS)
    (directory / "zones" / "quartier.geojson").write_text(
        collection(feature("A", square(3.1, 43.1)), feature("B", square(3.5, 43.5)))
    )
    (directory / "zones" / "qpv.geojson").write_text(
        collection(
            feature("Q", square(3.1, 43.1, 0.1), valid_from="2015-01-01", valid_to="2024-07-01"),
            feature("Q", square(3.1, 43.1, 0.2), valid_from="2024-07-01"),
        )
    )
    return directory


def refused(directory: Path) -> tuple[str, ...]:
    """The problems for which the folder is refused."""
    with pytest.raises(TerritoryError) as caught:
        load(directory)
    return caught.value.problems


Spoil = Callable[[Path], Any]


def zone_file(*features: dict[str, Any]) -> Spoil:
    """Replace the layer quartier by these features."""
    return lambda d: (d / "zones" / "quartier.geojson").write_text(collection(*features))


def head_line(old: str, new: str) -> Spoil:
    """Replace a piece of territory.yaml."""
    return lambda d: (d / "territory.yaml").write_text(HEAD.replace(old, new))


def asset_row(row: str) -> Spoil:
    """Add a row to assets.csv: it becomes row 3."""
    return lambda d: (d / "assets.csv").write_text(ASSETS + row + "\n")
