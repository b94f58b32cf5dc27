"""Alert transitions from `city.alerts` to the webhook receiver, at least once each, under one stable id."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from faust.types import TP

from schemas.codec import decode
from schemas.contracts import contract
from schemas.records import Batch
from schemas.writers import own_writers
from sinks.webhook import Receiver, WebhookSink, is_notified
from streams.clock import Clock
from streams.log import logger
from streams.settings import Settings
from streams.tally import Tally

_ALERT: Final = contract("Alert")
_WRITERS: Final = own_writers(_ALERT)
#: Transitions that may wait for a receiver.
_MOST_WAITING: Final = 10_000


class Notifier:
    """Delivers batches of the alert topic. Without a receiver it does nothing, successfully."""

    def __init__(self, settings: Settings, clock: Clock, tally: Tally) -> None:
        self._log = logger("notify")
        self._clock = clock
        self._tally = tally
        self._closed = False
        self._waiting: deque[tuple[TP, Batch, int]] = deque()
        self._arrived = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, "webhook")
        self._sink: WebhookSink | None = None
        if settings.webhook_url:
            secrets = tuple(secret.get_secret_value() for secret in settings.webhook_secrets)
            self._sink = WebhookSink(
                Receiver("webhook", settings.webhook_url, secrets),
                clock=lambda: clock.now_ms() / 1_000,
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
        while not self._closed:
            delivery = await asyncio.get_running_loop().run_in_executor(self._thread, sink.deliver, transition)
            self._tally.notified[delivery.outcome] += 1
            if delivery.outcome == "delivered":
                return True
            self._log.error(
                "alert not delivered",
                outcome=delivery.outcome,
                status=delivery.status,
                error=delivery.error,
                attempts=delivery.attempts,
                transition_id=transition["transition_id"],
            )
            if delivery.outcome != "gave_up":
                return True
        return False

    def close(self) -> None:
        """Give up what is being tried; it is delivered again after the next start."""
        self._closed = True
        if self._sink is not None:
            # It waits for an attempt under way, and a receiver that hangs must not hold up the event loop.
            threading.Thread(target=self._sink.close, name="webhook-close", daemon=True).start()
        self._thread.shutdown(wait=False)
