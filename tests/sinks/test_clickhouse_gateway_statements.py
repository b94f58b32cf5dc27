"""Statements as the gateway routes them: where data begin, what reads, and what may not be asked of a reader."""

from __future__ import annotations

from typing import Final

import pytest

from sinks.clickhouse_gateway.errors import RefusedError
from sinks.clickhouse_gateway.statements import insert_of, refuse_reaching_outside, shape_of


@pytest.mark.parametrize(
    ("text", "head", "form", "data"),
    [
        (b"INSERT INTO t FORMAT Native\n\x01\x02", b"INSERT INTO t", "Native", b"\x01\x02"),
        (b"INSERT INTO t (a, b) FORMAT Arrow", b"INSERT INTO t (a, b)", "Arrow", b""),
        (b"insert into t format CSV \t\r\n1\n", b"insert into t", "CSV", b"1\n"),
        (b"INSERT INTO t FORMAT JSONEachRow {}", b"INSERT INTO t", "JSONEachRow", b"{}"),
        (b"INSERT INTO t FORMAT CSV\n\n1", b"INSERT INTO t", "CSV", b"\n1"),
        (
            b"--FORMAT x\nINSERT INTO `FORMAT y` /*FORMAT z*/ FORMAT TSV\n",
            b"--FORMAT x\nINSERT INTO `FORMAT y` /*FORMAT z*/",
            "TSV",
            b"",
        ),
        (b"INSERT INTO t SETTINGS x = 'FORMAT y' FORMAT TSV\n1", b"INSERT INTO t SETTINGS x = 'FORMAT y'", "TSV", b"1"),
        (b"INSERT INTO FUNCTION f((SELECT 1)) FORMAT TSV\n1", b"INSERT INTO FUNCTION f((SELECT 1))", "TSV", b"1"),
    ],
)
def test_data_begins_where_clickhouse_says(text: bytes, head: bytes, form: str, data: bytes) -> None:
    """One byte too many or too few in front of binary data would store nonsense, or nothing."""
    found = insert_of(text)
    assert found is not None
    whole = b" ".join(part for part in (found.head, found.settings) if part)
    assert (whole, found.format, text[found.data_at :]) == (head, form, data)


@pytest.mark.parametrize(
    "text",
    [
        b"SELECT 1 FORMAT Native",
        b"INSERT INTO t VALUES (1)",
        b"INSERT INTO t SELECT 1 FORMAT Native",
        b"INSERT INTO t WITH x AS (SELECT 1) SELECT * FROM x FORMAT Native",
        b"INSERT INTO t FROM INFILE 'x' FORMAT CSV",
        b"INSERT INTO t FORMAT",
        b"INSERT INTO t",
        b"",
    ],
)
def test_other_statements_are_passed_as_they_are(text: bytes) -> None:
    """Only an INSERT that data follow is cut in two."""
    assert insert_of(text) is None


@pytest.mark.parametrize(
    ("text", "reads", "selects", "answers", "form"),
    [
        (b"SELECT 1", True, True, True, None),
        (b" /* x */ ( SELECT 1 ) FORMAT Native", True, True, True, "Native"),
        (b"SELECT a FROM t FORMAT JSON SETTINGS max_threads = 1;", True, True, True, "JSON"),
        (b"SELECT format FROM t", True, True, True, None),
        (b"SELECT 1 AS format SETTINGS max_threads = 1", True, True, True, None),
        (b"SELECT (SELECT 1 FORMAT x) -- FORMAT y", True, True, True, None),
        (b"WITH 1 AS x SELECT x", True, True, True, None),
        (b"WITH x AS (SELECT 1) INSERT INTO t SELECT * FROM x", False, False, False, None),
        (b"show tables", True, False, True, None),
        (b"EXPLAIN SELECT 1", True, False, True, None),
        (b"CHECK TABLE t", False, False, True, None),
        (b"CREATE TABLE t (a Int8) ENGINE = Memory", False, False, False, None),
        (b"INSERT INTO t VALUES (1); OUTFILE", False, False, False, None),
    ],
)
def test_a_statement_is_known_by_its_words(
    text: bytes, reads: bool, selects: bool, answers: bool, form: str | None
) -> None:
    """Whether it reads, answers with rows, and in which format: what stands in strings and comments says nothing."""
    shape = shape_of(text)
    assert (shape.reads, shape.selects, shape.answers, shape.format) == (reads, selects, answers, form)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (b"", 62),
        (b" -- nothing\n ;", 62),
        (b"SELECT 1; SELECT 2", 62),
        (b"SELECT 1; DROP TABLE t", 62),
        (b"SELECT 1 INTO OUTFILE 'x'", 1),
        (b"SELECT 1 into/**/outfile 'x'", 1),
        (b"INSERT INTO t FROM INFILE 'x' FORMAT CSV", 1),
    ],
)
def test_what_a_server_does_not_run_is_refused(text: bytes, code: int) -> None:
    """The engine would run several statements, and read and write files of this machine."""
    with pytest.raises(RefusedError) as caught:
        shape_of(text)
    assert caught.value.code == code


_NAMES: Final = frozenset({"file"})
_FUNCTIONS: Final = frozenset({"file", "url", "python"})


@pytest.mark.parametrize(
    "text",
    [
        b"SELECT file('x')",
        b"SELECT FiLe /* */ ('x')",
        b"SELECT * FROM url('http://x', 'CSV')",
        b"SELECT `f\\x69le`('x')",
        b"SELECT \"file\"('x')",
        b"SELECT {f:Identifier}('x')",
        b"SELECT arrayMap({f: identifier}, ['x'])",
        b"SELECT arrayMap(file, ['x'])",
        b"DESC `url` ('http://x')",
        b"SELECT arrayMap(`File`, ['x'])",
        b'SELECT * APPLY "file" FROM t',
        b"SELECT * APPLY `f\\x69le` FROM t",
        b"SELECT 'a\\'', file('x'), '\\''",
        b"SELECT 'a''', file('x')",
        b"SELECT a$b$, file('x'), b$b$",
        b"SELECT $$'$$, file('x'), $$'$$",
        "SELECT ‘'’, file('x'), ‘'’".encode(),
        b"SELECT 1 -- '\n, file('x') -- '",
        b"SELECT 1 #x '\n, file('x')",
        b"SELECT 1, ', file('x')",
    ],
)
def test_a_reader_cannot_reach_outside(text: bytes) -> None:
    """Whatever the engine might read as a call of such a function is refused, also where the two might disagree."""
    with pytest.raises(RefusedError, match="is not allowed on a read-only gateway") as caught:
        refuse_reaching_outside(text, _NAMES, _FUNCTIONS)
    assert caught.value.status == 403


@pytest.mark.parametrize(
    "text",
    [
        b"SELECT 'file(', \"url\", url FROM url -- file('x')",
        b"SELECT count() FROM numbers(3) WHERE number IN (1, 2)",
        "SELECT * FROM `zones` WHERE name = 'L’Île $1'".encode(),
        b"SELECT profile(1), file_(2)",
    ],
)
def test_a_reader_is_not_refused_for_a_word(text: bytes) -> None:
    """Strings, comments, columns and tables may be called what they like."""
    refuse_reaching_outside(text, _NAMES, _FUNCTIONS)
