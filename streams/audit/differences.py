"""What the audit finds, as data: differences, and what is worth knowing without being one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal

#: A closed list: who reads the JSON can rely on it.
Kind = Literal[
    "missing",
    "missing_unseen",
    "stored_and_rejected",
    "stored_twice",
    "not_produced",
    "beyond_snapshot",
    "not_processed",
    "committed_too_far",
    "window_rows",
    "window_totals",
    "alert_sequence",
    "alert_life",
    "alert_evidence",
    "alert_missing",
    "alert_unfounded",
    "alert_not_told",
    "alert_not_stored",
]

#: Examples in a sentence, at most.
SOME: Final = 5


@dataclass(frozen=True)
class Difference:
    """Something that must not be. `place` is a topic and partition, `what` the offsets, chunk, window or alert there;
    `told` says what it means and what to do."""

    kind: Kind
    place: str
    what: str
    counts: Mapping[str, int]
    told: str

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass
class Findings:
    """What one check has found. `notes` are sentences about what is no difference."""

    differences: list[Difference] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, kind: Kind, place: str, what: str, counts: Mapping[str, int], told: str) -> None:
        self.differences.append(Difference(kind, place, what, dict(counts), told))

    def take(self, other: Findings) -> None:
        self.differences += other.differences
        self.notes += other.notes


def ranges(found: Sequence[tuple[int, int]]) -> str:
    """Ranges of offsets (first, the one after the last) as people write them: the first few, and how many more."""
    shown = [str(first) if end == first + 1 else f"{first}-{end - 1}" for first, end in found[:SOME]]
    return ", ".join(shown) + _more(len(found), "ranges")


def some(found: Sequence[object]) -> str:
    """The first few of them, and how many there are."""
    return ", ".join(map(str, found[:SOME])) + _more(len(found), "in all")


def _more(count: int, word: str) -> str:
    return f" … ({count:,} {word})" if count > SOME else ""


def length(found: Sequence[tuple[int, int]]) -> int:
    """How many offsets ranges hold."""
    return sum(end - first for first, end in found)
