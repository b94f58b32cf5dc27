"""What a file consists of: lines that hold a record or do not, before and after they are judged."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Final

from schemas.problems import Problem, Rule


@dataclass(frozen=True, slots=True)
class Line:
    """One line, or one record of a container, by its number from 1.

    `raw` holds the values as the integrator wrote them, by field, a Problem in place of one that could not be read.
    Where he has encoded the record himself `payload` is its bytes. With neither there is nothing to judge. `key`: the
    key that the record says it is published under. `silent`: fields of whose absence the header has told. `condemned`:
    refused for what was told about the whole file. `lost`: it was to be a record, and cannot be read as one.
    """

    number: int
    raw: Mapping[str, Any] | None = None
    payload: bytes | None = None
    key: str | None = None
    problems: tuple[Problem, ...] = ()
    silent: frozenset[str] = frozenset()
    condemned: bool = False
    lost: bool = False
    size_bytes: int = 0

    @property
    def is_record(self) -> bool:
        return self.raw is not None or self.payload is not None or self.lost


@dataclass(slots=True)
class Judged:
    """A line and all that is wrong with it. Where nothing is, beside warnings, `payload` and `key` are what is to be
    published."""

    number: int
    is_record: bool
    problems: list[Problem] = field(default_factory=list)
    payload: bytes | None = None
    key: bytes | None = None
    size_bytes: int = 0


def text_lines(stream: BinaryIO, most_bytes: int) -> Iterator[tuple[int, bytes | None]]:
    """Lines by number, from 1, without their ends; None for one that is longer than `most_bytes`, which is passed
    over."""
    number = 0
    while chunk := stream.readline(most_bytes + 2):
        number += 1
        if is_whole := chunk.endswith(b"\n"):
            chunk = chunk[: -2 if chunk.endswith(b"\r\n") else -1]
        if len(chunk) <= most_bytes:
            yield number, chunk
            continue
        yield number, None
        while not is_whole and (chunk := stream.readline(most_bytes)):
            is_whole = chunk.endswith(b"\n")


def too_long(number: int, most_bytes: int) -> Line:
    found = f"a line of more than {most_bytes} bytes"
    return Line(
        number, problems=(Problem(None, Rule.TOO_LARGE, found, "one record on a line, and nothing else"),), lost=True
    )


#: What a byte order mark is in UTF-8.
BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"


def without_mark(number: int, line: bytes) -> tuple[bytes, tuple[Problem, ...]]:
    """A line without the byte order mark that some programs put at the beginning of a file, and the word on it."""
    if number != 1 or not line.startswith(BYTE_ORDER_MARK):
        return line, ()
    mend = "it is passed over here; save as UTF-8 without BOM, because other readers take it for a character"
    said = Problem(None, Rule.BYTE_ORDER_MARK, "a byte order mark before the first character", mend, warning=True)
    return line.removeprefix(BYTE_ORDER_MARK), (said,)


def decoded(line: bytes) -> tuple[str, tuple[Problem, ...]]:
    """The text of a line, and what is wrong with its encoding. What is not UTF-8 is read as latin-1, so that the rest
    of the line can be judged."""
    try:
        return line.decode(), ()
    except UnicodeDecodeError as error:
        column = len(line[: error.start].decode("utf-8", "replace")) + 1
        found = f"at character {column} a byte that is not UTF-8 (latin-1, cp1252?)"
        mend = "save the file as UTF-8, or convert it: iconv -f cp1252 -t utf-8"
        return line.decode("latin-1"), (Problem(None, Rule.ENCODING, found, mend),)


def blank(number: int) -> Line:
    found, mend = "a blank line", "it is passed over; take it away"
    return Line(number, problems=(Problem(None, Rule.BLANK_LINE, found, mend, warning=True),))
