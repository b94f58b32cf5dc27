"""Named queries: each says what it answers, takes only typed parameters, and runs on our tables."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import polars as pl
import pytest

from sinks.clickhouse import Sink, migrations
from sinks.queries import VOCABULARY, UnknownQueryError, ask, names, query
from streams.setup import publish_territories
from tests.support.city import CITY, city

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
    """Whoever can give these few parameters can ask every query; Grafana's macros are such a one."""
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


def test_zones_are_those_in_force(clickhouse: Sink) -> None:
    """A zone that is over or has not begun cannot be chosen and is not drawn, and its name is known all the same."""
    publish_territories({CITY: city()}, clickhouse)
    given: dict[str, Any] = {"jurisdictions": [], "layer": "sector"}

    def offered(now: datetime) -> list[str]:
        return [row["value"] for row in ask(clickhouse, "districts", now=now, **given)]

    assert offered(datetime(2025, 6, 1, tzinfo=UTC)) == ["OLD"]
    assert offered(datetime(2026, 3, 15, tzinfo=UTC)) == ["NEW", "WORKS"]
    drawn = ask(clickhouse, "zone_map", now=datetime(2026, 4, 1, tzinfo=UTC), districts=[], **given)
    assert {row["label"] for row in drawn} == {"", "NEW"}
    names_of = "SELECT code, title FROM zone_names WHERE layer = 'sector' ORDER BY code"
    assert clickhouse.rows(names_of) == [(code, code) for code in ("NEW", "OLD", "WORKS")]


def test_a_territory_that_comes_back_is_the_newest_again(clickhouse: Sink) -> None:
    """Who goes back to the former zones after a bad change sees the former names, and every asset once."""
    today = city()
    renamed = replace(today, version="renamed", zones=today.zones.with_columns(pl.lit("New name").alias("name")))
    title = "SELECT title FROM zone_names WHERE layer = 'quarter' AND code = 'Q01'"
    for territory, expected in ((today, "Q01"), (renamed, "New name (Q01)"), (today, "Q01"), (today, "Q01")):
        publish_territories({CITY: territory}, clickhouse)
        assert clickhouse.rows(title) == [(expected,)]
    assert clickhouse.rows("SELECT count() FROM registry_now") == [(len(today.assets),)]
    # The fourth time there was nothing to write.
    assert clickhouse.rows("SELECT uniqExact(loaded_at) FROM zones") == [(3,)]


def test_assets_that_a_new_registry_has_no_more_are_gone(clickhouse: Sink) -> None:
    """They are neither overdue nor on the map; one that no registry ever had counts for a week after its last word."""
    today, at = city(), datetime(2026, 3, 10, 12, tzinfo=UTC)
    publish_territories({CITY: today}, clickhouse)
    for asset in ("bin-00017", "mistyped"):
        clickhouse.command(
            "INSERT INTO asset_state (jurisdiction_id, domain, asset_id, kind, observed_at, received_at, longitude, "
            f"latitude, zones) VALUES ('{CITY}', 'sensor', '{asset}', 'bin', '{at:%F %T}', '{at:%F %T}', 3.87, 43.61, "
            "map('quarter', 'Q01'))"
        )
    given: dict[str, Any] = {"jurisdictions": [CITY], "districts": [], "layer": "quarter"}

    def heard(days: int) -> tuple[int, int, int]:
        now = at + timedelta(days=days)
        levels = ask(clickhouse, "service_levels", now=now, **given)
        ages = ask(clickhouse, "data_age", now=now, jurisdictions=[CITY])
        places = ask(clickhouse, "asset_map", now=now, **given)
        return (
            sum(row["assets"] for row in levels),
            sum(row["heard"] or 0 for row in ages),
            sum(row["heard_at"] is not None for row in places),
        )

    assert (heard(0), heard(8)) == ((2, 2, 2), (1, 1, 1))
    fewer = today.assets.filter(pl.col("asset_id") != "bin-00017")
    publish_territories({CITY: replace(today, version="fewer", assets=fewer)}, clickhouse)
    assert (heard(0), heard(8)) == ((1, 1, 1), (0, 0, 0))
    assert clickhouse.rows("SELECT count() FROM registry_now") == [(len(fewer),)]
    publish_territories({CITY: replace(today, version="none", assets=fewer.clear())}, clickhouse)
    assert clickhouse.rows("SELECT count() FROM registry_now") == [(0,)]
    publish_territories({CITY: today}, clickhouse)
    assert heard(8) == (1, 1, 1)


def test_an_age_that_is_not_known_is_none(clickhouse: Sink) -> None:
    """A partition without a snapshot is not one that has the newest."""
    # Samples are kept for a month.
    at = datetime.now(UTC).replace(microsecond=0)
    labels = "map('topic', 'city.raw.sensor', 'partition', '0')"
    clickhouse.command(
        "INSERT INTO worker_samples (at, worker, metric, labels, value) VALUES "
        f"('{at:%F %T}', 'w', 'vigie_watermark_timestamp_seconds', {labels}, {at.timestamp() - 3})"
    )
    (row,) = ask(clickhouse, "delays", since=at, until=at, bucket_s=60)
    assert (row["topic"], row["event_time_s"], row["snapshot_s"]) == ("sensor", pytest.approx(3.0), None)


def test_long_lists_end(clickhouse: Sink) -> None:
    """Anybody may report under any code, and some towns have hundreds of districts: the busiest twelve are told."""
    clickhouse.command(
        "INSERT INTO window_rows (window_start, jurisdiction_id, layer, zone_code, metric, resolution, count, sum, "
        "topic, version) SELECT '2026-03-10 12:00:00', '999999999', 'quarter', concat('Q', toString(zone.number)), "
        "concat('c', toString(kind.number), '.received'), 1, kind.number + zone.number + 1, 0, 't', 1 "
        "FROM numbers(20) AS zone CROSS JOIN numbers(15) AS kind"
    )
    at = datetime(2026, 3, 10, 12, tzinfo=UTC)
    given: dict[str, Any] = {"jurisdictions": [], "districts": [], "layer": "quarter", "since": at}
    rows = ask(clickhouse, "reports_by_category", until=at, **given)
    assert {row["category"] for row in rows} == {*(f"c{number}" for number in range(3, 15)), "other"}
    assert sum(row["reports"] for row in rows) == sum(kind + zone + 1 for kind in range(15) for zone in range(20))
    metrics = [f"c{number}.received" for number in range(15)]
    curves = ask(clickhouse, "means_by_district", until=at, bucket_s=60, metrics=metrics, **given)
    assert {row["district"] for row in curves} == {f"Q{number}" for number in range(8, 20)}


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
