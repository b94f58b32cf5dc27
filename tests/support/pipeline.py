"""The command `vigie` as people run it, in a process of its own, and its ClickHouse read after it has ended.

An embedded ClickHouse belongs to one process and a process can open one directory only, so tests of the whole worker
never open one themselves: `rows` asks in yet another process.
"""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka import Message as KafkaMessage
from confluent_kafka.admin import AdminClient

from schemas.contracts import ALERT_TOPIC, DEAD_LETTER_TOPIC, RAW_TOPICS
from sinks.clickhouse import connect
from streams.broker import in_process_broker, leader_topic
from streams.simulation.publish import publish
from streams.simulation.records import Record

ROOT: Final = Path(__file__).resolve().parents[2]
VIGIE: Final = Path(sys.executable).with_name("vigie")
GROUP: Final = "vigie"

#: Beyond this a command of these tests hangs.
_PATIENCE_S: Final = 120.0
_POLL_S: Final = 0.05
_STARTING: Final = (
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS, KafkaError.COORDINATOR_NOT_AVAILABLE, KafkaError.NOT_COORDINATOR,
)  # fmt: skip


def environment(settings: Mapping[str, object]) -> dict[str, str]:
    """The environment of a command: ours, without our settings, with these (`name` for VIGIE_NAME) and without pages,
    whose port other workers want too, unless they are asked for."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("VIGIE_")}
    return kept | {f"VIGIE_{name.upper()}": str(value) for name, value in ({"web_port": 0} | dict(settings)).items()}


@dataclass(frozen=True)
class Done:
    """A command that has ended: its exit code, and what it wrote."""

    code: int
    out: str
    err: str

    @property
    def text(self) -> str:
        return self.out + self.err


class Command:
    """`vigie ARGUMENTS` under way; a context manager that leaves no process behind.

    `settings` are VIGIE_ variables by lower-case name. Its output and its temporary files go to `folder`. `program` is
    what takes the arguments in place of the installed command.
    """

    def __init__(
        self,
        *arguments: object,
        folder: Path,
        settings: Mapping[str, object] | None = None,
        prepare: Callable[[], None] | None = None,
        program: Sequence[object] = (VIGIE,),
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._out, self._err = folder / "stdout.txt", folder / "stderr.txt"
        # Columns wide enough that no message is folded; what it leaves behind can be seen.
        ours = environment(settings or {}) | {"COLUMNS": "500", "TMPDIR": str(folder)}
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = subprocess.Popen(
                [*map(str, program), *map(str, arguments)],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=ours,
                cwd=folder,
                preexec_fn=prepare,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        if error is not None:
            error.add_note(f"what the command wrote:\n{self.text[-6_000:]}")

    @property
    def text(self) -> str:
        """What it has written so far, standard output first."""
        return self._out.read_text("utf-8", "replace") + self._err.read_text("utf-8", "replace")

    def wait_for(self, something: Callable[[], bool], what: str, seconds: float = _PATIENCE_S) -> None:
        """Wait until it is so. Raises AssertionError when the command ends before, or never."""
        until = time.monotonic() + seconds
        while not something():
            if self.process.poll() is not None:
                raise AssertionError(f"it ended with {self.process.returncode} before {what}")
            if time.monotonic() > until:
                raise AssertionError(f"not within {seconds:.0f} s: {what}")
            time.sleep(_POLL_S)

    def wait_for_text(self, text: str, seconds: float = _PATIENCE_S) -> None:
        """Wait until it has written that."""
        self.wait_for(lambda: text in self.text, f"it wrote {text!r}", seconds)

    def interrupt(self, number: signal.Signals = signal.SIGINT) -> None:
        self.process.send_signal(number)

    def wait(self, seconds: float = _PATIENCE_S) -> Done:
        """Wait for its end. Raises AssertionError when there is none."""
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it had not ended after {seconds:.0f} s") from None
        return Done(code, self._out.read_text("utf-8", "replace"), self._err.read_text("utf-8", "replace"))


def vigie(
    *arguments: object, folder: Path, settings: Mapping[str, object] | None = None, seconds: float = _PATIENCE_S
) -> Done:
    """Run the command to its end."""
    with Command(*arguments, folder=folder, settings=settings) as command:
        return command.wait(seconds)


def succeeded(done: Done) -> Done:
    """The same, if it ended with exit code 0."""
    assert done.code == 0, done.text[-6_000:]
    return done


def failed(done: Done, *words: str, code: int = 1) -> str:
    """What it told, if it failed as people should see it: that exit code, all of these words, and no traceback."""
    assert done.code == code, f"exit code {done.code}: {done.text[-6_000:]}"
    assert "Traceback" not in done.text, done.text[-6_000:]
    assert "bug of vigie" not in done.text, done.text[-6_000:]
    missing = [word for word in words if word not in done.text]
    assert not missing, f"does not say {missing}: {done.text[-6_000:]}"
    return done.text


def rows(directory: Path, *queries: str) -> list[list[tuple[Any, ...]]]:
    """The answer of an embedded ClickHouse to each query; no other process may have it open."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.pipeline", str(directory)],
        input=json.dumps(queries).encode(),
        capture_output=True,
        cwd=ROOT,
        check=False,
        timeout=_PATIENCE_S,
    )
    assert done.returncode == 0, done.stderr.decode("utf-8", "replace")[-3_000:]
    answers: list[list[tuple[Any, ...]]] = pickle.loads(done.stdout)
    return answers


def send(records: Iterable[Record], bootstrap: str) -> int:
    """Publish records as fast as the broker takes them; returns how many, each confirmed."""
    return publish(records, bootstrap, pace=None, stop=lambda: False, on_progress=lambda _: None)


@contextmanager
def broker_in_process(group: str = GROUP) -> Iterator[str]:
    """The in-process broker, with everything that `vigie init` would have made: its host:port."""
    with in_process_broker() as bootstrap:
        AdminClient({"bootstrap.servers": bootstrap, "log_level": 0}).list_topics(leader_topic(group), timeout=10)
        yield bootstrap


def everything(bootstrap: str, topics: Sequence[str]) -> list[KafkaMessage]:
    """Every record of the topics, from the first to the last there is now."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "reader",
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "log_level": 0,
        }
    )
    try:
        there = consumer.list_topics(timeout=10).topics
        places = [TopicPartition(name, number, 0) for name in topics for number in there[name].partitions]
        missing = sum(_end(consumer, place) for place in places)
        consumer.assign(places)
        found: list[KafkaMessage] = []
        until = time.monotonic() + 30
        while len(found) < missing:
            if time.monotonic() > until:
                raise AssertionError(f"{missing - len(found)} of {missing} records could not be read")
            found += [message for message in consumer.consume(10_000, timeout=0.2) if message.error() is None]
        return found
    finally:
        consumer.close()


def _end(consumer: Consumer, place: TopicPartition) -> int:
    """The end of a partition; one of a topic that was just made has no leader for a moment."""
    until = time.monotonic() + 10
    while True:
        try:
            return int(consumer.get_watermark_offsets(place, timeout=10)[1])
        except KafkaException as error:
            if error.args[0].code() != KafkaError.NOT_LEADER_FOR_PARTITION or time.monotonic() > until:
                raise
            time.sleep(0.05)


def end_offsets(bootstrap: str) -> dict[tuple[str, int], int]:
    """The next offset of each partition of the raw topics that holds something."""
    ends: dict[tuple[str, int], int] = {}
    for message in everything(bootstrap, list(RAW_TOPICS.values())):
        place = (str(message.topic()), int(message.partition() or 0))
        ends[place] = max(ends.get(place, 0), int(message.offset() or 0) + 1)
    return ends


def committed_offsets(
    bootstrap: str, group: str = GROUP, topics: Collection[str] = frozenset(RAW_TOPICS.values())
) -> dict[tuple[str, int], int]:
    """What the group has committed on those of the topics that there are: the next offset to read, above zero."""
    # Not through the admin client: its question ends the process (a null pointer) while topics are created anew.
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": group, "log_level": 0})
    until = time.monotonic() + 30
    try:
        while True:
            try:
                there = consumer.list_topics(timeout=10).topics
                names = sorted(there.keys() & set(topics))
                places = [TopicPartition(name, number) for name in names for number in there[name].partitions]
                found = consumer.committed(places, timeout=30) if places else []
                return {(p.topic, p.partition): p.offset for p in found if p.offset > 0}
            except KafkaException as error:
                # A broker that has just started looks for its offsets first.
                if error.args[0].code() not in _STARTING or time.monotonic() > until:
                    raise
                time.sleep(_POLL_S)
    finally:
        consumer.close()


def alert_messages(bootstrap: str) -> list[KafkaMessage]:
    return everything(bootstrap, [ALERT_TOPIC])


def dead_letters(bootstrap: str) -> list[KafkaMessage]:
    return everything(bootstrap, [DEAD_LETTER_TOPIC])


def _answer() -> None:
    """Answer the queries on standard input, for `rows`."""
    sink = connect(f"chdb://{sys.argv[1]}", retry_budget_s=1.0)
    try:
        found = [sink.rows(sql) for sql in json.loads(sys.stdin.buffer.read())]
    finally:
        sink.close()
    sys.stdout.buffer.write(pickle.dumps(found))


if __name__ == "__main__":
    _answer()
