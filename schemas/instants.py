"""Instants as people and programs write them, to milliseconds since 1970, UTC."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final

from schemas.problems import Rule

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND: Final = timedelta(milliseconds=1)
_DATE: Final = r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
_TIME: Final = r"(?:[01][0-9]|2[0-3]):[0-9]{2}:[0-9]{2}(?:\.[0-9]+)?"
_ZONE: Final = r"(?:[Zz]|[+-](?:[01][0-9]|2[0-3]):[0-9]{2})"
_RFC_3339: Final = re.compile(rf"{_DATE}[Tt ]{_TIME}{_ZONE}")
_LOCAL: Final = re.compile(rf"{_DATE}[Tt ](?:[01][0-9]|2[0-3]):[0-9]{{2}}(?::[0-9]{{2}}(?:\.[0-9]+)?)?")
_SCIENTIFIC: Final = re.compile(r"[0-9](?:[.,][0-9]+)?[eE]\+?[0-9]+")
_WHOLE: Final = re.compile(r"[+-]?[0-9]{1,20}")

#: 2000 and 2100, in seconds: between them lies whatever a connected thing can have meant.
_FROM_S: Final = 946_684_800
_TO_S: Final = 4_102_444_800
#: What a number that lies between those years would count, beside milliseconds.
_UNITS: Final = (("seconds", 1, "multiply it by 1 000"), ("microseconds", 10**6, "divide it by 1 000"),
                 ("nanoseconds", 10**9, "divide it by 1 000 000"))  # fmt: skip

EXAMPLE: Final = "2026-09-14T08:30:00Z"
EXPECTED: Final = f"write RFC 3339 with a zone, such as {EXAMPLE}, or milliseconds since 1970, such as 1789374600000"


class InstantError(ValueError):
    """A text that is no instant: which rule it breaks, what it is instead, and what to do."""

    def __init__(self, rule: Rule, found: str, mend: str) -> None:
        super().__init__(found)
        self.rule, self.found, self.mend = rule, found, mend


def milliseconds(text: str) -> int:
    """Milliseconds since 1970 of an instant in RFC 3339 with a zone, or of a whole number that counts them.

    Parts of a millisecond are cut off. Raises InstantError.
    """
    if _WHOLE.fullmatch(text):
        return int(text)
    if _RFC_3339.fullmatch(text):
        try:
            return (datetime.fromisoformat(text.upper().replace(" ", "T")) - _EPOCH) // _MILLISECOND
        except (ValueError, OverflowError):
            raise InstantError(Rule.INSTANT, "a day or a time that does not exist", EXPECTED) from None
    if _LOCAL.fullmatch(text):
        raise InstantError(
            Rule.TIME_ZONE,
            "a time without a zone",
            "add Z if it is UTC, else the offset that held then, such as +02:00 for Paris in summer",
        )
    if _SCIENTIFIC.fullmatch(text):
        mend = "a spreadsheet does this: format the column as text before you save"
        raise InstantError(Rule.INSTANT, "a number in scientific notation, with its last digits lost", mend)
    raise InstantError(Rule.INSTANT, "a text that is not an instant", EXPECTED)


def other_unit(number: float) -> tuple[str, str] | None:
    """The unit, other than milliseconds, in which a number would be an instant of this century, and how to turn it into
    milliseconds. None where it would be one in milliseconds, or in no unit."""
    for unit, per_second, mend in _UNITS:
        if _FROM_S * per_second <= number < _TO_S * per_second:
            return unit, mend
    return None
