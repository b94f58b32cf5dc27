"""Frames of the stages as rows of the tables."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, Final, Protocol

import numpy as np
import polars as pl
import pyarrow as pa

from schemas.contracts import DOMAINS, HEAD, Contract, Domain, contract_of

_OLDEST: Final = pl.CompatLevel.oldest()
#: What is the same in all rows of a partition. Polars keeps these texts as long as the process lives: they are few.
_FEW: Final = pl.Categorical()
_TEXTS: Final = pa.dictionary(pa.int32(), pa.large_string())
_ZONES: Final = pa.map_(_TEXTS, _TEXTS)
_MEASURES: Final = pa.map_(_TEXTS, pa.float64())

#: Columns the stages add, in table order. `zones` is made from `zone_set` here.
_ADDED: Final = ("kind", "received_at", "location_quality", "quality", "failed", "late")
_PLACE: Final = ("territory_version", "topic", "epoch", "partition", "offset", "chunk", "term")
#: Columns that the tables have as LowCardinality, but for those of the contracts' symbols.
CODED: Final = frozenset(
    (
        *("jurisdiction_id", "kind", "source", "location_quality", "territory_version", "domain", "topic", "epoch"),
        *("layer", "zone_code", "metric"),
        *(field.name for domain in DOMAINS for field in contract_of(domain).fields if field.symbols),
    )
)
_NEAREST: Final = ("nearest_asset_id", "nearest_asset_m")


#: A version is a term above an offset, so that whatever a newer owner writes outranks all that an older one can write:
#: 4 million terms, and 4.4 * 10^12 offsets, which at 10 000 records per second and partition last 14 years.
_OFFSET_BITS: Final = 42


def version_of(term: int, next_offset: int) -> int:
    """The version of what the owner of a term writes when it has come to that offset (the next to read)."""
    return (term << _OFFSET_BITS) | next_offset


def offset_of(version: int) -> int:
    """The next offset in a version."""
    return version & ((1 << _OFFSET_BITS) - 1)


@dataclass(frozen=True)
class Origin:
    """Where the rows of a frame come from, and who writes them.

    `epoch` is the id Kafka gave the topic when it was created: offsets begin again when it is created anew. `term` is
    the writer's: one for each time the partition was given to a worker, rising.
    """

    topic: str
    partition: int
    epoch: str = ""
    term: int = 0

    def __str__(self) -> str:
        return f"{self.topic}/{self.epoch}/{self.partition}@{self.term}"


class ZoneSets(Protocol):
    """Combinations of zones by number: jurisdiction, and code by layer ("" where there is none)."""

    def __len__(self) -> int: ...

    def __getitem__(self, number: int, /) -> tuple[str, Mapping[str, str]]: ...


class ZoneMaps:
    """Arrow maps of the zone sets, made once for each set."""

    def __init__(self, sets: ZoneSets) -> None:
        """`sets`: jurisdiction and code by layer ("" where none) of each zone set; it may grow."""
        self._sets = sets
        self._array: Any = pa.nulls(0, _ZONES)

    def take(self, zone_set: pl.Series) -> Any:
        """The zones of each row, without the layers that have none there."""
        if len(self._array) < len(self._sets):
            known = [self._sets[number][1] for number in range(len(self._sets))]
            maps = [[(layer, code) for layer, code in codes.items() if code] for codes in known]
            layers, codes = (_texts([pair[at] for pairs in maps for pair in pairs]) for at in (0, 1))
            self._array = _map_array(list(map(len, maps)), layers, codes, _ZONES)
        return self._array.take(zone_set.to_arrow())


def placed(frame: pl.DataFrame, origin: Origin, territory_versions: Mapping[str, str]) -> pl.DataFrame:
    """Stored events with the columns that say where they come from. Their jurisdictions all have a version."""
    versions = set(territory_versions.values())
    version = pl.col("jurisdiction_id").replace_strict(territory_versions, return_dtype=pl.String)
    return frame.with_columns(
        (pl.lit(versions.pop()) if len(versions) == 1 else version).cast(_FEW).alias("territory_version"),
        *_origin(origin),
        pl.lit(origin.term, dtype=pl.UInt32).alias("term"),
    )


def _origin(origin: Origin) -> tuple[pl.Expr, ...]:
    return (
        pl.lit(origin.topic).cast(_FEW).alias("topic"),
        pl.lit(origin.epoch).cast(_FEW).alias("epoch"),
        pl.lit(origin.partition, dtype=pl.UInt16).alias("partition"),
    )


def coded(table: pa.Table) -> pa.Table:
    """The same rows, with texts of few values as dictionaries: less work for ClickHouse, which keeps them so.

    Call it on a whole block: a stream of parts with dictionaries of their own is one that ClickHouse does not read.
    """
    for at, name in enumerate(table.column_names):
        if name in CODED and table.num_rows:
            table = table.set_column(at, name, table.column(at).dictionary_encode())
    # Those of the maps may have grown from one part to the next.
    return table.unify_dictionaries()


def event_tables(frame: pl.DataFrame, domain: Domain, zones: ZoneMaps) -> Iterator[tuple[date, pa.Table]]:
    """Placed events of one domain as rows of `events_<domain>`, one table per event date."""
    contract = contract_of(domain)
    day = frame["observed_at"].dt.date()
    days = sorted(day.unique().to_list())
    for one in days:
        part = frame if len(days) == 1 else frame.filter(day == one)
        yield one, _event_table(part, contract, domain, zones)


def _event_table(frame: pl.DataFrame, contract: Contract, domain: Domain, zones: ZoneMaps) -> pa.Table:
    fields = [f.name for f in contract.fields]
    columns = [*fields, *_ADDED, *(_NEAREST if domain == "report" else ()), *_PLACE]
    # Columns without a value are left to ClickHouse's default, which is null: a bin has no wind speed.
    kept = [name for name in columns if frame[name].null_count() < len(frame)]
    table = frame.select(kept).to_arrow(compat_level=_OLDEST)
    return table.append_column("zones", zones.take(frame["zone_set"]))


def asset_states(frames: Sequence[pl.DataFrame], domain: Domain, zones: ZoneMaps) -> pa.Table:
    """The newest row of each asset in placed events, as rows of `asset_state`. Reports without an asset have none."""
    contract = contract_of(domain)
    newest = _newest(frames)
    fixed = ("jurisdiction_id", "asset_id", "kind", "observed_at", "received_at", "longitude", "latitude")
    table = newest.select(*fixed, "location_quality", "quality", pl.lit(domain).alias("domain")).to_arrow(
        compat_level=_OLDEST
    )
    numbers = [f.name for f in contract.fields if f.dtype.is_numeric() and f.name not in HEAD]
    texts = [f.name for f in contract.fields if f.symbols]
    return (
        table.append_column("zones", zones.take(newest["zone_set"]))
        .append_column("measures", _maps(newest, numbers, pl.Float64(), _MEASURES))
        .append_column("states", _maps(newest, texts, pl.String(), _ZONES))
    )


def _newest(frames: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """The newest row of each asset and kind. Only the keys are sorted, and frames are not joined: an event is wide."""
    keys = pl.concat([f.select("jurisdiction_id", "asset_id", "kind", "observed_at", "offset") for f in frames])
    last = (
        keys.with_row_index("at")
        .filter(pl.col("asset_id") != "")
        .sort("observed_at", "offset")
        .unique(["jurisdiction_id", "asset_id", "kind"], keep="last", maintain_order=True)
    )
    at = last["at"].sort().to_numpy()
    ends = np.cumsum([len(frame) for frame in frames])
    found = np.split(at, np.searchsorted(at, ends[:-1]))
    pieces = zip(frames, found, ends.tolist(), strict=True)
    newest: pl.DataFrame = pl.concat([frame[rows - (end - len(frame))] for frame, rows, end in pieces])
    return newest


def _maps(frame: pl.DataFrame, names: Sequence[str], dtype: pl.DataType, arrow: Any) -> Any:
    """One map per row, from column names to values, without the nulls."""
    present = [name for name in names if frame[name].null_count() < len(frame)]
    if not present:
        return _map_array([0] * len(frame), _texts([]), _arrow([], dtype), arrow)
    filled = np.column_stack([frame[name].is_not_null().to_numpy() for name in present])
    rows, columns = np.nonzero(filled)
    keys = pl.Series(present)[columns].to_arrow(compat_level=_OLDEST).dictionary_encode()
    # Row by row, one column after the other: the order in which the maps count.
    values = pl.concat([frame[name].cast(dtype).alias("value") for name in present])[columns * len(frame) + rows]
    return _map_array(filled.sum(axis=1), keys, values.to_arrow(compat_level=_OLDEST), arrow)


def _map_array(lengths: Sequence[int] | np.ndarray, keys: Any, items: Any, arrow: Any) -> Any:
    """Maps of so many pairs each, one after the other."""
    offsets = np.concatenate(([0], np.cumsum(lengths, dtype=np.int32)), dtype=np.int32)
    array: Any = pa.MapArray
    return array.from_arrays(_arrow(offsets, pl.Int32()), keys.cast(arrow.key_type), items.cast(arrow.item_type))


def _texts(values: Sequence[str]) -> Any:
    """Texts of few values, as a dictionary."""
    return _arrow(values, pl.String()).dictionary_encode()


def _arrow(values: Sequence[Any] | np.ndarray, dtype: pl.DataType) -> Any:
    """An array that Polars makes: PyArrow's own way from Python and NumPy imports Pandas, a third of a second."""
    return pl.Series(values, dtype=dtype).to_arrow(compat_level=_OLDEST)


def window_tables(rows: pl.DataFrame, origin: Origin, chunk: int, next_offset: int) -> Iterator[tuple[str, pa.Table]]:
    """Window rows of one chunk as rows of `window_rows`, one table per month of the windows."""
    month = rows["window_start"].dt.year().cast(pl.Int32) * 100 + rows["window_start"].dt.month()
    months = sorted(month.unique().to_list())
    for one in months:
        part = rows if len(months) == 1 else rows.filter(month == one)
        yield (
            str(one),
            part.with_columns(
                pl.col("window_start").dt.cast_time_unit("ms"),
                *_origin(origin),
                pl.lit(chunk, dtype=pl.Int64).alias("chunk"),
                pl.lit(version_of(origin.term, next_offset), dtype=pl.UInt64).alias("version"),
            ).to_arrow(compat_level=_OLDEST),
        )


def reject_table(refused: pl.DataFrame, origin: Origin) -> pa.Table:
    """Rejects (REJECT_SCHEMA with `offset` and `received_at`) as rows of `rejects`."""
    return refused.select(
        *_origin(origin),
        pl.lit(origin.term, dtype=pl.UInt32).alias("term"),
        "offset",
        "received_at",
        "stage",
        "reason",
        "detail",
    ).to_arrow(compat_level=_OLDEST)


def alert_table(transitions: Sequence[tuple[Origin, int, Mapping[str, Any]]]) -> pa.Table:
    """Transitions as rows of `alert_transitions`: (origin, last offset read when it was made, values of the Alert
    contract with instants in milliseconds)."""
    alert = {"at", "starts_at", "ends_at"}
    rows = [
        {**values, "topic": origin.topic, "epoch": origin.epoch, "partition": origin.partition, "offset": offset}
        for origin, offset, values in transitions
    ]
    schema = {key: pl.Datetime("ms", "UTC") if key in alert else _ALERT_TYPES.get(key, pl.String()) for key in rows[0]}
    raw = {key: pl.Int64() if key in alert else dtype for key, dtype in schema.items()}
    return pl.DataFrame(rows, schema=raw).cast(pl.Schema(schema)).to_arrow(compat_level=_OLDEST)


_ALERT_TYPES: Final[dict[str, pl.DataType]] = {
    "sequence": pl.UInt64(),
    "value": pl.Float64(),
    "threshold": pl.Float64(),
    "partition": pl.UInt16(),
    "offset": pl.Int64(),
}


def names_of(parts: Iterable[tuple[Origin, int, int]]) -> str:
    """What a block holds, in one line for its token: origin, first and last offset of each part."""
    return ";".join(sorted(f"{origin}:{first}-{last}" for origin, first, last in parts))
