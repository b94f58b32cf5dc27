"""Dead letters by hand."""

from __future__ import annotations

from typing import Any

from schemas.contracts import RAW_TOPICS
from sinks.dead_letters import Told
from streams.replay.letters import Letter
from tests.support.batches import RECEIVED_MS

_TOLD: dict[str, Any] = {
    "topic": RAW_TOPICS["sensor"],
    "partition": 0,
    "offset": 0,
    "stage": "validate",
    "reason": "unknown_jurisdiction",
    "message": "",
    "retries": 0,
    "headers": (),
    "has_value": True,
}


def letter(value: bytes | None = None, at_ms: int = RECEIVED_MS, **changes: Any) -> Letter:
    """A letter of this value; what is told of it, with these changes."""
    return Letter(b"key", value, at_ms, Told(**{**_TOLD, **changes}))
