"""Two workers for one: how much faster, where neither has its core full. In pairs of runs, because machines change.

    python -m benchmarks.pairs [--pairs 5] [--events 400000] [--share 0.25] [--seed 1] [--keep]

A pair is one worker and then two, or two and then one, in turns: `benchmarks.profile --workers N --share S`, the same
town and records each time. They share a core, of which each may have that much, and ClickHouse behind a gateway on the
other one, with Kafka. What counts is the median of the pairs' ratios; what a shared machine does to one run, which can
be a quarter of its speed within a minute, it does not do to most of them.

`decode` is the processor time of one step for one event, in microseconds. It is the same work for the same bytes,
however many share it, and none of it is theirs together: where it costs two more than one, they pay for the core that
they share here, whose caches go from one to the other a hundred times a second.

Writes results/latest-pairs.json and, with --keep, a dated copy.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, Final

import click
from rich.console import Console
from rich.table import Table

from benchmarks import kept
from benchmarks.installation import BenchmarkError, two_cores
from benchmarks.process import ProcessError, end_when_told
from benchmarks.profile import measure_together
from benchmarks.run import EVENTS
from tests.support.kafka import KafkaError

_BOTH: Final = (1, 2)
_STEP: Final = "decode"


def of_run(found: Mapping[str, Any]) -> dict[str, float]:
    """What is compared of one run: seconds, and processor time for one event, of the processes and of one step."""
    (step,) = (one["us_per_event"] for one in found["steps"] if one["step"] == _STEP)
    return {"seconds": found["seconds"], "cpu_us": round(found["cpu_s"] * 1e6 / found["events"], 3), _STEP: step}


def ratios(pairs: Sequence[Mapping[str, Mapping[str, float]]]) -> dict[str, dict[str, float]]:
    """Median, least and most over the pairs: how much faster two are, and what an event costs them, over one's."""
    named = {"speed": ("one", "two", "seconds"), "cpu": ("two", "one", "cpu_us"), _STEP: ("two", "one", _STEP)}
    found = {}
    for name, (above, below, figure) in named.items():
        each = [pair[above][figure] / pair[below][figure] for pair in pairs]
        figures = {"median": median(each), "least": min(each), "most": max(each)}
        found[name] = {key: round(value, 3) for key, value in figures.items()}
    return found


def table(pairs: Sequence[Mapping[str, Mapping[str, float]]], found: Mapping[str, Mapping[str, float]]) -> Table:
    """A row for each pair, then the medians of their ratios."""
    speed, cpu, step = (found[name]["median"] for name in ("speed", "cpu", _STEP))
    out = Table(title=f"Two workers are {speed:.2f} times as fast as one")
    for name in ("pair", "one, s", "two, s", "faster", "one, us/event", "two, us/event", "one, decode", "two, decode"):
        out.add_column(name, justify="right")
    for number, pair in enumerate(pairs, 1):
        one, two = pair["one"], pair["two"]
        seconds = [f"{one['seconds']:.1f}", f"{two['seconds']:.1f}", f"{one['seconds'] / two['seconds']:.2f}"]
        costs = [f"{run[figure]:.2f}" for figure in ("cpu_us", _STEP) for run in (one, two)]
        out.add_row(str(number), *seconds, *costs)
    out.caption = f"An event costs two {cpu:.2f} times what it costs one, its decoding alone {step:.2f} times."
    return out


@click.command()
@click.option("--pairs", default=5, show_default=True, type=click.IntRange(min=1), help="How many.")
@click.option("--events", default=EVENTS, show_default=True, type=click.IntRange(min=1_000), help="Records of a run.")
@click.option("--share", default=0.25, show_default=True, type=click.FloatRange(0.1, 0.5), help="Of a core, for each.")
@click.option("--seed", default=1, show_default=True, help="Seed of the town and of its records.")
@click.option("--keep", is_flag=True, help="Keep a dated copy of the results.")
def main(pairs: int, events: int, share: float, seed: int, keep: bool) -> None:
    """Measure how much faster two workers are than one."""
    end_when_told()
    console, done = Console(), []
    head = kept.head(False)
    try:
        cores = two_cores()
        with tempfile.TemporaryDirectory(prefix="vigie-pairs-", ignore_cleanup_errors=True) as name:
            for number in range(pairs):
                pair = {}
                for workers in _BOTH if number % 2 == 0 else _BOTH[::-1]:
                    run = measure_together(workers, share, cores, Path(name) / f"{number}-{workers}", events, seed)
                    pair["one" if workers == 1 else "two"] = of_run(run)
                done.append(pair)
                console.print(f"{number + 1} of {pairs}: {pair['one']['seconds'] / pair['two']['seconds']:.2f} times")
    except (BenchmarkError, KafkaError, ProcessError) as error:
        console.print(str(error), markup=False, style="red")
        sys.exit(1)
    found = ratios(done)
    console.print(table(done, found))
    kept.write("pairs", {**head, "seed": seed, "share": share, "events": events, "pairs": done, "ratios": found}, keep)


if __name__ == "__main__":
    main()
