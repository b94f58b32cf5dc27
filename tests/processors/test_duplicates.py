"""The stage `duplicates`: the same event twice within two chunks of its partition is stored once."""

from __future__ import annotations

import random
from collections.abc import Iterable

import numpy as np
import polars as pl
import pytest

from processors.duplicates import STAGE, Hashes, Seen, drop_duplicates, identities
from schemas.rejects import Reason

Pair = tuple[str, str]


def rows(pairs: Iterable[Pair]) -> pl.DataFrame:
    """Rows of (source, event_id)."""
    schema = {"source": pl.String(), "event_id": pl.String()}
    return pl.DataFrame(list(pairs), schema=schema, orient="row").with_row_index("row")


def kept(pairs: Iterable[Pair], seen: Seen) -> list[int]:
    """Numbers of the rows that stay; the others must be refused as duplicates."""
    frame = rows(pairs)
    events, refused = drop_duplicates(frame, seen)
    assert sorted([*events["row"], *refused["row"]]) == list(range(len(frame)))
    assert set(refused.select("stage", "reason").rows()) <= {(STAGE, Reason.DUPLICATE.value)}
    return events["row"].to_list()


def test_the_first_of_each_event_stays() -> None:
    """Within a batch the earliest offset wins, whatever stands between."""
    assert kept([("a", "1"), ("a", "2"), ("a", "1"), ("b", "1"), ("a", "1")], Seen()) == [0, 1, 3]


def test_the_same_id_of_another_source_is_another_event() -> None:
    """`event_id` is unique within its source only."""
    seen = Seen()
    assert kept([("a", "1")], seen) == [0]
    assert kept([("b", "1"), ("a", "1")], seen) == [0]


@pytest.mark.parametrize("mark", ["\x00", "|", "/", "", " "])
def test_no_character_joins_two_pairs_into_one(mark: str) -> None:
    """Whatever parts source and id elsewhere may stand in either of them without making two events one."""
    pairs = [(f"a{mark}b", "c"), ("a", f"b{mark}c"), ("c", f"a{mark}b"), ("ac", f"{mark}b")]
    assert kept(pairs, Seen()) == [0, 1, 2, 3]


def test_duplicates_are_found_in_the_open_and_the_previous_chunk() -> None:
    """An event is remembered until its chunk is the last but one; after that it counts as new."""
    seen = Seen()
    assert kept([("a", "1"), ("a", "2")], seen) == [0, 1]
    seen.next_chunk()
    assert kept([("a", "1"), ("a", "3")], seen) == [1]
    seen.next_chunk()
    assert kept([("a", "3"), ("a", "2")], seen) == [1], "2 was only in the chunk before the previous one"


def test_only_what_is_stored_is_remembered() -> None:
    """A duplicate does not lengthen the memory of its event: stored rows give the memory back after a restart, and of
    duplicates there are none. So a device that repeats itself is told once in two chunks."""
    seen = Seen()
    found = []
    for _ in range(6):
        found.append(len(kept([("a", "1"), ("a", "1")], seen)))
        seen.next_chunk()
    assert found == [1, 0, 1, 0, 1, 0]


@pytest.mark.parametrize("size", [1, 7, 1_000])
def test_the_cut_of_the_batches_does_not_matter(size: int) -> None:
    """Which rows are duplicates depends on their order alone."""
    rng = random.Random(11)
    pairs = [(rng.choice("ab"), str(rng.randrange(200))) for _ in range(1_000)]
    first = {pair: number for number, pair in reversed(list(enumerate(pairs)))}
    seen, found = Seen(), []
    for start in range(0, len(pairs), size):
        found += [start + row for row in kept(pairs[start : start + size], seen)]
    assert found == sorted(first.values())


def test_different_events_have_different_identities() -> None:
    """A hundred thousand events of a hundred gateways: no two share a hash."""
    pairs = [(f"gateway-{i % 100}", f"event-{i // 100}") for i in range(100_000)]
    assert identities(rows(pairs)).n_unique() == len(pairs)


def test_no_rows_change_nothing() -> None:
    """An empty frame is no event and no reject."""
    seen = Seen()
    assert kept([], seen) == []
    assert not seen.open


def test_hashes_are_a_set() -> None:
    """However they are added: what is in it, how many they are, and when two are equal."""
    rng = np.random.default_rng(7)
    hashes, model, cuts = Hashes(), set[int](), (1, 1, 40, 3, 500, 499, 2, 60, 1, 1)
    for count in cuts:
        some = np.unique(rng.integers(0, 3_000, count).astype(np.uint64) << np.uint64(50))
        assert hashes.have(some).tolist() == [value in model for value in some.tolist()]
        new = some[~hashes.have(some)]
        hashes.add(new)
        model |= set(new.tolist())
        assert len(hashes) == len(model)
    every = np.arange(3_000, dtype=np.uint64) << np.uint64(50)
    assert every[hashes.have(every)].tolist() == sorted(model)
    assert hashes == Hashes(np.array([*model, *model], np.uint64))
    assert hashes != Hashes(np.array(sorted(model)[1:], np.uint64))
    assert not Hashes()
