"""The faults of the simulated city truly show in its records, and nothing else looks like one."""

from __future__ import annotations

from collections import Counter, defaultdict
from datetime import timedelta
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import shapely

from streams.simulation.records import Fault
from tests.streams.simulation.town import DAY, SIREN, START, a_day, read, simulated, town

SEEDS = (7, 8, 9)
MINUTE = 60_000
Values = list[dict[str, Any]]


@cache
def by_asset(seed: int) -> dict[str, Values]:
    """Values of assets by asset in order of observation, without what the pipeline has to refuse or distrust."""
    out: dict[str, Values] = defaultdict(list)
    for record, value in a_day(seed)[1].values:
        numbers = [n for n in value.values() if isinstance(n, float)]
        trusted = not any(np.isnan(n) or n == 9_999.0 for n in numbers)
        if value["jurisdiction_id"] == SIREN and "service_code" not in value and trusted and value["event_id"]:
            known = 86_400_000 < value["observed_at"] <= record.at_ms
            if known:
                out[value["asset_id"]].append(value)
    return {asset: sorted(values, key=lambda v: int(v["observed_at"])) for asset, values in out.items()}


def faults(seed: int, rule: str) -> list[Fault]:
    return [fault for fault in a_day(seed)[0].truth.faults if fault.rule == rule]


def during(fault: Fault, seed: int) -> Values:
    """Observations of the faulty asset while the fault lasts."""
    end = fault.end_ms or 2**62
    return [v for v in by_asset(seed)[fault.asset_id or ""] if fault.start_ms <= v["observed_at"] < end]


def sun(seed: int, value: dict[str, Any]) -> float:
    sky = a_day(seed)[0].sky
    return float(sky.at(sky.sun_deg, np.array([value["observed_at"]]))[0])


@pytest.mark.parametrize("seed", SEEDS)
def test_a_day_has_every_fault_at_least_twice(seed: int) -> None:
    """Over a day every asset fault strikes two assets at least, one hot spot arises, and no asset has two faults."""
    found = Counter(fault.rule for fault in a_day(seed)[0].truth.faults)
    assert found.pop("report_hot_spot") == 1
    assert set(found) == {"bin_full", "bin_fire", "lamp_defective", "lamp_dark", "lamp_lit_by_day", "silent"}
    assert min(found.values()) >= 2
    assets = [fault.asset_id for fault in a_day(seed)[0].truth.faults if fault.asset_id is not None]
    assert len(assets) == len(set(assets))


@pytest.mark.parametrize("seed", SEEDS)
def test_faults_begin_after_the_second_report(seed: int) -> None:
    """Nobody is expected to judge an asset that has hardly spoken; nothing is evident after the end."""
    simulation = a_day(seed)[0]
    for fault in simulation.truth.faults:
        assert fault.evident_ms <= simulation.sky.end_ms
        assert fault.end_ms is None or fault.start_ms < fault.end_ms <= simulation.sky.end_ms
        if fault.asset_id is not None:
            assert by_asset(seed)[fault.asset_id][1]["observed_at"] <= fault.start_ms


@pytest.mark.parametrize("seed", SEEDS)
def test_full_bins_overflow(seed: int) -> None:
    """A full bin reads above 0.9 until it is emptied to a tenth, or to the end."""
    for fault in faults(seed, "bin_full"):
        values = during(fault, seed)
        full = [v for v in values if v["fill_level"] > 0.9]
        assert len(full) >= 2
        assert full[1]["observed_at"] <= fault.evident_ms
        assert values[-1]["fill_level"] > 0.9
        after = [v for v in by_asset(seed)[fault.asset_id or ""] if v["observed_at"] >= (fault.end_ms or 2**62)]
        assert all(v["fill_level"] < 0.5 for v in after)
        assert (fault.end_ms is None) == (not after)


@pytest.mark.parametrize("seed", SEEDS)
def test_burning_bins_are_hot(seed: int) -> None:
    """A burning bin reads 200 to 600 degC while it burns and cools down after."""
    for fault in faults(seed, "bin_fire"):
        values = during(fault, seed)
        assert len(values) >= 3
        assert all(200 <= v["temperature_c"] <= 600 for v in values)
        after = [v for v in by_asset(seed)[fault.asset_id or ""] if v["observed_at"] >= (fault.end_ms or 2**62)]
        assert all(v["temperature_c"] < 60 for v in after)


@pytest.mark.parametrize("seed", SEEDS)
def test_lamps_in_the_wrong_state_are_so_long_and_often_enough(seed: int) -> None:
    """Dark in the middle of the night, lit in broad day: 40 minutes and three reports in one go, and never right."""
    for rule, sign, limit, wrong in (("lamp_dark", -1, 10, ("off",)), ("lamp_lit_by_day", 1, 8, ("on", "low"))):
        for fault in faults(seed, rule):
            values = during(fault, seed)
            assert all(v["power_state"] in wrong and v["lamp_status"] == "ok" for v in values)
            beyond = [v["observed_at"] for v in values if sign * sun(seed, v) > limit]
            shown = [at for at in beyond if at <= fault.evident_ms]
            assert len(shown) >= 3
            assert fault.evident_ms - min(shown) >= 30 * MINUTE
            sky = a_day(seed)[0].sky
            spells = sky.spells(above_deg=8.0) if sign > 0 else sky.spells(below_deg=-10.0)
            assert any(min(b, sky.end_ms) - max(a, fault.start_ms) >= 40 * MINUTE for a, b in spells)


@pytest.mark.parametrize("seed", SEEDS)
def test_defective_lamps_say_so_and_follow_the_sun(seed: int) -> None:
    """A defective lamp reports its defect in every report from then on, and is switched as others are."""
    for fault in faults(seed, "lamp_defective"):
        values = during(fault, seed)
        assert len(values) >= 3
        assert all(v["lamp_status"] == "defective_lamp" for v in values)
        assert all((v["power_state"] == "off") == (sun(seed, v) > 0) for v in values if not -4 < sun(seed, v) < 0)


@pytest.mark.parametrize("seed", SEEDS)
def test_sound_assets_look_sound(seed: int) -> None:
    """Trusted readings of assets without a fault: bins below 0.78 and 60 degC, lamps as the sun wants them."""
    faulty = {fault.asset_id for fault in a_day(seed)[0].truth.faults}
    for asset, values in by_asset(seed).items():
        if asset in faulty:
            continue
        for value in values:
            if value.get("fill_level") is not None:
                assert value["fill_level"] < 0.78
                assert value["temperature_c"] < 60
            if "power_state" in value:
                assert value["lamp_status"] == "ok"
                if not -4 < sun(seed, value) < 0:
                    assert (value["power_state"] == "off") == (sun(seed, value) > 0)


@pytest.mark.parametrize("seed", SEEDS)
def test_faulty_assets_have_one_fault_only(seed: int) -> None:
    """An asset with one fault shows none of the others, and no dirt that must be stored concerns it."""
    rules = {f.asset_id: f.rule for f in a_day(seed)[0].truth.faults if f.asset_id is not None}
    for asset, rule in rules.items():
        for value in by_asset(seed)[asset]:
            if value.get("fill_level") is not None:
                assert value["fill_level"] < 0.78 or rule == "bin_full"
                assert value["temperature_c"] < 60 or rule == "bin_fire"
            assert value["longitude"] is None or value["longitude"] < value["latitude"]
            assert value.get("lamp_status", "ok") == "ok" or rule == "lamp_defective"
    odd = [v["asset_id"] for _, v in a_day(seed)[1].values
           if any(isinstance(n, float) and (np.isnan(n) or n in (0.0, 9_999.0)) for n in
                  (n for name, n in v.items() if name in ("longitude", "power_w", "battery_ratio")))]  # fmt: skip
    assert odd and not set(odd) & set(rules)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_lamps_meter_only_grows(seed: int) -> None:
    """The energy reading of a lamp never falls, whatever happens to it."""
    for asset, values in by_asset(seed).items():
        if asset.startswith("lamp"):
            energy = [v["energy_kwh"] for v in values]
            assert all(b >= a - 1e-9 for a, b in pairwise(energy))


@pytest.mark.parametrize("seed", SEEDS)
def test_the_hot_spot_stands_out(seed: int) -> None:
    """25 to 40 requests of one category in one zone within two hours, late in the day; few of them before."""
    simulation, reading = a_day(seed)
    (fault,) = faults(seed, "report_hot_spot")
    span = simulation.sky.end_ms - simulation.sky.start_ms
    assert fault.start_ms >= simulation.sky.start_ms + 0.4 * span
    assert fault.end_ms is not None and fault.end_ms <= simulation.sky.end_ms - 60 * MINUTE
    territory = town()
    row = territory.zones["code"].to_list().index(fault.zone_code)
    inside, before = 0, 0
    for _, value in reading.values:
        if value.get("service_code") == fault.category and value["status"] == "received":
            here = shapely.intersects_xy(territory.geometries[row], value["longitude"], value["latitude"])
            inside += bool(here) and fault.start_ms <= value["observed_at"] < fault.end_ms
            before += bool(here) and value["observed_at"] < fault.start_ms
    assert 25 <= inside <= 43
    assert before <= 10


def test_the_hot_spots_layer_is_the_rules() -> None:
    """Where the territory looks for hot spots in another layer, the hot spot is one of that layer's zones."""
    territory = town()
    rule = territory.rules.report_hot_spot
    assert rule is not None
    rules = territory.rules.model_copy(update={"report_hot_spot": rule.model_copy(update={"layer": "half"})})
    territory = type(territory)(**{**vars(territory), "rules": rules})
    assert {f.zone_code for f in simulated(territory).truth.faults if f.rule == "report_hot_spot"} <= {"W", "E"}


def test_no_lamp_is_dark_in_a_span_of_daylight() -> None:
    """From late morning to afternoon nothing about the night is injected, and lamps lit by day are."""
    simulation = simulated(span=timedelta(hours=6))
    assert simulation.sky.spells(below_deg=0.0) == []
    rules = {fault.rule for fault in simulation.truth.faults}
    assert "lamp_dark" not in rules
    assert "lamp_lit_by_day" in rules


def test_a_midsummer_without_night_has_no_dark_lamp() -> None:
    """Where the sun hardly sets, nobody can tell a dark lamp."""
    territory = town()
    high = (3.80, 66.0, 3.95, 66.1)
    shifted = territory.assets.with_columns(latitude=66.05)
    territory = type(territory)(**{**vars(territory), "area": high, "assets": shifted})
    simulation = simulated(territory, start=START.replace(month=6, day=20), span=DAY)
    assert not any(fault.rule == "lamp_dark" for fault in simulation.truth.faults)
    assert read(list(simulation.records())).records
