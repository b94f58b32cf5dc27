"""Named queries: each says what it answers, takes only typed parameters, and runs on our tables."""

from __future__ import annotations

import re
from typing import Final

import pytest

from sinks.clickhouse import Sink, migrations
from sinks.queries import VOCABULARY, UnknownQueryError, ask, names, query

_CREATED: Final = re.compile(r"CREATE TABLE IF NOT EXISTS (\w+)")
_READ: Final = re.compile(r"\b(?:FROM|JOIN)\s+(\w+)(?:\s+AS\s+\w+)?(\s+FINAL\b)?", re.IGNORECASE)
#: Never replaced and never repeated, so there is nothing that FINAL would leave out.
_APPENDED: Final = {"worker_samples"}


def careless_reads(sql: str) -> list[str]:
    """Tables that a query reads as they are, with rows in them that were replaced."""
    statements = [statement for _, found in migrations() for statement in found]
    tables = {name for statement in statements for name in _CREATED.findall(statement)} - _APPENDED
    return [table for table, final in _READ.findall(sql) if table in tables and not final]


@pytest.mark.parametrize("name", names())
def test_every_query_says_what_it_answers(name: str) -> None:
    """Whoever reads a panel's name finds a sentence behind it."""
    found = query(name)
    assert len(found.doc.split()) >= 4
    assert found.doc.endswith(".")
    assert found.sql.startswith(("SELECT", "WITH"))


@pytest.mark.parametrize("name", names())
def test_every_parameter_is_of_the_vocabulary(name: str) -> None:
    """Whoever can give eight parameters can ask every query; Grafana's macros are such a one."""
    assert dict(query(name).parameters).items() <= VOCABULARY.items()


@pytest.mark.parametrize("name", names())
def test_every_query_reads_views_or_with_final(name: str) -> None:
    """A row that was replaced is there until ClickHouse merges, and must not be counted meanwhile."""
    assert careless_reads(query(name).sql) == []


@pytest.mark.parametrize(
    ("sql", "tables"),
    [
        ("SELECT count() FROM rejects", ["rejects"]),
        ("SELECT 1 FROM rejects FINAL WHERE x IN (SELECT y FROM window_rows)", ["window_rows"]),
        ("SELECT 1 FROM alerts AS a LEFT JOIN asset_state AS s ON s.x = a.x", ["asset_state"]),
        ("SELECT 1 FROM snapshots AS s FINAL, worker_samples", []),
        ("SELECT 1 FROM windows", []),
    ],
)
def test_a_careless_read_is_noticed(sql: str, tables: list[str]) -> None:
    """Wherever in the query it stands; views and tables that are only appended to need no care."""
    assert careless_reads(sql) == tables


def test_a_query_that_is_not_there_is_named() -> None:
    """A misspelt name must not look like an empty answer."""
    with pytest.raises(UnknownQueryError, match="no query nonsense"):
        query("nonsense")


def test_parameters_are_all_or_nothing(clickhouse: Sink) -> None:
    """A missing parameter, or one too many, is our mistake and says so before ClickHouse is asked."""
    with pytest.raises(UnknownQueryError, match="jurisdictions"):
        ask(clickhouse, "open_alerts")
    with pytest.raises(UnknownQueryError, match="other"):
        ask(clickhouse, "open_alerts", jurisdictions=[], other=1)


def test_rows_bear_the_names_of_their_columns(clickhouse: Sink) -> None:
    """Who prints a row need not know the order of the columns; no rows are an empty list."""
    assert ask(clickhouse, "open_alerts", jurisdictions=["213400017"]) == []
    assert clickhouse.named_rows("SELECT 1 AS a, 'x' AS b") == [{"a": 1, "b": "x"}]
