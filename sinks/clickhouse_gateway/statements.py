"""Just enough of ClickHouse's grammar to route a statement: what it does, its format, where its data begins.

A statement is never rewritten. Whoever only reads is judged by the tokens outside strings and comments; where the
engine might cut the text into other tokens than this module does, the statement is refused.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, NamedTuple

from sinks.clickhouse_gateway.errors import RefusedError, refused

_TOKEN: Final = re.compile(
    rb"""
      (?P<gap>    \s+ | --[^\n]* | \#[ !][^\n]* | /\*.*?\*/ )
    | (?P<text>   '(?:[^'\\]|\\.|'')*+' )
    | (?P<quoted> `(?:[^`\\]|\\.|``)*+` | "(?:[^"\\]|\\.|"")*+" )
    | (?P<broken> (?: ['`"] | /\* ).* )
    | (?P<word>   [A-Za-z_][A-Za-z0-9_$]* )
    | (?P<number> [0-9]+ )
    | (?P<here>   \$(?P<tag>\w*)\$.*?\$(?P=tag)\$ )
    | (?P<other>  . )
    """,
    re.VERBOSE | re.DOTALL,
)

_SELECTS: Final = frozenset({b"SELECT", b"WITH", b"("})
#: What a statement that only reads begins with.
_READS: Final = _SELECTS | {b"SHOW", b"DESC", b"DESCRIBE", b"EXPLAIN", b"EXISTS"}
#: Others that answer with rows.
_ANSWERS: Final = _READS | {b"CHECK", b"KILL"}
#: Behind these an INSERT carries no data in a format, or carries it inside the statement.
_NO_DATA: Final = frozenset({b"SELECT", b"WITH", b"VALUES", b"WATCH", b"EXPLAIN", b"INFILE"})
#: What may stand outside of quotes beside words; on the rest the engine might have another view.
_PLAIN: Final = frozenset(bytes([byte]) for byte in b"()[]{}.,:;+-*/%=<>!?|@")
#: They read or write files of this machine, which a server leaves to its client.
_FILES: Final = frozenset({b"OUTFILE", b"INFILE"})


@dataclass(frozen=True)
class Insert:
    """`INSERT INTO … SETTINGS … FORMAT name`, in its parts; `data_at` is where its data begins in the text."""

    head: bytes
    settings: bytes
    format: str
    data_at: int


class _Token(NamedTuple):
    """A tuple, because a statement has thousands."""

    kind: str
    text: bytes
    start: int
    end: int
    #: How many brackets are open around it.
    depth: int

    @property
    def upper(self) -> bytes:
        return self.text.upper() if self.kind == "word" else self.text


def _tokens(statement: bytes) -> Iterator[_Token]:
    """Everything but blanks and comments."""
    depth = 0
    for found in _TOKEN.finditer(statement):
        kind = found.lastgroup or "other"
        kind = "here" if kind == "tag" else kind
        if kind == "gap":
            continue
        text = found.group()
        if text in (b")", b"]"):
            depth -= 1
        yield _Token(kind, text, *found.span(), depth)
        if text in (b"(", b"["):
            depth += 1


def insert_of(statement: bytes) -> Insert | None:
    """The statement as an INSERT that is followed by data, or None if it is anything else."""
    tokens = _tokens(statement)
    first = next(tokens, None)
    if first is None or first.upper != b"INSERT":
        return None
    settings: int | None = None
    for token in tokens:
        if token.depth or token.kind != "word":
            continue
        if token.upper in _NO_DATA:
            return None
        if token.upper == b"SETTINGS":
            settings = token.start
        if token.upper == b"FORMAT":
            name = next(tokens, None)
            if name is None or name.kind != "word":
                return None
            cut = token.start if settings is None else settings
            return Insert(
                statement[:cut].rstrip(),
                statement[cut : token.start].rstrip(),
                name.text.decode(),
                _data_at(statement, name.end),
            )
    return None


def _data_at(statement: bytes, end: int) -> int:
    """Data begins after the rest of the line if that is blank, else at the first character that is not."""
    blank = re.compile(rb"[ \t\f]*(?:\r?\n)?").match(statement, end)
    return blank.end() if blank else end


@dataclass(frozen=True)
class Shape:
    """What a statement without data is. `selects` means a query proper, which the engine can answer block by block."""

    reads: bool
    selects: bool
    answers: bool
    format: str | None


def shape_of(statement: bytes) -> Shape:
    """Raises RefusedError when there is none, or more than one, or it means files of this machine."""
    tokens = list(_before_values(_tokens(statement)))
    while tokens and tokens[-1].text == b";":
        tokens.pop()
    if not tokens:
        raise refused(62, "SYNTAX_ERROR", "Empty query")
    for token in tokens:
        if token.text == b";":
            raise refused(62, "SYNTAX_ERROR", "Multi-statements are not allowed: send one statement a request")
        if token.upper in _FILES and token.kind == "word":
            raise refused(1, "UNSUPPORTED_METHOD", f"{token.upper.decode()} is not allowed over HTTP")
    first = tokens[0].upper
    if first == b"WITH" and any(token.upper == b"INSERT" and token.depth == 0 for token in tokens):
        first = b"INSERT"
    return Shape(first in _READS, first in _SELECTS, first in _ANSWERS, _format_of(tokens))


def _before_values(tokens: Iterator[_Token]) -> Iterator[_Token]:
    """Without the values of an INSERT, which may be long and are data."""
    first = None
    for token in tokens:
        first = first or token
        if first.upper == b"INSERT" and token.upper == b"VALUES" and token.depth == 0:
            return
        yield token


def _format_of(tokens: list[_Token]) -> str | None:
    """The format that a statement ends with; settings may follow it. A column may be called `format` too."""
    for (word, name), following in zip(pairwise(tokens), [*tokens[2:], None], strict=False):
        last = following is None or following.upper == b"SETTINGS"
        if word.upper == b"FORMAT" and word.depth == 0 and name.kind == "word" and last:
            return name.text.decode()
    return None


def refuse_reaching_outside(statement: bytes, names: Collection[str], functions: Collection[str]) -> None:
    """Raise RefusedError when a statement does not read, uses one of the names, or calls one of the functions.

    Both are in lower case. A name needs no brackets to be called (`arrayMap(name, …)`, `APPLY name`), a table function
    does. The engine's readonly mode refuses most table functions, but some only after they have looked at the file, and
    no other functions.
    """
    first = next(_tokens(statement), None)
    if first is not None and first.upper not in _READS:
        raise refused(164, "READONLY", "Cannot execute query in readonly mode: only reading is allowed")
    before: _Token | None = None
    for token in _tokens(statement):
        if token.kind in ("here", "broken") or (token.kind == "other" and token.text not in _PLAIN):
            raise _refused(f"{token.text[:1].decode('ascii', 'replace')!r} outside of quotes")
        if token.kind in ("word", "quoted"):
            _refuse_name(token, before, names)
        if token.text == b"(" and before is not None:
            if before.kind == "quoted":
                raise _refused("a quoted name as a function")
            if before.kind == "word" and before.text.decode().lower() in functions:
                raise _refused(f"the function {before.text.decode()}")
        before = token


def _refuse_name(token: _Token, before: _Token | None, names: Collection[str]) -> None:
    if token.kind == "quoted" and b"\\" in token.text:
        raise _refused("a backslash in a quoted name")
    if token.upper == b"IDENTIFIER" and before is not None and before.text == b":":
        raise _refused("a parameter of type Identifier")
    name = token.text.strip(b'`"').decode("utf-8", "replace")
    if name.lower() in names:
        raise _refused(f"the name {name}")


def _refused(what: str) -> RefusedError:
    return refused(497, "ACCESS_DENIED", f"{what} is not allowed on a read-only gateway")
