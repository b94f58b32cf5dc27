"""How much of a table's history a take-over reads: what was stored long ago must cost nothing."""

from __future__ import annotations

from typing import Any, Final

import pytest

from sinks import stored
from sinks.clickhouse import Sink
from sinks.rows import Origin

_TOPIC: Final = "city.raw.sensor"
_HERE: Final = Origin(_TOPIC, 0, "T1")
#: Rows of ten chunks, in blocks of their own, as a partition's years are.
_CHUNK: Final = 20_000
_ROWS: Final = 200_000


class _Noted:
    """A sink that writes down what it is asked."""

    def __init__(self, sink: Sink) -> None:
        self.queries: list[tuple[str, Any]] = []
        self._sink = sink

    def rows(self, sql: str, parameters: Any = None) -> Any:
        self.queries.append((sql, parameters))
        return self._sink.rows(sql, parameters)

    def frame(self, sql: str, parameters: Any = None) -> Any:
        self.queries.append((sql, parameters))
        return self._sink.frame(sql, parameters)


@pytest.fixture
def history(clickhouse: Sink) -> Sink:
    """A table with many old chunks of one partition, an event every second."""
    for first in range(0, _ROWS, _CHUNK):
        clickhouse.client.command(
            "INSERT INTO events_sensor (jurisdiction_id, asset_id, observed_at, topic, epoch, partition, offset, chunk)"
            " SELECT '213400016', 'a', toDateTime64('2026-09-15 00:00:00', 3, 'UTC') + number, "
            f"'{_TOPIC}', 'T1', 0, number, {first} FROM numbers({first}, {_CHUNK})"
        )
    return clickhouse


def granules(sink: Sink, sql: str, parameters: Any) -> tuple[int, int]:
    """How many granules a query reads, of how many there are."""
    lines = [line.strip() for (line,) in sink.rows(f"EXPLAIN indexes = 1 {sql}", parameters)]
    counts = [line.removeprefix("Granules: ").split("/") for line in lines if line.startswith("Granules: ")]
    return int(counts[-1][0]), int(counts[0][1])


def test_a_chunk_is_found_by_its_offsets(history: Sink) -> None:
    """The events of the open chunk, up to an offset in its midst."""
    asked: Any = _Noted(history)
    found = stored.chunk_events(_HERE, "sensor", 9 * _CHUNK, 9 * _CHUNK + 10_000, asked)
    assert found["offset"].to_list() == list(range(9 * _CHUNK, 9 * _CHUNK + 10_000))
    ((sql, parameters),) = asked.queries
    read, all_there = granules(history, sql, parameters)
    assert read <= all_there / 4


def test_the_last_chunk_is_looked_for_near_the_end(history: Sink, monkeypatch: pytest.MonkeyPatch) -> None:
    """And further back only where nothing is near."""
    monkeypatch.setattr(stored, "_NEAR", _CHUNK)
    asked: Any = _Noted(history)
    assert stored.last_chunk(_HERE, "sensor", _ROWS - 10, asked) == 9 * _CHUNK
    ((sql, parameters),) = asked.queries
    read, all_there = granules(history, sql, parameters)
    assert read <= all_there / 4
    assert stored.last_chunk(_HERE, "sensor", 5 * _ROWS, history) == 9 * _CHUNK
    assert stored.last_chunk(_HERE, "sensor", None, history) == 9 * _CHUNK
    assert stored.last_chunk(_HERE, "sensor", 0, history) is None
