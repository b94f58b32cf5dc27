"""The fictional city: the same for a seed, whole, and with what the stages need to be tried on."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import polars as pl
import pytest
import shapely

from processors.territory import ReportHotSpot, Rules, Territory
from streams.territory.files import load, render, write
from streams.territory.synth import synthesize


@pytest.fixture(scope="module")
def city() -> Territory:
    return synthesize()


def shapes(city: Territory, layer: str) -> list[shapely.Polygon]:
    return list(city.geometries[(city.zones["layer"] == layer).to_numpy()])


def test_one_seed_is_one_city(city: Territory) -> None:
    """The same seed gives the same bytes; another seed gives another city."""
    assert render(synthesize(7)) == render(city)
    assert synthesize(8).version != city.version


@pytest.mark.parametrize("seed", [0, 1, 2, 12345])
def test_any_seed_gives_a_whole_city(seed: int, tmp_path: Path) -> None:
    """Whatever the seed, the numbers of zones and assets hold, and the folder loads without repair."""
    made = synthesize(seed)
    write(made, tmp_path / "city")
    loaded, repaired = load(tmp_path / "city")
    assert repaired == ()
    assert loaded.version == made.version
    assert Counter(loaded.zones["layer"]) == {"quartier": 8, "sous_quartier": 32, "qpv": 7, "collection_sector": 5}
    assert len(loaded.assets) == 32_297


def test_assets_by_kind_and_interval(city: Territory) -> None:
    """The registry has the promised kinds, numbers and reporting intervals."""
    kinds = city.assets.group_by("kind").agg(pl.len(), pl.col("report_interval_s").unique().first().alias("every"))
    assert {kind: (count, every) for kind, count, every in kinds.iter_rows()} == {
        "lamp": (30_000, 900.0),
        "bin": (1_800, 600.0),
        "drop_off": (150, 900.0),
        "traffic": (220, 360.0),
        "weather": (12, 600.0),
        "air": (20, 600.0),
        "noise": (25, 300.0),
        "footfall": (30, 900.0),
        "pavement": (40, 3600.0),
    }


def test_sub_districts_tile_districts_exactly(city: Territory) -> None:
    """No gap and no overlap between neighbours, and both layers cover the same ground."""
    for layer in ("quartier", "sous_quartier", "collection_sector"):
        assert shapely.coverage_is_valid(shapes(city, layer))
    ground = [shapely.union_all(shapes(city, layer)) for layer in ("quartier", "sous_quartier", "collection_sector")]
    assert ground[0].symmetric_difference(ground[1]).area == 0
    assert ground[0].symmetric_difference(ground[2]).area == 0
    assert all(shape.geom_type == "Polygon" for shape in city.geometries)


def test_some_ground_and_some_assets_are_in_no_zone(city: Territory) -> None:
    """There is land inside the area but outside every zone, with assets on it; all assets are inside the area."""
    ground = shapely.union_all(city.geometries)
    points = shapely.points(city.assets["longitude"].to_numpy(), city.assets["latitude"].to_numpy())
    outside = int((~shapely.covers(ground, points)).sum())
    assert 50 < outside < 1_000
    assert shapely.box(*city.area).area > 1.5 * ground.area
    assert shapely.covers(shapely.box(*city.area), points).all()


def test_one_priority_district_has_two_vintages(city: Territory) -> None:
    """The perimeter of 2015 ends where that of 2024 begins, under another code and with another outline."""
    qpv = city.zones.with_row_index("at").filter(pl.col("layer") == "qpv")
    (old,) = qpv.filter(pl.col("valid_to").is_not_null()).iter_rows(named=True)
    (new,) = qpv.filter(pl.col("valid_from") == old["valid_to"]).iter_rows(named=True)
    assert (old["code"], new["code"]) == ("QP999003", "QN99903M")
    before, after = city.geometries[old["at"]], city.geometries[new["at"]]
    assert before.intersects(after)
    assert 0.2 < before.intersection(after).area / before.area < 0.95


def test_columns_are_filled_where_they_apply(city: Territory) -> None:
    """Lamps have circuits and cabinets, containers depths, stations flows with peaks below the day; others none."""
    assets = city.assets
    filled = {
        column: set(assets.filter(pl.col(column).is_not_null())["kind"])
        for column in ("circuit_id", "cabinet_id", "depth_mm", "daily_flow", "morning_peak_flow", "evening_peak_flow")
    }
    traffic = {"traffic"}
    assert list(filled.values()) == [{"lamp"}, {"lamp"}, {"bin", "drop_off"}, traffic, traffic, traffic]
    stations = assets.filter(pl.col("kind") == "traffic")
    assert (stations["daily_flow"] > 0).all()
    assert (
        stations.select(pl.max_horizontal("morning_peak_flow", "evening_peak_flow")).to_series()
        < stations["daily_flow"]
    ).all()
    lamps = assets.filter(pl.col("kind") == "lamp")
    assert lamps["circuit_id"].value_counts()["count"].max() == 30
    assert lamps.group_by("cabinet_id").agg(pl.col("circuit_id").n_unique())["circuit_id"].max() == 3
    assert assets["asset_id"].is_unique().all()


def test_rules_are_the_defaults_but_for_the_hot_spot(city: Territory) -> None:
    """The demo shows the defaults, with reports watched by quartier."""
    assert city.rules == Rules(report_hot_spot=ReportHotSpot(layer="quartier"))
    assert city.jurisdiction_id == "999999999"
