"""Which records of a topic are replayed."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from typing import Any, Final

ANOTHER_TIME: Final = "outside the time"
ANOTHER_KEY: Final = "another key"
ANOTHER_JURISDICTION: Final = "another jurisdiction"
NO_JURISDICTION: Final = "no jurisdiction in the key"

_SIREN_CHARACTERS: Final = 9


@dataclass(frozen=True)
class Selection:
    """Records of a topic: of all partitions or these, received by the broker from `from_ms` to before `to_ms`
    (milliseconds since 1970), of all keys and jurisdictions or these. The jurisdiction is what stands before the first
    `|` of the key."""

    topic: str
    from_ms: int | None = None
    to_ms: int | None = None
    partitions: tuple[int, ...] = ()
    keys: tuple[str, ...] = ()
    jurisdictions: tuple[str, ...] = ()

    def to_json(self) -> str:
        return json.dumps({name: value for name, value in asdict(self).items() if value not in (None, ())})

    @classmethod
    def of_json(cls, text: str) -> Selection:
        known = {one.name for one in fields(cls)}
        given: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in json.loads(text).items()
            if name in known
        }
        return cls(**given)


class Judge:
    """Says of each record whether it is meant."""

    def __init__(self, selection: Selection) -> None:
        self._from_ms = selection.from_ms if selection.from_ms is not None else -(2**62)
        self._to_ms = selection.to_ms if selection.to_ms is not None else 2**62
        self._keys = frozenset(key.encode() for key in selection.keys)
        self._jurisdictions = frozenset(one.encode() for one in selection.jurisdictions)

    def leaves_out(self, key: bytes | None, at_ms: int) -> str | None:
        """Why a record is not meant; None when it is."""
        if not self._from_ms <= at_ms < self._to_ms:
            return ANOTHER_TIME
        if self._keys and key not in self._keys:
            return ANOTHER_KEY
        if self._jurisdictions:
            jurisdiction, bar, _ = (key or b"").partition(b"|")
            if not bar or len(jurisdiction) != _SIREN_CHARACTERS:
                return NO_JURISDICTION
            if jurisdiction not in self._jurisdictions:
                return ANOTHER_JURISDICTION
        return None
