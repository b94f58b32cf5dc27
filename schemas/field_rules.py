"""A record as an integrator has it, field by field against its contract: what stands in the way of encoding it.

What can be encoded is judged by the stages, so nothing is said here of ranges, patterns, clocks and places. So that
they can judge all of a record at once, a field that cannot be encoded gets a value that stands in for it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import polars as pl

from schemas.contracts import Contract, Field
from schemas.field_names import KEY, is_about_a_person, nearest
from schemas.instants import EXPECTED, InstantError, milliseconds, other_unit
from schemas.problems import Problem, Rule, named, shape, shown

INSTANT: Final = pl.Datetime("ms", "UTC")
_LONG: Final = 2**63
#: Whole numbers up to here are the same as floating-point numbers.
_EXACT: Final = 2**53

_DECIMAL_COMMA: Final = re.compile(r"\s*[+-]?[0-9]+,[0-9]+\s*")

#: A value of the contract, or what is wrong with the one given.
Taken = Any | Problem


@dataclass(frozen=True, slots=True)
class Checked:
    """`value` can be encoded under the contract. `stand_ins`: the fields in which it is not what was given.
    `key`: the key that the record says it is published under, if it says so."""

    value: dict[str, Any]
    stand_ins: frozenset[str]
    problems: tuple[Problem, ...]
    key: str | None = None


def check(contract: Contract, raw: Mapping[str, Any], now_ms: int, silent: Collection[str] = frozenset()) -> Checked:
    """Check one record: JSON's types, an instant also as RFC 3339; a Problem in place of a value that its reader could
    not take.

    `now_ms`, milliseconds since 1970, stands in for instants. `silent`: fields of whose absence nothing need be said.
    """
    plan = _plan(contract)
    value = dict(plan.defaults)
    problems: list[Problem] = []
    stand_ins: list[str] = []
    key = None
    for name, given in raw.items():
        take = plan.takers.get(name)
        if take is None:
            if name == KEY and isinstance(given, str):
                key = given
            else:
                problems.append(unknown(contract, name))
            continue
        if given is None:
            if name not in plan.nullable:
                problems.append(_null(contract.field(name)))
                stand_ins.append(name)
            continue
        taken = given if isinstance(given, Problem) else take(given)
        if not isinstance(taken, Problem):
            value[name] = taken
            if isinstance(taken, str) and (taken[:1].isspace() or taken[-1:].isspace()):
                problems += _spaces(contract.field(name))
            continue
        problems.append(taken)
        # What only a warning is said of is read as if it had been left out.
        stand_ins += [] if taken.warning else [name]
    for name in plan.required:
        if name not in value:
            if name not in raw and name not in silent:
                problems.append(_missing(contract.field(name)))
            stand_ins.append(name)
            value[name] = stand_in(contract.field(name), now_ms)
    return Checked(value, frozenset(stand_ins), tuple(problems), key)


def unknown(contract: Contract, name: str) -> Problem:
    """A field that the contract does not have."""
    if is_about_a_person(name):
        return Problem(
            named(name),
            Rule.PERSON,
            f"{contract.name} has no such field, and by its name it can hold a person's data",
            "leave it out before the record leaves your system: names, telephone numbers, e-mail addresses, free text "
            "and identifiers of people's devices are not accepted",
        )
    near = nearest(name, (f.name for f in contract.fields))
    hint = f"did you mean {near}? Otherwise leave it out" if near else "leave it out"
    return Problem(named(name), Rule.UNKNOWN_FIELD, f"{contract.name} has no such field", hint)


def stand_in(field: Field, now_ms: int) -> Any:
    """A value that can be encoded, for a field that has none."""
    if field.nullable:
        return None
    if field.symbols:
        return field.symbols[0]
    return now_ms if field.dtype == INSTANT else "-"


@dataclass(frozen=True)
class _Plan:
    """How the values of each field are taken, what those are that may be left out, and which may not be."""

    takers: Mapping[str, Callable[[Any], Taken]]
    defaults: Mapping[str, Any]
    nullable: frozenset[str]
    required: tuple[str, ...]


@cache
def _plan(contract: Contract) -> _Plan:
    return _Plan(
        takers={f.name: _taker(f) for f in contract.fields},
        defaults={f.name: f.symbols[0] if f.symbols else None for f in contract.fields if f.nullable or f.symbols},
        nullable=frozenset(f.name for f in contract.fields if f.nullable),
        required=tuple(f.name for f in contract.fields if not f.nullable and not f.symbols),
    )


def _taker(field: Field) -> Callable[[Any], Taken]:
    if field.symbols:
        return lambda value: _symbol(field, value)
    if field.dtype == INSTANT:
        return lambda value: _instant(field, value)
    if field.dtype == pl.Float64():
        return lambda value: _number(field, value)
    if field.dtype == pl.Int64():
        return lambda value: _whole(field, value)
    if field.dtype == pl.Boolean():
        return lambda value: _boolean(field, value)
    return lambda value: _text(field, value)


def _missing(field: Field) -> Problem:
    return Problem(field.name, Rule.MISSING, "not there, and it is required", _give(field))


def _null(field: Field) -> Problem:
    if field.symbols:
        return Problem(field.name, Rule.MISSING, "null", f"leave the field out, or write {field.symbols[0]}")
    return Problem(field.name, Rule.MISSING, "null, and a value is required", _give(field))


def _give(field: Field) -> str:
    if field.dtype == INSTANT:
        return EXPECTED
    if field.name == "jurisdiction_id":
        return "write the authority's SIREN, nine digits, as text"
    return f"give it: {field.summary}"


def _wrong(field: Field, found: str, mend: str) -> Problem:
    return Problem(field.name, Rule.TYPE, found, mend)


def _spaces(field: Field) -> tuple[Problem, ...]:
    if field.pattern:
        # No pattern allows for them, and that is told.
        return ()
    found = "a text that begins or ends with a space"
    return (Problem(field.name, Rule.SPACE, found, "take the space away: with it, it is another text", warning=True),)


def _text(field: Field, value: Any) -> Taken:
    if not isinstance(value, str):
        return _wrong(field, shape(value), "write it as text" + _branch_hint(value))
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            return _wrong(field, "a text with half a character in it", "write whole Unicode characters")
    return value


def _symbol(field: Field, value: Any) -> Taken:
    if isinstance(value, str) and value in field.symbols:
        return value
    if not isinstance(value, str):
        return _wrong(field, shape(value), f"write one of {', '.join(field.symbols)}{_branch_hint(value)}")
    return foreign_symbol(field, value)


def foreign_symbol(field: Field, value: str, warning: bool = False) -> Problem:
    """A text that is none of the field's symbols."""
    near = nearest(value, field.symbols) if value else None
    hint = f"did you mean {near}? There are" if near else "write one of"
    return Problem(
        field.name,
        Rule.SYMBOL,
        f"{shape(value)} that is none of its symbols",
        f"{hint} {', '.join(field.symbols)}",
        warning,
    )


def _number(field: Field, value: Any) -> Taken:
    if isinstance(value, float):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            return _wrong(field, "an enormous number", "write one that a 64-bit floating-point number can hold")
    return _no_number(field, value, "number")


def _whole(field: Field, value: Any) -> Taken:
    if isinstance(value, float) and value.is_integer() and abs(value) <= _EXACT:
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        if -_LONG <= value < _LONG:
            return value
        return _wrong(field, "an enormous number", "write a whole number that 64 bits can hold")
    if isinstance(value, float) and not math.isfinite(value):
        return _wrong(field, shown(value), "write null, or leave the field out, where there is no number")
    return _no_number(field, value, "whole number")


def _no_number(field: Field, value: Any, what: str) -> Problem:
    if isinstance(value, str):
        if is_decimal_comma(value):
            return decimal_comma(field, value, ", without quotes")
        hint = " without a percent sign" if value.strip().endswith("%") else ", without quotes"
        return _wrong(field, told(field, value), f"write a {what}{hint}, or null where there is none")
    return _wrong(field, told(field, value), f"write a {what}{_branch_hint(value)}")


def is_decimal_comma(text: str) -> bool:
    return _DECIMAL_COMMA.fullmatch(text) is not None


def decimal_comma(field: Field, text: str, how: str = "") -> Problem:
    """A number with a comma where the point belongs. It is never read as one: elsewhere the comma parts thousands."""
    return Problem(field.name, Rule.DECIMAL_COMMA, told(field, text), f"write it with a decimal point{how}")


def _boolean(field: Field, value: Any) -> Taken:
    if isinstance(value, bool):
        return value
    return _wrong(field, told(field, value), "write true or false, without quotes" + _branch_hint(value))


def _instant(field: Field, value: Any) -> Taken:
    if isinstance(value, str):
        try:
            value = milliseconds(value)
        except InstantError as error:
            return Problem(field.name, error.rule, error.found, error.mend)
    if isinstance(value, float):
        if value.is_integer() and abs(value) <= _EXACT:
            value = int(value)
        elif math.isfinite(value) and (other := other_unit(value)):
            return Problem(field.name, Rule.TIME_UNIT, f"a number with a fraction that counts {other[0]}", other[1])
    if isinstance(value, int) and not isinstance(value, bool):
        if -_LONG <= value < _LONG:
            return value
        return Problem(field.name, Rule.INSTANT, "an enormous number", EXPECTED)
    return _wrong(field, shape(value), EXPECTED + _branch_hint(value))


def told(field: Field, value: Any) -> str:
    """What was found in a field of a number: positions are where somebody was, and not shown."""
    return shape(value) if field.unit == "degree" and field.name in ("longitude", "latitude") else shown(value)


def _branch_hint(value: Any) -> str:
    """Avro's own JSON form names the type around the value; here the value stands alone."""
    if isinstance(value, dict) and len(value) == 1:
        return ', alone: not {"type": value} around it'
    return ""
