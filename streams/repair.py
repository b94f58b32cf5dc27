"""Window rows made again from the stored events of their chunk, by whoever has claimed the partition.

Recovery takes back what a former owner had counted beyond the state it goes on from; `vigie audit --repair` writes
chunks again that are not what their events give. Both write whole chunks under a new term, which outranks all before.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import polars as pl

from processors.aggregate import WINDOW_SCHEMA
from processors.locate import ZoneSets
from processors.rebuild import window_rows_of
from schemas.contracts import domain_of
from sinks.rows import Origin
from sinks.store import ChunkPart

#: What tells the window rows of one chunk apart.
WINDOW_KEY: Final = ("window_start", "jurisdiction_id", "layer", "zone_code", "metric")

_COUNTED: Final = ("count", "late", "sum", "sum_squares", "minimum", "maximum", "last")

#: The layers of each (jurisdiction, territory version): `sinks.audited.layers`.
Layers = Mapping[tuple[str, str], tuple[str, ...]]


def expected(origin: Origin, events: pl.DataFrame, layers: Layers) -> pl.DataFrame:
    """The window rows (WINDOW_SCHEMA) of one chunk's stored events, in the layers of the territory versions that they
    were stored under. `events`: what `window_rows_of` reads, and `territory_version`; an empty frame may have none."""
    if events.is_empty():
        return pl.DataFrame(schema=dict(WINDOW_SCHEMA))
    declared: dict[str, set[str]] = {}
    for jurisdiction, version in events.select("jurisdiction_id", "territory_version").unique().iter_rows():
        declared.setdefault(str(jurisdiction), set()).update(layers.get((str(jurisdiction), str(version)), ()))
    sets = ZoneSets()
    for jurisdiction, names in declared.items():
        sets.add_territory(jurisdiction, tuple(sorted(names)))
    return window_rows_of(events, domain_of(origin.topic), sets)


def whole_chunk(origin: Origin, chunk: int, next_offset: int, rows: pl.DataFrame, keys: pl.DataFrame) -> ChunkPart:
    """A chunk as it should stand: its right `rows` (WINDOW_SCHEMA), and empty ones for all other `keys` that it has.

    `keys` has WINDOW_KEY, `resolution` and `last_at`. `origin` names the term that this is written under, and
    `next_offset` how far the partition has come with it: both make the version.
    """
    gone = keys.join(rows, on=list(WINDOW_KEY), how="anti")
    return ChunkPart(origin, chunk, next_offset, pl.concat((rows, _emptied(gone))))


def _emptied(keys: pl.DataFrame) -> pl.DataFrame:
    """Window rows that count nothing, for keys that have nothing any more."""
    zeros = [pl.lit(0, dtype=WINDOW_SCHEMA[name]).alias(name) for name in _COUNTED]
    return keys.with_columns(*zeros).select(*WINDOW_SCHEMA).cast(dict(WINDOW_SCHEMA))  # type: ignore[arg-type]
