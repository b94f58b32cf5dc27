"""State that survives: frozen, thawed and reopened from stored events, a partition goes on as if nothing had been."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import count
from typing import Any, Final

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from processors import snapshot
from processors.duplicates import Hashes
from processors.pipeline import CODE_VERSION, PartitionState, Reference, advance, take_window_rows
from processors.rebuild import reopen
from processors.snapshot import SnapshotError, freeze, thaw
from processors.territory import Rules, Territory
from schemas.contracts import DOMAINS, RAW_TOPICS, Domain
from schemas.records import Batch
from tests.processors.restarts import Lives, in_order
from tests.processors.test_pipeline_properties import RULES, logs, long_log
from tests.support.batches import (
    HOUR,
    MINUTE,
    RECEIVED_MS,
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
)
from tests.support.city import city, town

SENSOR: Final = RAW_TOPICS["sensor"]

quick = settings(derandomize=True, deadline=None, max_examples=25, suppress_health_check=list(HealthCheck))


def shared(*territories: Territory, **limits: Any) -> Callable[[], Reference]:
    """What makes the references of one installation: the same in every life."""
    found = territories or (city(RULES), town())
    return lambda: reference(*found, **{"disorder_ms": 10 * MINUTE, **limits})


def same(lives: Lives, once: Lives) -> None:
    """Everything that readers and receivers see is equal."""
    assert_frame_equal(lives.events, once.events)
    assert lives.refused == once.refused
    assert in_order(lives.transitions) == in_order(once.transitions)
    assert raw_bytes(lives.windows.drop("version")) == raw_bytes(once.windows.drop("version"))


# --- one history, whatever dies


@quick
@given(
    log=logs(),
    sizes=st.lists(st.integers(1, 15), min_size=1, max_size=12),
    deaths=st.sets(st.integers(0, 12)),
    chunk_records=st.integers(1, 40),
)
def test_a_restart_never_shows(
    log: tuple[Domain, list[bytes | None]], sizes: list[int], deaths: set[int], chunk_records: int
) -> None:
    """Stopped between any batches, and in any number of lives: the same events, rejects, windows, alerts."""
    domain, records = log
    whole = batch(records, domain, offsets=[3 * i + (i % 7 == 0) for i in range(len(records))])
    lasting, mortal = (Lives(shared(chunk_records=chunk_records), whole) for _ in range(2))
    lasting.take([whole])
    for number, part in enumerate(cut(whole, sizes)):
        if number in deaths:
            mortal.restart()
        mortal.take([part])
    if not lasting.taken:
        assert mortal.taken == []
        return
    same(mortal, lasting)
    assert mortal.state.watermark_ms == lasting.state.watermark_ms
    assert mortal.state.seen_from == lasting.state.seen_from


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("size", [3, 20])
def test_a_day_with_a_death_after_every_batch(domain: Domain, size: int) -> None:
    """A log long enough to raise and clear the alerts of its domain, every batch in a process of its own."""
    whole = batch(long_log(domain, seed=5, count=140), domain)
    lasting, mortal = (Lives(shared(city(RULES), chunk_records=50), whole) for _ in range(2))
    lasting.take([whole])
    for part in cut(whole, [size] * len(whole)):
        mortal.take([part])
        mortal.restart()
    same(mortal, lasting)
    states = {t.state for t in lasting.transitions}
    assert states >= ({"firing", "resolved"} if domain != "report" else set())
    assert {reason for _, _, reason, _ in lasting.refused} >= {"decode", "duplicate"}


@pytest.mark.parametrize("domain", ["sensor", "lighting", "roadway"])
@pytest.mark.parametrize("size", [1, 7, 5_000])
def test_a_log_shuffled_within_the_disorder_gives_the_same_alerts(domain: Domain, size: int) -> None:
    """Shuffled as far as is allowed, cut anyhow and restarted, it gives the alerts of the log in order, byte for byte,
    and the same windows."""
    records = ordered_log(domain, seed=7)
    rng = random.Random(size)
    arrival = sorted(records, key=lambda record: record["observed_at"] + rng.randrange(10 * MINUTE))
    assert arrival != records
    in_time, shuffled = (batch_of(values, domain) for values in (records, arrival))
    once, lives = (Lives(shared(city(RULES)), whole) for whole in (in_time, shuffled))
    once.take([in_time])
    for number, part in enumerate(cut(shuffled, [size] * len(shuffled))):
        lives.take([part])
        if number % 40 == 0:
            lives.restart()
    end = RECEIVED_MS + 5 * HOUR
    told, expected = (in_order([*one.transitions, *advance(one.state, end, one.shared)]) for one in (lives, once))
    assert repr(told).encode() == repr(expected).encode()
    assert len(expected) > 20
    assert not lives.events["late"].any()
    assert raw_bytes(lives.windows.drop("version")) == raw_bytes(once.windows.drop("version"))


def ordered_log(domain: Domain, seed: int, count: int = 200) -> list[dict[str, Any]]:
    """A day of few assets in order of time, many events at one instant, each with an identity of its own."""
    rng = random.Random(seed)
    choices: dict[Domain, Callable[[], dict[str, Any]]] = {
        "sensor": lambda: {
            "asset_id": rng.choice(("bin-00017", "drop-off-0004")), "sensor_type": "bin",
            "fill_level": rng.choice((0.1, 0.7, 0.95)), "temperature_c": rng.choice((20.0, 95.0, None)),
        },
        "lighting": lambda: {
            "asset_id": rng.choice(("lamp-00001", "lamp-00002")), "power_state": rng.choice(("on", "off")),
            "lamp_status": rng.choice(("ok", "defective_lamp")),
        },
        "roadway": lambda: {"asset_id": "count-0001", "count": 3.0},
        "report": dict,
    }  # fmt: skip
    at, made = RECEIVED_MS - 20 * HOUR, []
    for number in range(count):
        at += rng.choice((0, 0, MINUTE, 5 * MINUTE, 5 * MINUTE, 100 * MINUTE if domain == "roadway" else 10 * MINUTE))
        made.append(event(domain, event_id=f"e-{number}", observed_at=min(at, RECEIVED_MS), **choices[domain]()))
    return made


# --- what a snapshot is


def alive(**limits: Any) -> tuple[PartitionState, Reference, Batch]:
    """A partition in the middle of its second chunk, its rows taken, an alert raised, rows waiting."""
    one = reference(city(RULES), **{"chunk_records": 8, "disorder_ms": MINUTE, **limits})
    values = [*events(10), event(event_id="full", fill_level=0.9, observed_at=RECEIVED_MS - 30 * MINUTE)]
    whole = batch([*encoded("sensor", [*values, event(event_id="next", observed_at=RECEIVED_MS)]), b"junk"])
    state = state_of(whole, one)
    process(whole, state, one)
    take_window_rows(state)
    return state, one, whole


def test_what_comes_back() -> None:
    """Where to read on, which chunks to reopen, how far time had come, and everything that snapshots itself."""
    state, one, whole = alive()
    advance(state, RECEIVED_MS + 20 * MINUTE, one)
    thawed = thaw(freeze(state, whole.last_offset), SENSOR, 0, "sensor", one)
    assert (thawed.last_offset, thawed.chunk_first, thawed.seen_from) == (12, 8, 0)
    assert (thawed.same_versions, thawed.code_version) == (True, CODE_VERSION)
    assert thawed.territory_versions == one.territory_versions == "999999999=999999999-1"
    back = thawed.state
    assert (back.watermark_ms, back.passed_ms) == (RECEIVED_MS - MINUTE, RECEIVED_MS + 19 * MINUTE)
    assert back.clock_ms == state.clock_ms
    assert (back.chunk, back.closed, back.seen.open, back.seen.previous) == (None, [], Hashes(), Hashes())
    for part in ("detectors", "alerts", "held", "refusals"):
        assert getattr(back, part).snapshot() == getattr(state, part).snapshot(), part


def test_rows_that_wait_are_in_it() -> None:
    """What detectors have not been given yet is not lost: the alert is raised in the next life."""
    one = reference(city(RULES), disorder_ms=MINUTE)
    whole = batch_of([event(fill_level=0.9, observed_at=RECEIVED_MS - HOUR)])
    state = state_of(whole, one)
    (outcome,) = process(whole, state, one)
    assert outcome.transitions == ()
    take_window_rows(state)
    back = thaw(freeze(state, 0), SENSOR, 0, "sensor", one).state
    (told,) = advance(back, RECEIVED_MS - HOUR + MINUTE + 1, one)
    assert (told.alertname, told.state) == ("bin_full", "firing")


def test_a_new_partition_can_be_frozen() -> None:
    """Before its first record there is nothing to reopen, and the first record begins the first chunk."""
    one = reference()
    whole = batch_of(events(3), first_offset=5)
    state = state_of(whole, one)
    thawed = thaw(freeze(state, 4), SENSOR, 0, "sensor", one)
    assert (thawed.last_offset, thawed.chunk_first, thawed.seen_from) == (4, None, 0)
    (outcome,) = process(whole, thawed.state, one)
    assert outcome.events["chunk"].to_list() == [5, 5, 5]


def test_a_state_may_be_frozen_again_before_it_is_reopened() -> None:
    """Who dies while taking a partition over leaves nothing behind: the same chunk is reopened in the next life."""
    state, one, whole = alive()
    frozen = freeze(state, whole.last_offset)
    again = freeze(thaw(frozen, SENSOR, 0, "sensor", one).state, whole.last_offset)
    assert again == frozen


def test_no_record_is_read_before_the_chunk_is_reopened() -> None:
    """Its rows would be written with a part of their events, under a version that outranks the whole ones."""
    state, one, whole = alive()
    thawed = thaw(freeze(state, whole.last_offset), SENSOR, 0, "sensor", one)
    more = batch_of([event(event_id="more")], first_offset=13)
    with pytest.raises(ValueError, match="must be reopened"):
        process(more, thawed.state, one)
    reopen(thawed.state, one, pl.DataFrame(), pl.DataFrame(), last_offset=12, chunk_first=8, seen_from=0)
    assert process(more, thawed.state, one)[0].events["chunk"].to_list() == [8]


def test_rows_must_be_taken_before() -> None:
    """Rows that changed and were not taken would be missing from the store for ever: freezing them is refused."""
    one = reference(chunk_records=4)
    whole = batch_of(events(6))
    for part, waiting in ((whole.part(0, 2), "an open chunk"), (whole, "a closed chunk and an open one")):
        state = state_of(whole, one)
        process(part, state, one)
        with pytest.raises(ValueError, match="take_window_rows"):
            freeze(state, part.last_offset)
        take_window_rows(state)
        assert freeze(state, part.last_offset), waiting


@pytest.mark.parametrize("change", ["code", "territory"])
def test_another_version_begins_a_chunk(change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One chunk has one code and one territory version: with others the state goes on, duplicates are known, and the
    next record begins a chunk."""
    state, one, whole = alive()
    frozen = freeze(state, whole.last_offset)
    if change == "code":
        monkeypatch.setattr(snapshot, "CODE_VERSION", "next")
    else:
        one = reference(replace(city(RULES), version="2"), chunk_records=8, disorder_ms=MINUTE)
    thawed = thaw(frozen, SENSOR, 0, "sensor", one)
    assert (thawed.same_versions, thawed.chunk_first, thawed.seen_from) == (False, None, 5)
    assert (thawed.code_version, thawed.territory_versions) == (CODE_VERSION, "999999999=999999999-1")
    lives = Lives(lambda: one, whole)
    lives.take([whole])
    reopen(
        thawed.state, one, lives.chunk(None), lives.between(5, 13), last_offset=12, chunk_first=None, seen_from=5
    )  # fmt: skip
    again = [event(event_id="next"), event(event_id="new", fill_level=0.1, observed_at=RECEIVED_MS + 2 * MINUTE)]
    (outcome,) = process(batch_of(again, first_offset=13), thawed.state, one)
    assert outcome.events["chunk"].to_list() == [13]
    assert outcome.refused["reason"].to_list() == ["duplicate"]
    told = [*outcome.transitions, *advance(thawed.state, RECEIVED_MS + HOUR, one)]
    assert ("bin_full", "resolved") in [(t.alertname, t.state) for t in told]


@pytest.mark.parametrize("records_between", [0, 1, 3, 9])
def test_no_number_of_versions_makes_a_duplicate_forgotten(records_between: int) -> None:
    """However short the chunks become that deploys cut off: what was stored within a chunk's length is known."""
    values = events(20 + 5 * records_between)
    versions = count(1)
    lives = Lives(
        lambda: reference(replace(city(RULES), version=str(next(versions))), chunk_records=10), batch_of(values)
    )
    lives.take([batch_of(values[:20])])
    for deploy in range(5):
        lives.restart()
        assert lives.state.chunk is None
        first = 20 + deploy * records_between
        lives.take([batch_of(values[first : first + records_between], first_offset=first)] * bool(records_between))
    lives.restart()
    lives.take([batch_of(values[-10:], first_offset=len(values))])
    assert [reason for _, _, reason, _ in lives.refused] == ["duplicate"] * 10


def test_what_a_rule_had_raised_that_is_off_is_withdrawn() -> None:
    """A territory that turns a rule off while the worker is away does not leave its alerts open for ever."""
    state, _, whole = alive()
    off = reference(replace(city(Rules(bin_full=None)), version="2"), disorder_ms=MINUTE)
    thawed = thaw(freeze(state, whole.last_offset), SENSOR, 0, "sensor", off)
    assert not thawed.same_versions
    withdrawn = advance(thawed.state, 0, off)
    assert [(t.alertname, t.state) for t in withdrawn] == [("bin_full", "resolved")]


# --- what is none


def test_any_damage_is_noticed() -> None:
    """A bit that flips anywhere, a byte that is missing or too many: never a state, always the one error."""
    state, one, whole = alive()
    good = freeze(state, whole.last_offset)
    rng = random.Random(2)
    damaged = [
        good[:at] + bytes([good[at] ^ (1 << rng.randrange(8))]) + good[at + 1 :] for at in range(0, len(good), 7)
    ]
    for bad in [*damaged, b"", good[:10], good[:-1], good + b"\0", rng.randbytes(200)]:
        with pytest.raises(SnapshotError, match="damaged"):
            thaw(bad, SENSOR, 0, "sensor", one)


@pytest.mark.parametrize(
    ("topic", "partition", "domain"),
    [(SENSOR, 1, "sensor"), ("city.raw.lighting", 0, "lighting"), (SENSOR, 0, "lighting"), ("other", 0, "sensor")],
)
def test_another_place_is_refused(topic: str, partition: int, domain: Domain) -> None:
    """The state of one partition is never taken for that of another."""
    state, one, whole = alive()
    with pytest.raises(SnapshotError, match=f"not of {topic}/{partition}"):
        thaw(freeze(state, whole.last_offset), topic, partition, domain, one)


def tampered(good: bytes, change: Callable[[dict[str, Any], bytes], Sequence[Any]]) -> bytes:
    """A snapshot with another head or other parts, and a checksum that fits."""
    line, _, parts = good[16:].partition(b"\n")
    head, rest = change(json.loads(line), parts)
    body: bytes = (head if isinstance(head, bytes) else json.dumps(head).encode()) + b"\n" + rest
    return snapshot._checksum(body) + body


@pytest.mark.parametrize(
    "change",
    [
        lambda head, parts: (head | {"format": 99}, parts),
        lambda head, parts: (head | {"parts": {}}, parts),
        lambda head, parts: (head | {"parts": 7}, parts),
        lambda head, parts: ({"format": 2}, parts),
        lambda head, parts: ({k: v for k, v in head.items() if k != "last_offset"}, parts),
        lambda head, parts: (b"no json", parts),
        lambda head, parts: (b"[]", parts),
        lambda head, parts: (head, b""),
        lambda head, parts: (head, b"x" * len(parts)),
    ],
)
def test_a_form_that_is_not_read_is_refused(change: Callable[[dict[str, Any], bytes], Sequence[Any]]) -> None:
    """Whole, but of another form: the same one error, so that whoever loads it can rebuild."""
    state, one, whole = alive()
    with pytest.raises(SnapshotError):
        thaw(tampered(freeze(state, whole.last_offset), change), SENSOR, 0, "sensor", one)


def test_a_part_of_tomorrow_does_no_harm() -> None:
    """A newer code may save more: what is not known here is passed over."""
    state, one, whole = alive()
    good = freeze(state, whole.last_offset)
    more = tampered(good, lambda head, parts: (head | {"parts": head["parts"] | {"new": 3}}, parts + b"abc"))
    assert thaw(more, SENSOR, 0, "sensor", one).last_offset == whole.last_offset
