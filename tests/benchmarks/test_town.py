"""A town differs from another of its kind in its size only."""

from __future__ import annotations

import numpy as np
import pytest
import shapely

from benchmarks.load import Wire
from benchmarks.town import AREA, KINDS, LAYERS, counts, day_end, grid, records, speakers, town
from schemas.codec import decode_values
from schemas.contracts import RAW_TOPICS, contract_of, domain_of
from schemas.writers import own_writers

_DAY = 86_400_000
_NOON = 1_789_430_400_000 + _DAY // 2


@pytest.mark.parametrize("total", [4, 7, 10, 1_000, 9_999])
def test_parts_add_up(total: int) -> None:
    """No asset and no zone is lost to rounding, and no part is empty."""
    parts = counts(total, tuple(share for _, share in LAYERS))
    assert sum(parts) == total
    assert min(parts) >= 1


@pytest.mark.parametrize("count", [1, 2, 7, 60, 101])
def test_zones_tile_the_area(count: int) -> None:
    """Every place is in exactly one zone of a layer, so every event counts once in each."""
    zones = grid(count)
    assert len(zones) == count
    assert shapely.union_all(zones).equals(shapely.box(*AREA))
    assert sum(zone.area for zone in zones) == pytest.approx(shapely.box(*AREA).area)


def test_everybody_speaks_before_anybody_speaks_again() -> None:
    """Every series is there after as few events as there are assets."""
    found = speakers(100, 250, np.random.default_rng(1))
    assert set(found[:100].tolist()) == set(found[100:200].tolist()) == set(range(100))
    assert len(set(found[200:].tolist())) == 50


def test_records_are_clean_and_as_many_as_asked_for() -> None:
    """In the order of their event time, each kind on its topic, identities never the same twice."""
    place = town(500, 10, seed=1)
    made: list[Wire] = [record for part in records(place, 2_000, 1, _NOON) for record in part]
    assert len(made) == 2_000
    assert {record.topic for record in made} == {RAW_TOPICS[domain] for _, domain, _ in KINDS}
    identities: list[str] = []
    for topic in {record.topic for record in made}:
        contract = contract_of(domain_of(topic))
        values = [record.value for record in made if record.topic == topic]
        decoded = decode_values(contract, values, own_writers(contract))
        assert decoded.rejects.is_empty()
        observed = decoded.frame["observed_at"]
        assert observed.is_sorted()
        assert observed.dt.epoch("ms").to_list()[-1] < _NOON
        identities += decoded.frame["event_id"].to_list()
    assert len(set(identities)) == 2_000


def test_the_same_instants_whatever_the_number_of_assets() -> None:
    """Otherwise the number of windows would change with it."""

    def instants(assets: int) -> list[int]:
        made = [record for part in records(town(assets, 10, 1), 300, 1, _NOON) for record in part]
        found: list[int] = []
        for domain in {domain_of(record.topic) for record in made}:
            values = [record.value for record in made if record.topic == RAW_TOPICS[domain]]
            writers = own_writers(contract_of(domain))
            found += decode_values(contract_of(domain), values, writers).frame["observed_at"].dt.epoch("ms").to_list()
        return sorted(found)

    assert instants(100) == instants(1_000)


@pytest.mark.parametrize(
    ("now", "wanted"), [(_NOON, _NOON), (_NOON - _DAY // 2 + 3_600_000, _NOON - _DAY // 2), (_NOON + 1, _NOON + 1)]
)
def test_a_span_lies_within_one_day(now: int, wanted: int) -> None:
    """A table's parts are by day: a span over midnight would have twice the inserts."""
    end = day_end(now, 2 * 3_600_000)
    assert end == wanted
    assert (end - 1) // _DAY == (end - 2 * 3_600_000) // _DAY
