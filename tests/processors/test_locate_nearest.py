"""The stage `locate` on reports: the nearest asset, within a radius in metres."""

from __future__ import annotations

from typing import Any, Final

import pyproj
import pytest

from processors.locate import Locator
from processors.territory import Rules
from tests.processors.test_locate import PACIFIC, located, one, place
from tests.support.batches import event
from tests.support.city import CITY, HERE, THERE, TOWN, TOWN_PLACE, both, city

_GEOD: Final = pyproj.Geod(ellps="WGS84")


def _metres_from(position: tuple[float, float], metres: float, azimuth: float = 40.0) -> dict[str, Any]:
    longitude, latitude, _ = _GEOD.fwd(*position, azimuth, metres)
    return place((longitude, latitude))


@pytest.mark.parametrize("azimuth", [0.0, 90.0, 200.0])
def test_a_report_is_joined_to_the_nearest_asset_in_metres(azimuth: float) -> None:
    """Within the radius, north or east alike, distances are metres on the ground and not degrees."""
    locator = Locator({CITY: city()})
    row = one(locator, "report", **_metres_from(THERE, 29.0, azimuth))
    assert row["nearest_asset_id"] == "drop-off-0004"
    assert row["nearest_asset_m"] == pytest.approx(29.0, abs=0.05)
    row = one(locator, "report", **_metres_from(THERE, 31.0, azimuth))
    assert (row["nearest_asset_id"], row["nearest_asset_m"]) == (None, None)


def test_the_nearest_of_several_assets_wins() -> None:
    """A bin and a lamp stand 27 m apart; the report is joined to the one it is nearer to."""
    locator = Locator({CITY: city()})
    assert one(locator, "report", **place(HERE))["nearest_asset_id"] == "bin-00017"
    assert one(locator, "report", **place((3.8775, 43.6113)))["nearest_asset_id"] == "lamp-00001"


def test_a_report_that_names_its_asset_or_has_no_position_is_not_joined() -> None:
    """What the reporter says stands; without a position there is no nearest."""
    locator = Locator({CITY: city()})
    for position in (HERE, (None, None)):
        row = one(locator, "report", asset_id="lamp-00002", **place(position))
        assert row["nearest_asset_id"] is None
    row = one(locator, "report", **place((None, None)))
    assert (row["nearest_asset_id"], row["location_quality"]) == (None, "missing")


def test_a_radius_of_zero_joins_nothing() -> None:
    """An authority may switch the join off."""
    locator = Locator({CITY: city(Rules(nearest_asset_m=0))})
    assert one(locator, "report", **place(HERE))["nearest_asset_id"] is None


def test_other_domains_have_no_nearest_asset() -> None:
    """Only reports are joined; a sensor is its own asset."""
    assert "nearest_asset_id" not in one(Locator({CITY: city()}), **place(HERE))


def test_only_the_authoritys_own_assets_are_near() -> None:
    """Each territory is asked about its own reports, in a batch that mixes them with refused ones."""
    rows, refused = located(
        Locator(both()),
        event("report", **place(PACIFIC)),
        event("report", jurisdiction_id=TOWN, **place(TOWN_PLACE)),
        event("report", **place(TOWN_PLACE)),
        event("report", **place(HERE)),
        domain="report",
    )
    assert [row["nearest_asset_id"] for row in rows] == ["bin-00017", "bin-00017"]
    assert [row["jurisdiction_id"] for row in rows] == [TOWN, CITY]
    assert [row for row, _, _ in refused] == [0, 2]
