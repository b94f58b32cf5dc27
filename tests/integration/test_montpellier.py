"""A real city: the territory built from what Montpellier published, and the main job on it."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, Final

import pytest

from schemas.contracts import RAW_TOPICS, contract_of
from schemas.framing import encode
from streams.simulation.records import Record
from streams.summary import HOT_SPOT, THRESHOLD_RULES
from streams.territory.files import load
from tests.support.batches import event
from tests.support.pipeline import ROOT, broker_in_process, rows, send, succeeded, vigie
from tests.support.real_data import real_data

pytestmark = [pytest.mark.integration, pytest.mark.real_data]

_SPEC: Final = ROOT / "deploy" / "territories" / "montpellier.yaml"
_JURISDICTION: Final = "213401722"

#: What lies where, counted with shapely alone (the index of the real data).
_LIGHTS: Final = {
    "MONTPELLIER CENTRE": 9_790,
    "PORT MARIANNE": 4_013,
    "HOPITAUX-FACULTES": 3_796,
    "CROIX D'ARGENT": 3_583,
    "LES CEVENNES": 3_485,
    "MOSSON": 3_241,
    "PRES D'ARENE": 1_905,
    "": 156,
}
_LIGHTS_IN_A_QPV: Final = 2_945
_STATIONS: Final = {
    "MONTPELLIER CENTRE": 948,
    "HOPITAUX-FACULTES": 552,
    "LES CEVENNES": 438,
    "CROIX D'ARGENT": 379,
    "PORT MARIANNE": 296,
    "MOSSON": 282,
    "PRES D'ARENE": 238,
    "": 26,
}

#: Assets whose stored events are in a quartier, by its name; "" outside all.
_BY_QUARTIER: Final = """
SELECT coalesce(nullIf(z.name, ''), ''), uniqExact(e.asset_id), count()
FROM (SELECT asset_id, zones['quartier'] AS code FROM events_{domain} FINAL) AS e
LEFT JOIN (SELECT DISTINCT code, name FROM zones WHERE layer = 'quartier') AS z ON z.code = e.code
GROUP BY 1
"""
_IN_A_QPV: Final = "SELECT uniqExact(asset_id) FROM events_lighting WHERE zones['qpv'] != ''"
#: The same from the windows, which count the events of each zone on their own.
_WINDOWS: Final = """
SELECT coalesce(nullIf(z.name, ''), ''), toInt64(sum(w.count))
FROM (SELECT zone_code, count FROM windows WHERE layer = 'quartier' AND metric = '{metric}.events') AS w
LEFT JOIN (SELECT DISTINCT code, name FROM zones WHERE layer = 'quartier') AS z ON z.code = w.zone_code
GROUP BY 1
"""
_REFUSED: Final = "SELECT count() FROM rejects"


@pytest.fixture(scope="module")
def montpellier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The territory, built by the command."""
    folder = tmp_path_factory.mktemp("montpellier")
    done = vigie("territory", "build", _SPEC, "--data", real_data(), "--out", folder / "territory", folder=folder)
    assert "Montpellier" in succeeded(done).out
    return folder / "territory"


def asset_events(folder: Path) -> list[Record]:
    """One event of each lamp and of each counting station. None brings coordinates: the registry has them."""
    territory, _ = load(folder)
    now_ms = int(time.time() * 1_000) - 60_000
    found = []
    for domain in ("lighting", "roadway"):
        assets = territory.assets.filter(domain=domain)["asset_id"].to_list()
        for number, asset in enumerate(assets):
            changes: dict[str, Any] = {"asset_id": asset, "event_id": f"{domain}-{number}", "observed_at": now_ms}
            value = event(domain, jurisdiction_id=_JURISDICTION, **changes)
            body = encode(contract_of(domain), value)
            found.append(Record(RAW_TOPICS[domain], f"{_JURISDICTION}|{asset}".encode(), body, now_ms))
    return found


def test_every_asset_lands_in_its_quartier(montpellier: Path, tmp_path: Path) -> None:
    """All 29 969 lamps and the located counting campaigns are stored in the quartier that the city's files say."""
    with broker_in_process() as bootstrap:
        records = asset_events(montpellier)
        send(records, bootstrap)
        settings = {
            "kafka_bootstrap": bootstrap,
            "clickhouse_url": f"chdb://{tmp_path / 'clickhouse'}",
            "territories": montpellier,
            "log_batches": "false",
        }
        succeeded(vigie("worker", "--until-caught-up", folder=tmp_path, settings=settings))
    lamps, stations, in_a_qpv, lamp_windows, station_windows, refused = rows(
        tmp_path / "clickhouse",
        _BY_QUARTIER.format(domain="lighting"),
        _BY_QUARTIER.format(domain="roadway"),
        _IN_A_QPV,
        _WINDOWS.format(metric="lamp"),
        _WINDOWS.format(metric="traffic.car"),
        _REFUSED,
    )
    assert {name: assets for name, assets, _ in lamps} == _LIGHTS
    assert {name: assets for name, assets, _ in stations} == _STATIONS
    assert in_a_qpv == [(_LIGHTS_IN_A_QPV,)]
    assert dict(lamp_windows) == {name: events for name, _, events in lamps} == _LIGHTS
    assert dict(station_windows) == _STATIONS
    assert refused == [(0,)]
    assert sum(_LIGHTS.values()) == 29_969


def test_demo_on_montpellier(montpellier: Path, tmp_path: Path) -> None:
    """The main job on the real city: every number adds up and no threshold rule cries wolf."""
    path = tmp_path / "out.json"
    arguments = ("--for", "12s", "--rate", 1_500, "--seed", 7, "--summary", path)
    succeeded(vigie("demo", "--territory", montpellier, *arguments, folder=tmp_path))
    summary = json.loads(path.read_text("utf-8"))
    truth = summary["truth"]
    assert summary["territory"] == "Montpellier"
    assert summary["produced"] == truth["produced"] > 0
    assert summary["produced"] == summary["stored"] + sum(summary["rejected"].values()) + summary["duplicates"]
    assert summary["stored"] == summary["window_events"] == truth["stored"]
    assert summary["rejected"] == truth["refused"]
    assert summary["duplicates"] == truth["duplicates"]
    found = {rule: (count["found"], count["false"]) for rule, count in summary["alerts"].items()}
    injected = {rule: (count["injected"], 0) for rule, count in summary["alerts"].items()}
    assert {rule: found[rule] for rule in THRESHOLD_RULES} == {rule: injected[rule] for rule in THRESHOLD_RULES}
    assert summary["alerts"][HOT_SPOT]["false"] <= 1
