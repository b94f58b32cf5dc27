"""Window results as every worker publishes them: key and value are JSON arrays.

key   ["<domain>","<layer>","<zone_code>","<kind>.<metric>",<window_start_ms>]   zone_code "": in no zone of that layer
value [count,sum,min,max]

The last value of a key counts.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final

import polars as pl
from confluent_kafka import KafkaError, Message, Producer

_FLUSH_S: Final = 120.0
#: Messages handed over in one call: few enough that the producer's queue takes them.
_AT_ONCE: Final = 50_000

KEY: Final = ("domain", "layer", "zone_code", "metric", "window_start")
VALUES: Final = ("count", "sum", "min", "max")


class PublishError(Exception):
    """Kafka did not take every result."""


def encoded(windows: pl.DataFrame) -> tuple[list[bytes], list[bytes]]:
    """Keys and values. `windows` has KEY (`window_start` in milliseconds since 1970, Int64) and VALUES."""
    texts = windows.with_columns(_quoted(windows[name]) for name in KEY[:4])
    key = pl.concat_str(pl.col(KEY).cast(pl.String), separator=",")
    value = pl.concat_str(pl.col(VALUES).cast(pl.String), separator=",")
    lines = texts.select(pl.format("[{}]", key).alias("key"), pl.format("[{}]", value).alias("value"))
    return [line.encode() for line in lines["key"]], [line.encode() for line in lines["value"]]


def _quoted(texts: pl.Series) -> pl.Series:
    """Each text as JSON. Few are distinct, so only those are escaped."""
    found = texts.unique()
    return texts.replace_strict(found, pl.Series([json.dumps(one) for one in found], dtype=pl.String))


def publish(bootstrap: str, topic: str, keys: Sequence[bytes], values: Sequence[bytes]) -> None:
    """Publish results to the topic's partition 0, and return once the broker has all. Raises PublishError."""
    failed: list[str] = []

    def delivered(error: KafkaError | None, _: Message) -> None:
        if error is not None:
            failed.append(error.name())

    producer = Producer(
        {"bootstrap.servers": bootstrap, "acks": "all", "enable.idempotence": True, "linger.ms": 20, "log_level": 3}
    )
    for start in range(0, len(keys), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        for key, value in zip(keys[part], values[part], strict=True):
            producer.produce(topic, value, key, partition=0, on_delivery=delivered)
        if left := producer.flush(_FLUSH_S):
            raise PublishError(f"{left} results were not delivered to {topic} within {_FLUSH_S:.0f} s")
    if failed:
        raise PublishError(f"{len(failed)} results were not delivered to {topic}: {sorted(set(failed))}")
