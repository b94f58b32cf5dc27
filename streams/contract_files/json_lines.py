"""JSON Lines: one record a line, an object with the contract's fields."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, BinaryIO, Final

from schemas.problems import Problem, Rule, shape
from streams.contract_files.lines import Line, blank, decoded, text_lines, too_long, without_mark

_ONE_A_LINE: Final = "write one object a line, such as: jq -c '.[]' FILE > FILE.jsonl"


def fields(first_line: bytes) -> Sequence[str]:
    """The names in the first line's object; none where it is no object."""
    text, _ = decoded(without_mark(1, first_line)[0])
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return ()
    return tuple(found) if isinstance(found, dict) else ()


def read(stream: BinaryIO, most_bytes: int) -> Iterator[Line]:
    """The lines of a file, those longer than `most_bytes` unread."""
    begun = False
    for number, line in text_lines(stream, most_bytes):
        if line is None:
            yield too_long(number, most_bytes)
            continue
        line, marked = without_mark(number, line)
        if not line.strip():
            yield blank(number)
            continue
        text, problems = decoded(line)
        if (not begun and text.lstrip(" \t").startswith("[")) or text.strip(" \t") == "{":
            found = "a JSON document that is not JSON Lines: nothing after this line was read"
            yield Line(number, problems=(*marked, Problem(None, Rule.JSON, found, _ONE_A_LINE)))
            return
        begun = True
        raw, broken = _object(text)
        yield Line(number, raw, problems=(*marked, *problems, *broken), lost=raw is None, size_bytes=len(line))


def _object(text: str) -> tuple[dict[str, Any] | None, tuple[Problem, ...]]:
    try:
        found = _decoder().decode(text)
    except json.JSONDecodeError as error:
        mend = _ONE_A_LINE if error.msg == "Extra data" else "mend it there; a JSON encoder writes lines that are right"
        return None, (Problem(None, Rule.JSON, f"not JSON at column {error.colno}: {error.msg}", mend),)
    except ValueError:
        return None, (Problem(None, Rule.JSON, "a number of thousands of digits", "write numbers of 64 bits"),)
    except RecursionError:
        return None, (Problem(None, Rule.JSON, "objects within objects without end", "a record is flat"),)
    if not isinstance(found, dict):
        return None, (Problem(None, Rule.JSON, f"{shape(found)}, and an object is expected", _ONE_A_LINE),)
    return found, ()


@cache
def _decoder() -> json.JSONDecoder:
    return json.JSONDecoder(object_pairs_hook=_pairs)


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        for name in found:
            if names.count(name) > 1:
                found[name] = Problem(name, Rule.REPEATED_FIELD, "given more than once", "give it once")
    return found
