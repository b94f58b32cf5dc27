"""Alert transitions from `city.alerts` to the webhook receiver, at least once each, under one stable id.

In the order of the topic: one that the receiver does not take now holds up those behind it, until it is taken or the
receiver says that it never will be.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Future
from functools import partial
from typing import Any, Final

from faust.types import TP

from schemas.codec import decode
from schemas.contracts import contract
from schemas.records import Batch
from schemas.writers import own_writers
from sinks.webhook import Delivery, WebhookSink, is_notified
from streams.clock import Clock, monotonic_s
from streams.log import logger
from streams.receiver import receiver
from streams.settings import Settings
from streams.tally import Tally
from streams.waiting import wait

_ALERT: Final = contract("Alert")
_WRITERS: Final = own_writers(_ALERT)
#: Transitions that may wait for a receiver.
_MOST_WAITING: Final = 10_000
#: Between two deliveries of what was given up, doubled each time. A receiver may ask for as long as the longest and is
#: not believed beyond it: alerts are waiting.
_FIRST_PAUSE_S: Final = 0.5
_LONGEST_PAUSE_S: Final = 60.0
_LOOK_AT_SETTINGS: Final = (
    "the receiver answers, but not to us: check VIGIE_WEBHOOK_URL and VIGIE_WEBHOOK_SECRETS against its own settings"
)


class Notifier:
    """Delivers batches of the alert topic. Without a receiver it does nothing, successfully."""

    def __init__(self, settings: Settings, clock: Clock, tally: Tally) -> None:
        self._log = logger("notify")
        self._clock = clock
        self._tally = tally
        self._closing = asyncio.Event()
        self._waiting: deque[tuple[TP, Batch, int]] = deque()
        self._arrived = asyncio.Event()
        self._sink: WebhookSink | None = None
        if settings.webhook_url:
            self._sink = WebhookSink(
                receiver(settings.webhook_url, settings),
                clock=lambda: clock.now_ms() / 1_000,
                monotonic=monotonic_s,
                external_url=settings.external_url,
                budget_s=settings.webhook_budget_s,
            )

    @property
    def is_full(self) -> bool:
        """Whether so much waits that no more should be taken: a receiver that is away must not fill the memory."""
        return sum(len(batch) for _, batch, _ in self._waiting) >= _MOST_WAITING

    def take(self, tp: TP, batch: Batch, generation: int) -> None:
        """Have a batch of the alert topic told, in its turn. `generation` is the one it was fetched in."""
        self._waiting.append((tp, batch, generation))
        self._arrived.set()

    async def run(self, told: Callable[[TP, int, int], Awaitable[bool]]) -> None:
        """Tell what was taken, for ever. `told` hears of each batch (partition, next offset, generation); it answers
        False when the partition is no longer ours, and what else was fetched in that generation is dropped."""
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            while self._waiting:
                tp, batch, generation = self._waiting[0]
                if await self._deliver(batch) and not await told(tp, batch.last_offset + 1, generation):
                    self._waiting = deque(one for one in self._waiting if one[2] != generation)
                else:
                    self._waiting.popleft()

    async def _deliver(self, batch: Batch) -> bool:
        """Tell the receiver every transition of the batch. False when it was closed before the end."""
        if self._sink is None:
            return True
        found = decode(_ALERT, batch, _WRITERS)
        for refused in found.rejects.iter_rows(named=True):
            self._log.error("not an alert", topic=batch.topic, offset=int(batch.offsets[refused["row"]]))
        for transition in found.frame.drop("row").iter_rows(named=True):
            if is_notified(transition) and not await self._tell(self._sink, transition):
                return False
        return True

    async def _tell(self, sink: WebhookSink, transition: Mapping[str, Any]) -> bool:
        pause_s = _FIRST_PAUSE_S
        while not self._closing.is_set():
            delivery = await _in_daemon(partial(sink.deliver, transition, partial(self._put_off, transition)))
            self._tally.notified[delivery.outcome] += 1
            if delivery.outcome == "delivered":
                return True
            self._complain(self._log.error, "alert not delivered", transition, delivery)
            if delivery.outcome != "gave_up":
                return True
            await wait(self._closing, max(pause_s, min(delivery.retry_after_s, _LONGEST_PAUSE_S)))
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        return False

    def _put_off(self, transition: Mapping[str, Any], so_far: Delivery) -> None:
        # Once a delivery: the budget ends later, and is told as well.
        if so_far.attempts == 1:
            say = self._log.error if so_far.is_misdirected else self._log.warning
            self._complain(say, "alert not delivered yet", transition, so_far)

    def _complain(self, say: Callable[..., Any], what: str, transition: Mapping[str, Any], delivery: Delivery) -> None:
        advice = {"advice": _LOOK_AT_SETTINGS} if delivery.is_misdirected else {}
        say(
            what,
            outcome=delivery.outcome,
            status=delivery.status,
            error=delivery.error,
            attempts=delivery.attempts,
            transition_id=transition["transition_id"],
            **advice,
        )

    def close(self) -> None:
        """Give up what is being tried; it is delivered again after the next start."""
        self._closing.set()
        if self._sink is not None:
            # It waits for an attempt under way, and a receiver that hangs must not hold up the event loop.
            threading.Thread(target=self._sink.close, name="webhook-close", daemon=True).start()


async def _in_daemon(work: Callable[[], Delivery]) -> Delivery:
    """Do it in a thread that does not hold up the end of the process, as those of a pool do."""
    done: Future[Delivery] = Future()

    def run() -> None:
        try:
            done.set_result(work())
        except Exception as error:  # noqa: BLE001 - raised where it is waited for
            done.set_exception(error)

    # From here on it cannot be cancelled, only left alone.
    done.set_running_or_notify_cancel()
    threading.Thread(target=run, name="webhook", daemon=True).start()
    return await asyncio.wrap_future(done)
