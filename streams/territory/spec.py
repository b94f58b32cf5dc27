"""The build specification: which open-data files make a territory, and how each of them is to be read."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from processors.territory import ASSET_KINDS, ASSET_SCHEMA, Rules
from streams.territory import head
from streams.territory.remarks import TerritoryError

_FIELD: Final = re.compile(r"\{([^{}:]+)(?::([^{}]+))?\}")
_ZERO_PADDED: Final = re.compile(r"0?\d*d")
#: Asset columns that a source's `columns` may fill; the others have keys of their own.
FILLABLE: Final = tuple(
    name for name in ASSET_SCHEMA if name not in ("asset_id", "domain", "kind", "longitude", "latitude")
)


class _Spec(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ZoneSource(_Spec):
    """One layer. `code`, `name` and `duplicate_code` are templates over the feature's properties.

    `duplicate_code` replaces the code of those features, and only those, whose code is not unique in the file.
    """

    file: str
    code: str
    name: str
    duplicate_code: str | None = None
    valid_from: date | None = None
    valid_to: date | None = None
    epsg: int | None = None
    latitude_first: bool = False


class Dates(_Spec):
    """Date columns that must be plausible: within the bounds, the end not before the start.

    A row that fails is refused, or with `keep_row` kept and called doubtful. A start and an end more than `max_days`
    apart are doubtful.
    """

    start: str
    end: str | None = None
    format: str = "%Y-%m-%d"
    not_before: date
    not_after: date
    max_days: float | None = None
    keep_row: bool = False


class Deduplicate(_Spec):
    """Rows that agree in all of `key` are one asset: keep the first, the last, or all (and call them doubtful)."""

    key: Annotated[tuple[str, ...], Field(min_length=1)]
    keep: Literal["first", "last", "all"] = "first"


class AssetSource(_Spec):
    """One file of assets: CSV (also .gz) or GeoJSON points. Templates are over the file's columns or properties."""

    file: str
    domain: str
    kind: str
    asset_id: str
    longitude: str | None = None
    latitude: str | None = None
    epsg: int | None = None
    latitude_first: bool = False
    encoding: str = "utf-8"
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] = ","
    decimal: Literal[".", ","] = "."
    null_tokens: tuple[str, ...] = ("", "N/A", "#N/A")
    report_interval_s: Annotated[float, Field(gt=0)] | None = None
    columns: Mapping[str, str] = {}
    categories: tuple[str, ...] = ()
    where: Mapping[str, tuple[str, ...]] = {}
    dates: Dates | None = None
    deduplicate: Deduplicate | None = None
    #: Several assets may stand at one place (counters of both directions); otherwise repeated positions are doubtful.
    shared_positions: bool = False

    @property
    def is_geojson(self) -> bool:
        return self.file.removesuffix(".gz").endswith((".geojson", ".json"))


class Spec(_Spec):
    """A whole build. `area` is found from the zones and assets when it is not given.

    An asset farther than `reach_deg` degrees from the box around all zones is refused. `margin_deg` is added around
    everything to make the area.
    """

    jurisdiction_id: str
    name: str
    timezone: str
    data_dir: str | None = None
    area: tuple[float, float, float, float] | None = None
    margin_deg: Annotated[float, Field(ge=0, le=5)] = 0.01
    reach_deg: Annotated[float, Field(ge=0, le=5)] = 0.05
    layers: Mapping[str, ZoneSource] = {}
    assets: tuple[AssetSource, ...] = ()
    rules: Mapping[str, Any] = {}


def read_spec(path: Path) -> tuple[Spec, Rules]:
    """The specification in a YAML file and the rules in it. Raises TerritoryError with every problem found."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise TerritoryError([f"{path}: cannot be read: {error.strerror or error}"]) from error
    raw, problems = head.read_yaml(content, path.name)
    if problems:
        raise TerritoryError(problems)
    raw_id = raw.get("jurisdiction_id")
    if isinstance(raw_id, int):
        raw = {**raw, "jurisdiction_id": ""}  # so that only the better message below speaks of it
    try:
        spec = Spec.model_validate(raw)
    except ValidationError as error:
        problems = head.validation_problems(error, path.name, "", Spec)
        wrong_id = head.check_jurisdiction(raw_id) if "jurisdiction_id" in raw else None
        raise TerritoryError(problems + ([f"{path.name}: {wrong_id}"] if wrong_id else [])) from error
    rules, problems = head.parse_rules(spec.rules, tuple(spec.layers), path.name)
    zone = head.zone_info(spec.timezone)
    faults = [
        head.check_jurisdiction(raw_id),
        head.check_name(spec.name),
        None if zone else f"timezone {spec.timezone!r} is unknown: give an IANA name such as Europe/Paris",
        head.check_area(spec.area) if spec.area is not None else None,
        *head.check_layers(list(spec.layers)),
        None if spec.layers or spec.assets else "names neither layers nor assets",
    ]
    for i, source in enumerate(spec.assets):
        faults += [f"assets.{i}.{fault}" for fault in _source_faults(source)]
    problems += [f"{path.name}: {fault}" for fault in faults if fault]
    if problems:
        raise TerritoryError(problems)
    return spec, rules


def _source_faults(source: AssetSource) -> list[str]:
    faults = [f"columns: {c!r} is unknown{head.near(c, FILLABLE)}" for c in source.columns if c not in FILLABLE]
    if source.domain not in ASSET_KINDS:
        faults.append(f"domain must be one of {', '.join(ASSET_KINDS)}")
    elif source.kind not in ASSET_KINDS[source.domain]:
        faults.append(f"kind must be one of {', '.join(ASSET_KINDS[source.domain])}")
    if not source.is_geojson and not (source.longitude and source.latitude):
        faults.append("longitude and latitude must name the columns of the position")
    if source.is_geojson and (source.longitude or source.latitude):
        faults.append("longitude and latitude are the file's geometry: leave them out")
    return faults


def slug(text: str) -> str:
    """Lower-case ASCII letters, digits and hyphens: `Près d'Arènes` becomes `pres-d-arenes`."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")


def fields(template: str) -> tuple[str, ...]:
    """The columns a template reads. A template without braces is a column's name."""
    return tuple(m[0] for m in _FIELD.findall(template)) if "{" in template else (template,)


def fill(template: str, row: Mapping[str, str | None]) -> str | None:
    """The template with the row's values; None when one of them is null or does not fit its form.

    `{column}` is the value, `{column:05d}` a whole number with leading zeros, `{column:slug}` its `slug`.
    """
    if "{" not in template:
        return row[template]
    missing = False

    def value(match: re.Match[str]) -> str:
        nonlocal missing
        text, form = row[match[1]], match[2]
        if text is None:
            missing = True
            return ""
        if form is None:
            return text
        if form == "slug":
            return slug(text)
        if _ZERO_PADDED.fullmatch(form) and re.fullmatch(r"-?\d+", text):
            return format(int(text), form)
        missing = True
        return ""

    filled = _FIELD.sub(value, template)
    return None if missing else filled
