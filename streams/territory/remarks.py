"""Remarks about files: what is wrong, repaired or doubtful, and where; and the error that carries them all."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

#: Item numbers named on one line; the rest is counted. Long enough to find the fault, short enough to read.
_NAMED: Final = 12

Unit = Literal["", "feature", "row"]


@dataclass(frozen=True)
class Remark:
    """One remark about one item of one file.

    `number` counts from 1 (features of a GeoJSON file, rows after the header of a table); 0 with an empty `unit`
    is the file as a whole. `other` is the item of the same file that it repeats, 0 when that is not the point.
    """

    file: str
    reason: str
    unit: Unit = ""
    number: int = 0
    other: int = 0


@dataclass(frozen=True)
class Group:
    """The remarks of one file that give one reason. `text` is one line for a person."""

    file: str
    reason: str
    unit: Unit
    numbers: tuple[int, ...]
    others: tuple[int, ...]

    @property
    def where(self) -> str:
        if not self.unit:
            return self.file
        pairs = list(zip(self.numbers, self.others, strict=True))[:_NAMED]
        named = ", ".join(f"{number} (as {other})" if other else str(number) for number, other in pairs)
        more = len(self.numbers) - _NAMED
        plural = "s" if len(self.numbers) > 1 else ""
        return f"{self.file}, {self.unit}{plural} {named}" + (f" and {more} more" if more > 0 else "")

    @property
    def text(self) -> str:
        return f"{self.where}: {self.reason}"


def grouped(remarks: Iterable[Remark]) -> tuple[Group, ...]:
    """The remarks by file, unit and reason, in the order in which each group was first met."""
    groups: dict[tuple[str, Unit, str], list[Remark]] = {}
    for remark in remarks:
        groups.setdefault((remark.file, remark.unit, remark.reason), []).append(remark)
    return tuple(
        Group(file, reason, unit, tuple(r.number for r in members), tuple(r.other for r in members))
        for (file, unit, reason), members in groups.items()
    )


def lines(remarks: Iterable[Remark]) -> tuple[str, ...]:
    """One line per group of remarks."""
    return tuple(group.text for group in grouped(remarks))


class TerritoryError(ValueError):
    """A territory, or what one was to be made of, is not usable. `problems` holds every reason, one line each."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)
