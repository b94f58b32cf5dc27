"""What a worker counted, read back, and whether two workers counted the same: every window, to the last event.

A result is one (domain, layer, zone, metric, minute) with its count, sum, minimum and maximum, as `wire` has it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final

import polars as pl
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, TopicPartition

from benchmarks.log import PATIENCE_S, some
from benchmarks.processes import BenchmarkError
from benchmarks.wire import KEY, VALUES
from processors.aggregate import EVENTS, RECEIVED
from schemas.contracts import DOMAINS, contract_of

_SCHEMA: Final[dict[str, pl.DataType]] = {
    **{name: pl.String() for name in KEY[:4]},
    KEY[4]: pl.Int64(),
    **{name: pl.Float64() for name in VALUES},
}
#: Part of the numbers summed that adding them in another order may change: some thousand times a double's precision.
_FLOATING: Final = 1e-9
#: Differences that a message shows.
_SHOWN: Final = 5
_READ_AT_ONCE: Final = 10_000


class Disagreement(BenchmarkError):
    """Two workers counted differently, or one lost or doubled an event."""


@dataclass(frozen=True)
class Outputs:
    """The last value of every key of one worker's run.

    `windows` has KEY and VALUES as columns, one row per key. `in_steps`: values were rounded to whole steps of their
    field's resolution before they were added, as vigie does; others add them as they came.
    """

    worker: str
    windows: pl.DataFrame
    in_steps: bool

    def __len__(self) -> int:
        return len(self.windows)


def outputs(worker: str, last: Mapping[bytes, bytes], *, in_steps: bool) -> Outputs:
    """Outputs from the last value of each key, both as a peer writes them. Raises Disagreement for another form."""
    keys, values = _arrays(worker, last.keys(), len(KEY)), _arrays(worker, last.values(), len(VALUES))
    try:
        rows = [(*key, *map(float, value)) for key, value in zip(keys, values, strict=True)]
        windows = pl.DataFrame(rows, schema=_SCHEMA, orient="row", strict=True)
    except (TypeError, ValueError, pl.exceptions.PolarsError) as error:
        raise Disagreement(f"{worker}: a result has a value of another type: {error}") from None
    # Only ours counts the steps that say "received".
    windows = windows.filter(~((pl.col("domain") == "report") & pl.col("metric").str.ends_with(f".{RECEIVED}")))
    twice = windows.filter(windows.select(KEY).is_duplicated())
    if len(twice):
        raise Disagreement(f"{worker}: one key in two forms: {json.dumps(twice.row(0)[: len(KEY)])}")
    return Outputs(worker, windows.sort(KEY), in_steps)


def _arrays(worker: str, texts: Iterable[bytes], length: int) -> list[list[Any]]:
    """JSON arrays of that length, parsed in one call."""
    texts = list(texts)
    try:
        found: list[list[Any]] = json.loads(b"[" + b",".join(texts) + b"]")
    except ValueError as error:
        raise Disagreement(f"{worker}: a result is not JSON: {error}") from None
    pairs = zip(texts, found, strict=False)
    wrong = next((text for text, one in pairs if not isinstance(one, list) or len(one) != length), None)
    if len(found) != len(texts) or wrong is not None:
        raise Disagreement(f"{worker}: a result is not an array of {length}: {(wrong or texts[0])!r}")
    return found


def read_topic(bootstrap: str, topic: str) -> dict[bytes, bytes]:
    """The last value of each key of a topic of one partition. Raises BenchmarkError."""
    settings = {"bootstrap.servers": bootstrap, "group.id": topic, "enable.auto.commit": False}
    consumer = Consumer({**settings, "enable.partition.eof": True})
    last: dict[bytes, bytes] = {}
    try:
        consumer.assign([TopicPartition(topic, 0, OFFSET_BEGINNING)])
        while True:
            messages = some(consumer, _READ_AT_ONCE)
            if not messages:
                raise BenchmarkError(f"{topic}: nothing came for {PATIENCE_S:.0f} s, not even its end")
            for message in messages:
                error = message.error()
                if error is None:
                    last[message.key() or b""] = message.value() or b""
                elif error.code() == KafkaError._PARTITION_EOF:
                    return last
                else:
                    raise BenchmarkError(f"{topic}: {error}")
    except KafkaException as error:
        raise BenchmarkError(f"{topic}: {error}") from None
    finally:
        consumer.close()


@cache
def _resolutions() -> pl.DataFrame:
    """The resolution of each summed field, by domain and field."""
    rows = [(domain, f.name, f.resolution) for domain in DOMAINS for f in contract_of(domain).metrics]
    schema = {"domain": pl.String(), "_field": pl.String(), "_step": pl.Float64()}
    return pl.DataFrame(rows, schema=schema, orient="row")


def compare(one: Outputs, other: Outputs) -> int:
    """The number of keys, when both have the same with the same values. Raises Disagreement.

    Counts are equal. Minima and maxima are equal, or at most half a step of the field's resolution apart where one of
    the two rounds to steps. Sums are equal but for the order of adding (1e-9 of what was added); where one rounds, each
    of the added values may have moved by half a step.
    """
    both = one.windows.join(other.windows, on=KEY, how="full", suffix="_other", coalesce=True)
    both = both.with_columns(pl.col("metric").str.split(".").list.last().alias("_field"))
    both = both.join(_resolutions(), on=["domain", "_field"], how="left").with_columns(pl.col("_step").fill_null(0.0))
    half = pl.col("_step") / 2 if one.in_steps != other.in_steps else pl.lit(0.0)
    largest = pl.max_horizontal(pl.col(name).abs() for name in ("min", "max"))
    rounded, reordered = half * (1 + _FLOATING), largest * pl.col("count") * _FLOATING
    # What rounds to steps multiplies by the resolution at the end: 0.1 * 3 is not 0.3.
    apart = pl.when(half > 0).then(rounded + largest * _FLOATING).otherwise(0.0)
    wrong = both.filter(
        pl.col("count").is_null()
        | pl.col("count_other").is_null()
        | (pl.col("count") != pl.col("count_other"))
        | ~_within("sum", rounded * pl.col("count") + reordered)
        | ~_within("min", apart)
        | ~_within("max", apart)
    ).sort(KEY)
    if len(wrong):
        lines = [f"{one.worker} and {other.worker} differ in {len(wrong):,} of {len(both):,} windows:"]
        lines += [_told(row, one.worker, other.worker) for row in wrong.head(_SHOWN).iter_rows(named=True)]
        raise Disagreement("\n".join(lines))
    return len(both)


def _within(name: str, tolerance: pl.Expr) -> pl.Expr:
    """Whether both values of a column are that close; never where one is not a number."""
    apart = (pl.col(name) - pl.col(f"{name}_other")).abs()
    return (apart <= tolerance) & apart.is_finite()


def _told(row: Mapping[str, Any], one: str, other: str) -> str:
    key = json.dumps([row[name] for name in KEY], separators=(",", ":"), ensure_ascii=False)
    return f"  {key}: {one} has {_value(row, '')}, {other} has {_value(row, '_other')}"


def _value(row: Mapping[str, Any], suffix: str) -> str:
    values = [row[name + suffix] for name in VALUES]
    return "no such window" if None in values else json.dumps(values)


def count_every_event(found: Outputs, events: int) -> None:
    """Every layer's windows count every event exactly once. Raises Disagreement."""
    counts = found.windows.filter(pl.col("metric").str.ends_with(f".{EVENTS}"))
    by_layer = counts.group_by("layer").agg(pl.col("count").sum()).sort("layer")
    wrong = [f"{layer}: {count:,.0f}" for layer, count in by_layer.iter_rows() if count != events]
    if wrong or by_layer.is_empty():
        told = ", ".join(wrong) or "there is none"
        raise Disagreement(f"{found.worker}: the windows of a layer do not count {events:,} events: {told}")


@dataclass
class Agreement:
    """All outputs of a session against each other. `keys`: windows that all of them have; 0 before the first."""

    events: int
    keys: int = 0
    _first: dict[bool, Outputs] = field(default_factory=dict)

    def take(self, found: Outputs) -> None:
        """Compare one run's outputs with the first of their sort; the first of a sort with the other sort's first.

        Raises Disagreement.
        """
        count_every_event(found, self.events)
        same, others = self._first.get(found.in_steps), self._first.get(not found.in_steps)
        if same is not None:
            compare(found, same)
            return
        self._first[found.in_steps] = found
        self.keys = len(found)
        if others is not None:
            compare(found, others)
