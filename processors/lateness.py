"""The watermark of a partition: a running maximum in offset order, so it does not depend on how batches are cut."""

from __future__ import annotations

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
    observed = pl.col("observed_at").cast(pl.Int64)
    lifted = pl.min_horizontal(observed, pl.col("received_at").cast(pl.Int64) + max_future_ms) - disorder_ms
    before = pl.col("_mark").shift(1, fill_value=watermark_ms)
    marked = frame.with_columns(lifted.cum_max().clip(lower_bound=watermark_ms).alias("_mark")).with_columns(
        before.cast(pl.Datetime("ms", "UTC")).alias("watermark"), (observed < before).alias("late")
    )
    return marked.drop("_mark"), int(marked["_mark"][-1])
