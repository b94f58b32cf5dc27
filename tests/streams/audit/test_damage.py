"""What is sound audits to nothing, and each kind of damage is found and named for what it is."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from streams.audit.report import show
from tests.streams.audit.looking import IDLE_MS, add, count, delete, kinds, look
from tests.streams.lives import Plan, live
from tests.streams.worlds import LAMPS, SENSOR, World

_WINDOWS = {"window_rows", "window_totals"}


def test_a_clean_run_audits_to_no_difference(world: World) -> None:
    """Every record is accounted for, once, and the numbers are those of the log."""
    found = look(world)
    assert found.differences == []
    totals = found.totals
    assert totals["records"] == sum(map(len, world.log.values())) == 33
    assert totals["stored"] == count(world, "events_sensor") + count(world, "events_lighting") > 20
    assert (totals["rejected"], totals["duplicates"], totals["missing"]) == (3, 3, 0)
    assert totals["transitions"] == totals["transitions_recomputed"] == count(world, "alert_transitions") > 5


@pytest.mark.parametrize("effects", [3, 9, 15, 21])
def test_a_run_that_was_killed_and_taken_up_audits_to_no_difference(unlived: World, effects: int) -> None:
    """Whatever a dead worker left behind, its successor has settled."""
    steps = live(unlived, Plan(cut=7), die_after=effects)
    assert len(steps.names) == effects
    live(unlived, Plan(cut=4, idle_ms=IDLE_MS))
    assert look(unlived).differences == []


def test_older_duplicates_are_told_and_no_difference(world: World) -> None:
    """A duplicate of a chunk that is remembered no more is stored again, by design: the audit says how many."""
    found = look(world)
    assert found.totals["older_duplicates"] == 1
    assert any("1 stored events bear the (source, event_id) of another" in note for note in found.findings.notes)


_Damage = Callable[[World], None]


@pytest.mark.parametrize(
    ("damage", "expected", "place", "words"),
    [
        pytest.param(
            lambda w: delete(w, "events_sensor", "offset = 9"),
            {"missing_unseen", *_WINDOWS},
            "city.raw.sensor/0",
            "offsets 9",
            id="an event is gone",
        ),
        pytest.param(
            lambda w: delete(w, "events_lighting", "offset = 8"),
            {"missing_unseen", *_WINDOWS},
            "city.raw.lighting/1",
            "offsets 8",
            id="the last event is gone",
        ),
        pytest.param(
            lambda w: delete(w, "rejects", "topic = 'city.raw.lighting'"),
            {"missing_unseen"},
            "city.raw.lighting/1",
            "offsets 3",
            id="a reject is gone",
        ),
        pytest.param(
            lambda w: add(w, "events_lighting", "toDateTime64(observed_at, 3) + 3 AS observed_at", "offset = 6"),
            {"stored_twice", *_WINDOWS},
            "city.raw.lighting/1",
            "offsets 6",
            id="an event stands twice",
        ),
        pytest.param(
            lambda w: add(w, "rejects", "toInt64(8) AS offset", "offset = 2"),
            {"stored_and_rejected"},
            "city.raw.sensor/0",
            "offsets 8",
            id="a stored record is rejected as well",
        ),
        pytest.param(
            lambda w: delete(w, "window_rows", "metric = 'bin.events' AND chunk = 8 AND layer = 'quarter'"),
            _WINDOWS,
            "city.raw.sensor/0",
            "chunk 8",
            id="window rows are gone",
        ),
        pytest.param(
            lambda w: add(
                w, "window_rows", "sum + 1 AS sum, version + 1 AS version", "metric = 'lamp.power_w' AND chunk = 0"
            ),
            {"window_rows"},
            "city.raw.lighting/1",
            "chunk 0",
            id="window rows say something else",
        ),
        pytest.param(
            lambda w: add(w, "window_rows", "toInt64(19) AS chunk", "metric = 'bin.events' AND chunk = 8"),
            _WINDOWS,
            "city.raw.sensor/0",
            "chunk 19",
            id="window rows stand under another chunk, too",
        ),
    ],
)
def test_damage_is_found_and_named(world: World, damage: _Damage, expected: set[str], place: str, words: str) -> None:
    """By its kind, its partition and its offsets or its chunk; and nothing else is blamed."""
    damage(world)
    found = look(world)
    assert kinds(found) == expected
    named = [one for one in found.differences if one.place == place]
    assert any(one.what.startswith(words) for one in named), [one.what for one in named]
    assert {one.place for one in found.differences if one.kind != "window_totals"} == {place}


def test_events_that_windows_count_are_compared_as_readers_see_them(world: World) -> None:
    """The sentence says how many events the windows show, and how many are stored."""
    shown = count(world, "window_rows", "metric = 'bin.events' AND chunk = 8 AND layer = 'quarter' AND count > 0")
    delete(world, "window_rows", "metric = 'bin.events' AND chunk = 8 AND layer = 'quarter'")
    (totals,) = [one for one in look(world).differences if one.kind == "window_totals"]
    assert totals.place.endswith("quarter")
    assert totals.counts["windows"] == shown
    assert totals.counts["stored"] > totals.counts["shown"]


def test_what_is_beyond_the_snapshot_is_no_difference_while_somebody_may_be_at_it(unlived: World) -> None:
    """A worker died after it had stored records: its successor will settle that. With --strict-end it must have."""
    live(unlived, Plan(cut=6, until=12))
    live(unlived, Plan(cut=8, until=20, save_every=99, save=False))
    found = look(unlived, strict_end=False)
    assert found.differences == []
    assert any("beyond the newest snapshot (offset 12)" in note for note in found.findings.notes)
    assert any("its windows" in note or "the windows of that" in note for note in found.findings.notes)
    assert "beyond_snapshot" in kinds(look(unlived))
    live(unlived, Plan(idle_ms=IDLE_MS))
    assert look(unlived).differences == []


def test_without_a_snapshot_nothing_is_judged_while_somebody_may_be_at_it(world: World) -> None:
    """A worker that has just begun has none, and stores one table after the other. Once it has stopped, all counts."""
    delete(world, "snapshots", "1")
    delete(world, "rejects", "topic = 'city.raw.lighting'")
    delete(world, "window_rows", "chunk = 8")
    found = look(world, strict_end=False)
    assert found.differences == []
    assert any("there is no snapshot" in note for note in found.findings.notes)
    assert kinds(look(world)) == {"missing_unseen", *_WINDOWS}


def test_a_time_range_looks_at_the_records_received_in_it(world: World) -> None:
    """Damage outside it is not looked at; inside it is."""
    delete(world, "rejects", "topic = 'city.raw.sensor' AND offset = 18")
    first_ms = int(world.log[SENSOR].received_ms[0])
    assert look(world, from_ms=first_ms, to_ms=first_ms + 18).differences == []
    found = look(world, from_ms=first_ms + 17, to_ms=first_ms + 20)
    assert [(one.kind, one.what) for one in found.differences] == [("missing_unseen", "offsets 18")]
    (sensors,) = [one for one in found.partitions if one.extent.origin.topic == SENSOR.topic]
    assert (sensors.extent.first, sensors.extent.end) == (17, 20)


def test_one_topic_or_partition_can_be_looked_at(world: World) -> None:
    """And the others are left alone."""
    delete(world, "rejects", "topic = 'city.raw.sensor'")
    assert look(world, topic=LAMPS.topic).differences == []
    assert look(world, partition=1).differences == []
    assert kinds(look(world, topic=SENSOR.topic, partition=0)) == {"missing_unseen"}


def test_an_answer_for_people_names_what_is_wrong(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    """The account in one line, and one line for each difference, with what to do."""
    show(look(world))
    assert "in = stored + rejected + duplicates: 33 = 27 + 3 + 3" in capsys.readouterr().out
    delete(world, "rejects", "topic = 'city.raw.lighting'")
    show(look(world))
    told = capsys.readouterr().out
    assert "missing_unseen city.raw.lighting/1, offsets 3 (missing 1)" in told
    assert "1 differences" in told
