"""Window results as every worker publishes them: key and value are JSON arrays.

key   ["<domain>","<layer>","<zone_code>","<kind>.<metric>",<window_start_ms>]   zone_code "": in no zone of that layer
value [count,sum,min,max]

The last value of a key counts.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from typing import Final

import polars as pl
from confluent_kafka import KafkaError, Message, Producer

_FLUSH_S: Final = 120.0
_QUEUED: Final = 500_000

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

    def undelivered(error: KafkaError | None, _: Message) -> None:
        if error is not None:
            failed.append(error.name())

    producer = Producer(
        {
            "bootstrap.servers": bootstrap,
            "acks": "all",
            "enable.idempotence": True,
            "linger.ms": 20,
            "queue.buffering.max.messages": _QUEUED,
            # One call into Python for each that was delivered would cost as much as sending it.
            "delivery.report.only.error": True,
            "log_level": 3,
        }
    )
    for key, value in zip(keys, values, strict=True):
        while True:
            with contextlib.suppress(BufferError):
                producer.produce(topic, value, key, partition=0, on_delivery=undelivered)
                break
            producer.poll(0.1)
    left = producer.flush(_FLUSH_S)
    if left or failed:
        raise PublishError(
            f"{left} results were not delivered to {topic} in time, others failed: {sorted(set(failed))}"
        )
