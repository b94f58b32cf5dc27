"""Exact windows: one-minute totals per zone and metric, kept per chunk.

Every number is a whole count of steps of the metric's resolution, so totals are sums of integers: exact, and the same
whatever the order of the events or the cut of the batches. The accumulators of a chunk are one frame keyed by one
packed integer (minute, zone, metric); a batch adds a small frame to a list, and `take_changed` merges the list.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Final

import polars as pl

from processors.locate import ZoneSets
from processors.quality import usable
from schemas.contracts import Contract, Domain, Field

WINDOW_S: Final = 60
_WINDOW_MS: Final = WINDOW_S * 1_000

#: Counts every stored event of a kind once per layer; its sum over kinds and zones of one layer is the stored total.
EVENTS: Final = "events"
#: New citizen requests: the steps that say "received".
RECEIVED: Final = "received"

#: One window row: one (window, zone, metric) over one chunk. `sum`, `minimum`, `maximum`, `last` are steps of
#: `resolution`, `sum_squares` steps squared. `last_at` is the latest event time; among equals the highest value counts.
WINDOW_SCHEMA: Final[dict[str, pl.DataType]] = {
    "window_start": pl.Datetime("ms", "UTC"),
    "jurisdiction_id": pl.String(),
    "layer": pl.String(),
    "zone_code": pl.String(),
    "metric": pl.String(),
    "resolution": pl.Float64(),
    "count": pl.UInt64(),
    "late": pl.UInt64(),
    "sum": pl.Int64(),
    "sum_squares": pl.Int64(),
    "minimum": pl.Int64(),
    "maximum": pl.Int64(),
    "last": pl.Int64(),
    "last_at": pl.Datetime("ms", "UTC"),
}

# The packed key, from the low end: metric 17 bits, zone 20 bits, minute since 1970 26 bits (to the year 2097). Anybody
# may report under any service code, and each has two metrics: 17 bits hold a chunk of 65 536 reports, no two alike.
_METRIC_BITS: Final = 17
_ZONE_BITS: Final = 20
# The packed last value: steps offset to be positive in 40 bits, milliseconds into the window above them.
_LAST_BITS: Final = 40
_LAST_ZERO: Final = 1 << (_LAST_BITS - 1)

_MERGE: Final = (
    pl.col("count").sum(),
    pl.col("late").sum(),
    pl.col("sum").sum(),
    pl.col("sum_squares").sum(),
    pl.col("minimum").min(),
    pl.col("maximum").max(),
    pl.col("last").max(),
)


class Codes:
    """Small numbers for the zones and metrics of one chunk. Never stored."""

    def __init__(self, sets: ZoneSets) -> None:
        self.sets = sets
        self.zones: dict[tuple[str, str, str], int] = {}
        self.metrics: dict[str, int] = {}
        self.resolutions: dict[str, float] = {}
        self._of_set: list[tuple[int, int]] = []
        self._expanded = 0

    def metric(self, name: str, resolution: float) -> int:
        found = self.metrics.setdefault(name, len(self.metrics))
        if found >> _METRIC_BITS:
            raise ValueError(f"more than {1 << _METRIC_BITS} metrics: {name} has no number left")
        self.resolutions[name] = resolution
        return found

    def zones_of_sets(self) -> pl.DataFrame:
        """Every (zone_set, zone) pair known so far, one row per layer of the set."""
        for number in range(self._expanded, len(self.sets)):
            jurisdiction_id, codes = self.sets[number]
            for layer, code in codes.items():
                zone = self.zones.setdefault((jurisdiction_id, layer, code), len(self.zones))
                if zone >> _ZONE_BITS:
                    raise ValueError(f"more than {1 << _ZONE_BITS} zones: {layer} {code} has no number left")
                self._of_set.append((number, zone))
        self._expanded = len(self.sets)
        return pl.DataFrame(self._of_set, schema={"zone_set": pl.UInt32, "zone": pl.Int64}, orient="row")


class Windows:
    """The accumulators of one open chunk. Owned by one partition."""

    def __init__(self, codes: Codes) -> None:
        self._codes = codes
        self._all: pl.DataFrame | None = None
        self._pending: list[pl.DataFrame] = []

    def add(self, frame: pl.DataFrame, contract: Contract, domain: Domain) -> None:
        """Add stored events: `observed_at`, `zone_set`, `kind`, `late`, `failed` and the contract's fields."""
        if frame.is_empty():
            return
        plan = _plan(contract, domain)
        long = (
            frame.select(plan.columns)
            .unpivot(index=["_minute", "zone_set", "kind", "_when", "late"], variable_name="_field")
            .drop_nulls("value")
            .group_by("_minute", "zone_set", "kind", "_field")
            .agg(_TOTALS)
        )
        pairs = long.select("kind", "_field").unique()
        numbers = [self._codes.metric(f"{kind}.{field}", plan.resolutions[field]) for kind, field in pairs.iter_rows()]
        coded = pairs.with_columns(pl.Series("_metric", numbers, dtype=pl.Int64))
        self._pending.append(long.join(coded, on=["kind", "_field"]).drop("kind", "_field"))

    @property
    def has_changed(self) -> bool:
        """Whether rows have changed that were not taken."""
        return bool(self._pending)

    def take_changed(self) -> pl.DataFrame:
        """Merge what was added since the last call; the window rows it changed, whole (WINDOW_SCHEMA)."""
        if not self._pending:
            return pl.DataFrame(schema=WINDOW_SCHEMA)
        fresh = pl.concat(self._pending).join(self._codes.zones_of_sets(), on="zone_set", how="inner")
        self._pending = []
        key = _shifted(pl.col("_minute"), _ZONE_BITS + _METRIC_BITS) + _shifted(pl.col("zone"), _METRIC_BITS)
        fresh = fresh.with_columns((key + pl.col("_metric")).alias("key")).group_by("key").agg(*_MERGE)
        if self._all is None:
            self._all = fresh
            return self._rows(fresh)
        touched = self._all.join(fresh.select("key"), on="key", how="semi")
        changed = pl.concat((touched, fresh)).group_by("key").agg(*_MERGE)
        self._all = pl.concat((self._all.join(fresh.select("key"), on="key", how="anti"), changed))
        return self._rows(changed)

    def _rows(self, packed: pl.DataFrame) -> pl.DataFrame:
        zones = pl.DataFrame(
            [(number, *names) for names, number in self._codes.zones.items()],
            schema={"zone": pl.Int64, "jurisdiction_id": pl.String, "layer": pl.String, "zone_code": pl.String},
            orient="row",
        )
        metrics = pl.DataFrame(
            [(number, name, self._codes.resolutions[name]) for name, number in self._codes.metrics.items()],
            schema={"_metric": pl.Int64, "metric": pl.String, "resolution": pl.Float64},
            orient="row",
        )
        start = _unshifted(pl.col("key"), _ZONE_BITS + _METRIC_BITS) * _WINDOW_MS
        rows = packed.sort("key").with_columns(
            start.alias("_start"),
            (_unshifted(pl.col("key"), _METRIC_BITS) % (1 << _ZONE_BITS)).alias("zone"),
            (pl.col("key") % (1 << _METRIC_BITS)).alias("_metric"),
        )
        last_at = pl.col("_start") + _unshifted(pl.col("last"), _LAST_BITS)
        return (
            rows.join(zones, on="zone", how="left", maintain_order="left")
            .join(metrics, on="_metric", how="left", maintain_order="left")
            .select(
                pl.col("_start").cast(pl.Datetime("ms", "UTC")).alias("window_start"),
                "jurisdiction_id",
                "layer",
                "zone_code",
                "metric",
                "resolution",
                pl.col("count").cast(pl.UInt64),
                pl.col("late").cast(pl.UInt64),
                "sum",
                "sum_squares",
                "minimum",
                "maximum",
                (pl.col("last") % (1 << _LAST_BITS) - _LAST_ZERO).alias("last"),
                last_at.cast(pl.Datetime("ms", "UTC")).alias("last_at"),
            )
        )


@dataclass(frozen=True)
class _Plan:
    """The expressions of one contract, built once, and the resolution of each summed field."""

    columns: tuple[pl.Expr, ...]
    resolutions: Mapping[str, float]


@cache
def _plan(contract: Contract, domain: Domain) -> _Plan:
    observed = pl.col("observed_at").cast(pl.Int64)
    nothing = pl.lit(0, dtype=pl.Int64)
    values = {EVENTS: nothing}
    resolutions = {EVENTS: 1.0}
    for field in contract.metrics:
        assert field.resolution is not None
        values[field.name], resolutions[field.name] = _steps(usable(contract, field.name), field), field.resolution
    if domain == "report":
        values[RECEIVED], resolutions[RECEIVED] = pl.when(pl.col("status") == "received").then(nothing), 1.0
    return _Plan(
        (
            (observed // _WINDOW_MS).alias("_minute"),
            pl.col("zone_set"),
            pl.col("kind"),
            _shifted(observed % _WINDOW_MS, _LAST_BITS).alias("_when"),
            pl.col("late"),
            *(value.alias(name) for name, value in values.items()),
        ),
        resolutions,
    )


_TOTALS: Final = (
    pl.len().cast(pl.Int64).alias("count"),
    pl.col("late").sum().cast(pl.Int64),
    pl.col("value").sum().alias("sum"),
    (pl.col("value") * pl.col("value")).sum().alias("sum_squares"),
    pl.col("value").min().alias("minimum"),
    pl.col("value").max().alias("maximum"),
    (pl.col("_when") + (pl.col("value") + _LAST_ZERO)).max().alias("last"),
)


def _steps(value: pl.Expr, field: Field) -> pl.Expr:
    """A measure as a whole number of its resolution's steps."""
    if field.dtype == pl.Int64() and field.resolution == 1:
        return value
    return (value / field.resolution).round().cast(pl.Int64)


def _shifted(value: pl.Expr, bits: int) -> pl.Expr:
    return value * (1 << bits)


def _unshifted(value: pl.Expr, bits: int) -> pl.Expr:
    return value // (1 << bits)
