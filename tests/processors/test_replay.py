"""Alerts made again from stored events are those that were told, whatever the cut."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from processors.alerts import Transition
from processors.pipeline import advance
from processors.replay import transitions_of
from schemas.records import Batch
from tests.support.batches import HOUR, MINUTE, RECEIVED_MS, batch_of, cut, event, process, reference, state_of

_START_MS = RECEIVED_MS - 6 * HOUR
_SHARED = reference(disorder_ms=2_000, chunk_records=16)


def readings(count: int = 60) -> Batch:
    """A bin that fills and burns by turns, one that falls silent for hours, late readings and doubtful ones."""
    values = []
    for number in range(count):
        changes: dict[str, Any] = {"event_id": f"e{number}", "observed_at": _START_MS + number * 5 * MINUTE}
        changes["fill_level"] = 0.95 if number % 12 < 5 else 0.2
        changes |= {"temperature_c": 90.0 if number % 14 == 3 else 20.0} if number % 7 == 3 else {}
        changes |= {"asset_id": "drop-off-0004", "fill_level": 0.9} if number % 9 == 4 else {}
        changes |= {"observed_at": _START_MS - number * HOUR} if number % 11 == 7 else {}
        changes |= {"fill_level": 7.0} if number % 13 == 6 else {}
        # Nothing is heard of the bin for a while.
        changes |= {"asset_id": "footfall-01", "sensor_type": "footfall"} if 30 <= number < 58 else {}
        values.append(event(**changes))
    received = [_START_MS + number * 5 * MINUTE + 500 for number in range(count)]
    return batch_of(values, received_ms=received)


def told(
    whole: Batch, sizes: Sequence[int], passes: Sequence[tuple[int, int]]
) -> tuple[list[Transition], pl.DataFrame]:
    """What a worker tells of the log, cut so and letting time pass there, and the events it stores."""
    state = state_of(whole, _SHARED)
    made: list[Transition] = []
    stored, due = [], list(passes)
    for part in cut(whole, sizes):
        while len(part):
            stop = len(part)
            if due and due[0][0] < part.last_offset:
                stop = int((part.offsets <= due[0][0]).sum())
            for outcome in process(part.part(0, stop), state, _SHARED) if stop else ():
                made += outcome.transitions
                stored.append(outcome.events)
            part = part.part(stop, len(part))
            if len(part):
                made += advance(state, due.pop(0)[1] + 2_000, _SHARED)
    for _, passed_ms in due:
        made += advance(state, passed_ms + 2_000, _SHARED)
    return made, pl.concat(stored)


def replayed(
    whole: Batch, events: pl.DataFrame, sizes: Sequence[int], passes: Sequence[tuple[int, int]], clock_ms: int
) -> list[Transition]:
    def parts() -> Iterator[pl.DataFrame]:
        start = 0
        for size in (*sizes, len(events)):
            yield events[start : start + size]
            start += size

    return list(transitions_of(parts(), passes, state_of(whole, _SHARED), _SHARED, clock_ms=clock_ms))


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    sizes=st.lists(st.integers(1, 20), max_size=8),
    others=st.lists(st.integers(1, 20), max_size=8),
    idle=st.lists(st.tuples(st.integers(0, 59), st.integers(0, 90)), max_size=3),
)
def test_the_same_transitions_follow(sizes: list[int], others: list[int], idle: list[tuple[int, int]]) -> None:
    """From the stored events, in other parts, with the passes that were kept: the same ids, instants and values."""
    whole = readings()
    passes = [(o, _START_MS + o * 5 * MINUTE + late * MINUTE) for o, late in sorted(dict(idle).items())]
    end_ms = max([_START_MS + 12 * HOUR, *(passed_ms for _, passed_ms in passes)])
    made, events = told(whole, sizes, [*passes, (59, end_ms)])
    again = replayed(whole, events, others, passes, end_ms)
    key = [(t.fingerprint, t.sequence) for t in made]
    assert len(set(key)) == len(key)
    assert sorted(again, key=lambda t: (t.fingerprint, t.sequence)) == sorted(
        made, key=lambda t: (t.fingerprint, t.sequence)
    )
    assert {t.alertname for t in made} == {"bin_full", "bin_fire", "silent"}


def test_an_event_that_is_gone_gives_other_transitions() -> None:
    """What the audit lives by: the transitions hang on each event that raises or clears."""
    whole = readings()
    made, events = told(whole, [20], [(59, _START_MS + 12 * HOUR)])
    raised = next(t for t in made if t.alertname == "bin_full" and t.state == "firing")
    fewer = events.filter(pl.col("observed_at") != raised.starts_at)
    again = replayed(whole, fewer, [], [], _START_MS + 12 * HOUR)
    assert raised.transition_id in {t.transition_id for t in made}
    assert raised.transition_id not in {t.transition_id for t in again}


@pytest.mark.parametrize("parts", [[], [pl.DataFrame()]])
def test_nothing_stored_gives_nothing(parts: list[pl.DataFrame]) -> None:
    """Only time passes."""
    state = state_of(readings(1), _SHARED)
    assert list(transitions_of(parts, [], state, _SHARED, clock_ms=RECEIVED_MS)) == []
