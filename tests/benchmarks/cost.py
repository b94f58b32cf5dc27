"""What the hot path costs, as a ratio to a fixed piece of work on the same records. Not a figure of speed.

    python -m tests.benchmarks.cost

The path is what a worker does with a batch between fetch and insert: every stage from decode to alerts, window rows,
rows as Arrow tables. The yardstick is fastavro decoding the 20 000 records one by one, which nothing here can make
faster or slower. Both are measured in processor time, in turns, and the least of several rounds counts, so that neither
another machine nor a busy one moves the ratio much. Prints {"large": ..., "small": ...}: all records in batches as a
worker makes them when it catches up, and 1 000 records in batches of 50, where the cost of a batch itself shows.
"""

from __future__ import annotations

import gc
import io
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final

# Polars reads it once; without it, threads that wait for work would be counted.
os.environ["POLARS_MAX_THREADS"] = "1"

import fastavro
import numpy as np

from processors.locate import Locator
from processors.pipeline import Limits, PartitionState, Reference, new_state, run, take_window_rows
from schemas.contracts import RAW_TOPICS, contract_of, domain_of
from schemas.records import Batch
from schemas.writers import own_writers
from sinks.rows import Origin, ZoneMaps, event_tables, placed, window_tables
from streams.simulation.city import simulate
from streams.territory.synth import synthesize
from tests.support.blocks import block

RECORDS: Final = 20_000
LARGE: Final = 10_000
SMALL: Final = 50
#: Records of the small batches: enough of them for their cost, few enough for the time of a test.
FEW: Final = 1_000
ROUNDS: Final = 5
_START: Final = datetime(2026, 9, 14, 6, tzinfo=UTC)
_END: Final = datetime(2026, 9, 14, 7, tzinfo=UTC)
_PREFIX_BYTES: Final = 10


def records() -> tuple[Reference, dict[str, list[bytes]]]:
    """A seeded city, and the values of its clean records by topic, of one hour."""
    territory = synthesize(7)
    simulation = simulate(territory, seed=7, start=_START, end=_END, events=round(RECORDS * 1.2), wall_now=lambda: _END)
    values: dict[str, list[bytes]] = {topic: [] for topic in RAW_TOPICS.values()}
    clean = 0
    for record in simulation.records():
        # A clean record is one that the truth counts as clean.
        if simulation.truth.clean > clean and record.value is not None and clean < RECORDS:
            values[record.topic].append(record.value)
            clean = simulation.truth.clean
    if clean < RECORDS:
        raise ValueError(f"the city gave {clean} of {RECORDS} records")
    return Reference(Locator({territory.jurisdiction_id: territory}), Limits(disorder_ms=1_000)), values


def batches(values: Mapping[str, Sequence[bytes]], size: int, most: int) -> list[Batch]:
    """Of each topic its share of `most` records, as one partition in batches of that size."""
    total = sum(map(len, values.values()))
    received_ms = int(_END.timestamp() * 1_000)
    found = []
    for topic, all_of_it in values.items():
        mine = all_of_it[: max(1, len(all_of_it) * most // total)]
        for start in range(0, len(mine), size):
            part = mine[start : start + size]
            offsets = np.arange(start, start + len(part), dtype=np.int64)
            received = np.full(len(part), received_ms, np.int64)
            found.append(Batch(topic, 0, offsets, received, [block((None, value, ()) for value in part)]))
    return found


def path(reference: Reference, given: Sequence[Batch]) -> None:
    """Take the batches through every stage, and make the rows that would be inserted."""
    zones = ZoneMaps(reference.locator.sets)
    versions = {name: territory.version for name, territory in reference.locator.territories.items()}
    states: dict[str, PartitionState] = {}
    for batch in given:
        domain = domain_of(batch.topic)
        contract = contract_of(domain)
        state = states.setdefault(batch.topic, new_state(batch.topic, 0, domain, reference))
        writers = own_writers(contract)
        for outcome in run(batch, state, reference, writers):
            if len(outcome.refused):
                raise ValueError(f"clean records were refused: {outcome.refused.row(0)}")
            list(event_tables(placed(outcome.events, Origin(batch.topic, 0), versions), domain, zones))
    for topic, state in states.items():
        for chunk in take_window_rows(state):
            list(window_tables(chunk.rows, Origin(topic, 0), chunk.first_offset, chunk.last_offset + 1))


def yardstick(values: Mapping[str, Sequence[bytes]]) -> None:
    """Decode the values record by record with fastavro."""
    for topic, all_of_it in values.items():
        schema = contract_of(domain_of(topic)).parsed
        for value in all_of_it:
            fastavro.schemaless_reader(io.BytesIO(value[_PREFIX_BYTES:]), schema, None)


def ratios(yard: Callable[[], None], **works: Callable[[], None]) -> dict[str, float]:
    """Least processor time of each work over the least of the yardstick, to the hundredth; the first round warms up."""
    spent: dict[str, list[float]] = {name: [] for name in ("", *works)}
    for _ in range(ROUNDS + 1):
        for name, work in {"": yard, **works}.items():
            gc.collect()
            began = time.process_time()
            work()
            spent[name].append(time.process_time() - began)
    least = {name: min(times[1:]) for name, times in spent.items()}
    return {name: round(least[name] / least[""], 2) for name in works}


def main() -> None:
    reference, values = records()
    large, small = batches(values, LARGE, RECORDS), batches(values, SMALL, FEW)
    gc.freeze()
    found = ratios(
        lambda: yardstick(values), large=lambda: path(reference, large), small=lambda: path(reference, small)
    )
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
