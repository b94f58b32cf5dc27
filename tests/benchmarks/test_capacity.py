"""What a town takes follows from what was measured, by formulas that anybody can check with a pencil."""

from __future__ import annotations

import pytest

from benchmarks.capacity import Fleet, Measured, Policy, Town, load, markdown, measured_of, needs

_FLEETS = (Fleet("lamps", 10, 900), Fleet("containers", 100, 600))
_MEASURED = Measured(
    cpu_us=10.0, worker_mib=500.0, asset_mib=0.001, row_bytes=50.0, beside_bytes=30.0, kafka_bytes=150.0
)


def test_the_load_is_assets_over_intervals() -> None:
    """90 000 inhabitants: 9 000 lamps every 15 minutes, 900 containers every 10."""
    found = load(Town("t", 90_000), _FLEETS, Policy(dusk_s=60))
    assert found["assets"] == 9_900
    assert found["average"] == pytest.approx(10 + 1.5)
    assert found["peak"] == pytest.approx(11.5 + 150)
    assert found["a_day"] == pytest.approx(11.5 * 86_400)


def test_dusk_does_not_fall_everywhere_at_once() -> None:
    """A hundred authorities, a tenth of which switch together: never fewer than one of them."""
    policy = Policy(dusk_s=60, at_once=0.1)
    many, one = load(Town("t", 90_000, 100), _FLEETS, policy), load(Town("t", 90_000), _FLEETS, policy)
    assert many["peak"] == pytest.approx(1_150 + 10 * 150)
    assert one["peak"] == pytest.approx(11.5 + 150)


def test_what_it_takes() -> None:
    """10 us an event and half a core: 50 000 events/s a worker."""
    found = needs(Town("t", 90_000), _FLEETS, Policy(busy=0.5, dusk_s=60, replicas=3, kafka_days=7), _MEASURED)
    assert (found["workers"], found["partitions"]) == (1, 4)
    assert found["worker_mib"] == pytest.approx(509.9)
    assert found["clickhouse_gib_a_day"] == pytest.approx(11.5 * 86_400 * 80 / 2**30)
    assert found["kafka_gib"] == pytest.approx(11.5 * 86_400 * 150 * 3 * 7 / 2**30)
    large = needs(Town("t", 900_000, 100), _FLEETS, Policy(busy=0.5, dusk_s=60), _MEASURED)
    assert large["workers"] == 4
    assert large["partitions"] == 8


def test_the_figures_come_from_the_results() -> None:
    """The dearest size counts, and memory is split into what remains and what an asset adds."""
    points = [
        {"assets": 1_000, "cpu_us": 9.0, "peak_mib": 502.0},
        {"assets": 100_000, "cpu_us": 11.0, "peak_mib": 700.0},
    ]
    storage = {"bytes_an_event": {"row_merged": 50.0, "beside_merged": 30.0}, "kafka": {"batched": {"bytes": 150.0}}}
    found = measured_of({"axes": {"assets": {"points": points}}}, storage)
    assert (found.cpu_us, found.row_bytes, found.beside_bytes, found.kafka_bytes) == (11.0, 50.0, 30.0, 150.0)
    assert found.worker_mib == pytest.approx(500.0)
    assert found.asset_mib == pytest.approx(0.002)


def test_the_table_has_a_column_for_each_town() -> None:
    """It is pasted into a page: every row has as many cells as the head."""
    towns = (Town("a", 1_000), Town("b", 2_000))
    lines = markdown(towns, [needs(town, _FLEETS, Policy(), _MEASURED) for town in towns]).splitlines()
    assert {line.count("|") for line in lines} == {4}
