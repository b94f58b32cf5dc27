"""Two workers for one: what is compared, and that a run out of line does not decide."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from benchmarks.pairs import of_run, ratios, table


def test_a_run_tells_its_time_and_what_an_event_cost() -> None:
    """Of the processes together, and of the step that does the same work however many share it."""
    steps = [{"step": "locate", "us_per_event": 0.5}, {"step": "decode", "us_per_event": 0.8}]
    found = {"events": 1_000_000, "seconds": 20.0, "cpu_s": 5.5, "steps": steps}
    assert of_run(found) == {"seconds": 20.0, "cpu_us": 5.5, "decode": 0.8}


def test_the_median_of_the_pairs_counts() -> None:
    """Faster is one's time over two's; dearer is two's cost over one's; a run that was disturbed is one of three."""
    one = {"seconds": 20.0, "cpu_us": 5.0, "decode": 0.8}
    two = {"seconds": 10.4, "cpu_us": 5.25, "decode": 0.84}
    disturbed = {"seconds": 40.0, "cpu_us": 10.0, "decode": 1.6}
    pairs = [{"one": one, "two": two}, {"one": one, "two": disturbed}, {"one": disturbed, "two": two}]
    found = ratios(pairs)
    assert found["speed"] == pytest.approx({"median": 1.923, "least": 0.5, "most": 3.846}, abs=1e-3)
    assert found["cpu"] == pytest.approx({"median": 1.05, "least": 0.525, "most": 2.0}, abs=1e-3)
    assert found["decode"]["median"] == pytest.approx(1.05, abs=1e-3)
    out = io.StringIO()
    Console(file=out, width=200).print(table(pairs, found))
    assert "1.92 times as fast" in out.getvalue()
    assert "0.50" in out.getvalue()
