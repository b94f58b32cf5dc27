"""Territories, frames and cuts for the tests of the detectors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import polars as pl

from processors.detect.asset import AssetDetectors
from processors.detect.findings import no_findings
from processors.territory import ASSET_SCHEMA, ZONE_SCHEMA, Rules, Territory
from schemas.contracts import Domain, contract_of

JURISDICTION = "200000001"
OTHER = "200000002"
MINUTE = 60_000
HOUR = 60 * MINUTE
DISORDER = 10 * MINUTE

_INSTANT = pl.Datetime("ms", "UTC")
_EXTRA: dict[str, pl.DataType] = {
    "domain": pl.String(),
    "kind": pl.String(),
    "quality": pl.UInt8(),
    "failed": pl.UInt64(),
    "watermark": _INSTANT,
}


def ms(text: str) -> int:
    """Milliseconds since 1970 of an ISO instant in UTC."""
    return round(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1_000)


def territory(
    jurisdiction: str = JURISDICTION,
    domain: Domain = "sensor",
    intervals: Mapping[str, float | None] | None = None,
    rules: Rules | None = None,
) -> Territory:
    """An authority around Montpellier whose registry holds the given assets (reporting interval in seconds)."""
    listed = intervals or {}
    assets = pl.DataFrame(
        {
            "asset_id": list(listed),
            "domain": [domain] * len(listed),
            "report_interval_s": list(listed.values()),
        },
        schema_overrides=ASSET_SCHEMA,
    )
    return Territory(
        jurisdiction_id=jurisdiction,
        name="A town",
        timezone="Europe/Paris",
        version="1",
        area=(3.8, 43.5, 3.95, 43.7),
        zones=pl.DataFrame(schema=ZONE_SCHEMA),
        geometries=np.array([], dtype=object),
        assets=assets,
        rules=rules or Rules(),
    )


def detectors(*territories: Territory) -> AssetDetectors:
    return AssetDetectors({one.jurisdiction_id: one for one in territories})


def frame(domain: Domain, events: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """Events as the frame that detectors are given, in their order, which need not be that of time: detectors must not
    fail where the stage before them would. `at` is milliseconds; what an event leaves out is ordinary.

    `watermark` is the later of the event's own time and of the partition's watermark just before it.
    """
    kind = {"sensor": "bin", "lighting": "lamp", "roadway": "traffic.car", "report": "trash"}[domain]
    rows = [
        {"domain": domain, "kind": kind, "jurisdiction_id": JURISDICTION, "quality": 1, "failed": 0}
        | ({"power_state": "unknown", "lamp_status": "unknown"} if domain == "lighting" else {})
        | dict(event)
        | {"observed_at": event["at"]}
        for event in events
    ]
    schema = contract_of(domain).frame_schema() | _EXTRA
    raw = {name: pl.Int64() if dtype == _INSTANT else dtype for name, dtype in schema.items()}
    made = pl.DataFrame(rows, schema=raw, strict=False).cast(schema)  # type: ignore[arg-type]
    observed = pl.col("observed_at").dt.epoch("ms")
    before = (observed.cum_max() - DISORDER).shift(1, fill_value=0)
    return made.with_columns(pl.max_horizontal(observed, before).cast(_INSTANT).alias("watermark"))


def watermark_after(rows: pl.DataFrame) -> int:
    """The watermark after the last of these rows (0 for none), if they are all the partition ever held."""
    if rows.is_empty():
        return 0
    return max(0, int(rows["observed_at"].dt.epoch("ms").to_numpy().max()) - DISORDER)


def batches(rows: pl.DataFrame, size: int) -> list[tuple[pl.DataFrame, int]]:
    """The rows cut into batches of `size`, each with the watermark after it."""
    return [
        (rows.slice(start, size), watermark_after(rows.head(start + size))) for start in range(0, rows.height, size)
    ]


def run(
    make: Callable[[], AssetDetectors], rows: pl.DataFrame, size: int, end_ms: int | None = None, stop_at: int = -1
) -> pl.DataFrame:
    """All findings of the rows cut by `size`, then of time passing to `end_ms`: one condition after the other, each in
    the order in which it changed.

    Before batch `stop_at` the detectors are stopped and started again from their snapshot.
    """
    running = make()
    found = [no_findings()]
    for number, (batch, watermark) in enumerate(batches(rows, size)):
        if number == stop_at:
            snapshot, running = running.snapshot(), make()
            running.restore(snapshot)
        found.append(running.step(batch, watermark))
    if end_ms is not None:
        found.append(running.step(None, end_ms))
    return pl.concat(found).sort("rule", "jurisdiction_id", "asset_id", maintain_order=True)


def told(found: pl.DataFrame) -> list[tuple[str, str, bool]]:
    """(rule, asset, raised) of each finding."""
    return list(found.select("rule", "asset_id", "raised").iter_rows())
