"""What should have been told of a partition, made again from its stored events."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import polars as pl

from processors.alerts import Transition
from processors.lateness import mark_late
from processors.pipeline import PartitionState, Reference, advance
from schemas.contracts import contract_of


def transitions_of(
    events: Iterable[pl.DataFrame],
    passes: Sequence[tuple[int, int]],
    state: PartitionState,
    reference: Reference,
    *,
    clock_ms: int,
) -> Iterator[Transition]:
    """The transitions that follow from all stored events of a partition, and from event time coming to `clock_ms`.

    `events`: parts of the stored events, each offset once, in offset order over all parts, with the contract's fields,
    `received_at`, `kind`, `quality`, `failed` and `offset`. `passes`: (offset, milliseconds since 1970) where time was
    let pass without a record, after that offset, rising. `state` must be new; it is changed.

    The same as the pipeline told where every pass is known that an event came behind.
    """
    waiting = list(passes)
    for part in events:
        for rows, pass_ms in _cut(part, waiting):
            yield from _step(rows, state, reference)
            if pass_ms is not None:
                yield from _let_pass(pass_ms, state, reference)
    for _, pass_ms in waiting:
        yield from _let_pass(pass_ms, state, reference)
    yield from _let_pass(clock_ms, state, reference)


def _cut(part: pl.DataFrame, passes: list[tuple[int, int]]) -> Iterator[tuple[pl.DataFrame, int | None]]:
    """The part in pieces, each with the instant that time passes to after it. Takes those passes from the list."""
    while passes and not part.is_empty() and passes[0][0] < part["offset"].max():  # type: ignore[operator]
        offset, pass_ms = passes.pop(0)
        before = pl.col("offset") <= offset
        yield part.filter(before), pass_ms
        part = part.filter(~before)
    yield part, None


def _let_pass(until_ms: int, state: PartitionState, reference: Reference) -> tuple[Transition, ...]:
    return advance(state, until_ms + reference.limits.disorder_ms, reference)


def _step(part: pl.DataFrame, state: PartitionState, reference: Reference) -> list[Transition]:
    if part.is_empty():
        return []
    limits = reference.limits
    types = contract_of(state.domain).frame_schema() | {
        "received_at": pl.Datetime("ms", "UTC"),
        "kind": pl.String(),
        "quality": pl.UInt8(),
        "failed": pl.UInt64(),
        "offset": pl.Int64(),
    }
    rows = part.select(pl.col(name).cast(dtype) for name, dtype in types.items())
    rows, state.watermark_ms = mark_late(
        rows, state.watermark_ms, disorder_ms=limits.disorder_ms, max_future_ms=limits.clock.max_future_ms
    )
    passed = state.held.step(rows, passed_ms=state.passed_ms, clock_ms=state.clock_ms)
    return state.alerts.step(state.detectors.step(passed, state.clock_ms), state.clock_ms)
