"""What stored events and stored alerts give back: windows and duplicates exactly, alerts as far as they were told.

A window row is a sum over the stored events of its chunk, and duplicates are told by the events stored in it and
before it; so neither is ever saved. Whoever lost a state takes them from the store, where they cannot differ from what
is stored.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import polars as pl

from processors.aggregate import Codes, Windows
from processors.duplicates import Hashes, identities
from processors.locate import ZoneSets
from processors.pipeline import Chunk, PartitionState, Reference
from schemas.contracts import Domain, contract_of


def reopen(
    state: PartitionState,
    reference: Reference,
    open_events: pl.DataFrame,
    previous_events: pl.DataFrame,
    *,
    last_offset: int,
    chunk_first: int | None,
    seen_from: int,
) -> None:
    """Give a state its open chunk and its memory of duplicates, as they were after `last_offset`. Changes `state`.

    `open_events`: the stored events of the chunk that begins at `chunk_first`, `previous_events`: those from
    `seen_from` to there. Each offset once, in any order, with `source`, `event_id` and `offset`, the open ones also
    with the columns that `window_rows_of` needs; empty frames may have none. Events after `last_offset` are passed
    over: they will be read again. Where `chunk_first` is None the next record begins a chunk, and `open_events` is not
    looked at. Window rows count as taken: only those that later events change will be given by `take_window_rows`,
    whole.
    """
    state.seen_from, state.unopened = seen_from, None
    state.seen.previous = _identities(_until(previous_events, last_offset))
    if chunk_first is None:
        return
    stored = _until(open_events, last_offset)
    windows = _windows(stored, state.domain, reference.locator.sets)
    windows.take_changed()
    state.chunk = Chunk(chunk_first, windows, last_offset)
    state.seen.open = _identities(stored)


def regain_time(state: PartitionState, reference: Reference, events: pl.DataFrame) -> None:
    """Give a state whose snapshot is lost its watermark, and the rows that time had not passed. Changes `state`.

    `events`: the stored events of a chunk's length before what is read again, with `quality` beside the columns that
    `window_rows_of` needs; empty frames may have none. The watermark is the partition's if they hold its latest event,
    as they do unless devices with fast clocks have been silent ever since.
    """
    if events.is_empty():
        return
    at = pl.col("observed_at").dt.epoch("ms")
    newest = events.select(at.max()).item()
    state.watermark_ms = max(state.watermark_ms, newest - reference.limits.disorder_ms)
    mark = pl.lit(state.watermark_ms).cast(pl.Datetime("ms", "UTC")).alias("watermark")
    waiting = _typed(events.filter(at >= state.watermark_ms), state.domain, quality=pl.UInt8()).with_columns(mark)
    state.held.step(waiting, passed_ms=state.passed_ms, clock_ms=state.clock_ms)


def window_rows_of(events: pl.DataFrame, domain: Domain, sets: ZoneSets) -> pl.DataFrame:
    """The window rows (WINDOW_SCHEMA) of one chunk, from its stored events, each offset once.

    `events`: the contract's fields, `kind`, `late`, `failed` and `zones` (a list of `key`, `value`). `sets` knows the
    layers of the territory version that the events were stored under. Raises ValueError for a layer it does not know.
    """
    return _windows(events, domain, sets).take_changed()


def adopt(state: PartitionState, newest: Iterable[Mapping[str, Any]]) -> None:
    """Take over the alerts of a partition whose state is lost. Changes `state`, which must be new.

    `newest`: of each alert of the partition the newest stored transition (values of the Alert contract, instants in
    milliseconds). Their names go on, and what lasts stays raised until its condition ends.
    """
    told = list(newest)
    state.detectors.adopt(told)
    state.alerts.adopt(told, state.detectors.hold_s)


def _until(events: pl.DataFrame, last_offset: int) -> pl.DataFrame:
    return events if events.is_empty() else events.filter(pl.col("offset") <= last_offset)


def _identities(events: pl.DataFrame) -> Hashes:
    if events.is_empty():
        return Hashes()
    # Texts may come dictionary-encoded from the store, and a hash is one of the physical value.
    return Hashes(identities(events.select(pl.col("source", "event_id").cast(pl.String))).to_numpy())


def _windows(events: pl.DataFrame, domain: Domain, sets: ZoneSets) -> Windows:
    """The accumulators of stored events."""
    windows = Windows(Codes(sets))
    if events.is_empty():
        return windows
    contract = contract_of(domain)
    zone_set = sets.numbers(events["jurisdiction_id"], events["zones"]).alias("zone_set")
    windows.add(_typed(events, domain, late=pl.Boolean()).with_columns(zone_set), contract, domain)
    return windows


def _typed(events: pl.DataFrame, domain: Domain, **more: pl.DataType) -> pl.DataFrame:
    """Stored events with the types they had before: the store gives categories for texts and numbers for flags."""
    types = contract_of(domain).frame_schema() | {"kind": pl.String(), "failed": pl.UInt64(), "offset": pl.Int64()}
    return events.select(pl.col(name).cast(dtype) for name, dtype in (types | more).items())
