"""`territory.yaml`: who the territory is, its area, layers and rules. Also the strict YAML that specs are read with."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import yaml
from pydantic import BaseModel, ValidationError

from processors.territory import Rules
from streams.territory import geometry

_SIREN: Final = re.compile(r"[0-9]{9}")
#: Layer names become file names, column values and metric labels.
_LAYER: Final = re.compile(r"[a-z][a-z0-9_]{0,39}")
#: `receivers` belongs to the alerts and is read there.
_KEYS: Final = ("jurisdiction_id", "name", "timezone", "area", "layers", "rules", "receivers")

_WORLD: Final[geometry.Box] = (-180.0, -90.0, 180.0, 90.0)


@dataclass(frozen=True)
class Head:
    """What `territory.yaml` says."""

    jurisdiction_id: str
    name: str
    timezone: ZoneInfo
    area: geometry.Box
    layers: tuple[str, ...]
    rules: Rules


class _Loader(yaml.SafeLoader):
    """YAML in which a key given twice is an error instead of the last one winning."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key.value!r} is given twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_yaml(content: bytes, file: str) -> tuple[dict[str, Any], list[str]]:
    """The mapping in a YAML file and the problems found; an empty mapping when there is none."""
    try:
        raw = yaml.load(content.decode("utf-8-sig"), _Loader)
    except UnicodeDecodeError:
        return {}, [f"{file}: is not UTF-8 text"]
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        return {}, [f"{file}{line}: not YAML: {error.problem}"]
    except yaml.YAMLError as error:
        return {}, [f"{file}: not YAML: {error}"]
    if not isinstance(raw, dict):
        return {}, [f"{file}: must be a mapping of keys to values"]
    return {str(key): value for key, value in raw.items()}, []


def near(key: str, known: Iterable[str]) -> str:
    """`; did you mean x?`, or the keys there are when none is close."""
    names = list(known)
    close = difflib.get_close_matches(key, names, n=1)
    return f"; did you mean {close[0]}?" if close else f"; there are {', '.join(names)}"


def validation_problems(error: ValidationError, file: str, prefix: str, model: type[BaseModel]) -> list[str]:
    """One line per key that pydantic refuses, with the key's path."""
    problems = []
    for fault in error.errors():
        path = ".".join(str(part) for part in (prefix, *fault["loc"]) if part != "")
        if fault["type"] == "extra_forbidden":
            known: Iterable[str] = model.model_fields if len(fault["loc"]) == 1 else ()
            hint = near(str(fault["loc"][-1]), known) if known else ""
            problems.append(f"{file}: {path} is not a key of this file{hint}")
        elif fault["type"] == "missing":
            problems.append(f"{file}: {path} is missing")
        else:
            problems.append(f"{file}: {path}: {fault['msg'][:1].lower()}{fault['msg'][1:]}")
    return problems


def check_jurisdiction(value: Any) -> str | None:
    """What is wrong with a jurisdiction identifier, or None."""
    if isinstance(value, int):
        return "jurisdiction_id must be text: put the nine digits of the SIREN in quotes"
    if not isinstance(value, str) or not _SIREN.fullmatch(value):
        return "jurisdiction_id must be a SIREN: nine digits, in quotes"
    return None


def check_name(value: Any) -> str | None:
    """What is wrong with a territory's name, or None."""
    return None if isinstance(value, str) and value.strip() else "name must be text"


def zone_info(value: Any) -> ZoneInfo | None:
    """The time zone of that IANA name, or None when there is none."""
    if not isinstance(value, str) or not value:
        return None
    try:
        return ZoneInfo(value)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return None


def check_area(value: Any) -> str | None:
    """What is wrong with an area [west, south, east, north] in degrees, or None."""
    if not isinstance(value, list | tuple) or len(value) != 4:
        return "area must be [west, south, east, north] in degrees"
    if not all(isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) for v in value):
        return "area must hold four numbers: [west, south, east, north] in degrees"
    box = (float(value[0]), float(value[1]), float(value[2]), float(value[3]))
    if not geometry.in_degrees(box):
        return f"area: {geometry.METRES}"
    if box[0] >= box[2] or box[1] >= box[3]:
        return "area must be [west, south, east, north]: west below east, south below north"
    if geometry.swapped(box):
        return f"area: {geometry.SWAPPED}"
    return None


def check_layers(value: Any) -> list[str]:
    """What is wrong with a list of layer names."""
    if not isinstance(value, list | tuple) or not all(isinstance(v, str) for v in value):
        return ["layers must be a list of layer names"]
    problems = [
        f"layers: {v!r} must be lower-case letters, digits and _, at most 40" for v in value if not _LAYER.fullmatch(v)
    ]
    return problems + [f"layers: {v!r} is named twice" for v in sorted({v for v in value if value.count(v) > 1})]


def parse_rules(raw: Any, layers: Iterable[str], file: str) -> tuple[Rules, list[str]]:
    """The rules and the problems found in them, with the path of each key; the defaults when there are problems."""
    if raw is None:
        raw = {}
    if not isinstance(raw, Mapping):
        return Rules(), [f"{file}: rules must be a mapping of rule names to their settings"]
    try:
        rules = Rules.model_validate(raw)
    except ValidationError as error:
        return Rules(), validation_problems(error, file, "rules", Rules)
    problems = [f"{file}: rules.{path} {reason}" for path, reason in _rule_faults(rules)]
    hot_spot = rules.report_hot_spot
    if hot_spot is not None and hot_spot.layer is not None and hot_spot.layer not in layers:
        known = ", ".join(layers) or "no layers"
        problems.append(f"{file}: rules.report_hot_spot.layer names {hot_spot.layer!r}; the territory has {known}")
    return rules, problems


def _rule_faults(rules: Rules) -> Iterable[tuple[str, str]]:
    """What the types of the rules cannot say: numbers that are finite, durations above zero, thresholds in order."""
    for name, rule in rules:
        for key, value in rule if isinstance(rule, BaseModel) else [("", rule)]:
            path = f"{name}.{key}" if key else name
            if isinstance(value, float) and not math.isfinite(value):
                yield path, "must be a finite number"
            elif key in ("window_s", "history_s", "dead_after_s") and value <= 0:
                yield path, "must be above 0 seconds"
            elif key.endswith("_s") and value < 0:
                yield path, "must not be negative"
    if rules.bin_full and rules.bin_full.clear_at > rules.bin_full.raise_at:
        yield "bin_full.clear_at", "must not be above raise_at"
    if rules.bin_fire and rules.bin_fire.clear_at_c > rules.bin_fire.raise_at_c:
        yield "bin_fire.clear_at_c", "must not be above raise_at_c"
    spot = rules.report_hot_spot
    if spot and not 0 < spot.p_value < 1:
        yield "report_hot_spot.p_value", "must lie between 0 and 1"
    if spot and spot.min_count < 1:
        yield "report_hot_spot.min_count", "must be at least 1"
    if spot and spot.history_s < spot.min_history_s:
        yield "report_hot_spot.min_history_s", "must not be above history_s"


def read_head(content: bytes, file: str) -> tuple[Head, list[str]]:
    """What `territory.yaml` says and the problems found in it.

    Where a value is unusable the widest one stands in, so that the other files can still be checked against the rest.
    """
    raw, unreadable = read_yaml(content, file)
    zone = zone_info(raw.get("timezone"))
    area = raw.get("area")
    bad_area = check_area(area)
    box = _WORLD if bad_area or area is None else (float(area[0]), float(area[1]), float(area[2]), float(area[3]))
    named = raw.get("layers")
    layers = tuple(dict.fromkeys(v for v in named if isinstance(v, str))) if isinstance(named, list) else ()
    rules, rule_problems = parse_rules(raw.get("rules"), layers, file)
    found = Head(
        jurisdiction_id=str(raw.get("jurisdiction_id")),
        name=str(raw.get("name")).strip(),
        timezone=zone or ZoneInfo("UTC"),
        area=box,
        layers=tuple(layer for layer in layers if _LAYER.fullmatch(layer)),
        rules=rules,
    )
    if unreadable:
        return found, unreadable
    faults = [
        check_jurisdiction(raw.get("jurisdiction_id")),
        check_name(raw.get("name")),
        None if zone else f"timezone {raw.get('timezone')!r} is unknown: give an IANA name such as Europe/Paris",
        bad_area,
        *check_layers(named),
        None if named else "layers is empty: name at least one, because windows are kept per zone of a layer",
        None if isinstance(raw.get("receivers", {}), Mapping | list) else "receivers must be a mapping or a list",
    ]
    problems = [f"{file}: {key} is not a key of this file{near(key, _KEYS)}" for key in raw if key not in _KEYS]
    return found, problems + [f"{file}: {fault}" for fault in faults if fault] + rule_problems


def render_head(
    jurisdiction_id: str, name: str, timezone: str, area: geometry.Box, layers: tuple[str, ...], rules: Rules
) -> bytes:
    """`territory.yaml`, with every rule written out so that its reader sees what may be set."""
    body = {
        "jurisdiction_id": jurisdiction_id,
        "name": name,
        "timezone": timezone,
        "area": list(area),
        "layers": list(layers),
        "rules": rules.model_dump(mode="json"),
    }
    return yaml.safe_dump(body, allow_unicode=True, sort_keys=False, default_flow_style=None, width=110).encode()
