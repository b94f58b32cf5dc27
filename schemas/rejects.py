"""Why a record could not become an event, and the frame that says so."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import polars as pl


class Reason(StrEnum):
    """The closed list of reasons; also the metric label set and the dead letter's `vigie_reason`."""

    DECODE = "decode"
    UNKNOWN_SCHEMA = "unknown_schema"
    CONTRACT = "contract"
    QUALITY = "quality"
    FUTURE = "future"
    OUT_OF_AREA = "out_of_area"
    UNKNOWN_JURISDICTION = "unknown_jurisdiction"
    DUPLICATE = "duplicate"
    SINK = "sink"
    TOO_LARGE = "too_large"


#: One row per rejected record of a batch. `row` is the record's index in its batch; `detail` names the field and
#: the rule, never the value (a value can be somebody's data).
REJECT_SCHEMA: Final[dict[str, pl.DataType]] = {
    "row": pl.UInt32(),
    "stage": pl.String(),
    "reason": pl.String(),
    "detail": pl.String(),
}


_NONE: Final = pl.DataFrame(schema=REJECT_SCHEMA)


def no_rejects() -> pl.DataFrame:
    """An empty reject frame."""
    return _NONE


def joined(*parts: pl.DataFrame) -> pl.DataFrame:
    """Reject frames as one."""
    found = [part for part in parts if len(part)]
    return pl.concat(found) if found else _NONE


def rejects(rows: pl.Series, stage: str, reason: Reason, detail: str) -> pl.DataFrame:
    """A reject frame for the given batch rows, all with one reason."""
    return pl.DataFrame(
        {"row": rows.cast(pl.UInt32)},
        schema_overrides={"row": pl.UInt32},
    ).select(
        pl.col("row"),
        pl.lit(stage).alias("stage"),
        pl.lit(reason.value).alias("reason"),
        pl.lit(detail).alias("detail"),
    )
