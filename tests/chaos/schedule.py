"""Which fault strikes what, when, and for how long: all of it decided by the seed, before anything runs."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

Kind = Literal[
    "worker_kill", "worker_term", "worker_freeze", "worker_join", "broker_kill", "broker_stop", "clickhouse_delay",
    "clickhouse_cut", "clickhouse_half_open", "clickhouse_reset", "clickhouse_narrow", "gateway_kill",
]  # fmt: skip

#: Seconds between two faults.
_GAP_S: Final = (1.5, 4.5)
#: The first strikes when there is something to strike, the last early enough to be over with the records.
_LEAD_S: Final = 3.0
_REST_S: Final = 4.0
_TRIES: Final = 50


@dataclass(frozen=True)
class Fault:
    """One fault. `at_s` counts from the beginning of the run; `target` is what it strikes, one fault at a time.

    `hold_s` is how long it lasts: until a killed process is started again, or the way is healed. `number` is what the
    kind needs besides: the bytes of an answer before its reset, milliseconds of delay, or bytes a second.
    """

    at_s: float
    kind: Kind
    target: str
    hold_s: float
    number: int = 0


@dataclass(frozen=True)
class _Way:
    """How a kind is drawn: how often against the others, how long it lasts, and how long its target needs after it."""

    weight: float
    hold_s: tuple[float, float]
    rest_s: float
    number: Callable[[random.Random], int] = lambda _: 0


#: A frozen worker is given up by its group after the session timeout, which lies within the range: some come back in
#: time, others find that their partitions have a new owner.
_WAYS: Final[Mapping[Kind, _Way]] = {
    "worker_kill": _Way(3.0, (0.0, 2.0), 6.0),
    "worker_term": _Way(2.0, (0.0, 2.0), 10.0),
    "worker_freeze": _Way(2.0, (2.0, 9.0), 2.0),
    "worker_join": _Way(2.0, (4.0, 9.0), 6.0),
    "broker_kill": _Way(1.5, (0.5, 5.0), 6.0),
    "broker_stop": _Way(1.0, (0.5, 4.0), 6.0),
    "clickhouse_delay": _Way(1.0, (2.0, 8.0), 1.0, lambda rng: rng.randint(20, 800)),
    "clickhouse_cut": _Way(2.0, (1.0, 10.0), 1.0),
    "clickhouse_half_open": _Way(2.0, (2.0, 9.0), 1.0),
    "clickhouse_reset": _Way(2.5, (0.0, 0.0), 2.0, lambda rng: rng.choice((0, 1, 10, 50, 150, 300))),
    "clickhouse_narrow": _Way(0.5, (2.0, 6.0), 1.0, lambda rng: rng.randint(20_000, 200_000)),
    "gateway_kill": _Way(1.5, (0.0, 3.0), 3.0),
}


def kinds() -> tuple[Kind, ...]:
    """Every kind of fault there is."""
    return tuple(_WAYS)


def schedule(seed: int, seconds: float, workers: int, brokers: int) -> list[Fault]:
    """The faults of a run of so many seconds, in order of time. The same arguments give the same faults.

    Every kind comes once before any comes by its weight, as far as the time allows. With one broker it is killed and
    restarted all the same.
    """
    rng = random.Random(f"chaos {seed}")
    first: list[Kind] = list(_WAYS)
    rng.shuffle(first)
    free_at: dict[str, float] = {}
    faults: list[Fault] = []
    at = _LEAD_S
    while at < seconds - _REST_S:
        for _ in range(_TRIES):
            kind = first[0] if first else rng.choices(list(_WAYS), [way.weight for way in _WAYS.values()])[0]
            target = _target(kind, rng, workers, brokers)
            if free_at.get(_owner(target), 0.0) <= at:
                way = _WAYS[kind]
                hold = round(rng.uniform(*way.hold_s), 2)
                faults.append(Fault(round(at, 2), kind, target, hold, way.number(rng)))
                free_at[_owner(target)] = at + hold + way.rest_s
                first = first[1:]
                break
            first = [*first[1:], *first[:1]]
        at += rng.uniform(*_GAP_S)
    return faults


def _target(kind: Kind, rng: random.Random, workers: int, brokers: int) -> str:
    if kind == "worker_join":
        return "guest"
    what = kind.partition("_")[0]
    count = {"worker": workers, "broker": brokers}.get(what)
    return what if count is None else f"{what}-{rng.randint(1, count)}"


def _owner(target: str) -> str:
    """What can take one fault at a time: each worker, all brokers together (two of three must live), the rest."""
    return "broker" if target.startswith("broker") else target
