"""The first real territory: Montpellier's open data, with its known faults, against known counts."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import shapely

from processors.territory import Territory
from streams.territory.build import BuildReport, assemble
from streams.territory.files import load, write
from streams.territory.remarks import TerritoryError, lines
from streams.territory.spec import AssetSource
from streams.territory.tables import read_table
from tests.support.real_data import real_data

SPEC = Path(__file__).parents[3] / "deploy" / "territories" / "montpellier.yaml"

pytestmark = pytest.mark.real_data


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Territory, BuildReport]:
    """Montpellier, built, written and loaded again."""
    territory, report = assemble(SPEC, real_data())
    folder = tmp_path_factory.mktemp("built") / "montpellier"
    write(territory, folder)
    loaded, repaired = load(folder)
    assert repaired == ()
    assert loaded.version == report.version
    return loaded, report


def by_zone(territory: Territory, layer: str, kind: str) -> Counter[str | None]:
    """Assets of a kind by the name of the zone that covers them; None for those that no zone covers."""
    rows = territory.zones.with_row_index("at").filter(pl.col("layer") == layer)
    shapes, names = territory.geometries[rows["at"].to_numpy()], rows["name"].to_list()
    assets = territory.assets.filter(pl.col("kind") == kind)
    points = np.asarray(shapely.points(assets["longitude"].to_numpy(), assets["latitude"].to_numpy()))
    asset, zone = shapely.STRtree(shapes).query(points, predicate="covered_by")
    counts: Counter[str | None] = Counter(names[z] for z in zone.tolist())
    counts[None] = len(points) - len(set(asset.tolist()))
    return counts


def test_every_light_is_in_its_quartier(built: tuple[Territory, BuildReport]) -> None:
    """The 29 969 lights fall into the quartiers as counted independently, 156 of them into none."""
    assert by_zone(built[0], "quartier", "lamp") == {
        "MONTPELLIER CENTRE": 9790,
        "PORT MARIANNE": 4013,
        "HOPITAUX-FACULTES": 3796,
        "CROIX D'ARGENT": 3583,
        "LES CEVENNES": 3485,
        "MOSSON": 3241,
        "PRES D'ARENE": 1905,
        None: 156,
    }


def test_lights_in_a_priority_district(built: tuple[Territory, BuildReport]) -> None:
    """2 945 lights stand in a QPV, repaired polygons included."""
    assert by_zone(built[0], "qpv", "lamp")[None] == 29_969 - 2_945


def test_every_located_count_is_in_its_quartier(built: tuple[Territory, BuildReport]) -> None:
    """The 3 159 located counting campaigns fall into the quartiers as counted independently, 26 into none."""
    assert by_zone(built[0], "quartier", "traffic") == {
        "MONTPELLIER CENTRE": 948,
        "HOPITAUX-FACULTES": 552,
        "LES CEVENNES": 438,
        "CROIX D'ARGENT": 379,
        "PORT MARIANNE": 296,
        "MOSSON": 282,
        "PRES D'ARENE": 238,
        None: 26,
    }


def test_known_faults_are_found(built: tuple[Territory, BuildReport]) -> None:
    """What the sources are known to have wrong is in the report, in its group, and counted right."""
    territory, report = built
    assert territory.zones.filter(pl.col("code").str.starts_with("MIP"))["name"].to_list() == [
        "La Pompignane",
        "Port Marianne",
    ]
    repaired = Counter(remark.file.rsplit("/")[-1] for remark in report.repaired)
    assert repaired == {"qpv_montpellier.geojson": 2, "sous_quartiers.geojson": 2, "luminaires_wgs84.csv.gz": 1}
    assert Counter(remark.reason for remark in report.refused) == {"has no position": 155}
    doubtful = Counter((remark.file.split("/")[0], remark.reason) for remark in report.doubtful)
    counts = "traffic_montpellier"
    assert doubtful["lights_montpellier", "stands at the very position of another"] == 124
    assert doubtful["lights_montpellier", "type_lante is empty"] == 27
    assert doubtful[counts, "DFIN is after 2014-03-13; the row is kept, the date is not used"] == 1
    assert doubtful[counts, "lasts more than 31 days"] == 2
    assert doubtful[counts, "daily_flow is 0; flows left empty"] == 4
    assert doubtful[counts, "a peak hour has more vehicles than the mean day; flows left empty"] == 13
    assert all(shapely.is_valid(territory.geometries))


def test_flows_are_those_of_the_file(built: tuple[Territory, BuildReport]) -> None:
    """A station has its campaign's mean day and peak hours; an implausible one has none."""
    columns = ("daily_flow", "morning_peak_flow", "evening_peak_flow")
    stations = built[0].assets.filter(pl.col("kind") == "traffic")
    assert stations.filter(asset_id="count-441").select(columns).row(0) == (21727.0, 1578.0, 1917.0)
    assert stations.filter(asset_id="count-214").select(columns).row(0) == (None, None, None)
    assert stations["daily_flow"].null_count() == 17


def test_accents_of_the_latin_1_file_are_right() -> None:
    """The unchanged file, ISO-8859-1 with dBase headers, agrees with its UTF-8 twin in every street name."""
    path = real_data("traffic_montpellier", "VilleMTP_MTP_Comptage_latin1.csv")
    new = AssetSource(
        file="comptage_geo_utf8.csv",
        domain="roadway",
        kind="traffic",
        asset_id="IDENT",
        longitude="lon",
        latitude="lat",
    )
    old = new.model_copy(
        update={"file": path.name, "longitude": "PHJM", "latitude": "PHJS", "encoding": "latin-1"}
    )  # it has no position; any two columns will do
    first, repaired, _ = read_table(path.read_bytes(), old)
    second, _, _ = read_table(path.with_name(new.file).read_bytes(), new)
    assert lines(repaired) == (f"{path.name}: types removed from 16 dBase column names",)
    assert first["TYPECOMPTA"].value_counts(sort=True).rows() == [
        ("Pneumatique", 2294),
        ("Magnétique", 699),
        ("Regulation", 321),
    ]
    assert first["NOM"].to_list() == second["NOM"].to_list()
    with pytest.raises(TerritoryError, match="declare `encoding: latin-1`"):
        read_table(path.read_bytes(), old.model_copy(update={"encoding": "utf-8"}))


@pytest.mark.parametrize("name", ["trap_signalisation_lambert93.geojson", "trap_sitesprox_lambert93.geojson"])
def test_metres_that_pass_for_degrees(tmp_path: Path, name: str) -> None:
    """The two files in Lambert-93 metres are refused as they are, and land in the city once `epsg` is declared."""
    real_data("geo_montpellier", name)
    source = f"  - {{file: geo_montpellier/{name}, domain: sensor, kind: noise, asset_id: 'n-{{row}}'"
    lead = SPEC.read_text().split("  sous_quartier:")[0] + "assets:\n" + source
    spec = tmp_path / "spec.yaml"
    spec.write_text(lead + "}\n")
    with pytest.raises(TerritoryError, match="`epsg: 2154`"):
        assemble(spec, real_data())
    spec.write_text(lead + ", epsg: 2154}\n")
    territory, report = assemble(spec, real_data())
    assert report.refused == ()
    assert by_zone(territory, "quartier", "noise")[None] <= 0.05 * len(territory.assets)
