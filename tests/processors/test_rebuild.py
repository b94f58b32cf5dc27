"""What stored events give back: the windows of their chunk to the last step, and who is a duplicate."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from processors.aggregate import WINDOW_SCHEMA
from processors.locate import ZoneSets
from processors.pipeline import new_state, take_window_rows
from processors.rebuild import reopen, window_rows_of
from processors.snapshot import freeze, thaw
from schemas.contracts import DOMAINS, RAW_TOPICS, Domain, contract_of
from schemas.records import Batch
from tests.processors.restarts import Lives, as_stored
from tests.processors.test_pipeline_properties import long_log
from tests.support.batches import (
    DAY,
    HOUR,
    RECEIVED_MS,
    batch,
    batch_of,
    encoded,
    event,
    events,
    process,
    raw_bytes,
    reference,
    state_of,
)
from tests.support.city import CITY, HERE, NOWHERE, THERE, TOWN, both, city, town

_KEY: Final = ("window_start", "jurisdiction_id", "layer", "zone_code", "metric")
_ZONES: Final = pl.List(pl.Struct({"key": pl.String(), "value": pl.String()}))


def extreme_log(domain: Domain) -> Batch:
    """Every measure at the ends of its range, just inside, beyond, and missing; late; in one, two and no zones."""
    contract = contract_of(domain)
    rng = random.Random(1)
    values: list[dict[str, Any]] = []
    for number in range(200):
        changes: dict[str, Any] = {}
        for f in contract.measures:
            assert f.minimum is not None and f.maximum is not None
            ends = [f.minimum, f.maximum, f.minimum + (f.resolution or 0.5) / 2, f.maximum * 10 + 1, -1e300, 0.1 + 0.2]
            chosen = rng.choice([*ends, None, None])
            if f.dtype == pl.Int64() and chosen is not None:
                chosen = max(-(2**62), min(2**62, round(chosen)))
            changes[f.name] = chosen
        longitude, latitude = rng.choice((HERE, THERE, NOWHERE, (None, None)))
        observed = RECEIVED_MS - HOUR + 997 * number - rng.choice((0, 0, 0, 3 * HOUR, 200 * DAY))
        values.append(
            event(domain, event_id=f"e-{number}", longitude=longitude, latitude=latitude, observed_at=observed)
            | changes
        )
    return batch_of(values, domain)


def window_rows(lives: Lives) -> pl.DataFrame:
    return lives.windows.drop("chunk", "version").sort(*_KEY)


# --- windows


@pytest.mark.parametrize("domain", DOMAINS)
def test_stored_events_give_their_window_rows(domain: Domain) -> None:
    """Late ones, nulls, failed readings, the ends of every range, no zone: the rows that were written, exactly."""
    whole = extreme_log(domain)
    lives = Lives(lambda: reference(city()), whole)
    lives.take([whole])
    stored = pl.concat(lives.stored).sample(fraction=1.0, shuffle=True, seed=4)
    found = window_rows_of(stored, domain, reference(city()).locator.sets).sort(*_KEY)
    assert found.schema == WINDOW_SCHEMA
    assert_frame_equal(found, window_rows(lives), check_exact=True)
    assert found["late"].sum() > 0
    assert found["zone_code"].str.len_chars().min() == 0


def test_nothing_stored_is_no_row() -> None:
    """An empty frame, with or without columns, gives no window rows."""
    sets = reference().locator.sets
    assert_frame_equal(window_rows_of(pl.DataFrame(), "sensor", sets), pl.DataFrame(schema=WINDOW_SCHEMA))
    state = state_of(batch_of(events(1)), reference())
    (outcome,) = process(batch_of(events(1)), state, reference())
    assert window_rows_of(as_stored(outcome.events, reference()).clear(), "sensor", sets).is_empty()


def test_texts_may_come_dictionary_encoded() -> None:
    """The store's low-cardinality texts arrive as categories, flags as numbers, and mean the same."""
    whole = extreme_log("lighting")
    lives = Lives(lambda: reference(city()), whole)
    lives.take([whole])
    stored = pl.concat(lives.stored)
    encoded_stored = stored.with_columns(
        pl.col("kind", "jurisdiction_id", "source", "lamp_status", "event_id").cast(pl.Categorical),
        pl.col("late").cast(pl.UInt8),
    )
    shared = reference(city())
    found = window_rows_of(encoded_stored, "lighting", shared.locator.sets)
    assert_frame_equal(found.sort(*_KEY), window_rows(lives))
    state = new_state(RAW_TOPICS["lighting"], 0, "lighting", shared)
    reopen(state, shared, encoded_stored, pl.DataFrame(), last_offset=whole.last_offset, chunk_first=0, seen_from=0)
    assert state.seen.open == lives.state.seen.open


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("at", [1, 57, 139])
def test_a_reopened_chunk_goes_on_as_if_it_had_never_closed(domain: Domain, at: int) -> None:
    """Its rows count as taken; those that change come out whole, under the same name, as without a restart."""
    whole = batch(long_log(domain, seed=5, count=140), domain, first_offset=1_000)
    first, rest = whole.part(0, at), whole.part(at, 140)
    once, twice = (Lives(lambda: reference(city(), chunk_records=100), whole) for _ in range(2))
    for lives in (once, twice):
        lives.take([first])
    twice.restart()
    assert take_window_rows(twice.state) == []
    before = len(once.taken)
    once.take([rest])
    twice.take([rest])
    assert len(once.taken) == len(twice.taken)
    for one, other in zip(once.taken[before:], twice.taken[before:], strict=True):
        assert (one.first_offset, one.last_offset) == (other.first_offset, other.last_offset)
        assert_frame_equal(one.rows.sort(*_KEY), other.rows.sort(*_KEY), check_exact=True)
    assert raw_bytes(once.windows) == raw_bytes(twice.windows)


def test_events_after_the_snapshot_are_read_again() -> None:
    """What was stored after the last snapshot is in no window and no duplicate yet: it comes from the log once more."""
    shared, whole = reference(city(), chunk_records=20), batch_of(events(12))
    lives = Lives(lambda: shared, whole)
    lives.take([whole.part(0, 7)])
    frozen = freeze(lives.state, 6)
    lives.take([whole.part(7, 12)])
    state = thaw(frozen, whole.topic, 0, "sensor", shared).state
    reopen(state, shared, lives.chunk(0), pl.DataFrame(), last_offset=6, chunk_first=0, seen_from=0)
    (outcome,) = process(whole.part(7, 12), state, shared)
    assert outcome.refused.is_empty()
    (rows,) = take_window_rows(state)
    assert rows.rows.filter(metric="bin.events", layer="quarter")["count"].to_list() == [12]


# --- duplicates


def test_duplicates_are_known_in_both_chunks() -> None:
    """Of the open and of the previous chunk, and not of the one before: as without a restart."""
    values = events(30)
    lives = Lives(lambda: reference(city(), chunk_records=10), batch_of(values))
    lives.take([batch_of(values[:25])])
    known = lives.state.seen
    lives.restart()
    assert (lives.state.seen.open, lives.state.seen.previous) == (known.open, known.previous)
    lives.take([batch_of([values[3], values[13], values[23], values[25]], first_offset=25)])
    assert lives.refused == [
        (26, "duplicates", "duplicate", "source and event_id seen before"),
        (27, "duplicates", "duplicate", "source and event_id seen before"),
    ]


def test_a_partition_without_a_snapshot_knows_the_chunk_before() -> None:
    """Rebuilt from the first offset of its last chunk, a partition still tells the duplicates of the one before."""
    values = events(25)
    lives = Lives(lambda: reference(city(), chunk_records=10), batch_of(values))
    lives.take([batch_of(values)])
    lives.begin_anew()
    reopen(
        lives.state, lives.shared, pl.DataFrame(), lives.chunk(10), last_offset=19, chunk_first=None, seen_from=10
    )  # fmt: skip
    again = batch_of([*values[20:25], values[15], values[3]], first_offset=20)
    (outcome,) = process(again, lives.state, lives.shared)
    assert again.offsets[outcome.refused["row"].to_numpy()].tolist() == [25]
    assert outcome.events["chunk"].unique().to_list() == [20]
    assert lives.state.seen_from == 10


# --- zones


def stored_zones(*rows: list[tuple[str, str]] | None) -> pl.Series:
    pairs = [None if row is None else [{"key": layer, "value": code} for layer, code in row] for row in rows]
    return pl.Series("zones", pairs, dtype=_ZONES)


def test_zones_become_numbers_again() -> None:
    """Each combination has one number, in whatever order its layers stand; a layer that is absent has no zone."""
    sets = reference(*both().values()).locator.sets
    known = sets.number(CITY, ("Q02", "NEW"))
    size = len(sets)
    numbers = sets.numbers(
        pl.Series([CITY, CITY, TOWN, CITY, CITY, TOWN, CITY]),
        stored_zones(
            [("quarter", "Q02"), ("sector", "NEW")], [("sector", "NEW"), ("quarter", "Q02")], [("district", "Q01")],
            [("sector", "NEW")], [], [], None,
        ),
    )  # fmt: skip
    assert numbers.dtype == pl.UInt32()
    assert numbers[0] == numbers[1] == known
    assert [sets[number] for number in numbers[2:]] == [
        (TOWN, {"district": "Q01"}), (CITY, {"quarter": "", "sector": "NEW"}), (CITY, {"quarter": "", "sector": ""}),
        (TOWN, {"district": ""}), (CITY, {"quarter": "", "sector": ""}),
    ]  # fmt: skip
    assert numbers[4] == numbers[6]
    again = sets.numbers(pl.Series([CITY] * 3), stored_zones([("sector", "X")], [("sector", "Y")], [("sector", "X")]))
    assert again[0] == again[2] != again[1]
    assert len(sets) <= size + 5


def test_no_rows_have_no_numbers() -> None:
    """An empty column is answered by an empty one."""
    sets = reference().locator.sets
    assert sets.numbers(pl.Series([], dtype=pl.String), pl.Series([], dtype=_ZONES)).to_list() == []


def test_numbers_are_given_once_whoever_asks() -> None:
    """Several partitions are reopened while others are located: each combination has one number, and it is its own."""
    sets = reference().locator.sets
    rows = [[("quarter", f"Q{n % 300}"), ("sector", f"S{n % 7}")] for n in range(3_000)]

    def ask(start: int) -> list[int]:
        moved = rows[start:] + rows[:start]
        found = sets.numbers(pl.Series([CITY] * len(moved)), stored_zones(*moved)).to_list()
        return found[-start:] + found[:-start] if start else found

    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(ask, (0, 700, 1_500, 2_900)))
    assert all(answer == answers[0] for answer in answers)
    named = [(sets[number][1]["quarter"], sets[number][1]["sector"]) for number in answers[0]]
    assert named == [(quarter, sector) for (_, quarter), (_, sector) in rows]


@pytest.mark.parametrize(("jurisdiction", "layer"), [(CITY, "iris"), (TOWN, "quarter"), ("111111111", "quarter")])
def test_zones_of_another_territory_are_refused(jurisdiction: str, layer: str) -> None:
    """A layer or authority that was not declared is named, with what to do: totals of a guess would be wrong."""
    sets = reference(city(), town()).locator.sets
    with pytest.raises(ValueError, match=f"territory {jurisdiction} has no layer for {layer}"):
        sets.numbers(pl.Series([jurisdiction]), stored_zones([(layer, "Q01")]))


def test_an_older_territory_is_declared_by_its_layers() -> None:
    """The audit repairs chunks of any version: "no zone" is counted in the layers of that version, and no others."""
    one = reference(city())
    state = state_of(batch_of(events(3)), one)
    (outcome,) = process(batch_of(events(3)), state, one)
    stored = as_stored(outcome.events, one).with_columns(
        stored_zones(*[[("iris", "0101")], [], [("iris", "0101")]])
    )  # fmt: skip
    sets = ZoneSets()
    sets.add_territory(CITY, ("iris", "commune"))
    found = window_rows_of(stored, "sensor", sets).filter(metric="bin.events")
    assert sorted(found.select("layer", "zone_code", "count").rows()) == [
        ("commune", "", 3), ("iris", "", 1), ("iris", "0101", 2),
    ]  # fmt: skip


def test_bytes_that_are_no_event_do_not_matter() -> None:
    """A chunk of which nothing is stored is reopened empty, and its next events are its first rows."""
    whole = batch([b"junk"] * 4 + encoded("sensor", events(2)))
    lives = Lives(lambda: reference(city()), whole)
    lives.take([whole.part(0, 4)])
    lives.restart()
    assert lives.state.chunk is not None
    lives.take([whole.part(4, 6)])
    assert lives.events["chunk"].to_list() == [0, 0]
    assert [(c.first_offset, c.last_offset) for c in lives.taken] == [(0, 5)]
