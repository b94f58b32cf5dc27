"""Dead letters and alerts to Kafka: each confirmed, tried again while Kafka is away."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from faust.exceptions import ProducerSendError

from sinks.dead_letters import LEFT_OUT_HEADER, NULL_HEADER
from sinks.errors import Treatment, treatment
from streams.clock import monotonic_s
from streams.flush import Message
from streams.log import logger

_PAUSE_S: Final = 0.5
#: A broker that is there has confirmed by then. One that is away lets the client try for its request timeout.
_PROMPT_S: Final = 2.0


@dataclass(eq=False)
class _Call:
    """Messages that are being produced, since when, and whether some of them have been refused."""

    begun_s: float
    is_refused: bool = False


class Confirmed:
    """Produces through Faust's producer and returns once every message is confirmed."""

    def __init__(self, app: Any, budget_s: float) -> None:
        self._app = app
        self._budget_s = budget_s
        self._log = logger("produce")
        self._calls: set[_Call] = set()

    @property
    def is_waiting(self) -> bool:
        """Whether Kafka is away and being waited for, or takes so long that it must be; within the budget. For any
        thread."""
        passed_s = [(call, monotonic_s() - call.begun_s) for call in self._calls.copy()]
        return any((call.is_refused or s > _PROMPT_S) and s < self._budget_s for call, s in passed_s)

    async def produce(self, messages: Sequence[Message]) -> None:
        """Raises the broker's error when it does not pass, or has not within the budget."""
        left, call = list(messages), _Call(monotonic_s())
        self._calls.add(call)
        try:
            while left:
                left = await self._attempt(left, monotonic_s() < call.begun_s + self._budget_s)
                if left:
                    if not call.is_refused:
                        self._log.warning("waiting for Kafka", messages=len(left))
                    call.is_refused = True
                    await asyncio.sleep(_PAUSE_S)
        finally:
            self._calls.discard(call)

    async def _attempt(self, messages: Sequence[Message], may_wait: bool) -> list[Message]:
        """Send them once, in their order. Returns those that must be sent again."""
        begun_s, sent = monotonic_s(), list[Awaitable[Any] | Exception]()
        for message in messages:
            sent.append(await self._sent(message))
            if isinstance(sent[-1], Exception) and monotonic_s() - begun_s > _PROMPT_S:
                # Each of the others would hang as long, one after the other.
                break
        answers = [await self._answer(confirmation) for confirmation in sent]
        again, behind = [], set()
        for message, answer in zip(messages, answers, strict=False):
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
        return again + list(messages[len(answers) :])

    async def _sent(self, message: Message) -> Awaitable[Any] | Exception:
        if message.key is None and message.value is None:
            # The client refuses what has neither, and a record of that kind would end every worker that meets it.
            message = replace(message, value=b"", headers=(*message.headers, (NULL_HEADER, b"")))
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
        except ProducerSendError as error:
            # Faust wraps what its client raises, which is what the table of errors knows.
            return error.__cause__ if isinstance(error.__cause__, Exception) else error
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
