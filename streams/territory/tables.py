"""Open-data tables as they come: CSV in any encoding, GeoJSON points, gzip, typed headers; all read as text."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import zlib
from collections.abc import Sequence
from io import BytesIO
from typing import Any, Final

import polars as pl
from polars.exceptions import PolarsError

from streams.territory import geometry, zones
from streams.territory.geometry import Fault
from streams.territory.remarks import Remark, TerritoryError, lines
from streams.territory.spec import AssetSource

#: Columns this module adds. `row` and `digest` yield to a column of the file that has the same name.
ROW: Final = "row"
DIGEST: Final = "digest"
NUMBER: Final = "\0number"
X: Final = "\0x"
Y: Final = "\0y"
#: A dBase export names the type in the header: `TJM,N,19,8` is a number of 19 digits, 8 of them decimals.
_DBASE: Final = re.compile(r"(.+?),[CNFDLM](?:,\d+){0,2}")


def unpack(content: bytes, file: str) -> bytes:
    """The content, out of its gzip wrapping when it has one. Raises TerritoryError when that is damaged."""
    if not content.startswith(b"\x1f\x8b"):
        return content
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise TerritoryError([f"{file}: the gzip file is damaged: {error}"]) from error


def read_table(content: bytes, source: AssetSource) -> tuple[pl.DataFrame, list[Remark], list[Remark]]:
    """The file as a frame of text columns; then what was repaired; then which rows are refused.

    Added columns: NUMBER (row or feature, from 1), X and Y (the position as it stands in the file, null where there
    is none), `row` (NUMBER as text) and `digest` (12 hexadecimal characters that depend on the row's content only).
    Raises TerritoryError when the file cannot be read at all.
    """
    content = unpack(content, source.file)
    frame, repaired, refused = _geojson(content, source) if source.is_geojson else _csv(content, source)
    texts = [c for c in frame.columns if c not in (NUMBER, X, Y)]
    frame = frame.with_columns(pl.when(~pl.col(c).is_in(source.null_tokens)).then(pl.col(c)).alias(c) for c in texts)
    if DIGEST not in frame.columns:
        frame = frame.with_columns(_digest(frame))
    if ROW not in frame.columns:
        frame = frame.with_columns(pl.col(NUMBER).cast(pl.String).alias(ROW))
    return frame, repaired, refused


def _digest(frame: pl.DataFrame) -> pl.Series:
    rows = frame.drop(NUMBER).iter_rows()
    return pl.Series(DIGEST, [hashlib.sha256(repr(row).encode()).hexdigest()[:12] for row in rows], pl.String)


def _csv(content: bytes, source: AssetSource) -> tuple[pl.DataFrame, list[Remark], list[Remark]]:
    file, repaired = source.file, list[Remark]()
    try:
        text = content.decode(source.encoding)
    except LookupError as error:
        raise TerritoryError([f"{file}: encoding {source.encoding!r} is unknown; try latin-1 or cp1252"]) from error
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise TerritoryError(
            [f"{file}, line {line}: is not {source.encoding}; declare `encoding: latin-1`?"]
        ) from error
    if text.startswith("\ufeff"):
        text = text.removeprefix("\ufeff")
        repaired.append(Remark(file, "byte order mark removed"))
    try:
        frame = pl.read_csv(BytesIO(text.rstrip("\r\n").encode()), separator=source.delimiter, infer_schema=False)
    except PolarsError as error:
        reason = (str(error).splitlines() or [""])[0]
        raise TerritoryError([f"{file}: is not CSV separated by {source.delimiter!r}: {reason}"]) from error
    typed = {c: m[1] for c in frame.columns if (m := _DBASE.fullmatch(c))}
    if typed and len({typed.get(c, c) for c in frame.columns}) == len(frame.columns):
        frame = frame.rename(typed)
        repaired.append(Remark(file, f"types removed from {len(typed)} dBase column names"))
    frame = frame.with_columns(pl.all().str.strip_chars())
    _need(frame, [source.longitude, source.latitude], source, "longitude and latitude")
    x, y = (number(frame[c], source.decimal) for c in (source.longitude, source.latitude) if c)
    frame = frame.with_row_index(NUMBER, offset=1).with_columns(x.alias(X), y.alias(Y))
    return frame, repaired, []


def number(texts: pl.Series, decimal: str) -> pl.Series:
    """The numbers written in a column of text; null where there is none."""
    if decimal == ",":
        texts = texts.str.replace(",", ".", literal=True)
    return texts.str.replace_all(r"[\s\u00a0\u202f]", "").cast(pl.Float64, strict=False)


def _need(frame: pl.DataFrame, names: Sequence[str | None], source: AssetSource, what: str) -> None:
    absent = [name for name in names if name is not None and name not in frame.columns]
    if absent:
        has = ", ".join(c for c in frame.columns if not c.startswith("\0"))
        raise TerritoryError([f"{source.file}: {what} names {absent[0]!r}; the file has {has}"])


def need_columns(frame: pl.DataFrame, source: AssetSource, named: Sequence[tuple[str, Sequence[str]]]) -> None:
    """Raise TerritoryError when the specification names a column that the file does not have."""
    for what, names in named:
        _need(frame, list(names), source, what)


def _geojson(content: bytes, source: AssetSource) -> tuple[pl.DataFrame, list[Remark], list[Remark]]:
    file, refused = source.file, list[Remark]()
    found, bad = zones.features(content, file)
    if bad:
        raise TerritoryError(lines(bad))
    names = list(dict.fromkeys(name for feature in found for name in feature["properties"]))
    columns: dict[str, list[Any]] = {name: [_as_text(f["properties"].get(name)) for f in found] for name in names}
    positions: list[tuple[float | None, float | None]] = []
    for i, feature in enumerate(found, 1):
        try:
            point = geometry.parse(feature.get("geometry"))
            if point.geom_type != "Point":
                raise Fault(f"an asset is a Point, not a {point.geom_type}")
            x, y = point.coords[0][:2]
            positions.append((y, x) if source.latitude_first else (x, y))
        except Fault as fault:
            refused.append(Remark(file, str(fault), "feature", i))
            positions.append((None, None))
    frame = pl.DataFrame(columns, schema=dict.fromkeys(names, pl.String()))
    frame = frame.with_columns(
        pl.Series(X, [p[0] for p in positions], pl.Float64), pl.Series(Y, [p[1] for p in positions], pl.Float64)
    ).with_row_index(NUMBER, offset=1)
    known = {remark.number for remark in refused}
    return frame.filter(~pl.col(NUMBER).is_in(list(known))), [], refused


def _as_text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value if value is None else value.strip()
    return json.dumps(value, ensure_ascii=False)
