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
from schemas.problems import Rule
from schemas.rejects import Reason, no_rejects, rejects

STAGE: Final = "validate"

MAX_TEXT: Final = 128
_MAY_BE_EMPTY: Final = ("asset_id",)
#: Nothing this field measures was connected before; a clock there has lost its battery.
_EPOCH_MS: Final = 946_684_800_000  # 2000-01-01T00:00:00Z


@dataclass(frozen=True)
class ClockLimits:
    """How far an event's clock may be from the broker's: `max_future_ms` ahead, `max_age_ms` behind (milliseconds)."""

    max_future_ms: int = 300_000
    max_age_ms: int = 400 * 86_400_000


#: One row for each thing there is to say about a row: the `rule` that its `field` breaks, in words in `detail`.
#: `reason` is the reject's where the row is refused for it, null where it is stored with a flag.
REMARK_SCHEMA: Final[dict[str, pl.DataType]] = {
    "row": pl.UInt32(),
    "field": pl.String(),
    "rule": pl.String(),
    "reason": pl.String(),
    "detail": pl.String(),
}


def validate(
    frame: pl.DataFrame,
    contract: Contract,
    domain: Domain,
    jurisdictions: Collection[str] | None,
    limits: ClockLimits,
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Judge decoded rows. Returns (events, rejects).

    `frame` has `row`, `offset`, `received_at` (Datetime ms UTC) and the contract's columns. The events gain `kind`
    (String), `quality` (UInt8) and `failed` (UInt64, see `quality.usable`). Measures that are not finite become null.
    `jurisdictions` None: any authority is ours.
    """
    plan = _plan_for(contract, domain, jurisdictions, limits)
    codes = frame.select(plan.refusal)["refusal"]
    out = no_rejects()
    if codes.null_count() < len(codes):
        bad = frame.select("row").with_columns(codes).drop_nulls()
        out = pl.concat(
            [
                rejects(part["row"], STAGE, plan.refusals[index[0]].reason, plan.refusals[index[0]].detail)
                for index, part in bad.partition_by("refusal", as_dict=True, maintain_order=True).items()
            ]
        )
        frame = frame.filter(codes.is_null())
    if plan.seen:
        frame = frame.with_columns(plan.seen)
    return frame.with_columns(plan.judged).with_columns(plan.flagged), out


def remarks(
    frame: pl.DataFrame,
    contract: Contract,
    domain: Domain,
    jurisdictions: Collection[str] | None,
    limits: ClockLimits,
) -> pl.DataFrame:
    """All that `validate` has against each of these rows (REMARK_SCHEMA), not only what decides: for whoever wants to
    mend them."""
    plan = _plan_for(contract, domain, jurisdictions, limits)
    found = [pl.DataFrame(schema=REMARK_SCHEMA)]
    holds = frame.select(refusal.holds.alias(str(number)) for number, refusal in enumerate(plan.refusals))
    for refusal, which in zip(plan.refusals, holds, strict=True):
        if which.any():
            found.append(_remarks(frame.filter(which), refusal.field, refusal.rule, refusal.reason, refusal.detail))
    judged = frame.with_columns(plan.seen).with_columns(plan.judged[1])
    failed = judged["failed"]
    for f in contract.measures if (failed != 0).any() else ():
        bad = judged.filter(failed & failed_bit(contract, f.name) != 0)
        finite = bad[f.name].is_finite()
        outside = f"{f.name} is not within {f.minimum:g} and {f.maximum:g}"
        found.append(_remarks(bad.filter(finite), f.name, Rule.RANGE, None, outside))
        found.append(_remarks(bad.filter(~finite), f.name, Rule.NOT_A_NUMBER, None, f"{f.name} is not finite"))
    return pl.concat(found)


def _remarks(rows: pl.DataFrame, field: str, rule: Rule, reason: Reason | None, detail: str) -> pl.DataFrame:
    said = (("field", field), ("rule", rule.value), ("reason", reason and reason.value), ("detail", detail))
    return rows.select("row", *(pl.lit(text, pl.String).alias(name) for name, text in said))


@dataclass(frozen=True)
class _Refusal:
    """Rows for which `holds` is true are refused: they break this rule with this field."""

    reason: Reason
    field: str
    rule: Rule
    detail: str
    holds: pl.Expr


@dataclass(frozen=True)
class _Plan:
    """The expressions of one contract, built once: building them costs more than running them on a small batch.

    `refusal`: number in `refusals` of the first that holds, null for none. The events then take `seen`, `judged` and
    `flagged`, each on the columns of the one before.
    """

    refusal: pl.Expr
    refusals: tuple[_Refusal, ...]
    seen: tuple[pl.Expr, ...]
    judged: tuple[pl.Expr, ...]
    flagged: tuple[pl.Expr, ...]


def _plan_for(contract: Contract, domain: Domain, jurisdictions: Collection[str] | None, limits: ClockLimits) -> _Plan:
    return _plan(contract, domain, None if jurisdictions is None else tuple(sorted(jurisdictions)), limits)


@cache
def _plan(contract: Contract, domain: Domain, jurisdictions: tuple[str, ...] | None, limits: ClockLimits) -> _Plan:
    refusals = _refusals(contract, domain, jurisdictions, limits)
    code = pl.lit(None, dtype=pl.Int32)
    for number in range(len(refusals) - 1, -1, -1):
        code = pl.when(refusals[number].holds).then(number).otherwise(code)
    failed = pl.lit(0, dtype=pl.UInt64)
    for f in contract.measures:
        bad = ~pl.col(f.name).is_between(f.minimum, f.maximum)
        failed = failed | pl.when(bad).then(pl.lit(failed_bit(contract, f.name), dtype=pl.UInt64)).otherwise(0)
    finite = [f.name for f in contract.fields if f.dtype == pl.Float64()]
    return _Plan(
        refusal=code.alias("refusal"),
        refusals=tuple(refusals),
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
    contract: Contract, domain: Domain, jurisdictions: tuple[str, ...] | None, limits: ClockLimits
) -> list[_Refusal]:
    """Every refusal, the first that holds being the one given."""
    found: list[_Refusal] = []
    for f in contract.fields:
        if f.dtype != pl.String() or f.symbols:
            continue
        length = pl.col(f.name).str.len_chars()
        if not f.nullable and not (domain == "report" and f.name in _MAY_BE_EMPTY):
            found.append(_Refusal(Reason.CONTRACT, f.name, Rule.EMPTY, f"{f.name} is empty", length == 0))
        too_long = f"{f.name} is longer than {MAX_TEXT} characters"
        found.append(_Refusal(Reason.CONTRACT, f.name, Rule.LENGTH, too_long, length > MAX_TEXT))
        if f.pattern:
            wrong = ~pl.col(f.name).str.contains(f.pattern)
            unlike = f"{f.name} does not match {f.pattern}"
            found.append(_Refusal(Reason.CONTRACT, f.name, Rule.PATTERN, unlike, wrong))
    if jurisdictions is not None:
        foreign = "jurisdiction_id is none of the territories of this installation"
        ours = pl.col("jurisdiction_id").is_in(jurisdictions)
        found.append(_Refusal(Reason.UNKNOWN_JURISDICTION, "jurisdiction_id", Rule.JURISDICTION, foreign, ~ours))
    observed, received = pl.col("observed_at").cast(pl.Int64), pl.col("received_at").cast(pl.Int64)
    clocks = (
        (Reason.QUALITY, Rule.PAST, "before 2000-01-01", observed < _EPOCH_MS),
        (Reason.FUTURE, Rule.FUTURE, "ahead of the broker's time", observed > received + limits.max_future_ms),
        (Reason.QUALITY, Rule.PAST, "too far behind the broker's time", observed < received - limits.max_age_ms),
    )
    for reason, rule, how, holds in clocks:
        found.append(_Refusal(reason, "observed_at", rule, f"observed_at is {how}", holds))
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
