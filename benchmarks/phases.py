"""What is sent when: an open loop that never waits for who reads, and instants of alarms known beforehand. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Phases:
    """One load, in seconds: warm up, then rows are looked at, then alarms are sent as well, then it goes on.

    Alarms have a phase of their own, because each makes the worker flush at once: rows beside them are readable sooner.
    Records go on after the last alarm, because event time passes with them, and an alert waits for it.
    """

    warm_up_s: float
    rows_s: float
    alarms_s: float
    after_s: float = 5.0

    @property
    def rows_end_s(self) -> float:
        return self.warm_up_s + self.rows_s

    @property
    def alarms_end_s(self) -> float:
        return self.rows_end_s + self.alarms_s

    @property
    def end_s(self) -> float:
        return self.alarms_end_s + self.after_s


def alarm_instants(phases: Phases, count: int, seed: int) -> list[float]:
    """When each of `count` alarms is sent, in seconds from the start of the load, rising.

    Drawn evenly over the alarms' phase: in step with nothing in the worker, and sometimes two close together.
    """
    drawn = np.random.default_rng(seed).uniform(phases.rows_end_s, phases.alarms_end_s, count)
    return [float(instant) for instant in np.sort(drawn)]


def due(elapsed_s: float, rate: float, total: int) -> int:
    """How many of `total` records are to be sent by then, the first at once and record i after i / rate seconds."""
    return 0 if elapsed_s < 0 else min(total, int(elapsed_s * rate) + 1)
