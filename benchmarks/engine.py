"""ClickHouse's own engine doing job `windows`: Avro files in, window totals out, in SQL.

The files are the records' bodies as they are, one after the other in Avro blocks. Zones are polygon dictionaries, the
registry is a hashed one, filled before the clock runs, as every worker has its territory in memory before it.
"""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import fastavro
import polars as pl
import shapely

from benchmarks.wire import KEY, VALUES
from processors.territory import Territory
from schemas.contracts import Domain, contract_of, domain_of
from schemas.framing import SINGLE_OBJECT
from schemas.records import Batch
from schemas.writers import varint
from sinks.clickhouse import connect

_PREFIX_BYTES: Final = len(SINGLE_OBJECT) + 8
#: Polygon dictionaries keep coordinates as 32-bit floats, which know a place in Europe to a metre. In whole millionths
#: of a degree from the area's corner they are exact, and so is the synthetic city.
_GRID: Final = 1_000_000
#: One core is what everything gets.
_ONE_CORE: Final = "SETTINGS max_threads = 1"
_OLDEST: Final = pl.CompatLevel.oldest()

_KINDS: Final[Mapping[Domain, str]] = {
    "sensor": "sensor_type",
    "lighting": "'lamp'",
    "roadway": (
        "if(observation_type = 'traffic', concat('traffic.', toString(mobility_type)), toString(observation_type))"
    ),
    "report": "service_code",
}


class Engine:
    """An embedded ClickHouse in a folder, with one territory in its dictionaries."""

    def __init__(self, folder: Path, clickhouse: str, territory: Territory) -> None:
        """Loads the territory. Raises SinkError."""
        self._folder = folder
        self._sink = connect(clickhouse)
        self._domains: list[Domain] = []
        self._layers = territory.layers
        self._corner = territory.area[:2]
        self._load_zones(territory)
        self._load_assets(territory)

    def close(self) -> None:
        self._sink.close()

    def dump(self, batches: Sequence[Batch]) -> None:
        """Write the records' bodies as one Avro file per topic, a batch as a block."""
        by_domain: dict[Domain, list[Batch]] = defaultdict(list)
        for batch in batches:
            by_domain[domain_of(batch.topic)].append(batch)
        for domain, own in by_domain.items():
            head = io.BytesIO()
            fastavro.writer(head, dict(contract_of(domain).schema), [])
            header = head.getvalue()
            with self._file(domain, "avro").open("wb") as out:
                out.write(header)
                for batch in own:
                    bodies = b"".join(value[_PREFIX_BYTES:] for value in batch.values if value is not None)
                    # A header ends with the marker that ends each block.
                    out.write(b"".join((varint(len(batch)), varint(len(bodies)), bodies, header[-16:])))
            self._domains.append(domain)

    def count(self) -> None:
        """Do the job: from the Avro files to window totals in Parquet files."""
        for domain in self._domains:
            out = self._file(domain, "parquet")
            self._sink.command(f"INSERT INTO FUNCTION file('{out}', 'Parquet') {self._sql(domain)} {_ONE_CORE}")

    def windows(self) -> pl.DataFrame:
        """What `count` has written, as `wire.encoded` takes it."""
        found = pl.concat(pl.read_parquet(self._file(domain, "parquet")) for domain in self._domains)
        return found.select(pl.col(*KEY[:4]).cast(pl.String), *KEY[4:], *VALUES)

    def _file(self, domain: Domain, ending: str) -> Path:
        return self._folder / f"{domain}.{ending}"

    def _sql(self, domain: Domain) -> str:
        """Grouped first by all zones of a record at once, then, a tenth as many rows, by each of them."""
        file = f"file('{self._file(domain, 'avro')}', 'Avro')"
        metrics = [field.name for field in contract_of(domain).metrics]
        start = "intDiv(toUnixTimestamp64Milli(observed_at), 60000) * 60000"
        known = f"dictGetOrDefault('asset', 'zones', asset_id, {self._array(*[''] * len(self._layers))})"
        own = self._zones_at("assumeNotNull(longitude)", "assumeNotNull(latitude)")
        zones = f"if(isNull(longitude) OR isNull(latitude), {known}, {own})"
        columns = ", ".join((f"{_KINDS[domain]} AS kind", f"{start} AS start", f"{zones} AS zones", *metrics))
        read = f"SELECT {columns} FROM {file}"
        states = "".join(
            f", countState({m}) AS c_{m}, sumState({m}) AS s_{m}, minState({m}) AS n_{m}, maxState({m}) AS x_{m}"
            for m in metrics
        )
        grouped = f"SELECT kind, start, zones, countState() AS c{states} FROM ({read}) GROUP BY kind, start, zones"
        cells = ["('events', countMerge(c), 0., 0., 0.)"] + [
            f"('{m}', countMerge(c_{m}), {_float(f'sumMerge(s_{m})')}, {_float(f'minMerge(n_{m})')}, "
            f"{_float(f'maxMerge(x_{m})')})"
            for m in metrics
        ]
        by_zone = f"SELECT *, arrayJoin(arrayZip({self._array(*self._layers)}, zones)) AS zone FROM ({grouped})"
        merged = f"SELECT kind, start, zone, [{', '.join(cells)}] AS cells FROM ({by_zone}) GROUP BY kind, start, zone"
        return (
            f"SELECT '{domain}' AS domain, zone.1 AS layer, zone.2 AS zone_code, concat(kind, '.', cell.1) AS metric, "
            "start AS window_start, cell.2 AS count, cell.3 AS sum, cell.4 AS min, cell.5 AS max "
            f"FROM ({merged}) ARRAY JOIN cells AS cell WHERE cell.2 > 0"
        )

    def _zones_at(self, longitude: str, latitude: str) -> str:
        """An array of the zone codes of a position, one per layer."""
        west, south = self._corner
        at = f"(({longitude} - {west!r}) * {_GRID}, ({latitude} - {south!r}) * {_GRID})"
        codes = (f"dictGetOrDefault('zone_{n}', 'code', {at}, '')" for n in range(len(self._layers)))
        return f"[{', '.join(codes)}]"

    def _array(self, *texts: str) -> str:
        return f"[{', '.join(map(_quoted, texts))}]"

    def _load_zones(self, territory: Territory) -> None:
        now = datetime.now(UTC)
        begun = pl.col("valid_from").is_null() | (pl.col("valid_from") <= now)
        ended = pl.col("valid_to").is_not_null() & (pl.col("valid_to") <= now)
        zones = territory.zones.with_row_index("at").filter(begun & ~ended)
        key = "Array(Array(Array(Tuple(Float64, Float64))))"
        for number, layer in enumerate(self._layers):
            table = f"zones_{number}"
            self._sink.command(f"CREATE TABLE {table} (key {key}, code String) ENGINE = Memory")
            for at, code in zones.filter(pl.col("layer") == layer).select("at", "code").iter_rows():
                shape = self._polygons(territory.geometries[at])
                self._sink.command(f"INSERT INTO {table} VALUES ({shape}, {_quoted(code)})")
            self._sink.command(
                f"CREATE DICTIONARY zone_{number} (key {key}, code String) PRIMARY KEY key "
                f"SOURCE(CLICKHOUSE(TABLE '{table}')) LAYOUT(POLYGON()) LIFETIME(0)"
            )

    def _polygons(self, shape: Any) -> str:
        west, south = self._corner

        def ring(line: Any) -> str:
            points = ((round((x - west) * _GRID), round((y - south) * _GRID)) for x, y, *_ in list(line.coords)[:-1])
            return f"[{', '.join(map(str, points))}]"

        parts = (f"[{', '.join(map(ring, [one.exterior, *one.interiors]))}]" for one in shapely.get_parts(shape))
        return f"[{', '.join(parts)}]"

    def _load_assets(self, territory: Territory) -> None:
        columns = "asset_id String, longitude Float64, latitude Float64"
        self._sink.command(f"CREATE TABLE registry ({columns}) ENGINE = Memory")
        placed = territory.assets.select("asset_id", "longitude", "latitude").drop_nulls()
        self._sink.insert_whole("registry", placed.to_arrow(compat_level=_OLDEST), "registry")
        zones = self._zones_at("longitude", "latitude")
        self._sink.command("CREATE TABLE assets (asset_id String, zones Array(String)) ENGINE = Memory")
        self._sink.command(f"INSERT INTO assets SELECT asset_id, {zones} FROM registry")
        self._sink.command(
            "CREATE DICTIONARY asset (asset_id String, zones Array(String)) PRIMARY KEY asset_id "
            "SOURCE(CLICKHOUSE(TABLE 'assets')) LAYOUT(COMPLEX_KEY_HASHED()) LIFETIME(0)"
        )
        # Loaded at first use otherwise, which would be timed.
        self._sink.command("SYSTEM RELOAD DICTIONARIES")


def _float(value: str) -> str:
    return f"ifNull(toFloat64({value}), 0.)"


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
