"""Dead letters and alerts reach Kafka, each confirmed, in their order under a key, or the process hears of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Final

import pytest
from aiokafka.errors import (
    KafkaTimeoutError,
    MessageSizeTooLargeError,
    NotLeaderForPartitionError,
    TopicAuthorizationFailedError,
)
from faust.exceptions import ProducerSendError

from sinks.dead_letters import LEFT_OUT_HEADER, NULL_HEADER
from streams import produce
from streams.flush import Message
from streams.produce import Confirmed

_TOPIC: Final = "city.dead-letter"


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(produce, "_PAUSE_S", 0.0)


def message(key: str | None, value: bytes | None = b"v", **rest: Any) -> Message:
    return Message(_TOPIC, None if key is None else key.encode(), value, **rest)


@dataclass
class Producer:
    """Faust's producer over a broker that answers as it is told, once for each message sent; then it confirms.

    An answer is an error, or None; `at_once` are errors that the client raises before anything is sent.
    """

    answers: Iterable[BaseException | None] = ()
    at_once: bool = False
    sent: list[dict[str, Any]] = field(default_factory=list)
    waiting: list[asyncio.Future[None]] = field(default_factory=list)
    holds: bool = False

    def __post_init__(self) -> None:
        self._answers = iter(self.answers)

    @property
    def producer(self) -> Producer:
        return self

    async def send(self, topic: str, key: bytes | None, value: bytes | None, **rest: Any) -> asyncio.Future[None]:
        self.sent.append({"topic": topic, "key": key, "value": value, **rest})
        answer = next(self._answers, None)
        if self.at_once and answer is not None:
            raise answer
        confirmation: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.waiting.append(confirmation)
        if answer is not None:
            confirmation.set_exception(answer)
        elif not self.holds:
            confirmation.set_result(None)
        return confirmation

    async def has_sent(self, count: int) -> None:
        async with asyncio.timeout(20):
            while len(self.waiting) < count:  # noqa: ASYNC110 - nothing tells of it
                await asyncio.sleep(0)

    @property
    def values(self) -> list[bytes | None]:
        return [one["value"] for one in self.sent]


def produced(producer: Producer, messages: list[Message], budget_s: float = 60.0) -> Confirmed:
    confirmed = Confirmed(producer, budget_s)
    asyncio.run(confirmed.produce(messages))
    return confirmed


def test_a_message_is_sent_as_it_is() -> None:
    """Topic, key, value, headers; its time, to the millisecond; or the broker's."""
    producer = Producer()
    dated = message("k", headers=(("h", b"1"),), timestamp_ms=1_789_430_400_007)
    produced(producer, [dated, message(None, b"v"), message("k", None)])
    first, second, third = producer.sent
    assert (first["topic"], first["key"], first["value"], first["headers"]) == (_TOPIC, b"k", b"v", [("h", b"1")])
    assert int(first["timestamp"] * 1_000) == 1_789_430_400_007
    assert (second["key"], second["value"], second["timestamp"]) == (None, b"v", None)
    assert (third["key"], third["value"]) == (b"k", None)


def test_it_returns_once_every_message_is_confirmed() -> None:
    """Not when they are sent, and not when most of them are."""

    async def story() -> None:
        producer = Producer(holds=True)
        producing = asyncio.create_task(Confirmed(producer, 60.0).produce([message("a"), message("b")]))
        for number in (0, 1):
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert not producing.done()
            producer.waiting[number].set_result(None)
        await asyncio.wait_for(producing, 5)

    asyncio.run(story())


def test_nothing_to_produce_is_nothing_to_wait_for() -> None:
    """Most flushes have no letters and no alerts."""
    producer = Producer()
    produced(producer, [])
    assert producer.sent == []


@pytest.mark.parametrize("at_once", [False, True], ids=["answered", "before it was sent"])
@pytest.mark.parametrize("error", [KafkaTimeoutError(), NotLeaderForPartitionError()], ids=lambda e: type(e).__name__)
def test_what_passes_by_itself_is_sent_again(error: BaseException, at_once: bool) -> None:
    """Only what was not confirmed, as often as it takes."""
    producer = Producer([None, error, None, error], at_once)
    confirmed = produced(producer, [message("a", b"1"), message("b", b"2"), message("c", b"3")])
    assert producer.values == [b"1", b"2", b"3", b"2", b"2"]
    assert not confirmed.is_waiting


def test_messages_of_one_key_arrive_in_their_order() -> None:
    """A compacted topic keeps the last one: what follows a failed one under its key is sent again behind it."""
    producer = Producer([None, KafkaTimeoutError(), None, None, None])
    alert = [message("a", value) for value in (b"pending", b"firing", b"resolved")]
    produced(producer, [alert[0], alert[1], message("b", b"other"), alert[2], message(None, b"no key")])
    assert producer.values == [b"pending", b"firing", b"other", b"resolved", b"no key", b"firing", b"resolved"]


def test_messages_without_a_key_have_no_order() -> None:
    """One that fails takes no other with it."""
    producer = Producer([KafkaTimeoutError(), None])
    produced(producer, [message(None, b"1"), message(None, b"2")])
    assert producer.values == [b"1", b"2", b"1"]


def test_while_kafka_is_away_it_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """The watchdog does not take waiting for a stall."""
    seen = []
    confirmed = Confirmed(Producer([KafkaTimeoutError()]), 60.0)

    async def pause(seconds: float) -> None:
        seen.append(confirmed.is_waiting)

    monkeypatch.setattr(asyncio, "sleep", pause)
    asyncio.run(confirmed.produce([message("a")]))
    assert (seen, confirmed.is_waiting) == ([True], False)


@pytest.mark.parametrize(
    ("prompt_s", "budget_s", "waiting"),
    [(0.0, 60.0, True), (60.0, 60.0, False), (0.0, 0.0, False)],
    ids=["for long", "not for long", "for longer than it may"],
)
def test_a_broker_that_does_not_answer_is_taken_to_be_away(
    monkeypatch: pytest.MonkeyPatch, prompt_s: float, budget_s: float, waiting: bool
) -> None:
    """The client tries by itself for a while before it says so: within the budget that is no stall."""
    monkeypatch.setattr(produce, "_PROMPT_S", prompt_s)

    async def story() -> None:
        producer = Producer(holds=True)
        confirmed = Confirmed(producer, budget_s)
        assert not confirmed.is_waiting
        producing = asyncio.create_task(confirmed.produce([message("a")]))
        await producer.has_sent(1)
        await asyncio.sleep(0.001)
        assert confirmed.is_waiting is waiting
        producer.waiting[0].set_result(None)
        await asyncio.wait_for(producing, 5)
        assert not confirmed.is_waiting

    asyncio.run(story())


def test_one_that_is_confirmed_does_not_hide_one_that_waits() -> None:
    """Flushes and zones produce side by side."""

    async def story() -> None:
        producer = Producer([KafkaTimeoutError()], holds=True)
        confirmed = Confirmed(producer, 60.0)
        waiting = asyncio.create_task(confirmed.produce([message("a")]))
        await producer.has_sent(2)
        prompt = asyncio.create_task(confirmed.produce([message("b")]))
        await producer.has_sent(3)
        producer.waiting[2].set_result(None)
        await asyncio.wait_for(prompt, 5)
        assert confirmed.is_waiting
        producer.waiting[1].set_result(None)
        await asyncio.wait_for(waiting, 5)

    asyncio.run(story())


def test_messages_do_not_hang_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the client lets one wait for long and in vain, the others are left for the next attempt, in their order."""
    monkeypatch.setattr(produce, "_PROMPT_S", -1.0)
    producer = Producer([None, KafkaTimeoutError()], at_once=True)
    produced(producer, [message("a", b"1"), message("b", b"2"), message("c", b"3"), message("b", b"4")])
    assert producer.values == [b"1", b"2", b"2", b"3", b"4"]


def test_what_faust_wraps_is_told_by_what_is_in_it() -> None:
    """A client that has too much to send says so before it sends, and Faust puts an error of its own around it."""
    wrapped = ProducerSendError("Error while sending")
    wrapped.__cause__ = KafkaTimeoutError()
    producer = Producer([wrapped], at_once=True)
    produced(producer, [message("a", b"1")])
    assert producer.values == [b"1", b"1"]
    with pytest.raises(ProducerSendError, match="of its own"):
        produced(Producer([ProducerSendError("of its own")], at_once=True), [message("a", b"1")])


def test_kafka_that_stays_away_ends_it() -> None:
    """When the budget is spent the broker's own error is raised; nothing of it is then taken for told."""
    producer = Producer(KafkaTimeoutError() for _ in range(1_000_000))
    with pytest.raises(KafkaTimeoutError):
        produced(producer, [message("a")], budget_s=0.02)
    assert 1 < len(producer.sent) < 1_000_000


def test_a_message_that_is_too_large_is_kept_without_its_value() -> None:
    """A dead letter says where the record is and why it was refused, and how many bytes are left out."""
    producer = Producer([MessageSizeTooLargeError()])
    produced(producer, [message("a", b"x" * 70, headers=(("reason", b"decode"),)), message("b", b"small")])
    assert producer.values == [b"x" * 70, b"small", None]
    assert producer.sent[-1]["headers"] == [("reason", b"decode"), (LEFT_OUT_HEADER, b"70")]
    assert producer.sent[-1]["key"] == b"a"


def test_a_message_with_neither_key_nor_value_says_so() -> None:
    """The client refuses those, and a sender who makes one must not end a worker: its dead letter has an empty value.
    So does one that has no key, and whose value was left out."""
    producer = Producer([None, MessageSizeTooLargeError()])
    keyless = message("a", b"x" * 70)
    produced(producer, [replace(message("a"), key=None, value=None), replace(keyless, key=None)])
    assert [(one["key"], one["value"]) for one in producer.sent] == [(None, b""), (None, b"x" * 70), (None, b"")]
    assert producer.sent[0]["headers"] == [(NULL_HEADER, b"")]
    assert producer.sent[2]["headers"] == [(LEFT_OUT_HEADER, b"70"), (NULL_HEADER, b"")]


def test_a_message_that_is_too_large_without_its_value_ends_it() -> None:
    """There is nothing more to leave out: somebody must raise a limit."""
    producer = Producer([MessageSizeTooLargeError(), MessageSizeTooLargeError()])
    with pytest.raises(MessageSizeTooLargeError):
        produced(producer, [message("a", b"x")])
    assert producer.values == [b"x", None]


@pytest.mark.parametrize(
    "make", [TopicAuthorizationFailedError, lambda: ZeroDivisionError("a bug")], ids=["known", "unknown"]
)
def test_any_other_error_is_raised_at_once(make: Callable[[], BaseException]) -> None:
    """Known to be final, or not known at all: going on could lose it. Nothing is sent again."""
    error = make()
    producer = Producer([None, error, KafkaTimeoutError()])
    with pytest.raises(type(error)):
        produced(producer, [message("a"), message("b"), message("c")])
    assert len(producer.sent) == 3
