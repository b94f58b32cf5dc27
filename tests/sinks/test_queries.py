"""Named queries: each says what it answers, takes only typed parameters, and runs on our tables."""

from __future__ import annotations

import pytest

from sinks.clickhouse import Sink
from sinks.queries import UnknownQueryError, ask, names, query


@pytest.mark.parametrize("name", names())
def test_every_query_says_what_it_answers(name: str) -> None:
    """Whoever reads a panel's name finds a sentence behind it."""
    found = query(name)
    assert len(found.doc.split()) >= 4
    assert found.doc.endswith(".")
    assert found.sql.startswith(("SELECT", "WITH"))


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
