"""Findings: what a detector says about one asset or zone, and nothing about who is told."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

import polars as pl

_INSTANT: Final = pl.Datetime("ms", "UTC")

#: One row per change of a condition. `at` is its event time; `raised` says whether the condition begins or ends there.
#: `hold_s` is how long it must last before anybody is told (0: at once). `watermark` is how far event time had come at
#: the deciding row (null where none decided, but time alone): with it, late rows give the same alerts in every cut of
#: the batches. Findings of one condition stand in the order in which it changed.
FINDING_SCHEMA: Final[dict[str, pl.DataType]] = {
    "rule": pl.String(),
    "jurisdiction_id": pl.String(),
    "domain": pl.String(),
    "asset_id": pl.String(),
    "zone_layer": pl.String(),
    "zone_code": pl.String(),
    "category": pl.String(),
    "at": _INSTANT,
    "raised": pl.Boolean(),
    "value": pl.Float64(),
    "threshold": pl.Float64(),
    "severity": pl.String(),
    "hold_s": pl.Float64(),
    "watermark": _INSTANT,
}

#: Instants travel as milliseconds since 1970 until the frame is made.
_RAW_SCHEMA: Final = {name: pl.Int64() if dtype == _INSTANT else dtype for name, dtype in FINDING_SCHEMA.items()}


class Finding(NamedTuple):
    """One row of FINDING_SCHEMA, in its column order; instants in milliseconds since 1970, UTC."""

    rule: str
    jurisdiction_id: str
    domain: str
    asset_id: str | None
    zone_layer: str | None
    zone_code: str | None
    category: str | None
    at: int
    raised: bool
    value: float | None
    threshold: float | None
    severity: str
    hold_s: float
    watermark: int | None


_NONE: Final = pl.DataFrame(schema=FINDING_SCHEMA)


def no_findings() -> pl.DataFrame:
    """An empty frame of FINDING_SCHEMA."""
    return _NONE


def findings(rows: Iterable[Finding]) -> pl.DataFrame:
    """The frame (FINDING_SCHEMA) of these findings, in their order."""
    found = list(rows)
    if not found:
        return no_findings()
    return pl.DataFrame(found, schema=_RAW_SCHEMA, orient="row").cast(FINDING_SCHEMA)  # type: ignore[arg-type]
