"""Records as Kafka would hand them over, frames as the stages would, and a partition run from its first record."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import polars as pl

from processors.alerts import Transition
from processors.locate import Locator
from processors.pipeline import ChunkRows, Limits, Outcome, PartitionState, Reference, new_state, run, take_window_rows
from processors.territory import Territory
from schemas.contracts import RAW_TOPICS, Domain, contract_of, domain_of
from schemas.framing import encode
from schemas.records import Batch, Header, Rows
from schemas.writers import own_writers
from tests.support.city import CITY, city

#: The instant at which the examples of the contracts arrive: 2026-09-15, midnight UTC.
RECEIVED_MS: Final = 1_789_430_400_000
MINUTE: Final = 60_000
HOUR: Final = 60 * MINUTE
DAY: Final = 24 * HOUR

_INSTANT: Final = pl.Datetime("ms", "UTC")
_ORDINARY: Final[Mapping[Domain, Mapping[str, Any]]] = {
    "sensor": {"asset_id": "bin-00017", "sensor_type": "bin", "fill_level": 0.4},
    "lighting": {"asset_id": "lamp-00001", "power_state": "off", "lamp_status": "ok", "power_w": 0.0},
    "roadway": {"asset_id": "count-0001", "observation_type": "traffic", "mobility_type": "car", "count": 12.0},
    "report": {
        "asset_id": "", "longitude": 3.8772, "latitude": 43.6112, "service_request_id": "r-1",
        "service_code": "street_lighting", "status": "received", "channel": "app",
    },
}  # fmt: skip


def event(domain: Domain = "sensor", **changes: Any) -> dict[str, Any]:
    """An ordinary value of the domain's contract, an hour old, with these changes."""
    contract = contract_of(domain)
    value: dict[str, Any] = {f.name: f.symbols[0] if f.symbols else None for f in contract.fields}
    value |= {"event_id": "e-1", "source": "gateway", "jurisdiction_id": CITY, "observed_at": RECEIVED_MS - HOUR}
    value |= _ORDINARY[domain]
    strange = set(changes) - set(value)
    if strange:
        raise KeyError(f"{contract.name} has no {', '.join(sorted(strange))}")
    return value | changes


def events(count: int, domain: Domain = "sensor", **changes: Any) -> list[dict[str, Any]]:
    """So many ordinary events of different identity, a second apart."""
    first = RECEIVED_MS - HOUR
    return [
        event(domain, **{"event_id": f"e-{number}", "observed_at": first + 1_000 * number, **changes})
        for number in range(count)
    ]


def encoded(domain: Domain, values: Iterable[Mapping[str, Any]]) -> list[bytes]:
    """Values in single-object encoding."""
    return [encode(contract_of(domain), value) for value in values]


def batch(
    values: Sequence[bytes | None],
    domain: Domain = "sensor",
    *,
    partition: int = 0,
    first_offset: int = 0,
    offsets: Sequence[int] | None = None,
    received_ms: int | Sequence[int] = RECEIVED_MS,
    keys: Sequence[bytes | None] | None = None,
    headers: Sequence[Sequence[Header]] | None = None,
) -> Batch:
    """Record values as a batch of the domain's topic."""
    count = len(values)
    numbered = range(first_offset, first_offset + count) if offsets is None else offsets
    received = [received_ms] * count if isinstance(received_ms, int) else received_ms
    return Batch(
        topic=RAW_TOPICS[domain],
        partition=partition,
        offsets=np.array(numbered, np.int64),
        received_ms=np.array(received, np.int64),
        pieces=[Rows([None] * count if keys is None else keys, values, [()] * count if headers is None else headers)],
    )


def batch_of(values: Iterable[Mapping[str, Any]], domain: Domain = "sensor", **rest: Any) -> Batch:
    """Values of the domain's contract as a batch."""
    return batch(encoded(domain, values), domain, **rest)


def cut(whole: Batch, sizes: Iterable[int]) -> list[Batch]:
    """The batch cut into parts of these sizes; the last takes what is left."""
    parts, start = [], 0
    for size in sizes:
        if start < len(whole):
            parts.append(whole.part(start, min(start + size, len(whole))))
        start += size
    if start < len(whole):
        parts.append(whole.part(start, len(whole)))
    return parts


def frame(
    values: Sequence[Mapping[str, Any]], domain: Domain = "sensor", received_ms: int | Sequence[int] = RECEIVED_MS
) -> pl.DataFrame:
    """Values as the frame that decoding gives: `row`, the contract's columns, `offset`, `received_at`."""
    schema = contract_of(domain).frame_schema()
    raw = {name: pl.Int64() if dtype == _INSTANT else dtype for name, dtype in schema.items()}
    count = len(values)
    received = [received_ms] * count if isinstance(received_ms, int) else received_ms
    return (
        pl.DataFrame(list(values), schema=raw)
        .cast(schema)  # type: ignore[arg-type]
        .select(
            pl.int_range(count, dtype=pl.UInt32).alias("row"),
            pl.all(),
            pl.int_range(count, dtype=pl.Int64).alias("offset"),
            pl.Series("received_at", received, pl.Int64).cast(_INSTANT),
        )
    )


def reference(*territories: Territory, **limits: Any) -> Reference:
    """What partitions share; the small city when none is named."""
    found = territories or (city(),)
    return Reference(Locator({t.jurisdiction_id: t for t in found}), Limits(**limits))


def state_of(one: Batch, shared: Reference) -> PartitionState:
    """The state of the batch's partition, of which nothing is known yet."""
    return new_state(one.topic, one.partition, domain_of(one.topic), shared)


def process(one: Batch, state: PartitionState, shared: Reference) -> list[Outcome]:
    """One batch through the pipeline; only today's contracts are known as writers."""
    return run(one, state, shared, own_writers(contract_of(state.domain)))


class Ran:
    """What batches of one partition became, whatever their cut, in forms that compare."""

    def __init__(
        self,
        batches: Sequence[Batch],
        shared: Reference,
        *,
        take_after_each: bool = True,
        state: PartitionState | None = None,
    ) -> None:
        self.shared = shared
        self.state = state_of(batches[0], shared) if state is None else state
        self.outcomes: list[Outcome] = []
        self.taken: list[ChunkRows] = []
        for one in batches:
            self.outcomes += process(one, self.state, shared)
            if take_after_each:
                self.taken += take_window_rows(self.state)
        self.taken += take_window_rows(self.state)

    def add(self, outcomes: Iterable[Outcome]) -> None:
        """Note what a batch became that was processed elsewhere, with `state`."""
        self.outcomes += outcomes
        self.taken += take_window_rows(self.state)

    @property
    def events(self) -> pl.DataFrame:
        """Stored events in offset order; `zones` (layer=code) stands for the number that a worker gave to the set."""
        found = pl.concat([outcome.events for outcome in self.outcomes])
        zones = [zones_of(self.shared, number) for number in found["zone_set"]]
        return found.drop("row", "zone_set").with_columns(pl.Series("zones", zones, pl.String)).sort("offset")

    @property
    def refused(self) -> list[tuple[int, str, str, str]]:
        """Offset, stage, reason and detail of each reject."""
        return sorted(
            (int(outcome.batch.offsets[row]), stage, reason, detail)
            for outcome in self.outcomes
            for row, stage, reason, detail in outcome.refused.iter_rows()
        )

    @property
    def transitions(self) -> list[Transition]:
        made = [t for outcome in self.outcomes for t in outcome.transitions]
        return sorted(made, key=lambda t: (t.at, t.fingerprint, t.sequence))

    @property
    def windows(self) -> pl.DataFrame:
        """Window rows as a reader sees them: each row of each chunk at its newest version, with `chunk`."""
        return newest(self.taken).drop("version")


def zones_of(shared: Reference, zone_set: int) -> str:
    """The zones of a set, as `layer=code` of each layer, "" where it has none there."""
    _, codes = shared.locator.sets[zone_set]
    return " ".join(f"{layer}={code}" for layer, code in codes.items())


def newest(taken: Iterable[ChunkRows]) -> pl.DataFrame:
    """Each row of each chunk as it was taken last, with `chunk` and `version` (the last offset it includes)."""
    parts = [
        c.rows.with_columns(pl.lit(c.first_offset).alias("chunk"), pl.lit(c.last_offset).alias("version"))
        for c in taken
    ]
    key = ["window_start", "jurisdiction_id", "layer", "zone_code", "metric", "chunk"]
    return pl.concat(parts).sort(*key, "version").unique(key, keep="last", maintain_order=True)


def raw_bytes(rows: pl.DataFrame) -> bytes:
    """The frame's content as bytes: equal for equal rows in equal order, however they came together."""
    return rows.write_csv(include_header=True).encode()
