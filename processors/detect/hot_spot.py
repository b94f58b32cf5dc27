"""Hot spots: a zone receives more reports of a category than its own past and the city's present explain."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Final

import polars as pl

from processors.detect.findings import Finding, findings, no_findings
from processors.territory import ReportHotSpot

RULE: Final = "report_hot_spot"
_CELL: Final = ("zone_code", "category")

#: The past of a cell is taken at its one-sigma upper limit: one that had two reports may well be one that gets four.
#: Simulated first days of 56 cells, judged every ten minutes: without caution 6 to 27 false findings in 40 days, with
#: one sigma 0 to 2, with two sigma none; but then bursts of the first day are found 20 to 30 minutes later, or missed.
_CAUTION_SIGMA: Final = 1.0

#: Reports in the past of the rest of the city below which its present says little: few reports make a wild ratio,
#: and the largest of several wild ratios hides what should be found.
_SHRINKAGE: Final = 20.0


def hot_spots(
    windows: pl.DataFrame,
    rules: ReportHotSpot,
    jurisdiction_id: str,
    end_ms: int,
    *,
    layer: str | None = None,
    raised: Collection[tuple[str, str]] = (),
) -> pl.DataFrame:
    """Changes (FINDING_SCHEMA) at `end_ms`: cells that are hot and not in `raised`, and cells of `raised` that cooled.

    `windows`: new requests of one jurisdiction and one layer, with `window_start` (Datetime ms UTC), `zone_code`,
    `category` and `count` (Int64); rows may repeat a key; rows from `end_ms` on and those without a zone are passed
    over. `end_ms` is an instant up to which the windows are complete, milliseconds since 1970, UTC, best on a window's
    edge. `layer` names the layer of the zones (default: the rule's). `raised`: the (zone, category) pairs now raised,
    as `AlertBook.raised` gives them. `value` is the count in the window, `threshold` the number expected.

    The number expected is the largest of three, each from the upper limit of what the cell's past allows: the cell's
    own past rate; its past, in proportion to all that the rest of the city reports now (the hour of the day); its past,
    in proportion to what the rest of the city reports of the category now (a storm is not a hot spot). While the
    history seen city-wide is shorter than `min_history_s` nothing is said at all.

    Raises ValueError when neither `layer` nor the rule names a layer.
    """
    zone_layer = layer or rules.layer
    if zone_layer is None:
        raise ValueError(f"no layer for {RULE}: set rules.report_hot_spot.layer in territory.yaml, or pass one")
    window_ms, history_ms = round(rules.window_s * 1_000), round(rules.history_s * 1_000)
    start_ms = end_ms - window_ms
    kept = windows.select(
        *_CELL, pl.col("count").cast(pl.Int64), pl.col("window_start").dt.epoch("ms").alias("start_ms")
    ).filter(pl.col("start_ms").is_between(start_ms - history_ms, end_ms, closed="left"))
    first_ms = kept["start_ms"].min()
    if not isinstance(first_ms, int) or start_ms - first_ms < rules.min_history_s * 1_000:
        return no_findings()
    share = window_ms / (start_ms - first_ms)

    found = []
    for zone, category, count, expected in _cells(kept, start_ms, share, rules.min_count, raised).iter_rows():
        hot = count >= rules.min_count and poisson_tail(count, expected) < rules.p_value
        if hot != ((zone, category) in raised):
            found.append(
                Finding(
                    rule=RULE,
                    jurisdiction_id=jurisdiction_id,
                    domain="report",
                    asset_id=None,
                    zone_layer=zone_layer,
                    zone_code=zone,
                    category=category,
                    at=end_ms,
                    raised=hot,
                    value=float(count),
                    threshold=expected,
                    severity=rules.severity,
                    hold_s=0.0,
                    watermark=None,
                )
            )
    return findings(found)


def _cells(
    kept: pl.DataFrame, start_ms: int, share: float, min_count: int, raised: Collection[tuple[str, str]]
) -> pl.DataFrame:
    """`zone_code`, `category`, `now` and `expected` of each cell that could change, in order of zone and category."""
    recent = pl.col("start_ms") >= start_ms
    asked = pl.DataFrame(sorted(raised), schema=dict.fromkeys(_CELL, pl.String()), orient="row").with_columns(
        now=pl.lit(0, pl.Int64), past=pl.lit(0, pl.Int64), asked=pl.lit(True)
    )
    cells = (
        kept.drop_nulls(list(_CELL))
        .group_by(_CELL)
        .agg(
            now=pl.col("count").filter(recent).sum(),
            past=pl.col("count").filter(~recent).sum(),
            asked=pl.lit(False),
        )
    )
    cells = pl.concat((cells, asked)).group_by(_CELL).agg(pl.col("now", "past").sum(), pl.col("asked").any())
    allowed = _upper(pl.col("past"))
    return (
        cells.with_columns(city=_ratio(_elsewhere("now"), _elsewhere("past"), pl.lit(share)))
        .with_columns(
            by_category=_ratio(_elsewhere("now", over="category"), _elsewhere("past", over="category"), pl.col("city"))
        )
        .with_columns(expected=allowed * pl.max_horizontal(pl.lit(share), "city", "by_category"))
        .filter((pl.col("now") >= min_count) | pl.col("asked"))
        .select(*_CELL, "now", "expected")
        .sort(_CELL)
    )


def _ratio(now: pl.Expr, past: pl.Expr, usual: pl.Expr) -> pl.Expr:
    """Now against the past, drawn to `usual` as `_SHRINKAGE` more reports of the past would draw it."""
    return (now + usual * _SHRINKAGE) / (past + _SHRINKAGE)


def _elsewhere(name: str, over: str | None = None) -> pl.Expr:
    """The count of all the other cells: a hot spot must not explain itself."""
    total = pl.col(name).sum()
    return (total if over is None else total.over(over)) - pl.col(name)


def _upper(count: pl.Expr) -> pl.Expr:
    """Upper limit of a Poisson mean of which `count` was seen (Gehrels 1986, ApJ 303, equation 7)."""
    return count + _CAUTION_SIGMA * (count + 0.75).sqrt() + (_CAUTION_SIGMA**2 + 3) / 4


def poisson_tail(count: int, expected: float) -> float:
    """P(X >= count) for X Poisson of mean `expected`, summed term by term.

    Its relative error is below 1e-9 for means up to 10 000. Raises ValueError for a negative or infinite mean.
    """
    if not 0 <= expected < math.inf:
        raise ValueError(f"a Poisson mean is a finite number of at least 0, not {expected}")
    if count <= 0:
        return 1.0
    if expected == 0:
        return 0.0
    if count <= expected:
        # The lower side is the smaller one here.
        below = math.fsum(math.exp(_log_probability(k, expected)) for k in range(count))
        return 1.0 - below
    term = total = 1.0
    k = count
    while term > total * 1e-17:
        k += 1
        term *= expected / k
        total += term
    return math.exp(_log_probability(count, expected)) * total


def _log_probability(k: int, expected: float) -> float:
    return k * math.log(expected) - expected - math.lgamma(k + 1)
