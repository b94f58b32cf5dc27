"""A plain town of any size: a grid of zones, assets spread over it, and what they say.

    python -m benchmarks.town --assets 100000 --zones 100 --seed 1 --territory DIR [--bootstrap H:P --events N]

The simulated city of `streams.simulation` is plausible and has one size; this one is made for sizes. Writes the
territory into DIR and, with a broker, publishes N records to the raw topics, which must be there. Writes one line of
JSON to standard output: {"assets", "zones", "records", "by_topic", "bytes", "make_s", "publish_s"}.

Nothing but the size in question changes with it: events lie at the same instants whatever the number of assets, every
asset speaks before one speaks again, none is silent, and no reading raises an alert.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Final

import click
import numpy as np
import numpy.typing as npt
import polars as pl
import shapely

from benchmarks.load import Wire, publish
from processors.detect.sun import elevations_deg
from processors.territory import ASSET_SCHEMA, Rules, Territory
from schemas.contracts import RAW_TOPICS, Domain, contract_of
from streams.simulation.avro import Column, encode_rows, hexadecimal, string
from streams.territory import files, zones

SIREN: Final = "999999998"
#: Degrees west, south, east, north: about 40 km each way, off the coast as the synthetic city is.
AREA: Final = (3.7, 43.2, 4.2, 43.55)
#: Layers and their share of the zones; each layer covers the whole area.
LAYERS: Final = (("cell", 0.6), ("sector", 0.2), ("district", 0.1), ("quarter", 0.1))
#: Points along each side of a zone: real borders have hundreds of points, squares have four.
_POINTS_A_SIDE: Final = 8
#: Kind, domain, share of the assets: about as in the synthetic city.
KINDS: Final[tuple[tuple[str, Domain, float], ...]] = (
    ("lamp", "lighting", 0.86), ("bin", "sensor", 0.12), ("traffic", "roadway", 0.02),
)  # fmt: skip
#: Nobody falls silent, however seldom assets speak in the span of a run.
_INTERVAL_S: Final = 86_400.0
#: How many events of the whole town there are in a second of event time.
EVENTS_PER_S: Final = 300.0
#: Assets that send a position of their own, about one in five, wander by up to three metres.
_SENDS_POSITION: Final = 5
_WANDER_DEG: Final = 3e-5
_SLICE: Final = 100_000
_DAY_MS: Final = 86_400_000


def counts(total: int, shares: tuple[float, ...]) -> tuple[int, ...]:
    """`total` split by shares, at least one each. Raises ValueError where there is not one for each."""
    if total < len(shares):
        raise ValueError(f"{total} is too few for {len(shares)} parts")
    parts = [max(1, round(total * share)) for share in shares]
    parts[int(np.argmax(parts))] += total - sum(parts)
    return tuple(parts)


def grid(count: int) -> npt.NDArray[np.object_]:
    """`count` zones that cover the area without overlapping: rows of equally wide zones, the last rows fewer."""
    west, south, east, north = AREA
    rows = max(1, math.isqrt(count))
    boxes = []
    for row in range(rows):
        columns = count // rows + (row < count % rows)
        edges = np.linspace(west, east, columns + 1).round(6).tolist()
        low, high = np.linspace(south, north, rows + 1).round(6)[row : row + 2].tolist()
        boxes += [shapely.box(left, low, right, high) for left, right in pairwise(edges)]
    shapes = np.empty(count, object)
    shapes[:] = [shapely.segmentize(one, one.length / 4 / _POINTS_A_SIDE) for one in boxes]
    return shapes


def town(assets: int, zone_count: int, seed: int) -> Territory:
    """A territory of that many assets and zones (of all layers together)."""
    layers = []
    for (layer, _), count in zip(LAYERS, counts(zone_count, tuple(share for _, share in LAYERS)), strict=True):
        shapes = enumerate(grid(count))
        layers.append((layer, [zones.Zone(i, f"{layer[0]}{i}", f"{layer} {i}", None, None, s) for i, s in shapes]))
    table, geometries = zones.table(layers)
    registry = pl.concat(_assets(assets, np.random.default_rng([seed, 0])))
    return files.versioned(
        Territory(
            jurisdiction_id=SIREN,
            name=f"{assets} assets in {zone_count} zones",
            timezone="Europe/Paris",
            version="",
            area=AREA,
            zones=table,
            geometries=geometries,
            assets=registry,
            rules=Rules(),
        )
    )


def _assets(total: int, rng: np.random.Generator) -> Iterator[pl.DataFrame]:
    west, south, east, north = AREA
    for (kind, domain, _), count in zip(KINDS, counts(total, tuple(share for *_, share in KINDS)), strict=True):
        given = {
            "asset_id": [f"{kind}-{number:07d}" for number in range(count)],
            "longitude": rng.uniform(west, east, count).round(6),
            "latitude": rng.uniform(south, north, count).round(6),
        }
        frame = pl.DataFrame(given).with_columns(
            pl.lit(domain).alias("domain"), pl.lit(kind).alias("kind"),
            pl.col("asset_id").alias("name"), pl.lit(_INTERVAL_S).alias("report_interval_s"),
        )  # fmt: skip
        missing = [pl.lit(None, dtype).alias(name) for name, dtype in ASSET_SCHEMA.items() if name not in frame.columns]
        yield frame.with_columns(missing).select(ASSET_SCHEMA.keys())


def speakers(assets: int, events: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Which asset each event is of: all of them in some order, then all of them in another, and so on."""
    rounds = -(-events // assets)
    return np.concatenate([rng.permutation(assets) for _ in range(rounds)])[:events].astype(np.int64)


def records(territory: Territory, events: int, seed: int, end_ms: int) -> Iterator[list[Wire]]:
    """`events` records in the order of their event time, which ends before `end_ms`, in slices."""
    registry = territory.assets
    names = registry["asset_id"].to_list()
    avro = [string(name) for name in names]
    keys = [f"{SIREN}|{name}".encode() for name in names]
    position = registry.select("longitude", "latitude").to_numpy()
    kind_of = registry["kind"].replace_strict({kind: i for i, (kind, *_) in enumerate(KINDS)}).to_numpy()
    rng = np.random.default_rng([seed, 1])
    speaking = speakers(len(names), events, rng)
    at_ms = end_ms - ((events - np.arange(events)) * (1_000 / EVENTS_PER_S)).astype(np.int64)
    sun = _sun(territory, at_ms)
    for first in range(0, events, _SLICE):
        rows = np.arange(first, min(first + _SLICE, events))
        made: dict[int, Wire] = {}
        for number, (kind, domain, _) in enumerate(KINDS):
            mine = rows[kind_of[speaking[rows]] == number]
            asset = speaking[mine]
            wander = rng.uniform(-_WANDER_DEG, _WANDER_DEG, (len(mine), 2))
            own = np.where((asset % _SENDS_POSITION == 0)[:, None], (position[asset] + wander).round(6), np.nan)
            columns: dict[str, Column] = {
                "event_id": hexadecimal(mine.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)),
                "source": f"bench/{kind}",
                "jurisdiction_id": SIREN,
                "asset_id": [avro[one] for one in asset.tolist()],
                "observed_at": at_ms[mine],
                "longitude": own[:, 0],
                "latitude": own[:, 1],
                **_reading(kind, sun[mine], rng),
            }
            values = encode_rows(contract_of(domain), len(mine), columns)
            topic = RAW_TOPICS[domain]
            made |= {
                row: Wire(topic, keys[one], value)
                for row, one, value in zip(mine.tolist(), asset.tolist(), values, strict=True)
            }
        yield [made[row] for row in rows.tolist()]


def day_end(now_ms: int, span_ms: int) -> int:
    """Where a span of less than a day ends: now, or at the last midnight (UTC) where it would lie across that."""
    midnight = now_ms - now_ms % _DAY_MS
    return now_ms if now_ms - span_ms >= midnight else midnight


def _sun(territory: Territory, at_ms: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """How high the sun stands at each instant, in degrees: asked once a minute, it moves by a quarter of a degree."""
    minutes, place = np.unique(at_ms // 60_000, return_inverse=True)
    return elevations_deg(territory.centre, minutes * 60_000)[place]


def _reading(kind: str, sun_deg: npt.NDArray[np.float64], rng: np.random.Generator) -> dict[str, Column]:
    rows = len(sun_deg)
    if kind == "lamp":
        lit = sun_deg < 0
        symbols = contract_of("lighting").field("power_state").symbols
        return {
            "power_state": np.where(lit, symbols.index("on"), symbols.index("off")),
            "lamp_status": "ok",
            "power_w": np.where(lit, rng.normal(60, 3, rows), 0.4).round(1),
            "voltage_v": rng.normal(230, 2, rows).round(1),
            "current_a": np.where(lit, rng.normal(0.27, 0.01, rows), 0.0).round(3),
            "energy_kwh": rng.uniform(500, 900, rows).round(2),
            "dimming_ratio": np.where(lit, 1.0, 0.0),
        }
    if kind == "bin":
        return {
            "sensor_type": kind,
            "fill_level": rng.uniform(0.05, 0.7, rows).round(4),
            "temperature_c": rng.uniform(5, 35, rows).round(2),
            "tilt_deg": rng.uniform(0, 3, rows).round(1),
            "lid_open": rng.random(rows) < 0.015,
            "battery_ratio": rng.uniform(0.5, 1, rows).round(3),
            "distance_mm": rng.uniform(300, 1_400, rows).round(),
        }
    return {
        "observation_type": "traffic",
        "mobility_type": "car",
        "channel_id": "1",
        "period_s": 360.0,
        "count": rng.poisson(40, rows).astype(np.float64),
        "speed_kmh": rng.normal(38, 6, rows).clip(5, 90).round(1),
    }


@click.command()
@click.option("--assets", required=True, type=click.IntRange(min=len(KINDS)), help="How many assets.")
@click.option("--zones", "zone_count", required=True, type=click.IntRange(min=len(LAYERS)), help="How many zones.")
@click.option("--seed", default=1, show_default=True, help="Seed of positions and readings.")
@click.option("--territory", required=True, type=click.Path(path_type=Path), help="Folder to write the territory into.")
@click.option("--bootstrap", help="host:port of Kafka.")
@click.option("--events", default=0, type=click.IntRange(min=0), help="How many records to publish.")
def main(assets: int, zone_count: int, seed: int, territory: Path, bootstrap: str | None, events: int) -> None:
    """Make a town, and let it speak."""
    began = time.monotonic()
    made = town(assets, zone_count, seed)
    files.write(made, territory)
    make_s, publish_s = time.monotonic() - began, 0.0
    by_topic: Counter[str] = Counter()
    size = 0
    if bootstrap and events:
        now_ms = int(datetime.now(UTC).timestamp() * 1_000)
        for part in records(made, events, seed, day_end(now_ms, round(events / EVENTS_PER_S * 1_000))):
            publish_s += publish(bootstrap, part)
            by_topic.update(record.topic for record in part)
            size += sum(len(record.key) + len(record.value) for record in part)
    report = {
        "assets": assets, "zones": zone_count, "records": by_topic.total(), "by_topic": dict(sorted(by_topic.items())),
        "bytes": size, "make_s": round(make_s, 2), "publish_s": round(publish_s, 2),
    }  # fmt: skip
    sys.stdout.write(json.dumps(report) + "\n")


if __name__ == "__main__":
    main()
