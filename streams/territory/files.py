"""The territory folder: one authority's zones, assets and rules as files, read and checked as a whole.

DIR/territory.yaml          who it is, time zone, area, layers, rules
DIR/zones/<layer>.geojson   one FeatureCollection a layer, WGS84, properties code, name, valid_from?, valid_to?
DIR/assets.parquet          or assets.csv: the registry, columns of ASSET_SCHEMA
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final
from zoneinfo import ZoneInfo

from processors.territory import Territory
from streams.territory import assets, head, zones
from streams.territory.remarks import Remark, TerritoryError, lines

__all__ = ["HEAD", "TerritoryError", "load", "render", "versioned", "write"]

HEAD: Final = "territory.yaml"
_ASSETS: Final = ("assets.parquet", "assets.csv")


def load(directory: Path) -> tuple[Territory, tuple[str, ...]]:
    """The territory in that folder, and what had to be repaired to use it, one line each.

    Raises TerritoryError, with every problem found, when the folder cannot be used as it stands.
    """
    contents: dict[str, bytes] = {}
    problems = _take(directory, HEAD, contents)
    if problems:
        raise TerritoryError(problems)
    found, problems = head.read_head(contents[HEAD], HEAD)

    bad: list[Remark] = []
    repaired: list[Remark] = []
    layers: list[tuple[str, list[zones.Zone]]] = []
    for layer in found.layers:
        file = f"zones/{layer}.geojson"
        missing = _take(directory, file, contents)
        problems += missing
        if not missing:
            rows, layer_bad, layer_repaired = zones.read_layer(contents[file], file, found.timezone, found.area)
            layers.append((layer, rows))
            bad += layer_bad
            repaired += layer_repaired
    problems += [
        f"zones/{path.name}: is not named in the `layers` of {HEAD}"
        for path in sorted((directory / "zones").glob("*.geojson"))
        if found.layers and path.stem not in found.layers
    ]

    present = [name for name in _ASSETS if (directory / name).exists()]
    if len(present) != 1:
        what = "both are there: keep one" if present else "neither is there: one is needed"
        raise TerritoryError([*problems, *lines(bad), f"{' and '.join(_ASSETS)}: {what}"])
    problems += _take(directory, present[0], contents)
    if present[0] not in contents:
        raise TerritoryError([*problems, *lines(bad)])
    registry, asset_bad = assets.read_assets(contents[present[0]], present[0], found.area)
    problems += lines([*bad, *asset_bad])
    if problems:
        raise TerritoryError(problems)

    table, geometries = zones.table(layers)
    territory = Territory(
        jurisdiction_id=found.jurisdiction_id,
        name=found.name,
        timezone=found.timezone.key,
        version=_version(contents),
        area=found.area,
        zones=table,
        geometries=geometries,
        assets=registry,
        rules=found.rules,
    )
    return territory, lines(repaired)


def _take(directory: Path, file: str, into: dict[str, bytes]) -> list[str]:
    try:
        into[file] = (directory / file).read_bytes()
    except FileNotFoundError:
        return [f"{file}: is missing in {directory}"]
    except OSError as error:
        return [f"{file}: cannot be read: {error.strerror or error}"]
    return []


def _version(contents: Mapping[str, bytes]) -> str:
    digest = hashlib.sha256()
    for file in sorted(contents):
        digest.update(f"{file}\0{len(contents[file])}\0".encode())
        digest.update(contents[file])
    return digest.hexdigest()[:12]


def render(territory: Territory) -> dict[str, bytes]:
    """The folder's files, path to content. The same territory gives the same bytes."""
    timezone = ZoneInfo(territory.timezone)
    contents = {
        HEAD: head.render_head(
            territory.jurisdiction_id,
            territory.name,
            territory.timezone,
            territory.area,
            territory.layers,
            territory.rules,
        ),
        "assets.parquet": assets.render_assets(territory.assets),
    }
    for layer in territory.layers:
        contents[f"zones/{layer}.geojson"] = zones.render_layer(territory.zones, territory.geometries, layer, timezone)
    return contents


def versioned(territory: Territory) -> Territory:
    """The territory with the version that its files will have."""
    return replace(territory, version=_version(render(territory)))


def write(territory: Territory, directory: Path, beside: Mapping[str, bytes] | None = None) -> None:
    """Write the folder whole: under another name first, then in place of what was there.

    `beside` are further files, path to content, that are no part of the territory (a build report). A folder that is
    not a territory is never replaced: raises TerritoryError. A territory that is there is replaced with everything
    in it; between its going and the new one's coming there is an instant without the folder.
    """
    directory = directory.absolute()
    if directory.exists() and not (directory / HEAD).is_file() and (not directory.is_dir() or any(directory.iterdir())):
        raise TerritoryError([f"{directory}: exists and is not a territory; choose another folder"])
    directory.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
    try:
        fresh = scratch / "new"
        for file, content in {**(beside or {}), **render(territory)}.items():
            (fresh / file).parent.mkdir(parents=True, exist_ok=True)
            (fresh / file).write_bytes(content)
        if directory.exists():
            directory.rename(scratch / "old")
        fresh.rename(directory)
    finally:
        if (scratch / "old").exists() and not directory.exists():
            (scratch / "old").rename(directory)
        shutil.rmtree(scratch)
