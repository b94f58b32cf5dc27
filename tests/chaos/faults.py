"""How each kind of fault is done. A fault that could not be done is an error, never passed over."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Final

from tests.chaos.installation import DRAIN_S, END_S, Installation
from tests.chaos.schedule import Fault, Kind
from tests.chaos.slots import FaultError, Slot

#: A flush comes twice a second while there are records: an answer to cut is there soon, unless all has stalled.
_ANSWER_S: Final = 60.0
#: After the last fault: a frozen worker and a broker that is to be in sync again take the longest.
_LAST_S: Final = 120.0
_POLL_S: Final = 0.05


#: What a worker needs for draining, by the first word of a fault's target, and how long it takes to find it again.
_NEEDED: Final = frozenset({"clickhouse", "gateway", "broker"})
_BACK_S: Final = 3.0


class UndrainedError(FaultError):
    """A worker ended after SIGTERM with another code than 0. `tail` is what it wrote last."""

    def __init__(self, message: str, tail: str) -> None:
        super().__init__(message)
        self.tail = tail


@dataclass(frozen=True)
class Struck:
    """A fault that was done, or why it could not be: when it began and was over, in seconds of the run."""

    fault: Fault
    began_s: float
    over_s: float
    told: str
    error: str | None = None
    undrained: bool = False
    """The error is that a worker ended after SIGTERM, in time, without having stored what was begun."""

    def to_dict(self) -> dict[str, Any]:
        return {
            "kind": self.fault.kind, "target": self.fault.target, "began_s": round(self.began_s, 2),
            "over_s": round(self.over_s, 2), "told": self.told, "error": self.error,
        }  # fmt: skip


def strike(faults: Sequence[Fault], on: Installation, *, go_on: Callable[[], bool]) -> list[Struck]:
    """Do the faults at their times and return once all are over. `go_on` false ends it early, every fault undone.

    Faults of one target follow each other; those of different targets overlap as they come.
    """
    begun_s = time.monotonic()
    workers: dict[str, ThreadPoolExecutor] = {}
    waiting: list[Future[Struck]] = []
    try:
        for fault in faults:
            while go_on() and (left := begun_s + fault.at_s - time.monotonic()) > 0:
                time.sleep(min(left, _POLL_S))
            if not go_on():
                break
            owner = "broker" if fault.target.startswith("broker") else fault.target
            worker = workers.setdefault(owner, ThreadPoolExecutor(1, f"fault-{owner}"))
            waiting.append(worker.submit(_done, fault, on, begun_s))
        else:
            _wait_while(lambda: go_on() and not all(future.done() for future in waiting), _LAST_S)
    finally:
        on.halt.set()
        struck = [future.result(_LAST_S) for future in waiting]
        for worker in workers.values():
            worker.shutdown()
        on.halt.clear()
    return [excused(one, struck) for one in struck]


def excused(one: Struck, others: Sequence[Struck]) -> Struck:
    """A worker need not have stored everything when ClickHouse or a broker was away while it drained."""
    if not one.undrained:
        return one
    for other in others:
        away = other.fault.target.partition("-")[0] in _NEEDED
        if away and other.began_s < one.over_s and other.over_s + _BACK_S > one.began_s:
            return replace(one, error=None, told=f"{one.told}, during {other.fault.kind}")
    return one


def _done(fault: Fault, on: Installation, begun_s: float) -> Struck:
    began_s = time.monotonic() - begun_s
    told, error, undrained = "", None, False
    try:
        told = _WAYS[fault.kind](fault, on)
    except UndrainedError as failed:
        told, error, undrained = str(failed), f"{failed}:\n{failed.tail}", True
    except Exception as failed:  # noqa: BLE001 - whatever it is, it is told in the account of the run
        error = f"{type(failed).__name__}: {failed}"
    struck = Struck(fault, began_s, time.monotonic() - begun_s, told, error, undrained)
    on.say(f"{began_s:6.1f} s  {fault.kind} {fault.target}: {told or error}")
    return struck


def _worker_kill(fault: Fault, on: Installation) -> str:
    slot = on.slot(fault.target)
    slot.kill()
    on.wait(fault.hold_s)
    slot.start()
    return f"back after {fault.hold_s:.1f} s"


def _worker_term(fault: Fault, on: Installation) -> str:
    slot = on.slot(fault.target)
    slot.wait_until_it_listens()
    try:
        told = _terminated(slot)
        on.wait(fault.hold_s)
    finally:
        slot.start()
    return told


def _terminated(slot: Slot) -> str:
    code, took_s = slot.terminate(DRAIN_S + END_S)
    if code != 0:
        raise UndrainedError(f"ended with {code} in {took_s:.1f} s", slot.tail())
    return f"ended with 0 in {took_s:.1f} s"


def _worker_freeze(fault: Fault, on: Installation) -> str:
    on.slot(fault.target).freeze(lambda: on.wait(fault.hold_s))
    return f"stopped for {fault.hold_s:.1f} s"


def _worker_join(fault: Fault, on: Installation) -> str:
    try:
        on.guest.start()
        on.guest.wait_until_it_listens()
        on.wait(fault.hold_s)
        on.guest.wait_until_it_listens()
        return f"was there for {fault.hold_s:.1f} s, {_terminated(on.guest)}"
    finally:
        on.guest.remove()


def _broker(how: Callable[[Installation, int], None]) -> Callable[[Fault, Installation], str]:
    def done(fault: Fault, on: Installation) -> str:
        number = int(fault.target.rpartition("-")[2])
        how(on, number)
        on.wait(fault.hold_s)
        on.kafka.start(number)
        began_s = time.monotonic()
        on.kafka.wait_in_sync()
        return f"down for {fault.hold_s:.1f} s, in sync {time.monotonic() - began_s:.1f} s later"

    return done


def _way(how: Callable[[Installation, Fault], str]) -> Callable[[Fault, Installation], str]:
    """A fault of the way to ClickHouse, healed after its time."""

    def done(fault: Fault, on: Installation) -> str:
        told = how(on, fault)
        on.wait(fault.hold_s)
        on.proxy.heal()
        return f"{told} for {fault.hold_s:.1f} s"

    return done


def _delayed(on: Installation, fault: Fault) -> str:
    on.proxy.delay(up_s=fault.number / 2_000, down_s=fault.number / 2_000)
    return f"{fault.number} ms farther away"


def _narrowed(on: Installation, fault: Fault) -> str:
    on.proxy.limit(fault.number)
    return f"{fault.number / 1_000:.0f} kB/s"


def _cut(on: Installation, fault: Fault) -> str:
    on.proxy.cut()
    return "cut off"


def _half_open(on: Installation, fault: Fault) -> str:
    on.proxy.half_open()
    return "silent"


def _reset(fault: Fault, on: Installation) -> str:
    before = on.proxy.resets
    on.proxy.reset_answer(fault.number)
    _wait_while(lambda: on.proxy.resets == before and not on.halt.is_set(), _ANSWER_S)
    on.proxy.heal()
    if on.proxy.resets == before:
        raise FaultError(f"there was no answer of more than {fault.number} bytes within {_ANSWER_S:.0f} s to cut")
    return f"an answer cut after {fault.number} bytes"


def _gateway_kill(fault: Fault, on: Installation) -> str:
    on.gateway.kill()
    on.wait(fault.hold_s)
    on.gateway.restart()
    return f"back after {fault.hold_s:.1f} s"


def _wait_while(so: Callable[[], bool], seconds: float) -> None:
    until = time.monotonic() + seconds
    while so() and time.monotonic() < until:
        time.sleep(_POLL_S)


_WAYS: Final[Mapping[Kind, Callable[[Fault, Installation], str]]] = {
    "worker_kill": _worker_kill,
    "worker_term": _worker_term,
    "worker_freeze": _worker_freeze,
    "worker_join": _worker_join,
    "broker_kill": _broker(lambda on, number: on.kafka.kill(number)),
    "broker_stop": _broker(lambda on, number: on.kafka.stop(number)),
    "clickhouse_delay": _way(_delayed),
    "clickhouse_cut": _way(_cut),
    "clickhouse_half_open": _way(_half_open),
    "clickhouse_narrow": _way(_narrowed),
    "clickhouse_reset": _reset,
    "gateway_kill": _gateway_kill,
}
