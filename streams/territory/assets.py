"""The asset registry: `assets.parquet` or `assets.csv`, checked column by column, never row by row."""

from __future__ import annotations

from io import BytesIO
from typing import Final

import polars as pl
from polars.exceptions import PanicException, PolarsError

from processors.territory import ASSET_KINDS, ASSET_SCHEMA
from streams.territory import geometry
from streams.territory.head import near
from streams.territory.remarks import Remark

REQUIRED: Final = ("asset_id", "domain", "kind", "longitude", "latitude")
_NOT_NEGATIVE: Final = ("daily_flow", "morning_peak_flow", "evening_peak_flow")
_POSITIVE: Final = ("report_interval_s", "depth_mm")


def read_assets(content: bytes, file: str, area: geometry.Box) -> tuple[pl.DataFrame, list[Remark]]:
    """The registry in ASSET_SCHEMA, and what makes it unusable. Absent optional columns are null."""
    try:
        if file.endswith(".parquet"):
            raw = pl.read_parquet(BytesIO(content))
        else:
            raw = pl.read_csv(BytesIO(content.rstrip(b"\r\n")), infer_schema=False)
    except (PolarsError, PanicException, OSError, ValueError) as error:
        kind = "Parquet" if file.endswith(".parquet") else "CSV in UTF-8, separated by commas"
        detail = (str(error).splitlines() or [""])[0]
        return pl.DataFrame(schema=ASSET_SCHEMA), [Remark(file, f"cannot be read as {kind}: {detail}")]
    bad = [
        Remark(file, f"column {c!r} is unknown{near(c, ASSET_SCHEMA)}") for c in raw.columns if c not in ASSET_SCHEMA
    ]
    bad += [Remark(file, f"column {c!r} is missing") for c in REQUIRED if c not in raw.columns]
    if bad:
        return pl.DataFrame(schema=ASSET_SCHEMA), bad
    frame, bad = _typed(raw, file)
    return frame, bad + check(frame, file, area)


def _typed(raw: pl.DataFrame, file: str) -> tuple[pl.DataFrame, list[Remark]]:
    columns, bad = [], []
    for name, dtype in ASSET_SCHEMA.items():
        if name not in raw.columns:
            columns.append(pl.Series(name, [None] * len(raw), dtype))
            continue
        given = raw[name]
        if given.dtype == pl.String:
            given = given.str.strip_chars()
            given = given.set(given == "", None)
        if given.dtype.is_nested() or given.dtype in (pl.Binary, pl.Object):
            bad.append(Remark(file, f"column {name!r} must be {_word(dtype)}, it is {given.dtype}"))
            columns.append(pl.Series(name, [None] * len(raw), dtype))
            continue
        cast = given.cast(dtype, strict=False)
        lost = (given.is_not_null() & cast.is_null()).arg_true()
        bad += [Remark(file, f"{name} is not a number", "row", row + 1) for row in lost]
        columns.append(cast)
    return pl.DataFrame(columns), bad


def _word(dtype: pl.DataType) -> str:
    return "text" if dtype == pl.String else "a number"


def check(frame: pl.DataFrame, file: str, area: geometry.Box) -> list[Remark]:
    """What is wrong with a registry in ASSET_SCHEMA; row numbers count from 1."""
    if frame.is_empty():
        return []
    west, south, east, north = area
    longitude, latitude = pl.col("longitude"), pl.col("latitude")
    placed = longitude.is_finite() & latitude.is_finite()
    on_globe = longitude.is_between(-180, 180) & latitude.is_between(-90, 90)
    inside = longitude.is_between(west, east) & latitude.is_between(south, north)
    turned = latitude.is_between(west, east) & longitude.is_between(south, north)
    kinds = [f"{domain}/{kind}" for domain, names in ASSET_KINDS.items() for kind in names]
    rules: list[tuple[str, pl.Expr]] = [
        (f"{name} is empty", pl.col(name).is_null()) for name in ("asset_id", "domain", "kind")
    ]
    rules += [
        ("asset_id is longer than 128 characters", pl.col("asset_id").str.len_chars() > 128),
        (f"domain must be one of {', '.join(ASSET_KINDS)}", ~pl.col("domain").is_in(list(ASSET_KINDS))),
        (
            f"kind does not exist in its domain; there are {', '.join(kinds)}",
            pl.col("domain").is_in(list(ASSET_KINDS)) & ~pl.concat_str("domain", pl.lit("/"), "kind").is_in(kinds),
        ),
        ("the position is missing", ~placed.fill_null(False)),
        (geometry.METRES, placed & ~on_globe),
        (geometry.SWAPPED, placed & ~inside & turned),
        (
            "the position lies outside the territory's area: correct it, or widen `area`",
            placed & on_globe & ~inside & ~turned,
        ),
    ]
    rules += [(f"{name} must be above 0", ~(pl.col(name).is_finite() & (pl.col(name) > 0))) for name in _POSITIVE]
    rules += [
        (f"{name} must be 0 or more", ~(pl.col(name).is_finite() & (pl.col(name) >= 0))) for name in _NOT_NEGATIVE
    ]
    flags = frame.select(expression.fill_null(False).alias(str(i)) for i, (_, expression) in enumerate(rules))
    bad = [
        Remark(file, reason, "row", row + 1) for i, (reason, _) in enumerate(rules) for row in flags[str(i)].arg_true()
    ]
    repeated = (
        frame.select("asset_id").with_row_index("row", offset=1).filter(pl.col("asset_id").is_not_null())
        .with_columns(first=pl.col("row").min().over("asset_id")).filter(pl.col("row") > pl.col("first"))
    )  # fmt: skip
    return bad + [
        Remark(file, f"asset_id {asset!r} is already that of row {first}", "row", row)
        for row, asset, first in repeated.iter_rows()
    ]


def render_assets(frame: pl.DataFrame) -> bytes:
    """The registry as Parquet. The same rows give the same bytes under the same Polars version."""
    buffer = BytesIO()
    frame.select(pl.col(name).cast(dtype) for name, dtype in ASSET_SCHEMA.items()).write_parquet(
        buffer, compression="zstd", statistics=False, row_group_size=1 << 20
    )
    return buffer.getvalue()
