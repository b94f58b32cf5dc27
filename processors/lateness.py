"""The watermark of a partition: a running maximum in offset order, so it does not depend on how batches are cut."""

from __future__ import annotations

import numpy as np
import polars as pl


def mark_late(
    frame: pl.DataFrame, watermark_ms: int, *, disorder_ms: int, max_future_ms: int
) -> tuple[pl.DataFrame, int]:
    """Add `watermark` (Datetime ms UTC), as it stood before each row, and `late` (Boolean): observed before that.

    Returns (frame, new watermark).

    Each row lifts the watermark to min(observed, received + max_future) - disorder, so one device with a fast clock
    lifts it by `max_future_ms` at most. All instants in milliseconds since 1970. Rows in offset order.
    """
    if frame.is_empty():
        nothing = pl.lit(None, dtype=pl.Datetime("ms", "UTC")).alias("watermark")
        return frame.with_columns(nothing, pl.lit(False).alias("late")), watermark_ms
    observed, received = (frame[name].cast(pl.Int64).to_numpy() for name in ("observed_at", "received_at"))
    lifted = np.minimum(observed, received + max_future_ms) - disorder_ms
    marks = np.maximum.accumulate(np.concatenate(([watermark_ms], lifted)))
    before = pl.Series("watermark", marks[:-1]).cast(pl.Datetime("ms", "UTC"))
    return frame.hstack([before, pl.Series("late", observed < marks[:-1])]), int(marks[-1])
