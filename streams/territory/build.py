"""Make a territory folder from the files a city publishes, as a specification says, and report what that took."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time
from functools import partial
from pathlib import Path
from typing import Final, TypeVar
from zoneinfo import ZoneInfo

import polars as pl
import shapely

from processors.territory import ASSET_SCHEMA, Territory
from streams.territory import files, geometry, registry, zones
from streams.territory.geometry import Fault
from streams.territory.remarks import Remark, TerritoryError, lines
from streams.territory.report import BuildReport, SourceCount
from streams.territory.spec import AssetSource, Spec, ZoneSource, fields, fill, read_spec

__all__ = ["BuildReport", "assemble", "build"]

#: Neighbours drawn from the same cadastre share slivers; more than this part of the smaller zone is an overlap.
_OVERLAP: Final = 0.01

T = TypeVar("T")


@dataclass
class _Work:
    """What has been gathered so far."""

    spec_file: str
    data: Path
    problems: list[str] = field(default_factory=list)
    sources: list[SourceCount] = field(default_factory=list)
    repaired: list[Remark] = field(default_factory=list)
    refused: list[Remark] = field(default_factory=list)
    doubtful: list[Remark] = field(default_factory=list)

    def attempt(self, what: Callable[[], T]) -> T | None:
        try:
            return what()
        except TerritoryError as error:
            self.problems += error.problems
            return None

    def content(self, file: str) -> bytes:
        try:
            return (self.data / file).read_bytes()
        except FileNotFoundError as error:
            hint = "give the folder of the data with --data, or correct `file`"
            raise TerritoryError([f"{self.spec_file}: {file} is not in {self.data}: {hint}"]) from error
        except OSError as error:
            raise TerritoryError([f"{file}: cannot be read: {error.strerror or error}"]) from error


def build(spec_path: Path, out: Path, data_dir: Path | None = None) -> BuildReport:
    """Build the territory that a specification describes into the folder `out`, with report.json and report.md.

    Files are looked for in `data_dir`, else in the specification's own `data_dir`, else beside it. Raises
    TerritoryError with every problem found when a source cannot be used; nothing is written then.
    """
    territory, report = assemble(spec_path, data_dir)
    files.write(territory, out, {"report.json": report.to_json(), "report.md": report.to_markdown()})
    return report


def assemble(spec_path: Path, data_dir: Path | None = None) -> tuple[Territory, BuildReport]:
    """The territory that `build` would write and its report. Raises TerritoryError as `build` does."""
    spec, rules = read_spec(spec_path)
    data = data_dir if data_dir is not None else spec_path.parent / (spec.data_dir or "")
    work = _Work(spec_path.name, data)
    timezone = ZoneInfo(spec.timezone)

    layers: list[tuple[str, list[zones.Zone]]] = []
    for layer, source in spec.layers.items():
        found = work.attempt(partial(_layer, work, layer, source, timezone, spec.area))
        layers.append((layer, found or []))
    table, geometries = zones.table(layers)
    bounds = shapely.total_bounds(geometries).tolist() if len(geometries) else None
    box: geometry.Box | None = spec.area or ((bounds[0], bounds[1], bounds[2], bounds[3]) if bounds else None)

    # With a layer missing nobody knows where the territory lies: the assets are then only held against `area`.
    frames = [pl.DataFrame(schema=ASSET_SCHEMA), *_assets(work, spec, spec.area if work.problems else box)]
    if work.problems:
        raise TerritoryError(work.problems)

    assets = pl.concat(frames)
    if box is None and assets.is_empty():
        raise TerritoryError([f"{spec_path.name}: there is neither a zone nor an asset in its sources"])
    territory = Territory(
        jurisdiction_id=spec.jurisdiction_id,
        name=spec.name,
        timezone=spec.timezone,
        version="",
        area=spec.area or _around([box, registry.extent(assets)], spec.margin_deg),
        zones=table,
        geometries=geometries,
        assets=assets,
        rules=rules,
    )
    territory = files.versioned(territory)
    return territory, BuildReport(
        territory=territory.name,
        version=territory.version,
        sources=tuple(work.sources),
        repaired=tuple(work.repaired),
        refused=tuple(work.refused),
        doubtful=tuple(work.doubtful),
    )


def _around(boxes: Iterable[geometry.Box | None], margin: float) -> geometry.Box:
    """The box around all boxes and a margin, outwards to 0.0001 degrees so that it reads well."""
    known = [box for box in boxes if box is not None]
    west, south = (min(box[i] for box in known) - margin for i in (0, 1))
    east, north = (max(box[i] for box in known) + margin for i in (2, 3))
    return (_floor(west), _floor(south), -_floor(-east), -_floor(-north))


def _floor(degrees: float) -> float:
    return (degrees * 10_000 // 1) / 10_000


def _assets(work: _Work, spec: Spec, box: geometry.Box | None) -> list[pl.DataFrame]:
    reach = spec.reach_deg
    within = spec.area
    if within is None and box is not None:
        within = (box[0] - reach, box[1] - reach, box[2] + reach, box[3] + reach)
    frames: list[pl.DataFrame] = []
    owner: dict[str, str] = {}
    for source in spec.assets:
        found = work.attempt(partial(_read, work, source, box, within))
        if found is None:
            continue
        read, remarks = found
        work.repaired += remarks.repaired
        work.refused += remarks.refused
        work.doubtful += remarks.doubtful
        into = f"{source.domain}/{source.kind}"
        work.sources.append(SourceCount(source.file, into, read.rows, read.left_out, len(read.assets)))
        clashes = [asset for asset in read.assets["asset_id"] if asset in owner]
        if clashes:
            reason = f"{len(clashes)} asset ids, such as {clashes[0]!r}, are those of {owner[clashes[0]]}"
            work.problems.append(f"{source.file}: {reason}; give `asset_id` another prefix")
        owner.update(dict.fromkeys(read.assets["asset_id"], source.file))
        frames.append(read.assets)
    return frames


def _read(
    work: _Work, source: AssetSource, box: geometry.Box | None, within: geometry.Box | None
) -> tuple[registry.Read, registry.Remarks]:
    return registry.read_source(work.content(source.file), source, box, within)


def _layer(
    work: _Work, layer: str, source: ZoneSource, timezone: ZoneInfo, area: geometry.Box | None
) -> list[zones.Zone]:
    """The zones of one layer. Raises TerritoryError when one of them cannot be used: a layer with a hole misleads."""
    file = source.file
    found, bad = zones.features(work.content(file), file)
    if bad:
        raise TerritoryError(lines(bad))
    try:
        projection = geometry.transformer(source.epsg) if source.epsg is not None else None
    except Fault as fault:
        raise TerritoryError([f"{file}: {fault}"]) from fault
    absent = [
        f"{file}: {key} names {name!r}; the features have {', '.join(found[0]['properties'])}"
        for key, template in (("code", source.code), ("name", source.name), ("duplicate_code", source.duplicate_code))
        for name in (fields(template) if template else ())
        if name not in found[0]["properties"]
    ]
    if absent:
        raise TerritoryError(absent)

    rows = [{k: None if v is None else str(v).strip() for k, v in feature["properties"].items()} for feature in found]
    codes = _codes(rows, source)
    made: list[zones.Zone] = []
    repaired: list[Remark] = []
    for number, (feature, row, code) in enumerate(zip(found, rows, codes, strict=True), 1):
        name = _filled(source.name, row)
        if not code or not name:
            bad.append(Remark(file, f"{'name' if code else 'code'} is empty", "feature", number))
            continue
        try:
            shape, repair = geometry.polygon(
                feature.get("geometry"), expected=area, projection=projection, latitude_first=source.latitude_first
            )
        except Fault as fault:
            bad.append(Remark(file, str(fault), "feature", number))
            continue
        if area is not None and not shape.intersects(shapely.box(*area)):
            bad.append(Remark(file, "lies outside the specification's `area`", "feature", number))
        if repair:
            repaired.append(Remark(file, f"{repair} ({code})", "feature", number))
        start, end = (_midnight(bound, timezone) for bound in (source.valid_from, source.valid_to))
        made.append(zones.Zone(number, code, name, start, end, shape))
    if source.valid_from and source.valid_to and source.valid_from >= source.valid_to:
        bad.append(Remark(file, "valid_from must be before valid_to"))
    hint = "write a template in `duplicate_code` that tells them apart"
    bad += [Remark(r.file, f"{r.reason}: {hint}", r.unit, r.number) for r in zones.duplicates(made, file)]
    if bad:
        raise TerritoryError(lines(bad))
    changed = [
        Remark(file, f"code {_filled(source.code, row)!r} is not unique; became {code!r}", "feature", number)
        for number, (row, code) in enumerate(zip(rows, codes, strict=True), 1)
        if code != _filled(source.code, row)
    ]
    work.repaired += repaired + changed
    work.doubtful += _overlaps(made, file)
    work.sources.append(SourceCount(file, f"layer {layer}", len(found), 0, len(made)))
    return made


def _filled(template: str, row: dict[str, str | None]) -> str | None:
    known = {name: row.get(name) for name in fields(template)}
    return fill(template, known) or None


def _codes(rows: list[dict[str, str | None]], source: ZoneSource) -> list[str | None]:
    codes = [_filled(source.code, row) for row in rows]
    if source.duplicate_code is None:
        return codes
    counts = Counter(codes)
    return [
        _filled(source.duplicate_code, row) if counts[code] > 1 else code for row, code in zip(rows, codes, strict=True)
    ]


def _midnight(day: date | None, timezone: ZoneInfo) -> datetime | None:
    return None if day is None else datetime.combine(day, time(), timezone).astimezone(UTC)


def _overlaps(made: list[zones.Zone], file: str) -> list[Remark]:
    shapes = [zone.geometry for zone in made]
    first, second = shapely.STRtree(shapes).query(shapes, predicate="intersects")
    remarks = []
    for i, j in zip(first.tolist(), second.tolist(), strict=True):
        if i < j:
            share = shapes[i].intersection(shapes[j]).area / min(shapes[i].area, shapes[j].area)
            if share > _OVERLAP:
                reason = f"overlaps {made[i].code!r} by {share:.0%} of the smaller one"
                remarks.append(Remark(file, f"{made[j].code!r} {reason}", "feature", made[j].number))
    return remarks
