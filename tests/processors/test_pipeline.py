"""The whole way of the data: every example of the contracts, chunks and their rows, and the passing of time."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, Final

import polars as pl
import pytest

from processors.pipeline import Limits, advance, new_state, take_window_rows
from processors.validate import ClockLimits
from schemas.contracts import DOMAINS, Domain, contract_of, examples
from schemas.records import Block, Rows
from schemas.rejects import REJECT_SCHEMA, Reason
from tests.support.batches import (
    DAY,
    HOUR,
    MINUTE,
    RECEIVED_MS,
    Ran,
    batch,
    batch_of,
    cut,
    encoded,
    event,
    events,
    process,
    raw_bytes,
    reference,
    state_of,
    zones_of,
)
from tests.support.blocks import blocks_of
from tests.support.city import CITY, TOWN, city, town

every_domain = pytest.mark.parametrize("domain", DOMAINS)

# --- the examples of the contracts


def example_bytes(domain: Domain, example: dict[str, Any]) -> bytes:
    """The record value of an example: its bytes, or its value encoded."""
    if "hex" in example:
        return bytes.fromhex(example["hex"])
    contract = contract_of(domain)
    left_out = {f.name: f.symbols[0] if f.symbols else None for f in contract.fields if f.nullable or f.symbols}
    return encoded(domain, [left_out | example["value"]])[0]


_GOOD: Final = [(d, example) for d in DOMAINS for example in examples(contract_of(d).name, "good")]
_BAD: Final = [(d, example) for d in DOMAINS for example in examples(contract_of(d).name, "bad")]


@pytest.mark.parametrize(("domain", "example"), _GOOD, ids=[f"{d}: {e['note']}" for d, e in _GOOD])
def test_good_examples_are_stored(domain: Domain, example: dict[str, Any]) -> None:
    """Each good example of each contract comes out as one event with the values that went in."""
    ran = Ran([batch([example_bytes(domain, example)], domain)], reference())
    assert ran.refused == []
    (stored,) = ran.events.iter_rows(named=True)
    measures = {f.name for f in contract_of(domain).fields if f.dtype == pl.Float64()} - {"longitude", "latitude"}
    blind = example["value"].get("uptime_ratio") == 0
    for name in measures - ({"count", "speed_kmh", "occupancy_ratio"} if blind else set()):
        value = example["value"].get(name)
        assert stored[name] == value or (value is not None and not math.isfinite(value)), name
    assert stored["event_id"] == example["value"]["event_id"]
    assert (stored["quality"] == 4) == ("flagged FAIL" in example["note"])


@pytest.mark.parametrize(("domain", "example"), _BAD, ids=[f"{d}: {e['note']}" for d, e in _BAD])
def test_bad_examples_are_refused_with_their_reason(domain: Domain, example: dict[str, Any]) -> None:
    """Each bad example of each contract is refused, with exactly the reason that stands beside it."""
    ran = Ran([batch([example_bytes(domain, example)], domain)], reference())
    assert ran.events.is_empty()
    assert [reason for _, _, reason, _ in ran.refused] == [example["reason"]]


@every_domain
def test_bad_examples_do_not_harm_their_neighbours(domain: Domain) -> None:
    """All examples of a contract in one batch, good and bad by turns, end as they do alone."""
    good = [example for d, example in _GOOD if d == domain]
    bad = [example for d, example in _BAD if d == domain]
    mixed = [e for pair in zip(bad, good * 4, strict=False) for e in pair]
    seen: set[tuple[str, str]] = set()
    expected: list[str | None] = []
    for example in mixed:
        identity = (example["value"]["source"], example["value"]["event_id"]) if "value" in example else ("", "")
        repeated = "reason" not in example and identity in seen
        expected.append(example.get("reason", "duplicate" if repeated else None))
        if "reason" not in example:
            seen.add(identity)
    ran = Ran([batch([example_bytes(domain, example) for example in mixed], domain)], reference())
    reasons = {offset: reason for offset, _, reason, _ in ran.refused}
    assert [reasons.get(offset) for offset in range(len(mixed))] == expected
    assert ran.events["offset"].to_list() == [i for i, reason in enumerate(expected) if reason is None]


def test_every_reason_of_the_stages_has_an_example() -> None:
    """The list of reasons is closed and each is shown; what only a limit or a neighbour causes has a test below."""
    shown = {example["reason"] for _, example in _BAD}
    elsewhere = {Reason.TOO_LARGE, Reason.DUPLICATE, Reason.SINK}
    assert shown | {reason.value for reason in elsewhere} == {reason.value for reason in Reason}
    assert shown.isdisjoint(elsewhere)


# --- what an outcome is


def test_every_record_is_in_exactly_one_frame() -> None:
    """Events and rejects of a batch are its records, each once, and both say which record they are."""
    far = event(event_id="far", asset_id="unregistered", longitude=-140.0, latitude=1.0)
    values = encoded("sensor", [*events(3), event(event_id=""), far])
    values.insert(1, b"nothing")
    ran = Ran([batch([*values, None, values[0]], first_offset=70)], reference())
    (outcome,) = ran.outcomes
    assert sorted([*outcome.events["row"], *outcome.refused["row"]]) == list(range(8))
    assert outcome.refused.schema == REJECT_SCHEMA
    assert {offset: reason for offset, _, reason, _ in ran.refused} == {
        71: "decode", 74: "contract", 75: "out_of_area", 76: "decode", 77: "duplicate",
    }  # fmt: skip
    assert outcome.events["offset"].to_list() == [70, 72, 73]
    assert outcome.events["chunk"].unique().to_list() == [70]
    assert outcome.events["domain"].unique().to_list() == ["sensor"]


def test_records_are_let_go_where_none_was_refused() -> None:
    """What waits to be stored does not hold what was fetched; a refused record is kept for its dead letter."""
    good = Ran([batch(encoded("sensor", events(3)), first_offset=70)], reference()).outcomes[0]
    assert list(good.lean().batch.pieces) == []
    assert good.lean().batch.offsets.tolist() == [70, 71, 72]
    assert good.lean().events is good.events
    bad = Ran([batch([*encoded("sensor", events(1)), b"nothing"], first_offset=70)], reference()).outcomes[0]
    assert bad.lean().batch.original(1)[1] == b"nothing"


def test_a_record_that_is_too_large_is_refused_unread() -> None:
    """Whatever its bytes are, its reason is its size, the detail names the limit, and its neighbours are untouched."""
    good = encoded("sensor", events(2))
    limit = max(map(len, good))
    values = [good[0], good[0] + b"x" * limit, b"x" * (limit + 1), good[1], b"x" * limit]
    ran = Ran([batch(values)], reference(max_record_bytes=limit))
    assert ran.events["offset"].to_list() == [0, 3]
    assert [(offset, reason) for offset, _, reason, _ in ran.refused] == [
        (1, "too_large"), (2, "too_large"), (4, "decode"),
    ]  # fmt: skip
    assert str(limit) in ran.refused[0][3]


def test_an_event_that_is_refused_does_not_make_its_twin_a_duplicate() -> None:
    """Sent again after its clock was mended, an event is stored: only stored ones are remembered."""
    ran = Ran([batch_of([event(observed_at=0), event(), event()])], reference())
    assert ran.events["offset"].to_list() == [1]
    assert [(offset, reason) for offset, _, reason, _ in ran.refused] == [(0, "quality"), (2, "duplicate")]


def test_duplicates_are_found_across_batches_and_chunks() -> None:
    """The first of an event counts, in this chunk or the one before; in the third chunk it counts anew."""
    twin = event(event_id="twin")
    others = events(20)
    values = [twin, *others[:3], twin, *others[3:10], twin, *others[10:16], event(event_id="twin", source="other")]
    ran = Ran([batch_of(values)], reference(chunk_records=8))
    assert [offset for offset, _, reason, _ in ran.refused if reason == "duplicate"] == [4, 12]
    assert 19 in ran.events["offset"]


def test_an_event_two_chunks_later_counts_anew() -> None:
    """Memory is two chunks; an older repeat is left to the audit."""
    twin = event(event_id="twin")
    ran = Ran([batch_of([twin, *events(9), twin])], reference(chunk_records=5))
    assert ran.refused == []


def test_limits_of_the_installation_are_used() -> None:
    """Clock and disorder are settings: what they allow is what the stages allow."""
    tight = Limits(clock=ClockLimits(max_future_ms=1_000, max_age_ms=2 * HOUR), disorder_ms=0)
    shared = reference(clock=tight.clock, disorder_ms=tight.disorder_ms)
    values = [
        event(event_id="1", observed_at=RECEIVED_MS - HOUR),
        event(event_id="2", observed_at=RECEIVED_MS - HOUR - 1),
        event(event_id="3", observed_at=RECEIVED_MS + 1_001),
        event(event_id="4", observed_at=RECEIVED_MS - 2 * HOUR - 1),
    ]
    ran = Ran([batch_of(values)], shared)
    assert [reason for _, _, reason, _ in ran.refused] == ["future", "quality"]
    assert ran.events["late"].to_list() == [False, True]
    assert ran.state.watermark_ms == RECEIVED_MS - HOUR


def test_two_authorities_share_a_partition_and_no_row() -> None:
    """Their events are counted in their own zones, under their own jurisdiction."""
    values = [event(event_id="1"), event(event_id="2", jurisdiction_id=TOWN), event(event_id="3", jurisdiction_id=TOWN)]
    ran = Ran([batch_of(values)], reference(city(), town()))
    counted = ran.windows.filter(metric="bin.events").select("jurisdiction_id", "layer", "zone_code", "count").rows()
    assert sorted(counted) == [
        (TOWN, "district", "Q01", 2), (CITY, "quarter", "Q02", 1), (CITY, "sector", "NEW", 1),
    ]  # fmt: skip


# --- chunks


def test_a_chunk_is_named_by_its_first_offset_and_ends_by_offset() -> None:
    """Chunks are cut by offsets, not by records or batches: gaps in the log do not move their ends."""
    offsets = [100, 101, 107, 109, 110, 118, 121, 135]
    ran = Ran([batch_of(events(8), offsets=offsets)], reference(chunk_records=10))
    assert ran.events.select("offset", "chunk").rows() == [
        (100, 100), (101, 100), (107, 100), (109, 100), (110, 110), (118, 110), (121, 121), (135, 135),
    ]  # fmt: skip
    assert [(t.first_offset, t.last_offset) for t in ran.taken] == [(100, 109), (110, 118), (121, 121), (135, 135)]


def test_the_end_of_a_chunk_takes_no_block_apart() -> None:
    """A block that lies in two chunks is decoded as it came; of a record that is refused its own bytes are found."""
    whole = batch(encoded("sensor", [*events(9), events(1)[0]]))
    (block,) = blocks_of(whole, []).pieces
    assert isinstance(block, Block)
    unpacked = []

    def unpack() -> Rows:
        unpacked.append(1)
        return block.unpack()

    watched = replace(whole, pieces=[replace(block, unpack=unpack)])
    ran = Ran([watched], reference(chunk_records=6))
    assert ran.events["chunk"].to_list() == [0] * 6 + [6] * 3
    assert unpacked == []
    last = ran.outcomes[-1]
    assert last.refused["row"].to_list() == [3]
    assert last.batch.original(3) == whole.original(9)
    assert last.batch.size_bytes == block.size_bytes * 4 // 10


def test_a_chunk_has_the_rows_of_its_own_records_only() -> None:
    """The same minute and zone in two chunks is two rows; readers add them up."""
    ran = Ran([batch_of(events(10))], reference(chunk_records=6))
    counted = ran.windows.filter(metric="bin.events", layer="quarter").select("chunk", "count").rows()
    assert counted == [(0, 6), (6, 4)]


def test_rejects_belong_to_the_chunk_and_make_no_rows() -> None:
    """A chunk of rejects alone has nothing to write; the next one is named by its own first offset all the same."""
    ran = Ran([batch([b"x"] * 4 + encoded("sensor", events(2)))], reference(chunk_records=4))
    assert [(t.first_offset, t.last_offset) for t in ran.taken] == [(4, 5)]
    assert ran.events["chunk"].to_list() == [4, 4]


def test_window_rows_are_taken_once_with_the_last_offset_as_version() -> None:
    """A take gives what changed, whole, under the version that says how far it goes; a closed chunk gives its last."""
    shared = reference(chunk_records=8)
    values = encoded("sensor", events(12))
    first = batch(values[:5])
    state = state_of(first, shared)
    assert take_window_rows(state) == []
    process(first, state, shared)
    (taken,) = take_window_rows(state)
    assert (taken.first_offset, taken.last_offset) == (0, 4)
    assert taken.rows.filter(metric="bin.events", layer="quarter")["count"].to_list() == [5]
    assert take_window_rows(state) == []
    process(batch(values[5:], first_offset=5), state, shared)
    closed, opened = take_window_rows(state)
    assert (closed.first_offset, closed.last_offset, opened.first_offset, opened.last_offset) == (0, 7, 8, 11)
    assert closed.rows.filter(metric="bin.events", layer="quarter")["count"].to_list() == [8]
    assert take_window_rows(state) == []


def test_a_late_event_adds_to_the_window_it_belongs_to() -> None:
    """However late, it is stored, marked and counted in its own minute: no total waits for it, none forgets it."""
    late = event(event_id="late", observed_at=RECEIVED_MS - 40 * DAY)
    ran = Ran([batch_of([*events(3), late])], reference(disorder_ms=MINUTE))
    assert ran.events["late"].to_list() == [False, False, False, True]
    old = ran.windows.filter(pl.col("window_start").dt.epoch("ms") < RECEIVED_MS - 39 * DAY, metric="bin.events")
    assert old.select("layer", "count", "late").rows() == [("quarter", 1, 1), ("sector", 1, 1)]


# --- time


def test_time_alone_raises_silence() -> None:
    """A partition that is read to its end lets time pass: an asset that says nothing more is told of, once."""
    shared = reference()
    one = batch_of([event(observed_at=RECEIVED_MS - HOUR)])
    state = state_of(one, shared)
    process(one, state, shared)
    assert advance(state, RECEIVED_MS, shared) == ()
    (told,) = advance(state, RECEIVED_MS + 2 * HOUR, shared)
    assert (told.alertname, told.asset_id, told.state) == ("silent", "bin-00017", "firing")
    assert advance(state, RECEIVED_MS + 2 * HOUR, shared) == ()
    assert advance(state, RECEIVED_MS, shared) == ()
    assert state.clock_ms == RECEIVED_MS + 2 * HOUR


def test_time_that_passes_makes_nobody_late() -> None:
    """The wall clock moves alerts and never a stored row: who is late follows from the records alone."""
    shared = reference()
    first, second = cut(batch_of(events(6)), [3])
    rows = []
    for now_ms in (0, RECEIVED_MS + HOUR):
        state = state_of(first, shared)
        process(first, state, shared)
        advance(state, now_ms, shared)
        (outcome,) = process(second, state, shared)
        rows.append((raw_bytes(outcome.events), state.watermark_ms))
    assert rows[0] == rows[1]


def test_a_new_partition_knows_nothing() -> None:
    """No watermark, no chunk, nothing to take."""
    state = new_state("city.raw.sensor", 3, "sensor", reference())
    assert (state.watermark_ms, state.chunk, take_window_rows(state)) == (0, None, [])


def test_zone_sets_name_the_zones_of_the_stored_event() -> None:
    """The number an event carries stands for one code per layer of its own authority."""
    shared = reference(city(), town())
    ran = Ran([batch_of([event(), event(jurisdiction_id=TOWN, event_id="2")])], shared)
    assert ran.events["zones"].to_list() == ["quarter=Q02 sector=NEW", "district=Q01"]
    assert zones_of(shared, 0) == "district="
