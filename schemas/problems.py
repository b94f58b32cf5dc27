"""What can be wrong with a record that somebody is about to send, told without repeating anybody's data.

A value is shown only where it cannot be a person's: short numbers in fields that measure something. Texts, positions
and long numbers (a telephone number in a wrong column is one) are told by their type and shape.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final


class Rule(StrEnum):
    """The closed list of what is looked at. The name stands in every message and in what scripts read."""

    # The file and its lines.
    EMPTY_FILE = "empty_file"
    ENCODING = "encoding"
    BYTE_ORDER_MARK = "byte_order_mark"
    BLANK_LINE = "blank_line"
    JSON = "json"
    CSV = "csv"
    SEPARATOR = "separator"
    HEADER = "header"
    AVRO = "avro"
    HEX = "hex"
    UNKNOWN_SCHEMA = "unknown_schema"
    TOO_LARGE = "too_large"
    # What a record holds.
    UNKNOWN_FIELD = "unknown_field"
    PERSON = "person"
    REPEATED_FIELD = "repeated_field"
    MISSING = "missing"
    TYPE = "type"
    DECIMAL_COMMA = "decimal_comma"
    SYMBOL = "symbol"
    KEY = "key"
    DUPLICATE = "duplicate"
    # Texts.
    EMPTY = "empty"
    LENGTH = "length"
    PATTERN = "pattern"
    SPACE = "space"
    JURISDICTION = "jurisdiction"
    # Instants.
    INSTANT = "instant"
    TIME_ZONE = "time_zone"
    TIME_UNIT = "time_unit"
    PAST = "past"
    FUTURE = "future"
    # Numbers and places.
    NOT_A_NUMBER = "not_a_number"
    RANGE = "range"
    PERCENT = "percent"
    METRES = "metres"
    SWAPPED = "swapped"
    OUT_OF_AREA = "out_of_area"
    NO_POSITION = "no_position"
    #: Refused by a stage for a reason that none of these tells.
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with one record. `field` is None where it is the whole record or line.

    `found` is what is there, `mend` what to do about it: both for a person, and without the person's data that may be
    in it. A `warning` is stored by a worker all the same, as found or with a flag; anything else is refused.
    """

    field: str | None
    rule: Rule
    found: str
    mend: str
    warning: bool = False


#: Shown as they stand: no telephone number, no identifier of a person and no position is so short.
_SHORT: Final = 7
#: A number as people write it, with either decimal sign and a unit or a percent sign behind it.
_NUMBER_LIKE: Final = re.compile(r"[+-]?[0-9][0-9 .,\u00a0\u202f]*(?:[eE][+-]?[0-9]+)? ?%?")
#: A name of a field as programs make them. What is not one may be a line of data taken for a header.
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}")
_ENORMOUS: Final = 10**300
_NOT_FINITE: Final = "a value that is not finite"
_CLASSES: Final = (
    ("letters", str.isalpha),
    ("digits", str.isdigit),
    ("spaces", str.isspace),
)


def shown(value: Any) -> str:
    """A value of a field that measures something: itself when it is a short number, else its type and shape."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return _number(value)
    if isinstance(value, str) and len(value) <= _SHORT and _NUMBER_LIKE.fullmatch(value):
        return f"the text {value}"
    return shape(value)


def _number(value: int | float) -> str:
    # An integer can be too large for a floating-point number, and takes as long to become text as it is long.
    if abs(value) >= _ENORMOUS:
        return "an enormous number" if isinstance(value, int) or math.isfinite(value) else _NOT_FINITE
    if not math.isfinite(value):
        return _NOT_FINITE
    text = f"{value:.7g}"
    if len(text.lstrip("-")) <= _SHORT and float(text) == value:
        return text
    digits = len(str(int(abs(value))))
    counted = f"{digits} digit{'s' if digits > 1 else ''}"
    return f"a whole number of {counted}" if isinstance(value, int) else f"a number of {counted} before the point"


def shape(value: Any) -> str:
    """The type of a value and how it is made, never the value."""
    if value is None:
        return "null"
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list | tuple):
        return "a list"
    return "bytes" if isinstance(value, bytes) else "something else"


def _text(value: str) -> str:
    if not value:
        return "an empty text"
    head = value[:200]
    found = [name for name, test in _CLASSES if any(test(c) for c in head)]
    if any(not (c.isalpha() or c.isdigit() or c.isspace()) for c in head):
        found.append("signs")
    made = found[0] if len(found) == 1 else f"{', '.join(found[:-1])} and {found[-1]}"
    return f"a text of {len(value)} character{'s' if len(value) > 1 else ''} ({made})"


def named(name: str) -> str:
    """The name of a field that somebody else gave, or its shape where it does not look like a name."""
    return name if _NAME.fullmatch(name) else f"({shape(name)})"
