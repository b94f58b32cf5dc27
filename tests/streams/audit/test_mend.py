"""`--repair`: windows are the stored events again, and nobody who is at work is disturbed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from sinks import stored
from sinks.rows import offset_of, version_of
from streams.audit.mend import Repaired, repair
from streams.audit.run import Audit, mended
from tests.streams.audit.looking import IDLE_MS, add, count, delete, kinds, look, reference, settings
from tests.streams.lives import Plan, life, live
from tests.streams.worlds import SENSOR, World


def mend(world: World, *, idle: bool = True) -> Repaired:
    found = look(world)
    return repair(found.extents, found.compared, world.sink, idle=idle)


def spoil(world: World) -> None:
    """Every kind of wrong window row at once."""
    delete(world, "window_rows", "metric = 'bin.events' AND chunk = 8 AND layer = 'quarter'")
    add(world, "window_rows", "sum + 1 AS sum, version + 1 AS version", "metric = 'bin.fill_level' AND chunk = 16")
    add(world, "window_rows", "toInt64(19) AS chunk", "metric = 'bin.events' AND chunk = 8")
    add(world, "window_rows", "'Q77' AS zone_code", "metric = 'lamp.power_w' AND chunk = 0")


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda w: delete(w, "window_rows", "chunk = 8"), id="a chunk has no window rows"),
        pytest.param(spoil, id="everything at once"),
        pytest.param(lambda w: delete(w, "events_sensor", "chunk = 0"), id="a chunk has no events"),
    ],
)
def test_a_second_audit_finds_no_window_that_differs(world: World, damage: Callable[[World], None]) -> None:
    """Repaired windows are those of the stored events, as readers see them and row by row."""
    damage(world)
    assert {"window_rows", "window_totals"} <= kinds(look(world))
    done = mend(world)
    assert done.chunks
    assert done.refused == []
    assert {"window_rows", "window_totals"} & kinds(look(world)) == set()
    assert mend(world).chunks == []


def test_what_is_sound_is_not_written_again(world: World) -> None:
    """No claim, no row: the audit of a sound database changes nothing."""
    before = count(world, "owners"), count(world, "window_rows")
    assert mend(world).chunks == []
    assert (count(world, "owners"), count(world, "window_rows")) == before


def test_the_command_looks_again_after_it_has_repaired(world: World) -> None:
    """What is told in the end is how it stands now, and what was done."""
    delete(world, "window_rows", "topic = 'city.raw.sensor' AND chunk = 8")
    found: Audit = mended(look(world), settings(world), world.sink, reference(world))
    assert found.differences == []
    assert found.to_dict()["repaired"] == {"chunks": [{"place": "city.raw.sensor/0", "chunk": 8}], "refused": []}


def test_an_open_chunk_is_left_to_its_worker(world: World) -> None:
    """Where workers may be running only chunks that are over are written; of the others it says what to do."""
    delete(world, "window_rows", "topic = 'city.raw.sensor' AND chunk IN (8, 16)")
    done = mend(world, idle=False)
    assert done.chunks == [("city.raw.sensor/0", 8)]
    assert [sentence for sentence in done.refused if "city.raw.sensor/0, chunk 16: it may be open" in sentence]
    assert mend(world).chunks == [("city.raw.sensor/0", 16)]


def test_repaired_rows_outrank_what_is_there_and_claim_no_offset_beyond_the_snapshot(world: World) -> None:
    """Recovery takes back rows that say they include more than the snapshot."""
    spoil(world)
    mend(world)
    newest = stored.newest_snapshot(world.origin(SENSOR), world.sink)
    assert newest is not None
    written = f"topic = 'city.raw.sensor' AND version >= {version_of(2, 0)}"
    versions = world.sink.rows(f"SELECT version FROM window_rows WHERE {written}")
    assert versions
    assert max(offset_of(version) for (version,) in versions) <= newest.next_offset


def test_a_live_worker_goes_on_with_its_open_chunk(unlived: World) -> None:
    """A repair of closed chunks under a newer term takes nothing from the worker that holds the partition: it writes
    its open chunk, and whoever comes after it goes on."""

    async def whole() -> None:
        with life(unlived) as one:
            await one.join()
            await one.work(Plan(cut=6, until=14))
            delete(unlived, "window_rows", "topic = 'city.raw.sensor' AND chunk = 0")
            assert mend(unlived, idle=False).chunks == [("city.raw.sensor/0", 0)]
            await one.work(Plan(cut=6, until=20))

    asyncio.run(whole())
    assert look(unlived).differences == []
    live(unlived, Plan(cut=5, idle_ms=IDLE_MS))
    assert look(unlived).differences == []
    assert unlived.faults() == []


def test_a_repair_gives_way_to_a_worker_that_takes_over_at_that_instant(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two claims of one term: the repair writes nothing, and says to repair again."""
    delete(world, "window_rows", "topic = 'city.raw.sensor' AND chunk = 8")
    claim = stored.claim

    def both(origins: object, owner: str, *rest: object) -> None:
        claim(origins, owner, *rest)  # type: ignore[arg-type]
        claim(origins, "a worker", *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(stored, "claim", both)
    rows = count(world, "window_rows")
    done = mend(world)
    assert done.chunks == []
    assert done.refused == ["city.raw.sensor/0: a worker has just taken it over; repair again"]
    assert count(world, "window_rows") == rows
