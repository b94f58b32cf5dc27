"""`vigie territory`: what it prints, its exit codes, and that errors are words."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from streams.cli.territory import territory
from streams.territory.draw import draw
from streams.territory.files import load
from streams.territory.remarks import TerritoryError
from tests.streams.territory.folders import asset_row, feature, head_line, make, square, zone_file
from tests.streams.territory.test_build import LAMP, spec


def run(*arguments: str | Path) -> Result:
    result = CliRunner().invoke(territory, [str(a) for a in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), "a traceback would have been shown"
    return result


def test_synth_then_show(tmp_path: Path) -> None:
    """The invented city is written, and show names its layers, kinds and rules."""
    made = run("synth", "--out", tmp_path / "city")
    assert made.exit_code == 0
    assert "Vigie-sur-Mer, 52 zones in 4 layers, 32297 assets" in made.stdout
    shown = run("show", tmp_path / "city")
    assert shown.exit_code == 0
    for words in ("collection_sector", "30000", "lamp_dark", "999999999"):
        assert words in shown.stdout


def test_build_prints_counts(tmp_path: Path) -> None:
    """A build prints what it read and how many remarks there are, and where the report is."""
    path = spec(tmp_path, f"  - {{{LAMP}}}\n", a__csv="id,x,y\n1,3.21111,43.2\n2,,\n")
    result = run("build", path, "--out", tmp_path / "out", "--data", tmp_path)
    assert result.exit_code == 0, result.stderr
    assert "refused 1, repaired 0, doubtful 0" in result.stdout
    assert "report.md" in result.stdout


def test_bad_data_is_one_line_a_problem_and_exit_1(tmp_path: Path) -> None:
    """Each problem has its line on standard error; nothing is on standard output."""
    folder = make(tmp_path / "t")
    head_line("Europe/Paris", "Nowhere")(folder)
    asset_row("lamp-1,lighting,lamp,,3.2,43.2,900")(folder)
    result = run("show", folder)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert [line[:23] for line in result.stderr.splitlines()] == ["Error: territory.yaml: ", "Error: assets.csv, row "]


def test_repairs_are_shown(tmp_path: Path) -> None:
    """A polygon repaired while loading is told by show."""
    folder = make(tmp_path / "t")
    bow = {"type": "Polygon", "coordinates": [[[3.1, 43.1], [3.3, 43.3], [3.3, 43.1], [3.1, 43.3], [3.1, 43.1]]]}
    zone_file(feature("A", bow), feature("B", square(3.5, 43.5)))(folder)
    assert "repaired: zones/quartier.geojson, feature 1" in run("show", folder).stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ("show", "missing"),
        ("build", "missing.yaml", "--out", "x"),
        ("synth",),
        ("synth", "--out", "x", "--seed", "-1"),
        ("frobnicate",),
    ],
)
def test_wrong_usage_is_exit_2(arguments: tuple[str, ...]) -> None:
    """What the command line gets wrong is told as usage."""
    result = run(*arguments)
    assert result.exit_code == 2
    assert "Error" in result.stderr


def test_an_existing_folder_is_kept_unless_forced(tmp_path: Path) -> None:
    """Without --force nothing is replaced; with it a territory is, but never a folder that is something else."""
    folder = make(tmp_path / "t")
    assert run("synth", "--out", folder).exit_code == 2
    assert load(folder)[0].name == "Essai"
    assert run("synth", "--out", folder, "--force").exit_code == 0
    assert load(folder)[0].name == "Vigie-sur-Mer"
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "note").write_text("mine")
    result = run("synth", "--out", tmp_path / "other", "--force")
    assert result.exit_code == 1
    assert "is not a territory" in result.stderr


@pytest.mark.parametrize(("suffix", "start"), [("png", b"\x89PNG"), ("svg", b"<?xml")])
def test_a_map_is_drawn(tmp_path: Path, suffix: str, start: bytes) -> None:
    """--map writes a picture of the kind its name says, and the same one twice."""
    pytest.importorskip("matplotlib", reason="needs the extra `draw`")
    folder, picture = make(tmp_path / "t"), tmp_path / f"map.{suffix}"
    assert run("show", folder, "--map", picture).exit_code == 0
    content = picture.read_bytes()
    assert content.startswith(start)
    assert run("show", folder, "--map", picture).exit_code == 0
    assert picture.read_bytes() == content


def test_a_map_of_another_kind_is_refused(tmp_path: Path) -> None:
    """A suffix that is not drawn is wrong usage, before anything is read."""
    assert run("show", make(tmp_path / "t"), "--map", tmp_path / "map.pdf").exit_code == 2


def test_without_matplotlib_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where matplotlib is not installed the message says what to install."""
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    loaded, _ = load(make(tmp_path / "t"))
    with pytest.raises(TerritoryError, match=r"pip install 'vigie\[draw\]'"):
        draw(loaded, tmp_path / "map.png")
