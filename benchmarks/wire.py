"""Window results as every worker publishes them: key and value are JSON arrays.

key   ["<domain>","<layer>","<zone_code>","<kind>.<metric>",<window_start_ms>]   zone_code "": in no zone of that layer
value [count,sum,min,max]

The last value of a key counts.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

import polars as pl
from confluent_kafka import KafkaError, Message, Producer

_FLUSH_S: Final = 120.0
_QUEUED: Final = 500_000
#: A call for each result costs twice as much.
_AT_ONCE: Final = 50_000
_NOT_TAKEN: Final = "_error"

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
    keys, values = lines.select(pl.all().cast(pl.Binary))
    return keys.to_list(), values.to_list()


def _quoted(texts: pl.Series) -> pl.Series:
    """Each text as JSON. Few are distinct, so only those are escaped."""
    found = texts.unique()
    return texts.replace_strict(found, pl.Series([json.dumps(one) for one in found], dtype=pl.String))


def publish(
    bootstrap: str, topic: str, keys: Sequence[bytes], values: Sequence[bytes], *, queued: int = _QUEUED
) -> None:
    """Publish results to the topic's partition 0, and return once the broker has all. Raises PublishError.

    `queued`: how many may wait in the producer.
    """
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
            "queue.buffering.max.messages": queued,
            # One call into Python for each that was delivered would cost as much as sending it.
            "delivery.report.only.error": True,
            "log_level": 3,
        }
    )
    for start in range(0, len(keys), _AT_ONCE):
        some = zip(keys[start : start + _AT_ONCE], values[start : start + _AT_ONCE], strict=True)
        told: list[dict[str, Any]] = [{"key": key, "value": value} for key, value in some]
        while told and producer.produce_batch(topic, told, partition=0, on_delivery=undelivered) < len(told):
            # It marks those that it did not take, which is for want of room or for ever.
            told = [one for one in told if _NOT_TAKEN in one]
            why = {one.pop(_NOT_TAKEN).code() for one in told} - {KafkaError._QUEUE_FULL}
            if why:
                raise PublishError(f"results were not taken for {topic}: {sorted(why)}")
            producer.poll(0.1)
    left = producer.flush(_FLUSH_S)
    if left or failed:
        raise PublishError(
            f"{left} results were not delivered to {topic} in time, others failed: {sorted(set(failed))}"
        )
