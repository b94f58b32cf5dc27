"""The simulated city: what it hands out, and whether its truth is true."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import islice, pairwise
from typing import Any

import numpy as np
import pytest

from schemas.contracts import DOMAINS, RAW_TOPICS, contract_of
from streams.simulation.city import simulate
from streams.simulation.records import DIRT, REFUSED, Record
from tests.streams.simulation.town import ASSETS, DAY, NOW, SIREN, START, a_day, read, simulated, town

SEEDS = (7, 8, 9)


def of_domain(seed: int, domain: str) -> Iterator[tuple[Record, dict[str, Any]]]:
    topic = next(t for d, t in RAW_TOPICS.items() if d == domain)
    return ((record, value) for record, value in a_day(seed)[1].values if record.topic == topic)


def test_the_same_seed_gives_the_same_city() -> None:
    """Same arguments, same records; another seed, other ones; drawing again starts again."""
    simulation = simulated()
    first = list(simulation.records())
    assert first == list(simulated().records())
    truth = simulation.truth.to_dict()
    assert list(simulation.records()) == first
    assert simulation.truth.to_dict() == truth
    assert first != list(simulated(seed=8).records())


@pytest.mark.parametrize("seed", SEEDS)
def test_truth_is_what_an_observer_counts(seed: int) -> None:
    """Every number of the truth equals a count of the records by somebody who only knows Avro and the town."""
    simulation, reading = a_day(seed)
    truth, counts = simulation.truth, reading.counts
    assert truth.produced == len(reading.records) == truth.clean + sum(truth.dirt.values())
    assert truth.refused == {reason: counts[reason] for reason in truth.refused}
    assert truth.duplicates == counts["duplicate"]
    assert truth.late == counts["late"]
    assert truth.swapped == counts["swapped"]
    assert truth.dirt["null_island"] == counts["null_island"]
    assert truth.stored == sum(counts[k] for k in ("stored", "late", "swapped", "null_island"))
    assert sum(truth.by_topic.values()) == truth.produced
    assert truth.drawn_until_ms == reading.records[-1].at_ms
    assert truth.complete
    assert truth.evident_faults() == truth.faults


@pytest.mark.parametrize("seed", SEEDS)
def test_dirt_of_every_kind_is_there(seed: int) -> None:
    """Each kind of dirt comes three times at least, about 1.5 % in all, and every refusal reason is met."""
    truth = a_day(seed)[0].truth
    assert set(truth.dirt) == set(DIRT)
    assert min(truth.dirt.values()) >= 3
    assert 0.012 < sum(truth.dirt.values()) / truth.produced < 0.02
    assert set(truth.refused) == {reason.value for reason in REFUSED.values()}


def test_truth_is_json() -> None:
    """The truth goes into a summary file as it is."""
    truth = a_day()[0].truth.to_dict()
    assert json.loads(json.dumps(truth)) == truth


def test_records_come_in_order_and_in_time() -> None:
    """`at_ms` never falls and stays in the span; nothing but late, 1970 and future records was observed elsewhere."""
    simulation, reading = a_day()
    at = [record.at_ms for record in reading.records]
    assert at == sorted(at)
    assert simulation.sky.start_ms <= at[0] and at[-1] < simulation.sky.end_ms
    off = sum(not 0 <= record.at_ms - value["observed_at"] <= 5_200 for record, value in reading.values
              if value.get("observation_type") != "traffic")  # fmt: skip
    dirt = simulation.truth.dirt
    assert off <= dirt["late"] + dirt["future"] + dirt["clock_1970"]


def test_a_count_is_published_when_its_period_is_over() -> None:
    """A traffic count is dated at its period's start and comes out within seconds of its end."""
    counts = [(r, v) for r, v in of_domain(7, "roadway") if v["observation_type"] == "traffic"]
    waits = [record.at_ms - value["observed_at"] - 1000 * value["period_s"] for record, value in counts]
    assert sum(-200 <= wait <= 5_000 for wait in waits) / len(waits) > 0.97


def test_about_as_many_events_as_asked_for() -> None:
    """The number of clean events is within a tenth of what was asked, and of what was announced."""
    for events in (10_000, 20_000):
        simulation = simulated(events=events)
        list(islice(simulation.records(), 10**9))
        assert simulation.truth.clean == pytest.approx(events, rel=0.1)
        assert simulation.truth.clean == pytest.approx(simulation.expected_events, rel=0.02)


def test_too_many_and_too_few_events() -> None:
    """More than all assets can report uses all of them; next to nothing still shows a few dozen, of every kind."""
    everything = simulated(events=10**7)
    assert everything.active_assets == sum(count for _, _, count, _ in ASSETS)
    few = simulated(events=10)
    assert few.active_assets >= 40
    assert {fleet.kind for fleet in few.fleets} == {kind for kind, _, _, _ in ASSETS}


@pytest.mark.parametrize("seed", SEEDS)
def test_no_asset_is_quiet_unless_silenced(seed: int) -> None:
    """Between reports, and up to the end, no asset lets two intervals pass; silenced ones let six pass."""
    simulation, reading = a_day(seed)
    interval = {kind: 1000 * seconds for kind, _, _, seconds in ASSETS}
    silent = {fault.asset_id: fault for fault in simulation.truth.faults if fault.rule == "silent"}
    assert len(silent) >= 2
    reports: dict[str, list[int]] = defaultdict(list)
    for record, value in reading.values:
        if value["jurisdiction_id"] == SIREN and "service_code" not in value:
            reports[value["asset_id"]].append(record.at_ms)
    assert len(reports) == simulation.active_assets
    for asset, times in reports.items():
        step = interval[asset.rpartition("-")[0]]
        assert max(b - a for a, b in pairwise(times)) < 2 * step
        quiet = simulation.sky.end_ms - times[-1]
        if asset in silent:
            assert quiet >= 6 * step
            assert len(times) >= 2
            assert times[1] <= times[-1] and silent[asset].start_ms <= times[-1]
        else:
            assert quiet < 2 * step


def test_an_asset_keeps_its_order() -> None:
    """Clean reports of one asset are published in the order in which they were observed; so are a request's steps."""
    last: dict[bytes, int] = {}
    disorder = 0
    for record, value in a_day()[1].values:
        if value["jurisdiction_id"] == SIREN and value.get("observation_type") != "closure":
            disorder += value["observed_at"] < last.get(record.key, 0)
            last[record.key] = max(last.get(record.key, 0), min(value["observed_at"], record.at_ms))
    dirt = a_day()[0].truth.dirt
    assert disorder <= dirt["late"] + dirt["clock_1970"] + dirt["duplicate"]


def test_clean_events_stay_within_the_contracts() -> None:
    """Outside the deliberate nonsense, every measure is within its contract's range, every symbol known."""
    odd = 0
    for record, value in a_day()[1].values:
        domain = next(d for d in DOMAINS if RAW_TOPICS[d] == record.topic)
        for field in contract_of(domain).fields:
            content = value[field.name]
            if field.minimum is not None and content is not None:
                assert field.maximum is not None
                odd += not field.minimum <= content <= field.maximum
            if field.symbols:
                meaningless = field.name == "mobility_type" and value["observation_type"] != "traffic"
                assert (content == "unknown") == meaningless
    dirt = a_day()[0].truth.dirt
    assert odd == dirt["nan"] + dirt["sentinel"]


def test_every_field_of_every_contract_is_used() -> None:
    """No field is null throughout, so every column of the pipeline carries something in the demo."""
    used: set[tuple[str, str]] = set()
    for record, value in a_day()[1].values:
        used |= {(record.topic, name) for name, content in value.items() if content not in (None, "")}
    assert used == {(RAW_TOPICS[domain], field.name) for domain in DOMAINS for field in contract_of(domain).fields}


def test_keys_keep_what_belongs_together_together() -> None:
    """The key is the authority and the asset, or for a citizen report the request."""
    for record, value in a_day()[1].values:
        if len(value["jurisdiction_id"]) == 9:
            name = value.get("service_request_id", value["asset_id"])
            assert record.key == f"{value['jurisdiction_id']}|{name}".encode()


def test_a_registered_peak_hour_is_counted() -> None:
    """A station with 8 000 vehicles a day, 900 of them from 8 to 9, counts about that."""
    hours: dict[tuple[str, int], float] = defaultdict(float)
    simulation = a_day()[0]
    for _, value in of_domain(7, "roadway"):
        if value["asset_id"] in {f"traffic-{n:03d}" for n in range(6)} and value["count"] is not None:
            at = np.array([value["observed_at"] + 180_000])
            hours[value["asset_id"], int(simulation.sky.local(at)[1][0])] += value["count"]
    closed = {closure.asset_id for closure in simulation.closures}
    stations = {asset for asset, _ in hours} - closed - {f.asset_id for f in simulation.truth.faults}
    assert stations
    for asset in stations:
        assert hours[asset, 8] == pytest.approx(900, rel=0.35)
        assert hours[asset, 3] < 0.2 * hours[asset, 8]


def test_requests_go_their_way() -> None:
    """A request begins with `received`, and every later step repeats category, position and channel."""
    steps: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for _, value in of_domain(7, "report"):
        if value["jurisdiction_id"] == SIREN and value["event_id"]:
            steps[value["service_request_id"]].append(value)
    assert len(steps) > 100
    whole = [way for way in steps.values() if way[0]["status"] == "received"]
    assert len(whole) / len(steps) > 0.9
    assert any(way[-1]["status"] == "done" for way in whole)
    assert all(len({(s["service_code"], s["channel"]) for s in way}) == 1 for way in whole)


def test_cut_short_the_truth_is_about_what_was_drawn() -> None:
    """Stopped anywhere, the truth counts exactly the records drawn, and owes no fault that comes later."""
    simulation = simulated()
    drawn = list(islice(simulation.records(), 4_321))
    assert simulation.truth.produced == 4_321
    assert simulation.truth.refused == {k: read(drawn).counts[k] for k in simulation.truth.refused}
    assert not simulation.truth.complete
    assert len(simulation.truth.evident_faults()) < len(simulation.truth.faults)
    assert all(fault.evident_ms <= drawn[-1].at_ms for fault in simulation.truth.evident_faults())


@pytest.mark.parametrize("minutes", [1, 10, 45, 180])
def test_short_spans(minutes: int) -> None:
    """A minute or an hour works, keeps its truth, and has no fault that could not be seen."""
    simulation = simulated(span=timedelta(minutes=minutes), events=2_000)
    reading = read(list(simulation.records()))
    assert simulation.truth.produced == len(reading.records)
    assert simulation.truth.refused == {k: reading.counts[k] for k in simulation.truth.refused}
    assert all(fault.evident_ms <= simulation.sky.end_ms for fault in simulation.truth.faults)
    assert not any(fault.rule in ("lamp_dark", "report_hot_spot") for fault in simulation.truth.faults)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_span_of_seconds(seed: int) -> None:
    """Five seconds, in which hardly a request has its first step, are no reason to fail."""
    simulation = simulated(seed=seed, span=timedelta(seconds=5), events=400)
    records = list(simulation.records())
    assert simulation.truth.produced == len(records) > 0


def test_a_tiny_territory() -> None:
    """Two lamps and a bin, even without zones, make a city."""
    territory = town((("lamp", "lighting", 2, 900.0), ("bin", "sensor", 1, 600.0)), zones=False)
    simulation = simulated(territory)
    reading = read(list(simulation.records()))
    assert simulation.truth.stored == sum(reading.counts[k] for k in ("stored", "late", "swapped", "null_island"))
    assert not any(fault.rule == "report_hot_spot" for fault in simulation.truth.faults)


def test_wrong_arguments_say_what_to_do() -> None:
    """A span without length or time zone, a negative seed, and a territory that cannot speak are refused."""
    with pytest.raises(ValueError, match="empty"):
        simulated(span=timedelta(0))
    with pytest.raises(ValueError, match="seed"):
        simulated(seed=-1)
    with pytest.raises(ValueError, match="time zone"):
        naive = datetime.fromisoformat("2026-03-10T09:00:00")
        simulate(town(), seed=1, start=naive, end=START + DAY, events=10, wall_now=lambda: NOW)
    with pytest.raises(ValueError, match="report_interval_s"):
        simulated(town(()))
