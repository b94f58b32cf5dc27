"""The stage `locate`: which position counts, in which zones it lies at event time, which asset is nearest."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np
import polars as pl
import pytest
import shapely
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from processors import locate as module
from processors.locate import STAGE, Locator
from processors.territory import Territory
from schemas.contracts import Domain
from schemas.rejects import Reason
from tests.support.batches import RECEIVED_MS, event, frame
from tests.support.city import CITY, HERE, NOWHERE, THERE, TOWN, TOWN_PLACE, asset_table, both, city, ms, zone_table

quick = settings(derandomize=True, deadline=None, max_examples=40, suppress_health_check=list(HealthCheck))

PACIFIC: Final = (-140.25, -10.5)


def located(
    locator: Locator, *values: dict[str, Any], domain: Domain = "sensor"
) -> tuple[list[dict[str, Any]], list[tuple[int, str, str]]]:
    """Events with their zones by layer, and (row, stage, reason) of each reject."""
    events, refused = locator.locate(frame(values, domain), domain)
    rows = [row | {"zones": locator.sets[row["zone_set"]][1]} for row in events.iter_rows(named=True)]
    return rows, [(row, stage, reason) for row, stage, reason, _ in refused.iter_rows()]


def one(locator: Locator, domain: Domain = "sensor", **changes: Any) -> dict[str, Any]:
    """What becomes of one event that is not refused."""
    rows, refused = located(locator, event(domain, **changes), domain=domain)
    assert not refused
    return rows[0]


def place(position: tuple[float | None, float | None]) -> dict[str, Any]:
    return dict(zip(("longitude", "latitude"), position, strict=True))


# --- which position counts


def test_an_asset_without_position_stands_where_the_registry_says() -> None:
    """Most devices do not know where they are; the registry does."""
    row = one(Locator({CITY: city()}), **place((None, None)))
    assert (row["longitude"], row["latitude"], row["location_quality"]) == (*HERE, "registry")
    assert row["zones"] == {"quarter": "Q02", "sector": "NEW"}


def test_an_own_position_counts_before_the_registrys() -> None:
    """A device that was moved says where it is now, and is counted there."""
    row = one(Locator({CITY: city()}), **place(THERE))
    assert (row["longitude"], row["latitude"], row["location_quality"]) == (*THERE, "device_gps")
    assert row["zones"] == {"quarter": "Q01", "sector": ""}


def test_swapped_coordinates_are_mended_and_flagged() -> None:
    """Latitude in the longitude's place is the most common mistake: swapped back where that makes sense, and said."""
    row = one(Locator({CITY: city()}), asset_id="unregistered", **place((HERE[1], HERE[0])))
    assert (row["longitude"], row["latitude"], row["location_quality"]) == (*HERE, "swapped")
    assert row["zones"] == {"quarter": "Q02", "sector": "NEW"}


@pytest.mark.parametrize(
    "position",
    [(0.0, 0.0), (0.0, -0.0), (math.nan, 43.6), (3.87, math.nan), (math.inf, 43.6), (None, 43.6), (3.87, None)],
)
def test_no_fix_is_no_position(position: tuple[float | None, float | None]) -> None:
    """(0, 0), half a position and what is not a number say nothing: the registry's holds, or it is missing."""
    locator = Locator({CITY: city()})
    row = one(locator, **place(position))
    assert (row["longitude"], row["latitude"], row["location_quality"]) == (*HERE, "registry")
    row = one(locator, asset_id="unregistered", **place(position))
    assert (row["longitude"], row["latitude"], row["location_quality"]) == (None, None, "missing")
    assert row["zones"] == {"quarter": "", "sector": ""}


@pytest.mark.parametrize("position", [PACIFIC, (770_123.4, 6_279_456.7), (2.35, 48.85), (0.0, 43.6), (180.0, 90.0)])
def test_outside_the_area_the_registry_decides(position: tuple[float, float]) -> None:
    """A known asset with a wild position is counted where it is registered and flagged; an unknown one is refused."""
    locator = Locator({CITY: city()})
    row = one(locator, **place(position))
    assert (row["longitude"], row["latitude"], row["location_quality"]) == (*HERE, "out_of_area")
    assert row["zones"] == {"quarter": "Q02", "sector": "NEW"}
    rows, refused = located(locator, event(asset_id="unregistered", **place(position)), event())
    assert refused == [(0, STAGE, Reason.OUT_OF_AREA)]
    assert [row["row"] for row in rows] == [1]


def test_the_edge_of_the_area_is_inside() -> None:
    """The area is closed: its corner is a position of the authority's."""
    west, south, east, north = city().area
    for corner in itertools.product((west, east), (south, north)):
        row = one(Locator({CITY: city()}), asset_id="unregistered", **place(corner))
        assert row["location_quality"] == "device_gps"


def test_territories_are_told_apart_by_jurisdiction() -> None:
    """The same asset and zone code in two authorities are two things; positions are held against their own area."""
    locator = Locator(both())
    rows, refused = located(
        locator,
        event(jurisdiction_id=TOWN),
        event(jurisdiction_id=CITY),
        event(jurisdiction_id=TOWN, asset_id="drop-off-0004"),
        event(jurisdiction_id=TOWN, asset_id="unregistered", **place(HERE)),
        event(jurisdiction_id=CITY, asset_id="unregistered", **place(TOWN_PLACE)),
        event(jurisdiction_id=TOWN, asset_id="unregistered", **place((TOWN_PLACE[1], TOWN_PLACE[0]))),
    )
    assert [(row["row"], row["longitude"], row["location_quality"]) for row in rows] == [
        (0, TOWN_PLACE[0], "registry"),
        (1, HERE[0], "registry"),
        (2, None, "missing"),
        (5, TOWN_PLACE[0], "swapped"),
    ]
    assert [row["zones"] for row in rows] == [
        {"district": "Q01"}, {"quarter": "Q02", "sector": "NEW"}, {"district": ""}, {"district": "Q01"},
    ]  # fmt: skip
    assert refused == [(3, STAGE, Reason.OUT_OF_AREA), (4, STAGE, Reason.OUT_OF_AREA)]
    assert [locator.sets[row["zone_set"]][0] for row in rows] == [TOWN, CITY, TOWN, TOWN]


def test_an_empty_frame_stays_empty() -> None:
    """No rows in, none out, with the columns the next stages need; reports get theirs too."""
    for domain in ("sensor", "report"):
        events, refused = Locator({CITY: city()}).locate(frame([], domain), domain)
        assert events.is_empty()
        assert refused.is_empty()
        assert {"location_quality", "zone_set"} <= set(events.columns)
    assert events.schema["nearest_asset_m"] == pl.Float64()


# --- zones


@pytest.mark.parametrize(
    ("at", "sector"),
    [
        ("2025-06-01T00:00:00", "OLD"),
        ("2025-12-31T23:59:59.999", "OLD"),
        ("2026-01-01T00:00:00", "NEW"),
        ("2026-09-01T00:00:00", "NEW"),
    ],
)
def test_the_vintage_valid_at_event_time_counts(at: str, sector: str) -> None:
    """A late event of last year is counted in last year's zones; a vintage begins at its first millisecond."""
    locator = Locator({CITY: city()})
    for position in (HERE, (None, None)):
        assert one(locator, observed_at=ms(at), **place(position))["zones"] == {"quarter": "Q02", "sector": sector}


@pytest.mark.parametrize(
    ("at", "sector"),
    [
        ("2026-02-28T23:59:59.999", ""),
        ("2026-03-01T00:00:00", "WORKS"),
        ("2026-03-31T23:59:59.999", "WORKS"),
        ("2026-04-01T00:00:00", ""),
    ],
)
def test_a_zone_ends_before_its_last_instant(at: str, sector: str) -> None:
    """`valid_to` is the first instant at which the zone is no more, so that vintages meet without overlap."""
    row = one(Locator({CITY: city()}), observed_at=ms(at), **place(THERE))
    assert row["zones"] == {"quarter": "Q01", "sector": sector}


def test_a_shared_border_belongs_to_one_zone_of_each_layer() -> None:
    """A position on the border of two quarters is counted once: in the first of them by code."""
    row = one(Locator({CITY: city()}), **place((3.87, 43.61)))
    assert row["zones"] == {"quarter": "Q01", "sector": "NEW"}


def test_a_position_in_no_zone_is_counted_as_such() -> None:
    """Between the zones a position has the code "" in each layer: totals over a layer still hold every event."""
    assert one(Locator({CITY: city()}), **place(NOWHERE))["zones"] == {"quarter": "", "sector": ""}


def test_two_sides_of_a_border_less_than_a_cell_apart_do_not_depend_on_who_came_first() -> None:
    """Positions are remembered to a centimetre; whoever is asked for first, both get the same answer as alone."""
    left, right = (3.87 - 2e-8, 43.601), (3.87 + 3e-8, 43.601)
    alone = [one(Locator({CITY: city()}), **place(position))["zones"] for position in (left, right)]
    for order in ((left, right), (right, left)):
        locator = Locator({CITY: city()})
        found = {position: one(locator, **place(position))["zones"] for position in order}
        assert [found[left], found[right]] == alone


class _Counting:
    """A spatial index that counts the positions it is asked for."""

    def __init__(self, tree: Any) -> None:
        self._tree = tree
        self.asked = 0

    def query(self, points: Any, predicate: str) -> Any:
        self.asked += len(points)
        return self._tree.query(points, predicate=predicate)


def test_positions_already_seen_are_not_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """One spatial query per position never seen before, not per event: a fleet that stands still costs none."""
    locator = Locator({CITY: city()})
    spot = locator._places[0]
    tree = _Counting(spot.tree)
    monkeypatch.setattr(spot, "tree", tree)
    values = [event(asset_id="moving", **place(p)) for p in (HERE, THERE, HERE, NOWHERE, THERE)]
    first = locator.locate(frame(values), "sensor")[0]
    assert tree.asked == 3
    again = locator.locate(frame(values), "sensor")[0]
    assert tree.asked == 3
    assert_frame_equal(first, again)
    located(locator, event(), event(asset_id="unregistered"))
    assert tree.asked == 3
    located(locator, event(asset_id="moving", **place((3.88, 43.607))), event(asset_id="moving", **place(HERE)))
    assert tree.asked == 4


def test_a_receiver_that_wanders_about_its_asset_is_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Positions a few metres from the registered one, with no border between, have its zones without a query."""
    locator = Locator({CITY: city()})
    spot = locator._places[0]
    tree = _Counting(spot.tree)
    monkeypatch.setattr(spot, "tree", tree)
    values = [event(**place((HERE[0] + i * 1e-6, HERE[1] - i * 2e-6))) for i in range(50)]
    rows, _ = located(locator, *values)
    assert {str(row["zones"]) for row in rows} == {"{'quarter': 'Q02', 'sector': 'NEW'}"}
    assert rows[7]["longitude"] == HERE[0] + 7e-6
    assert tree.asked == 0


def test_a_cache_that_begins_anew_gives_the_same_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded by forgetting all positions; that costs time and nothing else."""
    rng = random.Random(7)
    positions = [(3.80 + rng.randrange(150) / 1_000, 43.55 + rng.randrange(120) / 1_000) for _ in range(200)]
    values = [event(event_id=str(i), asset_id="unregistered", **place(p)) for i, p in enumerate(positions)]
    free, _ = located(Locator({CITY: city()}), *values)
    monkeypatch.setattr(module, "_CACHE_LIMIT", 9)
    tight = Locator({CITY: city()})
    found = [row for start in range(0, 200, 11) for row in located(tight, *values[start : start + 11])[0]]
    assert [row["zones"] for row in found] == [row["zones"] for row in free]
    assert len(tight._places[0]._cell_row) <= 11


# --- against an oracle that asks every zone about every position

_STEP: Final = 0.005
_DAYS: Final = ("2025-01-01", "2025-07-01", "2026-01-01", "2026-07-01")
_lattice = st.tuples(st.integers(0, 8), st.integers(0, 8)).map(
    lambda p: (round(3.85 + p[0] * _STEP, 7), round(43.60 + p[1] * _STEP, 7))
)


_instants = st.builds(lambda day, shift: ms(day) + shift, st.sampled_from(_DAYS), st.sampled_from((-1, 0, 1)))


@st.composite
def _zones(draw: st.DrawFn) -> tuple[tuple[str, str, str | None, str | None], Any]:
    (west, south), (width, height) = draw(_lattice), draw(st.tuples(st.integers(1, 5), st.integers(1, 5)))
    box = shapely.box(west, south, round(west + width * _STEP, 7), round(south + height * _STEP, 7))
    start, end = draw(st.sampled_from([(None, None), *itertools.combinations((None, *_DAYS), 2)]))
    if draw(st.booleans()) and start is not None:
        start, end = start, None
    return (draw(st.sampled_from("ab")), draw(st.sampled_from("ABCDEF")), start, end), box


#: Registered between the lattice's lines and on one of them, so that borders run beside them and through one.
_ASSETS: Final = {"a": (3.8623, 43.6123), "b": (3.8749, 43.6201), "c": (3.8700, 43.6100)}


def _registered() -> pl.DataFrame:
    return asset_table([{"asset_id": asset, "longitude": at[0], "latitude": at[1]} for asset, at in _ASSETS.items()])


@st.composite
def _territories(draw: st.DrawFn) -> Territory:
    zones = draw(st.lists(_zones(), min_size=1, max_size=8))
    whole = city()
    return Territory(
        CITY, "Drawn", "UTC", "1", whole.area, zone_table([z for z, _ in zones]),
        np.array([shape for _, shape in zones], dtype=object), _registered(), whole.rules,
    )  # fmt: skip


@st.composite
def _points(draw: st.DrawFn) -> tuple[str, tuple[float, float], int]:
    """An asset, known or not, its own position, far from the registered one or near, and an instant."""
    asset = draw(st.sampled_from([*_ASSETS, "unregistered"]))
    position = draw(_lattice)
    if asset in _ASSETS and draw(st.booleans()):
        moved = draw(st.tuples(st.integers(-40_000, 40_000), st.integers(-40_000, 40_000)))
        longitude, latitude = (round(at + by * 1e-7, 7) for at, by in zip(_ASSETS[asset], moved, strict=True))
        position = (longitude, latitude)
    return asset, position, draw(_instants)


def _by_hand(territory: Territory, position: tuple[float, float], at_ms: int) -> dict[str, str]:
    """Each layer's first code, in order of codes, of the zones that cover the position at that instant."""
    at = datetime.fromtimestamp(at_ms / 1_000, UTC)
    found: dict[str, list[str]] = {layer: [] for layer in territory.layers}
    rows = territory.zones.select("layer", "code", "valid_from", "valid_to").iter_rows()
    for (layer, code, start, end), shape in zip(rows, territory.geometries, strict=True):
        valid = (start is None or start <= at) and (end is None or at < end)
        if valid and shapely.covers(shape, shapely.Point(position)):
            found[layer].append(code)
    return {layer: min(codes, default="") for layer, codes in found.items()}


@quick
@given(
    territory=_territories(),
    points=st.lists(_points(), min_size=1, max_size=30),
    order=st.randoms(use_true_random=False),
    size=st.integers(1, 30),
)
def test_zones_are_those_of_brute_force_in_any_order_and_batch(
    territory: Territory, points: Sequence[tuple[str, tuple[float, float], int]], order: random.Random, size: int
) -> None:
    """Borders, vintages and their exact instants: the index gives what asking every zone gives, however it is asked."""
    expected = [_by_hand(territory, position, at) for _, position, at in points]
    locator = Locator({CITY: territory})
    mixed = list(range(len(points)))
    order.shuffle(mixed)
    found: dict[int, dict[str, str]] = {}
    for start in range(0, len(mixed), size):
        part = mixed[start : start + size]
        values = [event(asset_id=points[i][0], observed_at=points[i][2], **place(points[i][1])) for i in part]
        rows, _ = located(locator, *values)
        found |= {i: row["zones"] for i, row in zip(part, rows, strict=True)}
    assert [found[i] for i in range(len(points))] == expected


def test_received_time_has_no_say() -> None:
    """The same event replayed a year later lies in the same zones: only event time counts."""
    value = event(observed_at=ms("2025-12-31T12:00:00"))
    zones = set()
    for received in (RECEIVED_MS, RECEIVED_MS + 365 * 86_400_000):
        locator = Locator({CITY: city()})
        events, _ = locator.locate(frame([value], "sensor", received), "sensor")
        zones.add(locator.sets[events["zone_set"][0]][1]["sector"])
    assert zones == {"OLD"}
