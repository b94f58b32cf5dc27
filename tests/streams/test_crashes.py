"""A process may die after any effect it has on the world: whoever comes next ends with what would have been anyway.

The whole property in one process and without Kafka: the real worker, led step by step. The crash sweep has it with
processes, SIGKILL and a real broker.
"""

from __future__ import annotations

from typing import Any, Final

import pytest

from schemas.codec import decode_values
from schemas.contracts import RAW_TOPICS, contract
from schemas.writers import own_writers
from sinks.clickhouse import Sink
from tests.streams.lives import Plan, live, offer
from tests.streams.worlds import LAMPS, SENSOR, World, log
from tests.support.batches import DAY, RECEIVED_MS

#: Everything in two flushes, each with its snapshot, then time passes.
_PLAN: Final = Plan(cut=12, save_every=1, idle_ms=RECEIVED_MS + 60_000)
#: The life after the one that died may die as well: after its claim, its snapshots, in its first flush.
_SECOND: Final = range(1, 8)


def world(sink: Sink, monkeypatch: pytest.MonkeyPatch, name: str) -> World:
    """A world of its own in the ClickHouse that all share: topics that were created under another id."""
    return offer(World(sink, log(), epochs=dict.fromkeys(RAW_TOPICS.values(), name)), monkeypatch)


def test_a_crash_after_any_effect_changes_nothing(clickhouse: Sink, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every effect of a life is found by counting; after each a process dies, sometimes the next one too, and the last
    one ends. Rows, rejects, windows, chunks, alerts, letters and offsets are those of the life without a crash."""
    calm = world(clickhouse, monkeypatch, "calm")
    effects = live(calm, _PLAN).names
    assert calm.faults() == []
    expected = calm.answer()
    assert {"owners", "events_sensor", "rejects", "window_rows", "alert_transitions", "snapshots"} <= set(effects)
    assert expected["durable"] == expected["committed"] == {SENSOR: 24, LAMPS: 9}
    wrong = {}
    for number, effect in enumerate(effects, start=1):
        crashed = world(clickhouse, monkeypatch, f"crashed-{number}")
        first = live(crashed, _PLAN, die_after=number)
        second = live(crashed, Plan(cut=5), die_after=_SECOND[number % len(_SECOND)]).names if number % 2 else "life"
        live(crashed, _PLAN)
        found = crashed.answer()
        assert first.names == effects[:number]
        if different := sorted(name for name in expected if found[name] != expected[name]):
            wrong[number] = f"after {effect}, then {second}: {different}"
    assert wrong == {}


def test_a_life_of_many_crashes_ends_right(clickhouse: Sink, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that never gets further than a few effects gets there all the same, however it cuts the records."""
    calm = world(clickhouse, monkeypatch, "calm")
    live(calm, _PLAN)
    expected = calm.answer()
    restless = world(clickhouse, monkeypatch, "restless")
    lives = 0
    while restless.committed != calm.committed:
        lives += 1
        assert lives < 100, f"it comes no further than {restless.committed}"
        live(restless, Plan(cut=1 + lives % 5, save_every=1, idle_ms=_PLAN.idle_ms), die_after=9 + lives % 11)
    live(restless, _PLAN)
    assert restless.faults() == []
    assert restless.answer() == expected
    assert lives > 3


def test_a_crash_while_clickhouse_refuses_a_row_changes_nothing(
    clickhouse: Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The row is a reject with a dead letter, counted in no window, its neighbours are stored; the partition is taken
    up again in the same life or in the next, wherever that one dies."""
    readings = {SENSOR: log()[SENSOR].part(0, 12)}
    plan = Plan(cut=12, save_every=1)

    def refusing(name: str) -> World:
        one = world(clickhouse, monkeypatch, name)
        one.log = readings
        return one

    clickhouse.command("ALTER TABLE events_sensor ADD CONSTRAINT strict CHECK event_id != 's7'")
    try:
        calm = refusing("calm")
        effects = live(calm, plan).names
        assert calm.faults() == []
        assert set(calm.offsets(SENSOR, "rejects")) == {2, 5, 7}
        (reason,) = clickhouse.rows("SELECT stage, reason FROM rejects FINAL WHERE offset = 7")
        assert reason == ("sink", "sink")
        expected = calm.answer()
        letters = expected["letters"]
        assert [headers["vigie_reason"] for _, *pairs in letters if (headers := dict(pairs))].count(b"sink") == 1
        wrong = {}
        for number, effect in enumerate(effects, start=1):
            crashed = refusing(f"crashed-{number}")
            live(crashed, plan, die_after=number)
            live(crashed, plan)
            found = crashed.answer()
            if different := sorted(name for name in expected if found[name] != expected[name]):
                wrong[f"{number}: {effect}"] = different
    finally:
        clickhouse.command("ALTER TABLE events_sensor DROP CONSTRAINT strict")
    assert wrong == {}


def told(answer: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The transitions on the alert topic, by their id."""
    alert, values = contract("Alert"), [value for _, value in answer["told"]]
    found = decode_values(alert, values, own_writers(alert))
    assert found.rejects.is_empty()
    return {row["transition_id"]: row for row in found.frame.iter_rows(named=True)}


def test_time_that_passed_passes_again(clickhouse: Sink, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the log is read, nothing comes for a day, bins are silent, then the rest comes. Wherever the process
    dies, the next one reads straight on: what was told of the silence stands, no alert says two things under one
    number, and what is stored is what was told."""
    halt = Plan(cut=12, until=12, save_every=99, idle_ms=RECEIVED_MS + DAY, save=False)
    readings = {SENSOR: log()[SENSOR]}

    def halting(name: str, die_after: int | None = None) -> tuple[World, list[str]]:
        one = world(clickhouse, monkeypatch, name)
        one.log = readings
        steps = live(one, halt, _PLAN, die_after=die_after)
        if die_after is not None:
            live(one, _PLAN)
        return one, steps.names

    calm, effects = halting("calm")
    assert calm.faults() == []
    assert "passes" in effects
    silences = {key for key, row in told(calm.answer()).items() if row["alertname"] == "silent"}
    assert silences
    kept = 0
    for number, effect in enumerate(effects, start=1):
        crashed, _ = halting(f"crashed-{number}", number)
        assert crashed.faults() == [], (number, effect)
        answer = crashed.answer()
        said: dict[tuple[str, int], str] = {}
        for transition_id, fingerprint, sequence, *rest in answer["transitions"]:
            assert said.setdefault((fingerprint, sequence), transition_id) == transition_id, (number, effect, rest)
        heard = told(answer)
        assert heard.keys() == set(said.values()), (number, effect)
        assert heard.keys() >= silences or not heard.keys() & silences, (number, effect)
        kept += heard.keys() >= silences
    assert 0 < kept < len(effects), "there are crashes before the silence is kept, and crashes after it"
