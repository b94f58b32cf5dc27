"""CSV: a header with the contract's field names, then one record a line; an empty cell is a value left out.

No text of a contract can hold a line break, so each line is read for itself: a quote that is not closed costs its own
line and no other.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, Final

import polars as pl

from schemas.contracts import Contract, Field
from schemas.field_names import KEY
from schemas.field_rules import INSTANT, decimal_comma, is_decimal_comma, told, unknown
from schemas.problems import Problem, Rule, named
from streams.contract_files.lines import Line, blank, decoded, text_lines, too_long, without_mark

_SEPARATORS: Final = (",", ";", "\t", "|")
_NUMBER: Final = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_NOT_FINITE: Final = re.compile(r"[+-]?(?:nan|inf|infinity)", re.IGNORECASE)
_NO_HEADER: Final = "begin with a line that names the fields, such as event_id,source,jurisdiction_id,asset_id,…"


@dataclass(frozen=True)
class Header:
    """What the first line says: the columns' names in order, the character between them, and what is wrong."""

    names: tuple[str, ...]
    separator: str
    problems: tuple[Problem, ...]


def fields(first_line: bytes) -> Sequence[str]:
    """The names in the first line."""
    text, _ = decoded(without_mark(1, first_line.rstrip(b"\r\n"))[0])
    return _split(text, _separator(text)) or ()


def read(stream: BinaryIO, contract: Contract, most_bytes: int) -> Iterator[Line]:
    """The lines of a file, those longer than `most_bytes` unread. The first that is not blank is the header."""
    csv.field_size_limit(most_bytes)
    header: Header | None = None
    columns: Mapping[int, Field] = {}
    silent: frozenset[str] = frozenset()
    condemned = False
    for number, line in text_lines(stream, most_bytes):
        if line is None:
            yield too_long(number, most_bytes)
            continue
        line, marked = without_mark(number, line)
        if not line.strip():
            yield blank(number)
            continue
        text, problems = decoded(line)
        if header is None:
            header = _header(text, contract)
            found = (*marked, *problems, *header.problems)
            yield Line(number, problems=found)
            if any(problem.rule is Rule.HEADER for problem in found):
                return
            known = {f.name: f for f in contract.fields}
            columns = {index: known[name] for index, name in enumerate(header.names) if name in known}
            silent = frozenset(known) - set(header.names)
            condemned = any(not problem.warning for problem in found)
            continue
        raw, key, broken = _record(text, header, columns)
        yield Line(
            number,
            raw,
            key=key,
            problems=(*problems, *broken),
            silent=silent,
            condemned=condemned,
            lost=raw is None,
            size_bytes=len(line),
        )


def _separator(text: str) -> str:
    """The one that parts the most columns; the comma where none does."""
    return max(_SEPARATORS, key=lambda separator: len(_split(text, separator) or ()))


def _split(text: str, separator: str) -> tuple[str, ...] | None:
    """The names between the separators; None where a quote is not closed."""
    try:
        (row,) = csv.reader((text,), delimiter=separator, strict=True)
    except (csv.Error, ValueError):
        return None
    return tuple(cell.strip() for cell in row)


def _header(text: str, contract: Contract) -> Header:
    separator = _separator(text)
    names = _split(text, separator)
    known = {f.name for f in contract.fields}
    if names is None or known.isdisjoint(names):
        found = f"no field of {contract.name} in the first line: nothing after it was read"
        return Header(names or (), separator, (Problem(None, Rule.HEADER, found, _NO_HEADER),))
    problems: list[Problem] = []
    if separator != ",":
        sign = {"\t": "a tab"}.get(separator, separator)
        mend = "it is read all the same; every reader understands a comma"
        problems.append(Problem(None, Rule.SEPARATOR, f"{sign} between the columns", mend, warning=True))
    for index, name in enumerate(names):
        if name in names[:index]:
            problems.append(Problem(named(name), Rule.REPEATED_FIELD, "two columns of that name", "keep one"))
        elif not name:
            found = f"column {index + 1} has no name"
            problems.append(Problem(None, Rule.UNKNOWN_FIELD, found, "name it, or take it away"))
        elif name not in known and name != KEY:
            problems.append(unknown(contract, name))
    for f in contract.fields:
        if not f.nullable and not f.symbols and f.name not in names:
            mend = f"add it: {f.summary}"
            problems.append(Problem(f.name, Rule.MISSING, "no column of that name, and it is required", mend))
    return Header(names, separator, tuple(problems))


def _record(
    text: str, header: Header, columns: Mapping[int, Field]
) -> tuple[dict[str, Any] | None, str | None, tuple[Problem, ...]]:
    try:
        (cells,) = csv.reader((text,), delimiter=header.separator, strict=True)
    except (csv.Error, ValueError):
        found = "a quote that is not closed on its line, or one inside a cell"
        return None, None, (Problem(None, Rule.CSV, found, 'close it; a " inside a cell is written ""'),)
    if len(cells) != len(header.names):
        more = len(cells) > len(header.names)
        hint = (
            "a decimal comma, or a text with a separator in it that needs quotes?"
            if more
            else "write a separator for each empty cell too"
        )
        found = f"{len(cells)} cells, where the header names {len(header.names)}"
        return None, None, (Problem(None, Rule.CSV, found, hint),)
    raw = {field.name: _value(field, cells[index]) for index, field in columns.items()}
    key = cells[header.names.index(KEY)] if KEY in header.names else None
    return raw, key or None, ()


def _value(field: Field, cell: str) -> Any:
    """A cell as JSON would have it; a Problem where it cannot be read."""
    if not field.symbols and field.dtype == pl.String():
        return None if not cell and field.nullable else cell
    text = cell.strip()
    if not text:
        return None
    if field.symbols or field.dtype == INSTANT:
        return text
    if field.dtype == pl.Boolean():
        named_so = {"true": True, "false": False}.get(text.lower())
        mend = "write true or false, or leave the cell empty"
        return Problem(field.name, Rule.TYPE, told(field, text), mend) if named_so is None else named_so
    if _NUMBER.fullmatch(text):
        return int(text) if text.lstrip("+-").isdigit() and len(text) <= 20 else float(text)
    if _NOT_FINITE.fullmatch(text):
        return float(text)
    if is_decimal_comma(text):
        return decimal_comma(field, text)
    hint = ", without a percent sign" if text.endswith("%") else ""
    mend = f"write a number such as 0.62{hint}, or leave the cell empty where there is none"
    return Problem(field.name, Rule.TYPE, told(field, text), mend)
