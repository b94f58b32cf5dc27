"""The records of a chaos run: about now, at the rate asked for, of every kind, and each with its true fate."""

from __future__ import annotations

from collections import Counter, defaultdict
from datetime import UTC, datetime, timedelta
from typing import Final

import pytest

from processors.territory import Territory
from schemas.contracts import RAW_TOPICS
from schemas.rejects import Reason
from streams.simulation.records import REFUSED
from tests.chaos.records import MAX_RECORD_BYTES, STORED, Labelled, Stream, stream
from tests.chaos.town import INTERVAL_S, blinkers, town

START: Final = datetime(2026, 11, 2, 9, tzinfo=UTC)
SECONDS: Final = 60
RATE: Final = 200.0


@pytest.fixture(scope="module")
def territory() -> Territory:
    return town(RATE)


def made(territory: Territory, seed: int = 1) -> Stream:
    end = START + timedelta(seconds=SECONDS)
    return stream(territory, seed=seed, rate=RATE, start=START, end=end, wall_now=lambda: START)


@pytest.fixture(scope="module")
def records(territory: Territory) -> list[Labelled]:
    return list(made(territory).records())


def test_the_seed_decides_the_records(territory: Territory, records: list[Labelled]) -> None:
    """The same seed gives the same records with the same fates, another seed others."""
    assert list(made(territory).records()) == records
    assert list(made(territory, seed=2).records()) != records


def test_they_come_in_order_at_the_rate(records: list[Labelled]) -> None:
    """In order of time, from the beginning to the end, about as many a second as asked for."""
    times = [record.at_ms for record, _ in records]
    begin = START.timestamp() * 1_000
    assert times == sorted(times)
    assert begin <= times[0] < begin + 1_000
    assert begin + (SECONDS - 1) * 1_000 < times[-1] < begin + (SECONDS + 10) * 1_000
    assert len(times) / SECONDS == pytest.approx(RATE, rel=0.15)


def test_every_topic_and_every_fate_occurs(records: list[Labelled]) -> None:
    """All four domains, and every reason for which a record of the simulated city can be refused, and too large."""
    fates = Counter(label.expected for _, label in records)
    assert {record.topic for record, _ in records} == set(RAW_TOPICS.values())
    refusals = {reason.value for reason in REFUSED.values()}
    assert set(fates) == {STORED, Reason.DUPLICATE.value, Reason.TOO_LARGE.value, *refusals}
    assert fates[STORED] / len(records) > 0.95


def test_fates_are_those_of_the_simulation(territory: Territory, records: list[Labelled]) -> None:
    """By reason, exactly as many as the simulation itself counted; what is too large is ours."""
    source = made(territory)
    assert Counter(label.expected for _, label in source.records()) == Counter(label.expected for _, label in records)
    truth = source.simulation.truth
    refused = Counter(label.expected for _, label in records)
    assert refused.pop(Reason.DUPLICATE.value) == truth.duplicates
    del refused[STORED], refused[Reason.TOO_LARGE.value]
    assert refused == truth.refused


def test_duplicates_repeat_a_record_before_them(records: list[Labelled]) -> None:
    """A record called a duplicate was sent before, with the same key to the same topic; and nothing else was."""
    seen: set[tuple[str, bytes, bytes | None]] = set()
    for record, label in records:
        same = (record.topic, record.key, record.value)
        if label.expected == Reason.DUPLICATE.value:
            assert same in seen
        elif label.expected == STORED:
            assert same not in seen
        seen.add(same)


def test_what_is_too_large_is(records: list[Labelled]) -> None:
    """Larger than the workers take exactly where the label says so."""
    for record, label in records:
        assert (len(record.value or b"") > MAX_RECORD_BYTES) == (label.expected == Reason.TOO_LARGE.value)


def test_blinkers_burn_so_often(records: list[Labelled]) -> None:
    """Every blinker burns many times, one record for each fire; in the last seconds none does."""
    fires: defaultdict[str, list[int]] = defaultdict(list)
    for record, label in records:
        if label.burns is not None:
            assert record.key.decode().endswith(f"|{label.burns}")
            fires[label.burns].append(record.at_ms)
    assert set(fires) == set(blinkers())
    assert min(map(len, fires.values())) > SECONDS // 3
    assert max(map(max, fires.values())) < (START.timestamp() + SECONDS - 3) * 1_000


@pytest.mark.parametrize("rate", [20.0, 400.0, 1_500.0])
def test_the_town_fits_the_rate(rate: float) -> None:
    """Its assets report as often as asked for; the blinkers are in the registry, and not expected to speak."""
    assets = town(rate).assets
    speaking = assets["report_interval_s"].drop_nulls()
    assert speaking.unique().to_list() == [INTERVAL_S]
    assert len(speaking) / INTERVAL_S == pytest.approx(rate, rel=0.1)
    assert assets["asset_id"].is_unique().all()
    assert assets.filter(assets["report_interval_s"].is_null())["asset_id"].to_list() == blinkers()
