"""What the tests share: one embedded ClickHouse, because a process can have only one open."""

from __future__ import annotations

import os
from collections.abc import Iterator

# Workers of tests that run side by side would want the same port.
os.environ.setdefault("VIGIE_WEB_PORT", "0")

# It tells Polars to work in one thread, which has to come first. Frames of tests are small: more would only wait.
import streams.settings  # noqa: F401

# isort: split
import pytest

from sinks.clickhouse import Sink, connect, migrate


@pytest.fixture(scope="session")
def _engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sink]:
    sink = connect(f"chdb://{tmp_path_factory.mktemp('clickhouse')}", retry_budget_s=0.2)
    migrate(sink)
    yield sink
    sink.close()


@pytest.fixture
def clickhouse(_engine: Sink) -> Sink:
    """A ClickHouse with all its tables, empty. A test that needs another directory must use a process of its own."""
    return _emptied(_engine)


@pytest.fixture(scope="module")
def loaded(_engine: Sink) -> Iterator[Sink]:
    """The demo database of tests/support/loaded.py, for modules whose tests only read."""
    # The simulated city is much to import for those who do without it.
    from tests.support.loaded import load

    load(_emptied(_engine))
    yield _engine
    _engine.command("SYSTEM START TTL MERGES worker_samples")


def _emptied(sink: Sink) -> Sink:
    tables = "SELECT name FROM system.tables WHERE database = 'default' AND engine LIKE '%MergeTree%'"
    for (table,) in sink.rows(tables):
        if table != "migrations":
            sink.client.command(f"TRUNCATE TABLE {table}")
    return sink


#: The property by which a test says how many queries of dashboards it has run.
QUERIES_RUN = "queries of dashboards run"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Tell how many queries of dashboards were run, whichever processes ran them."""
    passed = terminalreporter.stats.get("passed", ())
    counts = [count for report in passed for name, count in report.user_properties if name == QUERIES_RUN]
    if counts:
        terminalreporter.write_line(f"{sum(counts)} {QUERIES_RUN}, by {len(counts)} tests")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that start servers come first, then those on ClickHouse: where several run at a time, the quick ones fill
    what is left."""
    items.sort(key=_quickness)


def _quickness(item: pytest.Item) -> int:
    if item.get_closest_marker("integration") is not None:
        return 0
    return 1 if {"clickhouse", "loaded"} & set(getattr(item, "fixturenames", ())) else 2
