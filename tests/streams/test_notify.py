"""Alert transitions to the webhook receiver: in their order, at least once each, and committed only once told."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

import numpy as np
import pytest
from faust.types import TP

from schemas.contracts import ALERT_TOPIC, contract
from schemas.framing import encode
from schemas.records import Batch, Rows
from streams import notify
from streams.clock import WallClock
from streams.notify import Notifier
from streams.settings import load
from streams.tally import Tally
from tests.support.batches import RECEIVED_MS
from tests.support.city import CITY
from tests.support.receiver import WebhookReceiver, gone, hang, status

_SECRET: Final = "whsec_" + base64.b64encode(bytes(range(32))).decode()
_TP: Final = TP(ALERT_TOPIC, 0)

Told = list[tuple[TP, int, int]]
Telling = Callable[[TP, int, int], Awaitable[bool]]


def transition(number: int, state: str = "firing") -> bytes:
    blank = {f.name: "unknown" if f.symbols else None for f in contract("Alert").fields}
    return encode(
        contract("Alert"),
        blank
        | {
            "transition_id": f"t-{number}", "fingerprint": f"f{number}", "sequence": 1, "alertname": "bin_full",
            "jurisdiction_id": CITY, "domain": "sensor", "asset_id": f"bin-{number}", "severity": "warning",
            "state": state, "at": RECEIVED_MS, "starts_at": RECEIVED_MS, "summary": f"bin {number}",
            "ends_at": None if state == "firing" else RECEIVED_MS,
        },
    )  # fmt: skip


def batch(first_offset: int, *values: bytes | None) -> Batch:
    count = len(values)
    offsets = np.arange(first_offset, first_offset + count, dtype=np.int64)
    return Batch(ALERT_TOPIC, 0, offsets, offsets * 0 + RECEIVED_MS, [Rows([None] * count, list(values), [()] * count)])


def names(receiver: WebhookReceiver) -> list[str]:
    """The assets that the receiver heard of, in order."""
    return [json.loads(request.body)["alerts"][0]["labels"]["asset_id"] for request in list(receiver.requests)]


def notifier(url: str | None) -> Notifier:
    settings = load(webhook_url=url, webhook_secrets=_SECRET, webhook_budget_s=0.05) if url else load()
    return Notifier(settings, WallClock(), Tally())


async def delivered(one: Notifier, told: Telling, until: Callable[[], bool]) -> None:
    """Let it run until that is so."""
    running = asyncio.create_task(one.run(told))
    async with asyncio.timeout(20):
        while not until():  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0.005)
    running.cancel()
    one.close()


def ran(one: Notifier, batches: list[tuple[Batch, int]], answers: Callable[[int], bool] = lambda offset: True) -> Told:
    """Take batches (with their generations), deliver them all, and say what was told to be done."""
    done: Told = []

    async def told(tp: TP, next_offset: int, generation: int) -> bool:
        done.append((tp, next_offset, generation))
        return answers(next_offset)

    async def whole() -> None:
        for each, generation in batches:
            one.take(_TP, each, generation)
        await delivered(one, told, lambda: not one._waiting)

    asyncio.run(whole())
    return done


def test_what_people_are_told_is_told_in_order_and_then_committed() -> None:
    """Firing and resolved, not pending; the offset after a batch once all of it is told."""
    with WebhookReceiver() as receiver:
        one = notifier(receiver.url)
        first = batch(4, transition(1), transition(2, "pending"), transition(3, "resolved"))
        done = ran(one, [(first, 7), (batch(9, transition(4)), 7)])
        assert names(receiver) == ["bin-1", "bin-3", "bin-4"]
    assert done == [(_TP, 7, 7), (_TP, 10, 7)]


def test_without_a_receiver_everything_is_told() -> None:
    """Offsets of the alert topic go on, so that a receiver that is named later is not told of last year."""
    assert ran(notifier(None), [(batch(0, transition(1), b"junk"), 1)]) == [(_TP, 2, 1)]


def test_what_is_no_alert_is_passed_over() -> None:
    """Somebody published it there; its neighbours are told."""
    with WebhookReceiver() as receiver:
        done = ran(notifier(receiver.url), [(batch(0, b"junk", transition(1), None), 1)])
        assert names(receiver) == ["bin-1"]
    assert done == [(_TP, 3, 1)]


def test_a_receiver_that_stays_away_is_tried_until_it_answers() -> None:
    """The budget of one notification ends an attempt, and never the notification; nothing behind it overtakes it."""
    with WebhookReceiver([status(503)] * 3) as receiver:
        one = notifier(receiver.url)
        done = ran(one, [(batch(0, transition(1), transition(2)), 1)])
        assert names(receiver)[3:] == ["bin-1", "bin-2"]
        ids = [request.headers["webhook-id"] for request in receiver.requests]
        assert len(set(ids[:4])) == 1, "every attempt bears the same id"
    assert done == [(_TP, 2, 1)]


@pytest.mark.parametrize("answer", [status(400), gone()], ids=["refused", "gone"])
def test_a_final_answer_is_an_answer(answer: Any) -> None:
    """The receiver will never take it: that is said in the log, and the next one is told."""
    with WebhookReceiver([answer]) as receiver:
        one = notifier(receiver.url)
        assert ran(one, [(batch(0, transition(1)), 1), (batch(1, transition(2)), 1)]) == [(_TP, 1, 1), (_TP, 2, 1)]
        assert sum(one._tally.notified.values()) == 2


def test_what_was_fetched_in_a_generation_that_is_over_is_dropped() -> None:
    """Its partition may be somebody else's, who tells it; what was fetched since is told."""
    with WebhookReceiver() as receiver:
        one = notifier(receiver.url)
        batches = [(batch(n, transition(n)), generation) for n, generation in ((1, 4), (2, 4), (3, 5), (4, 4))]
        done = ran(one, batches, lambda next_offset: next_offset == 4)
        assert names(receiver) == ["bin-1", "bin-3"]
    assert done == [(_TP, 2, 4), (_TP, 4, 5)]


def test_a_worker_that_stops_does_not_wait_for_a_receiver() -> None:
    """What was being told is told again after the next start: nothing of it is committed."""

    async def whole() -> Told:
        with WebhookReceiver([hang()]) as receiver:
            one, done = notifier(receiver.url), []

            async def told(tp: TP, next_offset: int, generation: int) -> bool:
                done.append((tp, next_offset, generation))
                return True

            one.take(_TP, batch(0, transition(1)), 1)
            running = asyncio.create_task(one.run(told))
            await asyncio.get_running_loop().run_in_executor(None, receiver.wait_for, 1)
            began = time.monotonic()
            running.cancel()
            one.close()
            await asyncio.gather(running, return_exceptions=True)
            assert time.monotonic() - began < 5, "the attempt itself may last for 15 s"
            return done

    assert asyncio.run(whole()) == []


def test_a_receiver_that_is_away_does_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """From so many transitions on no more are to be taken; batches count by what is in them."""
    monkeypatch.setattr(notify, "_MOST_WAITING", 5)
    one = notifier(None)
    one.take(_TP, batch(0, *map(transition, range(4))), 1)
    assert not one.is_full
    one.take(_TP, batch(4, transition(4)), 1)
    assert one.is_full
    assert ran(one, []) == [(_TP, 4, 1), (_TP, 5, 1)]
    assert not one.is_full
