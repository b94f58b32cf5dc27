"""What a test cannot do without: it skips with the reason, or fails where that must not be."""

from __future__ import annotations

import os

import pytest

from tests.support.kafka import kafka_available


def require_kafka() -> None:
    """Skip the test when real Kafka cannot run here; with VIGIE_REQUIRE_KAFKA=1, as in the check of a change, fail."""
    reason = kafka_available()
    if reason is not None:
        if os.environ.get("VIGIE_REQUIRE_KAFKA") == "1":
            pytest.fail(f"VIGIE_REQUIRE_KAFKA=1, but {reason}")
        pytest.skip(reason)
