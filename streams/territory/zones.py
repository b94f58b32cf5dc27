"""Zone layers: `zones/<layer>.geojson`, read into rows of ZONE_SCHEMA with their polygons, and written back."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from typing import Any, NoReturn, TypeVar
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt
import polars as pl
import shapely
from shapely.geometry.base import BaseGeometry

from processors.territory import ZONE_SCHEMA
from streams.territory import geometry
from streams.territory.geometry import Fault
from streams.territory.remarks import Remark

T = TypeVar("T")


@dataclass(frozen=True)
class Zone:
    """One polygon with its vintage; `number` is its feature in the file, counted from 1."""

    number: int
    code: str
    name: str
    valid_from: datetime | None
    valid_to: datetime | None
    geometry: BaseGeometry


def features(content: bytes, file: str) -> tuple[list[dict[str, Any]], list[Remark]]:
    """The features of a GeoJSON FeatureCollection, or none and why."""
    try:
        raw = json.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError:
        return [], [Remark(file, "is not UTF-8 text")]
    except json.JSONDecodeError as error:
        return [], [Remark(file, f"is not JSON: {error.msg} (line {error.lineno})")]
    except RecursionError:
        return [], [Remark(file, "is not GeoJSON: nested too deeply")]
    found = raw.get("features") if isinstance(raw, dict) and raw.get("type") == "FeatureCollection" else None
    if not isinstance(found, list):
        return [], [Remark(file, "is not a GeoJSON FeatureCollection")]
    if not found:
        return [], [Remark(file, "holds no feature")]
    bad = [
        Remark(file, "is not a GeoJSON Feature with properties", "feature", number)
        for number, feature in enumerate(found, 1)
        if not (isinstance(feature, dict) and isinstance(feature.get("properties"), dict))
    ]
    return ([], bad) if bad else (found, [])


def instant(value: Any, timezone: ZoneInfo) -> datetime | None:
    """The UTC instant of an ISO date (00:00 in the territory's timezone) or of an ISO instant with its offset.

    None for null. Raises Fault for anything else.
    """
    if value is None or value == "":
        return None
    if isinstance(value, str):
        try:
            if len(value) == 10:
                return datetime.combine(date.fromisoformat(value), time(), timezone).astimezone(UTC)
            moment = datetime.fromisoformat(value)
        except (ValueError, OverflowError):
            moment = None
        if moment is not None and moment.tzinfo is not None:
            return moment.astimezone(UTC)
    raise Fault(f"{value!r} is not a date (YYYY-MM-DD)")


def _text(properties: dict[str, Any], key: str) -> str:
    value = properties.get(key)
    if not isinstance(value, str) or not value.strip():
        raise Fault(f"property `{key}` must be text and not empty")
    return value.strip()


def _attempt(faults: list[str], what: Callable[[], T]) -> T | None:
    try:
        return what()
    except Fault as fault:
        faults.append(str(fault))
        return None


def _zone(
    feature: dict[str, Any], number: int, timezone: ZoneInfo, area: geometry.Box
) -> tuple[Zone | None, list[str], str | None]:
    """The zone, or every reason why there is none; and what was repaired."""
    properties, faults = feature["properties"], list[str]()
    code = _attempt(faults, lambda: _text(properties, "code"))
    name = _attempt(faults, lambda: _text(properties, "name"))
    start = _attempt(faults, lambda: instant(properties.get("valid_from"), timezone))
    end = _attempt(faults, lambda: instant(properties.get("valid_to"), timezone))
    shape = _attempt(faults, lambda: geometry.polygon(feature.get("geometry"), expected=area))
    if start is not None and end is not None and start >= end:
        faults.append("valid_from must be before valid_to")
    if shape is not None and not shapely.intersects(shape[0], shapely.box(*area)):
        faults.append("lies outside the territory's area: widen `area`, or take the zone out")
    if faults or code is None or name is None or shape is None:
        return None, faults, None
    return Zone(number, code, name, start, end, shape[0]), [], shape[1]


def read_layer(
    content: bytes, file: str, timezone: ZoneInfo, area: geometry.Box
) -> tuple[list[Zone], list[Remark], list[Remark]]:
    """The zones of one layer's file; then what makes it unusable; then what was repaired."""
    zones: list[Zone] = []
    repaired: list[Remark] = []
    found, bad = features(content, file)
    for number, feature in enumerate(found, 1):
        zone, faults, repair = _zone(feature, number, timezone, area)
        bad += [Remark(file, fault, "feature", number) for fault in faults]
        if zone is not None:
            zones.append(zone)
        if repair is not None:
            repaired.append(Remark(file, repair, "feature", number))
    return zones, bad + list(duplicates(zones, file)), repaired


def duplicates(zones: Sequence[Zone], file: str) -> Iterable[Remark]:
    """A remark per zone whose code another, earlier in the file, has at the same time."""
    seen: dict[str, list[Zone]] = {}
    for zone in zones:
        for other in seen.setdefault(zone.code, []):
            starts_before_end = other.valid_to is None or zone.valid_from is None or zone.valid_from < other.valid_to
            ends_after_start = zone.valid_to is None or other.valid_from is None or other.valid_from < zone.valid_to
            if starts_before_end and ends_after_start:
                reason = f"code {zone.code!r} is already that of feature {other.number}, valid at the same time"
                yield Remark(file, reason, "feature", zone.number)
                break
        seen[zone.code].append(zone)


def table(layers: Iterable[tuple[str, Sequence[Zone]]]) -> tuple[pl.DataFrame, npt.NDArray[Any]]:
    """The zone table (ZONE_SCHEMA) and the polygons, row by row."""
    rows = [(layer, zone) for layer, zones in layers for zone in zones]
    frame = pl.DataFrame(
        {
            "layer": [layer for layer, _ in rows],
            "code": [zone.code for _, zone in rows],
            "name": [zone.name for _, zone in rows],
            "valid_from": [zone.valid_from for _, zone in rows],
            "valid_to": [zone.valid_to for _, zone in rows],
        },
        schema=ZONE_SCHEMA,
    )
    geometries = np.empty(len(rows), dtype=object)
    geometries[:] = [zone.geometry for _, zone in rows]
    return frame, geometries


def _bound(value: datetime | None, timezone: ZoneInfo) -> str | None:
    if value is None:
        return None
    local = value.astimezone(timezone)
    return local.date().isoformat() if local.time() == time() else value.isoformat(timespec="milliseconds")


def _unserializable(value: object) -> NoReturn:
    raise TypeError(f"{type(value).__name__} has no place in a zone file")


def render_layer(zones: pl.DataFrame, geometries: npt.NDArray[Any], layer: str, timezone: ZoneInfo) -> bytes:
    """One layer as GeoJSON, one feature per line, so that a changed zone is one changed line."""
    parts = []
    for row, shape in zip(zones.iter_rows(named=True), geometries, strict=True):
        if row["layer"] != layer:
            continue
        properties = {"code": row["code"], "name": row["name"]}
        for key in ("valid_from", "valid_to"):
            bound = _bound(row[key], timezone)
            if bound is not None:
                properties[key] = bound
        feature = {"type": "Feature", "properties": properties, "geometry": shapely.geometry.mapping(shape)}
        parts.append(json.dumps(feature, ensure_ascii=False, default=_unserializable, separators=(",", ":")))
    return ('{"type":"FeatureCollection","features":[\n' + ",\n".join(parts) + "\n]}\n").encode()
