"""A small hand-made town, simulated spans of it, and an independent reading of its records with fastavro."""

from __future__ import annotations

import io
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, Final

import fastavro
import numpy as np
import polars as pl
import shapely

from processors.territory import ASSET_SCHEMA, ZONE_SCHEMA, Rules, Territory
from schemas.contracts import DOMAINS, RAW_TOPICS, contract_of
from streams.simulation.city import Simulation, simulate
from streams.simulation.records import Record

SIREN: Final = "123456782"
AREA: Final = (3.80, 43.55, 3.95, 43.65)
START: Final = datetime(2026, 3, 10, 9, 0, tzinfo=UTC)
NOW: Final = datetime(2026, 3, 11, 12, 0, tzinfo=UTC)
DAY: Final = timedelta(hours=26)
#: Kind, domain, how many, seconds between reports.
ASSETS: Final = (
    ("lamp", "lighting", 150, 900.0),
    ("bin", "sensor", 40, 600.0),
    ("drop_off", "sensor", 10, 900.0),
    ("traffic", "roadway", 12, 360.0),
    ("pavement", "roadway", 4, 3600.0),
    ("weather", "sensor", 2, 600.0),
    ("air", "sensor", 3, 600.0),
    ("noise", "sensor", 3, 300.0),
    ("footfall", "sensor", 4, 900.0),
)


def town(assets: tuple[tuple[str, str, int, float], ...] = ASSETS, *, zones: bool = True) -> Territory:
    """Six quarters in two rows, in a second layer two halves, and assets strewn over them."""
    rng = np.random.default_rng(11)
    west, south, east, north = AREA
    width, height = (east - west) / 3, (north - south) / 2
    boxes = [(f"Q{row}{column}", shapely.box(west + column * width, south + row * height,
                                             west + (column + 1) * width, south + (row + 1) * height))
             for row in range(2) for column in range(3)]  # fmt: skip
    halves = [("W", shapely.box(west, south, west + 1.5 * width, north)),
              ("E", shapely.box(west + 1.5 * width, south, east, north))]  # fmt: skip
    table = [("quartier", code, shape) for code, shape in boxes] + [("half", code, shape) for code, shape in halves]
    table = table if zones else []
    rows = [
        {
            "asset_id": f"{kind}-{number:03d}", "domain": domain, "kind": kind, "name": f"{kind} {number}",
            "longitude": float(rng.uniform(west, east)), "latitude": float(rng.uniform(south, north)),
            "report_interval_s": interval, "depth_mm": 1200.0 if kind == "bin" else None,
            "daily_flow": 8000.0 if kind == "traffic" and number < 6 else None,
            "morning_peak_flow": 900.0 if kind == "traffic" and number < 6 else None,
            "evening_peak_flow": 1100.0 if kind == "traffic" and number < 6 else None,
        }
        for kind, domain, count, interval in assets for number in range(count)
    ]  # fmt: skip
    geometries = np.empty(len(table), object)
    geometries[:] = [shape for _, _, shape in table]
    return Territory(
        jurisdiction_id=SIREN,
        name="Town",
        timezone="Europe/Paris",
        version="test",
        area=AREA,
        zones=pl.DataFrame([{"layer": layer, "code": code, "name": code} for layer, code, _ in table],
                           schema=ZONE_SCHEMA),
        geometries=geometries,
        assets=pl.DataFrame(rows, schema=ASSET_SCHEMA),
        rules=Rules(),
    )  # fmt: skip


def simulated(
    territory: Territory | None = None, *, seed: int = 7, start: datetime = START, span: timedelta = DAY,
    events: int = 30_000,
) -> Simulation:  # fmt: skip
    return simulate(territory or town(), seed=seed, start=start, end=start + span, events=events, wall_now=lambda: NOW)


@dataclass
class Reading:
    """What an independent observer makes of all records: no knowledge of the simulator, only of Avro and the town."""

    records: list[Record]
    values: list[tuple[Record, dict[str, Any]]] = field(default_factory=list)
    """Records that decode, duplicates too, with their values; `observed_at` in ms."""
    counts: Counter[str] = field(default_factory=Counter)


def read(records: list[Record]) -> Reading:
    """Decode and judge every record."""
    out = Reading(records)
    domain_of = {topic: domain for domain, topic in RAW_TOPICS.items()}
    prints = {contract_of(domain).fingerprint.to_bytes(8, "little") for domain in DOMAINS}
    seen: set[tuple[str, str]] = set()
    for record in records:
        contract = contract_of(domain_of[record.topic])
        data = record.value
        if data is None or data[:2] != b"\xc3\x01" or len(data) < 10:
            out.counts["decode"] += 1
            continue
        if data[2:10] not in prints:
            out.counts["unknown_schema"] += 1
            continue
        try:
            value: Any = fastavro.schemaless_reader(io.BytesIO(data[10:]), contract.parsed, None)
        except (EOFError, ValueError, IndexError, KeyError, TypeError, OverflowError, MemoryError, StopIteration):
            out.counts["decode"] += 1
            continue
        value["observed_at"] = round(value["observed_at"].timestamp() * 1000)
        identity = (value["source"], value["event_id"])
        if identity in seen:
            out.counts["duplicate"] += 1
            continue
        out.values.append((record, value))
        out.counts[_judge(record, value)] += 1
        if value["event_id"]:
            seen.add(identity)
    return out


def _judge(record: Record, value: dict[str, Any]) -> str:
    code = value.get("service_code", "ok")
    if not value["event_id"] or len(value["jurisdiction_id"]) != 9 or code != code.lower().replace(" ", ""):
        return "contract"
    if value["jurisdiction_id"] != SIREN:
        return "unknown_jurisdiction"
    if value["observed_at"] > record.at_ms:
        return "future"
    if value["observed_at"] < 86_400_000:
        return "quality"
    lon, lat = value["longitude"], value["latitude"]
    if lon is None or _inside(lon, lat):
        # A count is dated at the start of its period and comes when that is over.
        period_ms = 1000 * value["period_s"] if value.get("observation_type") == "traffic" else 0
        return "late" if record.at_ms - value["observed_at"] - period_ms > 3_600_000 - 1_000 else "stored"
    if (lon, lat) == (0.0, 0.0):
        return "null_island"
    return "swapped" if _inside(lat, lon) else "out_of_area"


def _inside(lon: float, lat: float) -> bool:
    # A device's own position is some metres off.
    return AREA[0] - 1e-4 <= lon <= AREA[2] + 1e-4 and AREA[1] - 1e-4 <= lat <= AREA[3] + 1e-4


@cache
def a_day(seed: int = 7) -> tuple[Simulation, Reading]:
    """Twenty-six hours of the town, all drawn, and the reading of its records."""
    simulation = simulated(seed=seed)
    return simulation, read(list(simulation.records()))
