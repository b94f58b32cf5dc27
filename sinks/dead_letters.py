"""A reject as a dead letter: the original bytes, and headers that say where it comes from and why. And read again."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import polars as pl

from schemas.records import Batch, Header

_CONNECT: Final = "__connect.errors."
REASON_HEADER: Final = "vigie_reason"
REPLAY_HEADER: Final = "vigie_replay_count"
#: Says that the value of a dead letter was left out, and how large it was.
LEFT_OUT_HEADER: Final = "vigie_value_left_out_bytes"
#: Says that the value of a dead letter is empty because its record has neither key nor value.
NULL_HEADER: Final = "vigie_value_null"

#: Headers may hold anything: numbers as Kafka and we write them, and no longer than an Int64.
_NUMBER: Final = re.compile(rb"[0-9]{1,18}")
#: The highest number of a partition that our tables take.
MOST_PARTITION: Final = 65_535
_COUNT: Final = re.compile(rb"[0-9]{1,3}")


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


@dataclass(frozen=True)
class Told:
    """What the headers of a dead letter say: where the record was refused, at which stage, why, and how often it has
    been retried. `headers` are the record's own. `has_value`: its value was not left out.
    """

    topic: str
    partition: int
    offset: int
    stage: str
    reason: str
    message: str
    retries: int
    headers: tuple[Header, ...]
    has_value: bool


def told(headers: Sequence[Header]) -> Told | None:
    """What the headers of a record of the dead-letter topic say; None when they are not a dead letter's.

    Ours are the last ones: a record that has been a dead letter of somebody else's brings such headers too.
    """
    last = max((at for at, (name, _) in enumerate(headers) if name == _CONNECT + "topic"), default=None)
    if last is None:
        return None
    ours = dict(headers[last:])
    topic, partition, offset = (ours.get(_CONNECT + name) or b"" for name in ("topic", "partition", "offset"))
    if not (topic and _NUMBER.fullmatch(partition) and _NUMBER.fullmatch(offset) and ours.get(REASON_HEADER)):
        return None
    if int(partition) > MOST_PARTITION:
        return None
    return Told(
        topic=_text(topic),
        partition=int(partition),
        offset=int(offset),
        stage=_text(ours.get(_CONNECT + "stage")),
        reason=_text(ours[REASON_HEADER]),
        message=_text(ours.get(_CONNECT + "exception.message")),
        retries=retries_of(headers),
        headers=tuple(headers[:last]),
        has_value=LEFT_OUT_HEADER not in ours,
    )


def retries_of(headers: Sequence[Header]) -> int:
    """How often a record has been retried: the largest number that it bears.

    What is no number counts as 0: a retry writes a clean one in its place, so nothing goes round for ever by it.
    """
    found = (value for name, value in headers if name == REPLAY_HEADER and value and _COUNT.fullmatch(value))
    return max(map(int, found), default=0)


def _text(value: bytes | None) -> str:
    """Text that can be shown on a terminal."""
    text = (value or b"").decode(errors="replace")
    return "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in text)
