"""Acknowledgements: a person has taken on an alert. The view `alerts` says whether one still holds."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

import pyarrow as pa

from sinks.clickhouse import Sink

_INSTANT: Final = pa.timestamp("ms", "UTC")


@dataclass(frozen=True)
class Acknowledgement:
    """Who took on an alert, when (wall clock), and the transition that it answers: the newest one that was seen.

    It holds until the alert has another transition. Instants are aware datetimes. `by` and `note` are kept as given.
    """

    jurisdiction_id: str
    fingerprint: str
    starts_at: datetime
    transition_id: str
    by: str
    note: str
    at: datetime


def acknowledge(given: Acknowledgement, sink: Sink) -> None:
    """Store it; the newest of one transition counts. Nothing of the alert's own history changes. Raises SinkError."""
    row = pa.table(
        {
            "jurisdiction_id": [given.jurisdiction_id],
            "fingerprint": [given.fingerprint],
            "starts_at": pa.array([given.starts_at], _INSTANT),
            "transition_id": [given.transition_id],
            "by": [given.by],
            "note": [given.note],
            "at": pa.array([given.at], _INSTANT),
        }
    )
    sink.insert_whole("acknowledgements", row, f"{given.transition_id}|{given.at.isoformat()}|{given.by}|{given.note}")
