"""Exact windows: one-minute totals per zone and metric, kept per chunk.

Every number is a whole count of steps of the metric's resolution, so totals are sums of integers: exact, and the same
whatever the order of the events or the cut of the batches. The accumulators of a chunk are one frame keyed by one
packed integer (minute, zone, kind), with seven columns a field; a batch adds a small frame to a list, and
`take_changed` merges the list.
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

# The packed key, from the low end: kind 17 bits, zone 20 bits, minute since 1970 26 bits (to the year 2097). Anybody
# may report under any service code: 17 bits hold a chunk of 65 536 reports, no two alike.
_KIND_BITS: Final = 17
_ZONE_BITS: Final = 20
# The packed last value: steps offset to be positive in 40 bits, milliseconds into the window above them.
_LAST_BITS: Final = 40
_LAST_ZERO: Final = 1 << (_LAST_BITS - 1)


class Codes:
    """Small numbers for the zones and kinds of one chunk. Never stored."""

    def __init__(self, sets: ZoneSets) -> None:
        self.sets = sets
        self.zones: dict[tuple[str, str, str], int] = {}
        self.kinds: dict[str, int] = {}
        self._of_set: list[tuple[int, int]] = []
        self._expanded = 0

    def kind(self, name: str) -> int:
        found = self.kinds.setdefault(name, len(self.kinds))
        if found >> _KIND_BITS:
            raise ValueError(f"more than {1 << _KIND_BITS} kinds: {name} has no number left")
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
    """The accumulators of one open chunk. Owned by one partition, so of one domain."""

    def __init__(self, codes: Codes) -> None:
        self._codes = codes
        self._plan: _Plan | None = None
        self._all: pl.DataFrame | None = None
        self._pending: list[pl.DataFrame] = []

    def add(self, frame: pl.DataFrame, contract: Contract, domain: Domain) -> None:
        """Add stored events: `observed_at`, `zone_set`, `kind`, `late`, `failed` and the contract's fields."""
        if frame.is_empty():
            return
        plan = self._plan = _plan(contract, domain)
        totals = frame.select(plan.columns).group_by("_minute", "zone_set", "kind").agg(plan.totals)
        kinds = totals["kind"].unique().to_list()
        numbers = [self._codes.kind(kind) for kind in kinds]
        coded = totals["kind"].replace_strict(kinds, numbers, return_dtype=pl.Int64)
        self._pending.append(totals.drop("kind").with_columns(coded.alias("_kind")))

    @property
    def has_changed(self) -> bool:
        """Whether rows have changed that were not taken."""
        return bool(self._pending)

    def take_changed(self) -> pl.DataFrame:
        """Merge what was added since the last call; the window rows it changed, whole (WINDOW_SCHEMA)."""
        plan = self._plan
        if plan is None or not self._pending:
            return pl.DataFrame(schema=WINDOW_SCHEMA)
        fresh = pl.concat(self._pending).join(self._codes.zones_of_sets(), on="zone_set", how="inner")
        self._pending = []
        key = _shifted(pl.col("_minute"), _ZONE_BITS + _KIND_BITS) + _shifted(pl.col("zone"), _KIND_BITS)
        fresh = fresh.with_columns((key + pl.col("_kind")).alias("key")).group_by("key").agg(plan.merge)
        changed = fresh
        if self._all is None:
            self._all = fresh
        else:
            touched = self._all.join(fresh.select("key"), on="key", how="semi")
            changed = pl.concat((touched, fresh)).group_by("key").agg(plan.merge)
            self._all = pl.concat((self._all.join(fresh.select("key"), on="key", how="anti"), changed))
        counts = fresh.select("key", *(f"count|{field}" for field in plan.rows))
        return self._rows(plan, changed.sort("key"), counts.sort("key"))

    def _rows(self, plan: _Plan, changed: pl.DataFrame, fresh: pl.DataFrame) -> pl.DataFrame:
        """Rows of the fields that were added to, by their counts in `fresh`: the same keys in the same order."""
        zones = pl.DataFrame(
            [(number, *names) for names, number in self._codes.zones.items()],
            schema={"zone": pl.Int64, "jurisdiction_id": pl.String, "layer": pl.String, "zone_code": pl.String},
            orient="row",
        )
        metrics = pl.DataFrame(
            {"_kind": list(self._codes.kinds.values())}
            | {f"metric|{field}": [f"{kind}.{field}" for kind in self._codes.kinds] for field in plan.rows},
            schema_overrides={"_kind": pl.Int64},
        )
        placed = (
            changed.with_columns(
                (_unshifted(pl.col("key"), _ZONE_BITS + _KIND_BITS) * _WINDOW_MS).alias("_start"),
                (_unshifted(pl.col("key"), _KIND_BITS) % (1 << _ZONE_BITS)).alias("zone"),
                (pl.col("key") % (1 << _KIND_BITS)).alias("_kind"),
            )
            .join(zones, on="zone", how="left", maintain_order="left")
            .join(metrics, on="_kind", how="left", maintain_order="left")
        )
        return pl.concat(placed.select(row).filter(fresh[f"count|{field}"] > 0) for field, row in plan.rows.items())


@dataclass(frozen=True)
class _Plan:
    """The expressions of one contract, built once.

    `totals` give the accumulators `<name>|<field>` from `columns`, `merge` the same from such accumulators, `rows` the
    columns of WINDOW_SCHEMA by field.
    """

    columns: tuple[pl.Expr, ...]
    totals: tuple[pl.Expr, ...]
    merge: tuple[pl.Expr, ...]
    rows: Mapping[str, tuple[pl.Expr, ...]]


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
    columns = (
        (observed // _WINDOW_MS).alias("_minute"),
        pl.col("zone_set"),
        pl.col("kind"),
        _shifted(observed % _WINDOW_MS, _LAST_BITS).alias("_when"),
        pl.col("late"),
        *(value.alias(name) for name, value in values.items()),
    )
    return _Plan(
        columns,
        tuple(total for name in values for total in _totals(name)),
        tuple(total for name in values for total in _merge(name)),
        {name: _row(name, resolution) for name, resolution in resolutions.items()},
    )


def _totals(field: str) -> tuple[pl.Expr, ...]:
    """The accumulators of one field over events that have it."""
    value = pl.col(field)
    found = {
        "count": value.count().cast(pl.Int64),
        "late": (pl.col("late") & value.is_not_null()).sum().cast(pl.Int64),
        "sum": value.sum(),
        "sum_squares": (value * value).sum(),
        "minimum": value.min(),
        "maximum": value.max(),
        "last": (pl.col("_when") + (value + _LAST_ZERO)).max(),
    }
    return tuple(total.alias(f"{name}|{field}") for name, total in found.items())


def _merge(field: str) -> tuple[pl.Expr, ...]:
    sums = ("count", "late", "sum", "sum_squares")
    return (
        *(pl.col(f"{name}|{field}").sum() for name in sums),
        pl.col(f"minimum|{field}").min(),
        pl.col(f"maximum|{field}").max(),
        pl.col(f"last|{field}").max(),
    )


def _row(field: str, resolution: float) -> tuple[pl.Expr, ...]:
    """The columns of WINDOW_SCHEMA for one field."""
    last = pl.col(f"last|{field}")
    return (
        pl.col("_start").cast(pl.Datetime("ms", "UTC")).alias("window_start"),
        pl.col("jurisdiction_id"),
        pl.col("layer"),
        pl.col("zone_code"),
        pl.col(f"metric|{field}").alias("metric"),
        pl.lit(resolution, dtype=pl.Float64).alias("resolution"),
        *(pl.col(f"{name}|{field}").cast(pl.UInt64).alias(name) for name in ("count", "late")),
        *(pl.col(f"{name}|{field}").alias(name) for name in ("sum", "sum_squares", "minimum", "maximum")),
        (last % (1 << _LAST_BITS) - _LAST_ZERO).alias("last"),
        (pl.col("_start") + _unshifted(last, _LAST_BITS)).cast(pl.Datetime("ms", "UTC")).alias("last_at"),
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
