"""A file judged from its first line to its last, in memory that does not grow with it; and the account of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from schemas.problems import Problem, Rule
from streams.contract_files.judge import Basis, judge
from streams.contract_files.lines import Judged, Line
from streams.contract_files.source import Source

#: Lines judged together: a call of the stages costs as much as some hundred lines.
_TOGETHER: Final = 4_096
_TOGETHER_BYTES: Final = 8_388_608


def judged(source: Source, basis: Basis, now_ms: Callable[[], int]) -> Iterator[list[Judged]]:
    """The lines of a file, judged, in parts. A file without a record says so at its end."""
    records = number = 0
    wrong = False
    for part in _parts(source.lines):
        found = judge(part, basis, now_ms())
        records += sum(line.is_record for line in found)
        wrong = wrong or any(not p.warning for line in found for p in line.problems)
        number = part[-1].number
        yield found
    if not records and not wrong:
        problem = Problem(None, Rule.EMPTY_FILE, "no record", "write one, or do not send the file")
        yield [Judged(max(number, 1), False, [problem])]


def _parts(lines: Iterable[Line]) -> Iterator[list[Line]]:
    part: list[Line] = []
    size = 0
    for line in lines:
        part.append(line)
        size += line.size_bytes
        if len(part) >= _TOGETHER or size >= _TOGETHER_BYTES:
            yield part
            part, size = [], 0
    if part:
        yield part


@dataclass(frozen=True)
class Told:
    """A problem, and the line it is on."""

    number: int
    problem: Problem
    is_error: bool

    def to_dict(self, unit: str) -> dict[str, Any]:
        """The problem as scripts read it."""
        return {
            unit: self.number,
            "field": self.problem.field,
            "rule": self.problem.rule.value,
            "severity": "error" if self.is_error else "warning",
            "found": self.problem.found,
            "mend": self.problem.mend,
        }


@dataclass
class Account:
    """What a file came to. With `strict` a warning counts as an error. Errors and warnings are told up to `most` each;
    when there are so many errors the rest of the file need not be read."""

    strict: bool = False
    most: int = 100
    lines: int = 0
    records: int = 0
    accepted: int = 0
    accepted_with_warnings: int = 0
    errors: Counter[Rule] = field(default_factory=Counter)
    warnings: Counter[Rule] = field(default_factory=Counter)
    untold_errors: int = 0
    untold_warnings: int = 0
    stopped: bool = False

    def take(self, part: Iterable[Judged]) -> Iterator[Told]:
        """Count judged lines. Yields the problems that are to be told."""
        for line in part:
            self.lines = line.number
            errors = [p for p in line.problems if self.strict or not p.warning]
            if line.is_record:
                self.records += 1
                good = line.payload is not None and not errors
                self.accepted += good
                self.accepted_with_warnings += good and bool(line.problems)
            for problem in line.problems:
                told = Told(line.number, problem, self.strict or not problem.warning)
                if self._count(told):
                    yield told

    def _count(self, told: Told) -> bool:
        """Count a problem. Whether it is one of those that are told."""
        counts = self.errors if told.is_error else self.warnings
        is_told = counts.total() < self.most
        counts[told.problem.rule] += 1
        if told.is_error:
            self.untold_errors += not is_told
        else:
            self.untold_warnings += not is_told
        return is_told

    @property
    def is_full(self) -> bool:
        return self.errors.total() >= self.most

    @property
    def is_good(self) -> bool:
        return not self.errors and not self.stopped

    @property
    def refused(self) -> int:
        return self.records - self.accepted


def is_good(line: Judged, strict: bool) -> bool:
    """Whether a line is to be published."""
    return line.payload is not None and not (strict and line.problems)


def checked(
    source: Source, basis: Basis, account: Account, now_ms: Callable[[], int], tell: Callable[[Told], None]
) -> Iterator[list[Judged]]:
    """Judge a file, tell its problems as they are found, and hold the account. Stops when there are errors enough."""
    for part in judged(source, basis, now_ms):
        for told in account.take(part):
            tell(told)
        yield part
        if account.is_full:
            # What else this part holds has been counted; what comes after it is not read.
            account.stopped = next(source.lines, None) is not None
            return
