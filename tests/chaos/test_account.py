"""The account sees what it is there to see: each kind of loss, doubling and mix-up is told, and nothing else."""

from __future__ import annotations

from typing import Any

import polars as pl

from tests.chaos.account import (
    judge_deliveries,
    judge_faults,
    judge_positions,
    judge_transitions,
    to_deliver,
    undelivered,
)
from tests.support.receiver import Received

TRUTH = pl.DataFrame(
    [("sensor", 0, 0, "stored"), ("sensor", 0, 1, "decode"), ("sensor", 0, 2, "duplicate"), ("report", 1, 0, "stored")],
    schema=["topic", "partition", "offset", "expected"],
    orient="row",
)
FOUND = TRUTH.rename({"expected": "found"})


def found(*more: tuple[str, int, int, str], but: int | None = None) -> pl.DataFrame:
    kept = FOUND if but is None else FOUND.with_row_index().filter(pl.col("index") != but).drop("index")
    return pl.concat([kept, pl.DataFrame(list(more), schema=FOUND.schema, orient="row")])


def transition(
    name: str, state: str, *, sequence: int = 1, asset: str = "bin", starts_ms: int = 0, rule: str = "bin_fire"
) -> dict[str, Any]:
    return {
        "transition_id": name, "fingerprint": f"{rule}|{asset}", "sequence": sequence, "alertname": rule,
        "state": state, "asset_id": asset, "starts_ms": starts_ms,
    }  # fmt: skip


def delivery(name: str, body: bytes = b"{}") -> Received:
    return Received("POST", "/alerts", {"webhook-id": name}, body)


def test_the_right_positions() -> None:
    """Every record where and what it must be, in whatever order: nothing to say."""
    assert judge_positions(TRUTH, FOUND) == []
    assert judge_positions(TRUTH, FOUND.reverse()) == []


def test_a_lost_record_is_told() -> None:
    """A position that is nowhere, with its place."""
    (said,) = judge_positions(TRUTH, found(but=1))
    assert said.startswith("1 records are neither stored nor rejected: sensor/0 at 1 (decode)")


def test_a_doubled_record_is_told() -> None:
    """A position that stands twice, be it stored twice or stored and rejected."""
    for twice in ("stored", "decode"):
        (said,) = judge_positions(TRUTH, found(("sensor", 0, 0, twice)))
        assert said.startswith("1 positions stand twice: sensor/0 at 0")


def test_an_invented_record_is_told() -> None:
    """A position that nobody published."""
    (said,) = judge_positions(TRUTH, found(("sensor", 0, 3, "stored")))
    assert said == "1 positions were never published: sensor/0 at 3 (stored)"


def test_another_fate_is_told() -> None:
    """A duplicate that was stored, or an event that was refused: the sums may hold, the record is wrong."""
    (said,) = judge_positions(TRUTH, found(("sensor", 0, 2, "stored"), but=2))
    assert said.startswith("1 records to be duplicate became stored: sensor/0 at 2")


def test_many_of_a_kind_are_one_sentence() -> None:
    """A thousand losses are counted, and a few of them named."""
    truth = pl.DataFrame({"topic": "sensor", "partition": 0, "offset": range(1_000), "expected": "stored"})
    (said,) = judge_positions(truth, truth.head(0).rename({"expected": "found"}))
    assert said.startswith("1000 records are neither")
    assert said.endswith("and 995 more")


def test_as_many_alerts_as_fires() -> None:
    """Each fire has one alert that fired and was resolved; one too few or too many is told."""
    life = [transition("a", "firing", starts_ms=1), transition("b", "resolved", sequence=2, starts_ms=1)]
    assert judge_transitions(life, {"bin": 1}) == []
    assert judge_transitions(life[:1], {"bin": 1}) == ["bin burnt 1 times, and 0 alerts of it are resolved"]
    again = [*life, transition("c", "firing", sequence=3, starts_ms=2)]
    assert judge_transitions(again, {"bin": 1}) == ["bin burnt 1 times, and 2 alerts of it are firing"]


def test_an_id_names_one_thing() -> None:
    """One id with two contents, or one step of an alert under two ids, is told: receivers go by the id."""
    contents = [transition("a", "firing"), transition("a", "firing", starts_ms=5)]
    assert any("transition ids have several contents: a" in said for said in judge_transitions(contents, {}))
    steps = [transition("a", "firing"), transition("b", "firing")]
    assert judge_transitions(steps, {}) == ["1 steps of alerts have several transitions: bin_fire|bin 1"]


def test_every_alert_is_delivered_at_least_once() -> None:
    """Twice is allowed, never is not; a pending alert is nobody's business."""
    told = [transition("a", "firing"), transition("b", "resolved"), transition("c", "pending")]
    owed = to_deliver(told)
    assert owed == ["a", "b"]
    assert judge_deliveries(told, [delivery("a"), delivery("a"), delivery("b")], owed) == []
    assert undelivered(owed, [delivery("a")]) == ["b"]
    assert judge_deliveries(told, [delivery("a")], owed) == ["1 transitions never reached the receiver: b"]


def test_a_delivery_of_nothing_stored_is_told() -> None:
    """What a receiver is told must be in the database and have fired; and the same id must always say the same."""
    told = [transition("a", "firing")]
    strange = [delivery("a"), delivery("x")]
    assert judge_deliveries(told, strange, ["a"]) == ["1 deliveries are of no stored transition: x"]
    short = [transition("a", "pending"), transition("b", "expired", sequence=2)]
    assert judge_deliveries(short, [delivery("b")], []) == ["1 deliveries are of alerts that have not fired: b"]
    twice = [delivery("a", b"1"), delivery("a", b"2")]
    assert judge_deliveries(told, twice, ["a"]) == ["1 webhook ids came with different bodies: a"]


def test_an_evident_fault_without_an_alert_is_told() -> None:
    """A fault that needs no past to be seen must have fired; one that does may be missed after a restart."""
    told = [transition("a", "firing", asset="bin-1")]
    assert judge_faults([("bin_fire", "bin-1"), ("silent", "lamp-1")], told) == []
    (said,) = judge_faults([("bin_full", "bin-2")], told)
    assert "bin-2" in said
