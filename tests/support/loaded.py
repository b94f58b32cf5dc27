"""A demo database: hours of two simulated towns through the real stages into a ClickHouse, with a bad day's traces.

Everything there is written by the product's own functions, but for `worker_samples`, which are drawn here: two workers,
of which one starts anew, while partitions move to the other. Most rows are in the tables twice, unmerged, because an
owner after the first one has written them again.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from zlib import crc32

import numpy as np
import polars as pl
import shapely

from processors.locate import Locator
from processors.pipeline import Limits, PartitionState, Reference, new_state, run, take_window_rows
from processors.snapshot import freeze
from processors.territory import Territory
from schemas.contracts import contract_of, domain_of
from schemas.records import Batch, Rows
from schemas.writers import own_writers
from sinks.acknowledgements import Acknowledgement, acknowledge
from sinks.clickhouse import Sink
from sinks.rows import Origin, ZoneMaps
from sinks.store import store_alerts
from streams.flush import Effects, Message, settle
from streams.ledger import Cut, Entry, Ledger, Place
from streams.setup import publish_territories
from streams.simulation.records import Record
from streams.zone_watch import ZoneWatch
from tests.streams.simulation.town import SIREN, simulated, town
from tests.support import samples

START: Final = datetime(2026, 3, 10, 14, 0, tzinfo=UTC)
HOURS: Final = 10
END: Final = START + timedelta(hours=HOURS)
#: The second authority, a degree further east; its last district has a name and a code that nobody should trust.
NEIGHBOUR: Final = "200054807"
AWKWARD: Final = "L'Île\\"
#: A district that both authorities have.
SHARED: Final = "Q00"
#: An asset that is in no registry and has never spoken.
GHOST: Final = "ghost-001"
#: One that is in the neighbour's registry, the only one of its kind there, and has never spoken.
MUTE: Final = "mute-001"
#: Who has acknowledged an alert.
SOMEBODY: Final = "night shift"

_PARTITIONS: Final = 2
_BATCH: Final = 400
_EPOCH: Final = "E1"
#: Events and seed of each authority: of one seed, one authority's events would be duplicates of the other's.
_SIMULATED: Final = {SIREN: (7_000, 7), NEIGHBOUR: (1_500, 8)}
_NEIGHBOURS: Final = (("lamp", "lighting", 20, 900.0), ("bin", "sensor", 12, 600.0), ("drop_off", "sensor", 2, 900.0))
#: Before this nothing else of an installation can have happened.
_LIMITS: Final = Limits(disorder_ms=1_000)


def territories() -> dict[str, Territory]:
    """Both authorities, as their workers know them today."""
    return {SIREN: replace(town(), version="today"), NEIGHBOUR: _neighbour()}


def _neighbour() -> Territory:
    found = town(_NEIGHBOURS)
    west, south, east, north = found.area
    renamed = pl.when(pl.col("code") == "Q12").then(pl.lit(AWKWARD)).otherwise("code")
    return replace(
        found,
        jurisdiction_id=NEIGHBOUR,
        version="neighbour-1",
        area=(west + 1, south, east + 1, north),
        zones=found.zones.with_columns(renamed.alias("code"), renamed.alias("name")),
        geometries=shapely.transform(found.geometries, lambda xy: xy + np.array([1.0, 0.0])),
        assets=pl.concat([found.assets.with_columns(pl.col("longitude") + 1), _mute(found.assets)]),
    )


def _mute(assets: pl.DataFrame) -> pl.DataFrame:
    """An asset that nobody expects to speak, and that never does."""
    changed = {"asset_id": MUTE, "kind": "noise", "name": None, "report_interval_s": None}
    values = [pl.lit(value, dtype=assets.schema[name]).alias(name) for name, value in changed.items()]
    return assets.filter(pl.col("kind") == "bin").head(1).with_columns(pl.col("longitude") + 1, *values)


def _former() -> Territory:
    """The first authority as it was before: other names, a district and an asset that are gone."""
    found = town()
    names = pl.concat_str(pl.lit("former "), "name").alias("name")
    return replace(found, version="former", zones=found.zones.with_columns(names), assets=_with_gone(found.assets))


def _with_gone(assets: pl.DataFrame) -> pl.DataFrame:
    gone = assets.head(1).with_columns(pl.lit("gone-001").alias("asset_id"))
    return pl.concat([assets, gone])


@dataclass
class _Load:
    """What is under way while a database is filled."""

    sink: Sink
    reference: Reference
    zones: ZoneMaps
    ledger: Ledger = field(default_factory=Ledger)
    told: list[Message] = field(default_factory=list)

    async def produce(self, messages: Sequence[Message]) -> None:
        self.told += messages

    async def commit(self, offsets: Mapping[Place, int]) -> bool:
        return True

    async def topic_ids(self, names: Collection[str]) -> dict[str, str]:
        return dict.fromkeys(names, _EPOCH)


def load(sink: Sink) -> None:
    """Fill an empty, migrated ClickHouse. Takes a few seconds; the same rows each time."""
    known = territories()
    publish_territories({SIREN: _former()}, sink)
    publish_territories(known, sink)
    reference = Reference(Locator(known), _LIMITS)
    loading = _Load(sink, reference, ZoneMaps(reference.locator.sets))
    logs = _logs(known)
    with ThreadPoolExecutor(1) as blocking:
        for first in (1, 2):
            asyncio.run(_work(loading, logs, blocking, first))
    watch = ZoneWatch(known, "worker-1")
    watch.look(_PARTITIONS, _EPOCH, sink)
    watch.save(sink, _ms(END))
    store_alerts([(Origin("", 0), 0, _homeless())], sink)
    _take_on(sink)
    # The load is older than the table keeps samples.
    sink.command("SYSTEM STOP TTL MERGES worker_samples")
    sink.insert_whole("worker_samples", samples.table(END), "samples")


def _homeless() -> dict[str, Any]:
    """A firing alert about an asset of which nobody knows where it is."""
    at = _ms(START + timedelta(hours=1))
    return {
        "transition_id": "t-ghost", "fingerprint": GHOST, "sequence": 1, "alertname": "bin_fire",
        "jurisdiction_id": SIREN, "domain": "sensor", "asset_id": GHOST, "zone_layer": None, "zone_code": None,
        "category": None, "severity": "critical", "state": "firing", "at": at, "starts_at": at, "ends_at": None,
        "value": 95.0, "threshold": 70.0, "summary": "Bin ghost-001 burns",
    }  # fmt: skip


def _take_on(sink: Sink) -> None:
    """Acknowledge the first hot spot, as `vigie alert ack` does."""
    columns = "jurisdiction_id, fingerprint, starts_at, transition_id"
    (newest, *_) = sink.named_rows(
        f"SELECT {columns} FROM alerts WHERE alertname = 'report_hot_spot' ORDER BY {columns}"
    )
    acknowledge(Acknowledgement(**newest, by=SOMEBODY, note="", at=END), sink)


def _logs(known: Mapping[str, Territory]) -> dict[Place, Batch]:
    """The records of all authorities as partitions of topics, in the order of their time."""
    records: dict[Place, list[Record]] = defaultdict(list)
    for jurisdiction, territory in known.items():
        events, seed = _SIMULATED[jurisdiction]
        simulation = simulated(territory, seed=seed, start=START, span=timedelta(hours=HOURS), events=events)
        for record in simulation.records():
            records[Place(record.topic, crc32(record.key) % _PARTITIONS)].append(record)
    return {place: _batch(place, sorted(found, key=lambda r: r.at_ms)) for place, found in sorted(records.items())}


def _batch(place: Place, records: Sequence[Record]) -> Batch:
    count = len(records)
    rows = Rows([r.key for r in records], [r.value for r in records], [()] * count)
    received = np.array([r.at_ms for r in records], np.int64)
    return Batch(place.topic, place.partition, np.arange(count, dtype=np.int64), received, [rows])


async def _work(loading: _Load, logs: Mapping[Place, Batch], blocking: ThreadPoolExecutor, term: int) -> None:
    """One owner's life: every record through the stages, stored and told, one snapshot of each partition at the end."""
    versions = {j: t.version for j, t in loading.reference.locator.territories.items()}
    effects = Effects(
        sink=lambda: loading.sink,
        zones=loading.zones,
        territory_versions=versions,
        blocking=blocking,
        owner=f"worker-{term}",
        produce=loading.produce,
        commit=loading.commit,
        topic_ids=loading.topic_ids,
    )
    cuts = []
    for place, log in logs.items():
        origin = Origin(place.topic, place.partition, _EPOCH, term)
        state = new_state(place.topic, place.partition, domain_of(place.topic), loading.reference)
        loading.ledger.hold(place, Entry(state, origin, 0))
        cuts.append(_cut(place, origin, state, log, loading.reference))
    await settle(cuts, effects, loading.ledger, _ms(END))


def _cut(place: Place, origin: Origin, state: PartitionState, log: Batch, reference: Reference) -> Cut:
    writers = own_writers(contract_of(state.domain))
    outcomes = [
        outcome
        for start in range(0, len(log), _BATCH)
        for outcome in run(log.part(start, min(start + _BATCH, len(log))), state, reference, writers)
    ]
    last = log.last_offset
    return Cut(
        place,
        origin,
        tuple(outcomes),
        tuple(take_window_rows(state)),
        tuple((last, transition) for outcome in outcomes for transition in outcome.transitions),
        last + 1,
        state.clock_ms,
        state=freeze(state, last),
    )


def _ms(instant: datetime) -> int:
    return round(instant.timestamp() * 1_000)
