"""Would a worker store it? Lines through the real codec and the real stages, and everything there is to say of each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import polars as pl

from processors.duplicates import identities
from processors.locate import Locator
from processors.pipeline import Limits
from processors.validate import remarks, validate
from schemas.codec import Lookup, decode_values
from schemas.contracts import DOMAINS, Contract, Domain, contract_of
from schemas.field_rules import INSTANT, Checked, check
from schemas.framing import encode
from schemas.problems import Problem, Rule
from schemas.rejects import Reason
from streams.contract_files import hexadecimal, words
from streams.contract_files.identities import Identities
from streams.contract_files.lines import Judged, Line
from streams.territory.geometry import swapped as looks_swapped

_UNLIMITED: Final = 2**40
_HEAD: Final = ("jurisdiction_id", "asset_id", "longitude", "latitude")
#: What need not be said of a field of which this has been said.
_IMPLIED: Final = {
    Rule.EMPTY: frozenset((Rule.PATTERN, Rule.JURISDICTION)),
    Rule.LENGTH: frozenset((Rule.JURISDICTION,)),
    Rule.PATTERN: frozenset((Rule.JURISDICTION,)),
    Rule.PAST: frozenset((Rule.PAST,)),
}


@dataclass(frozen=True)
class Basis:
    """By what lines are judged. Without a locator neither authority nor area is known, and neither is judged."""

    contract: Contract
    domain: Domain
    limits: Limits
    writers: Lookup
    locator: Locator | None = None
    unit: str = "line"
    seen: Identities = field(default_factory=Identities)


@dataclass(slots=True)
class _Case:
    """A line on its way: `checked` where it came as values, `value` as the codec gives it back."""

    line: Line
    judged: Judged
    checked: Checked | None = None
    value: dict[str, Any] = field(default_factory=dict)

    def say(self, problem: Problem | None) -> None:
        if problem is not None:
            self.judged.problems.append(problem)

    def stands_in(self, name: str) -> bool:
        return self.checked is not None and name in self.checked.stand_ins

    @property
    def is_refused(self) -> bool:
        return self.line.condemned or any(not problem.warning for problem in self.judged.problems)


def judge(lines: Sequence[Line], basis: Basis, now_ms: int) -> list[Judged]:
    """Judge consecutive lines of one file. `now_ms`, milliseconds since 1970, is taken for the broker's time."""
    cases = [
        _Case(line, Judged(line.number, line.is_record, list(line.problems), size_bytes=line.size_bytes))
        for line in lines
    ]
    to_judge = [case for case in cases if case.line.raw is not None or case.line.payload is not None]
    for case in to_judge:
        _encode(case, basis.contract, now_ms)
    if to_judge:
        _through_the_stages(to_judge, basis, now_ms)
    place = {f.name: number for number, f in enumerate(basis.contract.fields)}
    for case in to_judge:
        if case.is_refused:
            case.judged.payload = case.judged.key = None
        # In the contract's order; first what is about the line as a whole, last what no contract has.
        case.judged.problems.sort(key=lambda p: -1 if p.field is None else place.get(p.field, len(place)))
    return [case.judged for case in cases]


def _encode(case: _Case, contract: Contract, now_ms: int) -> None:
    line = case.line
    if line.payload is not None:
        case.judged.payload = line.payload
        return
    assert line.raw is not None
    case.checked = check(contract, line.raw, now_ms, line.silent)
    case.judged.problems += case.checked.problems
    case.judged.payload = encode(contract, case.checked.value)


def _through_the_stages(cases: Sequence[_Case], basis: Basis, now_ms: int) -> None:
    payloads = [case.judged.payload for case in cases]
    decoded = decode_values(basis.contract, payloads, basis.writers, basis.limits.max_record_bytes)
    large: list[int] = []
    for row, _, reason, detail in decoded.rejects.iter_rows():
        cases[row].say(_refused_by_codec(basis.contract, payloads[row] or b"", reason, detail))
        large += [row] if reason == Reason.TOO_LARGE else []
    frame = _with_position(decoded.frame, now_ms)
    _validate(frame, cases, basis)
    if large:
        # What is too large for the codec can have more wrong with it.
        rest = decode_values(basis.contract, [payloads[row] for row in large], basis.writers, _UNLIMITED).frame
        _say_remarks(_with_position(rest, now_ms), [cases[row] for row in large], basis)


def _refused_by_codec(contract: Contract, payload: bytes, reason: str, detail: str) -> Problem:
    others = (contract_of(domain) for domain in DOMAINS)
    return hexadecimal.refused(contract, (c for c in others if c is not contract), payload, reason, detail)


def _with_position(frame: pl.DataFrame, now_ms: int) -> pl.DataFrame:
    return frame.with_columns(
        pl.lit(0, pl.Int64).alias("offset"), pl.lit(now_ms, pl.Int64).cast(INSTANT).alias("received_at")
    )


def _validate(frame: pl.DataFrame, cases: Sequence[_Case], basis: Basis) -> None:
    plain = frame.select(
        pl.col(INSTANT).cast(pl.Int64), *(name for name in frame.columns if frame[name].dtype != INSTANT)
    )
    for value in plain.iter_rows(named=True):
        cases[value["row"]].value = value
    _say_remarks(frame, cases, basis)
    jurisdictions = basis.locator.jurisdictions if basis.locator else None
    events, refused = validate(frame, basis.contract, basis.domain, jurisdictions, basis.limits.clock)
    for case in (cases[row] for row in plain["row"]):
        if not (case.stands_in("longitude") or case.stands_in("latitude")):
            case.say(words.no_position(case.value))
        _key(case)
    if basis.locator is None:
        for case in (cases[row] for row in plain["row"]):
            case.say(words.in_metres(case.value) or _swapped(case.value))
    else:
        events = _locate(frame, events, cases, basis.locator, basis.domain)
    for row, _, reason, detail in refused.iter_rows():
        _refused_anyway(cases[row], reason, detail)
    _duplicates(events, cases, basis)


def _say_remarks(frame: pl.DataFrame, cases: Sequence[_Case], basis: Basis) -> None:
    """Say all that `validate` has against these rows."""
    jurisdictions = basis.locator.jurisdictions if basis.locator else None
    clock = basis.limits.clock
    said: dict[tuple[int, str], Rule] = {}
    found = remarks(frame, basis.contract, basis.domain, jurisdictions, clock)
    if found.is_empty():
        return
    values = {row["row"]: row for row in frame.with_columns(pl.col(INSTANT).cast(pl.Int64)).iter_rows(named=True)}
    for row, name, rule_name, reason, detail in found.iter_rows():
        case, rule = cases[row], Rule(rule_name)
        before = said.get((row, name))
        if case.stands_in(name) or (before and rule in _IMPLIED.get(before, ())):
            continue
        said[row, name] = rule
        value = values[row][name]
        case.say(words.told(basis.contract, name, rule, detail, value, clock, warning=reason is None))


def _key(case: _Case) -> None:
    """Make the record's own key, and hold the one it came with against it."""
    jurisdiction, asset = case.value["jurisdiction_id"], case.value["asset_id"]
    case.judged.key = f"{jurisdiction}|{asset}".encode()
    given = case.checked.key if case.checked is not None and case.checked.key is not None else case.line.key
    if given is None or case.stands_in("jurisdiction_id") or case.stands_in("asset_id"):
        return
    if given.encode("utf-8", "replace") != case.judged.key:
        case.say(words.wrong_key(expected_empty_asset=not asset))


def _swapped(value: dict[str, Any]) -> Problem | None:
    """Without a territory: does it make sense in France only when they change places?"""
    found = words.position(value)
    return words.swapped() if found is not None and looks_swapped((*found, *found)) else None


def _locate(
    frame: pl.DataFrame, events: pl.DataFrame, cases: Sequence[_Case], locator: Locator, domain: Domain
) -> pl.DataFrame:
    """The events that are located; all that there is to say about the place of these, and of rows that are refused for
    something else."""
    located, refused = locator.locate(events, domain)
    known = frame.filter(
        pl.col("jurisdiction_id").is_in(locator.jurisdictions) & ~pl.col("row").is_in(events["row"].implode())
    )
    others, refused_too = locator.locate(known, domain)
    for row in [*refused["row"], *refused_too["row"]]:
        case = cases[row]
        if not any(case.stands_in(name) for name in _HEAD):
            place = locator.territories[case.value["jurisdiction_id"]]
            case.say(words.in_metres(case.value) or words.out_of_area(place))
    for row, quality in _qualities(located, others):
        case = cases[row]
        if quality in _QUALITY_WORDS and not any(case.stands_in(name) for name in _HEAD):
            case.say(_QUALITY_WORDS[quality](case, locator))
    for row, _, reason, detail in refused.iter_rows():
        _refused_anyway(cases[row], reason, detail)
    return located


def _qualities(*frames: pl.DataFrame) -> Iterable[tuple[int, str]]:
    for frame in frames:
        yield from frame.select("row", "location_quality").iter_rows()


def _out_of_area(case: _Case, locator: Locator) -> Problem:
    place = locator.territories[case.value["jurisdiction_id"]]
    return words.in_metres(case.value, warning=True) or words.out_of_area(place, warning=True)


_QUALITY_WORDS: Final[dict[str, Callable[[_Case, Locator], Problem]]] = {
    "swapped": lambda case, locator: words.swapped(),
    "out_of_area": _out_of_area,
    "missing": lambda case, locator: words.nowhere(),
}


def _refused_anyway(case: _Case, reason: str, detail: str) -> None:
    """A stage has the last word: what it refuses is refused, also where nothing above tells why."""
    if not case.is_refused:
        case.say(words.refused(reason, detail))


def _duplicates(events: pl.DataFrame, cases: Sequence[_Case], basis: Basis) -> None:
    """Events that would be stored, had they not come before. What is refused is not remembered, here as in a worker."""
    stored = [not cases[row].is_refused for row in events["row"]]
    kept = events.filter(pl.Series(stored, dtype=pl.Boolean))
    if kept.is_empty():
        return
    hashes = identities(kept).to_numpy()
    numbers = np.array([cases[row].line.number for row in kept["row"]], np.int64)
    for row, first in zip(kept["row"], basis.seen.first_lines(hashes, numbers), strict=True):
        if first:
            cases[row].say(words.repeated(int(first), basis.unit))
