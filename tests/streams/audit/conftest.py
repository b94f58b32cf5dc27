"""A world in which a worker has lived, and what the audit says of it."""

from __future__ import annotations

import pytest

from sinks.clickhouse import Sink
from tests.streams.audit.looking import IDLE_MS
from tests.streams.lives import Plan, live, offer
from tests.streams.worlds import World, log


@pytest.fixture
def unlived(clickhouse: Sink, monkeypatch: pytest.MonkeyPatch) -> World:
    """Records in two partitions, and nobody has read them."""
    return offer(World(clickhouse, log()), monkeypatch)


@pytest.fixture
def world(unlived: World) -> World:
    """The same, read to its end by one worker that has stopped."""
    live(unlived, Plan(cut=5, idle_ms=IDLE_MS))
    return unlived
