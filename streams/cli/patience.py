"""Kafka and ClickHouse for a command that somebody waits for: what stays away for longer is told."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from sinks.clickhouse import Sink
from streams import setup
from streams.cli.errors import say, settings
from streams.settings import Settings

_PATIENCE_S: Final = 30.0


def kafka() -> Settings:
    """The settings, with no more patience than a person's, once Kafka answers. Raises SettingsError, BrokerError."""
    given = settings()
    patience = {name: min(_PATIENCE_S, getattr(given, name)) for name in ("retry_budget_s", "start_timeout_s")}
    chosen = given.model_copy(update=patience)
    setup.kafka(chosen, say)
    return chosen


@contextmanager
def clickhouse(chosen: Settings) -> Iterator[Sink]:
    """A connection to ClickHouse with today's tables. Raises SinkError."""
    # What its client says by itself reaches us as errors, which are told in words.
    logging.getLogger("clickhouse_connect").addHandler(logging.NullHandler())
    sink = setup.sink(chosen, say)
    try:
        setup.tables(sink)
        yield sink
    finally:
        sink.close()
