"""A partition whose worker dies and begins again in a new process, for the tests of state."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import polars as pl

from processors.alerts import Transition
from processors.pipeline import ChunkRows, Outcome, PartitionState, Reference, new_state, take_window_rows
from processors.rebuild import reopen
from processors.snapshot import freeze, thaw
from schemas.records import Batch
from tests.support.batches import newest, process, state_of, zones_of

_ZONES: Final = pl.List(pl.Struct({"key": pl.String(), "value": pl.String()}))


def as_stored(events: pl.DataFrame, shared: Reference) -> pl.DataFrame:
    """Events as they are read back from the store: `zones` without the layers that have none, no number of a set."""
    zones = [
        [{"key": layer, "value": code} for layer, code in shared.locator.sets[number][1].items() if code]
        for number in events["zone_set"]
    ]
    return events.drop("row", "zone_set", "watermark").with_columns(pl.Series("zones", zones, _ZONES))


class Lives:
    """One partition over several lives. Each life has territories and zone numbers of its own, made by `reference`."""

    def __init__(self, reference: Callable[[], Reference], first: Batch) -> None:
        self._reference = reference
        self.shared = reference()
        self.state: PartitionState = state_of(first, self.shared)
        self.outcomes: list[Outcome] = []
        self.taken: list[ChunkRows] = []
        self.stored: list[pl.DataFrame] = []
        self.zones: list[str] = []
        self.last_offset = first.first_offset - 1

    def take(self, batches: Sequence[Batch]) -> None:
        """Process batches, and take their window rows."""
        for one in batches:
            made = process(one, self.state, self.shared)
            self.outcomes += made
            self.stored += [as_stored(outcome.events, self.shared) for outcome in made]
            self.zones += [zones_of(self.shared, number) for o in made for number in o.events["zone_set"]]
            self.last_offset = one.last_offset
            self.taken += take_window_rows(self.state)

    def chunk(self, first_offset: int | None) -> pl.DataFrame:
        """What is stored of a chunk; a frame without columns when there is nothing."""
        rows = pl.concat(self.stored).filter(chunk=first_offset) if self.stored and first_offset is not None else None
        return pl.DataFrame() if rows is None or rows.is_empty() else rows

    def between(self, first_offset: int, before_offset: int | None) -> pl.DataFrame:
        """What is stored from an offset to before another (None: to the end); a frame without columns for nothing."""
        before = self.last_offset + 1 if before_offset is None else before_offset
        here = (pl.col("offset") >= first_offset) & (pl.col("offset") < before)
        rows = pl.concat(self.stored).filter(here) if self.stored else None
        return pl.DataFrame() if rows is None or rows.is_empty() else rows

    def restart(self) -> None:
        """Freeze, and go on in a new process."""
        frozen = freeze(self.state, self.last_offset)
        self.shared = self._reference()
        old = self.state
        thawed = thaw(frozen, old.topic, old.partition, old.domain, self.shared)
        assert thawed.last_offset == self.last_offset
        self.state = thawed.state
        reopen(
            self.state,
            self.shared,
            self.chunk(thawed.chunk_first),
            self.between(thawed.seen_from, thawed.chunk_first),
            last_offset=thawed.last_offset,
            chunk_first=thawed.chunk_first,
            seen_from=thawed.seen_from,
        )

    def begin_anew(self) -> None:
        """Go on in a new process that knows nothing."""
        self.shared = self._reference()
        self.state = new_state(self.state.topic, self.state.partition, self.state.domain, self.shared)

    @property
    def events(self) -> pl.DataFrame:
        found = pl.concat([outcome.events.drop("row", "zone_set") for outcome in self.outcomes])
        return found.with_columns(pl.Series("zones", self.zones, pl.String)).sort("offset")

    @property
    def refused(self) -> list[tuple[int, str, str, str]]:
        return sorted(
            (int(o.batch.offsets[row]), stage, reason, detail)
            for o in self.outcomes
            for row, stage, reason, detail in o.refused.iter_rows()
        )

    @property
    def transitions(self) -> list[Transition]:
        return [t for outcome in self.outcomes for t in outcome.transitions]

    @property
    def windows(self) -> pl.DataFrame:
        """Each row of each chunk at its newest version."""
        return newest(self.taken)


def in_order(transitions: Sequence[Transition]) -> list[Transition]:
    return sorted(transitions, key=lambda t: (t.at, t.fingerprint, t.sequence))
