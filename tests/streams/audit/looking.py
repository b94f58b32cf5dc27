"""The audit of a world without Kafka, and ways to damage what is stored in it."""

from __future__ import annotations

from typing import Any, Final

from processors.locate import Locator
from processors.pipeline import Reference
from streams.audit.run import Audit, Scope, audit
from streams.intake import limits
from streams.settings import Settings, load
from tests.streams.lives import _SETTINGS
from tests.streams.worlds import World
from tests.support.batches import RECEIVED_MS

#: Where event time has come to when nothing more is read.
IDLE_MS: Final = RECEIVED_MS + 60_000


def settings(world: World) -> Settings:
    return load(**_SETTINGS, **world.settings)


def reference(world: World) -> Reference:
    """The territories of the world, as a worker has them."""
    return Reference(Locator({t.jurisdiction_id: t for t in world.territories}), limits(settings(world)))


def look(world: World, *, strict_end: bool = True, **scope: Any) -> Audit:
    """Audit the world by what ClickHouse says."""
    wanted = Scope(kafka=False, strict_end=strict_end, **scope)
    return audit(settings(world), world.sink, wanted, reference(world))


def kinds(found: Audit) -> set[str]:
    return {difference.kind for difference in found.differences}


def delete(world: World, table: str, where: str) -> None:
    """Delete rows for good, as a clumsy hand would."""
    assert count(world, table, where)
    world.sink.client.command(f"ALTER TABLE {table} DELETE WHERE {where}", settings={"mutations_sync": 2})


def add(world: World, table: str, changes: str, where: str) -> None:
    """Write rows once more with changes: `value AS column`, separated by commas."""
    assert count(world, table, where)
    # Within: a condition outside would mean the changed columns.
    rows = f"SELECT * REPLACE ({changes}) FROM (SELECT * FROM {table} FINAL WHERE {where})"
    world.sink.client.command(f"INSERT INTO {table} {rows}")


def count(world: World, table: str, where: str = "1") -> int:
    return int(world.sink.rows(f"SELECT count() FROM {table} FINAL WHERE {where}")[0][0])


def change(world: World, table: str, changes: str, where: str) -> None:
    """Write other values into rows, where they stand: `column = value`, separated by commas."""
    assert count(world, table, where)
    world.sink.client.command(f"ALTER TABLE {table} UPDATE {changes} WHERE {where}", settings={"mutations_sync": 2})
