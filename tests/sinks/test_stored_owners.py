"""Who holds a partition and how far it had come, read back from the real engine."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Final

import pytest

from sinks import stored
from sinks.clickhouse import Sink
from sinks.rows import Origin
from sinks.store import Snapshot, store_snapshots

_AT: Final = datetime(2026, 9, 15, 12, 0, 0, 123_000, tzinfo=UTC)
_TOPIC: Final = "city.raw.sensor"


def origin(partition: int = 0, *, topic: str = _TOPIC, epoch: str = "T1", term: int = 1) -> Origin:
    return Origin(topic, partition, epoch, term)


# --- owners


def test_a_partition_that_nobody_held_has_term_0(clickhouse: Sink) -> None:
    """The first owner claims term 1; every partition asked for is answered."""
    assert stored.terms([origin(0), origin(1)], clickhouse) == {(_TOPIC, 0): 0, (_TOPIC, 1): 0}


def test_the_term_is_the_highest_that_anybody_claimed(clickhouse: Sink) -> None:
    """Of this partition of this topic as it is now: others, and the topic before it was created anew, do not count."""
    stored.claim([origin(0, term=3), origin(1, term=9)], "one", 4, _AT, clickhouse)
    stored.claim([origin(0, term=5)], "two", 5, _AT, clickhouse)
    stored.claim([origin(0, epoch="T0", term=40)], "two", 5, _AT, clickhouse)
    stored.claim([origin(0, topic="city.raw.report", term=50)], "two", 5, _AT, clickhouse)
    assert stored.terms([origin(0), origin(1)], clickhouse) == {(_TOPIC, 0): 5, (_TOPIC, 1): 9}


def test_a_claim_says_who_and_when(clickhouse: Sink) -> None:
    """People read this table when two workers quarrel. A claim written twice is one."""
    for _ in range(2):
        stored.claim([origin(2, term=7)], "worker-a", 12, _AT, clickhouse)
    (row,) = clickhouse.rows("SELECT * FROM owners")
    assert row[:6] == (_TOPIC, "T1", 2, 7, "worker-a", 12)
    assert row[6].replace(tzinfo=UTC) == _AT


def test_a_rival_is_another_owner_of_this_term_or_a_higher_one(clickhouse: Sink) -> None:
    """Oneself is none, nor who held it before; the answer names the highest term there is, and its generation."""
    stored.claim([origin(term=4)], "before", 30, _AT, clickhouse)
    stored.claim([origin(term=5)], "me", 31, _AT, clickhouse)
    assert stored.rivals([origin(term=5)], "me", clickhouse) == {}
    stored.claim([origin(term=5)], "other", 32, _AT, clickhouse)
    stored.claim([origin(term=8)], "third", 31, _AT, clickhouse)
    others = origin(1, term=5), origin(epoch="T2", term=1)
    assert stored.rivals([origin(term=5), *others], "me", clickhouse) == {origin(term=5): stored.Rival(8, 31)}
    assert stored.rivals([], "me", clickhouse) == {}


# --- snapshots


def snapshot(next_offset: int, state: bytes, *, term: int = 1, after_s: float = 0.0, epoch: str = "T1") -> Snapshot:
    at = _AT + timedelta(seconds=after_s)
    return Snapshot(origin(epoch=epoch, term=term), next_offset, at, "2", "one", at, state)


def test_there_may_be_no_snapshot(clickhouse: Sink) -> None:
    """Of this partition of this topic as it is now."""
    store_snapshots([snapshot(5, b"old", epoch="T0")], clickhouse)
    assert stored.newest_snapshot(origin(), clickhouse) is None


@pytest.mark.parametrize(
    "state", [b"", b"\x00", b"\xff\xfe\x00'\"\\\n\t{}", bytes(range(256)) * 40], ids=["none", "nul", "odd", "all"]
)
def test_a_state_comes_back_byte_for_byte(clickhouse: Sink, state: bytes) -> None:
    """It ends in a checksum of its own; a store that took it for text would spoil it."""
    store_snapshots([snapshot(17, state)], clickhouse)
    assert stored.newest_snapshot(origin(), clickhouse) == stored.StoredSnapshot(17, "2", state)


def test_the_newest_snapshot_is_the_newest_owners_furthest(clickhouse: Sink) -> None:
    """Whatever an older owner writes later, and however far it came; merged or not."""
    for one in (
        snapshot(90, b"old, far", term=2, after_s=9),
        snapshot(40, b"new", term=3),
        snapshot(50, b"new, further", term=3, after_s=1),
        snapshot(70, b"old", term=2, after_s=5),
    ):
        store_snapshots([one], clickhouse)
    assert stored.newest_snapshot(origin(), clickhouse) == stored.StoredSnapshot(50, "2", b"new, further")
    clickhouse.command("OPTIMIZE TABLE snapshots FINAL")
    assert stored.newest_snapshot(origin(), clickhouse) == stored.StoredSnapshot(50, "2", b"new, further")


def test_a_snapshot_says_that_something_is_being_taken_back(clickhouse: Sink) -> None:
    """Whoever finds it goes on with that, whatever its own versions are."""
    store_snapshots([replace(snapshot(40, b"state"), code_version=stored.TAKING_BACK)], clickhouse)
    found = stored.newest_snapshot(origin(), clickhouse)
    assert found is not None and found.is_taking_back
    store_snapshots([snapshot(40, b"state", after_s=1)], clickhouse)
    found = stored.newest_snapshot(origin(), clickhouse)
    assert found is not None and not found.is_taking_back


def test_of_two_snapshots_at_one_offset_the_later_counts(clickhouse: Sink) -> None:
    """Time passed without records: the state moved on and the offset did not."""
    for after_s, state in ((0, b"then"), (3, b"now")):
        store_snapshots([snapshot(40, state, after_s=after_s)], clickhouse)
    assert stored.newest_snapshot(origin(), clickhouse) == stored.StoredSnapshot(40, "2", b"now")
