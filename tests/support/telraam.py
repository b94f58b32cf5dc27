"""A French year of hourly window-sensor counts (Châteaubourg, 2022) as roadway events, and its territory.

The file's own `ts_utc` is wrong for one hour: on 2022-10-30, when clocks went back, upstream wrote "02:00:00 CET"
twice and "02:00:00 CEST" never, so 01:00Z is there twice and 00:00Z is missing. The rows are in order of time, so the
first of the two is the hour that ended when the clocks went back: 02:00 CEST, 00:00Z. `hours` mends that, unless it is
told not to.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Final

import numpy as np
import polars as pl
import shapely

from processors.territory import Rules, Territory
from schemas.contracts import RAW_TOPICS, contract_of
from schemas.framing import encode
from streams.simulation.records import Record
from streams.territory.files import versioned
from tests.support.city import asset_table, zone_table
from tests.support.real_data import real_data

JURISDICTION: Final = "999999997"
TIMEZONE: Final = "Europe/Paris"
#: Station of the file, and the zone it is put in (the file has no coordinates: these are near the town).
STATIONS: Final = {"9000001844": "RTE-VITRE", "9000002453": "ARC-EN-CIEL"}
_PLACES: Final = {"9000001844": (-1.3950, 48.1120), "9000002453": (-1.4050, 48.1080)}
#: Column of the file, and the contract's word for it.
MOBILITY: Final = {"car": "car", "heavy": "heavy", "bike": "bicycle", "pedestrian": "pedestrian"}

_WRITTEN_TWICE: Final = "2022-10-30 02:00:00 CET"
_CONTRACT: Final = contract_of("roadway")


@dataclass(frozen=True)
class Hour:
    """One row of the file: a station's hour, counts as they are written, by the contract's mobility type."""

    station: str
    start: datetime
    uptime: Decimal
    counts: dict[str, Decimal]
    v85_kmh: Decimal | None


def hours(*, mended: bool = True) -> list[Hour]:
    """Every row of the file, in its order: one station after the other, each in order of time."""
    found = pl.read_csv(real_data("traffic_telraam", "chateaubourg_2022.csv.gz"), infer_schema_length=0)
    seen: set[str] = set()
    out = []
    for row in found.iter_rows(named=True):
        start = datetime.strptime(row["ts_utc"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
        if mended and row["date"] == _WRITTEN_TWICE and row["segment_id"] not in seen:
            seen.add(row["segment_id"])
            start -= timedelta(hours=1)
        counts = {name: Decimal(row[column]) for column, name in MOBILITY.items()}
        v85 = Decimal(row["v85"]) if row["v85"] else None
        out.append(Hour(row["segment_id"], start, Decimal(row["uptime"]), counts, v85))
    return out


def records(found: Iterable[Hour]) -> Iterator[Record]:
    """Four events for each hour, in order of time: the counts as they are written, 0 where the camera was blind."""
    for hour in sorted(found, key=lambda one: one.start):
        at_ms = round(hour.start.timestamp() * 1_000)
        for mobility, count in hour.counts.items():
            value = {
                "event_id": f"{hour.station}|{hour.start:%Y-%m-%dT%H:%MZ}|{mobility}",
                "source": "telraam",
                "jurisdiction_id": JURISDICTION,
                "asset_id": hour.station,
                "observed_at": at_ms,
                "observation_type": "traffic",
                "mobility_type": mobility,
                "period_s": 3_600.0,
                "count": float(count),
                "uptime_ratio": float(hour.uptime),
                "speed_kmh": float(hour.v85_kmh) if mobility == "car" and hour.v85_kmh is not None else None,
            }
            key = f"{JURISDICTION}|{hour.station}".encode()
            yield Record(RAW_TOPICS["roadway"], key, encode(_CONTRACT, value), at_ms)


def territory() -> Territory:
    """Two zones of one layer, a station in each; no rules: these are the counts of a year that has passed."""
    boxes = [shapely.box(lon - 0.002, lat - 0.001, lon + 0.002, lat + 0.001) for lon, lat in _PLACES.values()]
    assets = [
        {"asset_id": s, "domain": "roadway", "kind": "traffic", "longitude": lon, "latitude": lat}
        for s, (lon, lat) in _PLACES.items()
    ]
    return versioned(
        Territory(
            jurisdiction_id=JURISDICTION,
            name="Châteaubourg",
            timezone=TIMEZONE,
            version="",
            area=(-1.45, 48.08, -1.35, 48.14),
            zones=zone_table([("street", zone, None, None) for zone in STATIONS.values()]),
            geometries=np.array(boxes, dtype=object),
            assets=asset_table(assets),
            rules=Rules(),
        )
    )
