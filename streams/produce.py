"""Dead letters and alerts to Kafka: each confirmed, tried again while Kafka is away."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from dataclasses import replace
from typing import Any, Final

from sinks.errors import Treatment, treatment
from streams.clock import monotonic_s
from streams.flush import Message
from streams.log import logger

_PAUSE_S: Final = 0.5
#: Says that the value of a dead letter was left out, and how large it was.
LEFT_OUT_HEADER: Final = "vigie_value_left_out_bytes"


class Confirmed:
    """Produces through Faust's producer and returns once every message is confirmed."""

    def __init__(self, app: Any, budget_s: float) -> None:
        self._app = app
        self._budget_s = budget_s
        self._log = logger("produce")
        self.is_waiting = False
        """Whether Kafka is away and being waited for."""

    async def produce(self, messages: Sequence[Message]) -> None:
        """Raises the broker's error when it does not pass, or has not within the budget."""
        left, until = list(messages), monotonic_s() + self._budget_s
        try:
            while left:
                left = await self._attempt(left, monotonic_s() < until)
                if left:
                    self.is_waiting = True
                    await asyncio.sleep(_PAUSE_S)
        finally:
            self.is_waiting = False

    async def _attempt(self, messages: Sequence[Message], may_wait: bool) -> list[Message]:
        """Send them once, in their order. Returns those that must be sent again."""
        answers = [await self._answer(confirmation) for confirmation in [await self._sent(m) for m in messages]]
        again, behind = [], set()
        for message, answer in zip(messages, answers, strict=True):
            key = message.topic, message.key
            if answer is None:
                # What follows a failed one under its key is sent again behind it: a compacted topic keeps the last.
                if key in behind:
                    again.append(message)
                continue
            treated = treatment(answer)
            if treated is Treatment.RETRY and may_wait:
                again.append(message)
            elif treated is Treatment.REJECT and message.value:
                self._log.error("too large for Kafka: kept without its value", topic=message.topic, error=str(answer))
                size = str(len(message.value)).encode()
                again.append(replace(message, value=None, headers=(*message.headers, (LEFT_OUT_HEADER, size))))
            else:
                raise answer
            if message.key is not None:
                behind.add(key)
        if again and not self.is_waiting:
            self._log.warning("waiting for Kafka", messages=len(again))
        return again

    async def _sent(self, message: Message) -> Awaitable[Any] | Exception:
        try:
            confirmation: Awaitable[Any] = await self._app.producer.send(
                message.topic,
                message.key,
                message.value,
                partition=None,
                # Half a millisecond more, because the client truncates the product with 1000.
                timestamp=None if message.timestamp_ms is None else (message.timestamp_ms + 0.5) / 1_000,
                headers=list(message.headers),
            )
        except Exception as error:  # noqa: BLE001 - judged by the table of errors, where what is unknown stops
            return error
        return confirmation

    async def _answer(self, confirmation: Awaitable[Any] | Exception) -> Exception | None:
        if isinstance(confirmation, Exception):
            return confirmation
        try:
            await confirmation
        except Exception as error:  # noqa: BLE001 - judged by the table of errors, where what is unknown stops
            return error
        return None
