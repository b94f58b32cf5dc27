"""Records made before a load begins, of which only identity and event time are written when they are sent."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from schemas.contracts import HEAD, Contract
from streams.simulation.avro import varint
from streams.simulation.records import Record

#: Digits of an identity: as many as the simulated city's have, so that records keep their length.
DIGITS: Final = 16
_PREFIX: Final = 10
#: What stands between identity and event time in every contract.
_BETWEEN: Final = HEAD[1:4]


@dataclass(frozen=True)
class Stamped:
    """A record in three pieces: what stands before and after its event time, its identity cut off."""

    topic: str
    key: bytes
    head: bytes
    middle: bytes
    tail: bytes

    def value(self, number: int, stamp: bytes) -> bytes:
        """The whole value under an identity of its own. `stamp` is `varint` of milliseconds since 1970."""
        return b"".join((self.head, b"%016x" % number, self.middle, stamp, self.tail))


def stamped(record: Record, contract: Contract) -> Stamped:
    """Take a record in single-object encoding apart. Raises ValueError for one of another contract or without value."""
    value = record.value
    if value is None or value[2:_PREFIX] != contract.fingerprint.to_bytes(8, "little"):
        raise ValueError(f"not a value of {contract.name} in single-object encoding")
    if tuple(field.name for field in contract.fields[:5]) != ("event_id", *_BETWEEN, "observed_at"):
        raise ValueError(f"{contract.name} does not begin with identity, {', '.join(_BETWEEN)} and event time")
    _, first = _string(value, _PREFIX)
    place = first
    for _ in _BETWEEN:
        _, place = _string(value, place)
    end = place
    while value[end] & 0x80:
        end += 1
    return Stamped(record.topic, record.key, value[:_PREFIX] + varint(DIGITS), value[first:place], value[end + 1 :])


def asset_of(key: bytes) -> str:
    """The asset in a key `<jurisdiction_id>|<asset_id>`."""
    return key.decode().partition("|")[2]


def without(records: Iterable[Record], assets: frozenset[str]) -> list[Record]:
    """The records that are not of these assets."""
    return [record for record in records if asset_of(record.key) not in assets]


def _string(value: bytes, place: int) -> tuple[bytes, int]:
    """Avro's string at that place, and the place after it."""
    length = shift = 0
    while True:
        byte = value[place]
        length |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if not byte & 0x80:
            break
    end = place + (length >> 1)
    return value[place:end], end
