"""The ledger: batches handed out in offset order, and offsets that only move when work is durable."""

from __future__ import annotations

import random

import pytest

from processors.pipeline import take_window_rows
from streams.ledger import Cut, Entry, Ledger, Place
from tests.support.batches import Ran, batch, batch_of, events, process, reference, state_of

SENSOR = Place("city.raw.sensor", 0)
OTHER = Place("city.raw.sensor", 1)
SHARED = reference()


def entry() -> Entry:
    return Entry(state_of(batch([b""]), SHARED))


def held(ledger: Ledger, place: Place = SENSOR, next_offset: int | None = None) -> Entry:
    """An entry of the ledger whose state ends before `next_offset`."""
    found = ledger.hold(place, state_of(batch([b""], partition=place.partition), SHARED))
    found.next_offset = found.durable = found.committed = next_offset
    return found


def cut_at(place: Place, next_offset: int) -> Cut:
    return Cut(place, (), (), (), next_offset, 0)


# --- what has arrived


@pytest.mark.parametrize("most", [1, 3, 5, 100])
def test_records_are_taken_in_offset_order_whole_and_once(most: int) -> None:
    """However they arrived, records come out in order, at most so many at a time, none twice and none left."""
    rng = random.Random(3)
    one, start, expected = entry(), 0, []
    for _ in range(12):
        size = rng.randrange(1, 9)
        one.inbox.append(batch([b"%d" % i for i in range(start, start + size)], first_offset=start))
        start += size
    expected = list(range(start))
    assert one.arrived == start
    taken: list[int] = []
    while (part := one.take(most)) is not None:
        assert 1 <= len(part) <= most
        assert part.values == [b"%d" % offset for offset in part.offsets]
        taken += part.offsets.tolist()
        assert one.arrived == start - len(taken)
    assert taken == expected
    assert one.take(most) is None


def test_small_batches_are_joined() -> None:
    """A slow topic brings records one by one; they are worth one round of the stages together."""
    one = entry()
    one.inbox += [batch([b"a"], first_offset=4), batch([b"b", b"c"], first_offset=7)]
    part = one.take(5)
    assert part is not None
    assert (part.offsets.tolist(), list(part.values)) == ([4, 7, 8], [b"a", b"b", b"c"])


# --- what waits


def test_what_is_processed_waits_until_it_is_durable() -> None:
    """Events count as waiting until a flush takes them; an entry is dirty while it has anything to flush."""
    one = entry()
    assert (one.waiting, one.dirty) == (0, False)
    one.outcomes += process(batch_of(events(3)), one.state, SHARED)
    assert (one.waiting, one.dirty) == (3, True)
    one.outcomes.clear()
    one.idle_progress = True
    assert (one.waiting, one.dirty) == (0, True)


def test_the_ledger_adds_up_its_partitions() -> None:
    """What fetching is held back by: arrived and waiting, over all partitions."""
    ledger = Ledger()
    for place in (SENSOR, OTHER):
        one = held(ledger, place)
        one.inbox.append(batch([b"x"] * 4))
        one.outcomes += Ran([batch_of(events(2))], SHARED).outcomes
    assert (ledger.arrived, ledger.waiting, ledger.dirty) == (8, 4, True)
    assert {place for place, _ in ledger} == {SENSOR, OTHER}
    ledger.drop(SENSOR)
    assert (ledger.arrived, ledger.waiting) == (4, 2)
    ledger.drop(SENSOR)


# --- offsets


def test_durable_offsets_only_grow() -> None:
    """A cut that ends where an earlier one did has nothing to commit; one that ends before it never goes back."""
    ledger = Ledger()
    one = held(ledger)
    assert ledger.durable([cut_at(SENSOR, 10)]) == {SENSOR: 10}
    assert ledger.durable([cut_at(SENSOR, 10)]) == {}
    assert ledger.durable([cut_at(SENSOR, 7)]) == {}
    assert ledger.durable([cut_at(SENSOR, 12)]) == {SENSOR: 12}
    assert one.durable == 12


def test_durable_is_not_committed() -> None:
    """What is stored is durable; committed it is when the broker has said so, which is not the ledger's to say."""
    ledger = Ledger()
    one = held(ledger, next_offset=5)
    ledger.durable([cut_at(SENSOR, 9)])
    assert (one.durable, one.committed) == (9, 5)


def test_a_partition_that_is_gone_is_not_committed() -> None:
    """A flush may end after its partition was taken away; its new owner commits."""
    ledger = Ledger()
    held(ledger, OTHER)
    assert ledger.durable([cut_at(SENSOR, 10), cut_at(OTHER, 3)]) == {OTHER: 3}


# --- assignment


def test_partitions_that_are_not_ours_any_more_are_forgotten() -> None:
    """Their state would be stale when they come back."""
    ledger = Ledger()
    kept = held(ledger, SENSOR)
    held(ledger, OTHER)
    ledger.keep_only([SENSOR])
    assert [(place, found) for place, found in ledger] == [(SENSOR, kept)]
    ledger.keep_only([])
    assert ledger.get(SENSOR) is None


def test_state_that_ends_where_reading_resumes_is_kept() -> None:
    """A rebalance that leaves a partition with its owner keeps its state; what had only arrived is read again."""
    ledger = Ledger()
    one = held(ledger, next_offset=10)
    one.inbox.append(batch([b"x"], first_offset=10))
    ledger.resume({SENSOR: 10})
    assert ledger.get(SENSOR) is one
    assert one.inbox == []


@pytest.mark.parametrize("offset", [9, 11, None])
def test_state_that_ends_elsewhere_is_forgotten(offset: int | None) -> None:
    """It would count what is read again twice, or miss what it never saw."""
    ledger = Ledger()
    held(ledger, next_offset=10)
    ledger.resume({SENSOR: offset})
    assert ledger.get(SENSOR) is None


def test_state_with_work_that_is_not_durable_is_forgotten() -> None:
    """Offsets resume at what was committed; what was processed beyond it is processed again, from a clean state."""
    ledger = Ledger()
    one = held(ledger, next_offset=0)
    one.outcomes += process(batch_of(events(2)), one.state, SHARED)
    assert take_window_rows(one.state)
    ledger.resume({SENSOR: 0})
    assert ledger.get(SENSOR) is None


def test_resuming_a_partition_that_is_not_held_does_nothing() -> None:
    """The first assignment finds an empty ledger."""
    ledger = Ledger()
    ledger.resume({SENSOR: 4})
    assert ledger.get(SENSOR) is None


def test_places_have_an_order() -> None:
    """Flushes go through partitions in one order, so that two runs write the same blocks."""
    assert sorted([Place("b", 0), Place("a", 2), Place("a", 1)]) == [Place("a", 1), Place("a", 2), Place("b", 0)]
