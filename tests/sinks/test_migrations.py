"""Migrations: applied in order and once, safe to be interrupted, and what they find is read as before."""

from __future__ import annotations

import re

import pytest

from sinks import clickhouse as module
from sinks.clickhouse import Sink, SinkError, migrate, migrations
from tests.support.tables import columns


def test_migrations_are_numbered_without_gaps() -> None:
    """They are applied in the order of their names, and each holds something to apply."""
    names = [name for name, statements in migrations() if statements]
    assert [int(name[:4]) for name in names] == list(range(1, len(names) + 1))
    assert names == sorted(names)


def test_every_migration_is_safe_to_run_twice(clickhouse: Sink) -> None:
    """A process killed between a statement and its entry runs it again: every statement says what to do then."""
    for _, statements in migrations():
        for statement in statements:
            # What is modified is so however often it is said.
            is_safe = "IF NOT EXISTS" in statement or re.search(r" MODIFY (COLUMN|SETTING) ", statement)
            assert is_safe or statement.startswith("CREATE OR REPLACE VIEW ")
            clickhouse.client.command(statement)


def test_migrating_again_applies_nothing(clickhouse: Sink) -> None:
    """Each worker migrates at its start; only the first has something to do."""
    assert migrate(clickhouse) == []
    done = clickhouse.rows("SELECT name FROM migrations FINAL ORDER BY name")
    assert [name for (name,) in done] == [name for name, _ in migrations()]


def test_a_changed_migration_is_refused(clickhouse: Sink, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was applied is history: a file that says something else now is named, and nothing is applied."""
    changed = dict(migrations())
    changed["0003_events_roadway"] = [*changed["0003_events_roadway"], "SELECT 1"]
    monkeypatch.setattr(module, "migrations", lambda: iter(changed.items()))
    message = "0003_events_roadway was applied in another form; undo its change and add a new file"
    with pytest.raises(SinkError, match=message):
        migrate(clickhouse)


def test_a_new_migration_is_applied_alone(clickhouse: Sink, monkeypatch: pytest.MonkeyPatch) -> None:
    """An upgrade runs what is new, once."""
    shipped = [*migrations(), ("9999_new", ["CREATE TABLE IF NOT EXISTS later (a Int8) ENGINE = Memory"])]
    monkeypatch.setattr(module, "migrations", lambda: iter(shipped))
    try:
        assert migrate(clickhouse) == ["9999_new"]
        assert migrate(clickhouse) == []
        assert columns(clickhouse, "later") == {"a": "Int8"}
    finally:
        clickhouse.client.command("DROP TABLE IF EXISTS later")
        clickhouse.client.command("DELETE FROM migrations WHERE name = '9999_new'")


def test_rows_of_before_are_read_when_maps_become_plain(clickhouse: Sink) -> None:
    """An upgrade changes no value: neither while old rows are rewritten behind, nor after; views have the new types."""
    coded, plain = "LowCardinality(String)", "String"
    values, shipped = {"zones": "{}", "measures": "Float64", "states": "{}"}, dict(migrations())

    def types(text: str) -> dict[str, str]:
        return {name: f"Map({text}, {value.format(text)})" for name, value in values.items()}

    def look() -> list[tuple[object, ...]]:
        return clickhouse.rows("SELECT asset_id, zones, measures, states FROM assets_now ORDER BY asset_id")

    def apply(name: str) -> None:
        for statement in shipped[name]:
            clickhouse.command(statement)

    assert {name: columns(clickhouse, "asset_state")[name] for name in values} == types(plain)
    before = ", ".join(f"MODIFY COLUMN {name} {of_it}" for name, of_it in types(coded).items())
    clickhouse.command(f"ALTER TABLE asset_state {before}")
    try:
        apply("0021_places")
        assert columns(clickhouse, "assets_now")["zones"] == types(coded)["zones"]
        clickhouse.command(
            "INSERT INTO asset_state (jurisdiction_id, domain, asset_id, kind, observed_at, zones, measures, states) "
            "VALUES ('a', 'lighting', 'l1', 'lamp', 1, map('quarter', 'Q1', 'sector', 'S2'), map('power_w', 40.5), "
            "map('lamp_status', 'on')), ('a', 'lighting', 'l2', 'lamp', 1, map(), map(), map())"
        )
        rows = look()
        assert rows[0] == ("l1", {"quarter": "Q1", "sector": "S2"}, {"power_w": 40.5}, {"lamp_status": "on"})
    finally:
        apply("0020_plain_maps")
        apply("0021_places")
    assert look() == rows
    clickhouse.command("OPTIMIZE TABLE asset_state FINAL")
    assert look() == rows
    for table in ("asset_state", "assets_now"):
        assert {name: columns(clickhouse, table)[name] for name in values} == types(plain)
