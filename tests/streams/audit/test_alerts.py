"""Alerts against findings: what is stored was found, what is found is stored, and both were told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import polars as pl
import pytest

from schemas.codec import decode_values
from schemas.contracts import ALERT_TOPIC, RAW_TOPICS, contract
from schemas.writers import own_writers
from sinks import audited_alerts
from streams.audit import alerts
from streams.audit.differences import Findings
from streams.audit.told import OnTopic, stored_and_told, told_and_stored
from tests.streams import worlds
from tests.streams.audit.looking import IDLE_MS, add, change, count, delete, kinds, look
from tests.streams.lives import Plan, live
from tests.streams.worlds import World
from tests.support.batches import DAY, HOUR, MINUTE
from tests.support.city import city

_DEFECT = "alertname = 'lamp_defective'"


@pytest.mark.parametrize(
    ("damage", "expected", "words"),
    [
        pytest.param(
            lambda w: delete(w, "alert_transitions", f"{_DEFECT} AND state = 'firing'"),
            {"alert_sequence", "alert_missing"},
            "transitions 1 of this alert are not in alert_transitions",
            id="the first transition of an alert is gone",
        ),
        pytest.param(
            lambda w: delete(w, "alert_transitions", f"{_DEFECT} AND state = 'resolved'"),
            {"alert_missing"},
            "and it was never stored or told",
            id="the last transition of an alert is gone",
        ),
        pytest.param(
            lambda w: add(
                w,
                "alert_transitions",
                "'lamp-77777' AS asset_id, 'f' AS fingerprint, 'x' AS transition_id",
                f"{_DEFECT} AND state = 'firing'",
            ),
            {"alert_unfounded", "alert_evidence"},
            "no stored event of this asset bears the instant",
            id="an alert of nothing",
        ),
        pytest.param(
            lambda w: add(w, "alert_transitions", "'x' AS transition_id, 0.5 AS value", f"{_DEFECT} AND sequence = 2"),
            {"alert_sequence", "alert_unfounded"},
            "one number of one alert stands for 2 different transitions",
            id="a second history",
        ),
        pytest.param(
            lambda w: add(w, "alert_transitions", "'info' AS severity, 0.5 AS value", f"{_DEFECT} AND sequence = 2"),
            {"alert_sequence"},
            "one number of one alert stands for 2 different transitions",
            id="one id with two contents",
        ),
        pytest.param(
            lambda w: change(w, "alert_transitions", "state = 'pending'", f"{_DEFECT} AND sequence = 1"),
            {"alert_life"},
            "it cannot follow the state before (resolved after pending)",
            id="resolved, and never told firing",
        ),
        pytest.param(
            lambda w: change(w, "alert_transitions", "ends_at = at - 1", f"{_DEFECT} AND sequence = 2"),
            {"alert_life"},
            "its end is not the instant at which it ended",
            id="an end at another instant",
        ),
    ],
)
def test_damage_to_alerts_is_found_and_named(
    world: World, damage: Callable[[World], None], expected: set[str], words: str
) -> None:
    """By its kind, with the alert's name; and nothing else is blamed."""
    damage(world)
    found = look(world)
    assert kinds(found) == expected
    assert any(words in one.told for one in found.differences), [one.told for one in found.differences]
    assert all("lamp_defective" in one.what for one in found.differences)


def test_an_alert_whose_event_is_gone_has_no_evidence(world: World) -> None:
    """The event that raised it, and what the other events give without it."""
    delete(world, "events_lighting", f"observed_at IN (SELECT starts_at FROM alert_transitions WHERE {_DEFECT})")
    found = look(world)
    assert {"missing_unseen", "alert_evidence", "alert_unfounded", "alert_missing"} <= kinds(found)
    (bare,) = [one for one in found.differences if one.kind == "alert_evidence"]
    assert bare.what.startswith("lamp_defective lamp-00002 firing")


def test_alerts_of_another_territory_version_are_not_made_again(world: World) -> None:
    """Other rules would find other things: that is said, and windows are compared in the layers of their time."""
    world.territories = (replace(city(), version="999999999-2"),)
    found = look(world)
    assert found.differences == []
    assert found.recomputed == 0
    assert any("stored under another version of the territory" in note for note in found.findings.notes)


def test_alerts_that_time_made_are_made_again(unlived: World) -> None:
    """Where nothing came, time has passed, and what came later came behind it: those instants are stored, and the
    same silence follows from them."""
    live(unlived, Plan(cut=5, until=16, idle_ms=IDLE_MS + 3 * HOUR))
    live(unlived, Plan(cut=5, idle_ms=IDLE_MS + 40 * DAY))
    found = look(unlived)
    assert found.differences == []
    assert found.recomputed == found.transitions
    silent = unlived.sink.rows("SELECT count() FROM alert_transitions WHERE alertname = 'silent'")[0][0]
    assert silent >= 2


def test_alerts_go_on_when_a_topic_is_created_anew(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Offsets begin again and fingerprints do not: numbers go on, and what lasted is still raised."""
    before = count(world, "alert_transitions")
    world.epochs = dict.fromkeys(RAW_TOPICS.values(), "T2")
    monkeypatch.setattr(worlds, "_START_MS", worlds._START_MS + 30 * MINUTE)
    world.log = worlds.log()
    live(world, Plan(cut=5, idle_ms=IDLE_MS))
    found = look(world)
    assert found.differences == []
    assert found.transitions == found.recomputed > before
    assert found.totals["records"] == 2 * sum(map(len, world.log.values()))


# --- what is on the topic


def on_topic(world: World, *, whole: bool = True) -> OnTopic:
    """The alert topic of the world, as the audit reads it from Kafka."""
    alert = contract("Alert")
    values = [message.value for message in world.produced if message.topic == ALERT_TOPIC]
    found = decode_values(alert, values, own_writers(alert))
    return OnTopic(found.frame.select("transition_id", "fingerprint"), whole, 0)


def told(world: World) -> pl.DataFrame:
    return pl.concat(list(audited_alerts.transitions(None, world.sink)))


def without(there: OnTopic, where: pl.Expr) -> OnTopic:
    return replace(there, records=there.records.filter(~where))


def check(world: World, there: OnTopic) -> Findings:
    stored = told(world)
    findings = stored_and_told(stored, stored, there)
    findings.take(told_and_stored(there, set(stored["transition_id"]), world.sink))
    return findings


def test_what_is_stored_was_told(world: World) -> None:
    """Every transition is on the topic, and nothing else is."""
    assert check(world, on_topic(world)).differences == []


def test_a_transition_that_was_never_told_is_found(world: World) -> None:
    """It is stored, and nobody was told."""
    lost = told(world).filter(pl.col("alertname") == "lamp_defective").row(0, named=True)
    found = check(world, without(on_topic(world), pl.col("transition_id") == lost["transition_id"]))
    assert [(one.kind, one.what) for one in found.differences] == [("alert_not_told", alerts.described(lost))]


def test_compaction_takes_all_but_the_newest_and_no_blame(world: World) -> None:
    """Of each alert the newest transition stays; where that is missing, it is told."""
    stored, there = told(world), on_topic(world, whole=False)
    newest = stored.sort("sequence").group_by("fingerprint").last()
    older = ~pl.col("transition_id").is_in(newest["transition_id"].implode())
    compacted = without(there, older)
    assert len(compacted.records) < len(there.records)
    assert check(world, compacted).differences == []
    lost = newest.row(0, named=True)
    found = check(world, without(compacted, pl.col("transition_id") == lost["transition_id"]))
    assert [one.kind for one in found.differences] == ["alert_not_told"]


def test_a_transition_that_is_not_stored_is_found(world: World) -> None:
    """Rows were lost, or somebody else writes to the topic."""
    there = on_topic(world)
    foreign = pl.DataFrame({"transition_id": ["x"], "fingerprint": ["f"]})
    found = check(world, replace(there, records=pl.concat((there.records, foreign))))
    assert [(one.kind, one.what) for one in found.differences] == [("alert_not_stored", "transition x (fingerprint f)")]


def test_alerts_of_a_dead_worker_are_not_judged_until_its_successor_has_come(unlived: World) -> None:
    """It may have stored an alert and died before it told anybody: the next one tells it."""
    live(unlived, Plan(cut=6, until=6))
    live(unlived, Plan(cut=6, until=20, save_every=99, save=False))
    stored = told(unlived)
    settled = alerts.settled(stored, look(unlived, strict_end=False).extents, 0, strict_end=False)
    assert 0 <= len(settled) < len(stored)
    nobody = OnTopic(on_topic(unlived).records.clear(), True, 0)
    assert len(stored_and_told(stored, settled, nobody).differences) == len(settled)
