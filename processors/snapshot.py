"""The state of one partition as bytes, and back: what cannot be had from stored events.

Detectors, alerts, rows that wait and the count of refusals are in it, each as it snapshots itself. Window accumulators
and the memory of duplicates are not: `rebuild.reopen` makes them from stored events, so they cannot disagree with what
is stored.

The bytes are a checksum of all that follows, one line of JSON (the head), and the parts, one after the other.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any, Final

from processors.pipeline import CODE_VERSION, PartitionState, Reference, chunk_before, new_state
from schemas.contracts import Domain

_FORMAT: Final = 2
_CHECKSUM_BYTES: Final = 16
#: The parts of the state that snapshot themselves, by their names in PartitionState.
_PARTS: Final = ("detectors", "alerts", "held", "refusals")


class SnapshotError(ValueError):
    """Bytes that are no usable snapshot of that partition: rebuild its state from the stored events."""


@dataclass(frozen=True)
class Thawed:
    """A state as it was frozen, with no chunk open and no duplicates known: `rebuild.reopen` gives it both, and until
    then it can be frozen again and let time pass, but take no records.

    Read on from `last_offset` + 1. `chunk_first` is the first offset of the open chunk; None where the next record
    begins a chunk, because none was open or because versions differ. `seen_from`: duplicates of the events stored from
    there on are to be known; never less than a chunk's length, however short other versions cut their chunks.
    `code_version` and `territory_versions` are those that froze it; `same_versions` says whether they, and the settings
    that decide what becomes of a record, are today's.
    """

    state: PartitionState
    last_offset: int
    chunk_first: int | None
    seen_from: int
    same_versions: bool
    code_version: str
    territory_versions: str


def freeze(state: PartitionState, last_offset: int) -> bytes:
    """The state after `last_offset` (-1 before the first record), for `thaw`.

    Raises ValueError while window rows wait to be taken: nobody who thaws the state would ever write them.
    """
    if state.closed or (state.chunk is not None and state.chunk.windows.has_changed):
        raise ValueError("window rows of this state have not been taken: call take_window_rows before freeze")
    parts = {name: getattr(state, name).snapshot() for name in _PARTS}
    head = {
        "format": _FORMAT,
        "code_version": CODE_VERSION,
        "territory_versions": state.territory_versions,
        "settings_version": state.settings_version,
        "topic": state.topic,
        "partition": state.partition,
        "domain": state.domain,
        "last_offset": last_offset,
        "watermark_ms": state.watermark_ms,
        "passed_ms": state.passed_ms,
        "chunk_first": state.unopened if state.chunk is None else state.chunk.first_offset,
        "seen_from": state.seen_from,
        "parts": {name: len(part) for name, part in parts.items()},
    }
    body = b"".join((json.dumps(head).encode(), b"\n", *parts.values()))
    return _checksum(body) + body


def thaw(data: bytes, topic: str, partition: int, domain: Domain, reference: Reference) -> Thawed:
    """The state of `freeze`, with today's territories and thresholds; what a rule had raised that is off is withdrawn.

    Another version of code, territory or settings is no error: the state goes on, in a new chunk. Raises SnapshotError
    for bytes that are damaged, of another place, or in a form that this code does not read.
    """
    head, parts = _parts(data)
    try:
        place = (head["topic"], head["partition"], head["domain"])
        if place != (topic, partition, domain):
            raise SnapshotError(f"this is the snapshot of {place[0]}/{place[1]}, not of {topic}/{partition}")
        state = new_state(topic, partition, domain, reference)
        state.watermark_ms, state.passed_ms = head["watermark_ms"], head["passed_ms"]
        for name in _PARTS:
            getattr(state, name).restore(parts[name])
        chunk_first, state.seen_from = head["chunk_first"], head["seen_from"]
        versions = head["code_version"], head["territory_versions"]
        same = versions == (CODE_VERSION, state.territory_versions)
        same = same and head.get("settings_version") == state.settings_version
        if not same:
            begun = state.seen_from if chunk_first is None else chunk_first
            chunk_first, state.seen_from = None, min(begun, chunk_before(head["last_offset"] + 1, reference))
        state.unopened = chunk_first
        return Thawed(state, head["last_offset"], chunk_first, state.seen_from, same, *versions)
    except SnapshotError:
        raise
    except (KeyError, ValueError, TypeError) as error:
        raise SnapshotError(f"the snapshot of {topic}/{partition} cannot be read: {error}") from error


def _parts(data: bytes) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The head and the parts by name; parts that this code does not know are of no harm."""
    body = memoryview(data)[_CHECKSUM_BYTES:]
    if _checksum(body) != data[:_CHECKSUM_BYTES]:
        raise SnapshotError("the snapshot is damaged: its checksum does not fit")
    line, _, rest = bytes(body).partition(b"\n")
    try:
        head = json.loads(line)
        if head["format"] != _FORMAT:
            raise SnapshotError(f"the snapshot has format {head['format']}, this code reads {_FORMAT}")
        parts, start = {}, 0
        for name, length in head["parts"].items():
            parts[name] = rest[start : start + length]
            start += length
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
        raise SnapshotError(f"the snapshot's head cannot be read: {error}") from error
    return head, parts


def _checksum(body: bytes | memoryview) -> bytes:
    return hashlib.blake2b(body, digest_size=_CHECKSUM_BYTES).digest()
