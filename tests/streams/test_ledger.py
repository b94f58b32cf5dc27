"""The ledger: batches handed out in offset order, and offsets that only move when work is durable."""

from __future__ import annotations

import random
from dataclasses import replace

import polars as pl
import pytest

from sinks.rows import Origin
from sinks.store import Pass
from sinks.stored import Tail
from streams.ledger import Cut, Entry, Ledger, Place, in_company
from tests.support.batches import Ran, batch, batch_of, events, process, reference, state_of
from tests.support.blocks import blocks_of

SENSOR = Place("city.raw.sensor", 0)
OTHER = Place("city.raw.sensor", 1)
SHARED = reference()


def origin(place: Place = SENSOR, term: int = 1) -> Origin:
    return Origin(place.topic, place.partition, "T1", term)


def entry(place: Place = SENSOR, next_offset: int = 0, term: int = 1) -> Entry:
    state = state_of(batch([b""], partition=place.partition), SHARED)
    return Entry(state, origin(place, term), next_offset)


def held(ledger: Ledger, place: Place = SENSOR, next_offset: int = 0, term: int = 1) -> Entry:
    """An entry of the ledger whose state ends before `next_offset`."""
    found = entry(place, next_offset, term)
    ledger.hold(place, found)
    return found


def cut_at(place: Place, next_offset: int, term: int = 1) -> Cut:
    return Cut(place, origin(place, term), (), (), (), next_offset, 0)


def tail(last: int) -> Tail:
    return Tail(pl.Series("offset", [last], pl.Int64), pl.Series("offset", [], pl.Int64), frozenset(), frozenset())


# --- what has arrived


@pytest.mark.parametrize(
    ("arrived", "groups"),
    [
        ([], []),
        ([0, 0], [[0, 1]]),
        ([3, 4, 3], [[0, 1, 2]]),
        ([3, 4, 4], [[0, 1], [2]]),
        ([10, 1, 25, 0, 2], [[0], [1], [2, 3], [4]]),
        ([25, 25], [[0], [1]]),
    ],
)
def test_small_batches_go_in_company(arrived: list[int], groups: list[list[int]]) -> None:
    """Partitions in their order, together as long as they have no more than ten records: nobody is left out, and who
    has more goes with nobody who has any."""
    entries = []
    for number, count in enumerate(arrived):
        one = entry(Place(SENSOR.topic, number))
        one.inbox = [batch([b""] * count, partition=number)] if count else []
        entries.append((Place(SENSOR.topic, number), one))
    found = [[place.partition for place, _ in group] for group in in_company(entries, 10)]
    assert found == groups


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


@pytest.mark.parametrize(
    ("blocks", "taken"),
    [
        ([4, 4, 4, 4], [8, 8]),
        ([10, 1], [10, 1]),
        ([11, 3], [11, 3]),
        ([20, 3], [20, 3]),
        ([21, 3], [20, 4]),
        ([3, 12, 2], [3, 12, 2]),
    ],
)
def test_blocks_are_taken_whole(blocks: list[int], taken: list[int]) -> None:
    """Ten records are wanted at once: as many whole blocks as have no more, and one that is somewhat larger."""
    one = entry()
    whole = batch([b"%d" % i for i in range(sum(blocks))])
    one.inbox.append(blocks_of(whole, blocks))
    found = []
    while (part := one.take(10)) is not None:
        found.append(part)
    assert [len(part) for part in found] == taken
    assert [value for part in found for value in part.values] == whole.values


def test_single_records_behind_a_block_fill_the_batch() -> None:
    """They are cut anywhere."""
    one = entry()
    one.inbox += [blocks_of(batch([b"x"] * 4), []), batch([b"y"] * 20, first_offset=4)]
    first = one.take(10)
    assert first is not None
    assert first.values == [b"x"] * 4 + [b"y"] * 6


def test_small_batches_are_joined() -> None:
    """A slow topic brings records one by one; they are worth one round of the stages together."""
    one = entry()
    one.inbox += [batch([b"a"], first_offset=4), batch([b"b", b"c"], first_offset=7)]
    part = one.take(5)
    assert part is not None
    assert (part.offsets.tolist(), list(part.values)) == ([4, 7, 8], [b"a", b"b", b"c"])


def test_records_are_not_taken_beyond_where_time_is_due_to_pass() -> None:
    """Time passed there before, so it is to pass there again: the batch ends at that offset, wherever it was cut."""
    one = entry()
    one.due += [Pass(3, 100), Pass(6, 200)]
    one.inbox += [batch([b"x"] * 2), batch([b"x"] * 8, first_offset=2)]
    taken = []
    while (part := one.take(100)) is not None:
        taken.append(part.offsets.tolist())
        while one.due and one.due[0].offset <= part.last_offset:
            one.due.pop(0)
    assert taken == [[0, 1], [2, 3], [4, 5, 6], [7, 8, 9]]


# --- what waits


def test_a_new_entry_has_nothing_to_do() -> None:
    """A partition that was taken up at its snapshot is stored and durable up to there, and nothing waits."""
    one = entry(next_offset=40)
    assert (one.stored, one.durable, one.fetched, one.committed) == (40, 40, 40, None)
    assert (one.waiting, one.dirty, one.unsaved) == (0, False, False)


def test_what_is_processed_waits_until_it_is_stored() -> None:
    """Events count as waiting until a flush takes them; an entry is dirty while it has anything to flush."""
    one = entry()
    one.outcomes += process(batch_of(events(3)), one.state, SHARED)
    assert (one.waiting, one.dirty) == (3, True)
    one.outcomes.clear()
    assert (one.waiting, one.dirty) == (0, False)
    one.next_offset = 3
    assert one.dirty, "records that became nothing to store were processed all the same"
    one.stored = 3
    assert (one.dirty, one.unsaved) == (False, True), "stored, but a restart would begin before it"
    one.durable = 3
    assert not one.unsaved


def test_time_that_passed_waits_for_a_snapshot_only() -> None:
    """It gives no row; a snapshot that lacks it would let it pass again."""
    one = entry()
    one.idle_progress = True
    assert (one.dirty, one.unsaved) == (False, True)


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
    assert (ledger.arrived, ledger.waiting, len(ledger)) == (4, 2, 1)
    ledger.drop(SENSOR)


def test_every_step_is_progress() -> None:
    """Processed, stored, durable: the watchdog sees a number change at each of them."""
    ledger = Ledger()
    one = held(ledger)
    seen = [ledger.progress]
    one.next_offset = 5
    seen.append(ledger.progress)
    ledger.stored([cut_at(SENSOR, 5)])
    seen.append(ledger.progress)
    ledger.durable([cut_at(SENSOR, 5)])
    seen.append(ledger.progress)
    assert seen == sorted(set(seen))


# --- offsets


def test_offsets_only_grow() -> None:
    """A cut that ends before an earlier one never brings stored or durable back."""
    ledger = Ledger()
    one = held(ledger)
    for offset, reached in ((10, 10), (7, 10), (12, 12)):
        ledger.stored([cut_at(SENSOR, offset)])
        ledger.durable([cut_at(SENSOR, offset)])
        assert (one.stored, one.durable) == (reached, reached)


def test_stored_is_not_durable() -> None:
    """Rows that are stored are read again after a restart until a snapshot includes them."""
    ledger = Ledger()
    one = held(ledger)
    ledger.stored([cut_at(SENSOR, 9)])
    assert (one.stored, one.durable) == (9, 0)
    assert ledger.uncommitted(1.0) == {SENSOR: 0}


def test_durable_offsets_are_to_be_committed_until_kafka_has_said_so() -> None:
    """Committed is what the broker has taken, which is not the ledger's to say."""
    ledger = Ledger()
    one = held(ledger)
    assert ledger.durable([cut_at(SENSOR, 10)]) == {SENSOR: 10}
    assert one.committed is None
    assert ledger.durable([cut_at(SENSOR, 10)]) == {SENSOR: 10}, "the first commit may have failed"
    one.committed = 10
    assert ledger.durable([cut_at(SENSOR, 10)]) == {}
    assert ledger.durable([cut_at(SENSOR, 12)]) == {SENSOR: 12}


def test_what_was_offered_lately_is_not_offered_again() -> None:
    """A broker that is away is asked again after a while, and not at every flush."""
    ledger = Ledger()
    one, other = held(ledger, next_offset=4), held(ledger, OTHER, next_offset=6)
    one.commit_s, other.commit_s = 100.0, 90.0
    assert ledger.uncommitted(95.0) == {OTHER: 6}
    assert ledger.uncommitted(100.0) == {SENSOR: 4, OTHER: 6}
    one.committed, other.committed = 4, 5
    assert ledger.uncommitted(100.0) == {OTHER: 6}


def test_a_partition_that_is_gone_is_not_committed() -> None:
    """A flush may end after its partition was taken away; its new owner commits."""
    ledger = Ledger()
    held(ledger, OTHER)
    ledger.stored([cut_at(SENSOR, 10), cut_at(OTHER, 3)])
    assert ledger.durable([cut_at(SENSOR, 10), cut_at(OTHER, 3)]) == {OTHER: 3}


def test_a_cut_of_an_earlier_owner_moves_nothing() -> None:
    """A partition that went and came back has another term: what was cut before says nothing about its state now."""
    ledger = Ledger()
    one = held(ledger, next_offset=5, term=8)
    old = cut_at(SENSOR, 50, term=7)
    ledger.stored([old])
    assert ledger.durable([old]) == {}
    other = replace(old, origin=replace(old.origin, epoch="T2", term=8))
    ledger.stored([other])
    assert ledger.durable([other]) == {}
    assert (one.stored, one.durable) == (5, 5)


# --- what a former owner had stored


def test_the_tail_is_known_until_it_has_been_stored_again() -> None:
    """As long as one of its records may come, it must be skipped; then it is forgotten."""
    ledger = Ledger()
    one = held(ledger)
    one.tail = tail(last=9)
    for offset, known in ((5, True), (9, True), (10, False)):
        ledger.stored([cut_at(SENSOR, offset)])
        assert (one.tail is not None) is known


def test_the_last_offset_of_a_tail_is_that_of_an_event_or_a_reject() -> None:
    """Whichever is further; a tail of nothing ends before the first offset."""
    none = pl.Series("offset", [], pl.Int64)
    some, more = pl.Series("offset", [4, 7], pl.Int64), pl.Series("offset", [5, 8], pl.Int64)
    blank = Tail(none, none, frozenset(), frozenset())
    assert [replace(blank, events=e, rejects=r).last for e, r in ((none, none), (some, none), (some, more))] == [
        -1, 7, 8,
    ]  # fmt: skip


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


def test_a_partition_that_is_taken_up_again_begins_anew() -> None:
    """Nothing of what was known before is mixed with its new state."""
    ledger = Ledger()
    before = held(ledger, next_offset=10)
    before.inbox.append(batch([b"x"], first_offset=10))
    after = held(ledger, next_offset=4, term=2)
    assert ledger.get(SENSOR) is after
    assert (ledger.arrived, ledger.progress) == (0, 12)


def test_places_have_an_order() -> None:
    """Flushes go through partitions in one order, so that two runs write the same blocks."""
    assert sorted([Place("b", 0), Place("a", 2), Place("a", 1)]) == [Place("a", 1), Place("a", 2), Place("b", 0)]
