"""The contracts as an integrator meets them: topic, key, and each field in plain words, from the Avro files."""

from __future__ import annotations

from importlib import resources
from typing import Any, Final

import polars as pl

from schemas.contracts import ALERT_TOPIC, DOMAINS, RAW_TOPICS, Contract, Field, contract, contract_of
from schemas.field_rules import INSTANT
from schemas.framing import single_object_prefix

RAW_KEY: Final = "<jurisdiction_id>|<asset_id>"
_ALERT_KEY: Final = "<fingerprint>"
_TYPES: Final = (
    (INSTANT, "instant"),
    (pl.Float64(), "number"),
    (pl.Int64(), "whole number"),
    (pl.Boolean(), "true or false"),
    (pl.String(), "text"),
)
#: Units as people write them, where the contract's own is for programs.
_UNITS: Final = {"1": "", "degree": "°", "degC": "°C", "ug/m3": "µg/m³", "ms": ""}


def every() -> tuple[Contract, ...]:
    """The contracts of the raw topics, then that of the alerts."""
    return (*(contract_of(domain) for domain in DOMAINS), contract("Alert"))


def named(name: str) -> Contract | None:
    """The contract of that name or domain, in any case."""
    by_name = {each.name.lower(): each for each in every()}
    by_name |= {domain: contract_of(domain) for domain in DOMAINS}
    return by_name.get(name.lower())


def topic(found: Contract) -> str:
    return next((RAW_TOPICS[domain] for domain in DOMAINS if contract_of(domain) is found), ALERT_TOPIC)


def is_sent(found: Contract) -> bool:
    """Whether integrators send it; the others are what they receive."""
    return topic(found) != ALERT_TOPIC


def key(found: Contract) -> str:
    return RAW_KEY if is_sent(found) else _ALERT_KEY


def avsc(found: Contract) -> str:
    """The Avro schema, as it ships."""
    return resources.files("schemas").joinpath("avro", f"{found.name}.avsc").read_text("utf-8")


def listed() -> list[dict[str, Any]]:
    """One object for each contract."""
    return [
        {
            "name": found.name,
            "topic": topic(found),
            "direction": "in" if is_sent(found) else "out",
            "fields": len(found.fields),
            "doc": found.doc,
        }
        for found in every()
    ]


def described(found: Contract) -> dict[str, Any]:
    """Everything about a contract, for programs."""
    return {
        "name": found.name,
        "topic": topic(found),
        "direction": "in" if is_sent(found) else "out",
        "doc": found.doc,
        "key": key(found),
        "single_object_prefix": single_object_prefix(found.schema).hex(),
        "fields": [_described(f) for f in found.fields],
    }


def _described(field: Field) -> dict[str, Any]:
    return {
        "name": field.name,
        "type": kind(field),
        "unit": field.unit,
        "required": is_required(field),
        "default": default(field),
        "minimum": field.minimum,
        "maximum": field.maximum,
        "resolution": field.resolution,
        "pattern": field.pattern,
        "symbols": list(field.symbols) or None,
        "doc": field.doc,
    }


def kind(field: Field) -> str:
    """The type in a word."""
    return "one of" if field.symbols else next(word for dtype, word in _TYPES if field.dtype == dtype)


def unit(field: Field) -> str:
    """The unit as people write it; "" where there is none."""
    return _UNITS.get(field.unit or "", field.unit or "")


def is_required(field: Field) -> bool:
    return not field.nullable and not field.symbols


def default(field: Field) -> str | None:
    """What a field is that is left out. None is null, also for those that must not be."""
    return field.symbols[0] if field.symbols else None


def must(field: Field) -> str:
    return "yes" if is_required(field) else f"no: {default(field) or 'null'}"


def plausible(field: Field) -> str:
    """What values are expected, in words; "" where anything is."""
    if field.symbols:
        return ", ".join(field.symbols)
    if field.minimum is not None and field.maximum is not None:
        return f"{field.minimum:g} … {_plain(field.maximum)}"
    if field.pattern:
        return field.pattern
    if field.dtype == INSTANT:
        return "ms since 1970, UTC"
    return ""


def _plain(number: float) -> str:
    return f"{number:,.0f}" if number >= 10_000 else f"{number:g}"


def step(field: Field) -> str:
    return "" if field.resolution is None else f"{field.resolution:g}"


def in_a_line(field: Field) -> str:
    """Type, whether it must be there, what is plausible and to which step it is summed."""
    what = f"{kind(field)} {plausible(field)}" if field.symbols else kind(field)
    parts = [what, "required" if is_required(field) else f"{default(field) or 'null'} where left out"]
    if field.pattern:
        parts.append(f"like {field.pattern}")
    elif not field.symbols and (expected := plausible(field)):
        parts.append(f"{expected} {unit(field)}".rstrip())
    if field.resolution is not None:
        parts.append(f"step {step(field)}")
    return "; ".join(parts)
