"""The territory folder: what is read, what is refused and in which words, what is written."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from processors.territory import ASSET_SCHEMA, ZONE_SCHEMA, LampDark
from streams.territory import head, zones
from streams.territory.assets import read_assets
from streams.territory.files import load, render, versioned, write
from streams.territory.remarks import TerritoryError
from tests.streams.territory.folders import (
    HEAD,
    Spoil,
    asset_row,
    collection,
    feature,
    head_line,
    make,
    refused,
    square,
    zone_file,
)

LINE = {"type": "LineString", "coordinates": [[3.1, 43.1], [3.2, 43.2]]}
BOW_TIE = {"type": "Polygon", "coordinates": [[[3.1, 43.1], [3.3, 43.3], [3.3, 43.1], [3.1, 43.3], [3.1, 43.1]]]}
FLAT = {"type": "Polygon", "coordinates": [[[3.1, 43.1], [3.3, 43.3], [3.2, 43.2], [3.1, 43.1]]]}
SPIKE = {"type": "Polygon", "coordinates": [[[3.0, 43.0], [3.5, 43.0], [3.0, 43.0], [3.0, 43.0]]]}
OPEN_RING = {"type": "Polygon", "coordinates": [[[3.1, 43.1], [3.3, 43.1], [3.3, 43.3], [3.1, 43.3]]]}
NAN = {"type": "Polygon", "coordinates": [[[3.1, 43.1], [float("nan"), 43.1], [3.3, 43.3], [3.1, 43.1]]]}
EMPTY = {"type": "Polygon", "coordinates": []}


def test_a_sound_folder_is_read(tmp_path: Path) -> None:
    """Zones, vintages, assets and rules come out as the files say, with nothing repaired."""
    territory, repaired = load(make(tmp_path / "t"))
    assert repaired == ()
    assert (territory.jurisdiction_id, territory.name, territory.timezone) == ("123456789", "Essai", "Europe/Paris")
    assert territory.area == (3.0, 43.0, 4.0, 44.0)
    assert territory.layers == ("quartier", "qpv")
    assert dict(territory.zones.schema) == ZONE_SCHEMA
    assert dict(territory.assets.schema) == ASSET_SCHEMA
    assert territory.assets["depth_mm"].null_count() == 2
    assert territory.rules.bin_full is not None
    assert territory.rules.bin_full.raise_at == 0.9
    assert territory.rules.lamp_dark is None
    assert len(territory.geometries) == 4
    assert all(shapely.is_valid(territory.geometries))


def test_a_date_begins_at_midnight_in_the_territory(tmp_path: Path) -> None:
    """A vintage changes at local midnight: 23:00 UTC in winter, 22:00 UTC in summer."""
    territory, _ = load(make(tmp_path / "t"))
    first, second = territory.zones.filter(pl.col("layer") == "qpv").iter_rows(named=True)
    assert first["valid_from"] == datetime(2014, 12, 31, 23, tzinfo=UTC)
    assert first["valid_to"] == second["valid_from"] == datetime(2024, 6, 30, 22, tzinfo=UTC)
    assert second["valid_to"] is None


def test_a_polygon_that_crosses_itself_is_repaired_and_told(tmp_path: Path) -> None:
    """A repairable polygon is used, valid, with its area, and the log names its file and feature."""
    folder = make(tmp_path / "t")
    zone_file(feature("A", square(3.5, 43.5)), feature("B", BOW_TIE))(folder)
    territory, repaired = load(folder)
    assert len(repaired) == 1
    assert repaired[0].startswith("zones/quartier.geojson, feature 2: was not a valid polygon (self-intersection)")
    assert shapely.is_valid(territory.geometries[1])
    assert territory.geometries[1].area == pytest.approx(0.02)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (head_line('"123456789"', "123456789"), "territory.yaml: jurisdiction_id must be text"),
        (head_line('"123456789"', '"12345678"'), "territory.yaml: jurisdiction_id must be a SIREN"),
        (head_line("Europe/Paris", "Europe/Pari"), "territory.yaml: timezone 'Europe/Pari' is unknown"),
        (head_line("name: Essai", "nam: Essai"), "territory.yaml: nam is not a key of this file; did you mean name?"),
        (head_line("bin_full", "bin_ful"), "rules.bin_ful is not a key of this file; did you mean bin_full?"),
        (head_line("raise_at: 0.9", "raise_at: 90"), "rules.bin_full.raise_at: input should be less than"),
        (head_line("raise_at: 0.9", "raise_at: .nan"), "rules.bin_full.raise_at"),
        (head_line("clear_at: 0.5", "clear_at: 0.95"), "rules.bin_full.clear_at must not be above raise_at"),
        (head_line("lamp_dark: null", "lamp_dark: {hold_s: -1}"), "rules.lamp_dark.hold_s must not be negative"),
        (head_line("lamp_dark: null", "report_hot_spot: {layer: iris}"), "rules.report_hot_spot.layer names 'iris'"),
        (head_line("name: Essai", "name: a\nname: b"), "territory.yaml, line 3: not YAML: key 'name' is given twice"),
        (head_line("name: Essai", "name: ["), "territory.yaml, line"),
        (head_line("[3.0, 43.0, 4.0, 44.0]", "[43.0, 3.0, 44.0, 4.0]"), "area: longitude and latitude are swapped"),
        (head_line("[3.0, 43.0, 4.0, 44.0]", "[4.0, 43.0, 3.0, 44.0]"), "west below east"),
        (head_line("[3.0, 43.0, 4.0, 44.0]", "[767000, 6279000, 768000, 6280000]"), "EPSG:2154"),
        (head_line("[quartier, qpv]", "[quartier, qpv, qpv]"), "'qpv' is named twice"),
        (head_line("[quartier, qpv]", "[quartier]"), "zones/qpv.geojson: is not named in the `layers`"),
        (head_line("[quartier, qpv]", "[quartier, qpv, iris]"), "zones/iris.geojson: is missing"),
        (head_line("[quartier, qpv]", "[quartier, qpv, ../x]"), "layers: '../x' must be lower-case letters"),
        (lambda d: (d / "territory.yaml").unlink(), "territory.yaml: is missing"),
        (lambda d: (d / "territory.yaml").write_bytes(b"\xff\xfe\x00"), "territory.yaml: is not UTF-8 text"),
        (lambda d: (d / "assets.csv").unlink(), "neither is there"),
        (lambda d: (d / "assets.parquet").write_bytes(b""), "both are there"),
        (lambda d: (d / "zones" / "qpv.geojson").write_text("{"), "zones/qpv.geojson: is not JSON"),
        (lambda d: (d / "zones" / "qpv.geojson").write_text("[]"), "is not a GeoJSON FeatureCollection"),
        (lambda d: (d / "zones" / "qpv.geojson").write_text(collection()), "zones/qpv.geojson: holds no feature"),
        (zone_file({"type": "Feature", "properties": None, "geometry": None}), "feature 1: is not a GeoJSON Feature"),
        (zone_file(feature("A", None)), "feature 1: has no geometry"),
        (zone_file(feature("A", LINE)), "a zone is a Polygon or a MultiPolygon, not a LineString"),
        (zone_file(feature("A", NAN)), "quartier.geojson, feature 1: a coordinate is NaN or infinite"),
        (zone_file(feature("A", EMPTY)), "feature 1: the geometry is empty"),
        (zone_file(feature("A", OPEN_RING)), "a ring that is not closed"),
        (zone_file(feature("A", FLAT)), "feature 1: the polygon encloses no ground"),
        (zone_file(feature("A", SPIKE)), "nothing polygonal remains after repair"),
        (zone_file(feature("A", square(767_000, 6_279_000, 500))), "EPSG:2154"),
        (zone_file(feature("A", square(43.1, 3.1))), "feature 1: longitude and latitude are swapped"),
        (zone_file(feature("A", square(8.1, 48.1))), "lies outside the territory's area"),
        (zone_file(feature("", square(3.1, 43.1))), "property `code` must be text and not empty"),
        (zone_file(feature("A", square(3.1, 43.1), name=7)), "property `name` must be text and not empty"),
        (
            zone_file(feature("A", square(3.1, 43.1)), feature("A", square(3.5, 43.5))),
            "feature 2: code 'A' is already that of feature 1",
        ),
        (
            zone_file(feature("A", square(3.1, 43.1), valid_from="2024-01-01", valid_to="2024-01-01")),
            "valid_from must be before valid_to",
        ),
        (zone_file(feature("A", square(3.1, 43.1), valid_from="2024-13-01")), "'2024-13-01' is not a date"),
        (zone_file(feature("A", square(3.1, 43.1), valid_from="2024-01-01T00:00:00")), "is not a date"),
        (asset_row("bin-1,lighting,lamp,,3.2,43.2,900"), "row 3: asset_id 'bin-1' is already that of row 2"),
        (asset_row(",lighting,lamp,,3.2,43.2,900"), "assets.csv, row 3: asset_id is empty"),
        (asset_row("x,water,lamp,,3.2,43.2,900"), "row 3: domain must be one of sensor, lighting, roadway"),
        (asset_row("x,lighting,bin,,3.2,43.2,900"), "row 3: kind does not exist in its domain"),
        (asset_row("x,lighting,lamp,,,43.2,900"), "row 3: the position is missing"),
        (asset_row("x,lighting,lamp,,nan,43.2,900"), "row 3: the position is missing"),
        (asset_row("x,lighting,lamp,,0,0,900"), "row 3: the position lies outside the territory's area"),
        (asset_row("x,lighting,lamp,,43.2,3.2,900"), "row 3: longitude and latitude are swapped"),
        (asset_row("x,lighting,lamp,,767686.4,6279032.6,900"), "EPSG:2154"),
        (asset_row('x,lighting,lamp,,"3,2",43.2,900'), "row 3: longitude is not a number"),
        (asset_row("x,lighting,lamp,,3.2,43.2,0"), "row 3: report_interval_s must be above 0"),
        (asset_row("x,lighting,lamp,,3.2,43.2,inf"), "row 3: report_interval_s must be above 0"),
        (asset_row("x,lighting,lamp,,3.2,43.2,900,extra,extra"), "assets.csv: cannot be read as CSV"),
        (lambda d: (d / "assets.csv").write_text("asset_id,domain,kind,longitude\n"), "column 'latitude' is missing"),
        (
            lambda d: (d / "assets.csv").write_text("asset_id,domain,kind,longitude,latitude,lattitude\n"),
            "column 'lattitude' is unknown; did you mean latitude?",
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_is_refused_by_name(tmp_path: Path, spoil: Spoil, words: str) -> None:
    """Every fault refuses the folder, and the message names the file, the place in it and the reason."""
    folder = make(tmp_path / "t")
    spoil(folder)
    problems = refused(folder)
    assert any(words in problem for problem in problems), problems


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    """Faults in all three kinds of file come in one error, so that nobody mends them one by one."""
    folder = make(tmp_path / "t")
    head_line("Europe/Paris", "Mars/Olympus")(folder)
    zone_file(feature("A", NAN), feature("B", LINE))(folder)
    asset_row("x,lighting,lamp,,3.2,43.2,-5\ny,lighting,lamp,,3.2,43.2,-5")(folder)
    problems = refused(folder)
    assert len(problems) == 4
    assert "assets.csv, rows 3, 4: report_interval_s must be above 0" in problems


def test_an_unreadable_parquet_is_refused_not_crashed_on(tmp_path: Path) -> None:
    """Any damage to the registry's bytes gives a TerritoryError or the assets, never another exception."""
    folder = make(tmp_path / "t")
    territory, _ = load(folder)
    good = render(territory)["assets.parquet"]
    (folder / "assets.csv").unlink()
    generator = np.random.Generator(np.random.PCG64(1))
    refusals = 0
    for _ in range(120):
        damaged = bytearray(good[: int(generator.integers(len(good) // 2, len(good) + 1))])
        for at in generator.integers(0, len(damaged), 4).tolist():
            damaged[at] = int(generator.integers(0, 256))
        (folder / "assets.parquet").write_bytes(bytes(damaged))
        try:
            load(folder)
        except TerritoryError as error:
            refusals += 1
            assert all("assets.parquet" in problem for problem in error.problems)
    assert refusals > 60


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
def test_any_bytes_give_problems_and_nothing_else(content: bytes) -> None:
    """No content of a zone file, a head or a registry raises; each gives problems or what it holds."""
    found, problems = head.read_head(content, "territory.yaml")
    assert problems
    rows, bad, _ = zones.read_layer(content, "zones/x.geojson", found.timezone, found.area)
    assert bad
    assert rows == []
    assert read_assets(content, "assets.parquet", found.area)[1]
    assert read_assets(content, "assets.csv", found.area)[1]


def test_what_is_written_is_read_back_the_same(tmp_path: Path) -> None:
    """Writing and loading changes nothing, the version included, and the same territory gives the same bytes."""
    territory, _ = load(make(tmp_path / "t"))
    territory = versioned(territory)
    write(territory, tmp_path / "copy")
    again, repaired = load(tmp_path / "copy")
    assert repaired == ()
    assert again.version == territory.version
    assert again.zones.equals(territory.zones)
    assert again.assets.equals(territory.assets)
    assert again.rules == territory.rules
    assert all(a.equals(b) for a, b in zip(again.geometries, territory.geometries, strict=True))
    assert render(again) == render(territory)


def test_the_version_follows_the_contents(tmp_path: Path) -> None:
    """Any changed byte of any file gives another version; the folder's place does not."""
    versions = {load(make(tmp_path / name))[0].version for name in ("a", "b")}
    assert len(versions) == 1
    for file in ("territory.yaml", "assets.csv", "zones/qpv.geojson"):
        path = tmp_path / "a" / file
        path.write_text(path.read_text() + "\n")
        versions.add(load(tmp_path / "a")[0].version)
    assert len(versions) == 4


def test_a_file_that_is_no_part_of_the_territory_does_not_count(tmp_path: Path) -> None:
    """A report or a note beside the files changes neither what is loaded nor its version."""
    folder = make(tmp_path / "t")
    before = load(folder)[0].version
    (folder / "report.md").write_text("note")
    assert load(folder)[0].version == before


def test_writing_replaces_a_territory_and_nothing_else(tmp_path: Path) -> None:
    """A folder that is not a territory is left as it is; a territory is replaced whole, without leftovers."""
    territory, _ = load(make(tmp_path / "t"))
    other = tmp_path / "photos"
    other.mkdir()
    (other / "cat.png").write_bytes(b"cat")
    with pytest.raises(TerritoryError, match="is not a territory"):
        write(territory, other)
    assert [p.name for p in other.iterdir()] == ["cat.png"]
    (tmp_path / "t" / "zones" / "old.geojson").write_text("{}")
    write(territory, tmp_path / "t")
    assert sorted(p.name for p in (tmp_path / "t" / "zones").iterdir()) == ["qpv.geojson", "quartier.geojson"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["photos", "t"]


def test_receivers_are_left_to_the_alerts(tmp_path: Path) -> None:
    """`receivers` in territory.yaml is allowed and not read here; rules that are absent have their defaults."""
    folder = make(tmp_path / "t")
    (folder / "territory.yaml").write_text(HEAD.split("rules:")[0] + "receivers: {duty: {url: x}}\n")
    territory, _ = load(folder)
    assert territory.rules.lamp_dark == LampDark()
