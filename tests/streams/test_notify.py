"""Alert transitions to the webhook receiver: in their order, at least once each, and committed only once told."""

from __future__ import annotations

import asyncio
import base64
import json
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
from faust.types import TP
from structlog.testing import capture_logs

from schemas.contracts import ALERT_TOPIC, contract
from schemas.framing import encode
from schemas.records import Batch, Rows
from sinks import webhook
from streams import notify
from streams.clock import WallClock
from streams.notify import Notifier
from streams.settings import load
from streams.tally import Tally
from tests.support.batches import RECEIVED_MS
from tests.support.city import CITY
from tests.support.receiver import WebhookReceiver, drip_head, gone, hang, status, too_many

_ROOT: Final = Path(__file__).resolve().parents[2]
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


def notifier(url: str | None, budget_s: float = 0.05) -> Notifier:
    settings = load(webhook_url=url, webhook_secrets=_SECRET, webhook_budget_s=budget_s) if url else load()
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


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that were made, in seconds: they take no time."""
    made: list[float] = []

    async def paused(closing: asyncio.Event, seconds: float) -> bool:
        made.append(seconds)
        return closing.is_set()

    monkeypatch.setattr(notify, "wait", paused)
    return made


def test_what_people_are_told_is_told_in_order_and_then_committed() -> None:
    """Firing and resolved, not pending and not what expired from that; the offset after a batch once it is all told."""
    with WebhookReceiver() as receiver:
        one = notifier(receiver.url)
        first = batch(4, transition(1), transition(2, "pending"), transition(2, "expired"), transition(3, "resolved"))
        done = ran(one, [(first, 7), (batch(9, transition(4)), 7)])
        assert names(receiver) == ["bin-1", "bin-3", "bin-4"]
    assert done == [(_TP, 8, 7), (_TP, 10, 7)]


def test_without_a_receiver_everything_is_told() -> None:
    """Offsets of the alert topic go on, so that a receiver that is named later is not told of last year."""
    assert ran(notifier(None), [(batch(0, transition(1), b"junk"), 1)]) == [(_TP, 2, 1)]


def test_what_is_no_alert_is_passed_over() -> None:
    """Somebody published it there; its neighbours are told."""
    with WebhookReceiver() as receiver:
        done = ran(notifier(receiver.url), [(batch(0, b"junk", transition(1), None), 1)])
        assert names(receiver) == ["bin-1"]
    assert done == [(_TP, 3, 1)]


def test_a_receiver_that_stays_away_is_tried_until_it_answers(pauses: list[float]) -> None:
    """The budget of one notification ends an attempt, and never the notification; nothing behind it overtakes it. The
    pauses grow, and begin anew for the next alert."""
    with WebhookReceiver([*[status(503)] * 9, status(200), status(503)]) as receiver:
        one = notifier(receiver.url)
        done = ran(one, [(batch(0, transition(1), transition(2)), 1)])
        assert names(receiver) == ["bin-1"] * 10 + ["bin-2"] * 2
        ids = [request.headers["webhook-id"] for request in receiver.requests]
        assert len(set(ids[:10])) == 1, "every attempt bears the same id"
    assert done == [(_TP, 2, 1)]
    assert pauses == [0.5, 1, 2, 4, 8, 16, 32, 60, 60, 0.5]


def test_a_receiver_that_asks_for_time_gets_some(pauses: list[float]) -> None:
    """Beyond the budget a delivery gives up at once: without a pause as long as was asked for, a minute at most, the
    receiver would be asked again hundreds of times a second."""
    asked = ["3600", "7", "0", "Fri, 31 Dec 9999 23:59:59 GMT"]
    with WebhookReceiver([too_many(value) for value in asked]) as receiver:
        assert ran(notifier(receiver.url), [(batch(0, transition(1)), 1)]) == [(_TP, 1, 1)]
        assert len(receiver.requests) == 5
    assert pauses == [60, 7, 2, 60]


def test_closing_ends_a_pause() -> None:
    """A worker that stops does not sit it out, and does not ask once more."""

    async def whole() -> None:
        with WebhookReceiver([too_many("3600")]) as receiver:
            one = notifier(receiver.url)
            telling = asyncio.create_task(one._deliver(batch(0, transition(1))))
            async with asyncio.timeout(20):
                while not one._tally.notified["gave_up"]:  # noqa: ASYNC110 - nothing tells of it
                    await asyncio.sleep(0.005)
                one.close()
                assert not await telling
            assert len(receiver.requests) == 1

    asyncio.run(whole())


@pytest.fixture
def no_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a delivery go on to its next attempt almost at once."""
    monkeypatch.setattr(webhook, "_FIRST_DELAY_S", 0.001)
    monkeypatch.setattr(webhook, "_JITTER_S", 0.0)


@pytest.mark.parametrize(("budget_s", "said"), [(0.0001, "alert not delivered"), (60.0, "alert not delivered yet")])
@pytest.mark.parametrize("code", [401, 403, 404, 307])
def test_wrong_settings_lose_no_alert(
    code: int, budget_s: float, said: str, pauses: list[float], no_delays: None
) -> None:
    """A secret that is being rotated, a wrong path: an error names the settings from the first attempt on, and the
    alert is told once somebody has put them right."""
    with capture_logs() as logs, WebhookReceiver([status(code)] * 9) as receiver:
        one = notifier(receiver.url, budget_s=budget_s)
        assert ran(one, [(batch(0, transition(1), transition(2)), 1)]) == [(_TP, 2, 1)]
        assert names(receiver) == ["bin-1"] * 10 + ["bin-2"]
    first, *_ = logs
    assert (first["event"], first["log_level"], first["status"]) == (said, "error", code)
    for one_log in logs:
        assert "VIGIE_WEBHOOK_URL and VIGIE_WEBHOOK_SECRETS" in one_log["advice"]
        assert one_log["transition_id"] == "t-1"


def test_a_receiver_that_is_away_is_no_matter_of_settings(pauses: list[float], no_delays: None) -> None:
    """Of a delivery that goes on, the first attempt that failed is told; when it is given up, that is told too."""
    with capture_logs() as logs, WebhookReceiver([status(503), status(503), too_many("3600")]) as receiver:
        assert ran(notifier(receiver.url, budget_s=60.0), [(batch(0, transition(1)), 1)]) == [(_TP, 1, 1)]
    told = [(log["event"], log["log_level"], log["attempts"]) for log in logs]
    assert told == [("alert not delivered yet", "warning", 1), ("alert not delivered", "error", 3)]
    assert not any("advice" in log for log in logs)


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


@pytest.mark.integration
def test_a_process_that_ends_does_not_wait_for_a_receiver() -> None:
    """Not even for one that drips: the interpreter leaves that attempt alone, and nothing of it is committed."""
    with WebhookReceiver([drip_head()]) as receiver:
        command = [sys.executable, "-m", "tests.streams.telling", receiver.url]
        with subprocess.Popen(command, cwd=_ROOT, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            try:
                receiver.wait_for(1, 60)
                began = time.monotonic()
                _, wrote = process.communicate(timeout=60)
            finally:
                process.kill()
        assert (process.returncode, wrote) == (0, "")
        assert time.monotonic() - began < 8, "the attempt itself may last for 15 s"


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
