"""A reject as a dead letter: the original bytes, and headers that say where it comes from and why."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import polars as pl

from schemas.records import Batch, Header

_CONNECT: Final = "__connect.errors."
REASON_HEADER: Final = "vigie_reason"
REPLAY_HEADER: Final = "vigie_replay_count"


@dataclass(frozen=True)
class DeadLetter:
    """A message for `city.dead-letter`. Key, value and timestamp (milliseconds) are the original record's."""

    key: bytes | None
    value: bytes | None
    timestamp_ms: int
    headers: tuple[Header, ...]


def dead_letters(batch: Batch, refused: pl.DataFrame) -> Iterator[DeadLetter]:
    """Dead letters of a batch's rejects (REJECT_SCHEMA). Original headers come first, unchanged; ours follow.

    The headers are those of Kafka Connect, `vigie_reason`, and `vigie_replay_count` (0 unless the record brings one).
    The message names the field and the rule, never the value.
    """
    for row, stage, reason, detail in refused.select("row", "stage", "reason", "detail").iter_rows():
        key, value, headers = batch.original(row)
        original = tuple(headers)
        ours: tuple[Header, ...] = (
            (_CONNECT + "topic", batch.topic.encode()),
            (_CONNECT + "partition", str(batch.partition).encode()),
            (_CONNECT + "offset", str(batch.offsets[row]).encode()),
            (_CONNECT + "stage", stage.encode()),
            (_CONNECT + "exception.class.name", b"vigie.Reject"),
            (_CONNECT + "exception.message", detail.encode()),
            (REASON_HEADER, reason.encode()),
        )
        if not any(name == REPLAY_HEADER for name, _ in original):
            ours = (*ours, (REPLAY_HEADER, b"0"))
        yield DeadLetter(key, value, int(batch.received_ms[row]), original + ours)
