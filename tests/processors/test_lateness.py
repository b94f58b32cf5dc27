"""The stage `lateness`: what was observed before the watermark, which belongs to the log and not to the batches."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Final

import polars as pl
import pytest

from processors.lateness import mark_late
from tests.support.batches import DAY, MINUTE, RECEIVED_MS

_INSTANT: Final = pl.Datetime("ms", "UTC")
DISORDER: Final = MINUTE
AHEAD: Final = 5 * MINUTE


def rows(observed: Sequence[int], received: Sequence[int] | None = None) -> pl.DataFrame:
    """Rows in offset order, observed at those instants (milliseconds); received long after unless said."""
    arrived = [RECEIVED_MS] * len(observed) if received is None else received
    return pl.DataFrame(
        {"observed_at": observed, "received_at": arrived}, schema={"observed_at": pl.Int64, "received_at": pl.Int64}
    ).cast(_INSTANT)


def marked(frame: pl.DataFrame, watermark_ms: int = 0) -> tuple[list[bool], list[int], int]:
    """Late, the watermark before each row, and the one after the last."""
    out, after = mark_late(frame, watermark_ms, disorder_ms=DISORDER, max_future_ms=AHEAD)
    return out["late"].to_list(), out["watermark"].cast(pl.Int64).to_list(), after


def by_hand(observed: Sequence[int], received: Sequence[int]) -> tuple[list[bool], list[int], int]:
    mark, late, before = 0, [], []
    for at, arrived in zip(observed, received, strict=True):
        before.append(mark)
        late.append(at < mark)
        mark = max(mark, min(at, arrived + AHEAD) - DISORDER)
    return late, before, mark


def test_an_event_is_late_when_it_was_observed_before_the_watermark() -> None:
    """Up to the allowed disorder nothing is late, to the millisecond; the watermark never goes back."""
    t = RECEIVED_MS - DAY
    late, before, after = marked(rows([t, t - DISORDER, t - DISORDER - 1, t + 10, t - DISORDER + 9]))
    assert late == [False, False, True, False, True]
    assert before == [0, t - DISORDER, t - DISORDER, t - DISORDER, t + 10 - DISORDER]
    assert after == t + 10 - DISORDER


def test_a_row_does_not_judge_itself() -> None:
    """The watermark stands as it did before the row: the first row of a partition is never late."""
    assert marked(rows([1_000_000_000_000]))[0] == [False]


def test_one_fast_clock_lifts_the_watermark_by_the_allowed_future_at_most() -> None:
    """A device a day ahead makes its neighbours late by minutes, not by a day."""
    t = RECEIVED_MS - DAY
    late, _, after = marked(rows([t, t + 10 * DAY, t + AHEAD, t + AHEAD - DISORDER - 1], [t, t, t, t]))
    assert after == t + AHEAD - DISORDER
    assert late == [False, False, False, True]


@pytest.mark.parametrize("size", [1, 7, 400])
def test_lateness_does_not_depend_on_the_cut(size: int) -> None:
    """Batches of 1, 7 or all rows: the same flags, watermarks and end as a walk row by row."""
    rng = random.Random(5)
    received = sorted(RECEIVED_MS + rng.randrange(DAY) for _ in range(400))
    observed = [at - round(rng.expovariate(1 / (2 * MINUTE))) + (DAY if rng.random() < 0.02 else 0) for at in received]
    mark, late, before = 0, [], []
    for start in range(0, 400, size):
        part = slice(start, start + size)
        some_late, some_before, mark = marked(rows(observed[part], received[part]), mark)
        late += some_late
        before += some_before
    assert (late, before, mark) == by_hand(observed, received)
    assert 0 < sum(late) < 400


def test_no_rows_leave_the_watermark_where_it_is() -> None:
    """A batch of rejects moves no time, and the columns are there."""
    out, after = mark_late(rows([]), 77, disorder_ms=DISORDER, max_future_ms=AHEAD)
    assert after == 77
    assert out.schema["late"] == pl.Boolean()
    assert out.schema["watermark"] == _INSTANT


def test_a_watermark_lifted_by_passing_time_is_kept() -> None:
    """Rows older than what the idle clock has already declared are late and do not pull it back."""
    late, before, after = marked(rows([RECEIVED_MS - DAY]), RECEIVED_MS)
    assert (late, before, after) == ([True], [RECEIVED_MS], RECEIVED_MS)
