"""Making a territory from open data: every fault of a source is repaired, refused or called doubtful, by row."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyproj
import pytest

from streams.territory.build import BuildReport, assemble, build
from streams.territory.files import load
from streams.territory.remarks import Remark, TerritoryError, lines
from streams.territory.spec import AssetSource, fill, slug
from streams.territory.tables import read_table
from tests.streams.territory.folders import collection, feature, square

LAYERS = "layers:\n  quartier: {file: q.geojson, code: code, name: name}\n"
LAMP = "file: a.csv, domain: lighting, kind: lamp, asset_id: id, longitude: x, latitude: y"


def spec(folder: Path, assets: str = "", layers: str = LAYERS, **sources: str | bytes) -> Path:
    """A specification with its sources beside it; `q.geojson` has two zones unless given."""
    files: dict[str, str | bytes] = {
        "q.geojson": collection(feature("A", square(3.1, 43.1)), feature("B", square(3.5, 43.5))),
        **{name.replace("__", "."): content for name, content in sources.items()},
    }
    for name, content in files.items():
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    head = 'jurisdiction_id: "123456789"\nname: Essai\ntimezone: Europe/Paris\n'
    path = folder / "spec.yaml"
    path.write_text(head + layers + (f"assets:\n{assets}" if assets else ""))
    return path


def refused(path: Path) -> str:
    """The problems for which a build is refused, in one text."""
    with pytest.raises(TerritoryError) as caught:
        assemble(path)
    return str(caught.value)


def told(remarks: tuple[Remark, ...]) -> str:
    return "\n".join(lines(remarks))


def test_a_build_is_written_with_its_report(tmp_path: Path) -> None:
    """The folder that a build writes can be loaded, has the reported version, and carries both reports."""
    path = spec(tmp_path, f"  - {{{LAMP}, report_interval_s: 900}}\n", a__csv="id,x,y\n1,3.2,43.2\n2,,43.2\n")
    report = build(path, tmp_path / "out")
    territory, _ = load(tmp_path / "out")
    assert report.version == territory.version
    assert territory.assets["report_interval_s"].to_list() == [900.0]
    body = json.loads((tmp_path / "out" / "report.json").read_text())
    assert body["refused"] == [{"file": "a.csv", "reason": "has no position", "unit": "row", "numbers": [2]}]
    assert body["sources"][1] == {"file": "a.csv", "into": "lighting/lamp", "read": 2, "left_out": 0, "kept": 1}
    assert "has no position (a.csv, row 2)" in (tmp_path / "out" / "report.md").read_text()


def test_the_same_sources_give_the_same_bytes(tmp_path: Path) -> None:
    """A build has no clock and no chance in it: twice the same files, reports included."""
    path = spec(tmp_path, f"  - {{{LAMP}}}\n", a__csv="id,x,y\n1,3.2,43.2\n")
    for out in ("one", "two"):
        build(path, tmp_path / out)
    files = [p.relative_to(tmp_path / "one") for p in sorted((tmp_path / "one").rglob("*")) if p.is_file()]
    assert len(files) == 5
    assert all((tmp_path / "one" / f).read_bytes() == (tmp_path / "two" / f).read_bytes() for f in files)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ("2,43.2,3.2", "row 2: longitude and latitude are swapped"),
        ("2,0,0", "row 2: position (0, 0) means that there is none"),
        ("2,767686.4,6279032.6", "row 2: coordinates are not degrees"),
        ("2,9.1,48.2", "row 2: lies too far from the zones"),
        ("2,abc,43.2", "row 2: has no position"),
        ("1,3.2,43.3", "row 2: asset_id (id) is that of an earlier row"),
        (",3.2,43.3", "row 2: has no value for asset_id (id)"),
    ],
)
def test_a_row_that_cannot_be_placed_or_named_is_refused(tmp_path: Path, rows: str, words: str) -> None:
    """A bad row goes, with its number and reason; the good one beside it stays."""
    path = spec(tmp_path, f"  - {{{LAMP}}}\n", a__csv=f"id,x,y\n1,3.21111,43.2\n{rows}\n")
    territory, report = assemble(path)
    assert territory.assets["asset_id"].to_list() == ["1"]
    assert words in told(report.refused)


def test_metres_are_refused_until_declared_then_reprojected(tmp_path: Path) -> None:
    """Lambert-93 without `epsg` refuses the build, with what to write; with it the positions are right to a metre."""
    to_metres = pyproj.Transformer.from_crs(4326, 2154, always_xy=True)
    x, y = to_metres.transform(3.2, 43.2)
    table = f"id,x,y\n1,{x},{y}\n"
    assert "every row is refused" in (why := refused(spec(tmp_path, f"  - {{{LAMP}}}\n", a__csv=table)))
    assert "`epsg: 2154`" in why
    territory, _ = assemble(spec(tmp_path, f"  - {{{LAMP}, epsg: 2154}}\n", a__csv=table))
    assert territory.assets["longitude"][0] == pytest.approx(3.2, abs=1e-6)
    assert territory.assets["latitude"][0] == pytest.approx(43.2, abs=1e-6)

    ring = [list(to_metres.transform(*xy)) for xy in square(3.1, 43.1)["coordinates"][0]]
    zone = collection(feature("A", {"type": "Polygon", "coordinates": [ring]}))
    assert "q.geojson, feature 1: coordinates are not degrees" in refused(spec(tmp_path, q__geojson=zone))
    declared = "layers:\n  quartier: {file: q.geojson, code: code, name: name, epsg: 2154}\n"
    territory, _ = assemble(spec(tmp_path, layers=declared, q__geojson=zone))
    assert territory.geometries[0].bounds == pytest.approx((3.1, 43.1, 3.5, 43.5), abs=1e-6)
    unknown = declared.replace("2154", "99999")
    assert "EPSG:99999 is not a known reference system" in refused(spec(tmp_path, layers=unknown, q__geojson=zone))


def test_a_code_used_twice_refuses_the_build_until_told_apart(tmp_path: Path) -> None:
    """Two zones of one code are never merged: the specification must say how they differ, and only they change."""
    zone = collection(
        feature("M", square(3.1, 43.1), name="Près d'Arènes"),
        feature("M", square(3.5, 43.1), name="Port"),
        feature("N", square(3.1, 43.5)),
    )
    assert "feature 2: code 'M' is already that of feature 1" in refused(spec(tmp_path, q__geojson=zone))
    layers = LAYERS.replace("name: name", 'name: name, duplicate_code: "{code}-{name:slug}"')
    territory, report = assemble(spec(tmp_path, layers=layers, q__geojson=zone))
    assert territory.zones["code"].to_list() == ["M-pres-d-arenes", "M-port", "N"]
    assert "code 'M' is not unique; became 'M-port'" in told(report.repaired)


def test_zones_over_one_another_are_doubtful(tmp_path: Path) -> None:
    """Zones of one layer that overlap are kept and told, with how much."""
    zone = collection(feature("A", square(3.1, 43.1)), feature("B", square(3.3, 43.1)))
    _, report = assemble(spec(tmp_path, q__geojson=zone))
    assert told(report.doubtful) == "q.geojson, feature 2: 'B' overlaps 'A' by 50% of the smaller one"


def test_dates_that_cannot_be_are_refused_or_told(tmp_path: Path) -> None:
    """The year 2282 and an end before the start refuse their rows, or are only told when the rows are to be kept."""
    table = (
        "id,x,y,d,f\n1,3.21111,43.2,01/02/11,05/02/11\n2,3.22222,43.2,01/02/11,05/02/2282\n"
        "3,3.23333,43.2,09/02/11,05/02/11\n4,3.24444,43.2,01/02/11,05/09/11\n5,3.25555,43.2,hier,\n"
    )
    dates = 'start: d, end: f, format: "%d/%m/%y", not_before: 1990-01-01, not_after: 2014-12-31, max_days: 31'
    _, report = assemble(spec(tmp_path, f"  - {{{LAMP}, dates: {{{dates}}}}}\n", a__csv=table))
    assert [r.number for r in report.refused] == [5, 2, 3]
    assert told(report.doubtful) == "a.csv, row 4: lasts more than 31 days"
    territory, report = assemble(spec(tmp_path, f"  - {{{LAMP}, dates: {{{dates}, keep_row: true}}}}\n", a__csv=table))
    assert len(territory.assets) == 5
    assert "a.csv, row 3: f is before d; the row is kept" in told(report.doubtful)


def test_categories_nulls_decimals_and_flows_are_cleaned(tmp_path: Path) -> None:
    """Case variants fold into the usual spelling, null words are null, decimal commas read, impossible flows go."""
    table = (
        "id;x;y;t;tjm;phs\n1;3,21111;43,2;LANTERNE;1200,5;100\n2;3,22222;43,2;Lanterne;N/A;9999\n"
        "3;3,23333;43,2;LANTERNE;50;80\n4;3,24444;43,2;#N/A;0;\n5;3,25555;43,2;BORNE;-3;x\n"
    )
    source = (
        "  - {file: a.csv, domain: roadway, kind: traffic, asset_id: 'c-{id:03d}', longitude: x, latitude: y,"
        " delimiter: ';', decimal: ',', null_tokens: ['N/A', '#N/A', '9999'], categories: [t],"
        " columns: {name: t, daily_flow: tjm, evening_peak_flow: phs}}\n"
    )
    territory, report = assemble(spec(tmp_path, source, a__csv=table))
    assert territory.assets["asset_id"].to_list() == ["c-001", "c-002", "c-003", "c-004", "c-005"]
    assert territory.assets["name"].to_list() == ["LANTERNE", "LANTERNE", "LANTERNE", None, "BORNE"]
    assert territory.assets["daily_flow"].to_list() == [1200.5, None, None, None, None]
    assert territory.assets["evening_peak_flow"].to_list() == [100.0, None, None, None, None]
    assert told(report.repaired) == "a.csv, row 2: t 'Lanterne' written 'LANTERNE', as elsewhere in the file"
    for words in (
        "row 4: t is empty",
        "row 3: a peak hour has more vehicles than the mean day",
        "row 4: daily_flow is 0",
        "row 5: daily_flow (tjm) is not plausible",
        "row 5: evening_peak_flow (phs) is not a number",
    ):
        assert words in told(report.doubtful)


def test_repeated_rows_and_positions(tmp_path: Path) -> None:
    """A repeated position is doubtful unless expected; rows of one key are one asset, or all kept and doubtful."""
    table = "id,x,y,k\n1,3.21111,43.2,a\n2,3.21111,43.2,b\n3,3.233,43.2,a\n4,3.24444,43.2,\n5,3.25555,43.2,\n"
    _, report = assemble(spec(tmp_path, f"  - {{{LAMP}}}\n", a__csv=table))
    assert "a.csv, row 2 (as 1): stands at the very position of another" in told(report.doubtful)
    assert "row 3: position has at most 3 decimals" in told(report.doubtful)
    for keep, kept in (("first", "1245"), ("last", "2345"), ("all", "12345")):
        source = f"  - {{{LAMP}, shared_positions: true, deduplicate: {{key: [k], keep: {keep}}}}}\n"
        territory, report = assemble(spec(tmp_path, source, a__csv=table))
        assert "".join(territory.assets["asset_id"]) == kept
        assert "has the same k as another" in told(report.doubtful if keep == "all" else report.refused)
        assert "stands at the very position" not in told(report.doubtful)


def test_points_of_geojson_filters_and_ids_from_content(tmp_path: Path) -> None:
    """GeoJSON points are assets; `where` leaves rows out and counts them; `digest` ids do not depend on the order."""
    points: list[dict[str, Any]] = [
        feature("a", {"type": "Point", "coordinates": [3.21111, 43.2]}, use="yes", osm_id=12),
        feature("b", {"type": "Point", "coordinates": [3.22222, 43.2]}, use="no", osm_id=13),
        feature("c", {"type": "Point", "coordinates": [3.23333, 43.2]}, use="yes", osm_id=-14),
        feature("d", square(3.1, 43.1), use="yes"),
    ]
    source = "  - {file: p.geojson, domain: sensor, kind: drop_off, asset_id: '%s', where: {use: ['yes']}}\n"
    territory, report = assemble(spec(tmp_path, source % "drop-{osm_id}", p__geojson=collection(*points)))
    assert territory.assets["asset_id"].to_list() == ["drop-12", "drop--14"]
    assert (report.sources[1].read, report.sources[1].left_out, report.sources[1].kept) == (4, 1, 2)
    assert told(report.refused) == "p.geojson, feature 4: an asset is a Point, not a Polygon"
    orders = [
        set(assemble(spec(tmp_path, source % "{digest}", p__geojson=collection(*some)))[0].assets["asset_id"])
        for some in (points[:3], points[2::-1])
    ]
    assert orders[0] == orders[1]
    assert len(orders[0]) == 2


@pytest.mark.parametrize("compressed", [False, True])
def test_a_dbase_export_in_latin_1_reads_with_its_accents(compressed: bool) -> None:
    """Typed headers lose their types, accents survive, and gzip makes no difference."""
    content = '"NOM,C,254","TJM,N,19,8","X,N,19,8",Y\nAllée Métis,12,3.2,43.2\n'.encode("latin-1")
    source = AssetSource(
        file="a.csv", domain="roadway", kind="traffic", asset_id="NOM", longitude="X", latitude="Y", encoding="latin-1"
    )
    table, repaired, _ = read_table(gzip.compress(content) if compressed else content, source)
    assert table.select("NOM", "TJM").rows() == [("Allée Métis", "12")]
    assert told(tuple(repaired)) == "a.csv: types removed from 3 dBase column names"


def test_a_byte_order_mark_is_removed_and_told(tmp_path: Path) -> None:
    """A BOM does not become part of the first column's name."""
    path = spec(tmp_path, f"  - {{{LAMP}}}\n", a__csv="\ufeffid,x,y\n1,3.2,43.2\n")
    _, report = assemble(path)
    assert told(report.repaired) == "a.csv: byte order mark removed"


@pytest.mark.parametrize(
    ("assets", "layers", "content", "words"),
    [
        (f"  - {{{LAMP}}}\n", LAYERS, "id,x,y\né,3.2,43.2\n".encode("latin-1"), "line 2: is not utf-8; declare `enc"),
        (f"  - {{{LAMP}, encoding: klingon}}\n", LAYERS, "id,x,y\n", "encoding 'klingon' is unknown"),
        (f"  - {{{LAMP}}}\n", LAYERS, "id,lon,y\n1,3.2,43.2\n", "longitude and latitude names 'x'; the file has id"),
        (f"  - {{{LAMP}, columns: {{name: nom}}}}\n", LAYERS, "id,x,y\n1,3.2,43.2\n", "columns.name names 'nom'"),
        (f"  - {{{LAMP}}}\n", LAYERS, b"\x1f\x8bxx", "a.csv: the gzip file is damaged"),
        (f"  - {{{LAMP}}}\n  - {{{LAMP}}}\n", LAYERS, "id,x,y\n1,3.2,43.2\n", "give `asset_id` another prefix"),
        (f"  - {{{LAMP}, knd: 1}}\n", LAYERS, "", "assets.0.knd is not a key"),
        (f"  - {{{LAMP}, columns: {{depht_mm: x}}}}\n", LAYERS, "", "'depht_mm' is unknown; did you mean depth_mm?"),
        (f"  - {{{LAMP.replace('kind: lamp', 'kind: bin')}}}\n", LAYERS, "", "assets.0.kind must be one of lamp"),
        ("", LAYERS.replace("q.geojson", "z.geojson"), "", "z.geojson is not in"),
        ("", LAYERS.replace("code: code", "code: kode"), "", "code names 'kode'; the features have code, name"),
        ("", LAYERS.replace("quartier", "Quartier"), "", "layers: 'Quartier' must be lower-case"),
        ("", LAYERS + "rules: {report_hot_spot: {layer: iris}}\n", "", "rules.report_hot_spot.layer names 'iris'"),
        ("", LAYERS + "area: [5.0, 45.0, 6.0, 46.0]\n", "", "features 1, 2: lies outside the specification's `area`"),
        (f"  - {{{LAMP}}}\n", "", "id,x,y\n", "there is neither a zone nor an asset"),
        ("", LAYERS + "margin: 3\n", "", "spec.yaml: margin is not a key of this file"),
    ],
)  # fmt: skip
def test_what_the_specification_gets_wrong_is_told(
    tmp_path: Path, assets: str, layers: str, content: str | bytes, words: str
) -> None:
    """A specification that does not fit its sources is refused in words that say what to write."""
    assert words in refused(spec(tmp_path, assets, layers, a__csv=content))


def test_all_sources_are_judged_before_the_build_is_refused(tmp_path: Path) -> None:
    """A bad layer and a bad table are told together."""
    layers = LAYERS.replace("q.geojson", "z.geojson")
    why = refused(spec(tmp_path, f"  - {{{LAMP}}}\n", layers, a__csv="id,x,y\n1,,\n"))
    assert "z.geojson is not in" in why
    assert "a.csv: every row is refused: has no position" in why


def test_a_build_that_fails_writes_nothing(tmp_path: Path) -> None:
    """After a refused build the folder is as it was."""
    path = spec(tmp_path, f"  - {{{LAMP}}}\n", a__csv="id,x,y\n1,,\n")
    with pytest.raises(TerritoryError, match="every row is refused: has no position"):
        build(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_templates() -> None:
    """Templates fill values, padded numbers and slugs; a null or a value of the wrong form gives no text."""
    row = {"a": "7", "b": "Près d'Arènes", "c": None}
    assert fill("a", row) == "7"
    assert fill("x-{a:05d}-{b:slug}", row) == "x-00007-pres-d-arenes"
    assert fill("x-{c}", row) is None
    assert fill("x-{b:05d}", row) is None
    assert slug("  L'Île -- Été ") == "l-ile-ete"


def test_an_empty_report_says_so() -> None:
    """A build without a remark has a report that says that there is nothing to look at."""
    text = BuildReport("Essai", "abc").to_markdown().decode()
    assert text.count("Nothing.") == 3
