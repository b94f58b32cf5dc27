"""The worker with clocks at its steps: every step is there, and what is told is what was spent."""

from __future__ import annotations

import io
import threading
import time
from typing import Any

import pytest
from rich.console import Console

from benchmarks.profile import added_up, table
from benchmarks.profiled import STEPS, Clocks, Span, threads_cpu_s


@pytest.mark.parametrize(("name", "owner", "attribute"), STEPS)
def test_every_step_is_in_the_product(name: str, owner: Any, attribute: str) -> None:
    """A step that was renamed would end a run of minutes, or be missing from the sum."""
    assert callable(getattr(owner, attribute)), name


def test_a_clocked_function_is_the_same_function() -> None:
    """It gives and raises what it did; each call counts, and inserts are told apart by their table."""
    clocks = Clocks()

    def insert(sink: object, name: str) -> str:
        if not name:
            raise ValueError("no table")
        return name.upper()

    clocked = clocks.timed("insert", insert)
    assert [clocked(None, name) for name in ("events", "events", "rejects")] == ["EVENTS", "EVENTS", "REJECTS"]
    with pytest.raises(ValueError, match="no table"):
        clocked(None, "")
    assert {step: calls for step, (calls, _, _) in clocks.found.items()} == {
        "insert events": 2,
        "insert rejects": 1,
        "insert ": 1,
    }


def _spend(cpu_s: float) -> None:
    until = time.thread_time() + cpu_s
    while time.thread_time() < until:
        pass


def test_a_clock_tells_what_the_calling_thread_spent() -> None:
    """Processor time, and at least as much by the wall."""
    clocks = Clocks()
    clocks.timed("spend", _spend)(0.02)
    ((calls, cpu_s, wall_s),) = clocks.found.values()
    assert calls == 1
    assert 0.02 <= cpu_s <= wall_s * 1.01 + 0.001


def test_the_span_begins_with_the_first_record_and_ends_with_the_last_that_is_durable() -> None:
    """What was spent before the first and after the last durable one is in neither figure."""
    span = Span()
    assert span.told() == {"cpu_s": 0.0, "threads": {}}
    _spend(0.2)
    span.mark(False)
    _spend(0.05)
    span.mark(False)
    span.mark(True)
    _spend(0.2)
    span.mark(False)
    told = span.told()
    assert 0.05 <= told["cpu_s"] < 0.2
    assert 0.03 <= sum(told["threads"].values()) < 0.2
    assert threads_cpu_s()[threading.current_thread().name] > 0.4


def test_the_table_has_every_step_and_thread() -> None:
    """Microseconds for one event, and the whole process at the end."""
    found = {
        "events": 1_000_000,
        "events_per_s": 80_000.0,
        "steps": [{"step": "decode", "calls": 12, "cpu_s": 1.5, "us_per_event": 1.5}],
        "threads": {"stages": 4.25},
        "cpu_s": 9.0,
    }
    written = io.StringIO()
    Console(file=written, width=100).print(table(found))
    lines = [line.split() for line in written.getvalue().replace("│", " ").splitlines()]
    assert ["decode", "12", "1.50", "1.50"] in lines
    assert ["thread", "stages", "4.25", "4.25"] in lines
    assert ["process", "9.00", "9.00"] in lines


def test_what_several_workers_spend_is_added_up() -> None:
    """By step and by thread, those that only one of them has too; microseconds are of all events."""
    one: dict[str, Any] = {
        "cpu_s": 3.0,
        "threads": {"stages": 2.0, "sink": 1.0},
        "steps": [{"step": "decode", "calls": 10, "cpu_s": 0.5, "wall_s": 0.6}],
    }
    other: dict[str, Any] = {
        "cpu_s": 4.5,
        "threads": {"sink": 1.5, "polars": 0.25},
        "steps": [
            {"step": "freeze", "calls": 1, "cpu_s": 0.75, "wall_s": 0.75},
            {"step": "decode", "calls": 5, "cpu_s": 0.5, "wall_s": 0.5},
        ],
    }
    assert added_up([one, other], 1_000_000) == {
        "cpu_s": 7.5,
        "threads": {"sink": 2.5, "stages": 2.0, "polars": 0.25},
        "steps": [
            {"step": "decode", "calls": 15, "cpu_s": 1.0, "wall_s": 1.1, "us_per_event": 1.0},
            {"step": "freeze", "calls": 1, "cpu_s": 0.75, "wall_s": 0.75, "us_per_event": 0.75},
        ],
    }
