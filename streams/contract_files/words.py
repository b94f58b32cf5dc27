"""What the stages have against a record, for the person who is to mend it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

import polars as pl

from processors.territory import Territory
from processors.validate import MAX_TEXT, ClockLimits
from schemas.contracts import Contract, Field
from schemas.instants import other_unit
from schemas.problems import Problem, Rule, shape, shown
from streams.contract_files import catalogue

_PLACE: Final = ("longitude", "latitude")
_METRES: Final = "these look like metres of a projection (Lambert-93?): convert them to degrees of WGS84 (EPSG:4326)"
_REGISTER: Final = "or have the asset entered in the authority's registry"


def told(
    contract: Contract, name: str, rule: Rule, detail: str, value: Any, limits: ClockLimits, *, warning: bool
) -> Problem:
    """A remark of `processors.validate` about the value of a field. Instants are milliseconds since 1970."""
    field = contract.field(name)
    found, mend = _WORDS.get(rule, _plainly)(field, value, detail, limits)
    if rule in (Rule.PAST, Rule.FUTURE) and other_unit(value):
        rule = Rule.TIME_UNIT
    if rule is Rule.RANGE and _is_percent(field, value):
        rule = Rule.PERCENT
    return Problem(name, rule, found, mend, warning)


Words = tuple[str, str]


def _plainly(field: Field, value: Any, detail: str, limits: ClockLimits) -> Words:
    return detail, field.doc


def _empty(field: Field, value: Any, detail: str, limits: ClockLimits) -> Words:
    return "an empty text", f"give it: {field.summary}"


def _length(field: Field, value: Any, detail: str, limits: ClockLimits) -> Words:
    return f"a text of {len(value)} characters", f"use {MAX_TEXT} at most"


def _pattern(field: Field, value: str, detail: str, limits: ClockLimits) -> Words:
    if field.name == "jurisdiction_id":
        digits = re.sub(r"[ \u00a0.]", "", value)
        if re.fullmatch(r"[0-9]{14}", digits):
            mend = "this may be a SIRET: its first nine digits are the SIREN"
        elif re.fullmatch(r"(?:FR[0-9]{2}|FR)?[0-9]{9}", digits, re.IGNORECASE):
            mend = "write the SIREN's nine digits and nothing else"
        else:
            mend = "write the authority's SIREN: nine digits, as text, with the zeros in front"
    elif field.name == "service_code":
        mend = "write lower-case letters, digits, _ . and - only, 64 at most, such as street_lighting"
    elif field.name == "reporter_pseudonym":
        mend = (
            "send a keyed pseudonym (HMAC-SHA-256, 64 lower-case hexadecimal digits) or null, never an identity: "
            "whatever this is must not leave your system"
        )
    else:
        mend = f"write what matches {field.pattern}"
    return shape(value), mend


def _jurisdiction(field: Field, value: str, detail: str, limits: ClockLimits) -> Words:
    return "a SIREN that is none of the territories of this installation", "write that of the authority you publish for"


def _clock(field: Field, value: int, detail: str, limits: ClockLimits) -> Words:
    other = other_unit(value)
    if other:
        return f"a number that would be an instant of this century if it counted {other[0]}", other[1]
    if value == 0:
        return "1970-01-01, a clock that was never set", "send nothing until the device knows the time"
    when = detail.removeprefix(f"{field.name} is ")
    if "ahead" in when:
        seconds = limits.max_future_ms / 1_000
        return (
            f"an instant {when}",
            f"set the clock by NTP; {seconds:g} s ahead are allowed; is it local time with a Z?",
        )
    if "far" in when:
        return f"an instant {when}", f"send events within {limits.max_age_ms / 86_400_000:g} days"
    return f"an instant {when}", "set the device's clock before it sends"


def _range(field: Field, value: float, detail: str, limits: ClockLimits) -> Words:
    bounds = f"{field.minimum:,} to {field.maximum:,} {catalogue.unit(field)}".rstrip()
    if _is_percent(field, value):
        return f"{shown(value)}, and a ratio from {bounds} is expected", "is it a percentage? Divide it by 100"
    return f"{shown(value)}, outside {bounds}", _STORED


def _not_finite(field: Field, value: float, detail: str, limits: ClockLimits) -> Words:
    return "NaN or an infinite value", f"leave the field out where there is no number; {_STORED}"


_STORED: Final = "it is stored flagged FAIL, counts in no sum and raises no alert: send null for what was not measured"

_WORDS: Final[Mapping[Rule, Callable[[Field, Any, str, ClockLimits], Words]]] = {
    Rule.EMPTY: _empty,
    Rule.LENGTH: _length,
    Rule.PATTERN: _pattern,
    Rule.JURISDICTION: _jurisdiction,
    Rule.PAST: _clock,
    Rule.FUTURE: _clock,
    Rule.RANGE: _range,
    Rule.NOT_A_NUMBER: _not_finite,
}


def _is_percent(field: Field, value: float) -> bool:
    return field.unit == "1" and field.maximum == 1 and field.dtype == pl.Float64() and 1 < value <= 100


# --- places


def position(value: Mapping[str, Any]) -> tuple[float, float] | None:
    """Longitude and latitude where both are there and finite, as `locate` takes them; (0, 0) is none."""
    longitude, latitude = (value[name] for name in _PLACE)
    if longitude is None or latitude is None or not (math.isfinite(longitude) and math.isfinite(latitude)):
        return None
    return None if longitude == 0 and latitude == 0 else (longitude, latitude)


def no_position(value: Mapping[str, Any]) -> Problem | None:
    """Coordinates that are given and make no position."""
    given = [name for name in _PLACE if value[name] is not None]
    if not given or position(value) is not None:
        return None
    if len(given) == 1:
        (other,) = (name for name in _PLACE if name not in given)
        return Problem(other, Rule.NO_POSITION, f"null, beside a {given[0]}", "give both or neither", warning=True)
    infinite = [name for name in _PLACE if not math.isfinite(value[name])]
    if infinite:
        found = "NaN or an infinite value"
        return Problem(infinite[0], Rule.NO_POSITION, found, "leave both out where there is no position", warning=True)
    found, mend = "0, 0: a receiver without a fix", "leave both out where there is no position"
    return Problem("longitude", Rule.NO_POSITION, found, mend, warning=True)


def in_metres(value: Mapping[str, Any], *, warning: bool = False) -> Problem | None:
    """Numbers that are no degrees wherever the territory is, also in each other's place."""
    found = position(value)
    if found is None:
        return None
    far, near = max(map(abs, found)), min(map(abs, found))
    if far <= 180 and near <= 90:
        return None
    name = "longitude" if abs(found[0]) > 180 else "latitude"
    return Problem(name, Rule.METRES, f"{shape(value[name])} that is no degree of {name}", _METRES, warning)


def swapped() -> Problem:
    found = "latitude and longitude in each other's place"
    return Problem("longitude", Rule.SWAPPED, found, "put the longitude into longitude; they are changed back", True)


def out_of_area(place: Territory, *, warning: bool = False) -> Problem:
    west, south, east, north = place.area
    found = f"a position outside {place.name}"
    mend = f"longitudes are from {west:g} to {east:g} there, latitudes from {south:g} to {north:g}"
    if warning:
        return Problem("longitude", Rule.OUT_OF_AREA, found, f"{mend}; the registry's position is taken", True)
    return Problem("longitude", Rule.OUT_OF_AREA, found, f"{mend}; mend them, {_REGISTER}")


def nowhere() -> Problem:
    found = "an asset that the registry does not know, without a position"
    mend = f"it is stored and counted in no zone: give longitude and latitude, {_REGISTER}"
    return Problem("asset_id", Rule.NO_POSITION, found, mend, True)


def wrong_key(expected_empty_asset: bool) -> Problem:
    asset = ' ("" here: the key ends with |)' if expected_empty_asset else ""
    mend = f"publish under <jurisdiction_id>|<asset_id>{asset}; `vigie contract publish` makes the key itself"
    return Problem("key", Rule.KEY, "another key than the record's own fields make", mend, True)


def repeated(line: int, unit: str) -> Problem:
    found = f"the same source and event_id as {unit} {line}"
    return Problem("event_id", Rule.DUPLICATE, found, "give each event an identifier of its own, or send it once")


def refused(reason: str, detail: str) -> Problem:
    return Problem(None, Rule.REFUSED, f"refused as {reason}: {detail}", "see the contract's page")
