"""Is this row an event at all, and how far can its values be trusted?

A row that breaks the contract, names an authority that is not ours or carries an impossible clock is a reject. A row
whose values are implausible is an event with a flag: a broken sensor is something operations must see.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from typing import Final

import polars as pl

from processors.quality import Quality, failed_bit
from schemas.contracts import Contract, Domain
from schemas.rejects import Reason, no_rejects, rejects

STAGE: Final = "validate"

_MAX_TEXT: Final = 128
_MAY_BE_EMPTY: Final = ("asset_id",)
#: Nothing this field measures was connected before; a clock there has lost its battery.
_EPOCH_MS: Final = 946_684_800_000  # 2000-01-01T00:00:00Z


@dataclass(frozen=True)
class ClockLimits:
    """How far an event's clock may be from the broker's: `max_future_ms` ahead, `max_age_ms` behind (milliseconds)."""

    max_future_ms: int = 300_000
    max_age_ms: int = 400 * 86_400_000


def validate(
    frame: pl.DataFrame, contract: Contract, domain: Domain, jurisdictions: Collection[str], limits: ClockLimits
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Judge decoded rows. Returns (events, rejects).

    `frame` has `row`, `offset`, `received_at` (Datetime ms UTC) and the contract's columns. The events gain `kind`
    (String), `quality` (UInt8) and `failed` (UInt64, see `quality.usable`). Measures that are not finite become null.
    """
    plan = _plan(contract, domain, tuple(sorted(jurisdictions)), limits)
    codes = frame.select(plan.refusal)["refusal"]
    out = no_rejects()
    if codes.null_count() < len(codes):
        bad = frame.select("row").with_columns(codes).drop_nulls()
        out = pl.concat(
            [
                rejects(part["row"], STAGE, *plan.reasons[index[0]])
                for index, part in bad.partition_by("refusal", as_dict=True, maintain_order=True).items()
            ]
        )
        frame = frame.filter(codes.is_null())
    if plan.seen:
        frame = frame.with_columns(plan.seen)
    return frame.with_columns(plan.judged).with_columns(plan.flagged), out


@dataclass(frozen=True)
class _Plan:
    """The expressions of one contract, built once: building them costs more than running them on a small batch.

    `refusal`: number of the first refusal that holds, null for none; `reasons` by that number. The events then take
    `seen`, `judged` and `flagged`, each on the columns of the one before.
    """

    refusal: pl.Expr
    reasons: tuple[tuple[Reason, str], ...]
    seen: tuple[pl.Expr, ...]
    judged: tuple[pl.Expr, ...]
    flagged: tuple[pl.Expr, ...]


@cache
def _plan(contract: Contract, domain: Domain, jurisdictions: tuple[str, ...], limits: ClockLimits) -> _Plan:
    refusals = _refusals(contract, domain, jurisdictions, limits)
    code = pl.lit(None, dtype=pl.Int32)
    for number in range(len(refusals) - 1, -1, -1):
        code = pl.when(refusals[number][2]).then(number).otherwise(code)
    failed = pl.lit(0, dtype=pl.UInt64)
    for f in contract.measures:
        bad = ~pl.col(f.name).is_between(f.minimum, f.maximum)
        failed = failed | pl.when(bad).then(pl.lit(failed_bit(contract, f.name), dtype=pl.UInt64)).otherwise(0)
    finite = [f.name for f in contract.fields if f.dtype == pl.Float64()]
    return _Plan(
        refusal=code.alias("refusal"),
        reasons=tuple((reason, detail) for reason, detail, _ in refusals),
        seen=_blind_counters_counted_nothing() if domain == "roadway" else (),
        judged=(
            _kind(domain).alias("kind"),
            failed.alias("failed"),
            # One value that is not finite poisons a sum, a JSON body or a comparison.
            *(pl.when(pl.col(name).is_finite()).then(pl.col(name)).alias(name) for name in finite),
        ),
        flagged=(_quality(contract, domain),),
    )


def _refusals(
    contract: Contract, domain: Domain, jurisdictions: tuple[str, ...], limits: ClockLimits
) -> list[tuple[Reason, str, pl.Expr]]:
    """Reason, detail and condition of each refusal, the first that holds being the one given."""
    found: list[tuple[Reason, str, pl.Expr]] = []
    for f in contract.fields:
        if f.dtype != pl.String() or f.symbols:
            continue
        length = pl.col(f.name).str.len_chars()
        if not f.nullable and not (domain == "report" and f.name in _MAY_BE_EMPTY):
            found.append((Reason.CONTRACT, f"{f.name} is empty", length == 0))
        found.append((Reason.CONTRACT, f"{f.name} is longer than {_MAX_TEXT} characters", length > _MAX_TEXT))
        if f.pattern:
            wrong = ~pl.col(f.name).str.contains(f.pattern)
            found.append((Reason.CONTRACT, f"{f.name} does not match {f.pattern}", wrong))
    observed, received = pl.col("observed_at").cast(pl.Int64), pl.col("received_at").cast(pl.Int64)
    found += [
        (
            Reason.UNKNOWN_JURISDICTION,
            "jurisdiction_id is none of the territories of this installation",
            ~pl.col("jurisdiction_id").is_in(jurisdictions),
        ),
        (Reason.QUALITY, "observed_at is before 2000-01-01", observed < _EPOCH_MS),
        (Reason.FUTURE, "observed_at is ahead of the broker's time", observed > received + limits.max_future_ms),
        (Reason.QUALITY, "observed_at is too far behind the broker's time", observed < received - limits.max_age_ms),
    ]
    return found


def _quality(contract: Contract, domain: Domain) -> pl.Expr:
    measured = (
        pl.any_horizontal(pl.col(f.name).is_not_null() for f in contract.measures) if contract.measures else False
    )
    otherwise = Quality.UNKNOWN if _speaks_without_measures(domain) else Quality.MISSING
    return (
        pl.when(pl.col("failed") != 0)
        .then(Quality.FAIL.value)
        .when(measured)
        .then(Quality.GOOD.value)
        .otherwise(otherwise.value)
        .cast(pl.UInt8)
        .alias("quality")
    )


def _speaks_without_measures(domain: Domain) -> bool:
    """Reports and lamp states say something without a number, so no number is not a missing reading."""
    return domain in ("report", "lighting")


def _blind_counters_counted_nothing() -> tuple[pl.Expr, ...]:
    """A counter that was blind for the whole period did not count zero: its count is missing."""
    seen = pl.col("uptime_ratio").is_null() | (pl.col("uptime_ratio") > 0)
    return tuple(pl.when(seen).then(pl.col(name)).alias(name) for name in ("count", "occupancy_ratio", "speed_kmh"))


def _kind(domain: Domain) -> pl.Expr:
    """What sort of thing speaks: the first half of a window metric's name."""
    match domain:
        case "sensor":
            kind = pl.col("sensor_type")
        case "lighting":
            kind = pl.lit("lamp")
        case "roadway":
            traffic = pl.col("observation_type") == "traffic"
            kind = (
                pl.when(traffic)
                .then(pl.lit("traffic.") + pl.col("mobility_type"))
                .otherwise(pl.col("observation_type"))
            )
        case "report":
            kind = pl.col("service_code")
    return kind
