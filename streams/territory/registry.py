"""One source of assets, read into the registry: what is refused, repaired or doubtful is told row by row."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import polars as pl

from processors.territory import ASSET_SCHEMA
from streams.territory import geometry, tables
from streams.territory.remarks import Remark, TerritoryError
from streams.territory.spec import AssetSource, Dates, fields, fill
from streams.territory.tables import NUMBER, X, Y

_FLOWS: Final = ("daily_flow", "morning_peak_flow", "evening_peak_flow")
#: Positions on a grid of 0.001 degrees (about 100 m) were cut off somewhere; 1000 times them is then whole.
_COARSE: Final = 1_000
_TEXT: Final = ("name", "circuit_id", "cabinet_id")


@dataclass
class Remarks:
    """What was remarked while one file was read."""

    source: AssetSource
    repaired: list[Remark] = field(default_factory=list)
    refused: list[Remark] = field(default_factory=list)
    doubtful: list[Remark] = field(default_factory=list)

    def remark(self, reason: str, number: int, other: int = 0) -> Remark:
        return Remark(self.source.file, reason, "feature" if self.source.is_geojson else "row", number, other)

    def note(self, into: list[Remark], numbers: Iterable[int], reason: str) -> None:
        into.extend(self.remark(reason, number) for number in numbers)

    def refuse(self, frame: pl.DataFrame, where: pl.Expr, reason: str) -> pl.DataFrame:
        """The frame without the rows where the expression holds; they are refused for that reason."""
        flags = frame.select(where.fill_null(False)).to_series()
        self.note(self.refused, frame.filter(flags)[NUMBER], reason)
        return frame.filter(~flags)

    def doubt(self, frame: pl.DataFrame, where: pl.Expr, reason: str) -> None:
        self.note(self.doubtful, frame.filter(where.fill_null(False))[NUMBER], reason)


@dataclass(frozen=True)
class Read:
    """The assets of one source in ASSET_SCHEMA, how many rows its file has, and how many `where` left out."""

    assets: pl.DataFrame
    rows: int
    left_out: int


def read_source(
    content: bytes, source: AssetSource, box: geometry.Box | None, within: geometry.Box | None
) -> tuple[Read, Remarks]:
    """The assets of one file. `box` is where the territory lies, `within` where an asset may lie, if known.

    Raises TerritoryError when the file cannot be read, lacks a column that the specification names, or has no usable
    row although it has rows.
    """
    remarks = Remarks(source)
    frame, repaired, refused = tables.read_table(content, source)
    remarks.repaired += repaired
    remarks.refused += refused
    rows = len(frame) + len(refused)
    named = [("asset_id", fields(source.asset_id)), ("categories", source.categories), ("where", tuple(source.where))]
    named += [(f"columns.{name}", fields(template)) for name, template in source.columns.items()]
    if source.dates:
        named.append(("dates", tuple(c for c in (source.dates.start, source.dates.end) if c)))
    if source.deduplicate:
        named.append(("deduplicate.key", source.deduplicate.key))
    tables.need_columns(frame, source, named)

    wanted = frame.filter(*(pl.col(c).is_in(list(values)) for c, values in source.where.items()))
    left_out = len(frame) - len(wanted)
    frame = _positions(wanted, remarks, box, within)
    if source.dates:
        frame = _dates(frame, source.dates, remarks)
    frame = _deduplicated(frame, remarks)
    for column in source.categories:
        frame = _folded(frame, column, remarks)
    assets = _assets(frame, remarks)
    if rows > left_out and assets.is_empty():
        reasons = dict.fromkeys(remark.reason for remark in remarks.refused)
        raise TerritoryError([f"{source.file}: every row is refused: {reason}" for reason in reasons])
    return Read(assets, rows, left_out), remarks


def _positions(
    frame: pl.DataFrame, remarks: Remarks, box: geometry.Box | None, within: geometry.Box | None
) -> pl.DataFrame:
    source = remarks.source
    frame = remarks.refuse(frame, ~(pl.col(X).is_finite() & pl.col(Y).is_finite()).fill_null(False), "has no position")
    frame = remarks.refuse(frame, (pl.col(X) == 0) & (pl.col(Y) == 0), "position (0, 0) means that there is none")
    if source.epsg is not None:
        try:
            projection = geometry.transformer(source.epsg)
        except geometry.Fault as fault:
            raise TerritoryError([f"{source.file}: {fault}"]) from fault
        x, y = geometry.to_degrees(frame[X].to_numpy(), frame[Y].to_numpy(), projection)
        frame = frame.with_columns(pl.Series(X, x), pl.Series(Y, y))
        frame = remarks.refuse(frame, ~(pl.col(X).is_finite() & pl.col(Y).is_finite()), "lies outside the projection")
    on_globe = pl.col(X).is_between(-180, 180) & pl.col(Y).is_between(-90, 90)
    frame = remarks.refuse(frame, ~on_globe, geometry.METRES)
    turned = [geometry.swapped((x, y, x, y), box) for x, y in frame.select(X, Y).iter_rows()]
    frame = remarks.refuse(
        frame.with_columns(pl.Series("\0turned", turned, pl.Boolean)), pl.col("\0turned"), geometry.SWAPPED
    )
    if within is not None:
        west, south, east, north = within
        inside = pl.col(X).is_between(west, east) & pl.col(Y).is_between(south, north)
        frame = remarks.refuse(
            frame, ~inside, "lies too far from the zones: correct it, or raise `reach_deg` or `area`"
        )
    whole = [(pl.col(c) * _COARSE - (pl.col(c) * _COARSE).round()).abs() < 1e-6 for c in (X, Y)]
    remarks.doubt(frame, whole[0] & whole[1], "position has at most 3 decimals (100 m): was it cut off?")
    if not source.shared_positions:
        first = frame.with_columns(first=pl.col(NUMBER).min().over(X, Y)).filter(pl.col(NUMBER) > pl.col("first"))
        for number, earlier in first.select(NUMBER, "first").iter_rows():
            remarks.doubtful.append(remarks.remark("stands at the very position of another", number, earlier))
    return frame


def _dates(frame: pl.DataFrame, dates: Dates, remarks: Remarks) -> pl.DataFrame:
    start, end = pl.col("\0start"), pl.col("\0end")
    frame = frame.with_columns(
        pl.col(dates.start).str.to_date(dates.format, strict=False).alias("\0start"),
        (pl.col(dates.end).str.to_date(dates.format, strict=False) if dates.end else pl.lit(None, pl.Date)).alias(
            "\0end"
        ),
    )
    faults: list[tuple[pl.Expr, str]] = []
    for column, parsed in ((dates.start, start), (dates.end, end)):
        if column is None:
            continue
        faults.append((pl.col(column).is_not_null() & parsed.is_null(), f"{column} is not a date {dates.format}"))
        faults.append((parsed < dates.not_before, f"{column} is before {dates.not_before}"))
        faults.append((parsed > dates.not_after, f"{column} is after {dates.not_after}"))
    faults.append((end < start, f"{dates.end} is before {dates.start}"))
    plausible = pl.lit(True)
    for where, reason in faults:
        if dates.keep_row:
            remarks.doubt(frame, where, f"{reason}; the row is kept, the date is not used")
        else:
            frame = remarks.refuse(frame, where, reason)
        plausible = plausible & ~where.fill_null(False)
    if dates.max_days is not None:
        days = (end - start).dt.total_days()
        remarks.doubt(frame, plausible & (days > dates.max_days), f"lasts more than {dates.max_days:g} days")
    return frame


def _deduplicated(frame: pl.DataFrame, remarks: Remarks) -> pl.DataFrame:
    rule = remarks.source.deduplicate
    if rule is None:
        return frame
    keyed = pl.all_horizontal(pl.col(c).is_not_null() for c in rule.key)
    kept = pl.col(NUMBER).max() if rule.keep == "last" else pl.col(NUMBER).min()
    frame = frame.with_columns(pl.when(keyed).then(kept.over(rule.key)).otherwise(pl.col(NUMBER)).alias("\0kept"))
    again = frame.filter(pl.col(NUMBER) != pl.col("\0kept"))
    for number, other in again.select(NUMBER, "\0kept").iter_rows():
        remark = remarks.remark(f"has the same {', '.join(rule.key)} as another", number, other)
        (remarks.doubtful if rule.keep == "all" else remarks.refused).append(remark)
    return frame if rule.keep == "all" else frame.filter(pl.col(NUMBER) == pl.col("\0kept"))


def _folded(frame: pl.DataFrame, column: str, remarks: Remarks) -> pl.DataFrame:
    """The frame with variants in case and spacing of one category written like the most frequent of them."""
    counts = frame.filter(pl.col(column).is_not_null())[column].value_counts(sort=False)
    best: dict[str, tuple[int, str]] = {}
    for spelling, count in counts.iter_rows():
        key = " ".join(spelling.split()).casefold()
        best[key] = max(best.get(key, (0, "")), (count, spelling))
    to = {spelling: best[" ".join(spelling.split()).casefold()][1] for spelling in counts[column]}
    for spelling, usual in to.items():
        if spelling != usual:
            where = frame.filter(pl.col(column) == spelling)[NUMBER]
            remarks.note(remarks.repaired, where, f"{column} {spelling!r} written {usual!r}, as elsewhere in the file")
    remarks.doubt(frame, pl.col(column).is_null(), f"{column} is empty")
    return frame.with_columns(pl.col(column).replace(to))


def _assets(frame: pl.DataFrame, remarks: Remarks) -> pl.DataFrame:
    source = remarks.source
    used = list(dict.fromkeys((*fields(source.asset_id), *(f for t in source.columns.values() for f in fields(t)))))
    rows = frame.select(used).to_dicts()
    ids = [fill(source.asset_id, row) for row in rows]
    out = frame.select(
        pl.col(NUMBER),
        pl.Series("asset_id", ids, pl.String),
        domain=pl.lit(source.domain),
        kind=pl.lit(source.kind),
        longitude=pl.col(X),
        latitude=pl.col(Y),
    )
    for name, dtype in ASSET_SCHEMA.items():
        if name in out.columns:
            continue
        template = source.columns.get(name)
        if template is None:
            default = source.report_interval_s if name == "report_interval_s" else None
            out = out.with_columns(pl.lit(default, dtype).alias(name))
            continue
        texts = pl.Series(name, [fill(template, row) for row in rows], pl.String)
        values = texts if name in _TEXT else tables.number(texts, source.decimal)
        out = out.with_columns(values.alias(name))
        what = f"{name} ({template})"
        if name not in _TEXT:
            lost = (texts.is_not_null() & values.is_null()).arg_true()
            remarks.note(remarks.doubtful, out[NUMBER].gather(lost), f"{what} is not a number; left empty")
            least = pl.col(name) > 0 if name in ("report_interval_s", "depth_mm") else pl.col(name) >= 0
            usable = pl.col(name).is_finite() & least
            remarks.doubt(out, ~usable, f"{what} is not plausible; left empty")
            out = out.with_columns(pl.when(usable).then(pl.col(name)).alias(name))
        if name == "report_interval_s":
            out = out.with_columns(pl.col(name).fill_null(pl.lit(source.report_interval_s, dtype)))
    out = remarks.refuse(out, pl.col("asset_id").is_null(), f"has no value for asset_id ({source.asset_id})")
    out = remarks.refuse(out, pl.col("asset_id").str.len_chars() > 128, "asset_id is longer than 128 characters")
    repeated = pl.col(NUMBER) > pl.col(NUMBER).min().over("asset_id")
    out = remarks.refuse(out, repeated, f"asset_id ({source.asset_id}) is that of an earlier row")
    return _flows(out, remarks).select(list(ASSET_SCHEMA))


def _flows(out: pl.DataFrame, remarks: Remarks) -> pl.DataFrame:
    """Null flows where the day saw nobody or less than its own peak hour: such a station would only raise alerts."""
    peak = pl.max_horizontal("morning_peak_flow", "evening_peak_flow")
    nobody, inverted = pl.col("daily_flow") == 0, peak > pl.col("daily_flow")
    remarks.doubt(out, nobody, "daily_flow is 0; flows left empty")
    remarks.doubt(out, ~nobody & inverted, "a peak hour has more vehicles than the mean day; flows left empty")
    usable = ~(nobody | inverted).fill_null(False)
    return out.with_columns(pl.when(usable).then(pl.col(name)).alias(name) for name in _FLOWS)


def extent(frame: pl.DataFrame) -> geometry.Box | None:
    """The box around all positions of a registry, or None when it is empty."""
    if frame.is_empty():
        return None
    longitude, latitude = frame["longitude"].to_numpy(), frame["latitude"].to_numpy()
    return float(np.min(longitude)), float(np.min(latitude)), float(np.max(longitude)), float(np.max(latitude))
